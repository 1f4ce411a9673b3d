//! Lineage as it is told of real SQL.

use crate::request::Source;
use crate::request::sql::analyze;

/// Each output's sources as `relation.column`, or `relation.*`; `?` is a doubt, and several are joined by `+`.
fn outputs(sql: &str) -> String {
    let analysis = analyze(sql);
    let lineage = &analysis.statements[0].columns.lineage;
    let Some(outputs) = &lineage.outputs else { return "untold".to_owned() };
    let shown = |source: &Source| match source {
        Source::Row(relation) => format!("{relation}.*"),
        Source::Column(reference) => {
            let relations: Vec<String> = reference.levels.iter().flatten().map(ToString::to_string).collect();
            format!("{}.{}", relations.join("/"), reference.name)
        }
    };
    let each = outputs.iter().map(|sources| {
        let mut places: Vec<String> = lineage.at(sources).map(shown).collect();
        if sources.doubt {
            places.push("?".to_owned());
        }
        if places.is_empty() { "-".to_owned() } else { places.join("+") }
    });
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn outputs_are_followed_to_their_columns() {
    let mut wrong = Vec::new();
    for (sql, expected) in [
        ("SELECT a, b AS c, 1, count(*) FROM t", "t.a, t.b, -, -"),
        ("SELECT a || b FROM t", "t.a+t.b"),
        ("SELECT x.a, y.a, a FROM t x, u y", "t.a, u.a, t/u.a"),
        ("SELECT * FROM t", "untold"),
        ("SELECT * FROM (SELECT a, b AS c FROM t) q", "t.a, t.b"),
        ("SELECT q.*, 1 FROM (SELECT a, b AS c FROM t) q", "t.a, t.b, -"),
        ("SELECT c FROM (SELECT a, b AS c FROM t) q", "t.b"),
        ("SELECT c FROM (SELECT a, b FROM t) q(c)", "t.a"),
        ("SELECT x.a FROM (SELECT * FROM t) x", "t.a"),
        ("SELECT * FROM (SELECT a FROM t JOIN u USING (b)) q, (VALUES (1, 2)) v", "t/u.a, -, -"),
        ("SELECT * FROM (SELECT a, b FROM t) q JOIN (SELECT b, c FROM u) r USING (b)", "untold"),
        ("SELECT b FROM (SELECT a, b FROM t) q JOIN (SELECT b, c FROM u) r USING (b)", "t.b+u.b"),
        ("WITH q AS (SELECT a AS x FROM t) SELECT sum(x) FROM q", "t.a"),
        ("WITH q(x) AS (SELECT a FROM t), r AS (SELECT x AS y FROM q) SELECT y, r.y FROM r", "t.a, t.a"),
        ("WITH t AS (SELECT b AS a FROM u) SELECT a FROM t", "u.b"),
        (
            "WITH RECURSIVE q(x, n) AS (SELECT a, 1 FROM t UNION ALL SELECT b, n FROM q, u) SELECT n FROM q",
            "t.a+u.b+u.n",
        ),
        ("SELECT a FROM t UNION ALL SELECT b FROM u", "t.a+u.b"),
        ("SELECT a FROM t UNION ALL SELECT * FROM u", "untold"),
        ("SELECT (SELECT max(b) FROM u WHERE u.c = t.c) FROM t", "u/t.b"),
        ("SELECT exists(SELECT b FROM u) FROM t", "-"),
        ("SELECT ARRAY(SELECT a FROM u) FROM t", "u/t.a"),
        ("SELECT (SELECT a) FROM t", "t.a"),
        ("SELECT (SELECT a FROM u) FROM t", "u/t.a"),
        ("SELECT t FROM t", "t.t"),
        ("SELECT q FROM (SELECT a, b FROM t) q", "t.a+t.b"),
        ("SELECT x FROM t, unnest(t.a) x", "t.a+t.x"),
        ("SELECT j.a FROM (t JOIN u USING (b)) j", "t.a+u.a"),
        ("SELECT nowhere.a FROM t", "?"),
        ("DELETE FROM t WHERE b = 1 RETURNING a, old.c", "t.a, t.c"),
        ("INSERT INTO t (a) SELECT b FROM u RETURNING a", "t.a"),
        ("WITH q AS (UPDATE t SET a = 1 RETURNING b AS c) SELECT c FROM q", "t.b"),
        ("EXPLAIN SELECT a FROM t", "untold"),
        ("CREATE VIEW v AS SELECT a FROM t", "untold"),
        ("COPY (SELECT a FROM t) TO STDOUT", "t.a"),
        ("DECLARE k CURSOR FOR SELECT a FROM t", "t.a"),
    ] {
        let told = outputs(sql);
        if told != expected {
            wrong.push(format!("{sql}\n   got `{told}`, expected `{expected}`"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_text_costs_no_more_than_its_bound_and_ends_in_doubt() {
    let doubted = |sql: &str| {
        let analysis = analyze(sql);
        assert_eq!(analysis.statements.len(), 1);
        analysis.statements[0].columns.lineage.compared.doubt
    };
    // Twice as many columns with each level.
    let mut doubling = "SELECT a, b FROM t".to_owned();
    for _ in 0..30 {
        doubling = format!("SELECT q.*, q.* FROM ({doubling}) q");
    }
    assert!(doubted(&format!("SELECT 1 FROM ({doubling}) z WHERE z.a > 1")));
    // Each level of these is followed twice.
    let mut recursive = "SELECT 1 FROM t".to_owned();
    for _ in 0..60 {
        recursive = format!("WITH RECURSIVE q AS (({recursive}) UNION ALL SELECT 1 FROM q) SELECT 1 FROM q");
    }
    assert!(doubted(&recursive));
    let many: Vec<String> = (0..5000).map(|n| format!("c{n}")).collect();
    assert!(doubted(&format!("SELECT 1 FROM t WHERE f({})", many.join(", "))));
    let tables: Vec<String> = (0..2000).map(|n| format!("t{n}")).collect();
    assert!(doubted(&format!("SELECT 1 FROM {} WHERE f({})", tables.join(", "), many.join(", "))));
}
