//! Statements whose result depends on masked values: a condition, an order or an error tells bit by bit what masks hide.

use super::catalog::{MaskCatalog, Named};
use crate::request::{Effect, Lineage, ObjectName, Reference, Source, Sources, Statement};

/// Rule named for a relation that the catalogue does not know.
const UNKNOWN_RULE: &str = "masked data";

/// What a mask says of statements whose result depends on its columns otherwise than by showing them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Predicates {
    /// They pass. The default: who may ask for a row by such a column can find its value out.
    #[default]
    Allow,
    /// One comparison with one value of the client's own passes (`WHERE email = $1`), the rest is refused. It answers guesses, one
    /// for each statement.
    Equality,
    /// A human decides.
    Hold,
    /// They are refused.
    Deny,
}

/// What becomes of a statement. Ordered by strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It passes.
    #[default]
    Allow,
    /// A human decides.
    Hold,
    /// It is refused.
    Deny,
}

/// What [`Predicates`] mean for the two ways in which a result depends on a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Of one comparison with one value of the client's.
    pub look_up: Answer,
    /// Of anything else.
    pub other: Answer,
}

impl From<Predicates> for Terms {
    fn from(predicates: Predicates) -> Self {
        let (look_up, other) = match predicates {
            Predicates::Allow => (Answer::Allow, Answer::Allow),
            Predicates::Equality => (Answer::Allow, Answer::Deny),
            Predicates::Hold => (Answer::Hold, Answer::Hold),
            Predicates::Deny => (Answer::Deny, Answer::Deny),
        };
        Self { look_up, other }
    }
}

impl Terms {
    /// The stricter of each.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { look_up: self.look_up.max(other.look_up), other: self.other.max(other.other) }
    }
}

/// That a statement's result depends on masked columns, and what then becomes of the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// It does, or may.
    Named {
        /// Hold or deny.
        answer: Answer,
        /// On what, for people: `customers.ssn`.
        what: String,
        /// The mask by its pattern, as rules are named: `mask customers.ssn`.
        rule: String,
    },
    /// It runs code that nobody can see into, in a database where that matters.
    Unseen,
}

impl Dependence {
    fn rank(&self) -> Answer {
        match self {
            Self::Named { answer, .. } => *answer,
            Self::Unseen => Answer::Hold,
        }
    }

    /// The stricter of two; the first when they are alike.
    #[must_use]
    pub fn stricter(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        match (first, second) {
            (Some(first), Some(second)) if second.rank() > first.rank() => Some(second),
            (Some(first), _) => Some(first),
            (None, second) => second,
        }
    }
}

/// Who knows which columns are masked: a database's catalogue, or the policy's patterns alone.
pub trait Masks {
    /// The strictest terms that there are.
    fn strictest(&self) -> Terms;
    /// What a column of a relation is.
    fn column(&self, relation: &ObjectName, column: &str) -> Named;
    /// Whether it knows which relation has which columns.
    fn knows_columns(&self) -> bool;
    /// Whether `relation.name` can be a call of the function `name` with a row that has masked columns.
    fn may_be_called(&self, relation: &ObjectName, name: &str) -> bool;
    /// What all columns of a relation are.
    fn row(&self, relation: &ObjectName) -> Named;
}

/// Whether a statement's result depends on masked columns whose masks do not let it. An EXECUTE or FETCH answers for what is
/// not known until the caller passes what it runs.
#[must_use]
pub fn dependence(statement: &Statement, masks: &impl Masks) -> Option<Dependence> {
    if masks.strictest() == Terms::default() {
        return None;
    }
    let lineage = &*statement.columns.lineage;
    let look_ups: Vec<Dependent> = found(lineage, &lineage.looked_up, masks);
    // One comparison is one guess; several are a search.
    let several = look_ups.iter().filter(|found| found.terms != Terms::default()).count() > 1;
    let mut strictest = None;
    for found in look_ups {
        let answer = if several { found.terms.look_up.max(found.terms.other) } else { found.terms.look_up };
        strictest = Dependence::stricter(strictest, found.answered(answer));
    }
    for found in found(lineage, &lineage.compared, masks) {
        let answer = found.terms.other;
        strictest = Dependence::stricter(strictest, found.answered(answer));
    }
    if lineage.compared.doubt || lineage.looked_up.doubt {
        // What is only written may be new, or no relation at all.
        let written = statement.writes.iter();
        let written = written.filter(|relation| masks.row(relation) != Named::UnknownRelation);
        for relation in statement.reads.iter().chain(written) {
            if let Some(found) = dependent(masks.row(relation), relation, "*", masks) {
                let answer = found.terms.other;
                strictest = Dependence::stricter(strictest, found.answered(answer));
            }
        }
    }
    let unseen = statement.effect == Effect::Unknown || lineage.unseen || statement.session.runs_another();
    Dependence::stricter(strictest, unseen.then_some(Dependence::Unseen))
}

/// Whether any of these places is, or may be, a masked column.
#[must_use]
pub(super) fn shows_masked(lineage: &Lineage, sources: &Sources, masks: &impl Masks) -> bool {
    sources.doubt || !found(lineage, sources, masks).is_empty()
}

/// A masked column, or one that may be.
struct Dependent {
    terms: Terms,
    what: String,
    rule: String,
}

impl Dependent {
    fn answered(self, answer: Answer) -> Option<Dependence> {
        let Self { what, rule, .. } = self;
        (answer > Answer::Allow).then_some(Dependence::Named { answer, what, rule })
    }
}

fn found(lineage: &Lineage, sources: &Sources, masks: &impl Masks) -> Vec<Dependent> {
    let of_source = |source: &Source| match source {
        Source::Row(relation) => dependent(masks.row(relation), relation, "*", masks),
        Source::Column(reference) => of_reference(reference, masks),
    };
    lineage.at(sources).filter_map(of_source).collect()
}

/// The column that a reference means: of the first level where a relation certainly has it, else of any, else the row that goes by
/// its name.
fn of_reference(reference: &Reference, masks: &impl Masks) -> Option<Dependent> {
    let mut strictest: Option<Dependent> = None;
    let mut consider = |found: Option<Dependent>| {
        let terms = |found: &Dependent| (found.terms.other, found.terms.look_up);
        if let Some(found) = found
            && strictest.as_ref().is_none_or(|known| terms(&found) > terms(known))
        {
            strictest = Some(found);
        }
    };
    let mut certain = false;
    for level in &reference.levels {
        for relation in level {
            let named = masks.column(relation, &reference.name);
            certain |= named.is_certain();
            consider(dependent(named, relation, &reference.name, masks));
        }
        if certain && masks.knows_columns() {
            break;
        }
    }
    // Without a catalogue, a name may be a row's as well as a column's.
    if !certain || !masks.knows_columns() {
        let called = reference.levels.iter().flatten().filter(|relation| {
            reference.qualified && !certain && masks.may_be_called(relation, &reference.name)
        });
        for relation in reference.rows.iter().chain(called) {
            consider(dependent(masks.row(relation), relation, "*", masks));
        }
    }
    strictest
}

fn dependent(named: Named, relation: &ObjectName, column: &str, masks: &impl Masks) -> Option<Dependent> {
    let what = match column {
        "*" => format!("a column of {relation}"),
        name => format!("{relation}.{name}"),
    };
    match named {
        Named::Masked { terms, rule, .. } => Some(Dependent { terms, what, rule: format!("mask {rule}") }),
        Named::UnknownRelation => {
            let what = format!("{what}, of a relation that was not there when the catalogue was last read");
            Some(Dependent { terms: masks.strictest(), what, rule: UNKNOWN_RULE.to_owned() })
        }
        Named::Absent | Named::Clear => None,
    }
}

impl Masks for MaskCatalog {
    fn strictest(&self) -> Terms {
        self.strictest_terms()
    }

    fn column(&self, relation: &ObjectName, column: &str) -> Named {
        self.column_named(relation, column)
    }

    fn knows_columns(&self) -> bool {
        true
    }

    fn may_be_called(&self, relation: &ObjectName, name: &str) -> bool {
        let schema = relation.schema.as_deref();
        self.row_named(relation) == Named::UnknownRelation
            || self.is_call_on_masked_row(schema, &relation.name, name)
    }

    fn row(&self, relation: &ObjectName) -> Named {
        self.row_named(relation)
    }
}

#[cfg(test)]
mod tests;
