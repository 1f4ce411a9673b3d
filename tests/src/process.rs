//! Child processes that end with their owner, and users to run them as.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// An unprivileged user of every Debian system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Name in `/etc/passwd`.
    pub name: &'static str,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Runs agents.
pub const NOBODY: User = User { name: "nobody", uid: 65_534, gid: 65_534 };
/// Reviews what agents ask.
pub const REVIEWER: User = User { name: "daemon", uid: 1, gid: 1 };
/// Another user who may review nothing.
pub const BYSTANDER: User = User { name: "bin", uid: 2, gid: 2 };

/// A child that is killed and reaped when dropped.
#[derive(Debug)]
pub struct Owned(Child);

impl Owned {
    /// Starts the command.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?))
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal by name (`TERM`, `KILL`, `STOP`).
    ///
    /// # Errors
    /// When `kill(1)` fails.
    pub fn signal(&self, name: &str) -> Result<()> {
        run(Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string())).map(drop)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A server that ends with this process even where nothing is dropped, as statics are not: a shell waits for the end
/// of its standard input, then stops the server (SIGQUIT, and SIGTERM for those
/// that the shell made deaf to it) and removes its folder.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts the command under guard.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub fn spawn(command: &Command, folder: &Path) -> Result<Self> {
        const GUARD: &str = "folder=$1; shift; \"$@\" </dev/null & child=$!
            read -r _; kill -QUIT $child; kill -TERM $child; wait $child; rm -rf \"$folder\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "guard"]).arg(folder).arg(command.get_program()).args(command.get_args());
        // A process group of its own: an interrupt at the terminal must not end the guard first.
        shell
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(shell.spawn().context("cannot start sh")?))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Closes its standard input first.
        drop(self.0.wait());
    }
}

/// How long a test waits for something that must happen; generous because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines that a test may leave unread before what it talks with has to wait.
const LINES_MAX: usize = 1024;

/// A child that is talked with: what it prints is read line by line while it runs.
#[derive(Debug)]
pub struct Talking {
    process: Owned,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// Lines that nothing has waited for yet: what comes on two streams has no order.
    unread: Vec<String>,
    said: String,
}

impl Talking {
    /// Starts the command with its standard streams piped.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Owned::spawn(command)?;
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        let child = process.child();
        let stdin = child.stdin.take();
        forward_lines(child.stdout.take().context("no stdout")?, sender.clone());
        forward_lines(child.stderr.take().context("no stderr")?, sender);
        Ok(Self { process, stdin, lines, unread: Vec::new(), said: String::new() })
    }

    /// Waits for a line on either stream that `wanted` accepts and that was not returned before.
    ///
    /// # Errors
    /// When it does not come; everything said so far is in the message.
    pub fn until(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        if let Some(index) = self.unread.iter().position(|line| wanted(line)) {
            return Ok(self.unread.remove(index));
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                bail!("the line that was waited for did not come; this did:\n{}", self.said);
            };
            self.said.push_str(&line);
            self.said.push('\n');
            if wanted(&line) {
                return Ok(line);
            }
            self.unread.push(line);
        }
    }

    /// Waits for a line that contains this.
    ///
    /// # Errors
    /// When it does not come.
    pub fn until_contains(&mut self, part: &str) -> Result<String> {
        self.until(|line| line.contains(part)).with_context(|| format!("waited for {part:?}"))
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it reads no more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        writeln!(stdin, "{line}").context("it reads no more")
    }

    /// The process itself, to signal it.
    #[must_use]
    pub fn process(&self) -> &Owned {
        &self.process
    }

    /// Closes its standard input and waits for the end of its output and itself. Both streams are in `stdout`.
    ///
    /// # Errors
    /// When it does not end.
    pub fn finish(mut self) -> Result<Finished> {
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("it does not end; it said:\n{}", self.said),
            }
        }
        let status = self.process.child().wait()?;
        Ok(Finished { code: exit_code(status), stdout: self.said, stderr: String::new() })
    }
}

fn forward_lines(pipe: impl Read + Send + 'static, sender: mpsc::SyncSender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

/// As a shell has it: 128 + signal for a process that was killed.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; 128 + signal when killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end and returns what it printed, whatever its exit code.
///
/// # Errors
/// When it cannot be started.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    Ok(Finished {
        code: exit_code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that must succeed.
///
/// # Errors
/// When it cannot be started or fails; its standard error is in the message.
pub fn run(command: &mut Command) -> Result<String> {
    let finished = finish(command)?;
    if finished.code != 0 {
        bail!("{command:?} exited with {}: {}{}", finished.code, finished.stdout, finished.stderr);
    }
    Ok(finished.stdout)
}

/// A command that runs as another user, without supplementary groups.
#[must_use]
pub fn as_user(user: User, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    // Root's home is not the agent's: libpq would look for certificates there.
    command.uid(user.uid).gid(user.gid).env("HOME", "/").env("USER", user.name);
    command
}

/// The agent binary: `PORTCULLIS_BIN`, or the one built beside this test.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn portcullis() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTCULLIS_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().skip(1).map(|dir| dir.join("portcullis")).find(|path| path.is_file());
    found.context("no portcullis binary: run `cargo build` first, or use `cargo xtask test`")
}

/// Debian's Python, where the client libraries are.
#[must_use]
pub fn python() -> PathBuf {
    std::env::var_os("PORTCULLIS_PYTHON").map_or_else(|| "/usr/bin/python3".into(), PathBuf::from)
}

/// The Python with the HTTP client libraries of PyPI: `PORTCULLIS_VENV_PYTHON`, or the one that `cargo xtask test` makes
/// below the target folder.
///
/// # Errors
/// When there is none; the message says how to get it.
pub fn venv_python() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTCULLIS_VENV_PYTHON") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().skip(1).map(|dir| dir.join("venv/bin/python")).find(|path| path.is_file());
    found.context("no Python environment below the target folder: use `cargo xtask test`")
}

/// Reads everything a pipe gives.
///
/// # Errors
/// When reading fails.
pub fn drain(mut pipe: impl Read) -> Result<String> {
    let mut text = Vec::new();
    pipe.by_ref().read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
