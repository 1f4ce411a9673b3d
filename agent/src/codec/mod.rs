//! Protocol codecs: bytes in, frames out. Pure: no sockets, no clock.

pub mod postgres;
pub mod scp;
pub mod sftp;
pub mod terminal;
pub mod tls;
pub mod websocket;
