//! Signing in by another device: what is shown here is typed there (RFC 8628).

use std::time::Duration;

use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::provider::{Ask, Provider, ProviderError, Secrets};
use crate::run::Identity;

/// Between two questions to the provider, unless it says (section 3.2), and how much longer after it said that this is too often
/// (section 3.5).
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest pause that a provider may ask for.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Longest code or address that people are shown, in bytes.
const SHOWN_BYTES_MAX: usize = 512;

/// What the device endpoint answers (section 3.2). Wiped when dropped.
#[derive(Deserialize)]
struct Authorization {
    device_code: Zeroizing<String>,
    user_code: String,
    verification_uri: String,
    #[serde(default)]
    verification_uri_complete: Option<String>,
    expires_in: u64,
    #[serde(default)]
    interval: Option<u64>,
}

/// A sign-in that goes on elsewhere.
pub(super) struct Device {
    code: Zeroizing<String>,
    nonce: Zeroizing<String>,
    /// What is to be typed.
    pub(super) user_code: String,
    /// Where.
    pub(super) verification_uri: String,
    /// The same with the code in it, for a link.
    pub(super) complete_uri: Option<String>,
    /// Until when the code counts.
    pub(super) until: Instant,
    /// How long to wait between two questions.
    pub(super) interval: Duration,
    /// Before this, the provider is not asked.
    next: Instant,
}

/// Whether somebody has signed in yet.
pub(super) enum Polled {
    /// Ask again.
    NotYet,
    /// They have.
    Done(Box<Identity>),
}

impl Provider {
    /// Begins one (section 3.1).
    pub(super) async fn device(&self, ask: &Ask<'_>, secrets: Secrets) -> Result<Device, ProviderError> {
        let described = self.described().await?;
        let endpoint = described.device_authorization_endpoint.as_ref().ok_or(ProviderError::NoDevices)?;
        let needs = ask.needs();
        let scope = self.client.scopes.join(" ");
        // Providers that take no nonce here ignore it (section 3.1).
        let mut fields = vec![("scope", scope.as_str()), ("nonce", &secrets.nonce)];
        fields.extend(needs.iter().map(|(name, value)| (*name, value.as_str())));
        let body = self.post(&described, endpoint, &fields).await?;
        let answer: Authorization = serde_json::from_slice(&body)
            .map_err(|_| ProviderError::Answer("device endpoint does not answer with a code"))?;
        let now = Instant::now();
        let plain = |text: &str| text.len() <= SHOWN_BYTES_MAX && !text.chars().any(char::is_control);
        let shown = [&answer.user_code, &answer.verification_uri]
            .into_iter()
            .chain(&answer.verification_uri_complete);
        if !shown.into_iter().all(|text| plain(text)) {
            return Err(ProviderError::Answer("code cannot be shown"));
        }
        let interval = answer.interval.map_or(INTERVAL, Duration::from_secs).min(INTERVAL_MAX);
        Ok(Device {
            code: answer.device_code,
            nonce: secrets.nonce,
            user_code: answer.user_code,
            verification_uri: answer.verification_uri,
            complete_uri: answer.verification_uri_complete,
            until: now + Duration::from_secs(answer.expires_in).min(super::accounts::LOGIN_TIME_MAX),
            interval,
            next: now + interval,
        })
    }

    /// Asks whether somebody has signed in (section 3.4), unless it is too early to ask again.
    pub(super) async fn poll(&self, device: &mut Device) -> Result<Polled, ProviderError> {
        if Instant::now() < device.next {
            return Ok(Polled::NotYet);
        }
        let grant = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device.code.as_str()),
        ];
        let asked = self.id_token(&grant).await;
        device.next = Instant::now() + device.interval;
        let token = match asked {
            Ok(token) => token,
            Err(ProviderError::Refused { error, .. }) if error == "authorization_pending" => {
                return Ok(Polled::NotYet);
            }
            Err(ProviderError::Refused { error, .. }) if error == "slow_down" => {
                device.interval = (device.interval + INTERVAL).min(INTERVAL_MAX);
                device.next += INTERVAL;
                return Ok(Polled::NotYet);
            }
            // It may be there again next time (section 3.5).
            Err(ProviderError::Fetch(error)) => {
                tracing::warn!(%error, "the identity provider cannot be asked whether somebody has signed in");
                device.interval = (device.interval * 2).min(INTERVAL_MAX);
                device.next = Instant::now() + device.interval;
                return Ok(Polled::NotYet);
            }
            Err(error) => return Err(error),
        };
        let identity = self.verify(&token).await?;
        // The device code is the proof that it is this sign-in's; a nonce that came along has to be its, too.
        match identity.claims.get("nonce").and_then(serde_json::Value::as_str) {
            Some(nonce) if !bool::from(nonce.as_bytes().ct_eq(device.nonce.as_bytes())) => {
                Err(ProviderError::Nonce)
            }
            Some(_) | None => Ok(Polled::Done(Box::new(identity))),
        }
    }
}
