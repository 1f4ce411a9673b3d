//! One invocation: the program behind its wrappers, and what it is known to do.

use super::Command;
use super::catalogue;
use super::folder;
use super::scripts;
use super::variables;
use super::walk::Walk;
use super::wrappers;
use crate::request::Effect;
use crate::request::ssh::Access;

/// Bytes of static text that are followed from one command into the next.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Folders whose programs are what their names say.
pub(super) const PROGRAM_FOLDERS: [&str; 7] =
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/lib/openssh"];

/// Programs that bring something from elsewhere.
const FETCHERS: [&str; 4] = ["curl", "wget", "fetch", "nc"];

/// What a command reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stdin {
    /// Whatever the client sends.
    Inherited,
    /// This text.
    Text(String),
    /// Something that was fetched from elsewhere.
    Fetched,
    /// Something that is not known.
    Unknown,
}

impl Stdin {
    /// What a pipeline's next command reads: the text, when the commands before do nothing but say it.
    pub(super) fn of_output(commands: &[Command]) -> Self {
        if commands
            .iter()
            .any(|command| command.program.as_deref().is_some_and(|name| FETCHERS.contains(&name)))
        {
            return Self::Fetched;
        }
        let [command] = commands else { return Self::Unknown };
        let words: Option<Vec<&str>> = command.arguments.iter().map(Option::as_deref).collect();
        let (Some(words), true) = (words, command.through.is_empty()) else { return Self::Unknown };
        match command.program.as_deref() {
            Some("echo") if !words.iter().any(|word| word.contains('\\') || word.starts_with('-')) => {
                Self::text(words.join(" "))
            }
            Some("printf") => match words.as_slice() {
                [format] if !format.contains(['%', '\\']) => Self::text((*format).to_owned()),
                [format, value] if matches!(*format, "%s" | "%s\\n") => Self::text((*value).to_owned()),
                _ => Self::Unknown,
            },
            Some(_) | None => Self::Unknown,
        }
    }

    fn text(text: String) -> Self {
        if text.len() > TEXT_BYTES_MAX { Self::Unknown } else { Self::Text(text) }
    }
}

/// A program and its words.
pub(super) struct Invocation {
    pub(super) argv: Vec<Option<String>>,
    pub(super) stdin: Stdin,
    /// Its unknown words are values of assignments and nothing else (`export X=$(date)`).
    pub(super) only_values: bool,
}

/// A program's name for policies: its base name where it lies among the system's programs, else as it is written, because
/// nobody knows that `/tmp/ls` is `ls`.
pub(super) fn name_of(program: &str) -> &str {
    match program.rsplit_once('/') {
        Some((folder, name)) if PROGRAM_FOLDERS.contains(&folder) => name,
        Some(_) | None => program,
    }
}

/// Notes what an invocation does.
pub(super) fn run(walk: &mut Walk, invocation: Invocation) {
    let begun = walk.commands.len();
    let folders = walk.folders.clone();
    one(walk, invocation);
    // What names no file writes where it stands.
    if folders.rules_the_host() {
        for command in walk.commands.iter_mut().skip(begun) {
            let writes = matches!(command.effect, Effect::Write | Effect::Ddl);
            if writes && command.paths.iter().all(|path| path.access == Access::Read) {
                command.effect = Effect::Admin;
                command.reason = Some("works in a folder of the system".to_owned());
            }
        }
    }
}

fn one(walk: &mut Walk, invocation: Invocation) {
    let Invocation { argv, stdin, only_values } = invocation;
    let Some((Some(written), arguments)) = argv.split_first() else {
        if !argv.is_empty() {
            walk.note(
                "unknown program",
                Effect::Unknown,
                Some("its program is known to the running shell alone"),
                &argv,
            );
        }
        return;
    };
    let folder = written.rsplit_once('/').map(|(folder, _)| folder);
    if folder.is_some_and(|folder| !PROGRAM_FOLDERS.contains(&folder)) {
        return walk.note(written, Effect::Unknown, Some("nobody wrote down what this program does"), &argv);
    }
    let program = name_of(written).to_owned();
    if folder.is_none() && walk.is_function(&program) {
        // What it assigns and where it goes is not followed to the place of the call.
        walk.forget();
        return walk.note(&program, Effect::Read, Some("a function of the line itself"), &argv);
    }
    if variables::evaluated(&program, arguments) {
        return walk.note(&program, Effect::Unknown, Some("a word of it may be evaluated again"), &argv);
    }
    if let Some(reason) = variables::changed(walk, &program, arguments, only_values) {
        return walk.note(&program, Effect::Unknown, Some(reason), &argv);
    }
    if folder::moves(walk, &program, arguments) {
        return walk.note(&program, Effect::Read, None, &argv);
    }
    if wrappers::wrapper(walk, &program, arguments, &argv, &stdin)
        || scripts::known(walk, &program, arguments, &argv, &stdin)
    {
        return;
    }
    match catalogue::look_up(&program, arguments) {
        Some(known) => {
            walk.note(&known.kind, known.effect, known.reason, &argv);
            walk.touches(known.paths);
        }
        None => walk.note(&program, Effect::Unknown, Some("nobody wrote down what this program does"), &argv),
    }
}
