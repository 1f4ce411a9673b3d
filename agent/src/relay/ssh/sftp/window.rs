//! Reads of a file whose secrets are overwritten: each is made longer on both sides, so that what reaches into it is seen.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::codec::sftp::{StatusCode, data, read, status};
use crate::mask::file::overwrite;
use crate::mask::http::{BodyMasks, Counts};

/// Bytes before and after what the client asked for that are looked at as well: longer secrets are not seen whole.
const AROUND_BYTES: u64 = 8 * 1024;

/// Most bytes that the client gets at once. With what is around it is what every server gives at once (the draft's section 3 has
/// them take packets of 34000 bytes), so that less than that means the end of the file.
const PIECE_BYTES_MAX: u32 = 16 * 1024;

/// One read, made longer.
pub(super) struct Window {
    /// What the client asked for, as places of the window.
    wanted: Range<usize>,
    /// All that is asked of the server.
    length: u32,
    /// Where in the file the client's part begins.
    offset: u64,
    came: BytesMut,
}

impl Window {
    /// For what the client asked, and the request that the server gets instead.
    pub(super) fn of(id: u32, handle: &[u8], offset: u64, length: u32) -> (Self, Bytes) {
        let before = offset.min(AROUND_BYTES);
        let wanted = length.min(PIECE_BYTES_MAX);
        let all = before as u32 + wanted + AROUND_BYTES as u32;
        let request = read(id, handle, offset - before, all);
        let wanted = before as usize..before as usize + wanted as usize;
        (Self { wanted, length: all, offset, came: BytesMut::new() }, request)
    }

    /// Whether a reply of so many bytes answers it.
    pub(super) fn allows(&self, bytes: u32) -> bool {
        bytes <= self.length
    }

    /// Bytes of the reply.
    pub(super) fn take(&mut self, part: &Bytes) {
        self.came.extend_from_slice(part);
    }

    /// The reply is whole: what the client gets, where in the file it belongs, and what was overwritten.
    pub(super) fn finish(mut self, masks: &Arc<BodyMasks>) -> (u64, Bytes, Counts) {
        let mut counts = Counts::new();
        overwrite(masks, &mut self.came, &self.wanted, &mut counts);
        let end = self.wanted.end.min(self.came.len());
        let begin = self.wanted.start.min(end);
        (self.offset, self.came.freeze().slice(begin..end), counts)
    }
}

/// The reply that carries it.
pub(super) fn reply(id: u32, shown: &[u8]) -> Bytes {
    if shown.is_empty() { status(id, StatusCode::Eof, "End of file") } else { data(id, shown) }
}
