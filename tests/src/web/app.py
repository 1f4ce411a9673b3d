"""What the upstream server answers. The query says how: `encoding=`, `n=`, `bytes=`."""

import asyncio
import base64
import hashlib
import json
import random
import struct
import urllib.parse
import zlib

import brotli
import zstandard

from git_cgi import git
from planted import card, customers, email, spaced

JSON, FORM, TEXT, SSE = "application/json", "application/x-www-form-urlencoded", "text/plain", "text/event-stream"

# What a large download repeats: nothing that compresses or looks like text.
BLOCK = random.Random(7).randbytes(1 << 20)

# Who waits at /gate, by name.
GATES = {}


def encode(encoding, content):
    match encoding:
        case "gzip":
            packer = zlib.compressobj(wbits=31)
            return packer.compress(content) + packer.flush()
        case "deflate":
            return zlib.compress(content)
        case "br":
            return brotli.compress(content, quality=4)
        case "zstd":
            return zstandard.ZstdCompressor().compress(content)
    return content


def document(kind, count):
    """`count` customers' secrets in one of the formats."""
    match kind:
        case "json":
            return JSON, json.dumps({"customers": customers(count)}).encode()
        case "form":
            rows = [[(f"card{n}", spaced(n) if n % 2 else card(n)), (f"email{n}", email(n))] for n in range(1, count + 1)]
            return FORM, urllib.parse.urlencode([pair for row in rows for pair in row]).encode()
        case "text":
            lines = [f"{n}: {spaced(n) if n % 2 else card(n)}, mail {email(n)}." for n in range(1, count + 1)]
            return TEXT, "\n".join(lines).encode()
    raise ValueError(kind)


async def app(x):
    if x.method == "CONNECT" and x.version == "1.1":
        return await tunnel(x)
    # A client of a proxy names the whole URL.
    target = x.target.partition("://")[2].partition("/")[2] if x.target.startswith("http://") else x.target
    path, _, query = target.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    name = path.strip("/").split("/")[0]
    handler = ROUTES.get(name, echo)
    await handler(x, options)


async def tunnel(x):
    """As a proxy: bytes to and from where the client asks, unread."""
    host, port = x.target.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    await x.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    x.keep = False

    async def copy(source, sink):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.close()

    await asyncio.gather(copy(x.reader, writer), copy(reader, x.writer), return_exceptions=True)


async def echo(x, options):
    """Also the answer to every path that has no other."""
    body = (await x.body()).decode("latin-1")
    seen = {
        "method": x.method, "target": x.target, "version": x.version, "headers": x.headers, "body": body,
        "bytes": x.count, "sha256": x.digest.hexdigest(), "trailers": x.trailers,
    }
    await x.answer(200, JSON, json.dumps(seen).encode(), [("x-internal-host", "node-17.internal")])


async def upload(x, options):
    await x.body()
    await x.answer(200, JSON, json.dumps({"bytes": x.count, "sha256": x.digest.hexdigest()}).encode())


async def planted(x, options):
    """/planted?kind=json|form|text&n=COUNT&encoding=…&piece=BYTES (chunks of that size instead of a length)."""
    kind, content = document(options.get("kind", "json"), int(options.get("n", "3")))
    encoding = options.get("encoding")
    content = encode(encoding, content)
    extra = [("content-encoding", encoding)] if encoding else []
    if "piece" not in options:
        return await x.answer(200, kind, content, extra)
    size = int(options["piece"])
    await x.body()
    await x.start(200, [("content-type", kind), *extra])
    for at in range(0, len(content), size):
        await x.write(content[at : at + size])
    await x.end()


async def sse(x, options):
    """Events of customers; with `split`, the tokens of a language model, whose cuts go through every secret."""
    count = int(options.get("n", "3"))
    await x.body()
    await x.start(200, [("content-type", SSE), ("cache-control", "no-cache")])
    for n in range(1, count + 1):
        text = f"Card {card(n)} belongs to {email(n)}. "
        if "split" not in options:
            event = json.dumps({"id": n, "note": text})
            await x.write(f"id: {n}\ndata: {event}\n\n".encode())
            continue
        cut = 5 + n % 16
        for piece in (text[:cut], text[cut : cut + 20], text[cut + 20 :]):
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]})
            await x.write(f"data: {event}\n\n".encode())
    await x.write(b"data: [DONE]\n\n")
    await x.end()


async def gate(x, options):
    """An event, then nothing until somebody asks for /open with the same name, then another."""
    event = GATES.setdefault(options["name"], asyncio.Event())
    await x.body()
    await x.start(200, [("content-type", options.get("type", SSE))])
    await x.write(b"data: first\n\n")
    await event.wait()
    await x.write(b"data: second\n\n")
    await x.end()


async def open_gate(x, options):
    GATES.setdefault(options["name"], asyncio.Event()).set()
    await x.answer(200, TEXT, b"open")


async def stream(x, options):
    """/stream?mib=COUNT: what `sha256_of_stream` in client.py knows the digest of."""
    count = int(options["mib"])
    await x.body()
    await x.start(200, [("content-type", options.get("type", "application/octet-stream"))]
                  + ([] if "chunked" in options else [("content-length", str(count << 20))]))
    for _ in range(count):
        await x.write(BLOCK)
    await x.end()


async def prose(x, options):
    """/prose?mib=COUNT: text that is searched, with a card number at each end."""
    count = int(options["mib"])
    calm = b"calm words and nothing else in them.\n" * 28340
    await x.body()
    await x.start(200, [("content-type", TEXT)])
    await x.write(f"first {card(1)}\n".encode())
    for _ in range(count):
        await x.write(calm)
    await x.write(f"last {card(2)}\n".encode())
    await x.end()


async def status(x, options):
    code = int(x.target.partition("?")[0].rsplit("/", 1)[1])
    if code in (204, 304):
        await x.body()
        await x.start(code, [("etag", '"v1"')])
        return await x.end()
    await x.answer(code, TEXT, f"status {code}".encode())


async def trailers(x, options):
    await x.body()
    await x.start(200, [("content-type", TEXT), ("trailer", "x-checksum")])
    await x.write(b"with trailers")
    await x.end([("x-checksum", "abc123")])


async def aside(x, options):
    """Secrets beside the body: in the reason phrase (HTTP/1.1), a header field and a trailer."""
    await x.body()
    fields = [("content-type", options.get("type", TEXT)), ("x-note", f"of {email(1)}"), ("trailer", "x-note-too, grpc-message")]
    reason = {"reason": f"Card {spaced(1)}"} if x.version == "1.1" else {}
    await x.start(200, fields, **reason)
    await x.write(b"nothing here")
    await x.end([("x-note-too", f"of {email(2)}"), ("grpc-message", f"card {spaced(2)}")])


async def head(x, options):
    """A length that is the body's, in answer to HEAD as to GET."""
    await x.answer(200, TEXT, b"thirteen char", [("x-kind", "head")])


async def die(x, options):
    """/die?after=BYTES: ends the connection that many bytes into its answer (HTTP/1.1 only)."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000
    await x.body()
    await x.send(answer[: int(options["after"])])
    x.abort()


async def websocket(x, options):
    """Echoes messages; `secret` is answered with one, `secrets N` with N of them, a message each, `split` in frames."""
    key = x.header("sec-websocket-key")
    deflate = "permessage-deflate" in (x.header("sec-websocket-extensions") or "")
    headers = []
    if x.version == "1.1":
        digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        headers.append(("sec-websocket-accept", base64.b64encode(digest).decode()))
    if deflate:
        extension = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        headers.append(("sec-websocket-extensions", extension))
    if "sec-websocket-protocol" in dict(x.headers):
        headers.append(("sec-websocket-protocol", x.header("sec-websocket-protocol").split(",")[0].strip()))
    await x.open_websocket(headers)

    async def frame(opcode, payload, final=True):
        size = len(payload)
        length = bytes([size]) if size < 126 else struct.pack("!BH", 126, size) if size < 65536 else struct.pack("!BQ", 127, size)
        await x.send(bytes([opcode | (0x80 if final else 0)]) + length + payload)

    async def text(message):
        payload = message.encode()
        if deflate:
            packer = zlib.compressobj(wbits=-15)
            payload = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
        await frame(0x41 if deflate else 0x01, payload)

    while True:
        opcode, payload = await ws_message(x, frame)
        if opcode == 8:
            return await frame(8, payload[:2])
        message = payload.decode("utf-8", "replace")
        x.log.write(what="message", listener=x.listener, target=x.target, text=message)
        if opcode == 2:
            await frame(2, payload)
        elif message == "secret":
            await text(f"card {card(1)} of {email(1)}")
        elif message == "aside":
            await frame(2, f'{{"card": "{card(1)}"}}'.encode())
            await frame(9, f"of {email(1)}".encode())
            return await frame(8, struct.pack("!H", 1000) + f"card {spaced(1)}".encode())
        elif message == "split":
            whole = f"card {card(2)} of {email(2)}".encode()
            await frame(1, whole[:11], final=False)
            await frame(9, b"ping")
            await frame(0, whole[11:])
        elif message.startswith("secrets "):
            for n in range(1, int(message.split()[1]) + 1):
                await text(f"card {card(n)} of {email(n)}")
            await text("done")
        else:
            await text(message)


async def ws_message(x, frame):
    """The next message that is data or a close, whole, unmasked and inflated."""
    whole, opcode, packed = b"", None, False
    while True:
        first, second = await x.exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await x.exactly(2 if size == 126 else 8), "big")
        key = await x.exactly(4) if second & 0x80 else bytes(4)
        payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(await x.exactly(size)))
        kind = first & 0x0F
        if kind == 9:
            await frame(10, payload)
        elif kind == 8:
            return 8, payload
        elif kind != 10:
            opcode, packed = (opcode, packed) if kind == 0 else (kind, bool(first & 0x40))
            whole += payload
            if first & 0x80:
                return opcode, zlib.decompressobj(wbits=-15).decompress(whole + b"\0\0\xff\xff") if packed else whole


ROUTES = {
    "planted": planted, "sse": sse, "gate": gate, "open": open_gate, "stream": stream, "prose": prose,
    "status": status, "trailers": trailers, "aside": aside, "head": head, "die": die, "ws": websocket, "upload": upload, "git": git,
}
