//! Socket Mode: clicks come on a WebSocket that we open (<https://docs.slack.dev/apis/events-api/using-socket-mode>). Slack
//! says when it is about to close one; then the next is opened first, and the old one is read to its end.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::courier::{SendError, pause};
use super::Slack;
use super::websocket::{Heard, SocketError, WebSocket};

/// How long the other side may be silent before it is asked whether it is there, and again before it is given up.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How long a connection that Slack is about to close is still read.
pub(super) const FAREWELL_MAX: Duration = Duration::from_secs(60);
/// Connections at once: the one that counts and those on their way out.
const SOCKETS_MAX: usize = 4;
/// A connection that lasted so long was a good one: what follows it is no failure in a row.
const GOOD_TIME: Duration = Duration::from_secs(30);
/// How long an envelope may be delivered again.
const AGAIN_TIME: Duration = Duration::from_mins(10);
/// Longest id of an envelope, in bytes.
const ENVELOPE_BYTES_MAX: usize = 128;

/// What comes on the socket.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    envelope_id: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    payload: Option<Value>,
}

/// What the next connection has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Slack is about to close this one.
    Now,
    /// It is closed, or Socket Mode was turned off.
    AfterPause,
}

/// Keeps a connection open until dropped.
pub(super) async fn keep(slack: Arc<Slack>, app_token: &str) {
    let (mut connections, mut failures) = (JoinSet::new(), 0_u32);
    loop {
        let (began, mut asked_for) = (Instant::now(), Duration::ZERO);
        let next = match open(&slack, app_token).await {
            Ok(socket) => {
                let (follow, followed) = oneshot::channel();
                connections.spawn(attend(Arc::clone(&slack), socket, follow));
                // An error means that it has ended.
                followed.await.unwrap_or(Next::AfterPause)
            }
            Err(error) => {
                slack.socket.bad(&error.to_string(), 0);
                if let SendError::Later { after: Some(after), .. } = error {
                    asked_for = after;
                }
                Next::AfterPause
            }
        };
        failures = if began.elapsed() >= GOOD_TIME { 0 } else { failures.saturating_add(1) };
        // One that is to be followed at once may itself have been short; a second in a row waits.
        if next == Next::AfterPause || failures > 1 {
            tokio::time::sleep(pause(failures.max(1)).max(asked_for)).await;
        }
        while connections.try_join_next().is_some() {}
        while connections.len() >= SOCKETS_MAX {
            connections.join_next().await;
        }
    }
}

async fn open(slack: &Slack, app_token: &str) -> Result<WebSocket, SendError> {
    let said = slack.call("apps.connections.open", app_token, &json!({})).await?;
    let url = said.text("url")?;
    // Without TLS only where the API itself is spoken to so, which is a stand-in on this host.
    if url.starts_with("ws://") && slack.settings.api.starts_with("https://") {
        return Err(SendError::later("Slack's socket would be without TLS"));
    }
    let socket = WebSocket::open(&slack.fetch, url).await;
    socket.map_err(|error| SendError::later(error.to_string()))
}

/// Reads one connection to its end.
pub(super) async fn attend<S: AsyncRead + AsyncWrite + Unpin>(
    slack: Arc<Slack>,
    mut socket: WebSocket<S>,
    follow: oneshot::Sender<Next>,
) {
    let mut follow = Some(follow);
    let mut until = None;
    let error = loop {
        let heard = match hear(&mut socket, until).await {
            Ok(heard) => heard,
            Err(error) => break error,
        };
        let Heard::Text(text) = heard else { continue };
        match serve(&slack, &mut socket, &text).await {
            Ok(None) => {}
            Ok(Some(next)) => {
                until.get_or_insert_with(|| Instant::now() + FAREWELL_MAX);
                // Told once; the receiver is gone with the daemon.
                if follow.take().is_some_and(|follow| follow.send(next).is_err()) {
                    break SocketError::Closed;
                }
            }
            Err(error) => break error,
        }
    };
    // Expected of one that has a successor already.
    if follow.is_some() {
        slack.socket.bad(&error.to_string(), 0);
    }
}

/// What comes next, within the time that silence may last, or a farewell.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocket<S>,
    until: Option<Instant>,
) -> Result<Heard, SocketError> {
    let over = || until.is_some_and(|until| until <= Instant::now());
    let silent = Instant::now() + SILENCE_MAX;
    let first = until.map_or(silent, |until| until.min(silent));
    // Looked at before as well: what always has something to say would be heard for ever.
    if over() {
        return Err(SocketError::Closed);
    }
    if let Ok(heard) = tokio::time::timeout_at(first, socket.hear()).await {
        return heard;
    }
    if over() {
        return Err(SocketError::Closed);
    }
    socket.ping().await?;
    tokio::time::timeout(SILENCE_MAX, socket.hear()).await.unwrap_or(Err(SocketError::Closed))
}

/// Serves one message; says whether the connection is to be followed by the next.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    slack: &Arc<Slack>,
    socket: &mut WebSocket<S>,
    text: &str,
) -> Result<Option<Next>, SocketError> {
    let Ok(envelope) = serde_json::from_str::<Envelope>(text) else {
        tracing::debug!("a message on Slack's socket that is none of Slack's");
        return Ok(None);
    };
    // Acknowledged before anything is done about it: Slack waits for 3 s.
    if let Some(id) = &envelope.envelope_id {
        if id.len() > ENVELOPE_BYTES_MAX {
            return Ok(None);
        }
        socket.say(&json!({ "envelope_id": id }).to_string()).await?;
    }
    match (envelope.kind.as_str(), envelope.envelope_id, envelope.payload) {
        ("hello", _, _) => {
            tracing::info!("Slack's socket is open");
            slack.socket.good();
            Ok(None)
        }
        ("disconnect", _, _) => Ok(Some(match envelope.reason.as_deref() {
            Some("warning" | "refresh_requested") => Next::Now,
            Some(_) | None => {
                slack.socket.bad("Slack has turned it off; is Socket Mode enabled for the app?", 0);
                Next::AfterPause
            }
        })),
        // Delivered again, it has been taken already.
        ("interactive", Some(id), Some(payload)) if slack.once.first(&id, AGAIN_TIME).is_ok() => {
            // Who is turned away clicks again.
            drop(slack.take(payload.to_string()));
            Ok(None)
        }
        _ => Ok(None),
    }
}
