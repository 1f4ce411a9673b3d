//! TLS towards people's browsers: the approvals page's own certificate, from files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{ALPN_HTTP1, provider};
use crate::policy::watch::Notices;

/// Largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Pause after changes could not be noticed.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// Permission bits of `stat(2)` for others than owner and group.
const MODE_OTHERS: u32 = 0o007;

/// A certificate or key that cannot be used. The text never holds contents.
#[derive(Clone, Debug, Error)]
#[error("the approvals page's {} {problem}", path.display())]
pub struct PageCertificateError {
    path: PathBuf,
    problem: String,
}

/// The page's certificate as it is now: read again when its files change. Connections keep what they began with.
#[derive(Debug)]
pub struct PageCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// Of what the files held when they were last read, usable or not.
    seen: Mutex<Fingerprint>,
    current: watch::Sender<Arc<ServerConfig>>,
}

type Fingerprint = [u8; 32];

impl PageCertificate {
    /// Reads a chain and its key, PEM files.
    ///
    /// # Errors
    /// When one of them cannot be read or used, or the key is open to everyone.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, PageCertificateError> {
        let (fingerprint, config) = look(certificate, key);
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            seen: Mutex::new(fingerprint),
            current: watch::Sender::new(config?),
        })
    }

    /// What the next connection is served with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }

    /// Reads the files again. What cannot be used is logged once and leaves the old certificate in place. Blocks on file I/O.
    pub fn reload(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (fingerprint, config) = look(&self.certificate, &self.key);
        if std::mem::replace(&mut *seen, fingerprint) == fingerprint {
            return;
        }
        match config {
            Ok(config) => {
                drop(self.current.send_replace(config));
                tracing::info!("the approvals page has a new certificate");
            }
            Err(error) => tracing::error!(%error, "the approvals page keeps the certificate that it has"),
        }
    }

    /// Reloads whenever the files change, for as long as it is polled.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let folders = [&self.certificate, &self.key].into_iter().filter_map(|path| path.parent());
            let notices = Notices::begin(folders);
            let reloading = Arc::clone(&self);
            // Fails only when the runtime is shutting down or the reading panicked; either way the old one stays.
            drop(tokio::task::spawn_blocking(move || reloading.reload()).await);
            let settled = match notices {
                Ok(notices) => notices.settled().await,
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::error!(%error, "changes of the approvals page's certificate cannot be noticed; looking again");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// What the files hold, and what it is good for.
fn look(certificate: &Path, key: &Path) -> (Fingerprint, Result<Arc<ServerConfig>, PageCertificateError>) {
    let mut hash = Sha256::new();
    let read = read(certificate, false).and_then(|chain| Ok((chain, read(key, true)?)));
    let config = match &read {
        Ok((chain, secret)) => {
            hash.update(chain.len().to_be_bytes());
            hash.update(chain);
            hash.update(secret);
            config((certificate, chain), (key, secret))
        }
        Err(error) => {
            hash.update(error.to_string());
            Err(error.clone())
        }
    };
    (hash.finalize().into(), config)
}

fn config(
    (certificate, pem): (&Path, &[u8]),
    (key, secret): (&Path, &[u8]),
) -> Result<Arc<ServerConfig>, PageCertificateError> {
    let fault = |path: &Path, problem: &str| PageCertificateError {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_| fault(certificate, "holds a damaged certificate"))?;
    if chain.is_empty() {
        return Err(fault(certificate, "holds no PEM certificate"));
    }
    let secret =
        PrivateKeyDer::from_pem_slice(secret).map_err(|_| fault(key, "holds no usable private key"))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| fault(certificate, "cannot be served: no protocol version"))?
        .with_no_client_auth()
        .with_single_cert(chain, secret);
    let mut config =
        config.map_err(|error| fault(certificate, &format!("cannot be served with its key: {error}")))?;
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, PageCertificateError> {
    let fault = |problem: String| PageCertificateError { path: path.to_owned(), problem };
    let unreadable = |error: io::Error| fault(format!("cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    if secret && mode & MODE_OTHERS != 0 {
        return Err(fault(format!(
            "is accessible to everyone (mode {:03o}): run `chmod 600` on it",
            mode & 0o777
        )));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a certificate and its key.
    struct Files {
        certificate: PathBuf,
        key: PathBuf,
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
            let files = Self { certificate, key, folder };
            files.renew();
            files
        }

        /// As certbot and its like do it: each file is put in place whole.
        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(vec!["gate.example".to_owned()]).unwrap();
            for (path, text) in
                [(&self.certificate, made.cert.pem()), (&self.key, made.signing_key.serialize_pem())]
            {
                let draft = self.folder.path().join("draft");
                std::fs::write(&draft, text).unwrap();
                std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).unwrap();
                std::fs::rename(draft, path).unwrap();
            }
        }

        fn read(&self) -> Result<PageCertificate, String> {
            PageCertificate::read(&self.certificate, &self.key).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_taken_and_an_open_key_is_not() {
        let files = Files::new();
        files.read().unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(files.read().unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let none = files.folder.path().join("none");
        for (certificate, key, expected) in [
            (&files.key, &files.key, "holds no PEM certificate"),
            (&files.certificate, &none, "cannot be read"),
        ] {
            let error = PageCertificate::read(certificate, key).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(&files.key, "no key").unwrap();
        assert!(files.read().unwrap_err().ends_with("holds no usable private key"));
    }

    #[test]
    fn what_cannot_be_used_leaves_the_old_one_in_place() {
        let files = Files::new();
        let page = files.read().unwrap();
        let first = page.current();
        page.reload();
        assert!(Arc::ptr_eq(&first, &page.current()), "nothing has changed");
        let whole = std::fs::read(&files.key).unwrap();
        for broken in ["", "no key"] {
            std::fs::write(&files.key, broken).unwrap();
            page.reload();
            assert!(Arc::ptr_eq(&first, &page.current()), "{broken:?}");
        }
        // Another's key, as in the middle of a renewal.
        let other = rcgen::generate_simple_self_signed(vec!["b".to_owned()]).unwrap();
        std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
        page.reload();
        std::fs::remove_file(&files.certificate).unwrap();
        page.reload();
        assert!(Arc::ptr_eq(&first, &page.current()));
        files.renew();
        page.reload();
        let second = page.current();
        assert!(!Arc::ptr_eq(&first, &second), "and what is good again is taken");
        std::fs::write(&files.key, whole).unwrap();
        page.reload();
        assert!(Arc::ptr_eq(&second, &page.current()));
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_noticed() {
        let files = Files::new();
        let page = Arc::new(files.read().unwrap());
        let (first, mut changes) = (page.current(), page.current.subscribe());
        let following = tokio::spawn(Arc::clone(&page).follow());
        files.renew();
        changes.changed().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &page.current()));
        following.abort();
    }
}
