//! Cancel requests: clients get keys of ours, and a request that proves one reaches the session it names and nothing
//! else (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq as _;
use tokio::sync::Notify;

use crate::codec::postgres::startup::CancelKey;
use crate::flow::RunId;
use crate::secret::Secret;
use crate::upstream::{BackendKey, Target};

/// Bytes of a key in protocol 3.2; 3.0 knows only four.
const KEY_BYTES: usize = 32;

/// Keys of all live sessions.
#[derive(Debug, Default)]
pub struct Cancels(Mutex<HashMap<u32, Entry>>);

struct Entry {
    key: Secret,
    run: RunId,
    asked: Arc<Asked>,
}

/// Whether a cancel was asked for, and who waits for it. The flag is looked at for each message, the queue is not.
#[derive(Debug, Default)]
struct Asked {
    flag: AtomicBool,
    notify: Notify,
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
    /// Makes a key for a session of `run`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn register(
        self: &Arc<Self>,
        run: RunId,
        minor: u16,
        upstream: Option<(Target, BackendKey)>,
    ) -> Result<CancelTicket, getrandom::Error> {
        let mut key = vec![0; if minor >= 2 { KEY_BYTES } else { 4 }];
        getrandom::fill(&mut key)?;
        let key = Secret::new(key);
        let asked = Arc::new(Asked::default());
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let process_id = loop {
            // Positive as an i32: clients print it as one.
            let candidate = getrandom::u32()? >> 1;
            if candidate != 0 && !entries.contains_key(&candidate) {
                break candidate;
            }
        };
        entries.insert(process_id, Entry { key: key.clone(), run, asked: Arc::clone(&asked) });
        Ok(CancelTicket { cancels: Arc::clone(self), process_id, key, asked, upstream })
    }

    /// Passes a request on to the session that its key names, if it comes from the same run. The requester is told
    /// nothing either way, as the protocol has it.
    pub(crate) fn request(&self, run: RunId, request: &CancelKey<'_>) -> Requested {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(&request.process_id) else { return Requested::Unknown };
        if entry.run != run || !bool::from(entry.key.expose().ct_eq(request.secret_key)) {
            return Requested::Unknown;
        }
        entry.asked.flag.store(true, Ordering::Release);
        entry.asked.notify.notify_one();
        Requested::PassedOn
    }
}

/// What became of a cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    /// Its session was told.
    PassedOn,
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

    /// Asks the server to cancel what the session runs, without waiting for it.
    pub(crate) fn forward(&self) {
        tokio::spawn(self.forwarded());
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
        self.cancels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process_id);
    }
}
