//! Functions called by their OIDs, without a text.

use super::{Fixture, error, message, query, ready, row, run, sync};
use crate::codec::postgres::backend::decode_function_call_response;
use crate::codec::postgres::frame::HEADER_BYTES;
use crate::relay::postgres::conversation::{Answer, Question};
use crate::upstream::CalledFunction;

const LO_CREAT: u32 = 957;
const PG_READ_FILE: u32 = 2624;

/// A FunctionCall with arguments in text format.
fn call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = [&oid.to_be_bytes()[..], &[0, 0]].concat();
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

fn function(oid: u32, name: &str) -> Answer {
    let (schema, name) = ("pg_catalog".to_owned(), name.to_owned());
    Answer::Function(Some(CalledFunction { oid, schema, name, result_type: 25, argument_types: vec![25] }))
}

fn result(value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap();
    message(b'V', &[&length.to_be_bytes()[..], value.as_bytes()].concat())
}

#[test]
fn the_server_is_asked_once_what_an_oid_of_its_own_stands_for() {
    let mut fixture = Fixture::new();
    fixture.say(&call(LO_CREAT, &["-1"])).unwrap();
    assert!(matches!(fixture.question.take(), Some(Question::Function(LO_CREAT))));
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", ""));
    fixture.answer(function(LO_CREAT, "lo_creat")).unwrap();
    assert_eq!(fixture.sent(), "F");
    fixture.reply(&[result("16500"), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "VZI");
    fixture.say(&call(LO_CREAT, &["-1"])).unwrap();
    assert!(fixture.question.is_none());
    fixture.reply(&[error("53000"), ready(b'I')].concat()).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("F", "E(53000)ZI"));
    // A user's function may have another name by now.
    for _ in 0..2 {
        fixture.say(&call(20_000, &[])).unwrap();
        assert!(matches!(fixture.question.take(), Some(Question::Function(20_000))));
        fixture.answer(function(20_000, "lo_creat")).unwrap();
        fixture.reply(&[result(""), ready(b'I')].concat()).unwrap();
    }
    assert!(!fixture.conversation.is_busy());
}

#[test]
fn what_cannot_be_told_is_refused_and_the_session_goes_on() {
    let mut fixture = Fixture::new();
    fixture.say(&[call(99_999, &[]), query("SELECT 1")].concat()).unwrap();
    fixture.answer(Answer::Function(None)).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("Q", "E(42501)ZI"));
}

#[test]
fn a_call_is_held_as_its_select_would_be() {
    let mut fixture = Fixture::new();
    fixture.say(&call(PG_READ_FILE, &["/etc/passwd"])).unwrap();
    fixture.answer(function(PG_READ_FILE, "pg_read_file")).unwrap();
    assert!(matches!(fixture.question, Some(Question::Held(_))));
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", "N"));
    fixture.answer(Answer::Cancelled).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", "E(57014)ZI"));
}

#[test]
fn set_config_cannot_change_how_texts_are_read() {
    let mut fixture = Fixture::new();
    for arguments in [["standard_conforming_strings", "off"], ["client_encoding", "SJIS"]] {
        fixture.say(&call(2078, &arguments)).unwrap();
        if fixture.question.take().is_some() {
            fixture.answer(function(2078, "set_config")).unwrap();
        }
        assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", "E(42501)ZI"), "{arguments:?}");
    }
    fixture.say(&call(2078, &["role", "it's"])).unwrap();
    assert!(matches!(fixture.question, Some(Question::Held(_))), "it is administration, as SET ROLE is");
}

#[test]
fn a_refused_call_waits_for_its_turn_and_fails_a_transaction() {
    let mut fixture = Fixture::new();
    fixture.say(&[run("SELECT 1"), call(99_999, &[])].concat()).unwrap();
    fixture.answer(Answer::Function(None)).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("PBEPS", ""));
    let answers = [message(b'1', &[]), message(b'2', &[]), row("1"), message(b'C', b"SELECT 1\0")].concat();
    fixture.reply(&[answers, error("42601"), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "12DCE(42501)ZI");
    assert!(!fixture.conversation.is_busy());
    // Skipped behind a refusal, like everything else.
    fixture.say(&[run("DROP TABLE t"), call(LO_CREAT, &[]), sync()].concat()).unwrap();
    assert!(fixture.question.is_none());
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("S", "E(42501)"));
}

#[test]
fn results_are_searched_and_long_ones_withheld() {
    let detects = "\n[[mask]]\ndetect = [\"email\"]\nwith = \"redact\"\n";
    let mut fixture = Fixture::under(&format!("{}{detects}", super::POLICY));
    fixture.say(&call(870, &["x"])).unwrap();
    fixture.answer(function(870, "lower")).unwrap();
    fixture.reply(&result("write to ada@example.com")).unwrap();
    let heard = fixture.client.split();
    let value = decode_function_call_response(&heard[HEADER_BYTES..]).unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(value), "write to [redacted]");
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!(fixture.heard(), "ZI");
    let long = |bytes: usize| result(&"x".repeat(bytes));
    fixture.say(&call(870, &["x"])).unwrap();
    fixture.reply(&[long(1_000_000), ready(b'I')].concat()).unwrap();
    let heard = fixture.client.split();
    assert_eq!((heard[0], heard.len()), (b'V', HEADER_BYTES + 4 + 1_000_000 + ready(b'I').len()));
    fixture.say(&call(870, &["x"])).unwrap();
    fixture.reply(&[long(20_000_000), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "E(54000)ZI");
    assert!(!fixture.conversation.is_busy());
}

#[test]
fn a_result_that_nobody_asked_for_ends_the_session() {
    let mut fixture = Fixture::new();
    fixture.say(&query("SELECT 1")).unwrap();
    assert!(fixture.reply(&result("1")).is_err());
}
