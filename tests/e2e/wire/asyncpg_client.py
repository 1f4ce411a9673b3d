# What asyncpg does to the protocol, from start to end. HOST and PORT are given.
import asyncio, asyncpg, datetime, decimal, io
async def main():
    c = await asyncpg.connect(host=HOST, port=PORT, user="agent", database="shop", ssl=False)
    await c.execute("CREATE TABLE wire_asyncpg (a int, b text, c numeric, d timestamptz, e jsonb)")
    row = (1, "b", decimal.Decimal("1.50"), datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc), '{"a": 1}')
    await c.executemany("INSERT INTO wire_asyncpg VALUES ($1, $2, $3, $4, $5)", [row] * 500)
    assert tuple(await c.fetchrow("SELECT * FROM wire_asyncpg LIMIT 1")) == row
    statement = await c.prepare("SELECT count(*) FROM wire_asyncpg WHERE a = $1")
    for _ in range(3):
        assert await statement.fetchval(1) == 500
    async with c.transaction():
        seen = 0
        async for _ in c.cursor("SELECT a FROM wire_asyncpg", prefetch=33):
            seen += 1
        assert seen == 500
        cursor = await c.cursor("SELECT generate_series(1, 10)")
        assert len(await cursor.fetch(3)) == 3 and await cursor.forward(2) == 2 and len(await cursor.fetch(9)) == 5
    try:
        async with c.transaction():
            await c.execute("SELECT 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    assert await c.copy_records_to_table("wire_asyncpg", records=[row[:4] + (None,)] * 1000) == "COPY 1000"
    out = io.BytesIO()
    assert await c.copy_from_query("SELECT a FROM wire_asyncpg", output=out) == "COPY 1500"
    try:
        await c.copy_to_table("wire_asyncpg", source=io.BytesIO(b"x\n" * 100000))
        raise AssertionError("no error")
    except asyncpg.PostgresError:
        pass
    heard = asyncio.get_running_loop().create_future()
    await c.add_listener("wire_asyncpg", lambda *a: heard.done() or heard.set_result(a[-1]))
    await c.execute("NOTIFY wire_asyncpg, 'async'")
    assert await asyncio.wait_for(heard, 5) == "async"
    try:
        await c.execute("SELECT pg_sleep(20)", timeout=0.3)  # asyncpg sends a cancel request
        raise AssertionError("no timeout")
    except asyncio.TimeoutError:
        pass
    # A changed result type: asyncpg's cached plan is refused by the server, and made anew.
    assert len(await c.fetchrow("SELECT * FROM wire_asyncpg")) == 5
    await c.execute("ALTER TABLE wire_asyncpg DROP COLUMN e")
    assert len(await c.fetchrow("SELECT * FROM wire_asyncpg")) == 4
    pool = await asyncpg.create_pool(host=HOST, port=PORT, user="agent", database="shop", ssl=False, min_size=5, max_size=5)
    assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(200))) == list(range(200))
    await pool.close()
    await c.execute("DROP TABLE wire_asyncpg")
    await c.close()
asyncio.run(main())
