//! Private keys in PEM (RFC 7468) and OpenPGP armour (RFC 9580 §6.2), whole or cut off.

use super::{Detector, MATCH_BYTES_MAX, Span};

/// Longest label accepted after `-----BEGIN `, in bytes.
const LABEL_BYTES_MAX: usize = 64;

/// Checks the block whose `-----BEGIN ` stands at `start..label`.
pub(super) fn check(input: &[u8], start: usize, label: usize, spans: &mut Vec<Span>) {
    let length = super::run_length(input, label, LABEL_BYTES_MAX, |byte| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
    });
    let Some(name) = input.get(label..label + length) else { return };
    let dashes = input.get(label + length..).is_some_and(|tail| tail.starts_with(b"-----"));
    if !dashes || !(name.ends_with(b"PRIVATE KEY") || name.ends_with(b"PRIVATE KEY BLOCK")) {
        return;
    }
    let body = label + length + b"-----".len();
    let end = block_end(input, body, start + MATCH_BYTES_MAX);
    spans.push(Span { start, end, detector: Detector::PrivateKey });
}

/// The end of the closing line, or, in a block that is cut off, of what can still belong to the key. The text may be
/// escaped (`\n` in JSON), so line ends are not relied on.
fn block_end(input: &[u8], body: usize, limit: usize) -> usize {
    let limit = limit.min(input.len());
    let window = input.get(body..limit).unwrap_or_default();
    let part = |byte: &u8| {
        byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+/=:,-.\\_()".contains(byte)
    };
    let run = window.iter().take_while(|byte| part(byte)).count();
    let mut key = window.get(..run).unwrap_or_default();
    // A backslash at the end escapes what stops the block (`\"` in JSON).
    if let [rest @ .., b'\\'] = key {
        key = rest;
    }
    let run = key.len();
    let Some(closing) = memchr::memmem::find(key, b"-----END ") else { return body + run };
    let after = closing + b"-----END ".len();
    let tail = key.get(after..).unwrap_or_default();
    match memchr::memmem::find(tail.get(..LABEL_BYTES_MAX).unwrap_or(tail), b"-----") {
        Some(dashes) => body + after + dashes + b"-----".len(),
        None => body + run,
    }
}
