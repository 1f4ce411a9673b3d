//! Texts against a small catalogue: what the one cannot tell and the other can.

use super::*;
use crate::request::sql::{Analysis, analyze};

const NEXTVAL: u32 = 1574;
const READ_FILE: u32 = 2621;
const INT8_EQ: u32 = 467;

fn routine(oid: u32, schema: &str, name: &str, volatility: Volatility) -> Routine {
    let (schema, name) = (schema.to_owned(), name.to_owned());
    Routine {
        oid,
        schema,
        name,
        volatility,
        native: false,
        extension: None,
        procedure: false,
        takes_row: false,
    }
}

fn of_extension(oid: u32, name: &str, extension: &str, native: bool) -> Routine {
    let extension = Some(extension.to_owned());
    Routine { native, extension, ..routine(oid, "public", name, Volatility::Volatile) }
}

fn operator(schema: &str, name: &str, routine: u32) -> Operator {
    Operator { schema: schema.to_owned(), name: name.to_owned(), routine }
}

fn source(oid: u32, schema: &str, name: &str) -> Source {
    Source { oid, schema: schema.to_owned(), name: name.to_owned(), materialized: name.starts_with("kept") }
}

/// Functions of `app` are trusted if they do not call themselves volatile.
fn catalogue() -> Catalogue {
    use Volatility::{Immutable, Stable, Volatile};
    let routines = vec![
        routine(NEXTVAL, "pg_catalog", "nextval", Volatile),
        routine(READ_FILE, "pg_catalog", "pg_read_file", Volatile),
        routine(INT8_EQ, "pg_catalog", "int8eq", Immutable),
        routine(20_001, "app", "price_of", Stable),
        routine(20_002, "evil", "price_of", Stable),
        routine(20_003, "app", "purge", Volatile),
        routine(20_004, "app", "twice", Immutable),
        routine(20_005, "app", "twice", Volatile),
        routine(20_006, "app", "crosstab", Stable),
        routine(20_007, "app", "round", Volatile),
        Routine { takes_row: true, ..routine(20_008, "app", "margin", Volatile) },
        Routine { procedure: true, ..routine(20_009, "app", "nightly", Stable) },
        of_extension(20_010, "digest", "pgcrypto", true),
        of_extension(20_011, "hmac", "pgcrypto", false),
        of_extension(20_012, "dblink", "dblink", true),
        routine(20_013, "pg_catalog", "pg_made_by_hand", Volatile),
        routine(20_014, "app", "half", Immutable),
        routine(20_015, "pg_temp_3", "half", Immutable),
        routine(20_016, "app", "floor", Immutable),
        Routine { takes_row: true, ..routine(20_017, "app", "share", Stable) },
    ];
    let operators = vec![
        operator("app", "===", 20_001),
        operator("app", "<<<", 20_003),
        operator("app", "=#=", INT8_EQ),
        operator("app", "@#", READ_FILE),
        operator("evil", "~~>", 20_001),
    ];
    let sources = vec![
        source(30_001, "app", "prices"),
        source(30_002, "app", "tickets"),
        source(30_003, "app", "tickets_twice"),
        source(30_004, "app", "purged"),
        source(30_005, "app", "kept_tickets"),
        source(30_006, "app", "of_kept"),
        source(30_007, "evil", "orders"),
        source(30_008, "pg_temp_3", "notes"),
    ];
    let calls = vec![
        (30_001, 20_001),
        (30_002, NEXTVAL),
        (30_004, 20_003),
        (30_005, NEXTVAL),
        (30_007, READ_FILE),
        (30_008, NEXTVAL),
        // It only computes, so that it was not read.
        (30_001, 65),
    ];
    let reads = vec![(30_003, 30_002), (30_003, 30_003), (30_002, 30_003), (30_006, 30_005)];
    Catalogue::new(Contents { routines, operators, sources, calls, reads })
}

fn settled(text: &str, path: Option<&[&str]>, doubt: &Doubt) -> Analysis {
    let path: Option<Vec<String>> = path.map(|path| path.iter().map(|name| (*name).to_owned()).collect());
    let trusts = |routine: &Routine| routine.schema != "evil" && routine.volatility < Volatility::Volatile;
    let settle = Settle { catalogue: &catalogue(), trusts: &trusts, path: path.as_deref(), doubt };
    let analysis = analyze(text);
    let settled = settle.analysis(&analysis).unwrap_or(analysis);
    assert_eq!(settle.analysis(&settled), None, "settled once and for all: {text}");
    settled
}

const PATH: Option<&[&str]> = Some(&["app", "public"]);

#[test]
fn a_text_has_the_effect_of_what_it_calls() {
    use Effect::{Admin, Ddl, Read, Unknown, Write};
    let cases = [
        ("SELECT app.price_of(1)", Read),
        ("SELECT price_of(1) FROM t", Read),
        ("INSERT INTO t SELECT price_of(1)", Write),
        ("CREATE VIEW v AS SELECT price_of(1)", Ddl),
        ("SELECT nextval('s'), price_of(1)", Write),
        ("SELECT pg_read_file('x'), price_of(1)", Admin),
        ("PREPARE p AS SELECT price_of(1)", Read),
        ("SELECT evil.price_of(1)", Unknown),
        ("SELECT pg_temp.price_of(1)", Unknown),
        ("SELECT pg_temp_3.half(1)", Unknown),
        ("SELECT price_of(1), purge()", Unknown),
        ("SELECT purge()", Unknown),
        ("SELECT app.twice(1)", Unknown),
        ("SELECT app.crosstab('SELECT 1')", Unknown),
        ("SELECT crosstab('SELECT 1')", Unknown),
        ("SELECT nobody_has_it()", Unknown),
        ("SELECT app.nightly()", Unknown),
        ("CALL app.nightly()", Unknown),
        ("CALL app.price_of(1)", Unknown),
        ("DO $$ BEGIN END $$", Unknown),
        ("SELECT digest('a', 'sha1'), public.digest('a', 'sha1')", Read),
        ("SELECT hmac('a', 'b', 'sha1')", Unknown),
        ("SELECT public.dblink('a', 'b')", Unknown),
        ("SELECT pg_made_by_hand()", Unknown),
        // Operators stand for their functions.
        ("SELECT 1 === 2", Read),
        ("SELECT 1 OPERATOR(app.===) 2", Read),
        ("SELECT 1 =#= 2", Read),
        ("SELECT 1 <<< 2", Unknown),
        ("SELECT @# '/etc/passwd'", Unknown),
        ("SELECT 1 ~~> 2", Unknown),
        ("SELECT 1 OPERATOR(evil.~~>) 2", Read),
        ("SELECT 1 <=> 2", Unknown),
        // Listed names that somebody has overloaded, and calls in the shape of columns.
        ("SELECT round(1.5)", Unknown),
        ("SELECT pg_catalog.round(1.5), abs(1)", Read),
        ("SELECT t.margin FROM t", Unknown),
        ("SELECT t.half FROM t", Read),
        ("CREATE TRIGGER t AFTER INSERT ON x EXECUTE FUNCTION purge()", Ddl),
        // What reads run.
        ("SELECT * FROM prices", Read),
        ("SELECT * FROM tickets", Write),
        ("SELECT * FROM app.tickets_twice", Write),
        ("SELECT * FROM purged", Unknown),
        ("SELECT 1 WHERE EXISTS (SELECT FROM app.purged)", Unknown),
        ("DELETE FROM t USING purged", Unknown),
        ("UPDATE purged SET a = 1", Unknown),
        ("DROP VIEW purged", Ddl),
        ("SELECT * FROM public.tickets", Read),
        ("WITH tickets AS (SELECT 1) SELECT * FROM tickets", Read),
        ("SELECT * FROM kept_tickets, of_kept", Read),
        ("REFRESH MATERIALIZED VIEW kept_tickets", Write),
        ("SELECT * FROM orders", Read),
        ("SELECT * FROM evil.orders", Admin),
        ("SELECT * FROM notes", Write),
        ("SELECT * FROM pg_temp.notes", Write),
        ("EXPLAIN SELECT * FROM tickets", Write),
    ];
    for (text, effect) in cases {
        let found = settled(text, PATH, &Doubt::default());
        assert_eq!(found.effect, effect, "{text}: {:?}", found.statements);
    }
}

/// Outputs of such statements are not what their text shows.
#[test]
fn what_may_be_anothers_function_is_noted_even_where_it_is_trusted() {
    for (text, hidden) in [
        ("SELECT round(1.5)", true),
        ("SELECT pg_catalog.round(1.5)", false),
        ("SELECT floor(1.5)", true),
        ("SELECT lower('x')", false),
        ("SELECT t.margin FROM t", true),
        ("SELECT t.half FROM t", false),
        ("SELECT t.share FROM t", true),
        ("SELECT * FROM purged", true),
        ("SELECT * FROM prices", false),
        ("SELECT price_of(1)", false),
        ("SELECT purge()", false),
    ] {
        let found = settled(text, PATH, &Doubt::default());
        assert_eq!(found.statements[0].unlisted.hidden, hidden, "{text}");
    }
}

#[test]
fn without_a_certain_path_only_full_names_are_trusted() {
    use Effect::{Admin, Read, Unknown};
    for (text, effect) in [
        ("SELECT app.price_of(1)", Read),
        ("SELECT price_of(1)", Unknown),
        ("SELECT half(1)", Unknown),
        ("SELECT 1 === 2", Unknown),
        ("SELECT abs(1)", Read),
        ("SELECT round(1.5)", Unknown),
        ("SELECT * FROM orders", Admin),
        ("SELECT * FROM prices", Read),
    ] {
        assert_eq!(settled(text, None, &Doubt::default()).effect, effect, "{text}");
    }
    let elsewhere: Option<&[&str]> = Some(&["evil", "app"]);
    assert_eq!(settled("SELECT price_of(1)", elsewhere, &Doubt::default()).effect, Unknown, "both are meant");
    for text in [
        "SET search_path = evil; SELECT half(1)",
        "DISCARD ALL; SELECT half(1)",
        "DROP TABLE t; SELECT half(1)",
    ] {
        let found = settled(text, PATH, &Doubt::default());
        assert_eq!(found.statements[1].effect, Unknown, "{text}");
    }
    assert_eq!(settled("SELECT half(1); SELECT half(2)", PATH, &Doubt::default()).effect, Read);
}

#[test]
fn reasons_name_the_view_and_the_function() {
    let reason = |text: &str| settled(text, PATH, &Doubt::default()).statements[0].reason.clone().unwrap();
    assert_eq!(reason("SELECT * FROM tickets_twice"), "reads app.tickets, which calls nextval");
    let unknown = "reads app.purged, which calls app.purge, which is not known to be read-only";
    assert_eq!(reason("SELECT * FROM purged"), unknown);
    assert_eq!(reason("SELECT round(1.5)"), "calls round, which may be app.round");
    assert_eq!(reason("SELECT purge()"), "calls purge, which is not known to be read-only");
}

#[test]
fn what_the_session_changed_is_not_certain() {
    use Effect::{Read, Unknown, Write};
    let after = |texts: &[&str]| {
        let mut doubt = Doubt::default();
        for text in texts {
            analyze(text).statements.iter().for_each(|statement| doubt.after(statement));
        }
        doubt
    };
    let cases = [
        ("SELECT 1", "SELECT app.price_of(1)", Read),
        ("CREATE TABLE x (a int)", "SELECT app.price_of(1)", Unknown),
        (
            "CREATE OR REPLACE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "SELECT app.price_of(1)",
            Unknown,
        ),
        ("CREATE TABLE x (a int)", "SELECT * FROM x", Read),
        ("CREATE TABLE x (a int)", "SELECT * FROM tickets", Write),
        ("CREATE TABLE x (a int)", "SELECT * FROM prices", Unknown),
        ("ALTER TABLE x ADD COLUMN b int", "UPDATE x SET b = 1", Write),
        ("ALTER TABLE x RENAME TO y", "SELECT * FROM y", Unknown),
        ("ALTER TABLE x SET SCHEMA app", "SELECT * FROM y", Unknown),
        ("CREATE VIEW x AS SELECT 1", "SELECT * FROM public.x", Unknown),
        ("CREATE VIEW x AS SELECT 1", "SELECT * FROM y", Read),
        ("CREATE POLICY p ON x USING (true)", "SELECT * FROM x", Unknown),
        ("CREATE RULE r AS ON SELECT TO x DO INSTEAD SELECT 1", "SELECT * FROM x", Unknown),
        ("DO $$ BEGIN END $$", "SELECT * FROM y", Unknown),
        ("DO $$ BEGIN END $$", "SELECT * FROM pg_class", Read),
        ("DO $$ BEGIN END $$", "SELECT 1", Read),
        ("CREATE EXTENSION pgcrypto", "SELECT * FROM y", Unknown),
        ("GRANT SELECT ON x TO y", "SELECT * FROM y", Read),
    ];
    for (first, then, effect) in cases {
        let found = settled(then, PATH, &after(&[first]));
        assert_eq!(found.effect, effect, "{first}; {then}: {:?}", found.statements[0].reason);
        let together = settled(&format!("{first}; {then}"), PATH, &Doubt::default());
        assert_eq!(together.statements[1].effect, effect, "{first}; {then}");
    }
}
