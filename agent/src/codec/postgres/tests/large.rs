//! Messages too long to hold: streamed, discarded, taken apart.

use bytes::BytesMut;

use super::{Random, Reader, message, message_of_length};
use crate::codec::postgres::encode::{backend as say, frontend as ask};
use crate::codec::postgres::fields::{Format, Text};
use crate::codec::postgres::frontend::BindHead;
use crate::codec::postgres::split::{BindEvent, BindSplitter, RowEvent, RowSplitter, ValueEvent};
use crate::codec::postgres::tag::{BODY_BYTES_MAX, SQL_BODY_BYTES_MAX, WHOLE_BODY_BYTES_MAX};
use crate::codec::postgres::{BackendTag, DecodeError, FrontendTag, Item, Message, Scanner, encode};

const ROW: Message = Message::Backend(BackendTag::DataRow);

/// A row's body with these cells.
fn row(cells: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    say::data_row(&mut out, cells.iter().copied()).unwrap();
    out[5..].to_vec()
}

#[test]
fn bodies_up_to_the_limit_come_whole_and_longer_ones_stream() {
    let limits = [(b'D', WHOLE_BODY_BYTES_MAX), (b'd', WHOLE_BODY_BYTES_MAX), (b'E', WHOLE_BODY_BYTES_MAX)];
    for (tag, limit) in limits {
        for (body, whole) in [(limit, true), (limit + 1, false)] {
            let mut reader = Reader::<BackendTag>::new();
            reader.feed(&message(tag, &vec![1; body])).unwrap();
            reader.feed(&message(b'Z', b"I")).unwrap();
            assert_eq!(reader.seen.len(), 2);
            assert_eq!((reader.seen[0].whole, reader.seen[0].body.len()), (whole, body));
        }
    }
    for (body, whole) in [(SQL_BODY_BYTES_MAX, true), (SQL_BODY_BYTES_MAX + 1, false)] {
        let mut reader = Reader::<FrontendTag>::new();
        reader.feed(&message(b'Q', &vec![b' '; body])).unwrap();
        assert_eq!((reader.seen[0].whole, reader.seen[0].body.len()), (whole, body));
    }
}

#[test]
fn a_gigabyte_streams_without_being_held() {
    let mut scanner = Scanner::<BackendTag>::new();
    let mut head = BytesMut::new();
    encode::large_header(&mut head, BackendTag::DataRow, BODY_BYTES_MAX);
    let mut input: &[u8] = &head;
    let large = Item::Large { tag: BackendTag::DataRow, body: BODY_BYTES_MAX };
    assert_eq!(scanner.next(&mut input), Ok(Some(large)));
    let piece = vec![0; 1 << 20];
    let mut streamed = 0;
    while streamed < BODY_BYTES_MAX {
        assert!(!scanner.at_boundary());
        let mut input = piece.as_slice();
        assert_eq!(scanner.wanted(input), 1, "nothing is reserved for it");
        let Ok(Some(Item::Chunk { bytes, left, .. })) = scanner.next(&mut input) else { panic!("a chunk") };
        assert_eq!(bytes.as_ptr(), piece.as_ptr(), "a chunk is a slice of the input");
        streamed += bytes.len();
        assert_eq!(left, BODY_BYTES_MAX - streamed);
    }
    assert!(scanner.at_boundary());
}

#[test]
fn a_refused_statement_of_100_megabytes_is_dropped_as_it_comes() {
    let body = 100 << 20;
    let mut scanner = Scanner::<FrontendTag>::new();
    let mut head = BytesMut::new();
    encode::large_header(&mut head, FrontendTag::Parse, body);
    head.extend_from_slice(b"\0SELECT 1");
    let mut input: &[u8] = &head;
    assert_eq!(scanner.next(&mut input), Ok(Some(Item::Large { tag: FrontendTag::Parse, body })));
    scanner.discard();
    assert_eq!(scanner.next(&mut input), Ok(None));
    assert!(input.is_empty() && !scanner.at_boundary());
    let mut left = body - 9;
    let piece = vec![b'x'; 1 << 20];
    while left > piece.len() {
        let mut input = piece.as_slice();
        assert_eq!(scanner.next(&mut input), Ok(None));
        assert!(input.is_empty());
        left -= piece.len();
    }
    let mut last = vec![b'x'; left];
    ask_sync(&mut last);
    let mut input = last.as_slice();
    let Ok(Some(Item::Frame(sync))) = scanner.next(&mut input) else { panic!("the next message") };
    assert_eq!((sync.tag, input.len()), (FrontendTag::Sync, 0));
}

fn ask_sync(bytes: &mut Vec<u8>) {
    let mut out = BytesMut::new();
    ask::sync(&mut out);
    bytes.extend_from_slice(&out);
}

#[test]
fn discarding_between_messages_does_nothing() {
    let mut scanner = Scanner::<FrontendTag>::new();
    scanner.discard();
    let sync = message(b'S', b"");
    assert!(matches!(scanner.next(&mut sync.as_slice()), Ok(Some(Item::Frame(_)))));
}

#[test]
fn wanted_says_what_completes_a_message_and_no_more_than_may_be_held() {
    let scanner = Scanner::<FrontendTag>::new();
    let query = message(b'Q', b"SELECT 1\0");
    for cut in 0..query.len() {
        let expected = if cut < 5 { 5 - cut } else { query.len() - cut };
        assert_eq!(scanner.wanted(&query[..cut]), expected, "cut at {cut}");
    }
    let longest = message_of_length(b'Q', SQL_BODY_BYTES_MAX as u32 + 4, b"");
    assert_eq!(scanner.wanted(&longest), SQL_BODY_BYTES_MAX);
    let longer = message_of_length(b'Q', SQL_BODY_BYTES_MAX as u32 + 5, b"");
    assert_eq!(scanner.wanted(&longer), 1);
    assert_eq!(scanner.wanted(&message_of_length(b'Q', u32::MAX, b"")), 1);
}

/// Splits a body fed in chunks that end at `cuts`, writing it anew with every byte of `masked` cells overwritten.
fn split_row(body: &[u8], cuts: &[usize], masked: &[u16]) -> Result<Vec<u8>, DecodeError> {
    let mut splitter = RowSplitter::new(body.len());
    let mut out = BytesMut::new();
    let (mut from, mut ended) = (0, false);
    for cut in cuts.iter().copied().chain([body.len()]) {
        let mut input = &body[from..cut];
        from = cut;
        while let Some(event) = splitter.next(&mut input)? {
            assert!(!ended, "nothing follows the end");
            match event {
                RowEvent::Start { body: length, columns } => {
                    assert_eq!(length, body.len());
                    encode::count(&mut out, columns);
                }
                RowEvent::Cell(ValueEvent::Start { length, .. }) => encode::value_length(&mut out, length),
                RowEvent::Cell(ValueEvent::Bytes { index, bytes, .. }) if masked.contains(&index) => {
                    out.extend(bytes.iter().map(|_| b'*'));
                }
                RowEvent::Cell(ValueEvent::Bytes { bytes, .. }) => out.extend_from_slice(bytes),
                RowEvent::End => ended = true,
            }
        }
        assert!(input.is_empty());
    }
    assert!(ended, "the row must end with its body");
    Ok(out.to_vec())
}

#[test]
fn a_streamed_row_is_overwritten_in_place_however_it_is_cut() {
    let body = row(&[Some(b"first"), None, Some(b""), Some(b"4111111111111111"), Some(b"last")]);
    let masked = row(&[Some(b"first"), None, Some(b""), Some(b"****************"), Some(b"last")]);
    assert_eq!(split_row(&body, &[], &[3]).unwrap(), masked);
    assert_eq!(split_row(&body, &(0..body.len()).collect::<Vec<_>>(), &[1, 3]).unwrap(), masked);
    for seed in 0..200 {
        let cuts = Random::new(seed).cuts(body.len());
        assert_eq!(split_row(&body, &cuts, &[3]).unwrap(), masked);
    }
    for empty in [row(&[]), row(&[None, None])] {
        assert_eq!(split_row(&empty, &[], &[]).unwrap(), empty);
    }
}

#[test]
fn a_streamed_row_whose_lengths_do_not_add_up_is_refused() {
    let body = row(&[Some(b"first"), Some(b"second")]);
    let with = |at: usize, bytes: &[u8]| {
        let mut body = body.clone();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        split_row(&body, &[], &[]).unwrap_err()
    };
    let truncated = |field| DecodeError::Truncated { message: ROW, field };
    assert_eq!(with(0, &[0, 1]), DecodeError::Trailing { message: ROW, bytes: 10 });
    assert_eq!(with(0, &[0, 3]), truncated("cell"), "room for the later lengths is kept free");
    assert_eq!(with(0, &[0xff, 0xff]), truncated("cell"));
    assert_eq!(with(2, &[0x7f, 0xff, 0xff, 0xff]), truncated("cell"));
    assert_eq!(with(2, &[0, 0, 0, 12]), truncated("cell"), "into the last cell's length");
    let value = |value| DecodeError::Value { message: ROW, field: "cell", value };
    assert_eq!(with(2, &[0xff, 0xff, 0xff, 0xfe]), value(-2));
    assert_eq!(with(11, &[0xff, 0xff, 0xff, 0xff]), DecodeError::Trailing { message: ROW, bytes: 6 });
    assert_eq!(with(11, &[0, 0, 0, 7]), truncated("cell"));
    assert_eq!(with(11, &[0, 0, 0, 5]), DecodeError::Trailing { message: ROW, bytes: 1 });
    assert_eq!(split_row(&[0], &[], &[]), Err(truncated("number of columns")));
}

/// A Bind with a parameter that is too long to hold.
fn long_bind(out: &mut BytesMut, parameter: &[u8]) {
    let parameters = [Some(&b"7"[..]), None, Some(parameter)];
    ask::bind(
        out,
        Text::of(c"po"),
        Text::of(c"st"),
        &[Format::Binary, Format::Text, Format::Binary],
        parameters.into_iter(),
        &[Format::Text, Format::Binary],
    )
    .unwrap();
}

#[test]
fn a_streamed_bind_gives_its_names_first_and_its_formats_last() {
    let parameter = vec![9; WHOLE_BODY_BYTES_MAX];
    let mut out = BytesMut::new();
    long_bind(&mut out, &parameter);
    let body = &out[5..];
    let head_length = 3 + 3 + 2 + 6 + 2;
    for cut in 0..head_length {
        assert_eq!(BindHead::decode_prefix(&body[..cut]), Ok(None), "cut at {cut}");
    }
    let (head, used) = BindHead::decode_prefix(body).unwrap().unwrap();
    assert_eq!((head.portal.as_bytes(), head.statement.as_bytes()), (&b"po"[..], &b"st"[..]));
    assert_eq!((used, head.parameters, head.parameter_formats.len()), (head_length, 3, 3));

    for seed in 0..20 {
        let rest = &body[used..];
        let mut splitter = BindSplitter::new(head.parameters, rest.len());
        let (mut lengths, mut formats, mut received, mut ended, mut from) = (vec![], vec![], 0, false, 0);
        for cut in Random::new(seed).cuts(rest.len()).into_iter().chain([rest.len()]) {
            let mut input = &rest[from..cut];
            from = cut;
            while let Some(event) = splitter.next(&mut input).unwrap() {
                match event {
                    BindEvent::Parameter(ValueEvent::Start { length, .. }) => lengths.push(length),
                    BindEvent::Parameter(ValueEvent::Bytes { bytes, .. }) => received += bytes.len(),
                    BindEvent::ResultFormats { count } => assert_eq!(count, 2),
                    BindEvent::ResultFormat(format) => formats.push(format),
                    BindEvent::End => ended = true,
                }
            }
        }
        assert!(ended);
        assert_eq!(lengths, [Some(1), None, Some(parameter.len() as u32)]);
        assert_eq!(received, 1 + parameter.len());
        assert_eq!(formats, [Format::Text, Format::Binary]);
    }
}

#[test]
fn a_streamed_bind_whose_lengths_do_not_add_up_is_refused() {
    let split = |parameters, body: &[u8]| {
        let mut splitter = BindSplitter::new(parameters, body.len());
        let mut input = body;
        loop {
            match splitter.next(&mut input) {
                Ok(Some(BindEvent::End)) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => panic!("the body is whole, so there is an end or an error"),
                Err(error) => return Err(error),
            }
        }
    };
    assert_eq!(split(1, b"\0\0\0\x01x\0\x01\0\x01"), Ok(()));
    assert_eq!(split(0, b"\0\0"), Ok(()));
    let message = Message::Frontend(FrontendTag::Bind);
    let truncated = |field| Err(DecodeError::Truncated { message, field });
    assert_eq!(split(1, b"\0\0\0\x02x\0\0"), truncated("parameter"), "the count after it is kept free");
    assert_eq!(split(2, b"\0\0\0\x01x\0\0"), truncated("parameter"));
    assert_eq!(split(1, b"\0\0\0\x01x\0\x02\0\x01"), truncated("result format"));
    assert_eq!(split(1, b"\0\0\0\x01x\0\0\0\x01"), Err(DecodeError::Trailing { message, bytes: 2 }));
    let value = |field, value| Err(DecodeError::Value { message, field, value });
    assert_eq!(split(1, b"\0\0\0\x01x\0\x01\0\x02"), value("result format", 2));
    assert_eq!(split(1, b"\x80\0\0\0x\0\0"), value("parameter", i64::from(i32::MIN)));
}
