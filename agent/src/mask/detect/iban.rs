//! Bank account numbers: country, that country's length, and the check digits modulo 97 (ISO 13616, ISO 7064).

use super::{Detector, Span, byte_at, ends_word, starts_word};

/// Shortest number of any country (Norway).
pub(super) const LENGTH_MIN: usize = 15;

/// Longest number of any country (Russia), without blanks.
pub(in crate::mask) const LENGTH_MAX: usize = 33;

/// Fewest digits of a real number: two check digits and Malta's five-digit sort code.
pub(super) const DIGITS_MIN: usize = 7;

pub(super) fn find(input: &[u8], spans: &mut Vec<Span>) {
    let mut done = 0;
    for begin in (0..input.len()).step_by(STRETCH_BYTES) {
        let end = input.len().min(begin + STRETCH_BYTES + 3);
        let stretch = input.get(begin..end).unwrap_or_default();
        if !has_check_digits(stretch) {
            continue;
        }
        for (at, window) in stretch.windows(4).enumerate() {
            // Country letters, then two check digits. Digits are the rarer sight in prose.
            let [a, b, c, d] = window else { continue };
            let starts = d.is_ascii_digit()
                && c.is_ascii_digit()
                && b.is_ascii_alphabetic()
                && a.is_ascii_alphabetic();
            let at = begin + at;
            if !starts || at < done {
                continue;
            }
            if let Some(end) = iban_at(input, at) {
                spans.push(Span { start: at, end, detector: Detector::Iban });
                done = end;
            }
        }
    }
}

/// Bytes that are looked at together.
const STRETCH_BYTES: usize = 64;

/// Whether there are a letter and two digits in a row. No branch, so that vector registers do it.
fn has_check_digits(stretch: &[u8]) -> bool {
    let digit = |byte: u8| byte.wrapping_sub(b'0') < 10;
    let letter = |byte: u8| (byte | 0x20).wrapping_sub(b'a') < 26;
    let rows = stretch.iter().zip(stretch.iter().skip(1)).zip(stretch.iter().skip(2));
    rows.fold(0, |found, ((a, b), c)| found | u8::from(letter(*a) & digit(*b) & digit(*c))) > 0
}

/// The end of the number whose two letters and two digits stand at `start`.
fn iban_at(input: &[u8], start: usize) -> Option<usize> {
    let (first, second) = (byte_at(input, start), byte_at(input, start + 1));
    let same_case = first.is_ascii_uppercase() == second.is_ascii_uppercase();
    if !same_case || !starts_word(input, start) {
        return None;
    }
    let length = length_of(first, second)?;
    let mut compact = [0_u8; LENGTH_MAX];
    let mut at = start;
    for (count, slot) in compact.iter_mut().take(length).enumerate() {
        // Printed form: a blank after every fourth character, or none at all.
        if count > 0 && count % 4 == 0 && byte_at(input, at) == b' ' {
            at += 1;
        }
        *slot = byte_at(input, at);
        if !slot.is_ascii_alphanumeric() {
            return None;
        }
        at += 1;
    }
    let compact = compact.get(..length)?;
    (ends_word(input, at) && is_valid(compact)).then_some(at)
}

/// A complete number without blanks.
pub(in crate::mask) fn is_valid(compact: &[u8]) -> bool {
    let &[first, second, check_a, check_b, ref rest @ ..] = compact else { return false };
    if length_of(first, second) != Some(compact.len())
        || !check_a.is_ascii_digit()
        || !check_b.is_ascii_digit()
    {
        return false;
    }
    let mut rearranged = rest.iter().chain([&first, &second, &check_a, &check_b]);
    let remainder = rearranged.try_fold(0_u32, |remainder, byte| match byte {
        b'0'..=b'9' => Some((remainder * 10 + u32::from(byte - b'0')) % 97),
        b'A'..=b'Z' => Some((remainder * 100 + u32::from(byte - b'A') + 10) % 97),
        b'a'..=b'z' => Some((remainder * 100 + u32::from(byte - b'a') + 10) % 97),
        _ => None,
    });
    remainder == Some(1)
}

/// Length by country, from the SWIFT IBAN registry.
fn length_of(first: u8, second: u8) -> Option<usize> {
    Some(match &[first.to_ascii_uppercase(), second.to_ascii_uppercase()] {
        b"NO" => 15,
        b"BE" => 16,
        b"DK" | b"FI" | b"FK" | b"FO" | b"GL" | b"NL" | b"SD" => 18,
        b"MK" | b"SI" => 19,
        b"AT" | b"BA" | b"EE" | b"KZ" | b"LT" | b"LU" | b"MN" | b"XK" => 20,
        b"CH" | b"HR" | b"LI" | b"LV" => 21,
        b"BG" | b"BH" | b"CR" | b"DE" | b"GB" | b"GE" | b"IE" | b"ME" | b"RS" | b"VA" => 22,
        b"AE" | b"GI" | b"IL" | b"IQ" | b"OM" | b"SO" | b"TL" => 23,
        b"AD" | b"CZ" | b"ES" | b"MD" | b"PK" | b"RO" | b"SA" | b"SE" | b"SK" | b"TN" | b"VG" => 24,
        b"LY" | b"PT" | b"ST" => 25,
        b"IS" | b"TR" => 26,
        b"BI" | b"DJ" | b"FR" | b"GR" | b"IT" | b"MC" | b"MR" | b"SM" => 27,
        b"AL" | b"AZ" | b"BY" | b"CY" | b"DO" | b"EG" | b"GT" | b"HN" | b"HU" | b"LB" | b"NI" | b"PL"
        | b"SV" => 28,
        b"BR" | b"PS" | b"QA" | b"UA" => 29,
        b"JO" | b"KW" | b"MU" | b"YE" => 30,
        b"MT" | b"SC" => 31,
        b"LC" => 32,
        b"RU" => 33,
        _ => return None,
    })
}
