//! Bodies of every shape pass, unchanged where nothing is masked, and memory stays flat.

use std::io::{Read as _, Write as _};

use harness::http::port;

use super::{ALLOW, MASKS, answer, curl, curl_meanwhile, python, server, web};

#[test]
fn messages_of_every_shape_pass() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    let url = |target: &str| server().url(port::TLS, target);
    let seen = curl(&daemon, &["--include", "--head", &url("/echo/head")]);
    assert_eq!(answer(&seen), (200, String::new()), "{}", daemon.log());
    for code in ["204", "304", "404", "500"] {
        let seen = curl(&daemon, &["--include", &url(&format!("/status/{code}"))]);
        assert_eq!(answer(&seen).0.to_string(), code, "{}", seen.stderr);
    }
    let chunked = [
        "--include",
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "@/etc/passwd",
        &url("/echo/chunked"),
    ];
    assert_eq!(answer(&curl(&daemon, &chunked)).0, 200);
    let expect = [
        "--include",
        "--http1.1",
        "-H",
        "Expect: 100-continue",
        "--data-binary",
        "@/etc/passwd",
        &url("/echo/expect"),
    ];
    let seen = curl(&daemon, &expect);
    assert!(seen.stdout.contains("200 OK"), "{}", seen.stdout);
    let passwd = std::fs::read("/etc/passwd").unwrap();
    for mark in ["/echo/chunked", "/echo/expect"] {
        assert_eq!(server().requests(mark).unwrap()[0]["length"], passwd.len(), "{mark}");
    }
    // The server's trailers come through to a client that takes them.
    let script = r#"
import http.client, sys, socket
s = socket.create_connection((sys.argv[1], 8460)); s.sendall(b"GET /trailers HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
data = b""
while b"42" not in data:
    piece = s.recv(4096)
    if not piece: break
    data += piece
print(data.decode())
"#;
    let seen = python(&daemon, script);
    let recorded = daemon.cli(&["sessions", "show", "last"]).unwrap().stdout;
    assert!(seen.stdout.to_lowercase().contains("x-sum: 42"), "{}{recorded}", seen.stdout);
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    let seen = python(
        &daemon,
        r#"
import socket, sys
s = socket.create_connection((sys.argv[1], 8080))
s.sendall(b"".join(b"GET /echo/ahead?n=%d HTTP/1.1\r\nHost: %s:8080\r\n\r\n" % (n, sys.argv[1].encode()) for n in range(5)))
data = b""
while data.count(b"HTTP/1.1 200") < 5 or not data.rstrip().endswith(b"}"):
    data += s.recv(65536)
print([data.index(b"n=%d" % n) for n in range(5)] == sorted(data.index(b"n=%d" % n) for n in range(5)))
"#,
    );
    assert_eq!(seen.stdout.trim(), "True", "{}\n{}", seen.stderr, daemon.log());
}

#[test]
fn coded_answers_are_decoded_and_masked() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    for coding in ["gzip", "deflate", "br", "zstd", "identity"] {
        let url = server().url(port::TLS, &format!("/coded/{coding}"));
        let seen = curl(&daemon, &["--include", "-H", "Accept-Encoding: gzip, br, zstd, deflate", &url]);
        let (code, body) = answer(&seen);
        assert_eq!(code, 200, "{coding}: {}{}\n{}", seen.stdout, seen.stderr, daemon.log());
        assert!(
            body.contains("Ada") && body.contains("[redacted]") && !body.contains("4111"),
            "{coding}: {body}"
        );
        assert!(!seen.stdout.to_lowercase().contains("content-encoding"), "{coding}");
    }
    let seen = curl(&daemon, &["--include", &server().url(port::TLS, "/coded/compress")]);
    assert_eq!(answer(&seen).0, 502, "{}", seen.stdout);
}

#[test]
fn events_come_at_once_and_their_secrets_do_not() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    let mut client = curl_meanwhile(&daemon, &["--no-buffer", &server().url(port::TLS, "/ticks")]);
    // The second tick is only sent once the first was seen.
    client.until(|line| line == "data: first tick").unwrap();
    assert_eq!(curl(&daemon, &[&server().url(port::TLS, "/go-on")]).stdout, "going on\n");
    client.until(|line| line == "data: second tick").unwrap();
    let seen = curl(&daemon, &[&server().url(port::TLS, "/events")]);
    let said: String = seen
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line.strip_prefix("data: ")?).ok())
        .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(said, "Hello Ada, the key is [redacted] so keep it.", "{}", seen.stdout);
}

#[test]
fn a_large_download_is_unchanged_and_costs_no_memory() {
    const BYTES: u64 = 256 * 1024 * 1024;
    let mut daemon = web(&format!("{ALLOW}{MASKS}"));
    let warm = curl(&daemon, &["-o", "/dev/null", &server().url(port::TLS, "/stream?bytes=1000000")]);
    assert_eq!(warm.code, 0, "{}", warm.stderr);
    let before = peak_memory(daemon.pid());
    let url = server().url(port::TLS, &format!("/stream?bytes={BYTES}"));
    let seen = super::agent(
        &daemon,
        &[
            "sh",
            "-c",
            &format!(
                "curl -sS --max-time 120 {url} | sha256sum; curl -sS --max-time 120 -o /dev/null -w '%{{size_download}}' {url}"
            ),
        ],
    );
    let block = b"The quick brown fox jumps over the lazy dog, again and again. ".repeat(1100);
    let expected = sha256_of_repeated(&block[..65536], BYTES);
    assert!(seen.stdout.starts_with(&expected), "{} {}", seen.stdout, daemon.log());
    assert!(seen.stdout.ends_with(&BYTES.to_string()), "{}", seen.stdout);
    let grown = peak_memory(daemon.pid()) - before;
    assert!(grown < 32 * 1024, "{grown} kB more");
}

/// `VmHWM` of a process, in kB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// By sha256sum(1), so that the tests need no digest of their own.
fn sha256_of_repeated(block: &[u8], total: u64) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut left = total;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        stdin.write_all(&block[..piece]).unwrap();
        left -= piece as u64;
    }
    drop(stdin);
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.wait().unwrap();
    out.get(..64).unwrap().to_owned()
}

#[test]
fn what_goes_out_is_masked_when_the_policy_says_so() {
    let daemon = web(&format!(
        "{ALLOW}\n[[mask]]\non = \"http\"\ndetect = [\"payment-card\"]\ndirection = \"request\"\nwith = \"redact\"\n\
         \n[[mask]]\non = \"http\"\njson = [\"$.secret\"]\ndirection = \"request\"\nwith = \"redact\"\n"
    ));
    let url = server().url(port::TLS, "/echo/outgoing");
    let body = "{\"prompt\": \"card 4111 1111 1111 1111\", \"secret\": \"s\"}";
    let json = ["-H", "Content-Type: application/json", "--data", body, &url];
    assert_eq!(curl(&daemon, &json).code, 0);
    let got = &server().requests("/echo/outgoing").unwrap()[0];
    assert_eq!(got["body"], "{\"prompt\": \"card [redacted]\", \"secret\": \"[redacted]\"}");
    let in_url =
        curl(&daemon, &["--include", &server().url(port::TLS, "/echo/outgoing-url?card=4111111111111111")]);
    assert_eq!(answer(&in_url).0, 403, "{}", in_url.stdout);
    assert!(server().requests("/echo/outgoing-url").unwrap().is_empty());
}

#[test]
fn a_body_too_long_to_look_into_follows_the_policy() {
    let guard = "\n[[guard]]\nname = \"amounts\"\non = \"http\"\njson = [\"$.amount\"]\naction = \"deny\"\n";
    for (uninspected, expected) in [("deny", 403), ("allow", 200)] {
        let daemon = web(&format!(
            "[defaults]\nwrite = \"allow\"\ninspect_bytes = \"1KiB\"\nuninspected = \"{uninspected}\"\n{guard}"
        ));
        let target = format!("/echo/long-{uninspected}");
        let url = server().url(port::TLS, &target);
        let seen = super::agent(
            &daemon,
            &[
                "sh",
                "-c",
                &format!("head -c 5000 /dev/zero | tr '\\0' x | curl -sS -i --data-binary @- {url}"),
            ],
        );
        assert_eq!(answer(&seen).0, expected, "{}\n{}", seen.stdout, daemon.log());
        assert_eq!(server().requests(&target).unwrap().len(), usize::from(expected == 200));
        if expected == 200 {
            let ended =
                |sessions: &[serde_json::Value]| sessions.iter().any(|one| one["ended_reason"] == "finished");
            daemon.until(&["sessions", "list"], ended).unwrap();
            let shown = daemon.cli(&["sessions", "show", "last"]).unwrap().stdout;
            assert!(shown.contains("could not be looked into"), "{shown}");
        }
    }
}
