//! What a client asks of one session channel before something runs on it (RFC 4254 §6.2-§6.5).

use std::collections::VecDeque;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty, server};

use super::connection::Connection;
use super::hold;
use crate::request::ssh::{self, OperationKind, SshOperation};
use crate::upstream::ssh::MESSAGES_MAX;

/// Environment variables of one channel that are passed on.
const VARIABLES_MAX: usize = 128;

/// Their names and values together, in bytes.
const VARIABLES_BYTES_MAX: usize = 64 * 1024;

/// Longest command line, in bytes; Linux takes no longer single argument (MAX_ARG_STRLEN).
pub(super) const COMMAND_BYTES_MAX: usize = 128 * 1024;

/// What runs on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `exec`.
    Exec(Bytes),
    /// `shell`.
    Shell,
    /// `subsystem`.
    Subsystem(String),
}

/// A pseudo-terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terminal {
    /// `TERM`.
    pub(super) term: String,
    /// Columns and rows.
    pub(super) size: (u32, u32),
    /// Width and height in pixels.
    pub(super) pixels: (u32, u32),
    /// RFC 4254 §8.
    pub(super) modes: Vec<(Pty, u32)>,
}

/// What was asked, and what else came meanwhile.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) what: What,
    pub(super) want_reply: bool,
    pub(super) terminal: Option<Terminal>,
    /// Names and values that the profile lets through.
    pub(super) variables: Vec<(String, String)>,
    pub(super) agent_forwarding: bool,
    pub(super) x11: Option<X11>,
    /// Messages that came before the answer; the window bounds them.
    pub(super) parked: VecDeque<ChannelMsg>,
}

impl Asked {
    /// Nothing beside the operation itself.
    pub(super) fn nothing() -> Self {
        Self {
            what: What::Shell,
            want_reply: false,
            terminal: None,
            variables: Vec::new(),
            agent_forwarding: false,
            x11: None,
            parked: VecDeque::new(),
        }
    }

    /// The exact bytes of what is run; of what is none, its text.
    pub(super) fn exact(&self, operation: &SshOperation) -> Vec<u8> {
        match &self.what {
            What::Exec(command) => command.to_vec(),
            What::Shell | What::Subsystem(_) => operation.text.clone().into_bytes(),
        }
    }
}

/// `x11-req`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct X11 {
    pub(super) single_connection: bool,
    pub(super) protocol: String,
    pub(super) cookie: String,
    pub(super) screen: u32,
}

/// Reads requests up to the one that runs something; `None` when the channel is closed before.
pub(super) async fn collect(
    from_client: &mut ChannelReadHalf,
    to_client: &ChannelWriteHalf<server::Msg>,
    connection: &Connection,
) -> Option<Asked> {
    let mut asked = Asked::nothing();
    let mut bytes = 0;
    loop {
        let message = from_client.wait().await?;
        if matches!(message, ChannelMsg::Close) {
            return None;
        }
        let (want_reply, granted) = match asked.decisive(message) {
            Ok(()) => return Some(asked),
            Err(ChannelMsg::SetEnv { want_reply, variable_name, variable_value }) => {
                bytes += variable_name.len() + variable_value.len();
                let room = asked.variables.len() < VARIABLES_MAX && bytes <= VARIABLES_BYTES_MAX;
                let allowed = connection.admission.connection().ssh.env_allowed(&variable_name);
                let granted = room && allowed && ssh::variable_is_plain(&variable_value);
                if granted {
                    asked.variables.push((variable_name, variable_value));
                }
                (want_reply, granted)
            }
            Err(message) if asked.parked.len() < MESSAGES_MAX => asked.aside(message, connection).await,
            Err(_flood) => return None,
        };
        if want_reply {
            to_client.reply(granted).await.ok()?;
        }
    }
}

impl Asked {
    /// Takes a request that runs something; gives back any other message.
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever russh adds, it is given back")]
    fn decisive(&mut self, message: ChannelMsg) -> Result<(), ChannelMsg> {
        (self.what, self.want_reply) = match message {
            ChannelMsg::Exec { want_reply, command } => (What::Exec(command.into()), want_reply),
            ChannelMsg::RequestShell { want_reply } => (What::Shell, want_reply),
            ChannelMsg::RequestSubsystem { want_reply, name } => (What::Subsystem(name), want_reply),
            other => return Err(other),
        };
        Ok(())
    }

    /// What comes before: whether it wants a reply, and which.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "russh may add messages; the rest is what only servers send"
    )]
    async fn aside(&mut self, message: ChannelMsg, connection: &Connection) -> (bool, bool) {
        let rules = &connection.admission.connection().ssh;
        match message {
            ChannelMsg::RequestPty {
                want_reply,
                term,
                col_width,
                row_height,
                pix_width,
                pix_height,
                terminal_modes,
            } => {
                let granted = hold::aside(connection, &ssh::request(OperationKind::Pty, &term)).await;
                // russh hands over its whole array; the list ends at TTY_OP_END.
                let modes =
                    terminal_modes.into_iter().take_while(|(code, _)| *code != Pty::TTY_OP_END).collect();
                let (size, pixels) = ((col_width, row_height), (pix_width, pix_height));
                self.terminal = granted.then_some(Terminal { term, size, pixels, modes });
                (want_reply, granted)
            }
            ChannelMsg::AgentForward { want_reply } => {
                let operation = ssh::request(OperationKind::AgentForwarding, "");
                self.agent_forwarding = rules.agent_forwarding && hold::aside(connection, &operation).await;
                (want_reply, self.agent_forwarding)
            }
            ChannelMsg::RequestX11 {
                want_reply,
                single_connection,
                x11_authentication_protocol: protocol,
                x11_authentication_cookie: cookie,
                x11_screen_number: screen,
            } => {
                let operation = ssh::request(OperationKind::X11, "");
                let granted = rules.x11 && hold::aside(connection, &operation).await;
                self.x11 = granted.then_some(X11 { single_connection, protocol, cookie, screen });
                (want_reply, granted)
            }
            ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height } => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.size = (col_width, row_height);
                    terminal.pixels = (pix_width, pix_height);
                }
                (false, false)
            }
            early @ (ChannelMsg::Data { .. } | ChannelMsg::Eof | ChannelMsg::Signal { .. }) => {
                self.parked.push_back(early);
                (false, false)
            }
            _ => (false, false),
        }
    }
}
