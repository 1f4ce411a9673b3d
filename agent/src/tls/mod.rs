//! TLS on both legs: the local CA that clients trust, the handshake with a client, the verification of a server.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub mod bundle;
pub mod ca;
pub mod client_side;
pub mod stream;
pub mod trial;
pub mod upstream_side;
pub mod variables;

pub use stream::Stream;

/// PostgreSQL's ALPN name, registered with IANA
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>).
pub const ALPN_POSTGRES: &[u8] = b"postgresql";

/// One provider for every configuration: which cipher suites exist is decided in one place.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

#[cfg(test)]
mod tests;
