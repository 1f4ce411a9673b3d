//! Signed and encrypted JSON tokens in compact form (RFC 7515 §7.1, RFC 7516 §7.1): base64url parts joined by dots,
//! the first of which decodes to a header that names its algorithm.

use super::{Detector, Span, byte_at};

/// Longest header accepted, in base64url characters.
const HEADER_CHARS_MAX: usize = 4096;

/// Longest token followed, in bytes; the overlap of chunks covers it.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Parts of an encrypted token; a signed one has three.
const PARTS_MAX: usize = 5;

/// Checks the token that may begin at `start`; its end when it is one.
pub(super) fn check(input: &[u8], start: usize, spans: &mut Vec<Span>) -> bool {
    let header_length = super::run_length(input, start, HEADER_CHARS_MAX, is_base64url);
    let header = input.get(start..start + header_length).unwrap_or_default();
    if byte_at(input, start + header_length) != b'.' || !names_algorithm(header) {
        return false;
    }
    let mut end = start + header_length;
    let mut parts = 1;
    while parts < PARTS_MAX && byte_at(input, end) == b'.' {
        let left = (start + TOKEN_BYTES_MAX).saturating_sub(end + 1);
        let length = super::run_length(input, end + 1, left, is_base64url);
        // A dot that ends a sentence begins no part. The third part of an unsecured token is empty, too.
        if length == 0 && parts > 2 {
            break;
        }
        end += 1 + length;
        parts += 1;
    }
    if parts >= 3 {
        spans.push(Span { start, end, detector: Detector::Jwt });
    }
    parts >= 3
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Decodes to what looks like a JSON object with an `alg` member.
fn names_algorithm(header: &[u8]) -> bool {
    let mut decoded = Vec::with_capacity(header.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in header {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            // Control characters never stand in JSON; giving up at the first keeps near misses cheap.
            if byte < b' ' && !byte.is_ascii_whitespace() {
                return false;
            }
            decoded.push(byte);
        }
    }
    let object = decoded.trim_ascii();
    object.starts_with(b"{") && object.ends_with(b"}") && memchr::memmem::find(object, b"\"alg\"").is_some()
}
