//! The TLS handshake with a client, in both ways PostgreSQL clients open it.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server};

use super::{ALPN_POSTGRES, Stream};
use crate::flow::Side;

/// How the client opened TLS
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It sent SSLRequest and waits for our one-byte answer.
    SslRequest,
    /// Its first byte was a TLS record (PostgreSQL 17, `sslnegotiation=direct`). ALPN is then required, so that the
    /// bytes cannot have been meant for another protocol's server.
    Direct,
}

/// Why there is no TLS with the client.
#[derive(Debug, Error)]
pub enum ClientTlsError {
    /// Bytes after SSLRequest, in the clear: whoever sent them wants them taken for part of the encrypted session
    /// (CVE-2021-23214).
    #[error(
        "{count} unencrypted bytes followed the SSLRequest; possibly an injection, the connection is closed"
    )]
    UnencryptedBytes {
        /// How many were already read.
        count: usize,
    },
    /// Direct TLS without the protocol's name.
    #[error("direct TLS without ALPN \"postgresql\"; use a client that sends it, or sslnegotiation=postgres")]
    NoAlpn,
    /// The client did not accept our certificate.
    #[error(
        "the client does not trust the certificate: give it Portcullis's ca.pem (sslrootcert, SSL_CERT_FILE …; \
         `portcullis doctor` tells)"
    )]
    Untrusted(#[source] io::Error),
    /// Anything else that broke the handshake.
    #[error("the TLS handshake with the client failed")]
    Handshake(#[source] io::Error),
}

impl ClientTlsError {
    /// All of these are the client's to repair.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Client
    }
}

/// Makes a client's connection a TLS one. `already_read` is what was read from it beyond the message that `opening`
/// names: nothing, or for [`Opening::Direct`] the start of the ClientHello.
///
/// The caller bounds the time (`limits::STARTUP_TIME_MAX`).
///
/// # Errors
/// See [`ClientTlsError`]; the connection is gone then.
pub async fn accept_tcp(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    opening: Opening,
    already_read: &[u8],
) -> Result<Stream, ClientTlsError> {
    tcp.set_nodelay(true).map_err(ClientTlsError::Handshake)?;
    accept(tcp, config, opening, already_read).await.map(Stream::from)
}

/// [`accept_tcp`] over any transport.
///
/// # Errors
/// See [`ClientTlsError`].
pub async fn accept<IO>(
    mut io: IO,
    config: Arc<ServerConfig>,
    opening: Opening,
    already_read: &[u8],
) -> Result<server::TlsStream<IO>, ClientTlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match opening {
        Opening::SslRequest if !already_read.is_empty() => {
            return Err(ClientTlsError::UnencryptedBytes { count: already_read.len() });
        }
        Opening::SslRequest => io.write_all(b"S").await.map_err(ClientTlsError::Handshake)?,
        Opening::Direct => {}
    }
    let mut fed = Ok(());
    let handshake = TlsAcceptor::from(config).accept_with(io, |session| fed = feed(session, already_read));
    fed.map_err(ClientTlsError::Handshake)?;
    let tls = handshake.await.map_err(classify)?;
    match opening {
        Opening::Direct if tls.get_ref().1.alpn_protocol() != Some(ALPN_POSTGRES) => {
            Err(ClientTlsError::NoAlpn)
        }
        Opening::Direct | Opening::SslRequest => Ok(tls),
    }
}

/// Makes an HTTP client's connection a TLS one. The caller bounds the time.
///
/// # Errors
/// See [`ClientTlsError`]; the connection is gone then.
pub async fn accept_http(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Stream, ClientTlsError> {
    tcp.set_nodelay(true).map_err(ClientTlsError::Handshake)?;
    TlsAcceptor::from(config).accept(tcp).await.map(Stream::from).map_err(classify)
}

/// Hands bytes that were read before the handshake to it. An error in them must be told here: the handshake would
/// wait for more first.
fn feed(session: &mut rustls::ServerConnection, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        if session.read_tls(&mut bytes)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        session.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

/// The one failure whose remedy we know: the client told us, by an alert, that it does not trust our CA.
fn classify(error: io::Error) -> ClientTlsError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired,
        )) => ClientTlsError::Untrusted(error),
        _ => ClientTlsError::Handshake(error),
    }
}
