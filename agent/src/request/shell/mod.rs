//! Command lines as a POSIX shell or bash understands them: which programs run, with what, and how far they reach.

use super::kubernetes::Request;
use super::ssh::PathUse;
use super::{Effect, Statement};

mod archive;
mod bounds;
mod catalogue;
mod database;
mod folder;
mod identity;
mod kubectl;
mod loops;
mod network;
mod options;
mod redirect;
mod remote;
mod run;
mod scripts;
mod transfer;
mod variables;
mod walk;
mod word;
mod wrappers;

pub(in crate::request) use wrappers::SHELL;

/// A command line, understood as far as its text allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Every simple command that could run, in the order of the text; those inside substitutions, `sh -c`, `sudo`, heredocs
    /// and the like come right before or after the one they are part of.
    pub commands: Vec<Command>,
    /// The highest effect of any of them; `unknown` when some of the text could not be understood.
    pub effect: Effect,
    /// Why the effect is what it is.
    pub reason: Option<String>,
    /// Why some of the text was not understood; `None` when all of it was. Where it is said, `commands` are not everything that
    /// could run, and what is known of them proves nothing about the line.
    pub opaque: Option<&'static str>,
    /// What the whole line stands for, when it is the server's side of a transfer protocol and nothing else.
    pub transfer: Option<Transfer>,
}

impl CommandLine {
    /// A line that cannot be understood.
    #[must_use]
    pub fn opaque(reason: &'static str) -> Self {
        Self {
            commands: Vec::new(),
            effect: Effect::Unknown,
            reason: Some(reason.to_owned()),
            opaque: Some(reason),
            transfer: None,
        }
    }
}

/// One simple command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The catalogue's name of what it does (`rm -rf`, `package install`, `drop database`), else the program's name.
    pub kind: String,
    /// Name of the program (`/bin/rm` is `rm`, `/tmp/rm` is itself); `None` when only the running shell knows it.
    pub program: Option<String>,
    /// Its arguments after expansion of what is static; `None` for one that only the running shell knows.
    pub arguments: Vec<Option<String>>,
    /// How far it reaches.
    pub effect: Effect,
    /// Why, when the kind does not say.
    pub reason: Option<String>,
    /// Files it is known to read, write or remove, from its arguments and redirections.
    pub paths: Vec<PathUse>,
    /// SQL statements that its text hands to a database client.
    pub statements: Vec<Statement>,
    /// Requests that it makes of a Kubernetes API server.
    pub requests: Vec<Request>,
    /// What it runs under, from the outside in: `sudo`, `bash -c`, `xargs`, `ssh web-2`.
    pub through: Vec<String>,
}

/// The server's side of a transfer protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// `scp -f`: files are sent to the client.
    ScpSource {
        /// What is asked for, as written.
        paths: Vec<String>,
        /// `-r`.
        recursive: bool,
    },
    /// `scp -t`: files are received from the client.
    ScpSink {
        /// Where to.
        path: String,
        /// `-r`.
        recursive: bool,
        /// `-d`: the target must be a folder.
        folder: bool,
    },
    /// `rsync --server`.
    Rsync {
        /// `--sender`: files go to the client.
        sender: bool,
        /// Paths after the `.`.
        paths: Vec<String>,
    },
    /// `git-upload-pack` (fetch, clone).
    GitUploadPack {
        /// The repository.
        repository: String,
    },
    /// `git-receive-pack` (push).
    GitReceivePack {
        /// The repository.
        repository: String,
    },
    /// `git-upload-archive`.
    GitUploadArchive {
        /// The repository.
        repository: String,
    },
    /// `sftp-server` run by its path.
    SftpServer,
}

/// Understands a command line as the account's shell would, as far as its text allows.
#[must_use]
pub fn analyse(line: &str) -> CommandLine {
    let mut walk = walk::Walk::new();
    walk.line(line, &run::Stdin::Inherited);
    let plain = walk.plain;
    let mut line = walk.finish();
    line.transfer = transfer::of(&line).filter(|_| plain && line.opaque.is_none());
    if let (Some(transfer), [command]) = (&line.transfer, line.commands.as_mut_slice()) {
        transfer.describe(command);
        line.effect = command.effect;
        line.reason.clone_from(&command.reason);
    }
    line
}

#[cfg(test)]
mod tests;
