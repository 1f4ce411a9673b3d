//! What is recorded of exchanges, and how it is read.

use serde_json::Value;

use super::{ALLOW, MASKS, python, server, web};

#[test]
fn an_exchange_can_be_read_replayed_and_exported() {
    let daemon = web(&format!(
        "{ALLOW}{MASKS}\n[[guard]]\nname = \"no deletes\"\non = \"http\"\nmethods = [\"DELETE\"]\naction = \"deny\"\n"
    ));
    let script = format!(
        "import http.client, ssl\nconnection = http.client.HTTPSConnection('{address}', 8443)\n\
         headers = {{'Content-Type': 'application/json', 'X-Api-Key': 'k-' + 'secret'}}\n\
         connection.request('POST', '/back?type=application/json', '{{\"card\": \"' + '4111' * 1 + '111111111111\", \"n\": 1}}', headers)\n\
         connection.getresponse().read()\nconnection.request('DELETE', '/echo/gone')\nconnection.getresponse().read()\n",
        address = server().address()
    );
    let seen = python(&daemon, &script);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let listed = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert_eq!((&listed[0]["operations"], &listed[0]["denied"]), (&2.into(), &1.into()), "{listed:?}");
    let shown = daemon.cli(&["sessions", "show", "last"]).unwrap().stdout;
    for part in [
        "(http, ",
        "post (write) allowed by default",
        "POST https://",
        "200 OK",
        "application/json",
        "\"[redacted]\"",
        "refused by no deletes",
        "told: 403",
        "masked by payment-card",
    ] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    assert!(!shown.contains("k-secret") && !shown.contains("4111"), "{shown}");
    let replayed = daemon.cli(&["replay", "last", "--speed", "max"]).unwrap();
    assert!(replayed.stdout.contains("POST https://"), "{}", replayed.stdout);
    let har = daemon.cli(&["sessions", "export", "last", "--format", "har"]).unwrap();
    let har: Value =
        serde_json::from_str(&har.stdout).unwrap_or_else(|error| panic!("{error}: {}", har.stdout));
    let entries = har["log"]["entries"].as_array().unwrap();
    assert_eq!((har["log"]["version"].as_str(), entries.len()), (Some("1.2"), 2));
    for entry in entries {
        for field in ["startedDateTime", "time", "request", "response", "cache", "timings"] {
            assert!(!entry[field].is_null(), "{field} in {entry}");
        }
        for field in
            ["method", "url", "httpVersion", "cookies", "headers", "queryString", "headersSize", "bodySize"]
        {
            assert!(!entry["request"][field].is_null(), "{field} in {entry}");
        }
        for field in [
            "status",
            "statusText",
            "httpVersion",
            "cookies",
            "headers",
            "content",
            "redirectURL",
            "headersSize",
            "bodySize",
        ] {
            assert!(!entry["response"][field].is_null(), "{field} in {entry}");
        }
    }
    assert_eq!(entries[0]["request"]["postData"]["text"], "{\"card\": \"[redacted]\", \"n\": 1}");
    assert_eq!(entries[0]["response"]["status"], 200);
    assert_eq!(entries[1]["response"]["status"], 403);
    assert_eq!(entries[0]["_portcullis"]["rule"], "default");
}
