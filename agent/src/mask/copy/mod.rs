//! COPY TO STDOUT: splits the stream into fields, masks them by position, and writes a stream of the same format.
//!
//! Bytes may arrive in pieces of any size. What a message completes is written at once, so a reader that relies on the
//! server's habit of one row per message keeps getting it. A stream that does not have the expected shape is an
//! error, never passed on.

use std::sync::Arc;

use thiserror::Error;

use super::Method;
use super::cell::{DetectedCell, MaskedCell, detect_cell, mask_cell};
use super::detect::{Findings, Scanner};
use super::method::HashKey;
use super::plan::CellAction;
use super::types::Format;
use crate::flow::Side;

mod binary;
#[cfg(test)]
mod tests;
mod text;

/// Longest field held in memory, in bytes. A longer one is replaced unread when its column is masked, and goes through
/// the detectors in a stream otherwise.
pub const FIELD_BYTES_MAX: usize = 1024 * 1024;

/// How rows are written, from the options of the COPY statement
/// (<https://www.postgresql.org/docs/current/sql-copy.html>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// PostgreSQL's binary format.
    Binary,
    /// Comma-separated values.
    Csv {
        /// Between fields.
        delimiter: u8,
        /// Around fields that need it.
        quote: u8,
        /// Before a quote inside quotes.
        escape: u8,
        /// Stands, unquoted, for NULL.
        null: Vec<u8>,
        /// The first line holds column names.
        header: bool,
    },
    /// The default format.
    Text {
        /// Between fields.
        delimiter: u8,
        /// Stands for NULL.
        null: Vec<u8>,
        /// The first line holds column names.
        header: bool,
    },
}

/// Why a copy cannot be masked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CopyError {
    /// An option we do not know, or a value the server would refuse.
    #[error("COPY option {0} is not supported where results are masked")]
    Option(String),
    /// A row without the planned number of fields.
    #[error("a copied row does not have the {expected} fields that were planned")]
    Shape {
        /// Fields planned.
        expected: usize,
    },
    /// Binary data that is not in PostgreSQL's format.
    #[error("copied binary data: {0}")]
    Binary(&'static str),
}

impl CopyError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Option(_) => Side::Client,
            Self::Shape { .. } | Self::Binary(_) => Side::Upstream,
        }
    }
}

impl CopyFormat {
    /// Reads the options of `COPY … TO STDOUT`: lower-case names, values as text, `None` for an option without a value.
    /// Lists (FORCE_QUOTE) may be given without their value, which does not matter here.
    ///
    /// # Errors
    /// [`CopyError::Option`] for what is not understood: the copy has to be refused.
    pub fn from_options(options: &[(&str, Option<&str>)]) -> Result<Self, CopyError> {
        let option = |name: &str| options.iter().find(|(option, _)| *option == name).map(|(_, value)| *value);
        let refuse = |name: &str| CopyError::Option(name.to_uppercase());
        for (name, _) in options {
            if !["format", "delimiter", "null", "header", "quote", "escape", "force_quote", "encoding"]
                .contains(name)
            {
                return Err(refuse(name));
            }
        }
        let encoding = option("encoding").flatten().unwrap_or("utf8").to_ascii_lowercase();
        if !matches!(encoding.as_str(), "utf8" | "utf-8" | "unicode") {
            return Err(refuse("encoding"));
        }
        let byte = |name: &str, default: u8| match option(name).map(|value| value.map(str::as_bytes)) {
            None => Ok(default),
            Some(Some([byte])) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(*byte),
            Some(_) => Err(refuse(name)),
        };
        let null = |default: &str| match option("null") {
            None => Ok(default.as_bytes().to_vec()),
            Some(Some(text)) if !text.contains(['\n', '\r']) => Ok(text.as_bytes().to_vec()),
            Some(_) => Err(refuse("null")),
        };
        let header = match option("header").map(|value| value.unwrap_or("true").to_ascii_lowercase()) {
            None => false,
            Some(value) if matches!(value.as_str(), "true" | "on" | "1") => true,
            Some(value) if matches!(value.as_str(), "false" | "off" | "0") => false,
            Some(_) => return Err(refuse("header")),
        };
        match option("format").map(|value| value.unwrap_or_default().to_ascii_lowercase()).as_deref() {
            Some("binary") => Ok(Self::Binary),
            Some("csv") => {
                let quote = byte("quote", b'"')?;
                let delimiter = byte("delimiter", b',')?;
                if delimiter == quote {
                    return Err(refuse("delimiter"));
                }
                let (escape, null) = (byte("escape", quote)?, null("")?);
                // Neither may stand in what is written for NULL, or nobody could tell where a field ends.
                if null.contains(&delimiter) || null.contains(&quote) {
                    return Err(refuse("null"));
                }
                Ok(Self::Csv { delimiter, quote, escape, null, header })
            }
            None | Some("text") => {
                let delimiter = byte("delimiter", b'\t')?;
                // The server forbids what could be confused with an escape.
                if delimiter == b'\\' || delimiter == b'.' || delimiter.is_ascii_alphanumeric() {
                    return Err(refuse("delimiter"));
                }
                let null = null("\\N")?;
                if null.contains(&delimiter) {
                    return Err(refuse("null"));
                }
                Ok(Self::Text { delimiter, null, header })
            }
            Some(_) => Err(refuse("format")),
        }
    }
}

/// One column of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyColumn {
    /// What is done with its values.
    pub action: CellAction,
    /// Its type; 0 when it cannot be told.
    pub type_oid: u32,
}

/// What every part of a copy needs to rewrite a field.
struct Hands {
    columns: Vec<CopyColumn>,
    scanner: Arc<Scanner>,
    key: Arc<HashKey>,
    findings: Findings,
    rows: u64,
}

/// A field's new value.
enum NewField {
    Bytes(Vec<u8>),
    Null,
    Unchanged,
}

impl Hands {
    fn column(&self, position: usize) -> Result<CopyColumn, CopyError> {
        self.columns.get(position).copied().ok_or(CopyError::Shape { expected: self.columns.len() })
    }

    fn rewrite(&mut self, column: CopyColumn, format: Format, value: &[u8]) -> NewField {
        match column.action {
            CellAction::Pass => NewField::Unchanged,
            CellAction::Mask(method) => match mask_cell(method, column.type_oid, format, value, &self.key) {
                MaskedCell::Null => NewField::Null,
                MaskedCell::Bytes(bytes) => NewField::Bytes(bytes.into_owned()),
            },
            CellAction::Detect => {
                let mut out = Vec::new();
                let (oid, findings) = (column.type_oid, &mut self.findings);
                match detect_cell(&self.scanner, oid, format, value, &self.key, &mut out, findings) {
                    DetectedCell::Unchanged => NewField::Unchanged,
                    DetectedCell::Null => NewField::Null,
                    DetectedCell::Written => NewField::Bytes(out),
                }
            }
        }
    }

    /// The new value of a masked field too long to be held.
    fn rewrite_unread(&self, method: Method, type_oid: u32, format: Format) -> NewField {
        let method = if method == Method::Null { method } else { Method::Redact };
        match mask_cell(method, type_oid, format, b"", &self.key) {
            MaskedCell::Null => NewField::Null,
            MaskedCell::Bytes(bytes) => NewField::Bytes(bytes.into_owned()),
        }
    }
}

/// Masks one COPY TO STDOUT.
pub struct CopyMasker {
    hands: Hands,
    rows: Rows,
}

enum Rows {
    Binary(binary::BinaryRows),
    Text(text::TextRows),
}

impl CopyMasker {
    /// For a copy of these columns, in order.
    #[must_use]
    pub fn new(
        format: CopyFormat,
        columns: Vec<CopyColumn>,
        scanner: Arc<Scanner>,
        key: Arc<HashKey>,
    ) -> Self {
        let rows = match format {
            CopyFormat::Binary => Rows::Binary(binary::BinaryRows::new()),
            CopyFormat::Csv { delimiter, quote, escape, null, header } => {
                let dialect =
                    text::Dialect { delimiter, null, quoting: Some(text::Quoting { quote, escape }) };
                Rows::Text(text::TextRows::new(dialect, header))
            }
            CopyFormat::Text { delimiter, null, header } => {
                Rows::Text(text::TextRows::new(text::Dialect { delimiter, null, quoting: None }, header))
            }
        };
        Self { hands: Hands { columns, scanner, key, findings: Findings::default(), rows: 0 }, rows }
    }

    /// Takes the payload of one CopyData message and appends what goes on to `out` (possibly nothing).
    ///
    /// # Errors
    /// The data does not have the planned shape. `out` holds nothing unmasked even then; the copy must end.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        match &mut self.rows {
            Rows::Binary(rows) => rows.push(&mut self.hands, data, out),
            Rows::Text(rows) => rows.push(&mut self.hands, data, out),
        }
    }

    /// The server sent CopyDone: appends what was held back.
    ///
    /// # Errors
    /// The data ended in the middle of a row.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), CopyError> {
        match &mut self.rows {
            Rows::Binary(rows) => rows.finish(),
            Rows::Text(rows) => rows.finish(&mut self.hands, out),
        }
    }

    /// What detectors rewrote so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        self.hands.findings
    }

    /// Complete rows so far, without the header line.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.hands.rows
    }
}
