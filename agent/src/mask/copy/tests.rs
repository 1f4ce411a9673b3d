//! Copies against data: three formats, every split, what leaves is what a masked server would have sent.

use super::*;
use crate::mask::Detector;
use crate::mask::method::tests::test_key;

const TEXT: u32 = 25;
const INT4: u32 = 23;

fn options(options: &[(&str, Option<&str>)]) -> CopyFormat {
    CopyFormat::from_options(options).unwrap()
}

fn masker(format: CopyFormat, columns: &[(CellAction, u32)]) -> CopyMasker {
    let rules = [(Detector::Email, Method::Partial), (Detector::PaymentCard, Method::Redact)];
    let columns =
        columns.iter().map(|(action, type_oid)| CopyColumn { action: *action, type_oid: *type_oid });
    CopyMasker::new(format, columns.collect(), Arc::new(Scanner::new(&rules).unwrap()), Arc::new(test_key()))
}

/// Feeds the data in pieces of `size` bytes.
fn run(masker: &mut CopyMasker, data: &[u8], size: usize) -> Result<Vec<u8>, CopyError> {
    let mut out = Vec::new();
    for piece in data.chunks(size) {
        masker.push(piece, &mut out)?;
    }
    masker.finish(&mut out)?;
    Ok(out)
}

/// Whole and in pieces of every size.
fn check(format: &CopyFormat, columns: &[(CellAction, u32)], data: &[u8], expected: &[u8], rows: u64) {
    for size in 1..=data.len() {
        let mut masker = masker(format.clone(), columns);
        let out = run(&mut masker, data, size).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected), "pieces of {size}");
        assert_eq!(masker.rows(), rows);
    }
}

const COLUMNS: [(CellAction, u32); 3] =
    [(CellAction::Pass, INT4), (CellAction::Mask(Method::Redact), TEXT), (CellAction::Detect, TEXT)];

#[test]
fn text_rows() {
    check(
        &options(&[]),
        &COLUMNS,
        b"1\t123-45-6789\tplain\\ttab\n2\t\\N\ta@b\\n bob@example.com \\\\\n3\t\\t\\n\\\\\\N\t\\N\n",
        b"1\t[redacted]\tplain\\ttab\n2\t\\N\ta@b\\n b***@example.com \\\\\n3\t[redacted]\t\\N\n",
        3,
    );
    check(
        &options(&[("delimiter", Some("|")), ("null", Some("-")), ("header", None)]),
        &COLUMNS,
        b"id|ssn|note\n1|a\\|b|bob@example.com\\|x\n2|-|-\n",
        b"id|ssn|note\n1|[redacted]|b***@example.com\\|x\n2|-|-\n",
        2,
    );
}

#[test]
fn csv_rows() {
    check(
        &options(&[("format", Some("csv")), ("header", Some("true"))]),
        &COLUMNS,
        b"id,ssn,note\n1,123-45-6789,\"a,\"\"b\"\"\nbob@example.com\"\n2,,\n3,\"x\ny,z\",\"\"\n",
        b"id,ssn,note\n1,[redacted],\"a,\"\"b\"\"\nb***@example.com\"\n2,,\n3,\"[redacted]\",\"\"\n",
        3,
    );
    check(
        &options(&[
            ("format", Some("csv")),
            ("quote", Some("'")),
            ("escape", Some("\\")),
            ("null", Some("NULL")),
        ]),
        &COLUMNS,
        b"1,'a\\'b,\nc','it\\'s \\\\ bob@example.com'\n2,NULL,'NULL'\n",
        b"1,'[redacted]','it\\'s \\\\ b***@example.com'\n2,NULL,'NULL'\n",
        2,
    );
}

fn binary(rows: &[&[Option<&[u8]>]], flags: u32, extension: &[u8]) -> Vec<u8> {
    let mut out = b"PGCOPY\n\xff\r\n\0".to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&u32::try_from(extension.len()).unwrap().to_be_bytes());
    out.extend_from_slice(extension);
    for row in rows {
        out.extend_from_slice(&u16::try_from(row.len()).unwrap().to_be_bytes());
        if flags != 0 {
            out.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 9]);
        }
        for field in *row {
            match field {
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(value) => {
                    out.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                    out.extend_from_slice(value);
                }
            }
        }
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out
}

#[test]
fn binary_rows() {
    let int: &[u8] = &[0, 0, 0, 1];
    let raw: [&[Option<&[u8]>]; 2] =
        [&[Some(int), Some(b"123-45-6789"), Some(b"to bob@example.com")], &[None, None, Some(b"")]];
    let masked: [&[Option<&[u8]>]; 2] =
        [&[Some(int), Some(b"[redacted]"), Some(b"to b***@example.com")], &[None, None, Some(b"")]];
    for (flags, extension) in [(0, b"".as_slice()), (1 << 16, b"ext")] {
        let data = binary(&raw, flags, extension);
        check(&CopyFormat::Binary, &COLUMNS, &data, &binary(&masked, flags, extension), 2);
    }
    let ints = [(CellAction::Mask(Method::Redact), INT4); 3];
    let data = binary(&[&[Some(int), None, Some(int)]], 0, b"");
    check(&CopyFormat::Binary, &ints, &data, &binary(&[&[None, None, None]], 0, b""), 1);
}

#[test]
fn typed_columns_become_null() {
    let columns = [(CellAction::Mask(Method::Hash), INT4), (CellAction::Detect, 20)];
    check(&options(&[]), &columns, b"42\t4111111111111111\n7\t12\n", b"\\N\t\\N\n\\N\t12\n", 2);
}

#[test]
fn other_shapes_are_errors() {
    let good = binary(&[&[None, None, None]], 0, b"");
    let mut with_more = good.clone();
    with_more.push(0);
    let mut with_flag = good.clone();
    with_flag[11] = 0x80;
    let cases: Vec<(CopyFormat, Vec<u8>)> = vec![
        (options(&[]), b"1\t2\n".to_vec()),
        (options(&[]), b"1\t2\t3\t123-45-6789\n".to_vec()),
        (options(&[("format", Some("csv"))]), b"1,2\n".to_vec()),
        (CopyFormat::Binary, b"PGCOPY\n\xff\r\n\x01....".to_vec()),
        (CopyFormat::Binary, binary(&[&[None, None]], 0, b"")),
        (CopyFormat::Binary, good[..good.len() - 1].to_vec()),
        (CopyFormat::Binary, with_more),
        (CopyFormat::Binary, with_flag),
        (CopyFormat::Binary, [&good[..19], &[0, 3, 0xff, 0xff, 0xff, 0xfe]].concat()),
    ];
    for (format, data) in cases {
        for size in [1, data.len()] {
            let mut masker = masker(format.clone(), &COLUMNS);
            let mut out = Vec::new();
            let ended = data
                .chunks(size)
                .try_for_each(|piece| masker.push(piece, &mut out))
                .and_then(|()| masker.finish(&mut out));
            assert!(ended.is_err(), "{format:?} {data:?}");
            assert!(!String::from_utf8_lossy(&out).contains("123-45"));
        }
    }
}

#[test]
fn options_not_understood_refuse_the_copy() {
    for bad in [
        [("format", Some("json"))],
        [("encoding", Some("sjis"))],
        [("delimiter", Some("ab"))],
        [("delimiter", Some("\\"))],
        [("null", Some("a\nb"))],
        [("header", Some("match"))],
        [("freeze", None)],
        [("quote", None)],
    ] {
        let mut bad = bad.to_vec();
        if bad[0].0 == "quote" {
            bad.push(("format", Some("csv")));
        }
        let error = CopyFormat::from_options(&bad).unwrap_err();
        assert_eq!(error, CopyError::Option(bad[0].0.to_uppercase()));
        assert_eq!(error.side(), Side::Client);
    }
    for (format, delimiter, null) in [("csv", ",", "a,b"), ("csv", ",", "\""), ("text", "|", "no|thing")] {
        let options = [("format", Some(format)), ("delimiter", Some(delimiter)), ("null", Some(null))];
        assert_eq!(CopyFormat::from_options(&options), Err(CopyError::Option("NULL".to_owned())));
    }
    assert_eq!(options(&[("format", Some("BINARY"))]), CopyFormat::Binary);
}

/// Fields beyond the limit: masked ones vanish, searched ones stream; memory stays near the limit.
#[test]
fn huge_fields_are_bounded() {
    let mut huge = b"ssn 123-45-6789 ".repeat(3 * FIELD_BYTES_MAX / 16);
    huge.extend_from_slice(b"bob@example.com\\n");
    let mut row = b"1\t".to_vec();
    row.extend_from_slice(&huge);
    row.push(b'\t');
    row.extend_from_slice(&huge);
    row.push(b'\n');
    let mut masker = masker(options(&[]), &COLUMNS);
    let out = run(&mut masker, &row, 8192).unwrap();
    assert!(out.starts_with(b"1\t[redacted]\tssn "));
    assert!(out.ends_with(b" b***@example.com\\n\n"));
    assert_eq!(masker.findings().count(Detector::Email), 1);
}

/// Long CSV and JSON fields stay what they are when they are searched in a stream.
#[test]
fn huge_fields_keep_their_syntax() {
    let filler = "plain words, ".repeat(2 * FIELD_BYTES_MAX / 13);
    let columns = [(CellAction::Detect, TEXT), (CellAction::Detect, 114)];
    let row =
        format!("\"{filler}say \"\"hi\"\" to bob@example.com\",\"[\"\"{filler}\"\",4111111111111111]\"\n");
    let expected = row.replace("bob@", "b***@").replace("4111111111111111", "\"\"[redacted]\"\"");
    for size in [1000, 77_777, row.len()] {
        let mut masker = masker(options(&[("format", Some("csv"))]), &columns);
        let out = run(&mut masker, row.as_bytes(), size).unwrap();
        assert!(out == expected.as_bytes(), "pieces of {size}");
        assert_eq!(masker.rows(), 1);
    }
}

#[test]
fn huge_binary_fields_keep_their_length() {
    let mut huge = b"ssn 123-45-6789 ".repeat(2 * FIELD_BYTES_MAX / 16);
    huge.extend_from_slice(b"bob@example.com");
    let data = binary(&[&[None, Some(&huge), Some(&huge)]], 0, b"");
    let out = run(&mut masker(CopyFormat::Binary, &COLUMNS), &data, 8192).unwrap();
    let mut searched = huge.clone();
    let start = searched.len() - "bob@example.com".len();
    searched[start..].fill(b'*');
    assert!(out == binary(&[&[None, Some(b"[redacted]"), Some(&searched)]], 0, b""));
}
