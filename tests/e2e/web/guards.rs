//! What a guard asks of a request: each condition once met and once not. What is denied never reaches the server.

use serde_json::Value;

use super::{answer, curl, daemon, marker, reached, server};

/// A guard that denies what meets one condition.
fn denying(condition: &str) -> String {
    format!(
        "[[guard]]\nname = \"the rule\"\non = \"http\"\n{condition}\naction = \"deny\"\nhint = \"ask Ada\"\n"
    )
}

/// Fails unless each of these requests is denied by the guard and reaches nobody, or passes. `MARK` in an argument is
/// what the server's log is searched for.
#[track_caller]
fn judge(condition: &str, denied: &[&[&str]], allowed: &[&[&str]]) {
    let daemon = daemon(&denying(condition));
    let run = |arguments: &[&str]| {
        let mark = marker("guard");
        let words: Vec<String> = arguments.iter().map(|word| word.replace("MARK", &mark)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        (answer(&daemon, &words), reached(&mark))
    };
    for arguments in denied {
        let (answer, reached) = run(arguments);
        let problem = answer.problem(403);
        assert_eq!(problem["rule"], "the rule", "{condition}: {arguments:?}: {problem}");
        assert_eq!(reached, 0, "{condition}: {arguments:?} reached the server");
    }
    for arguments in allowed {
        let (answer, reached) = run(arguments);
        assert_eq!(answer.status, 200, "{condition}: {arguments:?}: {answer:?}\n{}", daemon.log());
        assert_eq!(reached, 1, "{condition}: {arguments:?}");
    }
}

const ECHO: &str = "https://api.shop.test:PORT/echo?MARK";

#[test]
fn by_method() {
    judge(
        "methods = [\"POST\", \"PATCH\"]",
        &[&["--data", "a", ECHO], &["--request", "PATCH", ECHO], &["--http2", "--data", "a", ECHO]],
        &[&[ECHO], &["--request", "PUT", "--data", "a", ECHO], &["--http2", ECHO]],
    );
}

#[test]
fn by_effect() {
    judge("effect = [\"write\"]", &[&["--data", "a", ECHO]], &[&[ECHO], &["--head", ECHO]]);
}

#[test]
fn by_path_template() {
    let at = |path: &str| format!("https://api.shop.test:PORT{path}?MARK");
    let (one, two) = (at("/v1/payments/17/refund"), at("/v1/payments/1/7/refund"));
    let (other, longer) = (at("/v1/payments/17/capture"), at("/v1/payments/17/refund/status"));
    let encoded = at("/v1/payments/17/%72efund");
    judge(
        "paths = [\"/v1/payments/{id}/refund\"]",
        // A path is judged by what it means, not by how it is written.
        &[&[&one], &["--http2", &one], &["--path-as-is", &encoded]],
        &[&[&two], &[&other], &[&longer]],
    );
}

#[test]
fn by_path_of_any_depth() {
    let at = |path: &str| format!("https://api.shop.test:PORT{path}?MARK");
    let (one, deep) = (at("/admin/users"), at("/admin/users/1/keys"));
    let (beside, elsewhere) = (at("/administrator/users"), at("/v1/admin"));
    judge("paths = [\"/admin/**\"]", &[&[&one], &[&deep]], &[&[&beside], &[&elsewhere]]);
}

#[test]
fn a_path_that_is_written_otherwise_does_not_slip_by() {
    let daemon = daemon(&denying("paths = [\"/admin/**\"]"));
    for path in
        ["/x/../admin/users", "/./admin/users", "//admin/users", "/%61dmin/users", "/x/%2e%2e/admin/users"]
    {
        let mark = marker("path");
        let url = format!("https://api.shop.test:PORT{path}?{mark}");
        let seen = answer(&daemon, &["--path-as-is", &url]);
        // Either it is taken for what it means, or it goes to the server as something that is not below /admin.
        let passed = server().requests(&mark).unwrap();
        for request in &passed {
            let target = request["target"].as_str().unwrap();
            assert!(
                seen.status != 200 || !target.starts_with("/admin"),
                "{path} reached the server as {target}"
            );
            assert!(
                !["..", "/./", "//", "%2e"].iter().any(|odd| target.contains(odd)),
                "{path} reached the server as {target}, which it may take for /admin/users"
            );
        }
    }
}

#[test]
fn by_query_parameter() {
    let with = |query: &str| format!("https://api.shop.test:PORT/echo?{query}&MARK=1");
    let (forced, encoded, last) =
        (with("force=true"), with("f%6Frce=tr%75e"), with("a=1&force=false&force=true"));
    let (not, part) = (with("force=false"), with("enforce=true"));
    judge("query = [\"force=true\"]", &[&[&forced], &[&encoded], &[&last]], &[&[&not], &[&part], &[ECHO]]);
    let present = with("force");
    judge("query = [\"force\"]", &[&[&forced], &[&not], &[&present]], &[&[&part], &[ECHO]]);
}

#[test]
fn by_header() {
    judge(
        "headers = [\"x-env: prod*\"]",
        &[&["--header", "X-Env: production", ECHO], &["--http2", "--header", "x-ENV: prod", ECHO]],
        &[&["--header", "X-Env: staging", ECHO], &[ECHO]],
    );
    judge(
        "headers = [\"x-env\"]",
        &[&["--header", "X-Env: staging", ECHO]],
        &[&["--header", "X-Environment: x", ECHO]],
    );
}

#[test]
fn by_host() {
    const EU: &str = "https://eu.api.shop.test:PORT/echo?MARK";
    judge("hosts = [\"*.api.shop.test\"]", &[&[EU], &["--http2", EU]], &[&[ECHO]]);
}

const JSON: [&str; 2] = ["--header", "Content-Type: application/json"];

#[test]
fn by_json_field() {
    let [header, json] = JSON;
    judge(
        "json = [\"$[?@.amount > 1000]\", \"$.admin\"]",
        &[
            &[header, json, "--data", r#"{"items": {"amount": 1001}}"#, ECHO],
            &[header, json, "--data", r#"{"admin": false}"#, ECHO],
            &["--http2", header, json, "--data", r#"{"\u0061dmin": 1}"#, ECHO],
            &[
                "--http1.1",
                header,
                json,
                "--header",
                "Transfer-Encoding: chunked",
                "--data",
                r#"[{"amount": 5000.5}]"#,
                ECHO,
            ],
        ],
        &[
            &[header, json, "--data", r#"{"items": {"amount": 1000}}"#, ECHO],
            &[header, json, "--data", r#"{"user": {"admin": true}}"#, ECHO],
        ],
    );
}

#[test]
fn by_graphql_operation_and_field() {
    const GRAPHQL: &str = "https://api.shop.test:PORT/graphql?MARK";
    let [header, json] = JSON;
    judge(
        "graphql = [\"mutation deleteRepository\", \"query viewer.email\"]",
        &[
            &[header, json, "--data", r#"{"query": "mutation { deleteRepository(id: 1) { id } }"}"#, GRAPHQL],
            // An alias renames the answer, not the field.
            &[
                header,
                json,
                "--data",
                r#"{"query": "mutation M { x: deleteRepository(id: 1) { id } }"}"#,
                GRAPHQL,
            ],
            &[header, json, "--data", r#"{"query": "{ viewer { login email } }"}"#, GRAPHQL],
            &[
                header,
                json,
                "--data",
                r#"{"query": "query Q { viewer { ...F } } fragment F on User { email }"}"#,
                GRAPHQL,
            ],
        ],
        &[
            &[header, json, "--data", r#"{"query": "mutation { createRepository(id: 1) { id } }"}"#, GRAPHQL],
            &[header, json, "--data", r#"{"query": "{ viewer { login } }"}"#, GRAPHQL],
        ],
    );
    judge(
        "graphql = [\"mutation *\"]",
        &[&[header, json, "--data", r#"{"query": "mutation { anything { id } }"}"#, GRAPHQL]],
        &[&[header, json, "--data", r#"{"query": "query { mutation { id } }"}"#, GRAPHQL]],
    );
}

#[test]
fn by_kind_of_a_catalogue() {
    const REPOSITORY: &str = "https://api.github.com:PORT/repos/shop/orders?MARK";
    judge(
        "kind = [\"github repos/delete\"]",
        &[&["--request", "DELETE", REPOSITORY]],
        &[&[REPOSITORY], &["--request", "DELETE", "https://api.shop.test:PORT/repos/shop/orders?MARK"]],
    );
    const REFUND: &str = "https://api.stripe.com:PORT/v1/refunds?MARK";
    judge("kind = [\"stripe refunds/create\"]", &[&["--data", "charge=ch_1", REFUND]], &[&[REFUND]]);
    const SLACK: &str = "https://slack.com:PORT/api/chat.postMessage?MARK";
    judge(
        "kind = [\"slack chat.postmessage\"]",
        &[&["--data", "text=hello", SLACK]],
        &[&["--data", "text=hello", "https://slack.com:PORT/api/chat.update?MARK"]],
    );
}

#[test]
fn by_kind_of_a_method_or_an_upgrade() {
    judge("kind = [\"delete\"]", &[&["--request", "DELETE", ECHO]], &[&[ECHO], &["--data", "a", ECHO]]);
    judge(
        "kind = [\"websocket\"]",
        &[&[
            "--http1.1",
            "--header",
            "Connection: Upgrade",
            "--header",
            "Upgrade: websocket",
            "--header",
            "Sec-WebSocket-Version: 13",
            "--header",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "https://api.shop.test:PORT/ws?MARK",
        ]],
        &[&[ECHO]],
    );
}

#[test]
fn all_conditions_of_a_guard_must_hold() {
    let at = |path: &str| format!("https://api.shop.test:PORT{path}?MARK");
    let (refunds, orders) = (at("/refunds"), at("/orders"));
    judge(
        "methods = [\"POST\"]\npaths = [\"/refunds\"]",
        &[&["--data", "a", &refunds]],
        &[&[&refunds], &["--data", "a", &orders]],
    );
}

#[test]
fn a_denial_is_a_problem_document_with_everything_to_ask_by() {
    let daemon = daemon(&denying("methods = [\"POST\"]"));
    for version in ["--http1.1", "--http2"] {
        let mark = marker("problem");
        let denied =
            answer(&daemon, &[version, "--data", "x", &format!("https://api.shop.test:PORT/echo?{mark}")]);
        let problem = denied.problem(403);
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], "Forbidden");
        assert_eq!(problem["rule"], "the rule");
        assert_eq!(problem["hint"], "ask Ada");
        assert!(problem["approval"].is_null(), "nobody was asked: {problem}");
        let session = problem["session"].as_str().unwrap();
        let events = daemon.json_lines(&["sessions", "show", session]).unwrap();
        assert!(events.iter().any(|event| event["event"] == "refused"), "{}", Value::from(events));
        assert_eq!(reached(&mark), 0);
    }
}

#[test]
fn a_connection_goes_on_after_a_denial() {
    let daemon = daemon(&denying("methods = [\"POST\"]"));
    let mark = marker("goes-on");
    let url = format!("https://api.shop.test:PORT/echo?{mark}");
    for version in ["--http1.1", "--http2"] {
        let seen = curl(
            &daemon,
            &[
                version,
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code} ",
                "--data",
                "x",
                &url,
                "--next",
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                &url,
            ],
        );
        assert_eq!(seen, "403 200", "{version}");
    }
    assert_eq!(reached(&mark), 2);
}

#[test]
fn the_first_guard_that_matches_decides() {
    let allow = "[[guard]]\nname = \"first\"\non = \"http\"\npaths = [\"/status/201\"]\naction = \"allow\"\n";
    let daemon = daemon(&format!("{allow}{}", denying("paths = [\"/status/*\"]")));
    assert_eq!(answer(&daemon, &["https://api.shop.test:PORT/status/201"]).status, 201);
    assert_eq!(answer(&daemon, &["https://api.shop.test:PORT/status/202"]).problem(403)["rule"], "the rule");
}

#[test]
fn a_destination_that_no_connection_names_is_refused() {
    let daemon = daemon("");
    let seen =
        super::tried(&daemon, &["--max-time", "10", "--insecure", "--fail", "https://127.66.66.66:8443/"]);
    assert_eq!((seen.code, seen.stdout.as_str()), (22, ""), "{}", seen.stderr);
    assert!(seen.stderr.contains("403"), "{}", seen.stderr);
}
