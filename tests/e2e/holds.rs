//! Statements that wait for a human: who may decide, what a decision does, and every way a wait can end without one.

use std::fmt::Write as _;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{BYSTANDER, NOBODY, REVIEWER, Talking, User, finish};
use harness::reviewer::{Reviewer, code, decide, id_of};
use serde_json::Value;

use crate::spine::{server, shop};

/// Opens `c` and prints what it is told.
const PYTHON: &str = r#"
import sys, threading, psycopg
from psycopg import errors
def connect(**options):
    c = psycopg.connect(f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop", **options)
    c.add_notice_handler(lambda d: print("NOTICE", d.message_primary))
    return c
def refused(c, sql, *parameters):
    try:
        c.execute(sql, *parameters)
        print("PASSED", sql)
    except psycopg.Error as e:
        print("REFUSED", e.sqlstate, e.diag.message_primary, "|", e.diag.message_detail, "|", e.diag.message_hint)
"#;

fn python(daemon: &Daemon, script: &str) -> Talking {
    let script = format!("{PYTHON}\n{script}");
    Talking::spawn(&mut agent::python_command(daemon, server(), NOBODY, "shop", &script).unwrap()).unwrap()
}

fn psql(daemon: &Daemon, database: &str) -> Talking {
    Talking::spawn(&mut agent::psql_shell(daemon, server(), NOBODY, database).unwrap()).unwrap()
}

/// A daemon whose shop policy differs from the usual one.
fn shop_but(from: &str, to: &str) -> Daemon {
    let policy = shop_policy(server());
    assert!(policy.contains(from), "{from}");
    Daemon::start(&[("shop", &policy.replace(from, to))]).unwrap()
}

/// A table of this test's own, which the agent's role owns, with `rows` rows and statistics.
fn table(name: &str, rows: u32) {
    let sql = format!(
        "CREATE TABLE {name} AS SELECT n AS id, 0 AS paid FROM generate_series(1, {rows}) n;
         ALTER TABLE {name} ADD PRIMARY KEY (id); ALTER TABLE {name} OWNER TO shop_agent; ANALYZE {name}"
    );
    server().psql("shop", &sql).unwrap();
}

fn database(name: &str) {
    server().psql("postgres", &format!("CREATE DATABASE {name} OWNER shop_agent")).unwrap();
}

fn database_exists(name: &str) -> bool {
    let sql = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    server().psql("postgres", &sql).unwrap().trim() == "1"
}

/// The recorded events of the session that a request came from.
fn events(daemon: &Daemon, entry: &Value) -> Vec<Value> {
    let session = entry["request"]["session"].as_str().unwrap();
    daemon.json_lines(&["sessions", "show", session]).unwrap()
}

/// The one event of this kind that is about the statement that was held.
fn event(events: &[Value], kind: &str) -> Value {
    let found: Vec<&Value> = events.iter().filter(|event| event["event"] == kind).collect();
    let mut seen = String::new();
    for event in events {
        writeln!(seen, "{event}").unwrap();
    }
    assert_eq!(found.len(), 1, "one {kind} in:\n{seen}");
    found[0].clone()
}

fn approvals(daemon: &Daemon, user: User, arguments: &[&str]) -> String {
    let seen = finish(daemon.command_as(user).unwrap().arg("approvals").args(arguments)).unwrap();
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    seen.stdout
}

#[test]
fn an_approved_drop_database_runs() {
    let daemon = shop();
    database("holds_approved");
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut run = daemon.command_as(NOBODY).unwrap();
    run.args(["run", "--policy", "shop", "--label", "job=17", "--"]);
    run.args(agent::psql_arguments(server(), "shop")).args(["--command", "DROP DATABASE holds_approved"]);
    let mut psql = Talking::spawn(&mut run).unwrap();
    let notice = psql.until_contains("NOTICE").unwrap();
    let entry = reviewer.waiting().unwrap();
    let id = id_of(&entry);
    assert!(
        notice.contains(&format!("waiting for approval {} by user:daemon, at most 30s", code(&id))),
        "{notice}"
    );

    // What the reviewer sees.
    let listed: Value = serde_json::from_str(&approvals(&daemon, REVIEWER, &["list", "--json"])).unwrap();
    assert_eq!(listed[0], entry);
    let request = &entry["request"];
    assert_eq!(request["content"]["statement"], "DROP DATABASE holds_approved");
    assert_eq!(request["effect"], "admin");
    assert_eq!(request["kinds"][0], "drop database");
    assert_eq!(request["objects"][0]["name"], "holds_approved");
    assert_eq!(request["rule"], "nothing irreversible");
    assert_eq!(request["database"], "shop");
    assert_eq!(request["process"]["tgid"], psql.process().id());
    assert_eq!(request["process"]["comm"], "psql");
    assert_eq!(request["process"]["uid"], NOBODY.uid);
    assert_eq!(request["subject"]["user"], "nobody");
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!(status["runs"][0]["id"], request["run"]);
    assert_eq!(status["holds"], 1);
    let text = approvals(&daemon, REVIEWER, &["show", &id]);
    for part in ["DROP DATABASE holds_approved", "admin (drop database)", "psql", "nobody", "shop-db"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(database_exists("holds_approved"), "nothing ran before the decision");

    let decided = reviewer.approve(&id, "checked with Ada").unwrap();
    assert_eq!(decided.code, 0, "{}", decided.stderr);
    let seen = psql.finish().unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stdout, daemon.log());
    assert!(!database_exists("holds_approved"));
    let settled = reviewer.settled(&id).unwrap();
    assert_eq!(settled["outcome"]["approved"]["by"]["user"], "daemon");
    assert_eq!(settled["outcome"]["approved"]["reason"], "checked with Ada");

    // Who, when and why are on record, with the run's labels.
    let events = events(&daemon, &entry);
    assert_eq!(events[0]["run_labels"]["job"], "17");
    assert_eq!(event(&events, "held")["approval"], id);
    for approval in [&event(&events, "decided")["approval"], &event(&events, "intent")["approval"]] {
        assert_eq!(approval["id"], id);
        assert_eq!(approval["outcome"], "approved");
        assert_eq!(approval["by"], "daemon");
        assert_eq!(approval["reason"], "checked with Ada");
        assert!(approval["decided_at_ns"].as_u64() > events[0]["wall_ns"].as_u64());
    }
    assert_eq!(event(&events, "outcome")["command_tags"][0], "DROP DATABASE");
}

#[test]
fn a_denied_drop_database_does_not_run_and_the_session_goes_on() {
    let daemon = shop();
    database("holds_denied");
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("DROP DATABASE holds_denied;").unwrap();
    let entry = reviewer.waiting().unwrap();
    let id = id_of(&entry);
    assert_eq!(reviewer.deny(&id, "use the staging database").unwrap().code, 0);
    psql.until_contains("ERROR:  42501: portcullis: denied by daemon: use the staging database").unwrap();
    psql.until_contains(&format!("DETAIL:  Rule: nothing irreversible. Approval: {}.", code(&id))).unwrap();
    psql.say("SELECT 'still ' || 'here';").unwrap();
    psql.until_contains("still here").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0);
    assert!(database_exists("holds_denied"));
    let events = events(&daemon, &entry);
    assert_eq!(event(&events, "decided")["approval"]["outcome"], "denied");
    let refused = event(&events, "refused");
    assert_eq!(refused["approval"]["by"], "daemon");
    assert_eq!(refused["approval"]["reason"], "use the staging database");
    assert_eq!(refused["rule"], "nothing irreversible");
}

#[test]
fn only_an_approver_who_is_not_the_asker_decides() {
    let daemon = shop();
    database("holds_who");
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("DROP DATABASE holds_who;").unwrap();
    let id = id_of(&reviewer.waiting().unwrap());
    for (user, message) in [
        (NOBODY, "this run acts for user id 65534; somebody else must decide"),
        (BYSTANDER, "that you may see"),
        (User { name: "root", uid: 0, gid: 0 }, "only user daemon may decide this"),
    ] {
        for answer in ["approve", "deny"] {
            let refused = decide(&daemon, user, answer, &id, "please").unwrap();
            assert_eq!(refused.code, 1, "{} {}", user.name, refused.stdout);
            assert!(refused.stderr.contains(message), "{}", refused.stderr);
        }
    }
    assert_eq!(approvals(&daemon, BYSTANDER, &["list", "--json"]).trim(), "[]");
    assert_eq!(daemon.json(&["status"]).unwrap()["holds"], 1, "it still waits");
    assert_eq!(reviewer.deny(&id, "").unwrap().code, 0);
    psql.until_contains("42501: portcullis: denied by daemon").unwrap();
    let again = reviewer.approve(&id, "after all").unwrap();
    assert!(again.stderr.contains("denied by daemon already"), "{}", again.stderr);
    assert!(database_exists("holds_who"));
}

#[test]
fn time_that_runs_out_denies() {
    let daemon = shop_but("hold = \"30s\"", "hold = \"1s\"");
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("CREATE TABLE holds_never (id int);").unwrap();
    let entry = reviewer.waiting().unwrap();
    let id = id_of(&entry);
    psql.until_contains("ERROR:  42501: portcullis: nobody approved it in time").unwrap();
    psql.until_contains(code(&id)).unwrap();
    assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "expired");
    let late = reviewer.approve(&id, "sorry").unwrap();
    assert!(late.stderr.contains("nobody decided in time; it was denied"), "{}", late.stderr);
    psql.say("SELECT 'made: ' || (to_regclass('holds_never') IS NOT NULL);").unwrap();
    psql.until_contains("made: false").unwrap();
    psql.finish().unwrap();
    assert_eq!(event(&events(&daemon, &entry), "decided")["approval"]["outcome"], "timed_out");
}

#[test]
fn an_interrupt_in_psql_withdraws() {
    let daemon = shop();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("CREATE TABLE holds_interrupted (id int);").unwrap();
    let entry = reviewer.waiting().unwrap();
    psql.until_contains("waiting for approval").unwrap();
    psql.process().signal("INT").unwrap();
    psql.until_contains("ERROR:  57014: canceling statement due to user request").unwrap();
    let id = id_of(&entry);
    assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "withdrawn");
    let late = reviewer.approve(&id, "go on").unwrap();
    assert!(late.stderr.contains("has cancelled it or gone away"), "{}", late.stderr);
    psql.finish().unwrap();
    let events = events(&daemon, &entry);
    assert_eq!(event(&events, "decided")["approval"]["outcome"], "withdrawn");
    let refused = event(&events, "refused");
    assert_eq!((&refused["side"], &refused["approval"]["id"]), (&"client".into(), &id.into()));
}

#[test]
fn a_cancel_request_of_another_run_changes_nothing() {
    let daemon = shop();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut asker = python(
        &daemon,
        "c = connect(autocommit=True)
print('KEY', c.pgconn.backend_pid)
refused(c, 'CREATE TABLE holds_foreign (id int)')",
    );
    let key = asker.until_contains("KEY").unwrap();
    let id = id_of(&reviewer.waiting().unwrap());
    let stranger = format!(
        "import socket, struct, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(struct.pack('!IIII', 16, 80877102, {}, 0)); print(len(s.recv(1)))",
        key.trim_start_matches("KEY ")
    );
    let seen = agent::python(&daemon, server(), NOBODY, &stranger).unwrap();
    assert_eq!(seen.stdout.trim(), "0", "{}", seen.stderr);
    assert_eq!(reviewer.approve(&id, "").unwrap().code, 0);
    asker.until_contains("PASSED").unwrap();
}

#[test]
fn a_cancel_from_psycopg_withdraws() {
    let daemon = shop();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut agent = python(
        &daemon,
        "c = connect(autocommit=True)
threading.Thread(target=lambda: (sys.stdin.readline(), c.cancel())).start()
refused(c, 'CREATE TABLE holds_cancelled (id int)')
print('THEN', c.execute('SELECT 7').fetchone())",
    );
    let id = id_of(&reviewer.waiting().unwrap());
    agent.say("cancel").unwrap();
    agent.until_contains("REFUSED 57014").unwrap();
    agent.until_contains("THEN (7,)").unwrap();
    assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "withdrawn");
}

#[test]
fn a_client_killed_while_it_waits_withdraws() {
    let daemon = shop();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("CREATE TABLE holds_killed (id int);").unwrap();
    let entry = reviewer.waiting().unwrap();
    psql.process().signal("KILL").unwrap();
    let id = id_of(&entry);
    assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "withdrawn");
    assert_eq!(reviewer.approve(&id, "too late").unwrap().code, 1);
    let session = entry["request"]["session"].as_str().unwrap();
    let events = daemon
        .until(&["sessions", "show", session], |events| {
            events.iter().any(|event| event["event"] == "session_closed")
        })
        .unwrap();
    assert_eq!(event(&events, "decided")["approval"]["outcome"], "withdrawn");
    assert_eq!(event(&events, "outcome")["status"], "not_forwarded");
    let closed = event(&events, "session_closed");
    assert_eq!((&closed["reason"], &closed["side"]), (&"lost".into(), &"client".into()));
    assert_eq!(server().psql("shop", "SELECT to_regclass('holds_killed') IS NULL").unwrap().trim(), "t");
}

#[test]
fn inside_a_transaction_that_may_hold_locks_nothing_waits() {
    let daemon = shop();
    table("holds_locked", 10);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut agent = python(
        &daemon,
        "c = connect()
c.execute('UPDATE holds_locked SET paid = 1 WHERE id = 1')
refused(c, 'CREATE INDEX ON holds_locked (paid)')
c.rollback()
c.execute('CREATE INDEX holds_first ON holds_locked (paid)')
print('FIRST')
c.commit()",
    );
    let refused = agent.until_contains("REFUSED").unwrap();
    assert!(refused.contains("42501") && refused.contains("would keep its locks"), "{refused}");
    assert!(refused.contains("Rule: nothing irreversible."), "{refused}");
    assert!(refused.contains("or as the transaction's first statement"), "{refused}");
    // As the hint says.
    let entry = reviewer.waiting().unwrap();
    assert_eq!(entry["request"]["content"]["statement"], "CREATE INDEX holds_first ON holds_locked (paid)");
    assert_eq!(entry["request"]["in_transaction"], false);
    assert_eq!(reviewer.approve(&id_of(&entry), "").unwrap().code, 0);
    agent.until_contains("FIRST").unwrap();
    let finished = agent.finish().unwrap();
    assert_eq!(finished.code, 0, "{}", finished.stdout);
}

#[test]
fn a_policy_may_hold_inside_a_transaction() {
    let daemon = shop_but("hold = \"30s\"", "hold = \"30s\"\nin_transaction = \"hold\"");
    table("holds_inside", 10);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("BEGIN; UPDATE holds_inside SET paid = 1 WHERE id = 1;").unwrap();
    psql.say("CREATE INDEX holds_inside_paid ON holds_inside (paid);\nCOMMIT;").unwrap();
    let entry = reviewer.waiting().unwrap();
    assert_eq!(entry["request"]["in_transaction"], true);
    let text = approvals(&daemon, REVIEWER, &["show", &id_of(&entry)]);
    assert!(text.contains("it waits inside a transaction, which may hold locks"), "{text}");
    assert_eq!(reviewer.approve(&id_of(&entry), "").unwrap().code, 0);
    psql.until_contains("CREATE INDEX").unwrap();
    psql.until_contains("COMMIT").unwrap();
}

#[test]
fn parameters_are_shown_and_an_approval_is_good_for_one_statement() {
    let daemon = shop();
    table("holds_bulk", 3000);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut agent = python(
        &daemon,
        "c = connect(autocommit=True)
sql = 'UPDATE holds_bulk SET paid = paid + %b WHERE id > %b'
c.execute(sql, (1, 2995)); print('SMALL')
for _ in range(2):
    print('BULK', c.execute(sql, (1, 1000)).rowcount)
refused(c, sql, (1, 0))",
    );
    agent.until_contains("SMALL").unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let entry = reviewer.waiting().unwrap();
        let request = &entry["request"];
        assert_eq!(request["content"]["statement"], "UPDATE holds_bulk SET paid = paid + $1 WHERE id > $2");
        assert_eq!(request["content"]["parameter_count"], 2);
        assert_eq!(request["rule"], "big writes");
        let rows = request["estimated_rows"].as_u64().unwrap();
        // It grows with the dead rows of the update before.
        assert!(rows >= 1500, "{rows}");
        let text = approvals(&daemon, REVIEWER, &["show", &id_of(&entry)]);
        assert!(text.contains("$1 = ") && text.contains("$2 = "), "{text}");
        assert_eq!(reviewer.approve(&id_of(&entry), "this once").unwrap().code, 0);
        agent.until_contains("BULK 2000").unwrap();
        ids.push(id_of(&entry));
    }
    assert_ne!(ids[0], ids[1]);
    let entry = reviewer.waiting().unwrap();
    assert_eq!(reviewer.deny(&id_of(&entry), "enough").unwrap().code, 0);
    agent.until_contains("REFUSED 42501 portcullis: denied by daemon: enough").unwrap();
    let paid = server().psql("shop", "SELECT min(paid), max(paid) FROM holds_bulk").unwrap();
    assert_eq!(paid.trim(), "0|3");
}

#[test]
fn a_bulk_update_shows_its_estimate() {
    let daemon = shop();
    table("holds_simple", 3000);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("UPDATE holds_simple SET paid = 1 WHERE id = 1;").unwrap();
    psql.until_contains("UPDATE 1").unwrap();
    psql.say("UPDATE holds_simple SET paid = 1;").unwrap();
    let entry = reviewer.waiting().unwrap();
    assert_eq!(entry["request"]["estimated_rows"], 3000);
    assert_eq!(entry["request"]["objects"][0]["name"], "holds_simple");
    assert!(approvals(&daemon, REVIEWER, &[]).contains("~3000"));
    assert_eq!(reviewer.approve(&id_of(&entry), "month's end").unwrap().code, 0);
    psql.until_contains("UPDATE 3000").unwrap();
    assert_eq!(event(&events(&daemon, &entry), "held")["asked"]["estimated_rows"], 3000);
}

#[test]
fn a_refusal_in_the_middle_of_a_pipeline_fails_the_rest() {
    let daemon = shop_but(
        "[[guard]]\nname = \"nothing irreversible\"",
        "[[guard]]\nname = \"no truncate\"\non = \"postgres\"\nkind = [\"truncate*\"]\naction = \"deny\"\n\
         hint = \"delete what is old\"\n\n[[guard]]\nname = \"nothing irreversible\"",
    );
    table("holds_pipeline", 10);
    let script = format!(
        "{PYTHON}
c = connect(autocommit=True)
with c.pipeline() as p:
    a = c.execute('INSERT INTO holds_pipeline VALUES (100, 0)')
    p.sync()
    try:  # The refusal may be there before the last statement is sent.
        b = c.execute('INSERT INTO holds_pipeline VALUES (101, 0)')
        d = c.execute('TRUNCATE holds_pipeline')
        e = c.execute('INSERT INTO holds_pipeline VALUES (102, 0)')
        p.sync()
        e.fetchall()
    except psycopg.Error as error:
        print(type(error).__name__, error.sqlstate, error.diag.message_hint)
        p.sync()  # Where it came that early, what follows would belong to the failed transaction.
    f = c.execute('SELECT 5')
    print('AFTER', f.fetchone())
print('ROWS', c.execute('SELECT id FROM holds_pipeline WHERE id >= 100 ORDER BY id').fetchall())
"
    );
    let seen = agent::python(&daemon, server(), NOBODY, &script).unwrap();
    assert_eq!(seen.code, 0, "{}{}", seen.stdout, seen.stderr);
    assert!(seen.stdout.contains("InsufficientPrivilege 42501 delete what is old"), "{}", seen.stdout);
    assert!(seen.stdout.contains("AFTER (5,)"), "{}", seen.stdout);
    // A pipeline is one implicit transaction, as PostgreSQL has it: what came before the refusal is undone.
    assert!(seen.stdout.contains("ROWS [(100,)]"), "{}", seen.stdout);
}

#[test]
fn an_approval_does_not_outlive_the_policy_that_asked_for_it() {
    let daemon = shop();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut psql = psql(&daemon, "shop");
    psql.say("CREATE TABLE holds_outlived (id int);").unwrap();
    let entry = reviewer.waiting().unwrap();
    let before = daemon.json(&["status"]).unwrap()["policies"][0]["version"].clone();
    daemon.policy("shop", &shop_policy(server()).replace("\"> 100\"", "\"> 99\"")).unwrap();
    daemon.until(&["status"], |status| status[0]["policies"][0]["version"] != before).unwrap();
    assert_eq!(reviewer.approve(&id_of(&entry), "").unwrap().code, 0);
    psql.until_contains("42501: portcullis: the policy changed while this waited").unwrap();
    psql.say("CREATE TABLE holds_outlived (id int);").unwrap();
    let again = reviewer.waiting().unwrap();
    assert_eq!(reviewer.approve(&id_of(&again), "").unwrap().code, 0);
    psql.until_contains("CREATE TABLE").unwrap();
    psql.finish().unwrap();
    let events = events(&daemon, &entry);
    let refused = event(&events, "refused");
    assert_eq!(
        (&refused["approval"]["outcome"], &refused["approval"]["by"]),
        (&"approved".into(), &"daemon".into())
    );
}
