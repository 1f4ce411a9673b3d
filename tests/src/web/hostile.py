"""A server that answers what no server may. The path names the offence; the connection ends after it."""

# Bodies say SMUGGLED where a proxy that reads the framing otherwise than its client would pass a second answer on.
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
SECOND = OK + b"content-length: 8\r\n\r\nSMUGGLED"

ANSWERS = {
    "two-lengths": OK + b"content-length: 5\r\ncontent-length: 50\r\n\r\nhello" + SECOND,
    "bad-length": OK + b"content-length: 5x\r\n\r\nhello",
    "negative-length": OK + b"content-length: -5\r\n\r\nhello",
    "length-and-chunked": OK + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + SECOND,
    "bad-chunk": OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nworld\r\n0\r\n\r\n",
    "huge-chunk": OK + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n",
    "cut-chunk": OK + b"transfer-encoding: chunked\r\n\r\n50\r\nhello",
    "no-last-chunk": OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "short-body": OK + b"content-length: 1000\r\n\r\nhello",
    "header-flood": OK + b"".join(b"x-%d: flood\r\n" % n for n in range(100_000)) + b"content-length: 0\r\n\r\n",
    "giant-header": OK + b"x-giant: " + b"g" * 4_000_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "endless-head": OK + b"x-endless: " + b"e" * 8_000_000,
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bad-status": b"HTTP/1.1 abc Whatever\r\n\r\n",
    "nothing": b"",
    "half-head": b"HTTP/1.1 200 OK\r\ncontent-ty",
    "bad-gzip": OK.replace(b"text/plain", b"application/json") + b"content-encoding: gzip\r\ncontent-length: 12\r\n\r\nnot gzip at!",
    "surplus": OK + b"content-length: 5\r\n\r\nhello" + SECOND,
}


def serve(log, listener):
    async def one(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ")[1].decode("latin-1")
            log.write(what="request", listener=listener, method=head.split(b" ")[0].decode(), target=target, headers=[])
            writer.write(ANSWERS[target.strip("/").split("?")[0]])
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            # Without TLS's own goodbye: the connection is cut.
            if writer.transport.get_write_buffer_size() == 0:
                writer.transport.abort()
            else:
                writer.close()

    return one
