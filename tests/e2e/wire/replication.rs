//! Replication connections, where a policy grants them.

use std::sync::OnceLock;

use harness::agent;
use harness::daemon::Daemon;
use harness::postgres::PASSWORD;
use harness::process::NOBODY;

use super::{raw, server};

/// Logical replication of one slot is allowed, and nothing else that is administration.
fn daemon(grant: &str) -> Daemon {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let role = format!("CREATE ROLE wire_replica LOGIN REPLICATION PASSWORD '{PASSWORD}'");
        let table =
            "CREATE TABLE wire_replicated (a int, b text); GRANT ALL ON wire_replicated TO wire_replica";
        server().psql("shop", &format!("{role}; {table}")).unwrap();
    });
    let policy = format!(
        r#"version = 1
name = "shop"

[[connection]]
name = "shop-db"
to = ["{address}"]
protocol = "postgres"
{grant}
upstream = {{ user = "wire_replica", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}

[[guard]]
name = "changes"
on = "postgres"
kind = ["identify system", "create replication slot", "start replication", "insert"]
action = "allow"

[[guard]]
name = "nothing else"
on = "postgres"
effect = ["write", "ddl", "admin", "unknown"]
action = "deny"
"#,
        address = server().address(),
        ca = server().ca().display(),
    );
    Daemon::start(&[("shop", &policy)]).unwrap()
}

#[test]
fn commands_are_judged_and_streams_relayed_both_ways() {
    let daemon = daemon("replication = true");
    raw(
        &daemon,
        r#"
def d(data): return message("d", data)
c, other = Conn(timeout=60).login(replication="database"), Conn(timeout=60).login()
assert c.ask(Q("IDENTIFY_SYSTEM")).endswith("C(IDENTIFY_SYSTEM) ZI")
same(c.ask(Q("SELECT 1")), "T D(1) C(SELECT 1) ZI")
same(c.ask(Q("SHOW wal_level")).split(" ")[-1], "ZI")
for refused in ["BASE_BACKUP", "base_backup (LABEL 'x')", "DROP_REPLICATION_SLOT x", "CREATE TABLE no (a int)", "DELETE FROM wire_replicated",
                "IDENTIFY_SYSTEM x; DROP TABLE orders"]:
    seen = c.ask(Q(refused))
    assert seen in ("E(42501) ZI", "E(42601) ZI"), (refused, seen)
# The server refuses what no walsender has.
assert c.ask(run("SELECT 1"), S).endswith("E(08P01) ZI")
seen = c.ask(Q("CREATE_REPLICATION_SLOT wire_slot TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT"))
assert seen.endswith("C(CREATE_REPLICATION_SLOT) ZI"), seen
assert short(c.send(Q("START_REPLICATION SLOT wire_slot LOGICAL 0/0")).until("W")) == "W"
same(other.ask(Q("INSERT INTO wire_replicated VALUES (1, 'small')")), "C(INSERT 0 1) ZI")
same(other.ask(Q("INSERT INTO wire_replicated VALUES (2, repeat('large', 400000))")), "C(INSERT 0 1) ZI")
changes, last = [], 0
while len(changes) < 2:
    tag, body = c.next()
    assert tag == "d", tag
    if body[:1] == b"w":
        last = max(last, struct.unpack("!Q", body[9:17])[0])
        if b"'small'" in body or b"'large" in body:
            changes.append(body[25:])
    elif body[17:18] == b"\1":
        c.send(d(b"r" + struct.pack("!QQQQB", last, last, last, 0, 0)))
assert b"'small'" in changes[0] and len(changes[1]) > 2_000_000 and changes[1].endswith(b"largelarge'"), changes[1][-50:]
c.send(d(b"r" + struct.pack("!QQQQB", last, last, last, 0, 1)), message("c"))
seen = short(c.until("Z"))
assert " c " in seen and " C(" in seen and seen.endswith("ZI"), seen  # a status message on its way may be answered behind `c`
same(c.ask(Q("SELECT 2")), "T D(2) C(SELECT 1) ZI")
# The log itself, as it is.
c = Conn(timeout=60).login(replication="true")
seen = c.send(Q("IDENTIFY_SYSTEM")).until("Z")
timeline, position = values(seen[1][1])[1:3]
assert short(c.send(Q(f"START_REPLICATION PHYSICAL {position} TIMELINE {timeline}")).until("W")) == "W"
same(other.ask(Q("INSERT INTO wire_replicated VALUES (3, 'in the log')")), "C(INSERT 0 1) ZI")
while True:
    tag, body = c.next()
    if b"in the log" in body:
        break
c.send(message("c"))
assert short(c.until("Z")).endswith("ZI")
"#,
    );
    let ends = super::ends(&daemon);
    assert_eq!(ends.len(), 3, "{ends:?}");
    let listed = daemon.cli(&["sessions", "list", "--json"]).unwrap().stdout;
    let shown: String = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|session| {
            daemon.cli(&["sessions", "show", session["session"].as_str().unwrap(), "--json"]).unwrap().stdout
        })
        .collect();
    for part in
        ["start replication", "base backup", "START_REPLICATION SLOT wire_slot LOGICAL 0/0", "rows_left_out"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("public.wire_replicated: INSERT"), "what streams is counted, not recorded");
}

#[test]
fn psycopg2_reads_changes() {
    let daemon = daemon("replication = true");
    let script = r#"
import sys, psycopg2, psycopg2.extras
address = f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop"
c = psycopg2.connect(address, connection_factory=psycopg2.extras.LogicalReplicationConnection)
cur = c.cursor()
cur.execute("CREATE_REPLICATION_SLOT wire_psycopg2 TEMPORARY LOGICAL test_decoding")
cur.start_replication(slot_name="wire_psycopg2", decode=True)
writer = psycopg2.connect(address)
writer.autocommit = True
for n in range(100):
    writer.cursor().execute("INSERT INTO wire_replicated VALUES (%s, 'psycopg2')", (n,))
class Enough(Exception): pass
seen = []
def each(message):
    if "psycopg2" in message.payload: seen.append(message.payload)
    message.cursor.send_feedback(flush_lsn=message.data_start)
    if len(seen) == 100: raise Enough
try:
    cur.consume_stream(each)
except Enough:
    pass
assert "99" in seen[-1], seen[-1]
"#;
    let seen = agent::python(&daemon, server(), NOBODY, script).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
}

#[test]
fn without_a_grant_there_is_none() {
    let daemon = daemon("");
    raw(
        &daemon,
        r#"
for kind in ["database", "true", "on", "yes", "1"]:
    told = Conn().startup(replication=kind).next()
    assert told[0] == "E" and fields(told[1])["C"] == "42501" and "does not grant replication" in fields(told[1])["M"], told
for none in ["false", "off", "no", "0"]:
    c = Conn().login(replication=none)
    assert c.ask(Q("IDENTIFY_SYSTEM")) == "E(42501) ZI"  # not SQL
same(Conn().startup(replication="maybe").closed(), "E(42501)")
"#,
    );
}
