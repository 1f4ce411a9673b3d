//! Upstream credentials: secrets in files that only root may read, named by a connection's profile.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::flow::Side;
use crate::gate::Admission;
use crate::secret::Secret;

pub use crate::private::Problem;
use crate::private::{self, Readers};

/// Largest credential file, in bytes. A password is short; a client key or a kubeconfig still fits.
pub const CREDENTIAL_BYTES_MAX: usize = 64 * 1024;

/// The folder credentials are read from. Files are read each time they are asked for, so that a rotated password
/// is used by the next connection; nothing is kept.
#[derive(Clone, Debug)]
pub struct Credentials {
    directory: PathBuf,
}

/// A credential that cannot be used. The text names the file and says what to do; it never holds contents.
#[derive(Debug, Error)]
#[error("credential \"{name}\" ({path}): {problem}", path = path.display())]
pub struct CredentialError {
    name: String,
    path: PathBuf,
    problem: Problem,
}

impl CredentialError {
    /// The operator of this host has to repair the file.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Portcullis
    }

    /// What exactly is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl Credentials {
    /// Credentials in this folder. The folder is looked at when a credential is asked for.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The secret of the admitted connection, without one trailing newline; `None` when its profile names none.
    ///
    /// Reads one small local file; no `await`, because a page-cache read is shorter than a thread hand-over.
    ///
    /// # Errors
    /// The file is missing, empty, too large, readable by others, or leaves the folder.
    pub fn get(&self, admission: &Admission) -> Result<Option<Secret>, CredentialError> {
        admission.connection().upstream.credential.as_deref().map(|name| self.read(name)).transpose()
    }

    /// The client certificate and key of the admitted connection, in PEM; `None` when its profile names none.
    ///
    /// # Errors
    /// As [`Credentials::get`].
    pub fn client_certificate(&self, admission: &Admission) -> Result<Option<Secret>, CredentialError> {
        admission.connection().upstream.client_cert.as_deref().map(|name| self.read(name)).transpose()
    }

    /// The certificate of the admitted connection's key, by the name that its profile gives.
    ///
    /// # Errors
    /// As [`Credentials::get`].
    pub fn named(&self, name: &str) -> Result<Secret, CredentialError> {
        self.read(name)
    }

    fn read(&self, name: &str) -> Result<Secret, CredentialError> {
        let read = || {
            check_name(name)?;
            let directory = private::open_directory(&self.directory)?;
            let mut contents =
                private::read(&directory, Path::new(name), CREDENTIAL_BYTES_MAX, Readers::Owner)?;
            if contents.last() == Some(&b'\n') {
                contents.pop();
                if contents.last() == Some(&b'\r') {
                    contents.pop();
                }
            }
            if contents.is_empty() {
                return Err(Problem::Empty);
            }
            Ok(Secret::new(std::mem::take(&mut *contents)))
        };
        read().map_err(|problem| CredentialError {
            name: name.to_owned(),
            path: self.directory.join(name),
            problem,
        })
    }
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
