//! Operations as clients ask for them.

use super::paths::{holds_ruling_files, sensitive};
use super::{Access, OperationKind, PathUse, SshOperation};
use crate::request::kubernetes::Request;
use crate::request::shell::{self, Command, CommandLine, SHELL, Transfer};
use crate::request::{Effect, ObjectName};

/// Programs that offer a shell, or take commands, to whoever types at their terminal: pagers, and what shows its output in one.
const ON_A_TERMINAL: [&str; 16] = [
    "less",
    "zless",
    "more",
    "man",
    "info",
    "top",
    "htop",
    "iotop",
    "git",
    "journalctl",
    "systemctl",
    "loginctl",
    "timedatectl",
    "psql",
    "mysql",
    "mariadb",
];

/// A command line that the account's shell will run.
#[must_use]
pub fn exec(command: &[u8]) -> SshOperation {
    exec_line(command, false)
}

/// The same on a pseudo-terminal, where some programs can be made to do more, and a command that is a shell is one.
#[must_use]
pub fn exec_on_terminal(command: &[u8]) -> SshOperation {
    let operation = exec_line(command, true);
    let commands = operation.command_line.iter().flat_map(|line| &line.commands);
    if !commands.into_iter().any(|command| command.kind == SHELL) {
        return operation;
    }
    SshOperation { text: operation.text, ..shell() }
}

fn exec_line(command: &[u8], terminal: bool) -> SshOperation {
    let text = String::from_utf8_lossy(command).into_owned();
    let mut line = match std::str::from_utf8(command) {
        Ok(line) => shell::analyse(line),
        Err(_) => CommandLine::opaque("is not valid UTF-8"),
    };
    if terminal {
        on_a_terminal(&mut line);
    } else {
        file_by_file(&mut line);
    }
    SshOperation {
        kind: OperationKind::Exec,
        effect: line.effect,
        reason: line.reason.clone(),
        text,
        command_line: Some(line),
        paths: Vec::new(),
        literal: false,
        target: None,
    }
}

/// To begin a transfer of which each file is judged is nothing, as with the subsystem.
fn file_by_file(line: &mut CommandLine) {
    match &line.transfer {
        Some(Transfer::ScpSource { .. } | Transfer::ScpSink { .. } | Transfer::SftpServer) => {}
        Some(
            Transfer::Rsync { .. }
            | Transfer::GitUploadPack { .. }
            | Transfer::GitReceivePack { .. }
            | Transfer::GitUploadArchive { .. },
        )
        | None => return,
    }
    for command in &mut line.commands {
        command.effect = Effect::Read;
        command.reason = Some("each file is judged".to_owned());
        command.paths.clear();
    }
    line.effect = Effect::Read;
    line.reason = None;
}

/// Of programs that take commands from a terminal, nobody knows what is typed there. A protocol of files has no place on one: the
/// server's terminal would make other bytes of those that were looked at.
fn on_a_terminal(line: &mut CommandLine) {
    const REASON: &str = "it takes commands from its terminal";
    if line.transfer.take().is_some() {
        const FILES: &str = "a protocol of files on a terminal";
        line.effect = Effect::Unknown;
        line.reason = Some(FILES.to_owned());
        for command in &mut line.commands {
            command.effect = Effect::Unknown;
            command.reason = Some(FILES.to_owned());
        }
    }
    for command in &mut line.commands {
        let offers = command.program.as_deref().is_some_and(|program| ON_A_TERMINAL.contains(&program));
        let says_no = |word: &str| matches!(word, "--no-pager" | "-b" | "--batch");
        if offers && !command.arguments.iter().flatten().any(|word| says_no(word)) {
            command.effect = Effect::Unknown;
            command.reason = Some(REASON.to_owned());
            line.effect = Effect::Unknown;
            line.reason.get_or_insert_with(|| REASON.to_owned());
        }
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
        literal: false,
        target: None,
    }
}

/// A line typed into a shell. `doubt` says why what is shown of it is not known to be what will run: then its commands may
/// restrain it, and never permit it.
#[must_use]
pub fn line(text: &str, doubt: Option<&'static str>) -> SshOperation {
    let mut line = shell::analyse(text);
    on_a_terminal(&mut line);
    if let Some(doubt) = doubt {
        line.effect = Effect::Unknown;
        line.reason = Some(doubt.to_owned());
        line.opaque.get_or_insert(doubt);
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
        literal: false,
        target: None,
    }
}

/// The subsystem that moves files (draft-ietf-secsh-filexfer-02).
pub const SFTP: &str = "sftp";

/// A subsystem. To begin `sftp` is nothing: each of its requests is judged. Of the others nobody knows what they do.
#[must_use]
pub fn subsystem(name: &str) -> SshOperation {
    let mut operation = request(OperationKind::Subsystem, name);
    if name == SFTP {
        operation.effect = Effect::Read;
        return operation;
    }
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
        literal: false,
        target: Some(target.to_owned()).filter(|target| !target.is_empty()),
    }
}

/// Files or names that are moved, made, changed or looked at.
pub(super) fn moves(kind: OperationKind, paths: Vec<PathUse>) -> SshOperation {
    let looks = matches!(kind, OperationKind::Download | OperationKind::Stat);
    let folders = matches!(kind, OperationKind::Rename | OperationKind::Link);
    let mut effect = if looks { Effect::Read } else { Effect::Write };
    let mut reason = None;
    for path in paths.iter().filter(|path| path.access != Access::Read) {
        let rules = sensitive(&path.path);
        if let Some(rules) = rules.or_else(|| folders.then(|| holds_ruling_files(&path.path)).flatten()) {
            (effect, reason) = (Effect::Admin, Some(rules.to_owned()));
        }
    }
    let mut names: Vec<&str> = paths.iter().map(|path| path.path.as_str()).collect();
    names.dedup();
    let text = format!("{kind} {}", names.join(" "));
    SshOperation { kind, effect, reason, text, command_line: None, paths, literal: true, target: None }
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
    /// Paths, and objects of databases and Kubernetes, that it touches.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        let paths = self.paths.iter().map(|path| path.path.clone());
        let statements = self.statements.iter();
        let objects = statements.flat_map(|statement| statement.writes.iter().chain(&statement.reads));
        let requests = self.requests.iter().map(Request::object);
        paths.chain(objects.map(ObjectName::qualified)).chain(requests).collect()
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

/// Whether the value of an environment variable (an `env` request, RFC 4254 §6.4) runs nothing when a line evaluates it: shells
/// evaluate what variables hold in arithmetic, in prompts and in `${x@P}`, and old ones take a function from a value.
#[must_use]
pub fn variable_is_plain(value: &str) -> bool {
    !["$(", "${", "`", "()", "<(", "\0"].iter().any(|part| value.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_on_a_terminal_can_do_anything() {
        for line in ["less /var/log/syslog", "git log", "ls; systemctl status x", "sudo journalctl -u x"] {
            assert_eq!(exec(line.as_bytes()).effect, Effect::Read, "{line}");
            assert_eq!(exec_on_terminal(line.as_bytes()).effect, Effect::Unknown, "{line}");
        }
        for line in ["git --no-pager log", "ls -la", "top -b -n 1"] {
            assert_eq!(exec_on_terminal(line.as_bytes()).effect, Effect::Read, "{line}");
        }
    }

    #[test]
    fn a_transfer_whose_files_are_judged_begins_as_nothing_and_not_on_a_terminal() {
        for line in ["scp -t /etc", "scp -r -f /srv", "/usr/lib/openssh/sftp-server"] {
            let operation = exec(line.as_bytes());
            assert_eq!((operation.effect, operation.objects().len()), (Effect::Read, 0), "{line}");
            let terminal = exec_on_terminal(line.as_bytes());
            assert_eq!(terminal.effect, Effect::Unknown, "{line}");
            assert_eq!(terminal.command_line.unwrap().transfer, None, "{line}");
        }
        for typed in ["scp -t /srv", "rsync --server . /srv", "git-receive-pack x"] {
            assert_eq!(line(typed, None).effect, Effect::Unknown, "{typed}");
        }
        assert!(exec(b"sudo scp -t /etc").effect > Effect::Write);
        assert_eq!(exec(b"rsync --server . /srv").effect, Effect::Write);
    }

    #[test]
    fn a_shell_on_a_terminal_is_one() {
        for line in
            ["bash", "bash -l", "sudo -i", "su - root", "sudo bash", "ls; sh", "ssh db-1", "env bash -i"]
        {
            assert_eq!(exec_on_terminal(line.as_bytes()).kind, OperationKind::Shell, "{line}");
            assert_eq!(exec(line.as_bytes()).kind, OperationKind::Exec, "{line}");
        }
        assert_eq!(exec_on_terminal(b"bash -c ls").kind, OperationKind::Exec);
    }

    #[test]
    fn values_that_would_run_something_are_not_plain() {
        for value in ["", "C.UTF-8", "xterm-256color", "en_US.UTF-8:en", "$5", "a[0]"] {
            assert!(variable_is_plain(value), "{value}");
        }
        for value in ["$(id)", "a[$(id)]", "`id`", "${x@P}", "() { :; }; id", "a\0b", "x<(id)"] {
            assert!(!variable_is_plain(value), "{value}");
        }
    }
}
