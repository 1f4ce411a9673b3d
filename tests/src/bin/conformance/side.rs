//! The two ways to a server: directly, and through a daemon under a policy that allows everything.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use harness::daemon::Daemon;
use harness::postgres::{self, Server};
use harness::process::{self, NOBODY};

use crate::say;

pub(crate) const PORT: u16 = 5432;
/// The server's superuser, whom everything runs as.
pub(crate) const SUPERUSER: &str = "postgres";
const PASSWORD: &str = "superuser";

/// Everything passes; nothing is masked. What a suite starts itself is on the loopback address.
fn policy(server: &Server) -> String {
    format!(
        r#"version = 1
name = "all"
[[connection]]
name = "server"
to = ["{}"]
protocol = "postgres"
upstream = {{ user = "{SUPERUSER}", credential = "superuser", tls = "verify-full", root_cert = "{}" }}
replication = true
[[connection]]
name = "own"
to = ["127.0.0.1/32:*", "[::1/128]:*"]
protocol = "postgres"
upstream = {{ auth = "pass-through", tls = "disable" }}
replication = true
[defaults]
read = "allow"
write = "allow"
ddl = "allow"
admin = "allow"
unknown = "allow"
"#,
        server.address(),
        server.ca().display()
    )
}

/// One way to a server.
pub(crate) struct Side {
    /// `direct` or `through`.
    pub(crate) name: &'static str,
    pub(crate) server: Rc<Server>,
    daemon: Option<Daemon>,
    /// What is left of this side's runs; anybody may write there.
    pub(crate) out: PathBuf,
}

/// Both ways to one server.
pub(crate) fn of_one_server(out: &Path) -> Result<[Side; 2]> {
    let server = Rc::new(Server::start(Ipv4Addr::new(127, 83, 0, 1), PORT)?);
    Ok([Side::direct(Rc::clone(&server), out)?, Side::through(server, out)?])
}

/// A server of its own for each way, for suites that leave something behind.
pub(crate) fn of_two_servers(out: &Path) -> Result<[Side; 2]> {
    let start = |last| Ok::<_, anyhow::Error>(Rc::new(Server::start(Ipv4Addr::new(127, 83, 0, last), PORT)?));
    Ok([Side::direct(start(1)?, out)?, Side::through(start(2)?, out)?])
}

impl Side {
    fn direct(server: Rc<Server>, out: &Path) -> Result<Self> {
        Ok(Self { name: "direct", server, daemon: None, out: fresh(&out.join("direct"))? })
    }

    fn through(server: Rc<Server>, out: &Path) -> Result<Self> {
        let mut daemon = Daemon::prepare(&[("all", &policy(&server))])?;
        daemon.credential("superuser", PASSWORD)?;
        daemon.launch()?;
        Ok(Self { name: "through", server, daemon: Some(daemon), out: fresh(&out.join("through"))? })
    }

    /// A command of an unprivileged user, governed or not, with libpq's variables set.
    ///
    /// # Errors
    /// When there is no agent binary.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let program = program.as_ref();
        let mut command = match &self.daemon {
            Some(daemon) => {
                let mut run = daemon.command_as(NOBODY)?;
                run.args(["run", "--policy", "all", "--"]).arg(program);
                run
            }
            None => process::as_user(NOBODY, program),
        };
        command
            .current_dir(&self.out)
            .env("HOME", &self.out)
            .env("TMPDIR", &self.out)
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PGHOST", self.server.address().ip().to_string())
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// PostgreSQL's own program of this name.
    ///
    /// # Errors
    /// When there is no agent binary or no server.
    pub(crate) fn postgres(&self, program: &str) -> Result<Command> {
        self.command(postgres::bin()?.join(program))
    }

    /// Runs to the end with all output in `NAME.log`; what it said, with its exit status at the end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn log(&self, name: &str, command: &mut Command) -> Result<String> {
        let path = self.out.join(format!("{name}.log"));
        let log = fs::File::create(&path)?;
        let status = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let said = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let said = said.replace(&self.out.display().to_string(), "OUT");
        let kept: String =
            said.lines().filter(|line| !is_random(line)).map(|line| format!("{line}\n")).collect();
        Ok(format!("{kept}{status}\n"))
    }

    /// Keeps what the daemon said beside the results.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn keep_log(&self) -> Result<()> {
        match &self.daemon {
            Some(daemon) => Ok(fs::write(self.out.join("daemon.log"), daemon.log())?),
            None => Ok(()),
        }
    }

    pub(crate) fn announce(&self, suite: &str) {
        say(&format!("{suite}: {}", self.name));
    }
}

/// Dumps of PostgreSQL 15.14 and later hold a random key against psql's own commands in data.
pub(crate) fn is_random(line: &str) -> bool {
    line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ")
}

/// An empty folder that anybody may write to.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn fresh(folder: &Path) -> Result<PathBuf> {
    drop(fs::remove_dir_all(folder));
    fs::create_dir_all(folder)?;
    // The server writes there, and so does the agent's user.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    Ok(folder.to_owned())
}
