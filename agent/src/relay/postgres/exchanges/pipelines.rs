//! Many messages before one Sync, and errors and refusals in the middle of them.

use super::{
    Fixture, bind, complete, description, error, execute, message, parse, query, ready, row, run, sync,
};
use crate::relay::postgres::replies::REPLIES_MAX;

#[test]
fn a_refused_statement_between_two_others_is_answered_in_its_turn() {
    let mut fixture = Fixture::new();
    let pipeline = [run("SELECT 1"), run("DROP TABLE t"), run("SELECT 2"), sync()].concat();
    fixture.say(&pipeline).unwrap();
    assert_eq!(fixture.sent(), "PBEPS", "what came before, what fails in its place, and the Sync");
    assert_eq!(fixture.heard(), "", "the refusal does not overtake");
    fixture.reply(&[message(b'1', &[]), message(b'2', &[]), row("1")].concat()).unwrap();
    assert_eq!(fixture.heard(), "12D");
    fixture.reply(&[complete("SELECT 1"), error("42601")].concat()).unwrap();
    assert_eq!(fixture.heard(), "CE(42501)");
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!(fixture.heard(), "ZI");
    assert!(!fixture.conversation.is_busy());
}

#[test]
fn everything_up_to_sync_is_skipped_even_a_query() {
    let mut fixture = Fixture::new();
    let skipped = [run("DROP TABLE t"), query("SELECT 1"), message(b'F', &[0; 10]), run("SELECT 2")].concat();
    fixture.say(&skipped).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", "E(42501)"));
    fixture.say(&sync()).unwrap();
    assert_eq!(fixture.sent(), "S");
    fixture.say(&query("SELECT 3")).unwrap();
    assert_eq!(fixture.sent(), "Q", "after Sync things are as before");
}

#[test]
fn what_follows_a_failure_of_the_server_is_skipped() {
    let mut fixture = Fixture::new();
    fixture.say(&run("SELECT 1/0")).unwrap();
    fixture.reply(&[message(b'1', &[]), message(b'2', &[]), error("22012")].concat()).unwrap();
    fixture.say(&[run("SELECT 1"), query("SELECT 2"), message(b'H', &[])].concat()).unwrap();
    assert_eq!(fixture.sent(), "PBEH", "the server would skip the rest, and answer nothing");
    fixture.say(&sync()).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!(fixture.heard(), "12E(22012)ZI");
    fixture.say(&query("SELECT 3")).unwrap();
    fixture.reply(&[description("x"), row("3"), complete("SELECT 1"), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "TDCZI");
}

#[test]
fn a_failure_with_its_sync_already_sent_needs_no_skipping() {
    let mut fixture = Fixture::new();
    fixture.say(&[run("SELECT 1/0"), sync(), run("SELECT 1"), sync()].concat()).unwrap();
    fixture.reply(&error("22012")).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    fixture.say(&query("SELECT 2")).unwrap();
    assert_eq!(fixture.sent(), "PBESPBESQ");
    assert_eq!(fixture.heard(), "E(22012)ZI");
}

#[test]
fn a_name_nobody_gave_is_refused_without_the_server() {
    let mut fixture = Fixture::new();
    fixture.say(&[bind("", "ghost"), sync()].concat()).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    fixture.say(&[execute("ghost", 0), sync()].concat()).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("SS", "E(26000)ZIE(34000)ZI"));
}

#[test]
fn a_deep_pipeline_waits_for_the_server() {
    let mut fixture = Fixture::new();
    fixture.say(&run("SELECT 1").repeat(REPLIES_MAX)).unwrap();
    assert!(!fixture.conversation.takes_client());
    assert_eq!(fixture.sent().len(), REPLIES_MAX);
    let replies = [message(b'1', &[]), message(b'2', &[]), row("1"), complete("SELECT 1")].concat();
    fixture.reply(&replies).unwrap();
    assert_eq!(fixture.sent().len(), 3, "as many as were answered");
}

#[test]
fn long_statements_are_refused_and_the_session_goes_on() {
    let mut fixture = Fixture::new();
    let long = format!("SELECT '{}'", "x".repeat(2 * 1024 * 1024));
    fixture.say(&query(&long)).unwrap();
    assert_eq!(fixture.heard(), "E(54000)ZI");
    fixture.say(&[parse("", &long), bind("", ""), execute("", 0), sync()].concat()).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("S", "E(54000)ZI"));
}

#[test]
fn statements_that_are_not_utf8_are_refused() {
    let mut fixture = Fixture::new();
    fixture.say(&message(b'Q', b"SELECT '\xff'\0")).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", "E(22021)ZI"));
}

#[test]
fn what_changes_the_lexer_is_refused_by_either_protocol() {
    let mut fixture = Fixture::new();
    for sql in [
        "SET client_encoding = 'SJIS'",
        "SET standard_conforming_strings = off",
        "RESET ALL; SET NAMES 'latin1'",
    ] {
        fixture.say(&query(sql)).unwrap();
        assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("", "E(42501)ZI"), "{sql}");
        fixture.say(&[run(sql.trim_start_matches("RESET ALL; ")), sync()].concat()).unwrap();
        fixture.reply(&ready(b'I')).unwrap();
        assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("S", "E(42501)ZI"), "{sql}");
    }
}

#[test]
fn what_leaves_the_lexer_as_it_is_passes_however_it_is_written() {
    let mut fixture = Fixture::new();
    for sql in [
        "SET client_encoding = 'UNICODE'",
        "SET client_encoding TO 'Utf_8'",
        "SET NAMES 'utf8'",
        "SET standard_conforming_strings = 'TRUE'",
        "SELECT pg_catalog.set_config('client_encoding', 'utf-8', false)",
    ] {
        fixture.say(&query(sql)).unwrap();
        assert_eq!(fixture.sent(), "Q", "{sql}");
        fixture.reply(&[complete("SET"), ready(b'I')].concat()).unwrap();
        fixture.heard();
    }
}
