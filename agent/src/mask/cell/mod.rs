//! One result cell: rewritten so that the value is gone and the reader's driver can still decode the cell.
//!
//! What `redact`, `partial` and `hash` leave in a cell, by type; wherever a type has no safe value, NULL:
//!
//! | type | text format | binary format |
//! |---|---|---|
//! | text, varchar, bpchar, name, xml, … | the masked text | the masked text |
//! | json | a JSON string | a JSON string |
//! | jsonb | a JSON string | version byte and JSON string |
//! | uuid | NULL; `hash`: a UUID made of the digest | the same |
//! | types of this database (citext, hstore, enums, composites) | the masked text | NULL |
//! | all others (numbers, dates, bytea, inet, arrays, records …) | NULL | NULL |

use std::borrow::Cow;

use super::Method;
use super::detect::{Findings, Scanner};
use super::method::{HashKey, REDACTED, partial_value};
use super::types::{Format, TypeClass, class_of};

/// Digits of a binary `numeric` that are looked at: more than any number a detector knows.
const NUMERIC_GROUPS_MAX: usize = 16;

/// Version of jsonb's binary form (`jsonb_send`, src/backend/utils/adt/jsonb.c).
const JSONB_VERSION: u8 = 1;

/// A cell of a masked column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskedCell {
    /// The cell becomes NULL.
    Null,
    /// The cell's new bytes.
    Bytes(Cow<'static, [u8]>),
}

/// What detectors made of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum DetectedCell {
    /// Nothing found: forward the original.
    Unchanged,
    /// The cell becomes NULL.
    Null,
    /// The new bytes were appended to the output.
    Written,
}

/// Rewrites a whole value that is not NULL.
#[must_use]
pub fn mask_cell(method: Method, type_oid: u32, format: Format, value: &[u8], key: &HashKey) -> MaskedCell {
    if method == Method::Null {
        return MaskedCell::Null;
    }
    match (class_of(type_oid), format) {
        (TypeClass::Text, _) | (TypeClass::User, Format::Text) => {
            MaskedCell::Bytes(mask_text_value(method, value, key))
        }
        (TypeClass::Json, _) | (TypeClass::Jsonb, Format::Text) => {
            MaskedCell::Bytes(json_string(method, value, key))
        }
        (TypeClass::Jsonb, Format::Binary) => {
            let mut bytes = vec![JSONB_VERSION];
            bytes.extend_from_slice(&json_string(method, value.get(1..).unwrap_or_default(), key));
            MaskedCell::Bytes(Cow::Owned(bytes))
        }
        (TypeClass::Uuid, _) if method == Method::Hash => uuid_digest(format, value, key),
        (TypeClass::User, Format::Binary)
        | (
            TypeClass::Uuid
            | TypeClass::TextArray
            | TypeClass::Int8
            | TypeClass::Float8
            | TypeClass::Numeric
            | TypeClass::Bytea
            | TypeClass::Rigid
            | TypeClass::Other,
            _,
        ) => MaskedCell::Null,
    }
}

fn mask_text_value(method: Method, value: &[u8], key: &HashKey) -> Cow<'static, [u8]> {
    match method {
        Method::Redact | Method::Null => Cow::Borrowed(REDACTED.as_bytes()),
        Method::Partial => Cow::Owned(partial_value(value)),
        Method::Hash => Cow::Owned(key.token(value).into_bytes()),
    }
}

/// A JSON string. `partial` of a document shows nothing: its last characters are brackets and quotes.
fn json_string(method: Method, value: &[u8], key: &HashKey) -> Cow<'static, [u8]> {
    match method {
        Method::Redact | Method::Partial | Method::Null => Cow::Borrowed(b"\"[redacted]\""),
        Method::Hash => Cow::Owned(format!("\"{}\"", key.token(value)).into_bytes()),
    }
}

/// A UUID of version 8 (RFC 9562 §5.8) made of the digest of the UUID's text, so both formats agree.
fn uuid_digest(format: Format, value: &[u8], key: &HashKey) -> MaskedCell {
    let raw = match format {
        Format::Binary => u128::from_be_bytes(match value.try_into() {
            Ok(raw) => raw,
            Err(_) => return MaskedCell::Null,
        }),
        Format::Text => {
            let digits: String = String::from_utf8_lossy(value).chars().filter(|c| *c != '-').collect();
            match u128::from_str_radix(&digits, 16) {
                Ok(raw) => raw,
                Err(_) => return MaskedCell::Null,
            }
        }
    };
    const VERSION_8: u128 = 0x8 << 76;
    const VERSION_MASK: u128 = 0xf << 76;
    const VARIANT_RFC: u128 = 0b10 << 62;
    const VARIANT_MASK: u128 = 0b11 << 62;
    let digest = key.digest(&raw.to_be_bytes());
    let digest = digest.iter().take(16).fold(0_u128, |all, byte| (all << 8) | u128::from(*byte));
    let uuid = (digest & !VERSION_MASK & !VARIANT_MASK) | VERSION_8 | VARIANT_RFC;
    match format {
        Format::Binary => MaskedCell::Bytes(Cow::Owned(uuid.to_be_bytes().to_vec())),
        Format::Text => {
            let [a, b, c, d] = [uuid >> 96, uuid >> 80 & 0xffff, uuid >> 64 & 0xffff, uuid >> 48 & 0xffff];
            let e = uuid & 0xffff_ffff_ffff;
            MaskedCell::Bytes(Cow::Owned(format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}").into_bytes()))
        }
    }
}

/// Looks for what the detectors know in a value that is not NULL. `Written` means that `out` has grown by the new
/// value; otherwise it is as it was. `findings` grows by what was rewritten.
pub fn detect_cell(
    scanner: &Scanner,
    type_oid: u32,
    format: Format,
    value: &[u8],
    key: &HashKey,
    out: &mut Vec<u8>,
    findings: &mut Findings,
) -> DetectedCell {
    let before = out.len();
    let class = class_of(type_oid);
    let found = match (class, format) {
        (TypeClass::Rigid | TypeClass::Uuid, _) => return DetectedCell::Unchanged,
        (TypeClass::Text, _) | (TypeClass::User | TypeClass::TextArray, Format::Text) => {
            scanner.mask_text(value, key, out)
        }
        (TypeClass::Json, _) | (TypeClass::Jsonb, Format::Text) => scanner.mask_json(value, key, out),
        (TypeClass::Jsonb, Format::Binary) => {
            out.push(JSONB_VERSION);
            scanner.mask_json(value.get(1..).unwrap_or_default(), key, out)
        }
        (TypeClass::Int8, Format::Binary) => scanner.count(int8_text(value).as_bytes()),
        (TypeClass::Float8, Format::Binary) => scanner.count(float8_text(value).as_bytes()),
        (TypeClass::Numeric, Format::Binary) => scanner.count(numeric_text(value).as_bytes()),
        (TypeClass::Bytea, Format::Text) => scanner.count(&bytea_bytes(value)),
        (TypeClass::Int8 | TypeClass::Float8 | TypeClass::Numeric | TypeClass::Other, Format::Text)
        | (TypeClass::Bytea | TypeClass::TextArray | TypeClass::User | TypeClass::Other, Format::Binary) => {
            scanner.count(value)
        }
    };
    if found.is_empty() {
        out.truncate(before);
        return DetectedCell::Unchanged;
    }
    findings.add(&found);
    let rewritten = match (class, format) {
        (TypeClass::Text | TypeClass::Json | TypeClass::Jsonb, _)
        | (TypeClass::User | TypeClass::TextArray, Format::Text) => true,
        (TypeClass::User | TypeClass::TextArray, Format::Binary)
        | (
            TypeClass::Int8
            | TypeClass::Float8
            | TypeClass::Numeric
            | TypeClass::Bytea
            | TypeClass::Rigid
            | TypeClass::Uuid
            | TypeClass::Other,
            _,
        ) => false,
    };
    if rewritten && !found.nullify() {
        return DetectedCell::Written;
    }
    out.truncate(before);
    DetectedCell::Null
}

fn int8_text(value: &[u8]) -> String {
    value.try_into().map(|bytes| i64::from_be_bytes(bytes).to_string()).unwrap_or_default()
}

fn float8_text(value: &[u8]) -> String {
    value.try_into().map(|bytes| f64::from_be_bytes(bytes).to_string()).unwrap_or_default()
}

/// The whole part of a binary `numeric` (`numeric_send`, src/backend/utils/adt/numeric.c): digit count, weight of
/// the first group, sign, scale, then groups of four decimal digits; trailing groups of zeros are left out.
fn numeric_text(value: &[u8]) -> String {
    let mut words = value.chunks_exact(2).map(|pair| match pair {
        [high, low] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    });
    let (Some(count), Some(weight)) = (words.next(), words.next()) else { return String::new() };
    let groups = usize::from(weight).saturating_add(1);
    // A negative weight (no whole part) is above the limit, too.
    if groups > NUMERIC_GROUPS_MAX {
        return String::new();
    }
    let stored: Vec<u16> = words.skip(2).take(usize::from(count).min(groups)).collect();
    let mut text = String::new();
    for group in stored.into_iter().chain(std::iter::repeat(0)).take(groups) {
        text.push_str(&format!("{group:04}"));
    }
    text.trim_start_matches('0').to_owned()
}

/// The bytes of a `bytea` in hex form (<https://www.postgresql.org/docs/current/datatype-binary.html>); the older
/// escape form is close enough to its bytes to be searched as it is.
fn bytea_bytes(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(hex) = value.strip_prefix(b"\\x") else { return Cow::Borrowed(value) };
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    Cow::Owned(
        hex.chunks_exact(2).map(|pair| pair.iter().fold(0, |all, byte| (all << 4) | digit(*byte))).collect(),
    )
}

/// Overwrites, piece by piece, a value that is too large to hold and whose length the reader was already told.
///
/// Text becomes stars and JSON a string of stars. Other types become zeros: digits in text format, zero bytes in
/// binary. Such a value may not decode (an array has no element type); nothing of the original is left.
#[derive(Debug)]
pub struct Overwriter {
    class: TypeClass,
    format: Format,
    length: usize,
    at: usize,
}

impl Overwriter {
    /// For one value of `length` bytes.
    #[must_use]
    pub fn new(type_oid: u32, format: Format, length: usize) -> Self {
        Self { class: class_of(type_oid), format, length, at: 0 }
    }

    /// Overwrites the value's next bytes in place.
    pub fn overwrite(&mut self, piece: &mut [u8]) {
        for byte in piece {
            *byte = self.byte();
            self.at = self.at.saturating_add(1);
        }
    }

    fn byte(&self) -> u8 {
        let quoted = |first: usize| {
            if self.at == first || self.at + 1 == self.length { b'"' } else { b'*' }
        };
        match (self.class, self.format) {
            (TypeClass::Text, _) | (TypeClass::User, Format::Text) => b'*',
            (TypeClass::Json, _) | (TypeClass::Jsonb, Format::Text) => quoted(0),
            (TypeClass::Jsonb, Format::Binary) if self.at == 0 => JSONB_VERSION,
            (TypeClass::Jsonb, Format::Binary) => quoted(1),
            (TypeClass::TextArray, Format::Text) if self.at == 0 => b'{',
            (TypeClass::TextArray, Format::Text) if self.at + 1 == self.length => b'}',
            (TypeClass::TextArray, Format::Text) => b'*',
            (TypeClass::Bytea, Format::Text) if self.at == 0 => b'\\',
            (TypeClass::Bytea, Format::Text) if self.at == 1 => b'x',
            (
                TypeClass::Bytea
                | TypeClass::Uuid
                | TypeClass::Int8
                | TypeClass::Float8
                | TypeClass::Numeric
                | TypeClass::Rigid
                | TypeClass::Other,
                Format::Text,
            ) => b'0',
            (
                TypeClass::User
                | TypeClass::TextArray
                | TypeClass::Bytea
                | TypeClass::Uuid
                | TypeClass::Int8
                | TypeClass::Float8
                | TypeClass::Numeric
                | TypeClass::Rigid
                | TypeClass::Other,
                Format::Binary,
            ) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
