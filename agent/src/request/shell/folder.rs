//! Where a line's relative paths begin: what `cd` says of it.

use crate::request::ssh::PathUse;
use crate::request::ssh::paths::normal;

/// Folders that a command may run in, at most; beyond, it could be any.
const FOLDERS_MAX: usize = 8;

/// Folders that a command may run in. `None` is where the login began.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    possible: Vec<Option<String>>,
    /// It could be any folder.
    anywhere: bool,
}

impl Default for Folders {
    fn default() -> Self {
        Self { possible: vec![None], anywhere: false }
    }
}

/// Where a command goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The account's home.
    Home,
    /// This folder.
    Folder(String),
    /// Only the running shell knows.
    Somewhere,
}

impl Folders {
    /// Where a command leads that changes the folder; `None` for others.
    pub(super) fn moved(argv: &[Option<String>]) -> Option<To> {
        let (program, words) = argv.split_first()?;
        let (program, words) = match (program.as_deref()?, words) {
            ("builtin" | "command", [Some(inner), rest @ ..]) => (inner.as_str(), rest),
            (program, words) => (program, words),
        };
        match program {
            "cd" => {}
            "pushd" | "popd" => return Some(To::Somewhere),
            _ => return None,
        }
        let plain = |word: &&Option<String>| {
            !word.as_deref().is_some_and(|word| matches!(word, "-L" | "-P" | "-e" | "-@" | "--"))
        };
        let operands: Vec<&Option<String>> = words.iter().filter(plain).collect();
        Some(match operands.as_slice() {
            [] => To::Home,
            [Some(folder)] if folder == "-" || folder.contains(['*', '?', '[']) => To::Somewhere,
            [Some(folder)] if folder == "~" => To::Home,
            [Some(folder)] => To::Folder(folder.clone()),
            _ => To::Somewhere,
        })
    }

    /// A command leads there, and what follows runs only if it did.
    pub(super) fn go(&mut self, to: To) {
        self.possible = match to {
            To::Somewhere => {
                self.anywhere = true;
                return;
            }
            To::Home => vec![None],
            To::Folder(folder) => {
                self.possible.iter().map(|from| Some(joined(from.as_deref(), &folder))).collect()
            }
        };
        self.anywhere &= self.possible.iter().flatten().any(|folder| !folder.starts_with('/'));
    }

    /// It may also be one of these: where something before may have failed, or may not have run.
    pub(super) fn or(&mut self, others: &Self) {
        for other in &others.possible {
            if !self.possible.contains(other) {
                self.possible.push(other.clone());
            }
        }
        self.anywhere |= others.anywhere || self.possible.len() > FOLDERS_MAX;
        self.possible.truncate(FOLDERS_MAX);
    }

    /// Puts the folder before relative paths. A path in several possible folders is one in each of them; one in a folder that
    /// nobody knows is empty, as a path is that only the running shell knows.
    pub(super) fn locate(&self, paths: &mut Vec<PathUse>) {
        if !self.anywhere && matches!(self.possible.as_slice(), [None]) {
            return;
        }
        let relative = |path: &PathUse| !path.path.is_empty() && !path.path.starts_with(['/', '~']);
        if !paths.iter().any(relative) {
            return;
        }
        let mut located = Vec::with_capacity(paths.len());
        for path in paths.drain(..) {
            if !relative(&path) {
                located.push(path);
                continue;
            }
            for folder in &self.possible {
                located.push(PathUse { path: joined(folder.as_deref(), &path.path), access: path.access });
            }
            if self.anywhere {
                located.push(PathUse { path: String::new(), access: path.access });
            }
        }
        *paths = located;
    }
}

fn joined(folder: Option<&str>, path: &str) -> String {
    match folder {
        Some(folder) if !path.starts_with(['/', '~']) => normal(&format!("{folder}/{path}")),
        Some(_) | None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ssh::Access;

    fn located(folders: &Folders, path: &str) -> Vec<String> {
        let mut paths = vec![PathUse { path: path.to_owned(), access: Access::Write }];
        folders.locate(&mut paths);
        paths.into_iter().map(|path| path.path).collect()
    }

    #[test]
    fn paths_begin_where_cd_leads() {
        let mut folders = Folders::default();
        assert_eq!(located(&folders, "x"), ["x"]);
        folders.go(To::Folder("/etc".to_owned()));
        folders.go(To::Folder("ssh".to_owned()));
        assert_eq!(located(&folders, "x"), ["/etc/ssh/x"]);
        assert_eq!(located(&folders, "../x"), ["/etc/x"]);
        assert_eq!(located(&folders, "/x"), ["/x"]);
        let before = folders.clone();
        folders.go(To::Folder("/tmp".to_owned()));
        assert_eq!(located(&folders, "x"), ["/tmp/x"]);
        folders.or(&before);
        assert_eq!(located(&folders, "x"), ["/tmp/x", "/etc/ssh/x"]);
        folders.go(To::Somewhere);
        assert_eq!(located(&folders, "x"), ["/tmp/x", "/etc/ssh/x", ""]);
        folders.go(To::Home);
        assert_eq!(located(&folders, "x"), ["x"]);
    }

    #[test]
    fn commands_that_lead_elsewhere_are_known() {
        let moved = |line: &str| {
            Folders::moved(&line.split(' ').map(|word| Some(word.to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(moved("cd /etc"), Some(To::Folder("/etc".to_owned())));
        assert_eq!(moved("cd"), Some(To::Home));
        assert_eq!(moved("cd -"), Some(To::Somewhere));
        assert_eq!(moved("builtin cd -P /etc"), Some(To::Folder("/etc".to_owned())));
        assert_eq!(moved("ls /etc"), None);
        assert_eq!(Folders::moved(&[Some("cd".to_owned()), None]), Some(To::Somewhere));
    }
}
