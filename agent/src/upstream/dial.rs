//! Opens the connection to the real server that an admission allows, with the TLS its profile demands.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::error::{Stage, UpstreamError};
use super::http::Target as HttpTarget;
use super::tunnel;
use super::wire::within;
use super::{CONNECT_TIME_MAX, TLS_TIME_MAX};
use crate::gate::{Admission, Through};
use crate::policy::rule::{Connection, Destination, UpstreamTls};
use crate::secret::Secret;
use crate::tls::Stream;
use crate::tls::upstream_side::{ServerTrust, Verify, certificate_problem};

/// SSLRequest: its length, then 1234.5679
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Idle time after which the kernel asks whether the server is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Pause between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions after which the connection is dead.
const KEEPALIVE_PROBES: u32 = 3;
/// Addresses tried of a name that has several.
const ADDRESSES_MAX: usize = 8;

/// Dials servers; holds the roots they are verified against.
#[derive(Debug, Default)]
pub struct Dialler {
    trust: ServerTrust,
}

/// An open connection, and what it takes to open another one to the very same server.
#[derive(Debug)]
pub struct Dialled {
    /// Ready for the StartupMessage.
    pub stream: Stream,
    /// For CancelRequest and side connections.
    pub target: Target,
}

/// A server that an admission has allowed: only [`Dialler::dial`] makes one.
#[derive(Clone, Debug)]
pub struct Target {
    address: SocketAddr,
    tls: Option<TargetTls>,
    route: Route,
}

/// How a server is reached.
#[derive(Clone, Debug)]
enum Route {
    Direct,
    /// By a tunnel that a proxy opens.
    Tunnel(Arc<Through>),
    /// The proxy itself is spoken to, about the server.
    Proxy(Arc<Through>),
}

#[derive(Clone, Debug)]
struct TargetTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Dialler {
    /// Connects to the profile's server: its `address`, or where the client was going.
    ///
    /// `resolved` says whether a host name of the policy currently stands for an address; it is the cache that also
    /// matched the flow to its profile. `client_certificate` is shown to a server that asks for one.
    ///
    /// # Errors
    /// The server cannot be found, reached or verified.
    pub async fn dial(
        &self,
        admission: &Admission,
        resolved: &(dyn Fn(&str, IpAddr) -> bool + Sync),
        client_certificate: Option<&Secret>,
    ) -> Result<Dialled, UpstreamError> {
        let profile = admission.connection();
        let destination = admission.flow().destination.0;
        let tls = |address: SocketAddr| {
            let Some(verify) = verification(profile.upstream.tls) else { return Ok(None) };
            let root_cert = profile.upstream.root_cert.as_deref();
            let config = self.trust.config(root_cert, verify, client_certificate)?;
            let name = server_name(profile, destination, address, resolved)?;
            Ok::<_, UpstreamError>(Some(TargetTls { config, name }))
        };
        let Some(host) = &profile.upstream.address else {
            let route = route(admission);
            return Target { address: destination, tls: tls(destination)?, route }.open().await;
        };
        let mut last = None;
        for address in lookup(host).await?.into_iter().take(ADDRESSES_MAX) {
            match (Target { address, tls: tls(address)?, route: Route::Direct }).open().await {
                Ok(dialled) => return Ok(dialled),
                Err(
                    error @ (UpstreamError::Connect { .. }
                    | UpstreamError::TimedOut { stage: Stage::Connecting, .. }),
                ) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_address(host)))
    }

    /// Connects without speaking: for bytes that are relayed unread, TLS and all.
    ///
    /// # Errors
    /// The server cannot be found or reached.
    pub async fn dial_opaque(&self, admission: &Admission) -> Result<Stream, UpstreamError> {
        let destination = admission.flow().destination.0;
        let addresses = match &admission.connection().upstream.address {
            None => vec![destination],
            Some(host) => lookup(host).await?,
        };
        let mut last = None;
        let route = route(admission);
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match (Target { address, tls: None, route: route.clone() }).redial().await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| no_address(&destination.to_string())))
    }

    /// Connects for HTTP: TLS, where the way has it, begins at once.
    ///
    /// # Errors
    /// The server cannot be found, reached or verified.
    pub async fn dial_http(
        &self,
        admission: &Admission,
        target: &HttpTarget,
        client_certificate: Option<&Secret>,
    ) -> Result<(Stream, SocketAddr), UpstreamError> {
        let profile = admission.connection();
        let tls = match (&target.tls, verification(profile.upstream.tls)) {
            (Some(name), Some(verify)) => {
                let root_cert = profile.upstream.root_cert.as_deref();
                let alpn = target.version.alpn();
                let config = self.trust.http_config(root_cert, verify, alpn, client_certificate)?;
                Some(TargetTls { config, name: name.clone() })
            }
            (None, _) | (_, None) => None,
        };
        let addresses = match &profile.upstream.address {
            None => vec![admission.flow().destination.0],
            Some(host) => lookup(host).await?,
        };
        let route = match (route(admission), &tls) {
            // Without TLS a proxy is asked in absolute form.
            (Route::Tunnel(through), None) => Route::Proxy(through),
            (route @ (Route::Direct | Route::Tunnel(_) | Route::Proxy(_)), _) => route,
        };
        let mut last = None;
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match (Target { address, tls: tls.clone(), route: route.clone() }).open_http().await {
                Ok(stream) => return Ok((stream, address)),
                Err(
                    error @ (UpstreamError::Connect { .. }
                    | UpstreamError::TimedOut { stage: Stage::Connecting, .. }),
                ) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_address(&admission.flow().destination.to_string())))
    }
}

fn verification(tls: UpstreamTls) -> Option<Verify> {
    match tls {
        UpstreamTls::Disable => None,
        UpstreamTls::VerifyCa => Some(Verify::Chain),
        UpstreamTls::VerifyFull => Some(Verify::ChainAndName),
    }
}

impl Target {
    /// The server's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection to the same server, under the same rules.
    ///
    /// # Errors
    /// It cannot be reached or verified.
    pub async fn redial(&self) -> Result<Stream, UpstreamError> {
        let tcp = self.connect().await?;
        match &self.tls {
            None => Stream::plain(tcp).map_err(|source| self.broken(Stage::Connecting, source)),
            Some(tls) => within(TLS_TIME_MAX, Stage::Tls, self.address, self.start_tls(tcp, tls)).await,
        }
    }

    async fn open(self) -> Result<Dialled, UpstreamError> {
        Ok(Dialled { stream: self.redial().await?, target: self })
    }

    fn broken(&self, stage: Stage, source: std::io::Error) -> UpstreamError {
        UpstreamError::Broken { stage, address: self.address, source }
    }

    async fn start_tls(&self, mut tcp: TcpStream, tls: &TargetTls) -> Result<Stream, UpstreamError> {
        let broken = |source| self.broken(Stage::Tls, source);
        tcp.write_all(&SSL_REQUEST).await.map_err(broken)?;
        // Exactly one byte: whatever an attacker slipped in behind it meets the TLS layer, which refuses it
        // (CVE-2021-23222).
        match tcp.read_u8().await.map_err(broken)? {
            b'S' => {}
            b'N' => return Err(UpstreamError::TlsNotOffered { address: self.address }),
            // 'E' opens an ErrorResponse of a server without TLS, or of anyone on the way: not worth believing.
            other => {
                return Err(UpstreamError::protocol(format!(
                    "it answered SSLRequest with byte {other:#04x}"
                )));
            }
        }
        self.handshake(tcp, tls).await
    }

    async fn open_http(&self) -> Result<Stream, UpstreamError> {
        let tcp = self.connect().await?;
        match &self.tls {
            None => Stream::plain(tcp).map_err(|source| self.broken(Stage::Connecting, source)),
            Some(tls) => within(TLS_TIME_MAX, Stage::Tls, self.address, self.handshake(tcp, tls)).await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, UpstreamError> {
        match &self.route {
            Route::Direct => {
                within(CONNECT_TIME_MAX, Stage::Connecting, self.address, connect(self.address)).await
            }
            Route::Proxy(through) => Ok(connect_proxy(through).await?.0),
            Route::Tunnel(through) => {
                let (tcp, proxy) = connect_proxy(through).await?;
                within(CONNECT_TIME_MAX, Stage::Connecting, proxy, tunnel::open(tcp, proxy, through)).await
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream, tls: &TargetTls) -> Result<Stream, UpstreamError> {
        let connector = TlsConnector::from(tls.config.clone());
        match connector.connect(tls.name.clone(), tcp).await {
            Ok(stream) => Ok(stream.into()),
            Err(error) => Err(match certificate_problem(&error) {
                Some(problem) => UpstreamError::Certificate { address: self.address, problem },
                None => self.broken(Stage::Tls, error),
            }),
        }
    }
}

/// The name the certificate has to be for: `server_name`, or the host of the `to` entry the client's destination
/// matched, or the host of `address`, or the address itself.
fn server_name(
    profile: &Connection,
    destination: SocketAddr,
    address: SocketAddr,
    resolved: &(dyn Fn(&str, IpAddr) -> bool + Sync),
) -> Result<ServerName<'static>, UpstreamError> {
    let named = named_host(profile, destination, resolved);
    let dialled =
        profile.upstream.address.as_deref().and_then(|host| host.rsplit_once(':')).map(|(host, _)| host);
    match profile.upstream.server_name.as_deref().or(named).or(dialled) {
        Some(name) => certificate_name(name, address),
        None => Ok(ServerName::IpAddress(address.ip().into())),
    }
}

/// The host name of the `to` entry that a destination matched.
pub fn named_host<'p>(
    profile: &'p Connection,
    destination: SocketAddr,
    resolved: &dyn Fn(&str, IpAddr) -> bool,
) -> Option<&'p str> {
    profile.to.iter().find_map(|to| match to {
        Destination::Host { name, port }
            if port.is_none_or(|port| port == destination.port()) && resolved(name, destination.ip()) =>
        {
            Some(name.as_str())
        }
        Destination::Host { .. } | Destination::Network { .. } => None,
    })
}

/// The name an HTTP server's certificate has to be for: `server_name`, the host of `to`, the name the client asked for
/// (the server must prove it all the same), the host of `address`, or the address itself.
///
/// # Errors
/// A name that no certificate can be for.
pub fn http_server_name(
    profile: &Connection,
    destination: SocketAddr,
    resolved: &dyn Fn(&str, IpAddr) -> bool,
    sni: Option<&str>,
) -> Result<ServerName<'static>, UpstreamError> {
    let dialled =
        profile.upstream.address.as_deref().and_then(|host| host.rsplit_once(':')).map(|(host, _)| host);
    let named = named_host(profile, destination, resolved);
    match profile.upstream.server_name.as_deref().or(named).or(sni).or(dialled) {
        Some(name) => certificate_name(name, destination),
        None => Ok(ServerName::IpAddress(destination.ip().into())),
    }
}

fn certificate_name(name: &str, address: SocketAddr) -> Result<ServerName<'static>, UpstreamError> {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name.to_owned()).map_err(|_invalid| UpstreamError::Certificate {
        address,
        problem: format!("\"{name}\" is no name a certificate can be for; set the profile's server_name"),
    })
}

async fn lookup(host: &str) -> Result<Vec<SocketAddr>, UpstreamError> {
    let failed = |source| UpstreamError::Resolve { host: host.to_owned(), source };
    match tokio::time::timeout(CONNECT_TIME_MAX, tokio::net::lookup_host(host)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_elapsed) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

fn no_address(host: &str) -> UpstreamError {
    UpstreamError::Resolve { host: host.to_owned(), source: std::io::ErrorKind::NotFound.into() }
}

/// The way that the client chose; a profile with an address of its own is reached there.
fn route(admission: &Admission) -> Route {
    match &admission.connection().upstream.address {
        Some(_) => Route::Direct,
        None => admission.through().map_or(Route::Direct, |through| Route::Tunnel(Arc::clone(through))),
    }
}

/// Connects to a proxy: where its profile says, else where the client was going.
async fn connect_proxy(through: &Through) -> Result<(TcpStream, SocketAddr), UpstreamError> {
    let proxy = through.proxy();
    let addresses = match &proxy.connection().upstream.address {
        None => vec![proxy.flow().destination.0],
        Some(host) => lookup(host).await?,
    };
    let mut last = None;
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        match within(CONNECT_TIME_MAX, Stage::Connecting, address, connect(address)).await {
            Ok(tcp) => return Ok((tcp, address)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| no_address(&proxy.flow().destination.to_string())))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let connect = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
        rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
        rustix::net::sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        socket.connect(address).await
    };
    connect.await.map_err(|source| UpstreamError::Connect { address, source })
}
