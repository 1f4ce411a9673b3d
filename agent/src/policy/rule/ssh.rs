//! What only SSH connections and guards say.

use std::path::PathBuf;
use std::time::Duration;

use globset::{Glob, GlobMatcher};

use crate::request::ssh::{Access, OperationKind};

/// How long a certificate that we mint is good, unless the profile says.
pub const VALIDITY_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Environment variables that are passed on, unless the connection says: what OpenSSH's clients send by themselves, git's
/// protocol version, and what a terminal is.
pub const ENV_DEFAULT: [&str; 5] = ["LANG", "LC_*", "TERM", "COLORTERM", "GIT_PROTOCOL"];

/// What a profile says of an SSH server: its keys, and how we log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshUpstream {
    /// `auth =` and what belongs to it.
    pub auth: SshAuth,
    /// `host_keys =`: public keys as `ssh-keyscan` shows them, without the host.
    pub host_keys: Vec<String>,
    /// `host_ca =`: public keys that sign host certificates.
    pub host_ca: Vec<String>,
    /// `known_hosts =`: a file in OpenSSH's format.
    pub known_hosts: Option<PathBuf>,
}

/// How we log in to an SSH server (RFC 4252).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SshAuth {
    /// `key`: the credential is a private key.
    #[default]
    Key,
    /// `password`: the credential is one.
    Password,
    /// `certificate`: the credential is a private key, and this one its certificate.
    Certificate {
        /// `certificate =`.
        certificate: String,
    },
    /// `ca`: the credential is a CA's private key, and a certificate is minted for each session.
    Authority {
        /// `principals =`; empty is the account itself.
        principals: Vec<String>,
        /// `validity =`.
        validity: Duration,
    },
    /// `agent`: an authentication agent of the daemon holds the key.
    Agent {
        /// `agent =`: its socket.
        socket: PathBuf,
    },
}

/// `ssh = { … }` of a connection: what clients may have beside commands and files.
#[derive(Clone, Debug)]
pub struct SshRules {
    /// `interactive =`.
    pub interactive: Interactive,
    /// `agent_forwarding =`.
    pub agent_forwarding: bool,
    /// `x11 =`.
    pub x11: bool,
    /// `env =`: globs over names of variables that are passed on.
    pub env: Vec<GlobMatcher>,
}

impl Default for SshRules {
    fn default() -> Self {
        let env = ENV_DEFAULT.iter().filter_map(|name| Some(Glob::new(name).ok()?.compile_matcher()));
        Self { interactive: Interactive::Deny, agent_forwarding: false, x11: false, env: env.collect() }
    }
}

impl SshRules {
    /// Whether a variable of this name is passed on.
    #[must_use]
    pub fn env_allowed(&self, name: &str) -> bool {
        self.env.iter().any(|glob| glob.is_match(name))
    }
}

/// What happens to interactive shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interactive {
    /// None. The default.
    Deny,
    /// Guards decide on the shell; without one it is allowed. All of it is recorded.
    Record,
    /// The same, and Enter waits until the line that is shown has been judged. No boundary: what only the shell knows it does
    /// not see.
    LineGuard,
}

/// Conditions that only SSH operations have. An empty list does not constrain.
#[derive(Clone, Debug, Default)]
pub struct SshWhen {
    /// `operation = ["exec"]`.
    pub operations: Vec<OperationKind>,
    /// `program = ["rm"]`: globs over base names of programs.
    pub programs: Vec<GlobMatcher>,
    /// `command = ["git push*"]`: globs over program and arguments, joined by single blanks.
    pub commands: Vec<GlobMatcher>,
    /// `file = ["/etc/**"]`: globs over paths of the server.
    pub files: Vec<GlobMatcher>,
    /// `access = ["write"]`: what is done with them.
    pub access: Vec<Access>,
    /// `target = ["*:22"]`: globs over where forwards lead, and names of subsystems.
    pub targets: Vec<GlobMatcher>,
    /// `user = ["root"]`: globs over the account on the server.
    pub users: Vec<GlobMatcher>,
}

impl SshWhen {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
            && self.programs.is_empty()
            && self.commands.is_empty()
            && self.files.is_empty()
            && self.access.is_empty()
            && self.targets.is_empty()
            && self.users.is_empty()
    }
}
