//! The ways by which a masked value could come back, each through several protocols and drivers.

use serde_json::Value;

use super::{Guards, assert_no_leak, daemon, json, psql, unhex};

/// What stands in front of a statement that may only be refused by the gate, or pass and show nothing.
const INPUTS: &[(&str, &[&str])] = &[
    ("an alias", &["SELECT ssn AS note FROM customers"]),
    ("swapped labels", &["SELECT name AS ssn, ssn AS name FROM customers"]),
    ("pieces", &["SELECT substr(ssn,1,7), substr(ssn,4) FROM customers"]),
    ("row_to_json", &["SELECT row_to_json(c) FROM customers c", "SELECT json_agg(c) FROM customers c"]),
    (
        "a whole row",
        &["SELECT c FROM customers c", "SELECT customers FROM customers", "SELECT (c).* FROM customers c"],
    ),
    (
        "a union",
        &[
            "SELECT ssn FROM customers UNION ALL SELECT ''",
            "SELECT name FROM customers UNION SELECT ssn FROM customers",
        ],
    ),
    ("a merged join column", &["SELECT ssn FROM customers a FULL JOIN customers b USING (ssn)"]),
    (
        "views, copies, children",
        &[
            "SELECT note FROM contacts",
            "SELECT code, everything FROM codes",
            "SELECT code FROM codes_of_codes",
            "SELECT kept FROM customers_kept",
            "SELECT * FROM customers_abroad",
            "SELECT ssn FROM ONLY customers_abroad",
            "SELECT * FROM patients",
            "SELECT ssn || '' FROM patients_2024",
        ],
    ),
    (
        "arrays",
        &[
            "SELECT array(SELECT ssn FROM customers)",
            "SELECT unnest(array(SELECT ssn FROM customers))",
            "SELECT array_agg(ssn), string_agg(ssn, ',') FROM customers",
        ],
    ),
    (
        "the error of a cast",
        &["SELECT ssn::int FROM customers", "SELECT 1 FROM customers WHERE ssn::date IS NULL"],
    ),
    (
        "the details of an error",
        &[
            "UPDATE customers SET name = NULL WHERE id = 1",
            "INSERT INTO customers SELECT id + 100, name, email, card, ssn FROM customers",
            "UPDATE customers SET card = 'same'",
        ],
    ),
    (
        "the details of an error at COMMIT",
        &["BEGIN", "DELETE FROM registry WHERE id = 1", "COMMIT", "ROLLBACK"],
    ),
    ("a parameter", &["SELECT set_config('application_name', ssn, false) FROM customers"]),
    (
        "a parameter set by code",
        &[
            "DO $$ BEGIN PERFORM set_config('application_name', (SELECT ssn FROM customers WHERE id = 1), false); END $$",
            "SHOW application_name",
            "SHOW ALL",
            "SELECT current_setting('application_name'), 'x' || current_setting('application_name')",
            "SELECT setting FROM pg_settings WHERE name = 'application_name'",
            "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            "SELECT set_config('application_name', '', false)",
        ],
    ),
    ("a notification", &["LISTEN CHANNEL", "SELECT pg_notify('CHANNEL', ssn) FROM customers", "SELECT 1"]),
    (
        "a notification sent by code",
        &[
            "LISTEN CHANNEL",
            "DO $$ BEGIN PERFORM pg_notify('CHANNEL', ssn) FROM customers; END $$",
            "SELECT 1",
        ],
    ),
    (
        "statistics",
        &[
            "SELECT * FROM pg_stats WHERE tablename = 'customers'",
            "SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats",
            "SELECT s::text FROM pg_stats s",
        ],
    ),
    (
        "a condition",
        &[
            "SELECT id FROM customers WHERE ssn LIKE '9%'",
            "SELECT count(*) FROM customers WHERE ssn LIKE '9%'",
        ],
    ),
    (
        "another table",
        &[
            "INSERT INTO stash SELECT ssn FROM customers",
            "UPDATE stash SET value = (SELECT ssn FROM customers LIMIT 1)",
            "CREATE TABLE stolen AS SELECT ssn AS value FROM customers",
            "CREATE TEMP TABLE stolen2 AS TABLE customers",
            "SELECT ssn AS value INTO stolen3 FROM customers",
            "SELECT * FROM stash",
        ],
    ),
    (
        "a notice",
        &["DO $$ BEGIN RAISE NOTICE '%', (SELECT ssn FROM customers WHERE id = 1); END $$", "SELECT shout()"],
    ),
    (
        "cursors",
        &[
            "BEGIN",
            "SELECT peek('open_by_code')",
            "FETCH 1 FROM open_by_code",
            "MOVE 1 FROM open_by_code",
            "FETCH ALL FROM open_by_code",
            "COMMIT",
            "BEGIN",
            "DECLARE k CURSOR FOR SELECT upper(ssn) AS harmless, id, ssn FROM customers",
            "FETCH ALL FROM k",
            "COMMIT",
        ],
    ),
    ("an index", &["CREATE INDEX ON customers ((ssn::int))"]),
    ("generated columns", &["SELECT ssn_copy FROM customers", "SELECT lower(ssn_copy) FROM customers"]),
    (
        "attribute notation",
        &[
            "SELECT c.secret_of FROM customers c",
            "SELECT customers.secret_of FROM customers",
            "SELECT (c).secret_of FROM customers c",
        ],
    ),
    (
        "functions",
        &["SELECT secret_of(c) FROM customers c", "SELECT * FROM everyone()", "SELECT (everyone()).ssn"],
    ),
    (
        "prepared statements",
        &["PREPARE p AS SELECT upper(ssn) FROM customers", "EXECUTE p", "EXECUTE p", "DEALLOCATE p"],
    ),
    (
        "RETURNING",
        &[
            "BEGIN",
            "UPDATE customers SET name = name || '' RETURNING ssn, upper(ssn)",
            "DELETE FROM leavers WHERE id = (SELECT min(id) FROM leavers) RETURNING *, ssn || ''",
            "ROLLBACK",
            "BEGIN",
            "WITH d AS (DELETE FROM leavers WHERE id = (SELECT min(id) FROM leavers) RETURNING *) SELECT ssn, 'x' || ssn FROM d",
            "ROLLBACK",
        ],
    ),
    (
        "plans",
        &[
            "EXPLAIN (ANALYZE, VERBOSE) SELECT ssn FROM customers WHERE ssn > '0'",
            "EXPLAIN (VERBOSE) SELECT secret_of(c) FROM customers c",
            "EXPLAIN SELECT * FROM customers WHERE ssn = (SELECT min(ssn) FROM customers)",
        ],
    ),
    (
        "other ways to name the table",
        &[
            "TABLE customers",
            "SELECT * FROM ONLY (customers)",
            "WITH customers AS (SELECT * FROM customers) SELECT ssn, 'x' || ssn FROM customers",
            "SELECT x FROM customers AS c(i, n, e, k, x)",
            "SELECT upper(x) FROM customers AS c(i, n, e, k, x)",
            "SELECT q.x FROM (SELECT 1) o, LATERAL (SELECT 'x' || c.ssn AS x FROM customers c) q",
            "SELECT ssn FROM customers TABLESAMPLE SYSTEM (100)",
            "SELECT CASE WHEN ssn > '' THEN ssn END, coalesce(ssn, ''), greatest(ssn, '') FROM customers",
            "SELECT first_value(ssn) OVER (), lag(ssn) OVER (ORDER BY id) FROM customers",
            "SELECT xmlforest(ssn), to_jsonb(c), ROW(c.*), hstore FROM customers c, LATERAL (SELECT 1) AS l(hstore)",
            "SELECT query_to_xml('SELECT ssn FROM customers', true, false, '')",
            "SELECT table_to_xml('customers', true, false, '')",
            "SELECT * FROM other.pair",
            "SELECT max(name) FROM other.pair",
        ],
    ),
];

/// SQLSTATEs a server may answer with: for what fails by itself, and for what follows in a failed transaction.
const SERVER_ERRORS: &[&str] = &[
    "22P02", "22007", "22008", "23502", "23503", "23505", "25P01", "25P02", "34000", "26000", "42703",
    "42P01", "42P03", "42P05", "42883",
];

/// All statements, with a channel of the caller's own: what others notify of is theirs to answer for.
fn statements_for(channel: &str) -> Vec<String> {
    INPUTS
        .iter()
        .flat_map(|(_, statements)| statements.iter())
        .map(|sql| sql.replace("CHANNEL", channel))
        .collect()
}

fn statements(channel: &str) -> String {
    serde_json::to_string(&statements_for(channel)).expect("JSON")
}

/// Nothing leaked, every refusal is a clean one, and something did pass.
fn judge(daemon: &harness::daemon::Daemon, seen: &Value) {
    let received = seen.get("received").and_then(Value::as_str).expect("what was received");
    assert_no_leak(daemon, &unhex(received));
    let outcomes = seen.get("outcomes").and_then(Value::as_array).expect("outcomes");
    let mut passed = 0;
    for outcome in outcomes {
        match outcome.get(1).and_then(Value::as_str) {
            None => passed += 1,
            Some("42501") => {}
            Some(code) => assert!(SERVER_ERRORS.contains(&code), "{outcome}"),
        }
    }
    assert!(passed > outcomes.len() / 3, "{passed} of {} passed: {seen:?}", outcomes.len());
}

#[test]
fn no_input_leaks_through_raw_messages() {
    let daemon = daemon(Guards::AllowAll);
    for how in ["query(sql)", "extended(sql)", "extended(sql, binary=True)", "extended(sql, describe=False)"]
    {
        let seen = json(
            &daemon,
            &format!(
                r#"
outcomes = []
raw = Raw()
for sql in {statements}:
    messages = raw.{how}
    outcomes.append([sql, sqlstate(messages)])
    if outcomes[-1][1] and status(messages) == "E":
        raw.query("ROLLBACK")
raw.query("ROLLBACK")
print(json.dumps({{"received": bytes(raw.received).hex(), "outcomes": outcomes}}))
"#,
                statements = statements("raw")
            ),
        );
        judge(&daemon, &seen);
    }
}

#[test]
fn no_input_leaks_where_only_writes_are_allowed() {
    let daemon = daemon(Guards::AllowWrites);
    let seen = json(
        &daemon,
        &format!(
            r#"
outcomes = []
raw = Raw()
for sql in {statements}:
    messages = raw.query(sql)
    outcomes.append([sql, sqlstate(messages)])
    if outcomes[-1][1] and status(messages) == "E":
        raw.query("ROLLBACK")
print(json.dumps({{"received": bytes(raw.received).hex(), "outcomes": outcomes}}))
"#,
            statements = statements("writes")
        ),
    );
    judge(&daemon, &seen);
}

#[test]
fn no_input_leaks_through_psql() {
    let daemon = daemon(Guards::AllowAll);
    let all = statements_for("psql");
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let seen = psql(&daemon, &["--set=ON_ERROR_STOP=0"], &all);
    let mut received = seen.stdout.into_bytes();
    received.extend_from_slice(seen.stderr.as_bytes());
    assert!(received.len() > 2000, "{}", String::from_utf8_lossy(&received));
    assert_no_leak(&daemon, &received);
}

#[test]
fn no_input_leaks_through_psycopg() {
    let daemon = daemon(Guards::AllowAll);
    let script = r#"
import psycopg, tempfile
outcomes, received = [], []
for binary in (False, True):
    trace = tempfile.TemporaryFile()
    conn = psycopg.connect(host=HOST, port=PORT, user="agent", dbname=DATABASE, autocommit=True)
    conn.add_notice_handler(lambda diag: received.append(repr([getattr(diag, n) for n in dir(diag) if n[0] != "_"])))
    conn.add_notify_handler(lambda notify: received.append(repr(notify)))
    conn.pgconn.trace(trace.fileno())
    for sql in STATEMENTS:
        for again in range(2):
            try:
                cursor = conn.execute(sql, prepare=True, binary=binary)
                received.append(repr(cursor.description))
                received.append(repr(cursor.fetchall() if cursor.description else None))
                outcomes.append([sql, None])
            except psycopg.Error as error:
                received.append(repr(error) + repr(error.args) + repr([getattr(error.diag, n) for n in dir(error.diag) if n[0] != "_"]))
                outcomes.append([sql, error.sqlstate])
                if conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                    conn.execute("ROLLBACK")
            received.append(repr([conn.info.parameter_status(n) for n in ("application_name", "TimeZone")]))
    conn.pgconn.untrace()
    trace.seek(0)
    received.append(trace.read().decode("utf-8", "replace"))
    conn.close()
print(json.dumps({"received": "\n".join(received).encode().hex(), "outcomes": outcomes}))
"#;
    let seen = json(&daemon, &format!("STATEMENTS = {}\n{script}", statements("psycopg")));
    judge(&daemon, &seen);
}

#[test]
fn no_input_leaks_through_asyncpg() {
    let daemon = daemon(Guards::AllowAll);
    let script = r#"
import asyncio, asyncpg
outcomes, received = [], []

class Tee(asyncio.Protocol):
    """Keeps what the server sends before the driver sees it."""
    def __init__(self, inner): self.inner = inner
    def data_received(self, data):
        received.append(bytes(data))
        self.inner.data_received(data)
    def __getattr__(self, name): return getattr(self.inner, name)
    def connection_made(self, transport): self.inner.connection_made(transport)
    def connection_lost(self, error): self.inner.connection_lost(error)
    def eof_received(self): return self.inner.eof_received()
    def pause_writing(self): self.inner.pause_writing()
    def resume_writing(self): self.inner.resume_writing()

async def main():
    loop = asyncio.get_running_loop()
    connect = loop.create_connection
    async def teed(factory, *args, **kwargs):
        made = []
        def tee():
            made.append(factory())
            return Tee(made[0])
        transport, _ = await connect(tee, *args, **kwargs)
        return transport, made[0]
    loop.create_connection = teed
    async def connected():
        conn = await asyncpg.connect(host=HOST, port=PORT, user="agent", database=DATABASE, ssl=False)
        conn.add_log_listener(lambda _, message: received.append(repr(message.as_dict()).encode()))
        return conn
    conn = await connected()
    for sql in STATEMENTS:
        if outcomes and outcomes[-1][0].lstrip().upper().startswith(("DO", "CALL")):
            # After code that nobody saw, what prepared statements stand for is doubted, the driver's own as well.
            await conn.close()
            conn = await connected()
        try:
            statement = await conn.prepare(sql)
            for again in range(2):
                received.append(repr(await statement.fetch()).encode())
            outcomes.append([sql, None])
        except (asyncpg.InternalClientError, TypeError) as error:
            # It has no codec for anyarray, and says so without a proxy in between as well. Its own look at the types is a
            # prepared statement, whose name is in doubt since the DO block above.
            assert "pg_stats" in sql, error
        except asyncpg.PostgresError as error:
            received.append(repr(error.as_dict()).encode())
            outcomes.append([sql, error.sqlstate])
            if conn.is_in_transaction():
                await conn.execute("ROLLBACK")
    await conn.close()

asyncio.run(main())
assert sum(map(len, received)) > 10000
print(json.dumps({"received": b"\n".join(received).hex(), "outcomes": outcomes}))
"#;
    let seen = json(&daemon, &format!("STATEMENTS = {}\n{script}", statements("asyncpg")));
    judge(&daemon, &seen);
}

#[test]
fn no_input_leaks_through_psycopg2() {
    let daemon = daemon(Guards::AllowAll);
    let script = r#"
import psycopg2
outcomes, received = [], []
conn = psycopg2.connect(host=HOST, port=PORT, user="agent", dbname=DATABASE)
conn.autocommit = True
for sql in STATEMENTS:
    try:
        with conn.cursor() as cursor:
            cursor.execute(sql)
            received.append(repr(cursor.description))
            received.append(repr(cursor.fetchall() if cursor.description else None))
        outcomes.append([sql, None])
    except psycopg2.Error as error:
        diag = error.diag
        received.append(repr(error) + repr([getattr(diag, n) for n in dir(diag) if n[0] != "_"]))
        outcomes.append([sql, error.pgcode])
        if conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR:
            with conn.cursor() as cursor:
                cursor.execute("ROLLBACK")
received += [repr(conn.notices), repr(conn.notifies)]
with conn.cursor() as cursor:
    cursor.execute("ROLLBACK")
conn.autocommit = False
for select in [s for s in STATEMENTS if s.startswith("SELECT")]:
    try:
        with conn.cursor("named") as cursor:
            cursor.itersize = 1
            cursor.execute(select)
            received.append(repr(list(cursor)))
        outcomes.append([select, None])
    except psycopg2.Error as error:
        received.append(repr(error))
        outcomes.append([select, error.pgcode])
    conn.rollback()
print(json.dumps({"received": "\n".join(received).encode().hex(), "outcomes": outcomes}))
"#;
    let seen = json(&daemon, &format!("STATEMENTS = {}\n{script}", statements("psycopg2")));
    judge(&daemon, &seen);
}
