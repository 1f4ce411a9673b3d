//! Operations that wait for humans: asked once, decided by others than who asks, used as far as the decision says.
//!
//! The connection that asks holds a [`Pending`]. While its client waits, a client that goes away withdraws the request. When
//! the guard's patience is over, the client is sent away with the request's id: the request stays, survives a restart, and
//! the same operation, asked again in the same run, takes its answer. All semantics live under one lock, in
//! [`Approvals::ask`] and [`Approvals::decide`]: whichever settles a request first is what happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

pub mod entry;
mod error;
mod pending;
mod proof;
pub mod request;
pub mod reviewer;
mod store;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::flow::ApprovalId;
use crate::run::now_ms;
pub use entry::{Answer, Decision, Entry, GRANT_MS_MAX, GRANT_USES_MAX, Grant, Outcome, Review, Scope, Vote};
pub use error::{DecideError, TooManyHolds};
pub use pending::{Pending, Settled};
pub use proof::{Lacking, Proof};
pub use request::{Content, Digest, Request};
pub use reviewer::Reviewer;
use reviewer::{askers, is_quorum};
use store::Store;
pub use store::StoreError;

/// Settled requests that `list` and `get` still know.
pub const SETTLED_KEPT: usize = 256;
/// Length of a reviewer's reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// How long a deferred operation that was approved may be asked again, when its rule's time would end sooner.
pub const CLAIM_TIME_MIN: Duration = Duration::from_secs(15 * 60);
/// Changes a watcher may lag behind before it is told to list again.
const CHANGES_KEPT: usize = 256;

/// Every request that waits, what was settled lately, and what approvals still cover.
pub struct Approvals {
    operators: String,
    holds_max: usize,
    holds_per_run_max: usize,
    store: Store,
    state: Mutex<State>,
    changes: broadcast::Sender<Arc<Entry>>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<ApprovalId, Waiting>,
    /// Newest last. What still lasts is in `lasting` instead.
    settled: VecDeque<Arc<Entry>>,
    /// Settled, and an operation may still rest on it, or somebody has to look at it.
    lasting: BTreeMap<ApprovalId, Arc<Entry>>,
    /// What the file need not remember any more.
    forgotten: Vec<ApprovalId>,
}

struct Waiting {
    entry: Arc<Entry>,
    deadline: Instant,
    /// The connection that waits for the answer; none when its client was sent away.
    asker: Option<oneshot::Sender<Outcome>>,
}

impl Approvals {
    /// What the state folder remembers of deferred requests and lasting approvals, and nothing else yet.
    ///
    /// # Errors
    /// When its file cannot be read. The daemon must not start then: what was revoked could come back.
    pub fn open(config: &Config) -> Result<Arc<Self>, StoreError> {
        Self::with(config, Store::open(&config.state_dir)?)
    }

    /// One that remembers nothing beyond the process, for tests.
    #[cfg(test)]
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Self::with(config, Store::in_memory().expect("a database in memory")).expect("it is empty")
    }

    fn with(config: &Config, store: Store) -> Result<Arc<Self>, StoreError> {
        let mut state = State::default();
        let (now, mut gone) = (now_ms(), Vec::new());
        for entry in store.load()? {
            let id = entry.id;
            if !entry.lasts(now) {
                gone.push(id);
            } else if entry.outcome.is_some() {
                state.lasting.insert(id, Arc::new(entry));
            } else {
                let left = Duration::from_millis(entry.expires_ms.saturating_sub(now));
                let waiting =
                    Waiting { entry: Arc::new(entry), deadline: Instant::now() + left, asker: None };
                state.waiting.insert(id, waiting);
            }
        }
        store.forget(&gone)?;
        Ok(Arc::new(Self {
            operators: config.operators.clone(),
            holds_max: config.holds_max,
            holds_per_run_max: config.holds_per_run_max,
            store,
            state: Mutex::new(state),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        }))
    }

    /// Puts an operation to its approvers, or finds what was said of the same one before. Its time runs from now, whether or
    /// not anybody awaits the outcome.
    ///
    /// # Errors
    /// When too many wait already; the operation is denied then.
    pub fn ask(self: &Arc<Self>, request: Request) -> Result<Pending, TooManyHolds> {
        self.expire();
        let mut state = self.lock();
        let now = now_ms();
        if let Some((entry, outcome)) = state.claim(&request, now) {
            drop(state);
            self.announce(&entry);
            return Ok(Pending::claimed(Arc::clone(self), entry, outcome));
        }
        let (asker, answered) = oneshot::channel();
        let again = |waiting: &&mut Waiting| {
            waiting.asker.is_none()
                && waiting.entry.deferred
                && waiting.entry.request.is_same_operation(&request)
        };
        if let Some(waiting) = state.waiting.values_mut().find(again) {
            waiting.asker = Some(asker);
            let (id, deadline) = (waiting.entry.id, waiting.deadline);
            drop(state);
            return Ok(Pending::waits(Arc::clone(self), id, deadline, request.patience, answered));
        }
        state.has_room(self, &request)?;
        let entry = Arc::new(new_entry(request, state.fresh_id(), now));
        let (id, deadline) = (entry.id, Instant::now() + entry.request.timeout);
        // What cannot be recognised when it comes again is waited for.
        let patience = entry.request.patience.filter(|_| entry.request.again.is_some());
        state.waiting.insert(id, Waiting { entry: Arc::clone(&entry), deadline, asker: Some(asker) });
        drop(state);
        tracing::info!(approval = %id, run = %entry.request.run, rule = entry.request.rule, "operation held");
        self.announce(&entry);
        Ok(Pending::waits(Arc::clone(self), id, deadline, patience, answered))
    }

    /// Decides a request, or adds one approval to those that it needs. `seen` is the digest of what the reviewer was shown.
    /// May wait for the disk.
    ///
    /// # Errors
    /// When the reviewer may not decide, has not proved enough of themselves to approve, saw something else, or it is settled already. Nothing has changed then.
    pub fn decide(
        &self,
        id: ApprovalId,
        seen: Digest,
        by: Reviewer,
        decision: Decision,
    ) -> Result<Arc<Entry>, DecideError> {
        error::check_decision(&decision)?;
        self.expire();
        let mut state = self.lock();
        let Some(waiting) = state.waiting.get(&id) else { return Err(state.why_settled(id)) };
        let request = &waiting.entry.request;
        self.may_decide(request, &by, decision.break_glass)?;
        if waiting.entry.digest != seen {
            return Err(DecideError::NotWhatWasShown(id));
        }
        if decision.answer == Answer::Approve {
            request.check_proof(&by, now_ms())?;
        }
        if matches!(decision.scope, Scope::Shape { .. }) && request.shape.is_none() {
            return Err(DecideError::NoShape);
        }
        if decision.scope != Scope::Once && request.again.is_none() {
            return Err(DecideError::NotAgain);
        }
        let mut entry = Entry::clone(&waiting.entry);
        entry.revision += 1;
        let (marks, answer) = (by.marks(), decision.answer);
        if entry.votes.iter().any(|vote| vote.by.marks().in_common(&marks).is_some())
            && answer == Answer::Approve
        {
            return Err(DecideError::VotedAlready);
        }
        let outcome = entry.take(by, decision, now_ms());
        // Whoever waits now uses it; should they be gone in this moment, it is used up all the same.
        if waiting.asker.is_some()
            && let Some(grant) = &mut entry.grant
        {
            grant.uses_left = grant.uses_left.saturating_sub(1);
        }
        // Before anybody is told, where it has to last. The lock is held meanwhile: humans decide seldom, and nobody may be
        // told anything else in between.
        if entry.deferred || entry.lasts(now_ms()) {
            self.store.save(&entry).map_err(|error| DecideError::NotRemembered(error.to_string()))?;
        }
        let entry = Arc::new(entry);
        match outcome {
            Some(outcome) => state.settle(id, Arc::clone(&entry), outcome),
            None => {
                state.waiting.get_mut(&id).into_iter().for_each(|waiting| waiting.entry = Arc::clone(&entry))
            }
        }
        drop(state);
        if entry.review.is_some() {
            tracing::error!(approval = %id, run = %entry.request.run, rule = entry.request.rule, ?entry.outcome,
                "ALERT: glass was broken; somebody else has to look at it (portcullis approvals review)");
        }
        self.announce(&entry);
        Ok(entry)
    }

    /// Takes back what an approval still covers. Whom the approvers name, operators and root.
    ///
    /// # Errors
    /// When there is nothing to take back, or not by them.
    pub fn revoke(&self, id: ApprovalId, by: &Reviewer) -> Result<Arc<Entry>, DecideError> {
        self.amend(id, |entry| {
            let request = &entry.request;
            let may = by.is_root() || by.groups.contains(&self.operators);
            if !may && !request.approvers.iter().any(|approver| by.is_named(approver)) {
                return Err(DecideError::not_an_approver(&request.approvers));
            }
            let revoked = entry.grant.as_mut().filter(|grant| grant.revoked_by.is_none());
            revoked.ok_or(DecideError::NothingToRevoke)?.revoked_by = Some(by.user.clone());
            Ok(())
        })
    }

    /// Looks at a broken glass afterwards: somebody else than who broke it or for whom.
    ///
    /// # Errors
    /// When there is none, or they may not, or have not proved enough of themselves.
    pub fn review(&self, id: ApprovalId, by: Reviewer, note: String) -> Result<Arc<Entry>, DecideError> {
        if note.len() > REASON_BYTES_MAX {
            return Err(DecideError::ReasonTooLong);
        }
        self.amend(id, |entry| {
            self.may_decide(&entry.request, &by, false)?;
            entry.request.check_proof(&by, now_ms())?;
            let marks = by.marks();
            if entry.votes.iter().any(|vote| vote.by.marks().in_common(&marks).is_some()) {
                return Err(DecideError::OwnGlass);
            }
            let review = entry.review.as_mut().filter(|review| review.by.is_none());
            *review.ok_or(DecideError::NothingToReview)? = Review { by: Some(by), note };
            Ok(())
        })
    }

    /// Changes an entry that lasts, durably.
    fn amend(
        &self,
        id: ApprovalId,
        change: impl FnOnce(&mut Entry) -> Result<(), DecideError>,
    ) -> Result<Arc<Entry>, DecideError> {
        let mut state = self.lock();
        let Some(entry) = state.lasting.get(&id) else { return Err(state.why_settled(id)) };
        let mut entry = Entry::clone(entry);
        entry.revision += 1;
        change(&mut entry)?;
        self.store.save(&entry).map_err(|error| DecideError::NotRemembered(error.to_string()))?;
        let entry = Arc::new(entry);
        state.lasting.insert(id, Arc::clone(&entry));
        drop(state);
        self.announce(&entry);
        Ok(entry)
    }

    /// Who may decide a request: not whoever it acts for, in any guise, and then somebody its approvers name (those who may
    /// break its glass, for that), or an operator or root where they name nobody. There is no exception for anybody.
    ///
    /// # Errors
    /// When they may not: why.
    pub fn may_decide(&self, request: &Request, by: &Reviewer, break_glass: bool) -> Result<(), DecideError> {
        if let Some(mark) = askers(request).in_common(&by.marks()) {
            return Err(DecideError::SelfReview { who: mark.to_owned() });
        }
        let approvers = if break_glass { &request.break_glass } else { &request.approvers };
        match approvers.as_slice() {
            [] if break_glass => Err(DecideError::NoGlass),
            [] if by.is_root() || by.groups.contains(&self.operators) => Ok(()),
            [] => Err(DecideError::not_an_approver(&[self.operators.clone(), "user:root".to_owned()])),
            approvers if approvers.iter().any(|approver| by.is_named(approver)) => Ok(()),
            approvers => Err(DecideError::not_an_approver(approvers)),
        }
    }

    /// Whether somebody may read a request: statements can carry personal data, so only those who could decide it,
    /// operators, root, and whoever it acts for.
    #[must_use]
    pub fn may_see(&self, request: &Request, who: &Reviewer) -> bool {
        who.is_root()
            || who.groups.contains(&self.operators)
            || request.approvers.iter().chain(&request.break_glass).any(|approver| who.is_named(approver))
            || askers(request).in_common(&who.marks()).is_some()
    }

    /// What waits, oldest first, then what still lasts, then what was settled lately, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Entry>> {
        self.expire();
        let state = self.lock();
        let waiting = state.waiting.values().map(|waiting| &waiting.entry);
        waiting.chain(state.lasting.values().rev()).chain(state.settled.iter().rev()).cloned().collect()
    }

    /// One request.
    #[must_use]
    pub fn get(&self, id: ApprovalId) -> Option<Arc<Entry>> {
        let state = self.lock();
        let waiting = state.waiting.get(&id).map(|waiting| &waiting.entry);
        let settled = || state.settled.iter().find(|entry| entry.id == id);
        waiting.or_else(|| state.lasting.get(&id)).or_else(settled).cloned()
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Every change from now on: asked, voted on, settled, delivered. A receiver that lags must list again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.changes.subscribe()
    }

    /// Denies what nobody decided in time. Cheap when there is nothing to do, and never waits for the disk.
    pub fn expire(&self) {
        let (mut state, now, instant) = (self.lock(), now_ms(), Instant::now());
        let due = |waiting: &Waiting| waiting.deadline <= instant;
        let late: Vec<ApprovalId> =
            state.waiting.iter().filter(|(_, waiting)| due(waiting)).map(|(id, _)| *id).collect();
        let expired: Vec<_> = late.iter().filter_map(|id| state.settle_as(*id, Outcome::Expired)).collect();
        let over: Vec<Arc<Entry>> =
            state.lasting.values().filter(|entry| !entry.lasts(now)).cloned().collect();
        for entry in &over {
            state.lasting.remove(&entry.id);
            state.remember(Arc::clone(entry));
        }
        state.forgotten.extend(over.iter().map(|entry| entry.id));
        drop(state);
        expired.iter().for_each(|entry| self.announce(entry));
    }

    /// The same, and lets the file forget what nothing rests on any more. Waits for the disk; the daemon does it once a second.
    pub fn tidy(&self) {
        self.expire();
        let gone = std::mem::take(&mut self.lock().forgotten);
        if !gone.is_empty()
            && let Err(error) = self.store.forget(&gone)
        {
            // What has expired does not count, whether or not the file still has it.
            tracing::error!(%error, "expired approvals stay in the file");
        }
    }

    fn announce(&self, entry: &Arc<Entry>) {
        if let Some(outcome) = &entry.outcome {
            let word = match outcome {
                Outcome::Approved { .. } => "approved",
                Outcome::Denied { .. } => "denied",
                Outcome::Expired => "expired",
                Outcome::Withdrawn => "withdrawn",
            };
            tracing::info!(approval = %entry.id, run = %entry.request.run, delivered = entry.delivered, word, "hold settled");
        }
        // An error only says that nobody watches.
        drop(self.changes.send(Arc::clone(entry)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single insert, or one `settle`, so a panic elsewhere leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_entry(request: Request, id: ApprovalId, now: u64) -> Entry {
    let timeout_ms = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
    Entry {
        id,
        digest: request.digest(),
        request: Box::new(request),
        asked_ms: now,
        expires_ms: now.saturating_add(timeout_ms),
        votes: Vec::new(),
        deferred: false,
        outcome: None,
        delivered: false,
        grant: None,
        revision: 0,
        review: None,
    }
}

impl Entry {
    /// Takes a reviewer's word; the outcome, once there are enough.
    fn take(&mut self, by: Reviewer, decision: Decision, at_ms: u64) -> Option<Outcome> {
        let Decision { answer, reason, scope, break_glass } = decision;
        if answer == Answer::Deny {
            self.outcome = Some(Outcome::Denied { by, reason, at_ms });
            return self.outcome.clone();
        }
        self.votes.push(Vote { by: by.clone(), reason: reason.clone(), scope, at_ms });
        let voters: Vec<&Reviewer> = self.votes.iter().map(|vote| &vote.by).collect();
        if !break_glass && !is_quorum(&voters, &self.request) {
            return None;
        }
        // Nobody widens what the others have agreed to.
        let agreed = self.votes.iter().all(|vote| vote.scope == scope);
        let scope = if agreed { scope } else { Scope::Once };
        self.grant = self.grant_of(scope, at_ms);
        if break_glass {
            self.review = Some(Review { by: None, note: String::new() });
        }
        self.outcome = Some(Outcome::Approved { by, reason, at_ms });
        self.outcome.clone()
    }

    /// What an approval covers beyond whoever waits for it now.
    fn grant_of(&self, scope: Scope, now: u64) -> Option<Grant> {
        let claim_ms = u64::try_from(CLAIM_TIME_MIN.as_millis()).unwrap_or(u64::MAX);
        let (until_ms, uses_left) = match scope.lasting() {
            Some((for_ms, uses)) => (now.saturating_add(for_ms.min(GRANT_MS_MAX)), uses.min(GRANT_USES_MAX)),
            None if self.deferred => (self.expires_ms.max(now.saturating_add(claim_ms)), 1),
            None => return None,
        };
        Some(Grant { scope, until_ms, uses_left, revoked_by: None })
    }
}

impl State {
    /// An id whose code no other request that is known has.
    fn fresh_id(&self) -> ApprovalId {
        loop {
            let (id, settled) = (ApprovalId::generate(), self.settled.iter().map(|entry| &entry.id));
            let mut known = self.waiting.keys().chain(self.lasting.keys()).chain(settled);
            if !known.any(|known| known.shares_code_with(&id)) {
                return id;
            }
        }
    }

    /// What was said of the same operation before, if that still counts. An approval is used up by one.
    fn claim(&mut self, request: &Request, now: u64) -> Option<(Arc<Entry>, Outcome)> {
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

    fn has_room(&self, approvals: &Approvals, request: &Request) -> Result<(), TooManyHolds> {
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
    fn settle_as(&mut self, id: ApprovalId, outcome: Outcome) -> Option<Arc<Entry>> {
        let mut entry = Entry::clone(&self.waiting.get(&id)?.entry);
        entry.outcome = Some(outcome.clone());
        entry.revision += 1;
        let entry = Arc::new(entry);
        self.settle(id, Arc::clone(&entry), outcome);
        Some(entry)
    }

    /// Hands the outcome to whoever asked. The only way out of `waiting`.
    fn settle(&mut self, id: ApprovalId, entry: Arc<Entry>, outcome: Outcome) {
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

    fn remember(&mut self, entry: Arc<Entry>) {
        if self.settled.len() >= SETTLED_KEPT {
            self.settled.pop_front();
        }
        self.settled.push_back(entry);
    }

    fn why_settled(&self, id: ApprovalId) -> DecideError {
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
