//! Judges a text as the gate would, without a connection: for `policy explain` and `policy test`.

use std::collections::BTreeSet;

use super::decide::PostgresOperation;
use super::rule::{Connection, Policy, Protocol, Verdict};
use crate::request::sql::{Analysis, analyze};

/// Where PostgreSQL looks for unqualified names unless told otherwise. The schema named like the user, which comes
/// before it, seldom exists.
const SEARCH_PATH: &str = "public";

/// Database judged when neither the caller nor the connection names one.
const DATABASE: &str = "postgres";

/// What a live session would know beside the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Groups of the subject.
    pub groups: Vec<String>,
    /// Connection; without it the policy's first one for PostgreSQL.
    pub connection: Option<String>,
    /// Database; without it the one the connection logs in to.
    pub database: Option<String>,
    /// Schemas that unqualified names are looked up in; without it `public`.
    pub search_path: Option<Vec<String>>,
    /// The planner's row estimate for every statement; without it unknown.
    pub rows: Option<u64>,
}

/// A text, what it does, and what the policy says of it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The statements found.
    pub analysis: Analysis,
    /// The policy's verdict.
    pub verdict: Verdict,
}

/// The policy has no such connection for PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy \"{policy}\" has no PostgreSQL connection \"{connection}\" (it has: {})", known.join(", "))]
pub struct NoConnection {
    policy: String,
    connection: String,
    known: Vec<String>,
}

/// Judges one text.
///
/// # Errors
/// When the circumstances name a connection that the policy does not have.
pub fn judge(policy: &Policy, text: &str, circumstances: &Circumstances) -> Result<Trial, NoConnection> {
    judge_analysis(policy, analyze(text), circumstances)
}

/// Judges what was found in one text.
///
/// # Errors
/// When the circumstances name a connection that the policy does not have.
pub fn judge_analysis(
    policy: &Policy,
    analysis: Analysis,
    circumstances: &Circumstances,
) -> Result<Trial, NoConnection> {
    let connection = connection(policy, circumstances)?;
    let database = connection.and_then(|connection| connection.upstream.database.as_deref());
    let path = circumstances.search_path.clone().unwrap_or_else(|| vec![SEARCH_PATH.to_owned()]);
    let estimates: Vec<Option<u64>> = analysis.statements.iter().map(|_| circumstances.rows).collect();
    let operation = PostgresOperation {
        connection: connection.map_or("", |connection| &connection.name),
        database: circumstances.database.as_deref().or(database).unwrap_or(DATABASE),
        statements: &analysis.statements,
        effect: analysis.effect,
        search_path: Some(&path),
        estimates: &estimates,
    };
    let verdict = policy.decide(&operation, &circumstances.groups);
    Ok(Trial { analysis, verdict })
}

fn connection<'p>(
    policy: &'p Policy,
    circumstances: &Circumstances,
) -> Result<Option<&'p Connection>, NoConnection> {
    let mut known = policy.connections.iter().filter(|connection| connection.protocol == Protocol::Postgres);
    let Some(wanted) = &circumstances.connection else {
        return Ok(known.next());
    };
    known.clone().find(|connection| connection.name == *wanted).map(Some).ok_or_else(|| NoConnection {
        policy: policy.name.clone(),
        connection: wanted.clone(),
        known: known.map(|connection| connection.name.clone()).collect(),
    })
}

/// Names of guards that no verdict of a run of trials came from.
#[must_use]
pub fn untried<'p>(policy: &'p Policy, rules: &BTreeSet<String>) -> Vec<&'p str> {
    policy.guards.iter().map(|guard| guard.name.as_str()).filter(|name| !rules.contains(*name)).collect()
}
