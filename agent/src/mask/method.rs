//! The four ways of rewriting a piece of text, and the key of the keyed one.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Detector, Method};

/// What `redact` leaves. Plain ASCII without quotes, braces, commas, blanks or backslashes, so that it can stand
/// inside JSON strings, array literals, CSV and XML without any of them changing shape.
pub const REDACTED: &str = "[redacted]";

/// Characters at the end that `partial` leaves readable.
const PARTIAL_TAIL_CHARS: usize = 4;

/// Shorter values lose every character under `partial`: four of eleven would be too many.
const PARTIAL_CHARS_MIN: usize = 12;

/// Key of `hash`. No `Debug`, no `Clone`, wiped on drop. Losing it means only that digests change.
pub struct HashKey(Zeroizing<[u8; 32]>);

impl HashKey {
    /// Takes 32 random bytes; the caller must hold no other copy.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// HMAC-SHA-256 (RFC 2104) of `value`.
    pub(super) fn digest(&self, value: &[u8]) -> [u8; 32] {
        // RFC 2104 §2: a key shorter than the block is padded with zeros, which makes construction infallible.
        let mut block = Zeroizing::new([0_u8; 64]);
        for (to, from) in block.iter_mut().zip(self.0.iter()) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new((&*block).into());
        mac.update(value);
        mac.finalize().into_bytes().into()
    }

    /// `h:` and the digest's first 64 bits in hex: equal values stay equal, nothing else can be told.
    pub(in crate::mask) fn token(&self, value: &[u8]) -> String {
        let [a, b, c, d, e, f, g, h, ..] = self.digest(value);
        format!("h:{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// What stands in place of one match of a detector. `null` removes it: text cannot hold a NULL.
pub(in crate::mask) fn replace_match(
    method: Method,
    detector: Detector,
    found: &[u8],
    key: &HashKey,
) -> Cow<'static, [u8]> {
    match method {
        Method::Redact => Cow::Borrowed(REDACTED.as_bytes()),
        Method::Null => Cow::Borrowed(b""),
        Method::Hash => Cow::Owned(key.token(found).into_bytes()),
        Method::Partial => match detector {
            Detector::PaymentCard => Cow::Owned(partial_digits(found)),
            Detector::Email => partial_email(found).map_or(Cow::Borrowed(REDACTED.as_bytes()), Cow::Owned),
            Detector::Iban => Cow::Owned(partial_iban(found)),
            // The end of a PEM block is its closing line, and a password has no part that is safe to show.
            Detector::PrivateKey | Detector::PasswordInUrl => Cow::Borrowed(REDACTED.as_bytes()),
            Detector::ApiKey | Detector::AwsKey | Detector::Jwt => Cow::Owned(partial_text(found)),
        },
    }
}

/// `partial` for a whole value of a masked column: the shape decides which characters stay.
pub(in crate::mask) fn partial_value(value: &[u8]) -> Vec<u8> {
    let trimmed = value.trim_ascii();
    if looks_like_card(trimmed) {
        return partial_digits(trimmed);
    }
    if looks_like_iban(trimmed) {
        return partial_iban(trimmed);
    }
    if let Some(email) = partial_email(trimmed) {
        return email;
    }
    partial_text(value)
}

/// 13 to 19 digits with at most blanks and dashes between them: a column rule vouches for the meaning, so Luhn is
/// not asked.
fn looks_like_card(value: &[u8]) -> bool {
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    (13..=19).contains(&digits)
        && value.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'-'))
}

fn looks_like_iban(value: &[u8]) -> bool {
    let [first, _, check, ..] = value else { return false };
    if !first.is_ascii_alphabetic() || !check.is_ascii_digit() {
        return false;
    }
    let compact: Vec<u8> = value.iter().copied().filter(|byte| *byte != b' ').collect();
    super::detect::iban::is_valid(&compact)
}

/// Stars for all digits but the last four; separators stay.
fn partial_digits(value: &[u8]) -> Vec<u8> {
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let mut hidden = digits.saturating_sub(PARTIAL_TAIL_CHARS);
    let mask = |byte: &u8| {
        if !byte.is_ascii_digit() || hidden == 0 {
            return *byte;
        }
        hidden -= 1;
        b'*'
    };
    value.iter().map(mask).collect()
}

/// Country, stars, last four; blanks stay.
fn partial_iban(value: &[u8]) -> Vec<u8> {
    const COUNTRY_CHARS: usize = 2;
    let letters = value.iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
    let tail = letters.saturating_sub(PARTIAL_TAIL_CHARS);
    let mut seen = 0_usize;
    let mask = |byte: &u8| {
        if !byte.is_ascii_alphanumeric() {
            return *byte;
        }
        seen += 1;
        if seen <= COUNTRY_CHARS || seen > tail { *byte } else { b'*' }
    };
    value.iter().map(mask).collect()
}

/// First character and domain. A mailbox of one character keeps none. `None` when it is not one address.
fn partial_email(value: &[u8]) -> Option<Vec<u8>> {
    let at = memchr::memrchr(b'@', value)?;
    let (mailbox, domain) = value.split_at_checked(at)?;
    let domain_text = domain.get(1..)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') || !byte.is_ascii();
    let clean_mailbox = |byte: &u8| !byte.is_ascii_whitespace() && !matches!(byte, b',' | b';' | b'<' | b'@');
    if mailbox.is_empty()
        || !domain_text.contains(&b'.')
        || !domain_text.iter().all(plain)
        || !mailbox.iter().all(clean_mailbox)
    {
        return None;
    }
    let mailbox = String::from_utf8_lossy(mailbox);
    let mut chars = mailbox.chars();
    let first = chars.next().filter(|_| chars.next().is_some());
    let mut out = Vec::with_capacity(value.len());
    if let Some(first) = first {
        out.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out.extend_from_slice(b"***");
    out.extend_from_slice(domain);
    Some(out)
}

/// Stars and the last four characters; only stars when the value is short. The stars do not tell a long value's
/// length.
fn partial_text(value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    let count = text.chars().count();
    if count < PARTIAL_CHARS_MIN {
        return vec![b'*'; count];
    }
    // The tail may hold what would need escaping in JSON or an array literal; such characters become stars too.
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '*' };
    let mut out = b"********".to_vec();
    for c in text.chars().skip(count - PARTIAL_TAIL_CHARS).map(safe) {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A key for tests: 32 bytes of one value.
    pub(in crate::mask) fn test_key() -> HashKey {
        HashKey::new(Zeroizing::new([7; 32]))
    }

    #[test]
    fn partial_shows_only_what_identifies() {
        for (value, expected) in [
            ("4111 1111 1111 1111", "**** **** **** 1111"),
            ("4111-1111-1111-1112", "****-****-****-1112"),
            ("4111111111111111", "************1111"),
            ("alice@example.com", "a***@example.com"),
            ("a@example.com", "***@example.com"),
            ("émile@example.com", "é***@example.com"),
            ("DE89 3704 0044 0532 0130 00", "DE** **** **** **** **30 00"),
            ("123-45-6789", "***********"),
            ("0123456789ab", "********89ab"),
            ("correct horse battery \"x\"", "*********\"x\"".replace('"', "*").as_str()),
            ("", ""),
            ("two@example.com, one@example.com", "********.com"),
        ] {
            assert_eq!(String::from_utf8(partial_value(value.as_bytes())).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn partial_survives_bytes_that_are_not_utf8() {
        let masked = partial_value(b"\xff\xfe\xfd\xfc secret \xff\xfe\xfd\xfc");
        assert!(!masked.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn hash_is_hmac_sha256() {
        // RFC 4231 test case 2 pads its key the same way: key "Jefe" and zeros up to 32 bytes is the same HMAC key.
        let mut bytes = [0_u8; 32];
        bytes[..4].copy_from_slice(b"Jefe");
        let key = HashKey::new(Zeroizing::new(bytes));
        assert_eq!(key.token(b"what do ya want for nothing?"), "h:5bdcc146bf60754e");
        assert_ne!(test_key().token(b"a"), test_key().token(b"b"));
    }
}
