//! What the daemon takes of memory: at rest, under large results, and with many idle sessions.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::Daemon;
use harness::postgres::{self, ROLE, Server};
use harness::process::{self, NOBODY, Owned};
use serde_json::{Value, json};

use crate::idle::READY;
use crate::measure::client_environment;
use crate::{report, targets};

/// Sessions that are held open and idle.
const IDLE_SESSIONS: u64 = 500;

/// How often the 200,000 rows make a gigabyte.
const GIGABYTE: u32 = 44;

/// Resident memory of one fresh daemon, in KiB.
#[derive(Debug)]
pub(crate) struct Memory {
    rest: u64,
    peak_200k: u64,
    peak_1m: u64,
    peak_1m_detectors: u64,
    before_1g: u64,
    peak_1g: u64,
    idle_before: u64,
    idle: u64,
    idle_file: u64,
}

impl Memory {
    /// Measures a daemon of its own, so that nothing of the other measurements is in it.
    pub(crate) fn measure(server: &Server, binary: &Path) -> Result<Self> {
        let mut daemon = targets::daemon(server, binary)?;
        let pid = daemon.pid();
        let rest = status(pid, "VmRSS")?;
        let peak_200k = peak(&daemon, pid, server, "plain", 1)?;
        let peak_1m = peak(&daemon, pid, server, "plain", 5)?;
        let peak_1m_detectors = peak(&daemon, pid, server, "detectors", 5)?;
        let before_1g = status(pid, "VmRSS")?;
        let peak_1g = peak(&daemon, pid, server, "plain", GIGABYTE)?;
        drop(daemon);
        let mut daemon = targets::daemon(server, binary)?;
        let pid = daemon.pid();
        let idle_before = status(pid, "VmRSS")?;
        let (idle, idle_file) = idle(&daemon, pid, server)?;
        Ok(Self {
            rest,
            peak_200k,
            peak_1m,
            peak_1m_detectors,
            before_1g,
            peak_1g,
            idle_before,
            idle,
            idle_file,
        })
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        report::say("")?;
        report::say("memory of the Portcullis daemon (resident)")?;
        for (what, kib) in [
            ("at rest", self.rest),
            ("peak during 200,000 rows, no masks", self.peak_200k),
            ("peak during 1,000,000 rows, no masks", self.peak_1m),
            ("peak during 1,000,000 rows, column masks and detectors", self.peak_1m_detectors),
            ("before a result of 1 GB", self.before_1g),
            ("peak during it", self.peak_1g),
            ("500 idle sessions", self.idle),
            ("  of which the program's own pages", self.idle_file),
        ] {
            report::say(&format!("  {what:56} {:>11}", mib(kib)))?;
        }
        let each = self.idle.saturating_sub(self.idle_before) as f64 / IDLE_SESSIONS as f64;
        report::say(&format!("  {:56} {each:>7.1} KiB", "  each of them"))
    }

    pub(crate) fn value(&self) -> Value {
        json!({
            "unit": "KiB", "rest": self.rest, "peak_200k_rows": self.peak_200k, "peak_1m_rows": self.peak_1m,
            "peak_1m_rows_detectors": self.peak_1m_detectors, "before_1_gb": self.before_1g, "peak_1_gb": self.peak_1g, "idle_sessions": IDLE_SESSIONS,
            "with_idle_sessions": self.idle, "before_idle_sessions": self.idle_before, "with_idle_sessions_file": self.idle_file,
        })
    }
}

/// The daemon's peak while a result of `times` 200,000 rows passes. The kernel's mark is reset first (proc(5), clear_refs).
fn peak(daemon: &Daemon, pid: u32, server: &Server, policy: &str, times: u32) -> Result<u64> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let mut psql = agent::under(daemon, NOBODY, policy)?;
    client_environment(&mut psql);
    psql.arg(postgres::bin()?.join("psql"))
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"])
        .arg("--no-align")
        .args([format!("--host={}", server.address().ip()), format!("--port={}", server.address().port())])
        .args([format!("--username={ROLE}"), "--dbname=bench".to_owned(), "--command".to_owned()])
        .arg(format!("SELECT a.* FROM pgbench_accounts a, generate_series(1, {times})"));
    process::run(&mut psql)?;
    status(pid, "VmHWM")
}

/// What is resident with idle sessions, and how much of it is pages of the program, which the kernel can drop.
fn idle(daemon: &Daemon, pid: u32, server: &Server) -> Result<(u64, u64)> {
    let mut command: Command = agent::under(daemon, NOBODY, "plain")?;
    command.arg(std::env::current_exe()?).arg("idle").arg(server.address().to_string());
    command.arg(IDLE_SESSIONS.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = Owned::spawn(&mut command)?;
    let stdout = holder.child().stdout.take().context("no pipe")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim_end() != READY {
        bail!("{IDLE_SESSIONS} idle sessions could not be opened:\n{}", daemon.log());
    }
    let resident = (status(pid, "VmRSS")?, status(pid, "RssFile")?);
    drop(holder.child().stdin.take());
    holder.child().wait()?;
    Ok(resident)
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    status(pid, "VmRSS")
}

/// A size from `/proc/PID/status`, in KiB.
fn status(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number =
        line.and_then(|rest| rest.split_whitespace().next()).context("no such line in /proc/PID/status")?;
    Ok(number.parse()?)
}
