//! COPY in both protocols, by clients that wait and by clients that do not.

use super::{Fixture, complete, error, message, query, ready, run, sync};

fn copy_in() -> Vec<u8> {
    message(b'G', &[0, 0, 1, 0, 0])
}

fn data() -> Vec<u8> {
    message(b'd', b"1\n")
}

fn done() -> Vec<u8> {
    message(b'c', &[])
}

#[test]
fn a_copy_by_simple_query() {
    let mut fixture = Fixture::new();
    fixture.say(&query("COPY t FROM STDIN")).unwrap();
    fixture.reply(&copy_in()).unwrap();
    fixture.say(&[data(), data(), done()].concat()).unwrap();
    fixture.reply(&[complete("COPY 2"), ready(b'I')].concat()).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("Qddc", "GCZI"));
}

#[test]
fn a_copy_whose_sync_the_server_swallows() {
    let mut fixture = Fixture::new();
    fixture.say(&[run("COPY t FROM STDIN"), sync()].concat()).unwrap();
    fixture.reply(&[message(b'1', &[]), message(b'2', &[]), copy_in()].concat()).unwrap();
    fixture.say(&[data(), sync(), data(), done(), sync()].concat()).unwrap();
    assert_eq!(fixture.sent(), "PBESddcS", "the Sync in the middle of the data is swallowed here");
    fixture.reply(&[complete("COPY 2"), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "12GCZI");
    assert!(!fixture.conversation.is_busy());
}

#[test]
fn a_copy_sent_in_one_go() {
    let mut fixture = Fixture::new();
    for before in [run("COPY t FROM STDIN"), [run("COPY t FROM STDIN"), sync()].concat()] {
        fixture.say(&[before, data(), done(), sync()].concat()).unwrap();
        fixture.reply(&[message(b'1', &[]), message(b'2', &[]), copy_in()].concat()).unwrap();
        fixture.reply(&[complete("COPY 1"), ready(b'I')].concat()).unwrap();
        fixture.say(&query("SELECT 1")).unwrap();
        fixture.reply(&[complete("SELECT 0"), ready(b'I')].concat()).unwrap();
        assert_eq!(fixture.heard(), "12GCZICZI");
    }
    assert_eq!(fixture.sent(), "PBEdcSQPBESdcSQ");
}

#[test]
fn two_copies_of_one_query_sent_in_one_go() {
    let mut fixture = Fixture::new();
    fixture.say(&query("COPY a FROM STDIN; COPY b FROM STDIN")).unwrap();
    fixture.say(&[data(), done(), data(), done()].concat()).unwrap();
    fixture
        .reply(&[copy_in(), complete("COPY 1"), copy_in(), complete("COPY 1"), ready(b'I')].concat())
        .unwrap();
    fixture.say(&query("SELECT 1")).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("QdcdcQ", "GCGCZI"));
}

#[test]
fn a_copy_that_fails_before_it_begins() {
    let mut fixture = Fixture::new();
    fixture.say(&[query("COPY nowhere FROM STDIN"), data(), done()].concat()).unwrap();
    fixture.reply(&[error("42P01"), ready(b'I')].concat()).unwrap();
    assert!(!fixture.conversation.is_busy(), "the early end is owed nothing");
    fixture.say(&[run("COPY nowhere FROM STDIN"), data(), done(), sync()].concat()).unwrap();
    fixture.reply(&[message(b'1', &[]), error("42P01"), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "E(42P01)ZI1E(42P01)ZI");
    assert!(!fixture.conversation.is_busy());
}

#[test]
fn a_copy_that_fails_in_the_middle() {
    let mut fixture = Fixture::new();
    fixture.say(&[run("COPY t FROM STDIN"), sync()].concat()).unwrap();
    fixture.reply(&[message(b'1', &[]), message(b'2', &[]), copy_in()].concat()).unwrap();
    fixture.say(&data()).unwrap();
    fixture.reply(&error("22P02")).unwrap();
    fixture.say(&[data(), data(), done(), sync()].concat()).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("PBESdS", "12GE(22P02)ZI"));
}

#[test]
fn a_copy_whose_trigger_fails_before_the_sync_is_read() {
    let mut fixture = Fixture::new();
    fixture.say(&[run("COPY t FROM STDIN"), sync(), data(), done(), sync()].concat()).unwrap();
    fixture.reply(&[message(b'1', &[]), message(b'2', &[]), copy_in(), error("P0001")].concat()).unwrap();
    fixture.reply(&[ready(b'I'), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.heard(), "12GE(P0001)ZIZI");
    fixture.reply(&ready(b'I')).unwrap_err();
}

#[test]
fn copy_data_of_a_refused_copy_goes_nowhere() {
    const READ_ONLY: &str = r#"version = 1
name = "test"
[[connection]]
name = "db"
to = ["127.0.0.1:5432"]
protocol = "postgres"
upstream = { user = "u", tls = "disable" }
[[guard]]
name = "read only"
on = "postgres"
effect = ["write"]
action = "deny"
"#;
    let mut fixture = Fixture::under(READ_ONLY);
    fixture.say(&[query("COPY t FROM STDIN"), data(), done()].concat()).unwrap();
    fixture.say(&[run("COPY t FROM STDIN"), data(), done(), sync()].concat()).unwrap();
    fixture.reply(&ready(b'I')).unwrap();
    assert_eq!((fixture.sent().as_str(), fixture.heard().as_str()), ("S", "E(42501)ZIE(42501)ZI"));
    fixture.say(&[data(), done(), message(b'f', &[0])].concat()).unwrap();
    assert_eq!(fixture.sent(), "", "stray copy data is dropped, as the server does");
}

#[test]
fn a_copy_out_is_passed_on() {
    let mut fixture = Fixture::new();
    fixture.say(&query("COPY t TO STDOUT")).unwrap();
    let long = message(b'd', &[b'x'; 300 * 1024]);
    fixture.reply(&message(b'H', &[0, 0, 1, 0, 0])).unwrap();
    fixture.reply(&long).unwrap();
    fixture.reply(&[done(), complete("COPY 1"), ready(b'I')].concat()).unwrap();
    assert_eq!(fixture.client.iter().filter(|byte| **byte == b'x').count(), 300 * 1024);
}

/// An old server drops what is no data: it would answer one message less than were sent, and replies be taken for another's.
#[test]
fn a_message_in_place_of_the_data_ends_the_session() {
    for interrupting in [query("SELECT 1"), [query("SELECT 1"), data(), done()].concat(), run("SELECT 1")] {
        let mut fixture = Fixture::new();
        fixture.say(&[query("COPY t FROM STDIN"), interrupting].concat()).unwrap();
        fixture.reply(&copy_in()).unwrap_err();
    }
    let mut fixture = Fixture::new();
    fixture.say(&[run("COPY t FROM STDIN"), query("SELECT 1")].concat()).unwrap();
    fixture.reply(&copy_in()).unwrap_err();
}
