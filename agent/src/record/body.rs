//! Bodies and messages of HTTP exchanges: gathered into blocks within a bound, with a digest of the whole. Pure.
//!
//! ```text
//! body:    operation u64, direction u8, offset u64, bytes                                  (little-endian)
//! message: operation u64, direction u8, kind u8 (1 text, 2 binary), bytes
//! ```

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::asked::hex;
use super::event::Direction;
use super::format::FormatError;

/// Bytes of one block, before compression.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// A stretch of one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyBlock {
    /// Operation it belongs to.
    pub operation: u64,
    /// Which of its bodies.
    pub direction: Direction,
    /// Where in the body it begins, in bytes.
    pub offset: u64,
    /// The bytes, decoded and masked.
    pub bytes: Vec<u8>,
}

/// One message of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageBlock {
    /// Operation that opened it.
    pub operation: u64,
    /// Who sent it.
    pub direction: Direction,
    /// Text, else binary.
    pub text: bool,
    /// The message, masked.
    pub bytes: Vec<u8>,
}

/// What is known of a body when it is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodySummary {
    /// Its length as forwarded, decoded, in bytes.
    pub bytes: u64,
    /// How many of them, from the beginning, are in the record.
    pub kept: u64,
    /// SHA-256 of all of it, in hex; set when not all was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Direction {
    fn byte(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Response => 1,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, FormatError> {
        match byte {
            0 => Ok(Self::Request),
            1 => Ok(Self::Response),
            _ => Err(FormatError::Payload),
        }
    }
}

impl BodyBlock {
    /// As a frame's payload.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.operation.to_le_bytes());
        out.push(self.direction.byte());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// `FormatError::Payload` when it is too short or has no such direction.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let (operation, rest) = payload.split_first_chunk::<8>().ok_or(FormatError::Payload)?;
        let (direction, rest) = rest.split_first().ok_or(FormatError::Payload)?;
        let (offset, bytes) = rest.split_first_chunk::<8>().ok_or(FormatError::Payload)?;
        Ok(Self {
            operation: u64::from_le_bytes(*operation),
            direction: Direction::from_byte(*direction)?,
            offset: u64::from_le_bytes(*offset),
            bytes: bytes.to_vec(),
        })
    }
}

impl MessageBlock {
    /// As a frame's payload.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.operation.to_le_bytes());
        out.push(self.direction.byte());
        out.push(if self.text { 1 } else { 2 });
        out.extend_from_slice(&self.bytes);
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// `FormatError::Payload` when it is too short or names no such kind.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let (operation, rest) = payload.split_first_chunk::<8>().ok_or(FormatError::Payload)?;
        let ([direction, kind], bytes) = rest.split_first_chunk::<2>().ok_or(FormatError::Payload)?;
        let text = match kind {
            1 => true,
            2 => false,
            _ => return Err(FormatError::Payload),
        };
        Ok(Self {
            operation: u64::from_le_bytes(*operation),
            direction: Direction::from_byte(*direction)?,
            text,
            bytes: bytes.to_vec(),
        })
    }
}

/// Gathers one body. Several may be gathered at once in one session.
#[derive(Debug)]
pub struct BodyRecorder {
    operation: u64,
    direction: Direction,
    bytes_max: u64,
    block: Vec<u8>,
    /// Bytes handed out in blocks.
    written: u64,
    bytes: u64,
    /// Of what is not in `block`. Most bodies are one block that is kept whole, and need none.
    digest: Sha256,
}

impl BodyRecorder {
    /// For one body, of which at most `bytes_max` bytes are kept.
    #[must_use]
    pub fn new(operation: u64, direction: Direction, bytes_max: u64) -> Self {
        let digest = Sha256::new();
        Self { operation, direction, bytes_max, block: Vec::new(), written: 0, bytes: 0, digest }
    }

    /// Takes the next piece; gives out a block when one is full.
    #[must_use = "the block must be recorded"]
    pub fn push(&mut self, piece: &[u8]) -> Option<BodyBlock> {
        let kept = self.written + self.block.len() as u64;
        let room = usize::try_from(self.bytes_max.saturating_sub(kept)).unwrap_or(usize::MAX);
        let (fits, beyond) = piece.split_at_checked(room).unwrap_or((piece, &[]));
        self.block.extend_from_slice(fits);
        let full = if self.block.len() < BLOCK_BYTES && beyond.is_empty() { None } else { self.take() };
        self.digest.update(beyond);
        self.bytes += piece.len() as u64;
        full
    }

    fn take(&mut self) -> Option<BodyBlock> {
        if self.block.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.block);
        self.digest.update(&bytes);
        let offset = self.written;
        self.written += bytes.len() as u64;
        Some(BodyBlock { operation: self.operation, direction: self.direction, offset, bytes })
    }

    /// The body is over: its last block, and what is known of it.
    #[must_use]
    pub fn finish(mut self) -> (Option<BodyBlock>, BodySummary) {
        let kept = self.written + self.block.len() as u64;
        if kept == self.bytes {
            let (operation, direction, offset, bytes) =
                (self.operation, self.direction, self.written, self.block);
            let last = (!bytes.is_empty()).then_some(BodyBlock { operation, direction, offset, bytes });
            return (last, BodySummary { bytes: kept, kept, sha256: None });
        }
        let last = self.take();
        let sha256 = Some(hex(&self.digest.finalize()));
        (last, BodySummary { bytes: self.bytes, kept, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_join_to_the_body() {
        let body: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        for (step, max) in [(1000, u64::MAX), (70_000, u64::MAX), (1000, 100_000), (200_000, 10)] {
            let mut recorder = BodyRecorder::new(7, Direction::Response, max);
            let mut blocks: Vec<_> = body.chunks(step).filter_map(|piece| recorder.push(piece)).collect();
            let (last, summary) = recorder.finish();
            blocks.extend(last);
            let mut joined = Vec::new();
            for block in &blocks {
                assert_eq!(block.offset, joined.len() as u64);
                joined.extend_from_slice(&block.bytes);
            }
            let kept = body.len().min(usize::try_from(max).unwrap());
            assert_eq!(joined, body[..kept]);
            assert_eq!((summary.bytes, summary.kept), (body.len() as u64, kept as u64));
            assert_eq!(summary.sha256.is_some(), kept < body.len());
        }
    }

    #[test]
    fn payloads_are_read_back_and_lengths_are_not_trusted() {
        let body =
            BodyBlock { operation: 3, direction: Direction::Request, offset: 9, bytes: b"abc".to_vec() };
        let message =
            MessageBlock { operation: 3, direction: Direction::Response, text: true, bytes: b"x".to_vec() };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        body.encode(&mut first);
        message.encode(&mut second);
        assert_eq!(BodyBlock::decode(&first).unwrap(), body);
        assert_eq!(MessageBlock::decode(&second).unwrap(), message);
        for length in 0..17 {
            assert!(BodyBlock::decode(&first[..length]).is_err());
        }
        for length in 0..10 {
            assert!(MessageBlock::decode(&second[..length]).is_err());
        }
    }
}
