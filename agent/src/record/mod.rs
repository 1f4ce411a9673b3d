//! The recording: an append-only log of what every session asked and got, its index, and how to read it back.
//!
//! The truth is one shared log per store, `<data>/store/seg-NNNNNN.pcr`: frames of all sessions in the order they
//! were written (`format`, `event`, `rows`). `writer` opens the store, `log` appends and makes durable, `recovery` examines an unclean end,
//! `session` is one flow's handle. `index` keeps `<data>/index.sqlite`, which only makes reading fast: it follows the
//! log from behind, can be deleted at any time, and is never in the way of forwarding. `read` and `before` serve
//! the commands.

pub mod asked;
pub mod before;
pub mod body;
mod error;
pub mod event;
pub mod format;
pub mod index;
mod log;
pub mod read;
mod recovery;
pub mod rows;
pub mod segment;
mod session;
pub mod stream;
pub mod summary;
pub mod writer;

pub use error::RecordError;
pub use event::{Ended, Event};
pub use log::Lsn;
pub use session::SessionRecord;
pub use writer::{Recorder, RecorderConfig};

#[cfg(test)]
pub(crate) mod tests;
