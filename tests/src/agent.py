"""The demo's agent: it knows nothing of Portcullis. Its connection string names the database's own address."""

import os
import subprocess
import sys

import psycopg

host, port = sys.argv[1], sys.argv[2]
dsn = f"host={host} port={port} user=agent password=a-stale-token dbname=shop"


def say(text):
    print(f"\n# {text}", flush=True)


def psql(sql, dsn=dsn):
    print(f"$ psql -c {sql!r}", flush=True)
    subprocess.run(["psql", "--no-psqlrc", dsn, "--command", sql], stdin=subprocess.DEVNULL, check=False)


say(f"I am uid {os.getuid()} and hold no database password. psql, as ever:")
psql("SELECT id, name, email, card, ssn FROM customers ORDER BY id LIMIT 4")

say("psycopg: one row changed, then thousands.")
with psycopg.connect(dsn, autocommit=True) as connection:
    connection.add_notice_handler(lambda notice: print("NOTICE:", notice.message_primary, flush=True))
    cursor = connection.execute("UPDATE orders SET status = %s WHERE id = %s", ("shipped", 7))
    print(f"UPDATE of order 7: {cursor.rowcount} row", flush=True)
    cursor = connection.execute("UPDATE orders SET status = %s WHERE amount > %s", ("archived", 10))
    print(f"UPDATE of every larger order: {cursor.rowcount} rows", flush=True)

say("And now to clean up a little.")
psql("DROP DATABASE orders_archive")

say("Perhaps another server will have me?")
psql("SELECT 1", f"host=127.66.66.66 port={port} user=agent dbname=shop connect_timeout=5")
