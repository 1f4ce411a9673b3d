//! Both query protocols, message by message.

use super::{BOUNDED, NO_DDL, daemon, raw, server};

#[test]
fn pipelines_are_answered_in_order() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
c = Conn().login()
many = b"".join(P("", f"SELECT {n}") + B() + D("P") + E() for n in range(300))
wanted = " ".join(f"1 2 T D({n}) C(SELECT 1)" for n in range(300)) + " ZI"
same(c.ask(many, S), wanted)
# One refused in the middle: what came before is answered, what comes after is skipped.
same(c.ask(run("SELECT 1"), run("CREATE TABLE no (a int)"), run("SELECT 2"), S), "1 2 D(1) C(SELECT 1) E(42501) ZI")
# ... also when the messages come one by one, behind a failure that was seen already.
c.send(run("SELECT 1/0"), H)
same(short(c.until("E")), "1 E(22012)")
c.send(run("SELECT 1")).send(Q("SELECT 2"))
same(c.ask(S), "ZI")
# A simple Query while skipping to Sync is skipped, too.
same(c.ask(run("CREATE TABLE no (a int)"), Q("SELECT 1"), S), "E(42501) ZI")
# A refused Query behind messages without a Sync.
same(c.ask(run("SELECT 1"), Q("DROP TABLE orders")), "1 2 D(1) C(SELECT 1) E(42501) ZI")
# Simple queries in one go, one refused.
same(short(c.send(Q("SELECT 1"), Q("DROP TABLE orders"), Q("SELECT 2")).until("Z") + c.until("Z") + c.until("Z")),
     "T D(1) C(SELECT 1) ZI E(42501) ZI T D(2) C(SELECT 1) ZI")
# Empty ones.
same(c.ask(Q("")), "I ZI")
same(c.ask(Q("-- nothing")), "I ZI")
same(c.ask(run(""), S), "1 2 I ZI")
same(c.ask(P("", ""), B(), D("P"), E(), S), "1 2 n I ZI")
same(c.ask(Q("SELECT 1; SELECT 2")), "T D(1) C(SELECT 1) T D(2) C(SELECT 1) ZI")
same(c.ask(Q("SELECT 1; SELECT 1/0; SELECT 3")), "T D(1) C(SELECT 1) E(22012) ZI")
"#,
    );
}

/// What runs a COPY may be a name; its data can come in one go with that.
#[test]
fn a_copy_runs_by_the_name_of_a_statement() {
    server()
        .psql("shop", "CREATE TABLE IF NOT EXISTS wire_named (a int); GRANT ALL ON wire_named TO shop_agent")
        .unwrap();
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
data, done = message("d", b"1\n"), message("c")
c = Conn().login()
same(c.ask(P("by_name", "COPY wire_named FROM STDIN"), S), "1 ZI")
same(c.ask(Q("BEGIN")), "C(BEGIN) ZT")
same(c.ask(Q("EXECUTE by_name"), data, done), "G C(COPY 1) ZT")
# Also when code has run that could have changed what the name stands for.
same(c.ask(Q("DO 'BEGIN END'")), "C(DO) ZT")
same(c.ask(Q("EXECUTE by_name"), data, done), "G C(COPY 1) ZT")
same(c.ask(Q("ROLLBACK")), "C(ROLLBACK) ZI")
"#,
    );
}

/// A copy that is cut has failed its transaction, whatever its client sent in one go with it.
#[test]
fn nothing_overtakes_a_copy_that_is_cut() {
    server()
        .psql("shop", "CREATE TABLE IF NOT EXISTS wire_cut (a int); GRANT ALL ON wire_cut TO shop_agent")
        .unwrap();
    let daemon = daemon(BOUNDED);
    raw(
        &daemon,
        r#"
OUT = "COPY (SELECT generate_series(1, 6)) TO STDOUT"
def begun(copy):
    c = Conn().login()
    same(c.ask(P("by_name", OUT), S), "1 ZI")
    same(c.ask(Q("BEGIN")), "C(BEGIN) ZT")
    same(c.ask(Q("INSERT INTO wire_cut VALUES (1)")), "C(INSERT 0 1) ZT")
    return c.send(copy, Q("COMMIT"))
for copy in [Q(OUT), Q("EXECUTE by_name")]:
    c = begun(copy)
    answers = short(c.until("Z") + c.until("Z"))
    assert "E(54000) ZE" in answers and "C(ROLLBACK)" in answers, answers
# Where the server waits for data behind it, its session ends.
answers = begun(Q(OUT + "; COPY wire_cut FROM STDIN")).closed()
assert "E(54000)" in answers and "C(COMMIT)" not in answers, answers
c = Conn().login()
same(c.ask(Q("SELECT count(*) FROM wire_cut")), "T D(0) C(SELECT 1) ZI")
# What takes data is not held up by what comes behind it.
same(c.ask(run("COPY wire_cut FROM STDIN"), S, message("d", b"1\n"), message("c"), S), "1 2 G C(COPY 1) ZI")
same(c.ask(Q("DELETE FROM wire_cut")), "C(DELETE 1) ZI")
"#,
    );
}

/// The kernel counts what arrives: a segment for each write, however small.
#[test]
fn what_comes_together_is_sent_together() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
def segments():
    info = c.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return struct.unpack_from("I", info, 152)[0]

c = Conn().login()
before = segments()
answers = c.ask(b"".join(P("", f"SELECT {n}") + B() + D("P") + E() for n in range(300)), S)
assert answers.count("C(SELECT 1)") == 300, answers
# 1500 messages of some 30 KB; the server itself writes 8 KB at a time.
assert 0 < segments() - before < 100, segments() - before
before = segments()
assert c.ask(Q("SELECT g FROM generate_series(1, 5000) g")).count("D(") == 5000
assert 0 < segments() - before < 100, segments() - before
"#,
    );
}

#[test]
fn a_transaction_is_what_the_server_says() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
c = Conn().login()
same(c.ask(Q("BEGIN")), "C(BEGIN) ZT")
same(c.ask(Q("SELECT 1")), "T D(1) C(SELECT 1) ZT")
# A refusal fails the transaction at the server as well: half of it cannot be committed.
for refused in [Q("DROP TABLE orders"), run("DROP TABLE orders") + S]:
    same(c.ask(refused), "E(42501) ZE")
    same(c.ask(Q("SELECT 1")), "E(25P02) ZE")
    same(c.ask(Q("DROP TABLE orders")), "E(42501) ZE")
    same(c.ask(Q("ROLLBACK")), "C(ROLLBACK) ZI")
    same(c.ask(Q("BEGIN")), "C(BEGIN) ZT")
same(c.ask(Q("SAVEPOINT s")), "C(SAVEPOINT) ZT")
same(c.ask(Q("SELECT 1/0")), "E(22012) ZE")
same(c.ask(Q("ROLLBACK TO s")), "C(ROLLBACK) ZT")
same(c.ask(Q("SELECT 2")), "T D(2) C(SELECT 1) ZT")
same(c.ask(Q("COMMIT")), "C(COMMIT) ZI")
# What changes how texts are read is refused in every way.
for sql in ["SET client_encoding = 'SJIS'", "SET standard_conforming_strings = off", "SET NAMES 'latin1'",
            "SET LOCAL standard_conforming_strings TO off", "RESET client_encoding"]:
    same(c.ask(Q(sql)), "E(42501) ZI")
    same(c.ask(run(sql), S), "E(42501) ZI")
same(c.ask(Q("SHOW client_encoding")), "T D(UTF8) C(SHOW) ZI")
# Where only the server sees it, its report ends the session.
c.send(Q("SELECT set_config('client_' || 'encoding', 'SJIS', false)"))
assert c.closed().endswith("E(08006)")
"#,
    );
}

#[test]
fn names_are_shared_by_both_protocols() {
    server()
        .psql("shop", "CREATE TABLE IF NOT EXISTS wire_names (a int); GRANT ALL ON wire_names TO shop_agent")
        .unwrap();
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
c = Conn().login()
# Duplicate, failed, closed and unknown names.
same(c.ask(P("s", "SELECT 1"), S), "1 ZI")
same(c.ask(P("s", "SELECT 2"), S), "E(42P05) ZI")
same(c.ask(B("", "s"), E(), S), "2 D(1) C(SELECT 1) ZI")
same(c.ask(P("f", "SELECT nonsense"), S), "E(42703) ZI")
same(c.ask(B("", "f"), E(), S), "E(26000) ZI")
same(c.ask(P("f", "SELECT nonsense"), B("", "f"), E(), S), "E(42703) ZI")
same(c.ask(C("S", "s"), C("S", "s"), C("P", "nothing"), P("s", "SELECT 3"), B("", "s"), E(), S), "3 3 3 1 2 D(3) C(SELECT 1) ZI")
same(c.ask(D("S", "s"), S), "t T ZI")
same(c.ask(D("S", "ghost"), S), "E(26000) ZI")
same(c.ask(D("P", "ghost"), S), "E(34000) ZI")
same(c.ask(E("ghost"), S), "E(34000) ZI")
# A statement survives ROLLBACK.
same(c.ask(Q("BEGIN"), P("r", "SELECT 4"), S) + " " + short(c.until("Z")), "C(BEGIN) ZT 1 ZT")
same(c.ask(Q("ROLLBACK")), "C(ROLLBACK) ZI")
same(c.ask(B("", "r"), E(), S), "2 D(4) C(SELECT 1) ZI")
# SQL PREPARE, wire Bind; wire Parse, SQL EXECUTE.
same(c.ask(Q("PREPARE p AS SELECT $1 || '!'")), "C(PREPARE) ZI")
same(c.ask(B("", "p", ["a"]), D("P"), E(), S), "2 T D(a!) C(SELECT 1) ZI")
same(c.ask(P("w", "INSERT INTO wire_names VALUES ($1::int)"), S), "1 ZI")
same(c.ask(Q("EXECUTE w(7)")), "C(INSERT 0 1) ZI")
same(c.ask(Q("DEALLOCATE w")), "C(DEALLOCATE) ZI")
same(c.ask(B("", "w", ["1"]), S), "E(26000) ZI")
same(c.ask(Q("DISCARD ALL")), "C(DISCARD ALL) ZI")
same(c.ask(B("", "p", ["a"]), S), "E(26000) ZI")
# A refused PREPARE leaves no name to bind, in either protocol.
same(c.ask(Q("PREPARE d AS SELECT 1; DROP TABLE orders")), "E(42501) ZI")
same(c.ask(B("", "d"), S), "E(26000) ZI")

# Portals: row limits, Flush, suspension, closing.
same(c.ask(Q("BEGIN")), "C(BEGIN) ZT")
c.send(P("", "SELECT generate_series(1, 5)"), B("po"), D("P", "po"), E("po", 2), H)
same(short(c.until("s")), "1 2 T D(1) D(2) s")
c.send(E("po", 2), H)
same(short(c.until("s")), "D(3) D(4) s")
same(c.ask(Q("SELECT 'between'")), "T D(between) C(SELECT 1) ZT")
same(c.ask(E("po", 2), S), "D(5) C(SELECT 1) ZT")
same(c.ask(C("P", "po"), S), "3 ZT")
# A cursor of SQL, run by the wire.
same(c.ask(Q("DECLARE cu SCROLL CURSOR FOR SELECT generate_series(1, 3)")), "C(DECLARE CURSOR) ZT")
same(c.ask(D("P", "cu"), E("cu", 2), S), "T D(1) D(2) s ZT")
same(c.ask(Q("FETCH 1 FROM cu")), "T D(3) C(FETCH 1) ZT")
same(c.ask(Q("MOVE BACKWARD ALL IN cu")), "C(MOVE 2) ZT")
same(c.ask(E("cu"), S), "D(1) D(2) D(3) C(SELECT 3) ZT")
same(c.ask(Q("CLOSE cu")), "C(CLOSE CURSOR) ZT")
same(c.ask(E("cu"), S), "E(34000) ZE")
same(c.ask(Q("COMMIT")), "C(ROLLBACK) ZI")

# A simple Query takes the unnamed statement away.
same(c.ask(P("", "SELECT 5"), S), "1 ZI")
same(c.ask(B(), E(), S), "2 D(5) C(SELECT 1) ZI")
same(c.ask(Q("SELECT 1")), "T D(1) C(SELECT 1) ZI")
same(c.ask(B(), E(), S), "E(26000) ZI")
"#,
    );
}

#[test]
fn copies_pass_in_both_protocols() {
    server()
        .psql(
            "shop",
            "CREATE TABLE IF NOT EXISTS wire_copy (a int, b text); GRANT ALL ON wire_copy TO shop_agent;
             CREATE TABLE IF NOT EXISTS wire_trigger (a int); GRANT ALL ON wire_trigger TO shop_agent;
             CREATE OR REPLACE FUNCTION wire_no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
             CREATE OR REPLACE TRIGGER wire_no BEFORE INSERT ON wire_trigger EXECUTE FUNCTION wire_no()",
        )
        .unwrap();
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
def d(data): return message("d", data.encode() if isinstance(data, str) else data)
done = message("c")
def failed(why): return message("f", text(why))
COPY = "COPY wire_copy FROM STDIN"
c = Conn().login()

# One after the other, as libpq does.
same(short(c.send(Q(COPY)).until("G")), "G")
same(c.ask(d("1\ta\n2"), d("\tb\n"), done), "C(COPY 2) ZI")
same(short(c.send(run(COPY), S).until("G")), "1 2 G")
same(c.ask(d("3\tc\n"), done, S), "C(COPY 1) ZI")
# Sync and Flush within the data are swallowed.
same(short(c.send(run(COPY), S).until("G")), "1 2 G")
same(c.ask(S, d("4\td\n"), H, S, d("5\te\n"), done, S), "C(COPY 2) ZI")
# All in one go.
same(c.ask(Q(COPY), d("6\tf\n"), done), "G C(COPY 1) ZI")
same(c.ask(run(COPY), d("7\tg\n"), done, S), "1 2 G C(COPY 1) ZI")
same(c.ask(run(COPY), S, d("8\th\n"), done, S), "1 2 G C(COPY 1) ZI")
same(c.ask(Q(COPY + ";" + COPY), d("9\ti\n"), done, d("10\tj\n"), done), "G C(COPY 1) G C(COPY 1) ZI")
same(c.ask(Q("SELECT count(*) FROM wire_copy")), "T D(10) C(SELECT 1) ZI")
# Given up by the client.
same(c.ask(Q(COPY), failed("enough")), "G E(57014) ZI")
same(c.ask(run(COPY), failed("enough"), S), "1 2 G E(57014) ZI")
# Failed by the server in the middle, with more data on its way.
same(c.ask(Q(COPY), d("x\ty\n"), d("11\tk\n" * 1000), done), "G E(22P02) ZI")
c.send(run(COPY), S, d("x\ty\n"))
same(short(c.until("E")), "1 2 G E(22P02)")
same(c.ask(d("11\tk\n" * 1000), done, S), "ZI")
# Failed before it begins, and by a trigger right after.
same(c.ask(Q("COPY nowhere FROM STDIN"), d("1\n"), done), "E(42P01) ZI")
same(c.ask(run("COPY nowhere FROM STDIN"), d("1\n"), done, S), "1 2 E(42P01) ZI")
c.send(run("COPY wire_trigger FROM STDIN"), S, d("1\n"), done, S)
same(short(c.until("Z")), "1 2 G E(P0001) ZI")
c.sock.settimeout(0.3)
try:
    same(short(c.until("Z")), "ZI")  # whether the first Sync was read before the trigger ran is the server's affair
except TimeoutError:
    pass
c.sock.settimeout(10)
# A large message, and stray ones.
same(c.ask(Q(COPY), d(b"12\t" + b"x" * 3_000_000 + b"\n"), done), "G C(COPY 1) ZI")
same(c.ask(d("stray"), done, failed("stray"), Q("SELECT length(b) FROM wire_copy WHERE a = 12")), "T D(3000000) C(SELECT 1) ZI")
# Refused, with the data right behind it.
same(c.ask(Q("CREATE TABLE no (a int); COPY no FROM STDIN"), d("1\n"), done), "E(42501) ZI")
same(c.ask(run("DROP TABLE no"), d("1\n"), done, S), "E(42501) ZI")
# Out.
same(c.ask(Q("COPY (SELECT 1, 'a') TO STDOUT")), "H d c C(COPY 1) ZI")
same(c.ask(run("COPY (SELECT generate_series(1, 3)) TO STDOUT (FORMAT binary)"), S), "1 2 H d d d d c C(COPY 3) ZI")
same(c.ask(Q("COPY (SELECT 1/(2-g) FROM generate_series(1, 2) g) TO STDOUT")), "H d E(22012) ZI")
same(c.ask(Q("SELECT 'after'")), "T D(after) C(SELECT 1) ZI")
"#,
    );
}

#[test]
fn what_the_server_says_by_itself_is_passed_on() {
    let daemon = daemon(NO_DDL);
    raw(
        &daemon,
        r#"
a, b = Conn().login(), Conn().login()
same(a.ask(Q("LISTEN wire")), "C(LISTEN) ZI")
same(b.ask(Q("NOTIFY wire, 'hello'")), "C(NOTIFY) ZI")
tag, body = a.next()  # while idle
assert tag == "A" and body[4:] == b"wire\0hello\0", (tag, body)
seen = a.send(Q("NOTIFY wire, 'self'")).until("Z")
same(short(seen), "C(NOTIFY) A ZI")
assert struct.unpack("!I", seen[1][1][:4]) == (a.pid,), "clients tell their own notifications by this"
seen = a.send(Q("SET application_name = 'renamed'")).until("Z")
same(short(seen), "C(SET) S ZI")
assert [body for tag, body in seen if tag == "S"] == [b"application_name\0renamed\0"]
seen = a.send(Q("DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$")).until("Z")
same(short(seen), "N N C(DO) ZI")
assert fields(seen[1][1])["M"] == "a warning"
# A long notice and a long error arrive whole.
seen = a.send(Q("DO $$ BEGIN RAISE NOTICE '%', repeat('n', 1000000); END $$")).until("Z")
assert fields(seen[0][1])["M"] == "n" * 1000000
seen = a.send(Q("SELECT repeat('e', 1000000)::int")).until("Z")
assert [len(fields(body)["M"]) for tag, body in seen if tag == "E"][0] > 1000000
# The end of a session by somebody else.
pid = values(a.send(Q("SELECT pg_backend_pid()")).until("Z")[1][1])[0]
b.ask(Q(f"SELECT pg_terminate_backend({pid})"))
left = a.closed()
assert left == "E(57P01)", left
# In the middle of a statement, too, the server's word is the last one.
c = Conn().login()
pid = values(c.send(Q("SELECT pg_backend_pid()")).until("Z")[1][1])[0]
c.send(Q("SELECT pg_sleep(30)"))
b.ask(Q(f"DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep') LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP; PERFORM pg_terminate_backend({pid}); END $$"))
left = c.closed()
assert left.endswith("E(57P01)") and left.count("E(") == 1, left
# Goodbye right behind a question: it is answered first.
same(b.send(Q("SELECT pg_sleep(0.2), 'last'"), X).closed(), "T D(,last) C(SELECT 1) ZI")
"#,
    );
    let ends = super::ends(&daemon);
    assert!(ends.iter().any(|end| end.contains("finished")), "{ends:?}");
}
