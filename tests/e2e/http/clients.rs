//! Unchanged clients: each sees masked answers and otherwise notices nothing. Trust comes from the run's variables alone.

use harness::http::{TOKEN, port};

use super::{ALLOW, MASKS, agent, curl, python, server, web};

fn policy() -> String {
    format!("{ALLOW}{MASKS}")
}

fn looks_masked(text: &str, log: &str) {
    for kept in ["Ada", "Grace", "[redacted]"] {
        assert!(text.contains(kept), "no {kept} in {text}\n{log}");
    }
    for secret in ["4111", "5500005555555559", "ada@example.com", "078-05-1120"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn curl_speaks_both_versions_and_sees_masks() {
    let daemon = web(&policy());
    for (version, port) in [("--http1.1", port::TLS), ("--http1.1", port::HTTP2), ("--http2", port::HTTP2)] {
        let seen =
            curl(&daemon, &[version, "--write-out", "%{http_version}", &server().url(port, "/customers")]);
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        looks_masked(&seen.stdout, &daemon.log());
        let expected = if version == "--http2" { "2" } else { "1.1" };
        assert!(seen.stdout.ends_with(expected), "{}", seen.stdout);
    }
}

#[test]
fn python_libraries_see_masks() {
    let daemon = web(&policy());
    let seen = python(
        &daemon,
        r#"
import asyncio, json, sys, urllib.request
import aiohttp, httpx, requests
url = f"https://{sys.argv[1]}:8443/customers"
session = requests.Session()
for _ in range(3):
    print("requests", json.dumps(session.get(url).json()))
print("httpx", httpx.get(url).text)
with httpx.Client(http2=True) as client:
    response = client.get(f"https://{sys.argv[1]}:8444/customers")
    print("httpx2", response.http_version, response.text)
print("urllib", urllib.request.urlopen(url).read().decode())
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            print("aiohttp", await response.text())
asyncio.run(main())
"#,
    );
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    for library in ["requests", "httpx", "httpx2 HTTP/2", "urllib", "aiohttp"] {
        let line =
            seen.stdout.lines().find(|line| line.starts_with(library)).unwrap_or_else(|| panic!("{library}"));
        looks_masked(line, &daemon.log());
    }
}

#[test]
fn node_sees_masks() {
    let daemon = web(&policy());
    let node = agent(&daemon, &["sh", "-c", "command -v node || true"]);
    if node.stdout.trim().is_empty() {
        // Node.js is no need of the tests; where it is, it is tested.
        return;
    }
    let script = format!(
        "fetch('{}').then(r => r.text()).then(t => console.log(t))",
        server().url(port::TLS, "/customers")
    );
    let seen = agent(&daemon, &["node", "-e", &script]);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    looks_masked(&seen.stdout, &daemon.log());
}

#[test]
fn git_clones_and_pushes() {
    let daemon = web(&policy());
    let repository = server().folder().join("git/shop.git");
    let setup =
        format!("git init -q --bare {0} && git -C {0} config http.receivepack true", repository.display());
    assert!(std::process::Command::new("sh").args(["-c", &setup]).status().unwrap().success());
    let url = server().url(port::TLS, "/git/shop.git");
    let script = format!(
        "set -e; cd $(mktemp -d); export HOME=$PWD; git clone -q {url} a 2>&1; cd a; git checkout -q -b main; \
         git -c user.name=a -c user.email=a@b.c commit -q --allow-empty -m one; git push -q origin main; \
         cd ..; git clone -q -b main {url} b; git -C b log --format=%s"
    );
    let seen = agent(&daemon, &["sh", "-c", &script]);
    assert_eq!(seen.code, 0, "{}{}\n{}", seen.stdout, seen.stderr, daemon.log());
    assert_eq!(seen.stdout.lines().last(), Some("one"), "{}", seen.stdout);
}

#[test]
fn websockets_are_masked_message_by_message() {
    let daemon = web(&policy());
    let seen = python(
        &daemon,
        r#"
import asyncio, os, ssl, sys, websockets
async def main():
    trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    async with websockets.connect(f"wss://{sys.argv[1]}:8443/socket", ssl=trust, compression="deflate", max_size=None) as socket:
        print(await socket.recv())
        for text in ["hello", "my card 5500005555555559", "x" * 2000000]:
            await socket.send(text)
            print((await socket.recv())[:80])
        await socket.send(b"\x00\x01")
        print(await socket.recv())
asyncio.run(main())
"#,
    );
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!(lines[0], "welcome, your card is [redacted]");
    assert_eq!(lines[1], "you said: hello");
    assert_eq!(lines[2], "you said: my card [redacted]");
    assert!(lines[3].starts_with("you said: xxxx"));
    assert_eq!(lines[4], "b'\\x00\\x01'");
}

#[test]
fn the_credential_is_ours_and_not_the_agent_s() {
    let daemon = web(&policy());
    let url = server().url(port::TLS, "/echo/credential");
    let seen = curl(&daemon, &["--header", "Authorization: Bearer of-the-agent", &url]);
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    let got = server().requests("/echo/credential").unwrap();
    assert_eq!(got[0]["headers"]["authorization"], format!("Bearer {TOKEN}"));
    // The server sends its request back, and with it what the agent must not see.
    assert!(seen.stdout.contains("Bearer [redacted]") && !seen.stdout.contains(TOKEN), "{}", seen.stdout);
    let ended = |sessions: &[serde_json::Value]| sessions.iter().any(|one| one["ended_reason"] == "finished");
    daemon.until(&["sessions", "list"], ended).unwrap();
    let recorded = daemon.cli(&["sessions", "show", "last", "--json"]).unwrap().stdout;
    assert!(!recorded.contains(TOKEN), "{recorded}");
    assert!(recorded.contains("[\"authorization\",\"Bearer [redacted]\"]"), "{recorded}");
}

#[test]
fn grpc_calls_are_judged_by_method() {
    let rules = format!(
        "{MASKS}\n[[guard]]\nname = \"orders\"\non = \"http\"\ngrpc = [\"shop.Orders/Get\", \"shop.Orders/Watch\"]\naction = \"allow\"\n\
         [defaults]\nunknown = \"deny\"\n"
    );
    let daemon = web(&rules);
    let seen = python(
        &daemon,
        r#"
import grpc, sys
channel = grpc.secure_channel(f"{sys.argv[1]}:8447", grpc.ssl_channel_credentials())
print(channel.unary_unary("/shop.Orders/Get")(b"7", timeout=10))
print(list(channel.unary_stream("/shop.Orders/Watch")(b"", timeout=10)))
try:
    channel.unary_unary("/shop.Orders/Cancel")(b"7", timeout=10)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"#,
    );
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!(&lines[..2], ["b'order 7'", "[b'event 0', b'event 1', b'event 2']"], "{}", daemon.log());
    assert!(
        lines[2].starts_with("PERMISSION_DENIED") && lines[2].contains("shop.Orders/Cancel"),
        "{}",
        lines[2]
    );
    assert!(server().requests("Cancel").unwrap().is_empty());
}
