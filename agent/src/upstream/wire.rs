//! Framing for our own few words with a server: whole messages in, whole messages out, every length checked first.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{ServerReport, Stage, UpstreamError};
use crate::tls::Stream;

/// Tag and length, in bytes.
const HEADER_BYTES: usize = 5;
/// Most columns in a row (`MaxTupleAttributeNumber` in PostgreSQL's sources).
const COLUMNS_MAX: usize = 1664;
/// What one read asks for, in bytes.
const READ_BYTES: usize = 8 * 1024;

/// A server's connection on which only we speak.
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) buffer: BytesMut,
    address: SocketAddr,
    stage: Stage,
}

/// One message of the server.
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

impl Wire {
    pub(super) fn new(stream: Stream, address: SocketAddr, stage: Stage) -> Self {
        Self { stream, buffer: BytesMut::new(), address, stage }
    }

    fn broken(&self, source: io::Error) -> UpstreamError {
        UpstreamError::Broken { stage: self.stage, address: self.address, source }
    }

    /// The next message; one whose body is longer than `body_bytes_max` is a violation before any of it is read.
    pub(super) async fn receive(&mut self, body_bytes_max: usize) -> Result<Message, UpstreamError> {
        loop {
            if let Some(message) = self.take_message(body_bytes_max)? {
                return Ok(message);
            }
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn take_message(&mut self, body_bytes_max: usize) -> Result<Option<Message>, UpstreamError> {
        let Some((&[tag, length @ ..], _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        // The length counts itself, not the tag.
        let body = u32::from_be_bytes(length).checked_sub(4).and_then(|bytes| usize::try_from(bytes).ok());
        let Some(body) = body.filter(|&bytes| bytes <= body_bytes_max) else {
            return Err(UpstreamError::protocol(format!(
                "a message {:?} of {} bytes",
                char::from(tag),
                u32::from_be_bytes(length)
            )));
        };
        if self.buffer.len() < HEADER_BYTES + body {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Message { tag, body: self.buffer.split_to(body).freeze() }))
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        write.await.map_err(|error| self.broken(error))
    }
}

/// Gives a conversation a limit.
pub(super) async fn within<T>(
    limit: Duration,
    stage: Stage,
    address: SocketAddr,
    work: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(UpstreamError::TimedOut { stage, address, limit }),
    }
}

/// A message that does not belong here.
pub(super) fn unexpected(message: &Message, during: &str) -> UpstreamError {
    UpstreamError::protocol(format!("an unexpected message {:?} during {during}", char::from(message.tag)))
}

/// The server's own error.
pub(super) fn reported(message: &Message) -> UpstreamError {
    UpstreamError::Server(Box::new(ServerReport::parse(&message.body)))
}

/// Takes fields off a message's body; the first that is not there makes the message malformed.
pub(super) struct Fields {
    body: Bytes,
    tag: u8,
}

impl Fields {
    pub(super) fn of(message: Message) -> Self {
        Self { body: message.body, tag: message.tag }
    }

    fn malformed(&self) -> UpstreamError {
        UpstreamError::protocol(format!("a malformed message {:?}", char::from(self.tag)))
    }

    pub(super) fn u8(&mut self) -> Result<u8, UpstreamError> {
        self.body.try_get_u8().map_err(|_short| self.malformed())
    }

    pub(super) fn i16(&mut self) -> Result<i16, UpstreamError> {
        self.body.try_get_i16().map_err(|_short| self.malformed())
    }

    pub(super) fn u32(&mut self) -> Result<u32, UpstreamError> {
        self.body.try_get_u32().map_err(|_short| self.malformed())
    }

    pub(super) fn i32(&mut self) -> Result<i32, UpstreamError> {
        self.body.try_get_i32().map_err(|_short| self.malformed())
    }

    /// A number of columns: never more than PostgreSQL's 1664, which is what may be reserved for it.
    pub(super) fn count(&mut self) -> Result<usize, UpstreamError> {
        usize::try_from(self.i16()?)
            .ok()
            .filter(|&count| count <= COLUMNS_MAX)
            .ok_or_else(|| self.malformed())
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, UpstreamError> {
        if count > self.body.len() {
            return Err(self.malformed());
        }
        Ok(self.body.split_to(count))
    }

    /// A NUL-terminated text; the start-up texts of a server are UTF-8 or ASCII.
    pub(super) fn text(&mut self) -> Result<String, UpstreamError> {
        let end = memchr::memchr(0, &self.body).ok_or_else(|| self.malformed())?;
        let text = self.bytes(end)?;
        self.u8()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub(super) fn rest(self) -> Bytes {
        self.body
    }

    pub(super) fn end(self) -> Result<(), UpstreamError> {
        if self.body.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}
