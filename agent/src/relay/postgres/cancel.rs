//! Cancel requests: clients get keys of ours, and a request that proves one reaches the session it names and nothing
//! else (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>). The process ID
//! beside the key is the server's own, because clients compare it with pg_backend_pid() and the senders of notifications.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, oneshot};

use crate::codec::postgres::startup::CancelKey;
use crate::flow::RunId;
use crate::secret::Secret;
use crate::upstream::{BackendKey, Target};

/// Bytes of a key in protocol 3.2; 3.0 knows only four.
const KEY_BYTES: usize = 32;

/// Requesters of one session that are kept waiting at a time; others are let go at once.
const REQUESTERS_MAX: usize = 16;

/// How long a requester is kept waiting for the server's word.
const DONE_TIME_MAX: Duration = Duration::from_secs(5);

/// Keys of all live sessions, by process ID. Servers number their processes each for itself, so several may have one.
#[derive(Debug, Default)]
pub struct Cancels(Mutex<HashMap<u32, Vec<Entry>>>);

struct Entry {
    key: Secret,
    run: RunId,
    asked: Arc<Asked>,
}

/// What one session was asked, on other connections. The flag is looked at for each message, the queue is not.
#[derive(Debug, Default)]
struct Asked {
    flag: AtomicBool,
    notify: Notify,
    requesters: Mutex<Requesters>,
}

/// Those who asked to cancel. They are let go when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Requesters(Vec<oneshot::Sender<()>>);

/// Completes when a cancel request has been dealt with.
#[derive(Debug)]
pub(crate) struct Done(oneshot::Receiver<()>);

impl Done {
    /// Waits for that, for five seconds at most.
    pub(crate) async fn or_timed_out(self) {
        // Nothing is ever sent: the sender's end is what is waited for.
        drop(tokio::time::timeout(DONE_TIME_MAX, self.0).await);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("run", &self.run).finish_non_exhaustive()
    }
}

/// One session's place among the keys; given up when dropped.
pub(crate) struct CancelTicket {
    cancels: Arc<Cancels>,
    process_id: u32,
    key: Secret,
    asked: Arc<Asked>,
    upstream: Option<(Target, BackendKey)>,
}

impl Cancels {
    /// Makes a key for a session of `run`, with its server's process ID, or one of ours when the server told none.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn register(
        self: &Arc<Self>,
        run: RunId,
        minor: u16,
        upstream: Option<(Target, BackendKey)>,
    ) -> Result<CancelTicket, getrandom::Error> {
        let process_id = match &upstream {
            Some((_, key)) => key.process_id,
            // Positive as an i32: clients print it as one.
            None => getrandom::u32()? >> 1,
        };
        let (key, asked) = self.enter(run, minor, process_id)?;
        Ok(CancelTicket { cancels: Arc::clone(self), process_id, key, asked, upstream })
    }

    fn enter(
        &self,
        run: RunId,
        minor: u16,
        process_id: u32,
    ) -> Result<(Secret, Arc<Asked>), getrandom::Error> {
        let mut key = vec![0; if minor >= 2 { KEY_BYTES } else { 4 }];
        getrandom::fill(&mut key)?;
        let key = Secret::new(key);
        let asked = Arc::new(Asked::default());
        let entry = Entry { key: key.clone(), run, asked: Arc::clone(&asked) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(process_id).or_default().push(entry);
        Ok((key, asked))
    }

    fn leave(&self, process_id: u32, asked: &Arc<Asked>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sharing) = entries.get_mut(&process_id) else { return };
        sharing.retain(|entry| !Arc::ptr_eq(&entry.asked, asked));
        if sharing.is_empty() {
            entries.remove(&process_id);
        }
    }

    /// Passes a request on to the session that its key names, if it comes from the same run. The requester is told
    /// nothing either way, as the protocol has it.
    pub(crate) fn request(&self, run: RunId, request: &CancelKey<'_>) -> Requested {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let proves =
            |entry: &&Entry| entry.run == run && bool::from(entry.key.expose().ct_eq(request.secret_key));
        match entries.get(&request.process_id).into_iter().flatten().find(proves) {
            Some(entry) => {
                let (sender, done) = oneshot::channel();
                let mut requesters = entry.asked.requesters.lock().unwrap_or_else(PoisonError::into_inner);
                if requesters.0.len() < REQUESTERS_MAX {
                    requesters.0.push(sender);
                }
                entry.asked.flag.store(true, Ordering::Release);
                entry.asked.notify.notify_one();
                Requested::PassedOn(Done(done))
            }
            None => Requested::Unknown,
        }
    }
}

/// What became of a cancel request.
#[derive(Debug)]
pub(crate) enum Requested {
    /// Its session was told, and will have done what there is to do.
    PassedOn(Done),
    /// No session of this run has that key.
    Unknown,
}

impl CancelTicket {
    /// What the client is told in BackendKeyData.
    pub(crate) fn key(&self) -> CancelKey<'_> {
        CancelKey { process_id: self.process_id, secret_key: self.key.expose() }
    }

    /// Completes when a cancel was asked for.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        let asked = Arc::clone(&self.asked);
        async move {
            asked.notify.notified().await;
            asked.flag.store(false, Ordering::Release);
        }
    }

    /// Whether [`CancelTicket::asked`] has something to say.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.flag.load(Ordering::Acquire)
    }

    /// Those who wait for what becomes of their request.
    pub(crate) fn requesters(&self) -> Requesters {
        std::mem::take(&mut *self.asked.requesters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the server to cancel what the session runs. Only the requesters wait for it.
    pub(crate) fn forward(&self, requesters: Requesters) {
        let forwarded = self.forwarded();
        tokio::spawn(async move {
            forwarded.await;
            drop(requesters);
        });
    }

    /// The same; completes when the server has read it, or cannot be told.
    pub(crate) fn forwarded(&self) -> impl Future<Output = ()> + Send + use<> {
        let upstream = self.upstream.clone();
        async move {
            let Some((target, key)) = upstream else { return };
            if let Err(error) = crate::upstream::cancel::cancel(&target, &key).await {
                tracing::warn!(%error, "cannot pass a cancel request on");
            }
        }
    }
}

impl Drop for CancelTicket {
    fn drop(&mut self) {
        self.cancels.leave(self.process_id, &self.asked);
    }
}

#[cfg(test)]
mod tests {
    use super::{Cancels, Requested};
    use crate::codec::postgres::startup::CancelKey;
    use crate::flow::RunId;

    #[test]
    fn sessions_of_one_process_id_are_told_apart_by_their_keys() {
        let cancels = Cancels::default();
        let run = RunId::generate();
        let (one, one_asked) = cancels.enter(run, 0, 4711).unwrap();
        let (other, other_asked) = cancels.enter(run, 0, 4711).unwrap();
        let knows = |key: &[u8], run| {
            let request = CancelKey { process_id: 4711, secret_key: key };
            matches!(cancels.request(run, &request), Requested::PassedOn(_))
        };
        assert!(knows(other.expose(), run));
        assert!(!knows(other.expose(), RunId::generate()));
        assert!(!knows(&[0; 5], run));
        cancels.leave(4711, &one_asked);
        assert!(!knows(one.expose(), run));
        assert!(knows(other.expose(), run));
        cancels.leave(4711, &other_asked);
        assert!(cancels.0.lock().unwrap().is_empty());
    }
}
