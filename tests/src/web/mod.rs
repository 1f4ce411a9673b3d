//! A private HTTP upstream on an address of its own: HTTP/1.1 and HTTP/2 behind TLS and without, gRPC, a git repository,
//! certificates that nobody should accept, answers that no server may give. It logs what reaches it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Guarded};

mod certificates;
pub mod client;
pub mod policy;

/// The token that only the daemon holds. It must never appear in anything the agent can see.
pub const TOKEN: &str = "shop-token-k3Jq81vXw0Zr5tBn";

/// Names in the server's certificate besides its address.
pub const NAMES: [&str; 8] = [
    "api.shop.test",
    "eu.api.shop.test",
    "git.shop.test",
    "api.github.com",
    "api.stripe.com",
    "slack.com",
    "gitlab.com",
    "s3.eu-central-1.amazonaws.com",
];

const START_TIME_MAX: Duration = Duration::from_secs(30);

/// The server's programs, as files in its folder.
const PROGRAMS: [(&str, &str); 7] = [
    ("upstream.py", include_str!("upstream.py")),
    ("wire.py", include_str!("wire.py")),
    ("app.py", include_str!("app.py")),
    ("planted.py", include_str!("planted.py")),
    ("hostile.py", include_str!("hostile.py")),
    ("grpc_server.py", include_str!("grpc_server.py")),
    ("git_cgi.py", include_str!("git_cgi.py")),
];

/// The ways in which the server can be met, each on a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// HTTP/1.1 and HTTP/2 behind TLS.
    Https,
    /// HTTP/1.1 without TLS.
    Plain,
    /// Answers that no server may give, behind TLS.
    Hostile,
    /// gRPC behind TLS.
    Grpc,
    /// A certificate for another name.
    WrongName,
    /// A certificate that has expired.
    Expired,
    /// A certificate of an authority that nobody knows.
    UnknownRoot,
    /// HTTP/1.1 behind TLS, and nothing else.
    H1,
    /// Nobody listens.
    Nobody,
}

impl Port {
    /// In the order in which the server's program takes them.
    const SERVED: [Self; 8] = [
        Self::Https,
        Self::Plain,
        Self::Hostile,
        Self::Grpc,
        Self::WrongName,
        Self::Expired,
        Self::UnknownRoot,
        Self::H1,
    ];

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Https => 8443,
            Self::Plain => 8080,
            Self::Hostile => 8444,
            Self::Grpc => 50_051,
            Self::WrongName => 8451,
            Self::Expired => 8452,
            Self::UnknownRoot => 8453,
            Self::H1 => 8445,
            Self::Nobody => 8446,
        }
    }
}

/// A running server. Stopped and removed when dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: Ipv4Addr,
    folder: PathBuf,
    // Ends before its folder goes.
    _process: Guarded,
    _folder: TempDir,
}

impl HttpServer {
    /// Starts a server on `address`, a 127.x.y.z of the caller's choice.
    ///
    /// # Errors
    /// When Python or its libraries are missing (the message says how to install them), or it does not start.
    pub fn start(address: Ipv4Addr) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let temporary = tempfile::Builder::new().prefix("portcullis-http.").tempdir()?;
        let folder = temporary.path().to_owned();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        for (name, text) in PROGRAMS {
            fs::write(folder.join(name), text)?;
        }
        certificates::write(&folder, address)?;
        repository(&folder)?;
        let mut command = Command::new("env");
        command
            .arg(format!("PORTCULLIS_TEST_GIT={}", folder.join("git").display()))
            // Standard error is kept: what fails in the server explains what fails in a test.
            .args(["sh", "-c", "errors=$1; shift; exec \"$@\" 2>\"$errors\"", "sh"])
            .arg(folder.join("errors.log"))
            .arg(process::venv_python()?)
            .args(["-u", "-B"])
            .arg(folder.join("upstream.py"))
            .arg(&folder)
            .arg(address.to_string())
            .args(Port::SERVED.map(|port| port.number().to_string()));
        let guarded = Guarded::spawn(&command, &folder)?;
        let server = Self { address, folder, _process: guarded, _folder: temporary };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        while !self.folder.join("ready").exists() {
            if Instant::now() > deadline {
                bail!(
                    "the HTTP server at {} did not start within {START_TIME_MAX:?}: {}",
                    self.address,
                    self.errors()
                );
            }
            // A starting server offers no event to wait for but its own readiness.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it complained of on standard error: tests of what it must bear are wrong where there is something.
    #[must_use]
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.join("errors.log")).unwrap_or_default()
    }

    /// Where it listens.
    #[must_use]
    pub fn at(&self, port: Port) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port.number())
    }

    /// The certificate authority that signed its good certificate (PEM, readable by everybody).
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The folder that holds its bare repositories.
    #[must_use]
    pub fn repositories(&self) -> PathBuf {
        self.folder.join("git")
    }

    /// A file with this text that everybody may read, until the server ends.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn script(&self, text: &str) -> Result<PathBuf> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = self.folder.join(format!("script-{}.py", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Everything it logged whose target contains this: `what` is `request` (the head), `body` (when it was read to its
    /// end), `message` (of a WebSocket) or `reset`. It logs before it answers.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self, target: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.join("requests.log")).context("the server's log")?;
        let mut entries = Vec::new();
        for line in text.lines() {
            let entry: Value =
                serde_json::from_str(line).with_context(|| format!("in the server's log: {line}"))?;
            if entry.get("target").and_then(Value::as_str).is_some_and(|logged| logged.contains(target)) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The heads of the requests whose target contains this.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests(&self, target: &str) -> Result<Vec<Value>> {
        Ok(self.log(target)?.into_iter().filter(|entry| entry["what"] == "request").collect())
    }
}

/// The first value of a header in a logged request.
#[must_use]
pub fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    headers(request, name).next()
}

/// All values of a header in a logged request.
pub fn headers<'a>(request: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = request["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    pairs.iter().filter(move |pair| pair[0] == name).filter_map(|pair| pair[1].as_str())
}

/// A bare repository `shop.git` with one commit, which can be pushed to.
fn repository(folder: &Path) -> Result<()> {
    const SCRIPT: &str = r#"set -e
        export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1
        git init --quiet --bare --initial-branch=main "$1/git/shop.git"
        git -C "$1/git/shop.git" config http.receivepack true
        git init --quiet --initial-branch=main "$1/work"
        cd "$1/work"
        echo "a shop" > README
        git add README
        git -c user.name=shop -c user.email=shop@shop.test commit --quiet --message=first
        git push --quiet "$1/git/shop.git" main"#;
    process::run(Command::new("sh").args(["-c", SCRIPT, "sh"]).arg(folder)).map(drop)
}
