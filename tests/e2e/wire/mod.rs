//! The relay as a citizen of the PostgreSQL protocol: clients that speak it to its corners, and either side breaking it.

use std::time::{Duration, Instant};

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{Finished, NOBODY};

use serde_json::Value;

use crate::spine::server;

mod bad_client;
mod bad_server;
mod clients;
mod differential;
mod messages;
mod start;

/// A client that sends what it is told to.
const CLIENT: &str = include_str!("pg.py");

/// Schema changes are refused, everything else passes and nothing is masked.
const NO_DDL: &str = r#"
[[guard]]
name = "no schema changes"
on = "postgres"
effect = ["ddl"]
action = "deny"

[[guard]]
name = "the rest"
on = "postgres"
effect = ["read", "write", "admin", "unknown"]
action = "allow"
"#;

/// Everything passes and nothing is masked.
const ALL: &str = r#"
[[guard]]
name = "everything"
on = "postgres"
effect = ["read", "write", "ddl", "admin", "unknown"]
action = "allow"
"#;

/// A daemon with these guards over the shared server.
fn daemon(guards: &str) -> Daemon {
    let policy = format!(
        r#"version = 1
name = "shop"

[[connection]]
name = "shop-db"
to = ["{address}"]
protocol = "postgres"
upstream = {{ user = "{role}", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}
{guards}"#,
        address = server().address(),
        role = harness::postgres::ROLE,
        ca = server().ca().display(),
    );
    Daemon::start(&[("shop", &policy)]).unwrap()
}

/// Runs a script with the raw client under the policy; it must succeed.
#[track_caller]
fn raw(daemon: &Daemon, script: &str) -> String {
    let finished = tried(daemon, script);
    assert_eq!(finished.code, 0, "{}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
    finished.stdout
}

#[track_caller]
fn tried(daemon: &Daemon, script: &str) -> Finished {
    agent::python(daemon, server(), NOBODY, &format!("{CLIENT}\n{script}")).unwrap()
}

/// How each session ended, in the record's own words, once all have.
fn ends(daemon: &Daemon) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sessions = loop {
        let listed = daemon.cli(&["sessions", "list", "--json"]).unwrap().stdout;
        let sessions: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if sessions.iter().all(|session| !session["ended_reason"].is_null()) {
            break sessions;
        }
        assert!(Instant::now() < deadline, "sessions without an end: {listed}\n{}", daemon.log());
        // The record tells nobody that a session has ended; it is looked at until it has.
        std::thread::sleep(Duration::from_millis(20));
    };
    let ids = sessions.iter().map(|session| session["session"].as_str().unwrap());
    ids.map(|id| {
        let shown = daemon.cli(&["sessions", "show", id, "--json"]).unwrap().stdout;
        shown.lines().last().unwrap_or_default().to_owned()
    })
    .collect()
}
