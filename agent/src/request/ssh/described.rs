//! Operations as people describe them who try a policy: by kind, and by what they are about.

use bytes::Bytes;

use super::sftp::operations;
use super::{Access, OperationKind, PathUse, SshOperation, exec, line, moves, request, shell, subsystem};
use crate::codec::sftp::Request;

/// An operation of this kind. `about` is a command line, a path, two paths with a space between them (a rename's old and new
/// name, a symbolic link's name and what it leads to), where a forward leads, or a name.
#[must_use]
pub fn described(kind: OperationKind, about: &str) -> SshOperation {
    let path = |access| moves(kind, vec![PathUse { path: about.to_owned(), access }]);
    let (first, second) = about.split_once(' ').unwrap_or((about, ""));
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let of = |asked: &Request| operations(asked, None).into_iter().next();
    let operation = match kind {
        OperationKind::Exec => Some(exec(about.as_bytes())),
        OperationKind::Shell => Some(shell()),
        OperationKind::Line => Some(line(about, None)),
        OperationKind::Subsystem => Some(subsystem(about)),
        OperationKind::Download | OperationKind::Stat => Some(path(Access::Read)),
        OperationKind::Upload | OperationKind::Setstat | OperationKind::Mkdir => Some(path(Access::Write)),
        OperationKind::Remove => Some(path(Access::Remove)),
        OperationKind::Rename => of(&Request::Rename { from: bytes(first), to: bytes(second) }),
        OperationKind::Link => of(&Request::Symlink { link: bytes(first), target: bytes(second) }),
        OperationKind::DirectTcpip
        | OperationKind::TcpipForward
        | OperationKind::DirectStreamlocal
        | OperationKind::StreamlocalForward
        | OperationKind::Env
        | OperationKind::Pty
        | OperationKind::AgentForwarding
        | OperationKind::X11 => None,
    };
    operation.unwrap_or_else(|| request(kind, about))
}

impl std::str::FromStr for OperationKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("one of: {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Effect;

    #[test]
    fn every_kind_can_be_described() {
        for kind in OperationKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(described(kind, "/srv/x /srv/y").kind, kind);
        }
        let rename = described(OperationKind::Rename, "/srv/x /etc/cron.d/x");
        assert_eq!((rename.effect, rename.paths.len()), (Effect::Admin, 3));
        assert_eq!(described(OperationKind::DirectTcpip, "db:5432").target.as_deref(), Some("db:5432"));
        assert!("nothing".parse::<OperationKind>().is_err());
    }
}
