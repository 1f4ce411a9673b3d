//! Signatures of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, symmetric (`v1`).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// How far a message's time may be from ours, either way.
pub(super) const SKEW_MAX: Duration = Duration::from_mins(5);
/// Longest id of a message, in bytes.
const ID_BYTES_MAX: usize = 256;
/// Signatures of one message that are looked at: senders that change their secret sign with both.
const SIGNATURES_MAX: usize = 8;
/// Lengths of a key, in bytes, as the specification has them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Why a message does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsigned {
    /// A field is missing, there twice, or none.
    #[error("webhook-id, webhook-timestamp or webhook-signature is missing or malformed")]
    Malformed,
    /// It is old, or from the future.
    #[error("webhook-timestamp is more than {} s from our time", SKEW_MAX.as_secs())]
    Skewed,
    /// Somebody else wrote it.
    #[error("no signature in webhook-signature counts")]
    Forged,
}

/// What both sides know. Wiped when dropped.
pub(super) struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// From `whsec_` and base64, or base64 alone.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let key = Zeroizing::new(STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).ok()?);
        KEY_BYTES.contains(&key.len()).then_some(Self(key))
    }

    /// The field `webhook-signature`.
    pub(super) fn sign(&self, id: &str, time: &str, body: &[u8]) -> String {
        // A key of any length will do (RFC 2104 section 3), so this cannot fail; nobody takes an empty signature.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        for part in [id.as_bytes(), b".", time.as_bytes(), b".", body] {
            mac.update(part);
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }

    /// Checks a signature. Returns the message's id, for it to count once.
    pub(super) fn verify<'h>(&self, signed: &Signed<'h>, body: &[u8]) -> Result<&'h str, Unsigned> {
        let ours = self.sign(signed.id, signed.time, body);
        let counts = |signature: &str| bool::from(ours.as_bytes().ct_eq(signature.as_bytes()));
        match !ours.is_empty() && signed.signatures.split(' ').take(SIGNATURES_MAX).any(counts) {
            true => Ok(signed.id),
            false => Err(Unsigned::Forged),
        }
    }
}

/// What says that a message is signed. Whether it is, only the key tells.
pub(super) struct Signed<'h> {
    id: &'h str,
    time: &'h str,
    signatures: &'h str,
}

impl<'h> Signed<'h> {
    /// From a message's fields, when its time is about now.
    pub(super) fn of(headers: &'h HeaderMap, now: Duration) -> Result<Self, Unsigned> {
        let (id, time) = (only(headers, "webhook-id")?, only(headers, "webhook-timestamp")?);
        let signatures = only(headers, "webhook-signature")?;
        // A dot in the id would let it pass for another id with another time.
        let plain = |b: u8| b.is_ascii_graphic() && b != b'.';
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(plain) {
            return Err(Unsigned::Malformed);
        }
        if time.len() > 12 || !time.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Unsigned::Malformed);
        }
        let sent = Duration::from_secs(time.parse().map_err(|_| Unsigned::Malformed)?);
        match sent.abs_diff(now) > SKEW_MAX {
            true => Err(Unsigned::Skewed),
            false => Ok(Self { id, time, signatures }),
        }
    }
}

fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Unsigned> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Unsigned::Malformed),
        (Some(_) | None, _) => Err(Unsigned::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked<'h>(
        key: &Key,
        headers: &'h HeaderMap,
        body: &[u8],
        now: Duration,
    ) -> Result<&'h str, Unsigned> {
        key.verify(&Signed::of(headers, now)?, body)
    }

    // The specification's own example.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: &str = "1614265330";
    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(id: &str, time: &str, signature: &str) -> HeaderMap {
        let pairs = [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", signature)];
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_specification_s_example_counts_and_nothing_near_it() {
        let key = Key::parse(SECRET).unwrap();
        let now = Duration::from_secs(1_614_265_330);
        assert_eq!(key.sign(ID, TIME, BODY), SIGNATURE);
        assert_eq!(checked(&key, &headers(ID, TIME, SIGNATURE), BODY, now), Ok(ID));
        let several = format!("v1a,AAAA v1,AAAA {SIGNATURE}");
        assert_eq!(checked(&key, &headers(ID, TIME, &several), BODY, now), Ok(ID), "one of several");
        let too_many = format!("{}{SIGNATURE}", "v1,AAAA ".repeat(SIGNATURES_MAX));
        for (id, time, signature, expected) in [
            (ID, TIME, "v1,AAAA", Unsigned::Forged),
            (ID, TIME, SIGNATURE.trim_start_matches("v1,"), Unsigned::Forged),
            (ID, TIME, "", Unsigned::Forged),
            (ID, TIME, &too_many, Unsigned::Forged),
            ("msg_other", TIME, SIGNATURE, Unsigned::Forged),
            ("", TIME, SIGNATURE, Unsigned::Malformed),
            ("msg.1", TIME, SIGNATURE, Unsigned::Malformed),
            (&"m".repeat(257), TIME, SIGNATURE, Unsigned::Malformed),
            (ID, "", SIGNATURE, Unsigned::Malformed),
            (ID, "-1", SIGNATURE, Unsigned::Malformed),
            (ID, "1614265331", SIGNATURE, Unsigned::Forged),
            (ID, "1614265631", SIGNATURE, Unsigned::Skewed),
            (ID, "1614265029", SIGNATURE, Unsigned::Skewed),
        ] {
            assert_eq!(
                checked(&key, &headers(id, time, signature), BODY, now),
                Err(expected),
                "{id} {time} {signature}"
            );
        }
        assert_eq!(checked(&key, &headers(ID, TIME, SIGNATURE), b"{}", now), Err(Unsigned::Forged));
        assert_eq!(checked(&key, &HeaderMap::new(), BODY, now), Err(Unsigned::Malformed));
        let mut twice = headers(ID, TIME, SIGNATURE);
        twice.append("webhook-signature", SIGNATURE.parse().unwrap());
        assert_eq!(checked(&key, &twice, BODY, now), Err(Unsigned::Malformed));
    }

    #[test]
    fn a_key_is_long_enough() {
        for text in ["", "whsec_", "whsec_AAAA", "whsec_!!!!", &format!("whsec_{}", "A".repeat(88))] {
            assert!(Key::parse(text).is_none(), "{text}");
        }
        assert!(
            Key::parse(&"A".repeat(32)).is_some()
                && Key::parse(&format!("whsec_{}", "A".repeat(84))).is_some()
        );
    }
}
