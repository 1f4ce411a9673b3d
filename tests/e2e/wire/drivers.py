"""Drivers on the extended protocol: everything they see is printed."""
import asyncio, datetime, decimal, sys
import asyncpg, psycopg

host, port, user, password = sys.argv[1], int(sys.argv[2]), *(sys.argv[3:5] or ["agent", "x"])


def shown(error):
    d = getattr(error, "diag", None)
    named = ["severity", "sqlstate", "message_primary", "message_detail", "message_hint", "statement_position",
             "context", "schema_name", "table_name", "column_name", "constraint_name", "source_function"]
    if d is not None:
        return [getattr(d, name) for name in named]
    return {k: v for k, v in sorted(vars(error).items()) if k != "query"}


ASKED = [
    ("SELECT %s::int + %s::int", (1, 2)), ("SELECT %s::text, %s::bytea, %s::numeric", ("a", b"\0\1", decimal.Decimal("1.5"))),
    ("SELECT %s::timestamptz", (datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc),)), ("SELECT %s::int[]", ([1, 2, None],)),
    ("SELECT %s::int / 0", (1,)), ("SELECT nonsense", ()), ("SELEC", ()), ("", ()), ("SELECT NULL, ''", ()),
    ("SELECT generate_series(1, %s::int)", (5,)), ("SELECT FROM generate_series(1, 3)", ()),
    ("TRUNCATE wire_drivers", ()), ("INSERT INTO wire_drivers VALUES (%s, %s) RETURNING b", (1, "x")),
    ("INSERT INTO wire_drivers VALUES (%s, %s)", (1, "x")), ("UPDATE wire_drivers SET b = %s", ("y",)), ("DELETE FROM wire_drivers WHERE a = %s", (9,)),
    ("SELECT * FROM wire_drivers", ()), ("SELECT wire_drivers FROM wire_drivers", ()), ("SHOW client_encoding", ()), ("EXPLAIN (COSTS OFF) SELECT 1", ()),
    ("BEGIN", ()), ("SAVEPOINT s", ()), ("SELECT 1/0", ()), ("SELECT 1", ()), ("ROLLBACK TO s", ()), ("SELECT 2", ()), ("COMMIT", ()),
    ("PREPARE p AS SELECT 1", ()), ("EXECUTE p", ()), ("DEALLOCATE p", ()), ("EXECUTE p", ()), ("DO $$ BEGIN RAISE NOTICE 'n'; END $$", ()),
    ("SELECT 1; SELECT 2", ()), ("SELECT repeat('x', 300000)", ()), ("SET work_mem = '5MB'", ()), ("RESET ALL", ()), ("TABLE nowhere", ()),
]


def psycopg_says(binary, prepare):
    c = psycopg.connect(host=host, port=port, user=user, password=password, dbname="shop", autocommit=True)
    c.add_notice_handler(lambda d: print("notice", d.severity, d.message_primary))
    print("status", [c.info.parameter_status(n) for n in ("client_encoding", "server_version", "TimeZone", "session_authorization", "is_superuser", "integer_datetimes", "IntervalStyle")])
    for sql, values in ASKED:
        try:
            cur = c.cursor(binary=binary).execute(sql, values or None, prepare=prepare)
            while True:
                d = [(x.name, x.type_code, x.display_size) for x in cur.description or []]
                print(sql[:40], cur.statusmessage, d, cur.fetchall() if cur.description else None, c.info.transaction_status.name)
                if not cur.nextset():
                    break
        except psycopg.Error as error:
            print(sql[:40], type(error).__name__, shown(error), c.info.transaction_status.name)
    c.close()


async def asyncpg_says():
    c = await asyncpg.connect(host=host, port=port, user=user, password=password, database="shop", ssl="prefer")
    c.add_log_listener(lambda _, m: print("log", m.message))
    print(c.get_server_version(), sorted((n, str(getattr(c.get_settings(), n))) for n in ("client_encoding", "TimeZone", "DateStyle")))
    for sql, values in filter(lambda asked: asked[0], ASKED):  # an empty text makes asyncpg itself fail
        for n in range(len(values)):
            sql = sql.replace("%s", f"${n + 1}", 1)
        try:
            statement = await c.prepare(sql)
            print(sql[:40], statement.get_parameters(), statement.get_attributes(), await statement.fetch(*values), statement.get_statusmsg())
            print(await c.execute(sql, *values))
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            print(sql[:40], type(error).__name__, shown(error))
    await c.close()


for binary in (False, True):
    for prepare in (False, True):
        psycopg_says(binary, prepare)
asyncio.run(asyncpg_says())
