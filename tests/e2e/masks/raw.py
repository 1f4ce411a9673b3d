# A PostgreSQL client of sockets alone: it keeps every byte that the server's side sent.
import json, os, socket, struct, sys

HOST, PORT = sys.argv[1], int(sys.argv[2])
DATABASE = "masks"
# Drivers look for certificates in it.
os.environ["HOME"] = "/"


class Raw:
    def __init__(self, database=DATABASE):
        self.received = bytearray()
        self.socket = socket.create_connection((HOST, PORT), timeout=60)
        self.buffer = b""
        parameters = b"user\0agent\0database\0" + database.encode() + b"\0\0"
        self.socket.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
        self.until_ready()

    def message(self):
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack("!i", self.buffer[1:5])[0]:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError("the server closed the connection")
            self.received += piece
            self.buffer += piece
        length = 1 + struct.unpack("!i", self.buffer[1:5])[0]
        message, self.buffer = self.buffer[:length], self.buffer[length:]
        return message[:1], message[5:]

    def until_ready(self):
        """Everything up to ReadyForQuery."""
        messages = []
        while True:
            tag, body = self.message()
            messages.append((tag, body))
            if tag == b"Z":
                return messages

    @staticmethod
    def packed(tag, body):
        return tag + struct.pack("!i", len(body) + 4) + body

    @staticmethod
    def text(text):
        return text.encode() + b"\0"

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))

    def parse(self, sql, name=""):
        return self.packed(b"P", self.text(name) + self.text(sql) + struct.pack("!h", 0))

    def bind(self, binary=False, name="", portal=""):
        return self.packed(b"B", self.text(portal) + self.text(name) + struct.pack("!hhhh", 0, 0, 1, int(binary)))

    def describe(self, kind, name=""):
        return self.packed(b"D", kind + self.text(name))

    def execute(self, portal="", rows=0):
        return self.packed(b"E", self.text(portal) + struct.pack("!i", rows))

    SYNC = b"S\0\0\0\4"

    def query(self, sql):
        self.send(self.packed(b"Q", self.text(sql)))
        return self.until_ready()

    def extended(self, sql, binary=False, describe=True):
        self.send(self.parse(sql), self.bind(binary), self.describe(b"P") if describe else b"", self.execute(), self.SYNC)
        return self.until_ready()


def sqlstate(messages):
    """The SQLSTATE of the first error among messages."""
    for tag, body in messages:
        if tag == b"E":
            return next(field[1:].decode() for field in body.split(b"\0") if field[:1] == b"C")
    return None


def status(messages):
    return messages[-1][1].decode()


def rows(messages):
    """The cells of every DataRow."""
    found = []
    for tag, body in messages:
        if tag == b"D":
            count, at, cells = struct.unpack("!h", body[:2])[0], 2, []
            for _ in range(count):
                length = struct.unpack("!i", body[at:at + 4])[0]
                at += 4
                cells.append(None if length < 0 else body[at:at + length])
                at += max(length, 0)
            found.append(cells)
    return found
