import asyncio
import base64
import hashlib
import json
import os
import random
import socket
import ssl
import sys

HOST = sys.argv[1]
CA = os.environ["PORTCULLIS_CA_FILE"]
NAME = "api.shop.test"
HTTPS, PLAIN, HOSTILE, GRPC, H1 = 8443, 8080, 8444, 50051, 8445
BASE = f"https://{NAME}:{HTTPS}"

# The resolver is not what is tested here: every name is the server's.
_getaddrinfo = socket.getaddrinfo
def _resolve(host, *arguments, **options):
    if isinstance(host, bytes):
        host = host.decode()
    return _getaddrinfo(HOST if host and not host[0].isdigit() else host, *arguments, **options)
socket.getaddrinfo = _resolve


def context(*protocols):
    made = ssl.create_default_context(cafile=CA)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def connect(port=HTTPS, name=NAME, alpn="http/1.1", tls=True):
    """A raw connection, for what no library would send."""
    plain = socket.create_connection((HOST, port), timeout=30)
    return context(alpn).wrap_socket(plain, server_hostname=name) if tls else plain


def until_closed(made):
    """What comes until the other side ends, however it does."""
    data = b""
    try:
        while piece := made.recv(1 << 16):
            data += piece
    except (ssl.SSLError, ConnectionError):
        pass
    return data


def send(made, data):
    """As much of it as the other side takes."""
    try:
        made.sendall(data)
    except (ssl.SSLError, ConnectionError):
        pass


def answer(stream, method="GET"):
    """One HTTP/1.1 answer of a file object: status, headers (names in lower case), body, trailers."""
    status = int(stream.readline().split()[1])
    headers = {}
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, value = line.decode("latin-1").split(":", 1)
        headers[name.lower()] = value.strip()
    body, trailers = b"", {}
    if method == "HEAD" or status in (204, 304) or status < 200:
        pass
    elif "chunked" in headers.get("transfer-encoding", ""):
        while size := int(stream.readline().split(b";")[0], 16):
            body += stream.read(size)
            assert stream.readline() == b"\r\n"
        while (line := stream.readline()) != b"\r\n":
            name, value = line.decode("latin-1").split(":", 1)
            trailers[name.lower()] = value.strip()
    elif "content-length" in headers:
        body = stream.read(int(headers["content-length"]))
    else:
        body = stream.read()
    return status, headers, body, trailers


def sha256_of_stream(mib):
    block, digest = random.Random(7).randbytes(1 << 20), hashlib.sha256()
    for _ in range(mib):
        digest.update(block)
    return digest.hexdigest()


def say(value):
    print(json.dumps(value), flush=True)
