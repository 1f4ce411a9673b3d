//! What scp's old protocol does, file by file, in words for policies.

use super::{Access, OperationKind, PathUse, SshOperation, moves};
use crate::codec::scp::Entry;
use crate::request::Effect;
use crate::request::shell::Transfer;

/// Characters by which the shell that starts the server's scp makes other paths of a word.
const EXPANDED: [char; 5] = ['*', '?', '[', '{', '~'];

/// Which way files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `scp -t`: from the client.
    Upload,
    /// `scp -f`: to the client.
    Download,
}

/// Where the files of one transfer are. A path that may or may not be a folder gives two places for a file: a rule has to allow
/// both, and may deny either.
#[derive(Clone, Debug)]
pub struct Places {
    way: Way,
    /// As the command line names them.
    asked: Vec<String>,
    /// The one path may be the file itself.
    may_be_file: bool,
    /// The folders that the transfer is in, each at all places where it may be.
    within: Vec<Vec<String>>,
}

impl Places {
    /// Of a command line that is one of scp's; `None` for any other.
    #[must_use]
    pub fn of(transfer: &Transfer) -> Option<Self> {
        let (way, asked, may_be_file) = match transfer {
            Transfer::ScpSink { path, folder, .. } => {
                let names_folder = path.is_empty()
                    || path.ends_with('/')
                    || matches!(path.rsplit('/').next(), Some("." | ".." | "~"));
                (Way::Upload, vec![path.clone()], !folder && !names_folder)
            }
            Transfer::ScpSource { paths, .. } => (Way::Download, paths.clone(), false),
            Transfer::Rsync { .. }
            | Transfer::GitUploadPack { .. }
            | Transfer::GitReceivePack { .. }
            | Transfer::GitUploadArchive { .. }
            | Transfer::SftpServer => return None,
        };
        Some(Self { way, asked, may_be_file, within: Vec::new() })
    }

    /// Which way files go.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// A file of this name.
    #[must_use]
    pub fn file(&self, entry: &Entry) -> SshOperation {
        let (kind, access) = match self.way {
            Way::Upload => (OperationKind::Upload, Access::Write),
            Way::Download => (OperationKind::Download, Access::Read),
        };
        self.operation(kind, access, entry)
    }

    /// A folder of this name.
    #[must_use]
    pub fn folder(&self, entry: &Entry) -> SshOperation {
        let (kind, access) = match self.way {
            Way::Upload => (OperationKind::Mkdir, Access::Write),
            Way::Download => (OperationKind::Stat, Access::Read),
        };
        self.operation(kind, access, entry)
    }

    /// What follows is in this folder.
    pub fn enter(&mut self, entry: &Entry) {
        let places = self.places(&entry.name);
        self.within.push(places);
    }

    /// What follows is in the folder above. `false` when there is none.
    #[must_use]
    pub fn leave(&mut self) -> bool {
        self.within.pop().is_some()
    }

    /// How deep it is.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.within.len()
    }

    fn operation(&self, kind: OperationKind, access: Access, entry: &Entry) -> SshOperation {
        let paths = self.places(&entry.name);
        let literal = !self.asked.iter().any(|path| path.contains(EXPANDED));
        let mut operation = moves(kind, paths.into_iter().map(|path| PathUse { path, access }).collect());
        operation.literal = literal;
        if access == Access::Write && entry.sets_id() {
            operation.effect = Effect::Admin;
            operation.reason = Some("gives a file's rights to whoever runs it".to_owned());
        }
        operation
    }

    /// Everywhere that a name may be.
    fn places(&self, name: &[u8]) -> Vec<String> {
        let name = String::from_utf8_lossy(name);
        let in_folder = |folder: &String| match folder.as_str() {
            "" => name.clone().into_owned(),
            folder => format!("{}/{name}", folder.trim_end_matches('/')),
        };
        let mut places: Vec<String> = match (self.within.last(), self.way) {
            (Some(folders), _) => folders.iter().map(in_folder).collect(),
            (None, Way::Upload) => {
                let itself = self.asked.iter().filter(|_| self.may_be_file).cloned();
                itself.chain(self.asked.iter().map(in_folder)).collect()
            }
            (None, Way::Download) => self.named(&name),
        };
        places.dedup();
        places
    }

    /// Which of the paths that were asked for a name may be: those that it is the last part of, and all that a shell may have made
    /// into it.
    fn named(&self, name: &str) -> Vec<String> {
        let parts = |path: &str| {
            let path = path.trim_end_matches('/');
            let (folder, last) = path.rsplit_once('/').map_or(("", path), |(folder, last)| (folder, last));
            (folder.to_owned(), last.to_owned())
        };
        let beside = |path: &String| match (parts(path), path.contains('/')) {
            ((folder, _), true) => format!("{folder}/{name}"),
            (_, false) => name.to_owned(),
        };
        let may_be = |path: &String| {
            let (_, last) = parts(path);
            match () {
                // Somebody's home, whatever its name is.
                () if last.starts_with('~') => Some(path.clone()),
                () if last.contains(EXPANDED) => Some(beside(path)),
                () => (last == name).then(|| path.clone()),
            }
        };
        let found: Vec<String> = self.asked.iter().filter_map(may_be).collect();
        // Where a `.` led: it is in one of those folders.
        if found.is_empty() { self.asked.iter().map(beside).collect() } else { found }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(name: &'static str) -> Entry {
        Entry { mode: 0o644, size: 1, name: Bytes::from_static(name.as_bytes()) }
    }

    fn sink(path: &str, folder: bool) -> Places {
        Places::of(&Transfer::ScpSink { path: path.to_owned(), recursive: true, folder }).unwrap()
    }

    fn paths(operation: &SshOperation) -> Vec<&str> {
        operation.paths.iter().map(|path| path.path.as_str()).collect()
    }

    #[test]
    fn a_target_may_be_the_file_or_its_folder() {
        assert_eq!(paths(&sink("/srv/x", false).file(&entry("a"))), ["/srv/x", "/srv/x/a"]);
        for path in ["/srv/x/", "/srv/x/."] {
            assert_eq!(paths(&sink(path, false).file(&entry("a"))).len(), 1, "{path}");
        }
        assert_eq!(paths(&sink("/srv/x", true).file(&entry("a"))), ["/srv/x/a"]);
        assert_eq!(paths(&sink(".", false).file(&entry("a"))), ["./a"]);
        assert_eq!(paths(&sink("", false).file(&entry("a"))), ["a"]);
    }

    #[test]
    fn folders_are_followed_down_and_up() {
        let mut places = sink("/srv/x", true);
        assert_eq!(places.folder(&entry("in")).kind, OperationKind::Mkdir);
        places.enter(&entry("in"));
        assert_eq!(paths(&places.file(&entry("a"))), ["/srv/x/in/a"]);
        assert!(places.leave());
        assert_eq!(paths(&places.file(&entry("b"))), ["/srv/x/b"]);
        assert!(!places.leave());
    }

    #[test]
    fn what_comes_is_one_of_what_was_asked_for() {
        let asked = vec!["/srv/a".to_owned(), "b".to_owned(), "/logs/*.gz".to_owned()];
        let source = Places::of(&Transfer::ScpSource { paths: asked, recursive: false }).unwrap();
        assert_eq!(paths(&source.file(&entry("a"))), ["/srv/a", "/logs/a"]);
        assert_eq!(paths(&source.file(&entry("b"))), ["b", "/logs/b"]);
        assert_eq!(paths(&source.file(&entry("c.gz"))), ["/logs/c.gz"]);
        let of = |asked: &[&str], name| {
            let paths = asked.iter().map(|path| (*path).to_owned()).collect();
            let source = Places::of(&Transfer::ScpSource { paths, recursive: true }).unwrap();
            source.file(&entry(name)).paths.into_iter().map(|path| path.path).collect::<Vec<_>>()
        };
        // A name that one path has may be another one's.
        assert_eq!(of(&["/srv/pub/shadow", "/etc/shado?"], "shadow"), ["/srv/pub/shadow", "/etc/shadow"]);
        assert_eq!(of(&["~bob"], "bob"), ["~bob"]);
        assert_eq!(of(&["~"], "deploy"), ["~"]);
        assert_eq!(of(&["/srv/."], "srv"), ["/srv/srv"]);
        assert!(!source.file(&entry("a")).literal);
    }

    #[test]
    fn files_that_rule_and_bits_that_give_rights_are_admin() {
        let upload = sink("/home/a/.ssh", true).file(&entry("authorized_keys"));
        assert_eq!((upload.kind, upload.effect), (OperationKind::Upload, Effect::Admin));
        let setuid = Entry { mode: 0o4755, ..entry("x") };
        assert_eq!(sink("/srv", true).file(&setuid).effect, Effect::Admin);
        assert_eq!(sink("/srv", true).file(&entry("x")).effect, Effect::Write);
        let source = Transfer::ScpSource { paths: vec!["/etc/passwd".to_owned()], recursive: false };
        assert_eq!(Places::of(&source).unwrap().file(&entry("passwd")).effect, Effect::Read);
    }
}
