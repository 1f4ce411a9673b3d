//! Connections to HTTP servers: dialled under an admission, verified, and used again by the same run for the same target.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;

use super::{Dialler, UpstreamError};
use crate::flow::RunId;
use crate::gate::Admission;
use crate::secret::Secret;
use crate::tls::Stream;

/// Idle connections kept for one target of one run.
const IDLE_PER_TARGET_MAX: usize = 32;

/// Targets with idle connections at once; beyond it connections are closed after use.
const TARGETS_MAX: usize = 1024;

/// How long an idle connection may take to be ready for the next request; one that takes longer is not used again.
const READY_TIME_MAX: Duration = Duration::from_millis(100);

/// How often idle connections are looked through for old ones.
const REAP_INTERVAL: Duration = Duration::from_secs(10);

/// How long an idle connection is kept: shorter than what servers commonly allow.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of a response's head that are taken, and fields in it.
const HEAD_BYTES_MAX: usize = 256 * 1024;
const HEADERS_MAX: usize = 256;

/// HTTP/2 windows of one stream and of a connection to a server, in bytes. h2 closes a connection once small DATA frames
/// that wait cost more than half of its window beyond their bytes (each as 256): with a stream's window full of frames of 16
/// bytes, they do not.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 32 * STREAM_WINDOW;

/// How often an HTTP/2 server is asked whether it is still there while requests are open.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Any error of a body on its way.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way to a server.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// What is spoken to the server: what the client speaks to us, so that nothing is lost in translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and HTTP/1.1 where the server has no other.
    Http2,
}

impl Version {
    /// What is offered to the server (RFC 7301).
    #[must_use]
    pub fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2", b"http/1.1"],
        }
    }
}

/// What a connection is for: it may be used again only by whoever it was opened for.
#[derive(PartialEq, Eq, Hash)]
pub struct Target {
    run: RunId,
    connection: String,
    policy_version: String,
    destination: SocketAddr,
    /// The proxy it is reached by.
    proxy: Option<SocketAddr>,
    /// Name the server's certificate must bear; `None` without TLS.
    pub(super) tls: Option<ServerName<'static>>,
    /// What is spoken.
    pub(super) version: Version,
}

impl Target {
    /// What an admission's requests that go this way are for.
    #[must_use]
    pub fn new(admission: &Admission, tls: Option<ServerName<'static>>, version: Version) -> Arc<Self> {
        Arc::new(Self {
            run: admission.flow().run,
            connection: admission.connection().name.clone(),
            policy_version: admission.policy().version.clone(),
            destination: admission.flow().destination.0,
            proxy: admission.through().map(|through| through.proxy().flow().destination.0),
            tls,
            version,
        })
    }
}

/// Idle connections of all runs.
#[derive(Default)]
pub struct HttpPool {
    idle: Mutex<HashMap<Arc<Target>, Idle>>,
    /// A task looks for old connections.
    reaping: AtomicBool,
}

#[derive(Default)]
struct Idle {
    /// Carries many requests at once.
    shared: Option<(http2::SendRequest<RequestBody>, SocketAddr)>,
    single: Vec<(http1::SendRequest<RequestBody>, SocketAddr, Instant)>,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Sender {
    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }
}

/// A connection to the server, for one request.
pub struct Lease {
    sender: Sender,
    target: Arc<Target>,
    pool: Arc<HttpPool>,
    /// The server's address.
    pub address: SocketAddr,
    /// How long connecting took; `None` when it was connected already.
    pub connected_in: Option<Duration>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection was closed before the request was on its way; it may be sent again.
    #[error("the server closed the connection before it took the request")]
    NotSent(Box<Request<RequestBody>>),
    /// It may have arrived.
    #[error("the server gave no answer")]
    NoAnswer(#[source] hyper::Error),
}

impl HttpPool {
    /// A connection for one request: an idle one, else a new one.
    ///
    /// # Errors
    /// The server cannot be found, reached or verified.
    pub async fn lease(
        self: &Arc<Self>,
        dialler: &Dialler,
        admission: &Admission,
        target: &Arc<Target>,
        client_certificate: Option<&Secret>,
    ) -> Result<Lease, UpstreamError> {
        while let Some((mut sender, address)) = self.take(target) {
            if sender.is_ready() {
                let pool = Arc::clone(self);
                return Ok(Lease { sender, target: Arc::clone(target), pool, address, connected_in: None });
            }
            let ready = tokio::time::timeout(READY_TIME_MAX, async {
                match &mut sender {
                    Sender::Http1(sender) => poll_fn(|context| sender.poll_ready(context)).await,
                    Sender::Http2(sender) => poll_fn(|context| sender.poll_ready(context)).await,
                }
            });
            if let Ok(Ok(())) = ready.await {
                let pool = Arc::clone(self);
                return Ok(Lease { sender, target: Arc::clone(target), pool, address, connected_in: None });
            }
            self.forget(target, &sender);
        }
        let started = Instant::now();
        let (stream, address) = dialler.dial_http(admission, target, client_certificate).await?;
        let sender = open(stream, address).await?;
        if let Sender::Http2(sender) = &sender {
            self.share(target, sender.clone(), address);
        }
        let connected_in = Some(started.elapsed());
        Ok(Lease { sender, target: Arc::clone(target), pool: Arc::clone(self), address, connected_in })
    }

    fn take(&self, target: &Arc<Target>) -> Option<(Sender, SocketAddr)> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(target)?;
        if let Some((sender, address)) = &kept.shared {
            return Some((Sender::Http2(sender.clone()), *address));
        }
        while let Some((sender, address, since)) = kept.single.pop() {
            if since.elapsed() < IDLE_TIME_MAX && !sender.is_closed() {
                return Some((Sender::Http1(sender), address));
            }
        }
        None
    }

    fn forget(&self, target: &Arc<Target>, closed: &Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match (closed, idle.get_mut(target)) {
            (Sender::Http2(_), Some(kept)) => kept.shared = None,
            (Sender::Http1(_) | Sender::Http2(_), _) => {}
        }
    }

    fn share(&self, target: &Arc<Target>, sender: http2::SendRequest<RequestBody>, address: SocketAddr) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = entry(&mut idle, target) {
            kept.shared = Some((sender, address));
        }
    }

    fn put(
        self: &Arc<Self>,
        target: &Arc<Target>,
        sender: http1::SendRequest<RequestBody>,
        address: SocketAddr,
    ) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = entry(&mut idle, target)
            && kept.single.len() < IDLE_PER_TARGET_MAX
        {
            kept.single.push((sender, address, Instant::now()));
        }
        drop(idle);
        if !self.reaping.swap(true, Ordering::AcqRel) {
            tokio::spawn(Arc::clone(self).reap());
        }
    }

    /// Closes connections that nobody came back to, until none are left.
    async fn reap(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REAP_INTERVAL).await;
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            clear_old(&mut idle);
            if idle.values().all(|kept| kept.single.is_empty()) {
                self.reaping.store(false, Ordering::Release);
                return;
            }
        }
    }
}

fn clear_old(idle: &mut HashMap<Arc<Target>, Idle>) {
    idle.retain(|_, kept| {
        kept.single.retain(|(sender, _, since)| since.elapsed() < IDLE_TIME_MAX && !sender.is_closed());
        kept.shared.as_ref().is_some_and(|(sender, _)| !sender.is_closed()) || !kept.single.is_empty()
    });
}

/// The place of a target; old ones are cleared when there is none left.
fn entry<'i>(idle: &'i mut HashMap<Arc<Target>, Idle>, target: &Arc<Target>) -> Option<&'i mut Idle> {
    if idle.len() >= TARGETS_MAX && !idle.contains_key(target) {
        clear_old(idle);
        if idle.len() >= TARGETS_MAX {
            return None;
        }
    }
    Some(idle.entry(Arc::clone(target)).or_default())
}

/// Begins HTTP on a fresh connection, in the version that TLS agreed on.
async fn open(stream: Stream, address: SocketAddr) -> Result<Sender, UpstreamError> {
    let broken = |error: hyper::Error| UpstreamError::http(address, &error);
    if stream.alpn() == Some(b"h2") {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_INTERVAL)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "an HTTP/2 connection to a server ended");
            }
        });
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, %address, "an HTTP/1.1 connection to a server ended");
        }
    });
    Ok(Sender::Http1(sender))
}

impl Lease {
    /// Whether the request travels as HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        match self.sender {
            Sender::Http1(_) => false,
            Sender::Http2(_) => true,
        }
    }

    /// Whether the connection served others before; such a one may close just as it is used again.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.connected_in.is_none()
    }

    /// Sends the request and waits for the head of its answer.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| match error.take_message() {
            Some(request) => SendError::NotSent(Box::new(request)),
            None => SendError::NoAnswer(error.into_error()),
        })
    }

    /// The whole answer was read: the connection may serve the next request.
    pub fn give_back(self) {
        match self.sender {
            Sender::Http1(sender) if !sender.is_closed() => self.pool.put(&self.target, sender, self.address),
            // An HTTP/2 connection is in the pool as long as it lives.
            Sender::Http1(_) | Sender::Http2(_) => {}
        }
    }
}
