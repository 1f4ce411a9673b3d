//! Verification of the real server's certificate, in the two strengths libpq names.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{ALPN_POSTGRES, provider};
use crate::flow::Side;
use crate::secret::Secret;

/// Sets of roots kept ready: one per `root_cert` file and strength in use.
const CONFIGS_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// TLS sessions remembered of HTTP servers, to be resumed.
const SESSIONS_MAX: usize = 256;
/// Largest file of roots, in bytes. The whole Mozilla bundle is a quarter of a megabyte.
const ROOTS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a server has to prove
/// (<https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// `verify-ca`: a certificate that a trusted root signed, for any name.
    Chain,
    /// `verify-full`: and it is for the name that was dialled.
    ChainAndName,
}

/// Why no server can be verified: the roots are not usable.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The profile's file.
    #[error("root_cert {path} cannot be used: {reason}", path = path.display())]
    RootCert {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system's store holds no usable root.
    #[error(
        "the system's certificate store is empty ({reason}): install ca-certificates, or name a root_cert"
    )]
    SystemStore {
        /// What reading it said.
        reason: String,
    },
    /// The profile's client certificate.
    #[error("the client certificate cannot be used: {reason}")]
    ClientCert {
        /// Why.
        reason: String,
    },
    /// rustls refuses its own configuration.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl TrustError {
    /// The operator of this host has to repair it.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Portcullis
    }
}

/// The roots that servers are verified against, read once per file version.
#[derive(Debug)]
pub struct ServerTrust {
    configs: Mutex<LruCache<Key, Ready>>,
}

/// What a configuration was made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    root_cert: Option<PathBuf>,
    verify: Verify,
    use_: Use,
}

/// What a configuration is used for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Use {
    /// HTTP, with these protocols offered; the digest of the client certificate's file, if one is shown.
    Http(Vec<Vec<u8>>, Option<[u8; 32]>),
    /// PostgreSQL; with the digest of the client certificate, likewise.
    Postgres(Option<[u8; 32]>),
}

#[derive(Debug)]
struct Ready {
    config: Arc<ClientConfig>,
    /// Of the `root_cert` file when it was read; the system's store is read once.
    version: Option<SystemTime>,
}

impl Default for ServerTrust {
    fn default() -> Self {
        Self { configs: Mutex::new(LruCache::new(CONFIGS_MAX)) }
    }
}

impl ServerTrust {
    /// The TLS configuration that verifies a server against the PEM file `root_cert`, or the system's store; with a client
    /// certificate where the server asks for one. `identity` is the text of a PEM file with the certificate, its chain and
    /// its key.
    ///
    /// # Errors
    /// The roots cannot be read, there are none, or the client certificate cannot be used.
    pub fn config(
        &self,
        root_cert: Option<&Path>,
        verify: Verify,
        identity: Option<&Secret>,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        self.ready(root_cert, verify, Use::Postgres(digest(identity)), || {
            identity.map(client_identity).transpose()
        })
    }

    /// The same for an HTTP server, with these protocols offered (ALPN).
    ///
    /// # Errors
    /// As [`ServerTrust::config`].
    pub fn http_config(
        &self,
        root_cert: Option<&Path>,
        verify: Verify,
        alpn: &[&[u8]],
        identity: Option<&Secret>,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let protocols = alpn.iter().map(|name| name.to_vec()).collect();
        self.ready(root_cert, verify, Use::Http(protocols, digest(identity)), || {
            identity.map(client_identity).transpose()
        })
    }

    fn ready(
        &self,
        root_cert: Option<&Path>,
        verify: Verify,
        use_: Use,
        identity: impl FnOnce() -> Result<Option<Identity>, TrustError>,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let version = root_cert.map(modified).transpose()?;
        let key = Key { root_cert: root_cert.map(Path::to_owned), verify, use_ };
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = configs.get(&key)
            && ready.version == version
        {
            return Ok(ready.config.clone());
        }
        let roots = root_cert.map_or_else(system_roots, roots_from)?;
        let config = Arc::new(client_config(roots, verify, &key.use_, identity()?)?);
        configs.put(key, Ready { config: config.clone(), version });
        Ok(config)
    }
}

/// What client certificates are told apart by.
fn digest(identity: Option<&Secret>) -> Option<[u8; 32]> {
    identity.map(|pem| Sha256::digest(pem.expose()).into())
}

/// A client certificate with its chain, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_identity(pem: &Secret) -> Result<Identity, TrustError> {
    let unusable = |reason: &str| TrustError::ClientCert { reason: reason.to_owned() };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose()).collect();
    let chain = chain.map_err(|_| unusable("a certificate in it is damaged"))?;
    if chain.is_empty() {
        return Err(unusable("it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(pem.expose())
        .map_err(|_| unusable("it holds no usable private key"))?;
    Ok((chain, key))
}

fn modified(path: &Path) -> Result<SystemTime, TrustError> {
    path.metadata().and_then(|metadata| metadata.modified()).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, reason: impl ToString) -> TrustError {
    TrustError::RootCert { path: path.to_owned(), reason: reason.to_string() }
}

fn roots_from(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|error| unusable(path, error))?;
    io::Read::read_to_end(&mut io::Read::take(file, ROOTS_BYTES_MAX), &mut pem)
        .map_err(|error| unusable(path, error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(path, error))?;
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    if roots.is_empty() {
        return Err(unusable(path, "it holds no PEM certificate"));
    }
    Ok(roots)
}

/// The system's roots. One that does not parse is left out, as every TLS library does; none at all is an error.
fn system_roots() -> Result<RootCertStore, TrustError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(|| "no certificates".to_owned(), ToString::to_string);
        return Err(TrustError::SystemStore { reason });
    }
    Ok(roots)
}

fn client_config(
    roots: RootCertStore,
    verify: Verify,
    use_: &Use,
    identity: Option<Identity>,
) -> Result<ClientConfig, TrustError> {
    let setup = |error: &dyn std::error::Error| TrustError::Setup(error.to_string());
    let full = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| setup(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        Verify::Chain => Arc::new(ChainOnly(full)),
        Verify::ChainAndName => full,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => config
            .with_client_auth_cert(chain, key)
            .map_err(|error| TrustError::ClientCert { reason: error.to_string() })?,
    };
    match use_ {
        Use::Http(protocols, _) => {
            config.alpn_protocols.clone_from(protocols);
            config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        }
        Use::Postgres(_) => {
            config.alpn_protocols = vec![ALPN_POSTGRES.to_vec()];
            // PostgreSQL offers none; without it every connection proves the certificate anew.
            config.resumption = Resumption::disabled();
        }
    }
    Ok(config)
}

/// `verify-ca`: everything the full verification checks, except that the certificate may be for another name.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The verifier compares the name last, so this error says that all else was in order.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What is wrong with the server's certificate and what to do, when that is why a handshake failed.
#[must_use]
pub fn certificate_problem(error: &io::Error) -> Option<String> {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
    if *tls == rustls::Error::NoCertificatesPresented {
        return Some("it presents none".to_owned());
    }
    let rustls::Error::InvalidCertificate(problem) = tls else { return None };
    #[expect(clippy::wildcard_enum_match_arm, reason = "what has no remedy of its own keeps rustls's words")]
    Some(match problem {
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired on {}", date(*not_after)),
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}; is this host's clock right?", date(*not_before))
        }
        CertificateError::UnknownIssuer => {
            "no trusted root signed it; name the file of its root in the profile's root_cert".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "it is not for \"{}\" but for {}; set the profile's server_name, or tls = \"verify-ca\"",
            expected.to_str(),
            if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") },
        ),
        CertificateError::BadSignature => "its signature is not its issuer's".to_owned(),
        other if is_ca_certificate(other) => {
            "it is a CA certificate (`openssl req -x509` makes such by default); give the server one that a CA \
             signed, or make it with `-addext basicConstraints=critical,CA:FALSE`"
                .to_owned()
        }
        other => other.to_string(),
    })
}

fn is_ca_certificate(error: &CertificateError) -> bool {
    // The cause is an error of webpki's, which is not among our dependencies.
    matches!(error, CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

fn date(time: UnixTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}
