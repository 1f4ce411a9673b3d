//! A real OpenID provider that the tests choose the users and claims of.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::{self, Guarded};

/// Secret of the confidential client for the page.
pub const PAGE_SECRET: &str = "the-pages-own+secret/";

const START_TIME_MAX: Duration = Duration::from_secs(30);

/// The provider, stopped when dropped.
#[derive(Debug)]
pub struct Provider {
    issuer: String,
    _process: Guarded,
}

impl Provider {
    /// Starts it on loopback.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self> {
        Self::start_for(&[])
    }

    /// The same, with clients for an approvals page that people are sent back to at these addresses: the public
    /// `portcullis-page`, and `portcullis-page-confidential` with [`PAGE_SECRET`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_for(redirect_uris: &[&str]) -> Result<Self> {
        let place = tempfile::tempdir()?.keep();
        let found_at = place.join("issuer");
        let mut node = Command::new("node");
        let process = Guarded::spawn(
            node.arg(folder()?.join("provider.mjs")).arg(&found_at).args(redirect_uris),
            &place,
        )?;
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            // A starting server offers no event to wait for but its own readiness.
            match fs::read_to_string(&found_at) {
                Ok(issuer) => return Ok(Self { issuer, _process: process }),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => bail!("the OpenID provider did not start within {START_TIME_MAX:?}: {error}"),
            }
        }
    }

    /// What its tokens say in `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token for this gate with these claims, good for so many seconds.
    ///
    /// # Errors
    /// When it mints none.
    pub fn token(&self, claims: &Value, seconds: i64) -> Result<String> {
        self.mint(&json!({ "exp_in": seconds, "claims": claims }))
    }

    /// A token as asked for: `aud`, `exp_in` and `claims`.
    ///
    /// # Errors
    /// When it mints none.
    pub fn mint(&self, wanted: &Value) -> Result<String> {
        let url = format!("{}/test/mint", self.issuer);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--data-binary"]);
        let answer = process::finish(curl.arg(wanted.to_string()).arg(url))?;
        if answer.code != 0 {
            bail!("no token: {}{}", answer.stdout, answer.stderr);
        }
        Ok(answer.stdout)
    }

    /// What stands in a browser's place: a program that signs this person in at the address behind it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn browser(&self, folder: &std::path::Path, name: &str, password: &str) -> Result<PathBuf> {
        let (script, program) = (folder.join("person.py"), folder.join(format!("browser-{name}-{password}")));
        fs::write(&script, include_str!("person.py"))?;
        let python = process::python();
        let text = format!(
            "#!/bin/sh\nexec '{}' '{}' '{name}' '{password}' \"$1\"\n",
            python.display(),
            script.display()
        );
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(program)
    }

    /// Where a job of a GitHub-like CI system asks for its token, and with what.
    #[must_use]
    pub fn actions(&self) -> [(&'static str, String); 2] {
        [
            ("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{}/test/actions?api-version=2.0", self.issuer)),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "the-jobs-own-request-token".to_owned()),
        ]
    }
}

/// Where `cargo xtask test` has put the provider and what it needs.
fn folder() -> Result<PathBuf> {
    let folder = std::env::var_os("PORTCULLIS_OIDC_PROVIDER").map(PathBuf::from);
    folder.context("PORTCULLIS_OIDC_PROVIDER is not set; run the tests with `cargo xtask test`")
}
