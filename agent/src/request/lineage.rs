//! What a statement's outputs are made of and what its result depends on, column by column, as far as its text tells. A text
//! names columns without saying of which relation, so a reference lists the relations that it may mean, in PostgreSQL's order.

use super::ObjectName;

/// The lineage of one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Every source that the statement's [`Sources`] speak of.
    pub sources: Vec<Source>,
    /// What each top-level output is made of; `None` when the text does not tell how many there are.
    pub outputs: Option<Vec<Sources>>,
    /// What the result depends on otherwise than by showing it: conditions, joins, order, groups, what is compared by
    /// DISTINCT and set operations, and what expressions compute with, because an error or the time that one takes tells as much.
    pub compared: Sources,
    /// Columns that a condition only compares with one value of the client's own (`WHERE email = $1`), each once in the
    /// statement; what is looked up twice is in `compared`.
    pub looked_up: Sources,
    /// An output is named by its position (`ORDER BY 2`), so a literal says which column this is about.
    pub by_position: bool,
    /// It runs or explains a statement that was prepared under a name, which its text does not show.
    pub unseen: bool,
}

/// Where values come from: places in [`Lineage::sources`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// In ascending order, each once.
    pub places: Vec<u32>,
    /// Also from any column of any relation that the statement reads or writes: it could not be followed.
    pub doubt: bool,
}

/// One place that values come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// What a name refers to.
    Column(Reference),
    /// All columns of a relation.
    Row(ObjectName),
}

/// A column reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The column's name.
    pub name: String,
    /// The relations that it may belong to, from the innermost query level outwards: those of the first level with one that has such
    /// a column are meant.
    pub levels: Vec<Vec<ObjectName>>,
    /// Relations whose whole row the name stands for if no level has such a column.
    pub rows: Vec<ObjectName>,
    /// A label stands before it: if its relation has no such column, it is a function that is called with the whole row.
    pub qualified: bool,
}

impl Lineage {
    /// The sources at these places.
    pub fn at<'a>(&'a self, sources: &'a Sources) -> impl Iterator<Item = &'a Source> {
        sources.places.iter().filter_map(|place| self.sources.get(usize::try_from(*place).ok()?))
    }
}

impl Sources {
    /// Nothing of a relation goes into it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && !self.doubt
    }
}
