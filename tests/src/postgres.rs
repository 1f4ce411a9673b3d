//! A private PostgreSQL server on an address of its own, with TLS, SCRAM passwords and a small shop database.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::process::{self, Guarded};

/// The role whose password only the daemon holds.
pub const ROLE: &str = "shop_agent";
/// That role's password. It must never appear in anything the agent can see.
pub const PASSWORD: &str = "correct-horse-battery-staple";

/// The demo's and tests' tables: cards and addresses to mask, orders to update.
pub const SHOP: &str = include_str!("shop.sql");

const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A running server. Stopped and removed when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddrV4,
    bin: PathBuf,
    ca: PathBuf,
    // Ends before its folder goes.
    _process: Guarded,
    _folder: TempDir,
}

impl Server {
    /// Starts a server on `address`, a 127.x.y.z of the caller's choice, with the shop database in it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed (the message says how to install it) or does not start.
    pub fn start(address: Ipv4Addr, port: u16) -> Result<Self> {
        Self::start_with(address, port, &[])
    }

    /// The same with further settings of the server.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(address: Ipv4Addr, port: u16, settings: &[(&str, &str)]) -> Result<Self> {
        let bin = bin()?;
        let folder = tempfile::Builder::new().prefix("portcullis-postgres.").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let (uid, gid) = owner()?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        chown(&data, Some(uid), Some(gid))?;
        initdb(&bin, &data, uid, gid)?;
        let ca = certificates(&data, address, uid, gid)?;
        let public_ca = folder.path().join("ca.pem");
        fs::copy(ca, &public_ca)?;
        fs::set_permissions(&public_ca, fs::Permissions::from_mode(0o644))?;
        let mut postgres = command(&bin, folder.path(), address, port, uid, gid);
        for (name, value) in settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let process = Guarded::spawn(&postgres, folder.path())?;
        let server = Self {
            address: SocketAddrV4::new(address, port),
            bin,
            ca: public_ca,
            _process: process,
            _folder: folder,
        };
        server.wait_until_ready()?;
        server.psql("postgres", "CREATE DATABASE shop")?;
        server.psql("postgres", "CREATE DATABASE orders_archive")?;
        server.psql("shop", SHOP)?;
        server.psql("postgres", "ALTER DATABASE orders_archive OWNER TO shop_agent")?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The certificate authority that signed its certificate (PEM).
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Runs SQL directly, as superuser, not through the daemon.
    ///
    /// # Errors
    /// When psql fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = Command::new(client(&self.bin, "psql"));
        command
            .env_clear()
            .env("PGPASSWORD", "superuser")
            .arg("--no-psqlrc")
            .args(["--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .arg(format!("--host={}", self.address.ip()))
            .arg(format!("--port={}", self.address.port()))
            .args(["--username=postgres", "--dbname", database, "--command", sql]);
        process::run(&mut command)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            if TcpStream::connect(self.address).is_ok() && self.psql("postgres", "SELECT 1").is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL at {} did not start within {START_TIME_MAX:?}", self.address);
            }
            // A starting server offers no event to wait for but its own readiness.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Names the folder of the server's programs to be tested with, instead of the newest that is installed.
pub const BIN_VARIABLE: &str = "PORTCULLIS_POSTGRES_BIN";

/// A client program: of the server's own folder, or the system's where that has none.
#[must_use]
pub fn client(bin: &Path, name: &str) -> PathBuf {
    let own = bin.join(name);
    if own.is_file() { own } else { PathBuf::from(format!("/usr/bin/{name}")) }
}

/// Names the psql that agents use, instead of the one in their `PATH`.
pub const PSQL_VARIABLE: &str = "PORTCULLIS_PSQL";

/// The psql that agents use.
#[must_use]
pub fn psql() -> String {
    std::env::var(PSQL_VARIABLE).unwrap_or_else(|_| "psql".to_owned())
}

/// The programs of the server to be tested with.
///
/// # Errors
/// When none is installed, or what the environment names is none.
pub fn bin() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BIN_VARIABLE) {
        let named = PathBuf::from(named);
        if !named.join("postgres").is_file() {
            bail!("{BIN_VARIABLE} names {}, where no PostgreSQL server is", named.display());
        }
        return Ok(named);
    }
    installed()
}

/// The newest installed server's programs.
///
/// # Errors
/// When none is installed.
pub fn installed() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| {
                    Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
                })
                .filter(|(_, bin)| bin.join("postgres").is_file())
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("no PostgreSQL server: apt-get install postgresql")
}

/// PostgreSQL refuses to run as root; Debian's package brings the user `postgres`.
fn owner() -> Result<(u32, u32)> {
    let id = |flag| -> Result<u32> {
        Ok(process::run(Command::new("id").args([flag, "postgres"]))?.trim().parse()?)
    };
    Ok((id("-u")?, id("-g")?))
}

fn initdb(bin: &Path, data: &Path, uid: u32, gid: u32) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let password = data.with_file_name("superuser-password");
    fs::write(&password, "superuser\n")?;
    chown(&password, Some(uid), Some(gid))?;
    let mut initdb = Command::new(bin.join("initdb"));
    initdb
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        .args([
            "--no-sync",
            "--no-instructions",
            "--auth=scram-sha-256",
            "--username=postgres",
            "--encoding=UTF8",
        ])
        .arg(format!("--pwfile={}", password.display()))
        .arg(format!("--pgdata={}", data.display()));
    process::run(&mut initdb).map(drop)
}

/// A certificate authority and a server certificate for the address, in the data folder.
fn certificates(data: &Path, address: Ipv4Addr, uid: u32, gid: u32) -> Result<PathBuf> {
    let ca_key = rcgen::KeyPair::generate()?;
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Shop test authority");
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate()?;
    let server = rcgen::CertificateParams::new(vec![address.to_string(), "db.internal".to_owned()])?;
    let certificate = server.signed_by(&key, &issuer)?;
    let ca_file = data.with_file_name("ca-source.pem");
    fs::write(&ca_file, ca_certificate.pem())?;
    for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let path = data.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        chown(&path, Some(uid), Some(gid))?;
    }
    Ok(ca_file)
}

fn command(bin: &Path, folder: &Path, address: Ipv4Addr, port: u16, uid: u32, gid: u32) -> Command {
    let mut postgres = Command::new("setpriv");
    postgres
        .current_dir("/")
        .args(["--clear-groups", &format!("--reuid={uid}"), &format!("--regid={gid}")])
        .arg(bin.join("postgres"))
        .arg("-D")
        .arg(folder.join("data"));
    let port = port.to_string();
    let address = address.to_string();
    for (name, value) in [
        ("listen_addresses", address.as_str()),
        ("port", &port),
        ("unix_socket_directories", ""),
        ("ssl", "on"),
        ("fsync", "off"),
        ("max_connections", "1200"),
        ("max_prepared_transactions", "4"),
        ("wal_level", "logical"),
        ("shared_buffers", "64MB"),
    ] {
        postgres.arg("-c").arg(format!("{name}={value}"));
    }
    postgres
}
