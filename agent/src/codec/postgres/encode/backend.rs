//! What this proxy says to a client in the server's place. Errors and notices: `report`.

use bytes::{BufMut, BytesMut};

use super::{EncodeError, fixed, message, put_list, put_text, put_value, put_values};
use crate::codec::postgres::BackendTag;
use crate::codec::postgres::backend::{FieldDescription, Notification, TransactionStatus};
use crate::codec::postgres::fields::Text;
use crate::codec::postgres::startup::{CancelKey, ProtocolVersion};
use crate::codec::postgres::tag::BODY_BYTES_MAX;

/// The one-byte answer to an SSLRequest that lets the TLS handshake begin.
pub const TLS_ACCEPTED: u8 = b'S';

/// The one-byte answer to an SSLRequest or GSSENCRequest that goes on in plain text.
pub const ENCRYPTION_REFUSED: u8 = b'N';

/// AuthenticationOk: the client is in.
pub fn authentication_ok(output: &mut BytesMut) {
    fixed(output, BackendTag::Authentication, &0u32.to_be_bytes());
}

/// AuthenticationCleartextPassword: the client is to send its password as it is.
pub fn authentication_cleartext_password(output: &mut BytesMut) {
    fixed(output, BackendTag::Authentication, &3u32.to_be_bytes());
}

/// AuthenticationSASL: offers mechanisms, best first.
///
/// # Errors
/// [`EncodeError`] when the names are absurdly long.
pub fn authentication_sasl(output: &mut BytesMut, mechanisms: &[Text<'_>]) -> Result<(), EncodeError> {
    message(output, BackendTag::Authentication, |output| {
        output.put_u32(10);
        mechanisms.iter().for_each(|mechanism| put_text(output, *mechanism));
        output.put_u8(0);
        Some(())
    })
}

/// AuthenticationSASLContinue: the mechanism's challenge.
///
/// # Errors
/// [`EncodeError`] when the data is absurdly long.
pub fn authentication_sasl_continue(output: &mut BytesMut, data: &[u8]) -> Result<(), EncodeError> {
    authentication_data(output, 11, data)
}

/// AuthenticationSASLFinal: the mechanism's outcome.
///
/// # Errors
/// [`EncodeError`] when the data is absurdly long.
pub fn authentication_sasl_final(output: &mut BytesMut, data: &[u8]) -> Result<(), EncodeError> {
    authentication_data(output, 12, data)
}

fn authentication_data(output: &mut BytesMut, kind: u32, data: &[u8]) -> Result<(), EncodeError> {
    message(output, BackendTag::Authentication, |output| {
        output.put_u32(kind);
        output.put_slice(data);
        Some(())
    })
}

/// BackendKeyData: what a cancel request for this session must prove.
///
/// # Errors
/// [`EncodeError`] when the key is absurdly long. Protocol 3.0 takes 4 bytes of key, 3.2 up to 256.
pub fn backend_key_data(output: &mut BytesMut, key: CancelKey<'_>) -> Result<(), EncodeError> {
    message(output, BackendTag::BackendKeyData, |output| {
        output.put_u32(key.process_id);
        output.put_slice(key.secret_key);
        Some(())
    })
}

/// ParameterStatus: a session parameter's value.
///
/// # Errors
/// [`EncodeError`] when it is absurdly long.
pub fn parameter_status(output: &mut BytesMut, name: Text<'_>, value: Text<'_>) -> Result<(), EncodeError> {
    message(output, BackendTag::ParameterStatus, |output| {
        put_text(output, name);
        put_text(output, value);
        Some(())
    })
}

/// NegotiateProtocolVersion: the version to go on in, as its full number, and the options not known.
///
/// # Errors
/// [`EncodeError`] when the names are absurdly long.
pub fn negotiate_protocol_version(
    output: &mut BytesMut,
    version: ProtocolVersion,
    unknown_options: &[Text<'_>],
) -> Result<(), EncodeError> {
    message(output, BackendTag::NegotiateProtocolVersion, |output| {
        output.put_u32(version.number());
        output.put_u32(u32::try_from(unknown_options.len()).ok()?);
        unknown_options.iter().for_each(|option| put_text(output, *option));
        Some(())
    })
}

/// ReadyForQuery: the next command may come.
pub fn ready_for_query(output: &mut BytesMut, status: TransactionStatus) {
    fixed(output, BackendTag::ReadyForQuery, &[status as u8]);
}

/// RowDescription: the columns of the rows to come.
///
/// # Errors
/// [`EncodeError`] when there are more columns than a count can say.
pub fn row_description<'a>(
    output: &mut BytesMut,
    columns: impl ExactSizeIterator<Item = FieldDescription<'a>>,
) -> Result<(), EncodeError> {
    message(output, BackendTag::RowDescription, |output| {
        put_list(output, columns, |output, column| {
            put_text(output, column.name);
            output.put_u32(column.table_oid);
            output.put_i16(column.attribute);
            output.put_u32(column.type_oid);
            output.put_i16(column.type_length);
            output.put_i32(column.type_modifier);
            output.put_u16(column.format.code());
            Some(())
        })
    })
}

/// DataRow: one row, NULL as `None`.
///
/// # Errors
/// [`EncodeError`] when there are more cells than a count can say, or they are longer than a message.
pub fn data_row<'a>(
    output: &mut BytesMut,
    cells: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
) -> Result<(), EncodeError> {
    message(output, BackendTag::DataRow, |output| put_values(output, cells))
}

/// FunctionCallResponse: the result, NULL as `None`.
///
/// # Errors
/// [`EncodeError`] when it is longer than a message.
pub fn function_call_response(output: &mut BytesMut, result: Option<&[u8]>) -> Result<(), EncodeError> {
    message(output, BackendTag::FunctionCallResponse, |output| {
        if result.is_some_and(|result| result.len() > BODY_BYTES_MAX) {
            return None;
        }
        put_value(output, result);
        Some(())
    })
}

/// ParameterDescription: types of a prepared statement's parameters.
///
/// # Errors
/// [`EncodeError`] when there are more than a count can say.
pub fn parameter_description(
    output: &mut BytesMut,
    types: impl ExactSizeIterator<Item = u32>,
) -> Result<(), EncodeError> {
    message(output, BackendTag::ParameterDescription, |output| {
        put_list(output, types, |output, oid| {
            output.put_u32(oid);
            Some(())
        })
    })
}

/// CommandComplete: the command's tag, such as `SELECT 1`.
///
/// # Errors
/// [`EncodeError`] when the tag is absurdly long.
pub fn command_complete(output: &mut BytesMut, tag: Text<'_>) -> Result<(), EncodeError> {
    message(output, BackendTag::CommandComplete, |output| {
        put_text(output, tag);
        Some(())
    })
}

/// CopyData of a COPY TO STDOUT.
///
/// # Errors
/// [`EncodeError`] when the data is longer than a message.
pub fn copy_data(output: &mut BytesMut, data: &[u8]) -> Result<(), EncodeError> {
    message(output, BackendTag::CopyData, |output| {
        output.put_slice(data);
        Some(())
    })
}

/// NotificationResponse: a NOTIFY of some session.
///
/// # Errors
/// [`EncodeError`] when it is absurdly long.
pub fn notification_response(
    output: &mut BytesMut,
    notification: Notification<'_>,
) -> Result<(), EncodeError> {
    message(output, BackendTag::NotificationResponse, |output| {
        output.put_u32(notification.process_id);
        put_text(output, notification.channel);
        put_text(output, notification.payload);
        Some(())
    })
}

/// EmptyQueryResponse: the query text held no statement.
pub fn empty_query_response(output: &mut BytesMut) {
    fixed(output, BackendTag::EmptyQueryResponse, &[]);
}

/// ParseComplete: Parse succeeded.
pub fn parse_complete(output: &mut BytesMut) {
    fixed(output, BackendTag::ParseComplete, &[]);
}

/// BindComplete: Bind succeeded.
pub fn bind_complete(output: &mut BytesMut) {
    fixed(output, BackendTag::BindComplete, &[]);
}

/// CloseComplete: Close succeeded, which it also does for a name that nothing bears.
pub fn close_complete(output: &mut BytesMut) {
    fixed(output, BackendTag::CloseComplete, &[]);
}

/// NoData: what was described returns no rows.
pub fn no_data(output: &mut BytesMut) {
    fixed(output, BackendTag::NoData, &[]);
}

/// PortalSuspended: Execute stopped at its row limit.
pub fn portal_suspended(output: &mut BytesMut) {
    fixed(output, BackendTag::PortalSuspended, &[]);
}
