//! From what a statement says and where its outputs come from to what is done with every cell.
//!
//! PostgreSQL tells for every output which column of which relation it shows unchanged; that decides first. An
//! output without an origin is computed: it is shown only when nothing masked can have gone into it.

use super::catalog::{ColumnMask, MaskCatalog, NamedRelation};
use super::dependence::shows_masked;
use super::types::{Format, worth_scanning};
use super::{Method, Scanner};
use crate::request::{Effect, ObjectName, Output, Statement};

/// Rule named for an output without an origin in a statement that reads masked columns.
const UNKNOWN_ORIGIN_RULE: &str = "unknown origin beside masked columns";

/// Rule named for an output of a relation that the catalogue does not know.
const UNKNOWN_RELATION_RULE: &str = "relation not in the catalogue";

/// Rule named for a whole row of a relation with masked columns.
const WHOLE_ROW_RULE: &str = "whole row with masked columns";

/// One field of a RowDescription
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-ROWDESCRIPTION>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// OID of the relation shown, 0 when the field is computed.
    pub table_oid: u32,
    /// Attribute number in that relation; 0 is the whole row, or, without a relation, nothing.
    pub attnum: i16,
    /// Data type; 0 when it cannot be told.
    pub type_oid: u32,
    /// Format of the values. In the answer to Describe of a statement it is not yet known; the portal's counts.
    pub format: Format,
}

/// What is done with every value of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellAction {
    /// Detectors look at it.
    Detect,
    /// The whole value is rewritten.
    Mask(Method),
    /// Forwarded as it is.
    Pass,
}

/// What a statement can do with masked values, told from its text alone, before it runs. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taint {
    /// No masked value takes part.
    Clean,
    /// Masked values take part in conditions, or come back as columns of a known origin, which are masked as such.
    ShowsColumns,
    /// Masked values may take part in outputs of unknown origin; what comes back can be masked by a [`ResultPlan`].
    ReadsMasked,
    /// Masked values may be stored elsewhere or handed to code we cannot see, out of reach of masking: the gate has to
    /// hold or refuse the statement whatever the policy says of outputs of unknown origin.
    MovesMasked,
}

/// What becomes of the texts of errors and notices. Ordered: a deferred constraint reports at COMMIT, so the strictest
/// answer of a transaction's statements holds until the transaction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorTexts {
    /// Detectors look at them.
    Scan,
    /// Message, detail, hint, context and internal query are replaced by a fixed text; SQLSTATE and severity stay.
    Generic,
}

/// What is done with the rows of one result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPlan {
    /// One entry per field, in order.
    pub cells: Vec<CellAction>,
    /// An output is masked because its origin cannot be told. Where the policy holds or denies such outputs, the
    /// portal must not be executed.
    pub tainted: bool,
    /// Names of the rules that mask something here, each once, in order of appearance.
    pub rules: Vec<String>,
}

impl ResultPlan {
    /// Every row can be forwarded as it is.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.cells.iter().all(|cell| *cell == CellAction::Pass)
    }
}

/// What a statement can do with masked values. EXECUTE and FETCH answer for everything until the caller passes the
/// statement that was prepared, or the cursor's query, instead.
#[must_use]
pub fn statement_taint(statement: &Statement, catalog: &MaskCatalog) -> Taint {
    if !catalog.is_active() {
        return Taint::Clean;
    }
    if reshapes_masked(statement, catalog) || calls_on_masked_rows(statement, catalog).next().is_some() {
        return Taint::MovesMasked;
    }
    let use_ = MaskedUse::of(statement, catalog);
    if !use_.reads {
        return Taint::Clean;
    }
    let hands_over = statement.columns.opaque_calls && use_.by_name;
    if (stores(statement, catalog) && use_.by_name) || hands_over {
        Taint::MovesMasked
    } else if shows_columns(statement, catalog) {
        Taint::ShowsColumns
    } else {
        Taint::ReadsMasked
    }
}

/// Puts what it reads somewhere. INSERT, UPDATE and DELETE that move no rows store only what the client sent; what they
/// read besides goes into conditions and RETURNING. A view stores nothing; it is masked through its columns once the
/// catalogue is read again, unless sessions that have not read it yet would take its name for another relation's.
fn stores(statement: &Statement, catalog: &MaskCatalog) -> bool {
    let is_new = |object: &ObjectName| catalog.relation_by_name(None, &object.name) == NamedRelation::Unknown;
    let creates_view = statement.kind == "create view" && statement.writes.iter().all(is_new);
    let shows_only = is_dml(&statement.kind) || creates_view;
    statement.columns.moves_rows || (statement.effect > Effect::Read && !shows_only)
}

/// SELECT, also one that locks rows, and the statements with RETURNING but MERGE. A function called without a text is
/// what the SELECT of it would be.
fn is_dml(kind: &str) -> bool {
    matches!(kind, "delete" | "function call" | "insert" | "select" | "update")
        || kind.starts_with("select for ")
}

/// Every output that masked values could take part in is a column of a plain relation, so its origin will be known.
fn shows_columns(statement: &Statement, catalog: &MaskCatalog) -> bool {
    let columns = &statement.columns;
    if let Some(copy) = &statement.copy {
        return copy.relation.is_some();
    }
    let has_outputs = is_dml(&statement.kind)
        || matches!(statement.kind.as_str(), "declare cursor" | "execute" | "fetch" | "prepare");
    if is_opaque(statement) || !has_outputs {
        return false;
    }
    if !columns.plain_from {
        let clean = clean_by_lineage(statement, catalog);
        return clean.is_some_and(|outputs| outputs.into_iter().all(|clean| clean));
    }
    let computed = Computed::by_reference(statement, catalog);
    let is_known = |output: &Output| output.plain || computed.is_clean_output(output);
    columns.plain_outputs || (!columns.outputs.is_empty() && columns.outputs.iter().all(is_known))
}

/// Functions called by attribute notation (`c.f` for `f(c)`) with a row that holds masked values.
fn calls_on_masked_rows<'a>(
    statement: &'a Statement,
    catalog: &'a MaskCatalog,
) -> impl Iterator<Item = &'a str> {
    let attributes = statement.columns.attributes.iter();
    attributes
        .filter(|(relation, name)| {
            catalog.is_call_on_masked_row(relation.schema.as_deref(), &relation.name, name)
        })
        .map(|(_, name)| name.as_str())
}

/// What becomes of the texts of errors and notices that this statement causes. Such texts quote values ("Key
/// (ssn)=(…) already exists", "Failing row contains (…)", failed casts, RAISE).
#[must_use]
pub fn error_texts(statement: &Statement, catalog: &MaskCatalog) -> ErrorTexts {
    if !catalog.is_active() {
        return ErrorTexts::Scan;
    }
    let near = |object: &ObjectName| match catalog.relation_by_name(object.schema.as_deref(), &object.name) {
        NamedRelation::Known { near_masked, .. } => near_masked,
        NamedRelation::Unknown => false,
    };
    let unknown_read = statement.reads.iter().any(|object| is_unknown(object, catalog));
    let touches = statement.reads.iter().chain(&statement.writes).any(near);
    if touches || unknown_read || is_opaque(statement) { ErrorTexts::Generic } else { ErrorTexts::Scan }
}

/// Decides every output of a result. `fields` are the origins the server reported. `statement` is the statement that
/// runs: of an EXECUTE, FETCH or portal, the one behind it; `None` when that is not known, which masks every output
/// without an origin.
#[must_use]
pub fn plan(
    statement: Option<&Statement>,
    catalog: &MaskCatalog,
    scanner: &Scanner,
    fields: &[Field],
) -> ResultPlan {
    let computed = Computed::of(statement, catalog, fields.len());
    let mut plan = ResultPlan { cells: Vec::with_capacity(fields.len()), tainted: false, rules: Vec::new() };
    for (position, field) in fields.iter().enumerate() {
        let mask = match (field.table_oid, field.attnum) {
            (0, _) if computed.is_clean(position) => None,
            (0, _) => {
                plan.tainted = true;
                Some((Method::Redact, UNKNOWN_ORIGIN_RULE))
            }
            // NULL, because a composite of any shape must stay decodable.
            (oid, 0) => catalog.is_masked_relation(oid).then_some((Method::Null, WHOLE_ROW_RULE)),
            (oid, attnum) => match catalog.column(oid, attnum) {
                ColumnMask::None => None,
                ColumnMask::Masked(method, rule) => Some((method, rule)),
                ColumnMask::UnknownRelation => {
                    plan.tainted = true;
                    Some((Method::Redact, UNKNOWN_RELATION_RULE))
                }
            },
        };
        plan.push(mask, field.type_oid, scanner);
    }
    plan
}

/// The plan of `COPY relation (columns) TO STDOUT`, column by column. `None` when the columns cannot be told: the COPY
/// has to be refused. Without column rules, and for `COPY (query) TO STDOUT`, use [`plan`] with as many fields of
/// unknown origin and type as CopyOutResponse announces. The caller compares the length with the column count of CopyOutResponse and refuses on a
/// difference (a generated column is not copied unless it is named).
#[must_use]
pub fn plan_copy(
    relation: &ObjectName,
    columns: &[String],
    catalog: &MaskCatalog,
    scanner: &Scanner,
) -> Option<(ResultPlan, Vec<u32>)> {
    let copied = catalog.copied_columns(relation.schema.as_deref(), &relation.name, columns)?;
    let mut plan = ResultPlan { cells: Vec::with_capacity(copied.len()), tainted: false, rules: Vec::new() };
    for (type_oid, mask) in &copied {
        let mask = match mask {
            ColumnMask::None => None,
            ColumnMask::Masked(method, rule) => Some((*method, *rule)),
            ColumnMask::UnknownRelation => Some((Method::Redact, UNKNOWN_RELATION_RULE)),
        };
        plan.push(mask, *type_oid, scanner);
    }
    Some((plan, copied.iter().map(|(type_oid, _)| *type_oid).collect()))
}

impl ResultPlan {
    fn push(&mut self, mask: Option<(Method, &str)>, type_oid: u32, scanner: &Scanner) {
        let action = match mask {
            Some((method, rule)) => {
                if !self.rules.iter().any(|name| name == rule) {
                    self.rules.push(rule.to_owned());
                }
                CellAction::Mask(method)
            }
            None if !scanner.is_empty() && worth_scanning(type_oid) => CellAction::Detect,
            None => CellAction::Pass,
        };
        self.cells.push(action);
    }
}

/// Gives a relation with masked columns another name, schema or shape, which takes it out of the reach of rules that go
/// by names, or attaches a trigger or rule that sees its rows.
fn reshapes_masked(statement: &Statement, catalog: &MaskCatalog) -> bool {
    let kind = statement.kind.as_str();
    if statement.effect < Effect::Ddl {
        return false;
    }
    if kind == "alter schema" {
        return true;
    }
    let has_masked =
        |object: &ObjectName| match catalog.relation_by_name(object.schema.as_deref(), &object.name) {
            NamedRelation::Known { masked, .. } => !masked.is_empty(),
            NamedRelation::Unknown => false,
        };
    (kind.starts_with("alter ") || matches!(kind, "create trigger" | "create rule"))
        && statement.writes.iter().chain(&statement.reads).any(has_masked)
}

/// Which masked values a statement refers to.
struct MaskedUse {
    /// Masked values may take part in any way.
    reads: bool,
    /// They take part by name, star, or because what is read is not known: not just because a function could.
    by_name: bool,
}

impl MaskedUse {
    fn of(statement: &Statement, catalog: &MaskCatalog) -> Self {
        if statement.session.runs_another() {
            return Self { reads: true, by_name: true };
        }
        // An EXPLAIN that does not execute shows the plan: names and the statement's own constants. Functions that the
        // planner may evaluate are opaque calls.
        let plan_only = statement.kind == "explain" && statement.effect == Effect::Read;
        if plan_only && !statement.columns.opaque_calls && !statement.unlisted.hidden {
            return Self { reads: false, by_name: false };
        }
        let columns = &statement.columns;
        let mut by_name = false;
        for object in statement.reads.iter().chain(&statement.writes) {
            by_name |= match catalog.relation_by_name(object.schema.as_deref(), &object.name) {
                NamedRelation::Known { masked, .. } => {
                    let read =
                        |name: &&str| columns.names.contains(*name) && !columns.assigned_only.contains(*name);
                    let whole = columns.whole_rows || columns.names.contains(&object.name);
                    (whole && !masked.is_empty()) || masked.iter().any(read)
                }
                // What is only written may be new (CREATE TABLE) or no relation at all (a role, a function).
                NamedRelation::Unknown => statement.reads.contains(object),
            };
        }
        Self { reads: by_name || is_opaque(statement), by_name }
    }
}

/// Runs code that could read anything and put it into outputs or messages.
fn is_opaque(statement: &Statement) -> bool {
    statement.columns.opaque_calls
        || statement.unlisted.hidden
        || statement.effect == Effect::Unknown
        || statement.session.runs_another()
}

/// Whether more makes it unknown than the calls that its text shows to be: the catalogue has found that a name on our lists may be
/// another function, or that a view runs code.
fn is_unknown_apart_from_calls(statement: &Statement) -> bool {
    statement.unlisted.hidden || (statement.effect == Effect::Unknown && statement.unlisted.is_empty())
}

fn is_unknown(object: &ObjectName, catalog: &MaskCatalog) -> bool {
    catalog.relation_by_name(object.schema.as_deref(), &object.name) == NamedRelation::Unknown
}

/// Which outputs without an origin are clean.
enum Computed<'a> {
    /// All: no masked value takes part.
    Clean,
    /// None can be shown to be.
    Tainted,
    /// Each by what it is made of, through subqueries and other names.
    ByLineage(Vec<bool>),
    /// Each by the names in its own expression; `masked` are the masked columns of all relations read.
    ByReference { outputs: &'a [Output], masked: Vec<&'a str> },
}

/// Which outputs nothing masked goes into, told by where they come from. `None` where nobody can tell that, and where the result
/// depends on masked values: beside a list of all digits, a join with a masked column shows it without touching an output.
fn clean_by_lineage(statement: &Statement, catalog: &MaskCatalog) -> Option<Vec<bool>> {
    let columns = &statement.columns;
    let lineage = &*columns.lineage;
    let depends = || {
        let mut kinds = [&lineage.compared, &lineage.looked_up].into_iter();
        kinds.any(|sources| shows_masked(lineage, sources, catalog))
    };
    if columns.moves_rows || is_opaque(statement) || depends() {
        return None;
    }
    let outputs = lineage.outputs.as_ref()?;
    Some(outputs.iter().map(|sources| !shows_masked(lineage, sources, catalog)).collect())
}

impl<'a> Computed<'a> {
    fn of(statement: Option<&'a Statement>, catalog: &'a MaskCatalog, fields: usize) -> Self {
        if !catalog.is_active() {
            return Self::Clean;
        }
        let Some(statement) = statement else { return Self::Tainted };
        if statement_taint(statement, catalog) == Taint::Clean {
            return Self::Clean;
        }
        let columns = &statement.columns;
        // Calls that the text does not know for what they are may stand in any output.
        if statement.session.runs_another() || is_unknown_apart_from_calls(statement) {
            return Self::Tainted;
        }
        if columns.plain_from && columns.outputs.len() == fields {
            return Self::by_reference(statement, catalog);
        }
        match clean_by_lineage(statement, catalog) {
            Some(outputs) if outputs.len() == fields => Self::ByLineage(outputs),
            Some(_) | None => Self::Tainted,
        }
    }

    fn by_reference(statement: &'a Statement, catalog: &'a MaskCatalog) -> Self {
        let mut masked: Vec<&str> = calls_on_masked_rows(statement, catalog).collect();
        for object in statement.reads.iter().chain(&statement.writes) {
            match catalog.relation_by_name(object.schema.as_deref(), &object.name) {
                NamedRelation::Known { masked: names, .. } => {
                    // A relation's own name, unless it has an alias, stands for its whole row.
                    if !names.is_empty() {
                        masked.push(object.name.as_str());
                    }
                    masked.extend(names);
                }
                NamedRelation::Unknown => return Self::Tainted,
            }
        }
        Self::ByReference { outputs: &statement.columns.outputs, masked }
    }

    fn is_clean(&self, position: usize) -> bool {
        match self {
            Self::Clean => true,
            Self::Tainted => false,
            Self::ByLineage(outputs) => outputs.get(position).copied().unwrap_or(false),
            Self::ByReference { outputs, .. } => {
                outputs.get(position).is_some_and(|output| self.is_clean_output(output))
            }
        }
    }

    fn is_clean_output(&self, output: &Output) -> bool {
        match self {
            Self::Clean => true,
            Self::Tainted | Self::ByLineage(_) => false,
            Self::ByReference { masked, .. } => {
                !output.opaque && !output.whole_row && !masked.iter().any(|name| output.names.contains(*name))
            }
        }
    }
}

#[cfg(test)]
mod tests;
