//! Vault's HTTP API as documented, spoken by a stand-in: no Vault runs here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::config::credential::{Source, Sources, VaultAuth, VaultSource};
use crate::credential::{Credential, CredentialError, Credentials, SystemdFolder, Variables};

const SECRET: &str = "s3cr\"et<é";

/// One request as the stand-in saw it.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    head: String,
    body: Value,
}

type Script = Box<dyn Fn(&Asked, usize) -> (u16, String) + Send + Sync>;

/// A stand-in for Vault: answers by a script, which is told how many such requests came before.
struct StandIn {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    async fn start(script: impl Fn(&Asked, usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, script): (_, Arc<Script>) = (Arc::clone(&asked), Arc::new(Box::new(script)));
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                tokio::spawn(async move {
                    let request = read(&mut tcp).await;
                    let (status, body) = {
                        let mut seen = seen.lock().unwrap();
                        let before = seen.iter().filter(|other| other.line == request.line).count();
                        seen.push(request.clone());
                        script(&request, before)
                    };
                    let answer =
                        format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    drop(tcp.write_all(answer.as_bytes()).await);
                });
            }
        });
        Self { address, asked }
    }

    fn lines(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|asked| asked.line.clone()).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|seen| *seen == line).count()
    }

    async fn until(&self, line: &str) -> Asked {
        for _ in 0..500 {
            if let Some(found) = self.asked.lock().unwrap().iter().find(|asked| asked.line == line) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{line} was not asked: {:?}", self.lines());
    }
}

async fn read(tcp: &mut tokio::net::TcpStream) -> Asked {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
                let body = serde_json::from_str(body).unwrap_or_default();
                return Asked { line, head: head.to_owned(), body };
            }
        }
        assert_ne!(tcp.read_buf(&mut bytes).await.unwrap(), 0, "{text}");
    }
}

const ROLE: &str = "GET /v1/database/creds/readonly";
const KV: &str = "GET /v1/secret/data/orders";
const RENEW: &str = "POST /v1/sys/leases/renew";
const REVOKE: &str = "POST /v1/sys/leases/revoke";
const LOGIN: &str = "POST /v1/auth/approle/login";

fn source(stand_in: &StandIn, path: &str, auth: VaultAuth) -> Credentials {
    let vault = VaultSource {
        address: stand_in.address.clone(),
        path: path.to_owned(),
        field: "password".to_owned(),
        auth,
        root_cert: None,
        namespace: Some("team".to_owned()),
    };
    let sources = Sources::from([
        ("db".to_owned(), Source::Vault(Box::new(vault))),
        ("key".to_owned(), Source::Env { variable: "KEY".to_owned() }),
    ]);
    Credentials::with_sources(
        "/nonexistent",
        sources,
        Variables::of("KEY", "t0ken"),
        SystemdFolder::default(),
    )
}

fn token() -> VaultAuth {
    VaultAuth::Token { credential: "key".to_owned() }
}

fn approle() -> VaultAuth {
    let (mount, role_id, secret_id) = ("approle".to_owned(), "r\"1".to_owned(), "key".to_owned());
    VaultAuth::AppRole { mount, role_id, secret_id }
}

async fn db(credentials: &Credentials) -> Result<Credential, CredentialError> {
    credentials.credential("db").await
}

fn lease(seconds: u64, renewable: bool) -> String {
    json!({
        "request_id": "r", "lease_id": "database/creds/readonly/abc", "lease_duration": seconds, "renewable": renewable,
        "data": { "username": "v-readonly-1", "password": SECRET }, "warnings": null, "auth": null,
    })
    .to_string()
}

fn kv() -> String {
    // As Go writes it: `<` as an escape.
    json!({
        "lease_id": "", "lease_duration": 0, "renewable": false,
        "data": { "data": { "password": SECRET, "username": "nobody" }, "metadata": { "version": 3 } },
    })
    .to_string()
    .replace('<', "\\u003c")
}

#[tokio::test]
async fn a_static_secret_is_read() {
    let stand_in = StandIn::start(|_, _| (200, kv())).await;
    let credential = db(&source(&stand_in, "secret/data/orders", token())).await.unwrap();
    assert_eq!(credential.secret.expose(), SECRET.as_bytes());
    assert!(credential.lease().is_none() && credential.user.is_none(), "no lease, so no user of its own");
    let asked = stand_in.until(KV).await;
    for field in ["x-vault-token: t0ken", "x-vault-namespace: team", "x-vault-request: true"] {
        assert!(asked.head.contains(field), "{}", asked.head);
    }
    // Version 1 of KV has the data itself.
    let stand_in = StandIn::start(|_, _| (200, json!({ "data": { "password": "one" } }).to_string())).await;
    assert_eq!(db(&source(&stand_in, "kv/orders", token())).await.unwrap().secret.expose(), b"one");
}

#[tokio::test]
async fn refusals_say_what_to_do_and_nothing_of_the_answer() {
    for (status, body, expected) in [
        (403, r#"{"errors":["permission denied"]}"#.to_owned(), "Vault refuses to read the secret (403)"),
        (404, r#"{"errors":[]}"#.to_owned(), "correct `path` (with KV version 2 it has /data/"),
        (
            503,
            r#"{"errors":["Vault is sealed"]}"#.to_owned(),
            "Vault is sealed, in maintenance or not initialised (503): unseal it",
        ),
        (500, "s3cr".to_owned(), "Vault does not read the secret (status 500)"),
        (200, "{\"data\":{\"password\":\"s3cr".to_owned(), "not the JSON that is documented"),
        (200, "<html>s3cr</html>".to_owned(), "not the JSON that is documented"),
        (200, r#"{"data":null}"#.to_owned(), "not the JSON that is documented"),
        (200, r#"{"data":{"other":"s3cr"}}"#.to_owned(), "has no field \"password\" that is a string"),
        (200, r#"{"data":{"password":["s3cr"]}}"#.to_owned(), "has no field \"password\" that is a string"),
        (200, r#"{"data":{"password":"s3cr\u0000"}}"#.to_owned(), "holds a NUL byte"),
        (200, r#"{"data":{"password":""}}"#.to_owned(), "is empty"),
        // A deleted version of KV 2.
        (
            200,
            r#"{"data":{"data":null,"metadata":{"deletion_time":"x"}}}"#.to_owned(),
            "nothing to read the secret there",
        ),
    ] {
        let stand_in = StandIn::start(move |_, _| (status, body.clone())).await;
        let credentials = source(&stand_in, "secret/data/orders", token());
        let error = db(&credentials).await.err().unwrap().to_string();
        assert!(error.starts_with("credential \"db\" (secret/data/orders at http://127.0.0.1:"), "{error}");
        assert!(error.contains(expected) && !error.contains("s3cr") && !error.contains("t0ken"), "{error}");
    }
}

#[tokio::test]
async fn who_cannot_log_in_is_told_why() {
    let stand_in = StandIn::start(|_, _| (200, kv())).await;
    let error = db(&source(&stand_in, "a", VaultAuth::Token { credential: "none".to_owned() })).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains("cannot log in to Vault: credential \"none\" (/nonexistent/none)"), "{error}");
    let jwt = |file| VaultAuth::Jwt { mount: "k8s".to_owned(), role: "r".to_owned(), token_file: file };
    let error = db(&source(&stand_in, "a", jwt("/nonexistent/jwt".into()))).await.err().unwrap();
    assert!(error.to_string().contains("cannot log in to Vault: /nonexistent/jwt its folder"), "{error}");
    assert!(stand_in.lines().is_empty());

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwt"), "ey.J\n").unwrap();
    let stand_in = StandIn::start(|_, _| (400, String::new())).await;
    let error = db(&source(&stand_in, "a", jwt(folder.path().join("jwt")))).await.err().unwrap();
    assert!(error.to_string().contains("Vault does not log us in (status 400)"), "{error}");
    let asked = stand_in.until("POST /v1/auth/k8s/login").await;
    assert_eq!(asked.body, json!({ "role": "r", "jwt": "ey.J" }));
}

#[tokio::test]
async fn a_token_is_used_until_shortly_before_it_ends_or_is_refused() {
    let stand_in = StandIn::start(|asked, before| match asked.line.as_str() {
        LOGIN => {
            let auth = json!({ "client_token": format!("c{before}"), "lease_duration": if before == 0 { 600 } else { 1 } });
            (200, json!({ "auth": auth }).to_string())
        }
        // The third reading finds its token revoked.
        KV if before == 2 => (403, String::new()),
        _ => (200, kv()),
    })
    .await;
    let credentials = source(&stand_in, "secret/data/orders", approle());
    for _ in 0..3 {
        db(&credentials).await.unwrap();
    }
    assert_eq!(stand_in.lines(), [LOGIN, KV, KV, KV, LOGIN, KV]);
    let (login, last) =
        (stand_in.until(LOGIN).await, stand_in.asked.lock().unwrap().last().cloned().unwrap());
    assert_eq!(login.body, json!({ "role_id": "r\"1", "secret_id": "t0ken" }));
    assert!(!login.head.contains("x-vault-token") && last.head.contains("x-vault-token: c1"));
    tokio::time::sleep(Duration::from_millis(950)).await;
    db(&credentials).await.unwrap();
    assert_eq!(stand_in.count(LOGIN), 3, "{:?}", stand_in.lines());
}

#[tokio::test]
async fn a_lease_is_renewed_while_it_is_held_and_then_revoked() {
    let stand_in = StandIn::start(|asked, _| match asked.line.as_str() {
        ROLE | RENEW => (200, lease(2, true)),
        _ => (204, String::new()),
    })
    .await;
    let credentials = source(&stand_in, "database/creds/readonly", token());
    let credential = db(&credentials).await.unwrap();
    assert_eq!(credential.user.as_deref(), Some("v-readonly-1"));
    assert!(credential.is_good_after(Duration::from_hours(1)));
    let asked = stand_in.until(RENEW).await;
    assert_eq!(asked.body["lease_id"], "database/creds/readonly/abc");
    assert!(!credentials.settle(Duration::from_millis(100)).await, "it is still out");
    let copy = credential.clone();
    drop(credential);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stand_in.count(REVOKE), 0, "a copy holds it");
    drop(copy);
    assert!(credentials.settle(Duration::from_secs(5)).await);
    let asked = stand_in.until(REVOKE).await;
    assert_eq!((&asked.body["lease_id"], stand_in.count(REVOKE)), (&json!("database/creds/readonly/abc"), 1));
    // As a certificate or token it would be given back at once, so it is not taken.
    let error = credentials.named("db").await.err().unwrap().to_string();
    assert!(error.contains("is a dynamic secret"), "{error}");
    assert!(credentials.settle(Duration::from_secs(5)).await);
    assert_eq!(stand_in.count(REVOKE), 2);
}

#[tokio::test]
async fn renewing_stops_where_the_lease_becomes_no_longer() {
    // Granted for two seconds and never beyond them.
    let begun = std::time::Instant::now();
    let stand_in = StandIn::start(move |asked, _| match asked.line.as_str() {
        ROLE => (200, lease(2, true)),
        RENEW => (200, lease(2_u64.saturating_sub(begun.elapsed().as_secs()), true)),
        _ => (204, String::new()),
    })
    .await;
    let credentials = source(&stand_in, "database/creds/readonly", token());
    let credential = db(&credentials).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(stand_in.count(RENEW), 1, "{:?}", stand_in.lines());
    assert!(!credential.is_good_after(Duration::ZERO), "it has run out");
    assert_eq!(stand_in.count(REVOKE), 0, "the session goes on");
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_tried_again_and_given_back_in_the_end() {
    let stand_in = StandIn::start(|asked, before| match asked.line.as_str() {
        ROLE => (200, lease(4, true)),
        RENEW => (500, String::new()),
        REVOKE if before == 0 => (503, String::new()),
        _ => (204, String::new()),
    })
    .await;
    let credentials = source(&stand_in, "database/creds/readonly", token());
    let credential = db(&credentials).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3300)).await;
    assert!(stand_in.count(RENEW) >= 2, "{:?}", stand_in.lines());
    drop(credential);
    assert!(credentials.settle(Duration::from_secs(5)).await);
    assert_eq!(stand_in.count(REVOKE), 2, "{:?}", stand_in.lines());
}

#[tokio::test]
async fn a_lease_nobody_can_use_is_given_back() {
    let stand_in = StandIn::start(|asked, _| match asked.line.as_str() {
        ROLE => (200, lease(600, true).replace("password", "other")),
        _ => (204, String::new()),
    })
    .await;
    let credentials = source(&stand_in, "database/creds/readonly", token());
    assert!(db(&credentials).await.is_err());
    stand_in.until(REVOKE).await;
    // A session that goes away while it is fetched.
    let gone = tokio::time::timeout(Duration::ZERO, db(&credentials)).await;
    assert!(gone.is_err() || gone.is_ok_and(|read| read.is_err()));
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if stand_in.count(REVOKE) == 2 {
            return;
        }
    }
    panic!("{:?}", stand_in.lines());
}

#[tokio::test]
async fn the_token_of_a_lease_is_renewed_with_it() {
    const SELF: &str = "POST /v1/auth/token/renew-self";
    let auth = || json!({ "auth": { "client_token": "c", "lease_duration": 2 } }).to_string();
    let stand_in = StandIn::start(move |asked, _| match asked.line.as_str() {
        LOGIN | SELF => (200, auth()),
        ROLE | RENEW => (200, lease(600, true)),
        _ => (204, String::new()),
    })
    .await;
    let credentials = source(&stand_in, "database/creds/readonly", approle());
    let credential = db(&credentials).await.unwrap();
    stand_in.until(SELF).await;
    drop(credential);
    assert!(credentials.settle(Duration::from_secs(5)).await);
}
