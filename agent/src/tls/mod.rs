//! TLS on both legs: the local CA that clients trust, the handshake with a client, the verification of a server.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub mod bundle;
pub mod ca;
mod client_certificate;
pub mod client_side;
pub mod page_side;
pub mod stream;
pub mod trial;
pub mod upstream_side;
pub mod variables;

pub use stream::Stream;

/// PostgreSQL's ALPN name, registered with IANA
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>).
pub const ALPN_POSTGRES: &[u8] = b"postgresql";

/// HTTP/2 and HTTP/1.1 (RFC 9113 section 3.2, RFC 7301 section 6).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// See [`ALPN_HTTP2`].
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// One provider for every configuration: which cipher suites exist is decided in one place.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

#[cfg(test)]
mod tests;
