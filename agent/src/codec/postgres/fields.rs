//! Reading the fields of one message body, and the small values that messages share.

use std::ffi::CStr;
use std::fmt;

use memchr::memchr;

use super::error::{DecodeError, Message};

/// What the protocol calls a String: bytes without NUL, in the session's encoding.
///
/// Holding one proves that there is no NUL inside, so it can be written back without changing where the field ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// The empty string: the name of the unnamed statement and the unnamed portal.
    pub const EMPTY: Text<'static> = Text(b"");

    /// These bytes as a protocol String, or `None` when a NUL is among them.
    #[must_use]
    pub fn new<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Option<Self> {
        let bytes = text.as_ref();
        memchr(0, bytes).is_none().then_some(Self(bytes))
    }

    /// A text of our own, written `c"…"`: the compiler refuses a NUL inside.
    #[must_use]
    pub const fn of(text: &'a CStr) -> Self {
        Self(text.to_bytes())
    }

    /// What stands before the first NUL.
    #[must_use]
    pub fn before_nul(bytes: &'a [u8]) -> Self {
        Self(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// The bytes as they stood on the wire, without the closing NUL.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text, when it is UTF-8.
    #[must_use]
    pub fn to_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }

    /// The text, or the error that names the message and field where it should have been UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::NotUtf8`] when it is not.
    pub fn utf8(self, message: Message, field: &'static str) -> Result<&'a str, DecodeError> {
        self.to_str().ok_or(DecodeError::NotUtf8 { message, field })
    }

    /// Length in bytes, without the closing NUL.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Whether it is the empty string.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

/// How a value is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// The type's text form (code 0).
    #[default]
    Text,
    /// The type's `send`/`recv` form (code 1).
    Binary,
}

impl Format {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// A list of format codes whose codes were checked when it was read.
///
/// It holds none (all text), one (for every value), or one per value.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats<'a>(&'a [u8]);

impl<'a> Formats<'a> {
    /// All text, said by giving no code.
    pub const TEXT: Formats<'static> = Formats(&[]);

    /// How many codes are given.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len() / 2
    }

    /// Whether no code is given, which means text for every value.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The codes as given.
    pub fn iter(self) -> impl Iterator<Item = Format> + 'a {
        self.0.chunks_exact(2).map(|code| if code == [0, 0] { Format::Text } else { Format::Binary })
    }

    /// The format of value number `index` (from 0), or `None` when the list gives a code per value and ends before it.
    #[must_use]
    pub fn get(self, index: usize) -> Option<Format> {
        match self.len() {
            0 => Some(Format::Text),
            1 => self.iter().next(),
            _ => self.iter().nth(index),
        }
    }
}

impl fmt::Debug for Formats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A cursor over one message body. Every read is checked; no read reserves memory.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    message: Message,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(message: Message, body: &'a [u8]) -> Self {
        Self { rest: body, message }
    }

    /// What has not been read yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated { message: self.message, field })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn i16(&mut self, field: &'static str) -> Result<i16, DecodeError> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn bytes4(&mut self, field: &'static str) -> Result<[u8; 4], DecodeError> {
        self.array(field)
    }

    pub(super) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated { message: self.message, field })?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<Text<'a>, DecodeError> {
        let end = memchr(0, self.rest).ok_or(DecodeError::Unterminated { message: self.message, field })?;
        let text = Text(self.take(end, field)?);
        self.u8(field)?;
        Ok(text)
    }

    /// A value with a signed length before it; -1 is NULL, anything below is an error.
    ///
    /// Rows are made of these, so this is the one field whose path is kept short: errors are told apart afterwards.
    #[inline]
    pub(super) fn value(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        if let Some((length, behind)) = self.rest.split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            if length == NULL_LENGTH {
                self.rest = behind;
                return Ok(None);
            }
            // A negative length becomes one that no body has.
            if let Some((value, rest)) = behind.split_at_checked(length as usize) {
                self.rest = rest;
                return Ok(Some(value));
            }
        }
        Err(self.not_a_value(field))
    }

    /// Moves past `count` values.
    #[inline]
    pub(super) fn skip_values(&mut self, count: u16, field: &'static str) -> Result<(), DecodeError> {
        for _ in 0..count {
            self.value(field)?;
        }
        Ok(())
    }

    /// Why there is no value here.
    #[cold]
    fn not_a_value(&self, field: &'static str) -> DecodeError {
        match self.rest.first_chunk::<4>().map(|length| i32::from_be_bytes(*length)) {
            Some(length) if length < NULL_LENGTH => self.impossible(field, length),
            Some(_) | None => DecodeError::Truncated { message: self.message, field },
        }
    }

    /// One format code, which is 0 or 1.
    pub(super) fn format(&mut self, field: &'static str) -> Result<Format, DecodeError> {
        match self.u16(field)? {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(self.impossible(field, other)),
        }
    }

    /// `count` format codes in a row.
    pub(super) fn formats(&mut self, count: u16, field: &'static str) -> Result<Formats<'a>, DecodeError> {
        let codes = self.take(usize::from(count) * 2, field)?;
        let mut check = Self::new(self.message, codes);
        for _ in 0..count {
            check.format(field)?;
        }
        Ok(Formats(codes))
    }

    pub(super) fn impossible(&self, field: &'static str, value: impl Into<i64>) -> DecodeError {
        DecodeError::Value { message: self.message, field, value: value.into() }
    }

    /// The body must end here.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { message: self.message, bytes }),
        }
    }
}

/// The length that stands for NULL in rows and parameters.
pub(super) const NULL_LENGTH: i32 = -1;

/// The values of a checked region: each has its length before it.
#[derive(Clone)]
pub struct Values<'a> {
    fields: Fields<'a>,
    left: u16,
}

impl<'a> Values<'a> {
    /// Reads `count` values from `fields`, checking each, and gives an iterator over them.
    pub(super) fn read(
        fields: &mut Fields<'a>,
        count: u16,
        field: &'static str,
    ) -> Result<Self, DecodeError> {
        let values = Self { fields: fields.clone(), left: count };
        fields.skip_values(count, field)?;
        Ok(values)
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // INVARIANT: `read` walked the same bytes, so this cannot fail; were it to, iteration would end.
        self.fields.value("value").ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({} left)", self.left)
    }
}
