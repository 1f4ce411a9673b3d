//! Programs that run a command on another host or in a container.

use super::options::Options;
use super::run::Stdin;
use super::walk::Walk;
use super::wrappers::{SHELL, inside};
use crate::request::Effect;

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

/// `ssh HOST CMD`.
pub(super) fn ssh(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let leads_on = |word: &str| {
        ["-E", "-M", "-s"].iter().any(|option| word.starts_with(option))
            || ["-I", "-S", "-O", "-o"].iter().any(|option| word.starts_with(option))
                && !is_plain_option(word)
    };
    let Some(at) = Options::new("46aCfGKkMNnqsTtVvxy", "bceEiIlmOopQS", &[], &[]).skip(arguments) else {
        return walk.note("ssh", Effect::Unknown, Some("an option of ssh leads on or runs a command"), argv);
    };
    let (options, rest) = arguments.split_at(at);
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
            let (text, through) = (command.join(" "), format!("ssh {host}"));
            walk.elsewhere(|walk| walk.nested(&text, &through, &Stdin::Inherited));
        }
        Some(_) => walk.note(SHELL, Effect::Unknown, Some("a shell on another host"), argv),
        None => {
            walk.note("ssh", Effect::Unknown, Some("its words are known to the running shell alone"), argv)
        }
    }
}

/// `docker exec CONTAINER CMD`; anything else is the catalogue's.
pub(super) fn container(walk: &mut Walk, program: &str, arguments: &[Option<String>], stdin: &Stdin) -> bool {
    let at = arguments.iter().position(|word| word.as_deref() == Some("exec"));
    let before = arguments.get(..at.unwrap_or(0)).unwrap_or_default();
    // Of compose, files and names of the project say which container it is.
    let globals = Options::new(
        "",
        "fp",
        &[],
        &["--file", "--project-name", "--env-file", "--project-directory", "--profile"],
    );
    let (skip, rest) = match before.split_first() {
        Some((Some(first), rest)) if first == "compose" || first == "container" => (globals.skip(rest), rest),
        Some(_) if program != "docker-compose" => (None, before),
        Some(_) | None => (globals.skip(before), before),
    };
    let plain = skip == Some(rest.len());
    let (Some(at), true) = (at, plain) else { return false };
    let options = Options::new(
        "ditT",
        "euw",
        &["--detach", "--interactive", "--tty", "--no-TTY"],
        &["--env", "--user", "--workdir", "--env-file", "--detach-keys", "--index"],
    );
    let after = arguments.get(at + 1..).unwrap_or_default();
    let Some(skipped) = options.skip(after) else { return false };
    let rest = after.get(skipped + 1..).unwrap_or_default();
    // A variable for the command may change what it runs.
    let sets =
        after.iter().take(skipped).flatten().any(|word| word.starts_with("-e") || word.starts_with("--env"));
    if rest.is_empty() || sets {
        return false;
    }
    walk.elsewhere(|walk| inside(walk, &format!("{program} exec"), rest, stdin));
    true
}
