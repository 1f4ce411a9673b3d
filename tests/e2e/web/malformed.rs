//! Clients that break HTTP/1.1: each is told so or cut off, nothing that was not judged reaches the server, others are
//! served meanwhile, and memory stays as it is.

use harness::daemon::Daemon;
use serde_json::Value;

use super::{daemon, marker, peak_kb, python, reached, reset_peak, server};

/// What smuggled requests ask for is denied, so that one which reaches the server was not judged.
fn guarded() -> Daemon {
    daemon(
        "[[guard]]\nname = \"no smuggling\"\non = \"http\"\npaths = [\"/smuggled/**\"]\naction = \"deny\"\n",
    )
}

/// Sends bytes as they are and returns what came back before the other side closed or fell silent.
fn sent(daemon: &Daemon, bytes: &str) -> String {
    let script = format!(
        r#"
made = connect()
send(made, {bytes})
made.settimeout(3)
data = b""
try:
    while piece := made.recv(65536):
        data += piece
except (OSError, ssl.SSLError):
    pass
assert httpx_status() == 200
say(data.decode("latin-1"))
"#
    );
    let helper = "import httpx\ndef httpx_status():\n    return httpx.get(f'{BASE}/echo', verify=context()).status_code\n";
    let seen = python(daemon, &format!("{helper}{script}"));
    seen.as_str().unwrap().to_owned()
}

/// The status of the first answer; 0 when there was none.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Python bytes that are malformed in themselves: none may be answered otherwise than with an error, or reach the server.
#[track_caller]
fn assert_refused(cases: &[(&str, &str)]) {
    let daemon = guarded();
    for (what, bytes) in cases {
        let mark = marker("malformed");
        let answer = sent(&daemon, &bytes.replace("MARK", &mark));
        let status = status(&answer);
        assert!(status == 0 || (400..600).contains(&status), "{what}: {answer}");
        assert_eq!(reached(&mark), 0, "{what} reached the server: {answer}");
    }
}

#[test]
fn heads_that_no_client_may_send() {
    assert_refused(&[
        ("no version", r#"b"GET /MARK\r\nHost: api.shop.test\r\n\r\n""#),
        ("a version of the future", r#"b"GET /MARK HTTP/9.9\r\nHost: api.shop.test\r\n\r\n""#),
        ("no host", r#"b"GET /MARK HTTP/1.1\r\n\r\n""#),
        ("two hosts", r#"b"GET /MARK HTTP/1.1\r\nHost: api.shop.test\r\nHost: evil.test\r\n\r\n""#),
        ("a blank before the colon", r#"b"GET /MARK HTTP/1.1\r\nHost : api.shop.test\r\n\r\n""#),
        ("a control character", r#"b"GET /MARK HTTP/1.1\r\nHost: api.shop.test\r\nX: a\x00b\r\n\r\n""#),
        ("a header without a name", r#"b"GET /MARK HTTP/1.1\r\nHost: api.shop.test\r\n: x\r\n\r\n""#),
        ("a line without a colon", r#"b"GET /MARK HTTP/1.1\r\nHost: api.shop.test\r\nnonsense\r\n\r\n""#),
        ("a method of other characters", r#"b"G@T[ /MARK HTTP/1.1\r\nHost: api.shop.test\r\n\r\n""#),
        ("a target with a control character", r#"b"GET /MARK\x01 HTTP/1.1\r\nHost: api.shop.test\r\n\r\n""#),
        ("another protocol", r#"b"SSH-2.0-OpenSSH_9.2 MARK\r\n\r\n""#),
    ]);
}

#[test]
fn framing_that_no_client_may_send() {
    let post = |headers: &str, body: &str| {
        format!(r#"b"POST /MARK HTTP/1.1\r\nHost: api.shop.test\r\n{headers}\r\n\r\n{body}""#)
    };
    let cases = [
        ("two lengths", post(r"Content-Length: 5\r\nContent-Length: 6", "hello!")),
        ("a list of lengths", post("Content-Length: 5, 6", "hello!")),
        ("a length with a sign", post("Content-Length: +5", "hello")),
        ("a negative length", post("Content-Length: -5", "hello")),
        ("a length in hexadecimal", post("Content-Length: 0x5", "hello")),
        ("a length beyond counting", post("Content-Length: 99999999999999999999999", "hello")),
        ("an unknown coding", post("Transfer-Encoding: sideways", "hello")),
        ("chunked that is not last", post("Transfer-Encoding: chunked, gzip", r"5\r\nhello\r\n0\r\n\r\n")),
        ("chunked in disguise", post("Transfer-Encoding: xchunked", r"5\r\nhello\r\n0\r\n\r\n")),
    ];
    assert_refused(&cases.each_ref().map(|(what, bytes)| (*what, bytes.as_str())));
}

#[test]
fn a_body_with_broken_chunks_is_never_taken_for_whole() {
    let daemon = guarded();
    for (what, body) in [
        ("no number", r"zz\r\nhello\r\n0\r\n\r\n"),
        ("a chunk longer than it says", r"3\r\nhello\r\n0\r\n\r\n"),
        ("a size beyond counting", r"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("a negative size", r"-5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mark = marker("chunks");
        let answer = sent(
            &daemon,
            &format!(
                r#"b"POST /{mark} HTTP/1.1\r\nHost: api.shop.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}""#
            ),
        );
        let status = status(&answer);
        assert!(status == 0 || (400..600).contains(&status), "{what}: {answer}");
        let whole = |entry: &Value| entry["what"] == "body";
        assert!(!server().log(&mark).unwrap().iter().any(whole), "{what}: {answer}");
    }
}

#[test]
fn requests_that_could_be_read_in_two_ways_smuggle_nothing() {
    let daemon = guarded();
    for (what, headers, body) in [
        ("length before chunks", r"Content-Length: 6\r\nTransfer-Encoding: chunked", r"0\r\n\r\nSMUGGLED"),
        (
            "chunks before length",
            r"Transfer-Encoding: chunked\r\nContent-Length: 4",
            r"30\r\nSMUGGLED\r\n0\r\n\r\n",
        ),
        (
            "two codings",
            r"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 4",
            r"0\r\n\r\nSMUGGLED",
        ),
        (
            "a blank before the coding",
            r"Transfer-Encoding : chunked\r\nContent-Length: 5",
            r"0\r\n\r\nSMUGGLED",
        ),
        ("a tab", r"Transfer-Encoding:\tchunked\r\nContent-Length: 5", r"0\r\n\r\nSMUGGLED"),
        ("a vertical tab", r"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5", r"0\r\n\r\nSMUGGLED"),
        (
            "a folded line",
            r"X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5",
            r"0\r\n\r\nSMUGGLED",
        ),
        (
            "a bare line feed",
            r"X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 5",
            r"0\r\n\r\nSMUGGLED",
        ),
        ("a body of GET", r"Content-Length: 0\r\nContent-Length: 70", "SMUGGLED"),
    ] {
        let mark = marker("smuggled");
        let second = format!(r"GET /smuggled/{mark} HTTP/1.1\r\nHost: api.shop.test\r\n\r\n");
        let bytes = format!(r#"b"POST /echo HTTP/1.1\r\nHost: api.shop.test\r\n{headers}\r\n\r\n{body}""#);
        let answer = sent(&daemon, &bytes.replace("SMUGGLED", &second));
        let path = format!("/smuggled/{mark}");
        let arrived = server().requests(&path).unwrap();
        assert!(!arrived.iter().any(|request| request["target"] == path), "{what}: {answer}");
    }
}

#[test]
fn heads_without_end_are_ended() {
    let mut daemon = guarded();
    sent(&daemon, r#"b"GET /echo HTTP/1.1\r\nHost: api.shop.test\r\nConnection: close\r\n\r\n""#);
    let pid = daemon.pid();
    let before = reset_peak(pid);
    for (what, bytes) in [
        (
            "a header of 16 MiB",
            r#"b"GET /MARK HTTP/1.1\r\nHost: api.shop.test\r\nX: " + b"x" * (16 << 20) + b"\r\n\r\n""#,
        ),
        (
            "a target of 16 MiB",
            r#"b"GET /MARK" + b"x" * (16 << 20) + b" HTTP/1.1\r\nHost: api.shop.test\r\n\r\n""#,
        ),
        (
            "100,000 headers",
            r#"b"GET /MARK HTTP/1.1\r\nHost: api.shop.test\r\n" + b"X: y\r\n" * 100000 + b"\r\n""#,
        ),
        ("16 MiB of a method", r#"b"MARK" * (4 << 20)"#),
        ("16 MiB of empty lines", r#"b"\r\n" * (8 << 20) + b"MARK""#),
    ] {
        let mark = marker("endless");
        let answer = sent(&daemon, &bytes.replace("MARK", &mark));
        let status = status(&answer);
        assert!(status == 0 || (400..600).contains(&status), "{what}: {answer}");
        assert_eq!(reached(&mark), 0, "{what}");
    }
    let grown = peak_kb(pid).saturating_sub(before);
    assert!(grown < 32 * 1024, "{before} kB grew by {grown} kB");
}

#[test]
fn a_client_that_stops_in_the_middle_leaves_nothing_behind() {
    let daemon = guarded();
    let mark = marker("cut");
    let seen = python(
        &daemon,
        &format!(
            r#"
import httpx
request = f"POST /{mark} HTTP/1.1\r\nHost: {{NAME}}\r\nContent-Length: 100\r\n\r\n".encode() + b"x" * 99
for end in (1, 10, 30, len(request) - 99, len(request) - 1, len(request)):
    made = connect()
    made.sendall(request[:end])
    made.close()
say(httpx.get(f"{{BASE}}/echo", verify=context()).status_code)
"#
        ),
    );
    assert_eq!(seen, 200);
    let whole = server().log(&mark).unwrap().into_iter().filter(|entry| entry["what"] == "body").count();
    assert_eq!(whole, 0, "a body of 99 bytes is not one of 100");
    // All of them end on record.
    daemon
        .until(&["sessions", "list"], |sessions| {
            sessions.iter().all(|session| !session["ended_reason"].is_null())
        })
        .unwrap();
}
