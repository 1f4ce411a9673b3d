//! What can be wrong with bytes from a PostgreSQL peer, and whose fault it was.

use std::fmt;

use super::sqlstate::{self, SqlState};
use super::{BackendTag, FrontendTag};
use crate::flow::Side;

/// Which message an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The untagged packet a client opens with.
    Startup,
    /// A client's message.
    Frontend(FrontendTag),
    /// A server's message.
    Backend(BackendTag),
}

impl Message {
    /// Who sends such a message.
    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Self::Startup | Self::Frontend(_) => Side::Client,
            Self::Backend(_) => Side::Upstream,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Startup => f.write_str("the client's startup packet"),
            Self::Frontend(tag) => write!(f, "the client's {tag:?} message"),
            Self::Backend(tag) => write!(f, "the server's {tag:?} message"),
        }
    }
}

/// Bytes that are not PostgreSQL protocol 3. The connection cannot be resynchronised after one: it is closed.
///
/// The texts name the message and the field, never its content, so they may be logged and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The type byte names no message that side may send.
    #[error("unknown message type {byte:#04x} from the {}", peer(*.side))]
    UnknownTag {
        /// Who sent it.
        side: Side,
        /// The type byte.
        byte: u8,
    },
    /// The length word is outside what that message can have.
    #[error("{message} gives its length as {length} bytes; between {min} and {max} are possible")]
    Length {
        /// The message.
        message: Message,
        /// The length word, which counts itself, read as unsigned: a negative one shows above two billion.
        length: u32,
        /// Smallest possible length word.
        min: u32,
        /// Largest possible length word.
        max: u32,
    },
    /// The message ends before the field does.
    #[error("{message} ends inside its {field}")]
    Truncated {
        /// The message.
        message: Message,
        /// The field it ends in.
        field: &'static str,
    },
    /// A string lacks its closing NUL.
    #[error("{message} has no NUL after its {field}")]
    Unterminated {
        /// The message.
        message: Message,
        /// The string.
        field: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("{message} has {bytes} bytes after its last field")]
    Trailing {
        /// The message.
        message: Message,
        /// How many bytes are left.
        bytes: usize,
    },
    /// A text is not UTF-8, the only encoding we let a client choose.
    #[error("{message} has a {field} that is not UTF-8")]
    NotUtf8 {
        /// The message.
        message: Message,
        /// The text.
        field: &'static str,
    },
    /// A field has a value that the protocol does not define or that contradicts another field.
    #[error("{message} has an impossible {field}: {value}")]
    Value {
        /// The message.
        message: Message,
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A startup parameter is given twice; which one counts would be a guess.
    #[error("the client's startup packet gives a parameter twice")]
    DuplicateParameter,
    /// The client asks for a protocol that is not version 3.
    #[error("the client asks for protocol {major}.{minor}; 3.0 to 3.2 are spoken here")]
    Version {
        /// Requested major version.
        major: u16,
        /// Requested minor version.
        minor: u16,
    },
}

impl DecodeError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::UnknownTag { side, .. } => *side,
            Self::Length { message, .. }
            | Self::Truncated { message, .. }
            | Self::Unterminated { message, .. }
            | Self::Trailing { message, .. }
            | Self::NotUtf8 { message, .. }
            | Self::Value { message, .. } => message.side(),
            Self::DuplicateParameter | Self::Version { .. } => Side::Client,
        }
    }

    /// The code to tell the client, as the server would choose it.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Version { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::NotUtf8 { .. } => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            Self::UnknownTag { .. }
            | Self::Length { .. }
            | Self::Truncated { .. }
            | Self::Unterminated { .. }
            | Self::Trailing { .. }
            | Self::Value { .. }
            | Self::DuplicateParameter => sqlstate::PROTOCOL_VIOLATION,
        }
    }
}

/// The word for a side of the wire.
fn peer(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Upstream => "server",
        Side::Policy | Side::Portcullis => "proxy",
    }
}
