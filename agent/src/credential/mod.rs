//! Upstream credentials: secrets that this host's root alone holds, named by a connection's profile. A name is a file of the
//! credentials folder, unless the daemon's configuration says where else it comes from.
//!
//! Nothing is kept beyond the session that asked, but for tokens that log in to Vault.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use self::exec::ExecError;
use self::lease::Leases;
use self::vault::{Vault, VaultError};
use crate::config::credential::{Source, Sources};
use crate::flow::Side;
use crate::gate::Admission;
use crate::secret::Secret;
use crate::tls::upstream_side::ServerTrust;

pub use self::environment::{SystemdFolder, Variables};
pub use self::lease::Lease;
pub use crate::private::Problem;
use crate::private::{self, Readers};

mod environment;
mod exec;
mod json;
mod lease;
mod vault;

/// Largest credential, in bytes. A password is short; a client key or a kubeconfig still fits.
pub const CREDENTIAL_BYTES_MAX: usize = 64 * 1024;
/// Commands that run at once; the others wait.
const COMMANDS_MAX: usize = 8;
/// How long a long-lived connection uses what it got before it asks again: a local file is cheap to read.
const LOCAL_AGE_MAX: Duration = Duration::from_secs(1);
/// The same where a command has to run or a server has to answer.
const REMOTE_AGE_MAX: Duration = Duration::from_secs(60);

/// Where credentials come from. They are fetched each time they are asked for, so that a rotated password is used by the
/// next connection.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    directory: PathBuf,
    systemd: SystemdFolder,
    variables: Variables,
    sources: Sources,
    vaults: BTreeMap<String, Arc<Vault>>,
    leases: Leases,
    commands: Semaphore,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

/// What a session logs in with. Kept as long as the session may have to log in again; dropping the last copy of a leased one
/// gives the lease back.
#[derive(Clone)]
pub struct Credential {
    /// The password, key or token.
    pub secret: Secret,
    /// The user it is for, when who issued the secret has made one for it. Goes before the profile's.
    pub user: Option<String>,
    lease: Option<Arc<Lease>>,
    age_max: Duration,
}

impl Credential {
    fn fixed(secret: Secret, age_max: Duration) -> Self {
        Self { secret, user: None, lease: None, age_max }
    }

    /// What a client gave, to be passed through.
    #[must_use]
    pub fn passed_through(secret: Secret) -> Self {
        Self::fixed(secret, Duration::MAX)
    }

    /// The lease, for whoever uses the secret on and on.
    #[must_use]
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// Whether a credential that was got so long ago may still be used for a further login.
    #[must_use]
    pub fn is_good_after(&self, age: Duration) -> bool {
        self.lease.as_ref().map_or(age < self.age_max, |lease| lease.is_live())
    }
}

/// A credential that cannot be used. The text says where it comes from and what to do; it never holds contents.
#[derive(Debug, Error)]
#[error("credential \"{name}\" ({place}): {fault}")]
pub struct CredentialError {
    name: String,
    place: String,
    fault: Fault,
}

/// What is wrong with a credential.
#[derive(Debug, Error)]
pub enum Fault {
    /// The file.
    #[error(transparent)]
    File(#[from] Problem),
    /// No such variable.
    #[error("is not set in the daemon's environment: set it where the daemon is started, and restart it")]
    Unset,
    /// The daemon was started without credentials of systemd.
    #[error("systemd has handed no credentials over: add LoadCredential= to the unit (systemd.exec(5))")]
    NoFolder,
    /// The command.
    #[error(transparent)]
    Command(#[from] ExecError),
    /// Vault.
    #[error(transparent)]
    Vault(#[from] Box<VaultError>),
    /// It holds a NUL byte.
    #[error("holds a NUL byte, which no password, key or token can")]
    Nul,
    /// A lease where it would be given back at once.
    #[error("is a dynamic secret, which only the `credential` of a connection can be")]
    Leased,
}

impl CredentialError {
    /// The operator of this host has to repair it.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Portcullis
    }

    /// What exactly is wrong.
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.fault
    }
}

impl Credentials {
    /// Files of this folder alone. The folder is looked at when a credential is asked for.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self::with_sources(directory, Sources::new(), Variables::default(), SystemdFolder::default())
    }

    /// Files of this folder, and what the daemon's configuration names.
    #[must_use]
    pub fn with_sources(
        directory: impl Into<PathBuf>,
        sources: Sources,
        variables: Variables,
        systemd: SystemdFolder,
    ) -> Self {
        let (leases, trust) = (Leases::default(), Arc::new(ServerTrust::default()));
        let vaults = sources.iter().filter_map(|(name, source)| match source {
            Source::Vault(vault) => {
                Some((name.clone(), Arc::new(Vault::new(name, vault, Arc::clone(&trust), leases.clone()))))
            }
            Source::Systemd { .. } | Source::Env { .. } | Source::Exec { .. } => None,
        });
        Self(Arc::new(Shared {
            directory: directory.into(),
            systemd,
            variables,
            vaults: vaults.collect(),
            sources,
            leases,
            commands: Semaphore::new(COMMANDS_MAX),
        }))
    }

    /// The credential of the admitted connection; `None` when its profile names none.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn get(&self, admission: &Admission) -> Result<Option<Credential>, CredentialError> {
        match admission.connection().upstream.credential.as_deref() {
            Some(name) => self.credential(name).await.map(Some),
            None => Ok(None),
        }
    }

    /// The client certificate and key of the admitted connection, in PEM; `None` when its profile names none.
    ///
    /// # Errors
    /// As [`Credentials::get`].
    pub async fn client_certificate(&self, admission: &Admission) -> Result<Option<Secret>, CredentialError> {
        match admission.connection().upstream.client_cert.as_deref() {
            Some(name) => self.named(name).await.map(Some),
            None => Ok(None),
        }
    }

    /// What a profile names beside its credential, such as the certificate of a key.
    ///
    /// # Errors
    /// As [`Credentials::get`]; and dynamic secrets cannot be had in this way.
    pub async fn named(&self, name: &str) -> Result<Secret, CredentialError> {
        let credential = self.credential(name).await?;
        match credential.lease {
            None => Ok(credential.secret),
            Some(_) => Err(self.error(name, Fault::Leased)),
        }
    }

    /// Waits until all leases have been given back, for as long as `longest`. Says whether they have.
    pub async fn settle(&self, longest: Duration) -> bool {
        tokio::time::timeout(longest, self.0.leases.all_back()).await.is_ok()
    }

    async fn credential(&self, name: &str) -> Result<Credential, CredentialError> {
        let fetched = match self.0.vaults.get(name) {
            // In a task of its own: a session that is abandoned meanwhile must not leave a lease that nobody knows of.
            Some(vault) => {
                let (vault, own) = (Arc::clone(vault), self.clone());
                match tokio::spawn(async move { vault.read(&own).await }).await {
                    Ok(read) => read.map_err(|error| Fault::Vault(Box::new(error))),
                    Err(_ended) => Err(Fault::Vault(Box::new(VaultError::Stopped))),
                }
            }
            // Boxed: what a command takes need not lie in every session's future.
            None => Box::pin(self.fixed(name)).await,
        };
        fetched.map_err(|fault| self.error(name, fault))
    }

    /// What does not lie in Vault.
    async fn fixed(&self, name: &str) -> Result<Credential, Fault> {
        match self.0.sources.get(name) {
            None | Some(Source::Vault(_)) => {
                check_name(name)?;
                file(&self.0.directory, name)
            }
            Some(Source::Systemd { name }) => file(self.0.systemd.path().ok_or(Fault::NoFolder)?, name),
            Some(Source::Env { variable }) => {
                let secret = self.0.variables.get(variable).ok_or(Fault::Unset)?;
                Ok(Credential::fixed(usable(Zeroizing::new(secret.expose().to_vec()))?, LOCAL_AGE_MAX))
            }
            Some(Source::Exec { command, timeout }) => {
                // The semaphore is never closed.
                let _place = self.0.commands.acquire().await;
                let printed = exec::run(name, command, *timeout).await?;
                Ok(Credential::fixed(usable(printed)?, REMOTE_AGE_MAX))
            }
        }
    }

    fn error(&self, name: &str, fault: Fault) -> CredentialError {
        let place = match self.0.sources.get(name) {
            None => self.0.directory.join(name).display().to_string(),
            Some(Source::Systemd { name }) => format!("systemd's credential {name}"),
            Some(Source::Env { variable }) => format!("variable {variable}"),
            Some(Source::Exec { command, .. }) => {
                format!("command {}", command.first().map_or("", String::as_str))
            }
            Some(Source::Vault(vault)) => format!("{} at {}", vault.path, vault.address),
        };
        CredentialError { name: name.to_owned(), place, fault }
    }
}

/// Reads one small local file; no `await`, because a page-cache read is shorter than a thread hand-over.
fn file(folder: &Path, name: &str) -> Result<Credential, Fault> {
    let directory = private::open_directory(folder)?;
    let contents = private::read(&directory, Path::new(name), CREDENTIAL_BYTES_MAX, Readers::Owner)?;
    Ok(Credential::fixed(one_line_less(contents)?, LOCAL_AGE_MAX))
}

/// The contents without one trailing newline, which editors and `echo` add.
fn one_line_less(mut contents: Zeroizing<Vec<u8>>) -> Result<Secret, Fault> {
    if contents.last() == Some(&b'\n') {
        contents.pop();
        if contents.last() == Some(&b'\r') {
            contents.pop();
        }
    }
    if contents.is_empty() {
        return Err(Problem::Empty.into());
    }
    Ok(Secret::new(std::mem::take(&mut *contents)))
}

/// The same of what no file can vouch for: a NUL byte shows that something else was printed than a secret.
fn usable(contents: Zeroizing<Vec<u8>>) -> Result<Secret, Fault> {
    if contents.len() > CREDENTIAL_BYTES_MAX {
        return Err(Problem::TooLarge { limit: CREDENTIAL_BYTES_MAX }.into());
    }
    if contents.contains(&0) {
        return Err(Fault::Nul);
    }
    one_line_less(contents)
}

/// A credential is named by one plain file name. Leading dots are left to editors' backups and `..`.
fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(Problem::Name);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
