//! Looks for planted values, and pieces of them, in bytes: as they are, reversed, in hexadecimal and in base64.

use std::collections::{BTreeSet, HashMap, HashSet};

use anyhow::{Context as _, Result, bail};

/// Characters of a word that are a leak.
const WORD_PIECE: usize = 6;
/// Digits of a number that are a leak; a shorter number is one as a whole.
const NUMBER_PIECE: usize = 10;
/// Bytes shown on either side of what was found.
const AROUND: usize = 160;
/// Names of the store's files have this in them.
const STORE: &str = "/state/";
/// Length from which a run of capitals and digits there is an id: less than the 26 of one, of which a page's end may cut some.
const ID_CHARS_MIN: usize = 20;
/// Digits of a time since 1970 in nanoseconds.
const TIME_DIGITS: usize = 19;
/// Bits of a start of four bytes.
const STARTS: usize = 1 << 24;

/// Everything that is looked for.
pub(crate) struct Search {
    values: BTreeSet<String>,
    /// Patterns in lower case, by their length.
    patterns: HashMap<usize, HashSet<Vec<u8>>>,
    lengths: Vec<usize>,
    /// Which starts of four bytes any pattern has, so that most places are passed at once.
    starts: Vec<bool>,
}

impl Search {
    /// Reads lines of a kind and a value: `w` for words, `n` for numbers, `b` for hexadecimal bytes.
    pub(crate) fn new(planted: &str) -> Result<Self> {
        let mut search = Self {
            values: BTreeSet::new(),
            patterns: HashMap::new(),
            lengths: Vec::new(),
            starts: vec![false; STARTS],
        };
        for line in planted.lines() {
            let (kind, value) =
                line.split_once(' ').with_context(|| format!("not a kind and a value: {line}"))?;
            match kind {
                "w" => search.word(value, WORD_PIECE),
                "n" => search.word(value, NUMBER_PIECE.min(value.len())),
                "b" => search.add(unhex(value)),
                _ => bail!("no kind of value: {kind}"),
            }
            if kind != "b" {
                search.values.insert(value.to_owned());
            }
        }
        search.lengths = search.patterns.keys().copied().collect();
        Ok(search)
    }

    /// How many distinct values are looked for.
    pub(crate) fn values(&self) -> usize {
        self.values.len()
    }

    fn add(&mut self, mut pattern: Vec<u8>) {
        pattern.make_ascii_lowercase();
        if let Some(start) = start(&pattern).and_then(|start| self.starts.get_mut(start)) {
            *start = true;
        }
        self.patterns.entry(pattern.len()).or_default().insert(pattern);
    }

    /// Every piece of a value, in every form that an expression gives it.
    fn word(&mut self, value: &str, piece: usize) {
        for bytes in value.as_bytes().windows(piece) {
            self.add(bytes.to_vec());
            self.add(bytes.iter().rev().copied().collect());
            // Digits in hexadecimal are digits.
            let cases = [bytes.to_ascii_lowercase(), bytes.to_ascii_uppercase()];
            for cased in cases {
                self.add(hex(&cased));
            }
        }
        for shift in 0..3 {
            // What stands before decides the first characters, what follows the last ones.
            for cased in [value.to_ascii_lowercase(), value.to_ascii_uppercase()] {
                let text = base64(cased.as_bytes().get(shift..).unwrap_or_default());
                if let Some(whole) = text.as_bytes().get(..12) {
                    self.add(whole.to_vec());
                }
            }
        }
    }

    /// Whether a hit in the store is a part of one of its own ids (26 capitals and digits, several of them side by side) or of a time
    /// in nanoseconds (19 digits): some six characters of so many are those of a planted value by chance.
    fn is_an_id_of_ours(place: &str, content: &[u8], at: usize) -> bool {
        let run = |belongs: fn(&u8) -> bool| {
            let before =
                content.get(..at).unwrap_or_default().iter().rev().take_while(|byte| belongs(byte)).count();
            let behind =
                content.get(at..).unwrap_or_default().iter().take_while(|byte| belongs(byte)).count();
            before + behind
        };
        let id = run(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()) >= ID_CHARS_MIN;
        let time = run(u8::is_ascii_digit) == TIME_DIGITS;
        place.contains(STORE) && (id || time)
    }

    /// Each place with a piece of a value: where, and what stands around it. One per 400 bytes.
    pub(crate) fn leaks(&self, place: &str, content: &[u8]) -> Vec<String> {
        let folded = content.to_ascii_lowercase();
        let mut found = Vec::new();
        let mut next = 0;
        for at in 0..folded.len() {
            let Some(rest) = folded.get(at..) else { break };
            if at < next || start(rest).is_none_or(|start| self.starts.get(start) != Some(&true)) {
                continue;
            }
            let hit = self.lengths.iter().find_map(|length| {
                let piece = rest.get(..*length)?;
                self.patterns.get(length)?.contains(piece).then_some(piece)
            });
            if let Some(piece) = hit.filter(|_| !Self::is_an_id_of_ours(place, content, at)) {
                let around = content.get(at.saturating_sub(AROUND)..(at + AROUND).min(content.len()));
                found.push(format!(
                    "{place}, byte {at}: `{}` in {:?}",
                    piece.escape_ascii(),
                    String::from_utf8_lossy(around.unwrap_or_default())
                ));
                next = at + 400;
            }
        }
        found
    }
}

/// Where the first four bytes of something are kept.
fn start(bytes: &[u8]) -> Option<usize> {
    let first: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    // Knuth's multiplicative hash, its upper 24 bits.
    usize::try_from(u32::from_le_bytes(first).wrapping_mul(2_654_435_769) >> 8).ok()
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit =
        |at: usize| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16).unwrap_or_default();
    (0..text.len() / 2).map(|at| digit(2 * at)).collect()
}

/// RFC 4648 base64 of as many whole groups of three bytes as there are.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks_exact(3) {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for shift in [18, 12, 6, 0] {
            text.push(char::from(ALPHABET.get(bits >> shift & 63).copied().unwrap_or_default()));
        }
    }
    text
}
