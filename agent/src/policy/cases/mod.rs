//! The cases that stand beside a policy: statements, and what the policy must say of each and why.
//!
//! ```text
//! # A comment. What the policy must say of the lines marked with '>':
//! @ as data-science, ci
//! @ rows 5000
//! > UPDATE orders SET status = 'paid'
//! > WHERE customer_id = 7
//! = hold write "big writes" -- more rows than anyone checks by eye
//! ```
//! `@` lines set what a live session would know, for the next case only: `as GROUP, …`, `connection NAME`, `database
//! NAME`, `protocol http` (the lines are then a request: METHOD URL, header fields, an empty line, a body) or
//! `protocol ssh` (a command line, or what `operation KIND` says: a path, where a forward leads), `user ACCOUNT`, `search_path SCHEMA, …`, `rows NUMBER`,
//! `at MOMENT` (`2026-11-28T10:00:00Z`), `used_up RULE` (the run has used up that rule's budget; once for each). `=` gives verdict, effect, rule (`default` when no guard decides) and
//! the reason, which is what a failing case shows to whoever changed the policy.

use std::fmt;

use super::rule::Policy;
use super::rule::Protocol;
use super::trial::{Circumstances, NoTrial, Trial, judge};
use crate::request::Effect;

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Line of its expectation, counted from 1.
    pub line: usize,
    /// The text to judge.
    pub input: String,
    /// What a live session would know.
    pub circumstances: Circumstances,
    /// What must come of it.
    pub expected: Expectation,
    /// Why.
    pub why: String,
}

/// What comes of a case, or must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// `allow`, `deny` or `hold`.
    pub verdict: String,
    /// Effect of the whole text.
    pub effect: String,
    /// Name of the rule.
    pub rule: String,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, effect, rule } = self;
        if rule == super::DEFAULT_RULE {
            write!(f, "{verdict} {effect} {rule}")
        } else {
            write!(f, "{verdict} {effect} \"{rule}\"")
        }
    }
}

/// What is wrong with one line of a file of cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CaseError {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Reads a file of cases.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Case>, Vec<CaseError>> {
    let mut cases = Vec::new();
    let mut errors = Vec::new();
    let mut input: Option<String> = None;
    let mut circumstances = Circumstances::default();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let mut wrong = |message: String| errors.push(CaseError { line: line_number, message });
        let marked = line.split_once(' ').unwrap_or((line, ""));
        match (marked, &mut input) {
            ((">", part), None) => input = Some(part.to_owned()),
            ((">", part), Some(input)) => {
                input.push('\n');
                input.push_str(part);
            }
            (("=", rest), pending) => match (pending.take(), expectation(rest)) {
                (None, _) => wrong("no statement stands before this; mark its lines with '> '".to_owned()),
                (Some(_), Err(message)) => wrong(message),
                (Some(input), Ok((expected, why))) => {
                    let circumstances = std::mem::take(&mut circumstances);
                    cases.push(Case { line: line_number, input, circumstances, expected, why });
                }
            },
            (_, pending @ Some(_)) => {
                *pending = None;
                wrong("the statement above has no '= VERDICT EFFECT RULE -- WHY'".to_owned());
            }
            (("@", rest), None) => {
                if let Err(message) = set(&mut circumstances, rest) {
                    wrong(message);
                }
            }
            ((_, _), None) if line.trim().is_empty() || line.starts_with('#') => {}
            ((_, _), None) => wrong("expected a line that starts with '> ', '= ', '@ ' or '#'".to_owned()),
        }
    }
    let line = text.lines().count();
    if input.is_some() {
        errors.push(CaseError { line, message: "the last statement has no '= …' line".to_owned() });
    } else if circumstances != Circumstances::default() {
        errors.push(CaseError { line, message: "no case follows the last '@' line".to_owned() });
    }
    if errors.is_empty() { Ok(cases) } else { Err(errors) }
}

/// `VERDICT EFFECT RULE -- WHY`.
fn expectation(text: &str) -> Result<(Expectation, String), String> {
    let form = "write '= VERDICT EFFECT RULE -- WHY', the rule in double quotes or as the word default";
    let (verdict, rest) = text.split_once(' ').ok_or(form)?;
    let (effect, rest) = rest.trim_start().split_once(' ').ok_or(form)?;
    let rest = rest.trim_start();
    let (rule, why) = match rest.strip_prefix('"') {
        Some(rest) => rest.split_once('"').ok_or(form)?,
        None => rest.strip_prefix(super::DEFAULT_RULE).map(|why| (super::DEFAULT_RULE, why)).ok_or(form)?,
    };
    let why = why.trim().strip_prefix("--").map(str::trim).unwrap_or_default();
    if why.is_empty() {
        return Err("say why after ' -- '; it is what a failing case tells its reader".to_owned());
    }
    if !["allow", "deny", "hold"].contains(&verdict) {
        return Err(format!("{verdict:?} is no verdict (one of: allow, deny, hold)"));
    }
    let effects = [Effect::Read, Effect::Write, Effect::Ddl, Effect::Admin, Effect::Unknown];
    if !effects.iter().any(|known| known.to_string() == effect) {
        return Err(format!("{effect:?} is no effect (one of: read, write, ddl, admin, unknown)"));
    }
    let expected =
        Expectation { verdict: verdict.to_owned(), effect: effect.to_owned(), rule: rule.to_owned() };
    Ok((expected, why.to_owned()))
}

/// One `@` line.
fn set(circumstances: &mut Circumstances, text: &str) -> Result<(), String> {
    let (key, value) = text.split_once(' ').map_or((text, ""), |(key, value)| (key, value.trim()));
    if value.is_empty() {
        return Err(format!("{key:?} needs a value"));
    }
    let words = || value.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>();
    match key {
        "as" => circumstances.groups = words(),
        "claim" => circumstances.claim(value)?,
        "connection" => circumstances.connection = Some(value.to_owned()),
        "database" => circumstances.database = Some(value.to_owned()),
        "search_path" => circumstances.search_path = Some(words()),
        "protocol" => match value {
            "postgres" => circumstances.protocol = Some(Protocol::Postgres),
            "http" => circumstances.protocol = Some(Protocol::Http),
            "ssh" => circumstances.protocol = Some(Protocol::Ssh),
            _ => return Err(format!("{value:?} is no protocol with cases (one of: postgres, http, ssh)")),
        },
        "operation" => {
            circumstances.operation =
                Some(value.parse().map_err(|known| format!("{value:?} is no operation of SSH ({known})"))?)
        }
        "user" => circumstances.user = Some(value.to_owned()),
        "rows" => {
            let rows = value.parse().map_err(|_| format!("{value:?} is not a number of rows"))?;
            circumstances.rows = Some(rows);
        }
        "at" => circumstances.at(value)?,
        "used_up" => circumstances.used_up.push(value.to_owned()),
        _ => {
            return Err(format!(
                "{key:?} cannot be set (one of: as, at, claim, connection, database, operation, protocol, search_path, rows, used_up, user)"
            ));
        }
    }
    Ok(())
}

/// What the policy says of a case.
///
/// # Errors
/// When the case names a connection that the policy does not have, or is no request.
pub fn run(policy: &Policy, case: &Case) -> Result<Expectation, NoTrial> {
    let Trial { effect, verdict, .. } = judge(policy, &case.input, &case.circumstances)?;
    Ok(Expectation {
        verdict: verdict.word().to_owned(),
        effect: effect.to_string(),
        rule: verdict.rule().to_owned(),
    })
}

#[cfg(test)]
mod tests;
