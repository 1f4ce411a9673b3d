//! The client's password, where the policy passes it through or takes it for a token: asked for as it is, used once, wiped.
//!
//! Elsewhere clients are asked for nothing, because the kernel says whose they are.

use std::io;

use bytes::Buf as _;
use tokio::time::timeout;

use crate::codec::postgres::encode::backend;
use crate::identity::TOKEN_BYTES_MAX;
use crate::limits::STARTUP_TIME_MAX;
use crate::relay::leg::{Fill, Leg};
use crate::secret::Secret;
use crate::tls::Stream;

/// Longest PasswordMessage without its tag, in bytes: of a token. PostgreSQL itself takes no longer password.
const MESSAGE_BYTES_MAX: usize = TOKEN_BYTES_MAX + 1024;
/// Tag and length.
const HEAD_BYTES: usize = 5;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordError {
    /// Others could read it.
    #[error("the policy asks for the client's password, and its connection is neither TLS nor of this host")]
    Exposed,
    /// It left, as psql does to ask its user first.
    #[error("the client left when it was asked for its password, as the policy wants it")]
    Gone,
    /// It did not answer in time.
    #[error("the client did not give its password within {STARTUP_TIME_MAX:?}")]
    Late,
    /// It said something else.
    #[error(
        "the client answered the question for its password with something else, or with one too long or empty"
    )]
    NoPassword,
    /// The connection broke.
    #[error("the client's connection broke when it was asked for its password")]
    Io(#[from] io::Error),
}

/// Asks for it (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>).
pub(super) async fn ask(client: &mut Leg<Stream>) -> Result<Secret, PasswordError> {
    let stream = client.stream();
    if !stream.is_tls() && !stream.tcp().peer_addr()?.ip().to_canonical().is_loopback() {
        return Err(PasswordError::Exposed);
    }
    backend::authentication_cleartext_password(&mut client.outbox);
    timeout(STARTUP_TIME_MAX, answer(client)).await.unwrap_or(Err(PasswordError::Late))
}

async fn answer(client: &mut Leg<Stream>) -> Result<Secret, PasswordError> {
    client.drain().await?;
    // Room for all of it and the reads: a buffer that grows leaves a copy behind.
    client.inbox.reserve(4 * MESSAGE_BYTES_MAX);
    loop {
        if let Some(length) = message_length(&client.inbox)? {
            return take(client, length);
        }
        if client.fill().await? == Fill::End {
            return Err(PasswordError::Gone);
        }
    }
}

/// How long the message is, tag included, once it is there.
fn message_length(inbox: &[u8]) -> Result<Option<usize>, PasswordError> {
    let Some((head, _)) = inbox.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let [tag, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if tag != b'p' || !(HEAD_BYTES + 1..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(PasswordError::NoPassword);
    }
    Ok((inbox.len() > length).then_some(length + 1))
}

/// Takes the message; what the buffer had of it is wiped.
fn take(client: &mut Leg<Stream>, length: usize) -> Result<Secret, PasswordError> {
    let message = client.inbox.get_mut(..length).unwrap_or_default();
    let password = message.get(HEAD_BYTES..).and_then(|rest| rest.split_last());
    let password = password.filter(|(end, text)| **end == 0 && !text.is_empty() && !text.contains(&0));
    let password = password.map(|(_, text)| Secret::new(text.to_vec()));
    zeroize::Zeroize::zeroize(message);
    client.inbox.advance(length);
    password.ok_or(PasswordError::NoPassword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_measured_before_it_is_read() {
        assert!(matches!(message_length(b"p\0\0"), Ok(None)));
        assert!(matches!(message_length(b"p\0\0\0\x07ab"), Ok(None)));
        assert!(matches!(message_length(b"p\0\0\0\x07ab\0"), Ok(Some(8))));
        assert!(matches!(message_length(b"p\0\0\0\x07ab\0Q\0"), Ok(Some(8))));
        for bad in [b"Q\0\0\0\x07", b"p\0\0\0\x05", b"p\0\0\0\x04", b"p\0\0\x44\x01", b"p\xff\xff\xff\xff"] {
            assert!(matches!(message_length(bad), Err(PasswordError::NoPassword)), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn the_password_is_taken_and_wiped() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Stream::plain(listener.accept().await.unwrap().0).unwrap();
        let inbox = bytes::BytesMut::from(&b"p\0\0\0\x08abc\0Q\0\0\0\x05\0"[..]);
        let mut leg = Leg::new(stream, inbox);
        assert_eq!(ask(&mut leg).await.unwrap().expose(), b"abc");
        assert_eq!(&leg.inbox[..], b"Q\0\0\0\x05\0", "what follows is left");
        leg.inbox.clear();
        leg.inbox.extend_from_slice(b"p\0\0\0\x05\0p\0\0\0\x07a\0\0");
        assert!(matches!(ask(&mut leg).await, Err(PasswordError::NoPassword)));
        drop(client);
        leg.inbox.clear();
        assert!(matches!(ask(&mut leg).await, Err(PasswordError::Gone | PasswordError::Io(_))));
    }
}
