//! Operations that wait for humans: asked once, decided by others than who asks, used as far as the decision says.
//!
//! The connection that asks holds a [`Pending`]. While its client waits, a client that goes away withdraws the request. When
//! the guard's patience is over, the client is sent away with the request's id: the request stays, survives a restart, and
//! the same operation, asked again in the same run, takes its answer. All semantics live under one lock, in
//! [`Approvals::ask`] and [`Approvals::decide`]: whichever settles a request first is what happened.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

mod before;
mod decide;
pub mod entry;
mod error;
mod pending;
mod proof;
pub mod request;
pub mod reviewer;
mod state;
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
use state::{State, Waiting};
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
