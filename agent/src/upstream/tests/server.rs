//! A private PostgreSQL with TLS, shared by the tests that run at the same time, stopped and removed after them.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Host name in the server's certificate.
pub(super) const HOST: &str = "db.test";
/// Password of every user that has one.
pub(super) const PASSWORD: &str = "pâss wörd";

const SETUP: &str = r"
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram LOGIN PASSWORD 'pâss wörd';
CREATE ROLE clear LOGIN PASSWORD 'pâss wörd';
CREATE ROLE trusty LOGIN;
CREATE ROLE certified LOGIN;
CREATE ROLE rejected LOGIN;
CREATE ROLE odd LOGIN;
ALTER ROLE odd SET standard_conforming_strings = off;
ALTER ROLE odd SET client_encoding = 'LATIN1';
SET password_encryption = 'md5';
CREATE ROLE md5 LOGIN PASSWORD 'pâss wörd';
";

const HBA: &str = "
host all postgres,trusty,odd 127.0.0.1/32 trust
host all scram 127.0.0.1/32 scram-sha-256
host all md5 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
hostssl all certified 127.0.0.1/32 cert
host all rejected 127.0.0.1/32 reject
";

pub(super) struct Server {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Server {
    /// The running one, or a new one.
    pub(super) fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *running = Arc::downgrade(&server);
            server
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root of its certificate.
    pub(super) fn root_cert(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// A certificate and key that the server takes for the user `certified`, in PEM.
    pub(super) fn client_certificate(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("client.pem")).unwrap()
    }

    /// Runs SQL as the superuser and returns what psql prints, unaligned.
    pub(super) fn sql(&self, database: &str, text: &str) -> String {
        let output = self.psql(database, text);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A database of its own for one test.
    pub(super) fn database(&self, name: &str, setup: &str) {
        self.sql("postgres", &format!("DROP DATABASE IF EXISTS {name}"));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.sql(name, setup);
    }

    fn psql(&self, database: &str, text: &str) -> std::process::Output {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        Command::new(program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", &host, "-p", &port])
            .args(["-d", database, "-c", text])
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGSSLMODE", "disable")
            .output()
            .unwrap()
    }

    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (uid, gid) = postgres_user();
        let own = |path: &Path, mode: u32| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            chown(path, Some(uid), Some(gid))
                .expect("run the tests as root: PostgreSQL gets a user of its own");
        };
        own(folder.path(), 0o755);
        let data = folder.path().join("data");
        let made = Command::new(program("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .uid(uid)
            .gid(gid)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();

        let root = TestRoot::new("Test root");
        let (certificate, key) = root.certificate(HOST, IsCa::NoCa);
        fs::write(folder.path().join("root.pem"), root.issuer.pem()).unwrap();
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, "certified");
        let (client, client_key) = root.sign(client);
        fs::write(folder.path().join("client.pem"), client.pem() + &client_key.serialize_pem()).unwrap();
        fs::write(data.join("server.crt"), certificate.pem()).unwrap();
        fs::write(data.join("server.key"), key.serialize_pem()).unwrap();
        own(&data.join("server.key"), 0o600);
        own(&data.join("server.crt"), 0o644);

        let address = free_address();
        let process = Command::new(program("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "ssl=on"])
            .args(["-c", "ssl_ca_file=../root.pem"])
            .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=50"])
            .args(["-c", &format!("port={}", address.port())])
            .current_dir(folder.path())
            .uid(uid)
            .gid(gid)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut server = Self { folder, address, process };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !server.psql("postgres", "SELECT 1").status.success() {
            let log = fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            let running = server.process.try_wait().unwrap().is_none();
            assert!(running && Instant::now() < deadline, "PostgreSQL does not start: {log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        server.sql("postgres", SETUP);
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        // Fast shutdown; the folder goes when the last process has.
        if rustix::process::kill_process(pid, rustix::process::Signal::INT).is_ok() {
            drop(self.process.wait());
        }
    }
}

/// PostgreSQL's programs: Debian's 15, or those of the folder in PORTCULLIS_TEST_PG_BIN.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("PORTCULLIS_TEST_PG_BIN").map(PathBuf::from);
    let default = PathBuf::from("/usr/lib/postgresql/15/bin");
    let found =
        folder.into_iter().chain([default]).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: run `apt-get install postgresql`"))
}

fn postgres_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("postgres")).then(|| (fields.nth(1), fields.next()))
    });
    let Some((Some(uid), Some(gid))) = user else {
        panic!("no user postgres: run `apt-get install postgresql`")
    };
    (uid.parse().unwrap(), gid.parse().unwrap())
}

/// An address on which nothing listens now.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A root of the test's own, for servers that misbehave in their certificates.
pub(super) struct TestRoot {
    pub(super) issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestRoot {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(super) fn certificate(&self, host: &str, is_ca: IsCa) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.is_ca = is_ca;
        self.sign(params)
    }

    pub(super) fn sign(&self, params: CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}
