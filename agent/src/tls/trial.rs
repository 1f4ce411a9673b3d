//! An authority for a few seconds, in memory: by it one finds out whom a client trusts without touching the real one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ca::{CLOCK_SKEW, CaError, ca_params, random_serial, set_validity};
use super::{ALPN_POSTGRES, provider};

/// How long it is valid.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// The authority's certificate, and a server on 127.0.0.1 that presents one of its own.
pub struct Trial {
    /// What a client has to trust.
    pub ca: CertificateDer<'static>,
    /// A server for HTTP/1.1 and PostgreSQL.
    pub server: Arc<ServerConfig>,
}

impl Trial {
    /// Makes both. The authority's key is forgotten at once.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub fn new() -> Result<Self, CaError> {
        let failed = |error: rcgen::Error| CaError::Mint(error.to_string());
        let now = SystemTime::now();
        let mut authority = ca_params("Portcullis doctor");
        set_validity(&mut authority, now - CLOCK_SKEW, now + LIFETIME);
        authority.serial_number = Some(random_serial()?);
        let key = KeyPair::generate().map_err(failed)?;
        let ca = authority.self_signed(&key).map_err(failed)?.der().clone();
        let issuer = Issuer::new(authority, key);

        let mut leaf = CertificateParams::default();
        set_validity(&mut leaf, now - CLOCK_SKEW, now + LIFETIME);
        leaf.serial_number = Some(random_serial()?);
        leaf.distinguished_name = DistinguishedName::new();
        // libpq before 15 compares a dialled address with the common name only.
        leaf.distinguished_name.push(DnType::CommonName, Ipv4Addr::LOCALHOST.to_string());
        leaf.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = leaf.signed_by(&key, &issuer).map_err(failed)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = |error: rustls::Error| CaError::Mint(error.to_string());
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(tls)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec(), ALPN_POSTGRES.to_vec()];
        Ok(Self { ca, server: Arc::new(server) })
    }
}
