//! What one statement text was understood to be, and what that means for masking: made once per text and shared by
//! every execution of it.

use std::hash::Hash;
use std::sync::Arc;

use lru::LruCache;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use super::calls::Calls;
use super::conversation::Portal;
use super::copy::{CopyPlan, CopyPlans};
use super::masking::{Masking, Sensitivity};
use super::names::{Group, Meaning, Names};
use super::replies::Marks;
use super::search_path::SearchPath;
use super::shown;
use crate::codec::postgres::Format;
use crate::mask::Dependence;
use crate::mask::plan::Taint;
use crate::record::asked::{BoundedText, Statements};
use crate::request::sql::catalogue::hides_code;
use crate::request::sql::{Analysis, AnalysisCache};
use crate::request::{ColumnUse, Effect, SessionAction, Statement, Unlisted};
use crate::upstream::CalledFunction;

/// Texts one session remembers the facts of.
const FACTS_MAX: usize = 256;

/// Longest text whose facts are remembered, in bytes.
const FACTS_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Length from which a text is worked on aside, in bytes: about a millisecond's work.
const ASIDE_TEXT_BYTES_MIN: usize = 32 * 1024;

/// What facts take in memory beside their text, in bytes; roughly.
const FACTS_BYTES: usize = 1024;

/// Copies of its text that facts keep, as sent and as recorded, and what names taken from it may add.
const TEXT_COPIES: usize = 4;

/// Commands that the server plans when they are bound: from then on their names stand for what they stood for.
const PLANNED_KINDS: [&str; 5] = ["delete", "insert", "merge", "select", "update"];

/// Kind of a FunctionCall, which has no command tag.
const FUNCTION_CALL_KIND: &str = "function call";

/// Facts of one text.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The exact text.
    pub(crate) text: Arc<str>,
    /// Statements and effects; EXECUTE and FETCH resolved to what they run, calls judged by the catalogue.
    pub(crate) analysis: Arc<Analysis>,
    /// What the text alone says, which others of its shape share; kept so that nothing else comes to have its address.
    shared: Arc<Analysis>,
    /// The same for the record.
    pub(crate) summary: Statements,
    /// What it may carry of masked columns.
    pub(crate) sensitivity: Sensitivity,
    /// The masked columns that results depend on, where that matters.
    pub(crate) dependence: Option<Arc<Dependence>>,
    /// How each statement's COPY TO STDOUT is masked.
    copies: CopyPlans,
    /// A COPY TO STDOUT that cannot be masked: the text is refused.
    pub(crate) refused_copy: Option<String>,
    /// The text as recorded: detectors applied.
    pub(crate) recorded: BoundedText,
    /// It has an EXECUTE or FETCH, so what it means changes with what those names stand for.
    pub(crate) refers: bool,
    /// What it means is settled only when it runs, not when it is bound: it refers, or is no query that is planned.
    pub(crate) late: bool,
    /// What later texts mean depends on how it ends: it makes names, sets parameters or changes the schema, or may.
    pub(crate) turns: bool,
    /// It is a command of a replication connection: what it streams is counted, not read.
    pub(crate) replicates: bool,
    /// It is a function that was called without a text; the text is that of a SELECT that would call it.
    pub(crate) call: Option<Call>,
    /// The masks it was made under; see [`FactsCache::forget`].
    epoch: u64,
}

/// A FunctionCall, as far as its result needs it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// What is called.
    pub(crate) function: Arc<CalledFunction>,
    /// Asked for.
    pub(crate) result_format: Format,
}

/// A prepared statement, made by Parse or by SQL PREPARE: one name space
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>).
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// What it does.
    pub(crate) facts: Arc<Facts>,
    /// Parameter types given by the client, 0 where it left them to the server.
    pub(crate) parameter_types: Arc<[u32]>,
    /// Code that nobody saw has run since: the name may stand for something else by now.
    pub(crate) doubted: bool,
}

impl Facts {
    fn new(
        text: Arc<str>,
        analysis: Arc<Analysis>,
        masking: &Masking,
        recorded: BoundedText,
        epoch: u64,
    ) -> Self {
        let doubts = masking.doubts_parameters();
        let doubted = masking.names_columns().then(|| shown::doubted(&analysis, &text, doubts)).flatten();
        let analysis = doubted.map_or(analysis, Arc::new);
        let statements = analysis.statements.as_slice();
        let sensitivity = masking.sensitivity(statements);
        let (copies, refused_copy) = copy_plans(masking, statements, sensitivity.taint);
        Self {
            summary: Statements::new(statements),
            sensitivity,
            dependence: masking.dependence(statements).map(Arc::new),
            copies,
            refused_copy,
            refers: statements.iter().any(|statement| referred(statement).is_some()),
            late: !statements.iter().all(|statement| PLANNED_KINDS.contains(&statement.kind.as_str())),
            turns: statements.iter().any(turns),
            call: None,
            replicates: false,
            text,
            recorded,
            shared: Arc::clone(&analysis),
            analysis,
            epoch,
        }
    }

    /// The facts of another text that has the same analysis.
    fn for_text(&self, text: &str, masking: &Masking) -> Self {
        Self {
            text: text.into(),
            analysis: Arc::clone(&self.analysis),
            shared: Arc::clone(&self.shared),
            summary: self.summary.clone(),
            copies: Arc::clone(&self.copies),
            refused_copy: self.refused_copy.clone(),
            recorded: BoundedText::new(&masking.scan_text(text)),
            sensitivity: self.sensitivity,
            dependence: self.dependence.clone(),
            refers: self.refers,
            late: self.late,
            turns: self.turns,
            call: self.call.clone(),
            replicates: self.replicates,
            epoch: self.epoch,
        }
    }

    /// How a statement's COPY TO STDOUT is masked.
    pub(super) fn sensitivity_of_copy(&self, statement: usize) -> Option<&CopyPlan> {
        self.copies.get(statement)?.as_ref()
    }

    /// The statement, when the text has exactly one.
    fn only(&self) -> Option<&Statement> {
        match self.analysis.statements.as_slice() {
            [statement] => Some(statement),
            _ => None,
        }
    }

    /// Facts of one of the statements, for a name it makes: what the name runs does nothing more to the session.
    pub(crate) fn part(&self, statement: usize, masking: &Masking) -> Option<Self> {
        let statement = self.analysis.statements.get(statement)?;
        let text = self.text.get(statement.span.clone()).unwrap_or(&self.text).trim();
        let body = Statement { session: SessionAction::None, ..statement.clone() };
        let analysis = Analysis { effect: body.effect, statements: vec![body] };
        let recorded = BoundedText::new(&masking.scan_text(text));
        Some(Self::new(text.into(), Arc::new(analysis), masking, recorded, self.epoch))
    }

    /// The same of a name that may stand for something else by now: nothing of it is certain.
    pub(crate) fn doubted(&self, masking: &Masking) -> Self {
        let doubt = |statement: &Statement| Statement {
            effect: Effect::Unknown,
            reason: Some("code that cannot be seen may have changed what the name stands for".to_owned()),
            columns: ColumnUse { whole_rows: true, opaque_calls: true, ..ColumnUse::default() },
            ..statement.clone()
        };
        let statements: Vec<Statement> = self.analysis.statements.iter().map(doubt).collect();
        Self {
            summary: Statements::new(&statements),
            sensitivity: masking.sensitivity(&statements),
            dependence: masking.dependence(&statements).map(Arc::new),
            analysis: Arc::new(Analysis { statements, effect: Effect::Unknown }),
            ..self.clone()
        }
    }

    /// What keeping it costs, in bytes; roughly.
    pub(crate) fn weight(&self) -> usize {
        self.text.len().saturating_mul(TEXT_COPIES).saturating_add(FACTS_BYTES)
    }

    /// Whether its data may still have to come from the client, and nothing else does more than begin or end a transaction.
    pub(crate) fn only_takes_data(&self) -> bool {
        let statements = &self.analysis.statements;
        let begins_or_ends = |statement: &Statement| {
            matches!(
                statement.session,
                SessionAction::Begin | SessionAction::EndTransaction | SessionAction::Savepoint
            )
        };
        self.replicates
            || (statements.iter().any(takes_data)
                && statements.iter().all(|statement| takes_data(statement) || begins_or_ends(statement)))
    }

    /// What it means for messages that come after it and before its end.
    pub(crate) fn marks(&self) -> Marks {
        Marks {
            copies: self.replicates || self.analysis.statements.iter().any(|statement| statement.copies),
            turns: self.turns,
        }
    }
}

/// A COPY FROM STDIN, or an EXECUTE of one.
fn takes_data(statement: &Statement) -> bool {
    let is_known = !matches!(statement.session, SessionAction::Execute(_));
    statement.copies && statement.copy.is_none() && is_known
}

/// Whether what later texts mean depends on how this ends.
fn turns(statement: &Statement) -> bool {
    let session = match &statement.session {
        SessionAction::DeclareCursor(_) | SessionAction::Prepare(_) | SessionAction::Set { .. } => true,
        // What these take away can only fail the statements that still use it.
        SessionAction::Begin
        | SessionAction::CloseCursor(_)
        | SessionAction::Deallocate(_)
        | SessionAction::DiscardAll
        | SessionAction::EndTransaction
        | SessionAction::Execute(_)
        | SessionAction::FetchCursor(_)
        | SessionAction::None
        | SessionAction::Savepoint => false,
    };
    session || statement.effect > Effect::Write
}

/// Makes and remembers facts.
pub(crate) struct FactsCache {
    analyses: Arc<AnalysisCache>,
    texts: LruCache<Arc<str>, Arc<Facts>>,
    /// Facts of any one text of each analysis, by the address of what the text alone says: texts that differ only in literals share it.
    /// The facts keep the analysis alive, so no other can come to have that address.
    analysed: LruCache<usize, Arc<Facts>>,
    epoch: u64,
}

impl FactsCache {
    pub(crate) fn new(analyses: Arc<AnalysisCache>) -> Self {
        // Bounded by `remember`: a bounded one takes all of its room at once, and most sessions send a few texts.
        Self { analyses, texts: LruCache::unbounded(), analysed: LruCache::unbounded(), epoch: 0 }
    }

    /// The masks changed: what was known of texts no longer holds, also of those that are prepared.
    pub(crate) fn forget(&mut self) {
        self.texts.clear();
        self.analysed.clear();
        self.epoch += 1;
    }

    /// Changes with the masks.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether facts made earlier still hold.
    pub(crate) fn holds(&self, facts: &Facts) -> bool {
        facts.epoch == self.epoch && !facts.refers
    }

    /// The facts of a function called without a text; `text` is a SELECT that would call it.
    pub(crate) fn of_call(&self, text: &str, call: Option<Call>, masking: &Masking) -> Arc<Facts> {
        let mut analysis = self.analyses.analyze(text).as_ref().clone();
        for statement in &mut analysis.statements {
            FUNCTION_CALL_KIND.clone_into(&mut statement.kind);
        }
        let recorded = BoundedText::new(&masking.scan_text(text));
        let facts = Facts::new(text.into(), Arc::new(analysis), masking, recorded, self.epoch);
        Arc::new(Facts { call, ..facts })
    }

    /// The facts of a command of a replication connection.
    pub(crate) fn of_replication(&self, text: &str, analysis: Analysis, masking: &Masking) -> Arc<Facts> {
        let recorded = BoundedText::new(&masking.scan_text(text));
        let facts = Facts::new(text.into(), Arc::new(analysis), masking, recorded, self.epoch);
        Arc::new(Facts { replicates: true, ..facts })
    }

    /// The facts of a text that is sent now; `None` when a name in it awaits the server's answer.
    pub(crate) fn of(&mut self, text: &str, masking: &Masking, known: &Known<'_>) -> Option<Arc<Facts>> {
        if let Some(facts) = self.texts.get(text) {
            return Some(Arc::clone(facts));
        }
        let analysis = aside(text.len(), || self.analyses.analyze(text));
        if let Some(alike) = self.analysed.get(&address(&analysis))
            && !shown::depends_on_literals(&analysis)
        {
            // Not remembered by text: a client that sends a new text each time would only push others out.
            return Some(Arc::new(alike.for_text(text, masking)));
        }
        let refers = analysis.statements.iter().any(|statement| referred(statement).is_some());
        let resolved = if refers { resolve(&analysis, known)? } else { Arc::clone(&analysis) };
        let settled = known.calls.settle(resolved, known.path);
        let recorded = aside(text.len(), || BoundedText::new(&masking.scan_text(text)));
        let facts = Facts::new(text.into(), settled, masking, recorded, self.epoch);
        let facts = Arc::new(Facts { refers, late: refers || facts.late, shared: analysis, ..facts });
        // What EXECUTE and FETCH mean changes with the name they refer to.
        if !refers && text.len() <= FACTS_TEXT_BYTES_MAX {
            remember(&mut self.texts, Arc::clone(&facts.text), Arc::clone(&facts));
            remember(&mut self.analysed, address(&facts.shared), Arc::clone(&facts));
        }
        Some(facts)
    }
}

/// Remembers facts, and forgets the ones that were used longest ago when they are too many.
fn remember<K: Eq + Hash>(cache: &mut LruCache<K, Arc<Facts>>, key: K, facts: Arc<Facts>) {
    cache.put(key, facts);
    while cache.len() > FACTS_MAX {
        cache.pop_lru();
    }
}

fn address(analysis: &Arc<Analysis>) -> usize {
    Arc::as_ptr(analysis).addr()
}

/// Works on a text; a long one keeps its thread busy for so long that other sessions are given another.
fn aside<T>(text_bytes: usize, work: impl FnOnce() -> T) -> T {
    let movable = text_bytes > ASIDE_TEXT_BYTES_MIN
        && Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if movable { block_in_place(work) } else { work() }
}

/// The plans of all copies among the statements, and why one of them cannot be masked.
fn copy_plans(masking: &Masking, statements: &[Statement], taint: Taint) -> (CopyPlans, Option<String>) {
    if !masking.describes_portals() {
        return (Arc::from([]), None);
    }
    let mut refused = None;
    let mut schema_changes = false;
    let plans = statements
        .iter()
        .map(|statement| {
            let after_change = schema_changes;
            schema_changes |= statement.effect > Effect::Write;
            let copy = statement.copy.as_ref()?;
            if after_change && masking.names_columns() {
                refused = Some(
                    "a statement before the COPY changes the schema, and its columns cannot be told"
                        .to_owned(),
                );
                return None;
            }
            match masking.copy_plan(copy, taint) {
                Ok(plan) => Some(plan),
                Err(error) => {
                    refused = Some(error.to_string());
                    None
                }
            }
        })
        .collect();
    (plans, refused)
}

/// The names a text may refer to, and what they stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) statements: &'a Names<Prepared>,
    pub(crate) cursors: &'a Names<Arc<Facts>>,
    pub(crate) portals: &'a Names<Portal>,
    pub(crate) group: Group,
    pub(crate) calls: &'a Calls,
    pub(crate) path: &'a SearchPath,
}

/// What a statement takes its meaning from.
enum Reference<'a> {
    Cursor(&'a str),
    Prepared(&'a str),
}

fn referred(statement: &Statement) -> Option<Reference<'_>> {
    match &statement.session {
        SessionAction::Execute(name) => Some(Reference::Prepared(name)),
        SessionAction::FetchCursor(name) => Some(Reference::Cursor(name)),
        SessionAction::Begin
        | SessionAction::CloseCursor(_)
        | SessionAction::Deallocate(_)
        | SessionAction::DeclareCursor(_)
        | SessionAction::DiscardAll
        | SessionAction::EndTransaction
        | SessionAction::None
        | SessionAction::Prepare(_)
        | SessionAction::Savepoint
        | SessionAction::Set { .. } => None,
    }
}

/// Gives every EXECUTE and FETCH the effect of what it runs, when that was seen being prepared or declared. `None` when
/// the server has yet to say what a name stands for.
///
/// An EXECUTE whose own arguments do more than name constants stays unknown, and so does one inside EXPLAIN or CREATE
/// TABLE AS, whose own effect would be lost.
fn resolve(analysis: &Analysis, known: &Known<'_>) -> Option<Arc<Analysis>> {
    let mut resolved = analysis.clone();
    for index in 0..resolved.statements.len() {
        let (earlier, rest) = resolved.statements.split_at_mut(index);
        let Some(statement) = rest.first_mut() else { continue };
        let Some(reference) = referred(statement) else { continue };
        let body = match body(&reference, earlier, known) {
            Meaning::Certain(body) => body,
            Meaning::None => continue,
            Meaning::Open => return None,
        };
        let plain = matches!(statement.kind.as_str(), "execute" | "fetch" | "move");
        if plain && statement.functions.is_empty() && statement.reads.is_empty() {
            absorb(statement, body);
        }
    }
    resolved.effect =
        resolved.statements.iter().map(|statement| statement.effect).max().unwrap_or(resolved.effect);
    Some(Arc::new(resolved))
}

/// What a reference runs. Statements before it in the same text have run when it does: had one failed, the server would
/// have skipped it.
fn body(reference: &Reference<'_>, earlier: &[Statement], known: &Known<'_>) -> Meaning<Statement> {
    for statement in earlier.iter().rev() {
        if hides_code(statement) {
            return Meaning::None;
        }
        let makes = match (reference, &statement.session) {
            (Reference::Prepared(name), SessionAction::Prepare(made))
            | (Reference::Cursor(name), SessionAction::DeclareCursor(made)) => name == made,
            (Reference::Prepared(_) | Reference::Cursor(_), _) => false,
        };
        if makes {
            return Meaning::Certain(Statement { session: SessionAction::None, ..statement.clone() });
        }
    }
    match reference {
        Reference::Prepared(name) => known.prepared(name.as_bytes()),
        Reference::Cursor(name) => known.cursor(name.as_bytes()),
    }
}

impl Known<'_> {
    fn prepared(&self, name: &[u8]) -> Meaning<Statement> {
        match self.statements.meaning(name, self.group) {
            Meaning::Certain(prepared) if prepared.doubted || prepared.facts.refers => Meaning::None,
            Meaning::Certain(prepared) => {
                prepared.facts.only().cloned().map_or(Meaning::None, Meaning::Certain)
            }
            Meaning::None => Meaning::None,
            Meaning::Open => Meaning::Open,
        }
    }

    /// Cursors and the wire's portals are one name space, but only the wire tells when a portal is gone: a name that
    /// both have is certain of neither.
    fn cursor(&self, name: &[u8]) -> Meaning<Statement> {
        let cursor = self.cursors.settled(name);
        let facts = match (self.portals.meaning(name, self.group), cursor) {
            (Meaning::Open, _) => return Meaning::Open,
            (Meaning::Certain(_), Some(_)) | (Meaning::None, None) => return Meaning::None,
            (Meaning::Certain(portal), None) => portal.facts,
            (Meaning::None, Some(cursor)) => Arc::clone(cursor),
        };
        match facts.only() {
            Some(body) if !facts.refers => {
                Meaning::Certain(Statement { session: SessionAction::None, ..body.clone() })
            }
            Some(_) | None => Meaning::None,
        }
    }
}

/// Makes `statement` do what `body` does.
fn absorb(statement: &mut Statement, body: Statement) {
    let because = |reason: Option<String>| match reason {
        Some(reason) => format!("runs a {} that {reason}", body.kind),
        None => format!("runs a {}", body.kind),
    };
    statement.effect = body.effect;
    statement.reason = Some(because(body.reason));
    // The catalogue judges it again, as it is now.
    let rest_reason = Some(because(body.unlisted.rest_reason));
    statement.unlisted = Unlisted { rest_reason, ..body.unlisted };
    statement.renames = body.renames;
    statement.reads.extend(body.reads);
    statement.writes.extend(body.writes);
    statement.functions.extend(body.functions);
    statement.unbounded |= body.unbounded;
    statement.columns = body.columns;
    statement.copy = body.copy;
    statement.copies = body.copies;
    statement.session = body.session;
}
