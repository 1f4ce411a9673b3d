# What libpq 18 can ask of a connection.
import ssl, sys, threading, time
import psycopg
from psycopg import pq

assert pq.version() >= 180000, pq.version()
ADDRESS = f"host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop"


def cancelled(c):
    """A statement that waits is cancelled on another connection, encrypted as this one is."""
    threading.Timer(0.3, lambda: c.cancel_safe(timeout=10)).start()
    began = time.monotonic()
    try:
        c.execute("SELECT pg_sleep(30)")
        raise SystemExit("it was not cancelled")
    except psycopg.errors.QueryCanceled:
        assert time.monotonic() - began < 15


for options in [
    "sslmode=disable",
    "sslmode=require",
    "sslmode=require sslnegotiation=direct",
    "sslmode=disable max_protocol_version=3.2 min_protocol_version=3.2",
    "sslmode=require sslnegotiation=direct max_protocol_version=latest min_protocol_version=3.2",
    "sslmode=require max_protocol_version=3.0",
    "sslmode=require require_auth=none",
    "gssencmode=prefer",
]:
    with psycopg.connect(f"{ADDRESS} {options}", autocommit=True) as c:
        assert c.execute("SELECT %s::int + 1", (1,)).fetchone() == (2,), options
        cancelled(c)
        assert c.execute("SELECT 'goes on'").fetchone() == ("goes on",), options

# Who insists that the server proves itself is told that it does not.
for options in ["channel_binding=require", "require_auth=scram-sha-256"]:
    try:
        psycopg.connect(f"{ADDRESS} sslmode=require {options}")
        raise SystemExit(f"{options} was let in")
    except psycopg.OperationalError as error:
        assert "channel binding" in str(error) or "authentication" in str(error), error
