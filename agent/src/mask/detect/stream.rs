//! Detectors over a value that arrives in pieces, such as one cell of many megabytes.

use super::{Findings, HashKey, JsonStrings, MATCH_BYTES_MAX, Scanner, Syntax, Writer};

/// Bytes gathered beyond the overlap before the next search, so that the overlap is searched again rarely.
const STEP_BYTES: usize = 64 * 1024;

/// Bytes already written that are kept before the rest, because matchers look back.
const CONTEXT_BYTES: usize = 1024;

/// Holds back at most the longest match and one step; never the whole value.
pub struct StreamScanner {
    buffer: Vec<u8>,
    /// Length of the part of `buffer` that was written already.
    written: usize,
    syntax: Syntax,
    strings: JsonStrings,
    findings: Findings,
}

impl StreamScanner {
    /// For text whose length may change.
    #[must_use]
    pub fn new() -> Self {
        Self::with_syntax(Syntax::Text)
    }

    /// For a JSON document, which is still one afterwards.
    #[must_use]
    pub fn json() -> Self {
        Self::with_syntax(Syntax::Json)
    }

    /// For a value whose length was promised before it was seen: every byte of a match becomes a star.
    #[must_use]
    pub fn same_length() -> Self {
        Self::with_syntax(Syntax::SameLength)
    }

    pub(super) fn with_syntax(syntax: Syntax) -> Self {
        Self {
            buffer: Vec::new(),
            written: 0,
            syntax,
            strings: JsonStrings::default(),
            findings: Findings::default(),
        }
    }

    /// Takes the next piece and appends to `out` what is decided.
    pub fn push(&mut self, scanner: &Scanner, key: &HashKey, piece: &[u8], out: &mut Vec<u8>) {
        for part in piece.chunks(STEP_BYTES) {
            self.buffer.extend_from_slice(part);
            let undecided = self.buffer.len() - self.written;
            if undecided > MATCH_BYTES_MAX + STEP_BYTES {
                // A match that begins before this point is in the buffer to its end, as no match is longer.
                let decided = self.buffer.len() - MATCH_BYTES_MAX;
                self.write_until(decided, scanner, key, out);
            }
        }
    }

    /// Bytes held, for the caller's account of memory.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.buffer.len()
    }

    /// The value is complete: appends the rest to `out`. Everything found in it.
    pub fn finish(mut self, scanner: &Scanner, key: &HashKey, out: &mut Vec<u8>) -> Findings {
        self.write_until(self.buffer.len(), scanner, key, out);
        self.findings
    }

    fn write_until(&mut self, decided: usize, scanner: &Scanner, key: &HashKey, out: &mut Vec<u8>) {
        let mut spans = scanner.find(&self.buffer);
        spans.retain(|span| span.start < decided && span.end > self.written);
        let end = spans.last().map_or(decided, |last| decided.max(last.end));
        let mut writer = Writer { scanner, syntax: self.syntax, key, out, strings: self.strings };
        if spans.is_empty() {
            // `Writer::write` leaves an input without matches to its caller.
            let plain = self.buffer.get(self.written..end).unwrap_or_default();
            writer.strings.follow(self.syntax, plain);
            writer.out.extend_from_slice(plain);
        } else {
            writer.write(&self.buffer, self.written..end, &spans, &mut self.findings);
        }
        self.strings = writer.strings;
        let drained = end.saturating_sub(CONTEXT_BYTES);
        self.buffer.drain(..drained);
        self.written = end - drained;
    }
}

impl Default for StreamScanner {
    fn default() -> Self {
        Self::new()
    }
}
