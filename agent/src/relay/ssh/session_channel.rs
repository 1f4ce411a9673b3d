//! One session channel (RFC 4254 §6), from its first request to its close: what is asked, whether it may, what became of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};

use super::asked::{self, Asked, COMMAND_BYTES_MAX, What};
use super::connection::Connection;
use super::hold;
use super::line::Lines;
use super::log::{Content, OperationLog};
use super::pump::{self, Join};
use super::refusal::Refusal;
use super::{scp, sftp};
use crate::flow::Side;
use crate::gate::{Denial, Permit};
use crate::policy::rule::Interactive;
use crate::request::shell::Transfer;
use crate::request::ssh::scp::Places;
use crate::request::ssh::{self, OperationKind, SFTP, SshOperation};
use crate::upstream::ssh::MESSAGES_MAX;

/// The client's half of a channel.
pub(super) struct ClientChannel {
    pub(super) from: ChannelReadHalf,
    pub(super) to: ChannelWriteHalf<server::Msg>,
    /// What came and is not handled yet.
    pub(super) parked: VecDeque<ChannelMsg>,
    /// Its output goes to a terminal.
    pub(super) terminal: bool,
}

/// Serves one channel to its end.
pub(super) async fn serve(connection: &Arc<Connection>, channel: Channel<server::Msg>) {
    let (from, to) = channel.split();
    let mut client = ClientChannel { from, to, parked: VecDeque::new(), terminal: false };
    let Some(mut asked) = asked::collect(&mut client.from, &client.to, connection).await else {
        drop(client.to.close().await);
        return;
    };
    client.parked = std::mem::take(&mut asked.parked);
    client.terminal = asked.terminal.is_some();
    if asked.want_reply && client.to.reply(true).await.is_err() {
        return;
    }
    let operation = operation(&asked);
    let number = connection.next_operation();
    let permit = match permitted(connection, number, &asked, &operation, &mut client).await {
        Ok(permit) => permit,
        Err(Refused::Told(refusal)) => return tell(&client, &refusal).await,
        Err(Refused::Gone) => return,
    };
    let mut log = match OperationLog::begin(connection, number, &operation, &asked, permit).await {
        Ok(log) => log,
        Err(_recorded) => {
            return tell(&client, &Refusal::failed("this cannot be recorded, so it is not run")).await;
        }
    };
    let (Ok(masks), Ok(downloads)) = (connection.masks(), connection.download_masks()) else {
        let refusal = Refusal::failed("the masks of this connection cannot be applied; ask the operator");
        log.failed(&refusal.text);
        return tell(&client, &refusal).await;
    };
    // A mask would break a protocol that says lengths before it sends: files pass as they are, and are not written down.
    let (content, masks) = if moves_files(&asked, &operation) {
        (Content::Counted, None)
    } else {
        (Content::Kept, Some(&masks))
    };
    log.keep(content, masks);
    match open(connection, &asked).await {
        Ok(server) => {
            let (from_server, to_server) = server.split();
            let guarded = guards_lines(connection, &operation);
            let lines = if guarded { Lines::new(&asked) } else { None };
            let join = Join { client, from_server, to_server, lines: lines.as_ref(), downloads };
            let transfer = operation.command_line.as_ref().and_then(|line| line.transfer.as_ref());
            match transfer.and_then(Places::of) {
                Some(places) => scp::run(connection, join, places, &mut log).await,
                None if is_sftp(&asked, &operation) => sftp::run(connection, join, &mut log).await,
                None => pump::run(connection, join, masks, &mut log).await,
            }
        }
        Err(refusal) => {
            log.failed(&refusal.text);
            tell(&client, &refusal).await;
        }
    }
    log.end();
}

/// Whether SFTP is spoken on the channel: as a subsystem, or by its server's own command.
fn is_sftp(asked: &Asked, operation: &SshOperation) -> bool {
    match &asked.what {
        What::Exec(_) => {
            let transfer = operation.command_line.as_ref().and_then(|line| line.transfer.as_ref());
            transfer == Some(&Transfer::SftpServer)
        }
        What::Subsystem(name) => name == SFTP,
        What::Shell => false,
    }
}

/// Whether the policy wants every line judged: of a shell, also of one that a command line starts on a terminal.
fn guards_lines(connection: &Connection, operation: &SshOperation) -> bool {
    operation.kind == OperationKind::Shell
        && connection.admission.connection().ssh.interactive == Interactive::LineGuard
}

/// Whether what goes over the channel is a protocol of files.
fn moves_files(asked: &Asked, operation: &SshOperation) -> bool {
    match &asked.what {
        What::Exec(_) => operation.command_line.as_ref().is_some_and(|line| line.transfer.is_some()),
        What::Subsystem(name) => name == SFTP,
        What::Shell => false,
    }
}

/// What is asked, in words for the policy.
fn operation(asked: &Asked) -> SshOperation {
    match &asked.what {
        What::Exec(command) if asked.terminal.is_some() => ssh::exec_on_terminal(command),
        What::Exec(command) => ssh::exec(command),
        What::Shell => ssh::shell(),
        What::Subsystem(name) => ssh::subsystem(name),
    }
}

/// Why nothing runs.
enum Refused {
    /// The client is to be told.
    Told(Refusal),
    /// There is nobody to tell any more.
    Gone,
}

/// Asks the gate, and a human where it says so, while the client waits.
async fn permitted(
    connection: &Arc<Connection>,
    number: u64,
    asked: &Asked,
    operation: &SshOperation,
    client: &mut ClientChannel,
) -> Result<Permit, Refused> {
    if let Err(denial) = possible(connection, asked, operation).and_then(|()| maskable(connection, operation))
    {
        hold::refused(connection, number, operation, &denial);
        return Err(Refused::Told(Refusal::denied(&denial)));
    }
    let notice = Notice::new(&client.to, client.terminal);
    let decision = hold::decide(connection, number, operation, asked, Some(notice));
    let mut decision = std::pin::pin!(decision);
    loop {
        tokio::select! {
            result = &mut decision => {
                return result.map_err(|denial| Refused::Told(Refusal::denied(&denial)));
            }
            message = client.from.wait() => match message {
                // Dropping the decision withdraws the question.
                None | Some(ChannelMsg::Close) => return Err(Refused::Gone),
                Some(_) if client.parked.len() >= MESSAGES_MAX => return Err(Refused::Gone),
                Some(message) => client.parked.push_back(message),
            }
        }
    }
}

/// Tells a client what it waits for.
#[derive(Clone, Copy)]
pub(super) struct Notice<'c> {
    to: &'c ChannelWriteHalf<server::Msg>,
    terminal: bool,
    /// Something stands on the row already.
    within_line: bool,
}

impl<'c> Notice<'c> {
    /// On this channel.
    pub(super) fn new(to: &'c ChannelWriteHalf<server::Msg>, terminal: bool) -> Self {
        Self { to, terminal, within_line: false }
    }

    /// For a terminal on which a line is being typed.
    pub(super) fn within_line(to: &'c ChannelWriteHalf<server::Msg>) -> Self {
        Self { to, terminal: true, within_line: true }
    }

    /// Best effort: a client that is not there any more is noticed where it is read from.
    pub(super) async fn say(&self, text: String) {
        let text = if self.within_line { format!("\n{text}") } else { text };
        let line = Refusal { text, exit_status: 0 }.bytes(self.terminal);
        if self.within_line {
            drop(self.to.data_bytes(line).await);
        } else {
            drop(self.to.extended_data_bytes(STDERR, line).await);
        }
    }
}

/// `SSH_EXTENDED_DATA_STDERR` (RFC 4254 §5.2).
pub(super) const STDERR: u32 = 1;

/// What no rule can allow.
fn possible(connection: &Connection, asked: &Asked, operation: &SshOperation) -> Result<(), Denial> {
    match &asked.what {
        What::Exec(command) if command.len() > COMMAND_BYTES_MAX => Err(Denial::new(
            Side::Client,
            format!("the command line has {} bytes, more than {COMMAND_BYTES_MAX}", command.len()),
            "send a script by scp, or on standard input",
        )),
        What::Shell if guards_lines(connection, operation) && asked.terminal.is_none() => Err(Denial::new(
            Side::Policy,
            "the policy guards lines, which nobody sees without a terminal",
            "ask for one (ssh -tt), or give the command on the command line: ssh HOST COMMAND",
        )),
        // A terminal's line discipline makes other bytes of those that were looked at.
        What::Subsystem(_) if asked.terminal.is_some() => {
            Err(Denial::new(Side::Client, "a subsystem has no place on a terminal", "leave out -t"))
        }
        What::Exec(_) | What::Shell | What::Subsystem(_) => Ok(()),
    }
}

/// Where downloads are masked, files that come in a form that nobody here reads do not come.
fn maskable(connection: &Connection, operation: &SshOperation) -> Result<(), Denial> {
    let transfer = operation.command_line.as_ref().and_then(|line| line.transfer.as_ref());
    let masked = !matches!(connection.download_masks(), Ok(None));
    match transfer {
        Some(
            Transfer::Rsync { sender: true, .. }
            | Transfer::GitUploadPack { .. }
            | Transfer::GitUploadArchive { .. },
        ) if masked => Err(Denial::new(
            Side::Policy,
            "downloads are masked on this connection, and what rsync and git send cannot be",
            "use scp or sftp",
        )),
        Some(
            Transfer::Rsync { .. }
            | Transfer::GitUploadPack { .. }
            | Transfer::GitUploadArchive { .. }
            | Transfer::GitReceivePack { .. }
            | Transfer::ScpSource { .. }
            | Transfer::ScpSink { .. }
            | Transfer::SftpServer,
        )
        | None => Ok(()),
    }
}

/// Opens the server's half of the channel and asks there what was asked here.
async fn open(connection: &Connection, asked: &Asked) -> Result<Channel<client::Msg>, Refusal> {
    let upstream = connection.upstream().await.map_err(Refusal::no_server)?;
    let failed = |error: &russh::Error| {
        let refused = matches!(error, russh::Error::ChannelOpenFailure(_));
        let what =
            if refused { "the server opens no session" } else { "the SSH connection to the server failed" };
        Refusal::failed(what)
    };
    let mut channel = upstream.handle.channel_open_session().await.map_err(|error| failed(&error))?;
    let ask = async {
        if asked.agent_forwarding {
            channel.agent_forward(false).await?;
        }
        if let Some(x11) = &asked.x11 {
            let cookie = x11.cookie.as_str();
            channel
                .request_x11(false, x11.single_connection, x11.protocol.as_str(), cookie, x11.screen)
                .await?;
        }
        if let Some(terminal) = &asked.terminal {
            let ((columns, rows), (width, height)) = (terminal.size, terminal.pixels);
            channel.request_pty(false, &terminal.term, columns, rows, width, height, &terminal.modes).await?;
        }
        for (name, value) in &asked.variables {
            channel.set_env(false, name.as_str(), value.as_str()).await?;
        }
        match &asked.what {
            What::Exec(command) => channel.exec(true, command.as_ref()).await,
            What::Shell => channel.request_shell(true).await,
            What::Subsystem(name) => channel.request_subsystem(true, name.as_str()).await,
        }
    };
    ask.await.map_err(|error| failed(&error))?;
    // Nothing comes before the answer: what runs, runs after it.
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(channel),
            Some(ChannelMsg::Failure) => return Err(Refusal::failed("the server does not run this")),
            None | Some(ChannelMsg::Close) => {
                return Err(Refusal::failed("the server closed the channel"));
            }
            Some(_) => {}
        }
    }
}

/// Tells the client why nothing ran, as a command would: a line on stderr, an exit status, the end.
async fn tell(client: &ClientChannel, refusal: &Refusal) {
    let say = async {
        client.to.extended_data_bytes(STDERR, Bytes::from(refusal.bytes(client.terminal))).await?;
        client.to.exit_status(refusal.exit_status).await?;
        client.to.eof().await?;
        client.to.close().await
    };
    // The client is gone, which is no news to it.
    drop(say.await);
}
