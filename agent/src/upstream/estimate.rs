//! Asks the server's planner how many rows a statement would touch, without running it.

use bytes::BytesMut;
use serde_json::Value;

use super::error::UpstreamError;
use super::query::{Client, Statement};

/// A statement as the client sent it. The caller vouches that it is a single INSERT, UPDATE, DELETE, MERGE or SELECT
/// and that it calls nothing but known functions: the planner runs IMMUTABLE ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanRequest<'a> {
    /// The statement.
    pub text: &'a str,
    /// Parameter types as in Parse.
    pub types: &'a [u32],
    /// Parameter formats as in Bind.
    pub formats: &'a [i16],
    /// Parameter values as in Bind.
    pub values: &'a [Option<&'a [u8]>],
    /// The session's current `search_path`, when it is known; otherwise the role's own.
    pub search_path: Option<&'a str>,
}

/// Everything that follows in the transaction is read-only and short: it waits for no lock that the client's own
/// transaction may hold. `$1` is the search path or NULL.
const SETTINGS: &str = "SELECT pg_catalog.set_config('transaction_read_only', 'on', true), \
     pg_catalog.set_config('statement_timeout', '1000', true), pg_catalog.set_config('lock_timeout', '250', true), \
     pg_catalog.set_config('search_path', COALESCE($1, pg_catalog.current_setting('search_path')), true)";

/// The planner's estimate: rows to be written, or rows returned by a statement that writes none. `None` when the
/// server gives no plan with a number in it.
///
/// EXPLAIN without ANALYZE does not execute. That the text cannot change this is the grammar's doing: after the
/// option list only one explainable statement may follow, the extended protocol takes no second one, and the
/// transaction is read-only besides.
///
/// # Errors
/// The connection broke. A statement that the server does not accept is `None`.
pub(super) async fn estimate(
    client: &mut Client,
    request: &PlanRequest<'_>,
) -> Result<Option<u64>, UpstreamError> {
    let search_path = [request.search_path.map(str::as_bytes)];
    let explain = format!("EXPLAIN (FORMAT JSON) {}", request.text);
    let statements = [
        Statement { types: &[TEXT_OID], ..Statement::with(SETTINGS, &search_path) },
        Statement { text: &explain, types: request.types, formats: request.formats, values: request.values },
    ];
    let mut plan = BytesMut::new();
    let explained = client
        .run(&statements, |row| {
            row.into_iter().flatten().for_each(|cell| plan.extend_from_slice(&cell));
            Ok(())
        })
        .await;
    match explained {
        Ok(()) => Ok(rows_in(&plan)),
        Err(UpstreamError::Server(report)) => {
            tracing::debug!(%report, "the server does not plan the statement");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `text` in `pg_type`.
const TEXT_OID: u32 = 25;

/// Reads an EXPLAIN (FORMAT JSON). A rewritten statement has several plans; what they write adds up.
fn rows_in(explained: &[u8]) -> Option<u64> {
    let explained: Value = serde_json::from_slice(explained).ok()?;
    let plans: Vec<&Value> =
        explained.as_array()?.iter().map(|query| query.get("Plan")).collect::<Option<_>>()?;
    let written: Vec<f64> = plans.iter().flat_map(|plan| written_rows(plan)).collect::<Option<_>>()?;
    let rows = if written.is_empty() { plan_rows(plans.last()?)? } else { written.iter().sum() };
    // The planner's own numbers are floating point; the cast saturates.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and is never negative"
    )]
    Some(rows.max(0.0) as u64)
}

/// What each ModifyTable node of the plan is fed; `None` in place of a number that is missing.
fn written_rows(plan: &Value) -> Vec<Option<f64>> {
    let mut written = Vec::new();
    let mut pending = vec![plan];
    while let Some(node) = pending.pop() {
        let children = node.get("Plans").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if node.get("Node Type").and_then(Value::as_str) == Some("ModifyTable") {
            let inputs = children.iter().filter(|child| is_input(child)).map(plan_rows);
            written.push(inputs.sum::<Option<f64>>());
        }
        pending.extend(children);
    }
    written
}

/// A child whose rows the node consumes, as opposed to a CTE or subquery evaluated beside it.
fn is_input(child: &Value) -> bool {
    matches!(child.get("Parent Relationship").and_then(Value::as_str), Some("Outer" | "Member"))
}

fn plan_rows(node: &Value) -> Option<f64> {
    node.get("Plan Rows").and_then(Value::as_f64)
}
