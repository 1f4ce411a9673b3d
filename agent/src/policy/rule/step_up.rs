//! What whoever approves must have proved of themselves, beyond being the right person.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Shortest time within which a proof may be asked for: who signs in has to come back and decide.
pub const PROOF_AGE_MIN: Duration = Duration::from_secs(30);
/// Longest one: no session of the approvals page lasts longer.
pub const PROOF_AGE_MAX: Duration = Duration::from_hours(24);
/// Most values of `acr` that a rule may take: they go to the provider in one address.
pub const ACR_MAX: usize = 8;
/// Longest such value, in bytes.
pub const ACR_BYTES_MAX: usize = 128;

/// How lately, and by which means, whoever approves must have proved at the identity provider who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepUp {
    /// `step_up = "5m"`: within this time, by the ID token's `auth_time` (OpenID Connect Core 1.0 sections 2 and 3.1.2.1).
    /// Seconds where it is written as JSON, as in the provider's `max_age`.
    #[serde(default, with = "seconds", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// `acr = ["phr"]`: by one of these (Core 1.0 section 2, `acr`). Empty: by any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr: Vec<String>,
}

impl StepUp {
    /// What satisfies both: the shorter time, and a means that both take. `None` when there is no such means.
    #[must_use]
    pub fn and(self, other: &Self) -> Option<Self> {
        let max_age = self.max_age.into_iter().chain(other.max_age).min();
        let acr = match (self.acr.is_empty(), other.acr.is_empty()) {
            (true, _) => other.acr.clone(),
            (false, true) => self.acr,
            (false, false) => {
                let shared: Vec<_> = self.acr.into_iter().filter(|value| other.acr.contains(value)).collect();
                if shared.is_empty() {
                    return None;
                }
                shared
            }
        };
        Some(Self { max_age, acr })
    }
}

/// As it goes on after "a sign-in".
impl fmt::Display for StepUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(age) = self.max_age {
            write!(f, "within {}", humantime::format_duration(age))?;
        }
        if self.acr.is_empty() {
            return Ok(());
        }
        let between = if self.max_age.is_some() { " " } else { "" };
        write!(f, "{between}with {}", self.acr.join(" or "))
    }
}

/// A time in whole seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(seconds: Option<u64>, acr: &[&str]) -> StepUp {
        let acr = acr.iter().map(|&value| value.to_owned()).collect();
        StepUp { max_age: seconds.map(Duration::from_secs), acr }
    }

    #[test]
    fn two_rules_are_satisfied_by_what_satisfies_both() {
        for (one, other, both) in [
            (asks(Some(60), &[]), asks(None, &["phr"]), Some(asks(Some(60), &["phr"]))),
            (asks(Some(60), &["a", "b"]), asks(Some(30), &["b", "c"]), Some(asks(Some(30), &["b"]))),
            (asks(None, &["a"]), asks(None, &[]), Some(asks(None, &["a"]))),
            (asks(None, &["a"]), asks(Some(60), &["b"]), None),
        ] {
            assert_eq!(one.clone().and(&other), both, "{one} and {other}");
            assert_eq!(other.clone().and(&one), both, "{other} and {one}");
        }
    }

    #[test]
    fn it_is_written_in_words_and_as_json() {
        for (asks, words, json) in [
            (
                asks(Some(300), &["phr", "urn:x"]),
                "within 5m with phr or urn:x",
                r#"{"max_age":300,"acr":["phr","urn:x"]}"#,
            ),
            (asks(Some(90), &[]), "within 1m 30s", r#"{"max_age":90}"#),
            (asks(None, &["phr"]), "with phr", r#"{"acr":["phr"]}"#),
        ] {
            assert_eq!(asks.to_string(), words);
            assert_eq!(serde_json::to_string(&asks).unwrap(), json);
            assert_eq!(serde_json::from_str::<StepUp>(json).unwrap(), asks);
        }
    }
}
