//! What an approval may ask of whoever gives it: how lately and by which means they proved who they are.

use std::time::Duration;

use serde_json::{Value, json};

use super::{HoldTime, whole_time};
use crate::policy::diagnostic::quoted;
use crate::policy::load::table::Word;
use crate::policy::rule::{ACR_BYTES_MAX, PROOF_AGE_MAX, PROOF_AGE_MIN};

/// `step_up =`.
pub(in crate::policy::load) struct ProofAge(pub(in crate::policy::load) Duration);

impl Word for ProofAge {
    const WHAT: &'static str = "a time such as \"5m\"";

    fn parse(text: &str) -> Result<Self, String> {
        let time = whole_time(text)?;
        if (PROOF_AGE_MIN..=PROOF_AGE_MAX).contains(&time) {
            return Ok(Self(time));
        }
        Err(format!(
            "{} is out of range: who signs in has to come back and decide; from {} s to {} h",
            quoted(text),
            PROOF_AGE_MIN.as_secs(),
            PROOF_AGE_MAX.as_secs() / 3600
        ))
    }

    fn pattern() -> Value {
        HoldTime::pattern()
    }
}

/// One value of `acr =`. The provider is asked for several of them with blanks in between (OpenID Connect Core 1.0 section
/// 3.1.2.1, `acr_values`).
pub(in crate::policy::load) struct Acr(pub(in crate::policy::load) String);

impl Word for Acr {
    const WHAT: &'static str = "an authentication context class such as \"phr\"";

    fn parse(text: &str) -> Result<Self, String> {
        let valid = (1..=ACR_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{} is not {}: 1 to {ACR_BYTES_MAX} ASCII characters without blanks, as the provider writes them",
            quoted(text),
            Self::WHAT
        ))
    }

    fn pattern() -> Value {
        json!({ "pattern": format!("^[!-~]{{1,{ACR_BYTES_MAX}}}$") })
    }
}
