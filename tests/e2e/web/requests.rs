//! Requests and answers in every shape that RFC 9110 and RFC 9112 allow: each reaches the other side as it was meant.

use super::{answer, curl, daemon, direct, marker, masked, python, reached, server};

/// A raw connection's script gives the same directly and through Portcullis. Returns what it gave.
#[track_caller]
fn assert_same(script: &str) -> serde_json::Value {
    let clear = direct(script);
    assert_eq!(python(&masked(), script), clear);
    clear
}

#[test]
fn a_connection_is_kept_alive() {
    let seen = assert_same(
        r#"
with connect() as made:
    stream = made.makefile("rb")
    seen = []
    for n in range(20):
        made.sendall(f"GET /echo?n={n} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        status, headers, body, _ = answer(stream)
        seen.append([status, json.loads(body)["target"]])
say(seen)
"#,
    );
    assert_eq!(seen[19][1], "/echo?n=19");
}

#[test]
fn connection_close_is_kept_to() {
    assert_same(
        r#"
with connect() as made:
    made.sendall(f"GET /status/200 HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
    stream = made.makefile("rb")
    status, headers, body, _ = answer(stream)
    say([status, body.decode(), stream.read().decode()])
"#,
    );
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let seen = python(
        &masked(),
        r#"
with connect() as made:
    made.sendall(f"GET /status/200 HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
    stream = made.makefile("rb")
    status, headers, body, _ = answer(stream)
    # RFC 9112, 6.1: no chunks for a client of HTTP/1.0.
    say([status, body.decode(), "transfer-encoding" in headers, stream.read().decode()])
"#,
    );
    assert_eq!(seen, serde_json::json!([200, "status 200", false, ""]));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let seen = assert_same(
        r#"
with connect() as made:
    made.sendall(b"".join(
        f"POST /echo?n={n} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {len(str(n))}\r\n\r\n{n}".encode() for n in range(30)
    ))
    stream = made.makefile("rb")
    seen = []
    for n in range(30):
        status, headers, body, _ = answer(stream)
        seen.append([status, json.loads(body)["target"], json.loads(body)["body"]])
say(seen)
"#,
    );
    assert_eq!(seen[29], serde_json::json!([200, "/echo?n=29", "29"]));
}

#[test]
fn a_denied_request_in_a_pipeline_is_answered_in_its_place() {
    let daemon =
        daemon("[[guard]]\nname = \"no\"\non = \"http\"\npaths = [\"/forbidden\"]\naction = \"deny\"\n");
    let mark = marker("pipeline");
    let seen = python(
        &daemon,
        &format!(
            r#"
with connect() as made:
    made.sendall(b"".join(
        f"POST {{path}}?{mark} HTTP/1.1\r\nHost: {{NAME}}\r\nContent-Length: 5\r\n\r\nhello".encode()
        for path in ("/echo", "/forbidden", "/echo")
    ))
    stream = made.makefile("rb")
    say([answer(stream)[0] for _ in range(3)])
"#
        ),
    );
    assert_eq!(seen, serde_json::json!([200, 403, 200]));
    assert_eq!(reached(&mark), 2);
}

#[test]
fn chunks_go_both_ways() {
    let seen = assert_same(
        r#"
with connect() as made:
    made.sendall(f"POST /upload HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for n in range(100):
        piece = b"x" * (n + 1)
        made.sendall(b"%x;ext=1\r\n" % len(piece) + piece + b"\r\n")
    made.sendall(b"0\r\n\r\n")
    stream = made.makefile("rb")
    uploaded = json.loads(answer(stream)[2])
    made.sendall(f"GET /prose?mib=1 HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    status, headers, body, _ = answer(stream)
    say([uploaded, status, len(body), body.count(b"calm")])
"#,
    );
    assert_eq!(seen[0]["bytes"], 5050);
    assert_eq!(seen[3], 28_340);
}

#[test]
fn an_upload_byte_by_byte_arrives() {
    assert_same(
        r#"
made = connect()
for byte in f"POST /echo HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".encode():
    made.sendall(bytes([byte]))
say(json.loads(answer(made.makefile("rb"))[2])["body"])
"#,
    );
}

#[test]
fn trailers_of_a_request_and_of_an_answer_pass() {
    let seen = assert_same(
        r#"
with connect() as made:
    stream = made.makefile("rb")
    made.sendall(
        f"POST /echo HTTP/1.1\r\nHost: {NAME}\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\nhello\r\n0\r\nx-sum: 17\r\n\r\n".encode()
    )
    sent = json.loads(answer(stream)[2])
    made.sendall(f"GET /trailers HTTP/1.1\r\nHost: {NAME}\r\nTE: trailers\r\nConnection: TE\r\n\r\n".encode())
    status, headers, body, trailers = answer(stream)
    say([sent["body"], sent["trailers"], status, body.decode(), trailers])
"#,
    );
    assert_eq!(seen[1], serde_json::json!([["x-sum", "17"]]));
    assert_eq!(seen[4]["x-checksum"], "abc123");
}

#[test]
fn continue_is_said_before_a_large_body_is_sent() {
    let daemon = masked();
    // curl waits a minute for it here, and gives up on the test before.
    let arguments = [
        "--http1.1",
        "--expect100-timeout",
        "60",
        "--max-time",
        "30",
        "--header",
        "Expect: 100-continue",
        "--header",
        "Content-Type: application/octet-stream",
        "--data-binary",
        "@/usr/bin/git",
        "https://api.shop.test:PORT/upload",
    ];
    let length = std::fs::metadata("/usr/bin/git").unwrap().len();
    let seen: serde_json::Value = serde_json::from_str(&curl(&daemon, &arguments)).unwrap();
    assert_eq!(seen["bytes"], length);
}

#[test]
fn a_denied_upload_is_not_asked_for() {
    let daemon = daemon("[[guard]]\nname = \"no\"\non = \"http\"\nmethods = [\"POST\"]\naction = \"deny\"\n");
    let mark = marker("expect");
    let seen = python(
        &daemon,
        &format!(
            r#"
made = connect()
made.sendall(
    f"POST /upload?{mark} HTTP/1.1\r\nHost: {{NAME}}\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n".encode()
)
say(answer(made.makefile("rb"))[0])
"#
        ),
    );
    assert_eq!(seen, 403);
    assert_eq!(reached(&mark), 0);
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    assert_same(
        r#"
with connect() as made:
    stream = made.makefile("rb")
    seen = []
    for method in ("HEAD", "GET", "HEAD"):
        made.sendall(f"{method} /head HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        status, headers, body, _ = answer(stream, method)
        seen.append([status, headers["content-type"], headers["x-kind"], body.decode()])
say(seen)
"#,
    );
}

#[test]
fn answers_without_a_body_are_followed_by_others() {
    assert_same(
        r#"
with connect() as made:
    stream = made.makefile("rb")
    seen = []
    for code in (204, 304, 200, 404, 500, 204, 201):
        made.sendall(f"GET /status/{code} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        status, headers, body, _ = answer(stream)
        seen.append([status, body.decode(), headers.get("etag")])
say(seen)
"#,
    );
}

#[test]
fn every_method_reaches_the_server() {
    let daemon = masked();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT"] {
        let seen = answer(&daemon, &["--request", method, "https://api.shop.test:PORT/echo"]);
        assert_eq!((seen.status, &seen.json()["method"]), (200, &method.into()), "{seen:?}");
    }
}

#[test]
fn a_target_arrives_as_it_was_written() {
    let seen = assert_same(
        r#"
seen = []
for target in ("/a%20b/c%2Fd?x=%26&y=a+b&z", "/echo?", "/%C3%BC?q=%F0%9F%98%80", "/a;b=c/d,e?f=g;h", "/a/b/?x[]=1&x[]=2"):
    with connect() as made:
        made.sendall(f"GET {target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        seen.append(json.loads(answer(made.makefile("rb"))[2])["target"])
say(seen)
"#,
    );
    assert_eq!(seen[0], "/a%20b/c%2Fd?x=%26&y=a+b&z");
}

#[test]
fn hop_by_hop_headers_stay_on_their_hop() {
    let mark = marker("hop");
    python(
        &masked(),
        &format!(
            r#"
with connect() as made:
    made.sendall(
        f"GET /echo?{mark} HTTP/1.1\r\nHost: {{NAME}}\r\nConnection: keep-alive, x-private\r\nX-Private: mine\r\n"
        "Keep-Alive: timeout=5\r\nProxy-Authorization: Basic YTpi\r\nX-Public: ours\r\n\r\n".encode()
    )
    say(answer(made.makefile("rb"))[0])
"#
        ),
    );
    let request = &server().requests(&mark).unwrap()[0];
    // RFC 9110, 7.6.1.
    for name in ["x-private", "keep-alive", "proxy-authorization"] {
        assert_eq!(harness::web::header(request, name), None, "{request}");
    }
    assert_eq!(harness::web::header(request, "x-public"), Some("ours"));
}

#[test]
fn many_connections_at_once() {
    let seen = python(
        &masked(),
        r#"
import httpx
async def main():
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(verify=context(), timeout=60, limits=limits) as client:
        async def one(n):
            got = await client.post(f"{BASE}/echo?n={n}", content=f"body {n}")
            return got.status_code == 200 and got.json()["body"] == f"body {n}"
        say(sum(await asyncio.gather(*[one(n) for n in range(400)])))
asyncio.run(main())
"#,
    );
    assert_eq!(seen, 400);
}
