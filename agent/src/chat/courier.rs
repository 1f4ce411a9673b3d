//! Carries to one chat what happens to requests: a bounded queue, one message at a time, patience with a service that is slow
//! or down. Nothing waits for it. It knows requests as they are, not what happened to them: what changes twice while a
//! service is down is told once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::slack::Slack;
use super::teams::Teams;
use super::webhook::Webhook;
use crate::approval::{Approvals, Entry};
use crate::credential::CredentialError;
use crate::fetch::FetchError;
use crate::flow::ApprovalId;
use crate::policy::rule::ChatUse;

/// Requests that wait to be told of; more are not told.
pub(super) const QUEUE_MAX: usize = 1024;
/// Requests whose message is remembered, to change it; the oldest is forgotten.
pub(super) const TOLD_MAX: usize = 4096;
/// Tries of one message.
pub(super) const ATTEMPTS_MAX: u32 = 8;
/// Pause after a failure; it doubles with each one that follows.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest pause that a service may ask for (RFC 9110 section 10.2.3).
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// It may be, later.
    #[error("{what}")]
    Later {
        /// What went wrong.
        what: String,
        /// When the service wants to be asked again.
        after: Option<Duration>,
        /// Whether it is about this message alone, as far as can be told.
        only_this: bool,
    },
    /// It will not be.
    #[error("{0}")]
    Refused(String),
}

impl SendError {
    /// A failure that may pass.
    pub(super) fn later(what: impl Into<String>) -> Self {
        Self::Later { what: what.into(), after: None, only_this: false }
    }

    /// What a status says that is no success (RFC 9110 section 15).
    pub(super) fn status(answer: &http::Response<Vec<u8>>) -> Self {
        let (status, what) = (answer.status(), format!("it answers with {}", answer.status()));
        match status.as_u16() {
            429 => Self::Later { what, after: retry_after(answer.headers()), only_this: false },
            // Something in it may be what the service breaks on.
            408 | 425 | 500..=599 => {
                Self::Later { what, after: retry_after(answer.headers()), only_this: true }
            }
            _ => Self::Refused(what),
        }
    }
}

impl From<FetchError> for SendError {
    fn from(error: FetchError) -> Self {
        Self::later(error.to_string())
    }
}

impl From<CredentialError> for SendError {
    fn from(error: CredentialError) -> Self {
        Self::later(error.to_string())
    }
}

/// `Retry-After` in seconds; a date is taken for none.
pub(super) fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Pause after so many failures in a row, some of it left to chance so that not all come back at once.
pub(super) fn pause(failures: u32) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
    let mut chance = [0; 2];
    // Without randomness the pause is the whole one.
    match getrandom::fill(&mut chance) {
        Ok(()) => whole / 2 + whole / 2 * u32::from(u16::from_ne_bytes(chance)) / u32::from(u16::MAX),
        Err(_) => whole,
    }
}

/// What an operator should know of a chat. `status` shows it.
#[derive(Debug)]
pub(super) struct Health {
    chat: &'static str,
    state: Mutex<(Option<String>, u64)>,
}

impl Health {
    pub(super) fn of(chat: &'static str) -> Arc<Self> {
        Arc::new(Self { chat, state: Mutex::default() })
    }

    /// It works. What was lost stays lost, and is told until the daemon restarts.
    pub(super) fn good(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
    }

    /// It does not; whether messages were lost by that.
    pub(super) fn bad(&self, what: &str, lost: u64) {
        tracing::warn!(chat = self.chat, lost, "{what}");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (Some(what.to_owned()), state.1.saturating_add(lost));
    }

    /// The problem, if there is one.
    pub(super) fn problem(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = (state.1 > 0).then(|| format!("{} messages were not sent", state.1));
        match (&state.0, lost) {
            (None, None) => None,
            (Some(what), None) => Some(format!("chat: {}: {what}", self.chat)),
            (None, Some(lost)) => Some(format!("chat: {}: {lost}", self.chat)),
            (Some(what), Some(lost)) => Some(format!("chat: {}: {what} ({lost})", self.chat)),
        }
    }
}

/// Where messages go.
pub(super) enum Service {
    Slack(Arc<Slack>),
    Teams(Arc<Teams>),
    Webhook(Arc<Webhook>),
}

/// A message that can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) channel: String,
    pub(super) message: String,
}

impl Service {
    /// Tells of a request; `before` is the message there is of it.
    async fn tell(&self, entry: &Entry, before: Option<&Told>) -> Result<Option<Place>, SendError> {
        match self {
            Self::Slack(slack) => {
                slack.tell(entry, before.and_then(|told| told.place.as_ref())).await.map(Some)
            }
            // A workflow cannot change what it posted: the card leads to the page, which has the outcome.
            Self::Teams(_) if before.is_some() => Ok(None),
            Self::Teams(teams) => teams.tell(entry).await.map(|()| None),
            Self::Webhook(webhook) => webhook.tell(entry).await.map(|()| None),
        }
    }
}

/// As much of a request as messages differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stage {
    votes: usize,
    settled: bool,
}

impl Stage {
    fn of(entry: &Entry) -> Self {
        Self { votes: entry.votes.len(), settled: entry.outcome.is_some() }
    }
}

struct Told {
    stage: Stage,
    revision: u64,
    place: Option<Place>,
}

struct Due {
    entry: Arc<Entry>,
    attempts: u32,
    not_before: Instant,
}

/// One chat's.
pub(super) struct Courier {
    service: Service,
    approvals: Arc<Approvals>,
    health: Arc<Health>,
    due: BTreeMap<ApprovalId, Due>,
    told: BTreeMap<ApprovalId, Told>,
    failures: u32,
    not_before: Instant,
}

impl Courier {
    pub(super) fn new(service: Service, approvals: Arc<Approvals>, health: Arc<Health>) -> Self {
        let (due, told) = (BTreeMap::new(), BTreeMap::new());
        Self { service, approvals, health, due, told, failures: 0, not_before: Instant::now() }
    }

    /// Follows what happens, until dropped.
    pub(super) async fn run(mut self) {
        let mut changes = self.approvals.subscribe();
        self.look_through();
        loop {
            let next = self.due.values().map(|due| due.not_before).min();
            let (idle, at) = (next.is_none(), next.unwrap_or(self.not_before).max(self.not_before));
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(entry) => self.note(entry),
                    Err(RecvError::Lagged(_)) => self.look_through(),
                    Err(RecvError::Closed) => return,
                },
                () = tokio::time::sleep_until(at), if !idle => self.send_one().await,
            }
        }
    }

    /// All there is, for whoever has missed something.
    fn look_through(&mut self) {
        for entry in self.approvals.list() {
            self.note(entry);
        }
        // What is so long over that nobody knows it is not told any more.
        let approvals = &self.approvals;
        self.told.retain(|id, _| approvals.get(*id).is_some());
        self.due.retain(|id, _| approvals.get(*id).is_some());
    }

    fn note(&mut self, entry: Arc<Entry>) {
        let id = entry.id;
        let known = self.told.get(&id);
        let news = match known {
            _ if entry.request.chat == ChatUse::None => false,
            Some(told) => told.revision <= entry.revision && told.stage != Stage::of(&entry),
            // Over before anybody was told.
            None => entry.outcome.is_none(),
        };
        if let Some(due) = self.due.get_mut(&id) {
            if due.entry.revision > entry.revision {
                return;
            }
            match news {
                true => due.entry = entry,
                false => drop(self.due.remove(&id)),
            }
        } else if news && self.due.len() >= QUEUE_MAX {
            self.health.bad("too many messages wait to be sent", 1);
        } else if news {
            self.due.insert(id, Due { entry, attempts: 0, not_before: Instant::now() });
        }
    }

    async fn send_one(&mut self) {
        let now = Instant::now();
        // The one that was tried least: a message that always fails holds up no other.
        let ready = self.due.iter().filter(|(_, due)| due.not_before <= now);
        let Some((id, due)) = ready.min_by_key(|(id, due)| (due.attempts, **id)) else { return };
        let (id, entry, attempts) = (*id, Arc::clone(&due.entry), due.attempts + 1);
        // What became of it meanwhile is told instead, and nothing of what nobody knows any more.
        let Some(current) = self.approvals.get(id) else {
            self.due.remove(&id);
            return;
        };
        if current.revision > entry.revision || current.outcome.is_some() != entry.outcome.is_some() {
            return self.note(current);
        }
        match self.service.tell(&entry, self.told.get(&id)).await {
            Ok(place) => {
                self.failures = 0;
                self.health.good();
                self.done(id, &entry);
                if entry.outcome.is_none() {
                    self.remember(id, &entry, place);
                }
            }
            Err(SendError::Refused(what)) => {
                self.health.bad(&what, 1);
                self.done(id, &entry);
            }
            Err(SendError::Later { what, after, only_this }) => {
                let not_before = if only_this {
                    Instant::now() + after.unwrap_or_else(|| pause(attempts))
                } else {
                    self.failures = self.failures.saturating_add(1);
                    self.not_before = Instant::now() + after.unwrap_or_else(|| pause(self.failures));
                    self.not_before
                };
                let lost = attempts >= ATTEMPTS_MAX;
                self.health.bad(&what, lost.into());
                match self.due.get_mut(&id) {
                    Some(due) if !lost => (due.attempts, due.not_before) = (attempts, not_before),
                    Some(_) | None => self.done(id, &entry),
                }
            }
        }
    }

    /// Nothing more is to be sent of it now, and nothing at all once it is settled.
    fn done(&mut self, id: ApprovalId, entry: &Entry) {
        self.due.remove(&id);
        if entry.outcome.is_some() {
            self.told.remove(&id);
        }
    }

    fn remember(&mut self, id: ApprovalId, entry: &Entry, place: Option<Place>) {
        if self.told.len() >= TOLD_MAX {
            self.told.pop_first();
        }
        self.told.insert(id, Told { stage: Stage::of(entry), revision: entry.revision, place });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::Outcome;
    use crate::chat::shown::Words;
    use crate::chat::tests::{approvals, credentials, entry, held};
    use crate::config::chat::Teams as Settings;

    fn courier() -> Courier {
        let (_folder, credentials) = credentials(&[]);
        let words = Words { url: "https://gate".to_owned(), statements: true };
        let settings = Settings { webhook_url: "teams".to_owned(), root_cert: None };
        let teams = Arc::new(Teams::new(settings, words, credentials));
        Courier::new(Service::Teams(teams), approvals(), Health::of("Teams"))
    }

    #[test]
    fn what_is_kept_is_bounded_and_newest() {
        let mut courier = courier();
        for _ in 0..=QUEUE_MAX {
            courier.note(Arc::new(entry(held())));
        }
        assert_eq!(courier.due.len(), QUEUE_MAX);
        assert!(courier.health.problem().unwrap().ends_with("(1 messages were not sent)"));
        let mut one = Entry::clone(&courier.due.first_key_value().unwrap().1.entry);
        let before = one.clone();
        one.revision += 1;
        one.outcome = Some(Outcome::Expired);
        courier.note(Arc::new(one.clone()));
        assert!(!courier.due.contains_key(&one.id), "over before anybody was told");
        for number in 0..=TOLD_MAX {
            let other = entry(held());
            courier.remember(other.id, if number == TOLD_MAX { &before } else { &other }, None);
        }
        assert_eq!(courier.told.len(), TOLD_MAX);
        courier.remember(before.id, &before, None);
        courier.note(Arc::new(before.clone()));
        assert!(!courier.due.contains_key(&before.id), "nothing new");
        courier.note(Arc::new(one.clone()));
        courier.note(Arc::new(before));
        assert_eq!(courier.due[&one.id].entry.revision, one.revision, "what came late does not count");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_services_may_ask_for_longer() {
        for (failures, most) in [(1, 1), (2, 2), (4, 8), (7, 60), (u32::MAX, 60)] {
            let (pause, most) = (pause(failures), Duration::from_secs(most));
            assert!(pause <= most && pause >= most / 2, "{failures}: {pause:?}");
        }
        let asked = |text: &str| {
            let mut answer = http::Response::new(Vec::new());
            *answer.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
            answer.headers_mut().insert("retry-after", text.parse().unwrap());
            match SendError::status(&answer) {
                SendError::Later { after, .. } => after,
                SendError::Refused(what) => panic!("{what}"),
            }
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!((asked("Wed, 21 Oct 2015 07:28:00 GMT"), asked("-1")), (None, None));
    }
}
