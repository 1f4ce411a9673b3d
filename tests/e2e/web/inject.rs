//! Credentials that the daemon adds: the server sees them, the agent and the record never do. And what the agent may not
//! send out.

use harness::daemon::Daemon;
use harness::vault::{self, VaultStandIn};
use harness::web::policy::{ALLOW, http_policy, with_upstream};
use harness::web::{Port, TOKEN, header, headers};
use serde_json::Value;

use super::disk::assert_kept_nowhere;
use super::{answer, daemon, daemon_of, marker, python, reached, server};

fn injecting(upstream: &str) -> Daemon {
    let upstream = format!(", credential = \"shop-token\", {upstream}");
    daemon_of(&[with_upstream(server(), Port::Https, &upstream)], ALLOW)
}

/// Sends the agent's own idea of a credential and returns what the server got.
#[track_caller]
fn sent(daemon: &Daemon, arguments: &[&str], query: &str) -> Value {
    let mark = marker("inject");
    let url = format!("https://api.shop.test:PORT/upload?{mark}{query}");
    let mut words = arguments.to_vec();
    words.push(&url);
    let seen = answer(daemon, &words);
    assert_eq!(seen.status, 200, "{seen:?}\n{}", daemon.log());
    assert!(!format!("{seen:?}").contains(TOKEN), "the agent has it: {seen:?}");
    assert!(!daemon.log().contains(TOKEN), "the log has it");
    assert_kept_nowhere(daemon, &[TOKEN]);
    let requests = server().requests(&mark).unwrap();
    assert_eq!(requests.len(), 1);
    requests[0].clone()
}

#[test]
fn a_bearer_token_replaces_what_the_agent_sent() {
    let daemon = injecting("inject = \"bearer\"");
    for version in ["--http1.1", "--http2"] {
        for own in [&["--header", "Authorization: Bearer stale"][..], &["--user", "agent:stale"], &[]] {
            let request = sent(&daemon, &[&[version], own].concat(), "");
            let values: Vec<&str> = headers(&request, "authorization").collect();
            assert_eq!(values, [format!("Bearer {TOKEN}")], "{version} {own:?}");
        }
    }
}

#[test]
fn basic_credentials_have_the_profiles_user() {
    let daemon = injecting("user = \"shop\", inject = \"basic\"");
    let request = sent(&daemon, &["--user", "agent:stale"], "");
    let values: Vec<&str> = headers(&request, "authorization").collect();
    let decoded =
        python(&daemon, &format!("say(base64.b64decode({:?}).decode())", values[0].replace("Basic ", "")));
    assert_eq!(values.len(), 1);
    assert_eq!(decoded, format!("shop:{TOKEN}"));
}

#[test]
fn a_leased_user_goes_before_the_profiles_and_is_given_back() {
    let mut vault = VaultStandIn::start("leased", TOKEN, 60).unwrap();
    let upstream = ", credential = \"leased-token\", user = \"shop\", inject = \"basic\"";
    let policy = http_policy(&[with_upstream(server(), Port::Https, upstream)], ALLOW);
    let mut daemon = Daemon::prepare(&[("shop", &policy)]).unwrap();
    daemon.credential("vault-token", vault::TOKEN).unwrap();
    daemon.configure(&vault.table("leased-token", "database/creds/readonly")).unwrap();
    daemon.launch().unwrap();
    let request = sent(&daemon, &["--user", "agent:stale"], "");
    let values: Vec<&str> = headers(&request, "authorization").collect();
    let decoded =
        python(&daemon, &format!("say(base64.b64decode({:?}).decode())", values[0].replace("Basic ", "")));
    assert_eq!(decoded, format!("leased:{TOKEN}"));
    vault.until("GET /v1/database/creds/readonly 200").unwrap();
    vault.until("POST /v1/sys/leases/revoke 204").unwrap();
}

#[test]
fn a_header_of_the_policys_choice() {
    let daemon = injecting("inject = \"header X-Api-Key\"");
    let request = sent(&daemon, &["--header", "x-api-key: stale"], "");
    assert_eq!(headers(&request, "x-api-key").collect::<Vec<_>>(), [TOKEN]);
}

#[test]
fn a_query_parameter() {
    let daemon = injecting("inject = \"query api_key\"");
    for query in ["", "&api_key=stale", "&api%5Fkey=stale&a=1"] {
        let request = sent(&daemon, &[], query);
        let target = request["target"].as_str().unwrap();
        assert_eq!(target.matches(&format!("api_key={TOKEN}")).count(), 1, "{target}");
        assert!(!target.contains("stale"), "{target}");
    }
}

#[test]
fn a_denied_request_carries_no_credential_anywhere() {
    let upstream = ", credential = \"shop-token\", inject = \"bearer\"";
    let guard = "[[guard]]\nname = \"no\"\non = \"http\"\nmethods = [\"POST\"]\naction = \"deny\"\n";
    let daemon = daemon_of(&[with_upstream(server(), Port::Https, upstream)], &format!("{guard}{ALLOW}"));
    let mark = marker("inject-denied");
    let seen = answer(&daemon, &["--data", "a", &format!("https://api.shop.test:PORT/upload?{mark}")]);
    seen.problem(403);
    assert!(!seen.body.contains(TOKEN));
    assert_eq!(reached(&mark), 0);
}

#[test]
fn without_its_credential_nothing_is_sent() {
    let upstream = ", credential = \"shop-token\", inject = \"bearer\"";
    let policy = http_policy(&[with_upstream(server(), Port::Https, upstream)], ALLOW);
    let daemon = Daemon::start(&[("shop", &policy)]).unwrap();
    let mark = marker("no-credential");
    let seen = answer(&daemon, &[&format!("https://api.shop.test:PORT/upload?{mark}")]);
    assert!((500..600).contains(&seen.status), "{seen:?}");
    assert_eq!(seen.header("content-type"), Some("application/problem+json"));
    assert_eq!(reached(&mark), 0);
    // Put in place, it works with the next request.
    daemon.credential("shop-token", TOKEN).unwrap();
    let request = sent(&daemon, &[], "");
    assert_eq!(header(&request, "authorization"), Some(format!("Bearer {TOKEN}").as_str()));
}

/// Masks of what goes out.
const OUTWARD: &str = r#"
[[mask]]
on = "http"
json = ["$.password"]
with = "redact"
direction = "request"

[[mask]]
on = "http"
form = ["password"]
with = "redact"
direction = "request"

[[mask]]
on = "http"
headers = ["x-internal-*"]
with = "redact"
direction = "request"

[[mask]]
on = "http"
detect = ["payment-card"]
with = "partial"
direction = "request"
"#;

#[test]
fn what_a_request_must_not_carry_does_not_reach_the_server() {
    let daemon = daemon(OUTWARD);
    let mark = marker("outward");
    let seen = python(
        &daemon,
        &format!(
            r#"
import gzip, httpx
secret = {{"user": "ada", "password": "hunter2hunter2", "card": spaced(5), "note": "n" * 5000}}
seen = []
for http2 in (False, True):
    with httpx.Client(verify=context(), http2=http2, timeout=30) as client:
        url = f"{{BASE}}/upload?{mark}"
        packed = gzip.compress(json.dumps(secret).encode())
        for options in (
            dict(json=secret), dict(data=secret), dict(content=json.dumps(secret), headers={{"content-type": "text/plain", "x-none": ""}}),
            dict(content=packed, headers={{"content-type": "application/json", "content-encoding": "gzip"}}),
            dict(content=iter([json.dumps(secret).encode()[:90], json.dumps(secret).encode()[90:]]), headers={{"content-type": "application/json"}}),
        ):
            options["headers"] = {{**options.get("headers", {{}}), "x-internal-host": "node-9.secret"}}
            seen.append(client.post(url, **options).status_code)
say(seen)
"#
        ),
    );
    assert_eq!(seen, serde_json::json!([200, 200, 200, 200, 200, 200, 200, 200, 200, 200]));
    let log = server().log(&mark).unwrap();
    let bodies: Vec<&Value> = log.iter().filter(|entry| entry["what"] == "body").collect();
    assert_eq!(bodies.len(), 10);
    for entry in &log {
        let text = entry.to_string();
        for secret in ["4929 7183", "4929+7183", "node-9.secret", super::CARD_PREFIX] {
            assert!(!text.contains(secret), "{secret} reached the server: {text}");
        }
    }
    // A text has no fields: no rule above promises to find its password.
    let hidden = bodies.iter().filter(|body| !body["text"].as_str().unwrap().contains("hunter2")).count();
    assert!(hidden >= 8, "JSON and forms, over both versions: {hidden}");
    assert!(bodies.iter().all(|body| body["text"].as_str().unwrap().contains("nnnnnnnnnn")), "{bodies:?}");
}

#[test]
fn masks_of_answers_leave_requests_alone() {
    let daemon = super::masked();
    let seen = python(
        &daemon,
        r#"
import httpx
got = httpx.post(f"{BASE}/upload", json={"card": card(5)}, verify=context()).json()
say(got["sha256"] == hashlib.sha256(json.dumps({"card": card(5)}, separators=(",", ":")).encode()).hexdigest())
"#,
    );
    assert_eq!(seen, true);
}
