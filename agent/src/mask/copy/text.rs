//! COPY's text and CSV formats (<https://www.postgresql.org/docs/current/sql-copy.html>, "File Formats").

use std::borrow::Cow;

use super::{CellAction, CopyColumn, CopyError, FIELD_BYTES_MAX, Format, Hands, NewField};
use crate::mask::detect::stream::StreamScanner;
use crate::mask::types::{TypeClass, class_of};

/// How fields are written.
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) null: Vec<u8>,
    /// `None` is the text format, which escapes with backslashes instead.
    pub(super) quoting: Option<Quoting>,
}

#[derive(Clone, Copy)]
pub(super) struct Quoting {
    pub(super) quote: u8,
    pub(super) escape: u8,
}

/// Where in a field the last byte left us.
#[derive(Clone, Copy, Default)]
struct Position {
    /// The next byte has no meaning of its own.
    escaped: bool,
    /// Between quotes.
    quoted: bool,
}

/// What happens to the bytes of the current field.
enum Sink {
    /// Held in `raw` until the field is complete.
    Collect,
    /// Dropped: the field is masked and too long to be held.
    Drop,
    /// Forwarded as they are.
    Pass,
    /// Too long to be held: decoded, searched and encoded again piece by piece.
    Stream(Box<Streamed>),
}

struct Streamed {
    scanner: StreamScanner,
    position: Position,
}

/// A stream of rows.
pub(super) struct TextRows {
    dialect: Dialect,
    header: bool,
    column: usize,
    position: Position,
    raw: Vec<u8>,
    /// `None` between fields.
    sink: Option<Sink>,
}

impl TextRows {
    pub(super) fn new(dialect: Dialect, header: bool) -> Self {
        Self { dialect, header, column: 0, position: Position::default(), raw: Vec::new(), sink: None }
    }

    pub(super) fn push(
        &mut self,
        hands: &mut Hands,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CopyError> {
        let mut rest = data;
        while !rest.is_empty() {
            let length = self.dialect.field_length(&mut self.position, rest);
            let (piece, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            self.take(hands, piece, out)?;
            let Some((end, after)) = after.split_first() else { return Ok(()) };
            self.end_field(hands, out)?;
            out.push(*end);
            if *end == b'\n' {
                self.end_row(hands)?;
            } else {
                self.column += 1;
            }
            rest = after;
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, hands: &mut Hands, out: &mut Vec<u8>) -> Result<(), CopyError> {
        if self.sink.is_none() && self.column == 0 {
            return Ok(());
        }
        self.end_field(hands, out)?;
        self.end_row(hands)
    }

    /// Takes bytes of the current field.
    fn take(&mut self, hands: &mut Hands, piece: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        let column = self.current(hands)?;
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None if column.action == CellAction::Pass => Sink::Pass,
            None => Sink::Collect,
        };
        match &mut sink {
            Sink::Pass => out.extend_from_slice(piece),
            Sink::Drop => {}
            Sink::Stream(streamed) => self.dialect.stream(streamed, hands, piece, out),
            Sink::Collect => {
                self.raw.extend_from_slice(piece);
                if self.raw.len() > FIELD_BYTES_MAX {
                    sink = self.too_long(hands, column, out);
                }
            }
        }
        self.sink = Some(sink);
        Ok(())
    }

    /// The collected field outgrew its limit.
    fn too_long(&mut self, hands: &mut Hands, column: CopyColumn, out: &mut Vec<u8>) -> Sink {
        let raw = std::mem::take(&mut self.raw);
        match column.action {
            CellAction::Pass | CellAction::Mask(_) => Sink::Drop,
            CellAction::Detect => {
                let scanner = match class_of(column.type_oid) {
                    TypeClass::Json | TypeClass::Jsonb => StreamScanner::json(),
                    TypeClass::Text
                    | TypeClass::TextArray
                    | TypeClass::Uuid
                    | TypeClass::Int8
                    | TypeClass::Float8
                    | TypeClass::Numeric
                    | TypeClass::Bytea
                    | TypeClass::Rigid
                    | TypeClass::Other
                    | TypeClass::User => StreamScanner::new(),
                };
                let mut streamed = Box::new(Streamed { scanner, position: Position::default() });
                out.extend(self.dialect.quoting.map(|quoting| quoting.quote));
                self.dialect.stream(&mut streamed, hands, &raw, out);
                Sink::Stream(streamed)
            }
        }
    }

    fn end_field(&mut self, hands: &mut Hands, out: &mut Vec<u8>) -> Result<(), CopyError> {
        let column = self.current(hands)?;
        self.position = Position::default();
        let raw = std::mem::take(&mut self.raw);
        match self.sink.take() {
            Some(Sink::Pass) => {}
            Some(Sink::Collect) | None => {
                if raw == self.dialect.null {
                    out.extend_from_slice(&raw);
                } else {
                    let value = self.dialect.decode(&raw);
                    let new = hands.rewrite(column, Format::Text, &value);
                    self.dialect.write(new, &raw, out);
                }
            }
            Some(Sink::Drop) => {
                let new = match column.action {
                    CellAction::Mask(method) => hands.rewrite_unread(method, column.type_oid, Format::Text),
                    CellAction::Detect | CellAction::Pass => NewField::Null,
                };
                self.dialect.write(new, b"", out);
            }
            Some(Sink::Stream(streamed)) => {
                let mut plain = Vec::new();
                let findings = streamed.scanner.finish(&hands.scanner, &hands.key, &mut plain);
                hands.findings.add(&findings);
                self.dialect.encode(&plain, out);
                out.extend(self.dialect.quoting.map(|quoting| quoting.quote));
            }
        }
        // The buffer's memory serves the next field.
        self.raw = raw;
        self.raw.clear();
        Ok(())
    }

    fn end_row(&mut self, hands: &mut Hands) -> Result<(), CopyError> {
        let fields = self.column + 1;
        self.column = 0;
        if std::mem::take(&mut self.header) {
            return Ok(());
        }
        hands.rows += 1;
        if fields == hands.columns.len() {
            Ok(())
        } else {
            Err(CopyError::Shape { expected: hands.columns.len() })
        }
    }

    fn current(&self, hands: &Hands) -> Result<CopyColumn, CopyError> {
        if self.header {
            // Column names.
            return Ok(CopyColumn { action: CellAction::Pass, type_oid: 0 });
        }
        hands.column(self.column)
    }
}

impl Dialect {
    /// Bytes up to the end of the current field: the position of its delimiter or line end, or all of `data`.
    fn field_length(&self, position: &mut Position, data: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            // Jump to the next byte that can mean something here.
            let plain = match self.quoting {
                _ if position.escaped => 0,
                None => memchr::memchr3(self.delimiter, b'\n', b'\\', rest).unwrap_or(rest.len()),
                Some(quoting) if position.quoted => {
                    memchr::memchr2(quoting.quote, quoting.escape, rest).unwrap_or(rest.len())
                }
                Some(quoting) => {
                    memchr::memchr3(self.delimiter, b'\n', quoting.quote, rest).unwrap_or(rest.len())
                }
            };
            at += plain;
            let Some(byte) = data.get(at) else { return at };
            let ends = match self.quoting {
                None => self.step_text(position, *byte),
                Some(quoting) => self.step_csv(position, quoting, *byte),
            };
            if ends {
                return at;
            }
            at += 1;
        }
        at
    }

    fn step_text(&self, position: &mut Position, byte: u8) -> bool {
        if position.escaped {
            position.escaped = false;
            return false;
        }
        position.escaped = byte == b'\\';
        byte == self.delimiter || byte == b'\n'
    }

    fn step_csv(&self, position: &mut Position, quoting: Quoting, byte: u8) -> bool {
        if position.escaped {
            position.escaped = false;
            return false;
        }
        if !position.quoted {
            position.quoted = byte == quoting.quote;
            return byte == self.delimiter || byte == b'\n';
        }
        // When escape and quote are one, `""` closes and opens again, which comes to the same.
        position.escaped = byte == quoting.escape && quoting.escape != quoting.quote;
        position.quoted = byte != quoting.quote;
        false
    }

    /// The value that a complete field stands for.
    fn decode<'a>(&self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        let mark = self.quoting.map_or(b'\\', |quoting| quoting.quote);
        if memchr::memchr(mark, raw).is_none() {
            return Cow::Borrowed(raw);
        }
        let mut out = Vec::with_capacity(raw.len());
        self.decode_piece(&mut Position::default(), raw, &mut out);
        Cow::Owned(out)
    }

    fn decode_piece(&self, position: &mut Position, raw: &[u8], out: &mut Vec<u8>) {
        for byte in raw {
            match self.quoting {
                None if position.escaped => {
                    position.escaped = false;
                    out.push(unescape(*byte));
                }
                None if *byte == b'\\' => position.escaped = true,
                None => out.push(*byte),
                Some(quoting) => decode_csv(position, quoting, *byte, out),
            }
        }
    }

    fn stream(&self, streamed: &mut Streamed, hands: &Hands, raw: &[u8], out: &mut Vec<u8>) {
        let (mut value, mut plain) = (Vec::with_capacity(raw.len()), Vec::new());
        self.decode_piece(&mut streamed.position, raw, &mut value);
        streamed.scanner.push(&hands.scanner, &hands.key, &value, &mut plain);
        self.encode(&plain, out);
    }

    fn write(&self, new: NewField, raw: &[u8], out: &mut Vec<u8>) {
        match (new, self.quoting) {
            (NewField::Unchanged, _) => out.extend_from_slice(raw),
            (NewField::Null, _) => out.extend_from_slice(&self.null),
            (NewField::Bytes(bytes), None) => self.encode(&bytes, out),
            (NewField::Bytes(bytes), Some(quoting)) => {
                let special = |byte: &u8| {
                    *byte == self.delimiter || *byte == quoting.quote || matches!(byte, b'\n' | b'\r')
                };
                let quoted = raw.contains(&quoting.quote) || bytes == self.null || bytes.iter().any(special);
                if quoted {
                    out.push(quoting.quote);
                    self.encode(&bytes, out);
                    out.push(quoting.quote);
                } else {
                    out.extend_from_slice(&bytes);
                }
            }
        }
    }

    /// Escapes for the inside of a field (in CSV: between quotes).
    fn encode(&self, value: &[u8], out: &mut Vec<u8>) {
        for byte in value {
            match self.quoting {
                Some(quoting) => {
                    if *byte == quoting.quote || *byte == quoting.escape {
                        out.push(quoting.escape);
                    }
                    out.push(*byte);
                }
                None => match escape(*byte) {
                    Some(letter) => out.extend_from_slice(&[b'\\', letter]),
                    None if *byte == self.delimiter => out.extend_from_slice(&[b'\\', *byte]),
                    None => out.push(*byte),
                },
            }
        }
    }
}

fn decode_csv(position: &mut Position, quoting: Quoting, byte: u8, out: &mut Vec<u8>) {
    if quoting.quote == quoting.escape {
        // `escaped` here: a quote was seen between quotes; a second one is data, anything else was the end.
        match (position.quoted, position.escaped, byte == quoting.quote) {
            (true, true, true) => {
                position.escaped = false;
                out.push(byte);
            }
            (true, true, false) => {
                *position = Position::default();
                out.push(byte);
            }
            (true, false, true) => position.escaped = true,
            (false, _, true) => position.quoted = true,
            (_, _, false) => out.push(byte),
        }
        return;
    }
    if position.escaped {
        position.escaped = false;
        // Before anything else the escape character stands for itself.
        if byte != quoting.quote && byte != quoting.escape {
            out.push(quoting.escape);
        }
        out.push(byte);
    } else if byte == quoting.quote {
        position.quoted = !position.quoted;
    } else if position.quoted && byte == quoting.escape {
        position.escaped = true;
    } else {
        out.push(byte);
    }
}

const fn unescape(letter: u8) -> u8 {
    match letter {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        other => other,
    }
}

const fn escape(byte: u8) -> Option<u8> {
    match byte {
        0x08 => Some(b'b'),
        0x0c => Some(b'f'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0x0b => Some(b'v'),
        b'\\' => Some(b'\\'),
        _ => None,
    }
}
