//! Clients that bring tokens themselves, in cgroups that a policy claims: as a PostgreSQL password, and in `Authorization`.

use std::process::Command;

use harness::daemon::Daemon;
use harness::http::{HttpServer, port};
use harness::process::{Finished, Talking, finish};
use serde_json::{Value, json};

use crate::http;
use crate::identity::{policy, provider, token};
use crate::runs::Foreign;
use crate::spine::server;

/// A daemon whose policy claims one cgroup, and that cgroup.
fn claimed(more: &str, rules: &str) -> (Daemon, Foreign) {
    let name = format!("portcullis-test-{}-{}", std::process::id(), next());
    let claims = format!("in_band = true\n{more}\n[match]\ncgroups = [\"/{name}\"]\n");
    let text = format!("{}{rules}", policy(server(), provider().issuer(), &claims));
    let cgroup = Foreign::new(&name);
    let daemon = Daemon::start(&[("shop", &text)]).unwrap();
    daemon
        .until(&["status"], |status| status[0]["runs"].as_array().is_some_and(|runs| runs.len() == 1))
        .unwrap();
    (daemon, cgroup)
}

/// Tests run in one process, each with a cgroup of its own.
fn next() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn psql(cgroup: &Foreign, password: &str, sql: &str) -> Finished {
    finish(cgroup.psql(sql).env("PGPASSWORD", password)).unwrap()
}

fn dba(more: &Value) -> Value {
    let mut claims = json!({"groups": ["dba"]});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// The sessions so far, once there are so many and all are over; oldest first.
fn sessions(daemon: &Daemon, count: usize) -> Vec<Value> {
    let mut all = daemon.until(&["sessions", "list"], |sessions| {
        sessions.len() >= count && sessions.iter().all(|session| !session["ended_ns"].is_null())
    });
    all.as_mut().unwrap().reverse();
    all.unwrap()
}

#[test]
fn a_postgresql_password_says_whom_a_connection_acts_for() {
    let (daemon, cgroup) = claimed("", "");
    let owner = token(&dba(&json!({"sub": "first", "actor": "first"})), 300);
    let owned =
        psql(&cgroup, &owner, "UPDATE customers SET name = name WHERE id = 1 RETURNING current_database()");
    assert_eq!(owned.stdout.trim(), "shop\nUPDATE 1", "{}", owned.stderr);
    let main = token(&json!({"ref": "refs/heads/main", "actor": "second"}), 300);
    let read = psql(&cgroup, &main, "SELECT current_database()");
    assert_eq!(read.stdout.trim(), "postgres", "another token, another profile: {}", read.stderr);
    let listed = sessions(&daemon, 2);
    let subjects: Vec<&Value> = listed.iter().map(|session| &session["opened"]["subject"]).collect();
    assert_eq!(subjects, ["first", "second"], "{listed:#?}");
    for (password, expected) in [
        (token(&json!({}), 300).as_str(), "HINT:  it is for: dba; or ref = refs/heads/main"),
        (&token(&json!({"repository_owner": "evil", "groups": ["dba"]}), 300), "repository_owner = acme"),
        (&token(&dba(&json!({})), -120), "the token expired"),
        (&format!("{owner}x"), "three parts in base64url"),
        ("postgres", "three parts in base64url"),
        (&"x".repeat(20_000), "with one too long or empty"),
    ] {
        let refused = psql(&cgroup, password, "\\set VERBOSITY verbose\nSELECT 1");
        let short: String = password.chars().take(40).collect();
        assert!(refused.code == 2 && refused.stderr.contains(expected), "{short}: {}", refused.stderr);
        assert!(password.len() < 10 || !refused.stderr.contains(&short), "the token itself is not told");
    }
    let nothing = finish(cgroup.psql("SELECT 1").args(["--no-password"])).unwrap();
    assert!(nothing.stderr.contains("no password supplied"), "{}", nothing.stderr);
    // libpq may ask twice, with TLS and without.
    let all = sessions(&daemon, 9);
    assert!(all.iter().skip(2).all(|session| session["opened"]["connection"].is_null()), "{all:#?}");
    let log = daemon.log();
    let signature = owner.rsplit('.').next().unwrap();
    assert!(!log.contains(signature), "a token is in the log");
}

#[test]
fn a_token_that_ends_ends_what_it_opened() {
    let (daemon, cgroup) = claimed("on_expiry = \"cut\"", "");
    let mut shell = cgroup.psql("");
    let brief = token(&dba(&json!({})), 4);
    // `-c ""` first, then what it is told.
    let mut psql = Talking::spawn(shell.arg("-f").arg("-").env("PGPASSWORD", brief)).unwrap();
    psql.say("SELECT 'ready';").unwrap();
    psql.until_contains("ready").unwrap();
    psql.say("SELECT pg_sleep(60);").unwrap();
    assert!(psql.until_contains("portcullis:").unwrap().contains("the token of this connection has expired"));
    sessions(&daemon, 1);
}

#[test]
fn a_withdrawn_run_takes_the_tokens_of_its_clients_with_it() {
    let (daemon, cgroup) = claimed("", "");
    let kept = token(&dba(&json!({})), 300);
    assert_eq!(psql(&cgroup, &kept, "SELECT 'in'").stdout.trim(), "in");
    let id = daemon.json(&["runs"]).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let done = daemon.cli(&["runs", "withdraw", &id, "--reason", "it leaks"]).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let refused = psql(&cgroup, &kept, "SELECT 1");
    assert!(refused.stderr.contains("it leaks"), "{}", refused.stderr);
    // Nor does it begin a run of its own.
    let seen = crate::identity::psql_with(&daemon, &kept, "SELECT 1");
    assert!(seen.stderr.contains("was withdrawn, and the token with it"), "{}", seen.stderr);
}

fn curl(cgroup: &Foreign, daemon: &Daemon, arguments: &[&str]) -> Finished {
    let mut curl: Command = cgroup.command();
    curl.args(["curl", "--silent", "--show-error", "--include", "--noproxy", "*", "--cacert"]);
    curl.arg(daemon.folder().join("run/ca.pem")).args(arguments);
    finish(&mut curl).unwrap()
}

/// One group may do anything at the HTTP server, the other only look.
fn two_groups(upstream: &HttpServer) -> String {
    format!(
        r#"
[[connection]]
name = "plain"
to = ["{address}:8080"]
protocol = "http"
tls = "plain"
groups = ["dba", "dev"]
[[connection]]
name = "tls"
to = ["{address}:8444"]
protocol = "http"
groups = ["dba", "dev"]
upstream = {{ root_cert = "{ca}" }}
[[guard]]
on = "http"
groups = ["dba"]
effect = ["read", "write", "unknown"]
action = "allow"
[[guard]]
on = "http"
methods = ["POST"]
action = "deny"
"#,
        address = upstream.address(),
        ca = upstream.ca().display(),
    )
}

#[test]
fn a_bearer_token_says_whom_a_request_acts_for_and_goes_no_further() {
    let upstream = http::server();
    let (daemon, cgroup) = claimed("", &two_groups(upstream));
    let mark = format!("/echo/in-band-{}", std::process::id());
    for port in [port::PLAIN, port::HTTP2] {
        let url = upstream.url(port, &format!("{mark}-{port}"));
        let none = curl(&cgroup, &daemon, &[&url]);
        assert!(none.stdout.contains(" 401"), "{}{}", none.stdout, none.stderr);
        assert!(
            none.stdout.to_lowercase().contains("www-authenticate: bearer realm=\"portcullis\"\r"),
            "{}",
            none.stdout
        );
        let bad = curl(&cgroup, &daemon, &[&url, "--oauth2-bearer", "a.b.c"]);
        assert!(bad.stdout.contains(" 401") && bad.stdout.contains("invalid_token"), "{}", bad.stdout);
        let (dba, dev) = (
            token(&dba(&json!({"actor": "dba"})), 300),
            token(&json!({"groups": ["dev"], "actor": "dev"}), 300),
        );
        let post = ["--data", "x", url.as_str(), "--oauth2-bearer"];
        // Two tokens on one connection: each is judged for itself.
        let mut both: Vec<&str> = post.to_vec();
        both.push(&dba);
        both.extend(["--next", "--silent", "--include", "--cacert"]);
        let ca = daemon.folder().join("run/ca.pem").display().to_string();
        both.push(&ca);
        both.extend(post);
        both.push(&dev);
        let seen = curl(&cgroup, &daemon, &both);
        let codes = seen.stdout.split("HTTP/").skip(1).filter_map(|rest| rest.split(' ').nth(1));
        let statuses: Vec<&str> = codes.map(|code| code.get(..3).unwrap_or(code)).collect();
        assert_eq!(statuses, ["200", "403"], "{}{}", seen.stdout, seen.stderr);
        let others = curl(&cgroup, &daemon, &[&url, "--oauth2-bearer", &token(&json!({}), 300)]);
        assert!(
            others.stdout.contains(" 403") && others.stdout.contains("it is for: dba, dev"),
            "{}",
            others.stdout
        );
    }
    let requests = upstream.requests(&mark).unwrap();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert!(requests.iter().all(|request| request["headers"]["authorization"].is_null()), "{requests:#?}");
    // Per port: no token, a bad one, two subjects of one connection, and one for whom nothing is.
    let listed = sessions(&daemon, 10);
    let subjects: Vec<&str> =
        listed.iter().filter_map(|session| session["opened"]["subject"].as_str()).collect();
    assert_eq!(subjects.iter().filter(|subject| **subject == "dba").count(), 2, "{subjects:?}");
    assert_eq!(subjects.iter().filter(|subject| **subject == "dev").count(), 2, "{subjects:?}");
    let let_in = |session: &&Value| !session["opened"]["connection"].is_null();
    let judged =
        listed.iter().filter(let_in).filter(|session| session["operations"].as_u64() == Some(1)).count();
    assert_eq!(judged, 4, "{listed:#?}");
}

/// Asks for what goes on until somebody ends it.
fn endless(cgroup: &Foreign, arguments: &[&str]) -> Talking {
    let mut curl = cgroup.command();
    curl.args([
        "curl",
        "--silent",
        "--show-error",
        "--include",
        "--no-buffer",
        "--noproxy",
        "*",
        "--max-time",
        "60",
    ]);
    Talking::spawn(curl.args(arguments)).unwrap()
}

#[test]
fn a_token_that_ends_cuts_streams_and_what_became_another_protocol() {
    let upstream = http::server();
    let (daemon, cgroup) = claimed("on_expiry = \"cut\"", &two_groups(upstream));
    let ticks = upstream.url(port::PLAIN, "/ticks");
    let [one, two] = [1, 2].map(|number| token(&dba(&json!({ "jti": number })), 5));
    let mut stream = endless(&cgroup, &[&ticks, "--oauth2-bearer", &one]);
    let address = upstream.address();
    // Not with curl, which takes 101 for an interim answer.
    let script = format!(
        "exec 3<>/dev/tcp/{address}/{port}; printf 'GET /socket HTTP/1.1\\r\\nHost: {address}:{port}\\r\\n\
         Authorization: Bearer {two}\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n' >&3; cat <&3; echo over",
        port = port::PLAIN
    );
    let mut upgraded = Talking::spawn(cgroup.command().args(["bash", "-c", &script])).unwrap();
    stream.until_contains("first tick").unwrap();
    upgraded.until_contains("101 Switching Protocols").unwrap();
    for cut in [stream, upgraded] {
        cut.finish().unwrap();
    }
    let ended = sessions(&daemon, 2);
    let killed = ended.iter().filter(|session| session["ended_reason"] == "killed").count();
    assert_eq!(killed, 2, "{ended:#?}");
}

#[test]
fn sessions_of_several_tokens_end_by_their_own_ids_and_no_proxy_leads_them_on() {
    let upstream = http::server();
    let (daemon, cgroup) = claimed("", &two_groups(upstream));
    let ticks = upstream.url(port::PLAIN, "/ticks");
    let mut stream = endless(&cgroup, &[&ticks, "--oauth2-bearer", &token(&dba(&json!({})), 300)]);
    stream.until_contains("first tick").unwrap();
    let listed = daemon.json_lines(&["sessions", "list"]).unwrap();
    let id = listed[0]["session"].as_str().unwrap().to_owned();
    let killed = daemon.cli(&["sessions", "kill", &id, "--reason", "enough"]).unwrap();
    assert_eq!(killed.code, 0, "{}", killed.stderr);
    stream.finish().unwrap();

    let proxy = format!("http://{}:{}", upstream.address(), port::PLAIN);
    let field = format!("Authorization: Bearer {}", token(&dba(&json!({})), 300));
    let led = curl(
        &cgroup,
        &daemon,
        &[
            "--noproxy",
            "",
            "--proxy",
            &proxy,
            "--proxytunnel",
            "--proxy-header",
            &field,
            &upstream.url(port::HTTP2, "/echo/proxied"),
        ],
    );
    assert!(led.code != 0 && led.stdout.contains(" 403"), "{}{}", led.stdout, led.stderr);
    assert!(upstream.requests("/echo/proxied").unwrap().is_empty());
}

#[test]
fn another_units_token_is_refused_there_and_the_unit_goes_on() {
    let (daemon, cgroup) = claimed("", "");
    let [shared, own] = [1, 2].map(|number| token(&dba(&json!({ "jti": number })), 300));
    assert_eq!(psql(&cgroup, &shared, "SELECT 'in'").stdout.trim(), "in");
    let mut job = crate::identity::session_of(&daemon, &shared);
    job.say("SELECT 'job';").unwrap();
    job.until_contains("job").unwrap();
    let runs = daemon.json(&["runs"]).unwrap();
    let started = runs.as_array().unwrap().iter().find(|run| !run["subject"].is_null()).unwrap().clone();
    job.say("SELECT pg_sleep(60);").unwrap();
    daemon
        .until(&["sessions", "list"], |sessions| {
            sessions.iter().any(|one| one["operations"].as_u64() == Some(2))
        })
        .unwrap();
    let done =
        daemon.cli(&["runs", "withdraw", started["id"].as_str().unwrap(), "--reason", "it leaks"]).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    job.until_contains("it leaks").unwrap();
    let refused = psql(&cgroup, &shared, "SELECT 1");
    assert!(refused.stderr.contains("withdrawn"), "{}", refused.stderr);
    assert_eq!(psql(&cgroup, &own, "SELECT 'still in'").stdout.trim(), "still in");
}
