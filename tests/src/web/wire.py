"""HTTP/1.1 (RFC 9112) and HTTP/2 (RFC 9113, on the library h2) for servers whose every byte a test decides."""

import asyncio
import hashlib
import json
import os
import traceback

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

HEAD_MAX = 256 * 1024
KEPT_MAX = 64 << 20


class Log:
    """One JSON object a line; written before the answer, so that whoever has the answer finds it."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, **fields):
        os.write(self.fd, json.dumps(fields).encode() + b"\n")


class Exchange:
    """A request and the answer to it. Names of headers are in lower case."""

    def __init__(self, log, listener, version, method, target, headers, protocol=None):
        self.log, self.listener, self.version = log, listener, version
        self.method, self.target, self.headers, self.protocol = method, target, headers, protocol
        self.trailers = []
        self.digest, self.count, self.kept, self.ended = hashlib.sha256(), 0, bytearray(), False
        log.write(what="request", listener=listener, version=version, method=method, target=target, headers=headers)

    def header(self, name):
        return next((value for key, value in self.headers if key == name), None)

    async def read(self):
        """More of the body; empty at its end."""
        data = b"" if self.ended else await self.receive()
        self.digest.update(data)
        self.count += len(data)
        if self.count <= KEPT_MAX:
            self.kept += data
        if not data and not self.ended:
            self.ended = True
            self.log.write(
                what="body", listener=self.listener, method=self.method, target=self.target, bytes=self.count,
                sha256=self.digest.hexdigest(), text=self.kept[: 1 << 20].decode("latin-1"), trailers=self.trailers,
            )
        return data

    async def body(self):
        while await self.read():
            pass
        return bytes(self.kept)

    async def answer(self, status, content_type, content, headers=()):
        await self.body()
        await self.start(status, [("content-type", content_type), ("content-length", str(len(content))), *headers])
        await self.write(content)
        await self.end()


class Exchange1(Exchange):
    def __init__(self, reader, writer, *arguments):
        super().__init__(*arguments)
        self.reader, self.writer = reader, writer
        coding = self.header("transfer-encoding")
        self.chunked_in = coding is not None and coding.lower().endswith("chunked")
        self.left = int(self.header("content-length") or 0)
        self.in_chunk = 0
        self.waits = (self.header("expect") or "").lower() == "100-continue"
        self.chunked_out, self.keep, self.started = False, True, False

    async def receive(self):
        if self.waits and (self.chunked_in or self.left):
            self.waits = False
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.chunked_in:
            data = await self.reader.read(min(self.left, 1 << 18)) if self.left else b""
            if self.left and not data:
                raise ConnectionError("the body is cut short")
            self.left -= len(data)
            return data
        if self.in_chunk == 0:
            self.in_chunk = int((await self.line()).split(b";")[0], 16)
            if self.in_chunk == 0:
                while line := await self.line():
                    name, value = line.decode("latin-1").split(":", 1)
                    self.trailers.append([name.lower(), value.strip()])
                return b""
        data = await self.reader.read(min(self.in_chunk, 1 << 18))
        if not data:
            raise ConnectionError("the body is cut short")
        self.in_chunk -= len(data)
        if self.in_chunk == 0:
            await self.line()
        return data

    async def line(self):
        return (await self.reader.readuntil(b"\r\n"))[:-2]

    async def start(self, status, headers, reason="Whatever"):
        names = {name.lower() for name, _ in headers}
        bodiless = status < 200 or status in (204, 304)
        if not bodiless and "content-length" not in names:
            self.chunked_out = True
            headers = [*headers, ("transfer-encoding", "chunked")]
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1"))
        self.started = True
        await self.writer.drain()

    async def write(self, data):
        if data and self.method != "HEAD":
            if self.chunked_out:
                self.writer.writelines([b"%x\r\n" % len(data), data, b"\r\n"])
            else:
                self.writer.write(data)
            await self.writer.drain()

    async def end(self, trailers=()):
        if self.chunked_out and self.method != "HEAD":
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self.writer.write(b"0\r\n" + lines.encode("latin-1") + b"\r\n")
        await self.writer.drain()

    async def open_websocket(self, headers):
        await self.start(101, [("connection", "Upgrade"), ("upgrade", "websocket"), *headers])
        self.keep = False

    async def exactly(self, count):
        return await self.reader.readexactly(count)

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def abort(self):
        self.keep = False
        self.writer.transport.abort()


async def serve1(reader, writer, log, listener, handle):
    # A TLS handshake where none is spoken is answered in HTTP, as other servers do.
    begun = await reader.read(1)
    if begun == b"\x16":
        writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        return
    while True:
        try:
            head = begun + await reader.readuntil(b"\r\n\r\n")
            begun = b""
        except asyncio.IncompleteReadError:
            return
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = [[name.lower(), value.strip()] for name, value in pairs]
        exchange = Exchange1(reader, writer, log, listener, "1.1", method, target, headers)
        await handle(exchange)
        if not exchange.keep:
            return
        await exchange.body()
        if version == "HTTP/1.0" or (exchange.header("connection") or "").lower() == "close":
            return


class Exchange2(Exchange):
    def __init__(self, connection, stream, *arguments, protocol):
        super().__init__(*arguments, protocol=protocol)
        self.connection, self.stream = connection, stream
        self.queue, self.buffer, self.keep = asyncio.Queue(), b"", True

    async def receive(self):
        item = await self.queue.get()
        if isinstance(item, Exception):
            raise item
        data, credit = item
        if credit:
            self.connection.credit(self.stream, credit)
        # An empty DATA frame is not the end.
        return data if data or credit is None else await self.receive()

    async def start(self, status, headers, reason=None):
        fields = [(":status", str(status)), *((name.lower(), value) for name, value in headers)]
        self.over = self.method == "HEAD" or status in (204, 304)
        self.connection.h2.send_headers(self.stream, fields, end_stream=self.over)
        await self.connection.flush()

    async def write(self, data):
        if not self.over:
            await self.connection.send_data(self.stream, data)

    async def end(self, trailers=()):
        if self.over:
            return
        if trailers:
            self.connection.h2.send_headers(self.stream, list(trailers), end_stream=True)
        else:
            self.connection.h2.end_stream(self.stream)
        await self.connection.flush()

    async def open_websocket(self, headers):
        await self.start(200, headers)

    async def exactly(self, count):
        while len(self.buffer) < count:
            data = await self.receive()
            if not data:
                raise asyncio.IncompleteReadError(self.buffer, count)
            self.buffer += data
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    async def send(self, data):
        await self.connection.send_data(self.stream, data)

    def abort(self):
        self.connection.writer.transport.abort()


class Connection2:
    def __init__(self, reader, writer, log, listener, handle):
        self.reader, self.writer, self.log, self.listener, self.handle = reader, writer, log, listener, handle
        config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1")
        self.h2 = h2.connection.H2Connection(config)
        settings = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values={
            settings.ENABLE_CONNECT_PROTOCOL: 1, settings.INITIAL_WINDOW_SIZE: 1 << 20,
            settings.MAX_CONCURRENT_STREAMS: 200, settings.MAX_HEADER_LIST_SIZE: HEAD_MAX,
        })
        self.exchanges, self.tasks, self.room = {}, set(), asyncio.Event()

    async def flush(self):
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    def credit(self, stream, count):
        try:
            self.h2.acknowledge_received_data(count, stream)
        except h2.exceptions.ProtocolError:
            return  # The stream is gone.
        self.writer.write(self.h2.data_to_send())

    async def send_data(self, stream, data):
        view = memoryview(data)
        while view:
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(view))
            if size <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            self.h2.send_data(stream, bytes(view[:size]))
            view = view[size:]
            await self.flush()

    async def serve(self):
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 24)
        await self.flush()
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.h2.receive_data(data):
                    self.on(event)
                await self.flush()
        finally:
            for task in self.tasks:
                task.cancel()

    def on(self, event):
        events = h2.events
        if isinstance(event, events.RequestReceived):
            self.request(event)
        elif isinstance(event, (events.WindowUpdated, events.RemoteSettingsChanged)):
            self.room.set()
        elif exchange := self.exchanges.get(getattr(event, "stream_id", None)):
            if isinstance(event, events.DataReceived):
                exchange.queue.put_nowait((event.data, event.flow_controlled_length))
            elif isinstance(event, events.TrailersReceived):
                exchange.trailers.extend([name, value] for name, value in event.headers)
            elif isinstance(event, events.StreamEnded):
                exchange.queue.put_nowait((b"", None))
            elif isinstance(event, events.StreamReset):
                self.log.write(what="reset", listener=self.listener, target=exchange.target)
                exchange.task.cancel()

    def request(self, event):
        pseudo = {name: value for name, value in event.headers if name.startswith(":")}
        headers = [[name, value] for name, value in event.headers if not name.startswith(":")]
        if ":authority" in pseudo:
            headers.insert(0, ["host", pseudo[":authority"]])
        exchange = Exchange2(
            self, event.stream_id, self.log, self.listener, "2", pseudo[":method"], pseudo.get(":path", ""), headers,
            protocol=pseudo.get(":protocol"),
        )
        self.exchanges[event.stream_id] = exchange
        exchange.task = asyncio.create_task(self.run(exchange))
        self.tasks.add(exchange.task)
        exchange.task.add_done_callback(self.tasks.discard)

    async def run(self, exchange):
        try:
            await self.handle(exchange)
        except (h2.exceptions.ProtocolError, ConnectionError, asyncio.IncompleteReadError):
            pass  # The client has gone, which it may.
        except Exception:
            traceback.print_exc()
            self.h2.reset_stream(exchange.stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            await self.flush()
        finally:
            self.exchanges.pop(exchange.stream, None)


async def listen(address, port, tls, log, listener, handle):
    """Serves what ALPN agreed on. A connection's end is the client's affair; only our own mistakes are printed."""

    async def serve(reader, writer):
        log.write(what="connection", listener=listener)
        try:
            session = writer.get_extra_info("ssl_object")
            if session is not None and session.selected_alpn_protocol() == "h2":
                await Connection2(reader, writer, log, listener, handle).serve()
            else:
                await serve1(reader, writer, log, listener, handle)
        except (OSError, asyncio.IncompleteReadError, h2.exceptions.ProtocolError):
            log.write(what="broken", listener=listener)
        except Exception:
            traceback.print_exc()
        finally:
            writer.close()

    return await asyncio.start_server(serve, address, port, ssl=tls, limit=HEAD_MAX, backlog=1024)
