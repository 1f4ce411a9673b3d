//! What no honest peer sends: each is an error that names the message and the side, and nothing is reserved for it.

use super::{Reader, message, message_of_length};
use crate::codec::postgres::backend::{
    Authentication, CommandComplete, decode_backend_key_data, decode_data_row,
};
use crate::codec::postgres::fields::Text;
use crate::codec::postgres::frontend::{Bind, PasswordMessage, Query, SaslInitialResponse};
use crate::codec::postgres::report::Report;
use crate::codec::postgres::tag::{BODY_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use crate::codec::postgres::{
    BackendTag, DecodeError, Frame, FrontendTag, Message, Scanner, Tag, backend, frontend, sqlstate,
};
use crate::flow::Side;

/// All tags of one side, found by trying every byte.
fn tags<T: Tag>() -> Vec<T> {
    (0..=u8::MAX).filter_map(T::from_byte).collect()
}

#[test]
fn the_sets_of_tags_are_those_of_the_documentation() {
    let bytes = |tags: Vec<u8>| String::from_utf8(tags).unwrap();
    assert_eq!(bytes(tags::<FrontendTag>().iter().map(|tag| tag.byte()).collect()), "BCDEFHPQSXcdfp");
    assert_eq!(
        bytes(tags::<BackendTag>().iter().map(|tag| tag.byte()).collect()),
        "123ACDEGHIKNRSTVWZcdnstv"
    );
}

#[test]
fn unknown_tags_are_errors_at_their_first_byte_and_stay_errors() {
    fn all<T: Tag>() {
        for byte in (0..=u8::MAX).filter(|byte| T::from_byte(*byte).is_none()) {
            let mut scanner = Scanner::<T>::new();
            let bytes = [byte];
            let mut input = &bytes[..];
            let error = DecodeError::UnknownTag { side: T::SIDE, byte };
            assert_eq!(scanner.next(&mut input), Err(error));
            assert_eq!(scanner.next(&mut input), Err(error), "neither scanner nor input has moved");
            assert_eq!((input.len(), error.side()), (1, T::SIDE));
        }
    }
    all::<FrontendTag>();
    all::<BackendTag>();
}

#[test]
fn lengths_outside_a_tags_bounds_are_errors_before_the_body_comes() {
    fn all<T: Tag>() {
        for tag in tags::<T>() {
            let bounds = tag.bounds();
            assert!(bounds.min <= bounds.whole && bounds.whole <= bounds.max && bounds.max <= BODY_BYTES_MAX);
            let (min, max) = (bounds.min as u32 + 4, bounds.max as u32 + 4);
            for length in [0, 1, 3, min - 1, max + 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                let bytes = message_of_length(tag.byte(), length, b"");
                let error = DecodeError::Length { message: tag.message(), length, min, max };
                assert_eq!(Scanner::<T>::new().next(&mut bytes.as_slice()), Err(error), "{tag:?}");
                assert_eq!((error.side(), error.sqlstate()), (T::SIDE, sqlstate::PROTOCOL_VIOLATION));
            }
            for length in [min, max] {
                let bytes = message_of_length(tag.byte(), length, b"");
                assert!(Scanner::<T>::new().next(&mut bytes.as_slice()).is_ok(), "{tag:?}");
            }
        }
    }
    all::<FrontendTag>();
    all::<BackendTag>();
}

#[test]
fn messages_before_an_error_are_still_given() {
    let mut bytes = message(b'S', b"");
    bytes.extend(message_of_length(b'S', 3, b""));
    let mut reader = Reader::<FrontendTag>::new();
    assert!(matches!(reader.feed(&bytes), Err(DecodeError::Length { .. })));
    assert_eq!(reader.seen.len(), 1);
    assert!(matches!(reader.feed(b"more"), Err(DecodeError::Length { .. })), "there is no way on");
}

/// Bodies of a client's messages that a decoder must accept.
const CLIENT_BODIES: &[(FrontendTag, &[u8])] = &[
    (FrontendTag::Query, b"SELECT 1\0"),
    (FrontendTag::Parse, b"st\0SELECT $1\0\0\x02\0\0\0\x17\0\0\0\x19"),
    (FrontendTag::Bind, b"po\0st\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\0"),
    (FrontendTag::Describe, b"Sst\0"),
    (FrontendTag::Close, b"Ppo\0"),
    (FrontendTag::Execute, b"po\0\0\0\0\x03"),
    (FrontendTag::FunctionCall, b"\0\0\x05\x75\0\x01\0\0\0\x01\0\0\0\x02-5\0\0"),
    (FrontendTag::CopyFail, b"no\0"),
];

/// Bodies of a server's messages that a decoder must accept.
const SERVER_BODIES: &[(BackendTag, &[u8])] = &[
    (BackendTag::Authentication, b"\0\0\0\x05salt"),
    (BackendTag::Authentication, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
    (BackendTag::ParameterStatus, b"TimeZone\0UTC\0"),
    (BackendTag::ReadyForQuery, b"T"),
    (BackendTag::RowDescription, b"\0\x01id\0\0\0\x40\x01\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"),
    (BackendTag::DataRow, b"\0\x02\0\0\0\x01x\xff\xff\xff\xff"),
    (BackendTag::CommandComplete, b"SELECT 1\0"),
    (BackendTag::ErrorResponse, b"SERROR\0C42501\0Mno\0\0"),
    (BackendTag::NoticeResponse, b"SNOTICE\0C00000\0Mwell\0\0"),
    (BackendTag::CopyInResponse, b"\x01\0\x02\0\x01\0\x01"),
    (BackendTag::ParameterDescription, b"\0\x02\0\0\0\x17\0\0\0\x19"),
    (BackendTag::NotificationResponse, b"\0\0\0\x07ch\0payload\0"),
    (BackendTag::NegotiateProtocolVersion, b"\0\x03\0\x02\0\0\0\x01_pq_.x\0"),
    (BackendTag::FunctionCallResponse, b"\0\0\0\x015"),
];

fn client(tag: FrontendTag, body: &[u8]) -> Result<(), DecodeError> {
    frontend::check(Frame { tag, bytes: &message(tag.byte(), body) })
}

fn server(tag: BackendTag, body: &[u8]) -> Result<(), DecodeError> {
    backend::check(Frame { tag, bytes: &message(tag.byte(), body) })
}

/// Every proper beginning of a body is refused, and so is the body with a byte more.
fn only_whole(name: &str, body: &[u8], side: Side, decode: impl Fn(&[u8]) -> Result<(), DecodeError>) {
    assert_eq!(decode(body), Ok(()), "{name}");
    for cut in 0..body.len() {
        let error = decode(&body[..cut]).expect_err(name);
        assert!(
            matches!(error, DecodeError::Truncated { .. } | DecodeError::Unterminated { .. }),
            "{name} cut at {cut}: {error}"
        );
        assert_eq!(error.side(), side);
    }
    let mut longer = body.to_vec();
    longer.push(0);
    assert!(
        matches!(decode(&longer), Err(DecodeError::Trailing { bytes: 1, .. })),
        "{name} with a byte more"
    );
}

#[test]
fn bodies_are_read_whole_or_not_at_all() {
    for (tag, body) in CLIENT_BODIES {
        only_whole(&format!("{tag:?}"), body, Side::Client, |body| client(*tag, body));
    }
    for (tag, body) in SERVER_BODIES {
        only_whole(&format!("{tag:?}"), body, Side::Upstream, |body| server(*tag, body));
    }
}

#[test]
fn counts_and_lengths_that_lie_are_errors() {
    let truncated = |result: Result<(), DecodeError>| matches!(result, Err(DecodeError::Truncated { .. }));
    assert!(truncated(client(FrontendTag::Parse, b"\0\0\xff\xff\0\0\0\x17")));
    assert!(truncated(client(FrontendTag::Bind, b"\0\0\xff\xff\0\x01\0\0\0\0")));
    assert!(truncated(client(FrontendTag::Bind, b"\0\0\0\0\xff\xff\0\0\0\0\0\0")));
    assert!(truncated(client(FrontendTag::Bind, b"\0\0\0\0\0\x01\x7f\xff\xff\xffx\0\0")));
    assert!(truncated(client(FrontendTag::Bind, b"\0\0\0\0\0\0\xff\xff\0\x01")));
    assert!(truncated(client(FrontendTag::FunctionCall, b"\0\0\0\x01\0\0\xff\xff\0\0\0\0")));
    assert!(truncated(server(BackendTag::DataRow, b"\xff\xff\0\0\0\0")));
    assert!(truncated(server(BackendTag::DataRow, b"\0\x01\0\0\0\x02x")));
    assert!(truncated(server(BackendTag::DataRow, b"\0\x01\x7f\xff\xff\xffx")));
    assert!(truncated(server(BackendTag::CopyInResponse, b"\0\xff\xff\0\0")));
    assert!(truncated(server(BackendTag::ParameterDescription, b"\xff\xff\0\0\0\x17")));
    let huge_count = server(BackendTag::NegotiateProtocolVersion, b"\0\x03\0\x02\xff\xff\xff\xffx\0");
    assert!(matches!(huge_count, Err(DecodeError::Unterminated { .. })));
    let no_column = server(BackendTag::RowDescription, b"\xff\xff");
    assert!(matches!(no_column, Err(DecodeError::Unterminated { .. })));
}

#[test]
fn values_the_protocol_does_not_define_are_errors() {
    let value = |result: Result<(), DecodeError>| match result {
        Err(DecodeError::Value { field, value, .. }) => (field, value),
        other => panic!("{other:?}"),
    };
    assert_eq!(value(client(FrontendTag::Describe, b"Xst\0")), ("kind", 0x58));
    assert_eq!(value(client(FrontendTag::Bind, b"\0\0\0\x01\0\x02\0\0\0\0")), ("parameter format", 2));
    assert_eq!(
        value(client(FrontendTag::Bind, b"\0\0\0\x02\0\x01\0\x01\0\x01\xff\xff\xff\xff\0\0")),
        ("number of parameter formats", 2)
    );
    assert_eq!(value(client(FrontendTag::Bind, b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0")), ("parameter", -2));
    assert_eq!(value(client(FrontendTag::Bind, b"\0\0\0\0\0\0\0\x01\0\x03")), ("result format", 3));
    assert_eq!(
        value(client(FrontendTag::FunctionCall, b"\0\0\0\x01\0\x02\0\0\0\0\0\0\0\0")),
        ("number of argument formats", 2)
    );
    assert_eq!(value(server(BackendTag::ReadyForQuery, b"X")), ("transaction status", 0x58));
    assert_eq!(value(server(BackendTag::DataRow, b"\0\x01\x80\0\0\0")), ("cell", i64::from(i32::MIN)));
    assert_eq!(value(server(BackendTag::Authentication, b"\0\0\0\x63")), ("kind", 99));
    assert_eq!(value(server(BackendTag::Authentication, b"\0\0\0\x0a\0")), ("number of mechanisms", 0));
    assert_eq!(value(server(BackendTag::CopyInResponse, b"\x02\0\0")), ("format", 2));
    assert_eq!(value(server(BackendTag::FunctionCallResponse, b"\xff\xff\xff\xfe")), ("result", -2));
    assert_eq!(value(decode_backend_key_data(b"\0\0\0\x01key").map(drop)), ("secret key length", 3));
}

#[test]
fn password_bodies_are_read_as_what_was_asked_for() {
    let first = SaslInitialResponse::decode(b"SCRAM-SHA-256\0\0\0\0\x03abc").unwrap();
    assert_eq!((first.mechanism.as_bytes(), first.data), (&b"SCRAM-SHA-256"[..], Some(&b"abc"[..])));
    let none = SaslInitialResponse::decode(b"EXTERNAL\0\xff\xff\xff\xff").unwrap();
    assert_eq!(none.data, None);
    assert!(matches!(SaslInitialResponse::decode(b"X\0\0\0\0\x04abc"), Err(DecodeError::Truncated { .. })));
    assert!(matches!(SaslInitialResponse::decode(b"X\0\0\0\0\x02abc"), Err(DecodeError::Trailing { .. })));
    assert!(matches!(PasswordMessage::decode(b"secret"), Err(DecodeError::Unterminated { .. })));
    assert!(matches!(PasswordMessage::decode(b"se\0cret\0"), Err(DecodeError::Trailing { .. })));
}

#[test]
fn sql_that_is_not_utf8_or_has_a_nul_inside_is_refused() {
    let query = Query::decode(b"SELECT '\xff'\0").unwrap();
    let message = Message::Frontend(FrontendTag::Query);
    assert_eq!(query.sql(), Err(DecodeError::NotUtf8 { message, field: "text" }));
    assert_eq!(query.sql().unwrap_err().sqlstate(), sqlstate::CHARACTER_NOT_IN_REPERTOIRE);
    let hidden = Query::decode(b"SELECT 1\0; DROP TABLE t\0");
    assert_eq!(hidden, Err(DecodeError::Trailing { message, bytes: 15 }));
    assert_eq!(Text::new(b"SELECT 1\0x"), None);
    assert_eq!(Text::before_nul(b"SELECT 1\0x").as_bytes(), b"SELECT 1");
}

#[test]
fn command_tags_count_rows_only_where_they_do() {
    let rows = |tag: &[u8]| CommandComplete::decode(tag).unwrap().rows();
    assert_eq!(rows(b"INSERT 0 5\0"), Some(5));
    assert_eq!(rows(b"COPY 18446744073709551615\0"), Some(u64::MAX));
    for tag in
        [&b"CREATE TABLE\0"[..], b"BEGIN\0", b"\0", b"SELECT \0", b"SELECT 99999999999999999999\0", b"X -1\0"]
    {
        assert_eq!(rows(tag), None);
    }
}

#[test]
fn debug_shows_lengths_and_never_content() {
    let query = Query::decode(b"SELECT 'hunter2'\0").unwrap();
    let bind = Bind::decode(b"\0\0\0\0\0\x01\0\0\0\x07hunter2\0\0").unwrap();
    let row = decode_data_row(b"\0\x01\0\0\0\x07hunter2").unwrap();
    let key = decode_backend_key_data(b"\0\0\0\x01hunter2").unwrap();
    let report = Report::decode_error(b"Mhunter2\0\0").unwrap();
    let step = Authentication::decode(b"\0\0\0\x0bhunter2").unwrap();
    let shown = format!("{query:?} {bind:?} {row:?} {key:?} {report:?} {step:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
}

#[test]
fn errors_read_as_sentences() {
    let shown = |result: Result<(), DecodeError>| result.unwrap_err().to_string();
    assert_eq!(
        shown(client(FrontendTag::Query, b"x")),
        "the client's Query message has no NUL after its text"
    );
    let length = message_of_length(b'S', 5, b"");
    let error = Scanner::<FrontendTag>::new().next(&mut length.as_slice()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the client's Sync message gives its length as 5 bytes; between 4 and 4 are possible"
    );
    let error = Scanner::<BackendTag>::new().next(&mut &b"\x16"[..]).unwrap_err();
    assert_eq!(error.to_string(), "unknown message type 0x16 from the server");
    assert_eq!(SMALL_BODY_BYTES_MAX, 10_000, "as in the server's PQ_SMALL_MESSAGE_LIMIT");
}
