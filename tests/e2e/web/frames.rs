//! Clients that break HTTP/2 (RFC 9113), frame by frame: floods are ended, malformed requests reach nobody, others are
//! served meanwhile.

use harness::daemon::Daemon;
use serde_json::{Value, json};

use super::{daemon, marker, masked, peak_kb, python, reached, reset_peak};

/// Memory that a flood may cost the daemon, in kB.
const GROWTH_KB_MAX: u64 = 32 * 1024;

/// Frames by hand, and headers by hpack without an index.
const FRAMES: &str = r#"
import struct, threading, hpack, httpx
encoder = hpack.Encoder()
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload
def request(path, *more, method="GET"):
    return [(":method", method), (":scheme", "https"), (":path", path), (":authority", f"{NAME}:{HTTPS}"), *more]
def encoded(fields):
    return hpack.Encoder().encode([(name, value, True) for name, value in fields])
class Wire:
    """TLS that one thread may read while another writes; Python's own may not be used so."""
    def __init__(self):
        self.plain = socket.create_connection((HOST, HTTPS), timeout=30)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context("h2").wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)
        self.lock, self.sending = threading.Lock(), threading.Lock()
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.plain.sendall(self.outgoing.read())
                self.fill()
        self.plain.sendall(self.outgoing.read())
    def fill(self):
        piece = self.plain.recv(65536)
        if not piece:
            raise ConnectionError("closed")
        with self.lock:
            self.incoming.write(piece)
    def sendall(self, data):
        with self.sending:
            with self.lock:
                self.tls.write(data)
                data = self.outgoing.read()
            self.plain.sendall(data)
    def recv(self, size):
        while True:
            with self.lock:
                try:
                    return self.tls.read(size)
                except ssl.SSLWantReadError:
                    pass
            self.fill()
    def settimeout(self, seconds):
        self.plain.settimeout(seconds)
    def close(self):
        self.plain.close()
def opened():
    made = Wire()
    made.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    return made
class Reader(threading.Thread):
    """Takes what comes, so that nobody waits for us; remembers frames by kind, and that it ended."""
    def __init__(self, made):
        super().__init__(daemon=True)
        self.made, self.frames, self.ended, self.data = made, [], threading.Event(), b""
        self.start()
    def run(self):
        try:
            while piece := self.made.recv(65536):
                self.data += piece
                while len(self.data) >= 9:
                    size = int.from_bytes(self.data[:3], "big")
                    if len(self.data) < 9 + size:
                        break
                    self.frames.append((self.data[3], int.from_bytes(self.data[5:9], "big") & 0x7fffffff, self.data[9 : 9 + size]))
                    self.data = self.data[9 + size :]
        except OSError:
            pass
        self.ended.set()
def well():
    return httpx.get(f"{BASE}/echo", verify=context(), timeout=30).status_code == 200
def flood(make, count):
    """Sends until it is stopped, and says how many pieces were taken."""
    made = opened()
    reader = Reader(made)
    taken = 0
    try:
        for n in range(count):
            made.sendall(make(n))
            taken += 1
            if reader.ended.is_set():
                break
    except (OSError, ssl.SSLError):
        pass
    return taken, reader
"#;

#[track_caller]
fn measured(daemon: &mut Daemon, script: &str) -> Value {
    let warm_up = "import httpx\nsay(httpx.get(f'{BASE}/echo', verify=context()).status_code)";
    assert_eq!(python(daemon, warm_up), 200);
    let pid = daemon.pid();
    let before = reset_peak(pid);
    let seen = python(daemon, &format!("{FRAMES}\n{script}"));
    let grown = peak_kb(pid).saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "{before} kB grew by {grown} kB");
    seen
}

#[test]
fn a_flood_of_continuations_is_ended() {
    // CVE-2024-27316 and its like: a head that never ends.
    let seen = measured(
        &mut masked(),
        r#"
head = encoded(request("/continued"))
taken, reader = flood(
    lambda n: frame(HEADERS, 0, 1, head) if n == 0 else frame(CONTINUATION, 0, 1, encoded([("x-%d" % n, "y" * 15000)])), 4096)
say([taken < 4096, well()])
"#,
    );
    assert_eq!(seen, json!([true, true]), "64 MB of a head");
    assert_eq!(reached("/continued"), 0);
}

#[test]
fn a_flood_of_empty_continuations_is_ended() {
    let seen = measured(
        &mut masked(),
        r#"
head = encoded(request("/continued-empty"))
taken, reader = flood(lambda n: frame(HEADERS, 0, 1, head) if n == 0 else frame(CONTINUATION, 0, 1) * 100, 10000)
say([taken < 10000, well()])
"#,
    );
    assert_eq!(seen, json!([true, true]), "a million frames");
    assert_eq!(reached("/continued-empty"), 0);
}

#[test]
fn rapid_resets_cost_the_client_its_connection_or_nothing() {
    // CVE-2023-44487.
    let seen = measured(
        &mut masked(),
        r#"
head = encoded(request("/slow-gate"))
def both(n):
    stream = 2 * n + 1
    return frame(HEADERS, 5, stream, head) + frame(RST, 0, stream, struct.pack("!I", 8))
taken, reader = flood(both, 20000)
say(well())
"#,
    );
    assert_eq!(seen, true);
}

#[test]
fn floods_of_settings_and_pings_do_not_pile_up() {
    let seen = measured(
        &mut masked(),
        r#"
seen = []
for piece in (frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 65535)), frame(PING, 0, 0, b"12345678")):
    # Nothing is read, so that answers would have to be kept.
    made = opened()
    made.settimeout(5)
    try:
        for n in range(2000):
            made.sendall(piece * 100)
    except (OSError, ssl.SSLError):
        pass
    seen.append(well())
    made.close()
say(seen)
"#,
    );
    assert_eq!(seen, json!([true, true]));
}

#[test]
fn a_compressed_head_that_unpacks_to_a_large_one_is_refused() {
    let seen = measured(
        &mut masked(),
        r#"
# One field of 4,000 bytes in the table, then named by its index over and over: 1 byte for each.
made = opened()
reader = Reader(made)

head = encoded(request("/bombed")) + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000
body = head + b"\xbe" * 12000
try:
    made.sendall(frame(HEADERS, 5, 1, body[:16000]))
    made.sendall(frame(HEADERS, 5, 3, encoded(request("/bombed-again")) + b"\xbe" * 14000))
except (OSError, ssl.SSLError):
    pass
say(well())
"#,
    );
    assert_eq!(seen, true);
    assert_eq!(reached("/bombed"), 0, "48 MB of headers");
}

/// Sends one request with these fields and says with what status it was answered; 0 when it was reset or cut off.
fn status_of(daemon: &Daemon, fields: &str, body: &str) -> u64 {
    let script = format!(
        r#"{FRAMES}
made = opened()
body = {body}
made.sendall(frame(HEADERS, 4 if body is not None else 5, 1, encoded({fields})))
if body is not None:
    made.sendall(frame(DATA, 1, 1, body))
reader = Reader(made)
status = 0
made.settimeout(5)
while not reader.ended.wait(0.02):
    if any(kind in (RST, GOAWAY) for kind, stream, payload in reader.frames if stream == 1 or kind == GOAWAY):
        break
    heads = [payload for kind, stream, payload in reader.frames if kind == HEADERS and stream == 1]
    if heads:
        status = int(dict(hpack.Decoder().decode(heads[0]))[":status"])
        break
assert well()
say(status)
"#
    );
    python(daemon, &script).as_u64().unwrap()
}

#[test]
fn malformed_requests_reach_nobody() {
    let daemon = masked();
    let none = "None";
    for (what, fields, body) in [
        ("a name in upper case", "request('/MARK', ('X-Upper', 'a'))", none),
        ("a header of the connection", "request('/MARK', ('connection', 'close'))", none),
        (
            "a coding of transfer",
            "request('/MARK', ('transfer-encoding', 'chunked'), method='POST')",
            "b'hello'",
        ),
        ("a line break in a value", "request('/MARK', ('x-a', 'b\\r\\nx-smuggled: c'))", none),
        ("a zero in a value", "request('/MARK', ('x-a', 'b\\0c'))", none),
        ("a blank in a path", "request('/MARK HTTP/1.1')", none),
        ("a pseudo-header after others", "[('x-a', 'b'), *request('/MARK')]", none),
        ("two paths", "request('/MARK', (':path', '/other'))", none),
        ("no method", "request('/MARK')[1:]", none),
        ("an unknown pseudo-header", "request('/MARK', (':unknown', 'a'))", none),
        ("less than the length", "request('/MARK', ('content-length', '100'), method='POST')", "b'hello'"),
        ("more than the length", "request('/MARK', ('content-length', '3'), method='POST')", "b'hello'"),
    ] {
        let mark = marker("frames");
        let status = status_of(&daemon, &fields.replace("MARK", &mark), body);
        assert!(status == 0 || (400..600).contains(&status), "{what}: {status}");
        let log = super::server().log(&mark).unwrap();
        // A body of the wrong length is only known at its end: its head may have gone ahead.
        let whole = if what.contains("the length") { "body" } else { "request" };
        assert_eq!(
            log.iter().filter(|entry| entry["what"] == whole).count(),
            0,
            "{what}: {}",
            Value::from(log.clone())
        );
    }
}

#[test]
fn a_well_formed_request_by_hand_is_answered() {
    // What the cases above are compared with.
    let daemon = masked();
    let mark = marker("frames-good");
    assert_eq!(status_of(&daemon, &format!("request('/{mark}', method='POST')"), "b'hello'"), 200);
    assert_eq!(reached(&mark), 1);
}

#[test]
fn a_guard_is_not_passed_by_a_second_stream() {
    let daemon =
        daemon("[[guard]]\nname = \"no\"\non = \"http\"\npaths = [\"/denied\"]\naction = \"deny\"\n");
    let mark = marker("streams");
    let script = format!(
        r#"{FRAMES}
async def main():
    async with httpx.AsyncClient(verify=context(), http2=True, timeout=30) as client:
        got = await asyncio.gather(*[client.get(f"{{BASE}}/{{['denied', 'echo'][n % 2]}}?{mark}") for n in range(40)])
    say([answer.status_code for answer in got] == [403, 200] * 20)
asyncio.run(main())
"#
    );
    assert_eq!(python(&daemon, &script), true);
    assert_eq!(reached(&format!("/denied?{mark}")), 0);
    assert_eq!(reached(&mark), 20);
}

/// Says how each offence on a connection ended: its error as GOAWAY or RST_STREAM names it, or `served` when a request that
/// comes after it was answered.
const OFFENCES: &str = r#"
ERRORS = ["no error", "protocol error", "internal error", "flow control", "settings timeout", "stream closed", "frame size",
          "refused stream", "cancel", "compression", "connect", "calm", "security", "http/1.1"]
ASKED = encoded(request("/MARK"))
def offend(*frames, preface=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)):
    made = Wire()
    made.settimeout(20)
    reader = Reader(made)
    try:
        made.sendall(preface + b"".join(frames) + frame(HEADERS, 5, 101, encoded(request("/echo"))))
    except (OSError, ssl.SSLError):
        pass
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for kind, stream, payload in list(reader.frames):
            if kind == GOAWAY:
                return ERRORS[struct.unpack("!I", payload[4:8])[0]]
            if kind == RST and stream != 101:
                return "stream: " + ERRORS[struct.unpack("!I", payload)[0]]
            if kind == HEADERS and stream == 101:
                return "served"
        if reader.ended.wait(0.01) and not any(kind in (GOAWAY, RST, HEADERS) for kind, *_ in reader.frames):
            return "closed"
    return "nothing"
"#;

/// What h2spec asks of a server, in short: section of RFC 9113, frames, how it must end.
const CASES: &[(&str, &str, &str)] = &[
    (
        "3.4 a preface of another protocol",
        "offend(preface=b'GET / HTTP/1.1\\r\\n\\r\\n')",
        "protocol error|closed",
    ),
    ("4.1 a frame of an unknown kind", "offend(frame(0x16, 0xff, 0, b'12345678'))", "served"),
    ("4.1 a reserved bit", "offend(frame(PING, 0, 0x80000000, b'12345678'))", "served"),
    (
        "4.2 a frame that is too large",
        "offend(frame(HEADERS, 4, 1, encoded(request('/echo', method='POST'))), frame(DATA, 0, 1, b'a' * 20000))",
        "frame size",
    ),
    (
        "4.3 a head that cannot be read",
        "offend(frame(HEADERS, 5, 1, b'\\xff\\xff\\xff\\xff\\xff\\x0f'))",
        "compression",
    ),
    ("5.1 data before its head", "offend(frame(DATA, 1, 1, b'a'))", "protocol error"),
    (
        "5.1 a window of a stream that is idle",
        "offend(frame(WINDOW, 0, 1, struct.pack('!I', 1)))",
        "protocol error",
    ),
    (
        "5.1 a reset of a stream that is idle",
        "offend(frame(RST, 0, 1, struct.pack('!I', 8)))",
        "protocol error",
    ),
    ("5.1.1 a stream of the server's", "offend(frame(HEADERS, 5, 2, ASKED))", "protocol error"),
    (
        "5.1.1 a stream of before",
        "offend(frame(HEADERS, 5, 5, encoded(request('/echo'))), frame(HEADERS, 5, 3, ASKED))",
        "protocol error|stream closed",
    ),
    (
        "5.3.1 a stream that waits for itself",
        "offend(frame(2, 0, 1, struct.pack('!IB', 1, 0)))",
        "served|protocol error|stream: protocol error",
    ),
    ("5.4.1 data of stream 0", "offend(frame(DATA, 1, 0, b'a'))", "protocol error"),
    ("6.2 a head of stream 0", "offend(frame(HEADERS, 5, 0, ASKED))", "protocol error"),
    ("6.2 more padding than there is", "offend(frame(HEADERS, 13, 1, b'\\xff' + ASKED))", "protocol error"),
    ("6.3 a priority of the wrong size", "offend(frame(2, 0, 1, b'abcd'))", "frame size|stream: frame size"),
    ("6.4 a reset of stream 0", "offend(frame(RST, 0, 0, struct.pack('!I', 8)))", "protocol error"),
    ("6.4 a reset of the wrong size", "offend(frame(RST, 0, 1, b'abc'))", "frame size"),
    ("6.5 settings of the wrong size", "offend(frame(SETTINGS, 0, 0, b'abc'))", "frame size"),
    ("6.5 an acknowledgement that says something", "offend(frame(SETTINGS, 1, 0, b'abcdef'))", "frame size"),
    ("6.5 settings of a stream", "offend(frame(SETTINGS, 0, 1))", "protocol error"),
    (
        "6.5.2 a push that is neither",
        "offend(frame(SETTINGS, 0, 0, struct.pack('!HI', 2, 2)))",
        "protocol error",
    ),
    (
        "6.5.2 a window beyond its bound",
        "offend(frame(SETTINGS, 0, 0, struct.pack('!HI', 4, 0x80000000)))",
        "flow control",
    ),
    (
        "6.5.2 frames that are too small",
        "offend(frame(SETTINGS, 0, 0, struct.pack('!HI', 5, 100)))",
        "protocol error",
    ),
    (
        "6.5.2 a setting that is unknown",
        "offend(frame(SETTINGS, 0, 0, struct.pack('!HI', 0xff, 1)))",
        "served",
    ),
    ("6.6 a push of a client's", "offend(frame(5, 4, 1, struct.pack('!I', 2) + ASKED))", "protocol error"),
    ("6.7 a ping of a stream", "offend(frame(PING, 0, 1, b'12345678'))", "protocol error"),
    ("6.7 a ping of the wrong size", "offend(frame(PING, 0, 0, b'1234'))", "frame size"),
    ("6.8 a farewell of a stream", "offend(frame(GOAWAY, 0, 1, b'\\0' * 8))", "protocol error"),
    (
        "6.9 a window that grows by nothing",
        "offend(frame(WINDOW, 0, 0, struct.pack('!I', 0)))",
        "protocol error",
    ),
    ("6.9 a window of the wrong size", "offend(frame(WINDOW, 0, 0, b'abc'))", "frame size"),
    (
        "6.9.1 a window beyond its bound",
        "offend(frame(WINDOW, 0, 0, struct.pack('!I', 0x7fffffff)))",
        "flow control",
    ),
    (
        "6.10 a head that goes on without having begun",
        "offend(frame(CONTINUATION, 4, 1, ASKED))",
        "protocol error",
    ),
    (
        "6.10 another frame inside a head",
        "offend(frame(HEADERS, 1, 1, ASKED[:5]), frame(PING, 0, 0, b'12345678'))",
        "protocol error",
    ),
    (
        "6.10 a head that goes on as another stream's",
        "offend(frame(HEADERS, 1, 1, ASKED[:5]), frame(CONTINUATION, 4, 3, ASKED[5:]))",
        "protocol error",
    ),
];

#[test]
fn offences_against_the_protocol_end_as_rfc_9113_says() {
    let daemon = masked();
    let mark = marker("offence");
    let calls: Vec<&str> = CASES.iter().map(|(_, call, _)| *call).collect();
    let offences = OFFENCES.replace("MARK", &mark);
    let script = format!("{FRAMES}\nimport time{offences}\nsay([{}, well()])", calls.join(", "));
    let seen = python(&daemon, &script);
    let seen = seen.as_array().unwrap();
    // h2 names some errors less exactly than it could.
    let right = |wanted: &str, ended: &Value| {
        wanted.split('|').any(|wanted| ended == wanted) || (wanted != "served" && ended == "protocol error")
    };
    let wrong: Vec<String> = CASES
        .iter()
        .zip(seen)
        .filter(|((_, _, wanted), ended)| !right(wanted, ended))
        .map(|((what, _, wanted), ended)| format!("{what}: {ended} instead of {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(seen.last(), Some(&Value::from(true)), "others are served");
    assert_eq!(reached(&mark), 0);
}
