//! Masks over files that are downloaded: what detectors find is overwritten, byte for byte, because a file's length is said before
//! its content, and places in it are asked for by number. Pure.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::http::{BodyMasks, Counts, count};

/// What stands in the place of each byte but line ends.
const OVERWRITTEN: u8 = b'*';

/// Bytes already given back that are kept before the rest, because matchers look back.
const CONTEXT_BYTES: usize = 1024;

/// Bytes taken in at once.
const STEP_BYTES: usize = 64 * 1024;

/// Overwrites what is found in a window of a file. Only what begins within `counted` is counted: windows overlap.
pub fn overwrite(masks: &BodyMasks, window: &mut [u8], counted: &Range<usize>, counts: &mut Counts) {
    for found in masks.finder().find(window) {
        blot(window, found.range.clone());
        if counted.contains(&found.range.start) {
            count(counts, found.name(), 1);
        }
    }
}

fn blot(bytes: &mut [u8], range: Range<usize>) {
    for byte in bytes.get_mut(range).unwrap_or_default() {
        if !matches!(byte, b'\n' | b'\r') {
            *byte = OVERWRITTEN;
        }
    }
}

/// One file that passes from its beginning to its end.
pub struct FileMasker {
    masks: Arc<BodyMasks>,
    counts: Counts,
    buffer: Vec<u8>,
    /// Length of the part of `buffer` that was given back already.
    given: usize,
    /// Up to here `buffer` is overwritten where it has to be.
    blotted: usize,
}

impl FileMasker {
    /// For one file.
    #[must_use]
    pub fn new(masks: Arc<BodyMasks>) -> Self {
        Self { masks, counts: Counts::new(), buffer: Vec::new(), given: 0, blotted: 0 }
    }

    /// Takes the next piece and gives back what nothing can change that follows.
    pub fn push(&mut self, piece: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(piece.len());
        for part in piece.chunks(STEP_BYTES) {
            self.buffer.extend_from_slice(part);
            let decided = self.masks.finder().decided(&self.buffer);
            self.give(decided, &mut out);
        }
        out.into()
    }

    /// The file is over: what is left of it.
    pub fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        self.give(self.buffer.len(), &mut out);
        out.into()
    }

    /// What was overwritten so far, by the detector's name.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn give(&mut self, decided: usize, out: &mut Vec<u8>) {
        if decided <= self.given {
            return;
        }
        let mut end = decided;
        for found in self.masks.finder().find(&self.buffer) {
            if found.range.end <= self.blotted || found.range.start >= decided {
                continue;
            }
            if found.range.start >= self.given {
                count(&mut self.counts, found.name(), 1);
            }
            let rest = found.range.start.max(self.given)..found.range.end;
            blot(&mut self.buffer, rest);
            end = end.max(found.range.end);
        }
        out.extend_from_slice(self.buffer.get(self.given..end).unwrap_or_default());
        let drained = end.saturating_sub(CONTEXT_BYTES);
        self.buffer.drain(..drained);
        self.given = end - drained;
        self.blotted = self.given;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Detector, HashKey, Method};

    fn masks() -> Arc<BodyMasks> {
        let detect = [(Detector::Email, Method::Redact), (Detector::PrivateKey, Method::Redact)];
        let key = Arc::new(HashKey::new(zeroize::Zeroizing::new([7; 32])));
        Arc::new(BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), &detect, Vec::new(), key).unwrap())
    }

    fn text() -> String {
        let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", "QUJD".repeat(200));
        let line = "some words, ada@example.com and more of them\n";
        format!("{}{key}{}", line.repeat(50), line.repeat(50))
    }

    #[test]
    fn a_file_keeps_its_length_and_its_lines_however_it_is_cut() {
        let text = text();
        let mut expected = None;
        for size in [1, 7, 100, 1000, text.len()] {
            let mut masker = FileMasker::new(masks());
            let mut out = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                out.extend_from_slice(&masker.push(piece));
            }
            out.extend_from_slice(&masker.finish());
            let out = String::from_utf8(out).unwrap();
            assert_eq!((out.len(), out.lines().count()), (text.len(), text.lines().count()), "{size}");
            assert!(!out.contains("example.com") && !out.contains("QUJD"), "{size}");
            assert_eq!(masker.counts().get("email"), Some(&100), "{size}");
            assert_eq!(*expected.get_or_insert_with(|| out.clone()), out, "{size}");
        }
    }

    #[test]
    fn windows_show_nothing_of_what_reaches_into_them() {
        let text = text();
        let mut seen = Vec::new();
        let mut counts = Counts::new();
        let around = 2048;
        for begin in (0..text.len()).step_by(100) {
            let end = (begin + 100).min(text.len());
            let from = begin.saturating_sub(around);
            let mut window = text.as_bytes()[from..(end + around).min(text.len())].to_vec();
            let counted = begin - from..end - from;
            overwrite(&masks(), &mut window, &counted, &mut counts);
            seen.extend_from_slice(&window[counted]);
        }
        let seen = String::from_utf8(seen).unwrap();
        assert_eq!(seen.len(), text.len());
        assert!(!seen.contains("example.com") && !seen.contains("QUJD"));
        assert_eq!(counts.get("email"), Some(&100));
    }
}
