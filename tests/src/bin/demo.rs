//! The demo: a private PostgreSQL, a private HTTPS API and a private SSH server, the daemon in a scratch folder, unprivileged agents, a reviewer.
//! It leaves nothing behind.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::http::HttpServer;
use harness::postgres::Server;
use harness::process::{self, NOBODY, Owned, REVIEWER};
use harness::ssh::SshServer;
use serde_json::Value;

/// What the agents do, read-only for them.
const AGENT: &str = include_str!("../agent.py");
const WEB_AGENT: &str = include_str!("../web_agent.py");
const SSH_AGENT: &str = include_str!("../ssh_agent.py");

/// What the policy `web` says beside its connections.
const WEB_RULES: &str = r#"
[[guard]]
name = "no deletions"
on = "http"
methods = ["DELETE"]
action = "deny"
hint = "Ask the shop's owner."

[[guard]]
name = "large refunds"
on = "http"
methods = ["POST"]
paths = ["/**/refunds"]
json = ["$[?$.amount > 1000]"]
action = "hold"
approvers = ["user:daemon"]
hold = "30s"

[[mask]]
on = "http"
json = ["$.customers[*].ssn"]
with = "redact"

[[mask]]
detect = ["payment-card", "email", "api-key"]
with = "partial"
"#;

/// What the policy `ops` says beside its connection.
const SSH_RULES: &str = r#"
[[guard]]
name = "nothing is wiped unseen"
on = "ssh"
kind = ["rm -rf"]
action = "hold"
approvers = ["user:daemon"]
hold = "30s"

[[guard]]
name = "nothing from elsewhere"
on = "ssh"
kind = ["curl | sh"]
action = "deny"
hint = "Packages come from the company's own mirror."

[[mask]]
detect = ["email", "payment-card"]
with = "partial"
"#;

/// Lines of output waiting to be shown.
const LINES_MAX: usize = 1024;

fn main() -> ExitCode {
    match run(std::env::args().any(|argument| argument == "--verbose")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(verbose: bool) -> Result<()> {
    title("A private PostgreSQL with a small shop database");
    let server = Server::start(Ipv4Addr::new(127, 20, 0, 10), 5432)?;
    show(
        "",
        &format!(
            "listening on {}; the role {} has a password only the daemon knows",
            server.address(),
            harness::postgres::ROLE
        ),
    );

    title("A private HTTPS API of the same shop");
    let api = HttpServer::start(Ipv4Addr::new(127, 20, 0, 20))?;
    show("", &format!("listening on https://{}:8443; its token, too, only the daemon knows", api.address()));

    title("A private SSH server of the shop's web host");
    let host = SshServer::start(Ipv4Addr::new(127, 20, 0, 30))?;
    let folder = host.scratch("shop")?;
    prepare_host(&folder)?;
    show("", &format!("listening on {}; its key, too, only the daemon has", host.at()));

    title("The daemon, in a scratch folder, with a policy for each kind of agent");
    let ops = host.policy("", "", SSH_RULES)?.replacen("name = \"shop\"", "name = \"ops\"", 1);
    let policies = [("shop", shop_policy(&server)), ("web", api.policy(WEB_RULES)), ("ops", ops)];
    let policies: Vec<(&str, &str)> = policies.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut daemon = Daemon::prepare(&policies)?;
    daemon.credential("shop-token", harness::http::TOKEN)?;
    daemon.credential("account-key", &host.key("account")?)?;
    daemon.launch()?;
    let status = process::run(daemon.command()?.arg("status"))?;
    show("", &status);

    title("An agent under `portcullis run --policy shop`, as the user nobody; a reviewer as the user daemon");
    let arguments = [server.address().ip().to_string(), server.address().port().to_string()];
    watch_agent(&daemon, "shop", AGENT, &arguments)?;

    title("Another agent, under `portcullis run --policy web`, against the API");
    watch_agent(&daemon, "web", WEB_AGENT, &[api.address().to_string()])?;

    title("A third, under `portcullis run --policy ops`, with OpenSSH's client");
    let (at, place) = (host.at(), folder.display().to_string());
    watch_agent(&daemon, "ops", SSH_AGENT, &[at.ip().to_string(), at.port().to_string(), place])?;

    title("What was recorded");
    show("$ portcullis sessions list", "");
    show("", &process::run(daemon.command()?.args(["sessions", "list"]))?);
    let session = session_of_the_update(&daemon)?;
    show(&format!("$ portcullis replay {session} --speed max"), "");
    show("", &process::run(daemon.command()?.args(["replay", &session, "--speed", "max"]))?);
    let api_session = session_of_policy(&daemon, "web")?;
    show(&format!("$ portcullis sessions show {api_session}"), "");
    show("", &process::run(daemon.command()?.args(["sessions", "show", &api_session]))?);
    let ssh_session = session_of_policy(&daemon, "ops")?;
    show(&format!("$ portcullis replay {ssh_session} --speed max"), "");
    show("", &process::run(daemon.command()?.args(["replay", &ssh_session, "--speed", "max"]))?);
    check(&server)?;
    check_api(&api)?;
    check_host(&folder)?;
    if verbose {
        title("The daemon's log");
        show("", &daemon.log());
    }
    title("What to try next");
    show("", NEXT);
    Ok(())
}

const NEXT: &str = "  target/debug/portcullis doctor                        what this host can do
  target/debug/portcullis policy schema                 what a policy file may say
  echo 'DROP TABLE t' | target/debug/portcullis policy explain --policy policies/crewai.toml --protocol postgres
                                                        what a policy says of a statement, without running it
  echo 'DELETE https://api.github.com/repos/a/b' | target/debug/portcullis policy explain --policy policies/coding-agent.toml --protocol http
                                                        the same for a request
  less policies/crewai.toml                             a policy to start from
  README.md, \"On a real runner\"                         install it for an agent of your own";

/// Runs the agent, prefixing what it prints, while a reviewer decides what it asks for.
fn watch_agent(daemon: &Daemon, policy: &str, script: &str, arguments: &[String]) -> Result<()> {
    let mut watch = daemon.command_as(REVIEWER)?;
    watch.args(["approvals", "--watch", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = Owned::spawn(&mut watch)?;
    let approvals = watch.child().stdout.take().context("no output")?;
    let mut run = agent::under(daemon, NOBODY, policy)?;
    let file = daemon.folder().join(format!("{policy}.py"));
    std::fs::write(&file, script)?;
    run.arg(process::python()).arg(&file).args(arguments).env("HOME", agents_home(daemon)?);
    let (reader, writer) = std::io::pipe()?;
    run.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut agent = Owned::spawn(&mut run)?;
    // Our own copies of the pipe's writing end would keep it open.
    drop(run);
    let events = events(reader, approvals);
    for event in events {
        match event {
            Event::Agent(line) => show("agent    | ", &line),
            Event::Asked(entry) => review(daemon, &entry)?,
            Event::AgentDone => break,
        }
    }
    let status = agent.child().wait()?;
    if !status.success() {
        bail!("the agent ended with {status}");
    }
    Ok(())
}

/// A home for the agents' user, who has none.
fn agents_home(daemon: &Daemon) -> Result<PathBuf> {
    let home = daemon.folder().join("home");
    std::fs::create_dir_all(&home)?;
    std::os::unix::fs::chown(&home, Some(NOBODY.uid), Some(NOBODY.gid))?;
    Ok(home)
}

enum Event {
    /// It printed a line.
    Agent(String),
    /// It closed its output.
    AgentDone,
    /// Something waits for a decision.
    Asked(Value),
}

/// Both streams as one, in the order things happen.
fn events(
    agent: impl std::io::Read + Send + 'static,
    approvals: impl std::io::Read + Send + 'static,
) -> Receiver<Event> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    let asked = sender.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(agent).lines().map_while(std::io::Result::ok) {
            if sender.send(Event::Agent(line)).is_err() {
                return;
            }
        }
        // The receiver may be gone; then nobody waits for the end either.
        drop(sender.send(Event::AgentDone));
    });
    std::thread::spawn(move || {
        for line in BufReader::new(approvals).lines().map_while(std::io::Result::ok) {
            let waits = serde_json::from_str::<Value>(&line)
                .ok()
                .filter(|entry| entry.get("outcome").is_none_or(Value::is_null));
            if waits.is_some_and(|entry| asked.send(Event::Asked(entry)).is_err()) {
                return;
            }
        }
    });
    receiver
}

/// The reviewer's judgement: updates and old releases are fine, dropping databases and whatever a variable says is not.
fn review(daemon: &Daemon, entry: &Value) -> Result<()> {
    let id = entry.get("id").and_then(Value::as_str).context("an approval without id")?;
    let effect = entry.pointer("/request/effect").and_then(Value::as_str).unwrap_or_default();
    let statement = entry.pointer("/request/content/statement").and_then(Value::as_str).unwrap_or_default();
    let (answer, reason) = if effect == "write" {
        ("approve", "agreed in the stand-up")
    } else if statement.contains("/releases/old ") {
        ("approve", "the old release may go")
    } else if statement.contains("rm ") {
        ("deny", "what would this remove?")
    } else {
        ("deny", "nobody drops databases from CI")
    };
    show("reviewer | ", &format!("$ portcullis approvals {answer} {id} --reason {reason:?}"));
    let mut decide = daemon.command_as(REVIEWER)?;
    decide.args(["approvals", answer, id, "--reason", reason]);
    show("reviewer | ", &process::run(&mut decide)?);
    Ok(())
}

/// The session in which the reviewer approved something.
fn session_of_the_update(daemon: &Daemon) -> Result<String> {
    let listed =
        process::run(daemon.command()?.args(["sessions", "list", "--held", "--policy", "shop", "--json"]))?;
    let sessions = listed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let denied = |session: &Value| session.get("denied").and_then(Value::as_u64).unwrap_or(0);
    let session = sessions.min_by_key(denied).context("no session was held")?;
    Ok(session.get("session").and_then(Value::as_str).context("a session without id")?.to_owned())
}

/// The first session of a policy in which something was held.
fn session_of_policy(daemon: &Daemon, policy: &str) -> Result<String> {
    let listed =
        process::run(daemon.command()?.args(["sessions", "list", "--held", "--policy", policy, "--json"]))?;
    let first = listed.lines().last().context("nothing was held")?;
    let session: Value = serde_json::from_str(first)?;
    Ok(session.get("session").and_then(Value::as_str).context("a session without id")?.to_owned())
}

/// Files of the shop on its host.
fn prepare_host(folder: &Path) -> Result<()> {
    for release in ["old", "current"] {
        std::fs::create_dir_all(folder.join("releases").join(release))?;
    }
    let customers = "name,mail,card\nAda,ada@example.com,4111 1111 1111 1111\nGrace,grace@example.com,5500 0000 0000 0004\n";
    Ok(std::fs::write(folder.join("customers.csv"), customers)?)
}

/// What was approved on the host is done, and nothing else.
fn check_host(folder: &Path) -> Result<()> {
    let is_there = |release: &str| folder.join("releases").join(release).is_dir();
    if is_there("old") || !is_there("current") {
        bail!("on the host, something else was removed than what was approved");
    }
    show("", "On the host: the old release is gone, as approved; the current one is there.");
    Ok(())
}

/// What the API got is what was allowed, with the real token.
fn check_api(api: &HttpServer) -> Result<()> {
    let refunds = api.requests("/refunds")?;
    let token = format!("Bearer {}", harness::http::TOKEN);
    let real =
        |request: &Value| request.pointer("/headers/authorization").and_then(Value::as_str) == Some(&token);
    if refunds.len() != 1 || !refunds.iter().all(real) {
        bail!("the approved refund did not arrive once, with the real token");
    }
    if !api.requests("/customers/1")?.is_empty() {
        bail!("a request that nobody allowed reached the API");
    }
    show("", "At the API: one refund, with the real token; no deletion.");
    Ok(())
}

/// The demo is a promise: what it tells must be so on the server.
fn check(server: &Server) -> Result<()> {
    let archive =
        server.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'orders_archive'")?;
    let archived = server.psql("shop", "SELECT count(*) FROM orders WHERE status = 'archived'")?;
    if archive.trim() != "1" {
        bail!("the database that nobody allowed to be dropped is gone");
    }
    if archived.trim() == "0" {
        bail!("the approved UPDATE did not run");
    }
    show(
        "",
        &format!("\nOn the server: orders_archive is still there; {} orders are archived.", archived.trim()),
    );
    Ok(())
}

fn title(text: &str) {
    let (bold, plain) = if std::io::stdout().is_terminal() { ("\u{1b}[1m", "\u{1b}[0m") } else { ("", "") };
    print(&format!("\n{bold}== {text}{plain}"));
}

fn show(prefix: &str, text: &str) {
    if text.is_empty() {
        print(prefix);
    }
    for line in text.trim_end().lines() {
        print(&format!("{prefix}{line}"));
    }
}

fn print(line: &str) {
    // A closed pipe must not stop the demo from cleaning up.
    drop(writeln!(std::io::stdout(), "{line}"));
}
