//! A request from the side of the connection that asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::entry::{Entry, Outcome};
use super::{Approvals, StoreError};
use crate::flow::ApprovalId;

/// What became of a request for the client that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is decided, one way or another.
    As(Outcome),
    /// Nobody has decided within the client's patience: it is sent away, and the request stays until then (milliseconds since
    /// 1970-01-01T00:00:00Z).
    Deferred {
        /// See above.
        until_ms: u64,
    },
}

/// A request that waits, held by the connection that asked. Dropping it withdraws the request, unless it was deferred.
#[must_use = "dropping it withdraws the request"]
pub struct Pending {
    approvals: Arc<Approvals>,
    id: ApprovalId,
    state: State,
}

enum State {
    /// Nobody has decided yet.
    Waits { deadline: Instant, patience: Option<Instant>, answered: oneshot::Receiver<Outcome> },
    /// It was decided before; using it has to be remembered first.
    Claimed { entry: Arc<Entry>, outcome: Outcome },
    /// The outcome was taken.
    Used,
}

impl Pending {
    pub(super) fn waits(
        approvals: Arc<Approvals>,
        id: ApprovalId,
        deadline: Instant,
        patience: Option<Duration>,
        answered: oneshot::Receiver<Outcome>,
    ) -> Self {
        // Patience that outlasts the request is none: there is nothing to come back to.
        let patience =
            patience.map(|patience| Instant::now() + patience).filter(|patience| *patience < deadline);
        Self { approvals, id, state: State::Waits { deadline, patience, answered } }
    }

    pub(super) fn claimed(approvals: Arc<Approvals>, entry: Arc<Entry>, outcome: Outcome) -> Self {
        Self { approvals, id: entry.id, state: State::Claimed { entry, outcome } }
    }

    /// Identifies the request, for the client's notice.
    #[must_use]
    pub fn id(&self) -> ApprovalId {
        self.id
    }

    /// Whether it was decided before it was asked, so that nobody is waited for.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        matches!(self.state, State::Claimed { .. })
    }

    /// Lets the client wait for as long as the rule gives the reviewers: what it sent cannot be recognised when it comes again.
    pub fn stay(&mut self) {
        if let State::Waits { patience, .. } = &mut self.state {
            *patience = None;
        }
    }

    /// Waits for the decision, the end of its time, or the end of the client's patience. May be dropped and called again while
    /// it has not returned; once it has, the outcome is used up and a second call is `Withdrawn`.
    pub async fn outcome(&mut self) -> Settled {
        let settled = match &mut self.state {
            State::Used => return Settled::As(Outcome::Withdrawn),
            State::Claimed { entry, outcome } => {
                let (approvals, entry, outcome) =
                    (Arc::clone(&self.approvals), Arc::clone(entry), outcome.clone());
                // It counts only once the file says that it was used: a restart must not give it back.
                match save(approvals, entry).await {
                    Ok(()) => Settled::As(outcome),
                    Err(error) => {
                        tracing::error!(approval = %self.id, %error, "an approval's use cannot be remembered");
                        Settled::As(Outcome::Withdrawn)
                    }
                }
            }
            State::Waits { deadline, patience, answered } => {
                let until = patience.unwrap_or(*deadline);
                match (tokio::time::timeout_at(until, &mut *answered).await, *patience) {
                    (Ok(answered), _) => Settled::As(answered.unwrap_or(Outcome::Withdrawn)),
                    (Err(_late), None) => {
                        let expired = self.approvals.lock().settle_as(self.id, Outcome::Expired);
                        expired.into_iter().for_each(|entry| self.approvals.announce(&entry));
                        // Settled now or, by a reviewer, a moment ago: either way the outcome is in the channel.
                        Settled::As(answered.await.unwrap_or(Outcome::Withdrawn))
                    }
                    (Err(_late), Some(_)) => match Arc::clone(&self.approvals).defer(self.id).await {
                        Some(until_ms) => Settled::Deferred { until_ms },
                        None => Settled::As(answered.await.unwrap_or(Outcome::Withdrawn)),
                    },
                }
            }
        };
        self.state = State::Used;
        if settled != (Settled::As(Outcome::Withdrawn)) {
            self.delivered();
        }
        settled
    }

    fn delivered(&self) {
        let mut state = self.approvals.lock();
        let settled = state.settled.iter_mut().find(|entry| entry.id == self.id);
        let Some(entry) = settled.filter(|entry| !entry.delivered) else { return };
        Arc::make_mut(entry).delivered = true;
        let entry = Arc::clone(entry);
        drop(state);
        self.approvals.announce(&entry);
    }
}

impl Approvals {
    /// Lets a request stay without its client; until when (milliseconds since 1970). `None` when it was settled a moment ago, or
    /// cannot be remembered, which withdraws it.
    async fn defer(self: Arc<Self>, id: ApprovalId) -> Option<u64> {
        let entry = {
            let mut state = self.lock();
            let waiting = state.waiting.get_mut(&id)?;
            let entry = Arc::make_mut(&mut waiting.entry);
            entry.deferred = true;
            entry.revision += 1;
            Arc::clone(&waiting.entry)
        };
        let saved = save(Arc::clone(&self), Arc::clone(&entry)).await;
        let mut state = self.lock();
        // A reviewer may have decided while the disk was busy: then the client, which still waits, is told that.
        let waiting = state.waiting.get_mut(&id)?;
        match saved {
            Ok(()) => {
                waiting.asker = None;
                drop(state);
                self.announce(&entry);
                Some(entry.expires_ms)
            }
            Err(error) => {
                tracing::error!(approval = %id, %error, "a hold cannot outlast its client");
                let withdrawn = state.settle_as(id, Outcome::Withdrawn);
                drop(state);
                withdrawn.into_iter().for_each(|entry| self.announce(&entry));
                None
            }
        }
    }
}

/// Writes an entry on a thread that may wait for the disk.
async fn save(approvals: Arc<Approvals>, entry: Arc<Entry>) -> Result<(), StoreError> {
    let saved = tokio::task::spawn_blocking(move || approvals.store.save(&entry)).await;
    // Only a panic or the runtime's end could be here; neither has saved anything.
    saved.unwrap_or(Err(StoreError::Interrupted))
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.approvals.lock();
        match &self.state {
            State::Waits { .. } => {
                if let Some(waiting) =
                    state.waiting.get_mut(&self.id).filter(|waiting| waiting.entry.deferred)
                {
                    // Its client came again and went again; it was told that it may.
                    waiting.asker = None;
                    return;
                }
                let withdrawn = state.settle_as(self.id, Outcome::Withdrawn);
                drop(state);
                withdrawn.into_iter().for_each(|entry| self.approvals.announce(&entry));
            }
            // In doubt it is used up.
            State::Claimed { .. } | State::Used => {}
        }
    }
}
