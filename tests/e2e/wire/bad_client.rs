//! Clients that break the protocol, want too much, or do not read: told where they can be, ended, recorded, and
//! nobody else notices.

use std::fs;

use super::{NO_DDL, daemon, ends, raw};

/// Most memory the daemon may have used at any moment, in kilobytes. What a client tries to make it hold is far more.
const MEMORY_KB_MAX: u64 = 256 * 1024;

/// The most memory a process ever used, in kilobytes.
fn peak_memory_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn malformed_messages_end_their_session_only() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
bystander = Conn().login()

# Start-up: lengths, codes, contents.
long = b"x" * 10_500
for bad in [
    struct.pack("!Ii", 0, V3_0), struct.pack("!ii", 7, V3_0), struct.pack("!ii", -1, V3_0),
    struct.pack("!iI", 0x7FFFFFFF, V3_0), untagged(V3_0, text("user", "agent", "application_name") + long + b"\0\0"),
    untagged(V3_0, b"user\0agent"), untagged(V3_0, b"user\0agent\0database\0\0\0\0extra"), untagged(V3_0, b"user\0ag\xffent\0\0"),
    b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"SSH-2.0-OpenSSH_9.2\r\n",
]:
    seen = Conn().send(bad).closed()
    assert seen in ("E(08P01)", "E(0A000)", "E(22021)", ""), (bad[:40], seen)

# Later: types, lengths, contents.
for bad in [
    b"z\0\0\0\4", b"\0\0\0\0\4", b"p\0\0\0\4", message("p", text("password")),
    b"Q\0\0\0\0", b"Q\0\0\0\3", b"Q\xff\xff\xff\xff", b"Q\x7f\xff\xff\xff", b"S\0\0\0\5x", b"E\0\xff\xff\xff",
    message("Q", b"SELECT 1"), message("Q", b"SELECT 1\0; SELECT 2\0"), message("Q"),
    message("P", b"\0SELECT 1\0\xff\xff"), message("P", b"name"), message("B", b"\0\0\0\0\xff\xff\0\0"),
    message("B", b"\0\0\0\0\0\1\x7f\xff\xff\xff\0\0"), message("B", b"\0\0\0\0\0\1\xff\xff\xff\xfe\0\0"),
    message("D", b"X\0"), message("D", b"P"), message("C", b"S"), message("E", b"\0\0\0"), message("f"),
]:
    seen = Conn().login().send(bad).closed()
    same((bad[:20], seen), (bad[:20], "E(08P01)"))

# Not UTF-8: only the statement is refused.
c = Conn().login()
same(c.ask(message("Q", b"SELECT '\xff'\0")), "E(22021) ZI")
same(c.ask(message("P", b"\0SELECT '\xc3('\0\0\0"), B(), E(), S), "E(22021) ZI")
same(c.ask(Q("SELECT 1")), "T D(1) C(SELECT 1) ZI")
same(bystander.ask(Q("SELECT 'still here'")), "T D(still here) C(SELECT 1) ZI")
"#,
    );
    let ends = ends(&daemon);
    assert!(ends.len() > 30 && ends.iter().all(|end| end.contains("\"reason\"")), "{ends:?}");
    assert!(ends.iter().filter(|end| end.contains("failed")).count() >= 30, "{ends:?}");
}

#[test]
fn messages_that_are_too_long_are_dropped_and_the_session_goes_on() {
    let mut daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
def huge(tag, head, size, tail=b""):
    c.send(tag.encode() + struct.pack("!I", 4 + len(head) + size + len(tail)), head)
    block, left = b"x" * 1_000_000, size
    while left:
        piece = min(left, len(block))
        c.send(block[:piece])
        left -= piece
    c.send(tail)

c = Conn(timeout=60).login()
huge("P", b"\0SELECT '", 100_000_000, b"'\0\0\0")
same(c.ask(B(), E(), S), "E(54000) ZI")
huge("Q", b"SELECT '", 20_000_000, b"'\0")
same(short(c.until("Z")), "E(54000) ZI")
same(c.ask(P("long", "SELECT length($1)"), S), "1 ZI")
for size, wanted in [(15_000_000, "2 D(15000000) C(SELECT 1) ZI"), (20_000_000, "E(54000) ZI"), (300_000, "2 D(300000) C(SELECT 1) ZI")]:
    huge("B", text("", "long") + struct.pack("!HHI", 0, 1, size), size, b"\0\0")
    same(c.ask(E(), S), wanted)
huge("F", b"", 20_000_000)
same(short(c.until("Z")), "E(54000) ZI")
huge("d", b"", 5_000_000)
same(c.ask(Q("SELECT 'after'")), "T D(after) C(SELECT 1) ZI")
"#,
    );
    let peak = peak_memory_kb(daemon.pid());
    assert!(peak < MEMORY_KB_MAX, "{peak} kB\n{}", daemon.log());
}

#[test]
fn names_without_end_end_the_session() {
    let mut daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
c = Conn(timeout=60).login()
made = 0
try:
    while made < 100_000:
        parts = [P(f"s{n}", "SELECT 1") for n in range(made, made + 1000)]
        seen = c.ask(*parts, S)
        if "E" in seen:
            break
        made += 1000
except Closed:
    pass
assert 10_000 < made < 30_000, made
"#,
    );
    let ends = ends(&daemon);
    assert!(ends[0].contains("more prepared statements"), "{ends:?}");
    assert!(peak_memory_kb(daemon.pid()) < MEMORY_KB_MAX);
}

#[test]
fn a_pipeline_without_reading_is_held_back_and_then_answered_whole() {
    let mut daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
import threading
COUNT = 33_334
c = Conn(timeout=60).login()
sender = threading.Thread(target=lambda: c.send(*[run("SELECT 1")] * COUNT, S))
sender.start()
other = Conn().login()
for n in range(20):
    same(other.ask(Q(f"SELECT {n}")), f"T D({n}) C(SELECT 1) ZI")
seen = [tag for tag, body in c.until("Z")]
sender.join()
assert seen == ["1", "2", "D", "C"] * COUNT + ["Z"], len(seen)
"#,
    );
    assert!(peak_memory_kb(daemon.pid()) < MEMORY_KB_MAX);
}

#[test]
fn a_client_that_never_reads_costs_little_and_hinders_nobody() {
    let mut daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
deaf = [Conn().login() for _ in range(4)]
for c in deaf:
    c.send(Q("SELECT repeat('x', 10000) FROM generate_series(1, 100000)"))
deaf.append(Conn().login().send(Q("COPY (SELECT repeat('x', 10000) FROM generate_series(1, 100000)) TO STDOUT")))
other = Conn().login()
for n in range(100):
    same(other.ask(Q(f"SELECT {n}")), f"T D({n}) C(SELECT 1) ZI")

# One cell of 200 MB, and a million rows, read as they come.
c = Conn(timeout=60).login()
def drain(sql):
    """How many bytes the answer has; it must end well."""
    c.send(Q(sql))
    count, tail = 0, b""
    while not tail.endswith(b"Z\0\0\0\5I"):
        piece = c.sock.recv(1 << 20)
        assert piece
        count, tail = count + len(piece), (tail + piece)[-64:]
    assert b"SELECT" in tail, tail
    return count
assert drain("SELECT repeat('y', 200000000)") > 200_000_000
assert drain("SELECT n, 'row ' || n FROM generate_series(1, 1000000) n") > 27_000_000
"#,
    );
    let peak = peak_memory_kb(daemon.pid());
    assert!(peak < MEMORY_KB_MAX, "{peak} kB");
    let ends = ends(&daemon);
    assert!(ends.iter().filter(|end| end.contains("lost")).count() >= 5, "{ends:?}");
}
