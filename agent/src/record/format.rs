//! The bytes of the store: segment headers and frames, encoded and decoded. Pure; trusts no length it reads.
//!
//! A segment is a header and then frames, back to back. All integers are little-endian.
//!
//! ```text
//! segment header, 64 bytes            frame header, 64 bytes, then the payload
//!  0  8  magic "PTCLREC" 0x1A          0  4  stored payload length
//!  8  4  version                       4  4  CRC-32 of the store id, bytes 0-3, bytes 8-63 and the payload
//! 12  4  segment number                8  1  kind
//! 16 16  store id                      9  1  flags (bit 0: payload is one zstd frame)
//! 32  8  wall clock, ns since 1970    10  2  zero
//! 40  4  CRC of the last frame of     12  4  payload length after decompression
//!        the previous segment         16 16  session ULID, most significant byte first; zero for the store itself
//! 44 16  zero                         32  8  sequence within the session, from 1
//! 60  4  CRC-32 of bytes 0-59         40  8  operation within the session, from 1; zero when none
//!                                     48  8  monotonic clock, ns since the recorder was opened
//!                                     56  8  wall clock, ns since 1970
//! ```
//!
//! The store id is random and takes part in every CRC: bytes that an agent chose, stored raw inside a payload, cannot
//! pass for a frame when a reader looks for the next good one after damage. The CRC tells accidents, not forgery.

use std::fmt;

use ulid::Ulid;

use crate::flow::SessionId;

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Largest payload, in bytes, stored and after decompression.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Format version this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// zstd level of payloads: speed first, masked rows still shrink three- to tenfold.
pub const COMPRESSION_LEVEL: i32 = 1;

const MAGIC: [u8; 8] = *b"PTCLREC\x1a";
const FLAG_ZSTD: u8 = 1;

/// Random identity of a store, fixed when its first segment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a frame records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A flow was accepted; first frame of every session.
    SessionOpened = 1,
    /// An operation is about to be forwarded.
    Intent = 2,
    /// An operation was refused.
    Refused = 3,
    /// An operation waits for a human.
    Held = 4,
    /// The human's decision, or its absence.
    Decided = 5,
    /// A block of masked result rows.
    ResultRows = 6,
    /// How a forwarded operation ended.
    Outcome = 7,
    /// Free text about the session.
    Note = 8,
    /// Bytes relayed unread so far.
    OpaqueCounts = 9,
    /// Last frame of every session.
    SessionClosed = 10,
    /// Store: the recorder was opened after an unclean end.
    Recovered = 11,
    /// Store: sessions that were open when the segment began; first frames of every segment.
    CarriedOver = 12,
    /// A stretch of an HTTP body.
    Body = 13,
    /// A WebSocket message.
    Message = 14,
    /// A stretch of an SSH channel's stream.
    Stream = 15,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::SessionOpened,
        Self::Intent,
        Self::Refused,
        Self::Held,
        Self::Decided,
        Self::ResultRows,
        Self::Outcome,
        Self::Note,
        Self::OpaqueCounts,
        Self::SessionClosed,
        Self::Recovered,
        Self::CarriedOver,
        Self::Body,
        Self::Message,
        Self::Stream,
    ];

    /// The kind's name in JSON output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionOpened => "session_opened",
            Self::Intent => "intent",
            Self::Refused => "refused",
            Self::Held => "held",
            Self::Decided => "decided",
            Self::ResultRows => "result_rows",
            Self::Outcome => "outcome",
            Self::Note => "note",
            Self::OpaqueCounts => "opaque_counts",
            Self::SessionClosed => "session_closed",
            Self::Recovered => "recovered",
            Self::CarriedOver => "carried_over",
            Self::Body => "body",
            Self::Message => "message",
            Self::Stream => "stream",
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame's header without what only the bytes on disk need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: Kind,
    /// Whose conversation; the nil ULID for the store's own frames.
    pub session: SessionId,
    /// Position within the session, from 1, without gaps.
    pub sequence: u64,
    /// Operation within the session, from 1; 0 when the frame belongs to none.
    pub operation: u64,
    /// Monotonic clock, nanoseconds since the recorder was opened.
    pub monotonic_ns: u64,
    /// Wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
}

impl FrameHeader {
    /// The session id of frames that belong to the store and not to a session.
    #[must_use]
    pub const fn store_session() -> SessionId {
        SessionId(Ulid::nil())
    }
}

/// One frame, as read back. The payload may still be compressed; see [`Frame::payload`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Header.
    pub header: FrameHeader,
    /// CRC as stored.
    pub crc: u32,
    compressed: bool,
    raw_length: u32,
    stored: Vec<u8>,
}

/// What of a frame's header a reader needs before it reads the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Header.
    pub header: FrameHeader,
    /// CRC as stored; not yet checked.
    pub crc: u32,
    /// Payload bytes that follow, at most [`PAYLOAD_BYTES_MAX`].
    pub stored_length: usize,
    compressed: bool,
    raw_length: u32,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// A header field has a value that is never written.
    #[error("implausible frame header")]
    Header,
    /// Decompression failed or gave another length than the header says.
    #[error("payload does not decompress to its stated length")]
    Payload,
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`].
    #[error("payload larger than a frame may be")]
    TooLarge,
    /// The bytes end before the frame does.
    #[error("frame ends early")]
    Truncated,
    /// A segment of another format, or of a later version.
    #[error("not a segment this version can read")]
    Segment,
}

/// First bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of this segment, from 1.
    pub number: u32,
    /// Store it belongs to.
    pub store: StoreId,
    /// When it was created, nanoseconds since 1970.
    pub wall_ns: u64,
    /// CRC of the previous segment's last frame; 0 when there is none.
    pub previous_crc: u32,
}

impl SegmentHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, self.number.to_le_bytes());
        put(&mut bytes, 16, self.store.0);
        put(&mut bytes, 32, self.wall_ns.to_le_bytes());
        put(&mut bytes, 40, self.previous_crc.to_le_bytes());
        let crc = crc32fast::hash(bytes.split_at(60).0);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    /// Reads a header from a segment's first bytes.
    ///
    /// # Errors
    /// `Truncated`, `Checksum`, or `Segment` when magic or version differ.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (bytes, _) = bytes.split_first_chunk::<SEGMENT_HEADER_BYTES>().ok_or(FormatError::Truncated)?;
        if take::<8>(bytes, 0) != MAGIC {
            return Err(FormatError::Segment);
        }
        if crc32fast::hash(bytes.split_at(60).0) != u32::from_le_bytes(take(bytes, 60)) {
            return Err(FormatError::Checksum);
        }
        if u32::from_le_bytes(take(bytes, 8)) != FORMAT_VERSION {
            return Err(FormatError::Segment);
        }
        Ok(Self {
            number: u32::from_le_bytes(take(bytes, 12)),
            store: StoreId(take(bytes, 16)),
            wall_ns: u64::from_le_bytes(take(bytes, 32)),
            previous_crc: u32::from_le_bytes(take(bytes, 40)),
        })
    }
}

/// A frame's bytes in the making: header room, then the payload as it will be stored.
///
/// Built outside the recorder's lock; the header (and with it the checksum) is filled in by [`FrameBytes::seal`].
#[derive(Debug)]
pub struct FrameBytes {
    bytes: Vec<u8>,
    flags: u8,
    raw_length: u32,
}

impl FrameBytes {
    /// A frame whose payload is stored as `write` appends it.
    ///
    /// # Errors
    /// `TooLarge`, and whatever `write` returns.
    pub fn raw<E: From<FormatError>>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = spare::take();
        bytes.resize(FRAME_HEADER_BYTES, 0);
        write(&mut bytes)?;
        let raw_length = checked_length(bytes.len().saturating_sub(FRAME_HEADER_BYTES))?;
        Ok(Self { bytes, flags: 0, raw_length })
    }

    /// A frame with `payload` compressed, or raw when that is not smaller.
    ///
    /// # Errors
    /// `TooLarge`; `Payload` when the compressor fails.
    pub fn compressed(
        compressor: &mut zstd::bulk::Compressor<'_>,
        payload: &[u8],
    ) -> Result<Self, FormatError> {
        let raw_length = checked_length(payload.len())?;
        let packed = compressor.compress(payload).map_err(|_| FormatError::Payload)?;
        let (flags, stored) =
            if packed.len() < payload.len() { (FLAG_ZSTD, packed.as_slice()) } else { (0, payload) };
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + stored.len());
        bytes.resize(FRAME_HEADER_BYTES, 0);
        bytes.extend_from_slice(stored);
        Ok(Self { bytes, flags, raw_length })
    }

    /// Payload bytes as they will be stored.
    #[must_use]
    pub fn stored_payload(&self) -> &[u8] {
        self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default()
    }

    /// Fills in the header and the checksum.
    #[must_use]
    pub fn seal(mut self, store: StoreId, header: &FrameHeader) -> SealedFrame {
        let stored_length = u32::try_from(self.stored_payload().len()).unwrap_or(u32::MAX);
        let mut head = [0; FRAME_HEADER_BYTES];
        put(&mut head, 0, stored_length.to_le_bytes());
        put(&mut head, 8, [header.kind as u8, self.flags]);
        put(&mut head, 12, self.raw_length.to_le_bytes());
        put(&mut head, 16, header.session.0.to_bytes());
        put(&mut head, 32, header.sequence.to_le_bytes());
        put(&mut head, 40, header.operation.to_le_bytes());
        put(&mut head, 48, header.monotonic_ns.to_le_bytes());
        put(&mut head, 56, header.wall_ns.to_le_bytes());
        let crc = frame_crc(store, &head, self.stored_payload());
        put(&mut head, 4, crc.to_le_bytes());
        if let Some(room) = self.bytes.first_chunk_mut() {
            *room = head;
        }
        SealedFrame { bytes: self.bytes, crc }
    }
}

/// A frame as it is written.
#[derive(Debug)]
pub struct SealedFrame {
    bytes: Vec<u8>,
    crc: u32,
}

impl SealedFrame {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its checksum.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc
    }
}

impl Drop for SealedFrame {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.bytes));
    }
}

/// Buffers of frames that were written: every statement makes some, and most are short.
mod spare {
    use std::cell::RefCell;

    /// Buffers kept by each thread, and their size in bytes.
    const KEPT: usize = 4;
    const BYTES: usize = 1024;

    thread_local! {
        static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    /// An empty buffer.
    pub(super) fn take() -> Vec<u8> {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BYTES))
    }

    /// Takes a buffer back, unless it is a large one.
    pub(super) fn give(mut buffer: Vec<u8>) {
        if buffer.capacity() < BYTES || buffer.capacity() > 4 * BYTES {
            return;
        }
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}

fn checked_length(length: usize) -> Result<u32, FormatError> {
    if length > PAYLOAD_BYTES_MAX {
        return Err(FormatError::TooLarge);
    }
    u32::try_from(length).map_err(|_| FormatError::TooLarge)
}

impl Preamble {
    /// Reads a frame's header. The checksum covers the payload too, so nothing here is proven yet; lengths are bounded.
    ///
    /// # Errors
    /// `Truncated`, or `Header` when a field has a value that is never written.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (head, _) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(FormatError::Truncated)?;
        let [kind, flags, reserved @ ..] = take::<4>(head, 8);
        let kind = Kind::from_byte(kind).ok_or(FormatError::Header)?;
        let stored_length = u32::from_le_bytes(take(head, 0));
        let raw_length = u32::from_le_bytes(take(head, 12));
        let compressed = flags == FLAG_ZSTD;
        let lengths_agree = if compressed { stored_length < raw_length } else { stored_length == raw_length };
        if reserved != [0, 0] || flags & !FLAG_ZSTD != 0 || !lengths_agree {
            return Err(FormatError::Header);
        }
        let bounded =
            |length: u32| usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX);
        let (Some(stored_length), Some(_)) = (bounded(stored_length), bounded(raw_length)) else {
            return Err(FormatError::Header);
        };
        Ok(Self {
            header: FrameHeader {
                kind,
                session: SessionId(Ulid::from_bytes(take(head, 16))),
                sequence: u64::from_le_bytes(take(head, 32)),
                operation: u64::from_le_bytes(take(head, 40)),
                monotonic_ns: u64::from_le_bytes(take(head, 48)),
                wall_ns: u64::from_le_bytes(take(head, 56)),
            },
            crc: u32::from_le_bytes(take(head, 4)),
            stored_length,
            compressed,
            raw_length,
        })
    }
}

impl Frame {
    /// Reads the frame at the start of `bytes`; also gives how many bytes it takes.
    ///
    /// # Errors
    /// `Truncated`, `Header` or `Checksum`.
    pub fn decode(store: StoreId, bytes: &[u8]) -> Result<(Self, usize), FormatError> {
        let preamble = Preamble::decode(bytes)?;
        let length = FRAME_HEADER_BYTES + preamble.stored_length;
        let payload = bytes.get(FRAME_HEADER_BYTES..length).ok_or(FormatError::Truncated)?;
        let head = bytes.first_chunk::<FRAME_HEADER_BYTES>().ok_or(FormatError::Truncated)?;
        if frame_crc(store, head, payload) != preamble.crc {
            return Err(FormatError::Checksum);
        }
        let frame = Self {
            header: preamble.header,
            crc: preamble.crc,
            compressed: preamble.compressed,
            raw_length: preamble.raw_length,
            stored: payload.to_vec(),
        };
        Ok((frame, length))
    }

    /// The payload, decompressed. Never more than [`PAYLOAD_BYTES_MAX`] bytes, whatever the stored bytes say.
    ///
    /// # Errors
    /// `Payload`.
    pub fn payload(&self) -> Result<Vec<u8>, FormatError> {
        if !self.compressed {
            return Ok(self.stored.clone());
        }
        let expected = usize::try_from(self.raw_length).map_err(|_| FormatError::Payload)?;
        let raw = zstd::bulk::decompress(&self.stored, expected.min(PAYLOAD_BYTES_MAX))
            .map_err(|_| FormatError::Payload)?;
        if raw.len() == expected { Ok(raw) } else { Err(FormatError::Payload) }
    }
}

/// Offset of the first whole, intact frame in `bytes`, looking at every position. For readers past damage.
#[must_use]
pub fn resynchronise(store: StoreId, bytes: &[u8]) -> Option<usize> {
    // Cheapest test first: most positions fail on kind, flags and the two zero bytes.
    bytes
        .windows(FRAME_HEADER_BYTES)
        .enumerate()
        .filter(|(_, head)| matches!(head.get(8..12), Some([1..=12, 0 | FLAG_ZSTD, 0, 0])))
        .map(|(at, _)| at)
        .find(|at| bytes.get(*at..).is_some_and(|rest| Frame::decode(store, rest).is_ok()))
}

fn frame_crc(store: StoreId, head: &[u8; FRAME_HEADER_BYTES], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store.0);
    hasher.update(head.split_at(4).0);
    hasher.update(head.split_at(8).1);
    hasher.update(payload);
    hasher.finalize()
}

fn put<const N: usize>(bytes: &mut [u8; 64], at: usize, value: [u8; N]) {
    if let Some(room) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *room = value;
    }
}

fn take<const N: usize>(bytes: &[u8; 64], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([7; 16]);

    fn header(kind: Kind) -> FrameHeader {
        FrameHeader {
            kind,
            session: SessionId(Ulid::from_parts(1_700_000_000_000, 42)),
            sequence: 3,
            operation: 2,
            monotonic_ns: 5,
            wall_ns: 6,
        }
    }

    fn raw(payload: &[u8]) -> Vec<u8> {
        let frame = FrameBytes::raw(|out| {
            out.extend_from_slice(payload);
            Ok::<_, FormatError>(())
        });
        frame.unwrap().seal(STORE, &header(Kind::Note)).bytes().to_vec()
    }

    fn packed(payload: &[u8]) -> Vec<u8> {
        let mut compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL).unwrap();
        FrameBytes::compressed(&mut compressor, payload)
            .unwrap()
            .seal(STORE, &header(Kind::ResultRows))
            .bytes()
            .to_vec()
    }

    #[test]
    fn frames_come_back_as_written() {
        for kind in Kind::ALL {
            let frame = FrameBytes::raw(|_| Ok::<_, FormatError>(())).unwrap();
            let sealed = frame.seal(STORE, &header(kind));
            let (bytes, crc) = (sealed.bytes().to_vec(), sealed.crc());
            let (frame, length) = Frame::decode(STORE, &bytes).unwrap();
            assert_eq!((frame.header, frame.crc, length), (header(kind), crc, bytes.len()));
        }
        let payload = vec![b'a'; 200_000];
        let bytes = packed(&payload);
        assert!(bytes.len() < 1000, "compresses: {} bytes", bytes.len());
        assert_eq!(Frame::decode(STORE, &bytes).unwrap().0.payload().unwrap(), payload);
        assert_eq!(Frame::decode(STORE, &raw(b"hello")).unwrap().0.payload().unwrap(), b"hello");
    }

    #[test]
    fn incompressible_payloads_are_stored_raw() {
        let mut noise = vec![0; 4096];
        getrandom::fill(&mut noise).unwrap();
        let bytes = packed(&noise);
        assert_eq!(bytes.len(), FRAME_HEADER_BYTES + noise.len());
        assert_eq!(Frame::decode(STORE, &bytes).unwrap().0.payload().unwrap(), noise);
    }

    #[test]
    fn every_bit_flip_is_detected() {
        for bytes in [raw(b"drop database shop"), packed(&vec![b'x'; 5000])] {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode(STORE, &damaged).is_err(), "bit {bit} went unnoticed");
            }
        }
    }

    #[test]
    fn every_truncation_is_detected() {
        let bytes = raw(b"drop database shop");
        for length in 0..bytes.len() {
            let cut = bytes.get(..length).unwrap();
            assert_eq!(Frame::decode(STORE, cut).unwrap_err(), FormatError::Truncated, "at {length}");
        }
    }

    #[test]
    fn another_store_s_frame_is_not_ours() {
        assert_eq!(Frame::decode(StoreId([8; 16]), &raw(b"x")).unwrap_err(), FormatError::Checksum);
    }

    #[test]
    fn stated_lengths_reserve_nothing() {
        // A 4 GiB length is refused by the header alone; so is a decompressed length beyond the bound.
        let mut huge = raw(b"x");
        huge[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Preamble::decode(&huge).unwrap_err(), FormatError::Header);

        // A bomb: the stated length is small, the content large. Rebuilt with a valid checksum.
        let mut bomb = packed(&vec![0; 1_000_000]);
        bomb[12..16].copy_from_slice(&1000_u32.to_le_bytes());
        let head: [u8; FRAME_HEADER_BYTES] = bomb[..FRAME_HEADER_BYTES].try_into().unwrap();
        let crc = frame_crc(STORE, &head, &bomb[FRAME_HEADER_BYTES..]);
        bomb[4..8].copy_from_slice(&crc.to_le_bytes());
        let (frame, _) = Frame::decode(STORE, &bomb).unwrap();
        assert_eq!(frame.payload().unwrap_err(), FormatError::Payload);
    }

    #[test]
    fn payloads_beyond_the_bound_are_not_written() {
        let result = FrameBytes::raw(|out| {
            out.resize(PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES + 1, 0);
            Ok::<_, FormatError>(())
        });
        assert_eq!(result.unwrap_err(), FormatError::TooLarge);
    }

    #[test]
    fn the_next_good_frame_is_found_and_a_planted_one_is_not() {
        // The agent stores bytes that are a whole frame, but cannot know the store's id.
        let planted = FrameBytes::raw(|_| Ok::<_, FormatError>(())).unwrap();
        let planted = planted.seal(StoreId([0; 16]), &header(Kind::SessionClosed)).bytes().to_vec();
        let good = raw(b"after");
        let mut bytes = raw(&planted);
        let second = bytes.len();
        bytes.extend_from_slice(&good);
        bytes[70] ^= 1;
        assert!(Frame::decode(STORE, &bytes).is_err());
        assert_eq!(resynchronise(STORE, &bytes), Some(second));
        assert_eq!(resynchronise(STORE, &bytes[..second]), None);
    }

    #[test]
    fn segment_headers_come_back_and_damage_is_detected() {
        let header = SegmentHeader { number: 9, store: STORE, wall_ns: 11, previous_crc: 12 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header);
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged).is_err(), "bit {bit} went unnoticed");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..63]).unwrap_err(), FormatError::Truncated);
    }
}
