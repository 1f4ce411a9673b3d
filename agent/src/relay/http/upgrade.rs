//! Connections that become another protocol's: WebSocket (RFC 6455, and RFC 8441 from HTTP/2 clients), message by message
//! under the masks and in the record; anything else as counted bytes.

use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::body::{ResponseStream, Source};
use super::forward::mask_head;
use super::head::strip_hop_by_hop;
use super::log::ExchangeLog;
use super::masks::Masks;
use super::session::Session;
use super::websocket;
use crate::mask::http::Counts;
use crate::record::asked::base64;
use crate::record::event::OutcomeStatus;

/// The one protocol whose messages are looked into.
const WEBSOCKET: &str = "websocket";

/// Makes the request of an upgrade what an HTTP/1.1 server expects. Extensions are not offered on: a compressed message
/// could not be looked into.
///
/// # Errors
/// The system has no randomness for a key.
pub(super) fn prepare(parts: &mut http::request::Parts, protocol: &str) -> Result<(), getrandom::Error> {
    let headers = &mut parts.headers;
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        headers.insert(UPGRADE, protocol);
    }
    if parts.method == Method::CONNECT {
        // RFC 8441 section 5: what HTTP/1.1 adds to prove that both sides mean it.
        parts.method = Method::GET;
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        if let Ok(key) = HeaderValue::from_str(&base64(&key)) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        parts.extensions.remove::<hyper::ext::Protocol>();
    }
    Ok(())
}

/// An upgrade that the server agreed to, and what it takes to serve it.
pub(super) struct Switch {
    pub(super) session: Arc<Session>,
    pub(super) masks: Arc<Masks>,
    /// Protocol that was asked for.
    pub(super) protocol: String,
    /// The client's side.
    pub(super) client: OnUpgrade,
    /// The client asked by extended CONNECT.
    pub(super) extended: bool,
    pub(super) log: ExchangeLog,
}

/// Answers the client and serves the upgraded connection in a task of its own.
pub(super) fn switch(switch: Switch, mut response: Response<Incoming>) -> Response<ResponseStream> {
    let server = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove(CONTENT_LENGTH);
    if switch.extended {
        head.status = StatusCode::OK;
        head.headers.remove(SEC_WEBSOCKET_ACCEPT);
        head.version = http::Version::HTTP_2;
    } else {
        restore(&mut head.headers, &switch.protocol);
    }
    let Switch { session, masks, protocol, client, mut log, .. } = switch;
    // Taken before the answer is out: the client's connection ends for hyper with it.
    let upgraded = session.upgrade();
    let mut counts = Counts::new();
    mask_head(&mut head, &masks.response, &mut counts);
    log.masked(&counts);
    log.answered(&head);
    tokio::spawn(async move {
        let joined = tokio::try_join!(client, server);
        let (client, server) = match joined {
            Ok(both) => both,
            Err(error) => return log.finish(OutcomeStatus::Failed, Some(&error)),
        };
        tokio::select! {
            () = serve(&session, &masks, &protocol, client, server, log) => {}
            // The log says by itself that it did not come to its end.
            () = session.when_cut() => {}
        }
        drop(upgraded);
    });
    Response::from_parts(head, ResponseStream::new(Source::Whole(None), None, None, None))
}

async fn serve(
    session: &Arc<Session>,
    masks: &Arc<Masks>,
    protocol: &str,
    client: Upgraded,
    server: Upgraded,
    mut log: ExchangeLog,
) {
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    if protocol == WEBSOCKET {
        return websocket::relay(session, masks, client, server, log).await;
    }
    match tokio::io::copy_bidirectional(&mut client, &mut server).await {
        Ok((up, down)) => {
            log.note(format!("{up} bytes to the server and {down} bytes to the client were relayed unread"));
            log.finish(OutcomeStatus::Done, None);
        }
        Err(error) => log.finish(OutcomeStatus::Failed, Some(&error)),
    }
}

fn restore(headers: &mut HeaderMap, protocol: &str) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        headers.insert(UPGRADE, protocol);
    }
}
