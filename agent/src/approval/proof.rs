//! How a reviewer proved who they are, and whether that is enough for a rule.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::DecideError;
use super::request::Request;
use super::reviewer::Reviewer;
use crate::policy::rule::StepUp;

/// What the provider's ID token says of how somebody signed in (OpenID Connect Core 1.0 section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When they last proved who they are (`auth_time`); milliseconds since 1970-01-01T00:00:00Z. `None` when the provider
    /// does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time_ms: Option<u64>,
    /// By which means (`acr`), in the provider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
}

/// What a proof lacks. As it goes on after "and".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// They did not sign in at a provider: a Unix user, for one.
    Proof,
    /// It is too long ago; how long, or unknown.
    Freshness(Option<Duration>),
    /// It was by other means, or by unknown ones.
    Means(Option<String>),
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proof => {
                f.write_str("who decides here has none: use `portcullis login` or the approvals page")
            }
            Self::Freshness(Some(age)) => {
                let age = Duration::from_secs(age.as_secs());
                write!(
                    f,
                    "yours is {} old: sign in again (`portcullis login`, or on the approvals page)",
                    humantime::format_duration(age)
                )
            }
            Self::Freshness(None) => f.write_str("the provider does not say how old yours is (auth_time)"),
            Self::Means(Some(acr)) => {
                write!(
                    f,
                    "yours was with {}: sign in again (`portcullis login`, or on the approvals page)",
                    acr.escape_debug()
                )
            }
            Self::Means(None) => f.write_str("the provider does not say with what yours was (acr)"),
        }
    }
}

impl Proof {
    /// What it lacks of what a rule asks for, at this time (milliseconds since 1970-01-01T00:00:00Z).
    #[must_use]
    pub fn lacks(&self, needs: &StepUp, now_ms: u64) -> Option<Lacking> {
        if let Some(max_age) = needs.max_age {
            let age = self.auth_time_ms.map(|at| Duration::from_millis(now_ms.saturating_sub(at)));
            if age.is_none_or(|age| age > max_age) {
                return Some(Lacking::Freshness(age));
            }
        }
        let good = needs.acr.is_empty() || self.acr.as_ref().is_some_and(|acr| needs.acr.contains(acr));
        (!good).then(|| Lacking::Means(self.acr.clone()))
    }
}

impl Request {
    /// Whether a reviewer has proved as much of themselves as the rule asks of whoever approves.
    ///
    /// # Errors
    /// [`DecideError::StepUp`] when they have not: what is missing.
    pub fn check_proof(&self, by: &Reviewer, now_ms: u64) -> Result<(), DecideError> {
        let Some(needs) = &self.step_up else { return Ok(()) };
        let lacking = match &by.proof {
            Some(proof) => proof.lacks(needs, now_ms),
            None => Some(Lacking::Proof),
        };
        lacking.map_or(Ok(()), |lacking| Err(DecideError::StepUp { needs: needs.clone(), lacking }))
    }
}
