//! Programs whose words are a language of their own, or whose options mean too much for a table.

use super::archive::tar;
use super::database::{mysql, psql, sqlite};
use super::kubectl::kubectl;
use super::network::{curl, ip, wget};
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
        "mysql" | "mariadb" => mysql(walk, program, arguments, argv, stdin),
        "sqlite3" => sqlite(walk, arguments, argv, stdin),
        "kubectl" | "oc" | "k" => kubectl(walk, program, arguments, argv, stdin),
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
    let mut written = Vec::new();
    let mut at = 0;
    let mut nested = Vec::new();
    while let Some(word) = arguments.get(at) {
        at += 1;
        let Some(word) = word.as_deref() else {
            // A path, or an action: nobody knows.
            (effect, reason) = (Effect::Unknown, Some(DYNAMIC));
            continue;
        };
        match word {
            "-delete" => (effect, kind) = (effect.max(Effect::Ddl), "find -delete"),
            "-fprint" | "-fprint0" | "-fprintf" | "-fls" => {
                effect = effect.max(Effect::Write);
                let path = arguments.get(at).cloned().flatten().unwrap_or_default();
                written.push(PathUse { path, access: Access::Write });
            }
            "-exec" | "-execdir" | "-ok" | "-okdir" => {
                let rest = arguments.get(at..).unwrap_or_default();
                let end = rest
                    .iter()
                    .enumerate()
                    .position(|(index, word)| match word.as_deref() {
                        Some(";") => true,
                        // Only after the names that it stands for.
                        Some("+") => {
                            let before = index.checked_sub(1).and_then(|before| rest.get(before));
                            before.is_some_and(|word| word.as_deref() == Some("{}"))
                        }
                        Some(_) | None => false,
                    })
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
    if kind != "find" {
        for path in &mut paths {
            path.access = Access::Remove;
        }
    }
    paths.extend(written);
    walk.note(kind, effect, reason, argv);
    walk.touches(paths);
    walk.through.push("find -exec".to_owned());
    for command in nested {
        run::run(walk, Invocation { argv: command, stdin: Stdin::Inherited, only_values: false });
    }
    walk.through.pop();
}

fn dd(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(words) = all(arguments) else {
        return walk.note("dd", Effect::Ddl, Some(DYNAMIC), argv);
    };
    let sinks = ["/dev/null", "/dev/stdout"];
    let targets =
        words.iter().filter_map(|word| word.strip_prefix("of=")).filter(|path| !sinks.contains(path));
    let paths: Vec<PathUse> =
        targets.map(|path| PathUse { path: path.to_owned(), access: Access::Write }).collect();
    if paths.is_empty() {
        return walk.note("dd", Effect::Read, None, argv);
    }
    walk.note("dd", Effect::Ddl, Some("writes over a file or device"), argv);
    walk.touches(paths);
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
    let any_file = in_place && operands.iter().any(Option::is_none);
    let effect = match (harmless, in_place) {
        (false, _) => Effect::Unknown,
        (true, true) if any_file => Effect::Admin,
        (true, true) => Effect::Write,
        (true, false) => Effect::Read,
    };
    let reason = if harmless {
        any_file.then_some(DYNAMIC)
    } else {
        Some("its script may run commands or write files")
    };
    walk.note(if in_place { "sed -i" } else { "sed" }, effect, reason, argv);
    let access = if in_place { Access::Write } else { Access::Read };
    walk.touches(operands.into_iter().flatten().map(|path| PathUse { path, access }).collect());
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
            'a' | 'i' | 'c' | '#' => while rest.next_if(|next| *next != '\n').is_some() {},
            // A label; where it ends differs, so that the shortest counts.
            ':' | 'b' | 't' | 'T' => {
                while rest.next_if(|next| !matches!(next, '\n' | ';' | '}')).is_some() {}
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
    let comparison = plain.contains('>') && (!plain.contains("print") || compares(&plain));
    !plain.contains("system")
        && !plain.contains('|')
        && !plain.contains("getline")
        && !plain.contains('@')
        && (!plain.contains('>') || comparison)
}

/// Whether each `>` stands in parentheses or outside of braces, where it is no redirection. Not told for scripts with strings
/// or regular expressions, whose own parentheses would count.
fn compares(script: &str) -> bool {
    let (mut parentheses, mut braces) = (0_usize, 0_usize);
    for character in script.chars() {
        match character {
            '"' | '/' | '#' | '\\' => return false,
            '(' => parentheses += 1,
            ')' => parentheses = parentheses.saturating_sub(1),
            '{' => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            '>' if parentheses == 0 && braces > 0 => return false,
            _ => {}
        }
    }
    true
}
