//! What a SQL text does: statements, effects, objects and columns, read with PostgreSQL's own grammar.
//!
//! The verdict rests on libpg_query and our own walk of its tree, which names every kind of node. A second, independent
//! parser may raise it. What neither bounds nor grammar let us understand is `unknown`, never an error.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

use pg_query::protobuf::RawStmt;

use super::{ColumnUse, Effect, SessionAction, Statement, Unlisted};
pub use cache::AnalysisCache;
pub use replication::replication_command;
pub use settings::{READ_WRITE, keeps_pin};

use bounds::Room;
use second::Opinion;
use walk::Walker;

mod bounds;
mod cache;
pub mod catalogue;
mod effect;
mod filter;
mod lineage;
mod lists;
mod names;
mod objects;
mod query;
mod replication;
mod second;
mod settings;
mod shape;
mod tag;
mod tree;
mod utility;
mod walk;

#[cfg(test)]
mod tests;

/// One deep text at a time: what it may cost is bounded for the whole process.
static DEEP: Mutex<()> = Mutex::new(());

/// What one Query or Parse message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// The statements in order; none for an empty query.
    pub statements: Vec<Statement>,
    /// The highest effect of any of them; `Read` if there are none.
    pub effect: Effect,
}

/// What statements that differ in their literals alone have in common: the text with each literal replaced by a number, as
/// `pg_stat_statements` shows it. `None` for several statements, for what is not understood, and for all but queries and changes of rows.
#[must_use]
pub fn shape_of(text: &str, analysis: &Analysis) -> Option<String> {
    let [statement] = analysis.statements.as_slice() else { return None };
    // Elsewhere literals are code, names or passwords.
    let plain = ["select", "insert", "update", "delete", "merge"].contains(&statement.kind.as_str())
        && analysis.effect <= Effect::Write
        && statement.session == SessionAction::None;
    let room = matches!(bounds::measure(text), Ok(Room::Inline));
    if plain && room { pg_query::normalize(text).ok() } else { None }
}

/// Analyses the text of a Query or Parse message. Never fails: what cannot be understood, or is too big to look at,
/// is one statement of kind `unknown` with the reason.
#[must_use]
pub fn analyze(text: &str) -> Analysis {
    match bounds::measure(text) {
        Ok(Room::Inline) => guarded(text),
        Ok(Room::OwnStack) => on_own_stack(text),
        Err(unfit) => unknown(text, format!("the text {unfit}")),
    }
}

/// Runs a deep text on a stack that fits it.
fn on_own_stack(text: &str) -> Analysis {
    let _one_at_a_time = DEEP.lock().unwrap_or_else(PoisonError::into_inner);
    let analysis = std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("deep-sql".to_owned()).stack_size(bounds::DEEP_STACK_BYTES);
        thread.spawn_scoped(scope, || guarded(text)).ok().and_then(|thread| thread.join().ok())
    });
    analysis.unwrap_or_else(|| unknown(text, "no stack could be had for a text this deep".to_owned()))
}

/// Whatever goes wrong inside a parser, the answer is `unknown`.
fn guarded(text: &str) -> Analysis {
    std::panic::catch_unwind(AssertUnwindSafe(|| parse(text)))
        .unwrap_or_else(|_| unknown(text, "the parser failed on this text".to_owned()))
}

fn parse(text: &str) -> Analysis {
    let tree = match pg_query::parse(text, 0) {
        Ok(tree) => tree.protobuf,
        Err(error) => return unknown(text, format!("PostgreSQL's grammar rejects it: {error}")),
    };
    let mut statements: Vec<_> = tree.stmts.iter().map(|raw| statement(raw, text.len())).collect();
    if text.len() <= second::SECOND_OPINION_BYTES_MAX {
        weigh(&mut statements, &second::opinion(text));
    }
    let effect = statements.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Read);
    Analysis { statements, effect }
}

fn statement(raw: &RawStmt, text_bytes: usize) -> Statement {
    let mut walker = Walker::new();
    let node = raw.stmt.as_ref().and_then(|node| node.node.as_ref()).map(|kind| kind.to_ref());
    let kind = node.and_then(tag::tag);
    match node {
        Some(node) if kind.is_some() => {
            let shape = walker.statement(node);
            walker.facts.columns.outputs = shape.outputs;
            walker.facts.columns.plain_outputs = shape.plain_outputs;
            walker.facts.columns.plain_from = shape.plain_from;
            walker.facts.columns.lineage = lineage::of(node, &walker.facts);
        }
        Some(_) | None => walker.raise(Effect::Unknown, || "is a statement that is not known".to_owned()),
    }
    let mut facts = walker.facts;
    facts.columns.assigned_only = facts.assigned.difference(&facts.referenced).cloned().collect();
    let (effect, reason, unlisted) = facts.settle();
    Statement {
        copies: matches!(kind.as_deref(), Some("copy" | "execute")),
        kind: kind.unwrap_or_else(|| "unknown".to_owned()),
        effect,
        reason,
        reads: facts.reads.into_iter().collect(),
        writes: facts.writes.into_iter().collect(),
        functions: facts.functions.into_iter().collect(),
        unlisted,
        renames: facts.renames,
        unbounded: facts.unbounded,
        columns: facts.columns,
        session: facts.session,
        copy: facts.copy,
        span: span(raw, text_bytes),
    }
}

/// libpg_query counts bytes; a length of zero is "to the end".
fn span(raw: &RawStmt, text_bytes: usize) -> Range<usize> {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0).min(text_bytes);
    match usize::try_from(raw.stmt_len) {
        Ok(0) | Err(_) => start..text_bytes,
        Ok(length) => start..start.saturating_add(length).min(text_bytes),
    }
}

/// Lets the second opinion raise the verdict.
fn weigh(statements: &mut [Statement], opinion: &Opinion) {
    let Opinion::Statements(effects) = opinion else {
        return;
    };
    if effects.len() != statements.len() {
        let found = statements.len();
        for statement in statements {
            raise(statement, Effect::Unknown, || {
                format!("two parsers disagree on how many statements this is: {found} or {}", effects.len())
            });
        }
        return;
    }
    for (statement, &effect) in statements.iter_mut().zip(effects) {
        raise(statement, effect, || format!("a second parser finds that it has effect {effect}"));
    }
}

fn raise(statement: &mut Statement, effect: Effect, reason: impl FnOnce() -> String) {
    let Statement { effect: found, reason: why, unlisted, .. } = statement;
    if effect > unlisted.rest {
        let reason = Some(reason());
        if effect > *found {
            (*found, *why) = (effect, reason.clone());
        }
        (unlisted.rest, unlisted.rest_reason) = (effect, reason);
    }
}

fn unknown(text: &str, reason: String) -> Analysis {
    let statement = Statement {
        kind: "unknown".to_owned(),
        effect: Effect::Unknown,
        reason: Some(reason.clone()),
        unlisted: Unlisted::none(Effect::Unknown, Some(reason)),
        renames: false,
        reads: Vec::new(),
        writes: Vec::new(),
        functions: Vec::new(),
        unbounded: false,
        columns: ColumnUse { whole_rows: true, opaque_calls: true, ..ColumnUse::default() },
        session: SessionAction::None,
        copy: None,
        copies: false,
        span: 0..text.len(),
    };
    Analysis { statements: vec![statement], effect: Effect::Unknown }
}
