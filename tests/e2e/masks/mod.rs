//! Masking against a real server and real drivers: whatever is asked, a masked value never comes back.

use std::sync::OnceLock;

use harness::agent;
use harness::daemon::Daemon;
use harness::postgres::{ROLE, Server};
use harness::process::{self, Finished, NOBODY};
use serde_json::Value;

use crate::spine::server;

mod copies;
mod honest;
mod inputs;
mod kinds;
mod large;
mod predicates;
mod schema;

/// Database of these tests.
const DATABASE: &str = "masks";

/// Parts of the values that nobody may see: of every masked text, card and address there is.
const SECRETS: &[&str] = &[
    "918-27",
    "-27-10",
    "4111 1111",
    "5500 0000",
    "6011 0000",
    "3400 0000",
    "1111 1111 1",
    "customer1@",
    "customer2@",
    "ada@example",
];

/// The server, with this module's database in it.
fn prepared() -> &'static Server {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        server().psql("postgres", "CREATE DATABASE masks").expect("a database");
        server().psql(DATABASE, include_str!("masks.sql")).expect("its tables");
    });
    server()
}

/// What a policy of these tests allows besides reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guards {
    /// Everything: as if an approver said yes to whatever is asked.
    AllowAll,
    /// Writes.
    AllowWrites,
}

/// A policy that leaves the protection of values to its masks.
fn policy(guards: Guards, rules: &str) -> String {
    let effects = match guards {
        Guards::AllowAll => r#"["write", "ddl", "admin", "unknown"]"#,
        Guards::AllowWrites => r#"["write"]"#,
    };
    let server = prepared();
    format!(
        r#"version = 1
name = "shop"

[[connection]]
name = "masks"
to = ["{address}"]
protocol = "postgres"
upstream = {{ user = "{ROLE}", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}

[[guard]]
name = "as an approver would"
on = "postgres"
effect = {effects}
action = "allow"

{rules}

[defaults]
unknown = "deny"
"#,
        address = server.address(),
        ca = server.ca().display(),
    )
}

/// The masks of most tests.
const RULES: &str = r#"
[[mask]]
on = "postgres"
columns = ["*.ssn", "other.pair.name"]
with = "redact"

[[mask]]
detect = ["payment-card", "email"]
with = "partial"
"#;

fn daemon(guards: Guards) -> Daemon {
    Daemon::start(&[("shop", &policy(guards, RULES))]).expect("a daemon")
}

/// A daemon with column rules of the test's own.
fn daemon_with(rules: &str) -> Daemon {
    Daemon::start(&[("shop", &policy(Guards::AllowAll, rules))]).expect("a daemon")
}

/// Runs Python with `raw.py` in front; the script finds the server in `HOST` and `PORT`.
fn python(daemon: &Daemon, script: &str) -> Finished {
    let script = format!("{}\n{script}", include_str!("raw.py"));
    agent::python(daemon, prepared(), NOBODY, &script).expect("python")
}

/// The JSON that a script printed last; the script must have succeeded.
fn json(daemon: &Daemon, script: &str) -> Value {
    let finished = python(daemon, script);
    assert_eq!(finished.code, 0, "{}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
    let line = finished.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
}

/// Runs statements with psql, each as a message of its own, going on after errors.
fn psql(daemon: &Daemon, arguments: &[&str], statements: &[&str]) -> Finished {
    let server = prepared();
    let mut run = agent::under(daemon, NOBODY, "shop").expect("a command");
    run.arg(harness::postgres::psql())
        .args(["--no-psqlrc", "--set=VERBOSITY=verbose", "--no-align"])
        .args(arguments);
    run.arg(format!(
        "host={} port={} user=agent dbname={DATABASE}",
        server.address().ip(),
        server.address().port()
    ));
    for statement in statements {
        run.args(["--command", statement]);
    }
    process::finish(&mut run).expect("psql")
}

fn unhex(text: &str) -> Vec<u8> {
    let byte =
        |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2).unwrap_or_default(), 16).expect("hex");
    (0..text.len() / 2).map(byte).collect()
}

/// The first secret found in bytes, with what stands around it.
fn leak_in(bytes: &[u8]) -> Option<String> {
    SECRETS.iter().find_map(|secret| {
        let at = bytes.windows(secret.len()).position(|window| window == secret.as_bytes())?;
        let around = bytes.get(at.saturating_sub(200)..(at + 200).min(bytes.len())).unwrap_or_default();
        Some(format!("`{secret}` in: {}", String::from_utf8_lossy(around)))
    })
}

/// Everything the daemon kept of all its sessions, as the command line shows it.
fn recording(daemon: &Daemon) -> String {
    let listed = daemon.cli(&["sessions", "list", "--json"]).expect("a listing");
    let mut all = listed.stdout.clone();
    let mut sessions = 0;
    for line in listed.stdout.lines() {
        let session: Value = serde_json::from_str(line).expect("a session");
        let id = session.get("session").and_then(Value::as_str).expect("its id");
        all += &daemon.cli(&["sessions", "show", id, "--json"]).expect("a session").stdout;
        sessions += 1;
    }
    assert!(sessions > 0, "nothing was recorded: {}", daemon.log());
    all
}

/// Nothing secret was received, and nothing secret is on disk.
fn assert_no_leak(daemon: &Daemon, received: &[u8]) {
    if let Some(leak) = leak_in(received) {
        panic!("the agent received {leak}");
    }
    if let Some(leak) = leak_in(recording(daemon).as_bytes()) {
        panic!("the recording holds {leak}");
    }
    let state = daemon.folder().join("state");
    let mut folders = vec![state];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the store").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if let Some(leak) = leak_in(&std::fs::read(entry.path()).unwrap_or_default()) {
                panic!("{} holds {leak}", entry.path().display());
            }
        }
    }
}
