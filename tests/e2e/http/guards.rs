//! Every kind of condition, once met and once not; holds in the client's terms.

use harness::http::port;
use harness::process::REVIEWER;
use harness::reviewer::Reviewer;
use serde_json::Value;

use super::{ALLOW, answer, curl, curl_meanwhile, server, web};

/// A policy in which one condition denies.
fn deny(condition: &str) -> String {
    format!(
        "{ALLOW}\n[[guard]]\nname = \"the rule\"\non = \"http\"\n{condition}\naction = \"deny\"\nhint = \"do not\"\n"
    )
}

/// Sends a request and tells its status; whether the server got it is checked against the status.
fn status(daemon: &harness::daemon::Daemon, mark: &str, arguments: &[&str], target: &str) -> u16 {
    let target =
        if target.contains('?') { format!("{target}&mark={mark}") } else { format!("{target}?mark={mark}") };
    let url = server().url(port::TLS, &target);
    let mut words = vec!["--include", "--http1.1"];
    words.extend(arguments);
    words.push(&url);
    let seen = curl(daemon, &words);
    let (code, body) = answer(&seen);
    let arrived = !server().requests(&format!("mark={mark}")).unwrap().is_empty();
    assert_eq!(arrived, code < 400, "{mark}: {code} {body}\n{}", daemon.log());
    code
}

#[test]
fn each_condition_decides() {
    for (number, (condition, denied, allowed)) in [
        ("methods = [\"DELETE\"]", (vec!["-X", "DELETE"], "/echo"), (vec![], "/echo")),
        ("paths = [\"/echo/admin/**\"]", (vec![], "/echo/admin/users"), (vec![], "/echo/adm")),
        ("paths = [\"/echo/{id}/refund\"]", (vec![], "/echo/7/refund"), (vec![], "/echo/7/8/refund")),
        ("query = [\"force=true\"]", (vec![], "/echo?force=true"), (vec![], "/echo?force=false")),
        (
            "headers = [\"x-env: prod*\"]",
            (vec!["-H", "X-Env: prod-1"], "/echo"),
            (vec!["-H", "X-Env: test"], "/echo"),
        ),
        (
            "json = [\"$[?$.amount > 1000]\"]",
            (vec!["-d", "{\"amount\": 5000}"], "/echo"),
            (vec!["-d", "{\"amount\": 5}"], "/echo"),
        ),
        (
            "graphql = [\"mutation deleteUser\"]",
            (
                vec![
                    "-H",
                    "Content-Type: application/json",
                    "-d",
                    "{\"query\": \"mutation { x: deleteUser(id: 1) { id } }\"}",
                ],
                "/echo/graphql",
            ),
            (
                vec!["-H", "Content-Type: application/json", "-d", "{\"query\": \"{ deleteUser { id } }\"}"],
                "/echo/graphql",
            ),
        ),
        ("effect = [\"write\"]", (vec!["-d", "x"], "/echo"), (vec![], "/echo")),
        (
            "kind = [\"git receive-pack\"]",
            (vec!["-d", ""], "/echo/x.git/git-receive-pack"),
            (vec!["-d", ""], "/echo/x.git/git-upload-pack"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let daemon = web(&deny(condition));
        assert_eq!(status(&daemon, &format!("d{number}"), &denied.0, denied.1), 403, "{condition}");
        assert_eq!(status(&daemon, &format!("a{number}"), &allowed.0, allowed.1), 200, "{condition}");
    }
}

#[test]
fn a_denial_is_a_problem_that_says_what_to_do() {
    let daemon = web(&deny("paths = [\"/echo/**\"]"));
    for (version, port) in [("--http1.1", port::TLS), ("--http2", port::HTTP2)] {
        let seen = curl(&daemon, &["--include", version, &server().url(port, "/echo/problem")]);
        assert!(
            seen.stdout.to_lowercase().contains("content-type: application/problem+json"),
            "{}",
            seen.stdout
        );
        let (code, body) = answer(&seen);
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(code, 403);
        assert_eq!((&problem["rule"], &problem["hint"]), (&"the rule".into(), &"do not".into()));
        assert!(problem["detail"].as_str().unwrap().contains("/echo/problem"));
    }
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert!(sessions.iter().all(|session| session["denied"] == 1), "{sessions:?}");
}

#[test]
fn a_host_that_the_connection_is_not_for_is_refused() {
    let daemon = web(ALLOW);
    let seen =
        curl(&daemon, &["--include", "-H", "Host: other.example", &server().url(port::TLS, "/echo/host")]);
    assert_eq!(answer(&seen).0, 421, "{}", seen.stdout);
    assert!(server().requests("/echo/host").unwrap().is_empty());
}

fn hold(inline: &str) -> String {
    format!(
        "{ALLOW}\n[[guard]]\nname = \"ask\"\non = \"http\"\nmethods = [\"POST\"]\naction = \"hold\"\napprovers = [\"user:daemon\"]\nhold = \"60s\"\ninline = \"{inline}\"\n"
    )
}

#[test]
fn a_held_request_waits_for_a_human() {
    let daemon = web(&hold("30s"));
    let url = server().url(port::TLS, "/echo/held");
    for (version, body, verdict) in [("--http1.1", "first", "approve"), ("--http2", "second", "deny")] {
        let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
        let url = if version == "--http2" { server().url(port::HTTP2, "/echo/held") } else { url.clone() };
        let field = "X-HTTP-Method-Override: DELETE";
        let key = "X-Auth-Key: planted-key";
        let mut client =
            curl_meanwhile(&daemon, &[version, "--header", field, "--header", key, "--data", body, &url]);
        let waiting = reviewer.waiting().unwrap();
        let shown = waiting["request"]["content"]["statement"].as_str().unwrap();
        assert!(shown.starts_with("POST https://") && shown.ends_with(body), "{shown}");
        assert!(
            shown.to_lowercase().contains("x-http-method-override: delete\n"),
            "it says what is asked: {shown}"
        );
        let id = waiting["id"].as_str().unwrap().to_owned();
        assert!(server().requests("/echo/held").unwrap().iter().all(|request| request["body"] != body));
        if verdict == "approve" {
            assert_eq!(reviewer.approve(&id, "fine").unwrap().code, 0);
        } else {
            assert_eq!(reviewer.deny(&id, "not today").unwrap().code, 0);
        }
        let expected = if verdict == "approve" { "status 200" } else { "status 403" };
        client.until(|line| line == expected).unwrap();
    }
    let got = server().requests("/echo/held").unwrap();
    assert_eq!(got.len(), 1, "{got:?}");
}

#[test]
fn a_client_that_cannot_wait_comes_again() {
    let daemon = web(&hold("1s"));
    let url = server().url(port::TLS, "/echo/later");
    let ask = || curl(&daemon, &["--include", "--data", "the same", &url]);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let seen = ask();
    let (code, body) = answer(&seen);
    assert_eq!(code, 423, "{}\n{}", seen.stdout, daemon.log());
    assert!(seen.stdout.to_lowercase().contains("retry-after:"), "{}", seen.stdout);
    let problem: Value = serde_json::from_str(&body).unwrap();
    let waiting = reviewer.waiting().unwrap();
    assert_eq!(problem["approval"], waiting["id"]);
    let id = waiting["id"].as_str().unwrap();
    assert!(server().requests("/echo/later").unwrap().is_empty());
    assert_eq!(reviewer.approve(id, "").unwrap().code, 0);
    // Another body is another request.
    let other = curl(&daemon, &["--include", "--data", "another", &url]);
    assert_eq!(answer(&other).0, 423);
    // The runs differ, and so do the operations: within one run the approved one passes, once.
    let again = ask();
    assert_eq!(answer(&again).0, 423, "an approval is for the run that asked");
}

#[test]
fn an_approval_is_used_once_by_the_run_that_asked() {
    let daemon = web(&hold("1s"));
    let url = server().url(port::TLS, "/echo/once");
    let script = format!(
        "for i in 1 2 3 4; do curl -s -o /dev/null -w 'status %{{http_code}}\\n' --data same {url}; read -r line; done"
    );
    let mut run = harness::agent::under(&daemon, harness::process::NOBODY, "web").unwrap();
    let mut client = harness::process::Talking::spawn(run.args(["sh", "-c", &script])).unwrap();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    client.until(|line| line == "status 423").unwrap();
    let id = reviewer.waiting().unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(reviewer.approve(&id, "").unwrap().code, 0);
    client.say("\n").unwrap();
    client.until(|line| line == "status 200").unwrap();
    client.say("\n").unwrap();
    client.until(|line| line == "status 423").unwrap();
    assert_eq!(server().requests("/echo/once").unwrap().len(), 1);
}
