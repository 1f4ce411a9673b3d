//! HTTP through Portcullis: unchanged clients of an unprivileged agent against a real server, over TLS on both sides.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use harness::daemon::Daemon;
use harness::process::{self, Finished, Talking};
use harness::web::client::Way;
use harness::web::policy::{ALLOW, MASKS, http_policy, intercepted};
use harness::web::{HttpServer, Port, TOKEN};
use serde_json::Value;

mod clients;
mod disk;
mod frames;
mod git;
mod grpc;
mod guards;
mod hello;
mod holds;
mod inject;
mod large;
mod malformed;
mod planted;
mod profiles;
mod proxying;
mod record;
mod requests;
mod streams;
mod upstream;

/// What every planted card number begins with.
const CARD_PREFIX: &str = "49297183";

/// One server for all tests of this binary, on an address that another one running now does not have.
fn server() -> &'static HttpServer {
    static SERVER: OnceLock<HttpServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        HttpServer::start(Ipv4Addr::new(127, 64 | (b & 0x3f), c, d)).expect("an HTTP server")
    })
}

/// A daemon with these connections and rules as its policy `shop`, and the shop's token.
fn daemon_of(connections: &[String], rules: &str) -> Daemon {
    let mut daemon = Daemon::prepare(&[("shop", &http_policy(connections, rules))]).expect("a folder");
    daemon.credential("shop-token", TOKEN).expect("a credential");
    daemon.launch().expect("a daemon");
    daemon
}

/// A daemon over the intercepted server with these rules in front of the one that lets the rest pass.
fn daemon(rules: &str) -> Daemon {
    daemon_of(&[intercepted(server(), Port::Https)], &format!("{rules}\n{ALLOW}"))
}

/// Everything passes and what the server plants is masked.
fn masked() -> Daemon {
    daemon(MASKS)
}

/// What curl printed; it must have succeeded.
#[track_caller]
fn curl(daemon: &Daemon, arguments: &[&str]) -> String {
    let seen = tried(daemon, arguments);
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, daemon.log());
    seen.stdout
}

/// curl, however it ends.
fn tried(daemon: &Daemon, arguments: &[&str]) -> Finished {
    Way::Governed(daemon).curled(server(), Port::Https, arguments).expect("curl")
}

/// curl's answer in parts.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Lower-case names and their values, in order.
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless it is an answer of Portcullis's own with this status; returns its fields (RFC 9457).
    #[track_caller]
    fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem
    }
}

/// curl's answer with its head; curl must have got one.
#[track_caller]
fn answer(daemon: &Daemon, arguments: &[&str]) -> Answer {
    answer_at(daemon, Port::Https, arguments)
}

#[track_caller]
fn answer_at(daemon: &Daemon, port: Port, arguments: &[&str]) -> Answer {
    let mut words = vec!["--include"];
    words.extend(arguments);
    let seen = Way::Governed(daemon).curled(server(), port, &words).expect("curl");
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, daemon.log());
    parsed(&seen.stdout)
}

/// The last answer in what `curl --include` printed: interim ones may come before it.
#[track_caller]
fn parsed(printed: &str) -> Answer {
    let mut rest = printed;
    loop {
        let (head, body) =
            rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer with a head: {printed}"));
        let mut lines = head.lines();
        let status: u16 =
            lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        if status < 200 || status_of_tunnel(head) {
            rest = body;
            continue;
        }
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        return Answer { status, headers, body: body.to_owned() };
    }
}

/// Whether this is a proxy's answer to CONNECT, which has nothing but its first line (curl prints those, too).
fn status_of_tunnel(head: &str) -> bool {
    head.to_ascii_lowercase().contains("connection established") || head.lines().count() == 1
}

/// A script with the client libraries; it must succeed. Returns the JSON it printed last.
#[track_caller]
fn python(daemon: &Daemon, script: &str) -> Value {
    let seen = script_of(Way::Governed(daemon), script);
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, daemon.log());
    last_json(&seen.stdout)
}

/// The same without Portcullis: what a test compares with, and what shows that its script can see a secret at all.
#[track_caller]
fn direct(script: &str) -> Value {
    let seen = script_of(Way::Direct, script);
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, server().errors());
    last_json(&seen.stdout)
}

fn script_of(way: Way<'_>, script: &str) -> Finished {
    process::finish(&mut way.python(server(), script).expect("a command")).expect("python")
}

/// A script that is talked with while it runs.
fn talking(daemon: &Daemon, script: &str) -> Talking {
    Talking::spawn(&mut Way::Governed(daemon).python(server(), script).expect("a command")).expect("python")
}

#[track_caller]
fn last_json(printed: &str) -> Value {
    let line = printed.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// How many requests reached the server whose target contains this.
fn reached(target: &str) -> usize {
    server().requests(target).expect("the server's log").len()
}

/// Peak resident memory of a process, in kB.
fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// The peak from here on (proc(5), clear_refs), which is what is resident now.
fn reset_peak(pid: u32) -> u64 {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("root");
    peak_kb(pid)
}

/// A fresh target that no other test's requests contain.
fn marker(test: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("m-{test}-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
