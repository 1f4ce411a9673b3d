//! Servers that break the protocol, and what they may say at any time.

use super::{Fixture, complete, description, error, message, parse, query, ready, row, run, sync};
use crate::flow::Side;

#[test]
fn what_nobody_asked_for_ends_the_session() {
    let unasked = [
        ready(b'I'),
        row("1"),
        description("x"),
        complete("SELECT 1"),
        message(b'1', &[]),
        message(b'2', &[]),
        message(b'3', &[]),
        message(b'n', &[]),
        message(b's', &[]),
        message(b'I', &[]),
        message(b't', &[0, 0]),
        message(b'G', &[0, 0, 0]),
        message(b'H', &[0, 0, 0]),
        message(b'W', &[0, 0, 0]),
        message(b'd', b"data"),
        message(b'c', &[]),
        message(b'V', &[255; 4]),
        message(b'R', &[0; 4]),
        message(b'K', &[0; 8]),
        message(b'v', &[0; 8]),
    ];
    for bytes in &unasked {
        let mut fixture = Fixture::new();
        let broken = fixture.reply(bytes).unwrap_err();
        assert_eq!((broken.side(), fixture.heard().as_str()), (Side::Upstream, ""), "{bytes:?}");
    }
}

#[test]
fn a_reply_out_of_turn_ends_the_session() {
    let cases: [(Vec<u8>, Vec<u8>); 8] = [
        ([run("SELECT 1"), sync()].concat(), ready(b'I')),
        ([run("SELECT 1"), sync()].concat(), message(b'2', &[])),
        ([run("SELECT 1"), sync()].concat(), row("1")),
        ([parse("", "SELECT 1"), sync()].concat(), [message(b'1', &[]), complete("SELECT 1")].concat()),
        (query("SELECT 1"), message(b's', &[])),
        (query("SELECT 1"), message(b'n', &[])),
        (query("SELECT 1"), message(b'd', b"x")),
        (query("SELECT 1"), message(b'W', &[0, 0, 0])),
    ];
    for (say, reply) in cases {
        let mut fixture = Fixture::new();
        fixture.say(&say).unwrap();
        assert_eq!(fixture.reply(&reply).unwrap_err().side(), Side::Upstream, "{reply:?}");
    }
}

#[test]
fn asynchronous_messages_pass_at_any_time() {
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
    let status = message(b'S', b"TimeZone\0UTC\0");
    let notification = message(b'A', &[&[0, 0, 0, 1], &b"ch\0payload\0"[..]].concat());
    let all = [notice, status, notification].concat();
    let mut fixture = Fixture::new();
    fixture.reply(&all).unwrap();
    fixture.say(&[run("SELECT 1"), sync()].concat()).unwrap();
    fixture
        .reply(&[message(b'1', &[]), all.clone(), message(b'2', &[]), row("1"), all.clone()].concat())
        .unwrap();
    fixture.reply(&[complete("SELECT 1"), all, ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "NSA1NSA2DNSACNSAZI");
}

#[test]
fn a_lexer_that_leaves_its_pin_ends_the_session() {
    for status in [&b"client_encoding\0SJIS\0"[..], b"standard_conforming_strings\0off\0"] {
        let mut fixture = Fixture::new();
        fixture.reply(&message(b'S', status)).unwrap_err();
    }
}

#[test]
fn the_alias_that_the_server_keeps_is_no_other_encoding() {
    let mut fixture = Fixture::new();
    fixture.reply(&message(b'S', b"client_encoding\0UNICODE\0")).unwrap();
    assert_eq!(fixture.heard(), "S");
}

#[test]
fn the_last_error_of_a_closing_server_is_passed_on() {
    let mut fixture = Fixture::new();
    fixture.reply(&error("57P01")).unwrap();
    assert_eq!(fixture.heard(), "E(57P01)");
    assert!(fixture.conversation.takes_client());
    assert!(!fixture.conversation.has_server_said_why(), "an error is not the end yet");
    fixture.reply(&message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0")).unwrap();
    assert!(fixture.conversation.has_server_said_why());
}

#[test]
fn a_long_error_is_passed_on_whole() {
    let mut fixture = Fixture::new();
    fixture.say(&query("SELECT repeat('x', 1000000)::int")).unwrap();
    let text = "x".repeat(1_000_000);
    let long = message(b'E', format!("SERROR\0VERROR\0C22P02\0Minvalid: {text}\0\0").as_bytes());
    fixture.reply(&long).unwrap();
    assert!(fixture.client == long[..], "byte for byte");
    fixture.reply(&ready(b'I')).unwrap();
    assert!(!fixture.conversation.is_busy());
}

#[test]
fn an_error_without_end_ends_the_session() {
    let mut fixture = Fixture::new();
    fixture.say(&query("SELECT 1")).unwrap();
    let header = [&b"E"[..], &(64 * 1024 * 1024_u32).to_be_bytes()].concat();
    assert!(fixture.reply(&header).is_err());
}

#[test]
fn rows_that_do_not_fit_their_description_end_the_session() {
    // Detectors look at every cell.
    let policy = super::POLICY.to_owned() + "[[mask]]\ndetect = [\"email\"]\nwith = \"partial\"\n";
    let wider = [0, 2, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];
    for bad in [
        &wider[..],
        &[0, 0],
        &[0, 2, 0, 0, 0, 1, b'x'],
        &[0, 1, 0, 0, 0, 9, b'x'],
        &[0, 1, 255, 0, 0, 0],
        &[0, 1],
    ] {
        let mut fixture = Fixture::under(&policy);
        fixture.say(&query("SELECT 1")).unwrap();
        fixture.reply(&description("x")).unwrap();
        let broken = fixture.reply(&message(b'D', bad)).unwrap_err();
        assert_eq!(broken.side(), Side::Upstream, "{bad:?}");
        assert_eq!(fixture.heard(), "T");
    }
}

#[test]
fn rows_without_a_description_end_a_masked_session() {
    let policy = super::POLICY.to_owned() + "[[mask]]\ndetect = [\"email\"]\nwith = \"partial\"\n";
    let mut fixture = Fixture::under(&policy);
    fixture.say(&query("SELECT 1")).unwrap();
    assert!(fixture.reply(&row("someone@example.com")).is_err());
    let mut fixture = Fixture::under(&policy);
    fixture.say(&[run("SELECT 1"), sync()].concat()).unwrap();
    assert_eq!(fixture.sent(), "PBDES", "the description is asked for");
    fixture.reply(&[message(b'1', &[]), message(b'2', &[]), message(b'n', &[])].concat()).unwrap();
    assert!(fixture.reply(&row("someone@example.com")).is_err());
}
