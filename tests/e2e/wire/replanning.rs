//! What a prepared statement means is settled when it runs: after a change of the search path, a temporary table or a
//! change of the schema the origins of its columns are read again, and the server's own refusals pass.

use super::{daemon, raw, server};

/// Masks `ssn` and lets everything pass.
const MASKED: &str = r#"
[[guard]]
name = "everything"
on = "postgres"
effect = ["read", "write", "ddl", "admin", "unknown"]
action = "allow"

[[mask]]
on = "postgres"
columns = ["wire_plans.ssn"]
with = "redact"
"#;

#[test]
fn origins_are_read_again_whatever_changed_since_parse() {
    server()
        .psql(
            "shop",
            "DROP TABLE IF EXISTS wire_plans; CREATE TABLE wire_plans (id int, note text, ssn text);
             INSERT INTO wire_plans VALUES (1, 'open', 'secret');
             DROP TABLE IF EXISTS wire_star; CREATE TABLE wire_star (id int); INSERT INTO wire_star VALUES (1);
             ALTER TABLE wire_star OWNER TO shop_agent;
             DROP SCHEMA IF EXISTS wire_other CASCADE; CREATE SCHEMA wire_other AUTHORIZATION shop_agent;
             GRANT CREATE, TEMPORARY ON DATABASE shop TO shop_agent; ALTER TABLE wire_plans OWNER TO shop_agent",
        )
        .unwrap();
    let daemon = daemon(MASKED);
    raw(
        &daemon,
        r#"
def again(name="p"):
    """Binds and runs without a Describe, as drivers do that described once."""
    return c.ask(B("", name), E(), S)
def path(schemas):
    # PostgreSQL 18 reports it.
    same(c.ask(Q("SET search_path = " + schemas)).replace(" S ", " "), "C(SET) ZI")
c = Conn().login()
same(c.ask(P("p", "SELECT note, ssn FROM wire_plans"), D("S", "p"), S), "1 t T ZI")
same(again(), "2 D(open,[redacted]) C(SELECT 1) ZI")

# Another table of that name comes first in the path, with the columns the other way round.
same(c.ask(Q("CREATE TABLE wire_other.wire_plans (ssn text, note text)")), "C(CREATE TABLE) ZI")
same(c.ask(Q("INSERT INTO wire_other.wire_plans VALUES ('secret', 'other')")), "C(INSERT 0 1) ZI")
path("wire_other, public")
same(again(), "2 D(other,[redacted]) C(SELECT 1) ZI")
path("public")
same(again(), "2 D(open,[redacted]) C(SELECT 1) ZI")

# A temporary table hides both.
same(c.ask(Q("CREATE TEMP TABLE wire_plans (note text, ssn text)")), "C(CREATE TABLE) ZI")
same(c.ask(Q("INSERT INTO pg_temp.wire_plans VALUES ('temporary', 'secret')")), "C(INSERT 0 1) ZI")
same(again(), "2 D(temporary,[redacted]) C(SELECT 1) ZI")
same(c.ask(Q("DROP TABLE pg_temp.wire_plans")), "C(DROP TABLE) ZI")
same(again(), "2 D(open,[redacted]) C(SELECT 1) ZI")

# A result of another type is the server's to refuse, in both protocols, and the session goes on.
same(c.ask(P("star", "SELECT * FROM wire_star"), S), "1 ZI")
same(again("star"), "2 D(1) C(SELECT 1) ZI")
same(c.ask(Q("PREPARE sql AS SELECT * FROM wire_star")), "C(PREPARE) ZI")
same(c.ask(Q("EXECUTE sql")), "T D(1) C(SELECT 1) ZI")
same(c.ask(Q("ALTER TABLE wire_star ADD COLUMN more int")), "C(ALTER TABLE) ZI")
told = c.send(B("", "star"), E(), S).until("Z")
assert short(told) == "E(0A000) ZI", short(told)
assert fields(told[0][1])["M"] == "cached plan must not change result type", told
same(c.ask(Q("EXECUTE sql")), "E(0A000) ZI")
same(c.ask(C("S", "star"), P("star", "SELECT * FROM wire_star"), B("", "star"), E(), S), "3 1 2 D(1,NULL) C(SELECT 1) ZI")
# By another session, behind this one's back.
other = Conn().login()
same(other.ask(Q("ALTER TABLE wire_star DROP COLUMN more")), "C(ALTER TABLE) ZI")
same(again("star"), "E(0A000) ZI")
same(again(), "2 D(open,[redacted]) C(SELECT 1) ZI")

# Suspended portals keep their masks.
same(other.ask(Q("INSERT INTO wire_plans VALUES (2, 'open', 'secret'), (3, 'open', 'secret')")), "C(INSERT 0 2) ZI")
same(c.ask(B("", "p"), E("", 1), E("", 1), E("", 0), S), "2 D(open,[redacted]) s D(open,[redacted]) s D(open,[redacted]) C(SELECT 1) ZI")
"#,
    );
}
