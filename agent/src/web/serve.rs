//! Connections of the page: so many at once, each for so long, none of an agent.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Web, peer, router};
use crate::tls::page_side::PageCertificate;

/// Connections at once; the next ones wait.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// How long a handshake, and the head of a request, may take; and a connection between two requests.
pub(super) const HEAD_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a connection lasts, whatever it does. The script's stream begins anew by itself.
pub(super) const CONNECTION_TIME_MAX: Duration = Duration::from_mins(15);
/// Most bytes of a request's head, and most fields.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// Pause after a failed accept: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, tls: Option<Arc<PageCertificate>>, web: Arc<Web>) {
    let (routes, places) = (router(Arc::clone(&web)), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, _)) => {
                // As it is now: it may be renewed while others are connected.
                let acceptor = tls.as_ref().map(|certificate| TlsAcceptor::from(certificate.current()));
                let (routes, tls, web) = (routes.clone(), acceptor, Arc::clone(&web));
                connections.spawn(async move {
                    if tokio::time::timeout(CONNECTION_TIME_MAX, attend(tcp, tls, &web, routes))
                        .await
                        .is_err()
                    {
                        tracing::debug!("a connection of the approvals page has lasted long enough");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept on the approvals page");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn attend(tcp: TcpStream, tls: Option<TlsAcceptor>, web: &Arc<Web>, routes: Router) {
    if !peer::may_come(&tcp, &web.runs).await {
        return;
    }
    let Some(tls) = tls else { return talk(tcp, routes).await };
    match tokio::time::timeout(HEAD_TIME_MAX, tls.accept(tcp)).await {
        Ok(Ok(stream)) => talk(stream, routes).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS on the approvals page"),
        Err(_late) => tracing::debug!("no TLS on the approvals page in time"),
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, routes: Router) {
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the approvals page broke");
    }
}
