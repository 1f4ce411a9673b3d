//! Oracles: what masks hide is not found out by asking for rows by it.

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{NOBODY, REVIEWER, Talking};
use harness::reviewer::{Reviewer, id_of};
use serde_json::json;

use super::{DATABASE, Guards, json, policy, prepared, psql};
use crate::spine::server;

/// One mask for each word: `ssn` may only be shown, `email` may be looked up, `card` is held.
const RULES: &str = r#"
[[mask]]
on = "postgres"
columns = ["*.ssn"]
with = "redact"
predicates = "deny"

[[mask]]
on = "postgres"
columns = ["customers.email"]
with = "redact"
predicates = "equality"

[[mask]]
on = "postgres"
columns = ["customers.card"]
with = "redact"
predicates = "hold"
"#;

/// Finds a value letter by letter, where it may: `ask` says whether the answer to an oracle's statement is yes.
const SEARCH: &str = r#"
import psycopg
c = psycopg.connect(f"host={HOST} port={PORT} user=agent dbname={DATABASE}", autocommit=True)
def rows(sql, parameters=()):
    return c.execute(sql, parameters, prepare=True).fetchall()
def fails(sql, parameters=()):
    try:
        rows(sql, parameters)
        return False
    except psycopg.errors.DivisionByZero:
        return True
def through_cursor(sql, parameters=()):
    with c.transaction(), c.cursor("by_name") as cursor:
        return cursor.execute(sql, parameters).fetchall()
def copied(sql):
    with c.cursor() as cursor, cursor.copy(sql) as copy:
        return b"".join(copy)
def planned(sql):
    return "rows=1 " not in str(rows(sql))
ORACLES = {
    "where": lambda v: rows("SELECT id FROM customers WHERE id = 2 AND ssn >= %s", [v]),
    "typed": lambda v: rows(f"SELECT id FROM customers WHERE id = 2 AND ssn >= '{v}'"),
    "order": lambda v: rows("SELECT id FROM (SELECT id, ssn FROM customers WHERE id = 2 UNION ALL SELECT 0, %s) q ORDER BY ssn DESC LIMIT 1", [v]) == [(2,)],
    "position": lambda v: rows("SELECT id, ssn FROM (SELECT id, ssn FROM customers WHERE id = 2 UNION ALL SELECT 0, %s) q ORDER BY 2 DESC LIMIT 1", [v])[0][0] == 2,
    "join": lambda v: rows("SELECT c.id FROM customers c JOIN (SELECT %s::text AS guess) g ON c.ssn >= g.guess WHERE c.id = 2", [v]),
    "group": lambda v: len(rows("SELECT count(*) FROM (SELECT ssn >= %s AS yes FROM customers WHERE id IN (2, 3)) q GROUP BY yes", [v])) == 1,
    "distinct": lambda v: len(rows("SELECT DISTINCT ssn FROM customers WHERE id = 2 UNION ALL SELECT %s", [v])) == 1,
    "exists": lambda v: rows("SELECT item FROM plain p WHERE p.id = 1 AND EXISTS (SELECT 1 FROM customers c WHERE c.id = 2 AND c.ssn >= %s)", [v]),
    "case": lambda v: fails("SELECT 1 / (CASE WHEN ssn >= %s THEN 0 ELSE 1 END) FROM customers WHERE id = 2", [v]),
    "cte": lambda v: rows("WITH q(a, b) AS (SELECT id, ssn FROM customers) SELECT a FROM q WHERE a = 2 AND b >= %s", [v]),
    "view": lambda v: rows("SELECT id FROM contacts WHERE id = 2 AND note >= %s", [v]),
    "computed view": lambda v: rows("SELECT id FROM codes WHERE id = 2 AND code >= 'code ' || %s", [v]),
    "kept": lambda v: rows("SELECT id FROM customers_kept WHERE id = 2 AND kept >= %s", [v]),
    "generated": lambda v: rows("SELECT id FROM customers WHERE id = 2 AND ssn_copy >= upper('x' || %s)", [v]),
    "child": lambda v: rows("SELECT id FROM customers_abroad WHERE ssn >= %s", [v]),
    "row": lambda v: rows("SELECT id FROM customers c WHERE id = 2 AND c::text LIKE '%%' || %s || '%%'", [v]),
    "limit": lambda v: len(rows("SELECT id FROM plain LIMIT (SELECT CASE WHEN ssn >= %s THEN 2 ELSE 1 END FROM customers WHERE id = 2)", [v])) == 2,
    "series": lambda v: rows("SELECT 1 FROM customers c, generate_series(1, (c.ssn >= %s)::int) WHERE c.id = 2", [v]),
    "filter": lambda v: rows("SELECT count(*) FILTER (WHERE ssn >= %s) FROM customers WHERE id = 2", [v]),
    "intersect": lambda v: rows("SELECT ssn FROM customers INTERSECT SELECT %s", [v]),
    "statistics": lambda v: rows("SELECT 1 FROM pg_stats WHERE tablename = 'leavers' AND attname = 'ssn' AND histogram_bounds::text > %s", [v]),
    "explain": lambda v: planned(f"EXPLAIN SELECT 1 FROM leavers WHERE ssn >= '{v}'"),
    "explain analyze": lambda v: planned(f"EXPLAIN ANALYZE SELECT 1 FROM customers WHERE id = 2 AND ssn >= '{v}'"),
    "copy": lambda v: copied(f"COPY (SELECT id FROM customers WHERE id = 2 AND ssn >= '{v}') TO STDOUT"),
    "cursor": lambda v: through_cursor("SELECT id FROM customers WHERE id = 2 AND ssn >= %s", [v]),
    "prepared": lambda v: rows(f"PREPARE p{len(seen)}(text) AS SELECT id FROM customers WHERE id = 2 AND ssn >= $1"),
    "changed": lambda v: c.execute("UPDATE customers SET name = name WHERE id = 2 AND ssn >= %s", [v]).rowcount,
    "deleted": lambda v: c.execute("DELETE FROM customers WHERE id = 0 OR (id = -1 AND ssn >= %s)", [v]).rowcount,
    "conflict": lambda v: c.execute("INSERT INTO registry (id, ssn) VALUES (1, %s) ON CONFLICT (ssn) DO NOTHING", [v]).rowcount,
    "code": lambda v: rows(f"DO $$ BEGIN IF (SELECT ssn >= '{v}' FROM customers WHERE id = 2) THEN RAISE division_by_zero; END IF; END $$"),
    "call": lambda v: rows("SELECT shout()"),
    "pattern of a mailbox": lambda v: rows("SELECT id FROM customers WHERE email LIKE %s || '%%'", [v]),
    "list of mailboxes": lambda v: rows("SELECT id FROM customers WHERE email = 'a' OR email = %s", [v]),
}
seen = {}
for name, ask in ORACLES.items():
    low, high, outcomes = 0, 1000, set()
    while low < high:
        middle = (low + high) // 2
        try:
            yes = bool(ask(f"918-27-{middle:04}"))
            outcomes.add("answered")
        except psycopg.Error as e:
            yes = False
            outcomes.add(f"{e.sqlstate} {(e.diag.message_primary or '')[:12]}")
        low, high = (middle + 1, high) if yes else (low, middle)
    seen[name] = sorted(outcomes)
wrong = {name: outcomes for name, outcomes in seen.items() if outcomes != ["42501 portcullis: "]}
print(json.dumps({"asked": len(seen), "wrong": wrong}))
"#;

#[test]
fn a_binary_search_is_refused_at_each_step() {
    let daemon = daemon(RULES);
    let seen = json(&daemon, SEARCH);
    assert_eq!(seen, json!({"asked": 33, "wrong": {}}), "{}", daemon.log());
}

#[test]
fn what_shows_or_asks_by_other_columns_passes() {
    let daemon = daemon(RULES);
    let seen = json(
        &daemon,
        r#"
import psycopg
c = psycopg.connect(f"host={HOST} port={PORT} user=agent dbname={DATABASE}", autocommit=True)
def rows(sql, parameters=()):
    return c.execute(sql, parameters, prepare=True).fetchall()
seen = [
    rows("SELECT name, ssn FROM customers WHERE id = %s", [1]),
    rows("SELECT id, ssn AS note FROM customers ORDER BY 1 LIMIT 1"),
    rows("SELECT id FROM customers WHERE email = %s", ["customer2@example.com"]),
    rows("SELECT q.id FROM (SELECT * FROM customers) q WHERE q.name = 'Grace 3'"),
    rows("SELECT count(*), upper(n) FROM (SELECT name AS n, ssn FROM customers WHERE id = 1) t GROUP BY 2"),
    rows("SELECT DISTINCT p.item FROM plain p JOIN customers c ON c.id = p.id ORDER BY 1 LIMIT 1"),
    rows("SELECT note FROM contacts WHERE id = 1"),
    rows("SELECT n.nspname FROM pg_catalog.pg_namespace n NATURAL JOIN (SELECT 1) o WHERE n.nspname = 'public'"),
    rows("INSERT INTO leavers VALUES (900, 'x') ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn RETURNING id, ssn"),
]
import asyncio, asyncpg
async def through():
    c = await asyncpg.connect(host=HOST, port=PORT, user="agent", database=DATABASE, ssl=False)
    found = await c.fetch("SELECT id, ssn FROM customers WHERE id = $1", 1)
    # It asks the catalogue what the columns of a row are.
    return [tuple(row) for row in found + await c.fetch("SELECT id, c FROM customers c WHERE id = $1", 1)]
seen.append(asyncio.run(through()))
print(json.dumps(seen))
"#,
    );
    let expected = json!([
        [["Grace 1", "[redacted]"]],
        [[1, "[redacted]"]],
        [[2]],
        [[3]],
        [[1, "GRACE 1"]],
        [["item 1"]],
        [["[redacted]"]],
        [["public"]],
        [[900, "[redacted]"]],
        [[1, "[redacted]"], [1, null]],
    ]);
    assert_eq!(seen, expected);
}

/// A view that somebody makes under other names is known to the next statement, in this session and in others.
#[test]
fn views_are_known_once_they_are_made() {
    let daemon = daemon(RULES);
    let seen = json(
        &daemon,
        r#"
import psycopg
def connect():
    return psycopg.connect(f"host={HOST} port={PORT} user=agent dbname={DATABASE}", autocommit=True)
def told(c, sql):
    try:
        return c.execute(sql, prepare=True).fetchall() if sql.startswith("SELECT") else c.execute(sql).statusmessage
    except psycopg.Error as e:
        return e.sqlstate
one, other = connect(), connect()
later = "SELECT id FROM made_for_search WHERE id = 1 AND letter > '5'"
print(json.dumps([
    told(one, "CREATE VIEW made_for_search AS SELECT id, name AS letter FROM customers"),
    told(one, later), told(other, later),
    told(one, "BEGIN"), told(one, "CREATE VIEW made_again AS SELECT id, ssn AS letter FROM customers"),
    told(one, "SELECT id FROM made_again WHERE letter > '5'"), told(one, "ROLLBACK"),
    told(one, "DROP VIEW made_for_search"),
    told(one, "CREATE VIEW made_for_search AS SELECT id, ssn AS letter FROM customers"),
    told(one, later), told(other, later), told(other, "SELECT letter FROM made_for_search WHERE id = 1"),
    told(other, "CREATE VIEW made_to_ask AS SELECT id FROM customers WHERE ssn > '5'"),
    told(one, "DROP VIEW made_for_search"),
]))
"#,
    );
    let denied = "42501";
    let expected = json!([
        "CREATE VIEW",
        [[1]],
        [[1]],
        "BEGIN",
        "CREATE VIEW",
        denied,
        "ROLLBACK",
        "DROP VIEW",
        "CREATE VIEW",
        denied,
        denied,
        [["[redacted]"]],
        denied,
        "DROP VIEW",
    ]);
    assert_eq!(seen, expected);
}

#[test]
fn a_refusal_names_the_column_and_the_rule() {
    let daemon = daemon(RULES);
    let told = psql(
        &daemon,
        &[],
        &["SELECT id FROM contacts WHERE note > '9'", "SELECT ssn FROM customers LIMIT 1"],
    );
    for part in [
        "ERROR:  42501: portcullis: the result depends on contacts.note, which is masked and may only be shown",
        "Rule: mask *.ssn.",
        "HINT:  select it by its own name",
    ] {
        assert!(told.stderr.contains(part), "{part}: {}", told.stderr);
    }
    assert!(told.stdout.contains("[redacted]"), "{}", told.stdout);
    let policy = daemon.folder().join("policies/shop.toml");
    let asked = "SELECT id FROM customers WHERE card LIKE '4%'";
    let mut explain = daemon.command().unwrap();
    explain.args(["policy", "explain", "--policy"]).arg(policy).args(["--protocol", "postgres", "--json"]);
    let mut explain = Talking::spawn(&mut explain).unwrap();
    explain.say(asked).unwrap();
    let told = explain.finish().unwrap();
    assert!(told.stdout.contains(r#""verdict":"hold""#), "{}", told.stdout);
    assert!(told.stdout.contains(r#""rule":"mask customers.card""#), "{}", told.stdout);
}

#[test]
fn what_is_held_passes_once_somebody_has_said_yes() {
    let named = policy(Guards::AllowAll, RULES)
        .replace("[defaults]\n", "[defaults]\napprovers = [\"user:daemon\"]\n");
    let daemon = Daemon::start(&[("shop", &named)]).unwrap();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let shell = &mut agent::psql_shell(&daemon, prepared(), NOBODY, DATABASE).unwrap();
    let mut psql = Talking::spawn(shell).unwrap();
    psql.say("SELECT 'found ' || id FROM customers WHERE card LIKE '5500%';").unwrap();
    let waiting = reviewer.waiting().unwrap();
    assert_eq!(waiting["request"]["rule"], "mask customers.card", "{waiting}");
    assert!(waiting["request"]["shape"].is_null(), "other literals ask for something else: {waiting}");
    let approved = reviewer.approve(&id_of(&waiting), "the card was lost").unwrap();
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    psql.until_contains("found 2").unwrap();
    psql.finish().unwrap();
}

/// A prepared statement is judged by the masks as they are when it is bound.
#[test]
fn a_changed_policy_judges_what_was_prepared_before() {
    let allowed = RULES.replace("\"deny\"", "\"allow\"");
    let daemon = daemon(&allowed);
    let script = format!(
        "{}\n{}",
        include_str!("raw.py"),
        r#"
import psycopg
c = psycopg.connect(f"host={HOST} port={PORT} user=agent dbname={DATABASE}", autocommit=True)
for line in sys.stdin:
    try:
        found = c.execute("SELECT id FROM customers WHERE ssn > %s", [line.strip()], prepare=True).fetchall()
        print("found", len(found), flush=True)
    except psycopg.Error as e:
        print("denied", e.sqlstate, e.diag.message_detail, flush=True)
"#
    );
    let run = &mut agent::python_command(&daemon, server(), NOBODY, "shop", &script).unwrap();
    let mut asking = Talking::spawn(run).unwrap();
    asking.say("918-27-1002").unwrap();
    asking.until_contains("found 2").unwrap();
    let version = |status: &[serde_json::Value]| status[0]["policies"][0]["version"].to_string();
    let before = version(&daemon.json_lines(&["status"]).unwrap());
    daemon.policy("shop", &policy(Guards::AllowAll, RULES)).unwrap();
    daemon.until(&["status"], |status| version(status) != before).unwrap();
    asking.say("918-27-1002").unwrap();
    asking.until_contains("denied 42501").unwrap();
    asking.finish().unwrap();
}

fn daemon(rules: &str) -> Daemon {
    Daemon::start(&[("shop", &policy(Guards::AllowAll, rules))]).expect("a daemon")
}
