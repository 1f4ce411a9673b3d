//! The key sets of issuers: fetched when a token needs them, kept for a while, and never fetched faster because tokens
//! name keys that nobody has.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use http::{Request, StatusCode, header};
use openidconnect::JsonWebKeySet;
use openidconnect::core::CoreJsonWebKeySet;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::TokenError;
use crate::fetch::Fetch;
use crate::policy::rule::IssuerRules;
use crate::tls::upstream_side::ServerTrust;

/// How long a key set is used without asking again: a key that its issuer has withdrawn counts no longer than this.
pub const KEYS_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a token with an unknown key waits for the set to be fetched anew. Anyone can name keys that do not exist.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(60);
/// How long an issuer is left alone after it could not be asked.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// Issuers remembered. Policies name few.
const ISSUERS_MAX: usize = 256;
/// Keys of one issuer at most.
const KEYS_MAX: usize = 100;

/// The issuers that policies name, with their keys.
#[derive(Debug)]
pub struct Issuers {
    trust: Arc<ServerTrust>,
    known: StdMutex<HashMap<Source, Arc<Mutex<Known>>>>,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Source {
    issuer: String,
    keys_url: Option<String>,
    root_cert: Option<PathBuf>,
}

/// What is known of one issuer.
#[derive(Debug, Default)]
struct Known {
    keys: Option<(Arc<CoreJsonWebKeySet>, Instant)>,
    /// When it was last asked.
    asked: Option<Instant>,
    /// What then went wrong.
    failed: Option<String>,
}

/// What an issuer says of itself (OpenID Connect Discovery 1.0 section 3). Issuers for machines leave out much of it, so
/// that only what is needed is asked for.
#[derive(Deserialize)]
struct Described {
    issuer: String,
    jwks_uri: String,
}

impl Issuers {
    /// None known yet. `trust` verifies their servers.
    #[must_use]
    pub fn new(trust: Arc<ServerTrust>) -> Self {
        Self { trust, known: StdMutex::default() }
    }

    /// The issuer's keys, at most [`KEYS_AGE_MAX`] old.
    pub(super) async fn keys(&self, rules: &IssuerRules) -> Result<Arc<CoreJsonWebKeySet>, TokenError> {
        let known = self.known(rules);
        let mut known = known.lock().await;
        if let Some((keys, fetched)) = &known.keys
            && fetched.elapsed() < KEYS_AGE_MAX
        {
            return Ok(Arc::clone(keys));
        }
        if let (Some(why), Some(asked)) = (&known.failed, known.asked)
            && asked.elapsed() < FAILURE_PAUSE
        {
            return Err(TokenError::keys(&rules.issuer, why));
        }
        self.refresh(&mut known, rules).await
    }

    /// The issuer's keys once more, unless they were fetched a moment ago. `seen` are those that were tried.
    pub(super) async fn newer_keys(
        &self,
        rules: &IssuerRules,
        seen: &Arc<CoreJsonWebKeySet>,
    ) -> Result<Option<Arc<CoreJsonWebKeySet>>, TokenError> {
        let known = self.known(rules);
        let mut known = known.lock().await;
        if let Some((keys, _)) = &known.keys
            && !Arc::ptr_eq(keys, seen)
        {
            return Ok(Some(Arc::clone(keys)));
        }
        if known.asked.is_some_and(|asked| asked.elapsed() < REFRESH_PAUSE) {
            return Ok(None);
        }
        self.refresh(&mut known, rules).await.map(Some)
    }

    async fn refresh(
        &self,
        known: &mut Known,
        rules: &IssuerRules,
    ) -> Result<Arc<CoreJsonWebKeySet>, TokenError> {
        known.asked = Some(Instant::now());
        match self.fetch(rules).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                known.keys = Some((Arc::clone(&keys), Instant::now()));
                known.failed = None;
                tracing::info!(issuer = rules.issuer, keys = keys.keys().len(), "fetched an issuer's keys");
                Ok(keys)
            }
            Err(error) => {
                tracing::warn!(issuer = rules.issuer, %error, "cannot fetch an issuer's keys");
                let why =
                    if let TokenError::Keys { why, .. } = &error { why.clone() } else { error.to_string() };
                known.failed = Some(why);
                Err(error)
            }
        }
    }

    async fn fetch(&self, rules: &IssuerRules) -> Result<CoreJsonWebKeySet, TokenError> {
        let fetch = Fetch::new(Arc::clone(&self.trust), rules.root_cert.clone());
        let issuer = rules.issuer.as_str();
        let keys_url = match &rules.keys_url {
            Some(url) => url.clone(),
            None => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                let described: Described = get(&fetch, issuer, &url).await?;
                // Section 4.3: otherwise anyone who may place a document there could speak for the issuer.
                if described.issuer != issuer {
                    return Err(TokenError::keys(issuer, "it describes itself under another name"));
                }
                described.jwks_uri
            }
        };
        let keys: CoreJsonWebKeySet = get(&fetch, issuer, &keys_url).await?;
        match keys.keys().len() {
            0 => Err(TokenError::keys(issuer, "there is no key in its set that is of use here")),
            count if count > KEYS_MAX => {
                Err(TokenError::keys(issuer, "there are more than 100 keys in its set"))
            }
            _ => Ok(JsonWebKeySet::new(keys.keys().clone())),
        }
    }

    fn known(&self, rules: &IssuerRules) -> Arc<Mutex<Known>> {
        let source = Source {
            issuer: rules.issuer.clone(),
            keys_url: rules.keys_url.clone(),
            root_cert: rules.root_cert.clone(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ISSUERS_MAX && !known.contains_key(&source) {
            known.clear();
        }
        Arc::clone(known.entry(source).or_default())
    }
}

async fn get<T: for<'de> Deserialize<'de>>(fetch: &Fetch, issuer: &str, url: &str) -> Result<T, TokenError> {
    let request = Request::get(url)
        .header(header::ACCEPT, "application/json")
        .body(Vec::new())
        .map_err(|_| TokenError::keys(issuer, "the address of its keys is no URL"))?;
    let answer = fetch.send(request).await.map_err(|error| TokenError::fetch(issuer, &error))?;
    if answer.status() != StatusCode::OK {
        return Err(TokenError::keys(issuer, format!("{url} answers {}", answer.status())));
    }
    serde_json::from_slice(answer.body())
        .map_err(|_| TokenError::keys(issuer, format!("{url} does not answer with the JSON that it should")))
}
