//! Messages too long to hold, taken apart as they arrive: the cells of a DataRow, the parameters of a Bind.
//!
//! A splitter is fed the chunks of one message's body and says what each byte belongs to, so a relay can overwrite a
//! masked cell with as many other bytes while it streams past. Lengths are checked against what is left of the body
//! before any of a value's bytes are handed out. Lengths and counts may be cut anywhere by a chunk's end, so the relay
//! does not copy them from its input: it writes them anew from the events.

use super::error::{DecodeError, Message};
use super::fields::{Format, NULL_LENGTH};
use super::frame::take_up_to;
use super::{BackendTag, FrontendTag};

/// What stands next in a list of values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ValueEvent<'a> {
    /// A value begins.
    Start {
        /// Its place in the list, from 0.
        index: u16,
        /// Its length in bytes; `None` for NULL. Only a length above 0 is followed by bytes.
        length: Option<u32>,
    },
    /// The next bytes of the value that began, as many as the chunk had; never empty.
    Bytes {
        /// The value's place in the list.
        index: u16,
        /// The bytes.
        bytes: &'a [u8],
        /// Bytes of the value still to come.
        left: u32,
    },
}

impl std::fmt::Debug for ValueEvent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { index, length } => write!(f, "Start({index}, {length:?})"),
            Self::Bytes { index, bytes, left } => {
                write!(f, "Bytes({index}, {} bytes, {left} left)", bytes.len())
            }
        }
    }
}

/// What stands next in a streamed DataRow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEvent<'a> {
    /// The row begins.
    Start {
        /// Length of the whole body in bytes.
        body: usize,
        /// How many cells follow.
        columns: u16,
    },
    /// A cell begins or goes on.
    Cell(ValueEvent<'a>),
    /// The row is complete, and its cells filled the body exactly.
    End,
}

/// Takes apart one streamed DataRow.
#[derive(Debug)]
pub struct RowSplitter {
    body: usize,
    taker: Taker,
    step: RowStep,
}

#[derive(Debug)]
enum RowStep {
    Count,
    Cells(Values),
    Ended,
}

impl RowSplitter {
    /// A splitter for a DataRow whose body has `body` bytes, as `Item::Large` says.
    #[must_use]
    pub const fn new(body: usize) -> Self {
        let taker = Taker::new(Message::Backend(BackendTag::DataRow), body);
        Self { body, taker, step: RowStep::Count }
    }

    /// The next event, with `input` moved past it; `None` when the chunk is used up or the row has ended.
    ///
    /// # Errors
    /// [`DecodeError`] when the cells cannot fill the body exactly; the row cannot be repaired then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<RowEvent<'a>>, DecodeError> {
        match &mut self.step {
            RowStep::Count => {
                let Some(columns) = self.taker.u16(input, "number of columns")? else { return Ok(None) };
                self.step = RowStep::Cells(Values::new(columns, 0));
                Ok(Some(RowEvent::Start { body: self.body, columns }))
            }
            RowStep::Cells(values) => {
                if !values.ended() {
                    return Ok(values.next(&mut self.taker, input, "cell")?.map(RowEvent::Cell));
                }
                self.taker.end()?;
                self.step = RowStep::Ended;
                Ok(Some(RowEvent::End))
            }
            RowStep::Ended => Ok(None),
        }
    }
}

/// What stands next in a streamed Bind, after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindEvent<'a> {
    /// A parameter begins or goes on.
    Parameter(ValueEvent<'a>),
    /// All parameters are through; the formats asked for the result's columns follow.
    ResultFormats {
        /// How many codes follow: none, one for all columns, or one per column.
        count: u16,
    },
    /// The next code.
    ResultFormat(Format),
    /// The Bind is complete, and its fields filled the body exactly.
    End,
}

/// Takes apart one streamed Bind from behind the head that [`BindHead::decode_prefix`] read.
///
/// [`BindHead::decode_prefix`]: super::frontend::BindHead::decode_prefix
#[derive(Debug)]
pub struct BindSplitter {
    taker: Taker,
    step: BindStep,
}

#[derive(Debug)]
enum BindStep {
    Parameters(Values),
    Formats { left: u16 },
    Ended,
}

impl BindSplitter {
    /// A splitter for a Bind with this many parameters and `left` bytes of body behind its head.
    #[must_use]
    pub const fn new(parameters: u16, left: usize) -> Self {
        let taker = Taker::new(Message::Frontend(FrontendTag::Bind), left);
        Self { taker, step: BindStep::Parameters(Values::new(parameters, FORMAT_COUNT_BYTES)) }
    }

    /// The next event, with `input` moved past it; `None` when the chunk is used up or the Bind has ended.
    ///
    /// # Errors
    /// [`DecodeError`] when the fields cannot fill the body exactly; the message cannot be repaired then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<BindEvent<'a>>, DecodeError> {
        match &mut self.step {
            BindStep::Parameters(values) if !values.ended() => {
                Ok(values.next(&mut self.taker, input, "parameter")?.map(BindEvent::Parameter))
            }
            BindStep::Parameters(_) => {
                let Some(count) = self.taker.u16(input, "number of result formats")? else { return Ok(None) };
                self.step = BindStep::Formats { left: count };
                Ok(Some(BindEvent::ResultFormats { count }))
            }
            BindStep::Formats { left: 0 } => {
                self.taker.end()?;
                self.step = BindStep::Ended;
                Ok(Some(BindEvent::End))
            }
            BindStep::Formats { left } => {
                let format = match self.taker.u16(input, "result format")? {
                    None => return Ok(None),
                    Some(0) => Format::Text,
                    Some(1) => Format::Binary,
                    Some(other) => return Err(self.taker.impossible("result format", other)),
                };
                *left -= 1;
                Ok(Some(BindEvent::ResultFormat(format)))
            }
            BindStep::Ended => Ok(None),
        }
    }
}

/// Bytes of the count that stands between a Bind's parameters and its result formats.
const FORMAT_COUNT_BYTES: usize = 2;

/// Bytes of the length before each value.
const LENGTH_BYTES: usize = 4;

/// Takes fields off a body that arrives in pieces, and knows how much of it is left.
#[derive(Debug)]
struct Taker {
    message: Message,
    /// Bytes of the body not taken yet; those in `partial` count as taken.
    left: usize,
    /// The first bytes of an integer that a chunk's end cut.
    partial: [u8; LENGTH_BYTES],
    partial_len: usize,
}

impl Taker {
    const fn new(message: Message, left: usize) -> Self {
        Self { message, left, partial: [0; LENGTH_BYTES], partial_len: 0 }
    }

    fn u16(&mut self, input: &mut &[u8], field: &'static str) -> Result<Option<u16>, DecodeError> {
        Ok(self.integer::<2>(input, field)?.map(u16::from_be_bytes))
    }

    fn i32(&mut self, input: &mut &[u8], field: &'static str) -> Result<Option<i32>, DecodeError> {
        Ok(self.integer::<4>(input, field)?.map(i32::from_be_bytes))
    }

    fn integer<const N: usize>(
        &mut self,
        input: &mut &[u8],
        field: &'static str,
    ) -> Result<Option<[u8; N]>, DecodeError> {
        let missing = N - self.partial_len;
        if self.left < missing {
            return Err(DecodeError::Truncated { message: self.message, field });
        }
        let bytes = self.bytes(input, missing);
        for (to, from) in self.partial.iter_mut().skip(self.partial_len).zip(bytes) {
            *to = *from;
        }
        self.partial_len += bytes.len();
        if self.partial_len < N {
            return Ok(None);
        }
        self.partial_len = 0;
        Ok(self.partial.first_chunk::<N>().copied())
    }

    /// At most `limit` bytes, as many as `input` has.
    fn bytes<'a>(&mut self, input: &mut &'a [u8], limit: usize) -> &'a [u8] {
        let bytes = take_up_to(limit, input);
        self.left -= bytes.len();
        bytes
    }

    fn end(&self) -> Result<(), DecodeError> {
        match self.left {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { message: self.message, bytes }),
        }
    }

    fn impossible(&self, field: &'static str, value: impl Into<i64>) -> DecodeError {
        DecodeError::Value { message: self.message, field, value: value.into() }
    }
}

/// Where in a list of values the stream stands.
#[derive(Debug)]
struct Values {
    /// Place of the next value to begin.
    index: u16,
    count: u16,
    /// Bytes still to come of the value before `index`.
    value_left: u32,
    /// Bytes that must follow the last value.
    reserved: usize,
}

impl Values {
    const fn new(count: u16, reserved: usize) -> Self {
        Self { index: 0, count, value_left: 0, reserved }
    }

    const fn ended(&self) -> bool {
        self.index == self.count && self.value_left == 0
    }

    /// The next event; `None` when `input` is used up. Not to be called once it has ended.
    fn next<'a>(
        &mut self,
        taker: &mut Taker,
        input: &mut &'a [u8],
        field: &'static str,
    ) -> Result<Option<ValueEvent<'a>>, DecodeError> {
        if self.value_left > 0 {
            let bytes = taker.bytes(input, self.value_left as usize);
            if bytes.is_empty() {
                return Ok(None);
            }
            // No longer than `value_left`, which is a u32.
            self.value_left -= bytes.len() as u32;
            return Ok(Some(ValueEvent::Bytes { index: self.index - 1, bytes, left: self.value_left }));
        }
        let Some(length) = taker.i32(input, field)? else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let behind = usize::from(self.count - self.index) * LENGTH_BYTES + self.reserved;
        let length = match u32::try_from(length) {
            Ok(length) => Some(length),
            Err(_) if length == NULL_LENGTH => None,
            Err(_) => return Err(taker.impossible(field, length)),
        };
        self.value_left = length.unwrap_or(0);
        if (self.value_left as usize).saturating_add(behind) > taker.left {
            return Err(DecodeError::Truncated { message: taker.message, field });
        }
        Ok(Some(ValueEvent::Start { index, length }))
    }
}
