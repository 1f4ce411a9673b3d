"""The upstream server of the tests: one process, one address, a port for each way it can be. See `Port` in mod.rs."""

import asyncio
import os
import signal
import ssl
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import hostile
import wire
from app import app
from grpc_server import start_grpc

FOLDER, ADDRESS = sys.argv[1:3]
PORTS = dict(zip(["https", "plain", "hostile", "grpc", "wrong_name", "expired", "unknown_root", "h1"], map(int, sys.argv[3:])))


def certificate(name, protocols=("h2", "http/1.1")):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{FOLDER}/{name}.crt", f"{FOLDER}/{name}.key")
    context.set_alpn_protocols(list(protocols))
    return context


async def main():
    log = wire.Log(f"{FOLDER}/requests.log")
    good, h1 = certificate("server"), certificate("server", ["http/1.1"])
    for name, tls in [
        ("https", good), ("h1", h1), ("plain", None), ("wrong_name", certificate("wrong_name")),
        ("expired", certificate("expired")), ("unknown_root", certificate("unknown_root")),
    ]:
        await wire.listen(ADDRESS, PORTS[name], tls, log, name, app)
    await asyncio.start_server(hostile.serve(log, "hostile"), ADDRESS, PORTS["hostile"], ssl=h1)
    server = start_grpc(FOLDER, ADDRESS, PORTS["grpc"], log)
    with open(f"{FOLDER}/ready", "w") as ready:
        ready.write("ready")
    await asyncio.Event().wait()
    server.stop(None)


# How `Guarded` ends a server.
signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
asyncio.run(main())
