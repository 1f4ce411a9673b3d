//! The closed sets of messages, and what is known of each one's length before it is read.

use std::fmt;

use super::error::Message;
use super::startup::CANCEL_KEY_BYTES;
use crate::flow::Side;

/// Longest body taken in one piece, in bytes. A longer one is streamed as `Item::Large` and `Item::Chunk`.
pub const WHOLE_BODY_BYTES_MAX: usize = 256 * 1024;

/// Longest body of a Query or Parse taken in one piece, in bytes. SQL beyond it cannot be judged and is refused.
pub const SQL_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Longest body of any message, in bytes: PostgreSQL's `MaxAllocSize`.
pub const BODY_BYTES_MAX: usize = 0x3fff_ffff;

/// Longest body of a message that PostgreSQL calls small, in bytes (`PQ_SMALL_MESSAGE_LIMIT`, libpq/libpq.h).
pub const SMALL_BODY_BYTES_MAX: usize = 10_000;

/// Longest body of a message that libpq calls short, in bytes (`VALID_LONG_MESSAGE_TYPE`, fe-protocol3.c).
pub const SHORT_BODY_BYTES_MAX: usize = 30_000;

/// Longest token in an authentication answer, in bytes (`PG_MAX_AUTH_TOKEN_LENGTH`).
const AUTH_TOKEN_BYTES_MAX: usize = 65_535;

/// A type byte that one side may send, with what is known of its length.
pub trait Tag: Copy + Eq + fmt::Debug {
    /// Who sends these.
    const SIDE: Side;

    /// The tag for a type byte, when there is one.
    fn from_byte(byte: u8) -> Option<Self>;

    /// The type byte.
    fn byte(self) -> u8;

    /// The message, for errors.
    fn message(self) -> Message;

    /// How long a body may be.
    fn bounds(self) -> Bounds;
}

/// How long a message's body may be, in bytes, without the length word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Shortest body that has all fields.
    pub min: usize,
    /// Longest body the protocol can have.
    pub max: usize,
    /// Longest body taken in one piece; up to `max` it is streamed.
    pub whole: usize,
}

impl Bounds {
    /// A body that is never longer than we take in one piece.
    const fn whole(min: usize, max: usize) -> Self {
        Self { min, max, whole: max }
    }

    /// A body that may be as long as PostgreSQL allows, taken in one piece up to `whole`.
    const fn streamed(min: usize, whole: usize) -> Self {
        Self { min, max: BODY_BYTES_MAX, whole }
    }
}

/// Every message a client may send after startup. The value is the type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrontendTag {
    /// Binds parameters to a prepared statement.
    Bind = b'B',
    /// Closes a prepared statement or portal.
    Close = b'C',
    /// Data of a COPY FROM STDIN.
    CopyData = b'd',
    /// The end of a COPY FROM STDIN.
    CopyDone = b'c',
    /// The client gives up a COPY FROM STDIN.
    CopyFail = b'f',
    /// Asks what a prepared statement or portal takes and returns.
    Describe = b'D',
    /// Runs a portal.
    Execute = b'E',
    /// Asks for the answers so far.
    Flush = b'H',
    /// Calls a function by OID, with no SQL text to judge.
    FunctionCall = b'F',
    /// Prepares a statement.
    Parse = b'P',
    /// An answer to an authentication request: which one, only the request tells.
    Password = b'p',
    /// SQL text, run at once.
    Query = b'Q',
    /// Ends a pipeline, and the skipping after an error.
    Sync = b'S',
    /// Ends the session.
    Terminate = b'X',
}

impl Tag for FrontendTag {
    const SIDE: Side = Side::Client;

    #[inline]
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'B' => Self::Bind,
            b'C' => Self::Close,
            b'd' => Self::CopyData,
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail,
            b'D' => Self::Describe,
            b'E' => Self::Execute,
            b'H' => Self::Flush,
            b'F' => Self::FunctionCall,
            b'P' => Self::Parse,
            b'p' => Self::Password,
            b'Q' => Self::Query,
            b'S' => Self::Sync,
            b'X' => Self::Terminate,
            _ => return None,
        })
    }

    fn byte(self) -> u8 {
        self as u8
    }

    fn message(self) -> Message {
        Message::Frontend(self)
    }

    #[inline]
    fn bounds(self) -> Bounds {
        match self {
            Self::Bind => Bounds::streamed(8, WHOLE_BODY_BYTES_MAX),
            Self::Close | Self::Describe => Bounds::whole(2, SMALL_BODY_BYTES_MAX),
            Self::CopyData => Bounds::streamed(0, WHOLE_BODY_BYTES_MAX),
            Self::CopyFail => Bounds::whole(1, SMALL_BODY_BYTES_MAX),
            Self::Execute => Bounds::whole(5, SMALL_BODY_BYTES_MAX),
            Self::FunctionCall => Bounds::streamed(10, WHOLE_BODY_BYTES_MAX),
            Self::Parse => Bounds::streamed(4, SQL_BODY_BYTES_MAX),
            Self::Password => Bounds::whole(0, AUTH_TOKEN_BYTES_MAX),
            Self::Query => Bounds::streamed(1, SQL_BODY_BYTES_MAX),
            Self::CopyDone | Self::Flush | Self::Sync | Self::Terminate => Bounds::whole(0, 0),
        }
    }
}

/// Every message a server may send after its one-byte answers to TLS and GSS requests. The value is the type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BackendTag {
    /// A step of authentication.
    Authentication = b'R',
    /// What a cancel request for this session must prove.
    BackendKeyData = b'K',
    /// Bind succeeded.
    BindComplete = b'2',
    /// Close succeeded.
    CloseComplete = b'3',
    /// A command succeeded.
    CommandComplete = b'C',
    /// COPY in both directions begins (replication).
    CopyBothResponse = b'W',
    /// Data of a COPY TO STDOUT.
    CopyData = b'd',
    /// The end of a COPY TO STDOUT.
    CopyDone = b'c',
    /// COPY FROM STDIN begins.
    CopyInResponse = b'G',
    /// COPY TO STDOUT begins.
    CopyOutResponse = b'H',
    /// A row.
    DataRow = b'D',
    /// The query text held no statement.
    EmptyQueryResponse = b'I',
    /// A command or the connection failed.
    ErrorResponse = b'E',
    /// The result of a FunctionCall.
    FunctionCallResponse = b'V',
    /// Which older version or fewer options the server offers.
    NegotiateProtocolVersion = b'v',
    /// What was described returns no rows.
    NoData = b'n',
    /// A warning or a word by the way; it may come at any time.
    NoticeResponse = b'N',
    /// A NOTIFY of some session; it may come at any time.
    NotificationResponse = b'A',
    /// Types of a prepared statement's parameters.
    ParameterDescription = b't',
    /// A session parameter's value; it may come at any time.
    ParameterStatus = b'S',
    /// Parse succeeded.
    ParseComplete = b'1',
    /// Execute stopped at its row limit.
    PortalSuspended = b's',
    /// The server awaits the next command.
    ReadyForQuery = b'Z',
    /// The columns of the rows to come.
    RowDescription = b'T',
}

impl Tag for BackendTag {
    const SIDE: Side = Side::Upstream;

    #[inline]
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'R' => Self::Authentication,
            b'K' => Self::BackendKeyData,
            b'2' => Self::BindComplete,
            b'3' => Self::CloseComplete,
            b'C' => Self::CommandComplete,
            b'W' => Self::CopyBothResponse,
            b'd' => Self::CopyData,
            b'c' => Self::CopyDone,
            b'G' => Self::CopyInResponse,
            b'H' => Self::CopyOutResponse,
            b'D' => Self::DataRow,
            b'I' => Self::EmptyQueryResponse,
            b'E' => Self::ErrorResponse,
            b'V' => Self::FunctionCallResponse,
            b'v' => Self::NegotiateProtocolVersion,
            b'n' => Self::NoData,
            b'N' => Self::NoticeResponse,
            b'A' => Self::NotificationResponse,
            b't' => Self::ParameterDescription,
            b'S' => Self::ParameterStatus,
            b'1' => Self::ParseComplete,
            b's' => Self::PortalSuspended,
            b'Z' => Self::ReadyForQuery,
            b'T' => Self::RowDescription,
            _ => return None,
        })
    }

    fn byte(self) -> u8 {
        self as u8
    }

    fn message(self) -> Message {
        Message::Backend(self)
    }

    #[inline]
    fn bounds(self) -> Bounds {
        const COUNTED: usize = u16::MAX as usize;
        match self {
            Self::Authentication => Bounds::whole(4, AUTH_TOKEN_BYTES_MAX),
            Self::BackendKeyData => Bounds::whole(4 + *CANCEL_KEY_BYTES.start(), 4 + *CANCEL_KEY_BYTES.end()),
            Self::CommandComplete => Bounds::whole(1, SHORT_BODY_BYTES_MAX),
            Self::CopyInResponse | Self::CopyOutResponse | Self::CopyBothResponse => {
                Bounds::whole(3, 3 + 2 * COUNTED)
            }
            Self::CopyData => Bounds::streamed(0, WHOLE_BODY_BYTES_MAX),
            Self::DataRow => Bounds::streamed(2, WHOLE_BODY_BYTES_MAX),
            Self::ErrorResponse | Self::NoticeResponse => Bounds::streamed(1, WHOLE_BODY_BYTES_MAX),
            Self::FunctionCallResponse => Bounds::streamed(4, WHOLE_BODY_BYTES_MAX),
            Self::NegotiateProtocolVersion => Bounds::whole(8, SHORT_BODY_BYTES_MAX),
            Self::NotificationResponse => Bounds::whole(6, SHORT_BODY_BYTES_MAX),
            Self::ParameterDescription => Bounds::whole(2, 2 + 4 * COUNTED),
            Self::ParameterStatus => Bounds::whole(2, SHORT_BODY_BYTES_MAX),
            Self::ReadyForQuery => Bounds::whole(1, 1),
            // A server's widest row has 1,664 columns with names of 63 bytes: 137 kB.
            Self::RowDescription => Bounds::whole(2, WHOLE_BODY_BYTES_MAX),
            Self::BindComplete
            | Self::CloseComplete
            | Self::CopyDone
            | Self::EmptyQueryResponse
            | Self::NoData
            | Self::ParseComplete
            | Self::PortalSuspended => Bounds::whole(0, 0),
        }
    }
}
