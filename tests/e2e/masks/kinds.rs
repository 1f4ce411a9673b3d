//! Every kind of column and every method: what comes back still decodes, and is not the value.

use serde_json::json;

use super::{Guards, assert_no_leak, daemon, daemon_with, json, recording};

const STAFF: &str = r#"
[[mask]]
on = "postgres"
columns = ["staff.pin", "staff.born", "staff.file", "staff.badge", "staff.note", "staff.pay"]
with = "METHOD"
"#;

/// Reads every column of `staff` in both formats with psycopg and in binary with asyncpg.
const READ_STAFF: &str = r#"
import asyncio, asyncpg, psycopg
seen = []
for binary in (False, True):
    with psycopg.connect(host=HOST, port=PORT, user="agent", dbname=DATABASE) as conn:
        for again in range(2):
            seen.append(conn.execute("SELECT * FROM staff", prepare=True, binary=binary).fetchone())
async def main():
    conn = await asyncpg.connect(host=HOST, port=PORT, user="agent", database=DATABASE)
    statement = await conn.prepare("SELECT * FROM staff WHERE id = $1")
    for again in range(2):
        seen.append(tuple(await statement.fetchrow(1)))
    await conn.close()
asyncio.run(main())
print(json.dumps(seen, default=str))
"#;

/// Traces of the raw row in any format: the values as text, and as PostgreSQL sends them in binary.
fn assert_row_hidden(text: &str) {
    for raw in ["73194826", "1987-03-14", "hyperlexia", "a3bb189e", "a quiet note", "918271"] {
        assert!(!text.contains(raw), "{raw} in {text}");
    }
}

#[test]
fn every_type_decodes_in_both_formats() {
    let redacted = json!([1, null, null, "[redacted]", null, "[redacted]", null]);
    let jsonb_as_text = json!([1, null, null, "\"[redacted]\"", null, "[redacted]", null]);
    let nothing = json!([1, null, null, null, null, null, null]);
    for (method, psycopg, asyncpg) in [
        ("redact", &redacted, &jsonb_as_text),
        ("partial", &redacted, &jsonb_as_text),
        ("null", &nothing, &nothing),
    ] {
        let daemon = daemon_with(&STAFF.replace("METHOD", method));
        let seen = json(&daemon, READ_STAFF);
        let seen = seen.as_array().unwrap();
        assert_eq!(seen.len(), 6);
        for row in seen {
            assert_row_hidden(&row.to_string());
        }
        if method != "partial" {
            assert_eq!(&seen[..4], vec![psycopg.clone(); 4], "{method}");
            assert_eq!(&seen[4..], vec![asyncpg.clone(); 2], "{method}");
        }
        assert_row_hidden(&recording(&daemon));
    }
}

#[test]
fn a_hash_is_the_same_wherever_the_value_is() {
    let daemon = daemon_with(&STAFF.replace("METHOD", "hash"));
    let seen = json(&daemon, READ_STAFF);
    let seen = seen.as_array().unwrap();
    assert_row_hidden(&seen[0].to_string());
    for row in seen {
        assert_eq!(row[4], seen[0][4], "a UUID made of the digest");
        assert_eq!(row[5], seen[0][5]);
        assert!(row[4].is_string() && row[5].as_str().is_some_and(|hash| hash.len() > 8), "{row}");
        assert!(row[1].is_null() && row[2].is_null() && row[6].is_null(), "{row}");
    }
    assert_row_hidden(&recording(&daemon));
}

#[test]
fn partial_keeps_the_end() {
    let daemon = daemon_with(
        "[[mask]]\non = \"postgres\"\ncolumns = [\"customers.ssn\", \"customers.card\", \"customers.email\"]\nwith = \"partial\"\n",
    );
    let seen = json(
        &daemon,
        "print(json.dumps([[cell.decode() for cell in row] for row in rows(Raw().query(\"SELECT ssn, card, email FROM customers WHERE id = 1\"))]))",
    );
    assert_eq!(seen, json!([["***********", "**** **** **** 1111", "c***@example.com"]]));
    assert_no_leak(&daemon, seen.to_string().as_bytes());
}

#[test]
fn exempt_groups_see_the_value() {
    let rules = |exempt: &str| {
        format!(
            "[[mask]]\non = \"postgres\"\ncolumns = [\"*.ssn\"]\nwith = \"redact\"\nexempt = [\"{exempt}\"]\n"
        )
    };
    let select =
        "print(json.dumps(rows(Raw().query(\"SELECT ssn FROM customers WHERE id = 1\"))[0][0].decode()))";
    assert_eq!(json(&daemon_with(&rules("nogroup")), select), "918-27-1001");
    assert_eq!(json(&daemon_with(&rules("daemon")), select), "[redacted]");
}

/// What is described once and run again, suspended, or in another format is masked all the same.
#[test]
fn portals_are_masked_however_they_are_run() {
    let daemon = daemon(Guards::AllowAll);
    let seen = json(
        &daemon,
        r#"
raw = Raw()
def run(*messages):
    raw.send(*messages, raw.SYNC)
    return raw.until_ready()
select = "SELECT id, ssn, upper(ssn), name FROM customers ORDER BY id"
seen = {}
run(raw.parse(select, "s"), raw.describe(b"S", "s"))
seen["undescribed"] = [rows(run(raw.bind(binary, "s"), raw.execute())) for binary in (False, True)]
# Suspended in between, in a transaction.
raw.query("BEGIN")
suspended = run(raw.bind(False, "s", "p"), raw.execute("p", 1)) + run(raw.execute("p", 1)) + run(raw.execute("p"))
seen["suspended"] = rows(suspended)
assert [tag for tag, _ in suspended].count(b"s") == 2, suspended
raw.query("COMMIT")
# A statement that SQL prepared, bound by the wire; a cursor that SQL declared, run by the wire.
raw.query("PREPARE q AS " + select)
seen["bound"] = rows(run(raw.bind(True, "q"), raw.execute()))
raw.query("BEGIN")
raw.query("DECLARE k CURSOR FOR " + select)
seen["cursor"] = rows(run(raw.execute("k", 2)))
seen["cursor"] += rows(run(raw.describe(b"P", "k"), raw.execute("k")))
raw.query("COMMIT")
# A statement that the wire prepared, executed by SQL.
seen["executed"] = rows(raw.query("EXECUTE s"))
print(json.dumps({name: repr(cells) for name, cells in seen.items()} | {"received": bytes(raw.received).hex()}))
"#,
    );
    for name in ["undescribed", "suspended", "bound", "cursor", "executed"] {
        let cells = seen[name].as_str().unwrap();
        assert!(cells.contains("Grace 2") && cells.contains("[redacted]"), "{name}: {cells}");
    }
    let received = super::unhex(seen["received"].as_str().unwrap());
    assert_no_leak(&daemon, &received);
}

/// A name whose meaning the server has not confirmed yet is judged by every meaning it may have.
#[test]
fn a_name_with_two_meanings_is_masked_by_both() {
    let daemon = daemon(Guards::AllowAll);
    let seen = json(
        &daemon,
        r#"
raw = Raw()
# The second Parse fails, because the name is taken: what runs is the first.
raw.send(raw.parse("SELECT upper(ssn) FROM customers", "s"), raw.SYNC,
         raw.parse("SELECT upper(name) FROM customers", "s"), raw.SYNC,
         raw.bind(False, "s"), raw.describe(b"P"), raw.execute(), raw.SYNC)
first = raw.until_ready() + raw.until_ready() + raw.until_ready()
raw.send(raw.parse("COPY customers (ssn) TO STDOUT", "c"), raw.SYNC,
         raw.parse("COPY customers (name) TO STDOUT", "c"), raw.SYNC,
         raw.bind(False, "c"), raw.execute(), raw.SYNC)
second = raw.until_ready() + raw.until_ready() + raw.until_ready()
print(json.dumps({"rows": len(rows(first)), "received": bytes(raw.received).hex()}))
"#,
    );
    assert_eq!(seen["rows"], 4);
    assert_no_leak(&daemon, &super::unhex(seen["received"].as_str().unwrap()));
}
