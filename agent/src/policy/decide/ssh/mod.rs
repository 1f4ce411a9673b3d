//! The decision on one SSH operation. A command line is judged command by command, as a message is statement by statement:
//! the strictest verdict on any of them counts.

use super::{describe_text, stricter};
use crate::policy::DEFAULT_RULE;
use crate::policy::rule::{Guard, Interactive, Limits, Policy, SshRules, Verdict, Who};
use crate::request::Effect;
use crate::request::shell::Command;
use crate::request::ssh::{Access, OperationKind, SshOperation};

mod files;
mod matching;

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
    who: Who<'a>,
}

impl Policy {
    /// What this policy says of an operation: the strictest verdict on any of its commands. What leads away from the
    /// server's commands and files (forwards, the agent's keys, a display) is denied when no guard speaks of it; an
    /// interactive shell is what its connection says.
    pub fn decide_ssh(&self, asked: &SshAsked<'_>, who: Who<'_>) -> Verdict {
        let operation = asked.operation;
        if let Some(verdict) = no_shell(self, asked) {
            return verdict;
        }
        let line = operation.command_line.as_ref();
        let commands = line.map(|line| line.commands.as_slice()).unwrap_or_default();
        // Something of the line was not understood, so that what its commands are rests on nothing.
        let opaque = line.is_some_and(|line| line.opaque.is_some());
        let verdict = |command: Option<&Command>| {
            let effect = match command {
                Some(command) if !opaque => command.effect,
                Some(_) | None => operation.effect,
            };
            self.judge_unit(&Unit { asked, command, effect, who })
        };
        let each = commands.iter().map(|command| verdict(Some(command)));
        let verdict = each.reduce(stricter).unwrap_or_else(|| verdict(None));
        match (verdict.rule() == DEFAULT_RULE, without_a_guard(asked)) {
            (true, Some(unguarded)) => {
                self.in_mode(unguarded.verdict(self, asked)).noting(verdict.shadow().cloned())
            }
            (true | false, _) => verdict,
        }
    }

    fn judge_unit(&self, unit: &Unit<'_>) -> Verdict {
        let matches = |guard: &Guard| guard.matches_ssh(unit);
        self.first_match(unit.effect, &matches, &|| describe(unit))
    }
}

/// Where the connection has no interactive shells, there are none, whatever guards say.
fn no_shell(policy: &Policy, asked: &SshAsked<'_>) -> Option<Verdict> {
    let shell = matches!(asked.operation.kind, OperationKind::Shell | OperationKind::Line);
    (shell && asked.rules.interactive == Interactive::Deny).then(|| Verdict::Deny {
        rule: "interactive".to_owned(),
        reason: format!("policy \"{}\" allows no interactive shell on this connection", policy.name),
        hint: Some("give the command on the command line: ssh HOST COMMAND".to_owned()),
    })
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
            // Its lines are judged one by one, or not at all, as the connection says.
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
            Self::Allow => Verdict::Allow { rule, limits: Limits::default(), shadow: None },
            Self::Deny => Verdict::Deny {
                rule,
                reason: format!(
                    "{} is denied: no guard of policy \"{}\" allows it",
                    describe(&Unit {
                        asked,
                        command: None,
                        effect: asked.operation.effect,
                        who: Who::in_groups(&[])
                    }),
                    policy.name
                ),
                hint: Some(policy.hint()),
            },
        }
    }
}

/// `rm -rf of "/srv/app" (ddl)`: never the whole command line, whose words may be secrets.
fn describe(unit: &Unit<'_>) -> String {
    let operation = unit.asked.operation;
    let (kind, paths, reason) = match unit.command {
        Some(command) => (command.kind.as_str(), command.paths.as_slice(), command.reason.as_ref()),
        None => (operation.kind.as_str(), operation.paths.as_slice(), operation.reason.as_ref()),
    };
    let target = operation.target.iter().filter(|_| unit.command.is_none()).map(String::as_str);
    let places: Vec<&str> = paths.iter().map(|path| path.path.as_str()).chain(target).collect();
    let places = match places.as_slice() {
        [] => String::new(),
        places => format!(" of {}", describe_text(&places.join(", "))),
    };
    let because = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{}{places} ({}{because})", describe_text(kind), unit.effect)
}

impl Access {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Remove];
}

#[cfg(test)]
mod tests;
