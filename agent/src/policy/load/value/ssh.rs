//! The words of SSH rules: operations, accesses, paths, host keys, ways to log in.

use globset::{GlobBuilder, GlobMatcher};
use russh::keys::PublicKey;
use serde_json::{Value, json};

use crate::policy::diagnostic::quoted;
use crate::policy::load::table::{Choice, Word};
use crate::policy::rule::{CommandPattern, Interactive};
use crate::request::ssh::paths::normal;
use crate::request::ssh::{Access, OperationKind};

impl Choice for Interactive {
    const NOUN: &'static str = "a choice for interactive";
    const ALL: &'static [(&'static str, Self)] =
        &[("deny", Self::Deny), ("record", Self::Record), ("line-guard", Self::LineGuard)];
}

impl Choice for Access {
    const NOUN: &'static str = "an access";
    const ALL: &'static [(&'static str, Self)] =
        &[("read", Self::Read), ("write", Self::Write), ("remove", Self::Remove)];
}

impl Choice for OperationKind {
    const NOUN: &'static str = "an operation of SSH";
    const ALL: &'static [(&'static str, Self)] = &[
        ("exec", Self::Exec),
        ("shell", Self::Shell),
        ("line", Self::Line),
        ("subsystem", Self::Subsystem),
        ("download", Self::Download),
        ("upload", Self::Upload),
        ("remove", Self::Remove),
        ("rename", Self::Rename),
        ("setstat", Self::Setstat),
        ("link", Self::Link),
        ("mkdir", Self::Mkdir),
        ("stat", Self::Stat),
        ("direct-tcpip", Self::DirectTcpip),
        ("tcpip-forward", Self::TcpipForward),
        ("direct-streamlocal", Self::DirectStreamlocal),
        ("streamlocal-forward", Self::StreamlocalForward),
        ("pty", Self::Pty),
        ("agent-forwarding", Self::AgentForwarding),
        ("x11", Self::X11),
    ];
}

/// How the daemon logs in to a server: `pass-through` is PostgreSQL's, the others are SSH's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy::load) enum LoginMethod {
    Key,
    Password,
    Certificate,
    Authority,
    Agent,
    PassThrough,
}

impl Choice for LoginMethod {
    const NOUN: &'static str = "a way to log in";
    const ALL: &'static [(&'static str, Self)] = &[
        ("key", Self::Key),
        ("password", Self::Password),
        ("certificate", Self::Certificate),
        ("ca", Self::Authority),
        ("agent", Self::Agent),
        ("pass-through", Self::PassThrough),
    ];
}

/// A public key as OpenSSH writes it.
pub(in crate::policy::load) struct HostKey(pub(in crate::policy::load) String);

impl Word for HostKey {
    const WHAT: &'static str = "a public key such as \"ssh-ed25519 AAAA…\"";

    fn parse(text: &str) -> Result<Self, String> {
        match PublicKey::from_openssh(text.trim()) {
            Ok(_) => Ok(Self(text.trim().to_owned())),
            Err(error) => Err(format!(
                "{} is no public key ({error}); `ssh-keyscan HOST` shows them, after the host's name",
                quoted(text)
            )),
        }
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?$" })
    }
}

/// A glob over paths, in which `*` stays within one folder and `**` does not.
pub(in crate::policy::load) struct PathGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for PathGlob {
    const WHAT: &'static str = "a path such as \"/etc/**\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(format!("{} is not {}", quoted(text), Self::WHAT));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        glob.map(|glob| Self(glob.compile_matcher())).map_err(|error| format!("{}: {error}", quoted(text)))
    }

    fn doubt(&self) -> Option<String> {
        let text = self.0.glob().glob();
        (!text.starts_with(['/', '~', '*'])).then(|| {
            format!(
                "paths are matched whole: {} matches only what is asked for by that very name",
                quoted(text)
            )
        })
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// A program and its arguments, with globs.
pub(in crate::policy::load) struct CommandGlob(pub(in crate::policy::load) CommandPattern);

impl Word for CommandGlob {
    const WHAT: &'static str = "a command such as \"git pull*\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) || text.contains("  ") || text.trim() != text
        {
            return Err(format!(
                "{} is not {}, with single blanks between its words",
                quoted(text),
                Self::WHAT
            ));
        }
        CommandPattern::new(text).map(Self).map_err(|error| format!("{}: {error}", quoted(text)))
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// An absolute folder.
pub(in crate::policy::load) struct Folder(pub(in crate::policy::load) String);

impl Word for Folder {
    const WHAT: &'static str = "a folder such as \"/home/deploy\"";

    fn parse(text: &str) -> Result<Self, String> {
        let plain = text.starts_with('/') && !text.chars().any(char::is_control) && normal(text) == text;
        if plain { Ok(Self(text.to_owned())) } else { Err(format!("{} is not {}", quoted(text), Self::WHAT)) }
    }

    fn pattern() -> Value {
        json!({ "pattern": "^/" })
    }
}
