//! COPY's binary format (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format").

use super::{CellAction, CopyColumn, CopyError, FIELD_BYTES_MAX, Format, Hands, NewField};
use crate::mask::detect::stream::StreamScanner;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Header flag: every row carries its OID as one more field that the field count leaves out (before PostgreSQL 12).
const FLAG_OIDS: u32 = 1 << 16;

/// Flags that a reader must understand or give up.
const FLAGS_CRITICAL: u32 = 0xffff_0000;

/// Longest header extension accepted, in bytes. No release has defined one.
const EXTENSION_BYTES_MAX: usize = 4096;

/// What the next bytes are.
enum Expect {
    Signature,
    Flags,
    ExtensionLength,
    Extension,
    FieldCount,
    OidLength,
    Oid,
    FieldLength,
    Field(Body),
    End,
}

/// A field's value, `left` bytes of which have not arrived.
struct Body {
    left: usize,
    sink: Sink,
}

enum Sink {
    /// Held until complete; its length word is written with it.
    Collect,
    /// Replaced already.
    Drop,
    /// Forwarded as it is.
    Pass,
    /// Too long to be held, and its length is written already: stars of the same length.
    Stream(Box<StreamScanner>),
}

pub(super) struct BinaryRows {
    expect: Expect,
    /// Bytes of the next item so far.
    held: Vec<u8>,
    /// How many bytes the next item has.
    want: usize,
    column: usize,
    oids: bool,
}

impl BinaryRows {
    pub(super) fn new() -> Self {
        Self { expect: Expect::Signature, held: Vec::new(), want: SIGNATURE.len(), column: 0, oids: false }
    }

    pub(super) fn push(
        &mut self,
        hands: &mut Hands,
        mut data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CopyError> {
        loop {
            if let Expect::Field(_) = self.expect {
                data = self.take_body(hands, data, out)?;
                if let Expect::Field(_) = self.expect {
                    return Ok(());
                }
                continue;
            }
            let missing = self.want - self.held.len();
            if data.len() < missing || data.is_empty() {
                self.held.extend_from_slice(data);
                return Ok(());
            }
            let (piece, rest) = data.split_at_checked(missing).unwrap_or((data, &[]));
            data = rest;
            if self.held.is_empty() {
                self.take_item(hands, piece, out)?;
            } else {
                let mut item = std::mem::take(&mut self.held);
                item.extend_from_slice(piece);
                self.take_item(hands, &item, out)?;
            }
        }
    }

    pub(super) fn finish(&self) -> Result<(), CopyError> {
        match self.expect {
            Expect::End => Ok(()),
            Expect::Signature
            | Expect::Flags
            | Expect::ExtensionLength
            | Expect::Extension
            | Expect::FieldCount
            | Expect::OidLength
            | Expect::Oid
            | Expect::FieldLength
            | Expect::Field(_) => Err(CopyError::Binary("ends before its trailer")),
        }
    }

    /// One complete item other than a field's value.
    fn take_item(&mut self, hands: &mut Hands, item: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        match self.expect {
            Expect::Signature if item == SIGNATURE => self.next(Expect::Flags, 4),
            Expect::Signature => return Err(CopyError::Binary("has another signature")),
            Expect::Flags => {
                let flags = word(item).cast_unsigned();
                if flags & FLAGS_CRITICAL & !FLAG_OIDS != 0 {
                    return Err(CopyError::Binary("has flags that are not known"));
                }
                self.oids = flags & FLAG_OIDS != 0;
                self.next(Expect::ExtensionLength, 4);
            }
            Expect::ExtensionLength => match usize::try_from(word(item)) {
                Ok(0) => self.next(Expect::FieldCount, 2),
                Ok(length) if length <= EXTENSION_BYTES_MAX => self.next(Expect::Extension, length),
                Ok(_) | Err(_) => return Err(CopyError::Binary("has a header of impossible length")),
            },
            Expect::Extension => self.next(Expect::FieldCount, 2),
            Expect::FieldCount => self.take_count(hands, item)?,
            Expect::OidLength if word(item) == 4 => self.next(Expect::Oid, 4),
            Expect::OidLength => return Err(CopyError::Binary("has a row OID of impossible length")),
            Expect::Oid => self.next_field(hands),
            Expect::FieldLength => return self.take_length(hands, item, out),
            Expect::Field(_) | Expect::End => return Err(CopyError::Binary("goes on after its trailer")),
        }
        out.extend_from_slice(item);
        Ok(())
    }

    fn take_count(&mut self, hands: &Hands, item: &[u8]) -> Result<(), CopyError> {
        let count = match item {
            [high, low] => i16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        if count == -1 {
            // One byte more would be an error.
            self.next(Expect::End, 1);
            return Ok(());
        }
        if usize::try_from(count) != Ok(hands.columns.len()) {
            return Err(CopyError::Shape { expected: hands.columns.len() });
        }
        self.column = 0;
        if self.oids {
            self.next(Expect::OidLength, 4);
        } else if hands.columns.is_empty() {
            self.next(Expect::FieldCount, 2);
        } else {
            self.next(Expect::FieldLength, 4);
        }
        Ok(())
    }

    fn take_length(&mut self, hands: &mut Hands, item: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        let column = hands.column(self.column)?;
        let Ok(left) = usize::try_from(word(item)) else {
            if word(item) != -1 {
                return Err(CopyError::Binary("has a field of negative length"));
            }
            out.extend_from_slice(item);
            self.column += 1;
            self.next_field(hands);
            return Ok(());
        };
        let sink = match column.action {
            CellAction::Pass => Sink::Pass,
            CellAction::Detect | CellAction::Mask(_) if left <= FIELD_BYTES_MAX => Sink::Collect,
            CellAction::Detect => Sink::Stream(Box::new(StreamScanner::same_length())),
            CellAction::Mask(method) => {
                write_field(hands.rewrite_unread(method, column.type_oid, Format::Binary), b"", out);
                Sink::Drop
            }
        };
        match sink {
            Sink::Pass | Sink::Stream(_) => out.extend_from_slice(item),
            Sink::Collect | Sink::Drop => {}
        }
        self.expect = Expect::Field(Body { left, sink });
        Ok(())
    }

    /// Takes bytes of the current value; returns those after it.
    fn take_body<'a>(
        &mut self,
        hands: &mut Hands,
        data: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<&'a [u8], CopyError> {
        let Expect::Field(body) = &mut self.expect else { return Ok(data) };
        let (piece, rest) = data.split_at_checked(body.left).unwrap_or((data, &[]));
        body.left -= piece.len();
        match &mut body.sink {
            Sink::Pass => out.extend_from_slice(piece),
            Sink::Drop => {}
            Sink::Collect => self.held.extend_from_slice(piece),
            Sink::Stream(scanner) => scanner.push(&hands.scanner, &hands.key, piece, out),
        }
        if body.left == 0 {
            let column = hands.column(self.column)?;
            self.end_body(hands, column, out);
        }
        Ok(rest)
    }

    fn end_body(&mut self, hands: &mut Hands, column: CopyColumn, out: &mut Vec<u8>) {
        let value = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.expect, Expect::FieldCount) {
            Expect::Field(Body { sink: Sink::Collect, .. }) => {
                let new = hands.rewrite(column, Format::Binary, &value);
                write_field(new, &value, out);
            }
            Expect::Field(Body { sink: Sink::Stream(scanner), .. }) => {
                let findings = scanner.finish(&hands.scanner, &hands.key, out);
                hands.findings.add(&findings);
            }
            Expect::Field(Body { sink: Sink::Pass | Sink::Drop, .. })
            | Expect::Signature
            | Expect::Flags
            | Expect::ExtensionLength
            | Expect::Extension
            | Expect::FieldCount
            | Expect::OidLength
            | Expect::Oid
            | Expect::FieldLength
            | Expect::End => {}
        }
        self.column += 1;
        self.next_field(hands);
    }

    fn next_field(&mut self, hands: &mut Hands) {
        if self.column < hands.columns.len() {
            self.next(Expect::FieldLength, 4);
        } else {
            hands.rows += 1;
            self.next(Expect::FieldCount, 2);
        }
    }

    fn next(&mut self, expect: Expect, want: usize) {
        self.expect = expect;
        self.want = want;
    }
}

fn word(item: &[u8]) -> i32 {
    item.try_into().map_or(-2, i32::from_be_bytes)
}

fn write_field(new: NewField, original: &[u8], out: &mut Vec<u8>) {
    let bytes = match &new {
        NewField::Null => None,
        NewField::Bytes(bytes) => Some(bytes.as_slice()),
        NewField::Unchanged => Some(original),
    };
    let length = bytes.map(|bytes| i32::try_from(bytes.len()));
    match (bytes, length) {
        (Some(bytes), Some(Ok(length))) => {
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(bytes);
        }
        // Values are at most FIELD_BYTES_MAX long, so a length always fits; NULL is safe if that ever changes.
        (None | Some(_), None | Some(Err(_) | Ok(_))) => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}
