//! What is compared: a direct connection, a byte relay, PgBouncer, HAProxy, and Portcullis under several policies.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::Daemon;
use harness::postgres::{PASSWORD, ROLE, Server};
use harness::process::{self, NOBODY, Owned};

use crate::measure::client_environment;

const START_TIME_MAX: Duration = Duration::from_secs(10);

/// Policies a governed client may run under, and what each stands for.
pub(crate) const POLICIES: [(&str, &str); 5] = [
    ("plain", "no masks"),
    ("columns", "a column masked"),
    ("detectors", "column masks, detectors"),
    ("gathered", "the same, intents gathered"),
    ("durable", "reads synced to disk"),
];

/// Something between pgbench and the server, or nothing.
#[derive(Debug)]
pub(crate) struct Target {
    name: String,
    address: SocketAddr,
    pid: Option<u32>,
    /// Stops with us.
    _process: Option<Owned>,
    governed: Option<(Rc<Daemon>, &'static str)>,
}

impl Target {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process whose time is the target's.
    pub(crate) fn process(&self) -> Option<u32> {
        self.pid
    }

    /// A client program of an unprivileged user, governed when the target is Portcullis.
    pub(crate) fn client(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = match &self.governed {
            None => process::as_user(NOBODY, program),
            Some((daemon, policy)) => {
                let mut run = agent::under(daemon, NOBODY, policy)?;
                run.arg(program);
                run
            }
        };
        client_environment(&mut command);
        Ok(command)
    }

    /// pgbench's and psql's options that lead to the target.
    pub(crate) fn connection(&self) -> [String; 3] {
        [
            format!("--host={}", self.address.ip()),
            format!("--port={}", self.address.port()),
            format!("--username={ROLE}"),
        ]
    }

    pub(crate) fn direct(server: &Server) -> Self {
        Self {
            name: "direct".to_owned(),
            address: server.address().into(),
            pid: None,
            _process: None,
            governed: None,
        }
    }

    fn around(name: &str, address: SocketAddr, command: &mut Command) -> Result<Self> {
        let mut process = Owned::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let pid = Some(process.child().id());
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.child().try_wait()? {
                bail!("{name} ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("{name} does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { name: name.to_owned(), address, pid, _process: Some(process), governed: None })
    }

    pub(crate) fn relay(server: &Server, address: SocketAddr) -> Result<Self> {
        let mut relay = Command::new(std::env::current_exe()?);
        relay.arg("relay").arg(address.to_string()).arg(server.address().to_string());
        Self::around("byte relay", address, &mut relay)
    }

    pub(crate) fn pgbouncer(server: &Server, address: SocketAddr, folder: &Path) -> Result<Self> {
        let config = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port={} user={ROLE} password={PASSWORD}\n\n[pgbouncer]\n\
             listen_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = session\n\
             max_client_conn = 100\ndefault_pool_size = 100\nserver_tls_sslmode = disable\nlog_connections = 0\n\
             log_disconnections = 0\n",
            server.address().ip(),
            server.address().port(),
            address.ip(),
            address.port(),
        );
        fs::write(&config, text)?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
        let mut pgbouncer = Command::new(sbin("pgbouncer"));
        // It refuses to run as root.
        pgbouncer.uid(NOBODY.uid).gid(NOBODY.gid).arg("--quiet").arg(config).stderr(Stdio::null());
        Self::around("PgBouncer, session mode", address, &mut pgbouncer)
    }

    pub(crate) fn haproxy(server: &Server, address: SocketAddr, folder: &Path) -> Result<Self> {
        let config = folder.join("haproxy.cfg");
        let text = format!(
            "global\n  nbthread 1\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n\
             \x20 timeout server 1h\nlisten postgres\n  bind {address}\n  server one {}\n",
            server.address()
        );
        fs::write(&config, text)?;
        let mut haproxy = Command::new(sbin("haproxy"));
        haproxy.arg("-db").arg("-q").arg("-f").arg(config);
        Self::around("HAProxy, tcp mode", address, &mut haproxy)
    }

    /// Portcullis under each policy, one daemon for all.
    pub(crate) fn portcullis(server: &Server, binary: &Path, label: &str) -> Result<Vec<Self>> {
        let mut daemon = daemon(server, binary)?;
        let pid = Some(daemon.pid());
        let daemon = Rc::new(daemon);
        let target = |(policy, what): &(&'static str, &str)| Self {
            name: format!("{label}, {what}"),
            address: server.address().into(),
            pid,
            _process: None,
            governed: Some((Rc::clone(&daemon), policy)),
        };
        Ok(POLICIES.iter().map(target).collect())
    }
}

/// A daemon with every policy of the bench.
pub(crate) fn daemon(server: &Server, binary: &Path) -> Result<Daemon> {
    let mut daemon = prepared(server, binary)?;
    daemon.launch()?;
    Ok(daemon)
}

/// The same, not yet started.
pub(crate) fn prepared(server: &Server, binary: &Path) -> Result<Daemon> {
    let texts: Vec<(&str, String)> =
        POLICIES.iter().map(|(name, _)| Ok((*name, policy(server, name)?))).collect::<Result<_>>()?;
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut daemon = Daemon::prepare(&texts)?;
    daemon.use_binary(binary);
    Ok(daemon)
}

/// TLS is off on both legs, as it is for every other target.
fn policy(server: &Server, name: &str) -> Result<String> {
    let written = "[record]\ndurable = [\"write\", \"ddl\", \"admin\", \"unknown\"]\n";
    let columns =
        |columns: &str| format!("[[mask]]\non = \"postgres\"\ncolumns = [{columns}]\nwith = \"redact\"\n");
    let detectors = "[[mask]]\ndetect = [\"payment-card\", \"iban\", \"email\", \"jwt\", \"private-key\", \
                     \"aws-key\", \"api-key\", \"password-in-url\"]\nwith = \"partial\"\n";
    let rest = match name {
        "plain" => written.to_owned(),
        "columns" => format!("{written}{}", columns("\"customers.ssn\", \"pgbench_accounts.filler\"")),
        "detectors" => format!("{written}{}{detectors}", columns("\"customers.ssn\"")),
        "gathered" => format!("{written}gather = true\n{}{detectors}", columns("\"customers.ssn\"")),
        "durable" => String::new(),
        _ => bail!("no policy `{name}`"),
    };
    Ok(format!(
        "version = 1\nname = \"{name}\"\n\n[egress]\ndefault = \"deny\"\n\n[[connection]]\nname = \"bench-db\"\n\
         to = [\"{}\"]\nprotocol = \"postgres\"\n\
         upstream = {{ user = \"{ROLE}\", credential = \"shop-password\", tls = \"disable\" }}\n\n[[guard]]\non = \"postgres\"\n\
         effect = [\"write\"]\naction = \"allow\"\n\n{rest}",
        server.address()
    ))
}

/// The agent built for release, unless the environment names another.
pub(crate) fn binary() -> Result<std::path::PathBuf> {
    process::portcullis().context("build it with `cargo build --release`")
}

/// Where Debian puts a server program; the caller's PATH may not lead there.
fn sbin(program: &str) -> std::path::PathBuf {
    Path::new("/usr/sbin").join(program)
}
