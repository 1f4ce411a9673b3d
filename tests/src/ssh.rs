//! A real OpenSSH server with a host key and an account key of its own, and the policy that leads to it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::agent;
use crate::daemon::Daemon;
use crate::process::{self, Guarded, NOBODY};

const START_TIME_MAX: Duration = Duration::from_secs(20);

/// Where it listens.
const PORT: u16 = 2222;

/// A running server. Ends with this process. Its account is root: no other one of a Debian system has a shell.
#[derive(Debug)]
pub struct SshServer {
    address: Ipv4Addr,
    folder: PathBuf,
    _server: Guarded,
}

impl SshServer {
    /// Starts it on an address that nobody else uses.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(address: Ipv4Addr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis-ssh.").tempdir()?.keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        for (name, kind) in [
            ("host_ed25519", "ed25519"),
            ("host_rsa", "rsa"),
            ("host_ca", "ed25519"),
            ("account", "ed25519"),
            ("account_ecdsa", "ecdsa"),
            ("account_rsa", "rsa"),
            ("certified", "ed25519"),
            ("user_ca", "ed25519"),
        ] {
            let file = folder.join(name);
            process::run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&file))?;
        }
        let accounts = ["account", "account_ecdsa", "account_rsa"];
        let known = accounts.map(|name| fs::read_to_string(folder.join(format!("{name}.pub"))));
        fs::write(
            folder.join("authorized_keys"),
            known.into_iter().collect::<Result<Vec<_>, _>>()?.concat(),
        )?;
        Self::certify(&folder, "host_ca", &["-h", "-I", "host", "-n", &address.to_string()], "host_ed25519")?;
        Self::certify(&folder, "user_ca", &["-I", "stored", "-n", "root"], "certified")?;
        fs::create_dir_all("/run/sshd")?;
        fs::write(folder.join("sshd_config"), Self::config(address, &folder))?;
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.arg("-D").arg("-f").arg(folder.join("sshd_config")).arg("-E").arg(folder.join("log"));
        let server = Guarded::spawn(&sshd, &folder)?;
        let server = Self { address, folder, _server: server };
        server.wait()?;
        Ok(server)
    }

    fn certify(folder: &Path, authority: &str, options: &[&str], key: &str) -> Result<()> {
        let mut keygen = Command::new("ssh-keygen");
        keygen.arg("-q").arg("-s").arg(folder.join(authority)).args(options);
        process::run(keygen.arg(folder.join(format!("{key}.pub")))).map(drop)
    }

    fn config(address: Ipv4Addr, folder: &Path) -> String {
        let folder = folder.display();
        format!(
            "ListenAddress {address}:{PORT}\nHostKey {folder}/host_ed25519\nHostKey {folder}/host_rsa\n\
             HostCertificate {folder}/host_ed25519-cert.pub\n\
             AuthorizedKeysFile {folder}/authorized_keys\nTrustedUserCAKeys {folder}/user_ca.pub\n\
             PermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PidFile none\nAcceptEnv LANG LC_* GIT_PROTOCOL SECRET_*\nMaxSessions 100\nMaxStartups 200\nLogLevel VERBOSE\n\
             AllowTcpForwarding yes\nAllowStreamLocalForwarding yes\nX11Forwarding yes\n\
             Subsystem sftp internal-sftp\n"
        )
    }

    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(self.at()).is_err() {
            if Instant::now() > deadline {
                bail!("sshd does not listen:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn at(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, PORT)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A folder for the files of one test, that everybody may write to.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        Ok(folder)
    }

    /// Where one of its keys is, by name.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A key of it by name: `account`, `user_ca`, `host_ed25519`.
    ///
    /// # Errors
    /// When there is none.
    pub fn key(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join(name))?)
    }

    /// The public half, without its comment.
    ///
    /// # Errors
    /// When there is none.
    pub fn public_key(&self, name: &str) -> Result<String> {
        let text = self.key(&format!("{name}.pub"))?;
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        Ok(words.join(" "))
    }

    /// A policy `shop` with one SSH connection `web` to it. `upstream` and `connection` are more of their tables.
    ///
    /// # Errors
    /// When there is no host key.
    pub fn policy(&self, upstream: &str, connection: &str, rules: &str) -> Result<String> {
        let key = self.public_key("host_ed25519")?;
        Ok(self.policy_with(
            &format!("credential = \"account-key\", host_keys = [\"{key}\"]{upstream}"),
            connection,
            rules,
        ))
    }

    /// The same with everything that `upstream` says.
    #[must_use]
    pub fn policy_with(&self, upstream: &str, connection: &str, rules: &str) -> String {
        format!(
            "version = 1\nname = \"shop\"\n\n[egress]\ndefault = \"deny\"\n\n[[connection]]\nname = \"web\"\n\
             to = [\"{}\"]\nprotocol = \"ssh\"\nupstream = {{ user = \"root\", {upstream} }}\n{connection}\n\n{rules}",
            self.at()
        )
    }

    /// A daemon under this policy, which holds the account's key.
    ///
    /// # Errors
    /// When it does not start.
    pub fn daemon(&self, policy: &str) -> Result<Daemon> {
        let mut daemon = Daemon::prepare(&[("shop", policy)])?;
        daemon.credential("account-key", &self.key("account")?)?;
        daemon.credential("user-ca", &self.key("user_ca")?)?;
        daemon.launch()?;
        Ok(daemon)
    }

    /// Options of OpenSSH's clients that make them independent of this machine, and strict.
    ///
    /// # Errors
    /// Never, but for names that are no text.
    pub fn options(daemon: &Daemon) -> Result<Vec<String>> {
        let known = daemon.folder().join("run/ssh_known_hosts");
        let known = known.to_str().context("no text")?;
        let options = [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={known}"),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "IdentityFile=/dev/null".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
        ];
        let mut words = vec!["-F".to_owned(), "/dev/null".to_owned()];
        words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        Ok(words)
    }

    /// OpenSSH's client of an agent, towards the server. `more` are options, `command` what it runs.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn ssh(&self, daemon: &Daemon, more: &[&str], command: &[&str]) -> Result<Command> {
        let mut ssh = agent::under(daemon, NOBODY, "shop")?;
        ssh.arg("ssh").args(Self::options(daemon)?).args(["-p", &PORT.to_string()]).args(more);
        ssh.arg(format!("agent@{}", self.address)).args(command);
        Ok(ssh)
    }
}
