//! The hash of a file that moves in pieces, which mostly come one after the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Bytes that came before their turn and are kept, of all files of a channel.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a kept piece costs beside its bytes, about.
const PIECE_BYTES: usize = 128;

/// Pieces up to this length are copied, so that they do not keep the message alive that they came in.
const COPIED_BYTES_MAX: usize = 4096;

/// What all files of a channel keep together.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: usize,
}

impl Kept {
    fn take(&mut self, bytes: usize) -> bool {
        let room = self.bytes + bytes <= KEPT_BYTES_MAX;
        if room {
            self.bytes += bytes;
        }
        room
    }
}

/// What was seen of a file.
pub struct InOrder {
    hash: Sha256,
    /// Everything before it was hashed.
    position: u64,
    /// What came too early, by its place.
    early: BTreeMap<u64, Bytes>,
    /// What they cost of `Kept`.
    early_bytes: usize,
    /// All bytes that moved.
    bytes: u64,
    /// They cannot be put in order.
    scattered: bool,
}

impl Default for InOrder {
    fn default() -> Self {
        Self {
            hash: Sha256::new(),
            position: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            bytes: 0,
            scattered: false,
        }
    }
}

impl InOrder {
    /// Bytes at a place of the file.
    pub fn take(&mut self, offset: u64, data: &Bytes, kept: &mut Kept) {
        self.bytes += data.len() as u64;
        if self.scattered || data.is_empty() {
            return;
        }
        if offset == self.position {
            self.next(data);
            while let Some(early) = self.early.remove(&self.position) {
                self.early_bytes -= early.len() + PIECE_BYTES;
                kept.bytes -= early.len() + PIECE_BYTES;
                self.next(&early);
            }
        } else if offset > self.position && kept.take(data.len() + PIECE_BYTES) {
            self.early_bytes += data.len() + PIECE_BYTES;
            let copied = data.len() <= COPIED_BYTES_MAX;
            let piece = if copied { Bytes::copy_from_slice(data) } else { data.clone() };
            if self.early.insert(offset, piece).is_some() {
                self.give_up(kept);
            }
        } else {
            self.give_up(kept);
        }
    }

    /// Bytes that come after all before.
    pub fn append(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.next(data);
    }

    fn next(&mut self, data: &[u8]) {
        self.hash.update(data);
        self.position += data.len() as u64;
    }

    /// Its content changes by other means than what is seen here: nothing can be said of it.
    pub fn give_up(&mut self, kept: &mut Kept) {
        self.scattered = true;
        self.early.clear();
        kept.bytes -= std::mem::take(&mut self.early_bytes);
    }

    /// Where the next byte in order belongs.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// All bytes that moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The SHA-256 of everything from the beginning, in hex; `None` when it moved in pieces that are not all of a beginning, or
    /// not once each.
    #[must_use]
    pub fn sha256(&self) -> Option<String> {
        if self.scattered || !self.early.is_empty() {
            return None;
        }
        Some(self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn of(pieces: &[(u64, &'static [u8])]) -> Option<String> {
        let (mut file, mut kept) = (InOrder::default(), Kept::default());
        for (offset, data) in pieces {
            file.take(*offset, &Bytes::from_static(data), &mut kept);
        }
        let hash = file.sha256();
        assert!(hash.is_none() || kept.bytes == 0);
        file.give_up(&mut kept);
        assert_eq!(kept.bytes, 0);
        hash
    }

    #[test]
    fn pieces_in_any_order_give_the_hash_of_the_whole() {
        for pieces in [
            &[(0, b"abc".as_slice())][..],
            &[(0, b"a"), (1, b"b"), (2, b"c")],
            &[(1, b"b"), (2, b"c"), (0, b"a")],
            &[(2, b"c"), (0, b"ab")],
        ] {
            assert_eq!(of(pieces).as_deref(), Some(ABC));
        }
    }

    #[test]
    fn what_is_no_whole_beginning_has_no_hash() {
        assert_eq!(of(&[(1, b"bc")]), None);
        assert_eq!(of(&[(0, b"abc"), (0, b"abc")]), None);
        assert_eq!(of(&[(0, b"abc"), (1, b"b")]), None);
        assert_eq!(of(&[(5, b"x"), (5, b"y"), (0, b"abcde")]), None);
    }

    #[test]
    fn what_is_kept_is_bounded_over_all_files() {
        let (mut kept, mut files) = (Kept::default(), [InOrder::default(), InOrder::default()]);
        let block = Bytes::from(vec![0; 1024 * 1024]);
        for number in 1..10_u64 {
            for file in &mut files {
                file.take(number * 1024 * 1024, &block, &mut kept);
                assert!(kept.bytes <= KEPT_BYTES_MAX);
            }
        }
        let [one, two] = &files;
        assert_eq!((one.bytes(), one.sha256(), two.sha256()), (9 * 1024 * 1024, None, None));
        // Single bytes cost what it takes to keep them.
        let (mut kept, mut file, byte) = (Kept::default(), InOrder::default(), Bytes::from_static(b"x"));
        for number in 1..100_000_u64 {
            file.take(number * 2, &byte, &mut kept);
        }
        assert!(file.early.is_empty() && kept.bytes == 0);
    }
}
