//! Programs whose words are a language of their own, or whose options mean too much for a table.

use super::database::{database, psql, sqlite};
use super::run::{self, Invocation, Stdin};
use super::walk::Walk;
use crate::request::Effect;
use crate::request::ssh::{Access, PathUse};

/// Notes what one of these programs does. `false` when this is none.
pub(super) fn known(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) -> bool {
    match program {
        "psql" => psql(walk, arguments, argv, stdin),
        "mysql" | "mariadb" => database(walk, program, arguments, argv, stdin, &["-e", "--execute"]),
        "sqlite3" => sqlite(walk, arguments, argv, stdin),
        "find" => find(walk, arguments, argv),
        "sed" | "gsed" => sed(walk, arguments, argv),
        "awk" | "gawk" | "mawk" | "nawk" => awk(walk, arguments, argv),
        "curl" => curl(walk, arguments, argv),
        "wget" => wget(walk, arguments, argv),
        "tar" | "bsdtar" => tar(walk, arguments, argv),
        "dd" => dd(walk, arguments, argv),
        "ip" | "bridge" => ip(walk, program, arguments, argv),
        _ => return false,
    }
    true
}

/// What cannot be told.
pub(super) fn opaque(walk: &mut Walk, kind: &str, reason: &str, argv: &[Option<String>]) {
    walk.note(kind, Effect::Unknown, Some(reason), argv);
}

/// Why, where a word is missing.
pub(super) const DYNAMIC: &str = "an argument is known to the running shell alone";

/// The words, when all of them are known.
pub(super) fn all(arguments: &[Option<String>]) -> Option<Vec<&str>> {
    arguments.iter().map(Option::as_deref).collect()
}

// --- files --------------------------------------------------------------------------------------------------------

fn find(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let (mut effect, mut kind, mut reason) = (Effect::Read, "find", None);
    let mut paths = Vec::new();
    let mut at = 0;
    let mut nested = Vec::new();
    while let Some(word) = arguments.get(at) {
        at += 1;
        let Some(word) = word.as_deref() else {
            // A path, or an action: nobody knows.
            (effect, reason) = (effect.max(Effect::Ddl), Some(DYNAMIC));
            continue;
        };
        match word {
            "-delete" => (effect, kind) = (effect.max(Effect::Ddl), "find -delete"),
            "-fprint" | "-fprint0" | "-fprintf" | "-fls" => effect = effect.max(Effect::Write),
            "-exec" | "-execdir" | "-ok" | "-okdir" => {
                let rest = arguments.get(at..).unwrap_or_default();
                let end = rest
                    .iter()
                    .position(|word| matches!(word.as_deref(), Some(";" | "+")))
                    .unwrap_or(rest.len());
                let command = rest.get(..end).unwrap_or_default();
                let with_names = command.iter().map(|word| word.clone().filter(|word| !word.contains("{}")));
                nested.push(with_names.collect::<Vec<_>>());
                at += end + 1;
            }
            // Operands before the first test are where it looks.
            _ if paths.len() + 1 == at && !word.starts_with(['-', '(', '!']) => {
                paths.push(PathUse { path: word.to_owned(), access: Access::Read });
            }
            _ => {}
        }
    }
    walk.note(kind, effect, reason, argv);
    if let Some(command) = walk.commands.last_mut() {
        command.paths = paths;
    }
    walk.through.push("find -exec".to_owned());
    for command in nested {
        run::run(walk, Invocation { argv: command, stdin: Stdin::Inherited });
    }
    walk.through.pop();
}

fn dd(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(words) = all(arguments) else {
        return walk.note("dd", Effect::Ddl, Some(DYNAMIC), argv);
    };
    let target = words.iter().find_map(|word| word.strip_prefix("of="));
    match target {
        None | Some("/dev/null" | "/dev/stdout") => walk.note("dd", Effect::Read, None, argv),
        Some(path) => {
            walk.note("dd", Effect::Ddl, Some("writes over a file or device"), argv);
            if let Some(command) = walk.commands.last_mut() {
                command.paths = vec![PathUse { path: path.to_owned(), access: Access::Write }];
            }
        }
    }
}

fn tar(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(words) = all(arguments) else {
        return walk.note("tar", Effect::Unknown, Some(DYNAMIC), argv);
    };
    let runs = |word: &&str| {
        [
            "--to-command",
            "--checkpoint-action",
            "--use-compress-program",
            "--rsh-command",
            "--info-script",
            "--new-volume-script",
        ]
        .iter()
        .any(|option| word.starts_with(option))
            || (word.starts_with("--")
                && word.len() > 4
                && "--to-command --checkpoint-action --use-compress-program".contains(*word))
    };
    if words.iter().any(runs) || words.iter().any(|word| word.starts_with("-I") || word.starts_with("-F")) {
        return opaque(walk, "tar", "an option of tar runs a command", argv);
    }
    let first = words.first().copied().unwrap_or_default();
    let letters: String = words
        .iter()
        .enumerate()
        .filter(|(index, word)| *index == 0 || (word.starts_with('-') && !word.starts_with("--")))
        .map(|(_, word)| word.trim_start_matches('-'))
        .collect();
    let named =
        |short: char, long: &str| letters.contains(short) && (first.len() < 12) || words.contains(&long);
    let to_stdout = words
        .windows(2)
        .any(|pair| pair.first().is_some_and(|word| word.ends_with('f')) && pair.get(1) == Some(&"-"))
        || named('O', "--to-stdout");
    let effect = if named('t', "--list") || (named('c', "--create") || named('x', "--extract")) && to_stdout {
        Effect::Read
    } else {
        Effect::Write
    };
    let removes = words.contains(&"--remove-files") || words.contains(&"--delete");
    walk.note("tar", if removes { Effect::Ddl } else { effect }, None, argv);
}

// --- texts --------------------------------------------------------------------------------------------------------

fn sed(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let (mut in_place, mut scripts, mut operands) = (false, Vec::new(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let Some(word) = word.as_deref() else {
            operands.push(None);
            continue;
        };
        match word {
            "-e" | "--expression" => scripts.push(rest.next().cloned().flatten()),
            "-f" | "--file" => return opaque(walk, "sed", "runs a script nobody looked into", argv),
            "-l" | "--line-length" => {
                rest.next();
            }
            _ if word.starts_with("--in-place") => in_place = true,
            _ if word.starts_with("--expression=") => {
                scripts.push(word.split_once('=').map(|(_, script)| script.to_owned()))
            }
            "--quiet" | "--silent" | "--regexp-extended" | "--null-data" | "--separate" | "--posix"
            | "--unbuffered" | "--debug" | "--sandbox" | "--version" | "--help" => {}
            _ if word.starts_with("--") => return opaque(walk, "sed", "its script is not understood", argv),
            _ if word.starts_with('-') && word.len() > 1 => {
                in_place |= word.contains('i');
                if word.ends_with('e') {
                    scripts.push(rest.next().cloned().flatten());
                } else if word.contains(['e', 'f']) {
                    return opaque(walk, "sed", "its script is not understood", argv);
                }
            }
            _ => operands.push(Some(word.to_owned())),
        }
    }
    if scripts.is_empty() && !operands.is_empty() {
        scripts.push(operands.remove(0));
    }
    let harmless = scripts.iter().all(|script| script.as_deref().is_some_and(sed_is_harmless));
    let effect = match (harmless, in_place) {
        (false, _) => Effect::Unknown,
        (true, true) => Effect::Write,
        (true, false) => Effect::Read,
    };
    let reason = (!harmless).then_some("its script may run commands or write files");
    walk.note(if in_place { "sed -i" } else { "sed" }, effect, reason, argv);
    let access = if in_place { Access::Write } else { Access::Read };
    if let Some(command) = walk.commands.last_mut() {
        command.paths = operands.into_iter().flatten().map(|path| PathUse { path, access }).collect();
    }
}

/// Whether a script only edits: no `e`, `w`, `W`, `r`, `R`, and no such flags of `s` (GNU sed's documentation).
fn sed_is_harmless(script: &str) -> bool {
    let mut rest = script.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            ' ' | '\t' | '\n' | ';' | '{' | '}' | '!' | ',' | '$' | '~' | '+' | '0'..='9' | 'I' => {}
            '/' => {
                if !skip_to(&mut rest, '/') {
                    return false;
                }
            }
            's' | 'y' => {
                let Some(delimiter) = rest.next() else { return false };
                if !skip_to(&mut rest, delimiter) || !skip_to(&mut rest, delimiter) {
                    return false;
                }
                while let Some(flag) = rest.next_if(|flag| !matches!(flag, ';' | '\n' | '}' | ' ')) {
                    if !matches!(flag, 'g' | 'p' | 'i' | 'I' | 'm' | 'M' | '0'..='9') {
                        return false;
                    }
                }
            }
            'p' | 'P' | 'd' | 'D' | 'q' | 'Q' | '=' | 'n' | 'N' | 'g' | 'G' | 'h' | 'H' | 'x' | 'l' | 'z' => {
            }
            // Text to the end of the line.
            'a' | 'i' | 'c' | '#' | ':' | 'b' | 't' | 'T' => {
                while rest.next_if(|next| *next != '\n').is_some() {}
            }
            _ => return false,
        }
    }
    true
}

fn skip_to(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, delimiter: char) -> bool {
    while let Some(character) = rest.next() {
        if character == '\\' {
            rest.next();
        } else if character == delimiter {
            return true;
        }
    }
    false
}

fn awk(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let mut rest = arguments.iter();
    let mut script = None;
    while let Some(word) = rest.next() {
        let Some(word) = word.as_deref() else { return opaque(walk, "awk", DYNAMIC, argv) };
        match word {
            "-F" | "-v" | "--assign" | "--field-separator" => {
                rest.next();
            }
            _ if word.starts_with("-F") || word.starts_with("-v") => {}
            _ if word.starts_with('-') => return opaque(walk, "awk", "its script is not understood", argv),
            _ => {
                script = Some(word);
                break;
            }
        }
    }
    let harmless = script.is_some_and(awk_is_harmless);
    let (effect, reason) = if harmless {
        (Effect::Read, None)
    } else {
        (Effect::Unknown, Some("its script may run commands or write files"))
    };
    walk.note("awk", effect, reason, argv);
}

/// Whether a script has nothing by which awk runs or writes: `system`, pipes, redirections, `getline`, extensions.
fn awk_is_harmless(script: &str) -> bool {
    // What stands in strings and regular expressions would not matter; it is feared all the same, but for comparisons.
    let plain = script.replace("||", "").replace(">=", "").replace("$NF>", "");
    let comparison = plain.contains('>') && !plain.contains("print");
    !plain.contains("system")
        && !plain.contains('|')
        && !plain.contains("getline")
        && !plain.contains('@')
        && (!plain.contains('>') || comparison)
}

// --- the network --------------------------------------------------------------------------------------------------

/// Options of curl that send or write.
const WRITING: [&str; 10] = [
    "--request",
    "--data",
    "--json",
    "--form",
    "--upload-file",
    "--quote",
    "--output",
    "--cookie-jar",
    "--dump-header",
    "--config",
];

/// What curl may fetch from.
const SCHEMES: [&str; 5] = ["http://", "https://", "ftp://", "ftps://", "file://"];

fn curl(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let (mut effect, mut reason) = (Effect::Read, None);
    let mut paths = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let Some(word) = word.as_deref() else { continue };
        let (name, attached) = option_value(word);
        let mut value = || attached.map(str::to_owned).or_else(|| rest.next().cloned().flatten());
        match name {
            "-X" | "--request" => {
                let method = value().unwrap_or_default();
                if !["GET", "HEAD", "OPTIONS"].contains(&method.as_str()) {
                    effect = effect.max(Effect::Write);
                }
            }
            "-d" | "--data" | "--data-raw" | "--data-binary" | "--data-urlencode" | "--data-ascii"
            | "--json" | "-F" | "--form" | "--form-string" | "-T" | "--upload-file" | "-Q" | "--quote" => {
                drop(value());
                effect = effect.max(Effect::Write);
            }
            "-o" | "--output" | "-c" | "--cookie-jar" | "-D" | "--dump-header" | "--trace"
            | "--trace-ascii" | "--stderr" => {
                let path = value().unwrap_or_default();
                if !["/dev/null", "-", "/dev/stdout", "/dev/stderr"].contains(&path.as_str()) {
                    effect = effect.max(Effect::Write);
                    paths.push(PathUse { path, access: Access::Write });
                }
            }
            "-O" | "--remote-name" | "-J" | "--remote-header-name" | "--remote-name-all" | "--output-dir" => {
                effect = effect.max(Effect::Write);
            }
            "-K" | "--config" => {
                (effect, reason) = (Effect::Unknown, Some("its options stand in a file nobody looked into"));
            }
            "-H" | "--header" | "-u" | "--user" | "-A" | "--user-agent" | "-w" | "--write-out" | "-m"
            | "--max-time" | "--connect-timeout" | "-e" | "--referer" | "-b" | "--cookie" | "-x"
            | "--proxy" | "--cacert" | "--cert" | "--key" | "--retry" | "--retry-delay" | "--resolve"
            | "--unix-socket" | "-r" | "--range" | "--max-redirs" | "--url" => {
                drop(value());
            }
            _ if name.starts_with('-') && !name.starts_with("--") && name.contains('K') => {
                (effect, reason) = (Effect::Unknown, Some("its options stand in a file nobody looked into"));
            }
            // A cluster of letters: some of them write, or send.
            _ if name.starts_with('-')
                && !name.starts_with("--")
                && name.contains(['o', 'O', 'd', 'T', 'F', 'K', 'X']) =>
            {
                effect = effect.max(if name.ends_with('o') && value().as_deref() == Some("/dev/null") {
                    Effect::Read
                } else {
                    Effect::Write
                });
            }
            // The beginning of a long name is enough for curl.
            _ if name.len() > 3 && WRITING.iter().any(|long| long.starts_with(name)) => {
                effect = effect.max(Effect::Write);
            }
            _ if name.contains("://") && !SCHEMES.iter().any(|known| name.starts_with(known)) => {
                (effect, reason) = (Effect::Unknown, Some("speaks another protocol than HTTP"));
            }
            _ => {}
        }
    }
    walk.note("curl", effect, reason, argv);
    if let Some(command) = walk.commands.last_mut() {
        command.paths = paths;
    }
}

/// `--name=value`, `-Xvalue` for the options that curl joins so, else the word alone.
fn option_value(word: &str) -> (&str, Option<&str>) {
    if word.starts_with("--") {
        return match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
    }
    for short in ["-X", "-d", "-o", "-T", "-F", "-H", "-u", "-K"] {
        if let Some(value) = word.strip_prefix(short).filter(|value| !value.is_empty()) {
            return (short, Some(value));
        }
    }
    (word, None)
}

fn wget(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(words) = all(arguments) else { return walk.note("wget", Effect::Write, Some(DYNAMIC), argv) };
    let sends = words
        .iter()
        .any(|word| word.starts_with("--post") || word.starts_with("--body") || word.starts_with("--method"));
    let runs = words.iter().any(|word| {
        word.starts_with("--use-askpass") || word.starts_with("-e") || word.starts_with("--execute")
    });
    let to_stdout = words.windows(2).any(|pair| {
        pair.first().is_some_and(|word| word.starts_with('-') && word.ends_with('O'))
            && pair.get(1).is_some_and(|to| ["-", "/dev/null", "/dev/stdout"].contains(to))
    }) || words
        .iter()
        .any(|word| word.starts_with('-') && (word.ends_with("O-") || word.ends_with("O/dev/null")))
        || words.contains(&"--spider")
        || words.contains(&"--output-document=-");
    let effect = match (runs, sends, to_stdout) {
        (true, _, _) => Effect::Unknown,
        (false, false, true) => Effect::Read,
        (false, _, _) => Effect::Write,
    };
    walk.note("wget", effect, None, argv);
}

fn ip(walk: &mut Walk, program: &str, arguments: &[Option<String>], argv: &[Option<String>]) {
    const LOOKING: [&str; 8] = ["show", "list", "ls", "sh", "s", "get", "help", "monitor"];
    let Some(words) = all(arguments) else { return opaque(walk, program, DYNAMIC, argv) };
    if words.iter().any(|word| ["-b", "-batch", "-force"].contains(word)) {
        return opaque(walk, program, "runs a file nobody looked into", argv);
    }
    let operands: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with('-')).collect();
    let reads = match operands.as_slice() {
        [] | [_] => true,
        ["netns", "exec", ..] => return opaque(walk, program, "runs a command in another namespace", argv),
        [_, verb, ..] => LOOKING.contains(verb),
    };
    let effect = if reads { Effect::Read } else { Effect::Admin };
    walk.note(if reads { program } else { "network" }, effect, None, argv);
}
