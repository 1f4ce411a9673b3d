//! Clicks as requests that Slack signs (<https://docs.slack.dev/authentication/verifying-requests-from-slack>).

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::super::now;
use super::Slack;

/// How far a request's time may be from ours, either way.
const SKEW_MAX: Duration = Duration::from_mins(5);

/// Why a request is not Slack's, or not its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsigned {
    /// A field is missing, there twice, or none.
    #[error("its signature or time is missing or malformed")]
    Malformed,
    /// It is old, or from the future.
    #[error("its time is more than {} s from ours", SKEW_MAX.as_secs())]
    Skewed,
    /// Somebody else wrote it.
    #[error("its signature does not count")]
    Forged,
}

/// What says that a request is signed. Whether it is, only the secret tells.
pub(super) struct Signed<'h> {
    time: &'h str,
    signature: &'h str,
}

/// A request's fields, when its time is about now.
pub(super) fn signed(headers: &HeaderMap, now: Duration) -> Result<Signed<'_>, Unsigned> {
    let time = only(headers, "x-slack-request-timestamp")?;
    let signature = only(headers, "x-slack-signature")?;
    // Plain digits: another spelling of the same time would be signed otherwise.
    if time.len() > 12 || !time.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Unsigned::Malformed);
    }
    let sent = Duration::from_secs(time.parse().map_err(|_| Unsigned::Malformed)?);
    match sent.abs_diff(now) > SKEW_MAX {
        true => Err(Unsigned::Skewed),
        false => Ok(Signed { time, signature }),
    }
}

/// Checks a signature. Returns it, for it to count once.
pub(super) fn verify<'h>(secret: &[u8], signed: &Signed<'h>, body: &[u8]) -> Result<&'h str, Unsigned> {
    let Signed { time, signature } = *signed;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| Unsigned::Malformed)?;
    for part in [b"v0:", time.as_bytes(), b":", body] {
        mac.update(part);
    }
    let mac: [u8; 32] = mac.finalize().into_bytes().into();
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    match format!("v0={hex}").as_bytes().ct_eq(signature.as_bytes()).into() {
        true => Ok(signature),
        false => Err(Unsigned::Forged),
    }
}

fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Unsigned> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Unsigned::Malformed),
        (Some(_) | None, _) => Err(Unsigned::Malformed),
    }
}

impl Slack {
    /// Takes a request of Slack's. It is answered at once, as Slack wants it within 3 s; what comes of the click is told to
    /// who clicked.
    pub async fn signed(self: &Arc<Self>, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        let Some(inbound) = &self.inbound else { return StatusCode::NOT_FOUND };
        // Before anything is done for it: anybody may send such.
        let signed = match signed(headers, now()) {
            Ok(signed) => signed,
            Err(_unsigned) => return StatusCode::UNAUTHORIZED,
        };
        let Some(secret) = inbound.secret().await else { return StatusCode::SERVICE_UNAVAILABLE };
        let signature = match verify(secret.expose(), &signed, body) {
            Ok(signature) => signature,
            Err(error) => {
                tracing::debug!(%error, "a request that says it is Slack's was refused");
                return StatusCode::UNAUTHORIZED;
            }
        };
        if let Err(error) = self.once.first(signature, 2 * SKEW_MAX) {
            tracing::warn!(?error, "a request of Slack's was refused, for it counts once");
            return StatusCode::CONFLICT;
        }
        // One field; two could be read in two ways.
        let mut payloads = form_urlencoded::parse(body).filter(|(name, _)| name == "payload");
        let (Some((_, payload)), None) = (payloads.next(), payloads.next()) else {
            return StatusCode::BAD_REQUEST;
        };
        match self.take(payload.into_owned()) {
            Ok(()) => StatusCode::OK,
            Err(_busy) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked<'h>(
        secret: &[u8],
        headers: &'h HeaderMap,
        body: &[u8],
        now: Duration,
    ) -> Result<&'h str, Unsigned> {
        verify(secret, &signed(headers, now)?, body)
    }

    // The documentation's own example.
    const SECRET: &[u8] = b"8f742231b10e8888abcd99yyyzzz85a5";
    const TIME: &str = "1531420618";
    const BODY: &[u8] =
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&\
trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_documented_example_counts_and_nothing_near_it() {
        let (time, signature) = (("x-slack-request-timestamp", TIME), ("x-slack-signature", SIGNATURE));
        let now = Duration::from_secs(1_531_420_618);
        let good = headers(&[time, signature]);
        assert_eq!(checked(SECRET, &good, BODY, now), Ok(SIGNATURE));
        for (late, expected) in [(300, Ok(SIGNATURE)), (301, Err(Unsigned::Skewed))] {
            let late = Duration::from_secs(late);
            assert_eq!(checked(SECRET, &good, BODY, now + late), expected);
            assert_eq!(checked(SECRET, &good, BODY, now.checked_sub(late).unwrap()), expected);
        }
        assert_eq!(checked(b"another", &good, BODY, now), Err(Unsigned::Forged));
        assert_eq!(checked(SECRET, &good, &BODY[1..], now), Err(Unsigned::Forged));
        let upper = SIGNATURE.to_uppercase();
        for (pairs, expected) in [
            (&[time][..], Unsigned::Malformed),
            (&[signature], Unsigned::Malformed),
            (&[time, signature, signature], Unsigned::Malformed),
            (&[("x-slack-request-timestamp", "+1531420618"), signature], Unsigned::Malformed),
            (&[("x-slack-request-timestamp", "1531420618000"), signature], Unsigned::Malformed),
            (&[("x-slack-request-timestamp", "1531420619"), signature], Unsigned::Forged),
            (&[time, ("x-slack-signature", SIGNATURE.trim_start_matches("v0="))], Unsigned::Forged),
            (&[time, ("x-slack-signature", &upper)], Unsigned::Forged),
            (&[time, ("x-slack-signature", "")], Unsigned::Forged),
        ] {
            assert_eq!(checked(SECRET, &headers(pairs), BODY, now), Err(expected), "{pairs:?}");
        }
    }
}
