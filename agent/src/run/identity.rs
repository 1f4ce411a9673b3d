//! Whom a run's token speaks of, and whether the run still stands: until its token expires or somebody withdraws it.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::policy::rule::Claims;

/// What a verified token says of a run's subject (OpenID Connect Core 1.0 section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `iss`.
    pub issuer: String,
    /// `sub`: who it is, for this issuer. Both together are the subject.
    pub subject: String,
    /// What people call it, from the policy's `name_claim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Groups, from the policy's `groups_claim`.
    pub groups: Vec<String>,
    /// That claim, as it was when the token was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_claim: Option<String>,
    /// Every claim.
    pub claims: Claims,
    /// When the token stops counting, leeway included; milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: u64,
    /// SHA-256 of the token, in hex: names it without holding it.
    pub token: String,
    /// SHA-256 of what rules ask of it, in hex; the same for every token that means the same. See [`Identity::with_meaning`].
    #[serde(default)]
    pub meaning: String,
}

impl Identity {
    /// Whether two tokens speak of the same subject.
    #[must_use]
    pub fn is_same_subject(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.subject == other.subject
    }

    /// Whether what rules ask of it is the same: a renewed token differs in its times alone. Asked for every operation.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        !self.meaning.is_empty() && self.meaning == other.meaning
    }

    /// The same, with its meaning worked out: subject, groups, and the claims that are not new in every token.
    #[must_use]
    pub fn with_meaning(mut self) -> Self {
        let mut hash = Sha256::new();
        for part in [&self.issuer, &self.subject].into_iter().chain(&self.groups) {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.update(Value::Object(lasting(&self.claims)).to_string());
        self.meaning = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self
    }

    /// For people, in short: the name where there is one, else the subject.
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.subject)
    }

    /// For people: the name where there is one, and what identifies it.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({} of {})", self.subject, self.issuer),
            None => format!("{} of {}", self.subject, self.issuer),
        }
    }
}

/// Claims that are new in every token.
const OF_ONE_TOKEN: [&str; 13] = [
    "aio",
    "at_hash",
    "auth_time",
    "c_hash",
    "exp",
    "iat",
    "jti",
    "nbf",
    "nonce",
    "rh",
    "sid",
    "uti",
    "warnafter",
];

/// The other claims.
fn lasting(claims: &Claims) -> Claims {
    let kept = claims.iter().filter(|(name, _)| !OF_ONE_TOKEN.contains(&name.as_str()));
    // Kubernetes keeps such a claim inside of another.
    let value = |value: &Value| match value {
        Value::Object(inner) => Value::Object(lasting(inner)),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            other.clone()
        }
    };
    kept.map(|(name, inner)| (name.clone(), value(inner))).collect()
}

/// Who took a run's permission away, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// Login name.
    pub by: String,
    /// In their words; may be empty.
    pub reason: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

/// Whether a run may go on; shared by everything that knows the run.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<RwLock<Facts>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Arc<Identity>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    withdrawn: Option<Withdrawal>,
    /// Tokens before this one, by digest, and until when they count (milliseconds since 1970).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<(String, u64)>,
    /// Likewise those that clients of the run brought themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    brought: Vec<(String, u64)>,
}

/// Earlier tokens of one run that are remembered.
const EARLIER_MAX: usize = 64;
/// Tokens that count at once and that clients of one run brought; beyond it another one is refused.
const BROUGHT_MAX: usize = 1024;

/// Why a run may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lapsed {
    /// Its token has expired and was not renewed.
    Expired(Arc<Identity>),
    /// An operator withdrew it.
    Withdrawn(Withdrawal),
}

impl Standing {
    /// Of a run that began with this token, or with none.
    #[must_use]
    pub fn new(identity: Option<Identity>) -> Self {
        Self(Arc::new(RwLock::new(Facts { identity: identity.map(Arc::new), ..Facts::default() })))
    }

    /// The run's token as it is now, expired or not.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.read().identity
    }

    /// Whether the run was withdrawn.
    #[must_use]
    pub fn withdrawn(&self) -> Option<Withdrawal> {
        self.read().withdrawn
    }

    /// The token if the run may go on at this time.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self, now_ms: u64) -> Result<Option<Arc<Identity>>, Lapsed> {
        // Asked for every operation, so nothing is copied but a pointer.
        let facts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match (&facts.withdrawn, &facts.identity) {
            (Some(withdrawal), _) => Err(Lapsed::Withdrawn(withdrawal.clone())),
            (None, Some(identity)) if identity.expires_ms <= now_ms => {
                Err(Lapsed::Expired(Arc::clone(identity)))
            }
            (None, identity) => Ok(identity.clone()),
        }
    }

    /// Puts a fresh token in the place of the run's. The caller has seen that it is the same subject's.
    pub(super) fn renew(&self, identity: Identity) {
        let mut facts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = facts.identity.replace(Arc::new(identity));
        facts.earlier.extend(before.map(|before| (before.token.clone(), before.expires_ms)));
        let excess = facts.earlier.len().saturating_sub(EARLIER_MAX);
        facts.earlier.drain(..excess);
    }

    /// Remembers a token that a client of the run brought. Says whether it is new; `None` when there are too many.
    pub(super) fn brought(&self, token: &str, expires_ms: u64, now_ms: u64) -> Option<bool> {
        let mut facts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if facts.brought.iter().any(|(known, _)| known == token) {
            return Some(false);
        }
        facts.brought.retain(|(_, until)| *until > now_ms);
        if facts.brought.len() >= BROUGHT_MAX {
            return None;
        }
        facts.brought.push((token.to_owned(), expires_ms));
        Some(true)
    }

    /// Digests of the tokens that its clients brought, and until when each counts (milliseconds since 1970).
    pub(super) fn brought_tokens(&self) -> Vec<(String, u64)> {
        self.read().brought
    }

    /// Takes the run's permission away, for good. The first word counts.
    pub(super) fn withdraw(&self, withdrawal: Withdrawal) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).withdrawn.get_or_insert(withdrawal);
    }

    /// Digests of every token that the run has had, and until when each counts (milliseconds since 1970).
    pub(super) fn tokens(&self) -> Vec<(String, u64)> {
        let Facts { identity, mut earlier, .. } = self.read();
        earlier.extend(identity.map(|now| (now.token.clone(), now.expires_ms)));
        earlier
    }

    fn read(&self) -> Facts {
        // Every change is one assignment, so a panic elsewhere leaves it whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.read() == other.read()
    }
}

impl Eq for Standing {}

impl Serialize for Standing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.read().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Standing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(RwLock::new(Facts::deserialize(deserializer)?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(subject: &str, expires_ms: u64) -> Identity {
        let claims = serde_json::json!({"sub": subject, "exp": expires_ms, "jti": expires_ms, "ref": "main"});
        Identity {
            issuer: "https://idp.example".to_owned(),
            subject: subject.to_owned(),
            name: None,
            groups: vec!["dev".to_owned()],
            groups_claim: None,
            claims: claims.as_object().cloned().unwrap(),
            expires_ms,
            token: String::new(),
            meaning: String::new(),
        }
        .with_meaning()
    }

    #[test]
    fn a_run_stands_until_its_token_expires_and_again_when_it_is_renewed() {
        let standing = Standing::new(Some(identity("a", 1000)));
        let kept = standing.clone();
        assert!(standing.check(999).is_ok());
        assert!(matches!(kept.check(1000), Err(Lapsed::Expired(_))));
        standing.renew(identity("a", 2000));
        assert!(kept.check(1000).is_ok(), "everything that knows the run knows");
        let again: Standing = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
        assert_eq!(again, kept);
    }

    #[test]
    fn a_withdrawn_run_stays_withdrawn() {
        let standing = Standing::default();
        assert_eq!(standing.check(u64::MAX), Ok(None));
        let withdrawal = |by: &str| Withdrawal { by: by.to_owned(), reason: String::new(), at_ms: 1 };
        standing.withdraw(withdrawal("ada"));
        standing.withdraw(withdrawal("bob"));
        standing.renew(identity("a", 5000));
        assert_eq!(standing.check(1), Err(Lapsed::Withdrawn(withdrawal("ada"))));
    }

    #[test]
    fn a_renewed_token_means_the_same_unless_groups_or_claims_change() {
        let first = identity("a", 1000);
        assert!(first.means_the_same(&identity("a", 2000)));
        assert!(!first.means_the_same(&identity("b", 1000)));
        let mut other = identity("a", 2000);
        other.groups.push("dba".to_owned());
        assert!(!first.means_the_same(&other.with_meaning()));
        let mut other = identity("a", 2000);
        other.claims.insert("ref".to_owned(), "feature".into());
        assert!(!first.means_the_same(&other.with_meaning()));
    }
}
