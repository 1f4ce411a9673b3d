//! The server's name in a TLS ClientHello, read without speaking TLS (RFC 8446 sections 4.1.2 and 5.1, RFC 6066
//! section 3).
//!
//! It says which server a client asks for, never which it gets: under Encrypted ClientHello the name is that of the
//! client-facing server.

use std::net::IpAddr;

/// Longest ClientHello that is read, in bytes of its handshake message. OpenSSL's own limit is four times that; hybrid
/// key shares and the largest session tickets fit.
pub const CLIENT_HELLO_BYTES_MAX: usize = 32 * 1024;

/// Most records that a ClientHello may be cut into; clients use one or two.
const RECORDS_MAX: usize = 64;

/// Most bytes that have to be seen before [`sni_of`] answers something else than [`Sni::Incomplete`].
pub const OPENING_BYTES_MAX: usize =
    HANDSHAKE_HEADER_BYTES + CLIENT_HELLO_BYTES_MAX + RECORDS_MAX * RECORD_HEADER_BYTES;

/// Content type, version and length of a record.
const RECORD_HEADER_BYTES: usize = 5;

/// Type and length of a handshake message.
const HANDSHAKE_HEADER_BYTES: usize = 4;

/// Longest plaintext of a record, in bytes (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;

/// Content type of a record with handshake messages.
const HANDSHAKE: u8 = 22;

/// Major version of SSL 3.0 and every TLS.
const MAJOR_VERSION: u8 = 3;

/// Handshake message type.
const CLIENT_HELLO: u8 = 1;

/// Bytes of `legacy_version` and `random`.
const FIXED_BYTES: usize = 2 + 32;

/// Longest `legacy_session_id`, in bytes.
const SESSION_ID_BYTES_MAX: usize = 32;

/// Extension type of the server's name.
const SERVER_NAME: u16 = 0;

/// The only name type there is.
const HOST_NAME: u8 = 0;

/// Longest host name and label, in bytes (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// What the first bytes of a connection say about the server its client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// A ClientHello so far, but not all of it.
    Incomplete,
    /// Not a ClientHello, or none that a TLS server would take; also one that is too long to be read.
    NotTls,
    /// A whole ClientHello that names no host, or an address, which is not a host name.
    None,
    /// The host it names: lower case, without a final dot, made of letters, digits, `-` and `_`.
    Name(String),
}

/// Reads the server's name out of the first bytes that a client sent. What follows the ClientHello is not looked at.
///
/// The answer to a prefix is `Incomplete` or the answer to the whole.
#[must_use]
pub fn sni_of(bytes: &[u8]) -> Sni {
    match client_hello(bytes) {
        Opening::Whole(message) => hello_name(&message).unwrap_or(Sni::NotTls),
        Opening::Cut => Sni::Incomplete,
        Opening::Other => Sni::NotTls,
    }
}

/// The ClientHello out of its records.
enum Opening {
    /// The message's body.
    Whole(Vec<u8>),
    Cut,
    Other,
}

fn client_hello(mut bytes: &[u8]) -> Opening {
    let mut message = Vec::new();
    for _ in 0..RECORDS_MAX {
        let Some(fragment) = next_fragment(&mut bytes) else { return Opening::Other };
        message.extend_from_slice(fragment.bytes);
        match message_body(&message) {
            Some(Some(body)) => return Opening::Whole(body.to_vec()),
            None => return Opening::Other,
            Some(None) if fragment.cut => return Opening::Cut,
            Some(None) => {}
        }
    }
    Opening::Other
}

/// What is there of one record's content.
struct Fragment<'a> {
    bytes: &'a [u8],
    /// The record, or even its header, goes on.
    cut: bool,
}

/// The next record of a handshake; `None` when it is something else.
fn next_fragment<'a>(bytes: &mut &'a [u8]) -> Option<Fragment<'a>> {
    let record = *bytes;
    let as_wanted = |at: usize, wanted: u8| record.get(at).is_none_or(|byte| *byte == wanted);
    if !as_wanted(0, HANDSHAKE) || !as_wanted(1, MAJOR_VERSION) {
        return None;
    }
    let Some((header, rest)) = record.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Some(Fragment { bytes: &[], cut: true });
    };
    let [_, _, _, high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Empty fragments of handshake messages are forbidden, and would make a client's opening endless.
    if !(1..=RECORD_BYTES_MAX).contains(&length) {
        return None;
    }
    match rest.split_at_checked(length) {
        Some((content, after)) => {
            *bytes = after;
            Some(Fragment { bytes: content, cut: false })
        }
        None => Some(Fragment { bytes: rest, cut: true }),
    }
}

/// The body of a ClientHello, `Some(None)` while it is cut short, `None` when it is another message or too long.
fn message_body(message: &[u8]) -> Option<Option<&[u8]>> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return None;
    }
    let Some((header, rest)) = message.split_first_chunk::<HANDSHAKE_HEADER_BYTES>() else {
        return Some(None);
    };
    let [_, high, middle, low] = *header;
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
    if length > CLIENT_HELLO_BYTES_MAX {
        return None;
    }
    Some(rest.get(..length))
}

/// `None` when the message is malformed.
fn hello_name(body: &[u8]) -> Option<Sni> {
    let mut hello = Reader(body);
    hello.take(FIXED_BYTES)?;
    if hello.vector8()?.len() > SESSION_ID_BYTES_MAX {
        return None;
    }
    let suites = hello.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 || hello.vector8()?.is_empty() {
        return None;
    }
    if hello.0.is_empty() {
        // Without any extension, as before TLS 1.2.
        return Some(Sni::None);
    }
    let mut extensions = Reader(hello.vector16()?);
    if !hello.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        // A second one would leave open which of them the server believes.
        if kind == SERVER_NAME && found.replace(server_name(data)?).is_some() {
            return None;
        }
    }
    Some(found.unwrap_or(Sni::None))
}

/// The one name of the extension's list; `None` when it is malformed.
fn server_name(data: &[u8]) -> Option<Sni> {
    let mut extension = Reader(data);
    let mut list = Reader(extension.vector16()?);
    let [kind] = *list.take(1)?.first_chunk()?;
    let name = list.vector16()?;
    if !extension.0.is_empty() || !list.0.is_empty() || kind != HOST_NAME {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    if name.parse::<IpAddr>().is_ok() {
        return Some(Sni::None);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(plain);
    (name.len() <= NAME_BYTES_MAX && name.split('.').all(label)).then(|| Sni::Name(name.to_ascii_lowercase()))
}

/// Takes vectors (RFC 8446 section 3.4) from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let [length] = *self.take(1)?.first_chunk()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::{CLIENT_HELLO_BYTES_MAX, OPENING_BYTES_MAX, RECORDS_MAX, Sni, sni_of};

    /// What Python's `ssl` (OpenSSL 3.0.19) sends to `API.shop.test`.
    const OPENSSL: &[u8] = include_bytes!("testdata/client_hello_openssl.bin");

    /// The capture's handshake message, without its one record header.
    fn message() -> &'static [u8] {
        &OPENSSL[5..]
    }

    fn record(fragment: &[u8]) -> Vec<u8> {
        let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], fragment].concat()
    }

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(data)].concat()
    }

    fn host(name: &[u8]) -> Vec<u8> {
        extension(0, &vector16(&[&[0], &vector16(name)[..]].concat()))
    }

    /// A ClientHello with these extensions; `None` leaves the whole block out.
    fn hello(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(extensions.map(vector16).unwrap_or_default());
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    fn named(name: &[u8]) -> Sni {
        sni_of(&record(&hello(Some(&host(name)))))
    }

    #[test]
    fn the_name_is_read_and_lowered() {
        assert_eq!(sni_of(OPENSSL), Sni::Name("api.shop.test".to_owned()));
        assert_eq!(sni_of(&[OPENSSL, b"more"].concat()), Sni::Name("api.shop.test".to_owned()));
        assert_eq!(named(b"a_b-c.test."), Sni::Name("a_b-c.test".to_owned()));
    }

    #[test]
    fn every_prefix_is_incomplete() {
        for end in 0..OPENSSL.len() {
            assert_eq!(sni_of(&OPENSSL[..end]), Sni::Incomplete, "{end} bytes");
        }
    }

    #[test]
    fn a_message_may_be_cut_into_records_anywhere() {
        for at in 1..message().len() {
            let bytes = [record(&message()[..at]), record(&message()[at..])].concat();
            assert_eq!(sni_of(&bytes), sni_of(OPENSSL), "cut at {at}");
            assert_eq!(sni_of(&bytes[..bytes.len() - 1]), Sni::Incomplete, "cut at {at}");
        }
        let pieces: Vec<u8> = message().chunks(9).flat_map(record).collect();
        assert_eq!(sni_of(&pieces), sni_of(OPENSSL));
        let crumbs: Vec<u8> =
            message().chunks(message().len() / (RECORDS_MAX + 1)).flat_map(record).collect();
        assert_eq!(sni_of(&crumbs), Sni::NotTls);
    }

    #[test]
    fn without_a_host_name_there_is_none() {
        assert_eq!(sni_of(&record(&hello(None))), Sni::None);
        assert_eq!(sni_of(&record(&hello(Some(&[])))), Sni::None);
        assert_eq!(sni_of(&record(&hello(Some(&extension(16, b"\0\x03\x02h2"))))), Sni::None);
        assert_eq!(named(b"192.0.2.1"), Sni::None);
        assert_eq!(named(b"2001:db8::1"), Sni::None);
    }

    #[test]
    fn what_no_server_would_take_is_not_tls() {
        for name in [&b""[..], b".", b"a..b", b"a b", b"a\0.test", b"*.test", b"\xff.test", &[b'a'; 64]] {
            assert_eq!(named(name), Sni::NotTls, "{name:?}");
        }
        let long = [&b"a."[..]; 127].concat();
        assert_eq!(named(&[&long[..], b"a"].concat()), Sni::NotTls);
        let twice = [host(b"a.test"), host(b"b.test")].concat();
        assert_eq!(sni_of(&record(&hello(Some(&twice)))), Sni::NotTls);
        let two = [&[0], &vector16(b"a.test")[..], &[0], &vector16(b"b.test")].concat();
        assert_eq!(sni_of(&record(&hello(Some(&extension(0, &vector16(&two)))))), Sni::NotTls);
        assert_eq!(sni_of(&record(&hello(Some(&host(b"a.test")[..9])))), Sni::NotTls);
    }

    #[test]
    fn other_protocols_are_told_at_once() {
        let other: [&[u8]; 6] =
            [b"GET / HTTP/1.1", b"\0\0\0\x08", b"S", &[22, 2], &[22, 3, 1, 0, 0], &[22, 3, 1, 0, 4, 2]];
        for bytes in other {
            assert_eq!(sni_of(bytes), Sni::NotTls, "{bytes:?}");
        }
        assert_eq!(sni_of(&[22, 3, 1, 0x40, 1]), Sni::NotTls, "a record beyond the limit");
        assert_eq!(sni_of(&[&record(&message()[..9])[..], &[23]].concat()), Sni::NotTls);
    }

    #[test]
    fn a_hello_that_is_too_long_is_not_waited_for() {
        let length = u32::try_from(CLIENT_HELLO_BYTES_MAX + 1).unwrap().to_be_bytes();
        assert_eq!(sni_of(&[&[22, 3, 1, 0, 200, 1], &length[1..]].concat()), Sni::NotTls);
        let padded = [host(b"a.test"), extension(21, &vec![0; CLIENT_HELLO_BYTES_MAX - 100])].concat();
        let records: Vec<u8> = hello(Some(&padded)).chunks(9000).flat_map(record).collect();
        assert!(records.len() < OPENING_BYTES_MAX);
        assert_eq!(sni_of(&records), Sni::Name("a.test".to_owned()));
    }

    #[test]
    fn damage_never_changes_a_given_answer() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |end: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap() % end
        };
        for _ in 0..20_000 {
            let mut bytes = OPENSSL.to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = u8::try_from(random(256)).unwrap();
            }
            let whole = sni_of(&bytes);
            let prefix = sni_of(&bytes[..random(bytes.len())]);
            assert!(prefix == Sni::Incomplete || prefix == whole, "{bytes:02x?}");
        }
    }
}
