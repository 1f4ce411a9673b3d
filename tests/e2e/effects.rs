//! What statements do beyond their text: functions and operators by the catalogue, what views and row policies call, and
//! what a held statement sets off.

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{NOBODY, Talking};

use crate::spine::server;

/// Runs statements on connections `a` and `b` of one database, and says of each whether it passed. A statement that is
/// given several times is prepared.
const PYTHON: &str = r#"
import sys, psycopg
def connect(database, **options):
    options = {"autocommit": True, "prepare_threshold": 0, **options}
    return psycopg.connect(f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname={database}", **options)
wrong = 0
def ask(c, expected, sql):
    global wrong
    try:
        c.execute(sql)
        found, detail = "passes", ""
    except psycopg.Error as e:
        ours = (e.diag.message_primary or "").startswith("portcullis:")
        found, detail = "denied" if ours else "failed", f"{e.diag.message_primary} | {e.diag.message_detail}"
    if found != expected:
        wrong += 1
    print("ok   " if found == expected else "WRONG", found, sql, "|", detail)
"#;

/// Reads pass, and changes of the schema; everything else is denied.
fn policy(rules: &str) -> String {
    let whole = shop_policy(server());
    let connection = whole.split("[[guard]]").next().unwrap();
    format!(
        r#"{connection}
[[guard]]
name = "looks"
on = "postgres"
effect = ["read", "ddl"]
action = "allow"

[[guard]]
name = "the rest"
on = "postgres"
effect = ["write", "admin", "unknown"]
action = "deny"

{rules}"#
    )
}

/// A database of this test's own; `sql` is run in it as superuser.
fn database(name: &str, sql: &str) {
    server().psql("postgres", &format!("CREATE DATABASE {name} OWNER shop_agent")).unwrap();
    let path = format!("ALTER ROLE shop_agent IN DATABASE {name} SET search_path = app, public");
    server().psql("postgres", &path).unwrap();
    server()
        .psql(name, "CREATE SCHEMA app AUTHORIZATION shop_agent; CREATE SCHEMA evil AUTHORIZATION shop_agent")
        .unwrap();
    server().psql(name, sql).unwrap();
}

fn python(daemon: &Daemon, script: &str) {
    let script = format!("{PYTHON}\n{script}\nsys.exit(wrong != 0)");
    let mut command = agent::python_command(daemon, server(), NOBODY, "shop", &script).unwrap();
    let seen = Talking::spawn(&mut command).unwrap().finish().unwrap();
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, daemon.log());
}

/// The reasons recorded for statements whose text contains `part`.
fn reasons(daemon: &Daemon, part: &str) -> Vec<String> {
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    let mut found = Vec::new();
    for session in &sessions {
        for event in daemon.json_lines(&["sessions", "show", session["session"].as_str().unwrap()]).unwrap() {
            if event["asked"]["text"]["text"].as_str().is_some_and(|text| text.contains(part)) {
                let statements = event["asked"]["statements"].as_array().unwrap();
                found.extend(
                    statements.iter().filter_map(|found| found["reason"].as_str().map(str::to_owned)),
                );
            }
        }
    }
    found
}

const FUNCTIONS: &str = "
    CREATE FUNCTION app.price_of(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1 * 2';
    CREATE FUNCTION evil.price_of(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1 * 3';
    CREATE FUNCTION app.half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2';
    CREATE TABLE app.gone (n int);
    INSERT INTO app.gone VALUES (1);
    CREATE FUNCTION app.purge() RETURNS int LANGUAGE sql AS 'DELETE FROM app.gone; SELECT 1';
    CREATE FUNCTION app.wipe(app.gone) RETURNS int LANGUAGE sql AS 'SELECT app.purge()';
    CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
    CREATE FUNCTION app.step(int, int) RETURNS int LANGUAGE sql AS 'SELECT app.purge()';
    CREATE AGGREGATE app.sly(int) (SFUNC = app.step, STYPE = int, INITCOND = '0');
    CREATE OPERATOR app.=== (FUNCTION = app.same, LEFTARG = int, RIGHTARG = int);
    CREATE OPERATOR app.<<< (FUNCTION = app.step, LEFTARG = int, RIGHTARG = int);
    ALTER TABLE app.gone OWNER TO shop_agent;
    ALTER FUNCTION app.price_of(int) OWNER TO shop_agent;
    ALTER FUNCTION app.half(int) OWNER TO shop_agent;
    CREATE EXTENSION pgcrypto";

#[test]
fn functions_of_users_are_judged_by_schema_name_and_volatility() {
    let same = "CREATE FUNCTION app.same(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 = $2'";
    database("effects_functions", &format!("{same};{FUNCTIONS}"));
    let rules = "[postgres]\nread_functions = [\"app.*\"]\n";
    let daemon = Daemon::start(&[("shop", &policy(rules))]).unwrap();
    python(
        &daemon,
        r#"
a = connect("effects_functions")
for passes in ["SELECT app.price_of(1)", "SELECT price_of(1)", "SELECT half(price_of(4))", "SELECT 1 === 1",
               "SELECT 1 OPERATOR(app.===) 2", "SELECT total(n) FROM gone", "SELECT digest('a', 'sha256')",
               "SELECT public.hmac('a', 'b', 'sha1'), gen_salt('bf')", "SELECT lower('A')"]:
    ask(a, "passes", passes)
    ask(a, "passes", passes)
for denied in ["SELECT evil.price_of(1)", "SELECT purge()", "SELECT app.purge()", "SELECT 1 <<< 2", "SELECT sly(n) FROM gone",
               "SELECT g.wipe FROM gone g", "SELECT half(purge())", "COPY (SELECT purge()) TO STDOUT",
               "EXPLAIN ANALYZE SELECT purge()", "SELECT price_of(1); SELECT purge()",
               "SET search_path = evil; SELECT price_of(1)"]:
    ask(a, "denied", denied)
# What is prepared is judged again when names mean something else.
ask(a, "passes", "PREPARE p AS SELECT price_of(1)")
ask(a, "passes", "EXECUTE p")
ask(a, "passes", "SET search_path = evil, app")
ask(a, "denied", "SELECT price_of(1)")
ask(a, "denied", "EXECUTE p")
ask(a, "passes", "SELECT app.price_of(1)")
"#,
    );
    assert_eq!(server().psql("effects_functions", "SELECT count(*) FROM app.gone").unwrap().trim(), "1");
    let reasons = reasons(&daemon, "half(purge())");
    assert_eq!(reasons, ["calls purge, which is not known to be read-only"]);
}

#[test]
fn functions_that_change_are_judged_anew() {
    let same = "CREATE FUNCTION app.same(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 = $2'";
    database("effects_changes", &format!("{same};{FUNCTIONS}"));
    let rules = "[postgres]\nread_functions = [\"app.*\"]\n";
    let daemon = Daemon::start(&[("shop", &policy(rules))]).unwrap();
    python(
        &daemon,
        r#"
a, b = connect("effects_changes"), connect("effects_changes")
ask(a, "passes", "SELECT app.half(1)")
ask(b, "passes", "SELECT half(1), price_of(1)")
ask(a, "passes", "CREATE OR REPLACE FUNCTION app.half(int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT app.purge()'")
ask(a, "denied", "SELECT app.half(1)")
ask(b, "denied", "SELECT half(1), price_of(1)")
ask(b, "passes", "SELECT price_of(1)")
ask(a, "passes", "CREATE OR REPLACE FUNCTION app.half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'")
ask(a, "passes", "SELECT app.half(1)")
ask(b, "passes", "SELECT half(1), price_of(1)")
# An overload of the name is as good as the function itself: which of them is meant only the server knows.
ask(a, "passes", "CREATE FUNCTION app.price_of(text) RETURNS int LANGUAGE sql AS 'SELECT app.purge()'")
ask(b, "denied", "SELECT price_of(1)")
ask(b, "denied", "SELECT price_of('1')")
ask(a, "passes", "DROP FUNCTION app.price_of(text)")
ask(b, "passes", "SELECT price_of(1)")
# Within a transaction nobody else sees it yet, and nothing is trusted.
ask(b, "passes", "BEGIN")
ask(b, "passes", "CREATE FUNCTION app.lower(int) RETURNS int LANGUAGE sql AS 'SELECT app.purge()'")
ask(b, "denied", "SELECT app.half(1)")
ask(b, "passes", "ROLLBACK")
ask(b, "passes", "SELECT app.half(1), lower('A')")
# A name of PostgreSQL's own, with arguments that PostgreSQL's has not.
ask(a, "passes", "CREATE FUNCTION app.lower(int) RETURNS int LANGUAGE sql AS 'SELECT app.purge()'")
ask(b, "denied", "SELECT lower(1)")
ask(b, "passes", "SELECT pg_catalog.lower('A')")
"#,
    );
    assert_eq!(server().psql("effects_changes", "SELECT count(*) FROM app.gone").unwrap().trim(), "1");
}

#[test]
fn a_read_has_the_effect_of_what_its_view_or_row_policy_calls() {
    database(
        "effects_views",
        "CREATE SEQUENCE app.s;
         CREATE TABLE app.orders (id int); INSERT INTO app.orders VALUES (1);
         CREATE FUNCTION app.tenant() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION app.touch() RETURNS int LANGUAGE sql AS 'SELECT nextval(''app.s'')::int';
         CREATE VIEW app.plain AS SELECT id, lower('A') FROM app.orders;
         CREATE VIEW app.tickets AS SELECT nextval('app.s');
         CREATE VIEW app.nested AS SELECT 1 FROM app.tickets;
         CREATE VIEW app.touching AS SELECT id FROM app.orders WHERE app.touch() > 0;
         CREATE VIEW app.telling AS SELECT id FROM app.orders WHERE id = app.tenant();
         CREATE MATERIALIZED VIEW app.kept AS SELECT nextval('app.s');
         CREATE TABLE app.mine (id int); ALTER TABLE app.mine ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON app.mine USING (id = app.tenant());
         CREATE TABLE app.watched (id int); ALTER TABLE app.watched ENABLE ROW LEVEL SECURITY;
         CREATE POLICY watched ON app.watched FOR SELECT USING (app.touch() > 0);
         GRANT ALL ON ALL TABLES IN SCHEMA app TO shop_agent; GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO shop_agent;
         SELECT setval('app.s', 1, false)",
    );
    let rules = "[postgres]\ncatalogue = true\nread_functions = [\"app.tenant\"]\n";
    let daemon = Daemon::start(&[("shop", &policy(rules))]).unwrap();
    python(
        &daemon,
        r#"
a, b = connect("effects_views"), connect("effects_views")
for passes in ["SELECT * FROM app.orders", "SELECT * FROM plain", "SELECT * FROM telling", "SELECT * FROM kept", "TABLE mine",
               "SELECT * FROM pg_stat_activity", "SELECT * FROM information_schema.tables LIMIT 1", "SELECT 1"]:
    ask(a, "passes", passes)
for denied in ["SELECT * FROM tickets", "SELECT * FROM app.nested", "SELECT * FROM touching", "TABLE watched",
               "SELECT 1 WHERE EXISTS (SELECT FROM watched)", "COPY app.tickets TO STDOUT",
               "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM tickets"]:
    ask(a, "denied", denied)
# A view that is made, changed or renamed on the way.
ask(a, "passes", "BEGIN")
ask(a, "passes", "CREATE VIEW app.late AS SELECT nextval('app.s')")
ask(a, "denied", "SELECT * FROM late")
ask(a, "passes", "ROLLBACK")
ask(a, "passes", "CREATE VIEW app.late AS SELECT id FROM app.orders")
ask(b, "passes", "SELECT * FROM late")
ask(a, "passes", "CREATE OR REPLACE VIEW app.late AS SELECT nextval('app.s')::int AS id")
ask(b, "denied", "SELECT * FROM late")
ask(a, "passes", "CREATE TEMPORARY VIEW orders AS SELECT nextval('app.s')")
ask(a, "denied", "SELECT * FROM orders")
ask(a, "passes", "SELECT * FROM app.orders")
"#,
    );
    assert_eq!(server().psql("effects_views", "SELECT is_called FROM app.s").unwrap().trim(), "f");
    assert_eq!(reasons(&daemon, "app.nested"), ["reads app.tickets, which calls nextval"]);
    let unknown = "reads app.touching, which calls app.touch, which is not known to be read-only";
    assert_eq!(reasons(&daemon, "FROM touching"), [unknown]);
}

#[test]
fn without_the_catalogue_texts_alone_count() {
    database(
        "effects_texts",
        "CREATE SEQUENCE app.s; CREATE VIEW app.tickets AS SELECT nextval('app.s'); CREATE EXTENSION pgcrypto;
         GRANT ALL ON ALL TABLES IN SCHEMA app TO shop_agent; GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO shop_agent",
    );
    let daemon = Daemon::start(&[("shop", &policy(""))]).unwrap();
    python(
        &daemon,
        r#"
a = connect("effects_texts")
ask(a, "passes", "SELECT * FROM tickets")
ask(a, "denied", "SELECT digest('a', 'sha256')")
"#,
    );
}
