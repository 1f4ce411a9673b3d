//! Programs that run other programs: sudo, env, xargs, ssh, shells and their like.

use super::run::{Invocation, Stdin, run};
use super::variables::changes_what_runs;
use super::walk::Walk;
use crate::request::Effect;

/// Shells whose syntax is looked into.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Kind of a command that is a shell which runs what the client sends.
pub(in crate::request) const SHELL: &str = "shell";

/// Programs that run what their own words say. `false` when this is none.
pub(super) fn wrapper(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) -> bool {
    let plain: Option<(&[&str], usize)> = match program {
        "nohup" | "setsid" | "builtin" | "chronic" | "busybox" | "toybox" | "unbuffer" => Some((&[], 0)),
        "nice" => Some((&["-n", "--adjustment"], 0)),
        "ionice" => Some((&["-c", "-n", "--class", "--classdata"], 0)),
        "stdbuf" => Some((&["-i", "-o", "-e", "--input", "--output", "--error"], 0)),
        "time" => Some((&["-f", "-o", "--format", "--output"], 0)),
        "timeout" => Some((&["-k", "-s", "--kill-after", "--signal"], 1)),
        "exec" => Some((&["-a"], 0)),
        _ => None,
    };
    if let Some((values, operands)) = plain {
        let rest = after_options(arguments, values, operands);
        if rest.is_empty() {
            walk.note(program, Effect::Read, None, argv);
        } else {
            inside(walk, program, rest, stdin);
        }
        return true;
    }
    match program {
        "sudo" | "doas" => sudo(walk, program, arguments, argv, stdin),
        "sudoedit" => walk.note("sudoedit", Effect::Admin, Some("edits a file as another user"), argv),
        "env" => env(walk, arguments, argv, stdin),
        "command" => match arguments.first() {
            Some(Some(option)) if option == "-v" || option == "-V" => {
                walk.note("command", Effect::Read, None, argv)
            }
            _ => inside(walk, "command", after_options(arguments, &[], 0), stdin),
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
        "flock" => {
            let rest = after_options(arguments, &["-w", "-E", "--timeout"], 1);
            match rest.split_first() {
                Some((Some(option), [Some(text), ..])) if option == "-c" => walk.nested(text, "flock", stdin),
                Some(_) => inside(walk, "flock", rest, stdin),
                None => walk.note("flock", Effect::Read, None, argv),
            }
        }
        "ssh" => ssh(walk, arguments, argv),
        "docker" | "podman" | "nerdctl" | "docker-compose" => {
            return container(walk, program, arguments, stdin);
        }
        "kubectl" | "oc" | "k" => return pod(walk, program, arguments, stdin),
        _ if SHELLS.contains(&program) => shell(walk, program, arguments, argv, stdin),
        _ => return false,
    }
    true
}

/// Runs the rest under a wrapper.
fn inside(walk: &mut Walk, through: &str, argv: &[Option<String>], stdin: &Stdin) {
    walk.through.push(through.to_owned());
    if walk.through.len() > 16 {
        walk.doubt("it nests too deeply to be looked into");
    } else {
        run(walk, Invocation { argv: argv.to_vec(), stdin: stdin.clone() });
    }
    walk.through.pop();
}

/// The words after options (and the values some of them take) and after so many operands.
fn after_options<'a>(
    arguments: &'a [Option<String>],
    values: &[&str],
    operands: usize,
) -> &'a [Option<String>] {
    let mut at = 0;
    while let Some(Some(word)) = arguments.get(at) {
        if word == "--" {
            at += 1;
            break;
        }
        if !word.starts_with('-') || word == "-" {
            break;
        }
        at += if values.contains(&word.as_str()) { 2 } else { 1 };
    }
    arguments.get(at + operands..).unwrap_or_default()
}

fn sudo(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) {
    let values =
        ["-u", "-g", "-h", "-p", "-C", "-r", "-t", "-U", "-T", "-D", "-R", "--user", "--group", "--chdir"];
    let has = |wanted: &[&str]| {
        arguments
            .iter()
            .flatten()
            .take_while(|word| word.starts_with('-'))
            .any(|word| wanted.contains(&word.as_str()))
    };
    let mut rest = after_options(arguments, &values, 0);
    let begun = walk.commands.len();
    let mut changed = None;
    while let Some((Some(word), more)) = rest.split_first()
        && let Some((name, value)) = word.split_once('=')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        changed = changed.or(changes_what_runs(name, Some(value)));
        rest = more;
    }
    if has(&["-e", "--edit"]) {
        return walk.note("sudoedit", Effect::Admin, Some("edits a file as another user"), argv);
    }
    let options = arguments.get(..arguments.len() - rest.len()).unwrap_or_default();
    if options.iter().any(|word| word.is_none())
        || has(&["-R", "--chroot", "-s", "--shell"]) && !rest.is_empty()
    {
        return walk.note(program, Effect::Unknown, Some("an option of it changes what is run"), argv);
    }
    if rest.is_empty() {
        let looks = has(&["-l", "-v", "-k", "-K", "-V", "--list", "--version"]);
        return if looks {
            walk.note(program, Effect::Read, None, argv);
        } else {
            walk.note(SHELL, Effect::Unknown, Some("a shell of another user"), argv);
        };
    }
    inside(walk, &as_user(program, options), rest, stdin);
    if let Some(reason) = changed {
        walk.raise(begun, Effect::Unknown, reason);
    }
}

/// `sudo`, or `sudo -u USER`.
fn as_user(program: &str, options: &[Option<String>]) -> String {
    let mut words = options.iter().flatten();
    while let Some(word) = words.next() {
        let attached =
            word.strip_prefix("-u").or_else(|| word.strip_prefix("--user=")).filter(|user| !user.is_empty());
        let user = match word.as_str() {
            "-u" | "--user" => words.next().map(String::as_str),
            _ => attached,
        };
        if let Some(user) = user {
            return format!("{program} -u {user}");
        }
    }
    program.to_owned()
}

fn env(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let begun = walk.commands.len();
    let mut rest = arguments;
    let mut changed = None;
    while let Some((first, more)) = rest.split_first() {
        let Some(word) = first else {
            return walk.note(
                "env",
                Effect::Unknown,
                Some("an argument is known to the running shell alone"),
                argv,
            );
        };
        let cluster = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        if word.starts_with("--s") || cluster.is_some_and(|letters| letters.contains('S')) {
            return walk.note("env", Effect::Unknown, Some("splits a text into a command"), argv);
        }
        if ["-u", "-C", "--unset", "--chdir"].contains(&word.as_str()) {
            rest = more.get(1..).unwrap_or_default();
        } else if word.starts_with('-') {
            rest = more;
        } else if let Some((name, value)) = word.split_once('=') {
            changed = changed.or(changes_what_runs(name, Some(value)));
            rest = more;
        } else {
            break;
        }
    }
    if rest.is_empty() {
        return walk.note("env", Effect::Read, None, argv);
    }
    inside(walk, "env", rest, stdin);
    if let Some(reason) = changed {
        walk.raise(begun, Effect::Unknown, reason);
    }
}

fn su(walk: &mut Walk, program: &str, arguments: &[Option<String>], argv: &[Option<String>]) {
    let at = arguments.iter().position(|word| {
        word.as_deref().is_some_and(|word| {
            word == "-c"
                || word == "--command"
                || (word.starts_with('-') && !word.starts_with("--") && word.ends_with('c'))
        })
    });
    match at.and_then(|at| arguments.get(at + 1)) {
        Some(Some(text)) => walk.nested(text, program, &Stdin::Inherited),
        Some(None) => {
            walk.note(program, Effect::Unknown, Some("its command is known to the running shell alone"), argv)
        }
        None if program == "runuser" && arguments.iter().flatten().any(|word| word == "-u") => {
            inside(walk, program, after_options(arguments, &["-u", "--user"], 0), &Stdin::Inherited);
        }
        None => walk.note(SHELL, Effect::Unknown, Some("a shell of another user"), argv),
    }
}

fn xargs(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let values = [
        "-I",
        "-n",
        "-P",
        "-L",
        "-d",
        "-E",
        "-s",
        "-a",
        "--max-args",
        "--max-procs",
        "--delimiter",
        "--arg-file",
    ];
    let rest = after_options(arguments, &values, 0);
    if rest.is_empty() {
        return walk.note("xargs", Effect::Read, None, argv);
    }
    let options = arguments.get(..arguments.len() - rest.len()).unwrap_or_default();
    let Some(replaced) = replaced(options) else {
        return walk.note(
            "xargs",
            Effect::Unknown,
            Some("its words are known to the running shell alone"),
            argv,
        );
    };
    // What it puts in and adds, nobody here knows.
    let stays = |word: &String| !replaced.iter().any(|text| word.contains(text.as_str()));
    let mut with_more: Vec<Option<String>> = rest.iter().map(|word| word.clone().filter(stays)).collect();
    with_more.push(None);
    inside(walk, "xargs", &with_more, &Stdin::Unknown);
}

/// Texts that xargs puts its input in the place of (`-I`, `-i`, `--replace`); `None` when nobody knows them.
fn replaced(options: &[Option<String>]) -> Option<Vec<String>> {
    let mut texts = vec!["{}".to_owned()];
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let word = word.as_deref()?;
        if let Some(text) = word.strip_prefix("--replace=") {
            texts.push(text.to_owned());
        } else if !word.starts_with("--")
            && let Some((_, text)) = word.split_once(['I', 'i'])
        {
            match text {
                "" if word.contains('I') => texts.push(words.next()?.clone()?),
                text => texts.push(text.to_owned()),
            }
        }
    }
    // `-i` alone, or an empty text, stands for the usual one.
    texts.retain(|text| !text.is_empty());
    Some(texts)
}

fn watch(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let rest = after_options(arguments, &["-n", "--interval", "-q"], 0);
    let words: Option<Vec<&str>> = rest.iter().map(Option::as_deref).collect();
    match words {
        Some(words) if !words.is_empty() => walk.nested(&words.join(" "), "watch", stdin),
        Some(_) | None => {
            walk.note("watch", Effect::Unknown, Some("its command is known to the running shell alone"), argv)
        }
    }
}

/// Whether an option of ssh's configuration runs and loads nothing (ssh_config(5)).
fn is_plain_option(text: &str) -> bool {
    const PLAIN: [&str; 16] = [
        "addressfamily",
        "batchmode",
        "connectionattempts",
        "connecttimeout",
        "globalknownhostsfile",
        "identitiesonly",
        "identityfile",
        "loglevel",
        "passwordauthentication",
        "port",
        "preferredauthentications",
        "serveralivecountmax",
        "serveraliveinterval",
        "stricthostkeychecking",
        "user",
        "userknownhostsfile",
    ];
    let text = text.strip_prefix("-o").unwrap_or(text).trim_start();
    let name = text.split(['=', ' ']).next().unwrap_or_default().to_ascii_lowercase();
    // The option alone: its value is the next word, which is looked at as well.
    name.is_empty() || PLAIN.contains(&name.as_str())
}

fn ssh(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let values = [
        "-b", "-c", "-D", "-E", "-e", "-F", "-I", "-i", "-J", "-L", "-l", "-m", "-O", "-o", "-p", "-Q", "-R",
        "-S", "-W", "-w",
    ];
    let leads_on = |word: &str| {
        ["-D", "-L", "-R", "-W", "-w", "-J", "-F", "-A", "-X", "-Y"]
            .iter()
            .any(|option| word.starts_with(option))
            || ["-I", "-S", "-O", "-o"].iter().any(|option| word.starts_with(option))
                && !is_plain_option(word)
    };
    let rest = after_options(arguments, &values, 0);
    let options = arguments.get(..arguments.len() - rest.len()).unwrap_or_default();
    let settings = options.windows(2).filter_map(|pair| match pair {
        [Some(option), value] if option == "-o" => Some(value.as_deref()),
        _ => None,
    });
    let strange = settings.into_iter().any(|value| value.is_none_or(|value| !is_plain_option(value)));
    if strange || options.iter().any(|word| word.as_deref().is_none_or(leads_on)) {
        return walk.note("ssh", Effect::Unknown, Some("an option of ssh leads on or runs a command"), argv);
    }
    let words: Option<Vec<&str>> = rest.iter().map(Option::as_deref).collect();
    match words.as_deref() {
        Some([host, command @ ..]) if !command.is_empty() => {
            walk.nested(&command.join(" "), &format!("ssh {host}"), &Stdin::Inherited);
        }
        Some(_) => walk.note(SHELL, Effect::Unknown, Some("a shell on another host"), argv),
        None => {
            walk.note("ssh", Effect::Unknown, Some("its words are known to the running shell alone"), argv)
        }
    }
}

/// `docker exec CONTAINER CMD`; anything else is the catalogue's.
fn container(walk: &mut Walk, program: &str, arguments: &[Option<String>], stdin: &Stdin) -> bool {
    let at = arguments.iter().position(|word| word.as_deref() == Some("exec"));
    let before = arguments.get(..at.unwrap_or(0)).unwrap_or_default();
    let plain = before
        .iter()
        .all(|word| word.as_deref().is_some_and(|word| word == "compose" || word == "container"));
    let (Some(at), true) = (at, plain) else { return false };
    let values = ["-e", "-u", "-w", "--env", "--user", "--workdir", "--env-file", "--detach-keys", "--index"];
    let rest = after_options(arguments.get(at + 1..).unwrap_or_default(), &values, 1);
    if rest.is_empty() {
        return false;
    }
    inside(walk, &format!("{program} exec"), rest, stdin);
    true
}

/// `kubectl exec POD -- CMD`.
fn pod(walk: &mut Walk, program: &str, arguments: &[Option<String>], stdin: &Stdin) -> bool {
    let Some(at) = arguments.iter().position(|word| word.as_deref() == Some("--")) else { return false };
    let before = arguments.get(..at).unwrap_or_default();
    let exec = before.iter().all(Option::is_some) && before.iter().flatten().any(|word| word == "exec");
    let rest = arguments.get(at + 1..).unwrap_or_default();
    if !exec || rest.is_empty() {
        return false;
    }
    inside(walk, &format!("{program} exec"), rest, stdin);
    true
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
