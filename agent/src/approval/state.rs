//! What waits, what was settled, what still lasts: the state behind the one lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::entry::{Entry, Outcome, Scope};
use super::error::{DecideError, TooManyHolds};
use super::request::Request;
use super::{Approvals, SETTLED_KEPT};
use crate::flow::ApprovalId;
use crate::run::now_ms;

#[derive(Default)]
pub(super) struct State {
    pub(super) waiting: BTreeMap<ApprovalId, Waiting>,
    /// Newest last. What still lasts is in `lasting` instead.
    pub(super) settled: VecDeque<Arc<Entry>>,
    /// Settled, and an operation may still rest on it, or somebody has to look at it.
    pub(super) lasting: BTreeMap<ApprovalId, Arc<Entry>>,
    /// What the file need not remember any more.
    pub(super) forgotten: Vec<ApprovalId>,
}

pub(super) struct Waiting {
    pub(super) entry: Arc<Entry>,
    pub(super) deadline: Instant,
    /// The connection that waits for the answer; none when its client was sent away.
    pub(super) asker: Option<oneshot::Sender<Outcome>>,
}

impl State {
    /// An id whose code no other request that is known has.
    pub(super) fn fresh_id(&self) -> ApprovalId {
        loop {
            let (id, settled) = (ApprovalId::generate(), self.settled.iter().map(|entry| &entry.id));
            let mut known = self.waiting.keys().chain(self.lasting.keys()).chain(settled);
            if !known.any(|known| known.shares_code_with(&id)) {
                return id;
            }
        }
    }

    /// What was said of the same operation before, if that still counts. An approval is used up by one.
    pub(super) fn claim(&mut self, request: &Request, now: u64) -> Option<(Arc<Entry>, Outcome)> {
        let covers = |entry: &Entry| {
            let shape = entry.grant.as_ref().is_some_and(|grant| matches!(grant.scope, Scope::Shape { .. }));
            let same = if shape {
                entry.request.has_shape_of(request)
            } else {
                entry.request.is_same_operation(request)
            };
            same && entry.is_live(now)
        };
        // What was refused in so many words goes before what a wider approval would cover.
        let refused = |entry: &Entry| matches!(entry.outcome, Some(Outcome::Denied { .. }));
        let found =
            self.lasting.values().filter(|entry| covers(entry)).max_by_key(|entry| refused(entry))?.id;
        let entry = self.lasting.get_mut(&found)?;
        let mut used = Entry::clone(entry);
        used.revision += 1;
        if let Some(grant) = &mut used.grant {
            grant.uses_left = grant.uses_left.saturating_sub(1);
        }
        used.delivered = true;
        *entry = Arc::new(used);
        let outcome = entry.outcome.clone()?;
        Some((Arc::clone(entry), outcome))
    }

    pub(super) fn has_room(&self, approvals: &Approvals, request: &Request) -> Result<(), TooManyHolds> {
        if self.waiting.len() >= approvals.holds_max {
            return Err(TooManyHolds::InAll { max: approvals.holds_max });
        }
        let of_run = self.waiting.values().filter(|waiting| waiting.entry.request.run == request.run).count();
        if of_run >= approvals.holds_per_run_max {
            return Err(TooManyHolds::OfRun { max: approvals.holds_per_run_max });
        }
        Ok(())
    }

    /// Settles a request that waits with an outcome that needs no reviewer.
    pub(super) fn settle_as(&mut self, id: ApprovalId, outcome: Outcome) -> Option<Arc<Entry>> {
        let mut entry = Entry::clone(&self.waiting.get(&id)?.entry);
        entry.outcome = Some(outcome.clone());
        entry.revision += 1;
        let entry = Arc::new(entry);
        self.settle(id, Arc::clone(&entry), outcome);
        Some(entry)
    }

    /// Hands the outcome to whoever asked. The only way out of `waiting`.
    pub(super) fn settle(&mut self, id: ApprovalId, entry: Arc<Entry>, outcome: Outcome) {
        let Some(Waiting { asker, .. }) = self.waiting.remove(&id) else { return };
        // An error means that the asker is being dropped; `Pending::drop` finds it settled and leaves it so.
        if let Some(asker) = asker {
            drop(asker.send(outcome));
        }
        match entry.lasts(now_ms()) {
            true => drop(self.lasting.insert(id, entry)),
            false => {
                if entry.deferred {
                    self.forgotten.push(id);
                }
                self.remember(entry);
            }
        }
    }

    pub(super) fn remember(&mut self, entry: Arc<Entry>) {
        if self.settled.len() >= SETTLED_KEPT {
            self.settled.pop_front();
        }
        self.settled.push_back(entry);
    }

    pub(super) fn why_settled(&self, id: ApprovalId) -> DecideError {
        let settled = self.lasting.get(&id).or_else(|| self.settled.iter().find(|entry| entry.id == id));
        match settled.and_then(|entry| entry.outcome.as_ref()) {
            Some(Outcome::Approved { by, .. }) => {
                DecideError::AlreadyDecided { by: by.user.clone(), approved: true }
            }
            Some(Outcome::Denied { by, .. }) => {
                DecideError::AlreadyDecided { by: by.user.clone(), approved: false }
            }
            Some(Outcome::Expired) => DecideError::Expired,
            Some(Outcome::Withdrawn) => DecideError::Withdrawn,
            None => DecideError::NotFound(id),
        }
    }
}
