//! A daemon in a scratch folder, with policies and credentials of the test's own.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::postgres::{PASSWORD, Server};
use crate::process::{self, Finished, Owned, User};

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// How often a daemon is started whose disk has room and says that it has none.
const LAUNCHES_MAX: usize = 4;

/// A running daemon. Stopped, detached and removed when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Owned>,
    /// The agent; the one that `process::portcullis` finds when there is none.
    binary: Option<PathBuf>,
    folder: TempDir,
    bpf: PathBuf,
}

impl Daemon {
    /// Writes the configuration and policies, puts the shop's credential in place, and starts the daemon.
    ///
    /// # Errors
    /// When it does not start; what it logged is in the message.
    pub fn start(policies: &[(&str, &str)]) -> Result<Self> {
        let mut daemon = Self::prepare(policies)?;
        daemon.launch()?;
        Ok(daemon)
    }

    /// Everything but the start.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn prepare(policies: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis.").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for name in ["policies", "credentials", "state", "run"] {
            fs::create_dir(folder.path().join(name))?;
        }
        fs::set_permissions(folder.path().join("credentials"), fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(folder.path().join("state"), fs::Permissions::from_mode(0o700))?;
        let unique = folder.path().file_name().context("no name")?.to_string_lossy().into_owned();
        let bpf = PathBuf::from("/sys/fs/bpf").join(unique.replace('.', "-"));
        let daemon = Self { process: None, binary: None, folder, bpf };
        for (name, text) in policies {
            daemon.policy(name, text)?;
        }
        daemon.credential("shop-password", PASSWORD)?;
        fs::write(daemon.config(), daemon.config_text(&unique))?;
        Ok(daemon)
    }

    fn config_text(&self, unique: &str) -> String {
        // No room of its own is asked for: some virtual machines' disks say for a moment that they have none.
        let root = self.folder.path().display();
        format!(
            "[paths]\nstate = \"{root}/state\"\npolicies = \"{root}/policies\"\n\
             credentials = \"{root}/credentials\"\nbpf = \"{}\"\n\n\
             [runs]\ncgroup = \"{unique}\"\n\n[proxy]\nport = 0\n\n\
             [control]\nsocket = \"{root}/run/control.sock\"\n\n[record]\nfree_min = \"0B\"\n",
            self.bpf.display()
        )
    }

    /// Starts the prepared daemon and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn launch(&mut self) -> Result<()> {
        for _ in 1..LAUNCHES_MAX {
            match self.launch_as(Command::new(self.binary()?)) {
                // Some virtual machines' disks have no room for a moment, while they take back what was freed.
                Err(error) if error.to_string().contains("is nearly full") && self.has_room()? => {
                    std::thread::sleep(Duration::from_secs(1));
                }
                launched => return launched,
            }
        }
        self.launch_as(Command::new(self.binary()?))
    }

    /// Whether the state folder's disk has far more room than a daemon takes, as the file system says.
    fn has_room(&self) -> Result<bool> {
        let mut df = Command::new("df");
        df.args(["--output=avail", "--block-size=1M"]).arg(self.folder.path().join("state"));
        let megabytes =
            process::run(&mut df)?.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
        Ok(megabytes.is_some_and(|megabytes| megabytes > 4096))
    }

    /// The same by way of a command that becomes the daemon when it is given the daemon's arguments.
    ///
    /// # Errors
    /// As [`Daemon::launch`].
    pub fn launch_as(&mut self, mut serve: Command) -> Result<()> {
        let notify = self.folder.path().join("run/notify.sock");
        drop(fs::remove_file(&notify));
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(START_TIME_MAX))?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        serve
            .arg("--config")
            .arg(self.config())
            .arg("serve")
            .env("NOTIFY_SOCKET", &notify)
            .env_remove("PORTCULLIS_CONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = Owned::spawn(&mut serve)?;
        let mut message = [0; 256];
        // A daemon that ends early closes nothing here, so its end is looked for while waiting.
        ready.set_read_timeout(Some(Duration::from_millis(100)))?;
        let deadline = std::time::Instant::now() + START_TIME_MAX;
        loop {
            if let Ok(length) = ready.recv(&mut message)
                && String::from_utf8_lossy(message.get(..length).unwrap_or_default()).contains("READY=1")
            {
                break;
            }
            if let Some(status) = process.child().try_wait()? {
                bail!("portcullis serve ended with {status}:\n{}", self.log());
            }
            if std::time::Instant::now() > deadline {
                bail!("portcullis serve was not ready within {START_TIME_MAX:?}:\n{}", self.log());
            }
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.process.take().context("the daemon is not running")?);
        Ok(())
    }

    /// Where its programs are pinned.
    #[must_use]
    pub fn bpf(&self) -> &Path {
        &self.bpf
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, name: &str) -> Result<()> {
        self.process.as_ref().context("the daemon is not running")?.signal(name)
    }

    /// Waits for its end and returns whether it ended well.
    ///
    /// # Errors
    /// When it is not running.
    pub fn wait(&mut self) -> Result<bool> {
        let mut process = self.process.take().context("the daemon is not running")?;
        Ok(process.child().wait()?.success())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&mut self) -> u32 {
        self.process.as_mut().map_or(0, |process| process.child().id())
    }

    /// Writes or replaces a policy file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn policy(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.path().join("policies").join(format!("{name}.toml")), text)?)
    }

    /// Writes a credential file as an operator would: owned by root, mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn credential(&self, name: &str, secret: &str) -> Result<()> {
        let path = self.folder.path().join("credentials").join(name);
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(file.write_all(secret.as_bytes())?)
    }

    /// Adds to the configuration file, before the daemon is started.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, more: &str) -> Result<()> {
        Ok(fs::OpenOptions::new().append(true).open(self.config())?.write_all(more.as_bytes())?)
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("portcullis.toml")
    }

    /// The scratch folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs another build of the agent from now on.
    pub fn use_binary(&mut self, binary: &Path) {
        self.binary = Some(binary.to_owned());
    }

    fn binary(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(process::portcullis, Ok)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    /// The command line, against this daemon, as root.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.binary()?);
        command.env("PORTCULLIS_CONFIG", self.config()).env("NO_COLOR", "1");
        Ok(command)
    }

    /// The command line, against this daemon, as another user.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn command_as(&self, user: User) -> Result<Command> {
        let mut command = process::as_user(user, self.binary()?);
        command.env("PORTCULLIS_CONFIG", self.config()).env("NO_COLOR", "1").current_dir("/");
        Ok(command)
    }

    /// Runs a subcommand as root to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        process::finish(self.command()?.args(arguments))
    }

    /// Runs a subcommand with `--json` as root and parses what it prints.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = process::run(self.command()?.args(arguments).arg("--json"))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

impl Daemon {
    /// The objects a subcommand prints with `--json`, one per line.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json_lines(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = process::run(self.command()?.args(arguments).arg("--json"))?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// Asks a subcommand with `--json` again and again until its answer is as wanted. For what no event announces.
    ///
    /// # Errors
    /// When it does not become so; the last answer is in the message.
    pub fn until(&self, arguments: &[&str], wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let deadline = std::time::Instant::now() + START_TIME_MAX;
        loop {
            // What is asked about may not be on record yet.
            let answer = self.json_lines(arguments);
            match answer {
                Ok(answer) if wanted(&answer) => return Ok(answer),
                answer if std::time::Instant::now() > deadline => {
                    bail!("`{arguments:?}` still says {answer:#?}");
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take()
            && process.signal("TERM").is_ok()
        {
            drop(process.child().wait());
        }
        if let Ok(mut command) = self.command() {
            drop(command.arg("detach").stdout(Stdio::null()).stderr(Stdio::null()).status());
        }
        // A daemon keeps the folder of its runs' cgroups between starts, and the cgroups that outlive it.
        if let Some(unique) = self.folder.path().file_name() {
            for folder in
                ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|root| Path::new(root).join(unique))
            {
                for run in fs::read_dir(&folder).into_iter().flatten().flatten() {
                    drop(fs::remove_dir(run.path()));
                }
                drop(fs::remove_dir(&folder));
            }
        }
    }
}

/// A policy for the shop: everything the demo and most tests need.
#[must_use]
pub fn shop_policy(server: &Server) -> String {
    format!(
        r#"version = 1
name = "shop"

[egress]
default = "deny"

[[connection]]
name = "shop-db"
to = ["{address}"]
protocol = "postgres"
upstream = {{ user = "{role}", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}

[[guard]]
name = "nothing irreversible"
on = "postgres"
effect = ["ddl", "admin", "unknown"]
action = "hold"
approvers = ["user:daemon"]
hold = "30s"

[[guard]]
name = "big writes"
on = "postgres"
effect = ["write"]
estimated_rows = "> 100"
action = "hold"
approvers = ["user:daemon"]
hold = "30s"

[[guard]]
name = "small writes"
on = "postgres"
effect = ["write"]
action = "allow"

[[mask]]
on = "postgres"
columns = ["customers.ssn"]
with = "redact"

[[mask]]
detect = ["payment-card", "email"]
with = "partial"
"#,
        address = server.address(),
        role = crate::postgres::ROLE,
        ca = server.ca().display(),
    )
}
