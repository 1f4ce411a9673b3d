//! What an agent asks of an SSH server (RFC 4254), in words that rules can match.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Effect;
use super::shell::CommandLine;

mod build;
mod described;
pub mod line;
pub mod paths;
pub mod scp;
pub mod sftp;

use build::moves;
pub use build::{SFTP, exec, exec_on_terminal, line, request, shell, subsystem, variable_is_plain};
pub use described::described;

/// What kind of thing is asked, by RFC 4254's and the SFTP draft's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// A command line (RFC 4254 §6.5 `exec`), also of programs that stand for a protocol (`rsync --server`).
    Exec,
    /// An interactive shell (§6.5 `shell`).
    Shell,
    /// One line typed into a shell, where the policy guards lines.
    Line,
    /// A subsystem other than `sftp` (§6.5).
    Subsystem,
    /// A file opened for reading, or a folder listed: SFTP, scp, rsync.
    Download,
    /// A file opened for writing: SFTP, scp, rsync.
    Upload,
    /// A file or folder removed (SSH_FXP_REMOVE, SSH_FXP_RMDIR).
    Remove,
    /// A name changed (SSH_FXP_RENAME, `posix-rename@openssh.com`).
    Rename,
    /// Attributes set (SSH_FXP_SETSTAT, SSH_FXP_FSETSTAT).
    Setstat,
    /// A symbolic or hard link made (SSH_FXP_SYMLINK, `hardlink@openssh.com`).
    Link,
    /// A folder made (SSH_FXP_MKDIR).
    Mkdir,
    /// Names and attributes looked at (SSH_FXP_OPENDIR, STAT, REALPATH…).
    Stat,
    /// A connection from the server's side (§7.2 `direct-tcpip`).
    DirectTcpip,
    /// A port of the server that leads back here (§7.1 `tcpip-forward`).
    TcpipForward,
    /// A connection to a Unix socket of the server (`direct-streamlocal@openssh.com`).
    DirectStreamlocal,
    /// A Unix socket of the server that leads back here (`streamlocal-forward@openssh.com`).
    StreamlocalForward,
    /// An environment variable (§6.4 `env`).
    Env,
    /// A pseudo-terminal (§6.2 `pty-req`).
    Pty,
    /// Forwarding of the agent's authentication agent (`auth-agent-req@openssh.com`).
    AgentForwarding,
    /// X11 forwarding (§6.3 `x11-req`).
    X11,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::Exec,
        Self::Shell,
        Self::Line,
        Self::Subsystem,
        Self::Download,
        Self::Upload,
        Self::Remove,
        Self::Rename,
        Self::Setstat,
        Self::Link,
        Self::Mkdir,
        Self::Stat,
        Self::DirectTcpip,
        Self::TcpipForward,
        Self::DirectStreamlocal,
        Self::StreamlocalForward,
        Self::Env,
        Self::Pty,
        Self::AgentForwarding,
        Self::X11,
    ];

    /// The name that policies and records use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Shell => "shell",
            Self::Line => "line",
            Self::Subsystem => "subsystem",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Setstat => "setstat",
            Self::Link => "link",
            Self::Mkdir => "mkdir",
            Self::Stat => "stat",
            Self::DirectTcpip => "direct-tcpip",
            Self::TcpipForward => "tcpip-forward",
            Self::DirectStreamlocal => "direct-streamlocal",
            Self::StreamlocalForward => "streamlocal-forward",
            Self::Env => "env",
            Self::Pty => "pty",
            Self::AgentForwarding => "agent-forwarding",
            Self::X11 => "x11",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What something does with a path of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Its content or attributes are read.
    Read,
    /// It is made or its content or attributes are changed.
    Write,
    /// It is removed.
    Remove,
}

/// A path of the server and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathUse {
    /// As asked for; relative ones start at the login's home or at the command's working directory.
    pub path: String,
    /// What is done.
    pub access: Access,
}

/// One thing asked of an SSH server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshOperation {
    /// What it is.
    pub kind: OperationKind,
    /// How far it reaches.
    pub effect: Effect,
    /// Why, when the kind does not say.
    pub reason: Option<String>,
    /// As the reviewer and the record show it: the command line, `upload /srv/app.tar`, `direct-tcpip db:5432`.
    pub text: String,
    /// The command line, when one is run.
    pub command_line: Option<CommandLine>,
    /// Paths of the server that the operation itself names. Those of commands are in `command_line`.
    pub paths: Vec<PathUse>,
    /// These paths are names as they are, of which no shell makes others.
    pub literal: bool,
    /// Where a forward leads (`host:port`, or a socket's path), or the name of a subsystem or environment variable.
    pub target: Option<String>,
}
