//! Whether a guard speaks of an operation. What cannot be told may restrain, and never permits.

use super::super::{Match, Stance};
use super::Unit;
use super::files::matches_files;
use crate::policy::rule::{CommandPattern, Guard, Protocol, SshWhen};
use crate::request::Effect;
use crate::request::kubernetes::Request;
use crate::request::shell::Command;
use crate::request::ssh::OperationKind;

/// Characters by which a shell makes several paths of one word.
pub(super) const WILDCARDS: [char; 4] = ['*', '?', '[', '{'];

impl Guard {
    pub(super) fn matches_ssh(&self, unit: &Unit<'_>) -> Match {
        let Unit { asked, effect, who, .. } = *unit;
        let stance = Stance::of(&self.action);
        let when = &self.when;
        let SshWhen { operations, targets, users, .. } = &when.ssh;
        let kind = asked.operation.kind;
        let target = asked.operation.target.as_deref();
        let certain = self.on == Protocol::Ssh
            && (when.effects.is_empty() || when.effects.contains(&effect))
            && (effect != Effect::Unknown || stance == Stance::Restrains || self.means_unknown(unit))
            && (when.connections.is_empty() || when.connections.iter().any(|name| name == asked.connection))
            && who.meets(when)
            && (operations.contains(&kind)
                || operations.is_empty() && (stance == Stance::Restrains || !leads_away(kind)))
            && (targets.is_empty()
                || target.is_some_and(|target| targets.iter().any(|glob| glob.is_match(target))))
            && (users.is_empty() || users.iter().any(|glob| glob.is_match(asked.user)));
        if !certain || (stance == Stance::Permits && self.is_elsewhere(unit)) {
            return Match::No;
        }
        let command = unit.command;
        self.matches_kind(unit)
            .min(matches_program(&when.ssh, command, stance))
            .min(matches_command(&when.ssh, command, stance))
            .min(matches_files(&when.ssh, unit, stance))
    }

    fn matches_kind(&self, unit: &Unit<'_>) -> Match {
        let kinds = &self.when.kinds;
        if kinds.is_empty() {
            return Match::Yes;
        }
        let named = |kind: &str| kinds.iter().any(|glob| glob.is_match(kind));
        let Some(command) = unit.command else {
            return named(unit.asked.operation.kind.as_str()).into();
        };
        let statements = || command.statements.iter().map(|statement| statement.kind.as_str());
        let asked = |request: &Request| named(&request.kind());
        match Stance::of(&self.action) {
            Stance::Restrains => {
                (named(&command.kind) || statements().any(named) || command.requests.iter().any(asked)).into()
            }
            // An allow has to speak of every statement that the command hands to a database. Of a command that asks a
            // Kubernetes server it names the command, or every request; files are none of these.
            Stance::Permits => {
                let requests = !command.requests.is_empty() && command.paths.is_empty();
                let all = requests && command.requests.iter().all(asked);
                ((named(&command.kind) || all) && statements().all(named)).into()
            }
        }
    }

    /// Whether an allow guard speaks of what nobody can see through: it lists `unknown`, or names the whole command.
    fn means_unknown(&self, unit: &Unit<'_>) -> bool {
        if self.when.effects.contains(&Effect::Unknown) {
            return true;
        }
        let Some(command) = unit.command else {
            // A subsystem or a shell that is named is meant.
            return !self.when.ssh.targets.is_empty() || !self.when.ssh.operations.is_empty();
        };
        // Where the line as a whole was not understood, its parts prove nothing.
        let opaque = unit.asked.operation.command_line.as_ref().is_some_and(|line| line.opaque.is_some());
        !opaque
            && command.effect == Effect::Unknown
            && !self.when.ssh.commands.is_empty()
            && command.arguments.iter().all(Option::is_some)
    }

    /// Whether the command runs on another host, in a container, or as another user, where a guard that names programs,
    /// commands, kinds or files does not mean it. `command` may name sudo itself.
    fn is_elsewhere(&self, unit: &Unit<'_>) -> bool {
        let Some(command) = unit.command else { return false };
        let ssh = &self.when.ssh;
        let names = !ssh.programs.is_empty() || !ssh.commands.is_empty() || !ssh.files.is_empty();
        let away = command.through.iter().any(|word| word.starts_with("ssh ") || word.ends_with(" exec"));
        let as_another = command.through.iter().any(|word| elevates(word));
        (names || !self.when.kinds.is_empty()) && (away || (as_another && ssh.commands.is_empty()))
    }
}

/// What leads away from the server's commands and files: an allow has to name it.
fn leads_away(kind: OperationKind) -> bool {
    match kind {
        OperationKind::DirectTcpip
        | OperationKind::TcpipForward
        | OperationKind::DirectStreamlocal
        | OperationKind::StreamlocalForward
        | OperationKind::AgentForwarding
        | OperationKind::X11 => true,
        OperationKind::Exec
        | OperationKind::Shell
        | OperationKind::Line
        | OperationKind::Subsystem
        | OperationKind::Download
        | OperationKind::Upload
        | OperationKind::Remove
        | OperationKind::Rename
        | OperationKind::Setstat
        | OperationKind::Link
        | OperationKind::Mkdir
        | OperationKind::Stat
        | OperationKind::Env
        | OperationKind::Pty => false,
    }
}

/// Whether a wrapper makes its command another user's.
fn elevates(through: &str) -> bool {
    let program = through.split(' ').next().unwrap_or_default();
    matches!(program, "sudo" | "doas" | "su" | "runuser")
}

fn matches_program(when: &SshWhen, command: Option<&Command>, stance: Stance) -> Match {
    if when.programs.is_empty() {
        return Match::Yes;
    }
    match command.map(|command| command.program.as_deref()) {
        Some(Some(program)) => when.programs.iter().any(|glob| glob.is_match(program)).into(),
        Some(None) => doubt(stance),
        None => Match::No,
    }
}

fn matches_command(when: &SshWhen, command: Option<&Command>, stance: Stance) -> Match {
    if when.commands.is_empty() {
        return Match::Yes;
    }
    let Some(command) = command else { return Match::No };
    let Some(program) = command.program.as_deref() else { return doubt(stance) };
    let known: Vec<&str> = command.arguments.iter().map_while(Option::as_deref).collect();
    let whole = known.len() == command.arguments.len();
    let plain = std::iter::once(program).chain(known).collect::<Vec<_>>();
    match stance {
        Stance::Permits => (whole && permits(&when.commands, command, &plain)).into(),
        Stance::Restrains if whole => {
            let line = plain.join(" ");
            let elevated = format!("sudo {line}");
            let named = |pattern: &CommandPattern| pattern.is_match(&line) || pattern.is_match(&elevated);
            when.commands.iter().any(named).into()
        }
        // Only the running shell knows the rest: whatever begins with another program is not meant.
        Stance::Restrains => {
            let may_be = |word: &str| word == program || word.contains(WILDCARDS);
            let perhaps = when.commands.iter().any(|pattern| {
                let first = pattern.words().find(|word| !elevates(word));
                first.is_none_or(may_be)
            });
            if perhaps { doubt(stance) } else { Match::No }
        }
    }
}

/// Whether a pattern of an allow guard names this very command: sudo is written in front, and every option is written out,
/// because what an option does nobody knows who wrote a `*`.
fn permits(patterns: &[CommandPattern], command: &Command, plain: &[&str]) -> bool {
    let above: Vec<&str> = command.through.iter().map(String::as_str).filter(|word| elevates(word)).collect();
    let words: Vec<&str> = match above.as_slice() {
        [] => plain.to_vec(),
        [sudo] => sudo.split(' ').chain(plain.iter().copied()).collect(),
        _ => return false,
    };
    let line = words.join(" ");
    let options = || words.iter().skip(1).filter(|word| word.starts_with('-') && word.len() > 1);
    patterns
        .iter()
        .any(|pattern| pattern.is_match(&line) && options().all(|option| pattern.has_option(option)))
}

/// What cannot be told may restrain, and never permits.
pub(super) fn doubt(stance: Stance) -> Match {
    match stance {
        Stance::Restrains => Match::Perhaps,
        Stance::Permits => Match::No,
    }
}
