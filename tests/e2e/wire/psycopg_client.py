# What psycopg 3 and 2 do to the protocol, from start to end. ADDRESS is given.
import psycopg, psycopg2, psycopg2.extras
c = psycopg.connect(ADDRESS, autocommit=True)
c.execute("CREATE TABLE wire_psycopg (a int PRIMARY KEY, b text)")
with c.cursor() as cur:
    cur.executemany("INSERT INTO wire_psycopg VALUES (%s, %s)", [(n, f"row {n}") for n in range(3000)])
with c.pipeline() as p:
    curs = [c.execute("SELECT b FROM wire_psycopg WHERE a = %s", (n,)) for n in range(500)]
    p.sync()
    assert [cur.fetchone()[0] for cur in curs] == [f"row {n}" for n in range(500)]
try:
    with c.pipeline():
        c.execute("INSERT INTO wire_psycopg VALUES (9001, 'a')")
        c.execute("INSERT INTO wire_psycopg VALUES (1, 'again')")
        c.execute("INSERT INTO wire_psycopg VALUES (9002, 'b')")
    raise AssertionError("no error")
except psycopg.errors.UniqueViolation:
    pass
assert c.execute("SELECT count(*) FROM wire_psycopg WHERE a > 9000").fetchone() == (0,)
for n in range(20):  # prepared by itself after five times
    assert c.execute("SELECT %s::int + 1", (n,)).fetchone() == (n + 1,)
with c.transaction():
    with c.cursor("named") as cur:
        cur.itersize = 100
        cur.execute("SELECT a FROM wire_psycopg ORDER BY a")
        assert [a for a, in cur] == list(range(3000))
    try:
        with c.transaction():
            c.execute("SELECT 1/0")
    except psycopg.errors.DivisionByZero:
        pass
    assert c.execute("SELECT 'goes on'").fetchone() == ("goes on",)
with c.cursor() as cur:
    with cur.copy("COPY wire_psycopg FROM STDIN") as copy:
        for n in range(10000, 20000):
            copy.write_row((n, "copied"))
    with cur.copy("COPY (SELECT a FROM wire_psycopg ORDER BY a) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4"])
        assert sum(1 for _ in copy.rows()) == 13000
    try:
        with cur.copy("COPY wire_psycopg FROM STDIN") as copy:
            copy.write_row((1, "duplicate"))
        raise AssertionError("no error")
    except psycopg.errors.UniqueViolation:
        pass
    try:
        with cur.copy("COPY wire_psycopg FROM STDIN") as copy:
            copy.write_row((30000, "given up"))
            raise RuntimeError("given up")
    except psycopg.errors.QueryCanceled:
        pass
    cur.execute("SELECT a, b FROM wire_psycopg ORDER BY a LIMIT 3", binary=True)
    assert cur.fetchall() == [(0, "row 0"), (1, "row 1"), (2, "row 2")]

d = psycopg2.connect(ADDRESS)
with d.cursor("server_side") as cur:
    cur.itersize = 7
    cur.execute("SELECT a FROM wire_psycopg ORDER BY a LIMIT 100")
    assert len(list(cur)) == 100
with d.cursor() as cur:
    psycopg2.extras.execute_values(cur, "INSERT INTO wire_psycopg VALUES %s", [(n, "v") for n in range(40000, 41000)])
    cur.execute("LISTEN wire_psycopg")
d.commit()
c.execute("NOTIFY wire_psycopg, 'x'")
with d.cursor() as cur:
    cur.execute("SELECT 1")
d.poll()
assert [n.payload for n in d.notifies] == ["x"]
c.execute("DROP TABLE wire_psycopg")
