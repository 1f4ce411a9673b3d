//! What this proxy says to a server in the client's place.

use bytes::{BufMut, BytesMut};

use super::{EncodeError, fixed, message, put_list, put_text, put_value, put_values};
use crate::codec::postgres::FrontendTag;
use crate::codec::postgres::error::Message;
use crate::codec::postgres::fields::{Format, Text};
use crate::codec::postgres::frontend::Object;
use crate::codec::postgres::startup::{
    CANCEL_REQUEST, CancelKey, GSSENC_REQUEST, ProtocolVersion, SSL_REQUEST, STARTUP_BODY_BYTES_MAX,
};

/// SSLRequest: asks for TLS; one byte answers.
pub fn ssl_request(output: &mut BytesMut) {
    output.put_u32(8);
    output.put_u32(SSL_REQUEST);
}

/// GSSENCRequest: asks for GSSAPI encryption; one byte answers.
pub fn gssenc_request(output: &mut BytesMut) {
    output.put_u32(8);
    output.put_u32(GSSENC_REQUEST);
}

/// CancelRequest: the whole of a connection that cancels what another one does.
///
/// # Errors
/// [`EncodeError`] when the key is absurdly long.
pub fn cancel_request(output: &mut BytesMut, key: CancelKey<'_>) -> Result<(), EncodeError> {
    untagged(output, CANCEL_REQUEST, |output| {
        output.put_u32(key.process_id);
        output.put_slice(key.secret_key);
    })
}

/// StartupMessage: opens a session with these parameters, in order.
///
/// # Errors
/// [`EncodeError`] when the parameters are longer than the server takes, or a name is empty.
pub fn startup<'a>(
    output: &mut BytesMut,
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (Text<'a>, Text<'a>)>,
) -> Result<(), EncodeError> {
    let mut unnamed = false;
    let start = output.len();
    untagged(output, version.number(), |output| {
        for (name, value) in parameters {
            unnamed |= name.is_empty();
            put_text(output, name);
            put_text(output, value);
        }
        output.put_u8(0);
    })?;
    if unnamed {
        output.truncate(start);
        return Err(EncodeError { message: Message::Startup });
    }
    Ok(())
}

fn untagged(output: &mut BytesMut, code: u32, body: impl FnOnce(&mut BytesMut)) -> Result<(), EncodeError> {
    let start = output.len();
    output.put_u32(0);
    output.put_u32(code);
    body(output);
    let length = output.len() - start;
    if length > STARTUP_BODY_BYTES_MAX + 4 {
        output.truncate(start);
        return Err(EncodeError { message: Message::Startup });
    }
    if let Some(word) = output.get_mut(start..start + 4) {
        word.copy_from_slice(&(length as u32).to_be_bytes());
    }
    Ok(())
}

/// PasswordMessage: the answer to a cleartext or MD5 password request.
///
/// # Errors
/// [`EncodeError`] when it is absurdly long.
pub fn password(output: &mut BytesMut, password: Text<'_>) -> Result<(), EncodeError> {
    message(output, FrontendTag::Password, |output| {
        put_text(output, password);
        Some(())
    })
}

/// SASLInitialResponse: the chosen mechanism and its first message, when it has one.
///
/// # Errors
/// [`EncodeError`] when it is absurdly long.
pub fn sasl_initial_response(
    output: &mut BytesMut,
    mechanism: Text<'_>,
    data: Option<&[u8]>,
) -> Result<(), EncodeError> {
    message(output, FrontendTag::Password, |output| {
        put_text(output, mechanism);
        put_value(output, data);
        Some(())
    })
}

/// SASLResponse: the mechanism's answer to a challenge.
///
/// # Errors
/// [`EncodeError`] when it is absurdly long.
pub fn sasl_response(output: &mut BytesMut, data: &[u8]) -> Result<(), EncodeError> {
    message(output, FrontendTag::Password, |output| {
        output.put_slice(data);
        Some(())
    })
}

/// Query: SQL text, run at once.
///
/// # Errors
/// [`EncodeError`] when the text is longer than a message.
pub fn query(output: &mut BytesMut, text: Text<'_>) -> Result<(), EncodeError> {
    message(output, FrontendTag::Query, |output| {
        put_text(output, text);
        Some(())
    })
}

/// Parse: prepares a statement.
///
/// # Errors
/// [`EncodeError`] when the text is longer than a message or there are more types than a count can say.
pub fn parse(
    output: &mut BytesMut,
    name: Text<'_>,
    text: Text<'_>,
    parameter_types: impl ExactSizeIterator<Item = u32>,
) -> Result<(), EncodeError> {
    message(output, FrontendTag::Parse, |output| {
        put_text(output, name);
        put_text(output, text);
        put_list(output, parameter_types, |output, oid| {
            output.put_u32(oid);
            Some(())
        })
    })
}

/// Bind: binds parameters to a prepared statement, making a portal.
///
/// # Errors
/// [`EncodeError`] when there are more values than a count can say, or they are longer than a message.
pub fn bind<'a>(
    output: &mut BytesMut,
    portal: Text<'_>,
    statement: Text<'_>,
    parameter_formats: &[Format],
    parameters: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    result_formats: &[Format],
) -> Result<(), EncodeError> {
    message(output, FrontendTag::Bind, |output| {
        put_text(output, portal);
        put_text(output, statement);
        put_formats(output, parameter_formats)?;
        put_values(output, parameters)?;
        put_formats(output, result_formats)
    })
}

fn put_formats(output: &mut BytesMut, formats: &[Format]) -> Option<()> {
    put_list(output, formats.iter(), |output, format| {
        output.put_u16(format.code());
        Some(())
    })
}

/// Describe: asks what a prepared statement or portal takes and returns.
///
/// # Errors
/// [`EncodeError`] when the name is absurdly long.
pub fn describe(output: &mut BytesMut, object: Object<'_>) -> Result<(), EncodeError> {
    named(output, FrontendTag::Describe, object)
}

/// Close: closes a prepared statement or portal.
///
/// # Errors
/// [`EncodeError`] when the name is absurdly long.
pub fn close(output: &mut BytesMut, object: Object<'_>) -> Result<(), EncodeError> {
    named(output, FrontendTag::Close, object)
}

fn named(output: &mut BytesMut, tag: FrontendTag, object: Object<'_>) -> Result<(), EncodeError> {
    let (kind, name) = match object {
        Object::Portal(name) => (b'P', name),
        Object::Statement(name) => (b'S', name),
    };
    message(output, tag, |output| {
        output.put_u8(kind);
        put_text(output, name);
        Some(())
    })
}

/// Execute: runs a portal, suspending it after `max_rows` rows; 0 runs it to its end.
///
/// # Errors
/// [`EncodeError`] when the name is absurdly long.
pub fn execute(output: &mut BytesMut, portal: Text<'_>, max_rows: i32) -> Result<(), EncodeError> {
    message(output, FrontendTag::Execute, |output| {
        put_text(output, portal);
        output.put_i32(max_rows);
        Some(())
    })
}

/// Sync: ends a pipeline, and the skipping after an error.
pub fn sync(output: &mut BytesMut) {
    fixed(output, FrontendTag::Sync, &[]);
}

/// Flush: asks for the answers so far.
pub fn flush(output: &mut BytesMut) {
    fixed(output, FrontendTag::Flush, &[]);
}

/// Terminate: ends the session.
pub fn terminate(output: &mut BytesMut) {
    fixed(output, FrontendTag::Terminate, &[]);
}

/// CopyDone: the end of a COPY FROM STDIN.
pub fn copy_done(output: &mut BytesMut) {
    fixed(output, FrontendTag::CopyDone, &[]);
}

/// CopyFail: gives up a COPY FROM STDIN, for this reason.
///
/// # Errors
/// [`EncodeError`] when the reason is absurdly long.
pub fn copy_fail(output: &mut BytesMut, reason: Text<'_>) -> Result<(), EncodeError> {
    message(output, FrontendTag::CopyFail, |output| {
        put_text(output, reason);
        Some(())
    })
}
