//! Bound parameters as people read them: a reviewer, and whoever reads the record. What runs is never made from these.

use std::borrow::Cow;

use crate::codec::postgres::Format;
use crate::codec::postgres::fields::{Formats, Values};
use crate::codec::postgres::frontend::{Bind, FunctionCall};

/// Type OIDs of `src/include/catalog/pg_type.dat` whose binary form is a plain number or text.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const NAME: u32 = 19;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const UUID: u32 = 2950;
}

/// A value and its type's OID (0 where the server infers it); `None` is NULL.
pub(super) type Readable<'a> = Option<(Cow<'a, [u8]>, u32)>;

/// The parameters of a Bind in order.
pub(super) fn readable<'a>(bind: &Bind<'a>, types: &[u32]) -> Vec<Readable<'a>> {
    shown(bind.parameters.clone(), bind.parameter_formats, types)
}

/// The same of a FunctionCall's arguments.
pub(super) fn readable_arguments<'a>(call: &FunctionCall<'a>, types: &[u32]) -> Vec<Readable<'a>> {
    shown(call.arguments.clone(), call.argument_formats, types)
}

fn shown<'a>(values: Values<'a>, formats: Formats<'a>, types: &[u32]) -> Vec<Readable<'a>> {
    values
        .enumerate()
        .map(|(index, value)| {
            let type_oid = types.get(index).copied().unwrap_or(0);
            value.map(|value| match formats.get(index) {
                Some(Format::Text) => (Cow::Borrowed(value), type_oid),
                Some(Format::Binary) | None => (binary(value, type_oid), type_oid),
            })
        })
        .collect()
}

/// A value in binary format as text; in hexadecimal where its type is not known or not this simple.
fn binary(value: &[u8], type_oid: u32) -> Cow<'_, [u8]> {
    let number = |text: Option<String>| text.map(|text| Cow::Owned(text.into_bytes()));
    let known = match type_oid {
        oid::BOOL => number(value.first_chunk().map(|[byte]| (*byte != 0).to_string())),
        oid::INT2 => number(value.first_chunk().map(|bytes| i16::from_be_bytes(*bytes).to_string())),
        oid::INT4 => number(value.first_chunk().map(|bytes| i32::from_be_bytes(*bytes).to_string())),
        oid::INT8 => number(value.first_chunk().map(|bytes| i64::from_be_bytes(*bytes).to_string())),
        oid::OID => number(value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes).to_string())),
        oid::FLOAT4 => number(value.first_chunk().map(|bytes| f32::from_be_bytes(*bytes).to_string())),
        oid::FLOAT8 => number(value.first_chunk().map(|bytes| f64::from_be_bytes(*bytes).to_string())),
        oid::UUID => number(value.first_chunk::<16>().map(uuid)),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::JSON => Some(Cow::Borrowed(value)),
        _ => None,
    };
    known.unwrap_or_else(|| Cow::Owned(hex(value)))
}

fn uuid(bytes: &[u8; 16]) -> String {
    let digits = String::from_utf8(hex(bytes)).unwrap_or_default();
    let part = |from: usize, to: usize| digits.get(from + 2..to + 2).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// As PostgreSQL writes `bytea` (<https://www.postgresql.org/docs/current/datatype-binary.html>).
fn hex(bytes: &[u8]) -> Vec<u8> {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).map_or(b'?', |digit| digit as u8);
    let mut text = b"\\x".to_vec();
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    text
}

#[cfg(test)]
mod tests {
    use super::{binary, oid};

    #[test]
    fn binary_values_are_shown_as_people_write_them() {
        let cases: [(&[u8], u32, &str); 9] = [
            (&[0, 10], oid::INT2, "10"),
            (&[0xff, 0xff, 0xff, 0xff], oid::INT4, "-1"),
            (&[0, 0, 0, 0, 0, 0, 1, 0], oid::INT8, "256"),
            (&[1], oid::BOOL, "true"),
            (&1.5_f64.to_be_bytes(), oid::FLOAT8, "1.5"),
            (b"text", oid::TEXT, "text"),
            (&[0xde, 0xad], 0, "\\xdead"),
            (&[0], oid::INT4, "\\x00"),
            (&[0x11; 16], oid::UUID, "11111111-1111-1111-1111-111111111111"),
        ];
        for (value, type_oid, shown) in cases {
            assert_eq!(String::from_utf8_lossy(&binary(value, type_oid)), shown);
        }
    }
}
