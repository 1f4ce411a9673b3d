//! A WebSocket as its client (RFC 6455): the handshake over `fetch`, then texts, with pings answered on the way.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::uri::Scheme;
use http::{HeaderMap, Request, Uri};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::codec::websocket::{Decoder, Item, Opcode, Role, WebSocketError, encode};
use crate::fetch::{Fetch, FetchError};

/// Longest message taken, in bytes. Slack's hold one message's blocks and little else.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// How long the other side may take to accept a frame.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// What a server's proof is made with (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why there is no socket, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The address. It is a secret, so it is not said.
    #[error("the address of the WebSocket is not wss://, nor ws:// on this host")]
    Address,
    /// No handshake.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An answer that is none to our handshake (section 4.1).
    #[error("the server does not answer the WebSocket handshake as it must")]
    Handshake,
    /// The protocol.
    #[error(transparent)]
    Protocol(#[from] WebSocketError),
    /// A message of more than [`MESSAGE_BYTES_MAX`], or none of text.
    #[error("the WebSocket brings messages that nobody here reads")]
    Message,
    /// The connection.
    #[error("the WebSocket broke: {0}")]
    Io(#[from] io::Error),
    /// The server has closed it.
    #[error("the server has closed the WebSocket")]
    Closed,
    /// The kernel has none.
    #[error("no randomness")]
    Randomness,
}

impl From<getrandom::Error> for SocketError {
    fn from(_: getrandom::Error) -> Self {
        Self::Randomness
    }
}

/// An open one.
pub(super) struct WebSocket<S = TokioIo<Upgraded>> {
    io: S,
    decoder: Decoder,
    input: BytesMut,
}

/// What comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A whole message.
    Text(String),
    /// The other side is there.
    Sign,
}

impl WebSocket {
    /// Opens one at an address: wss, or ws on this host.
    pub(super) async fn open(fetch: &Fetch, address: &str) -> Result<Self, SocketError> {
        let key = STANDARD.encode(random::<16>()?);
        let request = Request::get(web_address(address)?)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key)
            .body(Vec::new())
            .map_err(|_| SocketError::Address)?;
        let (fields, io) = fetch.upgrade(request).await?;
        if !is_accepted(&fields, &key) {
            return Err(SocketError::Handshake);
        }
        Ok(Self::over(io))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// One whose handshake is over.
    pub(super) fn over(io: S) -> Self {
        Self { io, decoder: Decoder::new(Role::Server, MESSAGE_BYTES_MAX), input: BytesMut::new() }
    }

    /// What comes next. Nothing of it is lost when this is dropped while it waits.
    pub(super) async fn hear(&mut self) -> Result<Heard, SocketError> {
        loop {
            match self.decoder.next(&mut self.input)? {
                Some(Item::Message { opcode: Opcode::Text, payload }) => {
                    let text = String::from_utf8(payload.into()).map_err(|_| WebSocketError::Utf8)?;
                    return Ok(Heard::Text(text));
                }
                Some(Item::Control { opcode: Opcode::Ping, payload }) => {
                    self.send(Opcode::Pong, &payload).await?;
                    return Ok(Heard::Sign);
                }
                Some(Item::Control { opcode: Opcode::Close, payload }) => {
                    // Its code is sent back (section 5.5.1); whether that arrives is all the same.
                    drop(self.send(Opcode::Close, &payload).await);
                    return Err(SocketError::Closed);
                }
                Some(Item::Control { .. }) => return Ok(Heard::Sign),
                Some(Item::Message { .. } | Item::Part { .. }) => return Err(SocketError::Message),
                None => {
                    self.input.reserve(READ_BYTES);
                    if self.io.read_buf(&mut self.input).await? == 0 {
                        return Err(SocketError::Closed);
                    }
                }
            }
        }
    }

    /// Sends a message.
    pub(super) async fn say(&mut self, text: &str) -> Result<(), SocketError> {
        self.send(Opcode::Text, text.as_bytes()).await
    }

    /// Asks whether the other side is there.
    pub(super) async fn ping(&mut self) -> Result<(), SocketError> {
        self.send(Opcode::Ping, b"").await
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), SocketError> {
        let mut frame = BytesMut::new();
        encode(&mut frame, Role::Client, random::<4>()?, opcode, true, payload);
        let sent = async {
            self.io.write_all(&frame).await?;
            self.io.flush().await
        };
        match tokio::time::timeout(SEND_TIME_MAX, sent).await {
            Ok(sent) => Ok(sent?),
            Err(_late) => Err(SocketError::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// As `fetch` takes it: which itself refuses plain HTTP to other hosts.
fn web_address(address: &str) -> Result<Uri, SocketError> {
    let mut parts = address.parse::<Uri>().map_err(|_| SocketError::Address)?.into_parts();
    parts.scheme = match parts.scheme.as_ref().map(Scheme::as_str) {
        Some("wss") => Some(Scheme::HTTPS),
        Some("ws") => Some(Scheme::HTTP),
        Some(_) | None => return Err(SocketError::Address),
    };
    Uri::from_parts(parts).map_err(|_| SocketError::Address)
}

/// Section 4.1: the proof, and no extension or protocol that we did not ask for.
fn is_accepted(fields: &HeaderMap, key: &str) -> bool {
    let proof = STANDARD.encode(Sha1::new_with_prefix(key).chain_update(GUID).finalize());
    let is = |name, wanted: &str| {
        fields
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    };
    is(UPGRADE, "websocket")
        && is(CONNECTION, "upgrade")
        && fields.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept.as_bytes() == proof.as_bytes())
        && !fields.contains_key("sec-websocket-extensions")
        && !fields.contains_key("sec-websocket-protocol")
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_s_handshake_is_accepted_and_another_is_not() {
        // RFC 6455 section 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let fields = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        assert!(is_accepted(&fields(&good), key));
        assert!(!is_accepted(&fields(&good), "another"));
        for missing in 0..good.len() {
            let mut some = good.to_vec();
            some.remove(missing);
            assert!(!is_accepted(&fields(&some), key));
        }
        let more = [&good[..], &[("sec-websocket-extensions", "permessage-deflate")]].concat();
        assert!(!is_accepted(&fields(&more), key));
    }

    #[tokio::test]
    async fn only_wss_and_this_host_are_asked() {
        assert_eq!(web_address("wss://a.test/link?ticket=1").unwrap(), "https://a.test/link?ticket=1");
        for address in ["https://a.test/", "http://127.0.0.1/", "file:///x", "/x", "", "wss://"] {
            assert!(web_address(address).is_err(), "{address}");
        }
        let fetch = Fetch::new(std::sync::Arc::default(), None);
        let error = WebSocket::open(&fetch, "ws://slack.test/secret-ticket").await.err().unwrap().to_string();
        assert!(error.contains("plain HTTP is for this host alone"), "{error}");
    }
}
