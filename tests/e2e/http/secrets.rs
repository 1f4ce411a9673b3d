//! Ten thousand planted secrets, in bodies of every kind and coding: none reaches the client or the disk.

use super::{ALLOW, MASKS, python, web};

/// The server sends back what it is sent, in small pieces, or message by message.
const SCRIPT: &str = r#"
import asyncio, json, os, random, ssl, sys, urllib.parse
import aiohttp, websockets
SECRETS = ["4111 1111 1111 1111", "5500005555555559", "DE89 3704 0044 0532 0130 00", "ada.lovelace@analytical.example.org",
  "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789", "AKIA" + "IOSFODNN7EXAMPLE", "glpat-" + "abcdefghij0123456789",
  "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"]
random.seed(7)
leaks, count = [], 0
def noise():
    return " ".join(random.choice(["lorem", "ipsum", "12", "x-y", "a.b"]) for _ in range(random.randrange(5)))
def plant(kind):
    texts = [f"{noise()} {random.choice(SECRETS)} {noise()}" for _ in range(50)]
    if kind == "json":
        return "application/json", json.dumps({"notes": texts}, ensure_ascii=random.random() < .5)
    if kind == "escaped":
        return "application/json", '{"notes":[' + ",".join('"' + "".join("\\u%04x" % ord(c) for c in t) + '"' for t in texts) + "]}"
    if kind == "form":
        return "application/x-www-form-urlencoded", urllib.parse.urlencode([("note", t) for t in texts])
    if kind == "events":
        return "text/event-stream", "".join("data: " + json.dumps({"delta": {"text": t[i:i+5]}}) + "\n\n" for t in texts for i in range(0, len(t), 5)) 
    return "text/plain", "\n".join(texts)
def said(kind, body):
    if kind in ("json", "escaped"):
        return "\n".join(json.loads(body)["notes"])
    if kind == "form":
        return urllib.parse.unquote_plus(body)
    if kind == "events":
        return "".join(json.loads(line[6:])["delta"]["text"] for line in body.splitlines() if line.startswith("data: "))
    return body
async def main():
    global count
    async with aiohttp.ClientSession() as session:
        for round in range(40):
            for kind in ["json", "escaped", "form", "events", "text"]:
                media, body = plant(kind)
                url = f"https://{sys.argv[1]}:8443/back"
                params = {"type": media, "piece": str(random.randrange(20, 90))}
                async with session.post(url, params=params, data=body.encode(), headers={"content-type": media}) as response:
                    got = said(kind, await response.text())
                count += 50
                leaks.extend((kind, s) for s in SECRETS if s in got)
    trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    async with websockets.connect(f"wss://{sys.argv[1]}:8443/socket", ssl=trust) as socket:
        await socket.recv()
        for _ in range(200):
            secret = random.choice(SECRETS)
            await socket.send(f"{noise()} {secret} {noise()}")
            got = await socket.recv()
            count += 1
            if secret in got:
                leaks.append(("socket", secret))
asyncio.run(main())
print(count, leaks[:5], len(leaks))
"#;

#[test]
fn none_of_ten_thousand_planted_secrets_gets_through() {
    let daemon = web(&format!("{ALLOW}{MASKS}"));
    // The server sends back what it is sent, in pieces of one to nine bytes. What the client sends is recorded, too.
    let seen = python(&daemon, SCRIPT);
    assert_eq!(seen.stdout.trim(), "10200 [] 0", "{}\n{}", seen.stderr, daemon.log());
    // The record says what passed, and no secret in it.
    let recorded = daemon.json_lines(&["sessions", "list"]).unwrap();
    let mut text = String::new();
    for session in &recorded {
        text.push_str(
            &daemon
                .cli(&["sessions", "show", session["session"].as_str().unwrap(), "--json"])
                .unwrap()
                .stdout,
        );
    }
    assert!(text.contains("[redacted]") && text.contains("\"direction\":\"request\""), "{}", text.len());
    let state = daemon.folder().join("state");
    let grep = std::process::Command::new("grep")
        .args(["-rlaE", "4111 1111 1111 1111|5500005555555559|ada.lovelace@|ghp_abcdef|AKIAIOSF|glpat-abc|eyJhbGciOiJIUzI1NiJ9"])
        .arg(&state)
        .output()
        .unwrap();
    assert!(grep.stdout.is_empty(), "{}", String::from_utf8_lossy(&grep.stdout));
    for secret in [
        "4111 1111 1111 1111",
        "5500005555555559",
        "ada.lovelace@",
        "ghp_abcdef",
        "AKIAIOSF",
        "glpat-abc",
        "eyJhbGciOiJIUzI1NiJ9",
    ] {
        assert!(!text.contains(secret), "{secret} is in the record");
    }
}
