//! Keeps a run's token fresh from outside of the run: `portcullis run` becomes the command, so somebody else has to.
//!
//! A process of the caller's, detached, in the caller's own cgroup. It ends with the run. If it dies the token expires,
//! and nothing new starts in the run.

use std::fs::File;
use std::io::{self, BufRead, Read as _, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::token::{Service, Source};
use super::{Failure, ask};
use crate::config::Config;
use crate::control::{Reply, Request};
use crate::flow::RunId;
use crate::run::cgroup::populated;
use crate::run::now_ms;

/// Longest and shortest time between two looks at a file.
const LOOK_MAX: Duration = Duration::from_secs(30);
const LOOK_MIN: Duration = Duration::from_secs(1);
/// Shortest time between two requests to a service that mints tokens.
const MINT_MIN: Duration = Duration::from_secs(15);
/// Largest `cgroup.events`, in bytes.
const EVENTS_BYTES_MAX: u64 = 4096;

/// Arguments of `portcullis renew`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Start another process for the work and end
    #[arg(long)]
    detach: bool,
    /// The daemon's control socket
    #[arg(long)]
    socket: PathBuf,
}

/// What to do, once there is a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) run: RunId,
    /// The run's cgroup's directory.
    pub(super) cgroup: PathBuf,
    /// When the token expires; milliseconds since 1970-01-01T00:00:00Z.
    pub(super) expires_ms: u64,
    /// Where fresh ones come from. Told here, because arguments and environment are for everybody of the user to read.
    pub(super) source: From,
}

/// Where fresh tokens come from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum From {
    /// A file.
    File(PathBuf),
    /// A service that mints them.
    Github(Service),
}

/// A process that waits to be told its work; dropped, it ends.
pub(super) struct Renewal {
    stdin: ChildStdin,
    from: From,
}

impl Renewal {
    /// Lets it begin. Without it the run goes on until the token expires.
    pub(super) fn begin(self, run: RunId, cgroup: PathBuf, expires_ms: u64) {
        let Self { mut stdin, from: source } = self;
        let told = serde_json::to_vec(&Work { run, cgroup, expires_ms, source })
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                stdin.write_all(&line)
            });
        if let Err(error) = told {
            super::complain(&format!("warning: the run's token will not be renewed: {error}"));
        }
    }
}

/// Starts the process, before the caller is moved into the run: children are where their parent was. `None` when the
/// source has nothing fresh to give.
pub(super) fn prepare(source: &Source, config: &Config) -> Result<Option<Renewal>, Failure> {
    let from = match source {
        Source::Variable(_) => return Ok(None),
        Source::File(path) => From::File(std::path::absolute(path)?),
        Source::Github(service) => From::Github(service.clone()),
    };
    let mut command = ourselves(&config.control_socket)?;
    let mut first = command.arg("--detach").stdin(Stdio::piped()).spawn()?;
    let stdin = first.stdin.take();
    // It ends at once, and its child is nobody's: the command must not find a child that it did not start.
    let status = first.wait()?;
    match stdin {
        Some(stdin) if status.success() => Ok(Some(Renewal { stdin, from })),
        Some(_) | None => Err(Failure::Failed(format!("cannot start what renews the token: {status}"))),
    }
}

/// This program again, for the same daemon and with nothing to print on.
fn ourselves(socket: &Path) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().arg("renew").arg("--socket").arg(std::path::absolute(socket)?);
    command.stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    Ok(command)
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    // First of all: whoever could take this process over would be outside of the gate.
    not_to_be_taken_over()?;
    if arguments.detach {
        let mut command = ourselves(&arguments.socket)?;
        // Whoever reads the pipe's other end: it is inherited as it is.
        command.stdin(Stdio::inherit()).spawn()?;
        return Ok(());
    }
    // A terminal that goes away is no reason to stop. It fails for who leads a group already, which we do not.
    rustix::process::setsid().ok();
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    let work: Work = serde_json::from_str(&line).map_err(io::Error::from)?;
    let config = Config { control_socket: arguments.socket, ..Config::default() };
    let source = match &work.source {
        From::File(path) => Source::File(path.clone()),
        From::Github(service) => Source::Github(service.clone()),
    };
    keep_fresh(&source, work, &config)
}

/// Neither traced nor read by others of the user (prctl(2), PR_SET_DUMPABLE).
pub(super) fn not_to_be_taken_over() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Until the run ends.
fn keep_fresh(source: &Source, mut work: Work, config: &Config) -> Result<(), Failure> {
    let mut last = source.read().ok();
    while goes_on(&work.cgroup, pause(source, work.expires_ms))? {
        let Ok(token) = source.read() else { continue };
        if last.as_ref() == Some(&token) {
            continue;
        }
        let request = Request::Renew { run: work.run, token: token.clone() };
        if let Ok(Reply::Renewed { expires_ms }) = ask(config, &request) {
            work.expires_ms = expires_ms;
            last = Some(token);
        }
    }
    Ok(())
}

/// How long to wait before the next look: often enough to find a fresh token in time, whatever its life.
fn pause(source: &Source, expires_ms: u64) -> Duration {
    let left = Duration::from_millis(expires_ms.saturating_sub(now_ms()));
    match source {
        Source::File(_) | Source::Variable(_) => (left / 8).clamp(LOOK_MIN, LOOK_MAX),
        // Each look mints one.
        Source::Github(_) => (left / 2).max(MINT_MIN),
    }
}

/// Waits until the time is up, or returns `false` once the run has no process any more (cgroup v2,
/// Documentation/admin-guide/cgroup-v2.rst, "populated").
fn goes_on(cgroup: &Path, pause: Duration) -> io::Result<bool> {
    let mut events = match File::open(cgroup.join("cgroup.events")) {
        Ok(events) => events,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let until = std::time::Instant::now() + pause;
    loop {
        let mut text = String::new();
        events.rewind()?;
        // The directory is gone.
        if (&events).take(EVENTS_BYTES_MAX).read_to_string(&mut text).is_err() {
            return Ok(false);
        }
        if populated(&text) != Some(true) {
            return Ok(false);
        }
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Ok(true);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_often_enough() {
        let file = Source::File(PathBuf::from("/t"));
        let service = serde_json::json!({"url": "https://x", "token": "t", "audience": "a"});
        let github = Source::Github(serde_json::from_value(service).unwrap());
        let in_ = |seconds: u64| now_ms() + seconds * 1000;
        assert_eq!(pause(&file, in_(3600)), LOOK_MAX);
        assert_eq!(pause(&file, in_(4)), LOOK_MIN);
        assert!(pause(&file, in_(80)) <= Duration::from_secs(10));
        assert!(pause(&github, in_(300)) <= Duration::from_secs(150));
        assert_eq!(pause(&github, 0), MINT_MIN);
    }

    #[test]
    fn a_run_without_a_cgroup_is_over() {
        assert!(!goes_on(Path::new("/nonexistent"), Duration::from_secs(60)).unwrap());
    }
}
