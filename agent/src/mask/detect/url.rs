//! The password in a URL's authority (RFC 3986 §3.2.1): `scheme://user:password@host`.

use super::{Detector, Span, byte_at};

/// Most bytes of user name, password and what is between them.
const USERINFO_BYTES_MAX: usize = 512;

/// Checks the authority that begins at `start`, just after `://`.
pub(super) fn check(input: &[u8], start: usize, spans: &mut Vec<Span>) {
    let scheme_end = start.saturating_sub(3);
    if scheme_end == 0 || !byte_at(input, scheme_end - 1).is_ascii_alphanumeric() {
        return;
    }
    let stop = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`' | 0);
    let length = super::run_length(input, start, USERINFO_BYTES_MAX, |byte| !stop(byte));
    let Some(window) = input.get(start..start + length) else { return };
    let authority_length = window.iter().take_while(|byte| !matches!(byte, b'/' | b'?' | b'#')).count();
    let Some(authority) = window.get(..authority_length) else { return };
    let Some(colon) = memchr::memchr(b':', authority) else { return };
    // Passwords often hold an unescaped `/` or `#`; then the at sign comes later. Digits before that are a port.
    let port = authority.get(colon + 1..).unwrap_or_default().iter().all(u8::is_ascii_digit);
    let at = match memchr::memrchr(b'@', authority) {
        Some(at) => Some(at),
        None if port => None,
        None => memchr::memchr(b'@', window),
    };
    let Some(at) = at else { return };
    if at > colon + 1 {
        spans.push(Span { start: start + colon + 1, end: start + at, detector: Detector::PasswordInUrl });
    }
}
