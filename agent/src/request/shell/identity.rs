//! Programs that run a command as another account or with another environment.

use super::folder::moves;
use super::options::Options;
use super::run::Stdin;
use super::variables::changes_what_runs;
use super::walk::Walk;
use super::wrappers::{SHELL, STRANGE_OPTION, inside};
use crate::request::Effect;

/// Options of sudo that take a value (sudo(8)).
const SUDO_VALUES: [&str; 9] = [
    "--close-from",
    "--command-timeout",
    "--group",
    "--host",
    "--other-user",
    "--prompt",
    "--role",
    "--type",
    "--user",
];

const SUDO_FLAGS: [&str; 14] = [
    "--background",
    "--bell",
    "--edit",
    "--list",
    "--login",
    "--help",
    "--no-update",
    "--non-interactive",
    "--preserve-env",
    "--preserve-groups",
    "--remove-timestamp",
    "--reset-timestamp",
    "--set-home",
    "--shell",
];

/// `sudo` and `doas`.
pub(super) fn sudo(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) {
    let options = match program {
        "doas" => Options::new("nL", "u", &[], &[]),
        _ => Options::new("bBEeHiKklnNPSsVv", "CghpTtrUu", &SUDO_FLAGS, &SUDO_VALUES),
    };
    let Some(at) = options.skip(arguments) else {
        return walk.note(program, Effect::Unknown, Some(STRANGE_OPTION), argv);
    };
    let given = arguments.get(..at).unwrap_or_default();
    let has = |letters: &str, long: &str| {
        given.iter().flatten().any(|word| {
            let cluster = word.strip_prefix('-').filter(|cluster| !cluster.starts_with('-'));
            word == long || cluster.is_some_and(|cluster| cluster.contains(|letter| letters.contains(letter)))
        })
    };
    let mut rest = arguments.get(at..).unwrap_or_default();
    let begun = walk.commands.len();
    let mut changed = None;
    while let Some((Some(word), more)) = rest.split_first()
        && let Some((name, value)) = word.split_once('=')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        changed = changed.or(changes_what_runs(name, Some(value)));
        rest = more;
    }
    if has("e", "--edit") {
        return walk.note("sudoedit", Effect::Admin, Some("edits a file as another user"), argv);
    }
    if rest.is_empty() {
        let looks = (has("lvkKV", "--list") || given.iter().flatten().any(|word| word == "--help"))
            && !has("is", "--shell");
        return if looks {
            walk.note(program, Effect::Read, None, argv);
        } else {
            walk.note(SHELL, Effect::Unknown, Some("a shell of another user"), argv);
        };
    }
    // As whom it runs is part of what is done.
    let user = options.value(given, 'u', "--user").flatten();
    let through = user.map_or_else(|| program.to_owned(), |user| format!("{program} -u {user}"));
    inside(walk, &through, rest, stdin);
    if let Some(reason) = changed {
        walk.raise(begun, Effect::Unknown, reason);
    }
}

/// `env`.
pub(super) fn env(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let begun = walk.commands.len();
    let options = Options::new(
        "i0v",
        "uC",
        &["--ignore-environment", "--null", "--debug", "--version", "--help"],
        &["--unset", "--chdir"],
    );
    let Some(at) = options.skip(arguments) else {
        return walk.note("env", Effect::Unknown, Some(STRANGE_OPTION), argv);
    };
    let (given, mut rest) = arguments.split_at(at);
    let folder = options.value(given, 'C', "--chdir");
    if rest.first().is_some_and(|word| word.as_deref() == Some("-")) {
        rest = rest.get(1..).unwrap_or_default();
    }
    let mut changed = None;
    while let Some((first, more)) = rest.split_first() {
        let Some(word) = first else {
            let reason = "an argument is known to the running shell alone";
            return walk.note("env", Effect::Unknown, Some(reason), argv);
        };
        let Some((name, value)) = word.split_once('=') else { break };
        changed = changed.or(changes_what_runs(name, Some(value)));
        rest = more;
    }
    if rest.is_empty() {
        return walk.note("env", Effect::Read, None, argv);
    }
    let folders = walk.folders.clone();
    if folder.is_some() {
        moves(walk, "cd", &folder.into_iter().collect::<Vec<_>>());
    }
    inside(walk, "env", rest, stdin);
    walk.folders = folders;
    if let Some(reason) = changed {
        walk.raise(begun, Effect::Unknown, reason);
    }
}

/// `su` and `runuser`.
pub(super) fn su(walk: &mut Walk, program: &str, arguments: &[Option<String>], argv: &[Option<String>]) {
    let unknown = |walk: &mut Walk, reason| walk.note(program, Effect::Unknown, Some(reason), argv);
    let by_user =
        program == "runuser" && arguments.iter().flatten().any(|word| word == "-u" || word == "--user");
    if by_user {
        return match Options::new("", "ugG", &[], &["--user", "--group", "--supp-group"]).skip(arguments) {
            Some(at) if at < arguments.len() => {
                inside(walk, program, arguments.get(at..).unwrap_or_default(), &Stdin::Inherited);
            }
            Some(_) | None => unknown(walk, STRANGE_OPTION),
        };
    }
    let mut texts = Vec::new();
    let mut users = 0_usize;
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match word.as_deref() {
            Some("-" | "-l" | "-m" | "-p" | "-P" | "--login" | "--preserve-environment" | "--pty") => {}
            Some("-c" | "-lc" | "--command") => texts.push(rest.next().cloned().flatten()),
            Some("-s" | "--shell") => {
                let shell = rest.next().cloned().flatten().unwrap_or_default();
                if !["/bin/sh", "/bin/bash", "/usr/bin/bash", "/usr/bin/sh", "/bin/dash"]
                    .contains(&shell.as_str())
                {
                    return unknown(walk, "its shell is not understood");
                }
            }
            Some(word) if word.starts_with('-') => return unknown(walk, STRANGE_OPTION),
            Some(_) => users += 1,
            None => return unknown(walk, "its command is known to the running shell alone"),
        }
    }
    match texts.as_slice() {
        [Some(text)] if users <= 1 => walk.nested(text, program, &Stdin::Inherited),
        [] => walk.note(SHELL, Effect::Unknown, Some("a shell of another user"), argv),
        _ => unknown(walk, "its command is known to the running shell alone"),
    }
}
