//! Joins the client's half of a channel with the server's: bytes, ends, signals and sizes, each way on its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};
use tokio::time::Instant;

use super::connection::Connection;
use super::line::{Lines, Typist};
use super::log::OperationLog;
use super::output::{Output, Typed};
use super::refusal::Refusal;
use super::session_channel::{ClientChannel, STDERR};
use crate::mask::http::BodyMasks;
use crate::record::RecordError;
use crate::record::stream::StreamName;
use crate::upstream::ssh::WINDOW_BYTES;

/// How long the end of output waits for the exit status, so that it comes first, as from a server that is near: some clients
/// (Dropbear's) close the channel once nothing more comes, and then hear of no status.
const EXIT_STATUS_TIME_MAX: Duration = Duration::from_millis(200);

/// How long output of a command is gathered before it is written to the record: what is watched later is that exact.
const GATHER_TIME_MAX: Duration = Duration::from_millis(100);

/// The two halves.
pub(super) struct Join<'j> {
    pub(super) client: ClientChannel,
    pub(super) from_server: ChannelReadHalf,
    pub(super) to_server: ChannelWriteHalf<client::Msg>,
    /// Lines that are typed are judged.
    pub(super) lines: Option<&'j Lines<'j>>,
    /// What is overwritten in files that the client gets.
    pub(super) downloads: Option<Arc<BodyMasks>>,
}

/// Room to be granted to a peer. Given in large pieces: each is a message.
#[derive(Default)]
pub(super) struct Granted {
    owed: u32,
}

impl Granted {
    /// Bytes were taken: how much more the peer may send now.
    pub(super) fn taken(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        // A peer that still has most of its window needs no message.
        (self.owed >= WINDOW_BYTES / 4).then(|| std::mem::take(&mut self.owed))
    }
}

/// Why a direction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The client closed the channel, or is gone.
    Client,
    /// The server did, or is.
    Server,
    /// What passes cannot be recorded, so nothing more does.
    Unrecorded,
    /// One side does not speak the protocol that the channel is for.
    NoProtocol,
}

/// Shared by both directions.
pub(super) type Log<'l> = Mutex<&'l mut OperationLog>;

/// Moves everything until the channel is closed.
pub(super) async fn run(
    connection: &Arc<Connection>,
    join: Join<'_>,
    masks: Option<&Arc<BodyMasks>>,
    log: &mut OperationLog,
) {
    let Join { mut client, mut from_server, to_server, lines, .. } = join;
    let mut parked = std::mem::take(&mut client.parked);
    let log = Mutex::new(log);
    let typed = client.terminal.then(|| Mutex::new(Typed::default()));
    let (to_client, from_client) = (&client.to, &mut client.from);
    let mut up = Up {
        to_server: &to_server,
        to_client,
        log: &log,
        typed: typed.as_ref(),
        granted: Granted::default(),
    };
    let up = async {
        if let Some(lines) = lines {
            let (keys, up) = (BytesMut::new(), &mut up);
            return Typist { lines, connection, to_client, from_client, parked, up, keys, end: None }
                .run()
                .await;
        }
        loop {
            let message = match parked.pop_front() {
                Some(message) => Some(message),
                None => from_client.wait().await,
            };
            if let Err(over) = up.pass(message).await {
                return over;
            }
        }
    };
    let mut down = Down {
        connection,
        to_client,
        to_server: &to_server,
        log: &log,
        typed: typed.as_ref(),
        lines,
        stdout: Output::new(masks, client.terminal),
        stderr: Output::new(masks, client.terminal),
        granted: Granted::default(),
        ended: None,
        gathered: None,
    };
    let over = tokio::select! {
        over = up => over,
        over = down.run(&mut from_server) => over,
    };
    down.account();
    ended(over, connection, &client, &to_server, &log, "this is no protocol").await;
}

/// One closed channel closes the other: a client that is gone takes its command with it, as at a server. `strange` is what the
/// client is told when one side did not speak what the channel is for.
pub(super) async fn ended(
    over: Over,
    connection: &Connection,
    client: &ClientChannel,
    to_server: &ChannelWriteHalf<client::Msg>,
    log: &Log<'_>,
    strange: &str,
) {
    let why = match over {
        Over::Client => return drop(to_server.close().await),
        Over::Server if connection.lost_server() => Some("the connection to the server was lost"),
        Over::Server => None,
        Over::Unrecorded => Some("this cannot be recorded any more, so it ends here"),
        Over::NoProtocol => Some(strange),
    };
    if over != Over::Server {
        drop(to_server.close().await);
    }
    if let Some(why) = why {
        cut(client, log, why).await;
    }
    drop(client.to.close().await);
}

/// Tells the client that what runs does not come to its own end.
pub(super) async fn cut(client: &ClientChannel, log: &Log<'_>, why: &str) {
    with(log, |log| log.failed(why));
    let refusal = Refusal::failed(why);
    drop(client.to.extended_data_bytes(STDERR, refusal.bytes(client.terminal)).await);
    drop(client.to.exit_status(refusal.exit_status).await);
}

/// The client's direction.
pub(super) struct Up<'u> {
    to_server: &'u ChannelWriteHalf<client::Msg>,
    to_client: &'u ChannelWriteHalf<server::Msg>,
    log: &'u Log<'u>,
    typed: Option<&'u Mutex<Typed>>,
    granted: Granted,
}

impl Up<'_> {
    /// Passes on one message; `None` is the end.
    pub(super) async fn pass(&mut self, message: Option<ChannelMsg>) -> Result<(), Over> {
        let bytes = upward(message, self.to_server, self.log, self.typed).await?;
        match self.granted.taken(bytes) {
            Some(more) => self.to_client.grant_window(more).await.map_err(|_| Over::Client),
            None => Ok(()),
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
            recorded(log, |log| log.input(&data))?;
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
            recorded(log, |log| log.resized(col_width, row_height))?;
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
    lines: Option<&'d Lines<'d>>,
    stdout: Output,
    stderr: Output,
    granted: Granted,
    /// Nothing more comes; when the client is told so at the latest.
    ended: Option<Instant>,
    /// When what is gathered for the record is written at the latest.
    gathered: Option<Instant>,
}

impl Down<'_> {
    async fn run(&mut self, from_server: &mut ChannelReadHalf) -> Over {
        loop {
            let due =
                [self.stdout.due, self.stderr.due, self.ended, self.gathered].into_iter().flatten().min();
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
                self.end().await?;
                Err(Over::Server)
            }
            Some(ChannelMsg::Data { data }) => {
                let length = data.len();
                if let Some(lines) = self.lines {
                    lines.output(&data);
                }
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
                self.ended = Some(Instant::now() + EXIT_STATUS_TIME_MAX);
                Ok(0)
            }
            // Output may come after it is said how the command ended.
            Some(other) => {
                self.event(other).await?;
                self.end().await.map(|()| 0)
            }
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

    /// Tells the client that nothing more comes, if nothing does.
    async fn end(&mut self) -> Result<(), Over> {
        match self.ended.take() {
            Some(_) => self.to_client.eof().await.map_err(|_| Over::Client),
            None => Ok(()),
        }
    }

    /// Something was held back for as long as it may be.
    async fn relent(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        if self.ended.is_some_and(|due| due <= now) {
            self.end().await?;
        }
        let (stdout, stderr) = (self.stdout.relent(now), self.stderr.relent(now));
        self.show(StreamName::Stdout, stdout).await?;
        self.show(StreamName::Stderr, stderr).await?;
        self.gathered = None;
        recorded(self.log, OperationLog::pause)
    }

    /// Nothing more comes.
    async fn finish(&mut self) -> Result<(), Over> {
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        self.show(StreamName::Stdout, stdout).await?;
        self.show(StreamName::Stderr, stderr).await
    }

    async fn show(&mut self, stream: StreamName, data: Bytes) -> Result<(), Over> {
        if data.is_empty() {
            return Ok(());
        }
        recorded(self.log, |log| log.chunk(stream, &data))?;
        self.gathered.get_or_insert_with(|| Instant::now() + GATHER_TIME_MAX);
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

pub(super) fn with(log: &Log<'_>, write: impl FnOnce(&mut OperationLog)) {
    write(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
}

/// What cannot be recorded does not pass.
fn recorded(
    log: &Log<'_>,
    write: impl FnOnce(&mut OperationLog) -> Result<(), RecordError>,
) -> Result<(), Over> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    write(&mut log).map_err(|error| {
        tracing::error!(%error, "a stream cannot be recorded, and is cut");
        Over::Unrecorded
    })
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
}
