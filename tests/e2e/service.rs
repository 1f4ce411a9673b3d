//! The systemd unit's privileges are enough: the daemon starts, governs and relays with them and no others.

use std::process::Command;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{self, NOBODY};

use crate::spine::server;

const UNIT: &str = include_str!("../../systemd/portcullis.service");

/// `setpriv --bounding-set` for the unit's capabilities.
fn bounding_set() -> String {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names = line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    names.fold("-all".to_owned(), |set, name| format!("{set},+{name}"))
}

#[test]
fn the_units_privileges_are_enough() {
    let mut daemon = Daemon::prepare(&[("shop", &shop_policy(server()))]).unwrap();
    let mut serve = Command::new("setpriv");
    serve.arg("--no-new-privs").arg(format!("--bounding-set={}", bounding_set())).arg("--inh-caps=-all");
    // The unit's `UMask=`, in the daemon's own process so that signals reach it.
    serve.args(["sh", "-c", "umask 0077 && exec \"$0\" \"$@\""]).arg(process::portcullis().unwrap());
    assert!(UNIT.contains("\nUMask=0077\n") && UNIT.contains("\nNoNewPrivileges=yes\n"));

    daemon.launch_as(serve).unwrap();

    let seen = agent::psql(&daemon, server(), NOBODY, "SELECT ssn FROM customers WHERE id = 1").unwrap();
    assert_eq!((seen.code, seen.stdout.trim()), (0, "[redacted]"), "{}\n{}", seen.stderr, daemon.log());
    let sessions = daemon.cli(&["sessions", "list", "--json"]).unwrap().stdout;
    // What only these capabilities let it see of another user's process.
    let session: serde_json::Value = serde_json::from_str(sessions.lines().next().unwrap()).unwrap();
    let shown =
        daemon.cli(&["sessions", "show", session["session"].as_str().unwrap(), "--json"]).unwrap().stdout;
    let opened: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert!(opened["flow"]["process"]["exe"].as_str().unwrap().ends_with("psql"), "{opened}");
}
