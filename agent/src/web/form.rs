//! What a browser sends: cookies, forms, queries; each field once, all of it bounded.

use http::HeaderMap;
use http::header::COOKIE;

/// Largest form, in bytes. A reason of 1 KiB is the longest field, and may be percent-encoded.
pub(super) const FORM_BYTES_MAX: usize = 16 * 1024;
/// Cookies of one request that are looked at.
const COOKIES_MAX: usize = 64;

/// A cookie's value (RFC 6265 section 5.4). `None` when it comes twice: somebody may have put the other one there.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut found = pairs
        .flat_map(|value| value.split(';'))
        .take(COOKIES_MAX)
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| value);
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// A `Set-Cookie` field. Out of reach for scripts; `Lax`, because people come by links from chats and from the provider.
/// `__Host-` in the name binds it to this host and path (RFC 6265bis section 4.1.3.2).
pub(super) fn set_cookie(name: &str, value: &str, secure: bool, seconds: Option<u64>) -> String {
    let secure = if secure { "; Secure" } else { "" };
    let age = seconds.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}")
}

/// A place of this page to go back to: a path of plain characters, or the inbox. Never another host.
pub(super) fn own_path(wanted: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_');
    let own = wanted.starts_with('/') && !wanted.contains("//") && wanted.bytes().all(plain);
    if own && wanted.len() <= 256 { wanted } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_counts_when_there_is_one_of_it() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(COOKIE, value.parse().unwrap());
            }
            headers
        };
        assert_eq!(cookie(&with(&["a=1; b=2"]), "b"), Some("2"));
        assert_eq!(cookie(&with(&["a=1", "b=2"]), "b"), Some("2"));
        for values in [&["b=1; b=2"][..], &["b=1", "b=2"], &["xb=1"], &["b"], &[]] {
            assert_eq!(cookie(&with(values), "b"), None, "{values:?}");
        }
        assert_eq!(
            set_cookie("__Host-x", "v", true, Some(0)),
            "__Host-x=v; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0"
        );
        assert!(!set_cookie("x", "v", false, None).contains("Secure"));
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(own_path("/approvals/01ABC"), "/approvals/01ABC");
        for wanted in ["", "https://evil", "//evil", "/\\evil", "/a//b", "/a?b", "/%2f", "/a\r\nb", "x"] {
            assert_eq!(own_path(wanted), "/", "{wanted}");
        }
    }
}
