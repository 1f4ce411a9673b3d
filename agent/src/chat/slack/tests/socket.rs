//! Socket Mode, with both ends of a connection in memory.

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::socket::{FAREWELL_MAX, Next, SILENCE_MAX, attend};
use super::super::websocket::{MESSAGE_BYTES_MAX, WebSocket};
use super::*;
use crate::codec::websocket::{Decoder, Item, Opcode, Role, encode};

/// Slack's end of a connection.
struct End {
    io: DuplexStream,
    decoder: Decoder,
    input: BytesMut,
    attending: JoinHandle<()>,
    followed: oneshot::Receiver<Next>,
}

impl End {
    fn of(rig: &Rig) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (follow, followed) = oneshot::channel();
        let attending = tokio::spawn(attend(Arc::clone(&rig.slack), WebSocket::over(ours), follow));
        Self {
            io: theirs,
            decoder: Decoder::new(Role::Client, 1 << 16),
            input: BytesMut::new(),
            attending,
            followed,
        }
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut frame = BytesMut::new();
        encode(&mut frame, Role::Server, [0; 4], opcode, true, payload);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn say(&mut self, message: &Value) {
        self.send(Opcode::Text, message.to_string().as_bytes()).await;
    }

    /// What comes from the other end; `None` when it has hung up.
    async fn hear(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.decoder.next(&mut self.input).unwrap() {
                return Some(item);
            }
            if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

fn text(message: &Value) -> Option<Item> {
    Some(Item::Message { opcode: Opcode::Text, payload: message.to_string().into() })
}

fn control(opcode: Opcode, payload: &'static [u8]) -> Option<Item> {
    Some(Item::Control { opcode, payload: payload.into() })
}

#[tokio::test]
async fn envelopes_are_acknowledged_and_clicks_taken_once() {
    let mut rig = Rig::start().await;
    let pending = rig.ask(held());
    let mut end = End::of(&rig);
    rig.slack.socket.bad("not yet", 0);
    end.say(&json!({"type": "hello", "num_connections": 1})).await;
    end.send(Opcode::Ping, b"1").await;
    assert_eq!(end.hear().await, control(Opcode::Pong, b"1"));
    assert_eq!(rig.slack.problem(), None, "a hello is good");
    let click = json!({
        "type": "interactive", "envelope_id": "e-1", "payload": pressed("U1", APPROVE, &rig.value(&pending)),
    });
    for envelope in [
        click.clone(),
        click,
        json!({"type": "events_api", "envelope_id": "e-2", "payload": {}}),
        json!({"type": "interactive", "envelope_id": "e-3", "payload": []}),
    ] {
        end.say(&envelope).await;
        assert_eq!(end.hear().await, text(&json!({"envelope_id": envelope["envelope_id"]})));
    }
    for nothing in [&b"not JSON"[..], b"[]", b"{\"type\":\"interactive\"}"] {
        end.send(Opcode::Text, nothing).await;
    }
    assert_eq!(rig.api.asked().await.path, "/api/auth.test");
    assert_eq!(rig.api.asked().await.path, "/api/chat.postEphemeral");
    end.send(Opcode::Close, b"\x03\xe8").await;
    assert_eq!(end.hear().await, control(Opcode::Close, b"\x03\xe8"));
    assert_eq!(end.hear().await, None);
    assert!(end.followed.await.is_err(), "the next one comes after a pause");
    assert!(!rig.api.was_asked(), "delivered twice, taken once");
    assert!(rig.slack.problem().unwrap().contains("closed"));
}

#[tokio::test]
async fn a_socket_that_slack_takes_away_is_followed_and_read_to_its_end() {
    for (reason, expected) in [
        ("warning", Next::Now),
        ("refresh_requested", Next::Now),
        ("link_disabled", Next::AfterPause),
        ("something new", Next::AfterPause),
    ] {
        let rig = Rig::start().await;
        let mut end = End::of(&rig);
        end.say(&json!({"type": "disconnect", "reason": reason})).await;
        assert_eq!((&mut end.followed).await, Ok(expected), "{reason}");
        end.say(&json!({"type": "events_api", "envelope_id": "late"})).await;
        assert_eq!(end.hear().await, text(&json!({"envelope_id": "late"})), "{reason}: still served");
        assert_eq!(rig.slack.problem().is_some(), expected == Next::AfterPause, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_end_is_asked_and_given_up_and_a_farewell_is_short() {
    let rig = Rig::start().await;
    let mut end = End::of(&rig);
    let began = tokio::time::Instant::now();
    assert_eq!(end.hear().await, control(Opcode::Ping, b""));
    end.send(Opcode::Pong, b"").await;
    assert_eq!(end.hear().await, control(Opcode::Ping, b""), "it was there");
    assert_eq!(end.hear().await, None, "and then it was not");
    assert_eq!(began.elapsed().as_secs(), 3 * SILENCE_MAX.as_secs());
    assert!(end.attending.await.is_ok() && end.followed.await.is_err());

    let mut end = End::of(&rig);
    end.say(&json!({"type": "disconnect", "reason": "warning"})).await;
    assert_eq!((&mut end.followed).await, Ok(Next::Now));
    for _ in 0..FAREWELL_MAX.as_secs() {
        end.send(Opcode::Ping, b"").await;
        assert_eq!(end.hear().await, control(Opcode::Pong, b""));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(end.hear().await, None, "however much there is to say");
}

#[tokio::test]
async fn what_nobody_reads_ends_the_connection() {
    let rig = Rig::start().await;
    let long = vec![b'x'; MESSAGE_BYTES_MAX + 1];
    for (opcode, payload) in [(Opcode::Text, &long[..]), (Opcode::Binary, b"1"), (Opcode::Text, b"\xff")] {
        let mut end = End::of(&rig);
        end.send(opcode, payload).await;
        assert_eq!(end.hear().await, None);
        assert!(end.attending.await.is_ok() && end.followed.await.is_err());
    }
}
