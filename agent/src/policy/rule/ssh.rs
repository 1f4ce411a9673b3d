//! What only SSH connections and guards say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use globset::{Glob, GlobMatcher};

use super::{Connection, Destination, Protocol};
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
    /// `home =`: where the account's relative paths and `~` begin; absolute, without `.` and `..`.
    pub home: Option<String>,
    /// `token =`: name of a credential that clients must give as their password.
    pub token: Option<String>,
    /// `mask_downloads =`: what detectors find in files is overwritten on the way to the client.
    pub mask_downloads: bool,
}

impl Default for SshRules {
    fn default() -> Self {
        let env = ENV_DEFAULT.iter().filter_map(|name| Some(Glob::new(name).ok()?.compile_matcher()));
        Self {
            interactive: Interactive::Deny,
            agent_forwarding: false,
            x11: false,
            env: env.collect(),
            home: None,
            token: None,
            mask_downloads: false,
        }
    }
}

impl SshRules {
    /// Whether a variable of this name is passed on.
    #[must_use]
    pub fn env_allowed(&self, name: &str) -> bool {
        self.env.iter().any(|glob| glob.is_match(name))
    }
}

/// What happens to interactive shells. A shell is judged as a whole: what is typed there cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interactive {
    /// None. The default.
    Deny,
    /// Guards decide on the shell; without one it is allowed. All of it is recorded.
    Record,
    /// The same, and what is typed is judged line by line. No boundary: an editor, a nested program or a trick of the line's own
    /// editor can run what was never shown.
    LineGuard,
}

/// `command =`: a glob over a program and its arguments, joined by single blanks.
#[derive(Clone, Debug)]
pub struct CommandPattern {
    whole: GlobMatcher,
    /// Its words that begin with a minus.
    options: Vec<GlobMatcher>,
}

impl CommandPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is no glob.
    pub fn new(text: &str) -> Result<Self, globset::Error> {
        let options = text.split(' ').filter(|word| word.starts_with('-'));
        let options = options.map(|word| Ok(Glob::new(word)?.compile_matcher())).collect::<Result<_, _>>()?;
        Ok(Self { whole: Glob::new(text)?.compile_matcher(), options })
    }

    /// Whether it matches a program and its arguments.
    #[must_use]
    pub fn is_match(&self, line: &str) -> bool {
        self.whole.is_match(line)
    }

    /// Whether it has this option written out.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|glob| glob.is_match(option))
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        self.whole.glob().glob()
    }

    /// Its words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.text().split(' ')
    }
}

/// Hosts that SSH connections lead to, as `known_hosts` names them (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): by name, or in
/// brackets with a port that is not 22. Networks have no name.
#[must_use]
pub fn known_hosts_names(connections: &[Arc<Connection>]) -> Vec<String> {
    let ssh = connections.iter().filter(|connection| connection.protocol == Protocol::Ssh);
    let mut names: Vec<String> = ssh
        .flat_map(|connection| &connection.to)
        .filter_map(|to| {
            let (host, port) = match to {
                Destination::Host { name, port } => (name.clone(), *port),
                Destination::Network { address, prefix, port } => {
                    let whole = if address.is_ipv4() { 32 } else { 128 };
                    (address.to_string(), (*prefix == whole).then_some(*port)?)
                }
            };
            Some(match port {
                None | Some(22) => host,
                Some(port) => format!("[{host}]:{port}"),
            })
        })
        .collect();
    names.dedup();
    names
}

/// Conditions that only SSH operations have. An empty list does not constrain.
#[derive(Clone, Debug, Default)]
pub struct SshWhen {
    /// `operation = ["exec"]`.
    pub operations: Vec<OperationKind>,
    /// `program = ["rm"]`: globs over base names of programs.
    pub programs: Vec<GlobMatcher>,
    /// `command = ["git push*"]`: globs over program and arguments, joined by single blanks.
    pub commands: Vec<CommandPattern>,
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
