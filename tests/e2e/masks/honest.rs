//! What honest agents do beside masked columns keeps working.

use serde_json::{Value, json};

use super::{DATABASE, Guards, daemon, json, prepared, psql};

/// Statements whose answer must be the one that the server gives to anyone.
const UNTOUCHED: &[&str] = &[
    "SELECT count(*) FROM customers",
    "SELECT max(id), min(name), upper(max(name)) FROM customers",
    "SELECT c.id, p.item FROM customers c JOIN plain p ON p.id = c.id ORDER BY 1",
    "SELECT c.id, c.ctid IS NOT NULL, c.tableoid > 0 FROM customers c ORDER BY 1",
    "SELECT name, count(*) FROM customers GROUP BY name ORDER BY name",
    "SELECT id, length(name), coalesce(name, ''), CASE WHEN id > 2 THEN 'big' END FROM customers ORDER BY id",
    "SELECT id FROM customers WHERE ssn LIKE '918%' ORDER BY id",
    "SELECT count(*) FROM customers WHERE ssn IS NOT NULL",
    "SELECT exists(SELECT 1 FROM plain WHERE id = 3)",
    "SELECT q.total FROM (SELECT count(*) AS total FROM plain) q",
    "WITH q AS (SELECT id, upper(item) AS loud FROM plain) SELECT loud FROM q WHERE id < 3 ORDER BY id",
    "SELECT id, name FROM contacts ORDER BY id",
    "SELECT row_number() OVER (ORDER BY id), name FROM customers",
    "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' ORDER BY 2",
    "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
    "SELECT constraint_name, table_name, constraint_type FROM information_schema.table_constraints WHERE table_schema = 'public' AND constraint_name NOT LIKE '%not_null' ORDER BY 1",
    "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = 'customers'::regclass AND a.attnum > 0 ORDER BY a.attnum",
    "SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid) AND n.nspname = 'public' ORDER BY 1",
    "SELECT current_database(), current_schema(), version() IS NOT NULL, pg_catalog.current_setting('server_version_num') IS NOT NULL",
    "SELECT t.oid, t.typarray FROM pg_type t WHERE t.typname = 'hstore'",
    "SELECT i.relname, pg_catalog.pg_get_indexdef(i.oid) FROM pg_catalog.pg_class i WHERE i.relkind = 'i' AND i.relname = 'customers_pkey'",
    "SELECT s.n_live_tup >= 0 FROM pg_stat_user_tables s WHERE s.relname = 'customers'",
    "SELECT to_jsonb(p) FROM plain p WHERE id = 1",
    "SELECT * FROM generate_series(1, 3)",
    "VALUES (1, 'a'), (2, 'b')",
    "SHOW server_version",
];

#[test]
fn answers_are_the_servers_own() {
    let daemon = daemon(Guards::AllowAll);
    let seen = psql(&daemon, &["--tuples-only", "--set=ON_ERROR_STOP=1"], UNTOUCHED);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let mut rest = seen.stdout.as_str();
    for sql in UNTOUCHED {
        let expected = prepared().psql(DATABASE, sql).unwrap();
        let same = rest.strip_prefix(expected.as_str());
        assert!(
            same.is_some(),
            "{sql}\nexpected {expected}\ngot {}",
            rest.get(..expected.len()).unwrap_or(rest)
        );
        rest = same.unwrap_or_default();
    }
}

#[test]
fn psql_describes_what_there_is() {
    let daemon = daemon(Guards::AllowAll);
    let seen = psql(
        &daemon,
        &["--set=ON_ERROR_STOP=1"],
        &["\\l", "\\dt", "\\d customers", "\\d+ contacts", "\\df peek", "\\dn", "\\du", "\\di", "\\dv"],
    );
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    for expected in [
        "masks|postgres",
        "public|customers|table|shop_agent",
        "ssn|text||not null|",
        "\"customers_card_key\" UNIQUE CONSTRAINT, btree (card)",
        "Number of child tables: 1",
        "ssn AS note\n   FROM customers;",
        "public|peek|refcursor|refcursor|func",
        "other|postgres",
        "public|customers_pkey|index|shop_agent|customers",
    ] {
        assert!(seen.stdout.contains(expected), "{expected}\n{}", seen.stdout);
    }
    assert!(!seen.stdout.contains("[redacted]"), "{}", seen.stdout);
}

#[test]
fn masked_columns_can_be_written() {
    let daemon = daemon(Guards::AllowWrites);
    let seen = json(
        &daemon,
        r#"
import psycopg
with psycopg.connect(host=HOST, port=PORT, user="agent", dbname=DATABASE) as conn:
    seen = [conn.execute("INSERT INTO customers (id, name, email, card, ssn) VALUES (%s, 'New', 'e', 'k', %s) RETURNING id, ssn, name",
                         (900, "000-11-2222")).fetchone()]
    seen.append(conn.execute("UPDATE customers SET ssn = %s, name = 'Newer' WHERE ssn = %s RETURNING id, ssn", ("000-11-3333", "000-11-2222")).fetchall())
    seen.append(conn.execute("INSERT INTO customers (id, name, email, card, ssn) VALUES (900, 'x', 'e', 'k', '000-11-4444') ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn, name = 'Newest' RETURNING *").fetchone())
    seen.append(conn.execute("DELETE FROM customers WHERE ssn = '000-11-4444' RETURNING name, ssn").fetchone())
    seen.append(conn.execute("SELECT set_config('TimeZone', %s, false)", ("Asia/Tokyo",)).fetchone() and conn.info.parameter_status("TimeZone"))
    conn.execute("SELECT ssn FROM customers")
    try:
        conn.execute("SELECT missing FROM plain")
    except psycopg.Error as error:
        seen.append(error.diag.message_primary)
    conn.rollback()
print(json.dumps(seen))
"#,
    );
    assert_eq!(
        seen,
        json!([
            [900, "[redacted]", "New"],
            [[900, "[redacted]"]],
            [900, "Newest", "e", "k", "[redacted]", "[redacted]"],
            ["Newest", "[redacted]"],
            "Asia/Tokyo",
            "column \"missing\" does not exist",
        ])
    );
}

/// With `unknown_origin = "deny"` only outputs that are computed from masked columns are refused.
#[test]
fn known_origins_pass_where_unknown_ones_are_denied() {
    let policy = super::policy(
        Guards::AllowAll,
        "[[mask]]\non = \"postgres\"\ncolumns = [\"*.ssn\"]\nwith = \"redact\"\n",
    );
    let policy = policy.replace("[defaults]\n", "[defaults]\nunknown_origin = \"deny\"\n");
    let daemon = harness::daemon::Daemon::start(&[("shop", &policy)]).unwrap();
    let seen = json(
        &daemon,
        r#"
raw = Raw()
print(json.dumps([sqlstate(raw.query(sql)) for sql in (
    "SELECT ssn, name FROM customers",
    "SELECT * FROM customers",
    "SELECT c.*, p.item FROM customers c JOIN plain p USING (id)",
    "SELECT ssn, upper(name), count(*) FROM customers GROUP BY 1, 2",
    "SELECT id FROM customers WHERE ssn = 'x'",
    "UPDATE customers SET name = 'x' WHERE ssn = 'x' RETURNING ssn",
    "COPY customers TO STDOUT",
    "SELECT upper(ssn) FROM customers",
    "SELECT ssn FROM customers a FULL JOIN customers b USING (ssn)",
    "SELECT ssn FROM customers UNION SELECT ''",
    "SELECT max(note) FROM contacts",
    "COPY (SELECT ssn FROM customers) TO STDOUT",
    "INSERT INTO stash SELECT ssn FROM customers",
)]))
"#,
    );
    let denied = Value::from("42501");
    assert_eq!(seen.as_array().unwrap()[..7], vec![Value::Null; 7], "{seen}");
    assert_eq!(seen.as_array().unwrap()[7..], vec![denied; 6], "{seen}");
}
