//! Bytes relayed unread, for destinations whose policy says only that they are to be recorded: counted, not judged.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::counted::Counted;
use super::opening::{Opening, Refused};
use super::{Relay, Shutdown};
use crate::flow::Side;
use crate::gate::{Admission, Gate, UNNAMED_CONNECTION};
use crate::record::SessionRecord;
use crate::record::event::{EndReason, Ended, OpaqueCounts};
use crate::tls::Stream;

/// How often the counts of a long connection are recorded.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Relays one admitted connection to its end, which is recorded. `beginning` is what was read of it already.
pub(crate) async fn serve(
    tcp: TcpStream,
    beginning: &[u8],
    admission: &Admission,
    relay: &Relay,
    mut record: SessionRecord,
    mut shutdown: Shutdown,
) {
    let ended = tokio::select! {
        ended = connect_and_relay(tcp, beginning, admission, relay, &mut record) => ended,
        () = shutdown.begun() => shutdown.ended(),
    };
    if let Err(error) = record.close(ended) {
        tracing::error!(%error, "cannot record a session's end");
    }
}

async fn connect_and_relay(
    tcp: TcpStream,
    beginning: &[u8],
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
    // Where policy says nothing of the destination, a way around the resolver is told by what the client asks for.
    let unnamed = admission.connection().name == UNNAMED_CONNECTION;
    let (mut client, _) = Counted::new(Opening::new(client, unnamed.then_some(Gate::may_greet)));
    let (mut server, server_counts) = Counted::new(server);
    if let Err(error) = server.write_all(beginning).await {
        return lost(Side::Upstream, &error);
    }
    let counts = || OpaqueCounts { to_upstream: server_counts.written(), to_client: server_counts.read() };
    let mut copy = std::pin::pin!(tokio::io::copy_bidirectional(&mut client, &mut server));
    let mut interval = tokio::time::interval(COUNT_INTERVAL);
    interval.tick().await;
    loop {
        tokio::select! {
            copied = &mut copy => {
                record.count_bytes(counts());
                return match copied {
                    Ok(_) => Ended { reason: EndReason::Finished, side: Side::Client, detail: None },
                    Err(error) if error.get_ref().is_some_and(|error| error.is::<Refused>()) => {
                        let detail = Some(error.to_string());
                        Ended { reason: EndReason::Refused, side: Side::Policy, detail }
                    }
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
