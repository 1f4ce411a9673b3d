//! Everything a client may say before its first statement.

use super::{NO_DDL, daemon, raw, server};

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
assert greeted(0x30001) == []  # never existed; served as 3.0
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
fn what_is_no_setting_or_decides_how_texts_are_read_is_refused_at_the_start() {
    let daemon = daemon(super::ALL);
    raw(
        &daemon,
        r#"
for parameters in [
    {"replication": "database"}, {"replication": "true"}, {"options": "-c replication=true"}, {"standard_conforming_strings": "off"},
    {"backslash_quote": "on"}, {"options": "-c standard_conforming_strings=off"}, {"options": "-d 5"}, {"ro'le": "x"},
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

/// SET is denied for some parameters, held for others, allowed for the rest.
const SETTINGS: &str = r#"
[[guard]]
name = "who acts"
on = "postgres"
kind = ["set"]
effect = ["admin"]
action = "deny"

[[guard]]
name = "archives"
on = "postgres"
databases = ["orders_archive"]
action = "hold"
approvers = ["user:daemon"]
"#;

#[test]
fn start_up_parameters_are_judged_as_the_settings_they_are() {
    server().psql("shop", "CREATE ROLE wire_member; GRANT wire_member TO shop_agent").unwrap();
    let denied = daemon(SETTINGS);
    raw(
        &denied,
        r#"
def why(**parameters):
    tag, body = Conn().startup(**parameters).next()
    assert tag == "E", tag
    return fields(body)
for parameters in [{"role": "wire_member"}, {"options": "-c role=wire_member"}, {"session_preload_libraries": "x"},
                   {"options": "-c search_path=public --local-preload-libraries=x"}, {"log_statement": "none"}]:
    told = why(**parameters)
    assert told["S"] == "FATAL" and told["C"] == "42501" and told["D"] == "Rule: who acts.", told
told = why(database="orders_archive", search_path="public")
assert told["C"] == "42501" and told["D"] == "Rule: archives." and "cannot wait" in told["M"], told
# Without one that has to be judged there is nothing to hold, and the name of the database defaults to the user's before rules look.
Conn().login(database="orders_archive", application_name="x")
told = why(user="orders_archive", database=None, search_path="public")
assert told["D"] == "Rule: archives.", told
told = why(user="orders_archive", database="", search_path="public")
assert told["D"] == "Rule: archives.", told
# Settings that change nobody pass; what the server does not know it says itself.
c = Conn().login(search_path="information_schema, public", options="-c enable_seqscan=off")
same(c.ask(Q("SHOW search_path")), "T D(information_schema, public) C(SHOW) ZI")
same(c.ask(Q("SHOW enable_seqscan")), "T D(off) C(SHOW) ZI")
same(Conn().startup(nonsense="1").closed(), "E(42704)")
"#,
    );
    let listed = denied.cli(&["sessions", "list", "--json"]).unwrap().stdout;
    let shown: String = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|session| {
            denied.cli(&["sessions", "show", session["session"].as_str().unwrap(), "--json"]).unwrap().stdout
        })
        .collect();
    assert!(shown.contains("SET role TO 'wire_member'"), "{shown}");
    assert!(shown.contains("SET search_path TO 'information_schema, public'"), "{shown}");
    let allowed = daemon(super::ALL);
    raw(
        &allowed,
        r#"
c = Conn().login(options="-c role=wire_member")
same(c.ask(Q("SELECT current_user, session_user")), "T D(wire_member,shop_agent) C(SELECT 1) ZI")
same(Conn().startup(role="postgres").closed(), "E(42501)")
"#,
    );
}

#[test]
fn a_cancel_request_reaches_its_session_and_no_other() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
def cancel(pid, key, tls=None):
    c = Conn()
    if tls == "asked for":
        c.tls()
    elif tls == "direct":
        context = insecure()
        context.set_alpn_protocols(["postgresql"])
        c.sock = context.wrap_socket(c.sock)
    c.send(untagged(CANCEL, struct.pack("!I", pid) + key))
    same(c.closed(), "")

for version in [V3_0, V3_2]:
    for tls in [None, "asked for", "direct"]:
        c = Conn().login(version)
        # As long as the server's own: since 18 that is 32 bytes in 3.2.
        longer = version == V3_2 and int(c.status["server_version"].split(".")[0]) >= 18
        assert len(c.key) == (32 if longer else 4), len(c.key)
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
    let address = server().address();
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
