//! Rows with edited cells, and the reports we write.

use bytes::BytesMut;

use super::{CAPTURES, message, read};
use crate::codec::postgres::backend::{Notification, decode_data_row};
use crate::codec::postgres::encode::{backend as say, frontend as ask};
use crate::codec::postgres::fields::{Format, Text};
use crate::codec::postgres::report::{FieldEdit, OwnReport, REPORT_FIELD_BYTES_MAX, Report, Severity};
use crate::codec::postgres::row::{Edit, Rewritten, RowRewriter};
use crate::codec::postgres::{BackendTag, DecodeError, Frame, Item, Scanner, Tag, backend, sqlstate};

/// A row with these cells.
fn row(cells: &[Option<&str>]) -> BytesMut {
    let mut out = BytesMut::new();
    say::data_row(&mut out, cells.iter().map(|cell| cell.map(str::as_bytes))).unwrap();
    out
}

/// Rewrites after some earlier output, which must stay as it was.
fn rewrite(
    row: &[u8],
    columns: &[u16],
    edit: impl FnMut(u16, &[u8], &mut Vec<u8>) -> Edit,
) -> Result<(Rewritten, Vec<u8>), DecodeError> {
    let mut out = BytesMut::from(&b"before"[..]);
    let frame = Frame { tag: BackendTag::DataRow, bytes: row };
    let result = RowRewriter::default().rewrite(frame, columns, &mut out, edit);
    assert!(out.starts_with(b"before"));
    if result != Ok(Rewritten::Changed) {
        assert_eq!(out, &b"before"[..], "nothing is written but a changed row");
    }
    result.map(|rewritten| (rewritten, out[6..].to_vec()))
}

#[test]
fn chosen_cells_change_and_the_rest_stays() {
    let given = row(&[Some("1"), Some("4111111111111111"), None, Some(""), Some("a@b.example"), Some("z")]);
    let (result, written) = rewrite(&given, &[1, 2, 3, 4], |column, value, scratch| match column {
        1 => {
            scratch.extend_from_slice(b"**** ");
            scratch.extend_from_slice(&value[12..]);
            Edit::Replace
        }
        3 => Edit::Keep,
        4 => Edit::Null,
        other => panic!("column {other} is NULL or was not chosen"),
    })
    .unwrap();
    assert_eq!(result, Rewritten::Changed);
    assert!(written == row(&[Some("1"), Some("**** 1111"), None, Some(""), None, Some("z")]));
}

#[test]
fn first_and_last_cells_change_to_longer_shorter_and_empty() {
    let given = row(&[Some("first"), Some("middle"), Some("last")]);
    for (text, columns) in [("", &[0u16, 2][..]), ("longer than before", &[0, 2]), ("x", &[0]), ("x", &[2])] {
        let (_, written) = rewrite(&given, columns, |_, _, scratch| {
            scratch.extend_from_slice(text.as_bytes());
            Edit::Replace
        })
        .unwrap();
        let cell = |index: u16, kept| Some(if columns.contains(&index) { text } else { kept });
        assert!(
            written == row(&[cell(0, "first"), Some("middle"), cell(2, "last")]),
            "{text} in {columns:?}"
        );
    }
}

#[test]
fn a_row_that_stays_is_not_written() {
    let given = row(&[Some("1"), None]);
    let untouched = |_: u16, _: &[u8], scratch: &mut Vec<u8>| {
        scratch.extend_from_slice(b"not to be used");
        Edit::Keep
    };
    assert_eq!(rewrite(&given, &[0, 1], untouched), Ok((Rewritten::Unchanged, vec![])));
    assert_eq!(
        rewrite(&given, &[], |_, _, _| panic!("no column is chosen")),
        Ok((Rewritten::Unchanged, vec![]))
    );
    assert_eq!(rewrite(&row(&[]), &[], |_, _, _| Edit::Null), Ok((Rewritten::Unchanged, vec![])));
}

#[test]
fn a_row_that_does_not_add_up_is_refused_whichever_cells_are_chosen() {
    let given = row(&[Some("first"), Some("last")]);
    let null = |_: u16, _: &[u8], _: &mut Vec<u8>| Edit::Null;
    let mut short = given.to_vec();
    short.pop();
    assert!(matches!(rewrite(&short, &[0], null), Err(DecodeError::Truncated { .. })));
    let mut long = given.to_vec();
    long.push(0);
    assert!(matches!(rewrite(&long, &[0], null), Err(DecodeError::Trailing { .. })));
    assert!(matches!(rewrite(&given, &[0, 2], null), Err(DecodeError::Value { .. })), "there is no column 2");
    assert!(matches!(rewrite(&given, &[1, 0], null), Err(DecodeError::Value { .. })), "out of order");
    assert!(matches!(rewrite(&given, &[1, 1], null), Err(DecodeError::Value { .. })), "twice");
    let mut fewer = given.to_vec();
    fewer[6] = 1;
    assert!(matches!(rewrite(&fewer, &[1], null), Err(DecodeError::Value { .. })));
    assert!(matches!(rewrite(&fewer, &[0], null), Err(DecodeError::Trailing { .. })));
}

#[test]
fn captured_rows_rewritten_to_what_they_are_stay_equal() {
    let mut rewriter = RowRewriter::default();
    let mut changed = 0;
    for capture in CAPTURES {
        for seen in read::<BackendTag>(capture.server_messages(), []).unwrap() {
            if seen.tag != BackendTag::DataRow {
                continue;
            }
            let bytes = message(b'D', &seen.body);
            let columns = (0..decode_data_row(&seen.body).unwrap().len() as u16).collect::<Vec<_>>();
            let mut out = BytesMut::new();
            let frame = Frame { tag: BackendTag::DataRow, bytes: &bytes };
            let result = rewriter.rewrite(frame, &columns, &mut out, |_, value, scratch| {
                scratch.extend_from_slice(value);
                Edit::Replace
            });
            let same = if result == Ok(Rewritten::Changed) { out == bytes } else { out.is_empty() };
            assert!(same, "{}: {result:?}", capture.name);
            changed += usize::from(result == Ok(Rewritten::Changed));
        }
    }
    assert!(changed > 50, "only {changed} rows were rewritten");
}

#[test]
fn rewritten_rows_follow_each_other_in_one_buffer() {
    let mut rewriter = RowRewriter::default();
    let mut out = BytesMut::new();
    for name in ["ann", "bob", "cy"] {
        let given = row(&[Some(name), Some("x")]);
        let frame = Frame { tag: BackendTag::DataRow, bytes: &given };
        let result = rewriter.rewrite(frame, &[0], &mut out, |_, value, scratch| {
            scratch.extend(value.iter().rev());
            Edit::Replace
        });
        assert_eq!(result, Ok(Rewritten::Changed));
    }
    let mut input: &[u8] = &out;
    let mut scanner = Scanner::<BackendTag>::new();
    let mut names = vec![];
    while let Some(Item::Frame(frame)) = scanner.next(&mut input).unwrap() {
        names.push(decode_data_row(frame.body()).unwrap().next().flatten().unwrap().to_vec());
    }
    assert_eq!(names, [&b"nna"[..], b"bob", b"yc"]);
    assert!(input.is_empty());
}

#[test]
fn our_reports_have_every_field_and_no_nul() {
    let mut out = BytesMut::new();
    OwnReport::new(Severity::Error, sqlstate::INSUFFICIENT_PRIVILEGE, "refused\0 by rule \"no ddl\"")
        .detail("DROP DATABASE needs approval")
        .hint("portcullis approvals")
        .write(&mut out);
    assert_eq!(out[0], b'E');
    let report = Report::decode_error(&out[5..]).unwrap();
    let fields = report.clone().map(|(code, text)| (char::from(code), text.to_str().unwrap().to_owned()));
    let expected = [
        ('S', "ERROR"),
        ('V', "ERROR"),
        ('C', "42501"),
        ('M', "refused by rule \"no ddl\""),
        ('D', "DROP DATABASE needs approval"),
        ('H', "portcullis approvals"),
    ];
    assert_eq!(fields.collect::<Vec<_>>(), expected.map(|(code, text)| (code, text.to_owned())));
    assert_eq!(report.sqlstate(), Some(sqlstate::INSUFFICIENT_PRIVILEGE));
}

#[test]
fn our_reports_are_bounded_and_go_out_as_what_they_are() {
    for (severity, tag) in [
        (Severity::Error, BackendTag::ErrorResponse),
        (Severity::Fatal, BackendTag::ErrorResponse),
        (Severity::Notice, BackendTag::NoticeResponse),
        (Severity::Warning, BackendTag::NoticeResponse),
    ] {
        let mut out = BytesMut::new();
        OwnReport::new(severity, sqlstate::SUCCESSFUL_COMPLETION, "ü".repeat(REPORT_FIELD_BYTES_MAX))
            .write(&mut out);
        let Ok(Some(Item::Frame(frame))) = Scanner::<BackendTag>::new().next(&mut &out[..]) else { panic!() };
        assert_eq!((frame.tag, backend::check(frame)), (tag, Ok(())));
        let text = Report::decode_error(frame.body()).unwrap().get(Report::MESSAGE).unwrap();
        assert_eq!(text.len(), REPORT_FIELD_BYTES_MAX);
        assert!(text.to_str().is_some(), "cut between characters");
    }
}

#[test]
fn a_servers_report_keeps_what_is_not_edited() {
    let given =
        b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey (ssn)=(078051120) exists.\0tcustomers\0R_bt_check\0\0";
    for tag in [BackendTag::ErrorResponse, BackendTag::NoticeResponse] {
        let decode =
            if tag == BackendTag::ErrorResponse { Report::decode_error } else { Report::decode_notice };
        let report = decode(given).unwrap();
        let mut out = BytesMut::new();
        report.rewrite(&mut out, |_, _| FieldEdit::Keep);
        assert!(out == message(tag.byte(), given));
        out.clear();
        report.rewrite(&mut out, |code, text| match code {
            Report::DETAIL => FieldEdit::Replace(text.to_str().unwrap().replace("078051120", "\0***").into()),
            b'R' => FieldEdit::Drop,
            _ => FieldEdit::Keep,
        });
        let expected = b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey (ssn)=(***) exists.\0tcustomers\0\0";
        assert!(out == message(tag.byte(), expected));
    }
}

#[test]
fn notifications_and_copied_data_are_written_whole() {
    let body = b"\0\0\0\x07ch\0payload\0";
    let mut out = BytesMut::new();
    say::notification_response(&mut out, Notification::decode(body).unwrap()).unwrap();
    say::copy_data(&mut out, b"1\tx\n").unwrap();
    assert!(out == [message(b'A', body), message(b'd', b"1\tx\n")].concat());
}

#[test]
fn what_does_not_fit_a_count_is_refused_and_leaves_nothing() {
    let mut out = BytesMut::from(&b"before"[..]);
    let many = usize::from(u16::MAX) + 1;
    assert!(say::data_row(&mut out, vec![None; many].into_iter()).is_err());
    assert!(say::parameter_description(&mut out, vec![23; many].into_iter()).is_err());
    assert!(ask::parse(&mut out, Text::EMPTY, Text::EMPTY, vec![23; many].into_iter()).is_err());
    let formats = vec![Format::Text; many];
    let error = ask::bind(&mut out, Text::EMPTY, Text::EMPTY, &[], [].into_iter(), &formats).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the client's Bind message, as written by the proxy, does not fit the protocol"
    );
    assert_eq!(out, &b"before"[..]);
    say::data_row(&mut out, vec![None; many - 1].into_iter()).unwrap();
    assert!(out[6..] == message(b'D', &out[11..]), "the longest row is one message");
}
