//! What an operator finds afterwards: sessions, their requests and answers, HAR for other tools, a replay.

use harness::daemon::Daemon;
use serde_json::Value;

use super::{answer, curl, daemon, masked};

const MASKED: &str = "c***@planted.example";

fn read(daemon: &Daemon, arguments: &[&str]) -> String {
    let finished = daemon.cli(arguments).unwrap();
    assert_eq!(finished.code, 0, "{arguments:?}: {}", finished.stderr);
    finished.stdout
}

/// What is read of a session's operations: without its head, which has the client's command line.
fn operations(daemon: &Daemon, arguments: &[&str]) -> String {
    let text = read(daemon, arguments);
    text.split_once("\n\n")
        .map(|(_, operations)| operations.to_owned())
        .unwrap_or_else(|| panic!("only a head: {text}"))
}

/// A daemon with one session: two requests over one connection, the second with a body. Returns the session's id.
fn recorded(version: &str) -> (Daemon, String) {
    let daemon = masked();
    curl(
        &daemon,
        &[
            version,
            "https://api.shop.test:PORT/planted?kind=json&name=a%20b",
            "--next",
            "--silent",
            "--show-error",
            "--data",
            "order=17",
            "https://api.shop.test:PORT/status/201",
        ],
    );
    let sessions = daemon
        .until(&["sessions", "list"], |sessions| {
            sessions.first().is_some_and(|session| !session["ended_reason"].is_null())
        })
        .unwrap();
    let id = sessions[0]["session"].as_str().unwrap().to_owned();
    (daemon, id)
}

#[test]
fn a_session_is_listed_with_its_operations() {
    for version in ["--http1.1", "--http2"] {
        let (daemon, id) = recorded(version);
        let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
        let operations: u64 = sessions.iter().filter_map(|session| session["operations"].as_u64()).sum();
        assert_eq!(operations, 2, "{}", Value::from(sessions.clone()));
        let masked: u64 = sessions.iter().filter_map(|session| session["masked"].as_u64()).sum();
        assert!(masked >= 9, "three customers with three secrets each: {masked}");
        let listed = read(&daemon, &["sessions", "list"]);
        assert!(
            listed.contains(&id) && listed.contains("shop-api-8443") && listed.contains("curl"),
            "{listed}"
        );
    }
}

#[test]
fn a_session_shows_requests_and_masked_answers() {
    let (daemon, id) = recorded("--http1.1");
    let shown = operations(&daemon, &["sessions", "show", &id]);
    for part in
        ["GET", "/planted?kind=json&name=a%20b", "POST", "/status/201", "200", "201", "order=17", MASKED]
    {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    for part in ["customer1@", super::CARD_PREFIX, "918-27"] {
        assert!(!shown.contains(part), "{part:?} in:\n{shown}");
    }
}

#[test]
fn every_operation_has_an_intent_before_its_outcome() {
    let (daemon, id) = recorded("--http2");
    let events = daemon.json_lines(&["sessions", "show", &id]).unwrap();
    let at = |kind: &str| -> Vec<usize> {
        events.iter().enumerate().filter(|(_, event)| event["event"] == kind).map(|(at, _)| at).collect()
    };
    let (intents, outcomes) = (at("intent"), at("outcome"));
    assert_eq!((intents.len(), outcomes.len()), (2, 2), "{}", Value::from(events.clone()));
    assert!(intents.iter().zip(&outcomes).all(|(intent, outcome)| intent < outcome));
    assert_eq!(events.first().unwrap()["event"], "session_opened");
    assert_eq!(events.last().unwrap()["event"], "session_closed");
}

/// Fails unless an object has all of these fields.
#[track_caller]
fn assert_fields(object: &Value, fields: &[&str]) {
    for field in fields {
        assert!(object.get(field).is_some(), "no {field:?} in {object}");
    }
}

#[test]
fn a_session_exports_as_har() {
    // <http://www.softwareishard.com/blog/har-12-spec/>: the fields that are not optional there.
    for version in ["--http1.1", "--http2"] {
        let (daemon, id) = recorded(version);
        let exported = read(&daemon, &["sessions", "export", &id, "--format", "har"]);
        let har: Value =
            serde_json::from_str(&exported).unwrap_or_else(|error| panic!("{error}: {exported}"));
        let log = &har["log"];
        assert_eq!(log["version"], "1.2");
        assert_fields(&log["creator"], &["name", "version"]);
        let entries = log["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{exported}");
        for entry in entries {
            assert_fields(entry, &["startedDateTime", "time", "request", "response", "cache", "timings"]);
            assert_fields(&entry["timings"], &["send", "wait", "receive"]);
            assert_fields(
                &entry["request"],
                &[
                    "method",
                    "url",
                    "httpVersion",
                    "cookies",
                    "headers",
                    "queryString",
                    "headersSize",
                    "bodySize",
                ],
            );
            let response = [
                "status",
                "statusText",
                "httpVersion",
                "cookies",
                "headers",
                "content",
                "redirectURL",
                "headersSize",
                "bodySize",
            ];
            assert_fields(&entry["response"], &response);
            assert_fields(&entry["response"]["content"], &["size", "mimeType"]);
            assert!(
                entry["startedDateTime"]
                    .as_str()
                    .is_some_and(|time| time.starts_with("20") && time.contains('T'))
            );
        }
        let [get, post] = &entries[..] else { panic!("{exported}") };
        assert_eq!((&get["request"]["method"], &get["response"]["status"]), (&"GET".into(), &200.into()));
        assert!(
            get["request"]["url"].as_str().is_some_and(|url| url.starts_with("https://api.shop.test")
                && url.ends_with("/planted?kind=json&name=a%20b")),
            "{get}"
        );
        let query = get["request"]["queryString"].as_array().unwrap();
        assert!(query.iter().any(|pair| pair["name"] == "kind" && pair["value"] == "json"), "{get}");
        assert!(
            get["response"]["content"]["text"].as_str().is_some_and(|text| text.contains(MASKED)),
            "{get}"
        );
        assert_eq!((&post["request"]["method"], &post["response"]["status"]), (&"POST".into(), &201.into()));
        assert!(
            post["request"]["postData"]["text"].as_str().is_some_and(|text| text.contains("order=17")),
            "{post}"
        );
        assert!(!exported.contains("customer1@") && !exported.contains(super::CARD_PREFIX), "{exported}");
    }
}

#[test]
fn a_session_replays() {
    let (daemon, id) = recorded("--http1.1");
    let replayed = operations(&daemon, &["replay", &id, "--speed", "max"]);
    let first = replayed.find("/planted").unwrap_or_else(|| panic!("{replayed}"));
    let second = replayed.find("/status/201").unwrap_or_else(|| panic!("{replayed}"));
    assert!(first < second, "{replayed}");
    assert!(replayed.contains(MASKED) && !replayed.contains("customer1@"), "{replayed}");
}

#[test]
fn a_denied_request_is_on_record_with_its_rule() {
    let daemon =
        daemon("[[guard]]\nname = \"no refunds\"\non = \"http\"\nmethods = [\"POST\"]\naction = \"deny\"\n");
    answer(&daemon, &["--data", "amount=17", "https://api.shop.test:PORT/refunds"]).problem(403);
    let shown = operations(&daemon, &["sessions", "show", "last"]);
    for part in ["POST", "/refunds", "no refunds"] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    let sessions = daemon.json_lines(&["sessions", "list", "--denied"]).unwrap();
    assert_eq!((sessions.len(), &sessions[0]["denied"]), (1, &1.into()), "{}", Value::from(sessions.clone()));
}

#[test]
fn a_body_beyond_what_is_kept_has_its_length_and_digest() {
    let daemon = daemon("[record]\nresult_bytes = \"64KiB\"\n");
    curl(&daemon, &["--output", "/dev/null", "https://api.shop.test:PORT/stream?mib=1"]);
    let digest = super::direct("say(sha256_of_stream(1))");
    let events = daemon
        .until(&["sessions", "show", "last"], |events| events.iter().any(|event| event["event"] == "outcome"))
        .unwrap();
    let text = Value::from(events).to_string();
    assert!(
        text.contains(digest.as_str().unwrap()),
        "no SHA-256 of the whole body in: {}",
        text.get(..3000).unwrap_or(&text)
    );
    assert!(text.len() < 600 * 1024, "{} bytes for at most 64 KiB of a body", text.len());
}

#[test]
fn a_clients_headers_are_recorded() {
    let daemon = masked();
    curl(&daemon, &["--header", "X-Trace: trace-17", "https://api.shop.test:PORT/status/200"]);
    // The first event has the command line, which names it, too.
    let mut events = daemon.json_lines(&["sessions", "show", "last"]).unwrap();
    events.retain(|event| event["event"] != "session_opened");
    let events = Value::from(events).to_string();
    assert!(events.contains("trace-17"), "{events}");
}
