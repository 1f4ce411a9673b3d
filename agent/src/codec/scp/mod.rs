//! The protocol that `scp -O` and everything before OpenSSH 9 speaks (OpenSSH's scp.c: `source`, `sink`, `response`). Pure.
//!
//! One side, the source, says a line for each file or folder; the other, the sink, answers each with a byte or a text. Programs
//! read lines into buffers of 2048 bytes and take what is left over for the next line, so no longer line passes here, and every
//! line goes out as it was understood.

use bytes::{BufMut as _, Bytes, BytesMut};

#[cfg(test)]
mod tests;

/// Longest line, in bytes. A name has 255 at most on Linux; the smallest buffer known has 2048.
pub const LINE_BYTES_MAX: usize = 1024;

/// Bytes of an error's text that pass.
const TEXT_BYTES_MAX: usize = 900;

/// An error's text, in bytes, that is read at all.
const TEXT_READ_MAX: usize = 16 * 1024;

/// What is not this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScpError {
    /// A line is longer than any may be.
    #[error("a line of more than {LINE_BYTES_MAX} bytes")]
    Length,
    /// A line that says nothing known.
    #[error("a line that is not one of the protocol's")]
    Line,
    /// A name that is none of a file in its folder.
    #[error("a name that is none of a file")]
    Name,
    /// An answer that is neither yes nor no.
    #[error("an answer that is neither yes nor no")]
    Reply,
}

/// What the source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `C`: a file, whose content follows once the sink has said yes.
    File(Entry),
    /// `D`: a folder; what follows is in it, up to `End`.
    Folder(Entry),
    /// `E`.
    End,
    /// `T`: when the next file was changed and read, in seconds since 1970.
    Times {
        /// `mtime`.
        modified: u64,
        /// `atime`.
        accessed: u64,
    },
    /// The source could not do something. The sink does not answer that.
    Failed(Failure),
}

/// A file or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits, four octal digits.
    pub mode: u32,
    /// In bytes. Of a folder nobody uses it.
    pub size: u64,
    /// Its name, without a folder.
    pub name: Bytes,
}

impl Entry {
    /// Whether whoever runs it gets its owner's or group's rights.
    #[must_use]
    pub fn sets_id(&self) -> bool {
        self.mode & 0o6000 != 0
    }
}

/// An error, as one side tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The other side gives up, too.
    pub fatal: bool,
    /// A line, cut to what every program reads at once.
    pub text: Bytes,
}

impl Failure {
    /// One that only this file is lost by.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { fatal: false, text: line_of(text.as_bytes()) }
    }

    /// Its text, for the record.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// What the sink answers, and the source once a file's content is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Yes, go on.
    Done,
    /// No.
    Failed(Failure),
}

/// Gathers one side's lines.
#[derive(Debug, Default)]
pub struct Lines {
    begun: BytesMut,
}

impl Lines {
    /// Whether nothing of a line is here yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// The next thing that the source says; `None` when more has to come.
    ///
    /// # Errors
    /// It is not this protocol; nothing that follows can be trusted.
    pub fn message(&mut self, input: &mut Bytes) -> Result<Option<Message>, ScpError> {
        let Some(first) = self.begun.first().or(input.first()).copied() else { return Ok(None) };
        let Some(line) = self.line(input, longest(first))? else { return Ok(None) };
        message(first, &line).map(Some)
    }

    /// The next answer; `None` when more has to come.
    ///
    /// # Errors
    /// It is not this protocol; nothing that follows can be trusted.
    pub fn reply(&mut self, input: &mut Bytes) -> Result<Option<Reply>, ScpError> {
        match self.begun.first().or(input.first()).copied() {
            None => Ok(None),
            Some(0) => {
                drop(input.split_to(1));
                Ok(Some(Reply::Done))
            }
            Some(first @ (1 | 2)) => {
                let line = self.line(input, TEXT_READ_MAX)?;
                Ok(line.map(|line| Reply::Failed(failure(first, &line))))
            }
            Some(_) => Err(ScpError::Reply),
        }
    }

    /// All of a line but its first byte and its end.
    fn line(&mut self, input: &mut Bytes, longest: usize) -> Result<Option<Bytes>, ScpError> {
        let end = memchr::memchr(b'\n', input);
        let taken = end.map_or(input.len(), |end| end + 1);
        if self.begun.len() + taken > longest {
            return Err(ScpError::Length);
        }
        self.begun.extend_from_slice(&input.split_to(taken));
        if end.is_none() {
            return Ok(None);
        }
        let line = self.begun.split().freeze();
        let line = line.slice(..line.len().saturating_sub(1));
        Ok(Some(line.slice(1.min(line.len())..)))
    }
}

fn longest(first: u8) -> usize {
    if matches!(first, 1 | 2) { TEXT_READ_MAX } else { LINE_BYTES_MAX }
}

fn failure(first: u8, text: &[u8]) -> Failure {
    Failure { fatal: first == 2, text: line_of(text) }
}

/// At most as much as every program reads at once, and one line.
fn line_of(text: &[u8]) -> Bytes {
    let kept = text.iter().map(|byte| if matches!(byte, b'\n' | 0) { b' ' } else { *byte });
    kept.take(TEXT_BYTES_MAX).collect()
}

fn message(first: u8, line: &[u8]) -> Result<Message, ScpError> {
    match first {
        b'C' => entry(line).map(Message::File),
        b'D' => entry(line).map(Message::Folder),
        b'E' if line.is_empty() => Ok(Message::End),
        b'T' => times(line).ok_or(ScpError::Line),
        1 | 2 => Ok(Message::Failed(failure(first, line))),
        _ => Err(ScpError::Line),
    }
}

/// `0644 1234 name`.
fn entry(line: &[u8]) -> Result<Entry, ScpError> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (Some(mode), Some(size), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(ScpError::Line);
    };
    let octal = mode.len() == 4 && mode.iter().all(|digit| (b'0'..=b'7').contains(digit));
    if !octal {
        return Err(ScpError::Line);
    }
    let mode = mode.iter().fold(0, |mode, digit| mode * 8 + u32::from(digit - b'0'));
    let size = number(size).ok_or(ScpError::Line)?;
    if name.is_empty() || matches!(name, b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(ScpError::Name);
    }
    Ok(Entry { mode, size, name: Bytes::copy_from_slice(name) })
}

/// `1700000000 0 1700000000 0`: microseconds are always written and mostly 0.
fn times(line: &[u8]) -> Option<Message> {
    let mut parts = line.split(|byte| *byte == b' ').map(number);
    let (modified, _) = (parts.next()??, parts.next()??);
    let (accessed, _) = (parts.next()??, parts.next()??);
    parts.next().is_none().then_some(Message::Times { modified, accessed })
}

/// Digits alone, and no more than every program's `off_t` takes.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

impl Message {
    /// As it goes out.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let entry = |letter: char, entry: &Entry| {
            let mut line = BytesMut::from(format!("{letter}{:04o} {} ", entry.mode, entry.size).as_bytes());
            line.extend_from_slice(&entry.name);
            line.put_u8(b'\n');
            line.freeze()
        };
        match self {
            Self::File(file) => entry('C', file),
            Self::Folder(folder) => entry('D', folder),
            Self::End => Bytes::from_static(b"E\n"),
            Self::Times { modified, accessed } => Bytes::from(format!("T{modified} 0 {accessed} 0\n")),
            Self::Failed(failure) => failure.encode(),
        }
    }
}

impl Reply {
    /// As it goes out.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Done => Bytes::from_static(b"\0"),
            Self::Failed(failure) => failure.encode(),
        }
    }
}

impl Failure {
    /// As it goes out.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let first = if self.fatal { 2 } else { 1 };
        [&[first], self.text.as_ref(), b"\n"].concat().into()
    }
}
