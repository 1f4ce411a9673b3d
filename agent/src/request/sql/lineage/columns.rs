//! Columns of an item of FROM or of a query: a relation's own, whichever those are, or a list that the text tells.

use std::collections::HashMap;

use pg_query::protobuf::Node;

use super::{Tracer, names};
use crate::request::{ObjectName, Reference, Source, Sources};

/// Columns that a query can have (`MaxTupleAttributeNumber`, src/include/access/htup_details.h).
pub(super) const COLUMNS_MAX: usize = 1664;

/// What columns there are.
pub(super) enum Columns<'a> {
    /// Those of a relation, by their own names.
    Table(ObjectName),
    /// Nobody knows which; each is made of no more than this.
    Any(Sources),
    /// These.
    Listed(Listed<'a>),
}

/// Columns in a list.
pub(super) struct Listed<'a> {
    columns: Vec<Column<'a>>,
    names: HashMap<&'a str, Vec<usize>>,
    /// Those whose name is not told.
    unnamed: Vec<usize>,
    /// They stand in their order: a star over a join with USING puts some of them first.
    ordered: bool,
}

/// A column, or several that a star stands for.
#[derive(Clone)]
pub(super) struct Column<'a> {
    /// `None` when it has one that PostgreSQL gives it.
    pub(super) name: Option<&'a str>,
    pub(super) made: Made,
}

/// What it is made of.
#[derive(Clone)]
pub(super) enum Made {
    /// Any number of columns, made of no more than this.
    Many(Sources),
    /// All columns of a relation.
    Star(ObjectName),
    /// One column.
    Value(Sources),
}

impl<'a> Listed<'a> {
    pub(super) fn new(columns: Vec<Column<'a>>, ordered: bool) -> Self {
        let mut names: HashMap<&'a str, Vec<usize>> = HashMap::new();
        let mut unnamed = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            match column.name {
                Some(name) => names.entry(name).or_default().push(at),
                None => unnamed.push(at),
            }
        }
        Self { columns, names, unnamed, ordered }
    }

    /// Whether one of them certainly has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Those that have this name, or may have it.
    fn called(&self, name: &str) -> impl Iterator<Item = &Column<'a>> {
        let named = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        named.iter().chain(&self.unnamed).filter_map(|at| self.columns.get(*at))
    }

    /// One source list for each, if it is certain how many there are and in which order.
    fn values(&self) -> Option<Vec<Sources>> {
        let value = |column: &Column<'_>| match &column.made {
            Made::Value(sources) => Some(sources.clone()),
            Made::Many(_) | Made::Star(_) => None,
        };
        if self.ordered { self.columns.iter().map(value).collect() } else { None }
    }
}

impl<'a> Columns<'a> {
    /// What each is made of, in order; `None` when that is not certain.
    pub(super) fn values(&self) -> Option<Vec<Sources>> {
        match self {
            Self::Listed(listed) => listed.values(),
            Self::Any(_) | Self::Table(_) => None,
        }
    }

    /// The columns that a star over this stands for.
    pub(super) fn expanded(&self) -> Vec<Column<'a>> {
        match self {
            Self::Table(relation) => vec![Column { name: None, made: Made::Star(relation.clone()) }],
            Self::Any(sources) => vec![Column { name: None, made: Made::Many(sources.clone()) }],
            Self::Listed(listed) => listed.columns.clone(),
        }
    }

    /// Whether they stand in a known order.
    pub(super) fn is_ordered(&self) -> bool {
        match self {
            Self::Listed(listed) => listed.ordered,
            Self::Any(_) | Self::Table(_) => true,
        }
    }
}

impl<'a> Tracer<'a> {
    /// A list of columns, within bounds.
    pub(super) fn listed(&mut self, columns: Vec<Column<'a>>, ordered: bool) -> Columns<'a> {
        if columns.len() > COLUMNS_MAX || !self.has_room(columns.len()) {
            self.found.compared.doubt = true;
            return Columns::Any(Sources { doubt: true, ..Sources::default() });
        }
        Columns::Listed(Listed::new(columns, ordered))
    }

    /// Everything that goes into any of them.
    pub(super) fn whole(&mut self, columns: &Columns<'a>) -> Sources {
        let mut all = Sources::default();
        match columns {
            Columns::Table(relation) => self.add(Source::Row(relation.clone()), &mut all),
            Columns::Any(sources) => self.join(&mut all, sources),
            Columns::Listed(listed) => {
                for column in &listed.columns {
                    self.has_room(1);
                    match &column.made {
                        Made::Value(sources) | Made::Many(sources) => self.join(&mut all, sources),
                        Made::Star(relation) => self.add(Source::Row(relation.clone()), &mut all),
                    }
                }
            }
        }
        all
    }

    /// Everything that goes into the one of this name. Behind a label, another name is a function that gets the whole row.
    pub(super) fn named(&mut self, columns: &Columns<'a>, name: &str, qualified: bool, into: &mut Sources) {
        let column = |relation: &ObjectName| Source::Column(column_of(relation, name, qualified));
        match columns {
            Columns::Table(relation) => self.add(column(relation), into),
            Columns::Any(sources) => self.join(into, sources),
            Columns::Listed(listed) if qualified && !listed.has(name) => {
                for other in &listed.columns {
                    self.has_room(1);
                    match &other.made {
                        Made::Value(sources) | Made::Many(sources) => self.join(into, sources),
                        Made::Star(relation) => self.add(column(relation), into),
                    }
                }
            }
            Columns::Listed(listed) => {
                for known in listed.called(name) {
                    self.has_room(1);
                    match &known.made {
                        Made::Value(sources) | Made::Many(sources) => self.join(into, sources),
                        Made::Star(relation) => self.add(column(relation), into),
                    }
                }
            }
        }
    }

    /// Everything that goes into the one at this position, from 1.
    pub(super) fn at_position(&mut self, columns: &Columns<'a>, position: i32) -> Sources {
        if let Columns::Listed(listed) = columns
            && listed.ordered
            && let Some(index) = usize::try_from(position).ok().and_then(|position| position.checked_sub(1))
            && let Some(until) = listed.columns.get(..=index)
            && until.iter().all(|column| matches!(column.made, Made::Value(_)))
            && let Some(Column { made: Made::Value(sources), .. }) = until.last()
        {
            return sources.clone();
        }
        self.whole(columns)
    }

    /// The same columns under other names, of which there may be fewer.
    pub(super) fn renamed(&mut self, columns: Columns<'a>, new_names: &'a [Node]) -> Columns<'a> {
        if new_names.is_empty() {
            return columns;
        }
        let mut list = match columns {
            Columns::Listed(listed) if listed.values().is_some() => listed.columns,
            other @ (Columns::Listed(_) | Columns::Table(_) | Columns::Any(_)) => {
                return Columns::Any(self.whole(&other));
            }
        };
        for (column, name) in list.iter_mut().zip(new_names) {
            column.name = names::text(name);
        }
        self.listed(list, true)
    }

    /// The columns of a set operation: each is made of both arms'.
    pub(super) fn united(&mut self, left: &Columns<'a>, right: &Columns<'a>) -> Columns<'a> {
        if let (Columns::Listed(list), Some(first), Some(second)) = (left, left.values(), right.values())
            && first.len() == second.len()
        {
            let mut columns = list.columns.clone();
            for (column, (mut made, other)) in columns.iter_mut().zip(first.into_iter().zip(&second)) {
                self.join(&mut made, other);
                column.made = Made::Value(made);
            }
            return self.listed(columns, true);
        }
        let mut all = self.whole(left);
        let other = self.whole(right);
        self.join(&mut all, &other);
        Columns::Any(all)
    }
}

/// A column of a relation, wherever it is referred to.
pub(super) fn column_of(relation: &ObjectName, name: &str, qualified: bool) -> Reference {
    Reference { name: name.to_owned(), levels: vec![vec![relation.clone()]], rows: Vec::new(), qualified }
}
