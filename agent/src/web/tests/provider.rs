//! A provider that signs in whoever the test names, and is as strict as a real one: a code counts once, with its verifier.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::identity::tests::Key;

pub(super) struct Idp {
    pub(super) issuer: String,
    grants: Arc<Mutex<HashMap<String, Grant>>>,
    serving: tokio::task::JoinHandle<()>,
}

struct Grant {
    challenge: String,
    claims: Value,
}

/// The query of an address as a map.
pub(super) fn query(address: &str) -> HashMap<String, String> {
    let uri: Uri = address.parse().unwrap();
    form_urlencoded::parse(uri.query().unwrap().as_bytes()).into_owned().collect()
}

impl Idp {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let grants: Arc<Mutex<HashMap<String, Grant>>> = Arc::default();
        let (named, known, key) = (issuer.clone(), Arc::clone(&grants), Key::new("1"));
        let serving = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 16 * 1024];
                let mut length = 0;
                // The head, and a form's length after it.
                loop {
                    length += tcp.read(&mut request[length..]).await.unwrap();
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let wanted = text
                        .to_lowercase()
                        .split("content-length: ")
                        .nth(1)
                        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
                    if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= wanted) {
                        break;
                    }
                }
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let (status, body) = match request.split(' ').nth(1).unwrap() {
                    "/.well-known/openid-configuration" => ("200 OK", described(&named)),
                    "/keys" => ("200 OK", json!({"keys": [key.public()]})),
                    "/token" => match redeem(&known, request.split_once("\r\n\r\n").unwrap().1) {
                        Some(claims) => ("200 OK", json!({"id_token": key.token(&claims)})),
                        None => ("400 Bad Request", json!({"error": "invalid_grant"})),
                    },
                    other => panic!("asked for {other}"),
                };
                let body = body.to_string();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                drop(tcp.write_all((head + &body).as_bytes()).await);
            }
        });
        Self { issuer, grants, serving }
    }

    /// Signs somebody in at this address; where their browser is sent then.
    pub(super) fn grant(&self, address: &str, name: &str, groups: &[&str]) -> String {
        self.grant_claims(address, &json!({"name": name, "groups": groups}))
    }

    /// The same with claims beside the usual ones, or in their place.
    pub(super) fn grant_claims(&self, address: &str, more: &Value) -> String {
        let query = query(address);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": self.issuer, "aud": query["client_id"], "sub": format!("sub-{}", more["name"]), "iat": now,
            "exp": now + 300, "nonce": query["nonce"],
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        assert_eq!(
            (query["response_type"].as_str(), query["code_challenge_method"].as_str()),
            ("code", "S256")
        );
        let mut grants = self.grants.lock().unwrap();
        let code = format!("code-{}", grants.len());
        grants.insert(code.clone(), Grant { challenge: query["code_challenge"].clone(), claims });
        format!("/callback?code={code}&state={}", query["state"])
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn described(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/keys"), "authorization_endpoint": format!("{issuer}/auth"),
        "token_endpoint": format!("{issuer}/token"), "end_session_endpoint": format!("{issuer}/end"),
    })
}

fn redeem(grants: &Mutex<HashMap<String, Grant>>, form: &str) -> Option<Value> {
    let form: HashMap<String, String> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let mut grants = grants.lock().unwrap();
    let grant = grants.get_mut(form.get("code")?)?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form.get("code_verifier")?.as_bytes()));
    // Used up, in either case.
    let right = challenge == std::mem::take(&mut grant.challenge);
    (right && form["redirect_uri"].ends_with("/callback")).then(|| grant.claims.clone())
}
