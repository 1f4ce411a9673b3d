//! The server name in a TLS client's greeting (RFC 8446 section 4.1.2, RFC 6066 section 3), read without taking part.

/// What a client's first bytes say of the server it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// More bytes are needed.
    Incomplete,
    /// A greeting for this name, lower case.
    Name(String),
    /// A greeting that names no server.
    None,
    /// No TLS greeting, or a broken one.
    NotTls,
}

/// Record type, handshake type, extension and name type that matter here.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Largest plaintext of one record (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Longest host name (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// Reads as much of a ClientHello as there is. The greeting may be spread over several records.
#[must_use]
pub fn sni_of(bytes: &[u8]) -> Sni {
    let mut hello = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((header, after)) = rest.split_first_chunk::<5>() else {
            return if plausible(rest) { Sni::Incomplete } else { Sni::NotTls };
        };
        let [kind, major, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Sni::NotTls;
        }
        let (piece, whole) = match after.split_at_checked(length) {
            Some((piece, after)) => {
                rest = after;
                (piece, true)
            }
            None => (after, false),
        };
        hello.extend_from_slice(piece);
        match of_handshake(&hello) {
            Err(Short) if whole => {}
            Err(Short) => return Sni::Incomplete,
            Ok(sni) => return sni,
        }
    }
}

/// Whether fewer than five bytes may be the beginning of a handshake record.
fn plausible(bytes: &[u8]) -> bool {
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3, ..] => true,
        [_, ..] => false,
    }
}

/// More bytes are needed.
struct Short;

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Short> {
        self.take(1).map(|taken| taken.first().copied().unwrap_or_default())
    }

    fn short(&mut self) -> Result<usize, Short> {
        Ok(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }
}

fn of_handshake(bytes: &[u8]) -> Result<Sni, Short> {
    let mut input = Input(bytes);
    if input.byte()? != CLIENT_HELLO {
        return Ok(Sni::NotTls);
    }
    let length = usize::from(input.byte()?) << 16 | input.short()?;
    let body = input.take(length)?;
    // From here on the greeting is all there: what is short now is broken.
    Ok(of_hello(body).unwrap_or(Sni::NotTls))
}

fn of_hello(bytes: &[u8]) -> Result<Sni, Short> {
    let mut input = Input(bytes);
    // Version and random.
    input.take(2 + 32)?;
    let session = usize::from(input.byte()?);
    input.take(session)?;
    let suites = input.short()?;
    input.take(suites)?;
    let compressions = usize::from(input.byte()?);
    input.take(compressions)?;
    if input.0.is_empty() {
        return Ok(Sni::None);
    }
    let length = input.short()?;
    let mut extensions = Input(input.take(length)?);
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let length = extensions.short()?;
        let body = extensions.take(length)?;
        if kind == usize::from(SERVER_NAME) {
            return of_names(body);
        }
    }
    Ok(Sni::None)
}

fn of_names(bytes: &[u8]) -> Result<Sni, Short> {
    let mut input = Input(bytes);
    let length = input.short()?;
    let mut names = Input(input.take(length)?);
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let length = names.short()?;
        let name = names.take(length)?;
        if kind != HOST_NAME {
            continue;
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(plain) {
            return Ok(Sni::NotTls);
        }
        let name = String::from_utf8_lossy(name).trim_end_matches('.').to_ascii_lowercase();
        return Ok(Sni::Name(name));
    }
    Ok(Sni::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting with these extensions.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut handshake = vec![1, 0];
        handshake.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        handshake.extend(body);
        handshake
    }

    fn server_name(name: &str) -> Vec<u8> {
        let length = u16::try_from(name.len()).unwrap();
        let mut extension = vec![0, 0x2b, 0, 1, 4];
        extension.extend([0, 0]);
        extension.extend((length + 5).to_be_bytes());
        extension.extend((length + 3).to_be_bytes());
        extension.push(0);
        extension.extend(length.to_be_bytes());
        extension.extend(name.as_bytes());
        extension.drain(..5);
        extension
    }

    fn records(handshake: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in handshake.chunks(size) {
            bytes.extend([22, 3, 1]);
            bytes.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
            bytes.extend(piece);
        }
        bytes
    }

    #[test]
    fn the_name_is_found_however_the_greeting_is_cut() {
        let handshake = hello(&server_name("API.Shop.test"));
        for size in [1, 7, 50, 4096] {
            let bytes = records(&handshake, size);
            assert_eq!(sni_of(&bytes), Sni::Name("api.shop.test".to_owned()), "records of {size}");
            for length in 0..bytes.len() {
                assert_eq!(sni_of(&bytes[..length]), Sni::Incomplete, "{length} bytes, records of {size}");
            }
        }
    }

    #[test]
    fn a_greeting_without_a_name_is_one() {
        assert_eq!(sni_of(&records(&hello(&[]), 100)), Sni::None);
        assert_eq!(sni_of(&records(&hello(&[0, 43, 0, 2, 3, 4]), 100)), Sni::None);
    }

    #[test]
    fn what_is_no_greeting_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x02",
            b"\x17\x03\x03\x00\x05",
            b"SSH-2.0",
            b"\x16\x03\x01\x00\x00",
        ] {
            assert_eq!(sni_of(bytes), Sni::NotTls, "{bytes:?}");
        }
        for name in ["", "a b", "\u{e9}"] {
            assert_eq!(sni_of(&records(&hello(&server_name(name)), 500)), Sni::NotTls);
        }
        let mut broken = hello(&server_name("a.test"));
        let at = broken.len() - 8;
        broken[at] = 0xff;
        assert_eq!(sni_of(&records(&broken, 500)), Sni::NotTls);
    }
}
