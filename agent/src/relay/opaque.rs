//! Bytes relayed unread, for destinations whose policy says only that they are to be recorded: counted, not judged.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Relay, Shutdown};
use crate::flow::Side;
use crate::gate::Admission;
use crate::record::SessionRecord;
use crate::record::event::{EndReason, Ended, OpaqueCounts};
use crate::tls::Stream;

/// How often the counts of a long connection are recorded.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Relays one admitted connection to its end, which is recorded.
pub(crate) async fn serve(
    tcp: TcpStream,
    admission: &Admission,
    relay: &Relay,
    mut record: SessionRecord,
    mut shutdown: Shutdown,
) {
    let ended = tokio::select! {
        ended = connect_and_relay(tcp, admission, relay, &mut record) => ended,
        () = shutdown.begun() => Ended { reason: EndReason::Drained, side: Side::Portcullis, detail: None },
    };
    if let Err(error) = record.close(ended) {
        tracing::error!(%error, "cannot record a session's end");
    }
}

async fn connect_and_relay(
    tcp: TcpStream,
    admission: &Admission,
    relay: &Relay,
    record: &mut SessionRecord,
) -> Ended {
    let server = match relay.dialler.dial_opaque(admission).await {
        Ok(server) => server,
        Err(error) => {
            return Ended { reason: EndReason::Failed, side: error.side(), detail: Some(error.to_string()) };
        }
    };
    let client = match Stream::plain(tcp) {
        Ok(client) => client,
        Err(error) => return lost(Side::Client, &error),
    };
    let mut client = Counted::new(client);
    let mut server = Counted::new(server);
    let (from_client, from_server) = (Arc::clone(&client.read), Arc::clone(&server.read));
    let counts = || OpaqueCounts {
        to_upstream: from_client.load(Ordering::Relaxed),
        to_client: from_server.load(Ordering::Relaxed),
    };
    let mut copy = std::pin::pin!(tokio::io::copy_bidirectional(&mut client, &mut server));
    let mut interval = tokio::time::interval(COUNT_INTERVAL);
    interval.tick().await;
    loop {
        tokio::select! {
            copied = &mut copy => {
                record.count_bytes(counts());
                return match copied {
                    Ok(_) => Ended { reason: EndReason::Finished, side: Side::Client, detail: None },
                    Err(error) => lost(Side::Upstream, &error),
                };
            }
            _ = interval.tick() => {
                if let Err(error) = record.opaque_counts(counts()) {
                    let detail = Some(error.to_string());
                    return Ended { reason: EndReason::Failed, side: Side::Portcullis, detail };
                }
            }
        }
    }
}

fn lost(side: Side, error: &std::io::Error) -> Ended {
    Ended { reason: EndReason::Lost, side, detail: Some(error.to_string()) }
}

/// A stream that counts what is read from it.
struct Counted {
    stream: Stream,
    read: Arc<AtomicU64>,
}

impl Counted {
    fn new(stream: Stream) -> Self {
        Self { stream, read: Arc::default() }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
