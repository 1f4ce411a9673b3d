//! The packets a client opens with.

use bytes::BytesMut;

use super::{CAPTURES, capture};
use crate::codec::postgres::backend::decode_backend_key_data;
use crate::codec::postgres::encode::frontend as ask;
use crate::codec::postgres::fields::Text;
use crate::codec::postgres::startup::{
    CancelKey, Negotiation, ProtocolVersion, STARTUP_BODY_BYTES_MAX, StartupMessage, StartupPacket, decode,
};
use crate::codec::postgres::{BackendTag, DecodeError, Message, SqlState, sqlstate};
use crate::flow::Side;

/// A packet with this code and body, and the true length before it.
fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn startup(code: u32, body: &[u8]) -> Result<(Vec<(String, String)>, ProtocolVersion), DecodeError> {
    match decode(&packet(code, body))? {
        Some((StartupPacket::Startup(StartupMessage { version, parameters }), _)) => {
            let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            Ok((parameters.into_iter().map(own).collect(), version))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn captured_packets_wait_for_their_last_byte() {
    let requests = [
        &include_bytes!("../testdata/cancel-request.client.bin")[..],
        &include_bytes!("../testdata/cancel18-request.client.bin")[..],
    ];
    for bytes in CAPTURES.iter().map(|capture| capture.client).chain(requests) {
        let (packet, used) = decode(bytes).unwrap().unwrap();
        for cut in 0..used {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(decode(&bytes[..used]), Ok(Some((packet, used))));
    }
}

#[test]
fn psql_asks_for_tls_first() {
    let bytes = capture("simple").client;
    assert_eq!(decode(bytes), Ok(Some((StartupPacket::SslRequest, 8))));
    let Ok(Some((StartupPacket::Startup(message), _))) = decode(&bytes[8..]) else {
        panic!("a startup message")
    };
    assert_eq!(message.version, ProtocolVersion::V3_0);
    assert_eq!((message.get("user"), message.get("application_name")), (Some("shop"), Some("psql")));
    assert_eq!(message.get("replication"), None);
    assert_eq!(message.parameters.first(), Some(&("user", "shop")));
}

#[test]
fn a_cancel_request_bears_the_key_of_its_session() {
    let pairs = [
        ("cancel", &include_bytes!("../testdata/cancel-request.client.bin")[..]),
        ("cancel18", &include_bytes!("../testdata/cancel18-request.client.bin")[..]),
    ];
    for (name, request) in pairs {
        let Ok(Some((StartupPacket::CancelRequest(asked), used))) = decode(request) else { panic!("{name}") };
        assert_eq!(used, request.len());
        let said = super::read::<BackendTag>(capture(name).server_messages(), []).unwrap();
        let key = said.iter().find(|seen| seen.tag == BackendTag::BackendKeyData).unwrap();
        assert!(decode_backend_key_data(&key.body) == Ok(asked), "{name}");
        let mut out = BytesMut::new();
        ask::cancel_request(&mut out, asked).unwrap();
        assert_eq!(out, request);
    }
}

#[test]
fn startup_messages_encode_to_what_was_captured() {
    for capture in CAPTURES.iter().filter(|capture| capture.name != "simple") {
        let Ok(Some((StartupPacket::Startup(message), used))) = decode(capture.client) else { panic!() };
        let text = |text: &'static str| Text::new(text.as_bytes()).unwrap();
        let mut out = BytesMut::new();
        let parameters = message.parameters.iter().map(|(name, value)| (text(name), text(value)));
        ask::startup(&mut out, message.version, parameters).unwrap();
        assert!(out == capture.client[..used], "{}", capture.name);
    }
    let mut out = BytesMut::new();
    ask::ssl_request(&mut out);
    ask::gssenc_request(&mut out);
    assert_eq!(decode(&out), Ok(Some((StartupPacket::SslRequest, 8))));
    assert_eq!(decode(&out[8..]), Ok(Some((StartupPacket::GssEncRequest, 8))));
}

#[test]
fn our_own_startup_message_has_limits() {
    let long = vec![b'x'; STARTUP_BODY_BYTES_MAX];
    let user = Text::of(c"user");
    let mut out = BytesMut::from(&b"before"[..]);
    assert!(ask::startup(&mut out, ProtocolVersion::V3_0, [(user, Text::new(&long).unwrap())]).is_err());
    assert!(ask::startup(&mut out, ProtocolVersion::V3_0, [(Text::EMPTY, user)]).is_err());
    assert!(ask::cancel_request(&mut out, CancelKey { process_id: 1, secret_key: &long }).is_err());
    assert_eq!(out, &b"before"[..], "nothing is left of a message that failed");
}

#[test]
fn tls_without_asking_is_seen_by_its_first_byte() {
    assert_eq!(decode(&[0x16]), Ok(Some((StartupPacket::DirectTls, 0))));
    assert_eq!(decode(&[0x16, 3, 1, 2, 0]), Ok(Some((StartupPacket::DirectTls, 0))));
}

#[test]
fn other_protocols_are_refused_by_their_length() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", &[0xff; 4], &[0, 0, 0, 0], &[0, 0, 0, 7]] {
        let error = decode(bytes).unwrap_err();
        assert!(matches!(error, DecodeError::Length { message: Message::Startup, .. }), "{error}");
        assert_eq!((error.side(), error.sqlstate()), (Side::Client, sqlstate::PROTOCOL_VIOLATION));
    }
    let mut largest = packet(0x30000, &vec![b'x'; STARTUP_BODY_BYTES_MAX - 4]);
    assert!(matches!(decode(&largest), Err(DecodeError::Unterminated { .. })), "the largest is read");
    largest[..4].copy_from_slice(&(STARTUP_BODY_BYTES_MAX as u32 + 5).to_be_bytes());
    assert!(matches!(decode(&largest), Err(DecodeError::Length { .. })), "one byte more is not");
}

#[test]
fn parameters_must_be_whole_and_unambiguous() {
    let message = Message::Startup;
    let given = startup(0x30002, b"user\0a\0options\0\0\0").unwrap();
    let expected = [("user".to_owned(), "a".to_owned()), ("options".to_owned(), String::new())];
    assert_eq!(given, (expected.to_vec(), ProtocolVersion::V3_2));
    assert_eq!(startup(0x30000, b"user\0a\0user\0b\0\0"), Err(DecodeError::DuplicateParameter));
    assert_eq!(
        startup(0x30000, b"user\0a\0"),
        Err(DecodeError::Unterminated { message, field: "parameter name" })
    );
    assert_eq!(
        startup(0x30000, b"user\0a"),
        Err(DecodeError::Unterminated { message, field: "parameter value" })
    );
    assert_eq!(startup(0x30000, b""), Err(DecodeError::Unterminated { message, field: "parameter name" }));
    assert_eq!(startup(0x30000, b"user\0a\0\0x"), Err(DecodeError::Trailing { message, bytes: 1 }));
    assert_eq!(
        startup(0x30000, b"user\0\xff\0\0"),
        Err(DecodeError::NotUtf8 { message, field: "parameter value" })
    );
    assert_eq!(decode(&packet(80_877_103, b"x")), Err(DecodeError::Trailing { message, bytes: 1 }));
}

#[test]
fn cancel_keys_have_4_to_256_bytes() {
    let request = |length| packet(80_877_102, &vec![7; 4 + length]);
    for length in [4, 32, 256] {
        let bytes = request(length);
        let Ok(Some((StartupPacket::CancelRequest(key), _))) = decode(&bytes) else { panic!("{length}") };
        assert_eq!(key.secret_key.len(), length);
    }
    for length in [0, 3, 257] {
        assert!(matches!(decode(&request(length)), Err(DecodeError::Value { .. })), "{length}");
    }
    assert!(matches!(decode(&packet(80_877_102, &[1])), Err(DecodeError::Truncated { .. })));
}

#[test]
fn versions_are_accepted_negotiated_or_refused() {
    let negotiate = |code, body: &[u8]| match decode(&packet(code, body)) {
        Ok(Some((StartupPacket::Startup(message), _))) => match message.negotiate() {
            Negotiation::Accepted(version) => (version.number(), None),
            Negotiation::Negotiate { version, unknown_options } => {
                (version.number(), Some(unknown_options.len()))
            }
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(negotiate(0x30000, b"user\0a\0\0"), (0x30000, None));
    assert_eq!(negotiate(0x30001, b"user\0a\0\0"), (0x30000, None));
    assert_eq!(negotiate(0x30002, b"user\0a\0\0"), (0x30002, None));
    assert_eq!(negotiate(0x30003, b"user\0a\0\0"), (0x30002, Some(0)));
    assert_eq!(negotiate(0x3270f, b"user\0a\0_pq_.x\0y\0\0"), (0x30002, Some(1)));
    // libpq gives up when the answer names a newer version than it asked for, or 3.1.
    assert_eq!(negotiate(0x30000, b"user\0a\0_pq_.x\0y\0\0"), (0x30000, Some(1)));
    assert_eq!(negotiate(0x30001, b"_pq_.x\0y\0\0"), (0x30000, Some(1)));
    for (code, major, minor) in [(0x20000, 2, 0), (0x40000, 4, 0), (80_877_105, 1234, 5681)] {
        let error = decode(&packet(code, b"\0")).unwrap_err();
        assert_eq!(error, DecodeError::Version { major, minor });
        assert_eq!((error.side(), error.sqlstate()), (Side::Client, sqlstate::FEATURE_NOT_SUPPORTED));
    }
    let bad = include_bytes!("../testdata/badstart.client.bin");
    assert_eq!(decode(bad), Err(DecodeError::Version { major: 2, minor: 0 }));
}

#[test]
fn protocol_options_are_not_for_the_server() {
    let bytes = packet(0x30002, b"user\0a\0_pq_.x\0y\0options\0-c a=b\0\0");
    let Ok(Some((StartupPacket::Startup(message), _))) = decode(&bytes) else { panic!() };
    let names = message.server_parameters().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names, ["user", "options"]);
    assert!(!format!("{message:?}").contains("a=b"), "values stay out of Debug");
}

#[test]
fn sqlstates_are_five_digits_or_capitals() {
    assert_eq!(SqlState::parse(b"42501"), Some(sqlstate::INSUFFICIENT_PRIVILEGE));
    for wrong in [&b"4250"[..], b"425011", b"42p01", b"42 01", b""] {
        assert_eq!(SqlState::parse(wrong), None);
    }
}
