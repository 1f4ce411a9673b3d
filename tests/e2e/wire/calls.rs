//! FunctionCall: functions run by their OIDs, which libpq does for large objects.

use harness::agent;
use harness::process::NOBODY;

use super::{NO_DDL, daemon, raw, server};

/// What psycopg2 and libpq need for large objects, and nothing else that writes.
const LARGE_OBJECTS: &str = r#"
[[guard]]
name = "large objects"
on = "postgres"
functions = ["pg_catalog.lo_creat", "pg_catalog.lo_create", "pg_catalog.lo_open", "pg_catalog.lo_close",
             "pg_catalog.lo_lseek*", "pg_catalog.lo_tell*", "pg_catalog.lo_truncate*", "pg_catalog.lo_unlink",
             "pg_catalog.loread", "pg_catalog.lowrite"]
action = "allow"

[[guard]]
name = "nothing else"
on = "postgres"
effect = ["write", "ddl", "admin", "unknown"]
action = "deny"
"#;

/// Everything that the daemon recorded of its sessions.
fn recorded(daemon: &harness::daemon::Daemon) -> String {
    super::ends(daemon);
    let listed = daemon.cli(&["sessions", "list", "--json"]).unwrap().stdout;
    let ids = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let show = |session: serde_json::Value| {
        daemon.cli(&["sessions", "show", session["session"].as_str().unwrap(), "--json"]).unwrap().stdout
    };
    ids.map(show).collect()
}

#[test]
fn large_objects_of_psycopg2_work_where_policy_allows_them() {
    let daemon = daemon(LARGE_OBJECTS);
    let script = r#"
import sys, psycopg2
c = psycopg2.connect(f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop")
made = c.lobject(0, "wb")
data = bytes(range(256)) * 4000 + b"the end"
assert made.write(data) == len(data)
made.close()
c.commit()
again = c.lobject(made.oid, "rb")
assert again.read() == data
again.seek(-7, 2)
assert again.read() == b"the end" and again.tell() == len(data)
again.close()
changed = c.lobject(made.oid, "rwb")
changed.truncate(10)
changed.seek(0)
assert changed.read() == data[:10]
changed.unlink()
c.commit()
try:
    c.lobject(made.oid, "rb")
    raise SystemExit("it is still there")
except psycopg2.OperationalError:
    c.rollback()
try:
    c.cursor().execute("SELECT lo_import('/etc/passwd')")
    raise SystemExit("the server read a file")
except psycopg2.errors.InsufficientPrivilege as error:
    assert "nothing else" in str(error), error
"#;
    let seen = agent::python(&daemon, server(), NOBODY, script).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let recorded = recorded(&daemon);
    for part in [
        "function call",
        "SELECT pg_catalog.lo_creat($1)",
        "SELECT pg_catalog.lowrite($1, $2)",
        "large objects",
    ] {
        assert!(recorded.contains(part), "{part}");
    }
}

#[test]
fn calls_are_judged_as_their_select_would_be() {
    server()
        .psql(
            "shop",
            "CREATE OR REPLACE FUNCTION wire_twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
             CREATE OR REPLACE FUNCTION wire_rows() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
             GRANT CREATE ON SCHEMA public TO shop_agent",
        )
        .unwrap();
    let daemon = daemon(LARGE_OBJECTS);
    raw(
        &daemon,
        r#"
INT4ABS, LOWER, QUERY_TO_XML, PG_READ_FILE, SET_CONFIG, LO_CREAT, LO_UNLINK = 1397, 870, 2925, 2624, 2078, 957, 964
c = Conn().login()
seen = c.send(F(INT4ABS, "-5")).until("Z")
assert seen[0] == ("V", b"\0\0\0\0015") and seen[1] == ("Z", b"I"), seen
seen = c.send(F(INT4ABS, struct.pack("!i", -5), binary=1)).until("Z")
assert seen[0] == ("V", b"\0\0\0\4\0\0\0\5"), seen
assert c.send(F(INT4ABS, None)).until("Z")[0] == ("V", b"\xff\xff\xff\xff")
# An error is followed by ReadyForQuery, and so is a refusal.
same(c.ask(F(INT4ABS, "five")), "E(22P02) ZI")
same(c.ask(F(INT4ABS)), "E(08P01) ZI")
for call in [F(QUERY_TO_XML, "SELECT ssn FROM customers", "t", "f", ""), F(PG_READ_FILE, "/etc/passwd"),
             F(SET_CONFIG, "role", "postgres", "f"), F(SET_CONFIG, "client_encoding", "SJIS", "f"), F(99999999), F(0)]:
    same(c.ask(call), "E(42501) ZI")
# Any number of them with other messages around.
# A pipeline without its Sync is a transaction to PostgreSQL 18; the status is the server's own. (18.4 itself fails the next
# call of that session with XX000, so it is not used again.)
seen = Conn().login().ask(run("SELECT 1"), F(LO_CREAT, "-1"))
assert seen in ("1 2 D(1) C(SELECT 1) V ZI", "1 2 D(1) C(SELECT 1) V ZT"), seen
same(short(c.send(F(INT4ABS, "-1"), F(PG_READ_FILE, "x"), Q("SELECT 2")).until("Z") + c.until("Z") + c.until("Z")),
     "V ZI E(42501) ZI T D(2) C(SELECT 1) ZI")
same(c.ask(run("CREATE TABLE no (a int)"), F(INT4ABS, "-1"), S), "E(42501) ZI")
# Inside a transaction a refusal fails it.
same(c.ask(Q("BEGIN")), "C(BEGIN) ZT")
same(c.ask(F(INT4ABS, "-1")), "V ZT")
same(c.ask(F(PG_READ_FILE, "x")), "E(42501) ZE")
same(c.ask(F(INT4ABS, "-1")), "E(25P02) ZE")
same(c.ask(Q("ROLLBACK")), "C(ROLLBACK) ZI")
# Functions of users: known by their names, and not on any list.
def oid(name): return int(values(c.send(Q(f"SELECT '{name}'::regproc::oid")).until("Z")[1][1])[0])
same(c.ask(F(oid("wire_twice"), "21")), "E(42501) ZI")
same(c.ask(F(oid("wire_rows"))), "E(42501) ZI")
"#,
    );
    let recorded = recorded(&daemon);
    for part in [
        "SELECT \\\"public\\\".wire_twice($1)",
        "SELECT pg_catalog.set_config('role', 'postgres', $3)",
        "function with OID 99999999",
    ] {
        assert!(recorded.contains(part), "{part} in {recorded}");
    }
    let everything = super::daemon(NO_DDL);
    raw(
        &everything,
        r#"
c = Conn().login()
def oid(name): return int(values(c.send(Q(f"SELECT '{name}'::regproc::oid")).until("Z")[1][1])[0])
seen = c.send(F(oid("wire_twice"), "21")).until("Z")
assert seen[0] == ("V", b"\0\0\0\00242"), seen
# The server does not run it this way, and we cannot tell what it is.
same(c.ask(F(oid("wire_rows"))), "E(42501) ZI")
same(c.ask(F(2078, "client_encoding", "SJIS", "f")), "E(42501) ZI")
seen = c.send(F(2078, "application_name", "called", "f")).until("Z")
assert "V" in short(seen) and ("S", b"application_name\0called\0") in seen, seen
"#,
    );
}

#[test]
fn what_a_call_brings_is_masked_as_a_column_would_be() {
    server()
        .psql(
            "shop",
            "CREATE OR REPLACE FUNCTION wire_ssn(n int) RETURNS text LANGUAGE sql STABLE
             AS 'SELECT ssn FROM customers WHERE id = n'",
        )
        .unwrap();
    let allowed = NO_DDL.to_owned();
    let masks = r#"
[[mask]]
on = "postgres"
columns = ["customers.ssn"]
with = "redact"

[[mask]]
detect = ["email"]
with = "redact"
"#;
    let daemon = daemon(&(allowed + masks));
    raw(
        &daemon,
        r#"
c = Conn().login()
def result(call):
    seen = c.send(call).until("Z")
    assert seen[0][0] == "V", short(seen)
    return seen[0][1][4:]
# textcat(text, text)
assert result(F(1258, "mail ada@", "example.com now")) == b"mail [redacted] now"
oid = int(values(c.send(Q("SELECT 'wire_ssn'::regproc::oid")).until("Z")[1][1])[0])
for binary in (0, 1):
    argument = "1" if not binary else struct.pack("!i", 1)
    assert result(F(oid, argument, binary=binary)) == b"[redacted]"
"#,
    );
    let recorded = recorded(&daemon);
    assert!(!recorded.contains("101-11-0007"), "{recorded}");
}
