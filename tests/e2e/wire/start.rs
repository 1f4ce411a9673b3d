//! Everything a client may say before its first statement.

use super::{NO_DDL, daemon, raw};

#[test]
fn encryption_is_asked_for_in_every_way() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
# GSSENCRequest, then SSLRequest, then the start-up message, as libpq does.
c = Conn().send(untagged(GSS))
assert c.exactly(1) == b"N"
c.tls().login()
same(c.ask(Q("SELECT 1")), "T D(1) C(SELECT 1) ZI")

# Without any encryption.
same(Conn().send(untagged(GSS)) .exactly(1), b"N")
same(Conn().login().ask(Q("SELECT 2")), "T D(2) C(SELECT 1) ZI")

# Twice is once too often.
c = Conn().tls().send(untagged(SSL))
same(c.closed(), "")
c = Conn().send(untagged(GSS), untagged(GSS))
assert c.exactly(1) == b"N"
same(c.closed(), "")

# Plaintext behind the SSLRequest belongs to the TLS handshake, where it is garbage: nothing of it is answered.
body = text("user", "agent", "database", "shop") + b"\0"
c = Conn().send(untagged(SSL), untagged(V3_0, body), Q("SELECT 'injected'"))
left = b""
try:
    while piece := c.sock.recv(4096):
        left += piece
except ConnectionError:
    pass
assert left in (b"", b"S") or left.startswith(b"S\x15"), left  # nothing, or a TLS alert

# Direct TLS wants ALPN `postgresql`.
def direct(*protocols):
    context = insecure()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    c = Conn()
    c.sock = context.wrap_socket(c.sock)
    return c
c = direct("postgresql")
assert c.sock.selected_alpn_protocol() == "postgresql"
same(c.login().ask(Q("SELECT 3")), "T D(3) C(SELECT 1) ZI")
for protocols in [(), ("http/1.1",)]:
    try:
        same(direct(*protocols).startup().closed(), "")
    except (ssl.SSLError, ConnectionError):
        pass
"#,
    );
}

#[test]
fn versions_and_options_are_negotiated() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
def greeted(version, **parameters):
    c = Conn().startup(version, **parameters)
    seen = c.ready()
    assert c.ask(Q("SELECT 1")).endswith("ZI")
    return [struct.unpack("!II", body[:8]) + tuple(body[8:].split(b"\0")[:-1]) for tag, body in seen if tag == "v"]

assert greeted(V3_0) == []
assert greeted(V3_2) == []
assert greeted(0x30000 + 9999) == [(V3_2, 0)]
assert greeted(V3_0, **{"_pq_.grease": "1"}) == [(V3_0, 1, b"_pq_.grease")], greeted(V3_0, **{"_pq_.grease": "1"})
assert greeted(0x30000 + 9999, **{"_pq_.a": "1", "_pq_.b": ""}) == [(V3_2, 2, b"_pq_.a", b"_pq_.b")]
same(Conn().startup(0x20000).closed(), "E(0A000)")
same(Conn().startup(0x40000).closed(), "E(0A000)")
# The database's name defaults to the user's.
c = Conn()
c.send(untagged(V3_0, text("user", "shop") + b"\0")).ready()
same(c.ask(Q("SELECT current_database()")), "T D(shop) C(SELECT 1) ZI")
"#,
    );
}

#[test]
fn parameters_that_decide_who_and_what_runs_are_refused() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
for parameters in [
    {"replication": "database"}, {"replication": "true"}, {"role": "postgres"}, {"options": "-c role=postgres"},
    {"options": "--session_preload_libraries=x"}, {"session_preload_libraries": "x"}, {"nonsense": "1"},
    {"standard_conforming_strings": "off"},
]:
    same(Conn().startup(**parameters).closed(), "E(42501)")
same(Conn().startup(user="").closed(), "E(42501)")

c = Conn().login(application_name="raw", options="-c statement_timeout=77s -c search_path=public", client_encoding="LATIN1")
same(c.ask(Q("SHOW statement_timeout")), "T D(77s) C(SHOW) ZI")
assert c.status["client_encoding"] == "UTF8" and c.status["application_name"] == "raw", c.status
assert c.status["standard_conforming_strings"] == "on"
assert c.status["session_authorization"] == "shop_agent", "the profile's role, not the client's"
"#,
    );
    let ends = super::ends(&daemon);
    assert_eq!(ends.iter().filter(|end| end.contains("refused")).count(), 9, "{ends:?}");
}

#[test]
fn a_cancel_request_reaches_its_session_and_no_other() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
def cancel(pid, key, tls=False):
    c = Conn()
    if tls:
        c.tls()
    c.send(untagged(CANCEL, struct.pack("!I", pid) + key))
    same(c.closed(), "")

for version in [V3_0, V3_2]:
    for tls in [False, True]:
        c = Conn().login(version)
        other = Conn().login(version)
        other.send(Q("SELECT pg_sleep(0.3), 'other'"))
        c.send(Q("SELECT pg_sleep(30)"))
        time.sleep(0.1)
        wrong = bytes([c.key[0] ^ 1]) + c.key[1:]
        cancel(c.pid, wrong)
        cancel(c.pid, c.key[:4] if len(c.key) > 4 else c.key + b"\0")  # of another length
        cancel(c.pid ^ 1, c.key)
        c.sock.settimeout(0.2)
        try:
            raise AssertionError(c.next())
        except TimeoutError:
            c.sock.settimeout(10)
        cancel(c.pid, c.key, tls)
        same(short(c.until("Z")), "T E(57014) ZI")
        same(short(other.until("Z")), "T D(,other) C(SELECT 1) ZI")
        same(c.ask(Q("SELECT 1")), "T D(1) C(SELECT 1) ZI")
        # Its process ID is the server's, whose notifications bear it, too.
        same(c.ask(Q("SELECT pg_backend_pid()")), f"T D({c.pid}) C(SELECT 1) ZI")
        # The requester's connection closes when it has been done, so it cannot meet the next statement.
        for n in range(20):
            c.send(Q("SELECT pg_sleep(0.02)"))
            cancel(c.pid, c.key, tls)
            c.until("Z")
            same(c.ask(Q(f"SELECT {n}, pg_sleep(0.01)")), f"T D({n},) C(SELECT 1) ZI")
        # Of an idle session it does nothing.
        cancel(c.pid, c.key)
        same(c.ask(Q("SELECT 2")), "T D(2) C(SELECT 1) ZI")
"#,
    );
}

#[test]
fn a_cancel_request_from_another_run_does_nothing() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    let daemon = daemon(NO_DDL);
    let script = r#"
c = Conn().login()
print(c.pid, c.key.hex(), flush=True)
same(c.ask(Q("SELECT pg_sleep(1), 'whole'")), "T D(,whole) C(SELECT 1) ZI")
"#;
    let mut sleeper = harness::agent::under(&daemon, harness::process::NOBODY, "shop").unwrap();
    let address = super::server().address();
    sleeper
        .arg(harness::process::python())
        .args(["-c", &format!("{}\n{script}", super::CLIENT)])
        .args([address.ip().to_string(), address.port().to_string()])
        .stdout(Stdio::piped());
    let mut sleeper = harness::process::Owned::spawn(&mut sleeper).unwrap();
    let mut line = String::new();
    BufReader::new(sleeper.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (pid, key) = line.trim().split_once(' ').unwrap();
    raw(
        &daemon,
        &format!(
            "c = Conn().send(untagged(CANCEL, struct.pack('!I', {pid}) + bytes.fromhex('{key}')))\nsame(c.closed(), '')"
        ),
    );
    assert!(sleeper.child().wait().unwrap().success());
    let ends = super::ends(&daemon);
    assert!(ends.iter().any(|end| end.contains("names no session of this run")), "{ends:?}");
}
