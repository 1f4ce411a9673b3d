//! Joins the client's half of a channel with the server's: bytes, ends, signals and sizes, each way on its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};
use tokio::time::Instant;

use super::connection::Connection;
use super::log::{OperationLog, masker};
use super::refusal::Refusal;
use super::session_channel::{ClientChannel, STDERR};
use crate::mask::http::BodyMasks;
use crate::mask::terminal::TerminalMasker;
use crate::record::stream::StreamName;
use crate::upstream::ssh::WINDOW_BYTES;

/// How long what a terminal shows may be held back because it could be the beginning of a secret; then it is shown, for it may
/// be a prompt. The pieces of one write come closer together than this, and no human sees the delay.
const HOLD_BACK_TIME_MAX: Duration = Duration::from_millis(50);

/// The same where no terminal is: programs talk to programs, which wait longer, and slow ones write a line in pieces. Some ask
/// something on a pipe all the same.
const PIPE_HOLD_BACK_TIME_MAX: Duration = Duration::from_secs(1);

/// Longest output that is taken for the echo of what was typed, in bytes: one key.
const ECHO_BYTES_MAX: usize = 8;

/// Typed bytes whose echo has not come that are remembered.
const TYPED_BYTES_MAX: usize = 64;

/// The two halves.
pub(super) struct Join {
    pub(super) client: ClientChannel,
    pub(super) from_server: ChannelReadHalf,
    pub(super) to_server: ChannelWriteHalf<client::Msg>,
}

/// Room to be granted to a peer. Given in large pieces: each is a message.
#[derive(Default)]
struct Granted {
    owed: u32,
}

impl Granted {
    /// Bytes were taken: how much more the peer may send now.
    fn taken(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        // A peer that still has most of its window needs no message.
        (self.owed >= WINDOW_BYTES / 4).then(|| std::mem::take(&mut self.owed))
    }
}

/// Why a direction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The client closed the channel, or is gone.
    Client,
    /// The server did, or is.
    Server,
}

/// Shared by both directions.
type Log<'l> = Mutex<&'l mut OperationLog>;

/// Moves everything until the channel is closed.
pub(super) async fn run(
    connection: &Arc<Connection>,
    join: Join,
    masks: Option<&Arc<BodyMasks>>,
    log: &mut OperationLog,
) {
    let Join { mut client, mut from_server, to_server } = join;
    let mut parked = std::mem::take(&mut client.parked);
    let log = Mutex::new(log);
    let typed = client.terminal.then(|| Mutex::new(Typed::default()));
    let (to_client, from_client) = (&client.to, &mut client.from);
    let up = async {
        let mut granted = Granted::default();
        loop {
            let message = match parked.pop_front() {
                Some(message) => Some(message),
                None => from_client.wait().await,
            };
            match upward(message, &to_server, &log, typed.as_ref()).await {
                Ok(bytes) => {
                    if let Some(more) = granted.taken(bytes)
                        && to_client.grant_window(more).await.is_err()
                    {
                        return Over::Client;
                    }
                }
                Err(over) => return over,
            }
        }
    };
    let mut down = Down {
        connection,
        to_client,
        to_server: &to_server,
        log: &log,
        typed: typed.as_ref(),
        stdout: Output::new(masks, client.terminal),
        stderr: Output::new(masks, client.terminal),
        granted: Granted::default(),
    };
    let over = tokio::select! {
        over = up => over,
        over = down.run(&mut from_server) => over,
    };
    down.account();
    // One closed channel closes the other: a client that is gone takes its command with it, as at a server.
    match over {
        Over::Client => drop(to_server.close().await),
        Over::Server => {
            if connection.lost_server() {
                with(&log, |log| log.failed("the connection to the server was lost"));
                let refusal = Refusal::failed("the connection to the server was lost");
                drop(to_client.extended_data_bytes(STDERR, refusal.bytes(client.terminal)).await);
                drop(to_client.exit_status(refusal.exit_status).await);
            }
            drop(to_client.close().await);
        }
    }
}

/// One message of the client. Says how many bytes of its window it took.
async fn upward(
    message: Option<ChannelMsg>,
    to_server: &ChannelWriteHalf<client::Msg>,
    log: &Log<'_>,
    typed: Option<&Mutex<Typed>>,
) -> Result<usize, Over> {
    let sent = match message {
        None | Some(ChannelMsg::Close) => return Err(Over::Client),
        Some(ChannelMsg::Data { data }) => {
            let length = data.len();
            with(log, |log| log.input(&data));
            if let Some(typed) = typed {
                typed.lock().unwrap_or_else(PoisonError::into_inner).note(&data);
            }
            to_server.data_bytes(data).await.map_err(|_| Over::Server)?;
            return Ok(length);
        }
        // Nothing of a client's has an extended type (RFC 4254 §5.2 knows stderr alone); it has its window back.
        Some(ChannelMsg::ExtendedData { data, .. }) => return Ok(data.len()),
        Some(ChannelMsg::Eof) => to_server.eof().await,
        Some(ChannelMsg::Signal { signal }) => to_server.signal(signal).await,
        Some(ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height }) => {
            with(log, |log| log.resized(col_width, row_height));
            to_server.window_change(col_width, row_height, pix_width, pix_height).await
        }
        // One channel runs one thing (RFC 4254 §6.5): what else is asked of it afterwards is not passed on.
        Some(_) => Ok(()),
    };
    sent.map(|()| 0).map_err(|_| Over::Server)
}

/// The server's direction.
struct Down<'d> {
    connection: &'d Connection,
    to_client: &'d ChannelWriteHalf<server::Msg>,
    to_server: &'d ChannelWriteHalf<client::Msg>,
    log: &'d Log<'d>,
    typed: Option<&'d Mutex<Typed>>,
    stdout: Output,
    stderr: Output,
    granted: Granted,
}

impl Down<'_> {
    async fn run(&mut self, from_server: &mut ChannelReadHalf) -> Over {
        loop {
            let due = [self.stdout.due, self.stderr.due].into_iter().flatten().min();
            let message = match due {
                None => from_server.wait().await,
                Some(due) if due > Instant::now() => {
                    match tokio::time::timeout_at(due, from_server.wait()).await {
                        Ok(message) => message,
                        Err(_elapsed) => continue,
                    }
                }
                Some(_passed) => match self.relent().await {
                    Ok(()) => continue,
                    Err(over) => return over,
                },
            };
            match self.one(message).await {
                Ok(bytes) => {
                    if let Some(more) = self.granted.taken(bytes)
                        && self.to_server.grant_window(more).await.is_err()
                    {
                        return Over::Server;
                    }
                }
                Err(over) => return over,
            }
        }
    }

    /// One message. Says how many bytes of the server's window it took.
    async fn one(&mut self, message: Option<ChannelMsg>) -> Result<usize, Over> {
        match message {
            None | Some(ChannelMsg::Close) => {
                self.finish().await?;
                Err(Over::Server)
            }
            Some(ChannelMsg::Data { data }) => {
                let length = data.len();
                let typed = self.typed.map(|typed| typed.lock().unwrap_or_else(PoisonError::into_inner));
                let echo = typed.is_some_and(|mut typed| typed.echoes(&data));
                let shown = self.stdout.push(data, echo);
                self.show(StreamName::Stdout, shown).await?;
                Ok(length)
            }
            Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                let length = data.len();
                let shown = self.stderr.push(data, false);
                self.show(StreamName::Stderr, shown).await?;
                Ok(length)
            }
            // RFC 4254 §5.2 knows no other kind, and nobody would know what to do with it.
            Some(ChannelMsg::ExtendedData { data, .. }) => Ok(data.len()),
            Some(ChannelMsg::Eof) => {
                // What is held back belongs before the end.
                self.finish().await?;
                self.to_client.eof().await.map(|()| 0).map_err(|_| Over::Client)
            }
            // Output may come after it is said how the command ended.
            Some(other) => self.event(other).await.map(|()| 0),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "russh may add messages; the rest is what only clients send"
    )]
    async fn event(&self, message: ChannelMsg) -> Result<(), Over> {
        let sent = match message {
            ChannelMsg::ExitStatus { exit_status } => {
                with(self.log, |log| log.exited(exit_status));
                self.to_client.exit_status(exit_status).await
            }
            ChannelMsg::ExitSignal { signal_name, core_dumped, error_message, lang_tag } => {
                with(self.log, |log| log.killed(&signal_name, core_dumped, &error_message));
                let Some(client) = self.connection.client() else { return Err(Over::Client) };
                let id = self.to_client.id();
                let told = client.exit_signal_request(id, signal_name, core_dumped, error_message, lang_tag);
                return told.await.map_err(|()| Over::Client);
            }
            ChannelMsg::XonXoff { client_can_do } => {
                let Some(client) = self.connection.client() else { return Err(Over::Client) };
                let told = client.xon_xoff_request(self.to_client.id(), client_can_do);
                return told.await.map_err(|()| Over::Client);
            }
            _ => Ok(()),
        };
        sent.map_err(|_| Over::Client)
    }

    /// Something was held back for as long as it may be.
    async fn relent(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        let (stdout, stderr) = (self.stdout.relent(now), self.stderr.relent(now));
        self.show(StreamName::Stdout, stdout).await?;
        self.show(StreamName::Stderr, stderr).await?;
        with(self.log, OperationLog::pause);
        Ok(())
    }

    /// Nothing more comes.
    async fn finish(&mut self) -> Result<(), Over> {
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        self.show(StreamName::Stdout, stdout).await?;
        self.show(StreamName::Stderr, stderr).await
    }

    async fn show(&self, stream: StreamName, data: Bytes) -> Result<(), Over> {
        if data.is_empty() {
            return Ok(());
        }
        with(self.log, |log| log.chunk(stream, &data));
        let sent = match stream {
            StreamName::Stderr => self.to_client.extended_data_bytes(STDERR, data).await,
            StreamName::Stdout | StreamName::Stdin | StreamName::Resize => {
                self.to_client.data_bytes(data).await
            }
        };
        sent.map_err(|_| Over::Client)
    }

    /// What was masked.
    fn account(&self) {
        for output in [&self.stdout, &self.stderr] {
            if let Some(masker) = &output.masker {
                with(self.log, |log| log.masked(masker.counts()));
            }
        }
    }
}

/// One output stream on its way to the client.
struct Output {
    /// `None` when no mask reads it.
    masker: Option<TerminalMasker>,
    /// How long something may be held back.
    patience: Duration,
    /// When what is held back is shown at the latest.
    due: Option<Instant>,
}

impl Output {
    fn new(masks: Option<&Arc<BodyMasks>>, terminal: bool) -> Self {
        let patience = if terminal { HOLD_BACK_TIME_MAX } else { PIPE_HOLD_BACK_TIME_MAX };
        Self { masker: masker(masks), patience, due: None }
    }

    /// `echo`: it is but what the client typed, who does not wait to see that.
    fn push(&mut self, data: Bytes, echo: bool) -> Bytes {
        let Some(masker) = &mut self.masker else { return data };
        let (came, held) = (data.len(), masker.held());
        let shown = masker.push(data);
        if echo && held == 0 && shown.is_empty() {
            return masker.relent();
        }
        self.due = match masker.held() {
            0 => None,
            // All of it has just come.
            held if held <= came => Some(Instant::now() + self.patience),
            _ => Some(self.due.unwrap_or_else(|| Instant::now() + self.patience)),
        };
        shown
    }

    fn relent(&mut self, now: Instant) -> Bytes {
        if self.due.is_some_and(|due| due <= now) { self.finish() } else { Bytes::new() }
    }

    fn finish(&mut self) -> Bytes {
        self.due = None;
        self.masker.as_mut().map(TerminalMasker::relent).unwrap_or_default()
    }
}

/// What was typed at a terminal and has not been echoed.
#[derive(Default)]
struct Typed {
    keys: VecDeque<u8>,
}

impl Typed {
    /// The client typed, or pasted.
    fn note(&mut self, data: &[u8]) {
        if data.len() > ECHO_BYTES_MAX {
            return self.keys.clear();
        }
        self.keys.extend(data);
        let excess = self.keys.len().saturating_sub(TYPED_BYTES_MAX);
        self.keys.drain(..excess);
    }

    /// Whether this output is one key's echo.
    fn echoes(&mut self, data: &[u8]) -> bool {
        if data.len() > ECHO_BYTES_MAX {
            return false;
        }
        let Some(at) = memchr::memmem::find(self.keys.make_contiguous(), data) else { return false };
        self.keys.drain(..at + data.len());
        true
    }
}

fn with(log: &Log<'_>, write: impl FnOnce(&mut OperationLog)) {
    write(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Joins two plain channels, as forwards are.
pub(super) async fn splice<A, B>(
    (mut from_a, to_a): (ChannelReadHalf, ChannelWriteHalf<A>),
    (mut from_b, to_b): (ChannelReadHalf, ChannelWriteHalf<B>),
    mut counts: impl FnMut(usize, usize),
) where
    A: From<(russh::ChannelId, ChannelMsg)> + Send + Sync + 'static,
    B: From<(russh::ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    let (mut up, mut down) = (0, 0);
    {
        let forth = copy(&mut from_a, &to_a, &to_b, &mut up);
        let back = copy(&mut from_b, &to_b, &to_a, &mut down);
        // One side's close closes the other's; its end of data alone does not (RFC 4254 §5.3).
        tokio::select! {
            () = forth => {}
            () = back => {}
        }
    }
    counts(up, down);
    drop(to_a.close().await);
    drop(to_b.close().await);
}

async fn copy<A, B>(
    from: &mut ChannelReadHalf,
    back: &ChannelWriteHalf<A>,
    to: &ChannelWriteHalf<B>,
    count: &mut usize,
) where
    A: From<(russh::ChannelId, ChannelMsg)> + Send + Sync + 'static,
    B: From<(russh::ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    let mut granted = Granted::default();
    loop {
        let sent = match from.wait().await {
            None | Some(ChannelMsg::Close) => return,
            Some(ChannelMsg::Data { data }) => {
                let length = data.len();
                *count += length;
                match (to.data_bytes(data).await, granted.taken(length)) {
                    (Ok(()), Some(more)) => back.grant_window(more).await,
                    (sent, _) => sent,
                }
            }
            Some(ChannelMsg::Eof) => to.eof().await,
            Some(_) => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_granted_long_before_a_window_is_used_up() {
        let mut granted = Granted::default();
        let (mut window, mut messages) = (WINDOW_BYTES, 0);
        for _ in 0..10_000 {
            window -= 32 * 1024;
            if let Some(more) = granted.taken(32 * 1024) {
                window += more;
                messages += 1;
            }
            assert!(window >= WINDOW_BYTES / 2);
        }
        assert!(messages < 1000);
    }

    #[test]
    fn echoes_are_what_was_typed_key_by_key() {
        let mut typed = Typed::default();
        for key in [b"l", b"s", b" ", b"4"] {
            typed.note(key);
        }
        assert!(typed.echoes(b"l") && typed.echoes(b"s 4"));
        assert!(!typed.echoes(b"4"), "once");
        typed.note(b"5");
        typed.note(b"pasted: 4111111111111111");
        assert!(!typed.echoes(b"4111") && !typed.echoes(b"5"));
        for _ in 0..1000 {
            typed.note(b"12345678");
        }
        assert!(typed.keys.len() <= TYPED_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_back_for_longer_than_it_may_be() {
        use crate::mask::{Detector, HashKey, Method};

        let detect = [(Detector::PaymentCard, Method::Redact)];
        let key = Arc::new(HashKey::new(zeroize::Zeroizing::new([7; 32])));
        let masks = BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), &detect, Vec::new(), key).unwrap();
        let masks = Arc::new(masks);
        let mut output = Output::new(Some(&masks), true);
        let begun = Instant::now();
        assert_eq!(output.push(Bytes::from_static(b"4"), false), Bytes::new());
        tokio::time::advance(HOLD_BACK_TIME_MAX / 2).await;
        assert_eq!(output.push(Bytes::from_static(b"1"), false), Bytes::new());
        assert_eq!(output.due, Some(begun + HOLD_BACK_TIME_MAX), "since the first");
        assert_eq!(output.relent(Instant::now()), Bytes::new());
        tokio::time::advance(HOLD_BACK_TIME_MAX / 2).await;
        assert_eq!(output.relent(Instant::now()), Bytes::from_static(b"41"));
        assert_eq!(output.push(Bytes::from_static(b"1"), true), Bytes::from_static(b"1"), "an echo");
        assert_eq!(output.due, None);
        assert_eq!(output.push(Bytes::from_static(b" 4"), false), Bytes::new());
        assert_eq!(output.due, Some(Instant::now() + HOLD_BACK_TIME_MAX));
        assert_eq!(output.push(Bytes::from_static(b" \r\n"), false), Bytes::from_static(b" 4 \r\n"));
        assert_eq!(output.due, None);
    }
}
