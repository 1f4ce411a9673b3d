//! The decision on one operation: which rule applies, and what it says. Pure.
//!
//! One principle settles every case that cannot be told for sure: **both answers are followed, and the stricter verdict
//! wins.** An unqualified `orders` could be `secret.orders`, and an estimate may not be had: a guard that only perhaps
//! matches adds its verdict, and the guards after it are asked too, until one matches for certain. So a doubt can turn
//! an allow into a hold or a deny, never the other way round. Of several objects in one statement, one is enough to deny
//! or hold; an allow needs every one of them.
//!
//! `unknown` is never allowed by accident. An allow guard matches a statement of unknown effect only when it says so:
//! it lists `unknown` in `effect`; or names the command in full where that command is always opaque (`do`, `call`,
//! `execute`); or lists `functions` that account for every function the statement calls, and the statement is not an
//! EXECUTE of text nobody saw. Deny and hold guards judge an unknown statement by what is visible of it; what they do
//! not match falls to the later guards and to `[defaults]`, which holds it.

use globset::GlobMatcher;

use super::DEFAULT_RULE;
use super::rule::{
    Action, Guard, Limits, Mode, ObjectPattern, Policy, Protocol, RowBound, Shadow, Used, Verdict, When, Who,
};
use crate::request::{Effect, ObjectName, SessionAction, Statement};

use self::columns::match_columns;
use self::strict::{stricter, strictest};

mod columns;
mod http;
mod masked;
mod ssh;
mod strict;

pub use http::{HttpOperation, UnreadBody};
pub use ssh::SshAsked;

/// Commands whose text never says what they do.
const OPAQUE_KINDS: [&str; 3] = ["call", "do", "execute"];

/// Objects named in a refusal before the rest is counted.
const OBJECTS_SHOWN: usize = 3;

/// Characters of one object's name shown in a refusal.
const OBJECT_CHARS_SHOWN: usize = 80;

/// One Query or Parse message to be judged.
#[derive(Clone, Copy, Debug)]
pub struct PostgresOperation<'a> {
    /// Name of the connection it came on.
    pub connection: &'a str,
    /// Database it is for.
    pub database: &'a str,
    /// Its statements, in order.
    pub statements: &'a [Statement],
    /// Effect of the message as a whole. When it is higher than that of every statement (the analysers disagreed),
    /// each statement is judged as if it had this effect.
    pub effect: Effect,
    /// Schemas that unqualified names are looked up in, when the session knows them; `None` is any schema.
    pub search_path: Option<&'a [String]>,
    /// The planner's row estimates, by statement. `None`, and what the slice is too short for, is unknown.
    pub estimates: &'a [Option<u64>],
    /// What the run has had of each budget of the policy, by its place; what the slice is too short for is nothing.
    pub used: &'a [Used],
}

/// Whether a condition holds. Ordered: a conjunction is the least of its parts, a disjunction the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Perhaps,
    Yes,
}

impl From<bool> for Match {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// How a guard looks at the objects of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stance {
    /// It allows: every object must match.
    Permits,
    /// It denies or holds: one is enough.
    Restrains,
}

impl Stance {
    fn of(action: &Action) -> Self {
        match action {
            Action::Allow => Self::Permits,
            Action::Deny { .. } | Action::Hold(_) => Self::Restrains,
        }
    }
}

/// A statement with what is known beside its text.
#[derive(Clone, Copy)]
struct Asked<'a> {
    operation: &'a PostgresOperation<'a>,
    statement: &'a Statement,
    effect: Effect,
    who: Who<'a>,
}

impl Policy {
    /// What this policy says of a message: the strictest verdict on any of its statements (deny, then hold, then
    /// allow). On each statement the first matching guard decides, then `[defaults]`. Masks are not looked at here.
    /// An empty message asks for nothing and is allowed.
    pub fn decide(&self, operation: &PostgresOperation<'_>, who: Who<'_>) -> Verdict {
        let verdicts = asked(operation, who).enumerate().map(|(index, asked)| {
            let rows = operation.estimates.get(index).copied().flatten();
            self.judge(&asked, rows)
        });
        match verdicts.reduce(stricter) {
            Some(verdict) => verdict,
            None if operation.effect == Effect::Read => Verdict::allow(DEFAULT_RULE, Limits::default()),
            // No statement to judge, and yet the analysers saw something: nothing may rest on that.
            None => Verdict::Deny {
                rule: DEFAULT_RULE.to_owned(),
                reason: "the statement could not be taken apart".to_owned(),
                hint: None,
            },
        }
    }

    /// Indexes of the statements whose verdict could depend on the planner's estimate. Only for these it is worth
    /// asking; empty for most messages.
    #[must_use]
    pub fn needs_estimate(&self, operation: &PostgresOperation<'_>, who: Who<'_>) -> Vec<usize> {
        asked(operation, who)
            .enumerate()
            .filter(|(_, asked)| {
                let among = |wanted: &dyn Fn(&Guard) -> bool| {
                    let guards = self.guards.iter().filter(|guard| wanted(guard));
                    let mut reached = guards.map(|guard| (guard, guard.matches_without_rows(asked)));
                    let decisive = reached.find(|(guard, matched)| match matched {
                        Match::No => false,
                        Match::Perhaps => asks_planner(guard, asked),
                        Match::Yes => {
                            asks_planner(guard, asked) || guard.matches_rows(asked, None) == Match::Yes
                        }
                    });
                    decisive.is_some_and(|(guard, _)| asks_planner(guard, asked))
                };
                among(&|_| true) || (self.tries_guards() && among(&Guard::is_enforced))
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Places of the budgets that count this message, if it passes: what their guards say beside `over` may match one of its
    /// statements.
    #[must_use]
    pub fn budgets_of(&self, operation: &PostgresOperation<'_>, who: Who<'_>) -> Vec<usize> {
        let budgets = self.guards.iter().filter_map(|guard| Some((guard, guard.when.over?)));
        let counts =
            |guard: &Guard| asked(operation, who).any(|asked| guard.matches_apart(&asked) != Match::No);
        budgets.filter(|(guard, _)| counts(guard)).map(|(_, budget)| budget.place).collect()
    }

    /// The verdict on one statement.
    fn judge(&self, asked: &Asked<'_>, rows: Option<u64>) -> Verdict {
        let matches = |guard: &Guard| guard.matches_without_rows(asked).min(guard.matches_rows(asked, rows));
        self.first_match(asked.effect, &matches, &|| describe(asked.statement, asked.effect))
    }

    /// The stricter verdict of all rules that may be the first to match. `what` names the operation in a refusal. Rules that
    /// are tried out decide nothing; what they would have done is in the verdict.
    fn first_match(
        &self,
        effect: Effect,
        matches: &dyn Fn(&Guard) -> Match,
        what: &dyn Fn() -> String,
    ) -> Verdict {
        let first = |wanted: &dyn Fn(&Guard) -> bool| {
            let guards = self.guards.iter().filter(|guard| wanted(guard));
            self.first_of(guards, effect, matches, what)
        };
        let verdict = self.in_mode(first(&|_| true));
        match (self.mode, self.tries_guards()) {
            (Mode::Enforce, true) => first(&Guard::is_enforced).noting(Shadow::of(&verdict)),
            (Mode::Enforce, false) | (Mode::Shadow, _) => verdict,
        }
    }

    fn first_of<'g>(
        &self,
        guards: impl Iterator<Item = &'g Guard>,
        effect: Effect,
        matches: &dyn Fn(&Guard) -> Match,
        what: &dyn Fn() -> String,
    ) -> Verdict {
        let mut possible: Option<Verdict> = None;
        for guard in guards {
            let matched = matches(guard);
            if matched == Match::No {
                continue;
            }
            let verdict = self.verdict(&guard.name, Some(&guard.action), guard.limits, what);
            let verdict = strictest(possible, verdict);
            if matched == Match::Yes {
                return verdict;
            }
            possible = Some(verdict);
        }
        let unmatched = self.defaults.unmatched.get(&effect);
        strictest(possible, self.verdict(DEFAULT_RULE, unmatched, Limits::default(), what))
    }

    /// Whether some guards are only tried out.
    fn tries_guards(&self) -> bool {
        self.guards.iter().any(|guard| !guard.is_enforced())
    }

    /// Under a policy that is only tried out everything passes, with a note of what would not have.
    fn in_mode(&self, verdict: Verdict) -> Verdict {
        match self.mode {
            Mode::Enforce => verdict,
            Mode::Shadow => Verdict::allow(verdict.rule(), Limits::default()).noting(Shadow::of(&verdict)),
        }
    }

    fn verdict(
        &self,
        rule: &str,
        action: Option<&Action>,
        limits: Limits,
        what: &dyn Fn() -> String,
    ) -> Verdict {
        let limits = limits.or(self.defaults.limits);
        let rule = rule.to_owned();
        match action {
            Some(Action::Allow) => Verdict::Allow { rule, limits, shadow: None },
            Some(Action::Hold(terms)) => Verdict::Hold { rule, terms: terms.clone(), limits },

            Some(Action::Deny { hint }) => Verdict::Deny {
                reason: self.reason(&rule, &what()),
                hint: Some(hint.clone().unwrap_or_else(|| self.hint())),
                rule,
            },
            // `[defaults]` has every effect; a policy built otherwise denies.
            None => Verdict::Deny { reason: self.reason(&rule, &what()), hint: Some(self.hint()), rule },
        }
    }

    /// What was refused and by which rule, for the client.
    fn reason(&self, rule: &str, what: &str) -> String {
        if rule == DEFAULT_RULE {
            format!("{what} is denied: no guard of policy \"{}\" allows it", self.name)
        } else {
            format!("{what} is denied by rule \"{rule}\" of policy \"{}\"", self.name)
        }
    }

    fn hint(&self) -> String {
        format!(
            "Sending it again or in other words will not help. If it is needed, ask the owner of policy \"{}\".",
            self.name
        )
    }
}

impl Verdict {
    /// It may pass, by this rule, within these limits.
    pub(crate) fn allow(rule: &str, limits: Limits) -> Self {
        Self::Allow { rule: rule.to_owned(), limits, shadow: None }
    }

    /// The same, with what a rule that is tried out would have done; a verdict that lets nothing pass needs no such note.
    fn noting(self, tried: Option<Shadow>) -> Self {
        match self {
            Self::Allow { rule, limits, shadow } => {
                Self::Allow { rule, limits, shadow: Shadow::stricter(shadow, tried) }
            }
            other @ (Self::Deny { .. } | Self::Hold { .. }) => other,
        }
    }

    /// What a rule that is tried out would have done, where this lets it pass.
    #[must_use]
    pub fn shadow(&self) -> Option<&Shadow> {
        match self {
            Self::Allow { shadow, .. } => shadow.as_ref(),
            Self::Deny { .. } | Self::Hold { .. } => None,
        }
    }

    /// Name of the rule that decided.
    #[must_use]
    pub fn rule(&self) -> &str {
        match self {
            Self::Allow { rule, .. } | Self::Deny { rule, .. } | Self::Hold { rule, .. } => rule,
        }
    }

    /// The verdict as the command line and `.cases` files write it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Deny { .. } => "deny",
            Self::Hold { .. } => "hold",
        }
    }
}

/// Each statement with the effect it is judged by.
fn asked<'a>(operation: &'a PostgresOperation<'a>, who: Who<'a>) -> impl Iterator<Item = Asked<'a>> {
    let highest = operation.statements.iter().map(|statement| statement.effect).max();
    let disputed = highest.is_none_or(|highest| operation.effect > highest);
    operation.statements.iter().map(move |statement| {
        let effect = if disputed { operation.effect } else { statement.effect };
        Asked { operation, statement, effect, who }
    })
}

/// Whether the planner's answer decides if this guard matches.
fn asks_planner(guard: &Guard, asked: &Asked<'_>) -> bool {
    guard.when.estimated_rows.is_some() && !asked.touches_nothing()
}

impl Asked<'_> {
    /// BEGIN, SET, SHOW, `SELECT 1`: no rows are read or written, and the planner need not be asked to know it.
    fn touches_nothing(&self) -> bool {
        let Statement { reads, writes, functions, .. } = self.statement;
        self.effect == Effect::Read && reads.is_empty() && writes.is_empty() && functions.is_empty()
    }
}

impl Guard {
    /// Whether it decides.
    fn is_enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    fn matches_without_rows(&self, asked: &Asked<'_>) -> Match {
        let used = |place: usize| asked.operation.used.get(place).copied().unwrap_or_default();
        match self.when.over {
            Some(budget) if !budget.is_used_up(used(budget.place)) => Match::No,
            Some(_) | None => self.matches_apart(asked),
        }
    }

    /// The same but for the planner's estimate and the budget.
    fn matches_apart(&self, asked: &Asked<'_>) -> Match {
        let Asked { operation, statement, effect, who } = *asked;
        let stance = Stance::of(&self.action);
        let path = operation.search_path;
        let When { effects, kinds, objects, writes, columns, functions, connections, databases, .. } =
            &self.when;
        let certain = self.on == Protocol::Postgres
            && (effects.is_empty() || effects.contains(&effect))
            && (effect != Effect::Unknown || stance == Stance::Restrains || self.names_unknown(statement))
            && (kinds.is_empty() || kinds.iter().any(|glob| glob.is_match(&statement.kind)))
            && (connections.is_empty() || connections.iter().any(|name| name == operation.connection))
            && (databases.is_empty() || databases.iter().any(|glob| glob.is_match(operation.database)))
            && who.meets(&self.when)
            && self.when.unbounded.is_none_or(|unbounded| unbounded == statement.unbounded);
        if !certain {
            return Match::No;
        }
        objects_match(objects, statement.reads.iter().chain(&statement.writes), path, stance)
            .min(objects_match(writes, statement.writes.iter(), path, stance))
            .min(objects_match(functions, statement.functions.iter(), path, stance))
            .min(match_columns(columns, statement, path, stance))
    }

    fn matches_rows(&self, asked: &Asked<'_>, estimate: Option<u64>) -> Match {
        let Some(bound) = self.when.estimated_rows else {
            return Match::Yes;
        };
        let rows = if asked.touches_nothing() { Some(0) } else { estimate };
        rows.map_or(Match::Perhaps, |rows| bound.contains(rows).into())
    }

    /// Whether an allow guard speaks of statements that nobody can see through (see the head of this file).
    fn names_unknown(&self, statement: &Statement) -> bool {
        if self.when.effects.contains(&Effect::Unknown) {
            return true;
        }
        // Known by itself and unknown as part of its message: the analysers disagreed, so its lists prove nothing.
        if statement.effect != Effect::Unknown {
            return false;
        }
        let opaque_kind = |kind: &str| OPAQUE_KINDS.contains(&kind) && kind == statement.kind;
        let unseen_text = matches!(statement.session, SessionAction::Execute(_));
        self.when.kinds.iter().any(|glob| opaque_kind(glob.glob().glob()))
            || (!self.when.functions.is_empty() && !unseen_text)
    }
}

/// An empty list of patterns does not constrain. See the head of this file for the rest.
fn objects_match<'a>(
    patterns: &[ObjectPattern],
    objects: impl Iterator<Item = &'a ObjectName>,
    search_path: Option<&[String]>,
    stance: Stance,
) -> Match {
    if patterns.is_empty() {
        return Match::Yes;
    }
    let each = objects.map(|object| {
        let by_pattern = patterns.iter().map(|pattern| pattern.matches(object, search_path));
        by_pattern.max().unwrap_or(Match::No)
    });
    // A statement without objects names none, whatever the stance.
    let matched = match stance {
        Stance::Permits => each.min(),
        Stance::Restrains => each.max(),
    };
    matched.unwrap_or(Match::No)
}

impl ObjectPattern {
    fn matches(&self, object: &ObjectName, search_path: Option<&[String]>) -> Match {
        names_match(&self.name, self.schema.as_ref(), object, search_path)
    }
}

fn names_match(
    name: &GlobMatcher,
    schema: Option<&GlobMatcher>,
    object: &ObjectName,
    search_path: Option<&[String]>,
) -> Match {
    if !name.is_match(&object.name) {
        return Match::No;
    }
    let Some(wanted) = schema else {
        return Match::Yes;
    };
    match (&object.schema, search_path) {
        (Some(schema), _) => wanted.is_match(schema).into(),
        (None, None) => Match::Perhaps,
        (None, Some(path)) => {
            let matching = path.iter().filter(|schema| wanted.is_match(schema)).count();
            if matching > 0 && matching == path.len() {
                Match::Yes
            } else if matching > 0 || wanted.is_match("pg_catalog") {
                // PostgreSQL looks into pg_catalog before the path, whatever the path says.
                Match::Perhaps
            } else {
                Match::No
            }
        }
    }
}

impl RowBound {
    /// Whether a number of rows is within the bound.
    #[must_use]
    pub fn contains(self, rows: u64) -> bool {
        match self {
            Self::Above(bound) => rows > bound,
            Self::AtLeast(bound) => rows >= bound,
            Self::Below(bound) => rows < bound,
            Self::AtMost(bound) => rows <= bound,
        }
    }
}

/// `drop database shop (admin)`: a statement in one bounded line without control characters.
fn describe(statement: &Statement, effect: Effect) -> String {
    let objects = objects_of(statement);
    let mut text = statement.kind.clone();
    for (index, object) in objects.iter().take(OBJECTS_SHOWN).enumerate() {
        text.push_str(if index == 0 { " " } else { ", " });
        text.extend(object.to_string().chars().take(OBJECT_CHARS_SHOWN).flat_map(char::escape_debug));
    }
    let more = objects.len().saturating_sub(OBJECTS_SHOWN);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    let because = statement.reason.as_ref().map_or_else(String::new, |reason| {
        let reason: String = reason.chars().take(OBJECT_CHARS_SHOWN).flat_map(char::escape_debug).collect();
        format!(": {reason}")
    });
    format!("{text}{rest} ({effect}{because})")
}

/// Characters of a command shown in a refusal.
const TEXT_CHARS_SHOWN: usize = 160;

/// Text of an operation in one bounded line without control characters.
fn describe_text(text: &str) -> String {
    let mut shown: String = text.chars().take(TEXT_CHARS_SHOWN).flat_map(escaped).collect();
    if text.chars().nth(TEXT_CHARS_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Quotes and backslashes are a command line's own; only what a terminal would act on is escaped.
fn escaped(character: char) -> Vec<char> {
    match character {
        '"' | '\'' | '\\' => vec![character],
        _ => character.escape_debug().collect(),
    }
}

/// Objects a statement writes, then those it reads, each once.
#[must_use]
pub fn objects_of(statement: &Statement) -> Vec<&ObjectName> {
    let mut names: Vec<&ObjectName> = Vec::new();
    for object in statement.writes.iter().chain(&statement.reads) {
        if !names.contains(&object) {
            names.push(object);
        }
    }
    names
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod tests;
