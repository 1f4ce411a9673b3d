//! Plans against data: what each kind of statement may show, hold or say.

use std::collections::BTreeSet;

use super::*;
use crate::mask::Detector;
use crate::mask::catalog::tests::{CUSTOMERS, ORDERS, customers, orders, rule, view};
use crate::request::SessionAction;

mod analysed;

fn catalog() -> MaskCatalog {
    let relations =
        [customers(), orders(), view(41, "open_names", &[("name", Some((CUSTOMERS, 2)))], &[(CUSTOMERS, 2)])];
    MaskCatalog::build(&relations, &[rule("customers.ssn", Method::Partial)])
}

fn no_detectors() -> Scanner {
    Scanner::new(&[]).unwrap()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn object(name: &str) -> ObjectName {
    ObjectName { schema: None, name: name.to_owned() }
}

/// A SELECT that reads relations, names columns, and has one output per list of names.
fn select(reads: &[&str], names: &[&str], outputs: &[&[&str]]) -> Statement {
    let outputs = outputs.iter().map(|names| Output { names: set(names), ..Output::default() }).collect();
    Statement {
        kind: "select".to_owned(),
        effect: Effect::Read,
        reason: None,
        reads: reads.iter().map(|name| object(name)).collect(),
        writes: Vec::new(),
        functions: Vec::new(),
        unlisted: crate::request::Unlisted::none(Effect::Read, None),
        renames: false,
        unbounded: false,
        columns: crate::request::ColumnUse {
            names: set(names),
            plain_from: true,
            outputs,
            ..Default::default()
        },
        session: SessionAction::None,
        copy: None,
        copies: false,
        span: 0..0,
    }
}

fn with(mut statement: Statement, change: impl FnOnce(&mut Statement)) -> Statement {
    change(&mut statement);
    statement
}

fn field(table_oid: u32, attnum: i16) -> Field {
    Field { table_oid, attnum, type_oid: 25, format: Format::Text }
}

const COMPUTED: Field = Field { table_oid: 0, attnum: 0, type_oid: 25, format: Format::Text };
const PASS: CellAction = CellAction::Pass;
const REDACT: CellAction = CellAction::Mask(Method::Redact);
const PARTIAL: CellAction = CellAction::Mask(Method::Partial);

/// What, the statement, its fields; the actions and whether the result is tainted.
type PlanCase = (&'static str, Option<Statement>, Vec<Field>, Vec<CellAction>, bool);

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn outputs_are_decided_by_origin_then_by_reference() {
    let catalog = catalog();
    let cases: Vec<PlanCase> = vec![
        (
            "SELECT ssn AS note, name AS ssn FROM customers (H1, H2)",
            Some(select(&["customers"], &["ssn", "name"], &[&["ssn"], &["name"]])),
            vec![field(CUSTOMERS, 3), field(CUSTOMERS, 2)],
            vec![PARTIAL, PASS],
            false,
        ),
        (
            "SELECT substr(ssn,1,5), substr(ssn,6), upper(name), count(*), 1 FROM customers (H3)",
            Some(select(&["customers"], &["ssn", "name"], &[&["ssn"], &["ssn"], &["name"], &[], &[]])),
            vec![COMPUTED; 5],
            vec![REDACT, REDACT, PASS, PASS, PASS],
            true,
        ),
        (
            "SELECT row_to_json(c) FROM customers c (H4)",
            Some(with(select(&["customers"], &["c"], &[&["c"]]), |statement| {
                statement.columns.whole_rows = true;
                statement.columns.outputs[0].whole_row = true;
            })),
            vec![COMPUTED],
            vec![REDACT],
            true,
        ),
        (
            "SELECT row_to_json(customers) FROM customers",
            Some(select(&["customers"], &["customers"], &[&["customers"]])),
            vec![COMPUTED],
            vec![REDACT],
            true,
        ),
        (
            "SELECT c FROM customers c (H5)",
            Some(with(select(&["customers"], &["c"], &[&["c"]]), |statement| {
                statement.columns.whole_rows = true
            })),
            vec![field(CUSTOMERS, 0)],
            vec![CellAction::Mask(Method::Null)],
            false,
        ),
        (
            "SELECT o FROM orders o",
            Some(with(select(&["orders"], &["o"], &[&["o"]]), |statement| {
                statement.columns.whole_rows = true
            })),
            vec![field(ORDERS, 0)],
            vec![PASS],
            false,
        ),
        (
            "SELECT ssn FROM customers UNION ALL SELECT '' (H6), FULL JOIN USING(ssn) (H7)",
            Some(with(select(&["customers"], &["ssn"], &[&["ssn"]]), |statement| {
                statement.columns.plain_from = false;
            })),
            vec![COMPUTED],
            vec![REDACT],
            true,
        ),
        (
            "SELECT upper(x) FROM (SELECT ssn AS x FROM customers) q",
            Some(with(select(&["customers"], &["ssn", "x"], &[&["x"]]), |statement| {
                statement.columns.plain_from = false;
            })),
            vec![COMPUTED],
            vec![REDACT],
            true,
        ),
        (
            "SELECT array(SELECT ssn FROM customers), id FROM orders (H9)",
            Some(with(select(&["customers", "orders"], &["ssn", "id"], &[&["ssn"], &["id"]]), |statement| {
                statement.columns.outputs[0].opaque = true;
            })),
            vec![COMPUTED, field(ORDERS, 1)],
            vec![REDACT, PASS],
            true,
        ),
        (
            "SELECT *, count(*) OVER () FROM customers: the outputs are not known before",
            Some(with(select(&["customers"], &[], &[]), |statement| statement.columns.whole_rows = true)),
            vec![field(CUSTOMERS, 1), field(CUSTOMERS, 3), COMPUTED],
            vec![PASS, PARTIAL, REDACT],
            true,
        ),
        (
            "SELECT total * 2 FROM orders",
            Some(select(&["orders"], &["total"], &[&["total"]])),
            vec![COMPUTED],
            vec![PASS],
            false,
        ),
        (
            "SELECT query_to_xml('SELECT ssn …')",
            Some(with(select(&[], &[], &[&[]]), |statement| {
                statement.columns.opaque_calls = true;
                statement.columns.outputs[0].opaque = true;
            })),
            vec![COMPUTED],
            vec![REDACT],
            true,
        ),
        (
            "EXPLAIN SELECT ssn FROM customers",
            Some(with(select(&["customers"], &["ssn"], &[]), |statement| {
                statement.kind = "explain".to_owned()
            })),
            vec![COMPUTED],
            vec![PASS],
            false,
        ),
        (
            "EXPLAIN SELECT leak(ssn) FROM customers: the planner may call it",
            Some(with(select(&["customers"], &["ssn"], &[]), |statement| {
                statement.kind = "explain".to_owned();
                statement.columns.opaque_calls = true;
            })),
            vec![COMPUTED],
            vec![REDACT],
            true,
        ),
        (
            "EXECUTE p1 and FETCH from a cursor whose query we did not see (H19)",
            Some(with(select(&[], &[], &[]), |statement| {
                statement.session = SessionAction::Execute("p1".to_owned())
            })),
            vec![COMPUTED, field(ORDERS, 3)],
            vec![REDACT, PASS],
            true,
        ),
        ("a statement nobody knows", None, vec![COMPUTED, field(CUSTOMERS, 3)], vec![REDACT, PARTIAL], true),
        (
            "SELECT x FROM a table made after the catalogue was read",
            Some(select(&["fresh"], &["x"], &[&["x"]])),
            vec![field(77_777, 1), COMPUTED],
            vec![REDACT, REDACT],
            true,
        ),
    ];
    for (what, statement, fields, expected, tainted) in cases {
        let plan = plan(statement.as_ref(), &catalog, &no_detectors(), &fields);
        assert_eq!(plan.cells, expected, "{what}");
        assert_eq!(plan.tainted, tainted, "{what}");
        assert_eq!(plan.rules.is_empty(), plan.is_pass(), "{what}");
    }
}

#[test]
fn without_column_rules_only_detectors_work() {
    let catalog = MaskCatalog::build(&[], &[]);
    let scanner = Scanner::new(&[(Detector::Email, Method::Redact)]).unwrap();
    let fields =
        [COMPUTED, field(4711, 1), Field { type_oid: 23, ..COMPUTED }, Field { type_oid: 20, ..COMPUTED }];
    let decided = plan(None, &catalog, &scanner, &fields);
    assert_eq!(decided.cells, [CellAction::Detect, CellAction::Detect, PASS, CellAction::Detect]);
    assert!(plan(None, &catalog, &no_detectors(), &fields).is_pass());
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn moves_are_told_before_they_happen() {
    let catalog = catalog();
    let ssn = || select(&["customers"], &["ssn"], &[&["ssn"]]);
    let changed = |kind: &str, effect: Effect, change: fn(&mut Statement)| {
        with(ssn(), |statement| {
            statement.kind = kind.to_owned();
            statement.effect = effect;
            change(statement);
        })
    };
    let cases: Vec<(&str, Statement, Taint, ErrorTexts)> = vec![
        ("SELECT ssn", ssn(), Taint::ReadsMasked, ErrorTexts::Generic),
        (
            "SELECT id WHERE ssn LIKE '1%' (H16)",
            select(&["customers"], &["id", "ssn"], &[&["id"]]),
            Taint::ShowsColumns,
            ErrorTexts::Generic,
        ),
        (
            "SELECT id FROM customers",
            select(&["customers"], &["id"], &[&["id"]]),
            Taint::Clean,
            ErrorTexts::Generic,
        ),
        (
            "SELECT total FROM orders",
            select(&["orders"], &["total"], &[&["total"]]),
            Taint::Clean,
            ErrorTexts::Scan,
        ),
        (
            "SELECT ssn FROM orders: no such column there",
            select(&["orders"], &["ssn"], &[&["ssn"]]),
            Taint::Clean,
            ErrorTexts::Scan,
        ),
        (
            "SELECT name FROM a view of customers",
            select(&["open_names"], &["name"], &[&["name"]]),
            Taint::Clean,
            ErrorTexts::Generic,
        ),
        (
            "set_config('application_name', ssn) (H13), pg_notify (H14)",
            changed("select", Effect::Write, |s| s.columns.opaque_calls = true),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "an opaque call alone",
            with(select(&[], &[], &[&[]]), |s| s.columns.opaque_calls = true),
            Taint::ReadsMasked,
            ErrorTexts::Generic,
        ),
        (
            "INSERT INTO orders SELECT ssn (H17)",
            changed("insert", Effect::Write, |s| s.columns.moves_rows = true),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "CREATE TABLE t AS SELECT ssn",
            changed("create table as", Effect::Ddl, |s| s.columns.moves_rows = true),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "CREATE TABLE t AS TABLE customers",
            changed("create table as", Effect::Ddl, |s| {
                s.columns.names.clear();
                s.columns.whole_rows = true;
                s.columns.moves_rows = true;
            }),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "UPDATE customers SET note = ssn",
            changed("update", Effect::Write, |s| {
                s.writes = s.reads.clone();
                s.columns.moves_rows = true;
            }),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "CREATE INDEX ON customers ((ssn::int)) (H20)",
            changed("create index", Effect::Ddl, |s| s.writes = std::mem::take(&mut s.reads)),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "CREATE VIEW v AS SELECT ssn (E13)",
            changed("create view", Effect::Ddl, |_| {}),
            Taint::ReadsMasked,
            ErrorTexts::Generic,
        ),
        (
            "INSERT INTO customers (ssn) VALUES ('…'): H11 in the error",
            changed("insert", Effect::Write, |s| {
                s.writes = std::mem::take(&mut s.reads);
                s.columns.assigned_only = s.columns.names.clone();
            }),
            Taint::Clean,
            ErrorTexts::Generic,
        ),
        (
            "the same when the analyser does not tell targets apart",
            changed("insert", Effect::Write, |s| s.writes = std::mem::take(&mut s.reads)),
            Taint::ReadsMasked,
            ErrorTexts::Generic,
        ),
        (
            "DO and what was not understood",
            changed("do", Effect::Unknown, |s| {
                s.reads.clear();
                s.columns = Default::default();
            }),
            Taint::ReadsMasked,
            ErrorTexts::Generic,
        ),
        (
            "CREATE TABLE fresh",
            changed("create table", Effect::Ddl, |s| {
                s.reads.clear();
                s.writes = vec![object("fresh")];
            }),
            Taint::Clean,
            ErrorTexts::Scan,
        ),
        (
            "INSERT INTO fresh SELECT x FROM unseen",
            changed("insert", Effect::Write, |s| {
                s.reads = vec![object("unseen")];
                s.columns.moves_rows = true;
            }),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "CREATE TABLE t AS EXECUTE p1",
            changed("create table as", Effect::Ddl, |s| {
                s.reads.clear();
                s.columns = Default::default();
                s.session = SessionAction::Execute("p1".to_owned());
            }),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "ALTER TABLE customers RENAME COLUMN ssn TO harmless",
            changed("alter table", Effect::Ddl, |s| {
                s.writes = std::mem::take(&mut s.reads);
                s.columns = Default::default();
            }),
            Taint::MovesMasked,
            ErrorTexts::Generic,
        ),
        (
            "ALTER TABLE orders ADD COLUMN x int",
            changed("alter table", Effect::Ddl, |s| {
                s.reads.clear();
                s.writes = vec![object("orders")];
                s.columns = Default::default();
            }),
            Taint::Clean,
            ErrorTexts::Scan,
        ),
        (
            "BEGIN",
            changed("begin", Effect::Read, |s| {
                s.reads.clear();
                s.columns = Default::default();
                s.session = SessionAction::Begin;
            }),
            Taint::Clean,
            ErrorTexts::Scan,
        ),
    ];
    for (what, statement, taint, texts) in cases {
        assert_eq!(statement_taint(&statement, &catalog), taint, "{what}");
        assert_eq!(error_texts(&statement, &catalog), texts, "{what}");
        let inactive = MaskCatalog::build(&[customers()], &[]);
        assert_eq!(statement_taint(&statement, &inactive), Taint::Clean, "{what}");
        assert_eq!(error_texts(&statement, &inactive), ErrorTexts::Scan, "{what}");
    }
    assert!(ErrorTexts::Generic > ErrorTexts::Scan && Taint::MovesMasked > Taint::ReadsMasked);
}

#[test]
fn copies_go_by_position() {
    let catalog = catalog();
    let (plan, types) =
        plan_copy(&object("customers"), &["ssn".to_owned(), "id".to_owned()], &catalog, &no_detectors())
            .unwrap();
    assert_eq!((plan.cells, types), (vec![PARTIAL, PASS], vec![25, 25]));
    let (plan, _) = plan_copy(&object("customers"), &[], &catalog, &no_detectors()).unwrap();
    assert_eq!(plan.cells, [PASS, PASS, PARTIAL, PASS]);
    assert_eq!(plan_copy(&object("unseen"), &[], &catalog, &no_detectors()), None);
}
