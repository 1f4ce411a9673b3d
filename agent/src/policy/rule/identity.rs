//! Whose tokens bind a run, and what rules ask of them: groups and claims.

use std::path::PathBuf;
use std::time::Duration;

use globset::GlobMatcher;
use serde_json::Value;

use super::When;

/// The claims of a token (RFC 7519 section 4), as its issuer signed them.
pub type Claims = serde_json::Map<String, Value>;

/// How far clocks may differ when `leeway` does not say.
pub const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);

/// Most leeway a file may ask for: more would make expired tokens useful.
pub const LEEWAY_MAX: Duration = Duration::from_secs(5 * 60);

/// Whom an operation is for and when it is asked, as far as rules go by that.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Unix groups; under `[identity]`, those of the run's token instead.
    pub groups: &'a [String],
    /// Claims of the run's token; `None` without `[identity]`.
    pub claims: Option<&'a Claims>,
    /// Now, in milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

impl<'a> Who<'a> {
    /// Somebody of whom only groups are known.
    #[must_use]
    pub fn in_groups(groups: &'a [String]) -> Self {
        Self { groups, claims: None, at_ms: 0 }
    }

    /// Whether they are in one of these groups and have these claims. An empty list does not constrain.
    #[must_use]
    pub fn is(&self, groups: &[String], claims: &ClaimsWhen) -> bool {
        (groups.is_empty() || groups.iter().any(|group| self.groups.contains(group)))
            && claims.hold(self.claims)
    }

    /// Whether a guard's conditions on whom and when hold.
    #[must_use]
    pub fn meets(&self, when: &When) -> bool {
        self.is(&when.groups, &when.claims) && when.during.contains(self.at_ms)
    }
}

/// One issuer of `[identity]`. A run needs a token of one of them.
#[derive(Clone, Debug)]
pub struct IssuerRules {
    /// `issuer =`: exactly the token's `iss`, and where the provider describes itself (OpenID Connect Discovery 1.0).
    pub issuer: String,
    /// `audience =`: what the token's `aud` must name.
    pub audience: String,
    /// `trusted_audiences =`: what `aud` may name besides.
    pub trusted_audiences: Vec<String>,
    /// `authorized_parties =`: clients that the token may have been issued to, by its `azp`. Empty: the audience itself.
    pub authorized_parties: Vec<String>,
    /// `groups_claim =`.
    pub groups_claim: Option<ClaimPath>,
    /// `name_claim =`: what people call the subject.
    pub name_claim: Option<ClaimPath>,
    /// `claims =`: what every token must say.
    pub claims: ClaimsWhen,
    /// `algorithms =`: signatures that are taken.
    pub algorithms: Vec<Algorithm>,
    /// `leeway =`.
    pub leeway: Duration,
    /// `keys_url =`: the key set, where the issuer does not describe itself.
    pub keys_url: Option<String>,
    /// `root_cert =`: PEM file of the roots that may sign the issuer's certificate; `None` is the system's store.
    pub root_cert: Option<PathBuf>,
    /// `on_expiry =`.
    pub on_expiry: OnExpiry,
    /// `in_band =`: whether clients of runs without a token may bring such tokens themselves.
    pub in_band: bool,
}

/// Signatures of tokens (RFC 7518 section 3.1, RFC 8037). Neither `none` nor those with a shared secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// With SHA-384.
    Ps384,
    /// With SHA-512.
    Ps512,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// What providers use (Discovery asks all of them for RS256).
    pub const DEFAULT: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];
}

/// What happens to a run whose token has expired and was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// What is running finishes, nothing new starts. The default.
    Finish,
    /// Its connections are cut.
    Cut,
}

/// Where a claim stands: `groups`, `realm_access.roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// As written in a policy.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The claim of exactly this name (`https://acme.example/groups` is one), or else the one below the tables that
    /// the parts between dots name.
    #[must_use]
    pub fn find<'c>(&self, claims: &'c Claims) -> Option<&'c Value> {
        claims.get(&self.0).or_else(|| at(claims, self.0.split('.')))
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Conditions on claims; all must hold. A list's elements count each for itself.
#[derive(Clone, Debug, Default)]
pub struct ClaimsWhen(pub Vec<ClaimIs>);

/// One condition.
#[derive(Clone, Debug)]
pub struct ClaimIs {
    /// Names of claims, from the outside in.
    pub path: Vec<String>,
    /// One of these globs must match the claim's text; a number or a truth value is as JSON writes it.
    pub any: Vec<GlobMatcher>,
}

impl ClaimsWhen {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these claims are as asked. Without a token no condition holds.
    #[must_use]
    pub fn hold(&self, claims: Option<&Claims>) -> bool {
        self.is_empty() || claims.is_some_and(|claims| self.unmet(claims).is_none())
    }

    /// The first condition that does not hold.
    #[must_use]
    pub fn unmet(&self, claims: &Claims) -> Option<&ClaimIs> {
        self.0.iter().find(|claim| !claim.holds(claims))
    }
}

impl ClaimIs {
    fn holds(&self, claims: &Claims) -> bool {
        let matches = |text: &str| self.any.iter().any(|glob| glob.is_match(text));
        let scalar = |value: &Value| match value {
            Value::String(text) => matches(text),
            Value::Bool(_) | Value::Number(_) => matches(&value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        match at(claims, self.path.iter().map(String::as_str)) {
            Some(Value::Array(items)) => items.iter().any(scalar),
            Some(value) => scalar(value),
            None => false,
        }
    }
}

impl std::fmt::Display for ClaimIs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let globs: Vec<&str> = self.any.iter().map(|glob| glob.glob().glob()).collect();
        write!(f, "{} = {}", self.path.join("."), globs.join(" or "))
    }
}

fn at<'c, 'p>(claims: &'c Claims, mut path: impl Iterator<Item = &'p str>) -> Option<&'c Value> {
    let outermost = claims.get(path.next()?)?;
    path.try_fold(outermost, |value, name| value.as_object()?.get(name))
}

#[cfg(test)]
mod tests {
    use globset::Glob;
    use serde_json::json;

    use super::*;

    fn claims() -> Claims {
        let claims = json!({
            "repository": "acme/orders", "run_attempt": 2, "protected": true, "aud": ["portcullis", "other"],
            "realm_access": {"roles": ["dba", "dev"]}, "https://acme.example/groups": ["x"], "a.b": "whole",
            "a": {"b": "parts"}, "kubernetes.io": {"namespace": "ci"}, "nothing": null,
        });
        claims.as_object().cloned().unwrap()
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_its_place() {
        for (path, expected) in [
            ("repository", Some(json!("acme/orders"))),
            ("realm_access.roles", Some(json!(["dba", "dev"]))),
            ("https://acme.example/groups", Some(json!(["x"]))),
            ("a.b", Some(json!("whole"))),
            ("realm_access.roles.x", None),
            ("repository.x", None),
            ("absent", None),
            ("", None),
        ] {
            assert_eq!(ClaimPath::new(path).find(&claims()), expected.as_ref(), "{path}");
        }
    }

    #[test]
    fn conditions_hold_for_texts_numbers_and_lists() {
        for (path, glob, expected) in [
            (&["repository"][..], "acme/*", true),
            (&["repository"], "acme", false),
            (&["repository"], "ACME/orders", false),
            (&["run_attempt"], "2", true),
            (&["protected"], "true", true),
            (&["aud"], "other", true),
            (&["realm_access", "roles"], "dba", true),
            (&["realm_access", "roles"], "db", false),
            (&["realm_access"], "*", false),
            (&["kubernetes.io", "namespace"], "ci", true),
            (&["nothing"], "*", false),
            (&["absent"], "*", false),
        ] {
            let path = path.iter().map(|name| (*name).to_owned()).collect();
            let when =
                ClaimsWhen(vec![ClaimIs { path, any: vec![Glob::new(glob).unwrap().compile_matcher()] }]);
            assert_eq!(when.hold(Some(&claims())), expected, "{when:?}");
            assert!(!when.hold(None), "nobody is nobody");
        }
        assert!(ClaimsWhen::default().hold(None));
    }
}
