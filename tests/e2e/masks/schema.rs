//! Changes of the schema: what is created, renamed or hidden behind another name stays masked, and what is not secret
//! is shown once the change is known.

use serde_json::{Value, json};

use super::{Guards, assert_no_leak, daemon, json, unhex};

/// Runs a script that fills `seen` with what a test looks at, through any number of `Raw` connections.
fn run(script: &str) -> Value {
    let daemon = daemon(Guards::AllowAll);
    let seen = json(
        &daemon,
        &format!(
            r#"
raws, seen = [], []
def connect():
    raws.append(Raw())
    return raws[-1]
def cells(messages):
    return [[cell and cell.decode() for cell in row] for row in rows(messages)] or sqlstate(messages)
{script}
print(json.dumps({{"seen": seen, "received": b"".join(bytes(raw.received) for raw in raws).hex()}}))
"#
        ),
    );
    assert_no_leak(&daemon, &unhex(seen["received"].as_str().unwrap()));
    seen["seen"].clone()
}

#[test]
fn a_search_path_set_after_parse_gives_a_name_another_meaning() {
    let seen = run(r#"
raw = connect()
raw.send(raw.parse("SELECT name, upper(name), max(name) OVER () FROM pair", "s"), raw.describe(b"S", "s"), raw.SYNC)
raw.until_ready()
for path in ("public", "other, public"):
    raw.query("SET search_path = " + path)
    raw.send(raw.bind(False, "s"), raw.execute(), raw.SYNC)
    seen.append(cells(raw.until_ready()))
seen.append(cells(raw.query("SELECT max(name) FROM pair")))
"#);
    assert_eq!(seen[0][0][0], "harmless", "its origin is known");
    assert_eq!(seen[1], json!([["[redacted]", "[redacted]", "[redacted]"]]));
    assert_eq!(seen[2], json!([["[redacted]"]]));
}

#[test]
fn a_view_cannot_take_the_name_of_a_harmless_table() {
    let seen = run(r#"
raw = connect()
raw.send(raw.parse("SELECT max(item) FROM plain", "s"), raw.SYNC)
raw.until_ready()
shadow = "CREATE TEMP VIEW plain AS SELECT id, ssn AS item FROM customers"
detour = "CREATE TEMP VIEW detour AS SELECT id, ssn AS item FROM customers; ALTER VIEW detour RENAME TO plain"
ask = "SELECT max(item) FROM plain"
def bound():
    raw.send(raw.bind(False, "s"), raw.execute(), raw.SYNC)
    return cells(raw.until_ready())
seen.append(cells(raw.query(shadow)))
seen.append(cells(raw.query(detour + "; " + ask)))
raw.query("DROP VIEW pg_temp.plain")
raw.query("BEGIN")
for sql in detour.split("; "):
    raw.query(sql)
seen.append(cells(raw.query(ask)))
seen.append(bound())
raw.query("ROLLBACK")
seen.append(cells(raw.query(ask)))
seen.append(bound())
# Everything at once, without waiting for an answer.
raw.send(*(raw.packed(b"Q", raw.text(sql)) for sql in detour.split("; ") + [ask]))
for _ in range(3):
    last = cells(raw.until_ready())
seen.append(last)
seen.append(bound())
"#);
    assert_eq!(seen[0], "42501");
    for (at, allowed) in seen.as_array().unwrap().iter().enumerate().skip(1) {
        let honest = at == 4 || at == 5;
        let shown = allowed == &json!([["item 9"]]);
        assert!(shown || allowed == "42501" || allowed == &json!([["[redacted]"]]), "{at}: {seen}");
        assert!(shown || !honest, "nothing shadows the table there: {at}: {seen}");
    }
}

#[test]
fn a_replaced_view_is_not_trusted_before_the_catalogue_is_read() {
    let seen = run(r#"
raw = connect()
raw.query("CREATE VIEW swapped AS SELECT id, name AS shown FROM customers")
seen.append(cells(raw.query("SELECT shown, upper(shown) FROM swapped WHERE id = 1")))
replace = "CREATE OR REPLACE VIEW swapped AS SELECT id, ssn AS shown FROM customers"
seen.append(cells(raw.query(replace + "; SELECT shown, upper(shown) FROM swapped WHERE id = 1")))
raw.query("DROP VIEW swapped")
"#);
    assert_eq!(seen[0], json!([["Grace 1", "GRACE 1"]]));
    assert_eq!(seen[1], "42501");
}

#[test]
fn new_columns_and_tables_are_known_when_their_transaction_has_ended() {
    let seen = run(r#"
raw, other = connect(), connect()
raw.query("DROP TABLE IF EXISTS drawn, drawn_too")
raw.query("BEGIN")
raw.query("CREATE TABLE drawn (id int, note text)")
raw.query("INSERT INTO drawn VALUES (1, 'visible')")
raw.query("COMMIT")
for session in (raw, other):
    seen.append(cells(session.query("SELECT id, note, upper(note) FROM drawn")))
raw.query("ALTER TABLE drawn RENAME COLUMN note TO remark")
raw.query("ALTER TABLE drawn ADD COLUMN ssn text")
raw.query("UPDATE drawn SET ssn = '000-99-1234'")
for session in (raw, other):
    seen.append(cells(session.query("SELECT id, remark, ssn, lower(ssn) FROM drawn")))
seen.append(cells(raw.query("ALTER TABLE drawn RENAME COLUMN ssn TO harmless")))
seen.append(cells(raw.query("ALTER TABLE drawn SET SCHEMA other")))
raw.query("CREATE TABLE drawn_too (id int, harmless text)")
raw.query("INSERT INTO drawn_too VALUES (1, '000-99-1234')")
raw.query("ALTER TABLE drawn_too RENAME COLUMN harmless TO ssn")
for session in (raw, other):
    seen.append(cells(session.query("SELECT id, ssn FROM drawn_too")))
raw.query("DROP TABLE drawn, drawn_too")
"#);
    let visible = json!([["1", "visible", "VISIBLE"]]);
    let masked = json!([["1", "visible", "[redacted]", "[redacted]"]]);
    let renamed = json!([["1", "[redacted]"]]);
    assert_eq!(seen, json!([visible, visible, masked, masked, "42501", "42501", renamed, renamed]));
}

#[test]
fn a_view_made_by_one_session_is_masked_in_another() {
    let seen = run(r#"
maker, reader = connect(), connect()
reader.query("SELECT 1")
seen.append(cells(maker.query("CREATE VIEW other.showing AS SELECT id, ssn AS item, 'x' || ssn AS more FROM customers")))
seen.append(cells(reader.query("SELECT item, more, max(item) OVER () FROM other.showing WHERE id = 1")))
seen.append(cells(reader.query("ALTER VIEW other.showing RENAME TO plain")))
seen.append(cells(maker.query("CREATE TEMP TABLE customers (id int, ssn text, free text)")))
maker.query("INSERT INTO customers VALUES (1, 'mine', 'own')")
seen.append(cells(maker.query("SELECT ssn, free FROM customers")))
maker.query("DROP VIEW other.showing")
"#);
    let hidden = json!([["[redacted]", "[redacted]", "[redacted]"]]);
    assert_eq!(seen, json!([null, hidden, "42501", null, [["[redacted]", "own"]]]));
}

#[test]
fn a_view_cannot_take_the_name_of_a_system_catalogue() {
    let seen = run(r#"
raw = connect()
raw.query("SET search_path = other, pg_catalog, public")
seen.append(cells(raw.query("CREATE VIEW other.pg_tables AS SELECT ssn AS tablename FROM public.customers")))
raw.query("BEGIN")
raw.query("CREATE VIEW other.hiding AS SELECT ssn AS tablename FROM public.customers")
seen.append(cells(raw.query("ALTER VIEW other.hiding RENAME TO pg_views")))
seen.append(cells(raw.query("SELECT max(tablename) FROM pg_views")))
raw.query("COMMIT")
seen.append(cells(raw.query("SELECT max(tablename) FROM pg_views")))
raw.query("DROP VIEW IF EXISTS other.pg_views, other.hiding")
"#);
    assert_eq!(seen[0], "42501");
    let nothing_shown =
        |cells: &Value| cells.is_null() || cells.is_string() || cells == &json!([["[redacted]"]]);
    assert!(seen.as_array().unwrap().iter().all(nothing_shown), "{seen}");
}
