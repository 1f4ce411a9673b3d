//! HTTP from end to end: unchanged clients in a governed cgroup against a real server.

mod bodies;
mod clients;
mod guards;
mod record;
mod secrets;
mod trouble;

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use harness::agent;
use harness::daemon::Daemon;
use harness::http::{HttpServer, TOKEN};
use harness::process::{self, Finished, NOBODY, Talking};

/// Masks that every test of answers relies on.
pub(crate) const MASKS: &str = r#"
[[mask]]
on = "http"
json = ["$.customers[*].ssn"]
with = "redact"

[[mask]]
detect = ["payment-card", "email", "api-key", "jwt", "aws-key", "iban", "private-key", "password-in-url"]
with = "redact"
"#;

/// Lets everything pass.
pub(crate) const ALLOW: &str = r#"
[defaults]
write = "allow"
ddl = "allow"
admin = "allow"
unknown = "allow"
"#;

/// One server for all tests of this binary.
pub(crate) fn server() -> &'static HttpServer {
    static SERVER: OnceLock<HttpServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        HttpServer::start(Ipv4Addr::new(127, 192 | (b & 0x3f), c, d)).expect("an HTTP server")
    })
}

/// A daemon with the server's policy and more.
pub(crate) fn web(more: &str) -> Daemon {
    let daemon = Daemon::prepare(&[("web", &server().policy(more))]).expect("a daemon's folder");
    daemon.credential("shop-token", TOKEN).expect("a credential");
    let mut daemon = daemon;
    daemon.launch().expect("a daemon");
    daemon
}

/// Runs a command as the agent.
pub(crate) fn agent(daemon: &Daemon, command: &[&str]) -> Finished {
    let mut run = agent::under(daemon, NOBODY, "web").expect("a command");
    run.env("HOME", "/nonexistent").args(command);
    process::finish(&mut run).expect("an agent")
}

/// curl with a bound on its time.
pub(crate) fn curl(daemon: &Daemon, arguments: &[&str]) -> Finished {
    let mut words = vec!["curl", "--silent", "--show-error", "--max-time", "20"];
    words.extend(arguments);
    agent(daemon, &words)
}

/// curl that goes on while the test does something else.
pub(crate) fn curl_meanwhile(daemon: &Daemon, arguments: &[&str]) -> Talking {
    let mut run = agent::under(daemon, NOBODY, "web").expect("a command");
    run.args([
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "40",
        "--write-out",
        "\\nstatus %{http_code}\\n",
    ]);
    Talking::spawn(run.args(arguments)).expect("curl")
}

/// A Python script with the clients' libraries. `sys.argv[1]` is the server's address.
pub(crate) fn python(daemon: &Daemon, script: &str) -> Finished {
    let address = server().address().to_string();
    // From a file: command lines are recorded, and scripts hold planted secrets.
    let file = daemon.folder().join("agent.py");
    std::fs::write(&file, script).expect("a script");
    agent(daemon, &[&process::python().to_string_lossy(), "-u", &file.to_string_lossy(), &address])
}

/// The status code and the body of what curl printed with `--include`.
pub(crate) fn answer(seen: &Finished) -> (u16, String) {
    let text = &seen.stdout;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, body.to_owned())
}
