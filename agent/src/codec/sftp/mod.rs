//! SFTP version 3 (draft-ietf-secsh-filexfer-02) as OpenSSH speaks it (its PROTOCOL file, section 4). Pure.
//!
//! What files hold passes as it comes: `SSH_FXP_WRITE` and `SSH_FXP_DATA` are told apart into a head and parts, so that nothing
//! of them waits. Every other packet is whole before it is looked at.

use bytes::{Bytes, BytesMut};

mod in_order;
mod outgoing;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use in_order::{InOrder, Kept};
pub use outgoing::Outgoing;
pub use reply::{
    HandleReply, Name, Status, StatusCode, data, init, known_extensions, read, realpath, status,
};
pub use request::{Attributes, ExtendedRequest, OpenFlags, Request};

/// Longest packet, in bytes without its length (OpenSSH's `SFTP_MAX_MSG_LENGTH`).
pub const PACKET_BYTES_MAX: u32 = 256 * 1024;

/// Longest handle, in bytes (section 3).
pub const HANDLE_BYTES_MAX: u32 = 256;

/// The version that is spoken.
pub const VERSION: u32 = 3;

/// Length, type and id before anything else.
const HEAD_BYTES: usize = 9;

/// Packet types (section 3).
pub mod kind {
    /// `SSH_FXP_INIT`.
    pub const INIT: u8 = 1;
    /// `SSH_FXP_VERSION`.
    pub const VERSION: u8 = 2;
    /// `SSH_FXP_OPEN`.
    pub const OPEN: u8 = 3;
    /// `SSH_FXP_CLOSE`.
    pub const CLOSE: u8 = 4;
    /// `SSH_FXP_READ`.
    pub const READ: u8 = 5;
    /// `SSH_FXP_WRITE`.
    pub const WRITE: u8 = 6;
    /// `SSH_FXP_LSTAT`.
    pub const LSTAT: u8 = 7;
    /// `SSH_FXP_FSTAT`.
    pub const FSTAT: u8 = 8;
    /// `SSH_FXP_SETSTAT`.
    pub const SETSTAT: u8 = 9;
    /// `SSH_FXP_FSETSTAT`.
    pub const FSETSTAT: u8 = 10;
    /// `SSH_FXP_OPENDIR`.
    pub const OPENDIR: u8 = 11;
    /// `SSH_FXP_READDIR`.
    pub const READDIR: u8 = 12;
    /// `SSH_FXP_REMOVE`.
    pub const REMOVE: u8 = 13;
    /// `SSH_FXP_MKDIR`.
    pub const MKDIR: u8 = 14;
    /// `SSH_FXP_RMDIR`.
    pub const RMDIR: u8 = 15;
    /// `SSH_FXP_REALPATH`.
    pub const REALPATH: u8 = 16;
    /// `SSH_FXP_STAT`.
    pub const STAT: u8 = 17;
    /// `SSH_FXP_RENAME`.
    pub const RENAME: u8 = 18;
    /// `SSH_FXP_READLINK`.
    pub const READLINK: u8 = 19;
    /// `SSH_FXP_SYMLINK`.
    pub const SYMLINK: u8 = 20;
    /// `SSH_FXP_STATUS`.
    pub const STATUS: u8 = 101;
    /// `SSH_FXP_HANDLE`.
    pub const HANDLE: u8 = 102;
    /// `SSH_FXP_DATA`.
    pub const DATA: u8 = 103;
    /// `SSH_FXP_NAME`.
    pub const NAME: u8 = 104;
    /// `SSH_FXP_ATTRS`.
    pub const ATTRS: u8 = 105;
    /// `SSH_FXP_EXTENDED`.
    pub const EXTENDED: u8 = 200;
    /// `SSH_FXP_EXTENDED_REPLY`.
    pub const EXTENDED_REPLY: u8 = 201;
}

/// What is no SFTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SftpError {
    /// A packet is longer than any may be, or empty.
    #[error("a packet of {0} bytes")]
    Length(u32),
    /// A handle is longer than any may be.
    #[error("a handle of {0} bytes")]
    Handle(u32),
    /// The parts of a packet do not add up to its length.
    #[error("a packet of type {0} that is not what its type says")]
    Malformed(u8),
    /// A type that this direction does not have.
    #[error("a packet of type {0}")]
    Kind(u8),
}

/// Which way a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client: what is streamed is `SSH_FXP_WRITE`.
    ToServer,
    /// From the server: what is streamed is `SSH_FXP_DATA`.
    ToClient,
}

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A whole packet.
    Packet(Packet),
    /// The beginning of a packet with data.
    Bulk(Bulk),
    /// Data of the last `Bulk`.
    Part(Bytes),
}

/// A packet, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// All of it.
    pub raw: Bytes,
}

impl Packet {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.raw.get(4).copied().unwrap_or_default()
    }

    /// What follows the type.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.raw.slice(5.min(self.raw.len())..)
    }

    /// The id that ties a reply to its request; `None` for a packet that is too short for one.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        read_u32(self.raw.get(5..HEAD_BYTES)?)
    }
}

/// All of an `SSH_FXP_WRITE` or `SSH_FXP_DATA` but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// As it came.
    pub raw: Bytes,
    /// Its id.
    pub id: u32,
    /// Of a WRITE: the handle.
    pub handle: Bytes,
    /// Of a WRITE: where in the file.
    pub offset: u64,
    /// How many bytes of data follow.
    pub length: u32,
}

/// Takes a stream apart.
#[derive(Debug)]
pub struct Splitter {
    direction: Direction,
    /// The beginning of a packet whose rest has not come.
    begun: BytesMut,
    /// Bytes of data that are to come.
    data: u32,
}

impl Splitter {
    /// For one direction of a channel.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self { direction, begun: BytesMut::new(), data: 0 }
    }

    /// Whether a packet may be put in here: none is under way.
    #[must_use]
    pub fn between_packets(&self) -> bool {
        self.begun.is_empty() && self.data == 0
    }

    /// Bytes of data that are to come before the next packet.
    #[must_use]
    pub fn data_left(&self) -> u32 {
        self.data
    }

    /// Takes the next piece off `input`; `None` when more has to come. Pieces that lie in `input` are not copied.
    ///
    /// # Errors
    /// It is no SFTP; nothing that follows can be trusted.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, SftpError> {
        if self.data > 0 {
            if input.is_empty() {
                return Ok(None);
            }
            let length = input.len().min(self.data as usize);
            self.data -= u32::try_from(length).unwrap_or(self.data);
            return Ok(Some(Piece::Part(input.split_to(length))));
        }
        let raw = if self.begun.is_empty() {
            match self.measure(input)? {
                Measure::Unit(length) if input.len() >= length => input.split_to(length),
                Measure::Unit(_) | Measure::More(_) => {
                    if !self.gather(input)? {
                        return Ok(None);
                    }
                    self.begun.split().freeze()
                }
            }
        } else {
            if !self.gather(input)? {
                return Ok(None);
            }
            self.begun.split().freeze()
        };
        self.piece(raw).map(Some)
    }

    /// Takes as much as one unit still needs; whether it is whole.
    fn gather(&mut self, input: &mut Bytes) -> Result<bool, SftpError> {
        loop {
            let (wanted, whole) = match self.measure(&self.begun)? {
                Measure::More(length) => (length, false),
                Measure::Unit(length) => (length, true),
            };
            let missing = wanted.saturating_sub(self.begun.len());
            if missing == 0 && whole {
                return Ok(true);
            }
            if input.is_empty() {
                return Ok(false);
            }
            let taken = input.split_to(missing.min(input.len()));
            self.begun.extend_from_slice(&taken);
        }
    }

    /// How long the unit is that begins here: a packet, or the head of one with data.
    fn measure(&self, have: &[u8]) -> Result<Measure, SftpError> {
        let Some(length) = have.get(..4).and_then(read_u32) else { return Ok(Measure::More(4)) };
        if length == 0 || length > PACKET_BYTES_MAX {
            return Err(SftpError::Length(length));
        }
        let all = 4 + length as usize;
        let Some(kind) = have.get(4).copied() else { return Ok(Measure::More(5)) };
        let head = match (self.direction, kind) {
            (Direction::ToClient, kind::DATA) => HEAD_BYTES + 4,
            (Direction::ToServer, kind::WRITE) => {
                let Some(handle) = have.get(HEAD_BYTES..HEAD_BYTES + 4).and_then(read_u32) else {
                    return if all < HEAD_BYTES + 4 {
                        Err(SftpError::Malformed(kind))
                    } else {
                        Ok(Measure::More(HEAD_BYTES + 4))
                    };
                };
                if handle > HANDLE_BYTES_MAX {
                    return Err(SftpError::Handle(handle));
                }
                HEAD_BYTES + 4 + handle as usize + 8 + 4
            }
            (Direction::ToClient | Direction::ToServer, _) => return Ok(Measure::Unit(all)),
        };
        if all < head { Err(SftpError::Malformed(kind)) } else { Ok(Measure::Unit(head)) }
    }

    fn piece(&mut self, raw: Bytes) -> Result<Piece, SftpError> {
        let packet = Packet { raw };
        let kind = packet.kind();
        match (self.direction, kind) {
            (Direction::ToClient, kind::DATA) | (Direction::ToServer, kind::WRITE) => {}
            (Direction::ToClient | Direction::ToServer, _) => return Ok(Piece::Packet(packet)),
        }
        let malformed = SftpError::Malformed(kind);
        let mut fields = Fields::new(packet.body());
        let id = fields.u32().ok_or(malformed)?;
        let (handle, offset) = match self.direction {
            Direction::ToServer => (fields.string().ok_or(malformed)?, fields.u64().ok_or(malformed)?),
            Direction::ToClient => (Bytes::new(), 0),
        };
        let length = fields.u32().ok_or(malformed)?;
        let all = packet.raw.get(..4).and_then(read_u32).ok_or(malformed)?;
        let head = u32::try_from(packet.raw.len() - 4).map_err(|_| malformed)?;
        // What the packet holds is the data and nothing after it.
        if head.checked_add(length) != Some(all) {
            return Err(malformed);
        }
        self.data = length;
        Ok(Piece::Bulk(Bulk { raw: packet.raw, id, handle, offset, length }))
    }
}

enum Measure {
    /// As many bytes are needed to know more.
    More(usize),
    /// As many are one unit.
    Unit(usize),
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The fields of a packet, one after the other (RFC 4251 section 5).
pub(super) struct Fields {
    rest: Bytes,
}

impl Fields {
    pub(super) fn new(rest: Bytes) -> Self {
        Self { rest }
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (self.rest.len() >= length).then(|| self.rest.split_to(length))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        read_u32(&self.take(4)?)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.as_ref().try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<Bytes> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
