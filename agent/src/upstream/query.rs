//! A small client of our own on an authenticated connection: one-statement queries with text results, and Describe.

use bytes::{Bytes, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::error::{Stage, UpstreamError};
use super::login::LoggedIn;
use super::wire::{Fields, Message, Wire, reported, unexpected};
use std::net::SocketAddr;

/// Longest message of an answer, in bytes: a view's definition, a plan of many partitions.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Everything one answer may hold, in bytes: the columns of some hundred thousand relations.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One statement of ours. The extended protocol takes exactly one, so nothing can hide behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statement<'a> {
    pub(super) text: &'a str,
    /// Type OIDs; 0 or missing lets the server infer.
    pub(super) types: &'a [u32],
    /// Format codes as in Bind: none (all text), one for all, or one each.
    pub(super) formats: &'a [i16],
    pub(super) values: &'a [Option<&'a [u8]>],
}

impl<'a> Statement<'a> {
    pub(super) const fn plain(text: &'a str) -> Self {
        Self { text, types: &[], formats: &[], values: &[] }
    }

    pub(super) const fn with(text: &'a str, values: &'a [Option<&'a [u8]>]) -> Self {
        Self { text, types: &[], formats: &[], values }
    }
}

/// A row in text form; `None` is NULL.
pub(super) type Row = Vec<Option<Bytes>>;

/// Where an output column comes from, as RowDescription tells it; zeros when it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) table: u32,
    pub(super) attnum: i16,
}

/// A connection that only we use. After [`UpstreamError::Server`] it is ready for the next query, after any other
/// error it is not.
pub(super) struct Client {
    wire: Wire,
}

impl Client {
    /// Takes over a fresh login. What the server says on its own account does not concern us.
    pub(super) fn new(login: LoggedIn, address: SocketAddr) -> Self {
        let mut wire = Wire::new(login.stream, address, Stage::Query);
        wire.buffer = login.leftover;
        Self { wire }
    }

    /// Runs statements in order, in one transaction of their own; hands each row of the last to `each`.
    pub(super) async fn run(
        &mut self,
        statements: &[Statement<'_>],
        mut each: impl FnMut(Row) -> Result<(), UpstreamError>,
    ) -> Result<(), UpstreamError> {
        let mut request = BytesMut::new();
        for statement in statements {
            put_statement(statement, &mut request)?;
        }
        frontend::sync(&mut request);
        self.wire.send(&request).await?;
        let mut answer = Answer::default();
        let mut left = statements.len();
        loop {
            let message = answer.receive(&mut self.wire).await?;
            match message.tag {
                b'D' if left == 1 => each(row(message)?)?,
                b'C' | b'I' => left = left.saturating_sub(1),
                b'D' | b'1' | b'2' | b'n' => {}
                b'E' => answer.error = Some(reported(&message)),
                b'Z' => return answer.end(),
                tag if is_asynchronous(tag) => {}
                _ => return Err(unexpected(&message, "a query")),
            }
        }
    }

    /// The output columns of each text, which is parsed and not run; `None` for one the server does not accept.
    /// `settings` is run before each, in the same transaction.
    pub(super) async fn describe(
        &mut self,
        settings: &Statement<'_>,
        texts: &[&str],
    ) -> Result<Vec<Option<Vec<Field>>>, UpstreamError> {
        let mut request = BytesMut::new();
        for text in texts {
            put_statement(settings, &mut request)?;
            frontend::parse("", text, [], &mut request).map_err(unsendable)?;
            frontend::describe(b'S', "", &mut request).map_err(unsendable)?;
            frontend::sync(&mut request);
        }
        self.wire.send(&request).await?;
        let mut described = Vec::with_capacity(texts.len());
        for _text in texts {
            described.push(self.described().await?);
        }
        Ok(described)
    }

    async fn described(&mut self) -> Result<Option<Vec<Field>>, UpstreamError> {
        let mut answer = Answer::default();
        let mut fields = None;
        loop {
            let message = answer.receive(&mut self.wire).await?;
            match message.tag {
                b'T' => fields = Some(row_description(message)?),
                b'E' => answer.error = Some(reported(&message)),
                b'1' | b'2' | b'D' | b'C' | b't' | b'n' => {}
                b'Z' => {
                    return match answer.end() {
                        Ok(()) => Ok(fields),
                        Err(UpstreamError::Server(_)) => Ok(None),
                        Err(error) => Err(error),
                    };
                }
                tag if is_asynchronous(tag) => {}
                _ => return Err(unexpected(&message, "a description")),
            }
        }
    }
}

/// The answer to one Sync: how much of it there was, and whether it was an error.
#[derive(Default)]
struct Answer {
    bytes: usize,
    error: Option<UpstreamError>,
}

impl Answer {
    async fn receive(&mut self, wire: &mut Wire) -> Result<Message, UpstreamError> {
        let message = wire.receive(MESSAGE_BYTES_MAX).await?;
        self.bytes = self.bytes.saturating_add(message.body.len().saturating_add(1));
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(UpstreamError::protocol("an answer without end to a query of Portcullis's own"));
        }
        Ok(message)
    }

    fn end(self) -> Result<(), UpstreamError> {
        self.error.map_or(Ok(()), Err)
    }
}

/// NoticeResponse, ParameterStatus, NotificationResponse: may come at any time.
fn is_asynchronous(tag: u8) -> bool {
    matches!(tag, b'N' | b'S' | b'A')
}

fn put_statement(statement: &Statement<'_>, request: &mut BytesMut) -> Result<(), UpstreamError> {
    let types = statement.types.iter().copied();
    frontend::parse("", statement.text, types, request).map_err(unsendable)?;
    let write = |value: &Option<&[u8]>, buffer: &mut BytesMut| {
        Ok(match value {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    };
    let formats = statement.formats.iter().copied();
    frontend::bind("", "", formats, statement.values, write, [], request)
        .map_err(|_unserialisable| unsendable("a parameter is too large"))?;
    frontend::execute("", 0, request).map_err(unsendable)
}

fn row(message: Message) -> Result<Row, UpstreamError> {
    let mut fields = Fields::of(message);
    let count = fields.count()?;
    let mut row = Vec::with_capacity(count);
    for _column in 0..count {
        row.push(match usize::try_from(fields.i32()?) {
            Ok(length) => Some(fields.bytes(length)?),
            Err(_negative) => None,
        });
    }
    fields.end()?;
    Ok(row)
}

fn row_description(message: Message) -> Result<Vec<Field>, UpstreamError> {
    let mut fields = Fields::of(message);
    let count = fields.count()?;
    let mut described = Vec::with_capacity(count);
    for _column in 0..count {
        fields.text()?;
        let (table, attnum) = (fields.u32()?, fields.i16()?);
        // Type, its length and modifier, format.
        fields.bytes(4 + 2 + 4 + 2)?;
        described.push(Field { table, attnum });
    }
    fields.end()?;
    Ok(described)
}

fn unsendable(reason: impl ToString) -> UpstreamError {
    UpstreamError::protocol(format!("a query that cannot be sent: {}", reason.to_string()))
}
