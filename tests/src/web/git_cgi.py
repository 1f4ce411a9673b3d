"""`git http-backend` (git-http-backend(1)) behind the server: its CGI (RFC 3875), buffered."""

import asyncio
import os
import zlib


async def git(x, options):
    body = await x.body() if x.method == "POST" else b""
    if x.header("content-encoding") == "gzip":
        body = zlib.decompress(body, wbits=31)
    path, _, query = x.target.partition("?")
    environment = {
        "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_PROJECT_ROOT": os.environ["PORTCULLIS_TEST_GIT"],
        "GIT_HTTP_EXPORT_ALL": "1", "GIT_CONFIG_NOSYSTEM": "1", "REQUEST_METHOD": x.method, "QUERY_STRING": query,
        "PATH_INFO": path.removeprefix("/git"), "CONTENT_TYPE": x.header("content-type") or "",
        "CONTENT_LENGTH": str(len(body)), "REMOTE_USER": "agent", "GIT_PROTOCOL": x.header("git-protocol") or "",
    }
    process = await asyncio.create_subprocess_exec(
        "git", "http-backend", env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(body)
    head, _, content = output.partition(b"\r\n\r\n")
    headers, status = [], 200
    for line in head.decode().split("\r\n"):
        name, value = line.split(": ", 1)
        if name.lower() == "status":
            status = int(value.split()[0])
        else:
            headers.append((name, value))
    await x.body()
    await x.start(status, [*headers, ("content-length", str(len(content)))])
    await x.write(content)
    await x.end()
