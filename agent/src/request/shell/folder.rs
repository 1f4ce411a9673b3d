//! Where a line works: `cd` and its like are followed, so that `cd /etc; echo x > passwd` is seen to write `/etc/passwd`.

use super::walk::Walk;
use crate::request::ssh::PathUse;
use crate::request::ssh::paths::{normal, sensitive};

/// Folders that a line may be in at one time; beyond it the later ones count as unknown.
const FOLDERS_MAX: usize = 8;

/// The folders that a command may run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folders {
    /// Each as far as the text says; empty for where the line began, and for what nobody knows.
    now: Vec<String>,
    /// Every one that the line has been in, for `cd -` and `popd`.
    seen: Vec<String>,
    /// It may be any other as well: only the running shell knows.
    anywhere: bool,
}

impl Folders {
    /// Where a login begins.
    pub(super) fn new() -> Self {
        Self { now: vec![String::new()], seen: vec![String::new()], anywhere: false }
    }

    /// The command may also run in the folders of another.
    pub(super) fn join(&mut self, other: &Self) {
        for folder in &other.now {
            add(&mut self.now, folder);
        }
        for folder in &other.seen {
            add(&mut self.seen, folder);
        }
        self.anywhere |= other.anywhere;
    }

    fn go(&mut self, to: &str) {
        self.anywhere &= !to.starts_with(['/', '~']);
        let before = std::mem::take(&mut self.now);
        for folder in &before {
            add(&mut self.now, &below(folder, to));
        }
        for folder in &self.now {
            add(&mut self.seen, folder);
        }
    }

    /// What ran before may have gone anywhere that the line speaks of.
    pub(super) fn forget(&mut self) {
        self.now.clone_from(&self.seen);
        add(&mut self.now, "");
        self.anywhere = true;
    }

    /// Whether one of them holds files that rule the host.
    pub(super) fn rules_the_host(&self) -> bool {
        self.now.iter().any(|folder| {
            !folder.is_empty() && (sensitive(folder).is_some() || sensitive(&format!("{folder}/x")).is_some())
        })
    }

    /// A path of a command, in each folder that it may run in.
    pub(super) fn place(&self, path: &PathUse) -> Vec<PathUse> {
        let mut placed: Vec<PathUse> = Vec::new();
        for folder in &self.now {
            let path = PathUse { path: seen_from(folder, &path.path), access: path.access };
            if !placed.contains(&path) {
                placed.push(path);
            }
        }
        // As a file is whose name nobody knows.
        if self.anywhere && !path.path.starts_with(['/', '~']) {
            placed.push(PathUse { path: String::new(), access: path.access });
        }
        placed
    }
}

fn add(folders: &mut Vec<String>, folder: &str) {
    if folders.iter().any(|known| known == folder) {
        return;
    }
    if folders.len() < FOLDERS_MAX {
        folders.push(folder.to_owned());
    } else if sensitive(folder).is_some()
        && let Some(plain) = folders.iter_mut().rev().find(|known| sensitive(known).is_none())
    {
        // What rules the host is kept above all.
        folder.clone_into(plain);
    }
}

/// A path as a program sees it from a folder: a `..` may be above a link, which only the server knows.
fn seen_from(folder: &str, path: &str) -> String {
    let relative = !folder.is_empty() && !path.is_empty() && !path.starts_with(['/', '~', '-']);
    if relative && path.split('/').any(|part| part == "..") {
        format!("{folder}/{path}")
    } else {
        below(folder, path)
    }
}

/// A path as seen from a folder.
fn below(folder: &str, path: &str) -> String {
    if folder.is_empty() || path.is_empty() || path.starts_with(['/', '~', '-']) {
        return path.to_owned();
    }
    normal(&format!("{folder}/{path}"))
}

/// Whether a command changes the folder of those after it; it is followed as far as its words say.
pub(super) fn moves(walk: &mut Walk, program: &str, arguments: &[Option<String>]) -> bool {
    match program {
        "cd" | "pushd" => {}
        "popd" => {
            walk.folders.forget();
            return true;
        }
        _ => return false,
    }
    let mut operands = arguments
        .iter()
        .skip_while(|word| word.as_deref().is_some_and(|word| word.len() > 1 && word.starts_with('-')));
    match (operands.next(), operands.next()) {
        (Some(Some(to)), None) if to != "-" && !to.starts_with('+') && !to.contains(['*', '?', '[']) => {
            walk.folders.go(to);
        }
        (None, None) if program == "cd" => walk.folders.go("~"),
        (Some(_) | None, _) => walk.folders.forget(),
    }
    true
}

/// Paths that are written where the line stands, for one command.
pub(super) fn placed(folders: &Folders, paths: Vec<PathUse>) -> Vec<PathUse> {
    paths.iter().flat_map(|path| folders.place(path)).collect()
}
