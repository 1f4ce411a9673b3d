//! Writing messages: `backend` says what a server would say to the client, `frontend` what a client would say to the
//! server. Each encoder appends one whole message, or nothing.
//!
//! Strings are [`Text`], which cannot hold the NUL that would end them early.

pub mod backend;
pub mod frontend;

use bytes::{BufMut, BytesMut};

use super::error::Message;
use super::fields::{Format, NULL_LENGTH, Text};
use super::frame::HEADER_BYTES;
use super::tag::{BODY_BYTES_MAX, Tag};

/// A message that would not fit the protocol: a count above 65,535 or a body above 1 GiB. Nothing was written.
///
/// It is this proxy's fault: what comes from a peer has been through the limits of the decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, as written by the proxy, does not fit the protocol")]
pub struct EncodeError {
    /// What was to be written.
    pub message: Message,
}

/// The head of a message whose body the caller streams: the type byte and the length word for `body` bytes, at most
/// [`BODY_BYTES_MAX`].
pub fn large_header(output: &mut BytesMut, tag: impl Tag, body: usize) {
    output.put_u8(tag.byte());
    output.put_u32(body as u32 + 4);
}

/// The count of columns at the start of a streamed DataRow's body, or of result formats in a streamed Bind's.
pub fn count(output: &mut BytesMut, count: u16) {
    output.put_u16(count);
}

/// The length before a streamed cell or parameter; `None` for NULL.
pub fn value_length(output: &mut BytesMut, length: Option<u32>) {
    match length {
        None => output.put_i32(NULL_LENGTH),
        Some(length) => output.put_u32(length),
    }
}

/// One of the result formats at the end of a streamed Bind's body.
pub fn format(output: &mut BytesMut, format: Format) {
    output.put_u16(format.code());
}

/// Appends one message around what `body` writes; `None` from `body`, or too long a body, takes everything back.
fn message(
    output: &mut BytesMut,
    tag: impl Tag,
    body: impl FnOnce(&mut BytesMut) -> Option<()>,
) -> Result<(), EncodeError> {
    let start = output.len();
    fixed(output, tag, &[]);
    let written = body(output);
    if written.is_none() || output.len() - start - HEADER_BYTES > BODY_BYTES_MAX {
        output.truncate(start);
        return Err(EncodeError { message: tag.message() });
    }
    patch_length(output, start);
    Ok(())
}

/// Appends one message with this body, which is short.
pub(super) fn fixed(output: &mut BytesMut, tag: impl Tag, body: &[u8]) {
    let start = output.len();
    output.put_u8(tag.byte());
    output.put_u32(0);
    output.put_slice(body);
    patch_length(output, start);
}

/// Sets the length word of the tagged message that begins at `start` and reaches to the end of `output`.
pub(super) fn patch_length(output: &mut BytesMut, start: usize) {
    let length = (output.len() - start - 1) as u32;
    if let Some(word) = output.get_mut(start + 1..start + HEADER_BYTES) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// A String: the text and its NUL.
pub(super) fn put_text(output: &mut BytesMut, text: Text<'_>) {
    output.put_slice(text.as_bytes());
    output.put_u8(0);
}

/// A value with its length before it; it must not be longer than [`BODY_BYTES_MAX`].
pub(super) fn put_value(output: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => output.put_i32(NULL_LENGTH),
        Some(value) => {
            output.put_u32(value.len() as u32);
            output.put_slice(value);
        }
    }
}

/// A list with its count before it; `None` when it has more than a count can say.
fn put_list<I: ExactSizeIterator>(
    output: &mut BytesMut,
    list: I,
    mut put: impl FnMut(&mut BytesMut, I::Item) -> Option<()>,
) -> Option<()> {
    output.put_u16(u16::try_from(list.len()).ok()?);
    list.into_iter().try_for_each(|item| put(output, item))
}

/// A list of values with its count before it; `None` when the values together are longer than any message.
fn put_values<'a>(
    output: &mut BytesMut,
    values: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
) -> Option<()> {
    let start = output.len();
    put_list(output, values, |output, value| {
        let length = value.map_or(0, <[u8]>::len);
        if length > BODY_BYTES_MAX.saturating_sub(output.len() - start) {
            return None;
        }
        put_value(output, value);
        Some(())
    })
}
