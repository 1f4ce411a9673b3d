//! Which columns of a database are masked: the policy's patterns, carried along inheritance, partitions and views.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use globset::GlobMatcher;

use super::{Method, Terms};

mod terms;

pub use terms::Named;

/// A table, view or whatever else has columns, as the database's catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// `pg_namespace.nspname`.
    pub schema: String,
    /// `pg_class.relname`.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Live columns, in order of `attnum`.
    pub columns: Vec<Column>,
    /// Inheritance and partition parents (`pg_inherits.inhparent`).
    pub parents: Vec<u32>,
    /// Generated columns: which column, and one column of the same relation that its expression reads.
    pub generated: Vec<(i16, i16)>,
    /// Views and materialized views: the origin of each output.
    pub view_outputs: Vec<ViewOutput>,
    /// Every base column the view's rule depends on (`pg_depend`); attribute number 0 is the whole relation.
    pub view_reads: Vec<(u32, i16)>,
}

/// `pg_class.relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// `f`
    ForeignTable,
    /// `m`
    MaterializedView,
    /// Anything else with columns.
    Other,
    /// `p`
    PartitionedTable,
    /// `r`
    Table,
    /// `v`
    View,
}

/// One column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `pg_attribute.attnum`, from 1.
    pub attnum: i16,
    /// `pg_attribute.attname`.
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
}

/// One output of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewOutput {
    /// The view's column.
    pub attnum: i16,
    /// The relation and column it shows unchanged; `None` when it is computed or cannot be told.
    pub origin: Option<(u32, i16)>,
}

/// One column pattern of a policy, already limited to the rules that apply to this connection and subject.
#[derive(Clone, Debug)]
pub struct ColumnRule {
    /// The pattern as written; shown where a mask is explained.
    pub name: String,
    /// `None` is any schema.
    pub schema: Option<GlobMatcher>,
    /// Relation names.
    pub table: GlobMatcher,
    /// Column names.
    pub column: GlobMatcher,
    /// How the values are rewritten.
    pub method: Method,
    /// What becomes of statements whose result depends on them.
    pub terms: Terms,
}

impl PartialEq for ColumnRule {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, schema, table, column, method, terms } = self;
        let same = |one: &GlobMatcher, other: &GlobMatcher| one.glob() == other.glob();
        let schemas = match (schema, &other.schema) {
            (Some(one), Some(other)) => same(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        schemas
            && *name == other.name
            && same(table, &other.table)
            && same(column, &other.column)
            && *method == other.method
            && *terms == other.terms
    }
}

/// What the catalogue says of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnMask<'a> {
    /// Not masked.
    None,
    /// Masked, by this rule.
    Masked(Method, &'a str),
    /// The relation, or this column of it, was not there when the catalogue was read.
    UnknownRelation,
}

/// What the catalogue says of a name in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedRelation<'a> {
    /// Relations of that name exist; the masked columns of all of them, and whether an error about one of them could
    /// quote a masked value.
    Known {
        /// Names of masked columns.
        masked: BTreeSet<&'a str>,
        /// It has masked columns or shows rows of a relation that has.
        near_masked: bool,
    },
    /// No relation of that name was there when the catalogue was read.
    Unknown,
}

/// Name shown for columns of PostgreSQL's own catalogue that hold copies of user data.
const STATISTICS_RULE: &str = "statistics of masked columns";

/// Name shown for a computed view column or generated column over masked ones.
const DERIVED_RULE: &str = "computed from masked columns";

/// Columns every table has (<https://www.postgresql.org/docs/current/ddl-system-columns.html>).
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

/// Columns of system relations that show values of other relations or texts of other sessions' statements: relation,
/// and a prefix of its columns' names.
const LEAKING_COLUMNS: &[(&str, &str)] = &[
    ("pg_prepared_statements", "statement"),
    ("pg_stat_activity", "query"),
    ("pg_stat_statements", "query"),
    ("pg_statistic", "stavalues"),
    ("pg_statistic_ext_data", "stxd"),
    ("pg_stats", "histogram_bounds"),
    ("pg_stats", "most_common_elems"),
    ("pg_stats", "most_common_vals"),
    ("pg_stats", "range_"),
    ("pg_stats_ext", "most_common_vals"),
    ("pg_stats_ext_exprs", "histogram_bounds"),
    ("pg_stats_ext_exprs", "most_common_elems"),
    ("pg_stats_ext_exprs", "most_common_vals"),
    ("pg_stats_ext_exprs", "range_"),
    ("pg_cursors", "statement"),
];

/// The masked columns of one database, as of one reading of its catalogue.
#[derive(Clone, Debug, Default)]
pub struct MaskCatalog {
    /// Rules name columns, whether or not any relation has them: what the catalogue does not know is then suspect.
    active: bool,
    /// The strictest terms of any rule: those of what the catalogue does not know.
    strictest: Terms,
    relations: HashMap<u32, Known>,
    names: HashMap<String, Vec<u32>>,
}

/// What is kept of a relation.
#[derive(Clone, Debug)]
struct Known {
    schema: String,
    columns: Vec<Column>,
    /// It has PostgreSQL's system columns; of a view, these are names like others.
    has_system_columns: bool,
    /// Generated columns, which COPY leaves out.
    generated: HashSet<i16>,
    masks: HashMap<i16, Mask>,
    near_masked: bool,
}

/// How a column is masked.
#[derive(Clone, Debug)]
struct Mask {
    method: Method,
    rule: Arc<str>,
    /// Those of its rule, or of a column that it is made of, where those are stricter.
    terms: Terms,
}

impl Mask {
    /// Of a column that shows what is computed from masked ones.
    fn derived(terms: Terms) -> Self {
        Self { method: Method::Redact, rule: Arc::from(DERIVED_RULE), terms }
    }
}

impl MaskCatalog {
    /// Applies rules to relations. The first rule that matches a column counts. `relations` should hold every relation
    /// with columns, system catalogues included: what is missing is treated as masked.
    #[must_use]
    pub fn build(relations: &[Relation], rules: &[ColumnRule]) -> Self {
        let strictest = rules.iter().fold(Terms::default(), |terms, rule| terms.and(rule.terms));
        let mut catalog = Self { active: !rules.is_empty(), strictest, ..Self::default() };
        for relation in relations {
            catalog.names.entry(relation.name.clone()).or_default().push(relation.oid);
            catalog.relations.insert(relation.oid, Known::new(relation, rules, strictest));
        }
        if catalog.active {
            catalog.spread(relations);
        }
        catalog
    }

    /// Carries masks along inheritance and views until nothing changes. Every round masks at least one column more, or
    /// makes the terms of one stricter, so this ends.
    fn spread(&mut self, relations: &[Relation]) {
        loop {
            let mut changed = false;
            for relation in relations {
                for parent in &relation.parents {
                    changed |= self.copy_masks(*parent, relation.oid);
                    // A query of the parent returns the child's rows under the parent's OID.
                    changed |= self.copy_masks(relation.oid, *parent);
                }
                changed |= self.mask_generated(relation);
                changed |= self.mask_outputs(relation);
            }
            if !changed {
                break;
            }
        }
        self.mark_near(relations);
    }

    /// Masks the columns of `to` that have the name of a masked column of `from`.
    fn copy_masks(&mut self, from: u32, to: u32) -> bool {
        let Some(source) = self.relations.get(&from) else { return false };
        let masked: Vec<(String, Mask)> = source
            .columns
            .iter()
            .filter_map(|column| Some((column.name.clone(), source.masks.get(&column.attnum)?.clone())))
            .collect();
        let Some(target) = self.relations.get_mut(&to) else { return false };
        let mut changed = false;
        for (name, mask) in masked {
            changed |= target.mask_named(&name, &mask);
        }
        changed
    }

    /// A generated column shows what its expression makes of other columns.
    fn mask_generated(&mut self, relation: &Relation) -> bool {
        let Some(known) = self.relations.get_mut(&relation.oid) else { return false };
        let mut changed = false;
        for (column, read) in &relation.generated {
            if let Some(terms) = known.masks.get(read).map(|mask| mask.terms) {
                changed |= known.mask(*column, &Mask::derived(terms));
            }
        }
        changed
    }

    fn mask_outputs(&mut self, view: &Relation) -> bool {
        let is_view = matches!(view.kind, RelationKind::View | RelationKind::MaterializedView);
        if !is_view {
            return false;
        }
        let read = view.view_reads.iter().filter_map(|(oid, attnum)| self.terms_of(*oid, *attnum));
        let read = read.reduce(Terms::and);
        let mut changed = false;
        for column in &view.columns {
            let origin = view.view_outputs.iter().find(|output| output.attnum == column.attnum);
            let mask = match origin.and_then(|output| output.origin) {
                Some((oid, attnum)) => {
                    self.terms_of(oid, attnum).map(|terms| self.shown_mask(oid, attnum, terms))
                }
                None => read.map(Mask::derived),
            };
            if let (Some(mask), Some(known)) = (mask, self.relations.get_mut(&view.oid)) {
                changed |= known.mask(column.attnum, &mask);
            }
        }
        changed
    }

    /// The terms of a column, or of all of a relation's (attribute number 0), if it is masked or not known.
    fn terms_of(&self, oid: u32, attnum: i16) -> Option<Terms> {
        let Some(known) = self.relations.get(&oid) else { return Some(self.strictest) };
        if attnum == 0 {
            return known.masks.values().map(|mask| mask.terms).reduce(Terms::and);
        }
        match self.column(oid, attnum) {
            ColumnMask::None => None,
            ColumnMask::Masked(..) => known.masks.get(&attnum).map(|mask| mask.terms),
            ColumnMask::UnknownRelation => Some(self.strictest),
        }
    }

    /// The mask of a view's column that shows this column unchanged.
    fn shown_mask(&self, oid: u32, attnum: i16, terms: Terms) -> Mask {
        let shown = self.relations.get(&oid).and_then(|known| known.masks.get(&attnum));
        shown.cloned().unwrap_or_else(|| Mask::derived(terms))
    }

    /// Errors about a relation quote whole rows ("Failing row contains"), also of the tables under a view.
    fn mark_near(&mut self, relations: &[Relation]) {
        let mut near: HashSet<u32> =
            self.relations.iter().filter(|(_, known)| !known.masks.is_empty()).map(|(oid, _)| *oid).collect();
        loop {
            let before = near.len();
            for relation in relations {
                let reads = relation.view_reads.iter().map(|(oid, _)| oid);
                if reads.chain(&relation.parents).any(|oid| near.contains(oid)) {
                    near.insert(relation.oid);
                }
            }
            if near.len() == before {
                break;
            }
        }
        for (oid, known) in &mut self.relations {
            known.near_masked = near.contains(oid);
        }
    }

    /// Any rule names columns.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// A column by its RowDescription origin. System columns (negative attribute numbers) are never masked.
    #[must_use]
    pub fn column(&self, oid: u32, attnum: i16) -> ColumnMask<'_> {
        if !self.active {
            return ColumnMask::None;
        }
        let Some(known) = self.relations.get(&oid) else { return ColumnMask::UnknownRelation };
        match known.masks.get(&attnum) {
            Some(mask) => ColumnMask::Masked(mask.method, &mask.rule),
            None if attnum < 0 || known.columns.iter().any(|column| column.attnum == attnum) => {
                ColumnMask::None
            }
            None => ColumnMask::UnknownRelation,
        }
    }

    /// The relation has a masked column, or is not known while rules name columns.
    #[must_use]
    pub fn is_masked_relation(&self, oid: u32) -> bool {
        self.active && self.relations.get(&oid).is_none_or(|known| !known.masks.is_empty())
    }

    /// What a name in a statement can mean; any schema when none is written, because `search_path` decides.
    #[must_use]
    pub fn relation_by_name(&self, schema: Option<&str>, name: &str) -> NamedRelation<'_> {
        let mut found = self.named(schema, name).peekable();
        if found.peek().is_none() {
            return NamedRelation::Unknown;
        }
        let (mut masked, mut near_masked) = (BTreeSet::new(), false);
        for known in found {
            let names = known.columns.iter().filter(|column| known.masks.contains_key(&column.attnum));
            masked.extend(names.map(|column| column.name.as_str()));
            near_masked |= known.near_masked;
        }
        NamedRelation::Known { masked, near_masked }
    }

    /// The type and mask of the columns that `COPY relation (columns) TO` sends; all columns when none are named.
    /// `None` when the name is unknown, stands for relations that differ, or lacks a column.
    #[must_use]
    pub fn copied_columns(
        &self,
        schema: Option<&str>,
        name: &str,
        columns: &[String],
    ) -> Option<Vec<(u32, ColumnMask<'_>)>> {
        let mut answers = self.named(schema, name).map(|known| known.copied(columns));
        let first = answers.next()??;
        for other in answers {
            // Which of the two is meant depends on `search_path`, which is the server's to know.
            if other.as_ref() != Some(&first) {
                return None;
            }
        }
        Some(first)
    }

    /// Whether `name.column` can be a call of the function `column` with a row that holds masked values.
    #[must_use]
    pub fn is_call_on_masked_row(&self, schema: Option<&str>, name: &str, column: &str) -> bool {
        self.named(schema, name).any(|known| !known.masks.is_empty() && !known.has(column))
    }

    fn named<'a, 'b>(
        &'a self,
        schema: Option<&'b str>,
        name: &str,
    ) -> impl Iterator<Item = &'a Known> + use<'a, 'b> {
        let oids = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        oids.iter()
            .filter_map(|oid| self.relations.get(oid))
            .filter(move |known| schema.is_none_or(|schema| known.may_be_in(schema)))
    }
}

impl Known {
    /// Whether it has a column of this name, PostgreSQL's own included.
    fn has(&self, column: &str) -> bool {
        let system = self.has_system_columns && SYSTEM_COLUMNS.contains(&column);
        system || self.columns.iter().any(|known| known.name == column)
    }

    fn new(relation: &Relation, rules: &[ColumnRule], strictest: Terms) -> Self {
        let mut known = Self {
            schema: relation.schema.clone(),
            columns: relation.columns.clone(),
            has_system_columns: relation.kind != RelationKind::View,
            generated: relation.generated.iter().map(|(column, _)| *column).collect(),
            masks: HashMap::new(),
            near_masked: false,
        };
        if rules.is_empty() {
            return known;
        }
        for column in &relation.columns {
            let matching = rules.iter().find(|rule| rule.matches(relation, column));
            let system = relation.schema == "pg_catalog" || relation.name == "pg_stat_statements";
            let leaks =
                |(leaky, prefix): &(&str, &str)| *leaky == relation.name && column.name.starts_with(prefix);
            if let Some(rule) = matching {
                let mask =
                    Mask { method: rule.method, rule: Arc::from(rule.name.as_str()), terms: rule.terms };
                known.mask(column.attnum, &mask);
            } else if system && LEAKING_COLUMNS.iter().any(leaks) {
                let rule = Arc::from(STATISTICS_RULE);
                known.mask(column.attnum, &Mask { method: Method::Redact, rule, terms: strictest });
            }
        }
        known
    }

    /// Masks a column, or makes its terms stricter; whether that changed anything.
    fn mask(&mut self, attnum: i16, mask: &Mask) -> bool {
        let Some(known) = self.masks.get_mut(&attnum) else {
            self.masks.insert(attnum, mask.clone());
            return true;
        };
        let terms = known.terms.and(mask.terms);
        let changed = terms != known.terms;
        known.terms = terms;
        changed
    }

    fn mask_named(&mut self, name: &str, mask: &Mask) -> bool {
        let attnum = self.columns.iter().find(|column| column.name == name).map(|column| column.attnum);
        attnum.is_some_and(|attnum| self.mask(attnum, mask))
    }

    /// `pg_temp` is every session's own name for its `pg_temp_N`. `pg_catalog` is also what an analyser takes for granted
    /// of a bare `pg_class`, and a `search_path` that puts another schema in front of it makes it mean something else.
    fn may_be_in(&self, schema: &str) -> bool {
        self.schema == schema
            || (schema == "pg_temp" && self.schema.starts_with("pg_temp_"))
            || schema == "pg_catalog"
    }

    fn copied(&self, columns: &[String]) -> Option<Vec<(u32, ColumnMask<'_>)>> {
        let answer = |column: &Column| {
            let mask = self.masks.get(&column.attnum);
            (
                column.type_oid,
                mask.map_or(ColumnMask::None, |mask| ColumnMask::Masked(mask.method, &mask.rule)),
            )
        };
        if columns.is_empty() {
            let stored = self.columns.iter().filter(|column| !self.generated.contains(&column.attnum));
            return Some(stored.map(answer).collect());
        }
        let named = |name: &String| self.columns.iter().find(|column| column.name == *name).map(answer);
        columns.iter().map(named).collect()
    }
}

impl ColumnRule {
    fn matches(&self, relation: &Relation, column: &Column) -> bool {
        self.schema.as_ref().is_none_or(|schema| schema.is_match(&relation.schema))
            && self.table.is_match(&relation.name)
            && self.column.is_match(&column.name)
    }
}

#[cfg(test)]
pub(in crate::mask) mod tests;
