//! Lines typed into a shell, where the policy guards them: Enter waits until the line that is shown has been judged, and everything
//! typed after it waits too.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, server};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::asked::Asked;
use super::connection::Connection;
use super::hold;
use super::log::OperationLog;
use super::pump::{Over, Up};
use super::refusal::Refusal;
use super::session_channel::Notice;
use crate::request::ssh;
use crate::request::ssh::line::{CTRL_C, CTRL_U, Doubt, LineGuard, is_signal};
use crate::upstream::ssh::WINDOW_BYTES;

/// How long nothing is written before what is shown is taken for all that there is: longer than what passes between the pieces
/// of a prompt.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// How long keys wait for a prompt while nothing asks for them. A command that takes longer may read them itself.
const PROMPT_TIME_MAX: Duration = Duration::from_secs(3);

/// How long Enter waits for the echo of what was typed. What comes back later than this is a password's, which never does.
const ECHO_TIME_MAX: Duration = Duration::from_secs(1);

/// How long nothing is written before a shell is taken to have missed a signal.
const SIGNAL_TIME_MAX: Duration = Duration::from_millis(500);

/// Input that waits, in bytes: a client that sends more than its window is wrong anyhow (RFC 4254 §5.2).
const WAITING_BYTES_MAX: usize = WINDOW_BYTES as usize;

/// What both directions of a guarded terminal know.
pub(super) struct Lines<'l> {
    /// The shell, as it was asked for.
    asked: &'l Asked,
    seen: Mutex<Seen>,
    wrote: Notify,
}

struct Seen {
    guard: LineGuard,
    /// When the server wrote last.
    last: Instant,
}

impl<'l> Lines<'l> {
    /// For a shell on a terminal.
    pub(super) fn new(asked: &'l Asked) -> Option<Self> {
        let (columns, _) = asked.terminal.as_ref()?.size;
        let seen = Seen { guard: LineGuard::new(columns), last: Instant::now() };
        Some(Self { asked, seen: Mutex::new(seen), wrote: Notify::new() })
    }

    /// The server wrote this; it is read before anything is masked, because what is typed is not masked either.
    pub(super) fn output(&self, data: &[u8]) {
        self.with(|seen| {
            seen.guard.output(data);
            seen.last = Instant::now();
        });
        self.wrote.notify_one();
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Completes when the server has written, or at a time.
    async fn moved(&self, due: Instant) {
        drop(tokio::time::timeout_at(due, self.wrote.notified()).await);
    }
}

/// The client's half, read by one who guards its lines.
pub(super) struct Typist<'t, 'u> {
    pub(super) lines: &'t Lines<'t>,
    pub(super) connection: &'t Arc<Connection>,
    pub(super) to_client: &'t ChannelWriteHalf<server::Msg>,
    pub(super) from_client: &'t mut ChannelReadHalf,
    /// Messages that came before.
    pub(super) parked: VecDeque<ChannelMsg>,
    pub(super) up: &'t mut Up<'u>,
    /// Keys that wait.
    pub(super) keys: BytesMut,
    /// The end of the input, which comes after them.
    pub(super) end: Option<ChannelMsg>,
}

impl Typist<'_, '_> {
    /// Passes on what is typed, line by line, until one side is gone.
    pub(super) async fn run(mut self) -> Over {
        loop {
            if let Err(over) = self.step().await {
                return over;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Over> {
        if self.keys.is_empty() {
            if let Some(end) = self.end.take() {
                return self.up.pass(Some(end)).await;
            }
            let message = next(&mut self.parked, self.from_client).await;
            self.arrived(message).await?;
            return Ok(());
        }
        self.ready().await?;
        let keys = &self.keys;
        match self.lines.with(|seen| seen.guard.keys(keys)) {
            0 => self.judge().await,
            count => self.send(count).await,
        }
    }

    async fn send(&mut self, count: usize) -> Result<(), Over> {
        let data = self.keys.split_to(count.min(self.keys.len())).freeze();
        self.up.pass(Some(ChannelMsg::Data { data })).await
    }

    /// A message of the client. Whether there is a key in it that ends waiting.
    async fn arrived(&mut self, message: Option<ChannelMsg>) -> Result<bool, Over> {
        match message {
            Some(ChannelMsg::Data { data }) => {
                if self.keys.len() + data.len() > WAITING_BYTES_MAX {
                    return Err(Over::Client);
                }
                self.keys.extend_from_slice(&data);
                Ok(data.iter().any(|key| is_signal(*key)))
            }
            Some(end @ ChannelMsg::Eof) => {
                self.end = Some(end);
                Ok(false)
            }
            other => {
                if let Some(ChannelMsg::WindowChange { col_width, .. }) = &other {
                    self.lines.with(|seen| seen.guard.resize(*col_width));
                }
                self.up.pass(other).await.map(|()| false)
            }
        }
    }

    /// Waits for something while the client goes on typing; `None` when it does not want to wait any longer.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Result<Option<T>, Over> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            let message = tokio::select! {
                biased;
                value = &mut wanted => return Ok(Some(value)),
                message = next(&mut self.parked, self.from_client) => message,
            };
            if self.arrived(message).await? {
                // As a terminal does: what was typed before it is dropped.
                let signal = self.keys.iter().position(|key| is_signal(*key)).unwrap_or_default();
                drop(self.keys.split_to(signal));
                return Ok(None);
            }
        }
    }

    /// Waits until it is known who reads the next key.
    async fn ready(&mut self) -> Result<(), Over> {
        let since = Instant::now();
        let lines = self.lines;
        loop {
            if self.keys.first().is_some_and(|key| is_signal(*key)) {
                return Ok(());
            }
            let now = Instant::now();
            let (quiet, patient) = (lines.with(|seen| seen.last) + QUIET_TIME, since + PROMPT_TIME_MAX);
            if lines.with(|seen| seen.guard.ready(now >= quiet, now >= patient)) {
                return Ok(());
            }
            let due = if now < quiet { quiet.min(patient) } else { patient };
            self.meanwhile(lines.moved(due)).await?;
        }
    }

    /// Waits until what is shown is what was typed, or will not be. `false` when the line is given up.
    async fn settle(&mut self) -> Result<bool, Over> {
        let since = Instant::now();
        let lines = self.lines;
        loop {
            let now = Instant::now();
            let (settled, due) = lines.with(|seen| {
                let quiet = seen.last.max(since) + QUIET_TIME;
                let late = since + ECHO_TIME_MAX;
                let due = if seen.guard.is_doubtful() { quiet.min(late) } else { late };
                (seen.guard.is_settled(), due)
            });
            if settled || now >= due {
                return Ok(true);
            }
            if self.meanwhile(lines.moved(due)).await?.is_none() {
                return Ok(false);
            }
        }
    }

    /// The next key would run the line.
    async fn judge(&mut self) -> Result<(), Over> {
        if !self.settle().await? {
            return Ok(());
        }
        let Some(key) = self.keys.first().copied() else { return Ok(()) };
        let line = self.lines.with(|seen| seen.guard.line(key));
        if line.is_nothing() {
            return self.end_line().await;
        }
        let operation = ssh::line(&line.text, line.doubt.map(Doubt::as_str));
        let (connection, asked) = (self.connection, self.lines.asked);
        let number = connection.next_operation();
        let notice = Notice::within_line(self.to_client);
        let decision = hold::decide(connection, number, &operation, asked, Some(notice));
        let permit = match self.meanwhile(decision).await? {
            // The question is withdrawn with the decision.
            None => return Ok(()),
            Some(Err(denial)) => return self.drop_line(&Refusal::denied(&denial)).await,
            Some(Ok(permit)) => permit,
        };
        let Ok(mut log) = OperationLog::begin(connection, number, &operation, asked, permit).await else {
            self.drop_line(&Refusal::failed("this cannot be recorded, so it is not run")).await?;
            return Err(Over::Unrecorded);
        };
        self.end_line().await?;
        log.done();
        log.end();
        Ok(())
    }

    /// Enter goes to the server.
    async fn end_line(&mut self) -> Result<(), Over> {
        self.lines.with(|seen| seen.guard.sent());
        self.send(1).await
    }

    /// Enter does not, and what was typed is made away with.
    async fn drop_line(&mut self, refusal: &Refusal) -> Result<(), Over> {
        let told = [b"\r\n".as_slice(), &refusal.bytes(true)].concat();
        // A terminal has one stream, and not every client shows another one.
        self.to_client.data_bytes(told).await.map_err(|_| Over::Client)?;
        if let Some(first) = self.keys.first_mut() {
            *first = CTRL_U;
        }
        let lines = self.lines;
        let shell = lines.with(|seen| seen.guard.dropped());
        self.send(1).await?;
        if !shell {
            return Ok(());
        }
        // A signal at once would be the shorter way, but bash can miss one that comes while it still draws.
        let due = Instant::now() + ECHO_TIME_MAX;
        while !lines.with(|seen| seen.guard.is_emptied()) {
            if Instant::now() >= due {
                return self.interrupt().await;
            }
            if self.meanwhile(lines.moved(due)).await?.is_none() {
                return Ok(());
            }
        }
        // An empty line runs nothing, and brings a prompt.
        lines.with(|seen| seen.guard.sent());
        self.up.pass(Some(key(b"\r"))).await
    }

    /// Makes a shell drop its line that does not let it be erased.
    async fn interrupt(&mut self) -> Result<(), Over> {
        self.lines.with(|seen| seen.guard.sent());
        self.up.pass(Some(key(&[CTRL_C]))).await?;
        self.until_prompt().await
    }

    /// Waits for the prompt that comes after a signal. On a busy machine bash may look at the signal only when the next key comes:
    /// then it gets one, which drops a line once more.
    async fn until_prompt(&mut self) -> Result<(), Over> {
        let since = Instant::now();
        let lines = self.lines;
        loop {
            let (back, last) = lines.with(|seen| (seen.guard.is_at_prompt(), seen.last));
            let due = last.max(since) + SIGNAL_TIME_MAX;
            if back {
                return Ok(());
            }
            if Instant::now() >= due {
                return self.up.pass(Some(key(&[CTRL_U]))).await;
            }
            if self.meanwhile(lines.moved(due)).await?.is_none() {
                return Ok(());
            }
        }
    }
}

fn key(key: &'static [u8]) -> ChannelMsg {
    ChannelMsg::Data { data: Bytes::from_static(key) }
}

async fn next(parked: &mut VecDeque<ChannelMsg>, from_client: &mut ChannelReadHalf) -> Option<ChannelMsg> {
    match parked.pop_front() {
        Some(message) => Some(message),
        None => from_client.wait().await,
    }
}
