//! The daemon's own HTTP requests: to identity providers, secret stores and chat services. Never an agent's.
//!
//! One connection per request, HTTP/1.1, no redirects, every size and time bounded. Plain HTTP goes to this host alone:
//! whoever could answer in the provider's place could hand out keys.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::tls::ALPN_HTTP1;
use crate::tls::upstream_side::{ServerTrust, TrustError, Verify, certificate_problem};

/// Longest answer's body, in bytes. Key sets of large tenants are a few tens of KiB.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long a request may take from the look-up of its host's name to the end of the answer.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields of an answer.
const HEADERS_MAX: usize = 128;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The address cannot be used.
    #[error("{url} is not an address to ask: {why}")]
    Address {
        /// As configured, without user and query.
        url: String,
        /// Why not.
        why: &'static str,
    },
    /// The roots to verify servers against cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Its name, its port, its certificate or its answer.
    #[error("{host} {what}")]
    Server {
        /// Host and port.
        host: String,
        /// What went wrong, as the end of a sentence.
        what: String,
    },
    /// It took too long.
    #[error("{host} did not answer within {} s", REQUEST_TIME_MAX.as_secs())]
    Slow {
        /// Host and port.
        host: String,
    },
}

/// Asks servers that one set of roots vouches for.
#[derive(Clone, Debug)]
pub struct Fetch {
    trust: Arc<ServerTrust>,
    root_cert: Option<PathBuf>,
}

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, FetchError> {
        let refused = |why| FetchError::Address { url: without_secrets(uri), why };
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(_) | None => return Err(refused("it must begin with https://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| refused("it has no host"))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(refused("it must not hold a user or a password"));
        }
        if !tls && !is_this_host(host) {
            return Err(refused("plain HTTP is for this host alone (127.0.0.1, ::1); use https://"));
        }
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls })
    }

    fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn failed(&self, what: impl Into<String>) -> FetchError {
        FetchError::Server { host: self.shown(), what: what.into() }
    }
}

impl Fetch {
    /// Verifies servers against this PEM file, or the system's roots.
    #[must_use]
    pub fn new(trust: Arc<ServerTrust>, root_cert: Option<PathBuf>) -> Self {
        Self { trust, root_cert }
    }

    /// Sends a request and reads the whole answer, whatever its status. What was sent is wiped.
    ///
    /// # Errors
    /// The address is refused, the server cannot be reached or verified, or its answer is too long or late.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, FetchError> {
        let target = Target::of(request.uri())?;
        match tokio::time::timeout(REQUEST_TIME_MAX, self.exchange(&target, request)).await {
            Ok(answer) => answer,
            Err(_late) => Err(FetchError::Slow { host: target.shown() }),
        }
    }

    /// Sends a request that asks for another protocol (RFC 9110 section 7.8). Once the server has agreed, the connection is
    /// the caller's, with the header fields that it agreed by.
    ///
    /// # Errors
    /// As [`Fetch::send`], and when the server does not agree.
    pub async fn upgrade(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<(HeaderMap, TokioIo<Upgraded>), FetchError> {
        let target = Target::of(request.uri())?;
        let asked = async {
            match self.dial(&target).await? {
                Dialled::Plain(tcp) => change(TokioIo::new(tcp), &target, request).await,
                Dialled::Tls(tls) => change(TokioIo::new(tls), &target, request).await,
            }
        };
        match tokio::time::timeout(REQUEST_TIME_MAX, asked).await {
            Ok(changed) => changed,
            Err(_late) => Err(FetchError::Slow { host: target.shown() }),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        match self.dial(target).await? {
            Dialled::Plain(tcp) => talk(TokioIo::new(tcp), target, request).await,
            Dialled::Tls(tls) => talk(TokioIo::new(tls), target, request).await,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the daemon's own request; no agent's flow needs an Admission here"
    )]
    async fn dial(&self, target: &Target) -> Result<Dialled, FetchError> {
        let bare = target.host.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((bare, target.port))
            .await
            .map_err(|error| target.failed(format!("cannot be reached: {error}")))?;
        if !target.tls {
            return Ok(Dialled::Plain(tcp));
        }
        let root_cert = self.root_cert.as_deref();
        let config = self.trust.http_config(root_cert, Verify::ChainAndName, &[ALPN_HTTP1], None)?;
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| target.failed("is not a name that a certificate could be for"))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| {
            let problem =
                certificate_problem(&error).map(|problem| format!("has no good certificate: {problem}"));
            target.failed(problem.unwrap_or_else(|| format!("does not speak TLS with us: {error}")))
        })?;
        Ok(Dialled::Tls(Box::new(tls)))
    }
}

/// A connection to a server.
enum Dialled {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn change<S>(
    stream: TokioIo<S>,
    target: &Target,
    request: Request<Vec<u8>>,
) -> Result<(HeaderMap, TokioIo<Upgraded>), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let not_http = |error: hyper::Error| target.failed(format!("does not speak HTTP with us: {error}"));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(stream)
        .await
        .map_err(not_http)?;
    let request = in_origin_form(target, request)?;
    // It ends with the request, or once the connection is given away.
    let serving = tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request).await.map_err(not_http)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        serving.abort();
        return Err(target.failed(format!("does not change the protocol: {}", answer.status())));
    }
    let fields = answer.headers().clone();
    let changed = hyper::upgrade::on(answer).await.map_err(not_http)?;
    Ok((fields, TokioIo::new(changed)))
}

async fn talk<S>(
    stream: TokioIo<S>,
    target: &Target,
    request: Request<Vec<u8>>,
) -> Result<Response<Vec<u8>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let not_http = |error: hyper::Error| target.failed(format!("does not speak HTTP with us: {error}"));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(stream)
        .await
        .map_err(not_http)?;
    let request = in_origin_form(target, request)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(not_http)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            target.failed(format!(
                "broke off its answer, or it has more than {ANSWER_BYTES_MAX} bytes: {error}"
            ))
        })?;
        Ok(Response::from_parts(head, Vec::from(body.to_bytes())))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        // The answer first: a server may close right behind it.
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended.map_err(not_http)?;
            answer.await
        }
    }
}

/// As servers want it: a path alone, the host in its field (RFC 9112 section 3.2.1).
fn in_origin_form(target: &Target, request: Request<Vec<u8>>) -> Result<Request<Full<Bytes>>, FetchError> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().map_or_else(|| target.shown(), ToString::to_string);
    let host = HeaderValue::try_from(authority).map_err(|_| target.failed("is not a host"))?;
    head.headers.insert(HOST, host);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().map_err(|_| target.failed("has no such path"))?;
    Ok(Request::from_parts(head, Full::new(Bytes::from_owner(Zeroizing::new(body)))))
}

/// Whether a host is this one by its address: names are not asked, because others answer for them.
fn is_this_host(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Scheme, host and path.
fn without_secrets(uri: &Uri) -> String {
    let scheme = uri.scheme_str().map(|scheme| format!("{scheme}://")).unwrap_or_default();
    format!("{scheme}{}{}", uri.host().unwrap_or_default(), uri.path())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn fetch() -> Fetch {
        Fetch::new(Arc::default(), None)
    }

    /// Serves one connection with these bytes, and says what was asked.
    async fn served(answer: Vec<u8>) -> (String, Result<Response<Vec<u8>>, FetchError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys?a=b", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let length = tcp.read(&mut asked).await.unwrap();
            // A client that has read enough hangs up.
            drop(tcp.write_all(&answer).await);
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let answered = fetch().send(Request::get(url).body(Vec::new()).unwrap()).await;
        (server.await.unwrap(), answered)
    }

    #[tokio::test]
    async fn an_answer_comes_whole() {
        let (asked, answered) =
            served(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone".to_vec()).await;
        let answered = answered.unwrap();
        assert_eq!((answered.status().as_u16(), answered.body().as_slice()), (404, &b"none"[..]));
        assert!(asked.starts_with("GET /keys?a=b HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        let (_, answered) = served(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()).await;
        assert_eq!(answered.unwrap().body(), b"until the end");
    }

    #[tokio::test]
    async fn a_connection_is_given_away_when_the_server_agrees() {
        for (answer, expected) in [
            (
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nfirst",
                Ok("first"),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Err("does not change the protocol: 200 OK")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                let (mut tcp, _) = listener.accept().await.unwrap();
                assert_ne!(tcp.read(&mut [0; 1024]).await.unwrap(), 0);
                tcp.write_all(answer.as_bytes()).await.unwrap();
            });
            let request = Request::get(url).header("connection", "upgrade").header("upgrade", "x");
            let changed = fetch().upgrade(request.body(Vec::new()).unwrap()).await;
            server.await.unwrap();
            match (changed, expected) {
                (Ok((fields, mut io)), Ok(expected)) => {
                    assert_eq!(fields["upgrade"], "x");
                    let mut came = String::new();
                    io.read_to_string(&mut came).await.unwrap();
                    assert_eq!(came, expected);
                }
                (Err(error), Err(expected)) => assert!(error.to_string().ends_with(expected), "{error}"),
                (changed, _) => panic!("{answer}: {changed:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_a_server_sends_is_bounded() {
        let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        long.resize(long.len() + ANSWER_BYTES_MAX + 1, b'x');
        assert!(served(long).await.1.unwrap_err().to_string().contains("1048576 bytes"));
        let mut head = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
        head.resize(head.len() + 2 * HEAD_BYTES_MAX, b'x');
        assert!(served(head).await.1.is_err());
        for broken in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"] {
            assert!(served(broken.into()).await.1.is_err(), "{broken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = fetch().send(Request::get(url).body(Vec::new()).unwrap()).await;
        assert!(asked.unwrap_err().to_string().ends_with("did not answer within 10 s"));
    }

    #[tokio::test]
    async fn plain_http_stays_here() {
        for (url, expected) in [
            ("http://idp.example.com/keys", "plain HTTP is for this host alone"),
            ("http://localhost/keys", "plain HTTP is for this host alone"),
            ("https://user:secret@idp.example.com/", "must not hold a user"),
            ("ftp://idp.example.com/", "must begin with https://"),
            ("/keys", "must begin with https://"),
        ] {
            let error =
                fetch().send(Request::get(url).body(Vec::new()).unwrap()).await.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
