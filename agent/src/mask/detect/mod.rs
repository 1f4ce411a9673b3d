//! Finds payment cards, account numbers, mailboxes, tokens and keys inside text, and rewrites them.
//!
//! One pass counts digits and letters; most cells end there. What is left goes through an Aho-Corasick automaton
//! over fixed prefixes and through hand-written matchers, each ending in a validator. All work is linear in the
//! input: every matcher looks at a bounded number of bytes per starting point.

use std::cmp::Reverse;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError};

use super::method::{HashKey, replace_match};
use super::{Detector, Method};

mod card;
mod email;
pub(super) mod iban;
mod jwt;
mod pem;
pub mod stream;
mod tail;
#[cfg(test)]
mod tests;
mod token;
mod url;

/// Values up to this many bytes are searched in one piece; longer ones in overlapping chunks.
pub const INSPECT_BYTES_MAX: usize = 256 * 1024;

/// No match is longer than this many bytes; what a longer secret has beyond it is not seen. RSA keys of 16,384 bits
/// take 13 kB in PEM, tokens rarely more than 8 kB.
pub const MATCH_BYTES_MAX: usize = 32 * 1024;

/// What a literal rule finds has at least this many bytes without a blank, quote or comma, but for passwords in URLs
/// (which have an at sign) and PEM blocks (which have dashes).
const TOKEN_BYTES_MIN: usize = 20;

/// Dashes around a PEM label.
const PEM_DASHES_MIN: usize = 10;

/// Nothing at all is shorter (`a@b.cc`).
const MATCH_BYTES_MIN: usize = 6;

/// Length of an escape like `\u00e9`, in bytes.
const UNICODE_ESCAPE_BYTES: usize = 6;

/// Every detector, in the order of [`index`].
const DETECTORS: [Detector; 8] = [
    Detector::ApiKey,
    Detector::AwsKey,
    Detector::Email,
    Detector::Iban,
    Detector::Jwt,
    Detector::PaymentCard,
    Detector::PasswordInUrl,
    Detector::PrivateKey,
];

const fn index(detector: Detector) -> usize {
    match detector {
        Detector::ApiKey => 0,
        Detector::AwsKey => 1,
        Detector::Email => 2,
        Detector::Iban => 3,
        Detector::Jwt => 4,
        Detector::PaymentCard => 5,
        Detector::PasswordInUrl => 6,
        Detector::PrivateKey => 7,
    }
}

/// How many matches of each detector were rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    counts: [u32; DETECTORS.len()],
    nullify: bool,
}

impl Findings {
    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Matches of one detector.
    #[must_use]
    pub fn count(&self, detector: Detector) -> u32 {
        self.counts.get(index(detector)).copied().unwrap_or(0)
    }

    /// Detectors with at least one match, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Detector, u32)> {
        DETECTORS.into_iter().zip(self.counts).filter(|(_, count)| *count > 0)
    }

    /// A match's method is `null`: a cell becomes NULL, text without NULL (an error message) loses the match.
    #[must_use]
    pub fn nullify(&self) -> bool {
        self.nullify
    }

    /// Adds the counts of another piece of the same answer.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.nullify |= other.nullify;
    }

    fn note(&mut self, detector: Detector, method: Method) {
        if let Some(count) = self.counts.get_mut(index(detector)) {
            *count = count.saturating_add(1);
        }
        self.nullify |= method == Method::Null;
    }
}

/// One match: a half-open byte range of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
    detector: Detector,
}

/// One match, for those who rewrite it themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mask) struct Match {
    /// Where.
    pub(in crate::mask) range: std::ops::Range<usize>,
    /// What.
    pub(in crate::mask) detector: Detector,
    /// How it is rewritten.
    pub(in crate::mask) method: Method,
}

/// How a replacement is written where it lands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// The input is text.
    Text,
    /// The input is a JSON document: a match outside a string is (part of) a number and becomes a string.
    Json,
    /// Every byte of a match becomes a star: the length was promised to the reader before the value was seen.
    SameLength,
}

/// A compiled set of detectors.
#[derive(Debug)]
pub struct Scanner {
    methods: [Option<Method>; DETECTORS.len()],
    literals: AhoCorasick,
    rules: Vec<token::Literal>,
}

impl Scanner {
    /// Compiles detectors. When one is named twice the first method counts, as the first rule of a policy does.
    ///
    /// # Errors
    /// The automaton could not be built; the prefixes are constants, so a test would have failed first.
    pub fn new(rules: &[(Detector, Method)]) -> Result<Self, BuildError> {
        let mut methods = [None; DETECTORS.len()];
        for (detector, method) in rules {
            if let Some(slot) = methods.get_mut(index(*detector)) {
                slot.get_or_insert(*method);
            }
        }
        let wanted = |detector: Detector| methods.get(index(detector)).is_some_and(Option::is_some);
        let rules: Vec<token::Literal> =
            token::LITERALS.iter().filter(|literal| wanted(literal.detector())).copied().collect();
        // The full automaton costs the same for every byte whatever the input, so a cell full of near misses is no
        // slower than one of plain words.
        let literals = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .prefilter(false)
            .build(rules.iter().map(|literal| literal.text()))?;
        Ok(Self { methods, literals, rules })
    }

    /// No detector is on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.methods.iter().all(Option::is_none)
    }

    fn method(&self, detector: Detector) -> Option<Method> {
        self.methods.get(index(detector)).copied().flatten()
    }

    /// Appends `input` to `out` with every match rewritten. When nothing is found `out` is left as it was, so that
    /// the caller can forward the original bytes.
    pub fn mask_text(&self, input: &[u8], key: &HashKey, out: &mut Vec<u8>) -> Findings {
        self.mask(input, Syntax::Text, key, out)
    }

    /// As [`Scanner::mask_text`] for a JSON document, which is still one afterwards.
    pub fn mask_json(&self, input: &[u8], key: &HashKey, out: &mut Vec<u8>) -> Findings {
        self.mask(input, Syntax::Json, key, out)
    }

    /// Counts matches without rewriting.
    #[must_use]
    pub fn count(&self, input: &[u8]) -> Findings {
        let mut findings = Findings::default();
        let step = INSPECT_BYTES_MAX - MATCH_BYTES_MAX;
        let mut rest = input;
        loop {
            let window = rest.get(..INSPECT_BYTES_MAX).unwrap_or(rest);
            for span in self.find(window) {
                if let Some(method) = self.method(span.detector) {
                    findings.note(span.detector, method);
                }
            }
            match rest.get(step..) {
                Some(next) if rest.len() > INSPECT_BYTES_MAX => rest = next,
                Some(_) | None => return findings,
            }
        }
    }

    fn mask(&self, input: &[u8], syntax: Syntax, key: &HashKey, out: &mut Vec<u8>) -> Findings {
        if input.len() > INSPECT_BYTES_MAX {
            return self.mask_in_chunks(input, syntax, key, out);
        }
        let spans = self.find(input);
        let mut findings = Findings::default();
        let mut writer = Writer::new(self, syntax, key, out);
        writer.write(input, 0..input.len(), &spans, &mut findings);
        findings
    }

    fn mask_in_chunks(&self, input: &[u8], syntax: Syntax, key: &HashKey, out: &mut Vec<u8>) -> Findings {
        // Most long values hold nothing; they shall not be copied to find that out.
        if self.count(input).is_empty() {
            return Findings::default();
        }
        let before = out.len();
        let mut stream = stream::StreamScanner::with_syntax(syntax);
        for piece in input.chunks(INSPECT_BYTES_MAX) {
            stream.push(self, key, piece, out);
        }
        let findings = stream.finish(self, key, out);
        if findings.is_empty() {
            out.truncate(before);
        }
        findings
    }

    /// All matches, in order, not overlapping, as ranges of the input with what they are and how to rewrite them.
    pub(in crate::mask) fn matches(&self, input: &[u8]) -> Vec<Match> {
        let rewrite = |span: Span| {
            let method = self.method(span.detector)?;
            Some(Match { range: span.start..span.end, detector: span.detector, method })
        };
        self.find(input).into_iter().filter_map(rewrite).collect()
    }

    /// All matches, in order, not overlapping.
    fn find(&self, input: &[u8]) -> Vec<Span> {
        let mut spans = Vec::new();
        if input.len() < MATCH_BYTES_MIN {
            return spans;
        }
        let shape = Shape::of(input);
        if shape.digits >= card::DIGITS_MIN && self.method(Detector::PaymentCard).is_some() {
            card::find(input, &mut spans);
        }
        if shape.letters == 0 {
            return resolve(spans);
        }
        if shape.digits >= iban::DIGITS_MIN
            && input.len() >= iban::LENGTH_MIN
            && self.method(Detector::Iban).is_some()
        {
            iban::find(input, &mut spans);
        }
        if shape.ats > 0 && self.method(Detector::Email).is_some() {
            email::find(input, &mut spans);
        }
        let literal = shape.ats > 0 || shape.dashes >= PEM_DASHES_MIN || has_token(input);
        if literal && !self.rules.is_empty() {
            self.find_literals(input, &mut spans);
        }
        resolve(spans)
    }

    fn find_literals(&self, input: &[u8], spans: &mut Vec<Span>) {
        let mut tries = token::Tries::default();
        for hit in self.literals.find_overlapping_iter(input) {
            let Some(rule) = self.rules.get(hit.pattern().as_usize()) else { continue };
            rule.check(input, hit.start(), hit.end(), &mut tries, spans);
        }
    }
}

/// What one pass over the bytes tells about which matchers can succeed.
struct Shape {
    digits: usize,
    letters: usize,
    ats: usize,
    dashes: usize,
}

impl Shape {
    fn of(input: &[u8]) -> Self {
        let mut shape = Self { digits: 0, letters: 0, ats: 0, dashes: 0 };
        // Chunks whose counts fit a byte let the compiler use vector registers.
        for chunk in input.chunks(255) {
            let (mut digits, mut letters, mut ats, mut dashes) = (0_u8, 0_u8, 0_u8, 0_u8);
            for byte in chunk {
                digits += u8::from(byte.wrapping_sub(b'0') < 10);
                letters += u8::from((byte | 0x20).wrapping_sub(b'a') < 26);
                ats += u8::from(*byte == b'@');
                dashes += u8::from(*byte == b'-');
            }
            shape.digits += usize::from(digits);
            shape.letters += usize::from(letters);
            shape.ats += usize::from(ats);
            shape.dashes += usize::from(dashes);
        }
        shape
    }
}

/// Some run of token characters is long enough for what literal rules find. Saves the automaton on prose.
fn has_token(input: &[u8]) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'+');
    next_run(input, 0, TOKEN_BYTES_MIN, token).is_some()
}

/// Puts matches in order and unites those that overlap: the earlier, then the longer, then the lower detector names
/// the union (a password in a URL comes before all), so nothing that any detector found stays readable.
fn resolve(mut spans: Vec<Span>) -> Vec<Span> {
    if spans.len() < 2 {
        return spans;
    }
    spans.sort_by_key(|span| {
        (span.start, span.detector != Detector::PasswordInUrl, Reverse(span.end), span.detector)
    });
    let mut united: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match united.last_mut() {
            // `password@host` in a URL reads like a mailbox; the host is no secret.
            Some(last)
                if span.start < last.end
                    && last.detector == Detector::PasswordInUrl
                    && span.detector == Detector::Email => {}
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            Some(_) | None => united.push(span),
        }
    }
    united
}

/// Copies a range of an input with its matches replaced. Keeps the JSON string state between ranges.
struct Writer<'a> {
    scanner: &'a Scanner,
    syntax: Syntax,
    key: &'a HashKey,
    out: &'a mut Vec<u8>,
    strings: JsonStrings,
}

impl<'a> Writer<'a> {
    fn new(scanner: &'a Scanner, syntax: Syntax, key: &'a HashKey, out: &'a mut Vec<u8>) -> Self {
        Self { scanner, syntax, key, out, strings: JsonStrings::default() }
    }

    /// Writes `input[range]`; spans are cut to the range. Writes nothing when no span is in it and the range is all
    /// of the input (the caller keeps the original).
    fn write(
        &mut self,
        input: &[u8],
        range: std::ops::Range<usize>,
        spans: &[Span],
        findings: &mut Findings,
    ) {
        let whole = range == (0..input.len());
        if whole && spans.is_empty() {
            return;
        }
        let mut at = range.start;
        for span in spans {
            let (mut start, mut end) = (span.start.max(at), span.end.min(range.end));
            if start >= end {
                continue;
            }
            let Some(method) = self.scanner.method(span.detector) else { continue };
            findings.note(span.detector, method);
            let gap = input.get(at..start).unwrap_or_default();
            self.strings.follow(self.syntax, gap);
            let bare = self.syntax == Syntax::Json && !self.strings.inside;
            if bare {
                (start, end) = number_around(input, start.max(at)..end, at..range.end);
            }
            self.out.extend_from_slice(input.get(at..start).unwrap_or_default());
            self.replace(method, span.detector, input.get(start..end).unwrap_or_default(), bare);
            self.strings.follow(self.syntax, input.get(span.start.max(at)..end).unwrap_or_default());
            at = end;
        }
        let rest = input.get(at..range.end).unwrap_or_default();
        self.strings.follow(self.syntax, rest);
        self.out.extend_from_slice(rest);
    }

    fn replace(&mut self, method: Method, detector: Detector, found: &[u8], bare: bool) {
        if self.syntax == Syntax::SameLength {
            self.out.resize(self.out.len() + found.len(), b'*');
            return;
        }
        if bare {
            self.out.push(b'"');
        }
        self.out.extend_from_slice(&replace_match(method, detector, found, self.key));
        if bare {
            self.out.push(b'"');
        }
    }
}

/// Whether a position in a JSON document is inside a string.
#[derive(Clone, Copy, Default)]
struct JsonStrings {
    inside: bool,
    escaped: bool,
}

impl JsonStrings {
    fn follow(&mut self, syntax: Syntax, bytes: &[u8]) {
        if syntax != Syntax::Json {
            return;
        }
        for byte in bytes {
            match (self.inside, self.escaped, byte) {
                (true, true, _) => self.escaped = false,
                (true, false, b'\\') => self.escaped = true,
                (inside, false, b'"') => self.inside = !inside,
                (true | false, _, _) => {}
            }
        }
    }
}

/// A match outside a JSON string lies in a number; a string can replace a whole number only.
fn number_around(
    input: &[u8],
    span: std::ops::Range<usize>,
    limits: std::ops::Range<usize>,
) -> (usize, usize) {
    let in_number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    let (mut start, mut end) = (span.start, span.end);
    while start > limits.start && in_number(byte_at(input, start - 1)) {
        start -= 1;
    }
    while end < limits.end && in_number(byte_at(input, end)) {
        end += 1;
    }
    (start, end)
}

/// The byte at a position, or NUL (which belongs to no character class used here) outside the input.
fn byte_at(input: &[u8], at: usize) -> u8 {
    input.get(at).copied().unwrap_or(0)
}

/// Where the escape ends, as JSON writes it (`\u00e9`), whose digits end at `at` or go on there; 0 when there is none. What has
/// fewer than four digits is none, but somebody's path.
fn unicode_escape_end(input: &[u8], at: usize) -> usize {
    let before = input.get(at.saturating_sub(UNICODE_ESCAPE_BYTES)..at).unwrap_or_default();
    let Some(backslash) = memchr::memrchr(b'\\', before) else { return 0 };
    let escape = at - before.len() + backslash;
    let end = escape + UNICODE_ESCAPE_BYTES;
    let digits = input.get(escape + 2..end);
    let is_whole = digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if is_whole && byte_at(input, escape + 1) == b'u' { end } else { 0 }
}

/// Nothing that belongs to a word stands before `start`. The letter or digits of an escape (`\n`, `\u00e9`, as JSON and COPY
/// write them) do not belong to the word after it.
fn starts_word(input: &[u8], start: usize) -> bool {
    let Some(before) = start.checked_sub(1) else { return true };
    let byte = byte_at(input, before);
    let escape = matches!(byte, b'n' | b't' | b'r' | b'f' | b'b' | b'v')
        && before.checked_sub(1).is_some_and(|at| byte_at(input, at) == b'\\');
    let is_apart = escape || !(byte.is_ascii_alphanumeric() || byte == b'_');
    is_apart || unicode_escape_end(input, start) == start
}

/// Nothing that belongs to a word stands at `end`.
fn ends_word(input: &[u8], end: usize) -> bool {
    let byte = byte_at(input, end);
    !(byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The next run of at least `min` bytes that satisfy `class`, from `from` on. Looks at few of the bytes when there is none.
fn next_run(
    input: &[u8],
    from: usize,
    min: usize,
    class: impl Fn(u8) -> bool,
) -> Option<std::ops::Range<usize>> {
    // A run of that length covers one of every so many bytes, so only those need a look to begin with.
    let mut at = from + min - 1;
    while let Some(byte) = input.get(at) {
        if !class(*byte) {
            at += min;
            continue;
        }
        let begin = at + 1 - min;
        match input.get(begin..at).unwrap_or_default().iter().rposition(|byte| !class(*byte)) {
            None => {
                let back = input.get(from..begin).unwrap_or_default();
                let more = back.iter().rev().take_while(|byte| class(**byte)).count();
                let length = run_length(input, at, usize::MAX, class);
                return Some(begin - more..at + length);
            }
            // The run begins after that byte and can reach the minimum at the earliest there.
            Some(other) => at += other + 1,
        }
    }
    None
}

/// Length of the run of bytes from `start` that satisfy `class`, at most `max`.
fn run_length(input: &[u8], start: usize, max: usize, class: impl Fn(u8) -> bool) -> usize {
    let tail = input.get(start..).unwrap_or_default();
    tail.iter().take(max).take_while(|byte| class(**byte)).count()
}
