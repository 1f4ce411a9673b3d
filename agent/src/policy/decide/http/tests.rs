//! Decisions on HTTP requests: every condition, every doubt.

use http::{HeaderMap, Method};

use super::*;
use crate::request::http::analyze;

fn policy(rules: &str) -> Policy {
    let text = format!("version = 1\nname = \"t\"\n{rules}");
    crate::policy::load(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).policy
}

fn request(line: &str, body: Option<&str>) -> HttpRequest {
    let (method, url) = line.split_once(' ').unwrap();
    let uri: http::Uri = url.parse().unwrap();
    let mut request = HttpRequest::from_head(
        &Method::from_bytes(method.as_bytes()).unwrap(),
        uri.path_and_query().unwrap(),
        &HeaderMap::new(),
        None,
        crate::request::http::Scheme::Https,
        uri.host().unwrap(),
        443,
    )
    .unwrap();
    if let Some(body) = body {
        request.read_body(body.as_bytes());
    }
    request
}

fn decide(policy: &Policy, request: &HttpRequest, groups: &[&str]) -> (&'static str, String) {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    let analysis = analyze(request);
    let asked =
        HttpOperation { connection: "api", request, analysis: &analysis, unread: UnreadBody::Doubted };
    let verdict = policy.decide_http(&asked, Who::in_groups(&groups));
    (verdict.word(), verdict.rule().to_owned())
}

fn says(rules: &str, line: &str, body: Option<&str>) -> &'static str {
    decide(&policy(rules), &request(line, body), &[]).0
}

fn guard(condition: &str, action: &str) -> String {
    format!("[[guard]]\non = \"http\"\n{condition}\naction = \"{action}\"\n")
}

#[test]
fn without_a_guard_reads_pass_and_the_rest_is_held() {
    assert_eq!(says("", "GET https://a.test/", Some("")), "allow");
    for line in ["POST https://a.test/", "DELETE https://api.github.com/repos/a/b", "FROB https://a.test/"] {
        assert_eq!(says("", line, Some("")), "hold", "{line}");
    }
}

#[test]
fn a_path_with_two_readings_is_judged_both_ways() {
    let allow = guard("paths = [\"/api/**\"]\neffect = [\"write\"]", "allow");
    let deny = guard("paths = [\"/api/admin/**\"]", "deny");
    assert_eq!(says(&allow, "POST https://a.test/api/x", Some("")), "allow");
    // A server that splits at the encoded slash sees another path: an allow needs both.
    assert_eq!(says(&deny, "POST https://a.test/api%2Fadmin/x", Some("")), "deny");
    let only = guard("paths = [\"/api/public\"]\neffect = [\"write\"]", "allow");
    assert_eq!(says(&only, "POST https://a.test/api%2Fpublic", Some("")), "hold");
    assert_eq!(says(&deny, "GET https://a.test/API/Admin/x", None), "deny");
}

#[test]
fn a_body_that_was_not_read_is_doubted() {
    let deny = guard("json = [\"$.admin\"]", "deny");
    assert_eq!(says(&deny, "GET https://a.test/", None), "deny");
    assert_eq!(says(&deny, "GET https://a.test/", Some("{\"user\": 1}")), "allow");
    let allow = guard("json = [\"$.safe\"]\neffect = [\"write\"]", "allow");
    assert_eq!(says(&allow, "POST https://a.test/", None), "hold");
    assert_eq!(says(&allow, "POST https://a.test/", Some("{\"safe\": 1}")), "allow");
    let denying = policy(&deny);
    let unread = request("POST https://a.test/", None);
    let analysis = analyze(&unread);
    let asked = HttpOperation {
        connection: "api",
        request: &unread,
        analysis: &analysis,
        unread: UnreadBody::Doubted,
    };
    assert!(denying.asks_for_body(&asked, Who::in_groups(&[])));
    let passed = HttpOperation { unread: UnreadBody::Passed, ..asked };
    assert_eq!(denying.decide_http(&passed, Who::in_groups(&[])).word(), "hold");
    let first = policy(&format!("{}{deny}", guard("methods = [\"POST\"]", "allow")));
    assert!(!first.asks_for_body(&asked, Who::in_groups(&[])), "an earlier guard decides");
}

#[test]
fn an_allow_of_graphql_speaks_of_everything_that_is_asked() {
    let allow = guard("graphql = [\"mutation addComment\"]", "allow");
    let body = |document: &str| serde_json::json!({"query": document}).to_string();
    let one = body("mutation { addComment(t: 1) { id } }");
    let two = body("mutation { addComment(t: 1) { id } deleteUser { id } }");
    assert_eq!(says(&allow, "POST https://a.test/graphql", Some(&one)), "allow");
    assert_eq!(says(&allow, "POST https://a.test/graphql", Some(&two)), "hold");
    let deny = guard("graphql = [\"mutation deleteUser\"]", "deny");
    assert_eq!(says(&deny, "POST https://a.test/graphql", Some(&two)), "deny");
    assert_eq!(says(&deny, "POST https://a.test/graphql", Some(&body("mutation {"))), "deny");
}

#[test]
fn unknown_is_never_allowed_by_accident() {
    let any = guard("hosts = [\"*\"]", "allow");
    assert_eq!(says(&any, "FROB https://a.test/", Some("")), "hold");
    assert_eq!(says(&guard("effect = [\"unknown\"]", "allow"), "FROB https://a.test/", Some("")), "allow");
    assert_eq!(says(&guard("kind = [\"frob\"]", "allow"), "FROB https://a.test/", Some("")), "allow");
    assert_eq!(says(&guard("kind = [\"*\"]", "allow"), "FROB https://a.test/", Some("")), "hold");
}

#[test]
fn names_groups_and_connections_narrow_a_guard() {
    let rules = format!(
        "[[connection]]\nname = \"api\"\nto = [\"a.test:443\"]\nprotocol = \"http\"\n{}",
        guard(
            "hosts = [\"*.test\"]\nmethods = [\"GET\"]\ngroups = [\"ops\"]\nconnections = [\"api\"]",
            "deny"
        )
    );
    let policy = policy(&rules);
    let asked = request("GET https://a.test/", None);
    assert_eq!(decide(&policy, &asked, &["ops"]).0, "deny");
    assert_eq!(decide(&policy, &asked, &["dev"]).0, "allow");
    assert_eq!(decide(&policy, &request("GET https://a.example/", None), &["ops"]).0, "allow");
}

#[test]
fn a_refusal_shows_no_query() {
    let policy = policy(&guard("methods = [\"GET\"]", "deny"));
    let asked = request("GET https://a.test/x?token=secret", None);
    let analysis = analyze(&asked);
    let asked = HttpOperation {
        connection: "api",
        request: &asked,
        analysis: &analysis,
        unread: UnreadBody::Doubted,
    };
    let Verdict::Deny { reason, .. } = policy.decide_http(&asked, Who::in_groups(&[])) else {
        panic!("not denied")
    };
    assert!(reason.contains("GET https://a.test/x (get, read)") && !reason.contains("secret"), "{reason}");
}
