//! PostgreSQL frontend/backend protocol 3.x: message boundaries, borrowed decoders, encoders, row rewriting.
//!
//! Everything here borrows from the caller's buffer and allocates nothing per message. A `Frame` is one whole message
//! as it stood on the wire; passing it on is copying a slice. Messages too long to hold are streamed, never
//! uninspected: see `frame`.
//!
//! Sources: <https://www.postgresql.org/docs/current/protocol-message-formats.html> and
//! <https://www.postgresql.org/docs/current/protocol-flow.html>. The words are PostgreSQL's: the *frontend* is the
//! client, the *backend* is the server.
//!
//! No type here prints what it carries: SQL, parameters, rows and keys show as lengths under `Debug`.

pub mod backend;
pub mod encode;
pub mod error;
pub mod fields;
pub mod frame;
pub mod frontend;
pub mod report;
pub mod row;
pub mod split;
pub mod sqlstate;
pub mod startup;
pub mod tag;

pub use error::{DecodeError, Message};
pub use fields::{Format, Text};
pub use frame::{Frame, Item, Scanner};
pub use sqlstate::SqlState;
pub use tag::{BackendTag, FrontendTag, Tag};

#[cfg(test)]
mod tests;
