//! Payment card numbers: length and leading digits of real networks, plausible grouping, Luhn's check digit.

use std::ops::Range;

use super::{Detector, Span, byte_at, ends_word, starts_word, unicode_escape_end};

/// Fewest digits of a card number still in use.
pub(super) const DIGITS_MIN: usize = 13;

/// Most digits of a card number (ISO/IEC 7812-1).
const DIGITS_MAX: usize = 19;

pub(super) fn find(input: &[u8], spans: &mut Vec<Span>) {
    // A number is a run of these bytes and no shorter than its digits.
    let part = |byte: u8| byte.is_ascii_digit() || matches!(byte, b' ' | b'-');
    let mut from = 0;
    while let Some(run) = super::next_run(input, from, DIGITS_MIN, part) {
        find_in(input, run.clone(), spans);
        from = run.end;
    }
}

fn find_in(input: &[u8], run: Range<usize>, spans: &mut Vec<Span>) {
    let mut at = run.start;
    while at < run.end {
        if !byte_at(input, at).is_ascii_digit() {
            at += 1;
            continue;
        }
        // The digits of an escape (`\u0020`) are not the number's.
        let escape = unicode_escape_end(input, at);
        if escape > at {
            at = escape;
            continue;
        }
        let run = super::run_length(input, at, usize::MAX, |byte| byte.is_ascii_digit());
        let found = if starts_number(input, at) { card_at(input, at) } else { None };
        match found {
            Some(end) => {
                spans.push(Span { start: at, end, detector: Detector::PaymentCard });
                at = end;
            }
            None => at += run,
        }
    }
}

/// Not the tail of a word, and not the fraction of a decimal number.
fn starts_number(input: &[u8], start: usize) -> bool {
    let fraction =
        start >= 2 && byte_at(input, start - 1) == b'.' && byte_at(input, start - 2).is_ascii_digit();
    starts_word(input, start) && !fraction
}

fn ends_number(input: &[u8], end: usize) -> bool {
    let fraction = byte_at(input, end) == b'.' && byte_at(input, end + 1).is_ascii_digit();
    ends_word(input, end) && !fraction
}

/// The end of the longest card number that starts at `start`.
fn card_at(input: &[u8], start: usize) -> Option<usize> {
    let mut digits = Digits::default();
    let mut groups = Groups::default();
    let mut separator = None;
    let mut at = start;
    let mut best = None;
    loop {
        let group = super::run_length(input, at, DIGITS_MAX + 1, |byte| byte.is_ascii_digit());
        if !digits.extend(input.get(at..at + group).unwrap_or_default()) {
            break;
        }
        groups.push(group);
        at += group;
        if ends_number(input, at) && groups.plausible() && digits.is_card() && !inside_uuid(input, start, at)
        {
            best = Some(at);
        }
        let next = byte_at(input, at);
        let continues = matches!(next, b' ' | b'-')
            && separator.is_none_or(|same| same == next)
            && byte_at(input, at + 1).is_ascii_digit();
        if !continues {
            break;
        }
        separator = Some(next);
        at += 1;
    }
    best
}

/// Sizes of the digit groups between separators.
#[derive(Default)]
struct Groups {
    count: usize,
    first: usize,
    second: usize,
    last: usize,
    middle_fours: bool,
}

impl Groups {
    fn push(&mut self, size: usize) {
        match self.count {
            0 => (self.first, self.middle_fours) = (size, true),
            1 => self.second = size,
            _ => self.middle_fours &= self.last == 4,
        }
        self.last = size;
        self.count += 1;
    }

    /// As cards are printed: undivided, 4-4-4-4 (with a shorter or longer end), or 4-6-5 and 4-6-4.
    fn plausible(&self) -> bool {
        match self.count {
            0 => false,
            1 => true,
            _ if self.first != 4 => false,
            3 if self.second == 6 => matches!(self.last, 4 | 5),
            _ => self.middle_fours && self.last <= 7,
        }
    }
}

/// The digits seen so far.
#[derive(Default)]
struct Digits {
    values: [u8; DIGITS_MAX],
    count: usize,
}

impl Digits {
    /// Appends; false when there are more than any card has.
    fn extend(&mut self, ascii: &[u8]) -> bool {
        for byte in ascii {
            let Some(slot) = self.values.get_mut(self.count) else { return false };
            *slot = byte.wrapping_sub(b'0');
            self.count += 1;
        }
        true
    }

    fn is_card(&self) -> bool {
        let digits = self.values.get(..self.count).unwrap_or_default();
        digits.len() >= DIGITS_MIN && network_issues(digits) && luhn(digits)
    }
}

/// ISO/IEC 7812-1 annex B.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(position, digit)| {
            let doubled = u32::from(*digit) << (position & 1);
            if doubled > 9 { doubled - 9 } else { doubled }
        })
        .sum();
    // Zeros alone satisfy the check.
    sum > 0 && sum.is_multiple_of(10)
}

/// Whether a network issues numbers with these leading digits and this length (issuer identification numbers as the
/// networks publish them). UATP's `1` is left out: it would make every fifteen-digit counter a candidate.
fn network_issues(digits: &[u8]) -> bool {
    let prefix =
        |count: usize| digits.iter().take(count).fold(0_u32, |all, digit| all * 10 + u32::from(*digit));
    let length = digits.len();
    match prefix(6) {
        // American Express
        340_000..=349_999 | 370_000..=379_999 => length == 15,
        // Diners Club
        300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
            matches!(length, 14 | 16..=19)
        }
        // JCB
        352_800..=358_999 => matches!(length, 16..=19),
        180_000..=180_099 | 213_100..=213_199 => length == 15,
        // RuPay (353, 356 are inside JCB's range)
        508_000..=508_999 | 817_200..=820_199 => length == 16,
        // Visa
        400_000..=499_999 => matches!(length, 13 | 16 | 18 | 19),
        // Mastercard
        510_000..=559_999 | 222_100..=272_099 => length == 16,
        // Mir
        220_000..=220_499 => matches!(length, 16..=19),
        // Verve
        506_099..=506_198 | 507_865..=507_964 => matches!(length, 16 | 18 | 19),
        // Discover, UnionPay, Maestro, InterPayment, InstaPayment and Troy share 6
        601_100..=601_199 | 620_000..=659_999 => matches!(length, 16..=19),
        // Maestro
        500_000..=509_999 | 560_000..=589_999 | 600_000..=619_999 | 660_000..=699_999 => {
            matches!(length, 13 | 15 | 16 | 18 | 19)
        }
        // UnionPay
        810_000..=817_199 => matches!(length, 16..=19),
        // Uzcard, Humo, Troy
        860_000..=860_099 | 986_000..=986_099 | 979_200..=979_299 => length == 16,
        _ => false,
    }
}

/// The digits are part of a UUID (8-4-4-4-12 hexadecimal digits), some of whose groups happen to be decimal.
fn inside_uuid(input: &[u8], start: usize, end: usize) -> bool {
    const UUID_BYTES: usize = 36;
    let earliest = start.saturating_sub(UUID_BYTES);
    let part = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    let before =
        input.get(earliest..start).unwrap_or_default().iter().rev().take_while(|byte| part(byte)).count();
    let after = super::run_length(input, end, UUID_BYTES, |byte| part(&byte));
    let token = input.get(start - before..end + after).unwrap_or_default();
    token.len() == UUID_BYTES
        && token.iter().enumerate().all(|(at, byte)| (*byte == b'-') == matches!(at, 8 | 13 | 18 | 23))
}
