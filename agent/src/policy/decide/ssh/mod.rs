//! The decision on one SSH operation. A command line is judged command by command, as a message is statement by statement:
//! the strictest verdict on any of them counts.

use super::{Match, Stance, describe_text, stricter};
use crate::policy::DEFAULT_RULE;
use crate::policy::rule::{Guard, Interactive, Policy, Protocol, SshRules, SshWhen, Verdict};
use crate::request::Effect;
use crate::request::shell::Command;
use crate::request::ssh::{Access, OperationKind, PathUse, SshOperation};

/// One operation to be judged.
#[derive(Clone, Copy, Debug)]
pub struct SshAsked<'a> {
    /// Name of the connection it came on.
    pub connection: &'a str,
    /// What its clients may have.
    pub rules: &'a SshRules,
    /// Account on the server.
    pub user: &'a str,
    /// What is asked.
    pub operation: &'a SshOperation,
}

/// A command of the operation, or the operation itself where it has none.
#[derive(Clone, Copy)]
struct Unit<'a> {
    asked: &'a SshAsked<'a>,
    command: Option<&'a Command>,
    effect: Effect,
    groups: &'a [String],
}

impl Policy {
    /// What this policy says of an operation: the strictest verdict on any of its commands. What leads away from the
    /// server's commands and files (forwards, the agent's keys, a display) is denied when no guard speaks of it; an
    /// interactive shell is what its connection says.
    pub fn decide_ssh(&self, asked: &SshAsked<'_>, subject_groups: &[String]) -> Verdict {
        let operation = asked.operation;
        let commands =
            operation.command_line.as_ref().map(|line| line.commands.as_slice()).unwrap_or_default();
        let highest = commands.iter().map(|command| command.effect).max();
        // Something of the line was not understood, so that what its commands are rests on nothing.
        let disputed = highest.is_none_or(|highest| operation.effect > highest);
        let verdict = |command: Option<&Command>| {
            let effect = match command {
                Some(command) if !disputed => command.effect,
                Some(_) | None => operation.effect,
            };
            self.judge_unit(&Unit { asked, command, effect, groups: subject_groups })
        };
        let each = commands.iter().map(|command| verdict(Some(command)));
        let verdict = each.reduce(stricter).unwrap_or_else(|| verdict(None));
        match (verdict.rule() == DEFAULT_RULE, without_a_guard(asked)) {
            (true, Some(unguarded)) => unguarded.verdict(self, asked),
            (true | false, _) => verdict,
        }
    }

    fn judge_unit(&self, unit: &Unit<'_>) -> Verdict {
        let matches = |guard: &Guard| guard.matches_ssh(unit);
        self.first_match(unit.effect, &matches, &|| describe(unit))
    }
}

/// What is decided by the connection where no guard speaks.
#[derive(Clone, Copy)]
enum Unguarded {
    Allow,
    Deny,
}

fn without_a_guard(asked: &SshAsked<'_>) -> Option<Unguarded> {
    match asked.operation.kind {
        OperationKind::Shell => match asked.rules.interactive {
            Interactive::Deny => Some(Unguarded::Deny),
            Interactive::Record | Interactive::LineGuard => Some(Unguarded::Allow),
        },
        OperationKind::DirectTcpip
        | OperationKind::TcpipForward
        | OperationKind::DirectStreamlocal
        | OperationKind::StreamlocalForward => Some(Unguarded::Deny),
        // Asked about only where the connection allows them.
        OperationKind::AgentForwarding | OperationKind::X11 => Some(Unguarded::Allow),
        OperationKind::Exec
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
        | OperationKind::Pty => None,
    }
}

impl Unguarded {
    fn verdict(self, policy: &Policy, asked: &SshAsked<'_>) -> Verdict {
        let rule = DEFAULT_RULE.to_owned();
        match self {
            Self::Allow => Verdict::Allow { rule },
            Self::Deny => Verdict::Deny {
                rule,
                reason: format!(
                    "{} is denied: no guard of policy \"{}\" allows it",
                    describe_text(&asked.operation.text),
                    policy.name
                ),
                hint: Some(policy.hint()),
            },
        }
    }
}

impl Guard {
    fn matches_ssh(&self, unit: &Unit<'_>) -> Match {
        let Unit { asked, command, effect, groups } = *unit;
        let stance = Stance::of(&self.action);
        let when = &self.when;
        let SshWhen { operations, targets, users, .. } = &when.ssh;
        let target = asked.operation.target.as_deref();
        let certain = self.on == Protocol::Ssh
            && (when.effects.is_empty() || when.effects.contains(&effect))
            && (effect != Effect::Unknown || stance == Stance::Restrains || self.names_unknown_command(unit))
            && (when.connections.is_empty() || when.connections.iter().any(|name| name == asked.connection))
            && (when.groups.is_empty() || when.groups.iter().any(|group| groups.contains(group)))
            && (operations.is_empty() || operations.contains(&asked.operation.kind))
            && (targets.is_empty()
                || target.is_some_and(|target| targets.iter().any(|glob| glob.is_match(target))))
            && (users.is_empty() || users.iter().any(|glob| glob.is_match(asked.user)));
        if !certain {
            return Match::No;
        }
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
        match Stance::of(&self.action) {
            Stance::Restrains => (named(&command.kind) || statements().any(named)).into(),
            // An allow has to speak of every statement that the command hands to a database.
            Stance::Permits => (named(&command.kind) && statements().all(named)).into(),
        }
    }

    /// Whether an allow guard speaks of what nobody can see through: it lists `unknown`, or names the whole command.
    fn names_unknown_command(&self, unit: &Unit<'_>) -> bool {
        if self.when.effects.contains(&Effect::Unknown) {
            return true;
        }
        let Some(command) = unit.command else {
            // A subsystem or a shell that is named is meant.
            return !self.when.ssh.targets.is_empty() || !self.when.ssh.operations.is_empty();
        };
        // The line as a whole was not understood: its parts prove nothing.
        if command.effect != Effect::Unknown {
            return false;
        }
        !self.when.ssh.commands.is_empty() && command.arguments.iter().all(Option::is_some)
    }
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
    let line = std::iter::once(program).chain(known.iter().copied()).collect::<Vec<_>>().join(" ");
    if known.len() == command.arguments.len() {
        return when.commands.iter().any(|glob| glob.is_match(&line)).into();
    }
    // Only the running shell knows the rest: whatever begins with another program is not meant.
    let perhaps = when.commands.iter().any(|glob| {
        let first = glob.glob().glob().split(' ').next().unwrap_or_default();
        first == program || first.contains(['*', '?', '[', '{'])
    });
    if perhaps { doubt(stance) } else { Match::No }
}

fn matches_files(when: &SshWhen, unit: &Unit<'_>, stance: Stance) -> Match {
    if when.files.is_empty() && when.access.is_empty() {
        return Match::Yes;
    }
    let own = unit.command.map(|command| command.paths.as_slice());
    let paths = own.unwrap_or(&unit.asked.operation.paths);
    let dynamic = unit.command.is_some_and(|command| command.arguments.iter().any(Option::is_none));
    let each = paths.iter().map(|path| matches_file(when, path, stance));
    let known = match stance {
        Stance::Permits => each.min().unwrap_or(Match::No),
        Stance::Restrains => each.max().unwrap_or(Match::No),
    };
    match (stance, dynamic) {
        (Stance::Permits, true) => Match::No,
        (Stance::Restrains, true) => known.max(Match::Perhaps),
        (Stance::Permits | Stance::Restrains, false) => known,
    }
}

fn matches_file(when: &SshWhen, path: &PathUse, stance: Stance) -> Match {
    if !when.access.is_empty() && !when.access.contains(&path.access) {
        return Match::No;
    }
    if when.files.is_empty() || when.files.iter().any(|glob| glob.is_match(&path.path)) {
        return Match::Yes;
    }
    let absolute = path.path.starts_with('/') && !path.path.contains("/../") && !path.path.ends_with("/..");
    if absolute && !path.path.contains(['*', '?', '[']) {
        return Match::No;
    }
    // Relative to a folder that nobody here knows, or a glob of the server's shell: its last part is all there is.
    let name = path.path.rsplit('/').next().unwrap_or_default();
    let perhaps = name.contains(['*', '?', '['])
        || when.files.iter().any(|glob| {
            let last = glob.glob().glob().rsplit('/').next().unwrap_or_default();
            last.contains('*') || last == name
        });
    if perhaps { doubt(stance) } else { Match::No }
}

/// What cannot be told may restrain, and never permits.
fn doubt(stance: Stance) -> Match {
    match stance {
        Stance::Restrains => Match::Perhaps,
        Stance::Permits => Match::No,
    }
}

/// `rm -rf /srv (rm -rf, ddl)`.
fn describe(unit: &Unit<'_>) -> String {
    let operation = unit.asked.operation;
    let Some(command) = unit.command else {
        return format!("{} ({})", describe_text(&operation.text), unit.effect);
    };
    let because = command.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let kind = command.kind.escape_debug();
    format!("{} ({kind}, {}{because})", describe_text(&operation.text), unit.effect)
}

impl Access {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Remove];
}

#[cfg(test)]
mod tests;
