//! A stand-in for HashiCorp Vault, in Python, on this host.

use anyhow::{Context as _, Result};

use crate::process::{self, Talking};

const SCRIPT: &str = include_str!("vault.py");

/// A running stand-in. Ends when dropped.
#[derive(Debug)]
pub struct VaultStandIn {
    process: Talking,
    port: String,
}

impl VaultStandIn {
    /// Starts one that gives out this user and password, on leases of so many seconds.
    ///
    /// # Errors
    /// When there is no Python, or it does not start.
    pub fn start(user: &str, password: &str, seconds: u32) -> Result<Self> {
        let mut command = std::process::Command::new(process::python());
        command.args(["-u", "-c", SCRIPT, user, password, &seconds.to_string()]);
        let mut process = Talking::spawn(&mut command)?;
        let port = process.until_contains("port ")?;
        let port = port.strip_prefix("port ").context("no port")?.to_owned();
        Ok(Self { process, port })
    }

    /// A table of the daemon's configuration for what lies at a path; the credential `vault-token` logs in.
    #[must_use]
    pub fn table(&self, name: &str, path: &str) -> String {
        format!(
            "\n[credential.{name}]\nfrom = \"vault\"\naddress = \"http://127.0.0.1:{}\"\npath = \"{path}\"\n\
             auth = {{ method = \"token\", credential = \"vault-token\" }}\n",
            self.port
        )
    }

    /// Waits for a request that was not waited for before, such as "POST /v1/sys/leases/revoke 204".
    ///
    /// # Errors
    /// When it does not come.
    pub fn until(&mut self, request: &str) -> Result<String> {
        self.process.until_contains(request)
    }
}

/// What the stand-in takes as its token.
pub const TOKEN: &str = "vault-t0ken";
