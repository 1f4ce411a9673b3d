//! The second opinion: an independent parser that may raise a verdict but never lower one.

use sqlparser::ast::{ObjectType, SetExpr, Statement};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::request::Effect;

/// Levels of nesting the second parser follows. Beyond it, it has no opinion: it tries alternatives at each level.
const NESTING_MAX: usize = 24;

/// Longest text the second parser is asked about, in bytes.
pub(super) const SECOND_OPINION_BYTES_MAX: usize = 64 * 1024;

/// What another parser makes of the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opinion {
    /// It cannot read the text: no objection, it lacks a tenth of PostgreSQL's grammar.
    None,
    /// The effect of each statement it found, as coarse as it knows.
    Statements(Vec<Effect>),
}

/// Asks the second parser.
pub(super) fn opinion(text: &str) -> Opinion {
    let dialect = PostgreSqlDialect {};
    let parsed = Parser::new(&dialect)
        .with_recursion_limit(NESTING_MAX)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_statements());
    match parsed {
        Ok(statements) => Opinion::Statements(statements.iter().map(effect).collect()),
        Err(_) => Opinion::None,
    }
}

/// A lower bound that holds for every statement it could mean. `Read` is "no objection".
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "no opinion on the others; the first parser names every statement"
)]
fn effect(statement: &Statement) -> Effect {
    match statement {
        Statement::Query(query) => body(&query.body),
        Statement::Insert(_)
        | Statement::Update { .. }
        | Statement::Delete(_)
        | Statement::Merge { .. }
        | Statement::Truncate { .. } => Effect::Write,
        Statement::CreateTable(_)
        | Statement::CreateView { .. }
        | Statement::CreateIndex(_)
        | Statement::CreateFunction(_)
        | Statement::AlterTable { .. } => Effect::Ddl,
        Statement::Drop { object_type: ObjectType::Database | ObjectType::Role, .. } => Effect::Admin,
        Statement::Drop { .. } => Effect::Ddl,
        Statement::Grant { .. } | Statement::Revoke { .. } | Statement::CreateRole { .. } => Effect::Admin,
        _ => Effect::Read,
    }
}

fn body(body: &SetExpr) -> Effect {
    match body {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => Effect::Write,
        SetExpr::Query(query) => self::body(&query.body),
        SetExpr::Select(_) | SetExpr::SetOperation { .. } | SetExpr::Values(_) | SetExpr::Table(_) => {
            Effect::Read
        }
    }
}
