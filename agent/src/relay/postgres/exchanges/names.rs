//! What names stand for, whichever protocol gave them.

use super::{
    Fixture, bind, close, complete, describe, description, error, execute, message, parse, query, ready, row,
    run, sync,
};

fn ok(fixture: &mut Fixture, say: &[u8], reply: &[u8]) {
    fixture.say(say).unwrap();
    fixture.reply(reply).unwrap();
}

const ONE: &[u8] = b"1\0\0\0\x04";
const TWO: &[u8] = b"2\0\0\0\x04";
const THREE: &[u8] = b"3\0\0\0\x04";

#[test]
fn sql_prepare_is_bound_by_the_wire() {
    let mut fixture = Fixture::new();
    ok(
        &mut fixture,
        &query("BEGIN; PREPARE p AS DELETE FROM t"),
        &[complete("BEGIN"), complete("PREPARE"), ready(b'T')].concat(),
    );
    ok(
        &mut fixture,
        &[bind("", "p"), execute("", 0), sync()].concat(),
        &[TWO.to_vec(), complete("DELETE 1"), ready(b'T')].concat(),
    );
    assert_eq!(fixture.heard(), "CCZT2CZT");
}

#[test]
fn a_wire_statement_is_executed_by_sql() {
    let mut fixture = Fixture::new();
    ok(&mut fixture, &[parse("w", "DROP TABLE t"), sync()].concat(), &ready(b'I'));
    assert_eq!(fixture.heard(), "E(42501)ZI");
    ok(&mut fixture, &[parse("w", "SELECT 1"), sync()].concat(), &[ONE.to_vec(), ready(b'I')].concat());
    let facts = fixture.conversation.facts_of("EXECUTE w");
    assert_eq!(facts.unwrap().analysis.effect, crate::request::Effect::Read);
    ok(&mut fixture, &[close(b'S', "w"), sync()].concat(), &[THREE.to_vec(), ready(b'I')].concat());
    let facts = fixture.conversation.facts_of("EXECUTE w");
    assert_eq!(facts.unwrap().analysis.effect, crate::request::Effect::Unknown);
}

#[test]
fn a_failed_parse_leaves_no_name() {
    let mut fixture = Fixture::new();
    ok(
        &mut fixture,
        &[parse("s", "SELECT nonsense"), sync()].concat(),
        &[error("42703"), ready(b'I')].concat(),
    );
    ok(&mut fixture, &[bind("", "s"), sync()].concat(), &ready(b'I'));
    assert_eq!(fixture.heard(), "E(42703)ZIE(26000)ZI");
}

#[test]
fn a_duplicate_parse_leaves_the_first_meaning() {
    let mut fixture = Fixture::new();
    ok(&mut fixture, &[parse("s", "SELECT 1"), sync()].concat(), &[ONE.to_vec(), ready(b'I')].concat());
    ok(
        &mut fixture,
        &[parse("s", "DELETE FROM t"), sync()].concat(),
        &[error("42P05"), ready(b'I')].concat(),
    );
    let facts = fixture.conversation.facts_of("EXECUTE s");
    assert_eq!(facts.unwrap().analysis.effect, crate::request::Effect::Read);
}

#[test]
fn prepares_that_the_server_skipped_mean_nothing_later() {
    let mut fixture = Fixture::new();
    let both = [
        parse("a", "SELECT 1/0"),
        parse("b", "PREPARE p AS SELECT 1"),
        bind("a", "a"),
        bind("b", "b"),
        execute("a", 0),
        execute("b", 0),
        sync(),
    ];
    let replies = [ONE, ONE, TWO, TWO].concat();
    ok(&mut fixture, &both.concat(), &[replies, error("22012"), ready(b'I')].concat());
    ok(&mut fixture, &query("PREPARE p AS DELETE FROM t"), &[complete("PREPARE"), ready(b'I')].concat());
    let facts = fixture.conversation.facts_of("EXECUTE p");
    assert_eq!(facts.unwrap().analysis.effect, crate::request::Effect::Write);
    assert!(fixture.conversation.operations.iter().count() == 0);
}

#[test]
fn a_cursor_of_sql_is_run_by_the_wire() {
    let mut fixture = Fixture::new();
    let declare = "BEGIN; DECLARE c SCROLL CURSOR FOR SELECT 1";
    ok(&mut fixture, &query(declare), &[complete("BEGIN"), complete("DECLARE CURSOR"), ready(b'T')].concat());
    for _ in 0..2 {
        ok(
            &mut fixture,
            &[execute("c", 1), sync()].concat(),
            &[row("1"), message(b's', &[]), ready(b'T')].concat(),
        );
    }
    ok(&mut fixture, &query("MOVE BACKWARD ALL IN c"), &[complete("MOVE 2"), ready(b'T')].concat());
    ok(
        &mut fixture,
        &[execute("c", 0), sync()].concat(),
        &[row("1"), complete("SELECT 1"), ready(b'T')].concat(),
    );
    assert_eq!(fixture.heard(), "CCZTDsZTDsZTCZTDCZT");
    // And again, after it was at its end.
    ok(&mut fixture, &query("MOVE BACKWARD ALL IN c"), &[complete("MOVE 2"), ready(b'T')].concat());
    ok(
        &mut fixture,
        &[execute("c", 0), sync()].concat(),
        &[row("1"), complete("SELECT 1"), ready(b'T')].concat(),
    );
    assert_eq!(fixture.heard(), "CZTDCZT");
    ok(&mut fixture, &query("CLOSE c"), &[complete("CLOSE CURSOR"), ready(b'T')].concat());
    // In a transaction, the server is made to fail with us.
    ok(&mut fixture, &[execute("c", 0), sync()].concat(), &[error("42601"), ready(b'E')].concat());
    assert_eq!(fixture.heard(), "CZTE(34000)ZE");
}

#[test]
fn a_portal_goes_on_after_its_row_limit() {
    let mut fixture = Fixture::new();
    ok(&mut fixture, &query("BEGIN"), &[complete("BEGIN"), ready(b'T')].concat());
    let start =
        [parse("", "SELECT 1"), bind("p", ""), describe(b'P', "p"), execute("p", 1), message(b'H', &[])];
    let rows = [ONE.to_vec(), TWO.to_vec(), description("x"), row("1"), message(b's', &[])];
    ok(&mut fixture, &start.concat(), &rows.concat());
    ok(&mut fixture, &execute("p", 0), &[row("2"), complete("SELECT 1")].concat());
    ok(
        &mut fixture,
        &[execute("p", 0), close(b'P', "p"), sync()].concat(),
        &[complete("SELECT 0"), THREE.to_vec(), ready(b'T')].concat(),
    );
    assert_eq!(fixture.heard(), "CZT12TDsDCC3ZT");
    assert!(fixture.conversation.operations.iter().count() == 0);
}

#[test]
fn a_portal_that_is_bound_anew_ends_its_operation() {
    let mut fixture = Fixture::new();
    ok(&mut fixture, &query("BEGIN"), &[complete("BEGIN"), ready(b'T')].concat());
    for _ in 0..10 {
        let pass = [parse("", "SELECT 1"), bind("", ""), execute("", 1), sync()].concat();
        ok(
            &mut fixture,
            &pass,
            &[ONE.to_vec(), TWO.to_vec(), row("1"), message(b's', &[]), ready(b'T')].concat(),
        );
    }
    assert_eq!(fixture.conversation.operations.iter().count(), 1);
}

#[test]
fn discarding_forgets_every_name() {
    let mut fixture = Fixture::new();
    ok(&mut fixture, &[parse("s", "SELECT 1"), sync()].concat(), &[ONE.to_vec(), ready(b'I')].concat());
    ok(&mut fixture, &query("DISCARD ALL"), &[complete("DISCARD ALL"), ready(b'I')].concat());
    ok(&mut fixture, &[bind("", "s"), sync()].concat(), &ready(b'I'));
    assert_eq!(fixture.heard(), "1ZICZIE(26000)ZI");
}

#[test]
fn the_same_text_again_and_again_is_one_meaning() {
    let mut fixture = Fixture::new();
    for _ in 0..3000 {
        fixture.say(&[run("SELECT 1"), sync()].concat()).unwrap();
    }
    fixture.say(&bind("", "")).unwrap();
}
