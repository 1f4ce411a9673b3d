//! Errors and notices: reading the server's and writing our own.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};

use super::BackendTag;
use super::encode::{fixed, put_text};
use super::error::{DecodeError, Message};
use super::fields::{Fields, Text};
use super::sqlstate::SqlState;

/// Longest text of one field of an error or notice of ours, in bytes; the rest is cut off.
pub const REPORT_FIELD_BYTES_MAX: usize = 8 * 1024;

/// Fields of an error or notice: an iterator over code and text.
///
/// Source: <https://www.postgresql.org/docs/current/protocol-error-fields.html>. Texts may quote data.
#[derive(Clone)]
pub struct Report<'a> {
    tag: BackendTag,
    fields: Fields<'a>,
}

impl<'a> Report<'a> {
    /// Severity, translated.
    pub const SEVERITY: u8 = b'S';
    /// Severity, never translated (9.6 and later).
    pub const SEVERITY_RAW: u8 = b'V';
    /// SQLSTATE.
    pub const CODE: u8 = b'C';
    /// The one-line message.
    pub const MESSAGE: u8 = b'M';
    /// More about it, often with data.
    pub const DETAIL: u8 = b'D';
    /// What to do.
    pub const HINT: u8 = b'H';

    /// Reads an ErrorResponse body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode_error(body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(BackendTag::ErrorResponse, body)
    }

    /// Reads a NoticeResponse body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode_notice(body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(BackendTag::NoticeResponse, body)
    }

    fn read(tag: BackendTag, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(Message::Backend(tag), body);
        let report = Self { tag, fields: fields.clone() };
        while fields.u8("field code")? != 0 {
            fields.text("field")?;
        }
        fields.end()?;
        Ok(report)
    }

    /// Appends the message anew with its fields as `edit` decides, in their order.
    pub fn rewrite(&self, output: &mut BytesMut, mut edit: impl FnMut(u8, Text<'a>) -> FieldEdit<'a>) {
        let mut body = BytesMut::new();
        for (code, text) in self.clone() {
            match edit(code, text) {
                FieldEdit::Keep => {
                    body.put_u8(code);
                    put_text(&mut body, text);
                }
                FieldEdit::Drop => {}
                FieldEdit::Replace(text) => put_field(&mut body, code, &text),
            }
        }
        body.put_u8(0);
        fixed(output, self.tag, &body);
    }

    /// The first field with this code.
    #[must_use]
    pub fn get(&self, code: u8) -> Option<Text<'a>> {
        self.clone().find(|(given, _)| *given == code).map(|(_, text)| text)
    }

    /// Whether the server ends the session with this error
    /// (<https://www.postgresql.org/docs/current/runtime-config-logging.html#RUNTIME-CONFIG-SEVERITY-LEVELS>).
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        let severity = self.get(Self::SEVERITY_RAW).or_else(|| self.get(Self::SEVERITY));
        severity.is_some_and(|severity| matches!(severity.as_bytes(), b"FATAL" | b"PANIC"))
    }

    /// The SQLSTATE, when there is a well-formed one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.get(Self::CODE).and_then(|code| SqlState::parse(code.as_bytes()))
    }
}

impl<'a> Iterator for Report<'a> {
    type Item = (u8, Text<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        // INVARIANT: `read` walked the same bytes; the closing zero code ends iteration, and keeps ending it.
        let mut ahead = self.fields.clone();
        let code = ahead.u8("field code").ok().filter(|code| *code != 0)?;
        let text = ahead.text("field").ok()?;
        self.fields = ahead;
        Some((code, text))
    }
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report({:?})", self.sqlstate())
    }
}

/// What becomes of one field of a server's error or notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldEdit<'a> {
    /// It stays as it is.
    Keep,
    /// It is left out.
    Drop,
    /// It becomes this: NUL is left out and it is cut at [`REPORT_FIELD_BYTES_MAX`].
    Replace(Cow<'a, str>),
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// A word by the way.
    Notice,
    /// A warning.
    Warning,
}

impl Severity {
    const fn text(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }

    const fn tag(self) -> BackendTag {
        match self {
            Self::Error | Self::Fatal => BackendTag::ErrorResponse,
            Self::Notice | Self::Warning => BackendTag::NoticeResponse,
        }
    }
}

/// An error or notice of ours: the severity decides which of the two messages it becomes.
///
/// Texts may come from anywhere: NUL is left out and each is cut at [`REPORT_FIELD_BYTES_MAX`].
///
/// ```
/// use bytes::BytesMut;
/// use portcullis::codec::postgres::report::{OwnReport, Severity};
/// use portcullis::codec::postgres::sqlstate;
///
/// let mut output = BytesMut::new();
/// OwnReport::new(Severity::Error, sqlstate::INSUFFICIENT_PRIVILEGE, "refused by policy")
///     .hint("ask for approval")
///     .write(&mut output);
/// assert_eq!(output.first(), Some(&b'E'));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnReport<'a> {
    severity: Severity,
    code: SqlState,
    message: Cow<'a, str>,
    detail: Option<Cow<'a, str>>,
    hint: Option<Cow<'a, str>>,
}

impl<'a> OwnReport<'a> {
    /// A report with the fields that each must have.
    pub fn new(severity: Severity, code: SqlState, message: impl Into<Cow<'a, str>>) -> Self {
        Self { severity, code, message: message.into(), detail: None, hint: None }
    }

    /// Adds what more there is to know.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'a, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'a, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends it.
    pub fn write(&self, output: &mut BytesMut) {
        let mut body = BytesMut::new();
        let severity = self.severity.text();
        put_field(&mut body, Report::SEVERITY, severity);
        put_field(&mut body, Report::SEVERITY_RAW, severity);
        body.put_u8(Report::CODE);
        body.put_slice(self.code.as_bytes());
        body.put_u8(0);
        put_field(&mut body, Report::MESSAGE, &self.message);
        if let Some(detail) = &self.detail {
            put_field(&mut body, Report::DETAIL, detail);
        }
        if let Some(hint) = &self.hint {
            put_field(&mut body, Report::HINT, hint);
        }
        body.put_u8(0);
        fixed(output, self.severity.tag(), &body);
    }
}

fn put_field(output: &mut BytesMut, code: u8, text: &str) {
    output.put_u8(code);
    let end = text.floor_char_boundary(REPORT_FIELD_BYTES_MAX);
    output.extend(text.bytes().take(end).filter(|byte| *byte != 0));
    output.put_u8(0);
}
