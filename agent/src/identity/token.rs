//! One token: read, then verified. Signature, issuer and audience are openidconnect's part; times, `azp`, claims and groups
//! are ours. Pure.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::core::{CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use openidconnect::{
    Audience, ClaimsVerificationError, ClientId, IssuerUrl, Nonce, SignatureVerificationError,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{GROUPS_MAX, NAME_BYTES_MAX, TOKEN_BYTES_MAX, TokenError};
use crate::policy::rule::{Algorithm, Claims, IssuerRules};
use crate::run::Identity;

/// Characters of somebody else's text in an error.
const SHOWN_CHARS_MAX: usize = 200;

/// A token that nobody has vouched for yet.
pub(super) struct Unverified {
    token: CoreIdToken,
    claims: Claims,
    issuer: String,
    digest: String,
}

/// Why a token is refused.
pub(super) enum Refused {
    /// None of the keys is its own; newer ones may be.
    UnknownKey,
    /// For good.
    For(TokenError),
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        Self::For(error)
    }
}

impl From<Refused> for TokenError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UnknownKey => Self::Signature("its issuer has no such key".to_owned()),
            Refused::For(error) => error,
        }
    }
}

impl Unverified {
    /// Takes a JWS in compact form apart (RFC 7515 section 7.1).
    pub(super) fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let three_parts = TokenError::Malformed("it is not three parts in base64url with dots between");
        let mut parts = text.split('.');
        let (Some(_), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(three_parts);
        };
        // The signature strictly as well: the library would take several texts of one signature.
        let (Ok(payload), Ok(_)) = (URL_SAFE_NO_PAD.decode(payload), URL_SAFE_NO_PAD.decode(signature))
        else {
            return Err(three_parts);
        };
        let claims: Claims = serde_json::from_slice(&payload)
            .map_err(|_| TokenError::Malformed("its claims are no JSON object"))?;
        let text_of = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let issuer = text_of("iss").ok_or(TokenError::Malformed("it names no issuer (iss)"))?;
        // The library's own texts may quote what is in the token.
        let token = text.parse().map_err(|_| {
            TokenError::Malformed(
                "its header, or one of iss, sub, aud, exp and iat, is missing or of another form",
            )
        })?;
        // Named by what is signed: a signature of ECDSA can be changed into another good one by anybody.
        let signed = text.rsplit_once('.').map_or(text, |(signed, _)| signed);
        let digest = Sha256::digest(signed.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        if claims.contains_key("events") {
            return Err(TokenError::Malformed(
                "it tells of an event (RFC 8417), such as a logout, and of no login",
            ));
        }
        Ok(Self { token, claims, issuer, digest })
    }

    /// Who it says has signed it.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Verifies it against the issuer's keys, at this time since 1970.
    pub(super) fn verify(
        &self,
        rules: &IssuerRules,
        keys: &CoreJsonWebKeySet,
        now: Duration,
    ) -> Result<Identity, Refused> {
        self.check_signature(rules, keys)?;
        self.check_party(rules)?;
        let expires = self.check_times(rules, now)?;
        if let Some(unmet) = rules.claims.unmet(&self.claims) {
            return Err(TokenError::Claim(unmet.to_string()).into());
        }
        let subject = self.claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > NAME_BYTES_MAX || subject.chars().any(char::is_control) {
            return Err(TokenError::Malformed("its subject (sub) is empty, too long or no plain text").into());
        }
        let plain = |name: &&str| name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        let name = rules.name_claim.as_ref().and_then(|path| path.find(&self.claims)).and_then(Value::as_str);
        Ok(Identity {
            issuer: rules.issuer.clone(),
            subject: subject.to_owned(),
            name: name.filter(plain).map(str::to_owned),
            groups: self.groups(rules)?,
            groups_claim: rules.groups_claim.as_ref().map(|path| path.as_str().to_owned()),
            claims: self.claims.clone(),
            expires_ms: u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
            token: self.digest.clone(),
            meaning: String::new(),
        }
        .with_meaning())
    }

    /// Signature, algorithm, issuer and audience (OpenID Connect Core 1.0 section 3.1.3.7, steps 2, 3, 6 to 8).
    fn check_signature(&self, rules: &IssuerRules, keys: &CoreJsonWebKeySet) -> Result<(), Refused> {
        let issuer = IssuerUrl::new(rules.issuer.clone())
            .map_err(|_| TokenError::keys(&rules.issuer, "the issuer is no URL"))?;
        let trusted =
            |audience: &Audience| rules.trusted_audiences.iter().any(|trusted| *trusted == **audience);
        let client = ClientId::new(rules.audience.clone());
        let verifier = CoreIdTokenVerifier::new_public_client(client, issuer, keys.clone())
            .set_allowed_algs(rules.algorithms.iter().map(|algorithm| algorithm_of(*algorithm)))
            .set_other_audience_verifier_fn(trusted)
            // Its clock stands in 1970: times are checked below, against ours and with the policy's leeway.
            .set_time_fn(Default::default);
        let no_nonce = |_: Option<&Nonce>| Ok(());
        match self.token.claims(&verifier, no_nonce) {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(error, rules)),
        }
    }

    /// Steps 4 and 5: to whom it was issued.
    fn check_party(&self, rules: &IssuerRules) -> Result<(), TokenError> {
        let Some(party) = self.claims.get("azp") else {
            // Several audiences without a party: nobody says which of them asked for it.
            return match self.claims.get("aud").and_then(Value::as_array).map_or(1, Vec::len) {
                0 | 1 => Ok(()),
                _ if rules.authorized_parties.is_empty() => Ok(()),
                _ => Err(TokenError::AuthorizedParty { found: "(none named)".to_owned() }),
            };
        };
        let party = party.as_str().ok_or(TokenError::Malformed("its azp is no text"))?;
        let known = match rules.authorized_parties.as_slice() {
            [] => party == rules.audience,
            parties => parties.iter().any(|known| known == party),
        };
        if known { Ok(()) } else { Err(TokenError::AuthorizedParty { found: shown(party) }) }
    }

    /// `exp`, `nbf` and `iat` (RFC 7519 section 4.1); until when it counts.
    fn check_times(&self, rules: &IssuerRules, now: Duration) -> Result<Duration, TokenError> {
        let expires = self.time("exp")?.ok_or(TokenError::Malformed("it never expires (exp)"))?;
        let expires = expires.saturating_add(rules.leeway);
        if now >= expires {
            return Err(TokenError::Expired { ago: now.saturating_sub(expires) });
        }
        for name in ["nbf", "iat"] {
            let from = self.time(name)?.unwrap_or_default();
            let early = from.saturating_sub(now.saturating_add(rules.leeway));
            if !early.is_zero() {
                return Err(TokenError::NotYet { in_: early });
            }
        }
        Ok(expires)
    }

    /// A NumericDate (RFC 7519 section 2): seconds since 1970, perhaps with a fraction.
    fn time(&self, name: &'static str) -> Result<Option<Duration>, TokenError> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        value
            .as_u64()
            .map(Duration::from_secs)
            .or_else(|| value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
            .map(Some)
            .ok_or(TokenError::Malformed("exp, nbf or iat is no time"))
    }

    fn groups(&self, rules: &IssuerRules) -> Result<Vec<String>, TokenError> {
        let Some(path) = &rules.groups_claim else { return Ok(Vec::new()) };
        let groups = match path.find(&self.claims) {
            Some(Value::String(group)) => vec![group.clone()],
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or(TokenError::Groups("the claim is a list of something else than texts"))?,
            Some(Value::Null) => Vec::new(),
            Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                return Err(TokenError::Groups("the claim is neither a text nor a list of texts"));
            }
            // Entra ID: too many groups for the token, which names where to ask instead
            // (learn.microsoft.com/entra/identity-platform/id-token-claims-reference, groups overage claim).
            None if self.is_beyond(path.as_str()) => {
                return Err(TokenError::Groups(
                    "there are too many for the token (overage); let the issuer put fewer into it: those assigned to \
                     the application, or roles",
                ));
            }
            None => Vec::new(),
        };
        if groups.len() > GROUPS_MAX {
            return Err(TokenError::Groups("there are more than 1000"));
        }
        if groups.iter().any(|group| group.chars().any(char::is_control)) {
            return Err(TokenError::Groups("one is no plain text"));
        }
        if groups.iter().any(|group| group.len() > NAME_BYTES_MAX) {
            return Err(TokenError::Groups("one is longer than 512 bytes"));
        }
        Ok(groups)
    }

    fn is_beyond(&self, claim: &str) -> bool {
        let names = self.claims.get("_claim_names").and_then(Value::as_object);
        names.is_some_and(|names| names.contains_key(claim)) || self.claims.contains_key("hasgroups")
    }
}

fn algorithm_of(algorithm: Algorithm) -> CoreJwsSigningAlgorithm {
    match algorithm {
        Algorithm::Rs256 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        Algorithm::Rs384 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
        Algorithm::Rs512 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
        Algorithm::Ps256 => CoreJwsSigningAlgorithm::RsaSsaPssSha256,
        Algorithm::Ps384 => CoreJwsSigningAlgorithm::RsaSsaPssSha384,
        Algorithm::Ps512 => CoreJwsSigningAlgorithm::RsaSsaPssSha512,
        Algorithm::Es256 => CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        Algorithm::Es384 => CoreJwsSigningAlgorithm::EcdsaP384Sha384,
        Algorithm::EdDsa => CoreJwsSigningAlgorithm::EdDsa,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "both enums may grow; what is not known refuses")]
fn refusal(error: ClaimsVerificationError, rules: &IssuerRules) -> Refused {
    use SignatureVerificationError as Wrong;
    let signature = |why: &str| TokenError::Signature(why.to_owned()).into();
    match error {
        ClaimsVerificationError::InvalidAudience(_) => {
            TokenError::Audience(format!("its aud is not \"{}\" alone", rules.audience)).into()
        }
        ClaimsVerificationError::SignatureVerification(Wrong::NoMatchingKey) => Refused::UnknownKey,
        ClaimsVerificationError::SignatureVerification(Wrong::AmbiguousKeyId(_)) => {
            signature("it does not say by which of its issuer's keys")
        }
        ClaimsVerificationError::SignatureVerification(
            Wrong::DisallowedAlg(_) | Wrong::UnsupportedAlg(_),
        ) => signature("its algorithm is not taken"),
        ClaimsVerificationError::SignatureVerification(Wrong::NoSignature) => signature("it has none"),
        ClaimsVerificationError::SignatureVerification(_) => signature("it is not its issuer's"),
        ClaimsVerificationError::Unsupported(_) => TokenError::Malformed(
            "its header asks for something unknown here, or it is another kind of token",
        )
        .into(),
        _ => TokenError::Malformed("its claims are not those of an ID token").into(),
    }
}

/// Somebody else's text, for an error.
pub(super) fn shown(text: &str) -> String {
    text.escape_debug().take(SHOWN_CHARS_MAX).collect()
}
