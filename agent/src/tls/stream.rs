//! One leg of a connection, encrypted or not, behind one type that costs a single `match` when it is not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// A connection to the client or to the server. The TLS states are boxed: they are a kilobyte, a socket is not.
#[derive(Debug)]
pub enum Stream {
    /// No TLS.
    Plain(TcpStream),
    /// TLS in which we are the server: the client's leg.
    Accepted(Box<server::TlsStream<TcpStream>>),
    /// TLS in which we are the client: the server's leg, verified.
    Connected(Box<client::TlsStream<TcpStream>>),
}

impl Stream {
    /// A connection without TLS; switches Nagle's algorithm off, because a proxy writes whole batches.
    ///
    /// # Errors
    /// The socket is already dead.
    pub fn plain(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self::Plain(tcp))
    }

    /// The socket below, for addresses and options.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Accepted(tls) => tls.get_ref().0,
            Self::Connected(tls) => tls.get_ref().0,
        }
    }

    /// Is what is written here encrypted?
    #[must_use]
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Accepted(_) | Self::Connected(_) => true,
        }
    }

    /// The protocol that TLS agreed on (ALPN, RFC 7301).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Accepted(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Connected(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// The server name a client asked for (SNI, RFC 6066 section 3), on its leg.
    #[must_use]
    pub fn requested_name(&self) -> Option<&str> {
        match self {
            Self::Plain(_) | Self::Connected(_) => None,
            Self::Accepted(tls) => tls.get_ref().1.server_name(),
        }
    }

    /// Whether a client brought a certificate of its own.
    #[must_use]
    pub fn has_client_certificate(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Connected(_) => false,
            Self::Accepted(tls) => tls.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty()),
        }
    }

    /// The certificate the other side proved to own: the server's, on a verified connection to it.
    #[must_use]
    pub fn server_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) | Self::Accepted(_) => None,
            Self::Connected(tls) => tls.get_ref().1.peer_certificates()?.first(),
        }
    }
}

impl From<server::TlsStream<TcpStream>> for Stream {
    fn from(tls: server::TlsStream<TcpStream>) -> Self {
        Self::Accepted(Box::new(tls))
    }
}

impl From<client::TlsStream<TcpStream>> for Stream {
    fn from(tls: client::TlsStream<TcpStream>) -> Self {
        Self::Connected(Box::new(tls))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
            Self::Connected(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
            Self::Connected(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
            Self::Connected(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Accepted(tls) => tls.is_write_vectored(),
            Self::Connected(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Self::Connected(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Self::Connected(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
