//! Mailboxes in the form people write them: a dot-atom, an at sign, a host name with a top-level domain.

use super::{Detector, Span, byte_at, unicode_escape_end};

/// Longest local part (RFC 5321 §4.5.3.1.1), in bytes.
const LOCAL_BYTES_MAX: usize = 64;

/// Longest domain (RFC 5321 §4.5.3.1.2), in bytes.
const DOMAIN_BYTES_MAX: usize = 255;

/// Endings of file names that carry an at sign (`logo@2x.png`) and are no top-level domains.
const FILE_ENDINGS: [&[u8]; 9] = [b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"css", b"js", b"json"];

pub(super) fn find(input: &[u8], spans: &mut Vec<Span>) {
    for at in memchr::memchr_iter(b'@', input) {
        if let (Some(start), Some(end)) = (local_start(input, at), domain_end(input, at + 1)) {
            spans.push(Span { start, end, detector: Detector::Email });
        }
    }
}

/// Where the local part that ends before `at` begins.
fn local_start(input: &[u8], at: usize) -> Option<usize> {
    let window = input.get(at.saturating_sub(LOCAL_BYTES_MAX)..at)?;
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(&byte) || !byte.is_ascii();
    let mut start = at - window.iter().rev().take_while(|byte| part(**byte)).count();
    start = start.max(escape_end(input, start));
    // The length limit may fall inside a character of several bytes, whose rest must not be left behind.
    while start < at && matches!(byte_at(input, start), b'.' | 0x80..=0xbf) {
        start += 1;
    }
    (start < at).then_some(start)
}

/// Where the escape ends, as JSON and COPY write them (`\n`, `\u00e9`), whose letter or digits `start` would take for a part
/// of the word after it; 0 when there is none. The length limit may fall between the digits.
fn escape_end(input: &[u8], start: usize) -> usize {
    let begins = start.checked_sub(1).is_some_and(|before| byte_at(input, before) == b'\\');
    unicode_escape_end(input, start).max(if begins { start + 1 } else { 0 })
}

/// Where the host name that begins at `start` ends; `None` when it is no public host name.
fn domain_end(input: &[u8], start: usize) -> Option<usize> {
    let mut length = super::run_length(input, start, DOMAIN_BYTES_MAX, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') || !byte.is_ascii()
    });
    while matches!(byte_at(input, start + length), 0x80..=0xbf) {
        length += 1;
    }
    let mut domain = input.get(start..start + length)?;
    while let [rest @ .., b'.' | b'-'] = domain {
        domain = rest;
    }
    let dot = memchr::memrchr(b'.', domain)?;
    let (host, top) = (domain.get(..dot)?, domain.get(dot + 1..)?);
    let labels_fine =
        host.split(|byte| *byte == b'.').all(|label| !label.is_empty() && !label.starts_with(b"-"));
    let top_fine = top.len() >= 2
        && !top.first()?.is_ascii_digit()
        && !FILE_ENDINGS.iter().any(|ending| top.eq_ignore_ascii_case(ending));
    (labels_fine && top_fine).then_some(start + domain.len())
}
