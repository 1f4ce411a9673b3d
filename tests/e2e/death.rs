//! The daemon's end in the middle of everything: killed, stopped, started again, detached. Agents are never ungoverned
//! unless somebody says `detach`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use harness::daemon::{Daemon, shop_policy};
use serde_json::{Value, json};

use crate::interactive::Interactive;
use crate::spine::server;
use crate::wait;

const REFUSED: &str = "ECONNREFUSED";
const WAIT_MAX: Duration = Duration::from_secs(15);

/// A server that sends back what it gets, and counts who came.
struct Echo {
    address: SocketAddr,
    guests: Arc<AtomicUsize>,
}

impl Echo {
    fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let guests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&guests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                let mut stream = stream.unwrap();
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        Self { address, guests }
    }

    /// Guests so far, apart from this test itself, which comes by to see that the server still answers: connections are
    /// accepted in order, so whoever came before is counted then. This process is never governed.
    fn guests(&self) -> usize {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(b"knock").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        self.guests.fetch_sub(1, Ordering::SeqCst) - 1
    }
}

/// The same server behind three spellings of an address: IPv4, IPv6, and IPv4 in an IPv6 socket.
struct Target {
    v4: Echo,
    v6: Echo,
}

impl Target {
    fn start(last: u8) -> Self {
        Self {
            v4: Echo::start(Ipv4Addr::new(127, 78, 0, last).into()),
            v6: Echo::start(Ipv6Addr::LOCALHOST.into()),
        }
    }

    fn spellings(&self) -> [(&'static str, SocketAddr); 3] {
        let IpAddr::V4(v4) = self.v4.address.ip() else { unreachable!() };
        let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), self.v4.address.port());
        [("v4", self.v4.address), ("v6", self.v6.address), ("mapped", mapped)]
    }

    fn guests(&self) -> usize {
        self.v4.guests() + self.v6.guests()
    }
}

/// The shop, and everything else relayed unread.
fn start() -> Daemon {
    let policy = shop_policy(server()).replace("default = \"deny\"", "default = \"record\"");
    Daemon::start(&[("shop", &policy)]).unwrap()
}

fn run_ids(daemon: &Daemon) -> Vec<String> {
    let status = daemon.json(&["status"]).unwrap();
    status["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
}

/// Sessions, newest first.
fn sessions(daemon: &Daemon) -> Vec<Value> {
    lines(&daemon.cli(&["sessions", "list", "--json"]).unwrap().stdout)
}

fn events(daemon: &Daemon, session: &Value) -> Vec<Value> {
    let id = session["session"].as_str().unwrap();
    lines(&daemon.cli(&["sessions", "show", id, "--json"]).unwrap().stdout)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name} in {events:#?}"))
}

/// The folder of this daemon's runs in the cgroup tree, which the test's name is part of.
fn cgroups(daemon: &Daemon) -> PathBuf {
    let name = daemon.folder().file_name().unwrap();
    let root = portcullis::intercept::cgroup2_root().unwrap();
    root.join(name)
}

fn pins(daemon: &Daemon) -> PathBuf {
    let name = daemon.folder().file_name().unwrap().to_string_lossy().replace('.', "-");
    PathBuf::from("/sys/fs/bpf").join(name)
}

/// Nothing that the agent dials now arrives anywhere.
fn assert_closed(agent: &mut Interactive, target: &Target) {
    let before = target.guests();
    for (name, address) in target.spellings() {
        assert_eq!(agent.dial("closed", address), json!({ "errno": REFUSED }), "{name}");
    }
    let database = agent.login("closed", server(), "shop");
    assert!(database["text"].as_str().unwrap().contains("Connection refused"), "{database}");
    assert_eq!(target.guests(), before, "something went past the gate");
}

/// What the agent dials arrives, through the gate or not.
fn assert_open(agent: &mut Interactive, target: &Target) {
    let before = target.guests();
    for (name, address) in target.spellings() {
        assert_eq!(agent.dial(name, address), "connected", "{name}");
        assert_eq!(agent.ask(&format!("say({name:?}, 'hello')")), "hello", "{name}");
    }
    assert_eq!(target.guests(), before + 3);
}

#[test]
fn killed_in_mid_session_nothing_passes_and_a_restart_takes_over() {
    let target = Target::start(1);
    let mut daemon = start();
    let mut agent = Interactive::start(&daemon, "shop");
    let mut leaving = Interactive::start(&daemon, "shop");
    let runs = [agent.run(), leaving.run()];
    assert_open(&mut agent, &target);
    assert_eq!(agent.login("db", server(), "shop"), "connected");
    assert_eq!(agent.sql("db", "SELECT 1 AS one"), json!([[1]]));
    agent.ask("later('db', 'SELECT pg_sleep(600) /* cut off */')");
    let cut_off = "query LIKE '%cut off%' AND pid <> pg_backend_pid()";
    wait::until(WAIT_MAX, || {
        let query = format!("SELECT count(*) FROM pg_stat_activity WHERE {cut_off}");
        let running = server().psql("shop", &query).unwrap();
        if running.trim() == "1" { Ok(()) } else { Err("the statement does not run") }
    });

    daemon.kill().unwrap();

    for (name, _) in target.spellings() {
        let end = agent.ask(&format!("end({name:?})"));
        assert!(end == "" || end == json!({ "errno": "ECONNRESET" }), "{name}: {end}");
    }
    let broken = agent.sql("db", "SELECT 2");
    assert!(broken["sqlstate"].is_null() && broken["text"].is_string(), "{broken}");
    assert_closed(&mut agent, &target);
    // A run may also end while nobody watches.
    leaving.finish();
    assert_closed(&mut agent, &target);

    daemon.launch().unwrap();

    wait::until(WAIT_MAX, || match run_ids(&daemon) {
        left if left == runs[..1] => Ok(()),
        left => Err(format!("{left:?} are left of {runs:?}\n{}", daemon.log())),
    });
    assert!(!cgroups(&daemon).join(&runs[1]).exists());
    let recorded = sessions(&daemon);
    let [database, opaque @ ..] = recorded.as_slice() else { panic!("nothing is recorded") };
    assert_eq!(opaque.len(), 3, "{recorded:#?}");
    for session in &recorded {
        assert_eq!(
            (&session["ended_reason"], &session["opened"]["run"]),
            (&json!("daemon_died"), &json!(runs[0]))
        );
    }
    let events = events(&daemon, database);
    let intents: Vec<_> =
        events.iter().filter(|event| event["event"] == "intent").map(|event| &event["asked"]).collect();
    assert_eq!(intents.len(), 2, "{events:#?}");
    assert_eq!(intents[1]["text"]["text"], "SELECT pg_sleep(600) /* cut off */", "{events:#?}");
    let outcome = events.iter().rfind(|event| event["event"] == "outcome").unwrap();
    assert_eq!((&outcome["operation"], &outcome["status"]), (&intents[1]["operation"], &json!("unknown")));
    assert_eq!(event(&events, "session_closed")["side"], "portcullis");

    // Started under the dead daemon, governed by the new one.
    assert_open(&mut agent, &target);
    assert_eq!(agent.login("db", server(), "shop"), "connected");
    assert_eq!(agent.sql("db", "SELECT ssn FROM customers WHERE id = 1"), json!([["[redacted]"]]));
    let newest = &sessions(&daemon)[0];
    assert_eq!(
        (&newest["opened"]["run"], &newest["opened"]["connection"]),
        (&json!(runs[0]), &json!("shop-db"))
    );
    server()
        .psql("shop", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {cut_off}"))
        .unwrap();
}

#[test]
fn stopped_sessions_are_told_and_the_gate_stays_shut() {
    let target = Target::start(2);
    let mut daemon = start();
    let mut agent = Interactive::start(&daemon, "shop");
    let run = agent.run();
    assert_open(&mut agent, &target);
    assert_eq!(agent.login("db", server(), "shop"), "connected");
    assert_eq!(agent.sql("db", "SELECT 1"), json!([[1]]));
    assert_eq!(agent.dial("raw", server().address().into()), "connected");
    assert_eq!(agent.ask("greet('raw', 'shop')"), "ready");

    daemon.signal("TERM").unwrap();
    assert!(daemon.wait().unwrap(), "{}", daemon.log());

    // The client library keeps the text of what was said while nobody asked; the code is on the wire.
    let heard = agent.ask("end('raw')");
    assert!(heard.as_str().unwrap().contains("\0C57P01\0M"), "{heard}");
    let told = agent.sql("db", "SELECT 2");
    assert!(told["text"].as_str().unwrap().contains("portcullis: the daemon is stopping"), "{told}");
    assert!(pins(&daemon).is_dir(), "the links outlive the daemon");
    assert_closed(&mut agent, &target);
    for session in sessions(&daemon) {
        assert_eq!(session["ended_reason"], "drained", "{session}");
    }

    daemon.launch().unwrap();
    assert_eq!(run_ids(&daemon), [run]);
    assert_open(&mut agent, &target);
    assert_eq!(agent.login("db", server(), "shop"), "connected");
    assert_eq!(agent.sql("db", "SELECT ssn FROM customers WHERE id = 1"), json!([["[redacted]"]]));
}

#[test]
fn a_detach_lifts_the_gate_for_agents_that_still_run() {
    let target = Target::start(3);
    let mut daemon = start();
    let mut agent = Interactive::start(&daemon, "shop");
    let ended = Interactive::start(&daemon, "shop");
    let run = agent.run();
    ended.finish();
    assert_open(&mut agent, &target);
    assert_eq!(agent.login("db", server(), "shop"), "connected");

    let detached = daemon.cli(&["detach"]).unwrap();
    assert_eq!(detached.code, 0, "{}", detached.stderr);
    assert!(daemon.wait().unwrap(), "{}", daemon.log());

    let told = agent.sql("db", "SELECT 2");
    assert!(told["text"].as_str().unwrap().contains("portcullis: the daemon is stopping"), "{told}");
    assert!(!pins(&daemon).exists());
    // The agent's own cgroup stays as long as it does; nothing else.
    let left: Vec<_> = fs::read_dir(cgroups(&daemon)).unwrap().map(|entry| entry.unwrap()).collect();
    let left: Vec<_> = left.iter().filter(|entry| entry.file_type().unwrap().is_dir()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].file_name().to_string_lossy(), run);
    // Ungoverned now: it reaches the servers itself, and the database wants a password that it does not have.
    assert_open(&mut agent, &target);
    let login = agent.login("db", server(), "shop");
    assert!(login["text"].as_str().unwrap().contains("fe_sendauth: no password supplied"), "{login}");

    assert_eq!(detached.stdout, "detached; runs that go on ungoverned: 1\n");
    // A second detach, without a daemon, has nothing to do but to remove the cgroup.
    agent.finish();
    let again = daemon.cli(&["detach"]).unwrap();
    assert_eq!((again.code, again.stdout.as_str()), (0, "detached; nothing is governed any more\n"));
    assert!(!cgroups(&daemon).exists());
}

#[test]
fn a_detach_after_a_crash_cleans_up() {
    let target = Target::start(4);
    let mut daemon = start();
    let mut agent = Interactive::start(&daemon, "shop");
    let ended = Interactive::start(&daemon, "shop");
    assert_open(&mut agent, &target);
    daemon.kill().unwrap();
    ended.finish();
    assert_closed(&mut agent, &target);

    let detached = daemon.cli(&["detach"]).unwrap();
    assert_eq!(detached.code, 0, "{}", detached.stderr);

    assert!(!pins(&daemon).exists());
    assert_open(&mut agent, &target);
    agent.finish();
    assert_eq!(daemon.cli(&["detach"]).unwrap().code, 0);
    assert!(!cgroups(&daemon).exists());
    // What was detached is not taken up again.
    daemon.launch().unwrap();
    assert_eq!(run_ids(&daemon), [""; 0]);
    assert!(sessions(&daemon).iter().all(|session| session["ended_reason"] == "daemon_died"));
}
