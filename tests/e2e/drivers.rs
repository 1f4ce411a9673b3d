//! What real drivers do with names, pipelines, cursors, COPY and refused transactions, against a real server.

use harness::agent;
use harness::process::NOBODY;

use crate::spine::{server, shop};

fn python(script: &str) -> String {
    let daemon = shop();
    let seen = agent::python(&daemon, server(), NOBODY, script).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, daemon.log());
    seen.stdout
}

#[test]
fn psycopg_pipelines_prepares_and_copies() {
    let out = python(
        r#"
import sys, psycopg
dsn = f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop"
with psycopg.connect(dsn, autocommit=True) as c:
    for n in range(12):  # prepared by the driver after the fifth
        assert c.execute("SELECT item FROM orders WHERE id = %s", (n + 1,)).fetchone() == (f"item {n + 1}",)
    assert c.execute("SELECT ssn || '' FROM customers WHERE id = 1").fetchone() != ("101-11-0007",)
    c.execute("PREPARE p AS SELECT 1")
    cur = c.execute("DEALLOCATE p; PREPARE p AS SELECT ssn || '' FROM customers WHERE id = 1; EXECUTE p")
    while cur.nextset(): pass
    assert cur.fetchone() == ("[redacted]",), "EXECUTE of its own message"
    assert c.execute("EXECUTE p").fetchone() == ("[redacted]",)

with psycopg.connect(dsn, autocommit=True) as c, c.pipeline() as p:
    rows = [c.execute("SELECT amount FROM orders WHERE id = %s", (n,)) for n in range(1, 300)]
    p.sync()
    assert all(row.fetchone() for row in rows)
    try:
        with c.pipeline():
            c.execute("SELECT nonsense")
            for n in range(200): c.execute("SELECT %s::int", (n,))
        raise SystemExit("no error")
    except psycopg.Error as error:
        assert "nonsense" in str(error), error

with psycopg.connect(dsn) as c:
    with c.cursor("named") as cur:
        cur.execute("SELECT id, ssn || '' FROM customers ORDER BY id")
        assert cur.fetchmany(3) == [(n, "[redacted]") for n in (1, 2, 3)]
        assert len(cur.fetchall()) == 197
    c.rollback()
    with c.cursor() as cur, cur.copy("COPY (SELECT id FROM orders WHERE id < 4 ORDER BY id) TO STDOUT") as copy:
        assert [row for row in copy.rows()] == [("1",), ("2",), ("3",)]
print("done")
"#,
    );
    assert_eq!(out.trim(), "done");
}

#[test]
fn a_client_that_ignores_a_refusal_commits_nothing_of_its_transaction() {
    let out = python(
        r#"
import sys, psycopg
dsn = f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop"
with psycopg.connect(dsn, autocommit=True) as c:
    c.execute("BEGIN")
    c.execute("INSERT INTO customers VALUES (9001, 'a', 'b', 'refused', 'd')")
    try:
        c.execute("DELETE FROM orders")
        raise SystemExit("not refused")
    except psycopg.errors.InsufficientPrivilege as error:
        assert "transaction" in str(error), error
    assert c.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    c.execute("COMMIT")
    assert c.execute("SELECT count(*) FROM customers WHERE id = 9001").fetchone() == (0,)
    assert c.execute("SELECT 1").fetchone() == (1,)
# The same as one pipeline, which is one transaction.
with psycopg.connect(dsn, autocommit=True) as c:
    try:
        with c.pipeline():
            c.execute("INSERT INTO customers VALUES (9002, 'a', 'b', 'refused', 'd')")
            c.execute("DELETE FROM orders")
        raise SystemExit("not refused")
    except psycopg.errors.InsufficientPrivilege as error:
        pass
    assert c.execute("SELECT count(*) FROM customers WHERE id = 9002").fetchone() == (0,)
print("done")
"#,
    );
    assert_eq!(out.trim(), "done");
}

#[test]
fn asyncpg_runs_many_in_one_go_and_reads_through_cursors() {
    let out = python(
        r#"
import sys, asyncio, asyncpg
async def main():
    c = await asyncpg.connect(host=sys.argv[1], port=int(sys.argv[2]), user="agent", database="shop", password="no")
    async with c.transaction():
        rows = [(100000 + n, "n", f"e{n}", f"card {n}", "s") for n in range(400)]
        await c.executemany("INSERT INTO customers VALUES ($1, $2, $3, $4, $5)", rows)
        assert await c.fetchval("SELECT count(*) FROM customers WHERE id >= 100000") == 400
        seen = 0
        async for row in c.cursor("SELECT id, ssn || '' AS s FROM customers WHERE id <= 200", prefetch=50):
            seen += 1
            assert row["s"] == "[redacted]"
        assert seen == 200
        await c.execute("DELETE FROM customers WHERE id = 100000")
        raise asyncio.CancelledError
    await c.close()
try:
    asyncio.run(main())
except asyncio.CancelledError:
    print("done")
"#,
    );
    assert_eq!(out.trim(), "done");
}

#[test]
fn psycopg2_copies_in() {
    let out = python(
        r#"
import sys, io, psycopg2
c = psycopg2.connect(host=sys.argv[1], port=sys.argv[2], user="agent", dbname="shop")
cur = c.cursor()
try:
    cur.copy_expert("COPY orders (id, customer_id, item, amount) FROM STDIN", io.StringIO("800001\t1\tx\t1\n"))
    print("copied")
except psycopg2.Error as error:
    print(error.pgcode)
c.rollback()
cur.execute("SELECT 1")
print(cur.fetchone())
"#,
    );
    // The planner cannot estimate a COPY, so the policy's bound on rows holds it, and in a transaction refuses it.
    assert_eq!(out.trim(), "42501\n(1,)");
}

#[test]
fn psycopg2_knows_its_server_process_and_may_say_unicode() {
    let out = python(
        r#"
import sys, psycopg2
c = psycopg2.connect(host=sys.argv[1], port=sys.argv[2], user="agent", dbname="shop")
c.autocommit = True
c.set_client_encoding("UNICODE")
cur = c.cursor()
cur.execute("SELECT 'é', pg_backend_pid()")
assert cur.fetchone() == ("é", c.get_backend_pid())
print("done")
"#,
    );
    assert_eq!(out.trim(), "done");
}
