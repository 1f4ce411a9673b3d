//! What goes wrong: servers that lie, die or cannot be trusted, clients that break the rules.

use harness::http::port;

use super::{ALLOW, MASKS, agent, answer, curl, curl_meanwhile, python, server, web};

#[test]
fn a_server_that_cannot_be_trusted_is_told_in_words() {
    let daemon = web(ALLOW);
    for (port, words) in [
        (port::OTHER_NAME, "it is not for"),
        (port::EXPIRED, "expired"),
        (port::UNKNOWN_ROOT, "no trusted root signed it"),
        (port::CLOSED, "refused the connection"),
    ] {
        for version in ["--http1.1", "--http2"] {
            let seen = curl(&daemon, &["--include", version, &server().url(port, "/echo/untrusted")]);
            let (code, body) = answer(&seen);
            assert_eq!(code, 502, "{port}: {}{}\n{}", seen.stdout, seen.stderr, daemon.log());
            assert!(body.contains(words), "{port}: {body}");
        }
    }
    assert!(server().requests("/echo/untrusted").unwrap().is_empty());
}

#[test]
fn a_server_that_breaks_the_rules_is_a_bad_gateway_or_a_cut() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    for (path, whole) in [
        ("/lengths", true),
        ("/nothing", true),
        ("/garbage", true),
        ("/head", true),
        ("/fields", true),
        ("/chunk", false),
        ("/short", false),
    ] {
        let seen = curl(&daemon, &["--include", &server().url(port::BROKEN, path)]);
        if whole {
            assert_eq!(answer(&seen).0, 502, "{path}: {}{}\n{}", seen.stdout, seen.stderr, daemon.log());
        } else {
            assert!(
                seen.code != 0 || answer(&seen).0 == 502,
                "{path}: a cut answer passed for whole: {}",
                seen.stdout
            );
        }
    }
    // Others are not touched.
    assert_eq!(curl(&daemon, &[&server().url(port::PLAIN, "/text")]).code, 0);
}

#[test]
fn a_client_that_breaks_the_rules_gets_an_error_and_nothing_passes() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    let seen = python(
        &daemon,
        r#"
import socket, sys
host = sys.argv[1].encode()
def ask(head, body=b""):
    s = socket.create_connection((sys.argv[1], 8080)); s.settimeout(10)
    try:
        s.sendall(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)
        data = b""
        while True:
            piece = s.recv(65536)
            if not piece: break
            data += piece
            if b"\r\n\r\n" in data: break
    except (ConnectionError, TimeoutError) as error:
        return type(error).__name__
    return data[9:12].decode() or "closed"
H = b"\nHost: " + host + b":8080"
print("lengths", ask(b"POST /echo/smuggle HTTP/1.1" + H + b"\nContent-Length: 3\nContent-Length: 5", b"abcde"))
print("sign", ask(b"POST /echo/smuggle HTTP/1.1" + H + b"\nContent-Length: +3", b"abc"))
print("coding", ask(b"POST /echo/smuggle HTTP/1.1" + H + b"\nTransfer-Encoding: xchunked", b"0\r\n\r\n"))
print("nohost", ask(b"GET /echo/smuggle HTTP/1.1"))
print("hosts", ask(b"GET /echo/smuggle HTTP/1.1" + H + b"\nHost: other"))
print("dots", ask(b"GET /echo/smuggle/../admin HTTP/1.1" + H))
print("encoded", ask(b"GET /echo/smuggle/%2e%2e/admin HTTP/1.1" + H))
print("fold", ask(b"GET /echo/smuggle HTTP/1.1" + H + b"\nX-A: b\n c"))
print("space", ask(b"GET /echo/smuggle HTTP/1.1" + H + b"\nX-A : b"))
print("fields", ask(b"GET /echo/smuggle HTTP/1.1" + H + b"".join(b"\nX-%d: 1" % n for n in range(1000))))
print("giant", ask(b"GET /echo/smuggle HTTP/1.1" + H + b"\nX-A: " + b"a" * 1000000))
print("garbage", ask(b"\x00\x01\x02 nonsense"))
print("connect", ask(b"CONNECT example.com:443 HTTP/1.1\nHost: example.com:443"))
print("both", ask(b"POST /echo/chunked-wins HTTP/1.1" + H + b"\nContent-Length: 3\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"))
print("fine", ask(b"GET /echo/fine HTTP/1.1" + H))
"#,
    );
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    for line in seen.stdout.lines() {
        let (name, got) = line.split_once(' ').unwrap();
        match name {
            "fine" => assert_eq!(got, "200"),
            // Whatever the length says, the chunks count, and only they are sent on.
            "both" => assert!(got == "200" || got == "400", "{line}"),
            // No connection names the target.
            "connect" => assert_eq!(got, "403"),
            _ => assert!(
                ["400", "421", "431", "closed", "ConnectionResetError", "BrokenPipeError"].contains(&got),
                "{line}"
            ),
        }
    }
    assert!(server().requests("smuggle").unwrap().is_empty(), "{:?}", server().requests("smuggle"));
    for request in server().requests("chunked-wins").unwrap() {
        assert_eq!(request["body"], "hello");
        assert!(request["headers"].get("content-length").is_none(), "{request}");
    }
}

#[test]
fn floods_of_http2_frames_are_cut_off_and_others_go_on() {
    let mut daemon = web(&format!("{ALLOW}{MASKS}"));
    let pid = daemon.pid();
    let seen = python(
        &daemon,
        r#"
import os, socket, ssl, sys
import h2.config, h2.connection
def connect():
    trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]); trust.set_alpn_protocols(["h2"])
    s = trust.wrap_socket(socket.create_connection((sys.argv[1], 8444)), server_hostname=sys.argv[1]); s.settimeout(10)
    c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True)); c.initiate_connection(); s.sendall(c.data_to_send())
    return s, c
head = [(":method", "GET"), (":scheme", "https"), (":authority", sys.argv[1] + ":8444"), (":path", "/echo/flood")]
def outcome(s, send):
    try:
        send()
        while True:
            if not s.recv(65536): return "closed"
    except (ConnectionError, ssl.SSLError, BrokenPipeError, OSError) as error:
        return "closed" if not isinstance(error, TimeoutError) else "open"
s, c = connect()
def resets():
    for n in range(5000):
        c.send_headers(1 + 2 * n, head); c.reset_stream(1 + 2 * n)
        if n % 50 == 0: s.sendall(c.data_to_send())
    s.sendall(c.data_to_send())
print("resets", outcome(s, resets))
s, c = connect()
def continuations():
    def frame(kind, flags, stream, body): return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
    s.sendall(frame(1, 0, 1, b"\x82"))
    for _ in range(20000): s.sendall(frame(9, 0, 1, b"\x00\x01a\x01b" * 200))
print("continuations", outcome(s, continuations))
s, c = connect()
def settings():
    for _ in range(100000): s.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
print("garbage", outcome(s, lambda: s.sendall(b"\xff" * 100000)))
"#,
    );
    assert_eq!(
        seen.stdout.lines().collect::<Vec<_>>(),
        ["resets closed", "continuations closed", "garbage closed"],
        "{}\n{}",
        seen.stderr,
        daemon.log()
    );
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 150 * 1024, "{peak}");
    assert_eq!(curl(&daemon, &["--http2", &server().url(port::HTTP2, "/text")]).code, 0);
}

#[test]
fn tls_is_wanted_unless_the_policy_says_otherwise() {
    let daemon = web(ALLOW);
    let url = format!("http://{}:8443/echo/clear", server().address());
    let seen = curl(&daemon, &["--include", &url]);
    assert_eq!(answer(&seen).0, 400, "{}", seen.stdout);
    assert!(seen.stdout.contains("wants TLS"), "{}", seen.stdout);
    assert!(server().requests("/echo/clear").unwrap().is_empty());
    let plain = curl(&daemon, &["--include", &server().url(port::PLAIN, "/echo/plain")]);
    assert_eq!(answer(&plain).0, 200, "{}", plain.stdout);
}

#[test]
fn what_is_passed_through_is_counted_and_not_read() {
    let daemon = harness::daemon::Daemon::prepare(&[(
        "web",
        &format!(
            "version = 1\nname = \"web\"\n[[connection]]\nname = \"through\"\nto = [\"{}:8443\"]\nprotocol = \"http\"\ntls = \"passthrough\"\n",
            server().address()
        ),
    )])
    .unwrap();
    let mut daemon = daemon;
    daemon.launch().unwrap();
    let name = format!("{}:8443:{}", harness::http::NAME, server().address());
    let url = format!("https://{}:8443/echo/through", harness::http::NAME);
    let ca = server().folder().join("public-ca.pem");
    std::fs::copy(server().ca(), &ca).unwrap();
    std::process::Command::new("chmod").arg("755").arg(server().folder()).status().unwrap();
    let seen = curl(&daemon, &["--resolve", &name, "--cacert", &ca.to_string_lossy(), &url]);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    daemon
        .until(&["sessions", "list"], |sessions| {
            // A client that leaves with something unread resets its connection.
            sessions
                .iter()
                .any(|session| ["finished", "lost"].iter().any(|how| session["ended_reason"] == *how))
        })
        .unwrap();
    let shown = daemon.cli(&["sessions", "show", "last"]).unwrap();
    let shown = format!("{}{}", shown.stdout, shown.stderr);
    assert!(shown.contains("TLS passed through, for \"api.shop.test\""), "{shown}");
    assert!(!shown.contains("/echo/through"), "{shown}");
}

#[test]
fn nobody_reaches_what_no_connection_names() {
    let daemon = web(ALLOW);
    for url in
        [format!("https://{}:8470/", server().address()), format!("http://{}:8471/", server().address())]
    {
        let seen = curl(&daemon, &["--include", &url]);
        assert_eq!(answer(&seen).0, 403, "{url}: {}{}", seen.stdout, seen.stderr);
        assert!(seen.stdout.contains("no connection of policy"), "{}", seen.stdout);
    }
}

#[test]
fn a_daemon_that_dies_cuts_its_downloads_short() {
    let mut daemon = web(ALLOW);
    let mut client = curl_meanwhile(
        &daemon,
        &["--limit-rate", "1M", "-o", "/dev/null", &server().url(port::TLS, "/stream?bytes=300000000")],
    );
    daemon
        .until(&["sessions", "list"], |sessions| sessions.iter().any(|session| session["operations"] == 1))
        .unwrap();
    daemon.kill().unwrap();
    client.until(|line| line.starts_with("status")).unwrap();
    let seen = client.finish().unwrap();
    assert_ne!(seen.code, 0, "a cut download passed for whole");
    daemon.launch().unwrap();
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert_eq!(sessions[0]["ended_reason"], "daemon_died", "{sessions:?}");
    let again = agent(&daemon, &["curl", "-sS", &server().url(port::TLS, "/text")]);
    assert_eq!(again.code, 0, "{}", again.stderr);
}
