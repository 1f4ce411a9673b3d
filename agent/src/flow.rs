//! Words for one intercepted connection: who opened it, and where it was going before the kernel redirected it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Identifies one governed execution of an agent. Sortable by start time (ULID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Ulid);

/// Identifies the recording of one flow. Sortable by start time (ULID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Ulid);

/// Identifies one pending human decision, and the decision once it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApprovalId(pub Ulid);

macro_rules! ulid_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// A fresh identifier from the wall clock and the system's randomness.
            #[must_use]
            pub fn generate() -> Self {
                Self(Ulid::new())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ulid::DecodeError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ulid::from_string(text).map(Self)
            }
        }
    )*};
}

ulid_id!(RunId, SessionId, ApprovalId);

/// Characters of [`ApprovalId::code`].
const CODE_CHARS: usize = 6;

impl ApprovalId {
    /// The id as people read it to each other: its end, which is random (30 bits in Crockford's base 32, which has no letters
    /// that look or sound like others). No two requests that are known at once have the same.
    #[must_use]
    pub fn code(&self) -> String {
        let text = self.to_string();
        text.get(text.len().saturating_sub(CODE_CHARS)..).unwrap_or(&text).to_owned()
    }

    /// Whether another one has the same code.
    #[must_use]
    pub fn shares_code_with(&self, other: &Self) -> bool {
        const MASK: u128 = (1 << (5 * CODE_CHARS)) - 1;
        (self.0.0 ^ other.0.0) & MASK == 0
    }
}

/// What somebody wrote or heard of an id, as ids are written: without hyphens and blanks, in capitals, and with the digits that
/// Crockford's base 32 reads other letters as (<https://www.crockford.com/base32.html>).
#[must_use]
pub fn id_as_written(text: &str) -> String {
    let digit = |letter: char| match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(digit).collect()
}

/// The address the agent asked for, before redirection. IPv4-mapped IPv6 addresses are normalised to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OriginalDst(pub SocketAddr);

impl fmt::Display for OriginalDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the kernel and `/proc` say of the process that called `connect(2)`.
///
/// `tgid`, `uid`, `gid` and `comm` are the kernel's, taken at connect time. `exe` and `argv` are read from `/proc`
/// right after accept; they decorate the record and decide nothing (a process can rename itself).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Thread group id (what user space calls the pid), in the initial pid namespace.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Task name, at most 15 bytes.
    pub comm: String,
    /// Executable, when `/proc` still had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<PathBuf>,
    /// Command line, when `/proc` still had it; bounded by `limits::ARGV_BYTES_MAX`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
}

/// One intercepted connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The recording of this flow.
    pub session: SessionId,
    /// The run whose cgroup the connecting task was in.
    pub run: RunId,
    /// Where the agent wanted to go.
    pub destination: OriginalDst,
    /// Who called `connect(2)`.
    pub process: Process,
    /// The client socket's cookie (unique until reboot; `SO_COOKIE`).
    pub socket_cookie: u64,
}

/// Whose fault an error was. Every stage error answers `side()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The agent's process or its client library.
    Client,
    /// The policy, or a human's decision under it.
    Policy,
    /// Portcullis itself or the host it runs on.
    Portcullis,
    /// The real server.
    Upstream,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_out_and_written_down_by_their_end() {
        let id: ApprovalId = "01M8EKJTBH0123456789ABCDEF".parse().unwrap();
        assert_eq!(id.code(), "ABCDEF");
        let same: ApprovalId = "01M8EKJTBHZZZZZZZZZZABCDEF".parse().unwrap();
        let other: ApprovalId = "01M8EKJTBH0123456789ABCDEG".parse().unwrap();
        assert!(id.shares_code_with(&same) && !id.shares_code_with(&other));
        let early: ApprovalId = "01M8EKJTBH01234567898BCDEF".parse().unwrap();
        assert!(!id.shares_code_with(&early), "the first letter counts as well");
        assert_eq!(id_as_written("ab-cd ef"), "ABCDEF");
        assert_eq!(id_as_written("oil10l"), "011101");
    }
}
