//! What went over the streams of an SSH channel: blocks of one operation's input and output, as they came. Pure.
//!
//! ```text
//! stream: operation u64, stream u8, offset u64, bytes                                      (little-endian)
//! ```
//! The frame's own time says when.

use serde::{Deserialize, Serialize};

use super::format::FormatError;

/// Which stream of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamName {
    /// To the command.
    Stdin,
    /// From it; of a pseudo-terminal, everything it shows.
    Stdout,
    /// From it (`SSH_EXTENDED_DATA_STDERR`).
    Stderr,
    /// The terminal's new size, as `COLUMNSxROWS`.
    Resize,
}

impl StreamName {
    const ALL: [Self; 4] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Resize];

    fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Resize => 3,
        }
    }

    /// The name in JSON output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Resize => "resize",
        }
    }
}

/// A stretch of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamBlock {
    /// Operation it belongs to.
    pub operation: u64,
    /// Which of its streams.
    pub stream: StreamName,
    /// Where in the stream it begins, in bytes.
    pub offset: u64,
    /// The bytes, masked.
    pub bytes: Vec<u8>,
}

impl StreamBlock {
    /// As a frame's payload.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.operation.to_le_bytes());
        out.push(self.stream.byte());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// `FormatError::Payload` when it is too short or names no such stream.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let (operation, rest) = payload.split_first_chunk::<8>().ok_or(FormatError::Payload)?;
        let (stream, rest) = rest.split_first().ok_or(FormatError::Payload)?;
        let (offset, bytes) = rest.split_first_chunk::<8>().ok_or(FormatError::Payload)?;
        let stream = StreamName::ALL.into_iter().find(|known| known.byte() == *stream);
        Ok(Self {
            operation: u64::from_le_bytes(*operation),
            stream: stream.ok_or(FormatError::Payload)?,
            offset: u64::from_le_bytes(*offset),
            bytes: bytes.to_vec(),
        })
    }
}

/// How a command, a shell or a forward ended, and what went over its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshOutcome {
    /// `exit-status` (RFC 4254 §6.10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u32>,
    /// `exit-signal`: its name without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Bytes that went to the command.
    pub stdin_bytes: u64,
    /// Bytes that came from it, masked.
    pub stdout_bytes: u64,
    /// Bytes that came from it on stderr, masked.
    pub stderr_bytes: u64,
    /// Bytes of these that are not in the record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// The file, when one was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileOutcome>,
}

/// A file that was moved over SFTP or scp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOutcome {
    /// Bytes of it that moved.
    pub size: u64,
    /// SHA-256 of its content from the beginning on, in hex; `None` when it moved in pieces that are no such whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What an SSH server is, and how we logged in: said once in a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAsked {
    /// Account on the server.
    pub user: String,
    /// What kind of operation, by RFC 4254's names.
    pub operation: String,
    /// Paths of the server that it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// `TERM` and size of its terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<String>,
    /// Names of the variables that are passed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_written() {
        for stream in StreamName::ALL {
            let block = StreamBlock { operation: 7, stream, offset: 1 << 40, bytes: b"x\0y".to_vec() };
            let mut payload = Vec::new();
            block.encode(&mut payload);
            assert_eq!(StreamBlock::decode(&payload), Ok(block));
            for short in 0..17 {
                assert_eq!(StreamBlock::decode(&payload[..short]), Err(FormatError::Payload));
            }
        }
        let mut strange = vec![0; 17];
        strange[8] = 9;
        assert_eq!(StreamBlock::decode(&strange), Err(FormatError::Payload));
    }
}
