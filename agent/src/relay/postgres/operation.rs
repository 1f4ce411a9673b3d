//! One operation between its intent and its outcome.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::facts::Facts;
use super::layout::Layout;
use crate::gate::Charged;
use crate::mask::Findings;
use crate::policy::rule::Limits;

use crate::record::event::{Outcome, OutcomeStatus, ServerError};

/// Number of an operation within its session, as in the record.
pub(crate) type OperationId = u64;

/// An operation that was forwarded.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Number in the record.
    pub(crate) id: OperationId,
    /// What its text was understood to be.
    pub(crate) facts: Arc<Facts>,
    /// Which statement of the text the server works on.
    pub(crate) statement: usize,
    /// How the current result's columns are treated; `None` before a RowDescription.
    pub(crate) layout: Option<Arc<Layout>>,
    /// The record knows the current result's columns.
    pub(crate) rows_begun: bool,
    /// What it is held to.
    terms: Option<Box<Terms>>,
    /// Rows of the current result that went to the client.
    result_rows: u64,
    /// It ran for too long, and the server was asked to cancel it.
    overtime: bool,
    /// The server answered it, even if without completing a statement.
    answered: bool,
    started: Instant,
    tags: Vec<String>,
    rows: u64,
    bytes: u64,
    masked: BTreeMap<String, u64>,
    error: Option<ServerError>,
}

/// What an operation is held to, and by which rule.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) rule: String,
    pub(crate) limits: Limits,
    /// The budgets that it counts for.
    pub(crate) charged: Charged,
}

impl Terms {
    /// Whether they hold it to anything.
    pub(crate) fn means_something(&self) -> bool {
        self.limits != Limits::default() || !self.charged.is_empty()
    }
}

/// The operations under way, by number. Few at a time, and they end about as they began: a search beats hashing.
#[derive(Debug, Default)]
pub(crate) struct Operations(VecDeque<Operation>);

impl Operations {
    pub(crate) fn get(&self, id: OperationId) -> Option<&Operation> {
        self.0.get(self.find(id).ok()?)
    }

    pub(crate) fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        let at = self.find(id).ok()?;
        self.0.get_mut(at)
    }

    /// Its number is not known yet: numbers are given once.
    pub(crate) fn insert(&mut self, operation: Operation) {
        if let Err(at) = self.find(operation.id) {
            self.0.insert(at, operation);
        }
    }

    pub(crate) fn remove(&mut self, id: OperationId) -> Option<Operation> {
        self.0.remove(self.find(id).ok()?)
    }

    /// In the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.0.iter()
    }

    /// All of them, which are no more under way then.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Operation> {
        self.0.drain(..)
    }

    /// Its place, or the one that it would have.
    fn find(&self, id: OperationId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |operation| operation.id)
    }
}

impl Operation {
    pub(crate) fn new(id: OperationId, facts: Arc<Facts>, terms: Option<Box<Terms>>) -> Self {
        if let Some(terms) = &terms {
            terms.charged.statement();
        }
        Self {
            id,
            facts,
            statement: 0,
            layout: None,
            rows_begun: false,
            terms,
            result_rows: 0,
            overtime: false,
            answered: false,
            started: Instant::now(),
            tags: Vec::new(),
            rows: 0,
            bytes: 0,
            masked: BTreeMap::new(),
            error: None,
        }
    }

    /// Counts rows sent to the client, with their bytes.
    pub(crate) fn sent(&mut self, rows: u64, bytes: usize) {
        self.rows += rows;
        self.result_rows += rows;
        self.bytes += bytes as u64;
        if let Some(terms) = &self.terms {
            terms.charged.result(rows, bytes as u64);
        }
    }

    /// What it is held to.
    pub(crate) fn terms(&self) -> Option<&Terms> {
        self.terms.as_deref()
    }

    /// How many more rows of the current result may go to the client.
    pub(crate) fn rows_left(&self) -> u64 {
        let most = self.terms.as_ref().and_then(|terms| terms.limits.rows);
        most.map_or(u64::MAX, |most| most.saturating_sub(self.result_rows))
    }

    /// Whether the client may get only so many rows of it.
    pub(crate) fn is_bounded(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.limits.rows.is_some())
    }

    /// Whether the client has all the rows of the current result that it may get, with `more` beside those counted here, where
    /// `extra` of what comes is no row.
    pub(crate) fn is_full(&self, more: u64, extra: u64) -> bool {
        let most = self.terms.as_ref().and_then(|terms| terms.limits.rows);
        most.is_some_and(|most| self.result_rows.saturating_add(more) >= most.saturating_add(extra))
    }

    /// It runs for too long.
    pub(crate) fn overtime(&mut self) {
        self.overtime = true;
    }

    /// Whether it did, and the server was asked to cancel it.
    pub(crate) fn is_overtime(&self) -> bool {
        self.overtime
    }

    /// Counts masked values.
    pub(crate) fn masked(&mut self, rule: &str, values: u64) {
        if values == 0 {
            return;
        }
        if let Some(count) = self.masked.get_mut(rule) {
            *count += values;
        } else {
            self.masked.insert(rule.to_owned(), values);
        }
    }

    /// Counts what detectors rewrote.
    pub(crate) fn found(&mut self, findings: &Findings) {
        for (detector, count) in findings.iter() {
            self.masked(detector.name(), u64::from(count));
        }
    }

    /// A statement of the text is complete.
    pub(crate) fn completed(&mut self, tag: &str) {
        self.tags.push(tag.to_owned());
        self.statement += 1;
        self.result_rows = 0;
        self.layout = None;
        self.rows_begun = false;
    }

    /// The server had nothing to run, or stopped at the client's row limit.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// The server failed it.
    /// The first word on it counts.
    pub(crate) fn failed(&mut self, error: ServerError) {
        self.error.get_or_insert(error);
    }

    /// What goes into the record.
    pub(crate) fn outcome(self) -> Outcome {
        Outcome {
            operation: self.id,
            status: match (&self.error, self.tags.is_empty() && !self.answered) {
                (Some(_), _) => OutcomeStatus::Failed,
                (None, true) => OutcomeStatus::NotRun,
                (None, false) => OutcomeStatus::Done,
            },
            command_tags: self.tags,
            rows: self.rows,
            bytes: self.bytes,
            error: self.error,
            elapsed_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            masked: self.masked,
            rows_left_out: 0,
            http: None,
            ssh: None,
        }
    }
}
