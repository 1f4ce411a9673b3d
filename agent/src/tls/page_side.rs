//! TLS towards people's browsers: the approvals page's own certificate, from files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{ALPN_HTTP1, provider};

/// Largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Permission bits of `stat(2)` for others than owner and group.
const MODE_OTHERS: u32 = 0o007;

/// A certificate or key that cannot be used. The text never holds contents.
#[derive(Debug, Error)]
#[error("the approvals page's {} {problem}", path.display())]
pub struct PageCertificateError {
    path: PathBuf,
    problem: String,
}

/// The configuration for a chain and its key, PEM files.
///
/// # Errors
/// When one of them cannot be read or used, or the key is open to everyone.
pub fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, PageCertificateError> {
    let fault = |path: &Path, problem: &str| PageCertificateError {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let pem = read(certificate, false)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| fault(certificate, "holds a damaged certificate"))?;
    if chain.is_empty() {
        return Err(fault(certificate, "holds no PEM certificate"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key, true)?)
        .map_err(|_| fault(key, "holds no usable private key"))?;
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

    #[test]
    fn a_certificate_and_its_key_are_taken_and_an_open_key_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["gate.example".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(config(&certificate, &key).unwrap_err().to_string().contains("chmod 600"));
        mode(0o600);
        config(&certificate, &key).unwrap();
        for (certificate, key, expected) in [
            (&key, &key, "holds no PEM certificate"),
            (&certificate, &folder.path().join("none"), "cannot be read"),
        ] {
            let error = config(certificate, key).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(&key, "no key").unwrap();
        assert!(config(&certificate, &key).unwrap_err().to_string().ends_with("holds no usable private key"));
    }
}
