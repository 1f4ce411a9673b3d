//! The SQLSTATE codes this proxy says or looks for.
//!
//! Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::fmt;

/// Five characters that classify an error or notice (SQL standard; digits and upper-case letters).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// A code as a server sent it, or `None` when it is not five digits or upper-case letters.
    #[must_use]
    pub fn parse(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()).then_some(Self(code))
    }

    /// The five bytes, all ASCII and none of them NUL.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `successful_completion`: the code of most notices.
pub const SUCCESSFUL_COMPLETION: SqlState = SqlState(*b"00000");
/// `warning`.
pub const WARNING: SqlState = SqlState(*b"01000");
/// `sqlclient_unable_to_establish_sqlconnection`: the server cannot be reached.
pub const CANNOT_CONNECT: SqlState = SqlState(*b"08001");
/// `sqlserver_rejected_establishment_of_sqlconnection`: the connection itself is refused.
pub const CONNECTION_REJECTED: SqlState = SqlState(*b"08004");
/// `connection_failure`: an established connection broke.
pub const CONNECTION_FAILURE: SqlState = SqlState(*b"08006");
/// `protocol_violation`.
pub const PROTOCOL_VIOLATION: SqlState = SqlState(*b"08P01");
/// `feature_not_supported`.
pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
/// `character_not_in_repertoire`: bytes that are no text in the encoding.
pub const CHARACTER_NOT_IN_REPERTOIRE: SqlState = SqlState(*b"22021");
/// `active_sql_transaction`: not possible inside a transaction.
pub const ACTIVE_SQL_TRANSACTION: SqlState = SqlState(*b"25001");
/// `in_failed_sql_transaction`: commands are ignored until the transaction ends.
pub const IN_FAILED_SQL_TRANSACTION: SqlState = SqlState(*b"25P02");
/// `invalid_sql_statement_name`: no such prepared statement.
pub const INVALID_SQL_STATEMENT_NAME: SqlState = SqlState(*b"26000");
/// `invalid_authorization_specification`.
pub const INVALID_AUTHORIZATION: SqlState = SqlState(*b"28000");
/// `invalid_password`.
pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
/// `invalid_cursor_name`: no such portal.
pub const INVALID_CURSOR_NAME: SqlState = SqlState(*b"34000");
/// `invalid_catalog_name`: no such database.
pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
/// `insufficient_privilege`: what a refusal by policy is told as.
pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState(*b"42501");
/// `syntax_error`.
pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
/// `duplicate_prepared_statement`.
pub const DUPLICATE_PREPARED_STATEMENT: SqlState = SqlState(*b"42P05");
/// `disk_full`.
pub const DISK_FULL: SqlState = SqlState(*b"53100");
/// `out_of_memory`.
pub const OUT_OF_MEMORY: SqlState = SqlState(*b"53200");
/// `too_many_connections`.
pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
/// `program_limit_exceeded`: larger than we are willing to hold.
pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState(*b"54000");
/// `statement_too_complex`: deeper than we are willing to analyse.
pub const STATEMENT_TOO_COMPLEX: SqlState = SqlState(*b"54001");
/// `query_canceled`.
pub const QUERY_CANCELED: SqlState = SqlState(*b"57014");
/// `admin_shutdown`: this side is stopping.
pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
/// `cannot_connect_now`: this side is starting or stopping.
pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
/// `io_error`: the recording cannot be written.
pub const IO_ERROR: SqlState = SqlState(*b"58030");
/// `internal_error`.
pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");
