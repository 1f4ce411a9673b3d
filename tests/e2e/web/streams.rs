//! Answers that are never finished for long: server-sent events as they come, WebSockets over HTTP/1.1 and HTTP/2.

use super::{CARD_PREFIX, daemon, direct, marker, masked, python, reached, server};

#[test]
fn an_event_comes_before_the_next_one_exists() {
    let daemon = masked();
    for (version, options) in [("http1", "http2=False"), ("http2", "http2=True")] {
        let name = marker(version);
        // The second event is sent only when the first one has arrived and said so.
        let seen = python(
            &daemon,
            &format!(
                r#"
import httpx
with httpx.Client(verify=context(), timeout=20, {options}) as client:
    with client.stream("GET", f"{{BASE}}/gate?name={name}") as got:
        events = got.iter_lines()
        seen = [next(events)]
        assert httpx.get(f"{{BASE}}/open?name={name}", verify=context()).status_code == 200
        seen += list(events)
say(seen)
"#
            ),
        );
        assert_eq!(seen, serde_json::json!(["data: first", "", "data: second", ""]), "{version}");
    }
}

#[test]
fn a_chunk_of_an_unmasked_binary_answer_comes_before_the_next_one_exists() {
    let name = marker("binary");
    let seen = python(
        &daemon(""),
        &format!(
            r#"
import httpx
with httpx.Client(verify=context(), timeout=20) as client:
    with client.stream("GET", f"{{BASE}}/gate?name={name}&type=application/octet-stream") as got:
        pieces = got.iter_raw()
        first = next(pieces)
        httpx.get(f"{{BASE}}/open?name={name}", verify=context())
        say([first.decode(), b"".join(pieces).decode()])
"#
        ),
    );
    assert_eq!(seen, serde_json::json!(["data: first\n\n", "data: second\n\n"]));
}

/// Puts the text of a language model's deltas together again.
const DELTAS: &str = r#"
import httpx
got = httpx.get(f"{BASE}/sse?n=200&split", verify=context(), timeout=60)
assert got.headers["content-type"].startswith("text/event-stream"), got.headers
data = [line.removeprefix("data: ") for line in got.text.split("\n") if line.startswith("data: ")]
assert data[-1] == "[DONE]", data[-1]
text = "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in data[:-1])
say([len(leaks(text.encode())), text])
"#;

#[test]
fn a_secret_that_is_split_over_a_language_models_deltas_is_masked() {
    let clear = direct(DELTAS);
    assert_ne!(clear[0], 0, "the script sees a secret where there is one");
    let seen = python(&masked(), DELTAS);
    assert_eq!(seen[0], 0, "{seen}");
    let text = seen[1].as_str().unwrap();
    assert_eq!(text.matches("belongs to ").count(), 200, "all else is there: {text}");
}

/// A client library's WebSocket, compressed or not, over HTTP/1.1.
fn websockets(compression: &str) -> String {
    format!(
        r#"
import websockets
async def main():
    async with websockets.connect(
        f"wss://{{NAME}}:{{HTTPS}}/ws", ssl=context(), compression={compression}, subprotocols=["shop.v1"]
    ) as made:
        seen = [made.subprotocol]
        for message in ("hello", "x" * 70000, b"\x00\xff binary", "", "grüße"):
            await made.send(message)
            got = await made.recv()
            assert got == message, (got[:50], message[:50])
        for message in ("secret", "split"):
            await made.send(message)
            seen.append(await made.recv())
        await asyncio.wait_for(await made.ping(), 20)
    seen.append(made.close_code)
    say(seen)
asyncio.run(main())
"#
    )
}

#[test]
fn a_websocket_echoes_and_its_secrets_are_masked() {
    let daemon = masked();
    for compression in ["None", "'deflate'"] {
        let script = websockets(compression);
        let clear = direct(&script);
        assert!(clear.to_string().contains(CARD_PREFIX), "{clear}");
        let seen = python(&daemon, &script);
        assert_eq!((&seen[0], &seen[3]), (&"shop.v1".into(), &1000.into()), "{seen}");
        for at in [1, 2] {
            let message = seen[at].as_str().unwrap();
            assert!(message.starts_with("card ") && message.contains("@planted.example"), "{message}");
            assert!(!message.contains(CARD_PREFIX) && !message.contains("customer"), "{message}");
        }
    }
}

/// hyper's connection is over with the answer that says 101; the record must not be. It was closed ten seconds later.
#[test]
fn a_websocket_is_recorded_for_as_long_as_it_lasts() {
    const LONG: &str = r#"
import websockets
async def main():
    async with websockets.connect(f"wss://{NAME}:{HTTPS}/ws", ssl=context()) as made:
        await made.send("early message")
        await made.recv()
        await asyncio.sleep(11)
        await made.send("late message")
        say(await made.recv())
asyncio.run(main())
"#;
    let daemon = masked();
    assert_eq!(python(&daemon, LONG), "late message");
    let sessions = daemon
        .until(&["sessions", "list"], |sessions| {
            sessions
                .iter()
                .any(|session| session["opened"]["protocol"] == "http" && !session["ended_reason"].is_null())
        })
        .unwrap();
    let session = sessions.iter().find(|session| session["opened"]["protocol"] == "http").unwrap();
    let events = daemon.json_lines(&["sessions", "show", session["session"].as_str().unwrap()]).unwrap();
    for message in ["early message", "late message"] {
        let of =
            events.iter().filter(|event| event["event"] == "message" && event.to_string().contains(message));
        assert_eq!(of.count(), 2, "{message}: {events:#?}");
    }
    assert_eq!(events.last().unwrap()["event"], "session_closed");
}

#[test]
fn a_websocket_is_judged_and_a_refused_one_is_told_in_http() {
    let daemon = daemon(
        "[[guard]]\nname = \"no sockets\"\non = \"http\"\nkind = [\"websocket\"]\naction = \"deny\"\n",
    );
    let mark = marker("no-ws");
    let seen = python(
        &daemon,
        &format!(
            r#"
import websockets
async def main():
    try:
        async with websockets.connect(f"wss://{{NAME}}:{{HTTPS}}/ws?{mark}", ssl=context()):
            say("opened")
    except websockets.exceptions.InvalidStatus as error:
        say(error.response.status_code)
asyncio.run(main())
"#
        ),
    );
    assert_eq!(seen, 403);
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_websocket_over_http_2_echoes_and_its_secrets_are_masked() {
    // RFC 8441; no client library offers it, so this is one by hand.
    let script = r#"
import h2.config, h2.connection, h2.events
made = connect(alpn="h2")
wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
wire.initiate_connection()
made.sendall(wire.data_to_send())
inbox, heads, enabled = b"", None, False
def turn():
    global inbox, heads, enabled
    data = made.recv(65536)
    assert data, "closed"
    for event in wire.receive_data(data):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            enabled = enabled or any(int(code) == 8 and setting.new_value == 1 for code, setting in event.changed_settings.items())
        elif isinstance(event, h2.events.ResponseReceived):
            heads = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            inbox += event.data
            wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    made.sendall(wire.data_to_send())
while not enabled:
    turn()
wire.send_headers(1, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/ws?over=h2"),
                      (":authority", f"{NAME}:{HTTPS}"), ("sec-websocket-version", "13")])
made.sendall(wire.data_to_send())
while heads is None:
    turn()
assert heads[":status"] == "200", heads
def said(message):
    global inbox
    payload = bytes(byte ^ b"mask"[at % 4] for at, byte in enumerate(message))
    wire.send_data(1, bytes([0x81, 0x80 | len(payload)]) + b"mask" + payload)
    made.sendall(wire.data_to_send())
    while len(inbox) < 2 or len(inbox) < 2 + inbox[1]:
        turn()
    text, inbox = inbox[2 : 2 + inbox[1]], inbox[2 + inbox[1] :]
    return text.decode()
say([said(b"hello"), said(b"secret")])
"#;
    let clear = direct(script);
    assert!(clear.to_string().contains(CARD_PREFIX), "{clear}");
    let seen = python(&masked(), script);
    assert_eq!(seen[0], "hello");
    let message = seen[1].as_str().unwrap();
    assert!(message.contains("@planted.example") && !message.contains(CARD_PREFIX), "{message}");
    assert!(!message.contains("customer1"), "{message}");
    assert!(server().requests("/ws?over=h2").unwrap().len() >= 2, "directly and through Portcullis");
}
