//! Plain text: every byte leaves as soon as no match can begin before it and reach past what has come.

use super::{BodyMasks, Counts, count};

/// Bytes already written that are kept before the rest, because matchers look back.
const CONTEXT_BYTES: usize = 1024;

/// Bytes taken in at once.
const STEP_BYTES: usize = 64 * 1024;

/// One text being rewritten.
#[derive(Default)]
pub(super) struct TextMasker {
    buffer: Vec<u8>,
    /// Length of the part of `buffer` that was written already.
    written: usize,
}

impl TextMasker {
    pub(super) fn push(&mut self, masks: &BodyMasks, counts: &mut Counts, piece: &[u8], out: &mut Vec<u8>) {
        if masks.finder.is_empty() {
            return out.extend_from_slice(piece);
        }
        for part in piece.chunks(STEP_BYTES) {
            self.buffer.extend_from_slice(part);
            let decided = masks.finder.decided(&self.buffer);
            self.write(masks, counts, decided, out);
        }
    }

    /// Something was held back.
    pub(super) fn holds(&self) -> bool {
        self.written < self.buffer.len()
    }

    /// Nothing has come for a while: lets go of what is but an ordinary word.
    pub(super) fn relent(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        let decided = masks.finder.decided_but_words(&self.buffer);
        self.write(masks, counts, decided, out);
    }

    pub(super) fn finish(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        self.write(masks, counts, self.buffer.len(), out);
    }

    fn write(&mut self, masks: &BodyMasks, counts: &mut Counts, decided: usize, out: &mut Vec<u8>) {
        if decided <= self.written {
            return;
        }
        let mut at = self.written;
        for found in masks.finder.find(&self.buffer) {
            if found.range.end <= at || found.range.start >= decided {
                continue;
            }
            // The rest of a match whose beginning was written before is gone with it.
            let begun = found.range.start < self.written;
            out.extend_from_slice(self.buffer.get(at..found.range.start.max(at)).unwrap_or_default());
            if !begun {
                let text = self.buffer.get(found.range.clone()).unwrap_or_default();
                out.extend_from_slice(&found.replacement(text, &masks.key));
                count(counts, found.name(), 1);
            }
            at = found.range.end;
        }
        let end = decided.max(at);
        out.extend_from_slice(self.buffer.get(at..end).unwrap_or_default());
        let drained = end.saturating_sub(CONTEXT_BYTES);
        self.buffer.drain(..drained);
        self.written = end - drained;
    }
}
