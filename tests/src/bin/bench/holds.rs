//! A thousand operations that wait for a human at once: what they take of memory, and whether others notice.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::Daemon;
use harness::postgres::Server;
use harness::process::{NOBODY, Owned};
use serde_json::{Value, json};

use crate::idle::{READY, log_in, message};
use crate::memory::resident;
use crate::{Options, report, targets};

/// Operations that are held at once, each on a connection of its own.
const HOLDS: usize = 1000;
/// Queries of the connection that is not held.
const QUERIES: usize = 4000;
/// Said once every statement is held.
const HELD: &str = "held";

/// The server's own address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 44, 8, 10);

/// Measures, and says what it found.
pub(crate) fn run(options: &Options) -> Result<()> {
    report::progress("starting PostgreSQL and the daemon, holding 1,000 statements");
    let server = Server::start(ADDRESS, 5432)?;
    server.psql("postgres", "CREATE DATABASE bench")?;
    let found = Holds::measure(&server, &targets::binary()?)?;
    if options.json { report::say(&found.value().to_string()) } else { found.print() }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Holds {
    /// Resident memory of the daemon with all sessions idle, and with all of them held, in KiB.
    idle: u64,
    held: u64,
    /// A query of another run's connection meanwhile, in microseconds (median).
    before_us: f64,
    while_held_us: f64,
}

impl Holds {
    /// Measures a daemon of its own.
    pub(crate) fn measure(server: &Server, binary: &Path) -> Result<Self> {
        let mut daemon = targets::prepared(server, binary)?;
        let mut config = OpenOptions::new().append(true).open(daemon.config())?;
        config.write_all(
            format!("[approvals]\nholds_max = {}\nholds_per_run_max = {HOLDS}\n", 2 * HOLDS).as_bytes(),
        )?;
        daemon.launch()?;
        let pid = daemon.pid();
        let mut client = Holder::start(&daemon, server)?;
        client.expect(READY, &daemon)?;
        // The first one warms up.
        ask(&daemon, server)?;
        let (idle, before_us) = (resident(pid)?, ask(&daemon, server)?);
        client.stdin.write_all(b"go\n")?;
        client.expect(HELD, &daemon)?;
        let (held, while_held_us) = (resident(pid)?, ask(&daemon, server)?);
        drop(client.stdin);
        client.process.child().wait()?;
        Ok(Self { idle, held, before_us, while_held_us })
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mib = self.held.saturating_sub(self.idle) as f64 / 1024.0;
        report::say("")?;
        report::say(&format!(
            "{HOLDS} statements held at once cost {mib:.1} MiB more than their sessions idle"
        ))?;
        let ratio = self.while_held_us / self.before_us;
        let (before, during) = (self.before_us, self.while_held_us);
        report::say(&format!(
            "a query of another run meanwhile: {before:.1} us before, {during:.1} us while they wait (ratio {ratio:.2})"
        ))
    }

    pub(crate) fn value(&self) -> Value {
        json!({
            "holds": HOLDS, "idle_kib": self.idle, "held_kib": self.held, "query_before_us": self.before_us,
            "query_while_held_us": self.while_held_us,
        })
    }
}

/// The client whose sessions are held.
struct Holder {
    process: Owned,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Holder {
    fn start(daemon: &Daemon, server: &Server) -> Result<Self> {
        let mut command = ourselves(daemon, "plain", "hold", server, HOLDS)?;
        let mut process = Owned::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let child = process.child();
        let stdin = child.stdin.take().context("no pipe")?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { process, stdin, stdout })
    }

    fn expect(&mut self, word: &str, daemon: &Daemon) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.trim_end() != word {
            bail!("the held sessions are not {word}:\n{}", daemon.log());
        }
        Ok(())
    }
}

/// The median of many queries on one connection of another run, in microseconds.
fn ask(daemon: &Daemon, server: &Server) -> Result<f64> {
    let text = harness::process::run(&mut ourselves(daemon, "durable", "ask", server, QUERIES)?)?;
    Ok(text.trim().parse()?)
}

fn ourselves(daemon: &Daemon, policy: &str, what: &str, server: &Server, count: usize) -> Result<Command> {
    let mut command = agent::under(daemon, NOBODY, policy)?;
    command.arg(std::env::current_exe()?).arg(what).arg(server.address().to_string()).arg(count.to_string());
    Ok(command)
}

/// The client: opens sessions, then has each of them send what is held, and waits until it is told to end.
pub(crate) fn hold(address: &str, sessions: usize) -> Result<()> {
    let mut open: Vec<TcpStream> = (0..sessions).map(|_| log_in(address)).collect::<Result<_>>()?;
    report::say(READY)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    for (number, stream) in open.iter_mut().enumerate() {
        query(stream, &format!("DROP TABLE never_there_{number}"))?;
    }
    for stream in &mut open {
        match message(stream)? {
            (b'N', _) => {}
            (tag, body) => bail!("not held but {}: {}", char::from(tag), String::from_utf8_lossy(&body)),
        }
    }
    report::say(HELD)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The other client: times queries one after the other.
pub(crate) fn ask_many(address: &str, count: usize) -> Result<()> {
    let mut stream = log_in(address)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        query(&mut stream, "SELECT 1")?;
        while message(&mut stream)?.0 != b'Z' {}
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let median = times.get(count / 2).context("no queries")?;
    report::say(&format!("{:.1}", median.as_secs_f64() * 1e6))
}

/// A Query message (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
fn query(stream: &mut TcpStream, sql: &str) -> Result<()> {
    let length = u32::try_from(sql.len() + 5)?;
    Ok(stream.write_all(&[b"Q", length.to_be_bytes().as_slice(), sql.as_bytes(), b"\0"].concat())?)
}
