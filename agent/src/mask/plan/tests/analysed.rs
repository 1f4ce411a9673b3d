//! Plans for real SQL, as the analyser understands it.

use super::*;

fn check(cases: &[(&str, &str)]) {
    let catalog = catalog();
    let mut bad = Vec::new();
    for (sql, expected) in cases {
        let analysis = crate::request::sql::analyze(sql);
        let statement = &analysis.statements[0];
        let count = expected.split(' ').nth(1).map_or(0, str::len);
        let cells = plan(Some(statement), &catalog, &no_detectors(), &vec![COMPUTED; count]).cells;
        let shown: String = cells.iter().map(|cell| if *cell == PASS { '.' } else { 'X' }).collect();
        let got = format!("{:?} {shown}", statement_taint(statement, &catalog));
        if got.trim() != *expected {
            bad.push(format!(
                "{sql}\n   got {got}, expected {expected}; {} {:?} fn {:?} {:?}",
                statement.kind, statement.effect, statement.functions, statement.columns
            ));
        }
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

/// What the catalogue has found to be possibly another function than the text shows may give back anything.
#[test]
fn a_name_that_is_overloaded_clears_nothing() {
    let catalog = catalog();
    for sql in [
        "SELECT lower(name), 1 FROM customers",
        "SELECT x, 1 FROM (SELECT lower(name) AS x FROM customers) t",
    ] {
        let mut statement = crate::request::sql::analyze(sql).statements.remove(0);
        assert!(plan(Some(&statement), &catalog, &no_detectors(), &[COMPUTED; 2]).is_pass(), "{sql}");
        statement.unlisted.hidden = true;
        let cells = plan(Some(&statement), &catalog, &no_detectors(), &[COMPUTED; 2]).cells;
        assert_eq!(cells, [CellAction::Mask(Method::Redact); 2], "{sql}");
    }
}

/// Outputs that come through subqueries and other names stay as they are where nothing masked goes into them.
#[test]
fn outputs_are_followed_through_subqueries() {
    check(&[
        (
            "SELECT count(*), upper(n) FROM (SELECT name AS n, ssn FROM customers) t GROUP BY 2",
            "ShowsColumns ..",
        ),
        (
            "SELECT count(*), upper(n), max(x) FROM (SELECT name AS n, ssn AS x FROM customers) t GROUP BY 2",
            "ReadsMasked XXX",
        ),
        ("SELECT upper(n), x FROM (SELECT name AS n, ssn AS x FROM customers) t", "ReadsMasked .X"),
        (
            "WITH q AS (SELECT id, total * 2 AS d FROM orders) SELECT sum(d), c.name FROM q JOIN customers c USING (id), (SELECT ssn FROM customers) z GROUP BY 2",
            "ShowsColumns ..",
        ),
        ("WITH q AS (SELECT name AS x, ssn AS name FROM customers) SELECT lower(x) FROM q", "ShowsColumns ."),
        ("WITH q AS (SELECT name AS x, ssn AS name FROM customers) SELECT name FROM q", "ReadsMasked X"),
        (
            "SELECT date_trunc('day', at) FROM (SELECT o.total AS at, c.ssn FROM orders o JOIN customers c ON c.id = o.customer_id) t",
            "ShowsColumns .",
        ),
        (
            "SELECT name FROM customers UNION ALL SELECT total FROM orders, customers WHERE (SELECT true)",
            "Clean .",
        ),
        ("SELECT name, ssn FROM customers UNION ALL SELECT total, total FROM orders", "ReadsMasked .X"),
        ("SELECT n FROM (SELECT name AS n, ssn FROM customers) t, generate_series(1, 2)", "ShowsColumns ."),
        (
            "SELECT * FROM (SELECT name || '' AS n, id FROM customers, (SELECT ssn FROM customers) z) t",
            "ShowsColumns ..",
        ),
        // The result depends on masked values, so nothing of it is clear.
        ("SELECT v FROM (VALUES ('1'), ('2')) v(v) JOIN customers c ON left(c.ssn, 1) = v", "ReadsMasked X"),
        ("SELECT n FROM generate_series(1, 9) n WHERE n = (SELECT ssn::int FROM customers)", "ReadsMasked X"),
        ("SELECT count(*) FROM generate_series(1, (SELECT ssn::int FROM customers))", "ReadsMasked X"),
        (
            "SELECT count(*) FROM (SELECT 1 FROM orders LIMIT (SELECT ssn::int FROM customers)) t",
            "ReadsMasked X",
        ),
        ("SELECT n FROM (SELECT name AS n FROM customers ORDER BY ssn) t", "ReadsMasked X"),
        ("SELECT n FROM (SELECT DISTINCT name AS n, ssn FROM customers) t", "ReadsMasked X"),
        ("SELECT rank FROM (SELECT rank() OVER (ORDER BY ssn) FROM customers) t", "ReadsMasked X"),
        (
            "SELECT a FROM (SELECT id AS a FROM orders) t WHERE EXISTS (SELECT 1 FROM customers WHERE ssn = 'x')",
            "ReadsMasked X",
        ),
        // Nobody can tell.
        ("SELECT t FROM (SELECT name, ssn FROM customers) t", "ReadsMasked X"),
        ("SELECT t.harmless FROM (SELECT * FROM customers) t", "ReadsMasked X"),
        ("SELECT t.harmless FROM (SELECT *, 1 AS one FROM customers) t", "ReadsMasked X"),
        ("SELECT t.to_jsonb FROM (SELECT name, ssn FROM customers) t", "ReadsMasked X"),
        ("SELECT (t).n FROM (SELECT name AS n, ssn FROM customers) t", "ReadsMasked X"),
        ("SELECT c FROM (SELECT * FROM customers) t(a, b, c)", "ReadsMasked X"),
        (
            "SELECT d FROM (SELECT whatever(id) AS d FROM orders, (SELECT ssn FROM customers) z) t",
            "MovesMasked X",
        ),
        ("SELECT n FROM (SELECT nextval('s') AS n, ssn FROM customers) t", "MovesMasked X"),
        (
            "WITH w AS (INSERT INTO orders (total) SELECT ssn FROM customers RETURNING total) SELECT total || '' FROM w",
            "MovesMasked X",
        ),
        (
            "SELECT n FROM (SELECT x.name AS n, x.ssn FROM nowhere x) t, customers WHERE customers.ssn IS NOT NULL",
            "ReadsMasked X",
        ),
    ]);
}

/// The real analyser's facts lead to the same verdicts. Every output is taken to be computed, the worst case.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn statements_as_they_are_analysed() {
    check(&[
        ("SELECT ssn AS note FROM customers", "ShowsColumns X"),
        ("SELECT substr(ssn,1,5), upper(name), count(*) FROM customers GROUP BY 1,2", "ReadsMasked X.."),
        ("SELECT row_to_json(c) FROM customers c", "ReadsMasked X"),
        ("SELECT c FROM customers c", "ReadsMasked X"),
        ("SELECT customers FROM customers", "ReadsMasked X"),
        ("SELECT (c).ssn || '' FROM customers c", "ReadsMasked X"),
        ("SELECT ssn FROM customers UNION ALL SELECT ''", "ReadsMasked X"),
        ("SELECT ssn FROM customers FULL JOIN orders USING (ssn)", "ReadsMasked X"),
        ("SELECT 1 FROM customers NATURAL JOIN orders", "ShowsColumns ."),
        ("SELECT array(SELECT ssn FROM customers)", "ReadsMasked X"),
        ("SELECT upper(x) FROM (SELECT ssn AS x FROM customers) q", "ReadsMasked X"),
        ("SELECT upper(x) FROM customers AS c(i, n, x, y)", "ReadsMasked X"),
        ("SELECT upper(x) FROM (customers CROSS JOIN orders) AS j(i, n, x)", "ReadsMasked X"),
        ("WITH q(x) AS (SELECT ssn FROM customers) SELECT upper(x) FROM q", "ReadsMasked X"),
        ("WITH q(a,b,x) AS (TABLE customers) SELECT upper(x) FROM q", "ReadsMasked X"),
        ("SELECT upper(x) FROM (SELECT * FROM customers) q(a,b,x,y)", "ReadsMasked X"),
        ("SELECT ssn(c) FROM customers c", "MovesMasked X"),
        ("SELECT string_agg(c::text, ',') FROM customers c", "ReadsMasked X"),
        ("SELECT id, name FROM customers", "Clean .."),
        ("SELECT count(*), max(total) FROM orders", "Clean .."),
        ("SELECT id FROM customers WHERE ssn LIKE '1%'", "ShowsColumns ."),
        ("SELECT set_config('application_name', ssn, false) FROM customers", "MovesMasked X"),
        ("SELECT pg_notify('c', ssn) FROM customers", "MovesMasked X"),
        ("INSERT INTO orders(total) SELECT ssn FROM customers", "MovesMasked"),
        (
            "INSERT INTO orders(total[(SELECT ssn FROM customers)]) VALUES ('1') RETURNING total",
            "MovesMasked",
        ),
        ("CREATE INDEX ON customers ((ssn::int))", "MovesMasked"),
        ("CREATE INDEX ON customers (ssn)", "MovesMasked"),
        ("UPDATE customers SET note = ssn", "MovesMasked"),
        ("CREATE TABLE t AS TABLE customers", "MovesMasked"),
        ("SELECT * INTO t FROM customers", "MovesMasked"),
        ("ALTER TABLE customers ALTER COLUMN ssn TYPE int USING ssn::int", "MovesMasked"),
        ("ALTER TABLE customers RENAME COLUMN ssn TO harmless", "MovesMasked"),
        ("ALTER TABLE customers RENAME TO harmless", "MovesMasked"),
        ("ALTER TABLE customers SET SCHEMA other", "MovesMasked"),
        ("ALTER SCHEMA public RENAME TO other", "MovesMasked"),
        ("CREATE TRIGGER g AFTER INSERT ON customers EXECUTE FUNCTION f()", "MovesMasked"),
        (
            "CREATE RULE r AS ON INSERT TO customers DO ALSO INSERT INTO orders(total) VALUES (NEW.ssn)",
            "MovesMasked",
        ),
        ("ALTER TABLE orders ADD COLUMN x int", "Clean"),
        ("CREATE VIEW v AS SELECT ssn AS note FROM customers", "ReadsMasked"),
        ("CREATE VIEW orders AS SELECT ssn AS total FROM customers", "MovesMasked"),
        ("CREATE TEMP VIEW orders AS SELECT name AS total FROM customers", "Clean"),
        ("CREATE OR REPLACE VIEW open_names AS SELECT ssn AS name FROM customers", "MovesMasked"),
        ("CREATE MATERIALIZED VIEW v AS SELECT ssn AS note FROM customers", "MovesMasked"),
        ("COPY customers(ssn) TO STDOUT", "ShowsColumns"),
        ("COPY (SELECT ssn FROM customers) TO STDOUT", "ReadsMasked X"),
        ("COPY customers TO STDOUT", "ShowsColumns"),
        ("DECLARE k CURSOR FOR SELECT ssn FROM customers", "ShowsColumns"),
        ("PREPARE p AS SELECT ssn FROM customers", "ShowsColumns"),
        ("EXPLAIN SELECT ssn FROM customers", "Clean ."),
        ("EXPLAIN ANALYZE SELECT ssn FROM customers", "Clean ."),
        ("SELECT query_to_xml('SELECT ssn FROM customers',true,false,'')", "ReadsMasked X"),
        ("DO $$ BEGIN PERFORM 1; END $$", "ReadsMasked"),
        ("FETCH 10 FROM c1", "ReadsMasked X"),
        ("EXECUTE p1", "MovesMasked X"),
        ("UPDATE customers SET name = 'x' WHERE id = 1", "Clean"),
        ("UPDATE customers SET ssn = 'x' WHERE id = 1", "Clean"),
        ("INSERT INTO customers(id, ssn) VALUES (1, 'x')", "Clean"),
        ("INSERT INTO customers(id, ssn) VALUES (1, 'x') RETURNING ssn", "ShowsColumns X"),
        (
            "INSERT INTO customers(id, ssn) VALUES (1,'x') ON CONFLICT (id) DO UPDATE SET note = customers.ssn",
            "MovesMasked",
        ),
        ("DELETE FROM customers WHERE id = 1", "Clean"),
        ("DELETE FROM customers RETURNING *", "ShowsColumns X"),
        (
            "MERGE INTO orders o USING customers c ON o.id=c.id WHEN MATCHED THEN UPDATE SET total = c.ssn",
            "MovesMasked",
        ),
        ("TABLE customers", "ShowsColumns X"),
        ("SELECT * FROM customers", "ShowsColumns X"),
        ("SELECT ssn FROM customers FOR UPDATE", "ShowsColumns X"),
        ("SELECT c.harmless FROM customers c", "MovesMasked X"),
        ("SELECT upper(c.harmless), c.name || '' FROM customers c", "MovesMasked X."),
        ("SELECT c.id, c.ctid, o.total FROM customers c JOIN orders o ON o.id = c.id", "Clean ..."),
        ("UPDATE customers SET name = 'x' WHERE ssn = '1' RETURNING id, ssn", "ShowsColumns .X"),
        ("UPDATE customers SET name = 'x' RETURNING upper(ssn)", "ReadsMasked X"),
        ("UPDATE customers SET name = c.harmless FROM customers c", "MovesMasked"),
        ("DELETE FROM customers WHERE ssn IN (SELECT ssn FROM customers)", "ShowsColumns"),
        ("SELECT ssn, upper(name), count(*) FROM customers GROUP BY 1, 2", "ShowsColumns X.."),
        ("SHOW search_path", "Clean ."),
        ("BEGIN", "Clean"),
        ("TRUNCATE customers", "Clean"),
        ("SELECT sum(total) OVER (ORDER BY (SELECT max(ssn) FROM customers)) FROM orders", "ReadsMasked X"),
        ("VALUES ((SELECT ssn FROM customers LIMIT 1))", "ReadsMasked X"),
        ("SELECT CASE WHEN exists(SELECT 1 FROM customers WHERE ssn='1') THEN 1 END", "ReadsMasked X"),
        ("SELECT to_jsonb(c)->>'ssn' FROM customers c", "ReadsMasked X"),
        ("SELECT c.* FROM customers c", "ShowsColumns X"),
        ("SELECT ROW(c.*) FROM customers c", "ReadsMasked X"),
        ("SELECT x FROM customers c, LATERAL (SELECT c.ssn AS x) l", "ReadsMasked X"),
        ("SELECT x FROM customers c, unnest(ARRAY[c.ssn]) x", "ReadsMasked X"),
        ("SELECT x FROM customers c, json_each_text(row_to_json(c)) AS j(k,x)", "ReadsMasked X"),
        (
            "SELECT t.x FROM XMLTABLE('/r' PASSING (SELECT xmlforest(ssn) FROM customers) COLUMNS x text) t",
            "ReadsMasked X",
        ),
    ]);
}
