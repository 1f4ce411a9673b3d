//! Holds back what a client says first, until it is known whether it greets a TLS server and which.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::codec::tls::{Sni, sni_of};
use crate::gate::Denial;

/// Bytes read at once while the opening is held back.
const READ_BYTES: usize = 4096;

/// Says whether a server may be greeted by this name.
pub(super) type Judge = fn(&str) -> Result<(), Denial>;

/// A stream whose first bytes are judged. The other direction is not held up, so that servers which speak first work.
#[derive(Debug)]
pub(super) struct Opening<S> {
    stream: S,
    /// `None` once it has spoken.
    judge: Option<Judge>,
    /// At most [`crate::codec::tls::OPENING_BYTES_MAX`] and one read.
    held: Vec<u8>,
    /// How much of `held` was handed out.
    handed: usize,
}

/// The server may not be greeted; the error of a read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

impl<S> Opening<S> {
    /// Without a judge it is the stream alone.
    pub(super) fn new(stream: S, judge: Option<Judge>) -> Self {
        Self { stream, judge, held: Vec::new(), handed: 0 }
    }

    /// Whether everything held may go on; `None` while that cannot be told.
    fn judged(&self, judge: Judge) -> Option<io::Result<()>> {
        match sni_of(&self.held) {
            Sni::Incomplete => None,
            Sni::NotTls | Sni::None => Some(Ok(())),
            Sni::Name(name) => {
                Some(judge(&name).map_err(|denial| {
                    io::Error::new(io::ErrorKind::PermissionDenied, Refused(denial.reason))
                }))
            }
        }
    }

    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.held.get(self.handed..).unwrap_or_default();
        let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.handed += now.len();
        if later.is_empty() {
            self.held = Vec::new();
            self.handed = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(judge) = self.judge {
            let mut room = [0; READ_BYTES];
            let mut piece = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
            let ended = piece.filled().is_empty();
            self.held.extend_from_slice(piece.filled());
            if let Some(judged) = self.judged(judge) {
                judged?;
                self.judge = None;
            } else if ended {
                self.judge = None;
            }
        }
        if self.held.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        self.hand_out(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::flow::Side;

    const HELLO: &[u8] = include_bytes!("../codec/testdata/client_hello_openssl.bin");

    fn only_others(name: &str) -> Result<(), Denial> {
        if name == "api.shop.test" { Err(Denial::new(Side::Policy, "not there", "")) } else { Ok(()) }
    }

    fn anybody(_name: &str) -> Result<(), Denial> {
        Ok(())
    }

    async fn through(judge: Judge, pieces: &[&[u8]]) -> (Vec<u8>, io::Result<usize>) {
        let (mut client, proxy) = tokio::io::duplex(64);
        let mut opening = Opening::new(proxy, Some(judge));
        let say = async {
            for piece in pieces {
                // A refused opening is dropped, and with it the other end.
                drop(client.write_all(piece).await);
            }
            drop(client);
        };
        let mut seen = Vec::new();
        let read = async { opening.read_to_end(&mut seen).await };
        let ((), outcome) = tokio::join!(say, read);
        (seen, outcome)
    }

    #[tokio::test]
    async fn what_may_pass_passes_whole() {
        let pieces: Vec<&[u8]> = HELLO.chunks(7).collect();
        for said in [&pieces[..], &[HELLO, b"more"], &[b"GET / HTTP/1.1\r\n\r\n"], &[b"\x16\x03"], &[]] {
            let (seen, outcome) = through(anybody, said).await;
            assert_eq!((seen, outcome.unwrap()), (said.concat(), said.concat().len()));
        }
        let (seen, _) = through(only_others, &[b"\x16\x03\x01\0\x02\x01", b"\xff more"]).await;
        assert_eq!(seen, b"\x16\x03\x01\0\x02\x01\xff more", "cut short, and never a greeting");
    }

    #[tokio::test]
    async fn of_a_greeting_that_is_refused_nothing_passes() {
        let (mut client, proxy) = tokio::io::duplex(4096);
        let mut opening = Opening::new(proxy, Some(only_others as Judge));
        client.write_all(HELLO).await.unwrap();
        let mut seen = Vec::new();
        let error = opening.read_to_end(&mut seen).await.unwrap_err();
        assert!(seen.is_empty());
        assert!(error.get_ref().unwrap().is::<Refused>());
        assert_eq!(error.to_string(), "not there");
    }
}
