//! Programs that run other programs: sudo, env, xargs, ssh, shells and their like.

use super::identity::{env, su, sudo};
use super::options::Options;
use super::remote::{container, ssh};
use super::run::{Invocation, Stdin, run};
use super::walk::Walk;
use crate::request::Effect;

/// Shells whose syntax is looked into.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Wrappers inside wrappers at most.
const THROUGH_MAX: usize = 16;

/// Kind of a command that is a shell which runs what the client sends.
pub(in crate::request) const SHELL: &str = "shell";

/// Why a wrapper's command is not looked for.
pub(super) const STRANGE_OPTION: &str = "an option of it is not known";

/// Wrappers with nothing but options, so many operands and then a command: what their options are.
fn simple_wrapper(program: &str) -> Option<(Options<'static>, usize)> {
    Some(match program {
        "nohup" | "builtin" | "busybox" | "toybox" => (Options::new("", "", &[], &[]), 0),
        "setsid" => (Options::new("cfw", "", &["--ctty", "--fork", "--wait"], &[]), 0),
        "chronic" => (Options::new("ev", "", &[], &[]), 0),
        "unbuffer" => (Options::new("p", "", &[], &[]), 0),
        "nice" => (Options::new("0123456789", "n", &[], &["--adjustment"]), 0),
        "ionice" => (Options::new("t", "cn", &["--ignore"], &["--class", "--classdata"]), 0),
        "stdbuf" => (Options::new("", "ioe", &[], &["--input", "--output", "--error"]), 0),
        "time" => (Options::new("pvq", "f", &["--portability", "--verbose", "--quiet"], &["--format"]), 0),
        "timeout" => (
            Options::new(
                "fpv",
                "ks",
                &["--preserve-status", "--foreground", "--verbose"],
                &["--kill-after", "--signal"],
            ),
            1,
        ),
        "exec" => (Options::new("cl", "a", &[], &[]), 0),
        _ => return None,
    })
}

/// Programs that run what their own words say. `false` when this is none.
pub(super) fn wrapper(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) -> bool {
    if let Some((options, operands)) = simple_wrapper(program) {
        match options.skip(arguments) {
            None => walk.note(program, Effect::Unknown, Some(STRANGE_OPTION), argv),
            Some(at) => match arguments.get(at + operands..).unwrap_or_default() {
                [] => walk.note(program, Effect::Read, None, argv),
                rest => inside(walk, program, rest, stdin),
            },
        }
        return true;
    }
    match program {
        "sudo" | "doas" => sudo(walk, program, arguments, argv, stdin),
        "sudoedit" => walk.note("sudoedit", Effect::Admin, Some("edits a file as another user"), argv),
        "env" => env(walk, arguments, argv, stdin),
        "command" => match arguments.first() {
            Some(Some(option)) if ["-v", "-V", "-pv", "-pV"].contains(&option.as_str()) => {
                walk.note("command", Effect::Read, None, argv)
            }
            _ => match Options::new("p", "", &[], &[]).skip(arguments) {
                Some(at) => inside(walk, "command", arguments.get(at..).unwrap_or_default(), stdin),
                None => walk.note("command", Effect::Unknown, Some(STRANGE_OPTION), argv),
            },
        },
        "su" | "runuser" => su(walk, program, arguments, argv),
        "eval" => {
            let text: Option<Vec<&str>> = arguments.iter().map(Option::as_deref).collect();
            match text {
                Some(words) => walk.line(&words.join(" "), stdin),
                None => walk.note(
                    "eval",
                    Effect::Unknown,
                    Some("evaluates what is known to the running shell alone"),
                    argv,
                ),
            }
        }
        "xargs" => xargs(walk, arguments, argv),
        "watch" => watch(walk, arguments, argv, stdin),
        "flock" => flock(walk, arguments, argv, stdin),
        "ssh" => ssh(walk, arguments, argv),
        "docker" | "podman" | "nerdctl" | "docker-compose" => {
            return container(walk, program, arguments, stdin);
        }
        _ if SHELLS.contains(&program) => shell(walk, program, arguments, argv, stdin),
        _ => return false,
    }
    true
}

/// Runs the rest under a wrapper.
pub(super) fn inside(walk: &mut Walk, through: &str, argv: &[Option<String>], stdin: &Stdin) {
    walk.through.push(through.to_owned());
    if walk.through.len() > THROUGH_MAX {
        walk.doubt("it nests too deeply to be looked into");
    } else {
        run(walk, Invocation { argv: argv.to_vec(), stdin: stdin.clone(), only_values: false });
    }
    walk.through.pop();
}

fn flock(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let options = Options::new(
        "sxenuoF",
        "wE",
        &["--shared", "--exclusive", "--nonblock", "--nb", "--unlock", "--close", "--no-fork", "--verbose"],
        &["--wait", "--timeout", "--conflict-exit-code"],
    );
    let Some(at) = options.skip(arguments) else {
        return walk.note("flock", Effect::Unknown, Some(STRANGE_OPTION), argv);
    };
    match arguments.get(at + 1..).unwrap_or_default() {
        [] => walk.note("flock", Effect::Read, None, argv),
        [Some(option), Some(text)] if option == "-c" || option == "--command" => {
            walk.nested(text, "flock", stdin);
        }
        rest => inside(walk, "flock", rest, stdin),
    }
}

fn xargs(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let options = Options::new(
        "0oprtx",
        "aEIdLnPs",
        &[
            "--null",
            "--no-run-if-empty",
            "--verbose",
            "--exit",
            "--interactive",
            "--open-tty",
            "--show-limits",
            "--replace",
        ],
        &["--arg-file", "--delimiter", "--max-args", "--max-chars", "--max-lines", "--max-procs"],
    );
    let Some((at, replaced)) = xargs_options(&options, arguments) else {
        return walk.note("xargs", Effect::Unknown, Some(STRANGE_OPTION), argv);
    };
    let rest = arguments.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return walk.note("xargs", Effect::Read, None, argv);
    }
    // What it puts in and adds, nobody here knows.
    let holds = |word: &str| replaced.iter().any(|text| word.contains(text.as_str()));
    let mut with_more: Vec<Option<String>> =
        rest.iter().map(|word| word.clone().filter(|word| !holds(word))).collect();
    with_more.push(None);
    inside(walk, "xargs", &with_more, &Stdin::Unknown);
}

/// Where the command of xargs begins, and the texts that it replaces. `None` for options that are not known.
fn xargs_options(options: &Options<'_>, arguments: &[Option<String>]) -> Option<(usize, Vec<String>)> {
    let mut replaced = Vec::new();
    let mut at = 0;
    while let Some(Some(word)) = arguments.get(at) {
        // Values of these stand in the same word or not at all: `-i{}`, `-l5`, `-eEOF`.
        if let Some(attached) = word.strip_prefix("-i") {
            replaced.push(if attached.is_empty() { "{}" } else { attached }.to_owned());
            at += 1;
            continue;
        }
        if word.starts_with("-l") || word.starts_with("-e") {
            at += 1;
            continue;
        }
        if let Some(value) = word.strip_prefix("--replace") {
            match value.strip_prefix('=') {
                Some(text) => replaced.push(text.to_owned()),
                None if value.is_empty() => replaced.push("{}".to_owned()),
                None => return None,
            }
            at += 1;
            continue;
        }
        let Some(step) = options.step(word)? else { break };
        let given = arguments.get(at..at + step).unwrap_or_default();
        match options.value(given, 'I', "--no-such-option") {
            Some(text) => replaced.push(text?),
            None if word.starts_with('-') && !word.starts_with("--") && word.contains('I') && step == 2 => {
                return None;
            }
            None => {}
        }
        at += step;
        if word == "--" {
            break;
        }
    }
    Some((at, replaced))
}

fn watch(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let options = Options::new(
        "bcdegptwrx",
        "nq",
        &[
            "--beep",
            "--color",
            "--differences",
            "--errexit",
            "--chgexit",
            "--no-title",
            "--no-wrap",
            "--precise",
        ],
        &["--interval", "--equexit"],
    );
    let at = options.skip(arguments).unwrap_or(arguments.len());
    let rest = arguments.get(at..).unwrap_or_default();
    let words: Option<Vec<&str>> = rest.iter().map(Option::as_deref).collect();
    match words {
        Some(words) if !words.is_empty() => walk.nested(&words.join(" "), "watch", stdin),
        Some(_) | None => {
            walk.note("watch", Effect::Unknown, Some("its command is known to the running shell alone"), argv)
        }
    }
}

/// `sh -c TEXT`, or a shell that reads its commands.
fn shell(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) {
    let mut at = 0;
    while let Some(Some(word)) = arguments.get(at) {
        if !word.starts_with(['-', '+']) || word == "-" {
            break;
        }
        at += 1;
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        if letters.is_some_and(|letters| letters.contains('c')) {
            return match arguments.get(at) {
                // Their own syntax runs commands where the others' does not: `*(e:'id':)`, `=ls`.
                Some(Some(text))
                    if matches!(program, "zsh" | "ksh") && text.contains(['(', '=', '~', '^', '{']) =>
                {
                    walk.doubt("another shell may read this otherwise");
                }
                Some(Some(text)) => walk.nested(text, &format!("{program} -c"), stdin),
                Some(None) | None => {
                    walk.note(
                        program,
                        Effect::Unknown,
                        Some("its command is known to the running shell alone"),
                        argv,
                    );
                }
            };
        }
        match word.as_str() {
            "--version" | "--help" => return walk.note(program, Effect::Read, None, argv),
            "--rcfile" | "--init-file" => {
                return walk.note(program, Effect::Unknown, Some("runs a file nobody looked into"), argv);
            }
            // A value follows.
            "-o" | "+o" | "-O" | "+O" => at += 1,
            _ => {}
        }
    }
    let reads_stdin = arguments.get(at).is_none_or(|word| word.as_deref() == Some("-"))
        || arguments.iter().flatten().take(at).any(|word| word == "-s");
    match (reads_stdin, stdin) {
        (true, Stdin::Text(text)) => walk.nested(&text.clone(), program, &Stdin::Inherited),
        (true, Stdin::Fetched) => {
            walk.note("curl | sh", Effect::Unknown, Some("runs what it fetched from elsewhere"), argv);
        }
        (true, Stdin::Inherited) => walk.note(SHELL, Effect::Unknown, Some("runs what it reads"), argv),
        (true, Stdin::Unknown) => walk.note(program, Effect::Unknown, Some("runs what it reads"), argv),
        (false, _) => walk.note(program, Effect::Unknown, Some("runs a file nobody looked into"), argv),
    }
}
