//! SSH through Portcullis: unchanged clients of an unprivileged agent against a real OpenSSH server.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use harness::daemon::Daemon;
use harness::process::{self, Finished};
use harness::ssh::SshServer;
use serde_json::Value;

mod commands;
mod downloads;
mod files;
mod forwards;
mod hostile;
mod hosts;
mod lines;
mod logins;
mod operators;
mod peers;
mod record;
mod scp;
mod sftp;
mod terminal;

/// One server for all tests of this binary, on an address that another one running now does not have.
pub(crate) fn server() -> &'static SshServer {
    static SERVER: OnceLock<SshServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        SshServer::start(Ipv4Addr::new(127, 128 | (b & 0x3f), c, d)).expect("an SSH server")
    })
}

/// A guard that lets everything pass.
const ALLOW: &str = "[[guard]]\nname = \"the rest\"\non = \"ssh\"\n\
    effect = [\"read\", \"write\", \"ddl\", \"admin\", \"unknown\"]\naction = \"allow\"\n";

/// A daemon with these rules.
fn daemon(rules: &str) -> Daemon {
    daemon_with("", rules)
}

/// The same, with more of the connection's table.
fn daemon_with(connection: &str, rules: &str) -> Daemon {
    server().daemon(&server().policy("", connection, rules).expect("a policy")).expect("a daemon")
}

/// Runs one command with OpenSSH's client.
fn ssh(daemon: &Daemon, command: &str) -> Finished {
    process::finish(&mut server().ssh(daemon, &[], &[command]).expect("ssh")).expect("ssh")
}

/// All events of the last session that there is.
fn last_session(daemon: &Daemon) -> Vec<Value> {
    daemon
        .until(&["sessions", "show", "last"], |events| {
            events.iter().any(|event| event["event"] == "session_closed")
        })
        .expect("a session that has ended")
}
