//! What a request of SFTP does, in words for policies.

use super::{Access, OperationKind, PathUse, SshOperation, moves};
use crate::codec::sftp::{Attributes, Request};
use crate::request::Effect;

/// Where relative paths of a channel begin, once the server has said it.
pub type Home<'h> = Option<&'h str>;

/// What a request by path does. Empty for one that is about what is open already, or about nothing that is a file. A file opened
/// for both ways is both.
#[must_use]
pub fn operations(request: &Request, home: Home<'_>) -> Vec<SshOperation> {
    let place = |path: &[u8]| place(path, home);
    let one = |kind, path: &[u8], access| vec![moved(kind, vec![(place(path), access)])];
    match request {
        Request::Open { path, flags, attributes } => {
            let mut all = Vec::new();
            if flags.reads() {
                all.extend(one(OperationKind::Download, path, Access::Read));
            }
            if flags.writes() {
                let upload = moved(OperationKind::Upload, vec![(place(path), Access::Write)]);
                all.push(with_attributes(upload, attributes));
            }
            all
        }
        Request::LookAtPath(path) | Request::Opendir(path) | Request::Realpath(path) => {
            one(OperationKind::Stat, path, Access::Read)
        }
        Request::Setstat { path, attributes } => {
            let setstat = moved(OperationKind::Setstat, vec![(place(path), Access::Write)]);
            vec![with_attributes(setstat, attributes)]
        }
        Request::Remove(path) => one(OperationKind::Remove, path, Access::Remove),
        Request::Mkdir { path, attributes } => {
            let mkdir = moved(OperationKind::Mkdir, vec![(place(path), Access::Write)]);
            vec![with_attributes(mkdir, attributes)]
        }
        // What it holds can be read under its new name.
        Request::Rename { from, to } => {
            let from = place(from);
            let paths =
                vec![(from.clone(), Access::Read), (from, Access::Remove), (place(to), Access::Write)];
            vec![moved(OperationKind::Rename, paths)]
        }
        Request::Symlink { target, link } => {
            let link = place(link);
            let target = from_folder_of(&link, target);
            vec![linked(link, target)]
        }
        Request::Hardlink { target, link } => vec![linked(place(link), place(target))],
        Request::Init(_)
        | Request::Close(_)
        | Request::Read { .. }
        | Request::LookAtHandle(_)
        | Request::Fsetstat { .. }
        | Request::Extended(_) => Vec::new(),
    }
}

/// Attributes of an open file set: of one that may be written that is part of writing it, but for the bits that give its
/// rights to whoever runs it.
#[must_use]
pub fn setstat_of_open(path: &str, attributes: &Attributes) -> SshOperation {
    let setstat = moved(OperationKind::Setstat, vec![(path.to_owned(), Access::Write)]);
    with_attributes(setstat, attributes)
}

/// A file that goes one way.
#[must_use]
pub fn file(kind: OperationKind, path: &str) -> SshOperation {
    let access = if kind == OperationKind::Download { Access::Read } else { Access::Write };
    moved(kind, vec![(path.to_owned(), access)])
}

fn moved(kind: OperationKind, paths: Vec<(String, Access)>) -> SshOperation {
    moves(kind, paths.into_iter().map(|(path, access)| PathUse { path, access }).collect())
}

/// Whoever reads or writes through the link later reads or writes what it leads to.
fn linked(link: String, target: String) -> SshOperation {
    let paths = vec![(link, Access::Write), (target.clone(), Access::Read), (target, Access::Write)];
    moved(OperationKind::Link, paths)
}

/// What a symbolic link leads to is seen from the folder that the link is in.
fn from_folder_of(link: &str, target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target);
    match link.rsplit_once('/') {
        Some((folder, _)) if !target.starts_with('/') => format!("{folder}/{target}"),
        Some(_) | None => target.into_owned(),
    }
}

fn with_attributes(mut operation: SshOperation, attributes: &Attributes) -> SshOperation {
    if attributes.sets_id() {
        operation.effect = Effect::Admin;
        operation.reason = Some("gives a file's rights to whoever runs it".to_owned());
    }
    operation
}

/// A path in full, as far as it is known; a `..` stays, for only the server knows where it leads. Bytes that are no UTF-8 are no character that a rule could have named.
#[must_use]
pub fn place(path: &[u8], home: Home<'_>) -> String {
    let path = String::from_utf8_lossy(path);
    match home {
        Some(home) if !path.starts_with('/') => format!("{home}/{path}"),
        Some(_) | None => path.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::codec::sftp::OpenFlags;

    fn of(request: &Request) -> Vec<(OperationKind, Effect, String)> {
        let all = operations(request, Some("/home/deploy"));
        all.into_iter().map(|operation| (operation.kind, operation.effect, operation.text)).collect()
    }

    fn open(path: &'static str, flags: u32) -> Request {
        let attributes = Attributes::default();
        Request::Open { path: Bytes::from_static(path.as_bytes()), flags: OpenFlags(flags), attributes }
    }

    #[test]
    fn requests_are_what_they_do_to_which_file() {
        use OperationKind::{Download, Link, Remove, Rename, Setstat, Stat, Upload};
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let expected = |kind, effect, text: &str| (kind, effect, text.to_owned());
        assert_eq!(of(&open("/srv/x", 1)), [expected(Download, Effect::Read, "download /srv/x")]);
        assert_eq!(of(&open("x", 26)), [expected(Upload, Effect::Write, "upload /home/deploy/x")]);
        assert_eq!(of(&open("/srv/x", 3)).len(), 2);
        assert_eq!(
            of(&open(".ssh/authorized_keys", 2)),
            [expected(Upload, Effect::Admin, "upload /home/deploy/.ssh/authorized_keys")]
        );
        assert_eq!(of(&Request::LookAtPath(bytes("/etc/shadow")))[0].0, Stat);
        assert_eq!(
            of(&Request::Remove(bytes("/etc/passwd")))[0],
            expected(Remove, Effect::Admin, "remove /etc/passwd")
        );
        let rename = Request::Rename { from: bytes("/tmp/x"), to: bytes("/etc/cron.d/x") };
        assert_eq!(of(&rename), [expected(Rename, Effect::Admin, "rename /tmp/x /etc/cron.d/x")]);
        let folder = Request::Rename { from: bytes("/home/a/new"), to: bytes("/home/a/.ssh") };
        assert_eq!(of(&folder)[0].1, Effect::Admin);
        for (target, leads_to) in
            [("/etc/passwd", "/etc/passwd"), ("../../etc/passwd", "/srv/in/../../etc/passwd")]
        {
            let link = Request::Symlink { target: bytes(target), link: bytes("/srv/in/x") };
            assert_eq!(of(&link), [expected(Link, Effect::Admin, &format!("link /srv/in/x {leads_to}"))]);
        }
        let hard = Request::Hardlink { target: bytes("x"), link: bytes("/srv/x") };
        assert_eq!(of(&hard), [expected(Link, Effect::Write, "link /srv/x /home/deploy/x")]);
        let attributes = Attributes { permissions: Some(0o4755), ..Attributes::default() };
        let setuid = Request::Setstat { path: bytes("/srv/x"), attributes };
        assert_eq!(of(&setuid), [expected(Setstat, Effect::Admin, "setstat /srv/x")]);
        assert_eq!(of(&Request::Close(bytes("h"))), []);
    }
}
