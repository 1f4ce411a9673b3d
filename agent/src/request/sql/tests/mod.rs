//! Tests of the analyser: the cases are data, in the files beside this one.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{Analysis, analyze, bounds, parse};
use crate::request::{ColumnUse, Effect, ObjectName, Output, SessionAction, Statement};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

/// One input and what must be found. What is left out is not checked, but for reads and writes, which are then empty.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    text: String,
    effect: Effect,
    kinds: Vec<String>,
    #[serde(default)]
    reads: Vec<String>,
    #[serde(default)]
    writes: Vec<String>,
    functions: Option<Vec<String>>,
    #[serde(default)]
    unbounded: bool,
    reason: Option<String>,
}

fn named(all: &Analysis, of: fn(&Statement) -> &Vec<ObjectName>) -> Vec<String> {
    all.statements.iter().flat_map(of).map(ToString::to_string).collect()
}

fn judge(file: &str) -> (usize, Vec<String>) {
    let cases: Cases = toml::from_str(file).unwrap();
    let mut wrong = Vec::new();
    for case in &cases.case {
        let found = analyze(&case.text);
        let mut check = |what: &str, found: String, wanted: String| {
            if found != wanted {
                wrong.push(format!("{} {what}: found {found}, wanted {wanted}\n    {}", case.id, case.text));
            }
        };
        let kinds: Vec<_> = found.statements.iter().map(|statement| statement.kind.clone()).collect();
        check("effect", found.effect.to_string(), case.effect.to_string());
        check("kinds", format!("{kinds:?}"), format!("{:?}", case.kinds));
        check("reads", format!("{:?}", named(&found, |s| &s.reads)), format!("{:?}", case.reads));
        check("writes", format!("{:?}", named(&found, |s| &s.writes)), format!("{:?}", case.writes));
        if let Some(functions) = &case.functions {
            check("functions", format!("{:?}", named(&found, |s| &s.functions)), format!("{functions:?}"));
        }
        let unbounded = found.statements.iter().any(|statement| statement.unbounded);
        check("unbounded", unbounded.to_string(), case.unbounded.to_string());
        if let Some(wanted) = &case.reason {
            let reasons: Vec<_> = found.statements.iter().filter_map(|s| s.reason.as_deref()).collect();
            let reasons = reasons.join("; ");
            check(
                "reason",
                reasons.contains(wanted.as_str()).to_string(),
                format!("true (in {reasons:?})").split(' ').next().unwrap().to_owned(),
            );
        }
    }
    (cases.case.len(), wrong)
}

#[test]
fn hostile_inputs() {
    let (count, wrong) = judge(include_str!("hostile.toml"));
    assert_eq!(count, 94);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command() {
    let (count, wrong) = judge(include_str!("commands.toml"));
    assert!(count > 250);
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_clients_ask_of_the_catalogues_only_reads() {
    let asked = include_str!("drivers.sql").split("\n----\n").filter(|text| !text.is_empty());
    let mut count = 0;
    for text in asked {
        let found = analyze(text);
        let reasons: Vec<_> =
            found.statements.iter().filter_map(|statement| statement.reason.as_deref()).collect();
        assert_eq!(found.effect, Effect::Read, "{reasons:?} for\n{text}");
        count += 1;
    }
    assert!(count > 150, "{count}");
}

/// The only statement of a text.
fn only(text: &str) -> Statement {
    let mut found = analyze(text);
    assert_eq!(found.statements.len(), 1, "{text}");
    found.statements.remove(0)
}

#[test]
fn what_a_statement_does_to_the_session() {
    let set = |name: &str, value: Option<&str>| SessionAction::Set {
        name: name.to_owned(),
        value: value.map(ToOwned::to_owned),
    };
    let name = |name: &str| name.to_owned();
    for (text, action) in [
        ("BEGIN", SessionAction::Begin),
        ("START TRANSACTION READ ONLY", SessionAction::Begin),
        ("COMMIT AND CHAIN", SessionAction::EndTransaction),
        ("ABORT", SessionAction::EndTransaction),
        ("PREPARE TRANSACTION 'x'", SessionAction::EndTransaction),
        ("COMMIT PREPARED 'x'", SessionAction::None),
        ("SAVEPOINT a", SessionAction::Savepoint),
        ("ROLLBACK TO a", SessionAction::Savepoint),
        ("RELEASE a", SessionAction::Savepoint),
        ("CLOSE C", SessionAction::CloseCursor(Some(name("c")))),
        ("CLOSE ALL", SessionAction::CloseCursor(None)),
        ("DEALLOCATE \"P\"", SessionAction::Deallocate(Some(name("P")))),
        ("DEALLOCATE ALL", SessionAction::Deallocate(None)),
        ("DECLARE c CURSOR FOR SELECT 1", SessionAction::DeclareCursor(name("c"))),
        ("DISCARD ALL", SessionAction::DiscardAll),
        ("DISCARD TEMP", SessionAction::None),
        ("EXECUTE p(1)", SessionAction::Execute(name("p"))),
        ("EXPLAIN ANALYZE EXECUTE p", SessionAction::Execute(name("p"))),
        ("EXPLAIN EXECUTE p", SessionAction::None),
        ("CREATE TABLE t AS EXECUTE p", SessionAction::Execute(name("p"))),
        ("FETCH ALL FROM c", SessionAction::FetchCursor(name("c"))),
        ("MOVE NEXT FROM c", SessionAction::FetchCursor(name("c"))),
        ("PREPARE p AS SELECT 1", SessionAction::Prepare(name("p"))),
        ("SET search_path = evil, public", set("search_path", Some("evil, public"))),
        ("SET Search_Path TO DEFAULT", set("search_path", None)),
        ("SET SCHEMA 'evil'", set("search_path", Some("evil"))),
        ("SET NAMES 'UTF8'", set("client_encoding", Some("UTF8"))),
        ("SET ROLE bob", set("role", Some("bob"))),
        ("RESET ROLE", set("role", None)),
        ("RESET ALL", set("all", None)),
        ("SET LOCAL statement_timeout = 100", set("statement_timeout", Some("100"))),
        ("SET TRANSACTION READ WRITE", set("transaction_read_only", Some("off"))),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            set("default_transaction_read_only", Some("on")),
        ),
        ("SELECT set_config('Search_Path', 'a', false)", set("search_path", Some("a"))),
        ("SELECT set_config('a.b', ssn, false) FROM customers", set("a.b", None)),
        ("ALTER ROLE bob SET search_path = evil", SessionAction::None),
        ("SELECT 1", SessionAction::None),
    ] {
        assert_eq!(only(text).session, action, "{text}");
    }
}

fn output(names: &[&str], whole_row: bool, opaque: bool) -> Output {
    Output { names: names.iter().map(ToString::to_string).collect(), plain: false, whole_row, opaque }
}

#[test]
fn outputs_are_told_apart() {
    let plain = |names: &[&str]| output(names, false, false);
    for (text, plain_from, outputs) in [
        ("SELECT ssn AS note, 1 FROM customers", true, vec![plain(&["ssn"]), plain(&[])]),
        ("SELECT name AS ssn, ssn AS name FROM customers", true, vec![plain(&["name"]), plain(&["ssn"])]),
        (
            "SELECT substr(ssn,1,5), c.a || b FROM customers c",
            true,
            vec![plain(&["ssn"]), plain(&["a", "b"])],
        ),
        ("SELECT row_to_json(c) FROM customers c", true, vec![output(&["c", "row_to_json"], true, false)]),
        ("SELECT c FROM customers c", true, vec![output(&["c"], true, false)]),
        ("SELECT public.customers FROM public.customers", true, vec![output(&["customers"], true, false)]),
        (
            "SELECT c.to_json, c.id FROM customers c",
            true,
            vec![output(&["to_json"], true, false), plain(&["id"])],
        ),
        ("SELECT (c).ssn FROM customers c", true, vec![output(&["c", "ssn"], true, false)]),
        ("SELECT array(SELECT ssn FROM customers), 1", true, vec![output(&["ssn"], false, true), plain(&[])]),
        ("SELECT evil(id), id FROM t", true, vec![output(&["evil", "id"], false, true), plain(&["id"])]),
        ("SELECT * FROM t", true, vec![]),
        ("SELECT id, t.* FROM t", true, vec![]),
        ("TABLE t", true, vec![]),
        ("SELECT ssn FROM a UNION ALL SELECT x FROM b", false, vec![plain(&["ssn", "x"])]),
        ("SELECT id FROM (SELECT ssn AS id FROM customers) q", false, vec![plain(&["id"])]),
        ("WITH q AS (SELECT 1) SELECT id FROM t", false, vec![plain(&["id"])]),
        ("SELECT note FROM customers c (id, note)", false, vec![plain(&["note"])]),
        ("SELECT a FROM t, generate_series(1, 2) g", false, vec![plain(&["a"])]),
        ("SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY ssn)", true, vec![plain(&["ssn"])]),
        ("VALUES (1, (SELECT ssn FROM c)), (2, 'x')", true, vec![plain(&[]), output(&["ssn"], false, true)]),
        (
            "DELETE FROM t USING u WHERE t.a = u.a RETURNING t.b, u.c",
            true,
            vec![plain(&["b"]), plain(&["c"])],
        ),
        ("UPDATE t SET a = 1 RETURNING old, new.a", true, vec![output(&["old"], true, false), plain(&["a"])]),
        ("INSERT INTO t VALUES (1) RETURNING id", true, vec![plain(&["id"])]),
        ("DECLARE k CURSOR FOR SELECT ssn FROM customers", true, vec![plain(&["ssn"])]),
        ("COPY (SELECT ssn, id FROM customers) TO STDOUT", true, vec![plain(&["ssn"]), plain(&["id"])]),
        ("PREPARE p AS SELECT ssn FROM customers", true, vec![plain(&["ssn"])]),
        ("EXPLAIN SELECT ssn FROM customers", false, vec![]),
    ] {
        let mut columns = only(text).columns;
        for output in &mut columns.outputs {
            output.plain = false;
        }
        assert_eq!((columns.plain_from, columns.outputs), (plain_from, outputs), "{text}");
    }
}

#[test]
fn outputs_that_are_mere_columns_are_told() {
    for (text, plain_outputs, plain) in [
        ("SELECT ssn AS note, c.id FROM customers c", true, "yy"),
        ("SELECT * FROM customers", true, ""),
        ("SELECT c.*, id FROM customers c", true, ""),
        ("SELECT c.*, upper(id) FROM customers c", false, ""),
        ("SELECT (c).* FROM customers c", false, ""),
        ("SELECT c, customers.id FROM customers c", false, "ny"),
        ("SELECT ssn, 1, upper(ssn), ssn::text FROM customers", false, "ynnn"),
        ("SELECT ssn FROM a UNION SELECT ssn FROM b", false, "n"),
        ("VALUES (1)", false, "n"),
        ("DELETE FROM customers RETURNING *", true, ""),
        ("UPDATE customers SET ssn = '' RETURNING ssn, ssn || ''", false, "yn"),
        ("INSERT INTO customers DEFAULT VALUES", true, ""),
    ] {
        let columns = only(text).columns;
        let shown: String =
            columns.outputs.iter().map(|output| if output.plain { 'y' } else { 'n' }).collect();
        assert_eq!((columns.plain_outputs, shown.as_str()), (plain_outputs, plain), "{text}");
    }
}

#[test]
fn attributes_name_the_relation_their_label_stands_for() {
    for (text, expected) in [
        ("SELECT c.f, o.g FROM customers c, shop.orders o", "customers.f shop.orders.g"),
        ("SELECT customers.f FROM customers", "customers.f"),
        ("SELECT f FROM customers c", ""),
        ("SELECT q.f FROM (SELECT 1 AS f) q, customers c", ""),
        ("SELECT c.f FROM customers c WHERE EXISTS (SELECT c.g FROM (SELECT 1) c)", "customers.f"),
        (
            "SELECT 1 FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.a = c.f)",
            "customers.f orders.a",
        ),
        ("WITH customers AS (SELECT 1) SELECT customers.f FROM customers", ""),
        ("UPDATE customers c SET name = 'x' RETURNING c.f, new.g", "customers.f customers.g"),
        ("DELETE FROM customers USING orders o WHERE customers.f = o.id", "customers.f orders.id"),
        ("SELECT public.customers.f FROM public.customers", "public.customers.f"),
    ] {
        let attributes = only(text).columns.attributes;
        let shown: Vec<_> = attributes.iter().map(|(relation, name)| format!("{relation}.{name}")).collect();
        assert_eq!(shown.join(" "), expected, "{text}");
    }
}

#[test]
fn a_parameter_set_to_what_the_client_sent_is_no_opaque_call() {
    for (text, opaque) in [
        ("SELECT set_config('TimeZone', $1, false)", false),
        ("SELECT pg_catalog.set_config('search_path', '', false)", false),
        ("SELECT set_config('application_name', $1::text, false)", true),
        ("SELECT set_config('application_name', ssn, false) FROM customers", true),
        ("SELECT set_config('application_name', (SELECT ssn FROM customers), false)", true),
    ] {
        assert_eq!(only(text).columns.opaque_calls, opaque, "{text}");
    }
}

#[test]
fn columns_that_may_be_touched() {
    let flags = |columns: &ColumnUse| (columns.whole_rows, columns.opaque_calls, columns.moves_rows);
    for (text, names, wanted) in [
        ("SELECT id FROM t WHERE ssn LIKE '1%' ORDER BY a", "a id ssn", (false, false, false)),
        ("SELECT * FROM t", "", (true, false, false)),
        ("SELECT count(*) FROM t", "", (false, false, false)),
        ("SELECT 1 FROM a NATURAL JOIN b", "", (true, false, false)),
        ("SELECT 1 FROM a JOIN b USING (k)", "k", (false, false, false)),
        ("SELECT x FROM t AS u (x)", "x", (true, false, false)),
        ("SELECT j.x FROM (a JOIN b ON true) AS j (x)", "x", (true, false, false)),
        ("SELECT x.ssn FROM (SELECT c AS x FROM customers c) q", "c ssn", (true, false, false)),
        ("INSERT INTO t (a) VALUES (1)", "a", (false, false, false)),
        ("INSERT INTO t SELECT ssn FROM customers", "ssn", (false, false, true)),
        ("INSERT INTO t VALUES ((SELECT ssn FROM customers))", "ssn", (false, false, true)),
        (
            "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "a b",
            (false, false, false),
        ),
        (
            "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = t.ssn",
            "a b ssn",
            (false, false, true),
        ),
        ("UPDATE t SET a = 1 WHERE b = 2", "a b", (false, false, false)),
        ("UPDATE t SET note = ssn", "note ssn", (false, false, true)),
        ("UPDATE t SET a = (SELECT max(b) FROM u)", "a b max", (false, false, true)),
        ("UPDATE t SET a = 1 FROM u WHERE u.b = t.c", "a b c", (false, false, true)),
        ("CREATE TABLE x AS SELECT ssn FROM customers", "ssn", (false, false, true)),
        ("SELECT ssn INTO x FROM customers", "ssn", (false, false, true)),
        ("CREATE INDEX i ON customers ((ssn::int), name)", "name ssn", (false, false, false)),
        ("COPY customers TO STDOUT", "", (true, false, false)),
        ("COPY customers (ssn) TO STDOUT", "ssn", (false, false, false)),
        ("COPY customers (ssn) TO '/tmp/x'", "ssn", (false, false, true)),
        ("SELECT set_config('application_name', ssn, false) FROM customers", "ssn", (false, true, false)),
        ("SELECT pg_notify('c', ssn) FROM customers", "ssn", (false, true, false)),
        ("SELECT a === b FROM t", "a b", (false, true, false)),
        (
            "MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED THEN INSERT (b) VALUES (u.c)",
            "a b c",
            (false, false, true),
        ),
    ] {
        let columns = only(text).columns;
        let found: Vec<_> = columns.names.iter().map(String::as_str).collect();
        assert_eq!((found.join(" ").as_str(), flags(&columns)), (names, wanted), "{text}");
    }
}

#[test]
fn names_print_as_they_are_shown() {
    let shown = |text: &str| {
        let statement = only(text);
        statement
            .reads
            .iter()
            .chain(&statement.writes)
            .map(ObjectName::qualified)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(shown("SELECT * FROM orders, s.t, pg_class"), "public.orders pg_catalog.pg_class s.t");
    assert_eq!(shown("DROP DATABASE shop"), "shop");
    assert_eq!(shown("GRANT SELECT ON orders TO bob"), "public.orders");
    assert_eq!(shown("ALTER ROLE bob SUPERUSER"), "bob");
}

#[test]
fn spans_are_bytes_of_each_statement() {
    let text = "SELECT 'é;' ; /* ü */ DELETE FROM t;\n;TABLE o -- end";
    let found = analyze(text);
    let texts: Vec<_> =
        found.statements.iter().map(|statement| text.get(statement.span.clone()).unwrap().trim()).collect();
    assert_eq!(texts, ["SELECT 'é;'", "DELETE FROM t", "TABLE o -- end"]);
}

/// Ways to nest without end, each repeated `count` times.
fn towers(count: usize) -> Vec<String> {
    let tower = |start: &str, open: &str, middle: &str, close: &str| {
        format!("{start}{}{middle}{}", open.repeat(count), close.repeat(count))
    };
    vec![
        tower("SELECT 1", "", "", "+1"),
        tower("SELECT 'a'", "", "", "||'b'"),
        tower("SELECT 1", "", "", "::int"),
        tower("SELECT 1", "", "", " IS NULL"),
        tower("SELECT 1", "", "", " UNION SELECT 1, 2"),
        tower("SELECT 1 WHERE true", "", "", " AND a = 1"),
        tower("SELECT * FROM a", "", "", " JOIN b ON true"),
        tower("SELECT ", "(", "1", ")"),
        tower("SELECT ", "(SELECT ", "1", ")"),
        tower("SELECT * FROM ", "(SELECT * FROM ", "t", ") q"),
        tower("SELECT * FROM ", "(", "a", " JOIN b ON true)"),
        tower("SELECT ", "NOT ", "true", ""),
        tower("SELECT ", "- ", "1", ""),
        tower("SELECT ", "abs(", "1", ")"),
        tower("SELECT ", "CASE WHEN ", "true", " THEN 1 END"),
        tower("SELECT ", "ARRAY[", "1", "]"),
        tower("SELECT ", "ROW(1, ", "1", ")"),
        tower("", "WITH x AS (", "SELECT 1", ") SELECT 1"),
    ]
}

#[test]
fn deep_but_reasonable_texts_are_understood() {
    for text in towers(100) {
        assert_eq!(analyze(&text).effect, Effect::Read, "{text}");
    }
    for text in towers(600) {
        let found = analyze(&text);
        assert_eq!(
            found.effect,
            Effect::Read,
            "{} {:?}",
            text.get(..30).unwrap(),
            found.statements[0].reason
        );
    }
}

#[test]
fn a_text_of_spaces_alone_has_no_statements() {
    for space in [" ", "\t", "\n", "\r", "\x0c", "\x0b"] {
        let analysis = analyze(&space.repeat(2000));
        assert!(analysis.statements.is_empty() && analysis.effect == Effect::Read, "{space:?}");
    }
}

#[test]
fn deeper_texts_are_refused_and_harm_nothing() {
    for count in [bounds::DEPTH_MAX, 10 * bounds::DEPTH_MAX] {
        for text in towers(count) {
            let found = analyze(&text);
            assert_eq!(found.statements.len(), 1);
            assert!(matches!(found.effect, Effect::Read | Effect::Unknown));
        }
    }
    let unclosed = format!("SELECT {}", "(".repeat(bounds::DEPTH_MAX + 1));
    assert!(only(&unclosed).reason.unwrap().contains("nests deeper"));
    assert!(only(&towers(bounds::DEPTH_MAX + 1)[0]).reason.unwrap().contains("nests deeper"));
}

/// Each way to nest, as deep as the bound lets it run on a given stack, on exactly that stack. If a level took more than
/// it is taken to, this would abort.
#[test]
fn stacks_fit_the_depths_that_run_on_them() {
    for (levels, stack_bytes) in [
        (bounds::DEPTH_INLINE_MAX, bounds::INLINE_STACK_BYTES),
        (bounds::DEPTH_MAX, bounds::DEEP_STACK_BYTES),
    ] {
        for index in 0..towers(1).len() {
            let count = (0..=levels).rev().step_by(levels / 12).find(|&count| {
                let tokens = pg_query::scan_tokens(&towers(count)[index]).unwrap();
                bounds::depth(&tokens) <= levels
            });
            let text = towers(count.unwrap()).remove(index);
            let thread = std::thread::Builder::new().stack_size(stack_bytes);
            let found = thread.spawn(move || parse(&text)).unwrap().join().unwrap();
            assert!(found.effect == Effect::Read || levels == bounds::DEPTH_MAX, "{index}");
        }
    }
}

#[test]
fn size_and_bytes_are_bounded() {
    let reason = |text: &str| {
        let statement = only(text);
        assert_eq!((statement.effect, statement.kind.as_str()), (Effect::Unknown, "unknown"));
        assert!(statement.columns.whole_rows && statement.columns.opaque_calls);
        statement.reason.unwrap()
    };
    assert!(reason(&format!("SELECT '{}'", "x".repeat(bounds::TEXT_BYTES_MAX))).contains("longer"));
    assert!(reason(&format!("SELECT 1{}", ",1".repeat(bounds::TOKENS_MAX))).contains("tokens"));
    assert!(reason("SELECT 1\0; DROP TABLE t").contains("NUL"));
    assert!(reason(&format!("SELECT {} 'open", "a, ".repeat(200))).contains("tokens"));
    let mut rows = String::from("INSERT INTO t VALUES (1, 'a', now())");
    for row in 0..5000 {
        write!(rows, ", ({row}, 'a', now())").unwrap();
    }
    assert_eq!(only(&rows).effect, Effect::Write);
}

/// A small generator of texts out of fragments that meet badly. Seeded, so that a failure can be repeated.
struct Fragments(u64);

impl Fragments {
    const ALL: [&str; 40] = [
        "SELECT ",
        "1",
        "'a'",
        "E'\\''",
        "\n",
        ";",
        "--",
        "/*",
        "*/",
        "(",
        ")",
        "\"x\"",
        "U&\"\\0061\"",
        "$$",
        "$a$",
        "FROM t ",
        "WHERE ",
        "id = id ",
        "DELETE ",
        "UPDATE t SET a = ",
        "INSERT INTO t ",
        "VALUES ",
        "WITH x AS ",
        "UNION ",
        "é",
        ",",
        "*",
        "x.",
        "EXPLAIN ",
        "ANALYZE ",
        "BEGIN",
        "SET a = ",
        "\r",
        "||",
        "===",
        "f(",
        "ARRAY[",
        "]",
        "::int",
        "CASE WHEN ",
    ];

    fn below(&mut self, bound: usize) -> usize {
        // A linear congruential generator (Knuth's MMIX constants): good enough to shuffle fragments.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn text(&mut self) -> String {
        let length = self.below(14);
        (0..length).map(|_| Self::ALL[self.below(Self::ALL.len())]).collect()
    }
}

#[test]
fn any_text_gives_spans_in_order_and_the_highest_effect() {
    let mut fragments = Fragments(42);
    let mut parsed = 0;
    for round in 0..4000 {
        let text = fragments.text();
        let found = analyze(&text);
        let mut end = 0;
        for statement in &found.statements {
            assert!(
                statement.span.start >= end && statement.span.end <= text.len(),
                "round {round}: {text:?}"
            );
            assert!(text.get(statement.span.clone()).is_some(), "round {round}: {text:?}");
            end = statement.span.end;
        }
        let highest = found.statements.iter().map(|statement| statement.effect).max();
        assert_eq!(found.effect, highest.unwrap_or(Effect::Read), "round {round}: {text:?}");
        // What stands between statements says nothing.
        parsed += usize::from(found.statements.iter().all(|statement| statement.kind != "unknown"));
    }
    assert!(parsed > 100, "only {parsed} texts parsed");
}

#[test]
fn a_statement_alone_is_judged_as_among_others() {
    let cases: Cases = toml::from_str(include_str!("commands.toml")).unwrap();
    let single: Vec<_> =
        cases.case.iter().filter(|case| case.kinds.len() == 1 && case.kinds[0] != "unknown").collect();
    for pair in single.windows(2) {
        let together = analyze(&format!("{} ; {}", pair[0].text, pair[1].text));
        assert_eq!(together.statements.len(), 2, "{} ; {}", pair[0].text, pair[1].text);
        assert_eq!(together.effect, pair[0].effect.max(pair[1].effect));
    }
}
