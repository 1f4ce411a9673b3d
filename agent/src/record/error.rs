//! Why something could not be recorded, whose fault that was, and what the client may know of it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::FormatError;
use crate::flow::Side;

/// Why something could not be recorded. All of it stops forwarding.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another process holds the store.
    #[error("another portcullis daemon holds {path}: stop it, or configure another data folder")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system is nearly full. Heals by itself.
    #[error("the disk with {path} is nearly full: free some space; nothing new is forwarded until then")]
    DiskFull {
        /// The store's folder.
        path: PathBuf,
    },
    /// The session's record has its end: nothing can be added.
    #[error("the session's record is closed")]
    Closed,
    /// An event could not be encoded.
    #[error("an event cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// A frame could not be encoded.
    #[error("a frame cannot be encoded")]
    Format(#[source] FormatError),
    /// The store could not be opened.
    #[error("cannot open the recording store: {what} {path}")]
    Open {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// An earlier write or sync failed; the store must be opened again.
    #[error("recording stopped after a failed {what}: check the disk, then restart the daemon")]
    Poisoned {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// What the client sent is too large for one frame.
    #[error("an operation is too large to record")]
    TooLarge,
}

impl From<FormatError> for RecordError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::TooLarge => Self::TooLarge,
            FormatError::Checksum
            | FormatError::Header
            | FormatError::Payload
            | FormatError::Truncated
            | FormatError::Segment => Self::Format(error),
        }
    }
}

impl RecordError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::TooLarge => Side::Client,
            Self::Busy { .. }
            | Self::Closed
            | Self::DiskFull { .. }
            | Self::Encode(_)
            | Self::Format(_)
            | Self::Open { .. }
            | Self::Poisoned { .. } => Side::Portcullis,
        }
    }

    /// What the client may be told: no paths, no causes.
    #[must_use]
    pub fn for_client(&self) -> &'static str {
        match self {
            Self::TooLarge => "the statement is too large to be recorded, so it was not forwarded",
            Self::DiskFull { .. } => {
                "the recording disk is full, so nothing is forwarded until there is space again"
            }
            Self::Busy { .. }
            | Self::Closed
            | Self::Encode(_)
            | Self::Format(_)
            | Self::Open { .. }
            | Self::Poisoned { .. } => "the recording cannot be written, so nothing is forwarded",
        }
    }
}
