//! What holds statements that pass: rows of a result, time, budgets of a run; and rules that are only tried out.

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{Finished, NOBODY};
use serde_json::Value;

use crate::spine::server;

/// Connects, and prints what each statement gives: its number of rows, or the error.
const PYTHON: &str = r#"
import sys, psycopg
def connect(**options):
    options.setdefault("autocommit", True)
    return psycopg.connect(f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop", **options)
def ask(c, sql, *parameters, **options):
    try:
        cursor = c.execute(sql, *parameters, **options)
        print(sql, "->", len(cursor.fetchall()) if cursor.description else cursor.statusmessage)
    except psycopg.Error as e:
        print(sql, "->", e.sqlstate, e.diag.message_primary, "|", e.diag.message_detail)
"#;

fn daemon(rules: &str) -> Daemon {
    let policy = shop_policy(server());
    let at = policy.find("[[guard]]").unwrap();
    let (head, guards) = policy.split_at(at);
    Daemon::start(&[("shop", &format!("{head}\n{rules}\n{guards}"))]).unwrap()
}

fn python(daemon: &Daemon, script: &str) -> Vec<String> {
    let Finished { code, stdout, stderr, .. } =
        agent::python(daemon, server(), NOBODY, &format!("{PYTHON}\n{script}")).unwrap();
    assert_eq!(code, 0, "{stdout}\n{stderr}\n{}", daemon.log());
    stdout.lines().map(str::to_owned).collect()
}

/// The outcomes of all operations, in order: text, status, rows.
fn outcomes(daemon: &Daemon) -> Vec<Value> {
    let sessions = daemon.until(&["sessions", "list"], |sessions| {
        sessions
            .iter()
            .any(|session| session["opened"]["protocol"] == "postgres" && !session["ended_ns"].is_null())
    });
    let sessions = sessions.unwrap();
    let session = sessions.iter().find(|session| session["opened"]["protocol"] == "postgres").unwrap();
    let events = daemon.json_lines(&["sessions", "show", session["session"].as_str().unwrap()]).unwrap();
    events.into_iter().filter(|event| event["event"] == "outcome").collect()
}

const BOUNDED: &str = r#"
[[guard]]
name = "small looks"
on = "postgres"
effect = ["read"]
max_rows = 5
timeout = "1s"
action = "allow"
"#;

#[test]
fn a_result_ends_where_its_rule_says() {
    let daemon = daemon(BOUNDED);
    let seen = python(
        &daemon,
        r#"
c = connect()
ask(c, "SELECT generate_series(1, 5)")
ask(c, "SELECT generate_series(1, 6)")
ask(c, "SELECT generate_series(1, 6) WHERE %s", (True,))
ask(c, "SELECT g, repeat('x', 9000) FROM generate_series(1, 200000) g")
ask(c, "SELECT 1; SELECT generate_series(1, 6)", prepare=False)
with c.cursor() as cursor:
    for rows, form in (5, "text"), (6, "text"), (5, "csv, HEADER"), (6, "csv, HEADER"), (5, "binary"), (6, "binary"):
        try:
            with cursor.copy(f"COPY (SELECT generate_series(1, {rows})) TO STDOUT (FORMAT {form})") as copy:
                for piece in copy: pass
            print("copied", rows, form)
        except psycopg.Error as e:
            print("copy", rows, form, e.sqlstate)
ask(c, "SELECT 'still here'")
"#,
    );
    let limit =
        "54000 portcullis: the result has more than 5 rows, the most that may pass | Rule: small looks.";
    assert_eq!(
        seen,
        [
            "SELECT generate_series(1, 5) -> 5".to_owned(),
            format!("SELECT generate_series(1, 6) -> {limit}"),
            format!("SELECT generate_series(1, 6) WHERE %s -> {limit}"),
            format!("SELECT g, repeat('x', 9000) FROM generate_series(1, 200000) g -> {limit}"),
            format!("SELECT 1; SELECT generate_series(1, 6) -> {limit}"),
            "copied 5 text".to_owned(),
            "copy 6 text 54000".to_owned(),
            "copied 5 csv, HEADER".to_owned(),
            "copy 6 csv, HEADER 54000".to_owned(),
            "copied 5 binary".to_owned(),
            "copy 6 binary 54000".to_owned(),
            "SELECT 'still here' -> 1".to_owned(),
        ]
    );
    let outcomes = outcomes(&daemon);
    let of = |at: usize| (outcomes[at]["status"].clone(), outcomes[at]["rows"].clone());
    assert_eq!(of(0), ("done".into(), 5.into()), "{outcomes:?}");
    assert_eq!(of(1), ("failed".into(), 5.into()), "{outcomes:?}");
    assert_eq!(of(3), ("failed".into(), 5.into()), "{outcomes:?}");
}

#[test]
fn a_transaction_whose_result_was_cut_has_failed() {
    let daemon = daemon(BOUNDED);
    server()
        .psql("shop", "CREATE TABLE limits_kept (n integer); ALTER TABLE limits_kept OWNER TO shop_agent")
        .unwrap();
    let seen = python(
        &daemon,
        r#"
c = connect(autocommit=False)
ask(c, "INSERT INTO limits_kept VALUES (1)")
ask(c, "SELECT generate_series(1, 6)")
print(c.info.transaction_status.name)
ask(c, "SELECT 1")
c.commit()
with connect() as c, c.pipeline() as p:
    c.execute("INSERT INTO limits_kept VALUES (2)")
    try:
        c.execute("SELECT generate_series(1, 6)")
        p.sync()
    except psycopg.Error as e:
        print("pipeline", e.sqlstate)
with connect() as c:
    # What stands behind it in the same message would run: only the session's end keeps it from taking effect.
    try:
        c.execute("SELECT generate_series(1, 6); SELECT 1", prepare=False)
        print("passed")
    except psycopg.Error as e:
        print("message", "more than 5 rows" in str(e), c.closed)
"#,
    );
    assert_eq!(
        seen,
        [
            "INSERT INTO limits_kept VALUES (1) -> INSERT 0 1",
            "SELECT generate_series(1, 6) -> 54000 portcullis: the result has more than 5 rows, the most that may pass | Rule: small \
             looks.",
            "INERROR",
            "SELECT 1 -> 25P02 current transaction is aborted, commands ignored until end of transaction block | None",
            "pipeline 54000",
            "message True True",
        ]
    );
    assert_eq!(server().psql("shop", "SELECT count(*) FROM limits_kept").unwrap().trim(), "0");
}

#[test]
fn nothing_behind_or_in_a_result_that_was_cut_is_committed() {
    let daemon =
        daemon(&format!("{BOUNDED}{}", BOUNDED.replace("read", "write").replace("looks", "changes")));
    server()
        .psql("shop", "CREATE TABLE limits_none (n integer); ALTER TABLE limits_none OWNER TO shop_agent")
        .unwrap();
    let seen = python(
        &daemon,
        r#"
def tried(what, work):
    try:
        work()
        print(what, "passed")
    except psycopg.Error as e:
        print(what, e.sqlstate)
def pipelined(c):
    with c.pipeline() as p:
        c.execute("INSERT INTO limits_none VALUES (1)")
        c.execute("SELECT generate_series(1, 6)")
        c.execute("COMMIT")
with connect() as c:
    tried("commit behind it", lambda: (c.execute("BEGIN"), pipelined(c)))
with connect() as c:
    # The whole transaction in one pipeline, before a single Sync.
    tried("one sync", lambda: pipelined(c))
with connect() as c:
    tried("returning", lambda: c.execute("INSERT INTO limits_none SELECT generate_series(1, %s) RETURNING n", (6,)))
    tried("few", lambda: c.execute("INSERT INTO limits_none SELECT generate_series(1, %s) RETURNING n", (0,)))
with connect(autocommit=False) as c:
    c.execute("DECLARE k CURSOR FOR SELECT generate_series(1, 100)")
    print("fetched", len(c.execute("FETCH 5 FROM k").fetchall()), len(c.execute("FETCH 5 FROM k").fetchall()))
    tried("fetch more", lambda: c.execute("FETCH 6 FROM k"))
"#,
    );
    let told = seen.join("\n");
    assert_eq!(
        seen,
        [
            "commit behind it 54000",
            "one sync 54000",
            "returning 54000",
            "few passed",
            "fetched 5 5",
            "fetch more 54000"
        ],
        "{told}"
    );
    assert_eq!(server().psql("shop", "SELECT count(*) FROM limits_none").unwrap().trim(), "0");
}

#[test]
fn a_statement_has_as_long_as_its_rule_says() {
    let daemon = daemon(BOUNDED);
    let seen = python(
        &daemon,
        r#"
c = connect()
ask(c, "SELECT pg_sleep(0.1)")
ask(c, "SELECT pg_sleep(60)")
ask(c, "SELECT pg_sleep(%s)", (60,))
ask(c, "SELECT 'still here'")
"#,
    );
    let limit =
        "57014 portcullis: the statement ran for longer than 1s and was cancelled | Rule: small looks.";
    assert_eq!(
        seen,
        [
            "SELECT pg_sleep(0.1) -> 1".to_owned(),
            format!("SELECT pg_sleep(60) -> {limit}"),
            format!("SELECT pg_sleep(%s) -> {limit}"),
            "SELECT 'still here' -> 1".to_owned(),
        ]
    );
}

#[test]
fn a_run_has_as_much_as_its_budgets_say() {
    let daemon = daemon(
        r#"
[[guard]]
name = "enough rows"
on = "postgres"
effect = ["read"]
over = { rows = 10 }
action = "deny"
hint = "come back tomorrow"

[[guard]]
name = "enough writes"
on = "postgres"
effect = ["write"]
over = { statements = 2, per = "1h" }
action = "deny"
"#,
    );
    server()
        .psql("shop", "CREATE TABLE limits_spent (n integer); ALTER TABLE limits_spent OWNER TO shop_agent")
        .unwrap();
    let script = r#"
c, other = connect(), connect()
ask(c, "SELECT generate_series(1, 9)")
ask(other, "SELECT 'the tenth'")
ask(c, "SELECT 'too many'")
for n in range(3):
    ask(other, "INSERT INTO limits_spent VALUES (1)")
"#;
    let denied = |sql: &str, rule: &str, what: &str| {
        format!(
            "{sql} -> 42501 portcullis: {what} is denied by rule \"{rule}\" of policy \"shop\" | Rule: {rule}."
        )
    };
    let insert = "INSERT INTO limits_spent VALUES (1)";
    let expected = [
        "SELECT generate_series(1, 9) -> 9".to_owned(),
        "SELECT 'the tenth' -> 1".to_owned(),
        denied("SELECT 'too many'", "enough rows", "select (read)"),
        format!("{insert} -> INSERT 0 1"),
        format!("{insert} -> INSERT 0 1"),
        denied(insert, "enough writes", "insert limits_spent (write)"),
    ];
    assert_eq!(python(&daemon, script), expected);
    // Another run begins with nothing spent.
    assert_eq!(python(&daemon, script), expected);
}

#[test]
fn what_is_tried_out_is_told_to_people_and_to_nobody_else() {
    let daemon = daemon(
        "[[guard]]\nname = \"no orders\"\non = \"postgres\"\nobjects = [\"orders\"]\nmode = \"shadow\"\naction = \"deny\"\n",
    );
    let seen =
        python(&daemon, "c = connect()\nask(c, 'SELECT id FROM orders WHERE id = 1')\nask(c, 'SELECT 1')\n");
    assert_eq!(seen, ["SELECT id FROM orders WHERE id = 1 -> 1", "SELECT 1 -> 1"]);
    let hits = daemon.json(&["policy", "hits"]).unwrap();
    let rule = |name: &str| {
        let rules = hits[0]["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["rule"] == name).unwrap();
        (rule["hits"].as_u64().unwrap(), rule["would"].as_u64().unwrap())
    };
    assert_eq!(rule("no orders"), (0, 1));
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    let session = sessions.iter().find(|session| session["opened"]["protocol"] == "postgres").unwrap();
    let session = session["session"].as_str().unwrap();
    let events = daemon.json_lines(&["sessions", "show", session]).unwrap();
    let intents: Vec<&Value> = events.iter().filter(|event| event["event"] == "intent").collect();
    assert_eq!(intents[0]["shadow"], serde_json::json!({ "rule": "no orders", "verdict": "denied" }));
    assert!(intents[1].get("shadow").is_none(), "{intents:?}");
    let replayed = daemon.cli(&["replay", session, "--speed", "max"]).unwrap();
    assert!(replayed.stdout.contains("would have been denied by no orders"), "{}", replayed.stdout);
}
