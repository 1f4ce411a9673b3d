//! Ten thousand planted secrets in every kind of body, every coding and every cut: none reaches the agent or the disk, and
//! everything else arrives.

use harness::daemon::Daemon;
use serde_json::{Value, json};

use super::disk::assert_kept_nowhere;
use super::{direct, masked, python};

/// Whatever a planted secret begins with, in the writings that a record may hold.
const SECRETS: [&str; 9] = [
    super::CARD_PREFIX,
    "4929 7183",
    "4929+7183",
    "4929%207183",
    "918-27-",
    "customer1@",
    "customer17@",
    "customer99%40",
    "customer4999@",
];

#[track_caller]
fn assert_disk_clean(daemon: &Daemon) {
    assert_kept_nowhere(daemon, &SECRETS);
}

/// Fetches a planted document in every coding; says how many leaks and how much else there is.
fn document(kind: &str, count: u32, codings: &str, more: &str) -> String {
    format!(
        r#"
import httpx, urllib.parse
seen = {{}}
for http2 in (False, True):
    with httpx.Client(verify=context(), timeout=120, http2=http2) as client:
        for coding in {codings}:
            got = client.get(f"{{BASE}}/planted?kind={kind}&n={count}&encoding={{coding}}{more}")
            assert got.status_code == 200, got
            text = got.text
            if "{kind}" == "json":
                intact = [row["id"] for row in json.loads(text)["customers"]] == list(range(1, {count} + 1))
            elif "{kind}" == "form":
                intact = len(urllib.parse.parse_qsl(text, strict_parsing=True)) == 2 * {count}
            else:
                intact = [int(line.split(":")[0]) for line in text.split("\n")] == list(range(1, {count} + 1))
            seen[f"{{coding}} {{http2}}"] = [len(leaks(text.encode())) > 0, intact]
say(seen)
"#
    )
}

/// Every value of an object is this.
#[track_caller]
fn assert_all(seen: &Value, count: usize, expected: &Value) {
    let seen = seen.as_object().unwrap();
    assert_eq!(seen.len(), count);
    for (what, value) in seen {
        assert_eq!(value, expected, "{what}");
    }
}

const CODINGS: &str = r#"["", "gzip", "br", "zstd", "deflate"]"#;

#[track_caller]
fn assert_planted(kind: &str, count: u32) {
    let clear = direct(&document(kind, 10, CODINGS, ""));
    assert_all(&clear, 10, &json!([true, true]));
    let daemon = masked();
    assert_all(&python(&daemon, &document(kind, count, CODINGS, "")), 10, &json!([false, true]));
    assert_disk_clean(&daemon);
}

#[test]
fn in_json() {
    // Three in each row.
    assert_planted("json", 3_334);
}

#[test]
fn in_forms() {
    assert_planted("form", 5_000);
}

#[test]
fn in_text() {
    assert_planted("text", 5_000);
}

#[test]
fn in_pieces_of_every_size() {
    let daemon = masked();
    for kind in ["json", "form", "text"] {
        for piece in [1, 2, 3, 5, 7, 11, 16, 17, 64] {
            let script = document(kind, 40, "[\"\", \"gzip\"]", &format!("&piece={piece}"));
            assert_all(&python(&daemon, &script), 4, &json!([false, true]));
        }
    }
    assert_disk_clean(&daemon);
}

/// Fetches events, joins what a model would have said, and says what leaked.
const EVENTS: &str = r#"
import httpx
seen = {}
for how in ("", "&split"):
    for http2 in (False, True):
        with httpx.Client(verify=context(), timeout=120, http2=http2) as client:
            got = client.get(f"{BASE}/sse?n=COUNT{how}")
            events = [line.removeprefix("data: ") for line in got.text.split("\n") if line.startswith("data: ")]
            assert events.pop() == "[DONE]"
            notes = [json.loads(event) for event in events]
            text = "".join(note["note"] if "note" in note else note["choices"][0]["delta"]["content"] for note in notes)
            found = leaks(got.content) + leaks(text.encode())
            seen[f"{how} {http2}"] = [len(found) > 0, text.count("belongs to ")]
say(seen)
"#;

#[test]
fn in_server_sent_events() {
    let script = |count: u32| EVENTS.replace("COUNT", &count.to_string());
    assert_all(&direct(&script(10)), 4, &json!([true, 10]));
    let daemon = masked();
    assert_all(&python(&daemon, &script(5_000)), 4, &json!([false, 5_000]));
    assert_disk_clean(&daemon);
}

/// Asks for messages with secrets over a compressed and a plain WebSocket.
const MESSAGES: &str = r#"
import websockets
async def main():
    seen = {}
    for compression in (None, "deflate"):
        async with websockets.connect(f"wss://{NAME}:{HTTPS}/ws", ssl=context(), compression=compression) as made:
            await made.send("secrets COUNT")
            messages = []
            while (message := await made.recv()) != "done":
                messages.append(message)
        found = leaks("\n".join(messages).encode())
        seen[str(compression)] = [len(found) > 0, sum(message.startswith("card ") for message in messages)]
    say(seen)
asyncio.run(main())
"#;

#[test]
fn in_websocket_messages() {
    let script = |count: u32| MESSAGES.replace("COUNT", &count.to_string());
    assert_all(&direct(&script(10)), 2, &json!([true, 10]));
    let daemon = masked();
    assert_all(&python(&daemon, &script(5_000)), 2, &json!([false, 5_000]));
    assert_disk_clean(&daemon);
}

#[test]
fn headers_and_form_fields_of_answers() {
    let daemon = super::daemon(
        "[[mask]]\non = \"http\"\nheaders = [\"x-internal-*\"]\nwith = \"redact\"\n\n\
         [[mask]]\non = \"http\"\nform = [\"card1\"]\nwith = \"redact\"\n",
    );
    let form = super::answer(&daemon, &["https://api.shop.test:PORT/planted?kind=form"]).body;
    assert!(
        form.starts_with("card1=%5Bredacted%5D&email1=customer1") && form.contains(super::CARD_PREFIX),
        "the first, not the second: {form}"
    );
    for version in ["--http1.1", "--http2"] {
        let seen = super::answer(&daemon, &[version, "https://api.shop.test:PORT/echo"]);
        assert_eq!(seen.status, 200);
        assert!(!format!("{:?}", seen.headers).contains("node-17"), "{seen:?}");
    }
    assert_kept_nowhere(&daemon, &["node-17.internal"]);
}

#[test]
fn a_masked_answers_head_tells_the_truth_about_its_body() {
    let daemon = masked();
    for coding in ["", "gzip", "br", "zstd", "deflate"] {
        let url = format!("https://api.shop.test:PORT/planted?encoding={coding}");
        let seen = super::answer(&daemon, &["--http1.1", &url]);
        assert_eq!(seen.header("content-encoding"), None, "{coding}: sent decoded");
        if let Some(length) = seen.header("content-length") {
            assert_eq!(length, seen.body.len().to_string(), "{coding}");
        }
        assert!(seen.body.contains("[redacted]"), "{coding}: {seen:?}");
    }
}

#[test]
fn every_method_of_masking_on_a_json_field() {
    for (method, expected) in [("redact", json!("[redacted]")), ("null", Value::Null)] {
        let mask = format!("[[mask]]\non = \"http\"\njson = [\"$..ssn\"]\nwith = \"{method}\"\n");
        let daemon = super::daemon(&mask);
        let seen = super::answer(&daemon, &["https://api.shop.test:PORT/planted"]).json();
        assert_eq!(seen["customers"][1]["ssn"], expected, "{method}");
        assert_eq!(seen["customers"][1]["email"], "customer2@planted.example");
        assert_kept_nowhere(&daemon, &["918-27-0002"]);
    }
    let daemon = super::daemon("[[mask]]\non = \"http\"\njson = [\"$..ssn\"]\nwith = \"hash\"\n");
    let hashed = || {
        let seen = super::answer(&daemon, &["https://api.shop.test:PORT/planted"]).json();
        [0, 1].map(|at| seen["customers"][at]["ssn"].as_str().unwrap().to_owned())
    };
    let [one, other] = hashed();
    assert!(one != other && !one.contains("918-27"), "{one} {other}");
    assert_eq!(hashed(), [one, other], "equal values stay equal");
}

#[test]
fn beside_bodies() {
    let daemon = masked();
    let script = r#"
import httpx
seen = []
for http2 in (False, True):
    for kind in ("text/plain", "application/octet-stream", "application/grpc", "image/png"):
        with httpx.Client(verify=context(), timeout=60, http2=http2) as client:
            got = client.get(f"{BASE}/aside", params={"type": kind})
        seen.append([got.status_code, got.text, got.reason_phrase, got.headers["x-note"]])
with connect() as made:
    stream = made.makefile("rb")
    made.sendall(f"GET /aside HTTP/1.1\r\nHost: {NAME}\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n".encode())
    seen.append(answer(stream)[3])
say(seen)
"#;
    let clear = direct(script).to_string();
    assert!(clear.contains("customer2@") && clear.contains("4929 7183"), "{clear}");
    let seen = python(&daemon, script);
    for secret in ["customer1@", "customer2@", "4929 7183"] {
        assert!(!seen.to_string().contains(secret), "{secret}: {seen}");
    }
    assert_eq!(seen[0][1], "nothing here");
    assert_eq!(seen[8]["x-note-too"], "of c***@planted.example");
    assert!(seen[8]["grpc-message"].as_str().is_some_and(|text| text.contains('*')), "{seen}");
    assert_disk_clean(&daemon);
}

#[test]
fn beside_websocket_messages() {
    let daemon = masked();
    let script = r#"
import websockets
async def main():
    async with websockets.connect(f"wss://{NAME}:{HTTPS}/ws", ssl=context(), compression=None) as made:
        await made.send(b"\x00\xff\x00 binary stays")
        seen = [(await made.recv()) == b"\x00\xff\x00 binary stays"]
        await made.send("aside")
        seen.append((await made.recv()).decode())
        try:
            await made.recv()
        except websockets.ConnectionClosed as closed:
            seen.append([closed.rcvd.code, closed.rcvd.reason])
    say(seen)
asyncio.run(main())
"#;
    let clear = direct(script).to_string();
    assert!(clear.contains("49297183") && clear.contains("4929 7183"), "{clear}");
    let seen = python(&daemon, script);
    assert_eq!(seen[0], true);
    assert!(!seen.to_string().contains("4929"), "{seen}");
    assert_eq!(seen[2], json!([1000, ""]));
    assert_disk_clean(&daemon);
}
