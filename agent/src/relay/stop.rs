//! What ends a session before its peers do: the daemon's stop, or an operator.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::flow::{RunId, SessionId, Side};
use crate::record::event::{EndReason, Ended};

/// Longest reason that an operator may give, in characters; the client is told it.
pub const REASON_CHARS_MAX: usize = 200;

/// Who ended a session, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The operator; `None` when the policy asks for it.
    pub by: Option<String>,
    /// Why, in their words; may be empty.
    pub reason: String,
}

/// Says when a session is to end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    daemon: watch::Receiver<bool>,
    /// An operator's word on this one session; `None` for what is no session.
    session: Option<watch::Receiver<Option<Kill>>>,
}

/// Begins the stop; dropping it does too.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl Shutdown {
    /// A trigger and what it triggers.
    #[must_use]
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, daemon) = watch::channel(false);
        (ShutdownTrigger(sender), Self { daemon, session: None })
    }

    /// Completes when the end is to begin.
    pub async fn begun(&mut self) {
        let killed = async {
            if let Some(session) = &mut self.session
                && session.wait_for(Option::is_some).await.is_ok()
            {
                return;
            }
            // Nobody can kill it, or nobody can any more.
            std::future::pending().await
        };
        tokio::select! {
            () = killed => {}
            // An error means that the trigger is gone, which is a stop as well.
            _stopping = self.daemon.wait_for(|stopping| *stopping) => {}
        }
    }

    /// Whether [`Shutdown::begun`] may have something to say.
    #[must_use]
    pub fn has_news(&self) -> bool {
        // An error means that the trigger is gone.
        self.daemon.has_changed().unwrap_or(true)
            || self.session.as_ref().is_some_and(|session| session.has_changed().unwrap_or(true))
    }

    /// Who ended it, when it was an operator.
    fn kill(&self) -> Option<Kill> {
        self.session.as_ref().and_then(|session| session.borrow().clone())
    }

    /// Whether what is under way may still come to its end.
    #[must_use]
    pub fn is_gentle(&self) -> bool {
        self.kill().is_none()
    }

    /// How a session that ended by it ended.
    #[must_use]
    pub fn ended(&self) -> Ended {
        match self.kill() {
            None => Ended { reason: EndReason::Drained, side: Side::Portcullis, detail: None },
            Some(Kill { by, reason }) => {
                let detail = match by {
                    Some(by) if reason.is_empty() => format!("by {by}"),
                    Some(by) => format!("by {by}: {reason}"),
                    None => reason,
                };
                Ended { reason: EndReason::Killed, side: Side::Portcullis, detail: Some(detail) }
            }
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn told(&self) -> String {
        match self.kill() {
            None => "portcullis: the daemon is stopping; connect again".to_owned(),
            Some(Kill { by: None, reason }) => format!("portcullis: this session is ended: {reason}"),
            Some(Kill { by: Some(_), reason }) if reason.is_empty() => {
                "portcullis: an operator ended this session".to_owned()
            }
            Some(Kill { by: Some(_), reason }) => {
                format!("portcullis: an operator ended this session: {reason}")
            }
        }
    }
}

impl ShutdownTrigger {
    /// Begins the stop.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

/// The sessions that go on now, by id.
#[derive(Debug, Default)]
pub struct Live(Mutex<HashMap<SessionId, Going>>);

#[derive(Debug)]
struct Going {
    run: RunId,
    end: watch::Sender<Option<Kill>>,
}

/// One session that goes on; dropped, it does not any more.
#[derive(Debug)]
pub struct Entry {
    live: Arc<Live>,
    session: SessionId,
}

/// Why no session was ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKilled {
    /// Nothing of that name goes on.
    #[error("no session {0} goes on; `portcullis sessions list --live` shows those that do")]
    Unknown(String),
    /// Several do.
    #[error("{0} is the beginning or end of several sessions that go on; write more of it")]
    Ambiguous(String),
}

impl Live {
    /// A session goes on from now on; what it gets ends it.
    pub fn enter(self: &Arc<Self>, session: SessionId, run: RunId, shutdown: &Shutdown) -> (Shutdown, Entry) {
        let (end, receiver) = watch::channel(None);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session, Going { run, end });
        let shutdown = Shutdown { daemon: shutdown.daemon.clone(), session: Some(receiver) };
        (shutdown, Entry { live: Arc::clone(self), session })
    }

    /// Another session of a connection that is known by `connection` goes on: whatever ends one ends the connection. `None` when that
    /// does not go on.
    pub fn also(self: &Arc<Self>, session: SessionId, connection: SessionId) -> Option<Entry> {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let going = live.get(&connection)?;
        let going = Going { run: going.run, end: going.end.clone() };
        live.insert(session, going);
        Some(Entry { live: Arc::clone(self), session })
    }

    /// Ends the one session that this is the id of, or a beginning or end of it.
    ///
    /// # Errors
    /// It is none, or several.
    pub fn kill(&self, id: &str, kill: Kill) -> Result<SessionId, NotKilled> {
        let wanted = id.to_ascii_uppercase();
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = live.iter().filter(|(session, _)| {
            let name = session.to_string();
            !wanted.is_empty() && (name.starts_with(&wanted) || name.ends_with(&wanted))
        });
        match (found.next(), found.next()) {
            (None, _) => Err(NotKilled::Unknown(id.to_owned())),
            (Some(_), Some(_)) => Err(NotKilled::Ambiguous(id.to_owned())),
            (Some((session, going)), None) => {
                going.end.send_replace(Some(kill));
                Ok(*session)
            }
        }
    }

    /// Ends every session of a run; returns how many.
    pub fn kill_run(&self, run: RunId, kill: &Kill) -> usize {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run: Vec<&Going> = live.values().filter(|going| going.run == run).collect();
        for going in &of_run {
            going.end.send_replace(Some(kill.clone()));
        }
        of_run.len()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill() -> Kill {
        Kill { by: Some("alice".to_owned()), reason: "enough".to_owned() }
    }

    #[tokio::test]
    async fn one_session_ends_and_the_others_go_on() {
        let (_trigger, shutdown) = Shutdown::new();
        let live = Arc::new(Live::default());
        let (one, two) = (SessionId::generate(), SessionId::generate());
        let (mut first, _first) = live.enter(one, RunId::generate(), &shutdown);
        let (mut second, second_entry) = live.enter(two, RunId::generate(), &shutdown);
        assert_eq!(live.kill(&one.to_string(), kill()), Ok(one));
        first.begun().await;
        assert_eq!(first.ended().reason, EndReason::Killed);
        assert_eq!(first.ended().detail.as_deref(), Some("by alice: enough"));
        assert!(!first.is_gentle() && second.is_gentle());
        assert!(futures_util::FutureExt::now_or_never(second.begun()).is_none());
        drop(second_entry);
        assert_eq!(live.kill(&two.to_string(), kill()), Err(NotKilled::Unknown(two.to_string())));
        assert!(
            futures_util::FutureExt::now_or_never(second.begun()).is_none(),
            "nobody can kill it any more"
        );
    }

    #[tokio::test]
    async fn the_daemons_stop_ends_all() {
        let (trigger, shutdown) = Shutdown::new();
        let live = Arc::new(Live::default());
        let (mut one, _entry) = live.enter(SessionId::generate(), RunId::generate(), &shutdown);
        trigger.begin();
        one.begun().await;
        assert_eq!(one.ended().reason, EndReason::Drained);
    }

    #[test]
    fn what_is_meant_must_be_clear() {
        let (_trigger, shutdown) = Shutdown::new();
        let live = Arc::new(Live::default());
        let sessions = [SessionId::generate(), SessionId::generate()];
        let _entries = sessions.map(|session| live.enter(session, RunId::generate(), &shutdown));
        // Ids begin with their time.
        assert_eq!(live.kill("01", kill()), Err(NotKilled::Ambiguous("01".to_owned())));
        assert_eq!(live.kill("", kill()), Err(NotKilled::Unknown(String::new())));
    }
}
