//! Message boundaries: cuts a byte stream of either direction into whole messages, or streams those too long to hold.
//!
//! The scanner reads from a slice of the caller's buffer and moves the slice's start past what it took, so messages
//! that nobody touches can be forwarded as one slice of that buffer. It reserves nothing: a length is checked against
//! what its message can have before anything is done with it, and the scanner itself holds a few words of state.

use std::fmt;

use super::error::DecodeError;
use super::tag::Tag;

/// Bytes before a body: the type byte and the length word.
pub const HEADER_BYTES: usize = 5;

/// One whole message, borrowed from the caller's buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a, T> {
    /// Its type.
    pub tag: T,
    /// The message as it stood on the wire, header included.
    pub bytes: &'a [u8],
}

impl<'a, T: Tag> Frame<'a, T> {
    /// The bytes after type and length.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

impl<T: fmt::Debug> fmt::Debug for Frame<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?}, {} bytes)", self.tag, self.bytes.len())
    }
}

/// What stands next in the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Item<'a, T> {
    /// A whole message.
    Frame(Frame<'a, T>),
    /// A message too long to hold begins. Its body follows as chunks, unless [`Scanner::discard`] is called.
    Large {
        /// Its type.
        tag: T,
        /// Length of the body to come, in bytes; never zero.
        body: usize,
    },
    /// The next bytes of a large message's body, as many as the input had; never empty.
    Chunk {
        /// The message's type.
        tag: T,
        /// The bytes.
        bytes: &'a [u8],
        /// Bytes of the body still to come; 0 ends the message.
        left: usize,
    },
}

impl<T: fmt::Debug> fmt::Debug for Item<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(frame) => frame.fmt(f),
            Self::Large { tag, body } => write!(f, "Large({tag:?}, {body} bytes of body)"),
            Self::Chunk { tag, bytes, left } => {
                write!(f, "Chunk({tag:?}, {} bytes, {left} left)", bytes.len())
            }
        }
    }
}

/// Where in the stream a scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State<T> {
    /// At a type byte.
    Header,
    /// Inside the body of a large message whose bytes are handed out.
    Streaming { tag: T, left: usize },
    /// Inside the body of a large message whose bytes are dropped.
    Discarding { left: usize },
}

/// Cuts one direction of a connection into messages. Starts after the startup packets.
///
/// ```
/// use portcullis::codec::postgres::{FrontendTag, Item, Scanner};
///
/// let mut scanner = Scanner::<FrontendTag>::new();
/// let mut input: &[u8] = b"S\0\0\0\x04X\0\0";
/// let Ok(Some(Item::Frame(sync))) = scanner.next(&mut input) else { panic!("a whole Sync") };
/// assert_eq!(sync.tag, FrontendTag::Sync);
/// assert_eq!(scanner.next(&mut input), Ok(None)); // a part of Terminate stays in the caller's buffer
/// assert_eq!(input, b"X\0\0");
/// ```
#[derive(Clone, Debug)]
pub struct Scanner<T> {
    state: State<T>,
}

impl<T: Tag> Default for Scanner<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Tag> Scanner<T> {
    /// A scanner that stands at a message boundary.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Header }
    }

    /// The next item, with `input` moved past it; `None` when the input holds no further item.
    ///
    /// What is left in `input` then is the beginning of a message: the caller keeps it and appends to it. After an
    /// error neither `input` nor the scanner has moved, so asking again gives the same error.
    ///
    /// # Errors
    /// [`DecodeError::UnknownTag`] and [`DecodeError::Length`], as soon as the bytes that show them are there.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a, T>>, DecodeError> {
        loop {
            match self.state {
                State::Header => return self.message(input),
                State::Streaming { tag, left } => return Ok(self.chunk(tag, left, input)),
                State::Discarding { left } => {
                    let bytes = take_up_to(left, input);
                    let left = left - bytes.len();
                    if left > 0 {
                        self.state = State::Discarding { left };
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
            }
        }
    }

    /// Drops what is left of the large message that began, instead of handing it out. Between messages it does nothing.
    pub fn discard(&mut self) {
        if let State::Streaming { left, .. } = self.state {
            self.state = State::Discarding { left };
        }
    }

    /// Whether the stream may end here: no large message is unfinished. The caller checks that no input is left either.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Header
    }

    /// How many more bytes would complete the message at the start of `input`, at least 1.
    ///
    /// Never more than the longest body taken in one piece, so it may be reserved.
    #[must_use]
    pub fn wanted(&self, input: &[u8]) -> usize {
        match (self.state, header::<T>(input)) {
            (State::Header, Ok(Some((tag, body)))) if body <= tag.bounds().whole => {
                (HEADER_BYTES + body).saturating_sub(input.len()).max(1)
            }
            (State::Header, Ok(None)) => HEADER_BYTES - input.len().min(HEADER_BYTES - 1),
            (State::Header | State::Streaming { .. } | State::Discarding { .. }, _) => 1,
        }
    }

    #[inline]
    fn message<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a, T>>, DecodeError> {
        let Some((tag, body)) = header::<T>(input)? else { return Ok(None) };
        if body <= tag.bounds().whole {
            let Some((bytes, rest)) = input.split_at_checked(HEADER_BYTES + body) else { return Ok(None) };
            *input = rest;
            return Ok(Some(Item::Frame(Frame { tag, bytes })));
        }
        *input = input.get(HEADER_BYTES..).unwrap_or_default();
        self.state = State::Streaming { tag, left: body };
        Ok(Some(Item::Large { tag, body }))
    }

    fn chunk<'a>(&mut self, tag: T, left: usize, input: &mut &'a [u8]) -> Option<Item<'a, T>> {
        let bytes = take_up_to(left, input);
        if bytes.is_empty() {
            return None;
        }
        let left = left - bytes.len();
        self.state = if left == 0 { State::Header } else { State::Streaming { tag, left } };
        Some(Item::Chunk { tag, bytes, left })
    }
}

/// Takes at most `limit` bytes off the start of `input`.
pub(super) fn take_up_to<'a>(limit: usize, input: &mut &'a [u8]) -> &'a [u8] {
    let (bytes, rest) = input.split_at_checked(limit).unwrap_or((input, &[]));
    *input = rest;
    bytes
}

/// The checked tag and body length at the start of `input`; `None` when the header is not all there.
#[inline]
fn header<T: Tag>(input: &[u8]) -> Result<Option<(T, usize)>, DecodeError> {
    let Some(&byte) = input.first() else { return Ok(None) };
    let tag = T::from_byte(byte).ok_or(DecodeError::UnknownTag { side: T::SIDE, byte })?;
    let Some(length) = input.get(1..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let bounds = tag.bounds();
    match (length as usize).checked_sub(4) {
        Some(body) if (bounds.min..=bounds.max).contains(&body) => Ok(Some((tag, body))),
        _ => Err(DecodeError::Length {
            message: tag.message(),
            length,
            min: length_word(bounds.min),
            max: length_word(bounds.max),
        }),
    }
}

/// The length word for a body: it counts its own four bytes.
const fn length_word(body: usize) -> u32 {
    // Bounds are constants of at most `BODY_BYTES_MAX`.
    body as u32 + 4
}
