//! SFTP on one channel: each request that names a file is judged by itself, and what files hold passes as it comes.
//!
//! Both directions run on their own, as everywhere: what a request became is found by the id of its reply. Requests wait in line
//! behind one that is held; what was asked before goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::connection::Connection;
use super::log::OperationLog;
use super::pump::{Join, Over, ended};
use crate::mask::http::BodyMasks;
use crate::record::RecordError;
use files::{Files, Pending};

mod down;
mod files;
mod up;
mod window;

/// Requests that wait for their replies, at most: clients that fetch ahead ask for a whole file at once. Beyond it the client waits.
const PENDING_MAX: usize = 64 * 1024;

/// Answers of ours that wait to be sent, at most.
const ANSWERS_MAX: usize = 1024;

/// Files and folders that are open at once on one channel.
const OPEN_MAX: usize = 1024;

/// The id of the one request that is ours; clients count from 0 or 1.
const OWN_ID: u32 = u32::MAX;

/// What both directions know.
struct Shared {
    /// What is overwritten in files that the client reads.
    masks: Option<Arc<BodyMasks>>,
    state: Mutex<State>,
    /// An answer of ours is to be sent.
    answered: Notify,
    /// A reply made room.
    settled: Notify,
}

#[derive(Default)]
struct State {
    pending: HashMap<u32, Pending>,
    /// Of these, those that open something.
    opening: usize,
    files: Files,
    /// Where relative paths begin, as the server said.
    home: Option<String>,
    /// Answers of ours to the client, in order.
    answers: Vec<Bytes>,
}

impl State {
    /// A request waits for its reply. Gives back the one that waits under the same id.
    fn waits(&mut self, id: u32, pending: Pending) -> Option<Pending> {
        self.opening += usize::from(pending.opens());
        self.pending.insert(id, pending)
    }

    /// A reply came to this request.
    fn settled(&mut self, id: u32) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.opening -= usize::from(pending.opens());
        Some(pending)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no more requests are to be read now.
    fn is_full(&self) -> bool {
        let state = self.state();
        state.pending.len() >= PENDING_MAX || state.answers.len() >= ANSWERS_MAX
    }

    /// The client gets this instead of the server's reply.
    fn answer(&self, packet: Bytes) {
        self.state().answers.push(packet);
        self.answered.notify_one();
    }
}

/// What is to be kept of a file and cannot be.
fn unrecorded(error: &RecordError) -> Over {
    tracing::error!(%error, "a file cannot be recorded, and is cut");
    Over::Unrecorded
}

/// Moves everything until the channel is closed.
pub(super) async fn run(connection: &Arc<Connection>, join: Join<'_>, log: &mut OperationLog) {
    let Join { mut client, from_server, to_server, downloads: masks, .. } = join;
    let shared = Shared { masks, state: Mutex::default(), answered: Notify::new(), settled: Notify::new() };
    let parked = std::mem::take(&mut client.parked);
    let log = Mutex::new(log);
    let over = {
        let (from_client, to_client) = (&mut client.from, &client.to);
        let mut up = up::Up::new(connection, &shared, parked, from_client, to_client, &to_server);
        let mut down = down::Down::new(connection, &shared, from_server, to_client, &to_server, &log);
        tokio::select! {
            over = up.run() => over,
            over = down.run() => over,
        }
    };
    shared.state().files.cut();
    ended(over, connection, &client, &to_server, &log, "this is no SFTP, so it ends here").await;
}
