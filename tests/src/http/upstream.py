"""The real server behind the tests: HTTP/1.1 over TLS and without, WebSocket, events, git, and answers that are broken.

Arguments: address, folder with certificates, file to log requests to. Prints "ready" when every port is open.
"""

import asyncio
import gzip
import hashlib
import json
import os
import ssl
import sys
import zlib

from aiohttp import WSMsgType, web

ADDRESS, FOLDER, LOG = sys.argv[1:4]
CARD = "4111 1111 1111 1111"
CUSTOMERS = {
    "customers": [
        {"id": 1, "name": "Ada", "email": "ada@example.com", "card": CARD, "ssn": "078-05-1120"},
        {"id": 2, "name": "Grace", "email": "grace@example.com", "card": "5500005555555559", "ssn": "219-09-9999"},
    ]
}
log = open(LOG, "a", buffering=1)


async def record(request, body=b""):
    entry = {
        "method": request.method,
        "target": request.path_qs,
        "host": request.host,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": body.decode("utf-8", "replace")[:100000],
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    log.write(json.dumps(entry) + "\n")
    return entry


async def echo(request):
    return web.json_response(await record(request, await request.read()))


async def customers(request):
    await record(request)
    return web.json_response(CUSTOMERS)


async def coded(request):
    await record(request)
    plain = json.dumps(CUSTOMERS).encode()
    coding = request.match_info["coding"]
    if coding == "gzip":
        body = gzip.compress(plain)
    elif coding == "deflate":
        body = zlib.compress(plain)
    elif coding == "br":
        import brotli

        body = brotli.compress(plain)
    elif coding == "zstd":
        import zstandard

        body = zstandard.compress(plain)
    else:
        body = plain
    headers = {"content-encoding": coding, "content-type": "application/json", "etag": '"x"'}
    return web.Response(body=body, headers=headers)


async def text(request):
    await record(request)
    return web.Response(text=f"Dear Ada,\nyour card {CARD} was charged.\n")


async def back(request):
    """Sends back what it is sent, with the type it is asked for, in small pieces."""
    body = await request.read()
    await record(request, body)
    response = web.StreamResponse(headers={"content-type": request.query.get("type", "text/plain")})
    await response.prepare(request)
    size = int(request.query.get("piece", "7"))
    for at in range(0, len(body), size):
        await response.write(body[at : at + size])
        if at // size % 50 == 0:
            await asyncio.sleep(0)
    await response.write_eof()
    return response


async def events(request):
    await record(request)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    said = ["Hello ", "Ada, the ", "key is gl", "pat-abcde", "fghij0123", "456789 so ", "keep it."]
    for piece in said:
        delta = {"choices": [{"delta": {"content": piece}}]}
        await response.write(f"data: {json.dumps(delta)}\n\n".encode())
        await asyncio.sleep(0.02)
    await response.write(b"data: [DONE]\n\n")
    return response


async def ticks(request):
    """One event now, another when a second request says so."""
    await record(request)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: first tick\n\n")
    await gate.wait()
    gate.clear()
    await response.write(b"data: second tick\n\n")
    return response


async def go_on(request):
    gate.set()
    return web.Response(text="going on\n")


async def socket(request):
    await record(request)
    channel = web.WebSocketResponse(compress=True)
    await channel.prepare(request)
    await channel.send_str(f"welcome, your card is {CARD}")
    async for message in channel:
        if message.type == WSMsgType.TEXT:
            await channel.send_str("you said: " + message.data)
        elif message.type == WSMsgType.BINARY:
            await channel.send_bytes(message.data)
    return channel


async def status(request):
    await record(request, await request.read())
    return web.Response(status=int(request.match_info["code"]))


async def stream(request):
    await record(request)
    total = int(request.query["bytes"])
    block = (b"The quick brown fox jumps over the lazy dog, again and again. " * 1100)[:65536]
    response = web.StreamResponse(headers={"content-type": "text/plain", "content-length": str(total)})
    await response.prepare(request)
    while total > 0:
        piece = block[:total]
        await response.write(piece)
        total -= len(piece)
    return response


async def slow(request):
    await record(request)
    await asyncio.sleep(float(request.query.get("seconds", "30")))
    return web.Response(text="late\n")


async def git(request):
    """Git's own http-backend as a CGI program."""
    body = await request.read()
    await record(request, b"")
    environment = {
        "GIT_PROJECT_ROOT": os.path.join(FOLDER, "git"),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": "agent",
        "PATH_INFO": "/" + request.match_info["path"],
        "QUERY_STRING": request.query_string,
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
        "HTTP_GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        "PATH": os.environ["PATH"],
    }
    process = await asyncio.create_subprocess_exec(
        "git", "http-backend", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
    )
    out, _ = await process.communicate(body)
    head, _, rest = out.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    code = int(headers.pop("Status", "200").split()[0])
    return web.Response(status=code, headers=headers, body=rest)


BROKEN = {
    "lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "both": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "head": b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 2_000_000,
    "fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(5000)) + b"\r\n",
    "nothing": b"",
    "garbage": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n",
}


async def broken(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ")[1].decode().strip("/").split("?")[0]
        writer.write(BROKEN.get(name, b""))
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def rpc():
    """gRPC without generated code: methods take and give bytes. Left out where the library is not installed."""
    try:
        import grpc
    except ImportError:
        return
    from concurrent import futures

    class Orders(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method == "/shop.Orders/Get":
                return grpc.unary_unary_rpc_method_handler(lambda request, _: b"order " + request)
            if details.method == "/shop.Orders/Watch":
                return grpc.unary_stream_rpc_method_handler(lambda request, _: (b"event %d" % n for n in range(3)))
            if details.method == "/shop.Orders/Cancel":
                log.write(json.dumps({"method": "POST", "target": details.method, "headers": {}, "body": ""}) + "\n")
                return grpc.unary_unary_rpc_method_handler(lambda request, _: b"cancelled")
            return None

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Orders(),))
    with open(f"{FOLDER}/server.key", "rb") as key, open(f"{FOLDER}/server.pem", "rb") as chain:
        credentials = grpc.ssl_server_credentials([(key.read(), chain.read())])
    server.add_secure_port(f"{ADDRESS}:8447", credentials)
    server.start()
    return server


def context(name):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(f"{FOLDER}/{name}.pem", f"{FOLDER}/{name}.key")
    made.set_alpn_protocols(["http/1.1"])
    return made


async def main():
    global gate
    gate = asyncio.Event()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/echo", echo)
    app.router.add_route("*", "/echo/{rest:.*}", echo)
    app.router.add_get("/customers", customers)
    app.router.add_get("/coded/{coding}", coded)
    app.router.add_get("/text", text)
    app.router.add_post("/back", back)
    app.router.add_get("/events", events)
    app.router.add_get("/ticks", ticks)
    app.router.add_get("/go-on", go_on)
    app.router.add_get("/socket", socket)
    app.router.add_route("*", "/status/{code}", status)
    app.router.add_get("/stream", stream)
    app.router.add_get("/slow", slow)
    app.router.add_route("*", "/git/{path:.*}", git)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ports = {8080: None, 8443: "server", 8451: "other-name", 8452: "expired", 8453: "unknown-root"}
    for port, name in ports.items():
        await web.TCPSite(runner, ADDRESS, port, ssl_context=context(name) if name else None).start()
    await asyncio.start_server(broken, ADDRESS, 8460)
    calls = rpc()
    print("ready", flush=True)
    await asyncio.Event().wait()
    del calls


asyncio.run(main())
