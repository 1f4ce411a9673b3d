//! Masks over what a terminal shows: the detectors read the text alone, and escape sequences in the middle of a secret stay,
//! after what stands in the secret's place. What matches nothing leaves byte for byte as it came. Pure: whoever drives it says
//! when somebody has waited for long enough.
//!
//! A secret is not seen when a program draws it in parts that are elsewhere on the screen, or writes over characters.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::detect::MATCH_BYTES_MAX;
use super::http::{BodyMasks, Counts, Found, count};
use super::method::REDACTED;
use crate::codec::terminal::{Effect, Piece, Splitter};

#[cfg(test)]
mod tests;

/// Bytes taken in at once.
const STEP_BYTES: usize = 64 * 1024;

/// Text already shown that is kept before the rest, because matchers look back, in bytes.
const CONTEXT_BYTES: usize = 1024;

/// Escape sequences that are held back together with text, in bytes; beyond it all of it is shown. The text itself is held
/// within the longest match, [`MATCH_BYTES_MAX`].
const HELD_SEQUENCE_BYTES_MAX: usize = 64 * 1024;

/// What stands in the text for a sequence that moves elsewhere.
const MOVED: u8 = b'\n';

/// What stands in the text for a gap in a line.
const GAP: u8 = b' ';

/// One output stream being rewritten.
pub struct TerminalMasker {
    masks: Arc<BodyMasks>,
    counts: Counts,
    splitter: Splitter,
    pending: Pending,
}

impl TerminalMasker {
    /// For one stream.
    #[must_use]
    pub fn new(masks: Arc<BodyMasks>) -> Self {
        Self { masks, counts: Counts::new(), splitter: Splitter::default(), pending: Pending::default() }
    }

    /// Takes the next piece and gives back what can be shown: the piece itself, not copied, when nothing in it is masked.
    pub fn push(&mut self, mut piece: Bytes) -> Bytes {
        if self.masks.finder().is_empty() {
            return piece;
        }
        if piece.len() <= STEP_BYTES {
            return self.step(piece);
        }
        let mut out = Vec::with_capacity(piece.len());
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(STEP_BYTES));
            out.extend_from_slice(&self.step(part));
        }
        out.into()
    }

    /// Bytes that are held back, because they could be the beginning of a secret or of an escape sequence.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pending.held() + self.splitter.held()
    }

    /// Somebody has waited for long enough, or nothing comes any more: gives back what is held. What is a secret by now is
    /// masked. When more makes a secret of what was shown, its rest is masked, and counted as late.
    pub fn relent(&mut self) -> Bytes {
        let Self { masks, counts, splitter, pending } = self;
        splitter.relent(&mut |piece| pending.take(piece, masks, counts));
        let all = pending.text.len();
        let found = pending.found(masks, all);
        let mut out = Vec::with_capacity(pending.held());
        pending.write(&found, all, masks, counts, &mut out);
        out.into()
    }

    /// What was masked so far, by the detector's name; what began before it was known has ` (late)` after the name.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn step(&mut self, mut piece: Bytes) -> Bytes {
        let idle = self.held() == 0;
        let Self { masks, counts, splitter, pending } = self;
        pending.altered = false;
        splitter.push(&piece, &mut |part| pending.take(part, masks, counts));
        let all = pending.text.len();
        let decided = if pending.store.len() > HELD_SEQUENCE_BYTES_MAX {
            all
        } else {
            masks.finder().decided(&pending.text)
        };
        let mut decided = decided.max(pending.written);
        let mut found = pending.found(masks, decided);
        // What began as one secret may go on as another.
        if let Some(last) = found.last().filter(|last| last.range.end > decided)
            && last.range.start >= pending.written
            && all - last.range.start <= MATCH_BYTES_MAX
        {
            decided = last.range.start;
            found.pop();
        }
        if idle && found.is_empty() && !pending.altered {
            pending.pass(decided, None);
            let held = pending.held() + splitter.held();
            return piece.split_to(piece.len().saturating_sub(held));
        }
        let mut out = Vec::with_capacity(piece.len());
        pending.write(&found, decided, masks, counts, &mut out);
        out.into()
    }
}

/// Text and the sequences in it.
#[derive(Default)]
struct Pending {
    /// What was shown last, and what is held.
    text: Vec<u8>,
    /// Length of the part of `text` that was shown.
    written: usize,
    /// Where the secret begins that ends what was shown: if there is more of it, that is no news.
    masked: Option<usize>,
    /// Sequences that are not shown yet, in order.
    sequences: VecDeque<Sequence>,
    /// Their bytes.
    store: Vec<u8>,
    /// Something in a control string was rewritten.
    altered: bool,
}

/// A sequence between two characters.
struct Sequence {
    /// Before which byte of the text it stands.
    at: usize,
    /// How many bytes it has.
    length: usize,
    /// That byte of the text only stands for it.
    stands: bool,
}

impl Pending {
    fn take(&mut self, piece: Piece<'_>, masks: &BodyMasks, counts: &mut Counts) {
        match piece {
            Piece::Text(text) => self.text.extend_from_slice(text),
            Piece::Sequence(bytes, Effect::None) => self.sequence(bytes, None),
            Piece::Sequence(bytes, Effect::Gap) => self.sequence(bytes, Some(GAP)),
            Piece::Sequence(bytes, Effect::Move) => self.sequence(bytes, Some(MOVED)),
            Piece::String(introducer, content) => {
                self.sequence(introducer, None);
                let masked = masks.scan(content, counts);
                self.altered |= masked.is_some();
                self.sequence(masked.as_deref().unwrap_or(content), None);
            }
        }
    }

    fn sequence(&mut self, bytes: &[u8], standing: Option<u8>) {
        let at = self.text.len();
        self.text.extend(standing);
        self.store.extend_from_slice(bytes);
        self.sequences.push_back(Sequence { at, length: bytes.len(), stands: standing.is_some() });
    }

    /// Bytes of the stream that were taken and not shown.
    fn held(&self) -> usize {
        let standing = self.sequences.iter().filter(|sequence| sequence.stands).count();
        self.text.len() - self.written - standing + self.store.len()
    }

    /// What is found in the part that is not shown and begins in the part that is decided.
    fn found(&self, masks: &BodyMasks, decided: usize) -> Vec<Found> {
        let mut found = masks.finder().find(&self.text);
        found.retain(|one| one.range.end > self.written && one.range.start < decided);
        found
    }

    /// Shows the text up to `decided` with everything found in it replaced.
    fn write(
        &mut self,
        found: &[Found],
        decided: usize,
        masks: &BodyMasks,
        counts: &mut Counts,
        out: &mut Vec<u8>,
    ) {
        let mut writer = Writer { pending: self, at: 0, stored: 0, sequence: 0, out };
        writer.at = writer.pending.written;
        let mut masked = None;
        for one in found {
            let (start, end) = (one.range.start, one.range.end);
            let begun = start < writer.pending.written;
            writer.copy(start.max(writer.at));
            if !begun {
                let text = writer.pending.text.get(start..end).unwrap_or_default();
                writer.out.extend_from_slice(&one.replacement(text, masks.key()));
                count(counts, one.name(), 1);
            } else if writer.pending.masked.is_none_or(|known| start < known) {
                // Its beginning was shown before anybody could know.
                writer.out.extend_from_slice(REDACTED.as_bytes());
                count(counts, &format!("{} (late)", one.name()), 1);
            }
            writer.skip(end);
            masked = Some((start, end));
        }
        let end = decided.max(writer.at);
        writer.copy(end);
        self.pass(end, masked.filter(|(_, last)| *last == end).map(|(start, _)| start));
    }

    /// Everything up to `end` is shown; a secret that begins at `masked` ends there.
    fn pass(&mut self, end: usize, masked: Option<usize>) {
        let same = self.masked.filter(|_| end == self.written);
        self.masked = masked.or(same);
        let shown = |sequence: &Sequence| sequence.at < end || (sequence.at == end && !sequence.stands);
        let count = self.sequences.iter().take_while(|sequence| shown(sequence)).count();
        let bytes: usize = self.sequences.drain(..count).map(|sequence| sequence.length).sum();
        self.store.drain(..bytes);
        // The beginning of a secret that may go on must stay in sight.
        let kept = end.saturating_sub(CONTEXT_BYTES);
        let drained = self.masked.map_or(kept, |start| start.min(kept));
        self.text.drain(..drained);
        self.written = end - drained;
        self.masked = self.masked.map(|start| start - drained);
        for sequence in &mut self.sequences {
            sequence.at -= drained;
        }
    }
}

/// Writes text with its sequences.
struct Writer<'w> {
    pending: &'w mut Pending,
    /// How far the text is written.
    at: usize,
    /// How many sequences are, and how many of their bytes.
    sequence: usize,
    stored: usize,
    out: &'w mut Vec<u8>,
}

impl Writer<'_> {
    /// Text up to `end` and the sequences before it.
    fn copy(&mut self, end: usize) {
        while let Some((at, stands)) = self.next(end) {
            let text = self.pending.text.get(self.at..at).unwrap_or_default();
            self.out.extend_from_slice(text);
            self.put();
            self.at = at + usize::from(stands);
        }
        self.out.extend_from_slice(self.pending.text.get(self.at..end).unwrap_or_default());
        self.at = self.at.max(end);
    }

    /// The sequences alone that stand in the text before `end`; those that stand at it belong to what follows.
    fn skip(&mut self, end: usize) {
        while self.pending.sequences.get(self.sequence).is_some_and(|sequence| sequence.at < end) {
            self.put();
        }
        self.at = end;
    }

    fn next(&self, end: usize) -> Option<(usize, bool)> {
        let sequence = self.pending.sequences.get(self.sequence)?;
        let before = sequence.at < end || (sequence.at == end && !sequence.stands);
        before.then_some((sequence.at, sequence.stands))
    }

    fn put(&mut self) {
        let Some(sequence) = self.pending.sequences.get(self.sequence) else { return };
        let bytes = self.pending.store.get(self.stored..self.stored + sequence.length);
        self.out.extend_from_slice(bytes.unwrap_or_default());
        self.stored += sequence.length;
        self.sequence += 1;
    }
}
