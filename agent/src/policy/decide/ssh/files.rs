//! Whether a guard speaks of the files that an operation touches.

use globset::{Glob, GlobBuilder, GlobMatcher};

use super::super::{Match, Stance};
use super::Unit;
use super::matching::WILDCARDS;
use crate::policy::rule::SshWhen;
use crate::request::shell::Command;
use crate::request::ssh::paths::{is_door, normal};
use crate::request::ssh::{Access, OperationKind, PathUse};

/// Programs that go down into every folder they are given.
const RECURSIVE: [&str; 14] = [
    "tar", "bsdtar", "zip", "7z", "7za", "cpio", "pax", "rsync", "rclone", "restic", "borg", "rg", "ag",
    "ack",
];

/// Programs that do so when an option says it.
const RECURSIVE_BY_OPTION: [&str; 13] = [
    "cp", "rm", "scp", "chmod", "chown", "chgrp", "setfacl", "chattr", "grep", "egrep", "fgrep", "zgrep",
    "diff",
];

pub(super) fn matches_files(when: &SshWhen, unit: &Unit<'_>, stance: Stance) -> Match {
    if when.files.is_empty() && when.access.is_empty() {
        return Match::Yes;
    }
    let own = unit.command.map(|command| command.paths.as_slice());
    let paths = own.unwrap_or(&unit.asked.operation.paths);
    let dynamic = unit.command.is_some_and(|command| command.arguments.iter().any(Option::is_none));
    let each = paths.iter().map(|path| matches_file(when, path, stance, unit));
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

fn matches_file(when: &SshWhen, path: &PathUse, stance: Stance, unit: &Unit<'_>) -> Match {
    if !when.access.is_empty() && !when.access.contains(&path.access) {
        return Match::No;
    }
    if when.files.is_empty() {
        return Match::Yes;
    }
    let whole = from_home(&path.path, unit.asked.rules.home.as_deref());
    let literal = unit.command.is_none() && unit.asked.operation.literal;
    let several = !literal && whole.contains(WILDCARDS);
    let upward = |path: &str| path.split('/').any(|part| part == "..");
    let named = |path: &str| when.files.iter().any(|glob| glob.is_match(path));
    let door = is_door(&whole);
    match stance {
        // A user's home, or the folder above one that nobody knows, could be anywhere, and so could one above a link.
        Stance::Permits => {
            let told = !whole.is_empty() && !several && !whole.starts_with('~');
            (told && !upward(&path.path) && !door && named(&whole)).into()
        }
        Stance::Restrains if named(&whole) || named(&path.path) => Match::Yes,
        Stance::Restrains if door => Match::Perhaps,
        Stance::Restrains if whole.starts_with('/') && !several && !upward(&whole) => {
            let reach = reach(unit, path.access);
            let below = when.files.iter().any(|glob| may_be_below(glob.glob().glob(), &whole, reach));
            if below { Match::Perhaps } else { Match::No }
        }
        Stance::Restrains => could_be_named(&when.files, &whole, several),
    }
}

/// Without `.` and `..`, and from the account's home where the policy says which that is.
fn from_home(path: &str, home: Option<&str>) -> String {
    let Some(home) = home else { return normal(path) };
    match path.strip_prefix("~/") {
        Some(rest) => normal(&format!("{home}/{rest}")),
        None if path == "~" => home.to_owned(),
        None if path.is_empty() || path.starts_with(['/', '~']) => normal(path),
        None => normal(&format!("{home}/{path}")),
    }
}

/// Relative to a folder that nobody here knows, or several paths: its last part is all there is.
fn could_be_named(files: &[GlobMatcher], path: &str, several: bool) -> Match {
    let name = path.rsplit('/').next().unwrap_or_default();
    let perhaps = name.is_empty()
        || name == ".."
        || several
        || files.iter().any(|glob| {
            let last = glob.glob().glob().rsplit('/').next().unwrap_or_default();
            last.contains(WILDCARDS) || last == name
        });
    if perhaps { Match::Perhaps } else { Match::No }
}

/// How much of what a path holds an operation is about, if it is a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Nothing but itself.
    Itself,
    /// What it holds gets another name, and whatever it is, it is mostly no folder.
    Moved,
    /// All that is in it.
    Below,
}

fn reach(unit: &Unit<'_>, access: Access) -> Reach {
    let Some(command) = unit.command else {
        let moves = matches!(unit.asked.operation.kind, OperationKind::Rename | OperationKind::Link);
        return if moves { Reach::Moved } else { Reach::Itself };
    };
    match command.program.as_deref() {
        None => Reach::Below,
        Some("mv" | "ln" | "find") => Reach::Moved,
        Some(program) if RECURSIVE.contains(&program) => below(access),
        Some(program) if RECURSIVE_BY_OPTION.contains(&program) && is_recursive(command) => below(access),
        Some(_) => Reach::Itself,
    }
}

/// A rule that speaks of a file wherever it is would restrain whoever removes any folder: then only what is read counts.
fn below(access: Access) -> Reach {
    match access {
        Access::Read => Reach::Below,
        Access::Write | Access::Remove => Reach::Moved,
    }
}

fn is_recursive(command: &Command) -> bool {
    let words = command.arguments.iter().flatten();
    words.into_iter().any(|word| match word.strip_prefix('-') {
        Some(long) if long.starts_with('-') => {
            ["-recursive", "-archive", "-dereference-recursive", "-directories"]
                .iter()
                .any(|known| long.starts_with(known))
        }
        Some(letters) => letters.contains(['r', 'R', 'a', 'd']),
        None => false,
    })
}

/// Whether something that a pattern names may lie in a folder.
fn may_be_below(pattern: &str, folder: &str, reach: Reach) -> bool {
    let mut parts = pattern.trim_start_matches('/').split('/');
    let folders = folder.split('/').filter(|part| !part.is_empty());
    if reach == Reach::Itself {
        return false;
    }
    let whole = |pattern: &str| GlobBuilder::new(pattern).literal_separator(true).build();
    let inner = pattern.strip_suffix("/**").and_then(|pattern| whole(pattern).ok());
    if inner.is_some_and(|glob| glob.compile_matcher().is_match(folder)) {
        return true;
    }
    for folder in folders {
        match parts.next() {
            None => return false,
            Some("**") => return reach == Reach::Below,
            Some(part) if Glob::new(part).is_ok_and(|glob| !glob.compile_matcher().is_match(folder)) => {
                return false;
            }
            Some(_) => {}
        }
    }
    parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_what_lies_in_it() {
        for (pattern, folder) in [
            ("/srv/app/secret/**", "/srv/app"),
            ("/srv/app/secret/**", "/srv"),
            ("/srv/app/secret/**", "/"),
            ("/srv/*/secret", "/srv/app"),
        ] {
            assert!(may_be_below(pattern, folder, Reach::Moved), "{pattern} {folder}");
            assert!(!may_be_below(pattern, folder, Reach::Itself), "{pattern} {folder}");
        }
        for (pattern, folder) in
            [("/srv/app/secret", "/srv/app/secret"), ("/srv/app/x", "/srv/other"), ("/etc/*", "/srv")]
        {
            assert!(!may_be_below(pattern, folder, Reach::Below), "{pattern} {folder}");
        }
        assert!(may_be_below("**/.ssh/**", "/home/a/.ssh", Reach::Moved));
        assert!(may_be_below("**/.env", "/srv/app", Reach::Below));
        assert!(!may_be_below("**/.env", "/srv/app/a.txt", Reach::Moved));
    }
}
