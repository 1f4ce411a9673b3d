//! Statements by which masked values could be found out, and those that stay as they are.

use super::*;
use crate::mask::catalog::tests::{CUSTOMERS, customers, orders, relation, rule, view};
use crate::mask::catalog::{ColumnRule, RelationKind};
use crate::mask::{MaskCatalog, Method};
use crate::request::sql::analyze;

const CARDS: u32 = 20_003;

fn with(pattern: &str, predicates: Predicates) -> ColumnRule {
    ColumnRule { terms: predicates.into(), ..rule(pattern, Method::Redact) }
}

/// `customers.ssn` denied, `customers.note` masked without more, `cards.number` held, `cards.mail` for look-ups.
fn catalog() -> MaskCatalog {
    let mut made = relation(31, "made", RelationKind::Table, &["id", "ssn", "short"]);
    made.generated = vec![(3, 2)];
    let relations = [
        customers(),
        orders(),
        relation(CARDS, "cards", RelationKind::Table, &["id", "number", "mail"]),
        view(41, "shown", &[("id", Some((CUSTOMERS, 1))), ("x", Some((CUSTOMERS, 3)))], &[(CUSTOMERS, 3)]),
        view(42, "over_view", &[("id", Some((41, 1))), ("y", Some((41, 2)))], &[(41, 2)]),
        view(43, "computed", &[("id", Some((CUSTOMERS, 1))), ("z", None)], &[(CUSTOMERS, 3)]),
        view(44, "names", &[("name", Some((CUSTOMERS, 2)))], &[(CUSTOMERS, 2)]),
        view(45, "mails", &[("note", Some((CARDS, 3)))], &[(CARDS, 3)]),
        made,
        relation(32, "letters", RelationKind::Table, &["letter", "id"]),
        relation(33, "signups", RelationKind::Table, &["id", "ssn", "customer_id"]),
        relation(34, "ssn", RelationKind::Table, &["id"]),
        {
            let mut statistics =
                relation(2618, "pg_stats", RelationKind::View, &["tablename", "most_common_vals"]);
            statistics.schema = "pg_catalog".to_owned();
            statistics
        },
    ];
    MaskCatalog::build(
        &relations,
        &[
            with("customers.ssn", Predicates::Deny),
            with("made.ssn", Predicates::Deny),
            with("customers.note", Predicates::Allow),
            with("cards.number", Predicates::Hold),
            with("cards.mail", Predicates::Equality),
            with("mails.note", Predicates::Allow),
        ],
    )
}

fn told(sql: &str, catalog: &MaskCatalog) -> String {
    let analysis = analyze(sql);
    let each = analysis.statements.iter().map(|statement| dependence(statement, catalog));
    match each.fold(None, Dependence::stricter) {
        None => "".to_owned(),
        Some(Dependence::Unseen) => "unseen".to_owned(),
        Some(Dependence::Named { answer: Answer::Deny, what, .. }) => format!("deny {what}"),
        Some(Dependence::Named { answer: Answer::Hold | Answer::Allow, what, .. }) => format!("hold {what}"),
    }
}

fn check(cases: &[(&str, &str)]) {
    let catalog = catalog();
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(sql, expected)| {
            let told = told(sql, &catalog);
            (told != *expected).then(|| format!("{sql}\n   got `{told}`, expected `{expected}`"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_asks_by_a_masked_column_is_denied() {
    const SSN: &str = "deny customers.ssn";
    let statements = [
        "SELECT id FROM customers WHERE ssn LIKE '1%'",
        "SELECT id FROM customers WHERE ssn = $1",
        "SELECT id FROM customers WHERE '1' = ssn",
        "SELECT id FROM customers WHERE id = 1 AND ssn > '5'",
        "SELECT id FROM customers WHERE id = 1 OR NOT ssn > '5'",
        "SELECT id FROM customers WHERE ssn IS NULL",
        "SELECT id FROM customers WHERE ssn BETWEEN '1' AND '2'",
        "SELECT id FROM customers WHERE ssn IN ('1', '2')",
        "SELECT id FROM customers WHERE ssn = ANY ($1)",
        "SELECT id FROM customers WHERE (name, ssn) < ('a', 'b')",
        "SELECT id FROM customers WHERE length(ssn) = 3",
        "SELECT id FROM customers ORDER BY ssn",
        "SELECT id, ssn FROM customers ORDER BY 2",
        "SELECT id, ssn AS n FROM customers ORDER BY n DESC LIMIT 1",
        "SELECT ssn AS id, name FROM customers ORDER BY id",
        "SELECT id FROM customers ORDER BY ssn USING <",
        "SELECT id FROM customers ORDER BY lower(ssn)",
        "SELECT count(*) FROM customers GROUP BY ssn",
        "SELECT ssn, count(*) FROM customers GROUP BY 1",
        "SELECT ssn AS g, count(*) FROM customers GROUP BY ROLLUP (g)",
        "SELECT ssn, count(*) FROM customers GROUP BY GROUPING SETS ((1), ())",
        "SELECT name FROM customers GROUP BY (name, ssn)",
        "SELECT name FROM customers GROUP BY name HAVING max(ssn) > '5'",
        "SELECT DISTINCT ssn FROM customers",
        "SELECT DISTINCT ON (ssn) id FROM customers",
        "SELECT DISTINCT ON (1) ssn, id FROM customers",
        "SELECT count(*) OVER (PARTITION BY ssn) FROM customers",
        "SELECT row_number() OVER w FROM customers WINDOW w AS (ORDER BY ssn)",
        "SELECT count(*) FILTER (WHERE ssn > '5') FROM customers",
        "SELECT array_agg(id ORDER BY ssn) FROM customers",
        "SELECT count(DISTINCT ssn) FROM customers",
        "SELECT o.id FROM orders o JOIN customers c ON c.ssn = o.total",
        "SELECT o.id FROM orders o JOIN customers c ON c.id = o.id AND c.ssn > '5'",
        "SELECT 1 FROM customers a JOIN signups b USING (ssn)",
        "SELECT l.letter FROM letters l, customers c WHERE l.letter = left(c.ssn, 1)",
        "SELECT id FROM orders LIMIT (SELECT ssn::int FROM customers WHERE id = 1)",
        "SELECT id FROM orders OFFSET (SELECT ssn::int FROM customers WHERE id = 1)",
        "SELECT id FROM orders WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = orders.id AND ssn > '5')",
        "SELECT id FROM orders WHERE total IN (SELECT ssn FROM customers)",
        "SELECT id FROM orders WHERE total > ALL (SELECT ssn FROM customers)",
        "SELECT id FROM orders WHERE total = (SELECT max(ssn) FROM customers)",
        "SELECT id FROM customers c WHERE EXISTS (SELECT 1 FROM orders WHERE total = ssn)",
        "SELECT ssn FROM customers UNION SELECT '1'",
        "SELECT ssn FROM customers INTERSECT SELECT '1'",
        "SELECT ssn FROM customers EXCEPT ALL SELECT '1'",
        "(SELECT id, ssn FROM customers UNION ALL SELECT 1, '1') ORDER BY 2",
        "(SELECT id, ssn FROM customers UNION ALL SELECT 1, '1') ORDER BY ssn",
        "VALUES (1) UNION (SELECT id FROM customers WHERE ssn > '5')",
        "SELECT id FROM (SELECT ssn AS x, id FROM customers) t WHERE x LIKE '1%'",
        "SELECT t.id FROM (SELECT ssn AS x, id FROM customers) t WHERE t.x LIKE '1%'",
        "SELECT id FROM (SELECT * FROM customers) t WHERE ssn LIKE '1%'",
        "SELECT id FROM (SELECT c.* FROM customers c) t WHERE t.ssn LIKE '1%'",
        "SELECT a FROM (SELECT id, ssn FROM customers) t(a, b) WHERE b LIKE '1%'",
        "SELECT a FROM (SELECT id, x FROM (SELECT id, ssn AS x FROM customers) u) t(a, b) WHERE b > '5'",
        "WITH q AS (SELECT id, ssn AS x FROM customers) SELECT id FROM q WHERE x LIKE '1%'",
        "WITH q(a, b) AS (SELECT id, ssn FROM customers) SELECT a FROM q WHERE b LIKE '1%'",
        "WITH q AS (SELECT id, ssn FROM customers), r AS (SELECT id, ssn AS y FROM q) SELECT 1 FROM r ORDER BY y",
        "WITH q AS (SELECT id, ssn FROM customers) SELECT a FROM q AS z(a, b) WHERE b > '5'",
        "WITH q AS (DELETE FROM customers WHERE id = 1 RETURNING ssn AS x) SELECT 1 FROM q WHERE x > '5'",
        "WITH q AS (SELECT 1 WHERE (SELECT ssn FROM customers) > '5') SELECT * FROM q",
        "WITH RECURSIVE q(r, n) AS (SELECT ssn, 1 FROM customers UNION ALL SELECT r, n + 1 FROM q WHERE n < 3) SELECT n FROM q WHERE r > '5'",
        "WITH RECURSIVE q(r, n) AS (SELECT ssn, 1 FROM customers UNION ALL SELECT r, n + 1 FROM q WHERE r > '5') SELECT n FROM q",
        "WITH customers AS (SELECT * FROM customers) SELECT id FROM customers WHERE ssn > '5'",
        "SELECT 1 FROM customers c, LATERAL (SELECT c.ssn AS x) l WHERE l.x > '5'",
        "SELECT 1 FROM customers c, generate_series(1, c.ssn::int)",
        "SELECT count(*) FROM generate_series(1, (SELECT ssn::int FROM customers WHERE id = 1))",
        "SELECT 1 FROM customers c, unnest(ARRAY[c.ssn]) x WHERE x > '5'",
        "SELECT 1 FROM (customers JOIN orders USING (id)) j WHERE j.ssn > '5'",
        "SELECT 1 FROM (customers JOIN orders USING (id)) j WHERE ssn > '5'",
        "SELECT 1 FROM (VALUES ((SELECT ssn FROM customers))) v(x) WHERE x > '5'",
        // An error, or the time it takes, tells as much as a condition.
        "SELECT 1 / (ssn LIKE '1%')::int FROM customers",
        "SELECT CASE WHEN ssn LIKE '1%' THEN pg_sleep(1) END FROM customers",
        "SELECT upper(ssn) FROM customers",
        "SELECT ssn::int FROM customers",
        "SELECT (SELECT ssn::int FROM customers LIMIT 1)",
        "SELECT y FROM (SELECT ssn::date AS y FROM customers) t",
        "VALUES ((SELECT ssn::int FROM customers LIMIT 1))",
        "UPDATE orders SET total = 1 FROM customers c WHERE c.id = orders.id AND c.ssn > '5'",
        "UPDATE customers SET name = 'x' WHERE ssn LIKE '1%'",
        "UPDATE customers SET name = ssn WHERE id = 1",
        "UPDATE customers SET name = 'x' WHERE id = 1 RETURNING ssn::int",
        "DELETE FROM customers WHERE ssn > '5'",
        "DELETE FROM orders USING customers c WHERE c.id = orders.id AND c.ssn > '5'",
        "INSERT INTO orders (id) SELECT id FROM customers WHERE ssn > '5'",
        "INSERT INTO customers (id, ssn) VALUES (1, '1') ON CONFLICT (ssn) DO NOTHING",
        "INSERT INTO customers (id, ssn) VALUES (1, '1') ON CONFLICT DO NOTHING",
        "INSERT INTO customers (id, ssn) VALUES (1, '1') ON CONFLICT ON CONSTRAINT k DO NOTHING",
        "INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE customers.ssn > '5'",
        "INSERT INTO customers AS c (id) VALUES (1) ON CONFLICT (id) WHERE ssn > '5' DO NOTHING",
        "MERGE INTO orders o USING customers c ON o.id = c.id AND c.ssn > '5' WHEN MATCHED THEN DELETE",
        "MERGE INTO orders o USING customers c ON o.id = c.id WHEN MATCHED AND c.ssn > '5' THEN DELETE",
        "COPY (SELECT id FROM customers WHERE ssn > '5') TO STDOUT",
        "COPY customers FROM STDIN WHERE ssn > '5'",
        "DECLARE k CURSOR FOR SELECT id FROM customers ORDER BY ssn",
        "PREPARE p AS SELECT id FROM customers WHERE ssn = $1",
        "EXPLAIN SELECT id FROM customers WHERE ssn = '1'",
        "EXPLAIN (ANALYZE, TIMING off) SELECT id FROM customers WHERE ssn = '1'",
        "CREATE VIEW v AS SELECT id FROM customers WHERE ssn > '5'",
        "CREATE TABLE t AS SELECT id FROM customers ORDER BY ssn",
        "CREATE INDEX ON customers (id) WHERE ssn > '5'",
        "SELECT 1; SELECT id FROM customers WHERE ssn > '5'",
        "SELECT id FROM customers WHERE customers.ssn > '5' FOR UPDATE",
        "SELECT 1 FROM signups s WHERE EXISTS (SELECT 1 FROM orders WHERE total = (SELECT c.ssn FROM customers c))",
        "SELECT 1 FROM customers a WHERE EXISTS (SELECT 1 FROM signups a, (SELECT a.ssn AS x) q WHERE x > '5')",
        "SELECT 1 FROM customers a WHERE EXISTS (SELECT 1 FROM signups a, (letters b JOIN letters c ON a.ssn > '5'))",
        "SELECT 1 FROM customers WHERE EXISTS (SELECT 1 FROM signups AS customers WHERE public.customers.ssn > '5')",
    ];
    check(&statements.map(|sql| (sql, SSN)));
}

#[test]
fn what_could_be_any_column_counts() {
    check(&[
        ("SELECT DISTINCT * FROM customers", "deny a column of customers"),
        ("TABLE customers UNION TABLE customers", "deny a column of customers"),
        ("SELECT id FROM public.customers WHERE public.customers.ssn > '5'", "deny public.customers.ssn"),
        ("SELECT 1 FROM customers NATURAL JOIN orders", "deny a column of customers"),
        ("SELECT 1 FROM customers c WHERE c = ROW(1, 'a', 'b', 'c')", "deny a column of customers"),
        ("SELECT 1 FROM customers c WHERE c::text LIKE '%1%'", "deny a column of customers"),
        ("SELECT 1 FROM customers WHERE customers::text LIKE '%1%'", "deny a column of customers"),
        ("SELECT 1 FROM customers c WHERE c.*::text LIKE '%1%'", "deny a column of customers"),
        ("SELECT 1 FROM customers c WHERE (c).name = 'x'", "deny a column of customers"),
        ("SELECT 1 FROM customers c WHERE to_jsonb(c) ->> 'ssn' > '5'", "deny a column of customers"),
        ("SELECT 1 FROM customers c WHERE c.to_jsonb ->> 'ssn' > '5'", "deny a column of customers"),
        ("SELECT 1 FROM customers AS c(a, b, x, y) WHERE x > '5'", "deny a column of customers"),
        (
            "SELECT 1 FROM (customers CROSS JOIN letters) AS j(a, b, x) WHERE x > '5'",
            "deny a column of customers",
        ),
        ("SELECT 1 FROM (SELECT * FROM customers) t(a, b, x) WHERE x > '5'", "deny a column of customers"),
        ("SELECT * FROM customers ORDER BY 3", "deny a column of customers"),
        ("SELECT t FROM (SELECT * FROM customers) t ORDER BY t", "deny a column of customers"),
        (
            "SELECT 1 FROM customers c, LATERAL (VALUES (c)) x(y) WHERE (y).name > '5'",
            "deny a column of customers",
        ),
        (
            "INSERT INTO customers VALUES (1, 'a', 'b', 'c') ON CONFLICT DO NOTHING",
            "deny a column of customers",
        ),
        ("CLUSTER customers USING k", "deny a column of customers"),
        (
            "SELECT id FROM nowhere WHERE x = 1",
            "deny nowhere.x, of a relation that was not there when the catalogue was last read",
        ),
        ("DO $$ BEGIN END $$", "unseen"),
        ("SELECT whatever(1)", "unseen"),
        ("CALL whatever(1)", "unseen"),
        ("EXECUTE p(1)", "unseen"),
        ("EXPLAIN EXECUTE p(1)", "unseen"),
        ("FETCH 1 FROM k", "unseen"),
        ("this is not SQL", "unseen"),
        (
            "WITH RECURSIVE a AS (SELECT id FROM b), b AS (SELECT id, ssn FROM customers) SELECT 1 FROM a WHERE id > 5",
            "deny a column of customers",
        ),
    ]);
}

#[test]
fn views_and_generated_columns_carry_it() {
    check(&[
        ("SELECT id FROM shown WHERE x > '5'", "deny shown.x"),
        ("SELECT id FROM over_view ORDER BY y", "deny over_view.y"),
        ("SELECT id FROM computed WHERE z > '5'", "deny computed.z"),
        ("SELECT id FROM made WHERE short > '5'", "deny made.short"),
        ("SELECT id FROM computed WHERE id = 1", ""),
        ("SELECT name FROM names WHERE name = 'x'", ""),
        ("SELECT DISTINCT name FROM names", ""),
        // Its own mask is milder than that of the column behind it.
        ("SELECT 1 FROM mails WHERE note = 'x'", ""),
        ("SELECT 1 FROM mails WHERE note > 'x'", "deny mails.note"),
        (
            "SELECT 1 FROM pg_stats WHERE most_common_vals::text LIKE '%1%'",
            "deny pg_catalog.pg_stats.most_common_vals",
        ),
        ("SELECT most_common_vals FROM pg_stats WHERE tablename = 'x'", ""),
    ]);
}

#[test]
fn what_shows_a_masked_column_or_asks_by_others_passes() {
    let statements = [
        "SELECT name FROM customers WHERE id = $1",
        "SELECT name, ssn FROM customers WHERE id = 1 ORDER BY name LIMIT 10",
        "SELECT * FROM customers WHERE name LIKE 'a%' ORDER BY id",
        "SELECT c.* FROM customers c JOIN orders o ON o.customer_id = c.id WHERE o.total > 5",
        "SELECT c FROM customers c WHERE c.id = 1",
        "SELECT ssn AS x FROM customers ORDER BY 1 + 1",
        "SELECT id, ssn FROM customers ORDER BY 1",
        "SELECT ssn, id FROM customers ORDER BY id",
        "SELECT name, count(*) FROM customers GROUP BY 1 ORDER BY 2 DESC",
        "SELECT DISTINCT name FROM customers",
        "SELECT DISTINCT ON (id) id, ssn FROM customers ORDER BY id",
        "SELECT count(*) FROM customers",
        "SELECT 1 FROM customers WHERE note > '5' ORDER BY note",
        "SELECT id FROM customers WHERE EXISTS (SELECT ssn FROM customers)",
        "SELECT count(*) FROM (SELECT id, ssn FROM customers WHERE id < 5) t",
        "SELECT t.id FROM (SELECT * FROM customers) t WHERE t.name = 'a'",
        "SELECT t.a FROM (SELECT id, ssn FROM customers) t(a, b) WHERE a = 1",
        "WITH q AS (SELECT id, ssn AS x FROM customers) SELECT x FROM q WHERE id = 1",
        "WITH customers AS (SELECT 1 AS id, 2 AS ssn) SELECT 1 FROM customers, orders WHERE ssn = 2",
        "WITH RECURSIVE q(r, n) AS (SELECT name, 1 FROM customers UNION ALL SELECT r, n + 1 FROM q WHERE n < 3) SELECT r FROM q WHERE n = 2",
        "SELECT ssn FROM customers UNION ALL SELECT '1'",
        "(SELECT id, ssn FROM customers UNION ALL SELECT 1, '1') ORDER BY 1",
        "SELECT id FROM customers WHERE id IN (SELECT customer_id FROM signups WHERE ssn = 'x')",
        "SELECT s.ssn FROM signups s WHERE s.ssn = 'x' AND EXISTS (SELECT 1 FROM customers c WHERE c.id = s.id)",
        "SELECT id FROM ssn WHERE ssn.id = 1",
        "SELECT max(total) FROM orders ORDER BY 1",
        "SELECT total FROM orders NATURAL JOIN letters",
        "SELECT DISTINCT * FROM orders",
        "UPDATE customers SET ssn = $1 WHERE id = 1",
        "UPDATE customers SET name = upper(name) WHERE id = 1 RETURNING *",
        "INSERT INTO customers (id, ssn) VALUES (1, '1')",
        "INSERT INTO customers (id, ssn) VALUES (1, '1') ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn, name = lower(excluded.name)",
        "INSERT INTO customers (id) VALUES (1) ON CONFLICT DO NOTHING RETURNING ssn",
        "DELETE FROM customers WHERE id = 1 RETURNING ssn",
        "COPY customers (id, ssn) TO STDOUT",
        "COPY (SELECT ssn FROM customers ORDER BY id) TO STDOUT",
        "COPY customers FROM STDIN WHERE id > 5",
        "EXPLAIN ANALYZE SELECT ssn FROM customers WHERE id = 1",
        "CREATE VIEW v AS SELECT id, ssn FROM customers WHERE id > 5",
        "SELECT nextval('s'), name FROM customers WHERE id = 1",
        "TRUNCATE customers",
        "ALTER TABLE customers ADD CHECK (id > 0)",
        "CREATE INDEX ON customers (name)",
        "BEGIN",
        "SELECT 1",
    ];
    check(&statements.map(|sql| (sql, "")));
}

#[test]
fn one_comparison_with_one_value_is_a_look_up() {
    const MAIL: &str = "deny cards.mail";
    let passes = [
        "SELECT id FROM cards WHERE mail = $1",
        "SELECT id FROM cards WHERE 'a' = mail AND id > 5",
        "SELECT id FROM cards c WHERE c.mail = $1::text",
        "SELECT id FROM (SELECT id, mail AS m FROM cards) t WHERE m = 'a'",
        "SELECT o.id FROM orders o JOIN cards c ON c.id = o.id AND c.mail = 'a'",
        "UPDATE cards SET id = 1 WHERE mail = 'a'",
        "DELETE FROM cards WHERE mail OPERATOR(pg_catalog.=) 'a'",
    ];
    check(&passes.map(|sql| (sql, "")));
    let denied = [
        "SELECT id FROM cards WHERE mail = 'a' OR mail = 'b'",
        "SELECT id FROM cards WHERE mail = 'a' AND mail = 'b'",
        "SELECT id FROM cards WHERE mail <> 'a'",
        "SELECT id FROM cards WHERE NOT mail = 'a'",
        "SELECT id FROM cards WHERE mail > $1",
        "SELECT id FROM cards WHERE mail IN ($1)",
        "SELECT id FROM cards WHERE mail = ANY ($1)",
        "SELECT id FROM cards WHERE lower(mail) = $1",
        "SELECT id FROM cards WHERE mail = $1 || '%'",
        "SELECT id FROM cards WHERE mail = id::text",
        "SELECT id FROM cards JOIN letters ON mail = letter",
        "SELECT (mail = 'a') FROM cards",
        "SELECT id FROM cards HAVING mail = 'a'",
        "SELECT 1 FROM cards a, cards b WHERE a.mail = 'a' AND b.mail = 'b'",
        "(SELECT id FROM cards WHERE mail = 'a') UNION ALL (SELECT id FROM cards, letters WHERE mail = 'b')",
        "INSERT INTO cards (id, mail) VALUES (1, 'a'), (2, 'b') ON CONFLICT (mail) DO NOTHING",
    ];
    check(&denied.map(|sql| (sql, MAIL)));
    check(&[
        ("SELECT id FROM cards WHERE number = $1", "hold cards.number"),
        ("SELECT id FROM cards ORDER BY number", "hold cards.number"),
        ("SELECT id FROM cards c, customers WHERE number > '5' AND ssn > '5'", "deny customers.ssn"),
    ]);
}

#[test]
fn without_such_masks_nothing_changes() {
    let catalog = MaskCatalog::build(&[customers()], &[rule("customers.ssn", Method::Redact)]);
    for sql in ["SELECT id FROM customers WHERE ssn > '5'", "DO 'x'", "SELECT 1 FROM nowhere WHERE x > 1"] {
        assert_eq!(told(sql, &catalog), "", "{sql}");
    }
}

#[test]
fn a_catalogue_that_may_be_out_of_date_knows_nothing() {
    let catalog = MaskCatalog::build(&[], &[with("customers.ssn", Predicates::Deny)]);
    let sql = "SELECT id FROM orders WHERE total = 1";
    assert!(told(sql, &catalog).starts_with("deny orders.total, of a relation"), "{}", told(sql, &catalog));
    assert_eq!(told("SELECT id FROM orders", &catalog), "");
}

#[test]
fn what_a_review_found() {
    let hidden = |star: &str| {
        let many = (0..840).map(|at| format!("1 c{at}")).collect::<Vec<_>>().join(",");
        let names = (0..840).map(|at| format!("c{at}")).collect::<Vec<_>>().join(",");
        format!("SELECT {star} FROM customers c, (SELECT {many}) a JOIN (SELECT {many}) b USING ({names})")
    };
    let beyond = format!("SELECT count(*) FROM ({}) t", hidden("*, generate_series(1, ascii(c.ssn))"));
    let system_column =
        view(46, "v", &[("id", Some((CUSTOMERS, 1))), ("ctid", Some((CUSTOMERS, 3)))], &[(CUSTOMERS, 3)]);
    let mut elsewhere = relation(47, "customers", RelationKind::Table, &["x"]);
    elsewhere.schema = "pg_temp_3".to_owned();
    let rules = [with("customers.ssn", Predicates::Deny), with("cards.mail", Predicates::Equality)];
    let cards = relation(CARDS, "cards", RelationKind::Table, &["id", "number", "mail"]);
    let catalog = MaskCatalog::build(&[customers(), orders(), cards, system_column, elsewhere], &rules);
    for (sql, expected) in [
        ("INSERT INTO orders (total[(SELECT ascii(ssn) FROM customers)]) VALUES (1)", "deny customers.ssn"),
        (beyond.as_str(), "deny customers.ssn"),
        (&hidden("*, 1 / (c.ssn LIKE '1%')::int"), "deny customers.ssn"),
        ("SELECT id FROM v WHERE ctid LIKE '1%'", "deny v.ctid"),
        ("SELECT id FROM orders WHERE ctid = '(0,1)'", ""),
        ("EXPLAIN CREATE TABLE x AS EXECUTE p('1%')", "unseen"),
        ("SELECT c.id FROM customers c WHERE c.id = 1", ""),
        ("SELECT c.ssn FROM customers c WHERE c.lower LIKE '1%'", "deny a column of customers"),
        (
            "WITH RECURSIVE t AS (SELECT id FROM cards WHERE mail = $1 UNION ALL \
             SELECT c.id FROM t JOIN cards c ON c.id = t.id) SELECT id FROM t",
            "",
        ),
        ("SELECT id FROM cards WHERE mail = $1 AND mail = $2", "deny cards.mail"),
    ] {
        let shown = sql.get(..200).unwrap_or(sql);
        assert_eq!(told(sql, &catalog), expected, "{shown}");
    }
}
