//! Blocks of masked result rows: collected row by row, stored compressed, read back without trusting a length. Pure.
//!
//! ```text
//! operation u64, statement u16, first row u64, row count u32, column count u16          (little-endian)
//! per column: type OID u32, format u8, name length u8, name
//! per row: the body of PostgreSQL's DataRow message: column count u16, then per value its length as i32 (-1 is
//! NULL) and its bytes                                                                    (big-endian, as on the wire)
//! ```
//!
//! Rows keep the wire's own form, so that recording one is a copy and a replay can send it again.

use serde::{Deserialize, Serialize};

use super::format::FormatError;

/// Bytes of rows in one block, before compression. A torn tail costs at most one block.
pub const BLOCK_BYTES_MAX: usize = 256 * 1024;
/// Largest row kept, in bytes; it gets a block of its own. Larger ones are left out and counted.
pub const ROW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most columns a recorded result has: PostgreSQL's own limit for a target list (Appendix K).
pub const COLUMNS_MAX: usize = 1664;

const COLUMN_NAME_BYTES_MAX: usize = 255;

/// One column of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultColumn {
    /// Label, as the client saw it.
    pub name: String,
    /// PostgreSQL type OID; 0 when there is none.
    pub type_oid: u32,
    /// How its values are encoded.
    pub format: ValueFormat,
}

/// How values are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueFormat {
    /// The type's text form.
    Text,
    /// The type's binary form.
    Binary,
    /// A chunk of a COPY stream, one per row.
    Copy,
}

impl ValueFormat {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Text, Self::Binary, Self::Copy].into_iter().find(|format| *format as u8 == byte)
    }
}

/// Result rows, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowBlock {
    /// Operation they answer.
    pub operation: u64,
    /// Which of the operation's results, from 0.
    pub statement: u16,
    /// Number of the first row within that result, from 0.
    pub first_row: u64,
    /// Columns.
    pub columns: Vec<ResultColumn>,
    /// Rows; `None` is NULL.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl RowBlock {
    /// Reads a block's payload.
    ///
    /// # Errors
    /// `FormatError::Payload` when a length does not fit or bytes are left over.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut input = Input(payload);
        let operation = u64::from_le_bytes(input.array()?);
        let statement = u16::from_le_bytes(input.array()?);
        let first_row = u64::from_le_bytes(input.array()?);
        let row_count = u32::from_le_bytes(input.array()?);
        let column_count = u16::from_le_bytes(input.array()?);
        let columns = (0..column_count).map(|_| input.column()).collect::<Result<_, _>>()?;
        // A row takes two bytes at least, so the loop ends with the input whatever the count says.
        let rows = (0..row_count).map(|_| input.row()).collect::<Result<_, _>>()?;
        if input.0.is_empty() {
            Ok(Self { operation, statement, first_row, columns, rows })
        } else {
            Err(FormatError::Payload)
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(FormatError::Payload)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FormatError::Payload)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn column(&mut self) -> Result<ResultColumn, FormatError> {
        let type_oid = u32::from_le_bytes(self.array()?);
        let [format, name_length] = self.array()?;
        let format = ValueFormat::from_byte(format).ok_or(FormatError::Payload)?;
        let name = String::from_utf8_lossy(self.bytes(usize::from(name_length))?).into_owned();
        Ok(ResultColumn { name, type_oid, format })
    }

    fn row(&mut self) -> Result<Vec<Option<Vec<u8>>>, FormatError> {
        let count = u16::from_be_bytes(self.array()?);
        (0..count).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Result<Option<Vec<u8>>, FormatError> {
        let length = i32::from_be_bytes(self.array()?);
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| FormatError::Payload)?;
        self.bytes(length).map(|bytes| Some(bytes.to_vec()))
    }
}

/// Whether a row fits into the block being collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Room {
    /// Push it.
    Here,
    /// Take the block out first, then push it.
    NextBlock,
    /// It is never kept: too large, or the statement's share is used up.
    Nowhere,
}

/// Rows of one operation on their way into blocks. Holds no memory until rows come.
#[derive(Debug, Default)]
pub(super) struct RowBuffer {
    operation: u64,
    statement: u16,
    columns: Vec<u8>,
    next_row: u64,
    rows: u32,
    block: Vec<u8>,
    kept_bytes: u64,
    left_out: u64,
}

impl RowBuffer {
    /// Rows pushed from now on belong to this result. The previous result's block must have been taken.
    pub(super) fn begin(&mut self, operation: u64, statement: u16, columns: &[ResultColumn]) {
        debug_assert_eq!(self.rows, 0, "a block was not taken");
        if self.operation != operation {
            self.operation = operation;
            self.kept_bytes = 0;
            self.left_out = 0;
        }
        self.statement = statement;
        self.next_row = 0;
        self.columns.clear();
        let columns = columns.get(..COLUMNS_MAX).unwrap_or(columns);
        self.columns.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_le_bytes());
        for column in columns {
            let name = column.name.split_at(column.name.floor_char_boundary(COLUMN_NAME_BYTES_MAX)).0;
            self.columns.extend_from_slice(&column.type_oid.to_le_bytes());
            self.columns.extend([column.format as u8, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
            self.columns.extend_from_slice(name.as_bytes());
        }
    }

    /// Where a row of this many bytes can go; `share` is what one operation may keep.
    pub(super) fn room_for(&self, bytes: usize, share: u64) -> Room {
        if bytes > ROW_BYTES_MAX || self.kept_bytes.saturating_add(bytes as u64) > share {
            Room::Nowhere
        } else if self.rows > 0 && self.block.len() + bytes > BLOCK_BYTES_MAX {
            Room::NextBlock
        } else {
            Room::Here
        }
    }

    /// Adds one row, given in pieces that together are a DataRow body.
    pub(super) fn push(&mut self, pieces: &[&[u8]]) {
        if self.rows == 0 {
            self.block.clear();
            self.block.extend_from_slice(&self.operation.to_le_bytes());
            self.block.extend_from_slice(&self.statement.to_le_bytes());
            self.block.extend_from_slice(&self.next_row.to_le_bytes());
            self.block.extend_from_slice(&[0; 4]);
            self.block.extend_from_slice(&self.columns);
        }
        for piece in pieces {
            self.block.extend_from_slice(piece);
            self.kept_bytes += piece.len() as u64;
        }
        self.rows += 1;
        self.next_row += 1;
    }

    /// Counts rows that are not kept.
    pub(super) fn leave_out(&mut self, rows: u64) {
        self.left_out += rows;
        self.next_row += rows;
    }

    /// The collected block with its operation, or `None` when no row was pushed since the last one.
    pub(super) fn take_block(&mut self) -> Option<(u64, &[u8])> {
        if self.rows == 0 {
            return None;
        }
        if let Some(count) = self.block.get_mut(18..).and_then(<[u8]>::first_chunk_mut) {
            *count = self.rows.to_le_bytes();
        }
        self.rows = 0;
        Some((self.operation, &self.block))
    }

    /// Ends the operation: how many of its rows were left out. Gives memory back, so that an idle session holds none.
    pub(super) fn end(&mut self, operation: u64) -> u64 {
        let left_out = if operation == self.operation { self.left_out } else { 0 };
        *self = Self::default();
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str) -> ResultColumn {
        ResultColumn { name: name.to_owned(), type_oid: 25, format: ValueFormat::Text }
    }

    const ROW: &[u8] = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";

    #[test]
    fn rows_come_back_as_pushed() {
        let mut buffer = RowBuffer::default();
        let columns = [column("a"), column("b"), column("c")];
        buffer.begin(7, 1, &columns);
        assert_eq!(buffer.take_block(), None);
        buffer.push(&[ROW]);
        buffer.push(&[&ROW[..2], &ROW[2..]]);
        let (operation, block) = buffer.take_block().unwrap();
        let block = RowBlock::decode(block).unwrap();
        let row = vec![Some(b"a".to_vec()), None, Some(Vec::new())];
        let expected = RowBlock {
            operation,
            statement: 1,
            first_row: 0,
            columns: columns.into(),
            rows: vec![row.clone(), row],
        };
        assert_eq!((operation, block), (7, expected));

        buffer.push(&[ROW]);
        assert_eq!(RowBlock::decode(buffer.take_block().unwrap().1).unwrap().first_row, 2);
    }

    #[test]
    fn the_share_and_the_row_limit_hold() {
        let mut buffer = RowBuffer::default();
        buffer.begin(1, 0, &[column("a")]);
        assert_eq!(buffer.room_for(ROW_BYTES_MAX + 1, u64::MAX), Room::Nowhere);
        assert_eq!(
            buffer.room_for(ROW_BYTES_MAX, u64::MAX),
            Room::Here,
            "a large row has a block of its own"
        );
        buffer.push(&[ROW]);
        assert_eq!(buffer.room_for(BLOCK_BYTES_MAX, u64::MAX), Room::NextBlock);
        assert_eq!(buffer.room_for(ROW.len(), ROW.len() as u64), Room::Nowhere);
        buffer.leave_out(3);
        assert!(buffer.take_block().is_some());
        assert_eq!(buffer.end(1), 3);
        assert_eq!(buffer.block.capacity(), 0, "an idle session holds no memory");
    }

    #[test]
    fn lying_lengths_are_refused_without_reserving() {
        let mut buffer = RowBuffer::default();
        buffer.begin(1, 0, &[column("a")]);
        buffer.push(&[b"\0\x01\x7f\xff\xff\xffx"]);
        assert_eq!(RowBlock::decode(buffer.take_block().unwrap().1).unwrap_err(), FormatError::Payload);

        buffer.push(&[ROW]);
        let mut block = buffer.take_block().unwrap().1.to_vec();
        block[18..22].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(RowBlock::decode(&block).unwrap_err(), FormatError::Payload, "row count");
        for length in 0..block.len() {
            assert!(RowBlock::decode(&block[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn names_beyond_the_bound_are_cut_at_a_character() {
        let mut buffer = RowBuffer::default();
        buffer.begin(1, 0, &[column(&"é".repeat(200))]);
        buffer.push(&[b"\0\0"]);
        let block = RowBlock::decode(buffer.take_block().unwrap().1).unwrap();
        assert_eq!(block.columns[0].name, "é".repeat(127));
    }
}
