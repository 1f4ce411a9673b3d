//! What masks ask for, on top of the guards: statements that move masked values, compute with them, or whose result depends on them.

use super::names_match;
use super::strict::stricter;
use super::{Match, PostgresOperation};
use crate::mask::catalog::Named;
use crate::mask::dependence::{Answer, Dependence, Masks, Terms, dependence};
use crate::mask::plan::Taint;
use crate::policy::rule::{
    Action, ColumnPattern, Defaults, HoldTerms, MaskDirection, MaskRule, MaskTarget, Policy, Protocol,
    UnknownOrigin, Verdict, Who,
};
use crate::request::{Effect, ObjectName};

/// Rule that is named where none of the policy's own is to blame.
const RULE: &str = "masked data";

const COMPUTES: &str = "the statement computes something from masked columns";
const MOVES: &str = "the statement moves masked columns out of sight";
const UNSEEN: &str = "the statement runs code that cannot be seen, which may compare masked columns";

impl Policy {
    /// What becomes of a statement that may do this with masked data. What moves masked values is put to whom the policy asks
    /// about what it cannot understand; a policy that denies that, denies this.
    pub(crate) fn on_masked_data(&self, taint: Taint) -> Option<Verdict> {
        match (taint, self.defaults.unknown_origin) {
            (Taint::Clean | Taint::ShowsColumns, _) | (Taint::ReadsMasked, UnknownOrigin::Mask) => None,
            (Taint::ReadsMasked, UnknownOrigin::Deny) => Some(deny(COMPUTES)),
            (Taint::MovesMasked, UnknownOrigin::Deny) => Some(deny(MOVES)),
            (Taint::ReadsMasked, UnknownOrigin::Hold) => Some(self.hold_masked(RULE)),
            (Taint::MovesMasked, UnknownOrigin::Hold | UnknownOrigin::Mask) => Some(self.ask_unknown(MOVES)),
        }
    }

    /// What becomes of a statement whose result depends on masked columns.
    pub(crate) fn on_dependence(&self, dependence: &Dependence) -> Option<Verdict> {
        match dependence {
            Dependence::Unseen => Some(self.ask_unknown(UNSEEN)),
            Dependence::Named { answer: Answer::Allow, .. } => None,
            Dependence::Named { answer: Answer::Hold, rule, .. } => Some(self.hold_masked(rule)),
            Dependence::Named { answer: Answer::Deny, what, rule } => Some(Verdict::Deny {
                rule: rule.clone(),
                reason: format!("the result depends on {what}, which is masked and may only be shown"),
                hint: Some(format!(
                    "select it by its own name, and choose, join, order and group rows by other columns. If rows have \
                     to be found by it, ask the owner of policy \"{}\".",
                    self.name
                )),
            }),
        }
    }

    /// On which masked columns the results of these statements depend, as far as the policy's patterns tell without a catalogue: a
    /// name that could be a masked column's is taken for one, and views are not seen through.
    #[must_use]
    pub fn dependence(&self, operation: &PostgresOperation<'_>, who: Who<'_>) -> Option<Dependence> {
        let applies = |rule: &&MaskRule| {
            rule.on.is_none_or(|protocol| protocol == Protocol::Postgres)
                && rule.direction == MaskDirection::Response
                && (rule.connections.is_empty()
                    || rule.connections.iter().any(|name| name == operation.connection))
                && !rule.exempt.iter().any(|group| who.groups.contains(group))
        };
        let patterns = self.masks.iter().filter(applies).flat_map(|rule| match &rule.what {
            MaskTarget::Columns(patterns) => {
                patterns.iter().map(|pattern| (pattern, rule.predicates.into())).collect()
            }
            MaskTarget::Detect(_) | MaskTarget::Form(_) | MaskTarget::Headers(_) | MaskTarget::Json(_) => {
                Vec::new()
            }
        });
        let masks = Patterns { patterns: patterns.collect(), search_path: operation.search_path };
        let each = operation.statements.iter().map(|statement| dependence(statement, &masks));
        each.fold(None, Dependence::stricter)
    }

    /// On whose word the policy lets pass what it cannot understand; `None` when it denies that.
    pub(crate) fn unknown_terms(&self) -> Option<HoldTerms> {
        match self.defaults.unmatched.get(&Effect::Unknown) {
            Some(Action::Hold(terms)) => Some(terms.clone()),
            Some(Action::Deny { .. }) => None,
            Some(Action::Allow) | None => Some(self.defaults.terms.clone()),
        }
    }

    fn hold_masked(&self, rule: &str) -> Verdict {
        let Defaults { terms, limits, .. } = &self.defaults;
        Verdict::Hold { rule: rule.to_owned(), terms: terms.clone(), limits: *limits }
    }

    fn ask_unknown(&self, reason: &str) -> Verdict {
        match self.unknown_terms() {
            Some(_) => self.hold_masked(RULE),
            None => deny(reason),
        }
    }
}

impl Verdict {
    /// This, and what a result that depends on masked columns asks for. Where both ask somebody, whoever decides must be entitled to
    /// both.
    pub(crate) fn and_dependence(self, policy: &Policy, dependence: Option<&Dependence>) -> Self {
        let asked = dependence.and_then(|dependence| policy.on_dependence(dependence));
        match (dependence, &self, asked) {
            (Some(Dependence::Named { .. }), Self::Hold { .. }, Some(asked @ Self::Hold { .. })) => {
                stricter(self, asked)
            }
            (_, _, asked) => self.or_stricter(asked),
        }
    }

    /// This, or what masks ask for, where that is stricter.
    pub(crate) fn or_stricter(self, masks: Option<Self>) -> Self {
        let rank = |verdict: &Self| match verdict {
            Self::Allow { .. } => 0,
            Self::Hold { .. } => 1,
            Self::Deny { .. } => 2,
        };
        match masks {
            Some(masks) if rank(&masks) > rank(&self) => masks,
            Some(_) | None => self,
        }
    }
}

fn deny(reason: &str) -> Verdict {
    Verdict::Deny {
        rule: RULE.to_owned(),
        reason: reason.to_owned(),
        hint: Some("select masked columns by their own name, or leave them out".to_owned()),
    }
}

/// The patterns of a policy, where no catalogue says what there is.
struct Patterns<'p> {
    patterns: Vec<(&'p ColumnPattern, Terms)>,
    search_path: Option<&'p [String]>,
}

impl Patterns<'_> {
    fn of_relation(&self, relation: &ObjectName) -> impl Iterator<Item = &(&ColumnPattern, Terms)> {
        self.patterns.iter().filter(|(pattern, _)| {
            names_match(&pattern.table, pattern.schema.as_ref(), relation, self.search_path) != Match::No
        })
    }
}

impl Masks for Patterns<'_> {
    fn strictest(&self) -> Terms {
        self.patterns.iter().fold(Terms::default(), |terms, (_, other)| terms.and(*other))
    }

    fn column(&self, relation: &ObjectName, column: &str) -> Named {
        let mut matching = self.of_relation(relation).filter(|(pattern, _)| pattern.column.is_match(column));
        match matching.next() {
            Some((pattern, terms)) => {
                Named::Masked { terms: *terms, rule: pattern.text.clone(), certain: true }
            }
            None => Named::Clear,
        }
    }

    fn knows_columns(&self) -> bool {
        false
    }

    fn may_be_called(&self, _: &ObjectName, _: &str) -> bool {
        true
    }

    fn row(&self, relation: &ObjectName) -> Named {
        let strictest = self.of_relation(relation).map(|(pattern, terms)| (&pattern.text, *terms));
        match strictest.max_by_key(|(_, terms)| terms.other) {
            Some((rule, terms)) => Named::Masked { terms, rule: rule.clone(), certain: true },
            None => Named::Clear,
        }
    }
}
