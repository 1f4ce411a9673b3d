//! Tokens as attackers and clocks make them, against an issuer on this host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Issuers, KEYS_AGE_MAX, REFRESH_PAUSE, TOKEN_BYTES_MAX, TokenError};
use crate::policy::load;
use crate::policy::rule::IssuerRules;
use crate::run::Identity;

/// A moment at which the tests' tokens count; seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;

/// A key of an issuer's.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    id: String,
}

impl Key {
    pub(crate) fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { pair, id: id.to_owned() }
    }

    /// As the issuer publishes it (RFC 7517, RFC 7518 section 6.2.1).
    pub(crate) fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": coordinate(1..33), "y": coordinate(33..65),
        })
    }

    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = signed_part(header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": self.id}), claims)
    }
}

fn signed_part(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// An issuer that describes itself and its keys, and counts who asks for them.
pub(super) struct Provider {
    pub(super) issuer: String,
    keys: Arc<std::sync::Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Provider {
    pub(super) async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(std::sync::Mutex::new(keys.iter().map(|key| key.public()).collect::<Vec<_>>()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (named, published, count) = (issuer.clone(), Arc::clone(&keys), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = tcp.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let body = match request.split(' ').nth(1) {
                    Some("/.well-known/openid-configuration") => {
                        json!({"issuer": named, "jwks_uri": format!("{named}/keys")})
                    }
                    Some("/keys") => {
                        count.fetch_add(1, Ordering::Relaxed);
                        json!({"keys": *published.lock().unwrap()})
                    }
                    other => panic!("asked for {other:?}"),
                };
                let body = body.to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                drop(tcp.write_all((head + &body).as_bytes()).await);
            }
        });
        Self { issuer, keys, asked, serving }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// `[identity]` of a policy with these keys beside issuer and audience.
pub(super) fn rules(issuer: &str, more: &str) -> Vec<IssuerRules> {
    let text = format!(
        "version = 1\nname = \"t\"\n[identity]\nissuer = \"{issuer}\"\naudience = \"portcullis\"\n{more}\n"
    );
    load(&text).unwrap_or_else(|error| panic!("{error:?}")).policy.identity
}

fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": "job-7", "aud": "portcullis", "iat": NOW - 10, "exp": NOW + 300,
        "repository": "acme/orders",
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

async fn verify(issuers: &Issuers, rules: &[IssuerRules], token: &str) -> Result<Identity, TokenError> {
    issuers.verify(rules, token, Duration::from_secs(NOW)).await
}

fn issuers() -> Issuers {
    Issuers::new(Arc::default())
}

#[tokio::test]
async fn a_good_token_names_its_subject() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    let rules = rules(&provider.issuer, "name_claim = \"repository\"\nclaims = { repository = \"acme/*\" }");
    let identity = verify(&issuers(), &rules, &key.token(&claims(&provider.issuer))).await.unwrap();
    assert_eq!((identity.subject.as_str(), identity.name.as_deref()), ("job-7", Some("acme/orders")));
    assert_eq!(identity.expires_ms, (NOW + 300 + 30) * 1000, "with the leeway");
    assert_eq!(identity.claims["repository"], "acme/orders");
}

#[tokio::test]
async fn tokens_that_do_not_count() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    let issuer = provider.issuer.as_str();
    let rules = rules(issuer, "trusted_audiences = [\"vault\"]\nclaims = { repository = \"acme/*\" }");
    let issuers = issuers();
    let good = || claims(issuer);
    let change = |name: &str, value: Value| key.token(&with(good(), name, value));
    let stranger = Key::new("1");
    let header = |alg: &str| json!({"alg": alg, "typ": "JWT", "kid": "1"});
    let signed = |header: &Value, signature: &[u8]| {
        format!("{}.{}", signed_part(header, &good()), URL_SAFE_NO_PAD.encode(signature))
    };
    // The classic: the public key taken for a shared secret.
    let public_key = key.public().to_string();
    let mac = |secret: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(signed_part(&header("HS256"), &good()).as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let cut = |token: String| token.rsplit_once('.').map(|(rest, _)| format!("{rest}.")).unwrap();
    let tampered = {
        let token = key.token(&good());
        let signature = token.rsplit_once('.').unwrap().1;
        format!("{}.{signature}", signed_part(&header("ES256"), &with(good(), "sub", json!("root"))))
    };
    for (what, token, expected) in [
        ("issuer", change("iss", json!("https://other.example")), "the policy takes tokens of"),
        ("issuer with a slash", change("iss", json!(format!("{issuer}/"))), "the policy takes tokens of"),
        ("no issuer", change("iss", Value::Null), "names no issuer"),
        ("audience", change("aud", json!("other")), "not for this gate"),
        ("no audience", change("aud", json!([])), "not for this gate"),
        ("audience besides", change("aud", json!(["portcullis", "everyone"])), "not for this gate"),
        ("party", change("azp", json!("another-client")), "issued to the client another-client"),
        ("expired", change("exp", json!(NOW - 31)), "expired 1 s ago"),
        ("for ever", change("exp", Value::Null), "no ID token"),
        ("not yet", change("nbf", json!(NOW + 31)), "counts from 1 s from now"),
        ("issued tomorrow", change("iat", json!(NOW + 86_400)), "is this host's clock right"),
        ("claim", change("repository", json!("evil/orders")), "only tokens with repository = acme/*"),
        ("no subject", change("sub", json!("")), "its subject"),
        ("subject with a line break", change("sub", json!("a\nb")), "its subject"),
        ("none", signed(&header("none"), b""), "signature does not count"),
        ("none, signed", signed(&header("none"), b"x"), "signature does not count"),
        ("no signature", cut(key.token(&good())), "signature does not count"),
        (
            "HS256 with the public key",
            signed(&header("HS256"), &mac(public_key.as_bytes())),
            "algorithm is not taken",
        ),
        ("another's key", stranger.token(&good()), "it is not its issuer's"),
        ("other claims", tampered, "it is not its issuer's"),
        ("RS256 over a curve", signed(&header("RS256"), &[7; 256]), "signature does not count"),
        ("algorithm not taken", key.sign(&header("ES384"), &good()), "algorithm is not taken"),
        (
            "nested",
            key.sign(&json!({"alg": "ES256", "kid": "1", "cty": "JWT"}), &good()),
            "something unknown",
        ),
        (
            "critical",
            key.sign(&json!({"alg": "ES256", "kid": "1", "crit": ["x"], "x": 1}), &good()),
            "something unknown",
        ),
        (
            "access token",
            key.sign(&json!({"alg": "ES256", "kid": "1", "typ": "at+jwt"}), &good()),
            "another kind",
        ),
        (
            "key in the header",
            key.sign(&json!({"alg": "ES256", "jwk": stranger.public(), "kid": "evil"}), &good()),
            "no such key",
        ),
        ("empty", String::new(), "no ID token"),
        ("words", "let me in".to_owned(), "no ID token"),
        ("the same signature in another text", other_text(&key.token(&good())), "no ID token"),
        (
            "a logout",
            change("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}})),
            "tells of an event",
        ),
        ("four parts", format!("{}.x", key.token(&good())), "no ID token"),
        ("oversized", "a".repeat(TOKEN_BYTES_MAX + 1), "longer than 16384 bytes"),
        (
            "deep",
            key.token(&with(
                good(),
                "x",
                serde_json::from_str(&("[".repeat(100) + &"]".repeat(100))).unwrap(),
            )),
            "",
        ),
    ] {
        match verify(&issuers, &rules, &token).await {
            Ok(_) => assert_eq!(expected, "", "{what} was taken"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{what}: {error}");
                let signature = token.rsplit('.').next().unwrap_or_default();
                assert!(signature.len() < 8 || !error.contains(signature), "{what}: {error}");
            }
        }
    }
    assert!(verify(&issuers, &rules, &change("aud", json!(["vault", "portcullis"]))).await.is_ok());
    assert!(verify(&issuers, &rules, &change("azp", json!("portcullis"))).await.is_ok());
    assert!(verify(&issuers, &rules, &change("exp", json!(NOW - 29))).await.is_ok(), "within the leeway");
    assert_eq!(provider.asked(), 1);
}

/// The token with bits set that its last character does not need: 64 bytes leave four of them.
fn other_text(token: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = token.split_at(token.len() - 1);
    let value = DIGITS.iter().position(|digit| *digit == last.as_bytes()[0]).unwrap();
    format!("{rest}{}", char::from(DIGITS[value | 1]))
}

#[tokio::test]
async fn parties_are_named_by_the_policy() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    let rules = rules(&provider.issuer, "authorized_parties = [\"ci\"]");
    let issuers = issuers();
    let of = |party: &str| key.token(&with(claims(&provider.issuer), "azp", json!(party)));
    assert!(verify(&issuers, &rules, &of("ci")).await.is_ok());
    assert!(verify(&issuers, &rules, &of("portcullis")).await.is_err());
    assert!(verify(&issuers, &rules, &key.token(&claims(&provider.issuer))).await.is_ok(), "it names none");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_asks_the_issuer_once_a_minute() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    let rules = rules(&provider.issuer, "");
    let issuers = issuers();
    let good = key.token(&claims(&provider.issuer));
    verify(&issuers, &rules, &good).await.unwrap();
    let flood = async |name: &str| {
        for number in 0..200 {
            let unknown = Key::new(&format!("{name} {number}")).token(&claims(&provider.issuer));
            let error = verify(&issuers, &rules, &unknown).await.unwrap_err();
            assert!(matches!(error, TokenError::Signature(_)), "{error}");
        }
    };
    flood("a").await;
    assert_eq!(provider.asked(), 1, "the keys were fetched a moment ago");
    tokio::time::advance(REFRESH_PAUSE).await;
    flood("b").await;
    assert_eq!(provider.asked(), 2);
    verify(&issuers, &rules, &good).await.unwrap();
    assert_eq!(provider.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_is_found_and_a_withdrawn_one_forgotten() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let provider = Provider::start(&[&old]).await;
    let rules = rules(&provider.issuer, "");
    let issuers = issuers();
    let [by_old, by_new] = [&old, &new].map(|key| key.token(&claims(&provider.issuer)));
    verify(&issuers, &rules, &by_old).await.unwrap();
    *provider.keys.lock().unwrap() = vec![new.public()];
    verify(&issuers, &rules, &by_new).await.unwrap_err();
    tokio::time::advance(REFRESH_PAUSE).await;
    verify(&issuers, &rules, &by_new).await.unwrap();
    verify(&issuers, &rules, &by_old).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_refuses_new_tokens_and_is_asked_again_later() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    let issuer = provider.issuer.clone();
    let rules = rules(&issuer, "");
    let issuers = issuers();
    let good = key.token(&claims(&issuer));
    verify(&issuers, &rules, &good).await.unwrap();
    provider.serving.abort();
    drop(provider);
    tokio::task::yield_now().await;
    verify(&issuers, &rules, &good).await.expect("its keys are known");
    tokio::time::advance(KEYS_AGE_MAX).await;
    for _ in 0..3 {
        let error = verify(&issuers, &rules, &good).await.unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
        assert_eq!(error.side(), crate::flow::Side::Upstream);
    }
}

#[tokio::test]
async fn an_issuer_speaks_for_itself_alone() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    // The document is found, and says that it is another issuer's.
    let other = format!("{}/", provider.issuer);
    let error = verify(&issuers(), &rules(&other, ""), &key.token(&claims(&other))).await.unwrap_err();
    assert!(error.to_string().contains("under another name"), "{error}");
    // With the keys' address in the policy nobody needs to describe anything.
    let keys = rules("https://kubernetes.default.svc", &format!("keys_url = \"{}/keys\"", provider.issuer));
    let token = key.token(&claims("https://kubernetes.default.svc"));
    assert!(verify(&issuers(), &keys, &token).await.is_ok());
}
