//! `tls` of a connection: intercepted, passed through unread, or none.

use std::fs;

use harness::web::Port;
use harness::web::client::Way;
use harness::web::policy::{ALLOW, MASKS, intercepted, with_tls};

use super::{answer_at, daemon_of, marker, python, reached, server};

#[test]
fn passthrough_is_the_servers_own_tls_and_is_counted() {
    let daemon = daemon_of(&[with_tls(server(), Port::Https, "passthrough")], &format!("{MASKS}{ALLOW}"));
    let ca = server().ca().display().to_string();
    for version in ["--http1.1", "--http2"] {
        // The server's certificate, not one of Portcullis's.
        let arguments = [version, "--cacert", &ca, "https://api.shop.test:PORT/planted"];
        let seen = Way::Governed(&daemon).curled(server(), Port::Https, &arguments).unwrap();
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        assert!(seen.stdout.contains("customer1@planted.example"), "unread: {}", seen.stdout);
    }
    let sessions = daemon
        .until(&["sessions", "list"], |sessions| {
            sessions.len() == 2 && sessions.iter().all(|session| !session["ended_reason"].is_null())
        })
        .unwrap();
    for session in &sessions {
        assert!(session["bytes_to_client"].as_u64().is_some_and(|bytes| bytes > 300), "{session}");
        assert!(session["bytes_to_upstream"].as_u64().is_some_and(|bytes| bytes > 100), "{session}");
    }
    // What is not read is not kept.
    super::disk::assert_kept_nowhere(&daemon, &["customer1@"]);
}

#[test]
fn plain_http_is_judged_and_masked() {
    let guard = "[[guard]]\nname = \"the rule\"\non = \"http\"\npaths = [\"/admin/**\"]\naction = \"deny\"\n";
    let daemon = daemon_of(&[with_tls(server(), Port::Plain, "plain")], &format!("{guard}{MASKS}{ALLOW}"));
    let seen = answer_at(&daemon, Port::Plain, &["http://api.shop.test:PORT/planted"]);
    assert_eq!(seen.json()["customers"][0]["ssn"], "[redacted]");
    assert!(!seen.body.contains("customer1@"), "{seen:?}");
    let mark = marker("plain");
    let denied = answer_at(&daemon, Port::Plain, &[&format!("http://api.shop.test:PORT/admin/a?{mark}")]);
    assert_eq!(denied.problem(403)["rule"], "the rule");
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_client_without_tls_gets_nothing_where_it_is_intercepted() {
    let daemon = daemon_of(&[intercepted(server(), Port::Https)], ALLOW);
    let mark = marker("no-tls");
    let arguments = ["--max-time", "20", &format!("http://api.shop.test:PORT/echo?{mark}")];
    let seen = Way::Governed(&daemon).curled(server(), Port::Https, &arguments).unwrap();
    assert!(!seen.stdout.contains("\"method\""), "{}", seen.stdout);
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_client_with_tls_gets_nothing_where_it_is_plain() {
    let daemon = daemon_of(&[with_tls(server(), Port::Plain, "plain")], ALLOW);
    let arguments = ["--max-time", "20", "https://api.shop.test:PORT/echo"];
    let seen = Way::Governed(&daemon).curled(server(), Port::Plain, &arguments).unwrap();
    assert_ne!(seen.code, 0, "{}", seen.stdout);
}

#[test]
fn both_versions_are_offered_and_the_client_chooses() {
    let daemon = daemon_of(&[intercepted(server(), Port::Https)], ALLOW);
    let seen = python(
        &daemon,
        r#"
seen = []
for offered in (["h2", "http/1.1"], ["http/1.1"], ["h2"], []):
    made = context(*offered).wrap_socket(socket.create_connection((HOST, HTTPS), timeout=30), server_hostname=NAME)
    seen.append(made.selected_alpn_protocol())
    if seen[-1] != "h2":
        made.sendall(f"GET /echo HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        assert answer(made.makefile("rb"))[0] == 200
say(seen)
"#,
    );
    assert_eq!(seen, serde_json::json!(["h2", "http/1.1", "h2", null]));
}

#[test]
fn a_client_of_http_2_reaches_a_server_that_speaks_only_http_1() {
    let daemon = daemon_of(&[intercepted(server(), Port::H1)], ALLOW);
    for version in ["--http2", "--http1.1"] {
        let mark = marker("only-h1");
        let url = format!("https://api.shop.test:PORT/echo?{mark}");
        let seen = answer_at(&daemon, Port::H1, &[version, "--data", "hello", &url]);
        assert_eq!((seen.status, &seen.json()["body"]), (200, &"hello".into()), "{version}: {seen:?}");
        assert_eq!(server().requests(&mark).unwrap()[0]["version"], "1.1");
    }
}

#[test]
fn a_client_that_brings_its_own_certificate_is_told_that_it_goes_no_further() {
    let daemon = daemon_of(&[intercepted(server(), Port::Https)], ALLOW);
    let made = rcgen::generate_simple_self_signed(vec!["agent".to_owned()]).unwrap();
    let (certificate, key) = (daemon.folder().join("agent.crt"), daemon.folder().join("agent.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let mark = marker("own-certificate");
    for version in ["--http1.1", "--http2", "--tls-max 1.2"] {
        let url = format!("https://api.shop.test:PORT/echo?{mark}");
        let mut arguments: Vec<&str> = version.split(' ').collect();
        arguments.extend(["--cert", &certificate, "--key", &key, &url]);
        let problem = answer_at(&daemon, Port::Https, &arguments).problem(403);
        assert!(problem["detail"].as_str().unwrap().contains("certificate of its own"), "{problem}");
        assert!(problem["hint"].as_str().unwrap().contains("client_cert"), "{problem}");
    }
    assert_eq!(reached(&mark), 0);
}
