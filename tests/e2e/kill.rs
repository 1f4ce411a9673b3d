//! An operator ends a session of PostgreSQL: the client is told in its own terms, the record says who.

use std::thread;
use std::time::Duration;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::NOBODY;

use crate::spine::server;
use crate::wait;

const WAIT_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_statement_that_an_operator_ends_fails_as_by_an_administrator() {
    let daemon = Daemon::start(&[("shop", &shop_policy(server()))]).unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let endless = "SELECT count(*) FROM generate_series(1, 100000000000)";
            agent::psql(&daemon, server(), NOBODY, endless).unwrap()
        });
        let id = wait::until(WAIT_MAX, || {
            let live = daemon.json_lines(&["sessions", "list", "--live"]).unwrap();
            let running = live.iter().find(|session| session["operations"].as_u64() > Some(0));
            running
                .and_then(|session| Some(session["session"].as_str()?.to_owned()))
                .ok_or_else(|| format!("{live:?}"))
        });
        let killed = daemon.cli(&["sessions", "kill", &id, "--reason", "too long"]).unwrap();
        assert_eq!(killed.code, 0, "{}", killed.stderr);
        let seen = client.join().unwrap();
        assert_ne!(seen.code, 0);
        assert!(seen.stderr.contains("an operator ended this session: too long"), "{}", seen.stderr);
    });
    let sessions = daemon
        .until(&["sessions", "list"], |sessions| {
            sessions.iter().all(|session| !session["ended_reason"].is_null())
        })
        .unwrap();
    assert!(sessions.iter().any(|session| session["ended_reason"] == "killed"), "{sessions:?}");
}
