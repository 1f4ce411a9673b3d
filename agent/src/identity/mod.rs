//! Tokens of identity providers: whether one may bind a run, and whom it speaks of.
//!
//! A token is an ID token in the sense of OpenID Connect Core 1.0 section 2: signed by its issuer, for this gate as its
//! audience, short-lived. CI systems, Kubernetes and clouds mint the same kind for jobs. Only the key sets of issuers that
//! policies name are ever fetched.

use std::time::Duration;

use thiserror::Error;

use crate::fetch::FetchError;
use crate::flow::Side;
use crate::policy::rule::IssuerRules;
use crate::run::Identity;

mod keys;
#[cfg(test)]
mod shapes;
#[cfg(test)]
pub(crate) mod tests;
mod token;

pub use keys::{Issuers, KEYS_AGE_MAX, REFRESH_PAUSE};

/// Longest token looked at, in bytes. Tokens with many groups reach a few KiB.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Most groups taken from a token.
pub const GROUPS_MAX: usize = 1000;
/// Longest group, subject or name taken from a token, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// Why a token does not bind a run. No text holds the token or a part of its signature.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It is longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It is no signed JWT with an ID token's claims.
    #[error("this is no ID token: {0}")]
    Malformed(&'static str),
    /// No issuer of the policy signed it.
    #[error("the token is from {found}, and the policy takes tokens of {}", known.join(", "))]
    Issuer {
        /// Its `iss`.
        found: String,
        /// Those of the policy.
        known: Vec<String>,
    },
    /// It is signed in a way that is not taken, or with a key that the issuer does not have, or not at all.
    #[error("the token's signature does not count: {0}")]
    Signature(String),
    /// It is for others.
    #[error("the token is not for this gate: {0}")]
    Audience(String),
    /// It was issued to another client.
    #[error(
        "the token was issued to the client {found}; name it in authorized_parties if its tokens shall count"
    )]
    AuthorizedParty {
        /// Its `azp`.
        found: String,
    },
    /// Its time is over.
    #[error("the token expired {} s ago; get a new one", ago.as_secs())]
    Expired {
        /// How long ago, leeway included.
        ago: Duration,
    },
    /// Its time has not come.
    #[error("the token counts from {} s from now; is this host's clock right?", in_.as_secs())]
    NotYet {
        /// How far away, leeway included.
        in_: Duration,
    },
    /// The policy asks for claims that it does not have.
    #[error("the policy takes only tokens with {0}")]
    Claim(String),
    /// Its groups cannot be told.
    #[error("the token's groups cannot be told: {0}")]
    Groups(&'static str),
    /// The issuer's keys cannot be had.
    #[error("the keys of {issuer} cannot be had: {why}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// What went wrong.
        why: String,
    },
}

impl TokenError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Keys { .. } => Side::Upstream,
            Self::Claim(_) => Side::Policy,
            Self::TooLong
            | Self::Malformed(_)
            | Self::Issuer { .. }
            | Self::Signature(_)
            | Self::Audience(_)
            | Self::AuthorizedParty { .. }
            | Self::Expired { .. }
            | Self::NotYet { .. }
            | Self::Groups(_) => Side::Client,
        }
    }

    fn keys(issuer: &str, why: impl Into<String>) -> Self {
        Self::Keys { issuer: issuer.to_owned(), why: why.into() }
    }

    fn fetch(issuer: &str, error: &FetchError) -> Self {
        Self::keys(issuer, error.to_string())
    }
}

impl Issuers {
    /// Whom a token speaks of, by the rules of the policy's issuers. `now` is the time since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// When it does not bind a run.
    pub async fn verify(
        &self,
        issuers: &[IssuerRules],
        token: &str,
        now: Duration,
    ) -> Result<Identity, TokenError> {
        let token = token::Unverified::parse(token)?;
        let rules = issuers.iter().find(|rules| rules.issuer == token.issuer()).ok_or_else(|| {
            let known = issuers.iter().map(|rules| rules.issuer.clone()).collect();
            TokenError::Issuer { found: token::shown(token.issuer()), known }
        })?;
        let keys = self.keys(rules).await?;
        match token.verify(rules, &keys, now) {
            Err(token::Refused::UnknownKey) => match self.newer_keys(rules, &keys).await? {
                Some(keys) => token.verify(rules, &keys, now).map_err(TokenError::from),
                None => Err(token::Refused::UnknownKey.into()),
            },
            verified => verified.map_err(TokenError::from),
        }
    }
}
