//! Message heads: whom a request is for, and the fields that belong to one connection alone.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::answer::Problem;
use crate::flow::Side;

/// Longest host name (RFC 1035 section 2.3.4), without a trailing dot.
const HOST_BYTES_MAX: usize = 253;

/// Fields that concern one connection (RFC 9110 section 7.6.1), beside those that `Connection` names.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Whom a request is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Authority {
    /// Host name or address, lower case, without port, brackets and trailing dot.
    pub(super) host: String,
    /// Port, when it is written.
    pub(super) port: Option<u16>,
}

impl Authority {
    /// Reads `host[:port]` (RFC 9110 section 7.2, RFC 3986 section 3.2.2). User information is refused: nobody sends it to
    /// servers, and readers differ in what they make of it.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (address, after)
            }
            None => match text.split_once(':') {
                Some((host, _)) => (host, text.strip_prefix(host)?),
                None => (text, ""),
            },
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) | None => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(plain) {
            return None;
        }
        Some(Self { host: host.to_ascii_lowercase(), port })
    }
}

/// Whom a request is for: its target's authority (absolute form, HTTP/2's `:authority`), else its `Host`. Both must agree,
/// and there must be one: servers differ in which they believe.
///
/// # Errors
/// What to answer.
pub(super) fn authority(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Authority, Problem> {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, Side::Client, detail);
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("the request has more than one Host field"));
    }
    let host = match host {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| bad("the Host field is not a host name"))?;
            Some(Authority::parse(text).ok_or_else(|| bad("the Host field is not a host name"))?)
        }
    };
    let target = match uri.authority() {
        None => None,
        Some(authority) => Some(
            Authority::parse(authority.as_str())
                .ok_or_else(|| bad("the request's target is not for a plain host name"))?,
        ),
    };
    match (target, host) {
        (Some(target), Some(host)) if target != host => {
            Err(bad("the request's target and its Host field name different hosts"))
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) if version == Version::HTTP_10 => {
            Err(bad("the request names no host; send a Host field, also with HTTP/1.0"))
        }
        (None, None) => Err(bad("the request names no host")),
    }
}

/// What a request wants to turn its connection into.
pub(super) fn wants_upgrade(method: &Method, headers: &HeaderMap) -> Option<String> {
    let connection = listed(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).and_then(|value| value.to_str().ok())?.trim().to_ascii_lowercase();
    // RFC 9113 section 3.1 took this way to HTTP/2 back; clients that offer it go on with HTTP/1.1.
    let offered = connection && protocol != "h2c" && method != Method::CONNECT && !protocol.is_empty();
    offered.then_some(protocol)
}

/// Removes what concerns the connection the message came on. `TE: trailers` stays: it is about the message.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = listed(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        // What frames or routes a message is not the peer's to take away.
        .filter(|name| !matches!(*name, HOST | CONTENT_LENGTH | TE | TRAILER))
        .collect();
    let trailers = listed(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Members of a comma-separated field.
fn listed<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_host_is_named_and_only_one() {
        let of = |uri: &str, pairs: &[(&'static str, &'static str)]| {
            authority(Version::HTTP_11, &uri.parse().unwrap(), &headers(pairs))
                .map(|found| (found.host, found.port))
                .ok()
        };
        let named = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(of("/", &[("host", "API.Example.com:8443")]), named("api.example.com", Some(8443)));
        assert_eq!(of("/", &[("host", "api.example.com.")]), named("api.example.com", None));
        assert_eq!(of("/", &[("host", "[::1]:80")]), named("::1", Some(80)));
        assert_eq!(of("http://a.example/x", &[("host", "a.example")]), named("a.example", None));
        for refused in [
            of("/", &[]),
            of("/", &[("host", "a"), ("host", "a")]),
            of("http://a/x", &[("host", "b")]),
            of("/", &[("host", "user@a")]),
            of("/", &[("host", "a/b")]),
            of("/", &[("host", "a:8x")]),
            of("/", &[("host", "")]),
            of("/", &[("host", "[::1")]),
        ] {
            assert_eq!(refused, None);
        }
    }

    #[test]
    fn hop_by_hop_fields_go_and_framing_cannot_be_taken_away() {
        let mut fields = headers(&[
            ("connection", "close, x-secret, host, content-length"),
            ("x-secret", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut fields);
        let mut left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host", "te"]);
        assert_eq!(fields[TE], "trailers");
    }

    #[test]
    fn only_a_real_upgrade_is_one() {
        let websocket = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert_eq!(wants_upgrade(&Method::GET, &websocket), Some("websocket".to_owned()));
        let h2c = headers(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]);
        assert_eq!(wants_upgrade(&Method::GET, &h2c), None);
        assert_eq!(wants_upgrade(&Method::GET, &headers(&[("upgrade", "websocket")])), None);
    }
}
