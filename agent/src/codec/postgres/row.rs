//! Rewrites chosen cells of a whole DataRow in one pass. Rows too long to hold go through `split::RowSplitter`.

use bytes::BytesMut;

use super::BackendTag;
use super::encode::{patch_length, put_value};
use super::error::{DecodeError, Message};
use super::fields::Fields;
use super::frame::Frame;
use super::tag::{BODY_BYTES_MAX, WHOLE_BODY_BYTES_MAX};

/// Longest row that edits may make, in bytes, before the cells that are kept after the last edit.
const EDITED_BYTES_MAX: usize = BODY_BYTES_MAX - WHOLE_BODY_BYTES_MAX;

/// What becomes of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It stays as it is.
    Keep,
    /// It becomes NULL.
    Null,
    /// It becomes what was written to the scratch buffer; NULL when that would make the row longer than PostgreSQL allows.
    Replace,
}

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// No cell changed and nothing was written: forward the frame as it is.
    Unchanged,
    /// The new message was appended to the output.
    Changed,
}

/// Rewrites chosen cells of whole rows. One per connection: it keeps the scratch buffer that edits are written to.
#[derive(Default)]
pub struct RowRewriter {
    scratch: Vec<u8>,
}

impl RowRewriter {
    /// Asks `edit` about each cell in `columns` that is not NULL, and appends the changed row to `output`.
    ///
    /// `columns` are indexes from 0 in strictly ascending order, each below the row's number of columns. `edit` gets the column,
    /// the cell and an empty buffer for the new value. Stretches between changed cells are copied in one piece; when no
    /// cell changes, or on error, `output` stays as it was.
    ///
    /// # Errors
    /// [`DecodeError`] when the cells do not fill the row exactly, or `columns` are out of order or beyond the row's.
    pub fn rewrite(
        &mut self,
        row: Frame<'_, BackendTag>,
        columns: &[u16],
        output: &mut BytesMut,
        mut edit: impl FnMut(u16, &[u8], &mut Vec<u8>) -> Edit,
    ) -> Result<Rewritten, DecodeError> {
        let start = output.len();
        let result = self.copy_edited(row, columns, output, &mut edit);
        if result.is_err() {
            output.truncate(start);
        }
        if result == Ok(Rewritten::Changed) {
            patch_length(output, start);
        }
        result
    }

    fn copy_edited(
        &mut self,
        row: Frame<'_, BackendTag>,
        columns: &[u16],
        output: &mut BytesMut,
        edit: &mut impl FnMut(u16, &[u8], &mut Vec<u8>) -> Edit,
    ) -> Result<Rewritten, DecodeError> {
        let start = output.len();
        let mut fields = Fields::new(Message::Backend(BackendTag::DataRow), row.body());
        let count = fields.u16("number of columns")?;
        // The bytes of the row from here to the cell that changes next have not been copied yet.
        let mut uncopied = row.bytes;
        let mut result = Rewritten::Unchanged;
        let mut next = 0;
        for &column in columns {
            if column < next || column >= count {
                return Err(fields.impossible("number of columns for a mask on column", column));
            }
            fields.skip_values(column - next, "cell")?;
            next = column + 1;
            let before = fields.rest();
            let Some(value) = fields.value("cell")? else { continue };
            self.scratch.clear();
            let replacement = match edit(column, value, &mut self.scratch) {
                Edit::Keep => continue,
                Edit::Null => None,
                Edit::Replace => Some(self.scratch.as_slice()),
            };
            let kept = uncopied.len() - before.len();
            output.extend_from_slice(uncopied.get(..kept).unwrap_or_default());
            let room = EDITED_BYTES_MAX.saturating_sub(output.len() - start);
            put_value(output, replacement.filter(|value| value.len() <= room));
            uncopied = fields.rest();
            result = Rewritten::Changed;
        }
        fields.skip_values(count - next, "cell")?;
        fields.end()?;
        if result == Rewritten::Changed {
            output.extend_from_slice(uncopied);
        }
        Ok(result)
    }
}
