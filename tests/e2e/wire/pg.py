"""A PostgreSQL client that sends what it is told to, for tests of the protocol itself."""
import socket, ssl, struct, sys, time

HOST, PORT = sys.argv[1], int(sys.argv[2])
V3_0, V3_2, SSL, GSS, CANCEL = 0x30000, 0x30002, 80877103, 80877104, 80877102


def untagged(code, body=b""):
    return struct.pack("!II", len(body) + 8, code) + body


def message(tag, body=b""):
    return tag.encode() + struct.pack("!I", len(body) + 4) + body


def text(*values):
    return b"".join(v.encode() + b"\0" for v in values)


def Q(sql): return message("Q", text(sql))
def P(name, sql): return message("P", text(name, sql) + b"\0\0")
def B(portal="", statement="", values=()):
    body = text(portal, statement) + struct.pack("!HH", 0, len(values))
    for v in values:
        body += struct.pack("!i", len(v)) + v.encode()
    return message("B", body + b"\0\0")
def D(kind, name=""): return message("D", kind.encode() + text(name))
def E(portal="", rows=0): return message("E", text(portal) + struct.pack("!I", rows))
def C(kind, name=""): return message("C", kind.encode() + text(name))
def F(oid, *arguments, binary=0):
    """A FunctionCall; arguments and result in one format."""
    body = struct.pack("!IHHH", oid, 1, binary, len(arguments))
    for a in arguments:
        body += struct.pack("!i", -1) if a is None else struct.pack("!i", len(a)) + (a if isinstance(a, bytes) else a.encode())
    return message("F", body + struct.pack("!H", binary))
def run(sql, values=()): return P("", sql) + B("", "", values) + E()
S, H, X = message("S"), message("H"), message("X")


def insecure():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Closed(Exception):
    pass


class Conn:
    def __init__(self, timeout=10):
        self.sock = socket.create_connection((HOST, PORT), timeout=timeout)
        self.key = self.pid = None
        self.status = {}

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))
        return self

    def exactly(self, n):
        data = b""
        while len(data) < n:
            try:
                piece = self.sock.recv(n - len(data))
            except ConnectionError:
                piece = b""
            if not piece:
                raise Closed(data)
            data += piece
        return data

    def next(self):
        tag = self.exactly(1).decode()
        body = self.exactly(struct.unpack("!I", self.exactly(4))[0] - 4)
        return tag, body

    def until(self, last):
        """Messages up to one of the type `last`."""
        seen = []
        while True:
            seen.append(self.next())
            if seen[-1][0] in last:
                return seen

    def startup(self, version=V3_0, database="shop", **parameters):
        pairs = {"user": "agent", "database": database, **parameters}
        body = b"".join(text(k, v) for k, v in pairs.items() if v is not None) + b"\0"
        return self.send(untagged(version, body))

    def ready(self):
        seen = self.until("ZE")
        if seen[-1][0] == "E":
            raise AssertionError(fields(seen[-1][1]))
        for tag, body in seen:
            if tag == "K":
                self.pid, self.key = struct.unpack("!I", body[:4])[0], body[4:]
            if tag == "S":
                name, value = body.split(b"\0")[:2]
                self.status[name.decode()] = value.decode()
        return seen

    def login(self, version=V3_0, **parameters):
        self.startup(version, **parameters)
        self.ready()
        return self

    def tls(self, **options):
        self.send(untagged(SSL))
        assert self.exactly(1) == b"S"
        self.sock = insecure().wrap_socket(self.sock)
        return self

    def ask(self, *parts):
        """Sends, and tells what came up to ReadyForQuery, in short."""
        return short(self.send(*parts).until("Z"))

    def closed(self):
        """Tells what is left until the server closes, in short."""
        seen = []
        try:
            while True:
                seen.append(self.next())
        except (Closed, ConnectionError):
            return short(seen)


def fields(body):
    return {chr(f[0]): f[1:].decode() for f in body.split(b"\0") if f}


def short(seen):
    """Types in order; errors with their code, rows with their values, tags and states spelt out."""
    words = []
    for tag, body in seen:
        if tag == "E":
            words.append("E(%s)" % fields(body)["C"])
        elif tag == "Z":
            words.append("Z" + body.decode())
        elif tag == "C":
            words.append("C(%s)" % body[:-1].decode())
        elif tag == "D":
            words.append("D(%s)" % ",".join(values(body)))
        else:
            words.append(tag)
    return " ".join(words)


def values(body):
    at, found = 2, []
    for _ in range(struct.unpack("!H", body[:2])[0]):
        length = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        if length < 0:
            found.append("NULL")
        else:
            found.append(body[at:at + length].decode())
            at += length
    return found


def same(seen, wanted):
    assert seen == wanted, f"\n  saw    {seen}\n  wanted {wanted}"
