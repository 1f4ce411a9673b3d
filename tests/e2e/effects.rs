//! What statements do beyond their text: functions and operators by the catalogue, what views and row policies call, and
//! what a held statement sets off.

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{NOBODY, REVIEWER, Talking, finish};
use harness::reviewer::{decide, id_of};
use serde_json::Value;

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

/// Writes are held for the reviewer; clients are sent away after a moment.
fn holding(rules: &str) -> String {
    policy(rules).replace(
        "effect = [\"write\", \"admin\", \"unknown\"]\naction = \"deny\"",
        "effect = [\"write\", \"admin\", \"unknown\"]\naction = \"hold\"\napprovers = [\"user:daemon\"]\nhold = \"10m\"\n\
         inline = \"1s\"",
    )
}

fn session(daemon: &Daemon, database: &str) -> Talking {
    let mut shell = agent::psql_shell(daemon, server(), NOBODY, database).unwrap();
    Talking::spawn(&mut shell).unwrap()
}

/// The one request that waits.
fn waiting(daemon: &Daemon) -> Value {
    let listed = finish(daemon.command_as(REVIEWER).unwrap().args(["approvals", "list", "--json"])).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    let mut waiting = entries.into_iter().filter(|entry| entry["outcome"].is_null());
    let entry = waiting.next().expect("something waits");
    assert_eq!(waiting.next(), None);
    entry
}

fn approve(daemon: &Daemon, id: &str) {
    let approved = decide(daemon, REVIEWER, "approve", id, "fine").unwrap();
    assert_eq!(approved.code, 0, "{}", approved.stderr);
}

const SHOP: &str = "
    CREATE TABLE app.customers (id int PRIMARY KEY, name text);
    CREATE TABLE app.orders (id int PRIMARY KEY, customer int REFERENCES app.customers ON DELETE CASCADE);
    CREATE TABLE app.items (id int, ordered int REFERENCES app.orders ON DELETE SET NULL ON UPDATE CASCADE);
    CREATE TABLE app.visits (id int REFERENCES app.customers);
    CREATE VIEW app.people AS SELECT * FROM app.customers;
    CREATE TABLE app.events (at int) PARTITION BY RANGE (at);
    CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM (1) TO (100);
    CREATE TABLE app.events_2 PARTITION OF app.events FOR VALUES FROM (100) TO (200);
    INSERT INTO app.customers SELECT n, 'x' FROM generate_series(1, 300) n;
    INSERT INTO app.events SELECT n FROM generate_series(1, 199) n;
    CREATE FUNCTION app.log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER audit AFTER DELETE OR UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.log();
    CREATE TRIGGER asleep BEFORE INSERT ON app.orders EXECUTE FUNCTION app.log();
    ALTER TABLE app.orders DISABLE TRIGGER asleep;
    CREATE RULE kept AS ON DELETE TO app.items WHERE OLD.id = 1 DO INSTEAD NOTHING;
    ANALYZE;
    GRANT ALL ON ALL TABLES IN SCHEMA app TO shop_agent";

#[test]
fn a_hold_shows_what_the_statement_sets_off() {
    database("effects_holds", SHOP);
    let daemon = Daemon::start(&[("shop", &holding(""))]).unwrap();
    let mut psql = session(&daemon, "effects_holds");
    psql.say("DELETE FROM people WHERE id = 7;").unwrap();
    psql.until_contains("waits for a human's approval").unwrap();
    let entry = waiting(&daemon);
    let id = id_of(&entry);
    let found = &entry["request"]["side_effects"];
    let relations = found["relations"].as_array().unwrap();
    let names: Vec<&str> = relations.iter().map(|found| found["name"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["people", "customers", "orders", "items"], "{found}");
    assert_eq!(
        (&relations[1]["rows"], &relations[1]["through"]["name"]),
        (&Value::from(300), &Value::from("people"))
    );
    assert!(relations[1]["bytes"].as_u64().unwrap() > 8192, "{found}");
    let shown = finish(daemon.command_as(REVIEWER).unwrap().args(["approvals", "show", &id])).unwrap().stdout;
    for part in [
        "sets off:\n  view app.people\n  table app.customers, through app.people, ~300 rows, ",
        "    foreign key orders_customer_fkey of app.orders on delete cascade",
        "  table app.orders, through app.customers, ~0 rows, ",
        "    trigger asleep before insert for each statement runs app.log (disabled)",
        "    trigger audit after delete or update for each row runs app.log\n",
        "    foreign key items_ordered_fkey of app.items on delete set null on update cascade",
        "    rule kept acts instead of delete",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("visits"), "its key only refuses: {shown}");
    let session_id = entry["request"]["session"].as_str().unwrap();
    let events = daemon.json_lines(&["sessions", "show", session_id]).unwrap();
    let held = events.iter().find(|event| event["event"] == "held").unwrap();
    assert_eq!(&held["side_effects"], found, "recorded as shown");

    // More rows are the same operation, and another trigger is not.
    server()
        .psql("effects_holds", "INSERT INTO app.customers VALUES (1000, 'y'); ANALYZE app.customers")
        .unwrap();
    approve(&daemon, &id);
    psql.say("DELETE FROM people WHERE id = 7;").unwrap();
    psql.until_contains("DELETE 1").unwrap();
    psql.say("DELETE FROM people WHERE id = 8;").unwrap();
    psql.until_contains("waits for a human's approval").unwrap();
    let first = id_of(&waiting(&daemon));
    approve(&daemon, &first);
    let trigger = "CREATE TRIGGER late AFTER DELETE ON app.customers FOR EACH ROW EXECUTE FUNCTION app.log()";
    server().psql("effects_holds", trigger).unwrap();
    psql.say("DELETE FROM people WHERE id = 8;").unwrap();
    psql.until_contains("waits for a human's approval").unwrap();
    let second = id_of(&waiting(&daemon));
    assert_ne!(first, second, "asked anew");
    assert_eq!(
        server().psql("effects_holds", "SELECT count(*) FROM app.customers WHERE id = 8").unwrap().trim(),
        "1"
    );

    // Nothing waits any more, so that the next request is the one.
    approve(&daemon, &second);
    psql.say("TRUNCATE app.events;").unwrap();
    psql.until_contains("waits for a human's approval").unwrap();
    let events = waiting(&daemon)["request"]["side_effects"]["relations"][0].clone();
    assert_eq!(
        (&events["kind"], &events["partitions"]),
        (&Value::from("partitioned table"), &Value::from(2))
    );
    assert_eq!(events["rows"], 199);
    psql.finish().unwrap();
}

#[test]
fn a_hold_says_when_the_server_could_not_be_asked() {
    database("effects_alone", SHOP);
    // Room for the client's connection and none beside it.
    server().psql("postgres", "ALTER DATABASE effects_alone CONNECTION LIMIT 1").unwrap();
    let daemon = Daemon::start(&[("shop", &holding(""))]).unwrap();
    let mut psql = session(&daemon, "effects_alone");
    psql.say("DELETE FROM customers;").unwrap();
    psql.until_contains("waits for a human's approval").unwrap();
    let entry = waiting(&daemon);
    assert_eq!(entry["request"]["side_effects"]["not_asked"], true);
    let show = ["approvals", "show", &id_of(&entry)];
    let shown = finish(daemon.command_as(REVIEWER).unwrap().args(show)).unwrap().stdout;
    assert!(shown.contains("could not be asked"), "{shown}");
    psql.finish().unwrap();
}
