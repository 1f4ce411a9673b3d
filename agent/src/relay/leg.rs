//! One side of a relayed connection: a stream with a bounded inbox and outbox, driven by polling so that a single
//! task serves both directions and never blocks on one while the other could move.

use std::io;

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

/// Least room for a read; enough for the ordinary question and answer of a connection that is mostly idle.
const READ_BYTES_MIN: usize = 8 * 1024;

/// Room for a read once the peer has filled the smaller one: what a loopback socket hands over in one go.
const READ_BYTES_BULK: usize = 64 * 1024;

/// Room that an empty outbox keeps.
const OUTBOX_BYTES_KEPT: usize = 4 * 1024;

/// A stream and the bytes waiting on either side of it.
#[derive(Debug)]
pub struct Leg<S> {
    stream: S,
    /// Received and not yet handled.
    pub inbox: BytesMut,
    /// Ready to be sent.
    pub outbox: BytesMut,
    ended: bool,
    given_up: bool,
    bulk: bool,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The peer closed its sending side.
    End,
    /// New bytes are in the inbox.
    More,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Leg<S> {
    /// Wraps a stream; `inbox` is what was already read from it.
    #[must_use]
    pub fn new(stream: S, inbox: BytesMut) -> Self {
        Self { stream, inbox, outbox: BytesMut::new(), ended: false, given_up: false, bulk: false }
    }

    /// The stream, for what it is; bytes go through the leg.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream and what was received but not handled, when the relay did not consume it.
    #[must_use]
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.inbox)
    }

    /// Whether the peer closed its sending side.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Nobody is there any more: what is to be sent is dropped, and nothing is received.
    pub fn give_up(&mut self) {
        self.ended = true;
        self.given_up = true;
    }

    /// Reads once into the inbox.
    ///
    /// # Errors
    /// The stream's own.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Fill>> {
        if self.ended {
            return Poll::Pending;
        }
        if self.inbox.is_empty() && self.inbox.capacity() == 0 {
            self.inbox = spare::take();
        }
        if self.inbox.capacity() - self.inbox.len() < READ_BYTES_MIN {
            self.inbox.reserve(if self.bulk { READ_BYTES_BULK } else { READ_BYTES_MIN });
        }
        let read = {
            // The future holds no state of its own, so making it anew for each poll loses nothing.
            let read = pin!(self.stream.read_buf(&mut self.inbox));
            match read.poll(context) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if self.inbox.is_empty() {
                        spare::give(std::mem::take(&mut self.inbox));
                    }
                    return Poll::Pending;
                }
            }
        };

        self.bulk = read >= READ_BYTES_MIN;
        if read == 0 {
            self.ended = true;
            return Poll::Ready(Ok(Fill::End));
        }
        Poll::Ready(Ok(Fill::More))
    }

    /// Sends what the outbox holds; ready when it is empty and flushed.
    ///
    /// # Errors
    /// The stream's own; a stream that takes no bytes is `WriteZero`.
    pub fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.given_up {
            self.outbox.clear();
            return Poll::Ready(Ok(()));
        }
        while !self.outbox.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.outbox))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(sent);
        }
        if self.outbox.capacity() > OUTBOX_BYTES_KEPT {
            self.outbox = BytesMut::new();
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Reads once.
    ///
    /// # Errors
    /// The stream's own.
    pub async fn fill(&mut self) -> io::Result<Fill> {
        std::future::poll_fn(|context| self.poll_fill(context)).await
    }

    /// Sends everything in the outbox.
    ///
    /// # Errors
    /// The stream's own.
    pub async fn drain(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_drain(context)).await
    }

    /// Sends everything in the outbox, then closes our sending side.
    ///
    /// # Errors
    /// The stream's own.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.drain().await?;
        std::future::poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await
    }
}

/// Empty buffers of the connections that a thread serves: one that waits for its peer needs none of its own.
mod spare {
    use std::cell::RefCell;

    use bytes::BytesMut;

    use super::READ_BYTES_BULK;

    /// Buffers kept by each thread.
    const KEPT: usize = 8;

    thread_local! {
        static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    }

    /// A buffer, with room if one is spare.
    pub(super) fn take() -> BytesMut {
        SPARE.with_borrow_mut(|spare| spare.pop().unwrap_or_default())
    }

    /// Gives an empty buffer back.
    pub(super) fn give(buffer: BytesMut) {
        if buffer.capacity() == 0 || buffer.capacity() > READ_BYTES_BULK {
            return;
        }
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}
