//! The local certificate authority: made at first start, trusted by the agents' clients, known to nobody else.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use super::client_certificate::Noticed;
use super::{ALPN_HTTP1, ALPN_HTTP2, ALPN_POSTGRES, provider};
use crate::flow::Side;
use crate::private::{self, Problem, Readers};

/// The certificate that clients have to trust; readable by everyone.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// Its private key; readable by its owner alone.
pub const KEY_FILE: &str = "ca.key";

/// Seconds of a year of 365.25 days, as `1y` is in the configuration.
const YEAR_SECONDS: u64 = 31_557_600;
/// How long a new CA is valid, unless the settings say otherwise: three years.
pub const CA_LIFETIME_DEFAULT: Duration = Duration::from_secs(3 * YEAR_SECONDS);
/// Longest validity of a CA, whatever the settings say: thirty years, which every clock and encoding still holds.
pub const CA_LIFETIME_MAX: Duration = Duration::from_secs(30 * YEAR_SECONDS);
/// From here on, every start warns that the CA will be replaced: thirty days.
pub const CA_EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long one server certificate is valid: a day, because making one costs less than a handshake.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// A cached server certificate with less time left than this is made anew: half a day.
const LEAF_RENEWAL: Duration = Duration::from_secs(12 * 60 * 60);
/// How far certificates reach back, for clients in containers or virtual machines whose clock is late: one hour.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
/// Server certificates kept. A client chooses the name by SNI, so this bounds what it can make us keep.
const LEAVES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Largest key or certificate file, in bytes.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// Longest common name, in characters (X.520, `ub-common-name`).
const COMMON_NAME_CHARS_MAX: usize = 64;

/// What a new CA is made with.
#[derive(Clone, Debug)]
pub struct CaSettings {
    /// Common name, shown in trust stores; a random suffix is added so that two CAs are never confused.
    pub name: String,
    /// Validity from the moment it is made, at most [`CA_LIFETIME_MAX`].
    pub lifetime: Duration,
}

impl Default for CaSettings {
    fn default() -> Self {
        Self { name: "Portcullis local CA".to_owned(), lifetime: CA_LIFETIME_DEFAULT }
    }
}

/// Why there is no CA, or no certificate from it.
#[derive(Debug, Error)]
pub enum CaError {
    /// One of its files cannot be read or is not safe to use.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The certificate is there, its key is not.
    #[error("{certificate} has no {KEY_FILE} beside it: restore the key, or remove the certificate and give \
             clients the new one that the next start makes", certificate = certificate.display())]
    KeyMissing {
        /// The lonely certificate.
        certificate: PathBuf,
    },
    /// The files are there, and do not make a CA.
    #[error("{path} cannot be used as Portcullis's CA: {reason}; remove it to have a new one made at the next \
             start, then give clients the new {CERTIFICATE_FILE}", path = path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It expired while the daemon was running.
    #[error(
        "the local CA has expired: restart Portcullis to have a new one made, then give clients the new \
             {CERTIFICATE_FILE}"
    )]
    Expired,
    /// The cryptography failed; no remedy is known.
    #[error("a certificate could not be made: {0}")]
    Mint(String),
}

impl CaError {
    /// The CA is ours.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Portcullis
    }
}

/// Where the CA in use came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There was none.
    Created,
    /// It was on disk and is valid.
    Loaded,
    /// The one on disk had expired; clients need the new certificate.
    Replaced,
}

/// A certificate authority whose key never leaves this process and its file.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    expires: SystemTime,
    leaves: Mutex<LruCache<ServerName<'static>, Arc<Leaf>>>,
    http: Mutex<LruCache<ServerName<'static>, Arc<ServerConfig>>>,
}

/// One server certificate with its key.
struct Leaf {
    key: Arc<CertifiedKey>,
    expires: SystemTime,
}

impl Ca {
    /// The CA of this folder; made there when there is none, or when the one there has expired. Two daemons starting
    /// at once get the same one.
    ///
    /// # Errors
    /// The folder or a file in it is not safe, not readable, not writable, or no CA of ours.
    pub fn open(directory: &Path, settings: &CaSettings) -> Result<(Self, Origin), CaError> {
        let folder = Folder::lock(directory)?;
        let now = SystemTime::now();
        let (ca, origin) = match folder.load()? {
            None => (folder.create(settings, now)?, Origin::Created),
            Some(ca) if ca.expires <= now => {
                tracing::warn!(path = %folder.path.display(), "the local CA has expired and is replaced; give clients the new certificate");
                (folder.create(settings, now)?, Origin::Replaced)
            }
            Some(ca) => (ca, Origin::Loaded),
        };
        ca.check(now).map_err(|reason| folder.unusable(CERTIFICATE_FILE, reason))?;
        if ca.expires <= now + CA_EXPIRY_WARNING {
            let expires = humantime::format_rfc3339_seconds(ca.expires);
            tracing::warn!(%expires, "the local CA expires soon; the first start after that makes a new one, which clients must be given");
        }
        Ok((ca, origin))
    }

    /// When it stops being valid.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// How to answer a client that dialled `name`: with a certificate for the name it asks for by SNI, or else for
    /// `name` (clients send no SNI for a plain address).
    ///
    /// # Errors
    /// The CA has expired, or the cryptography failed.
    pub fn leaf(self: &Arc<Self>, name: &ServerName<'_>) -> Result<Arc<ServerConfig>, CaError> {
        let fallback = self.certified_key(&name.to_owned(), SystemTime::now())?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| CaError::Mint(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(BySni { ca: self.clone(), fallback }));
        config.alpn_protocols = vec![ALPN_POSTGRES.to_vec()];
        // Like PostgreSQL itself: no resumption, so no ticket keys to guard and no cache for clients to fill.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// How to answer an HTTP client: HTTP/2 or HTTP/1.1, with a certificate for the name it asks for, or else for
    /// `fallback`. Made once for each fallback: new connections are many.
    ///
    /// # Errors
    /// The CA has expired, or the cryptography failed.
    pub fn http_config(self: &Arc<Self>, fallback: &ServerName<'_>) -> Result<Arc<ServerConfig>, CaError> {
        if self.remaining(SystemTime::now()).is_zero() {
            return Err(CaError::Expired);
        }
        let name = fallback.to_owned();
        let mut configs = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(&name) {
            return Ok(Arc::clone(config));
        }
        let resolver = ByNameOr { ca: Arc::clone(self), fallback: name.clone() };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| CaError::Mint(error.to_string()))?
            .with_client_cert_verifier(Arc::new(Noticed::new()))
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        config.ticketer =
            rustls::crypto::ring::Ticketer::new().map_err(|error| CaError::Mint(error.to_string()))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let config = Arc::new(config);
        configs.put(name, Arc::clone(&config));
        Ok(config)
    }

    /// The cached certificate for a name, or a new one. Made under the lock: a burst of connections makes it once.
    fn certified_key(
        &self,
        name: &ServerName<'static>,
        now: SystemTime,
    ) -> Result<Arc<CertifiedKey>, CaError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(name)
            && now + LEAF_RENEWAL.min(self.remaining(now) / 2) < leaf.expires
        {
            return Ok(leaf.key.clone());
        }
        let leaf = Arc::new(self.mint(name, now)?);
        let key = leaf.key.clone();
        leaves.put(name.clone(), leaf);
        Ok(key)
    }

    fn remaining(&self, now: SystemTime) -> Duration {
        self.expires.duration_since(now).unwrap_or_default()
    }

    fn mint(&self, name: &ServerName<'static>, now: SystemTime) -> Result<Leaf, CaError> {
        if self.remaining(now).is_zero() {
            return Err(CaError::Expired);
        }
        let failed = |error: rcgen::Error| CaError::Mint(error.to_string());
        let expires = self.expires.min(now + LEAF_LIFETIME);
        let mut params = CertificateParams::default();
        set_validity(&mut params, now - CLOCK_SKEW, expires);
        params.serial_number = Some(random_serial()?);
        let text = name.to_str();
        params.distinguished_name = DistinguishedName::new();
        if text.chars().count() <= COMMON_NAME_CHARS_MAX {
            // libpq before 15 compares a dialled address with the common name only.
            params.distinguished_name.push(DnType::CommonName, text.as_ref());
        }
        params.subject_alt_names = vec![if let ServerName::IpAddress(address) = name {
            SanType::IpAddress(IpAddr::from(*address))
        } else {
            SanType::DnsName(text.as_ref().try_into().map_err(failed)?)
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|error| CaError::Mint(error.to_string()))?;
        let key = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing));
        Ok(Leaf { key, expires })
    }

    /// Does a certificate from this CA convince a client that trusts it? Finds a key that is not the certificate's,
    /// a certificate that is no CA, and a clock that is wrong, in the words of the verifier.
    fn check(&self, now: SystemTime) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let name = ServerName::try_from("self-check.invalid").map_err(|error| text(&error))?;
        let leaf = self.mint(&name, now).map_err(|error| text(&error))?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| text(&error))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| text(&error))?;
        let certificate = leaf.key.end_entity_cert().map_err(|error| text(&error))?;
        verifier
            .verify_server_cert(certificate, &[], &name, &[], UnixTime::now())
            .map(|_verified| ())
            .map_err(|error| text(&error))
    }
}

/// Chooses the certificate by the name in the client's hello.
struct BySni {
    ca: Arc<Ca>,
    fallback: Arc<CertifiedKey>,
}

impl std::fmt::Debug for BySni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BySni")
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let Some(name) = asked else { return Some(self.fallback.clone()) };
        match self.ca.certified_key(&name, SystemTime::now()) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::warn!(%error, "no certificate for the name the client asked for");
                Some(self.fallback.clone())
            }
        }
    }
}

/// Chooses the certificate by the name in the client's hello, else for one name.
struct ByNameOr {
    ca: Arc<Ca>,
    fallback: ServerName<'static>,
}

impl std::fmt::Debug for ByNameOr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByNameOr")
    }
}

impl ResolvesServerCert for ByNameOr {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let name = asked.unwrap_or_else(|| self.fallback.clone());
        let key = self.ca.certified_key(&name, SystemTime::now());
        key.inspect_err(|error| tracing::warn!(%error, "no certificate for a client")).ok()
    }
}

/// The CA's folder, locked against a second daemon for as long as this lives.
struct Folder {
    path: PathBuf,
    handle: OwnedFd,
}

impl Folder {
    fn lock(path: &Path) -> Result<Self, CaError> {
        let file_error = |problem| CaError::File { path: path.to_owned(), problem };
        let handle = private::open_directory(path).map_err(file_error)?;
        rustix::fs::flock(&handle, FlockOperation::LockExclusive)
            .map_err(|error| file_error(Problem::Unreadable(error.into())))?;
        Ok(Self { path: path.to_owned(), handle })
    }

    fn unusable(&self, name: &str, reason: impl ToString) -> CaError {
        CaError::Unusable { path: self.path.join(name), reason: reason.to_string() }
    }

    fn read(&self, name: &str, readers: Readers) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        match private::read(&self.handle, Path::new(name), FILE_BYTES_MAX, readers) {
            Ok(contents) => Ok(Some(contents)),
            Err(Problem::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(problem) => Err(CaError::File { path: self.path.join(name), problem }),
        }
    }

    /// The CA on disk, whether still valid or not. A key without a certificate is a first start that was cut short
    /// (the key is written first) and counts as no CA.
    fn load(&self) -> Result<Option<Ca>, CaError> {
        let Some(certificate) = self.read(CERTIFICATE_FILE, Readers::Everyone)? else { return Ok(None) };
        let Some(key) = self.read(KEY_FILE, Readers::Owner)? else {
            return Err(CaError::KeyMissing { certificate: self.path.join(CERTIFICATE_FILE) });
        };
        let certificate = CertificateDer::from_pem_slice(&certificate)
            .map_err(|error| self.unusable(CERTIFICATE_FILE, error))?;
        let parsed = x509_cert::Certificate::from_der(&certificate)
            .map_err(|error| self.unusable(CERTIFICATE_FILE, error))?;
        let common_name =
            parsed.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter()).find_map(|attribute| {
                let text = attribute.value.decode_as::<x509_cert::der::asn1::Utf8StringRef<'_>>().ok()?;
                (attribute.oid == COMMON_NAME_OID).then(|| text.as_str().to_owned())
            });
        let common_name =
            common_name.ok_or_else(|| self.unusable(CERTIFICATE_FILE, "it was not made by Portcullis"))?;
        let key = std::str::from_utf8(&key).map_err(|error| self.unusable(KEY_FILE, error))?;
        let key = KeyPair::from_pem(key).map_err(|error| self.unusable(KEY_FILE, error))?;
        let expires = parsed.tbs_certificate.validity.not_after.to_system_time();
        Ok(Some(Ca::new(Issuer::new(ca_params(&common_name), key), certificate, expires)))
    }

    fn create(&self, settings: &CaSettings, now: SystemTime) -> Result<Ca, CaError> {
        let failed = |error: rcgen::Error| CaError::Mint(error.to_string());
        let suffix = random::<4>()?.map(|byte| format!("{byte:02x}")).concat();
        let room = COMMON_NAME_CHARS_MAX.saturating_sub(suffix.len() + 1);
        let name: String = settings.name.chars().take(room).collect();
        let mut params = ca_params(&format!("{name} {suffix}"));
        // Certificates count whole seconds.
        let expires = whole_seconds(now + settings.lifetime.min(CA_LIFETIME_MAX));
        set_validity(&mut params, now - CLOCK_SKEW, expires);
        params.serial_number = Some(random_serial()?);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        self.write(KEY_FILE, Zeroizing::new(key.serialize_pem()).as_bytes(), Mode::from(0o600))?;
        self.write(CERTIFICATE_FILE, certificate.pem().as_bytes(), Mode::from(0o644))?;
        Ok(Ca::new(Issuer::new(params, key), certificate.der().clone(), expires))
    }

    /// Writes a whole file or nothing: a crash leaves the old one, or none.
    fn write(&self, name: &str, contents: &[u8], mode: Mode) -> Result<(), CaError> {
        let temporary = format!(".{name}.new");
        let write = || -> io::Result<()> {
            match rustix::fs::unlinkat(&self.handle, &temporary, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.handle, &temporary, flags, Mode::from(0o600))?;
            rustix::fs::fchmod(&file, mode)?;
            let mut file = File::from(file);
            file.write_all(contents)?;
            file.sync_all()?;
            rustix::fs::renameat(&self.handle, &temporary, &self.handle, name)?;
            Ok(rustix::fs::fsync(self.handle.as_fd())?)
        };
        write().map_err(|source| CaError::Write { path: self.path.join(name), source })
    }
}

impl Ca {
    fn new(
        issuer: Issuer<'static, KeyPair>,
        certificate: CertificateDer<'static>,
        expires: SystemTime,
    ) -> Self {
        let (leaves, http) = (Mutex::new(LruCache::new(LEAVES_MAX)), Mutex::new(LruCache::new(LEAVES_MAX)));
        Self { issuer, certificate, expires, leaves, http }
    }
}

/// X.520 `id-at-commonName`.
const COMMON_NAME_OID: x509_cert::der::asn1::ObjectIdentifier =
    x509_cert::der::asn1::ObjectIdentifier::new_unwrap("2.5.4.3");

/// What every CA of ours has in common; the name is what ties its certificates to it.
pub(super) fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], CaError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| CaError::Mint(error.to_string()))?;
    Ok(bytes)
}

/// 127 random bits: unique for every certificate, and positive in DER (RFC 5280 §4.1.2.2).
pub(super) fn random_serial() -> Result<SerialNumber, CaError> {
    Ok(SerialNumber::from((u128::from_be_bytes(random()?) >> 1).to_be_bytes().to_vec()))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

pub(super) fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(until);
}
