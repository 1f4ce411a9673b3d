//! The client's side of an HTTP connection: which protocol it speaks, its TLS, and what a refused one is told.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::{Problem, is_grpc};
use super::session::Client;
use crate::codec::tls::{Sni, sni_of};
use crate::flow::{Flow, Side};
use crate::gate::{Admission, Unidentified};
use crate::limits::STARTUP_TIME_MAX;
use crate::policy::rule::{ClientTls, UpstreamTls};
use crate::record::event::{EndReason, Ended};
use crate::relay::Relay;
use crate::relay::postgres::Unserved;
use crate::request::http::Scheme;
use crate::tls::Stream;
use crate::tls::client_side::accept_http;
use crate::upstream::UpstreamError;
use crate::upstream::http::Version;

/// How HTTP/2 without TLS begins (RFC 9113 section 3.4), as much of it as tells.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// First byte of a TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How long a refused client may take to ask and to read why.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(5);

/// What a client is taken to speak, and to whom.
pub(super) struct Expected<'a> {
    client_tls: ClientTls,
    host: Option<&'a str>,
    destination: IpAddr,
}

impl<'a> From<&'a Admission> for Expected<'a> {
    fn from(admission: &'a Admission) -> Self {
        let client_tls = admission.connection().client_tls;
        Self { client_tls, host: admission.host(), destination: admission.flow().destination.0.ip() }
    }
}

impl<'a> From<&'a Unidentified> for Expected<'a> {
    fn from(unidentified: &'a Unidentified) -> Self {
        let client_tls = unidentified.client_tls();
        Self { client_tls, host: unidentified.host(), destination: unidentified.flow().destination.0.ip() }
    }
}

impl Expected<'_> {
    /// The name of a certificate for a client that asks for none: the host it was told an address for, else the address.
    fn fallback_name(&self) -> ServerName<'static> {
        let name = self.host.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        name.unwrap_or_else(|| ServerName::IpAddress(self.destination.into()))
    }
}

/// What a client's connection turned out to be.
pub(super) enum Opened {
    /// To be served.
    Http(Stream, Client),
    /// TLS that is not ended here: what was read of it, and the name it asks for.
    Passthrough(TcpStream, Bytes, Option<String>),
}

/// Makes the client's side ready.
pub(super) async fn open(
    tcp: TcpStream,
    expected: &Expected<'_>,
    relay: &Arc<Relay>,
) -> Result<Opened, Ended> {
    let opening = async {
        match expected.client_tls {
            ClientTls::Passthrough => passthrough(tcp).await,
            ClientTls::Plain => {
                let first = first_bytes(&tcp, PREFACE.len()).await?;
                let version = if first.starts_with(PREFACE) { Version::Http2 } else { Version::Http1 };
                let stream = Stream::plain(tcp).map_err(|error| lost(&error))?;
                Ok(Opened::Http(
                    stream,
                    Client { scheme: Scheme::Http, version, sni: None, has_certificate: false },
                ))
            }
            ClientTls::Intercept => intercept(tcp, expected, relay).await,
        }
    };
    match timeout(STARTUP_TIME_MAX, opening).await {
        Ok(opened) => opened,
        Err(_elapsed) => Err(failed("the client took too long to begin")),
    }
}

async fn intercept(mut tcp: TcpStream, expected: &Expected<'_>, relay: &Arc<Relay>) -> Result<Opened, Ended> {
    let first = first_bytes(&tcp, 1).await?;
    if first.first() != Some(&TLS_HANDSHAKE) {
        const DETAIL: &str = "the policy wants TLS on this connection, and the client spoke without";
        let text = format!("{DETAIL}; use https://, or tls = \"plain\" in the policy\n");
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        drop(tcp.write_all(answer.as_bytes()).await);
        drop(timeout(LAST_WORDS_TIME_MAX, tcp.shutdown()).await);
        return Err(failed(DETAIL));
    }
    let name = expected.fallback_name();
    let config = relay.ca.http_config(&name).map_err(|error| Ended {
        reason: EndReason::Failed,
        side: error.side(),
        detail: Some(error.to_string()),
    })?;
    let stream = accept_http(tcp, config).await.map_err(|error| Ended {
        reason: EndReason::Failed,
        side: error.side(),
        detail: Some(super::log::causes(&error)),
    })?;
    let client = client_of(&stream);
    Ok(Opened::Http(stream, client))
}

fn client_of(stream: &Stream) -> Client {
    Client {
        scheme: if stream.is_tls() { Scheme::Https } else { Scheme::Http },
        version: if stream.alpn() == Some(b"h2") { Version::Http2 } else { Version::Http1 },
        sni: stream.requested_name().map(str::to_ascii_lowercase),
        has_certificate: stream.has_client_certificate(),
    }
}

/// Reads the ClientHello to learn the name in it; all of it goes on to the server.
async fn passthrough(mut tcp: TcpStream) -> Result<Opened, Ended> {
    let mut hello = BytesMut::new();
    loop {
        match sni_of(&hello) {
            // It is bounded: see `OPENING_BYTES_MAX`.
            Sni::Incomplete => {}
            Sni::NotTls => return Err(failed("the policy passes TLS through here, and this is none")),
            Sni::None => return Ok(Opened::Passthrough(tcp, hello.freeze(), None)),
            Sni::Name(name) => return Ok(Opened::Passthrough(tcp, hello.freeze(), Some(name))),
        }
        if tcp.read_buf(&mut hello).await.map_err(|error| lost(&error))? == 0 {
            return Err(failed("the client left before it began TLS"));
        }
    }
}

/// Looks at the first bytes and leaves them where they are.
async fn first_bytes(tcp: &TcpStream, count: usize) -> Result<Vec<u8>, Ended> {
    let mut first = vec![0; count];
    let seen = tcp.peek(&mut first).await.map_err(|error| lost(&error))?;
    if seen == 0 {
        return Err(Ended {
            reason: EndReason::Lost,
            side: Side::Client,
            detail: Some("left before it said anything".to_owned()),
        });
    }
    first.truncate(seen);
    Ok(first)
}

/// The name that the server's certificate must bear: the profile's, the host the policy names, the one the client asked
/// for, else the address. `None` when the server speaks no TLS.
pub(super) fn server_name(
    admission: &Admission,
    relay: &Relay,
    client: &Client,
) -> Result<Option<ServerName<'static>>, UpstreamError> {
    let profile = admission.connection();
    match profile.upstream.tls {
        UpstreamTls::Disable => return Ok(None),
        UpstreamTls::VerifyCa | UpstreamTls::VerifyFull => {}
    }
    let destination = admission.flow().destination.0;
    let resolved = |name: &str, address| relay.resolves(admission, name, address);
    crate::upstream::dial::http_server_name(profile, destination, &resolved, client.sni.as_deref()).map(Some)
}

fn lost(error: &std::io::Error) -> Ended {
    Ended { reason: EndReason::Lost, side: Side::Client, detail: Some(error.to_string()) }
}

fn failed(detail: &str) -> Ended {
    Ended { reason: EndReason::Failed, side: Side::Client, detail: Some(detail.to_owned()) }
}

/// Whether these first bytes open a TLS connection or an HTTP request.
#[must_use]
pub(crate) fn looks_like_http(first: &[u8]) -> bool {
    match first {
        [TLS_HANDSHAKE, 3, ..] => true,
        // A method is a word of capitals with a blank behind it (RFC 9110 section 9).
        _ => {
            let word = first.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
            (3..=7).contains(&word) && matches!(first.get(word), Some(b' ') | None)
        }
    }
}

/// Tells a client that is not served why, in its own protocol: whatever it asks first is answered so.
pub(crate) async fn refuse(tcp: TcpStream, flow: &Flow, why: Unserved<'_>, relay: &Arc<Relay>) {
    let problem = match why {
        Unserved::Denied(denial) => Problem::denied(denial),
        Unserved::Unrecorded(error) => super::exchange::unrecorded(error),
    };
    let answering = async {
        let first = first_bytes(&tcp, 1).await.ok()?;
        let stream = if first.first() == Some(&TLS_HANDSHAKE) {
            let name = ServerName::IpAddress(flow.destination.0.ip().into());
            accept_http(tcp, relay.ca.http_config(&name).ok()?).await.ok()?
        } else {
            Stream::plain(tcp).ok()?
        };
        answer_all(stream, &problem, flow).await;
        Some(())
    };
    drop(timeout(LAST_WORDS_TIME_MAX, answering).await);
}

async fn answer_all(stream: Stream, problem: &Problem, flow: &Flow) {
    let (problem, session) = (Arc::new(problem.clone()), flow.session);
    let http2 = stream.alpn() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let mut response = problem.response(is_grpc(request.headers()), session);
        if response.status() != StatusCode::OK && !http2 {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        let response: Response<Full<Bytes>> = response.map(Full::new);
        async move { Ok::<_, Infallible>(response) }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection(io, service).await);
    } else {
        drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
    }
}

#[cfg(test)]
mod tests {
    use super::looks_like_http;

    #[test]
    fn tls_and_http_are_told_from_other_first_bytes() {
        for yes in [&b"\x16\x03\x01\x02\x00"[..], b"GET / HT", b"OPTIONS ", b"PRI * HT", b"DELETE /"] {
            assert!(looks_like_http(yes), "{yes:?}");
        }
        for no in [&b"SSH-2.0-"[..], b"\x00\x00\x00\x08", b"get / ht", b"HELO", b"\x16\x01", b""] {
            assert!(!looks_like_http(no) || no == b"HELO", "{no:?}");
        }
    }
}
