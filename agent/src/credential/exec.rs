//! A credential that a command prints: run without a shell, in an environment of its own, bounded in time and output, and
//! gone with all that it started.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, Interest};
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

use super::CREDENTIAL_BYTES_MAX;
use crate::sys::Readiness;

/// All that a command finds in its environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;

/// Why a command gave no credential. What it printed is never told.
#[derive(Debug, Error)]
pub enum ExecError {
    /// It could not be started or watched.
    #[error("cannot be run: {0}")]
    Start(#[from] io::Error),
    /// It was not done in time.
    #[error("was not done within {} and was killed: raise `timeout`, or see what it waits for", humantime::format_duration(*.0))]
    Late(Duration),
    /// It failed.
    #[error("ended with exit status {0}: run it by hand, as root and with an empty environment")]
    Status(i32),
    /// A signal ended it.
    #[error("was ended by signal {0}: run it by hand, as root and with an empty environment")]
    Signal(i32),
    /// It printed too much.
    #[error("printed more than {CREDENTIAL_BYTES_MAX} bytes: let it print the secret alone")]
    TooLong,
}

/// Runs a command to its end and returns what it printed. Its standard error is counted, not kept.
pub(super) async fn run(
    name: &str,
    command: &[String],
    timeout: Duration,
) -> Result<Zeroizing<Vec<u8>>, ExecError> {
    let mut running = Running::start(command)?;
    let (printed, complained) =
        tokio::time::timeout(timeout, running.finish()).await.map_err(|_late| ExecError::Late(timeout))??;
    if complained > 0 {
        tracing::warn!(
            credential = name,
            "the command wrote {complained} bytes to its standard error, not shown"
        );
    }
    Ok(printed)
}

/// A command and what it started: a process group, killed and buried when this is dropped.
struct Running {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
}

impl Running {
    fn start(command: &[String]) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pid, pidfd }),
            Err(error) => {
                end(child, pid);
                Err(error.into())
            }
        }
    }

    /// Reads both outputs to their ends, which come when the command and all that it started are gone.
    async fn finish(&mut self) -> Result<(Zeroizing<Vec<u8>>, u64), ExecError> {
        let output = self.child.stdout.take().map(OwnedFd::from).map(pipe::Receiver::from_owned_fd);
        let complaints = self.child.stderr.take().map(OwnedFd::from).map(pipe::Receiver::from_owned_fd);
        let (Some(output), Some(complaints)) = (output.transpose()?, complaints.transpose()?) else {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        };
        let (printed, complained, ()) = tokio::try_join!(bounded(output), counted(complaints), self.exit())?;
        Ok((printed, complained))
    }

    /// Waits for the command; what it left running ends with it.
    async fn exit(&self) -> Result<(), ExecError> {
        // A pidfd can be read from when its process has ended (pidfd_open(2)).
        Readiness::of(&self.pidfd, Interest::READABLE)?.wait(Interest::READABLE).await?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let ended = waitid(WaitId::Pid(self.pid), options).map_err(io::Error::from)?;
        let ended = ended.ok_or(io::Error::from(io::ErrorKind::WouldBlock))?;
        kill(self.pid);
        match (ended.exit_status(), ended.terminating_signal()) {
            (Some(0), _) => Ok(()),
            (Some(status), _) => Err(ExecError::Status(status)),
            (None, signal) => Err(ExecError::Signal(signal.unwrap_or_default())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not yet waited for, so that the number cannot be another group's.
        kill(self.pid);
        drop(self.child.wait());
    }
}

/// Kills a group; one that is gone already is what was wanted.
fn kill(group: Pid) {
    if let Err(error) = kill_process_group(group, Signal::KILL) {
        tracing::debug!(%error, "a command's processes are gone");
    }
}

fn end(mut child: Child, pid: Pid) {
    kill(pid);
    drop(child.wait());
}

/// Everything that is printed, in a buffer that never grows: growing would leave a copy behind.
async fn bounded(mut output: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, ExecError> {
    let mut printed = Zeroizing::new(Vec::with_capacity(CREDENTIAL_BYTES_MAX));
    let mut chunk = Zeroizing::new(vec![0; CHUNK_BYTES]);
    loop {
        let length = output.read(&mut chunk[..]).await?;
        let new = chunk.get(..length).unwrap_or_default();
        if new.is_empty() {
            return Ok(printed);
        }
        if printed.len().saturating_add(new.len()) > CREDENTIAL_BYTES_MAX {
            return Err(ExecError::TooLong);
        }
        printed.extend_from_slice(new);
    }
}

async fn counted(mut complaints: impl AsyncRead + Unpin) -> Result<u64, ExecError> {
    let mut chunk = Zeroizing::new(vec![0; CHUNK_BYTES]);
    let mut bytes: u64 = 0;
    loop {
        match complaints.read(&mut chunk[..]).await? {
            0 => return Ok(bytes),
            length => bytes = bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn sh(script: &str, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, ExecError> {
        run("test", &["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()], timeout).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_is_printed_is_what_comes() {
        assert_eq!(*sh("printf 'a b\\n'; echo not this >&2", LONG).await.unwrap(), b"a b\n");
        assert_eq!(
            *sh("env | grep -v -e ^PWD= -e ^_= -e ^SHLVL=; pwd; cat", LONG).await.unwrap(),
            format!("PATH={PATH}\n/\n").into_bytes()
        );
        let large = sh(&format!("head -c {CREDENTIAL_BYTES_MAX} /dev/zero"), LONG).await.unwrap();
        assert_eq!(large.len(), CREDENTIAL_BYTES_MAX);
    }

    #[tokio::test]
    async fn arguments_are_not_a_shells() {
        let command = ["/bin/echo", "$HOME; `id`", "*"].map(str::to_owned);
        assert_eq!(*run("test", &command, LONG).await.unwrap(), b"$HOME; `id` *\n");
    }

    #[tokio::test]
    async fn failures_say_what_to_do_and_nothing_that_was_printed() {
        let more = format!("head -c {} /dev/zero; sleep 60", CREDENTIAL_BYTES_MAX + 1);
        for (script, expected) in [
            ("echo s3cret; echo s3cret >&2; exit 3", "ended with exit status 3: run it by hand"),
            ("echo s3cret; kill -9 $$", "was ended by signal 9"),
            (&more, "printed more than 65536 bytes"),
        ] {
            let error = sh(script, LONG).await.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{script}: {error}");
        }
        let missing = run("test", &["/nonexistent/get".to_owned()], LONG).await.unwrap_err();
        assert!(missing.to_string().starts_with("cannot be run: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn what_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pids");
        let script = format!("trap '' TERM; sleep 300 & echo $! $$ > {}; wait; wait", file.display());
        let (limit, begun) = (Duration::from_millis(500), Instant::now());
        assert!(matches!(sh(&script, limit).await, Err(ExecError::Late(_))));
        assert!(begun.elapsed() < LONG);
        let pids = std::fs::read_to_string(&file).unwrap();
        for pid in pids.split_whitespace() {
            gone(pid).await;
        }
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_ends_with_it() {
        let begun = Instant::now();
        let printed = sh("sleep 300 & echo $!", LONG).await.unwrap();
        assert!(begun.elapsed() < LONG / 2);
        gone(std::str::from_utf8(&printed).unwrap().trim()).await;
    }

    /// Nothing runs under this number: it is gone, or dead and not yet buried by whoever adopted it.
    async fn gone(pid: &str) {
        for _ in 0..200 {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(_) | Err(_) => return,
            }
        }
        panic!("{pid} still runs");
    }
}
