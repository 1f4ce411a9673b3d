//! Operations that wait for a human: asked once, decided once by somebody else, used once.
//!
//! The connection that asks holds a [`Pending`]; when it goes away the request is withdrawn. A decision reaches that
//! `Pending` and nothing else, so an approval that was not used cannot be used later. All semantics live under one
//! lock, in [`Approvals::decide`] and [`Pending::outcome`]: whichever settles a request first is what happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

pub mod request;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::flow::{ApprovalId, Side};
use crate::run::now_ms;
pub use request::{Content, Digest, Request};

/// Settled requests that `list` and `get` still know.
pub const SETTLED_KEPT: usize = 256;
/// Length of a reviewer's reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// Changes a watcher may lag behind before it is told to list again.
const CHANGES_KEPT: usize = 256;

/// Who decides, from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reviewer {
    /// User id.
    pub uid: u32,
    /// Login name.
    pub user: String,
    /// Names of all groups.
    pub groups: Vec<String>,
    /// Process id.
    pub pid: u32,
    /// The user who logged in, through any `sudo` since; `None` when unknown.
    pub login_uid: Option<u32>,
}

/// What a reviewer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Let it pass, once.
    Approve,
    /// Refuse it.
    Deny,
}

/// How a request was settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A reviewer let it pass.
    Approved {
        /// Who.
        by: Reviewer,
        /// Why, as they wrote it; may be empty.
        reason: String,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        at_ms: u64,
    },
    /// A reviewer refused it.
    Denied {
        /// Who.
        by: Reviewer,
        /// Why, as they wrote it; may be empty.
        reason: String,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        at_ms: u64,
    },
    /// Nobody decided in time. Counts as denied.
    Expired,
    /// The connection that asked cancelled it or went away.
    Withdrawn,
}

/// A request as reviewers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Identifies the request.
    pub id: ApprovalId,
    /// What a decision must name; see [`Request::digest`].
    pub digest: Digest,
    /// What is asked.
    pub request: Box<Request>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub asked_ms: u64,
    /// When it is denied for want of a decision; milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: u64,
    /// `None` while it waits.
    pub outcome: Option<Outcome>,
    /// Whether the connection that asked received the outcome. An approval that was not received never will be.
    pub delivered: bool,
}

/// Why nothing can be held now. The operation is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{max} operations wait for approval already; decide some (`portcullis approvals`) or raise approvals.holds_max"
)]
pub struct TooManyHolds {
    /// The limit.
    pub max: usize,
}

/// Why a decision does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// No such request, or one settled long ago.
    #[error("no request {0} is known; list them with `portcullis approvals`")]
    NotFound(ApprovalId),
    /// The reviewer is who asks.
    #[error("this run acts for user id {uid}; somebody else must decide")]
    SelfReview {
        /// Whose run it is.
        uid: u32,
    },
    /// The reviewer is in none of the groups that may decide.
    #[error("only {} may decide this", allowed.join(", "))]
    NotAnApprover {
        /// Groups and users that may.
        allowed: Vec<String>,
    },
    /// The digest is not that of the request.
    #[error("what you were shown is not what waits; look at it again with `portcullis approvals show {0}`")]
    NotWhatWasShown(ApprovalId),
    /// It was decided before; nothing changed.
    #[error("{} by {} already", if *approved { "approved" } else { "denied" }, by)]
    AlreadyDecided {
        /// The login name that decided.
        by: String,
        /// Which way.
        approved: bool,
    },
    /// Time was up, which denied it.
    #[error("nobody decided in time; it was denied")]
    Expired,
    /// The connection that asked is gone.
    #[error("the connection that asked has cancelled it or gone away")]
    Withdrawn,
    /// The reason is too long.
    #[error("the reason is longer than {REASON_BYTES_MAX} bytes")]
    ReasonTooLong,
}

impl DecideError {
    /// Whose fault it was; here `Client` is the reviewer.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::NotFound(_) | Self::NotWhatWasShown(_) | Self::ReasonTooLong => Side::Client,
            Self::SelfReview { .. } | Self::NotAnApprover { .. } => Side::Policy,
            Self::AlreadyDecided { .. } | Self::Expired | Self::Withdrawn => Side::Client,
        }
    }
}

/// Every request that waits, and the last that were settled.
pub struct Approvals {
    operators: String,
    holds_max: usize,
    state: Mutex<State>,
    changes: broadcast::Sender<Entry>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<ApprovalId, Waiting>,
    settled: VecDeque<Entry>,
}

struct Waiting {
    entry: Entry,
    deadline: Instant,
    answer: oneshot::Sender<Outcome>,
}

impl Approvals {
    /// An empty queue.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            operators: config.operators.clone(),
            holds_max: config.holds_max,
            state: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        })
    }

    /// Queues a request. Its time runs from now, whether or not anybody awaits the outcome.
    ///
    /// # Errors
    /// When too many wait already; the operation is denied then.
    pub fn ask(self: &Arc<Self>, request: Request) -> Result<Pending, TooManyHolds> {
        let id = ApprovalId::generate();
        let deadline = Instant::now() + request.timeout;
        let asked_ms = now_ms();
        let timeout_ms = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry {
            id,
            digest: request.digest(),
            request: Box::new(request),
            asked_ms,
            expires_ms: asked_ms.saturating_add(timeout_ms),
            outcome: None,
            delivered: false,
        };
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        if state.waiting.len() >= self.holds_max {
            return Err(TooManyHolds { max: self.holds_max });
        }
        state.waiting.insert(id, Waiting { entry: entry.clone(), deadline, answer });
        drop(state);
        tracing::info!(approval = %id, run = %entry.request.run, rule = entry.request.rule, "operation held");
        self.announce(entry);
        Ok(Pending { approvals: Arc::clone(self), id, deadline, answered })
    }

    /// Decides a request. `seen` is the digest of what the reviewer was shown.
    ///
    /// # Errors
    /// When the reviewer may not decide, saw something else, or it is settled already. Nothing has changed then.
    pub fn decide(
        &self,
        id: ApprovalId,
        seen: Digest,
        by: Reviewer,
        answer: Answer,
        reason: String,
    ) -> Result<Entry, DecideError> {
        if reason.len() > REASON_BYTES_MAX {
            return Err(DecideError::ReasonTooLong);
        }
        let mut state = self.lock();
        let (entry, deadline) = match state.waiting.get(&id) {
            Some(waiting) => (&waiting.entry, waiting.deadline),
            None => return Err(state.why_settled(id)),
        };
        self.may_decide(&entry.request, &by)?;
        if entry.digest != seen {
            return Err(DecideError::NotWhatWasShown(id));
        }
        if Instant::now() >= deadline {
            let entry = state.settle(id, Outcome::Expired);
            drop(state);
            entry.into_iter().for_each(|entry| self.announce(entry));
            return Err(DecideError::Expired);
        }
        let at_ms = now_ms();
        let outcome = match answer {
            Answer::Approve => Outcome::Approved { by, reason, at_ms },
            Answer::Deny => Outcome::Denied { by, reason, at_ms },
        };
        let entry = state.settle(id, outcome).ok_or(DecideError::NotFound(id))?;
        drop(state);
        self.announce(entry.clone());
        Ok(entry)
    }

    /// Who may decide a request: not whoever it acts for, in any guise the kernel shows us, and then somebody its
    /// approvers name, or an operator or root where they name nobody.
    fn may_decide(&self, request: &Request, by: &Reviewer) -> Result<(), DecideError> {
        let askers = [request.subject.uid, request.process.uid];
        if let Some(uid) = askers.into_iter().find(|uid| *uid == by.uid || Some(*uid) == by.login_uid) {
            return Err(DecideError::SelfReview { uid });
        }
        if self.is_named(request, by) {
            return Ok(());
        }
        Err(DecideError::NotAnApprover {
            allowed: match request.approvers.as_slice() {
                [] => vec![format!("group {}", self.operators), "root".to_owned()],
                approvers => approvers
                    .iter()
                    .map(|approver| match approver.strip_prefix("user:") {
                        Some(user) => format!("user {user}"),
                        None => format!("group {approver}"),
                    })
                    .collect(),
            },
        })
    }

    fn is_named(&self, request: &Request, by: &Reviewer) -> bool {
        let in_group = |group: &str| by.groups.iter().any(|of| of == group);
        match request.approvers.as_slice() {
            [] => by.uid == 0 || in_group(&self.operators),
            approvers => approvers.iter().any(|approver| match approver.strip_prefix("user:") {
                Some(user) => by.user == user,
                None => in_group(approver),
            }),
        }
    }

    /// Whether somebody may read a request: statements can carry personal data, so only those who could decide it,
    /// operators, root, and whoever it acts for.
    #[must_use]
    pub fn may_see(&self, request: &Request, who: &Reviewer) -> bool {
        who.uid == 0
            || who.uid == request.subject.uid
            || who.groups.contains(&self.operators)
            || self.is_named(request, who)
    }

    /// What waits, oldest first, then what was settled lately, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        let state = self.lock();
        let waiting = state.waiting.values().map(|waiting| &waiting.entry);
        waiting.chain(state.settled.iter().rev()).cloned().collect()
    }

    /// One request.
    #[must_use]
    pub fn get(&self, id: ApprovalId) -> Option<Entry> {
        let state = self.lock();
        let waiting = state.waiting.get(&id).map(|waiting| &waiting.entry);
        waiting.or_else(|| state.settled.iter().find(|entry| entry.id == id)).cloned()
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Every change from now on: asked, settled, delivered. A receiver that lags must list again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Entry> {
        self.changes.subscribe()
    }

    fn announce(&self, entry: Entry) {
        if let Some(outcome) = &entry.outcome {
            tracing::info!(approval = %entry.id, run = %entry.request.run, delivered = entry.delivered, ?outcome, "hold settled");
        }
        // An error only says that nobody watches.
        drop(self.changes.send(entry));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single insert or `settle`, so a panic elsewhere leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Settles a request that waits and hands the outcome to whoever asked. The only way out of `waiting`.
    fn settle(&mut self, id: ApprovalId, outcome: Outcome) -> Option<Entry> {
        let Waiting { mut entry, answer, .. } = self.waiting.remove(&id)?;
        entry.outcome = Some(outcome.clone());
        // An error means that the asker is being dropped; `Pending::drop` finds it settled and leaves it so.
        drop(answer.send(outcome));
        if self.settled.len() >= SETTLED_KEPT {
            self.settled.pop_front();
        }
        self.settled.push_back(entry.clone());
        Some(entry)
    }

    fn why_settled(&self, id: ApprovalId) -> DecideError {
        let outcome =
            self.settled.iter().find(|entry| entry.id == id).and_then(|entry| entry.outcome.as_ref());
        match outcome {
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

/// A request that waits, held by the connection that asked. Dropping it withdraws the request.
#[must_use = "dropping it withdraws the request"]
pub struct Pending {
    approvals: Arc<Approvals>,
    id: ApprovalId,
    deadline: Instant,
    answered: oneshot::Receiver<Outcome>,
}

impl Pending {
    /// Identifies the request, for the client's notice.
    #[must_use]
    pub fn id(&self) -> ApprovalId {
        self.id
    }

    /// Waits for the decision or the end of its time. May be dropped and called again while it has not returned;
    /// once it has, the outcome is used up and a second call is `Withdrawn`.
    pub async fn outcome(&mut self) -> Outcome {
        if self.answered.is_terminated() {
            return Outcome::Withdrawn;
        }
        let outcome = match tokio::time::timeout_at(self.deadline, &mut self.answered).await {
            Ok(answered) => answered,
            Err(_) => {
                let expired = self.approvals.lock().settle(self.id, Outcome::Expired);
                expired.into_iter().for_each(|entry| self.approvals.announce(entry));
                // Settled now or, by a reviewer, a moment ago: either way the outcome is in the channel.
                (&mut self.answered).await
            }
        };
        self.delivered();
        outcome.unwrap_or(Outcome::Withdrawn)
    }

    fn delivered(&self) {
        let mut state = self.approvals.lock();
        let Some(entry) = state.settled.iter_mut().find(|entry| entry.id == self.id) else { return };
        entry.delivered = true;
        let entry = entry.clone();
        drop(state);
        self.approvals.announce(entry);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let withdrawn = self.approvals.lock().settle(self.id, Outcome::Withdrawn);
        withdrawn.into_iter().for_each(|entry| self.approvals.announce(entry));
    }
}
