//! HTTP connections: accept the client's TLS, then serve each of its requests under the gate, masking and recording on
//! the way. hyper parses and writes both sides' messages, so what was judged is what is forwarded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use self::client::{Expected, Opened};
use self::door::{Door, Guarded};
use self::session::Session;
use super::counted::{Counted, Counts};
use super::{Relay, Shutdown, open_record};
use crate::flow::Side;
use crate::gate::{Admission, Unidentified};
use crate::record::event::{EndReason, Ended, OpaqueCounts};
use crate::record::{RecordError, SessionRecord};
use crate::tls::Stream;
use crate::upstream::http::Version;

mod answer;
mod body;
mod client;
mod coding;
mod door;
mod exchange;
mod forward;
mod head;
mod hold;
mod log;
mod masks;
mod passthrough;
mod proxy;
mod session;
mod upgrade;
mod websocket;

pub(crate) use self::client::{looks_like_http, refuse};
pub use self::exchange::ROOM_KIB;
pub use self::masks::MaskCache;
pub(crate) use self::masks::NoMasks;

/// Fields of a request's head that are taken, and bytes of it.
const HEADERS_MAX: usize = 256;
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// How long a client may take for a request's head, and may leave a connection idle.
const HEAD_TIME_MAX: Duration = Duration::from_secs(120);

/// Requests that one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 128;

/// Streams that a client may have reset before we took them up, and errors of its own making, before the connection is
/// closed (CVE-2023-44487, "rapid reset").
const RESETS_MAX: usize = 32;

/// HTTP/2 windows of one stream and of a client's connection, in bytes: a run may have many connections. They are to each
/// other as those to servers are, for frames of 32 bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// Bytes that wait in memory for an HTTP/2 client that does not read.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// How long answers that are under way may take once the daemon stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the record of the last answers is waited for.
const LAST_RECORDS_TIME_MAX: Duration = Duration::from_secs(10);

/// Relays one admitted connection to its end, which is recorded.
pub(crate) async fn serve(
    tcp: TcpStream,
    admission: Admission,
    relay: &Arc<Relay>,
    record: SessionRecord,
    shutdown: Shutdown,
) {
    let opened = match client::open(tcp, &Expected::from(&admission), relay).await {
        Ok(Opened::Http(stream, client)) => (stream, client),
        Ok(Opened::Passthrough(tcp, hello, name)) => {
            return passthrough::serve(tcp, hello, name, &admission, relay, record, shutdown).await;
        }
        Err(ended) => return finish(record, ended),
    };
    let (stream, client) = opened;
    let server_name = match client::server_name(&admission, relay, &client) {
        Ok(name) => name,
        Err(error) => {
            let detail = Some(error.to_string());
            return finish(record, Ended { reason: EndReason::Failed, side: error.side(), detail });
        }
    };
    let session = Session::new(relay, admission, client, server_name, record);
    let (stream, counts) = Counted::new(stream);
    let ended = requests(stream, &Arc::new(Door::Open(Arc::clone(&session))), shutdown.clone()).await;
    end(&session, &counts, ended, shutdown).await;
}

/// Relays a connection whose client brings a token with every request, to its end, which is recorded.
///
/// # Errors
/// When it cannot be recorded.
pub(crate) async fn serve_unidentified(
    tcp: TcpStream,
    unidentified: Unidentified,
    relay: &Arc<Relay>,
    shutdown: Shutdown,
) -> Result<(), RecordError> {
    let nobodys = || {
        let (flow, run) = (unidentified.flow(), unidentified.run());
        open_record(&relay.recorder, flow, run, unidentified.subject(), None)
    };
    let (stream, client) = match client::open(tcp, &Expected::from(&unidentified), relay).await {
        Ok(Opened::Http(stream, client)) => (stream, client),
        Ok(Opened::Passthrough(..)) => {
            let detail = Some("what is not read cannot bring a token".to_owned());
            let ended = Ended { reason: EndReason::Refused, side: Side::Policy, detail };
            return nobodys()?.close(ended).map(drop);
        }
        Err(ended) => return nobodys()?.close(ended).map(drop),
    };
    let (stream, counts) = Counted::new(stream);
    let door = Arc::new(Door::Guarded(Box::new(Guarded::new(relay, unidentified.clone(), client))));
    let ended = requests(stream, &door, shutdown.clone()).await;
    let Door::Guarded(guarded) = &*door else { return Ok(()) };
    let (holders, nobody) = guarded.close();
    match nobody {
        Some((record, ended)) => finish(record, ended),
        None if holders.is_empty() => finish(guarded.nobodys()?, ended.clone()),
        None => {}
    }
    // Whose bytes they were is not known where there are several.
    let unknown = Counts::default();
    let counts = if holders.len() == 1 { &counts } else { &unknown };
    let ends = holders.iter().map(|holder| end(&holder.session, counts, ended.clone(), shutdown.clone()));
    futures_util::future::join_all(ends).await;
    Ok(())
}

/// Serves requests until the client has no more.
async fn requests(stream: Counted<Stream>, door: &Arc<Door>, shutdown: Shutdown) -> Ended {
    match door.version() {
        Version::Http1 => Box::pin(http1(stream, door, shutdown)).await,
        Version::Http2 => Box::pin(http2(stream, door, shutdown)).await,
    }
}

/// What is left to do when the last request of a session was answered.
async fn end(session: &Arc<Session>, counts: &Counts, ended: Ended, shutdown: Shutdown) {
    let ended = upgraded(session, shutdown.clone()).await.unwrap_or(ended);
    for target in session.take_targets() {
        close(&target, &Counts::default(), ended.clone()).await;
    }
    close(session, counts, ended).await;
    if let Some(tunnel) = session.take_tunnel() {
        tunnel.serve(session, shutdown).await;
    }
}

async fn http1(stream: Counted<Stream>, door: &Arc<Door>, mut shutdown: Shutdown) -> Ended {
    let service = {
        let door = Arc::clone(door);
        service_fn(move |request| {
            let door = Arc::clone(&door);
            async move { Ok::<_, Infallible>(Box::pin(exchange::serve(door, request)).await) }
        })
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => return ended(served),
            () = shutdown.begun() => break connection.as_mut().graceful_shutdown(),
            () = door.worn(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    if shutdown.is_gentle() {
        drop(tokio::time::timeout(STOP_TIME_MAX, connection).await);
    }
    shutdown.ended()
}

async fn http2(stream: Counted<Stream>, door: &Arc<Door>, mut shutdown: Shutdown) -> Ended {
    let service = {
        let door = Arc::clone(door);
        service_fn(move |request| {
            let door = Arc::clone(&door);
            async move { Ok::<_, Infallible>(Box::pin(exchange::serve(door, request)).await) }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .enable_connect_protocol()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => return ended(served),
            () = shutdown.begun() => break connection.as_mut().graceful_shutdown(),
            () = door.worn(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    if shutdown.is_gentle() {
        drop(tokio::time::timeout(STOP_TIME_MAX, connection).await);
    }
    shutdown.ended()
}

/// Sees out what became another protocol's: hyper's connection is over with the answer that said so. Says how it ended, when
/// the daemon's stop ended it.
async fn upgraded(session: &Session, mut shutdown: Shutdown) -> Option<Ended> {
    tokio::select! {
        () = session.no_longer_upgraded() => None,
        () = shutdown.begun() => {
            session.cut_upgraded();
            session.no_longer_upgraded().await;
            Some(shutdown.ended())
        }
    }
}

/// How the client's side of the connection ended.
fn ended(served: Result<(), hyper::Error>) -> Ended {
    match served {
        Ok(()) => Ended { reason: EndReason::Finished, side: Side::Client, detail: None },
        Err(error) => {
            let reason = if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
                EndReason::Lost
            } else {
                EndReason::Failed
            };
            Ended { reason, side: Side::Client, detail: Some(log::causes(&error)) }
        }
    }
}

async fn close(session: &Session, counts: &Counts, ended: Ended) {
    if tokio::time::timeout(LAST_RECORDS_TIME_MAX, session.idle()).await.is_err() {
        tracing::debug!(session = %session.id(), "requests are still under way when their session is closed");
    }
    let Some(mut record) = session.take_record() else { return };
    record.count_bytes(OpaqueCounts { to_upstream: counts.read(), to_client: counts.written() });
    finish(record, ended);
}

fn finish(record: SessionRecord, ended: Ended) {
    if let Err(error) = record.close(ended) {
        tracing::error!(%error, "cannot record a session's end");
    }
}
