//! The OpenID provider, as its client: where people are sent, and what their code is worth (OpenID Connect Core 1.0 section
//! 3.1, with PKCE, RFC 7636).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode, Uri};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::sign_in::ProviderClient;
use crate::credential::{CredentialError, Credentials};
use crate::fetch::{Fetch, FetchError};
use crate::identity::{Issuers, TokenError};
use crate::policy::rule::{Algorithm, ClaimPath, ClaimsWhen, IssuerRules, LEEWAY_DEFAULT, OnExpiry};
use crate::run::Identity;
use crate::tls::upstream_side::ServerTrust;

/// How long the provider's description of itself is used without asking again.
const DESCRIBED_AGE_MAX: Duration = Duration::from_mins(10);

/// Why nobody is signed in. The text is for the log: it holds no token and no code.
#[derive(Debug, Error)]
pub(crate) enum ProviderError {
    #[error("the provider cannot be asked: {0}")]
    Fetch(#[from] FetchError),
    #[error("the provider's {0}")]
    Answer(&'static str),
    #[error("the provider refuses the code ({status}, {error})")]
    Refused { status: StatusCode, error: String },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the ID token is not for this sign-in: its nonce is another")]
    Nonce,
    #[error("the provider signs nobody in by another device (RFC 8628)")]
    NoDevices,
    #[error("the provider did not ask who it is lately enough (auth_time), which step_up needs")]
    Stale,
    #[error(transparent)]
    Secret(#[from] CredentialError),
}

/// What one sign-in has that nobody can guess.
pub(crate) struct Secrets {
    /// Comes back beside the code (RFC 6749 section 10.12).
    pub(crate) state: Zeroizing<String>,
    /// Comes back in the ID token.
    pub(crate) nonce: Zeroizing<String>,
    /// Proves that who redeems the code is who asked for it (RFC 7636).
    pub(crate) verifier: Zeroizing<String>,
}

impl Secrets {
    /// New ones: 256 bits each, from the kernel.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
        let text = || {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(bytes.as_mut_slice())?;
            Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice())))
        };
        Ok(Self { state: text()?, nonce: text()?, verifier: text()? })
    }
}

/// What is asked of the provider beyond who somebody is.
pub(crate) struct Ask<'a> {
    /// Where the browser is sent back.
    pub(crate) redirect_uri: &'a str,
    /// They have to have proved it within this time.
    pub(crate) max_age: Option<Duration>,
    /// By one of these means; any, when it is empty.
    pub(crate) acr: &'a [String],
}

impl Ask<'_> {
    /// As parameters of a request (Core 1.0 section 3.1.2.1).
    pub(super) fn needs(&self) -> Vec<(&'static str, String)> {
        let mut needs = Vec::new();
        needs.extend(self.max_age.map(|max_age| ("max_age", max_age.as_secs().to_string())));
        // Without `prompt` a provider may answer from a session that began by other means.
        if !self.acr.is_empty() {
            needs.extend([("acr_values", self.acr.join(" ")), ("prompt", "login".to_owned())]);
        }
        needs
    }
}

/// What the provider says of itself (OpenID Connect Discovery 1.0 section 3, RP-Initiated Logout 1.0 section 2.1).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Described {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    #[serde(default)]
    end_session_endpoint: Option<String>,
    /// RFC 8628 section 4.
    #[serde(default)]
    pub(super) device_authorization_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// A token endpoint's answer (OpenID Connect Core 1.0 section 3.1.3.3). Wiped when dropped.
#[derive(Deserialize)]
struct Tokens {
    id_token: Zeroizing<String>,
}

/// Its refusal (RFC 6749 section 5.2).
#[derive(Default, Deserialize)]
struct Failure {
    #[serde(default)]
    error: String,
}

/// The provider.
pub(crate) struct Provider {
    pub(super) client: ProviderClient,
    credentials: Credentials,
    issuers: Arc<Issuers>,
    rules: [IssuerRules; 1],
    fetch: Fetch,
    described: Mutex<Option<(Arc<Described>, Instant)>>,
}

/// By which ID tokens of people count: this provider's, for this client.
pub(crate) fn rules(client: &ProviderClient) -> IssuerRules {
    IssuerRules {
        issuer: client.issuer.clone(),
        audience: client.client_id.clone(),
        trusted_audiences: Vec::new(),
        authorized_parties: Vec::new(),
        groups_claim: client.groups_claim.clone().map(ClaimPath::new),
        name_claim: client.name_claim.clone().map(ClaimPath::new),
        claims: ClaimsWhen::default(),
        algorithms: Algorithm::DEFAULT.to_vec(),
        leeway: LEEWAY_DEFAULT,
        keys_url: None,
        root_cert: client.root_cert.clone(),
        on_expiry: OnExpiry::Finish,
        in_band: false,
    }
}

impl Provider {
    pub(crate) fn new(client: ProviderClient, credentials: Credentials, issuers: Arc<Issuers>) -> Self {
        let fetch = Fetch::new(Arc::new(ServerTrust::default()), client.root_cert.clone());
        let rules = [rules(&client)];
        Self { client, credentials, issuers, rules, fetch, described: Mutex::default() }
    }

    /// Where the browser goes to sign in.
    pub(crate) async fn authorization(
        &self,
        secrets: &Secrets,
        ask: &Ask<'_>,
    ) -> Result<String, ProviderError> {
        let described = self.described().await?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(secrets.verifier.as_bytes()));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client.client_id)
            .append_pair("redirect_uri", ask.redirect_uri)
            .append_pair("scope", &self.client.scopes.join(" "))
            .append_pair("state", &secrets.state)
            .append_pair("nonce", &secrets.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        query.extend_pairs(ask.needs());
        Ok(with_query(&described.authorization_endpoint, &query.finish()))
    }

    /// Where the browser goes to sign out there, too, if there is such a place.
    pub(crate) async fn end_of_session(&self) -> Option<String> {
        let described = self.described().await.ok()?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("client_id", &self.client.client_id);
        Some(with_query(described.end_session_endpoint.as_ref()?, &query.finish()))
    }

    /// Whether an answer came from this provider (RFC 9207 section 2.4: against mix-ups).
    pub(crate) async fn is_issuer(&self, iss: Option<&str>) -> Result<bool, ProviderError> {
        Ok(match iss {
            Some(iss) => iss == self.client.issuer,
            None => !self.described().await?.authorization_response_iss_parameter_supported,
        })
    }

    /// Redeems a code and verifies whom its ID token speaks of. `redirect_uri` is where it was brought.
    pub(crate) async fn redeem(
        &self,
        code: &str,
        redirect_uri: &str,
        secrets: &Secrets,
    ) -> Result<Identity, ProviderError> {
        // Core 1.0 section 3.1.3.1.
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", &secrets.verifier),
        ];
        let token = self.id_token(&fields).await?;
        let identity = self.verify(&token).await?;
        // Core 1.0 section 3.1.3.7 step 11: another sign-in's token, or an old one, is none for this browser.
        let nonce = identity.claims.get("nonce").and_then(serde_json::Value::as_str).unwrap_or_default();
        match nonce.as_bytes().ct_eq(secrets.nonce.as_bytes()).into() {
            true => Ok(identity),
            false => Err(ProviderError::Nonce),
        }
    }

    /// How long ago the provider asked who it is. It must say so when it was given a `max_age`, and keep to it (Core 1.0
    /// section 3.1.3.7 step 13).
    pub(crate) fn age(identity: &Identity, max_age: Option<Duration>) -> Result<Duration, ProviderError> {
        let Some(max_age) = max_age else { return Ok(Duration::ZERO) };
        let at = identity.claims.get("auth_time").and_then(serde_json::Value::as_u64);
        let at = at.map(Duration::from_secs).ok_or(ProviderError::Stale)?;
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(at);
        if age > max_age.saturating_add(LEEWAY_DEFAULT) { Err(ProviderError::Stale) } else { Ok(age) }
    }

    /// Verifies whom an ID token speaks of.
    pub(super) async fn verify(&self, token: &str) -> Result<Identity, ProviderError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Ok(self.issuers.verify(&self.rules, token, now).await?)
    }

    /// What the token endpoint gives for this grant.
    pub(super) async fn id_token(&self, grant: &[(&str, &str)]) -> Result<Zeroizing<String>, ProviderError> {
        let described = self.described().await?;
        let body = self.post(&described, &described.token_endpoint, grant).await?;
        let tokens: Tokens = serde_json::from_slice(&body)
            .map_err(|_| ProviderError::Answer("token endpoint does not answer with an ID token"))?;
        Ok(tokens.id_token)
    }

    /// Sends a form to one of the provider's endpoints as its client (Core 1.0 section 9); the answer's body.
    pub(super) async fn post(
        &self,
        described: &Described,
        endpoint: &str,
        fields: &[(&str, &str)],
    ) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let secret = self.secret().await?;
        let request = self.form(described, endpoint, fields, secret.as_ref().map(|secret| secret.as_str()));
        let request = request.map_err(|_| ProviderError::Answer("endpoint is no URL"))?;
        let (head, body) = self.fetch.send(request).await?.into_parts();
        let body = Zeroizing::new(body);
        if head.status == StatusCode::OK {
            return Ok(body);
        }
        let failure: Failure = serde_json::from_slice(&body).unwrap_or_default();
        let error = failure.error.chars().filter(char::is_ascii_graphic).take(64).collect();
        Err(ProviderError::Refused { status: head.status, error })
    }

    fn form(
        &self,
        described: &Described,
        endpoint: &str,
        fields: &[(&str, &str)],
        secret: Option<&str>,
    ) -> http::Result<Request<Vec<u8>>> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let mut request = Request::post(endpoint)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        let client_id = &self.client.client_id;
        match secret {
            None => {
                form.append_pair("client_id", client_id);
            }
            Some(secret) if described.takes_basic() => {
                request = request.header(AUTHORIZATION, basic(client_id, secret));
            }
            Some(secret) => {
                form.append_pair("client_id", client_id).append_pair("client_secret", secret);
            }
        }
        request.body(form.finish().into_bytes())
    }

    async fn secret(&self) -> Result<Option<Zeroizing<String>>, ProviderError> {
        let Some(name) = &self.client.client_secret else { return Ok(None) };
        let secret = self.credentials.named(name).await?;
        let text = std::str::from_utf8(secret.expose())
            .map_err(|_| ProviderError::Answer("client secret is no text"))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    pub(super) async fn described(&self) -> Result<Arc<Described>, ProviderError> {
        let mut known = self.described.lock().await;
        if let Some((described, at)) = known.as_ref()
            && at.elapsed() < DESCRIBED_AGE_MAX
        {
            return Ok(Arc::clone(described));
        }
        let issuer = self.client.issuer.trim_end_matches('/');
        let request = Request::get(format!("{issuer}/.well-known/openid-configuration"))
            .header(ACCEPT, "application/json")
            .body(Vec::new())
            .map_err(|_| ProviderError::Answer("issuer is no URL"))?;
        let answer = self.fetch.send(request).await?;
        let described: Described = (answer.status() == StatusCode::OK)
            .then(|| serde_json::from_slice(answer.body()).ok())
            .flatten()
            .ok_or(ProviderError::Answer("description of itself cannot be had or read"))?;
        // Discovery 1.0 section 4.3: otherwise anyone who may place a document there could speak for the issuer.
        if described.issuer != self.client.issuer {
            return Err(ProviderError::Answer("description is of another issuer"));
        }
        if !described.endpoints().all(|endpoint| is_web_address(endpoint)) {
            return Err(ProviderError::Answer("description has an endpoint that is no web address"));
        }
        let described = Arc::new(described);
        *known = Some((Arc::clone(&described), Instant::now()));
        Ok(described)
    }
}

impl Described {
    fn endpoints(&self) -> impl Iterator<Item = &String> {
        let optional = self.end_session_endpoint.iter().chain(&self.device_authorization_endpoint);
        [&self.authorization_endpoint, &self.token_endpoint].into_iter().chain(optional)
    }

    /// `client_secret_basic` is what a provider takes that does not say (Discovery 1.0 section 3).
    fn takes_basic(&self) -> bool {
        let methods = self.token_endpoint_auth_methods_supported.as_ref();
        methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"))
    }
}

/// Links go there, so it must be nothing that a browser would run.
fn is_web_address(text: &str) -> bool {
    let uri: Option<Uri> = text.parse().ok();
    uri.is_some_and(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("https" | "http")))
}

/// RFC 6749 section 3.1: an endpoint may have a query already, and it stays.
fn with_query(endpoint: &str, query: &str) -> String {
    format!("{endpoint}{}{query}", if endpoint.contains('?') { '&' } else { '?' })
}

/// RFC 6749 section 2.3.1: both are form-encoded first.
fn basic(client_id: &str, secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = Zeroizing::new(format!("{}:{}", encoded(client_id), *Zeroizing::new(encoded(secret))));
    format!("Basic {}", STANDARD.encode(both.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_secrets_are_encoded() {
        assert_eq!(with_query("https://a/b", "c=d"), "https://a/b?c=d");
        assert_eq!(with_query("https://a/b?x=y", "c=d"), "https://a/b?x=y&c=d");
        assert_eq!(basic("a b", "c:d"), format!("Basic {}", STANDARD.encode("a+b:c%3Ad")));
        for (address, expected) in [
            ("https://a/b", true),
            ("http://127.0.0.1:1/", true),
            ("javascript:alert(1)", false),
            ("/x", false),
        ] {
            assert_eq!(is_web_address(address), expected, "{address}");
        }
    }
}
