//! Operations as clients ask for them.

use super::{Access, OperationKind, PathUse, SshOperation};
use crate::request::shell::{self, Command, CommandLine, Transfer};
use crate::request::{Effect, ObjectName};

/// A command line that the account's shell will run.
#[must_use]
pub fn exec(command: &[u8]) -> SshOperation {
    let text = String::from_utf8_lossy(command).into_owned();
    let line = match std::str::from_utf8(command) {
        Ok(line) => shell::analyse(line),
        Err(_) => CommandLine::opaque("is not valid UTF-8"),
    };
    SshOperation {
        kind: OperationKind::Exec,
        effect: line.effect,
        reason: line.reason.clone(),
        text,
        command_line: Some(line),
        paths: Vec::new(),
        target: None,
    }
}

/// An interactive shell: what will be typed, nobody knows.
#[must_use]
pub fn shell() -> SshOperation {
    SshOperation {
        kind: OperationKind::Shell,
        effect: Effect::Unknown,
        reason: Some("what is typed into a shell is not judged".to_owned()),
        text: "interactive shell".to_owned(),
        command_line: None,
        paths: Vec::new(),
        target: None,
    }
}

/// A line typed into a shell. `doubt` says why what is shown of it is not known to be what will run: then its commands may
/// restrain it, and never permit it.
#[must_use]
pub fn line(text: &str, doubt: Option<&str>) -> SshOperation {
    let mut line = shell::analyse(text);
    // A file's protocol has no place on a terminal.
    line.transfer = None;
    if let Some(doubt) = doubt {
        line.effect = Effect::Unknown;
        line.reason = Some(doubt.to_owned());
        for command in &mut line.commands {
            command.arguments.push(None);
        }
    }
    let shown = if text.trim().is_empty() { doubt.map_or("", |_| "(nothing is shown)") } else { text };
    SshOperation {
        kind: OperationKind::Line,
        effect: line.effect,
        reason: line.reason.clone(),
        text: shown.to_owned(),
        command_line: Some(line),
        paths: Vec::new(),
        target: None,
    }
}

/// A subsystem. `sftp` moves files, which this version does not look into; of the others nobody knows what they do.
#[must_use]
pub fn subsystem(name: &str) -> SshOperation {
    let mut operation = request(OperationKind::Subsystem, name);
    operation.effect = Effect::Unknown;
    operation.reason = Some("what a subsystem does is not looked into".to_owned());
    operation
}

/// Something beside commands: a forward, a terminal, a variable. `target` is where it leads, or its name.
#[must_use]
pub fn request(kind: OperationKind, target: &str) -> SshOperation {
    let effect = match kind {
        OperationKind::Pty | OperationKind::Env | OperationKind::Stat | OperationKind::Download => {
            Effect::Read
        }
        OperationKind::Upload
        | OperationKind::Remove
        | OperationKind::Rename
        | OperationKind::Setstat
        | OperationKind::Link
        | OperationKind::Mkdir => Effect::Write,
        OperationKind::Exec
        | OperationKind::Shell
        | OperationKind::Line
        | OperationKind::Subsystem
        | OperationKind::DirectTcpip
        | OperationKind::TcpipForward
        | OperationKind::DirectStreamlocal
        | OperationKind::StreamlocalForward
        | OperationKind::AgentForwarding
        | OperationKind::X11 => Effect::Unknown,
    };
    SshOperation {
        kind,
        effect,
        reason: None,
        text: if target.is_empty() { kind.to_string() } else { format!("{kind} {target}") },
        command_line: None,
        paths: Vec::new(),
        target: Some(target.to_owned()).filter(|target| !target.is_empty()),
    }
}

impl SshOperation {
    /// What it is, for lists: the kinds of its commands, else its own.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        let commands = self.command_line.iter().flat_map(|line| &line.commands);
        let kinds: Vec<String> = commands.map(|command| command.kind.clone()).collect();
        if kinds.is_empty() { vec![self.kind.to_string()] } else { kinds }
    }

    /// Paths, and objects of databases, that it touches.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        let own = self.paths.iter().map(|path| path.path.clone());
        let commands = self.command_line.iter().flat_map(|line| &line.commands);
        let mut all: Vec<String> = own.chain(commands.flat_map(Command::objects)).collect();
        all.dedup();
        all
    }
}

impl Command {
    /// Paths, and objects of databases, that it touches.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        let paths = self.paths.iter().map(|path| path.path.clone());
        let statements = self.statements.iter();
        let objects = statements.flat_map(|statement| statement.writes.iter().chain(&statement.reads));
        paths.chain(objects.map(ObjectName::qualified)).collect()
    }
}

impl Transfer {
    /// Paths that it names, and what is done with them.
    #[must_use]
    pub fn paths(&self) -> Vec<PathUse> {
        let all = |paths: &[String], access| {
            paths.iter().map(move |path| PathUse { path: path.clone(), access }).collect::<Vec<_>>()
        };
        match self {
            Self::ScpSource { paths, .. } | Self::Rsync { sender: true, paths } => all(paths, Access::Read),
            Self::Rsync { sender: false, paths } => all(paths, Access::Write),
            Self::ScpSink { path, .. } => all(std::slice::from_ref(path), Access::Write),
            Self::GitUploadPack { repository } | Self::GitUploadArchive { repository } => {
                all(std::slice::from_ref(repository), Access::Read)
            }
            Self::GitReceivePack { repository } => all(std::slice::from_ref(repository), Access::Write),
            Self::SftpServer => Vec::new(),
        }
    }
}
