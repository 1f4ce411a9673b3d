//! Cells against data: every method, type and format; no raw value survives, and drivers can decode what is left.

use super::*;
use crate::mask::Detector;
use crate::mask::method::tests::test_key;

const SSN: &[u8] = b"123-45-6789";

fn bytes(cell: MaskedCell) -> Option<String> {
    match cell {
        MaskedCell::Null => None,
        MaskedCell::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[test]
fn types_decide_what_stands_in_a_cell() {
    use Format::{Binary, Text};
    use Method::{Hash, Null, Partial, Redact};
    for (method, oid, format, value, expected) in [
        (Redact, 25, Text, SSN, Some("[redacted]")),
        (Redact, 25, Binary, SSN, Some("[redacted]")),
        (Redact, 1043, Binary, SSN, Some("[redacted]")),
        (Redact, 16_500, Text, SSN, Some("[redacted]")),
        (Redact, 16_500, Binary, SSN, None),
        (Redact, 0, Text, SSN, Some("[redacted]")),
        (Partial, 25, Text, SSN, Some("***********")),
        (Partial, 25, Text, b"4111111111111111", Some("************1111")),
        (Null, 25, Text, SSN, None),
        (Redact, 23, Text, b"42", None),
        (Redact, 23, Binary, b"\0\0\0\x2a", None),
        (Hash, 1700, Text, b"42.10", None),
        (Redact, 1082, Text, b"2024-01-01", None),
        (Redact, 16, Text, b"t", None),
        (Redact, 17, Text, b"\\x00ff", None),
        (Redact, 869, Text, b"10.0.0.1", None),
        (Redact, 1009, Text, b"{a,b}", None),
        (Redact, 2249, Text, b"(1,a)", None),
        (Redact, 114, Text, b"{\"a\":1}", Some("\"[redacted]\"")),
        (Partial, 3802, Text, b"{\"a\":1}", Some("\"[redacted]\"")),
        (Redact, 3802, Binary, b"\x01{\"a\":1}", Some("\x01\"[redacted]\"")),
        (Redact, 2950, Text, b"550e8400-e29b-41d4-a716-446655440000", None),
        (Hash, 2950, Text, b"not a uuid", None),
        (Hash, 2950, Binary, b"short", None),
    ] {
        assert_eq!(
            bytes(mask_cell(method, oid, format, value, &test_key())).as_deref(),
            expected,
            "{oid} {format:?}"
        );
    }
}

#[test]
fn hash_of_a_uuid_is_a_uuid_in_both_formats() {
    let text = b"550e8400-e29b-41d4-a716-446655440000";
    let raw = 0x550e_8400_e29b_41d4_a716_4466_5544_0000_u128.to_be_bytes();
    let hashed = bytes(mask_cell(Method::Hash, 2950, Format::Text, text, &test_key())).unwrap();
    let MaskedCell::Bytes(binary) = mask_cell(Method::Hash, 2950, Format::Binary, &raw, &test_key()) else {
        panic!("null")
    };
    let digits: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hashed.replace('-', ""), digits);
    assert_ne!(binary.as_ref(), raw);
    assert_eq!(hashed.as_bytes()[14], b'8');
    let dashes: Vec<usize> = hashed.match_indices('-').map(|(at, _)| at).collect();
    assert_eq!(dashes, [8, 13, 18, 23]);
}

/// For each method, type and format, whatever the value: its raw bytes never come out.
#[test]
fn raw_values_never_survive() {
    let values: [&[u8]; 8] = [
        SSN,
        b"4111 1111 1111 1111",
        b"alice@example.com",
        b"DE89370400440532013000",
        b"{\"ssn\": \"123-45-6789\"}",
        b"correct horse battery staple",
        b"\xff\xfe\x00secret bytes\xff",
        b"550e8400-e29b-41d4-a716-446655440000",
    ];
    let oids = [
        0, 16, 17, 18, 19, 20, 21, 23, 25, 114, 142, 600, 700, 701, 705, 869, 1003, 1007, 1009, 1016, 1042,
        1043, 1082, 1114, 1184, 1186, 1231, 1560, 1700, 2249, 2950, 3802, 3807, 16_500,
    ];
    let mut checked = 0;
    for method in [Method::Hash, Method::Null, Method::Partial, Method::Redact] {
        for oid in oids {
            for format in [Format::Text, Format::Binary] {
                for value in values {
                    if let MaskedCell::Bytes(out) = mask_cell(method, oid, format, value, &test_key()) {
                        assert!(
                            !out.windows(value.len()).any(|window| window == value),
                            "{method:?} {oid} {format:?}"
                        );
                        checked += 1;
                    }
                    let mut piece = value.to_vec();
                    let (first, second) = piece.split_at_mut(value.len() / 2);
                    let mut overwriter = Overwriter::new(oid, format, value.len());
                    overwriter.overwrite(first);
                    overwriter.overwrite(second);
                    assert_eq!(piece.len(), value.len());
                    assert!(
                        !piece.windows(5).any(|window| value.windows(5).any(|raw| raw == window)),
                        "{oid} {piece:?}"
                    );
                }
            }
        }
    }
    assert!(checked > 100);
}

#[test]
fn overwriting_keeps_what_drivers_parse() {
    for (oid, format, expected) in [
        (25, Format::Text, "*********"),
        (114, Format::Text, "\"*******\""),
        (3802, Format::Binary, "\x01\"******\""),
        (1009, Format::Text, "{*******}"),
        (17, Format::Text, "\\x0000000"),
        (1700, Format::Text, "000000000"),
        (1700, Format::Binary, "\0\0\0\0\0\0\0\0\0"),
    ] {
        let mut value = *b"raw value";
        Overwriter::new(oid, format, value.len()).overwrite(&mut value);
        assert_eq!(value, expected.as_bytes(), "{oid}");
    }
}

#[test]
fn detectors_see_every_type_that_can_hold_a_card() {
    let scanner =
        Scanner::new(&[(Detector::PaymentCard, Method::Partial), (Detector::Email, Method::Redact)]).unwrap();
    let card = 4_111_111_111_111_111_i64;
    // numeric: four groups, weight 3, positive, scale 0.
    let numeric = [4_u16, 3, 0, 0, 4111, 1111, 1111, 1111].map(u16::to_be_bytes).concat();
    // 4111111111111100 is no card; 4000000000000000 with its last groups left out is none either.
    let round = [1_u16, 3, 0, 0, 4000].map(u16::to_be_bytes).concat();
    // One dimension, no NULLs, element type text, two elements from 1.
    let mut array = [1_i32, 0, 25, 2, 1].map(i32::to_be_bytes).concat();
    for element in ["alice@example.com", "x"] {
        array.extend_from_slice(&i32::try_from(element.len()).unwrap().to_be_bytes());
        array.extend_from_slice(element.as_bytes());
    }
    let hex =
        format!("\\x{}", "alice@example.com".bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    use Format::{Binary, Text};
    for (oid, format, value, expected, text) in [
        (20, Text, b"4111111111111111".as_slice(), DetectedCell::Null, ""),
        (20, Binary, &card.to_be_bytes(), DetectedCell::Null, ""),
        (20, Binary, &42_i64.to_be_bytes(), DetectedCell::Unchanged, ""),
        (701, Binary, &4_111_111_111_111_111_f64.to_be_bytes(), DetectedCell::Null, ""),
        (1700, Binary, &numeric, DetectedCell::Null, ""),
        (1700, Binary, &round, DetectedCell::Unchanged, ""),
        (1700, Binary, b"\0", DetectedCell::Unchanged, ""),
        (25, Binary, b"alice@example.com", DetectedCell::Written, "[redacted]"),
        (
            3802,
            Binary,
            b"\x01{\"c\":4111111111111111}",
            DetectedCell::Written,
            "\x01{\"c\":\"************1111\"}",
        ),
        (3802, Binary, b"\x01{\"c\":1}", DetectedCell::Unchanged, ""),
        (1009, Text, b"{alice@example.com,x}", DetectedCell::Written, "{[redacted],x}"),
        (1009, Binary, &array, DetectedCell::Null, ""),
        (1016, Text, b"{4111111111111111,5}", DetectedCell::Null, ""),
        (17, Text, hex.as_bytes(), DetectedCell::Null, ""),
        (17, Binary, b"\0alice@example.com\0", DetectedCell::Null, ""),
        (16_500, Text, b"\"mail\"=>\"alice@example.com\"", DetectedCell::Written, "\"mail\"=>\"[redacted]\""),
        (16_500, Binary, b"alice@example.com", DetectedCell::Null, ""),
        (2950, Text, b"41111111-1111-1111-1111-111111111111", DetectedCell::Unchanged, ""),
        (1082, Text, b"2024-01-01", DetectedCell::Unchanged, ""),
    ] {
        let mut out = b"before".to_vec();
        let mut findings = Findings::default();
        let cell = detect_cell(&scanner, oid, format, value, &test_key(), &mut out, &mut findings);
        assert_eq!(cell, expected, "{oid} {format:?}");
        assert_eq!(String::from_utf8(out).unwrap(), format!("before{text}"), "{oid} {format:?}");
        assert_eq!(findings.is_empty(), cell == DetectedCell::Unchanged);
    }
}

#[test]
fn null_as_method_of_a_detector_empties_the_cell() {
    let scanner = Scanner::new(&[(Detector::Email, Method::Null)]).unwrap();
    let mut out = Vec::new();
    let mut findings = Findings::default();
    let cell =
        detect_cell(&scanner, 25, Format::Text, b"to a@example.com", &test_key(), &mut out, &mut findings);
    assert_eq!((cell, out.is_empty()), (DetectedCell::Null, true));
}
