//! Whether a server's host key is the one it should have: pinned keys, an OpenSSH `known_hosts` file, a host CA.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use hmac::{Hmac, KeyInit as _, Mac as _};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, KnownHosts, Marker};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

/// Largest `known_hosts` file read, in bytes.
const KNOWN_HOSTS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The port that `known_hosts` leaves out (IANA's for ssh).
const SSH_PORT: u16 = 22;

/// What a profile says of the keys that its server may have.
#[derive(Clone, Debug, Default)]
pub struct HostTrust {
    /// Keys it may have.
    keys: Vec<PublicKey>,
    /// Keys that sign its certificates.
    authorities: Vec<PublicKey>,
    /// Keys that are not to be trusted whatever else says so (`@revoked`).
    revoked: Vec<PublicKey>,
}

/// By what a host key was found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It is one of the profile's or of the `known_hosts` file's keys.
    Known,
    /// A host CA of the profile signed its certificate.
    Certified,
}

impl Verified {
    /// The word for the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known host key",
            Self::Certified => "host certificate",
        }
    }
}

/// Why a host key is refused, or cannot be judged. `Display` is for the log and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyProblem {
    /// Some other key. Either the host was set up anew or somebody is in between.
    #[error(
        "the server's host key {presented} is none of those that the profile trusts: if the host was set up anew, put its new key into the profile; else somebody is in between"
    )]
    Unknown {
        /// Its fingerprint.
        presented: String,
    },
    /// `@revoked`.
    #[error("the server's host key {presented} is revoked")]
    Revoked {
        /// Its fingerprint.
        presented: String,
    },
    /// The certificate is no good.
    #[error("the server's host certificate (key id {key_id}) is refused: {problem}")]
    Certificate {
        /// What its CA called it.
        key_id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is nothing to judge by.
    #[error("nothing says which host key {host} has: add host_keys to the profile, or a line to {file}")]
    NothingKnown {
        /// As looked for.
        host: String,
        /// Where it was looked for.
        file: String,
    },
    /// A key or file of the profile cannot be read.
    #[error("{what}: {problem}")]
    Unreadable {
        /// What.
        what: String,
        /// Why.
        problem: String,
    },
}

/// A host's name or address, and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// Lower case.
    pub host: String,
    /// As dialled.
    pub port: u16,
}

impl HostName {
    /// As `known_hosts` writes it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
    fn known_as(&self) -> String {
        if self.port == SSH_PORT { self.host.clone() } else { format!("[{}]:{}", self.host, self.port) }
    }
}

impl HostTrust {
    /// Reads what a profile names. `host` is every name that the server is known by.
    ///
    /// # Errors
    /// A key cannot be understood, the file cannot be read, or nothing is known of the host.
    pub fn read(
        host_keys: &[String],
        host_ca: &[String],
        known_hosts: Option<&Path>,
        host: &[HostName],
    ) -> Result<Self, HostKeyProblem> {
        let mut trust = Self::default();
        trust.keys.extend(parse_keys("host_keys", host_keys)?);
        trust.authorities.extend(parse_keys("host_ca", host_ca)?);
        if let Some(file) = known_hosts {
            trust.read_file(file, host)?;
        }
        if trust.keys.is_empty() && trust.authorities.is_empty() {
            return Err(HostKeyProblem::NothingKnown {
                host: host.first().map(HostName::known_as).unwrap_or_default(),
                file: known_hosts.map_or_else(|| "known_hosts".to_owned(), |file| file.display().to_string()),
            });
        }
        Ok(trust)
    }

    fn read_file(&mut self, file: &Path, host: &[HostName]) -> Result<(), HostKeyProblem> {
        let unreadable =
            |problem: String| HostKeyProblem::Unreadable { what: file.display().to_string(), problem };
        let bytes = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
        if bytes > KNOWN_HOSTS_BYTES_MAX {
            return Err(unreadable(format!("{bytes} bytes, more than {KNOWN_HOSTS_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        let names: Vec<String> = host.iter().map(HostName::known_as).collect();
        // As ssh(1) does, a line that cannot be understood is passed over: it vouches for nobody.
        for entry in KnownHosts::new(&text).flatten() {
            if names.iter().any(|name| names_host(&entry, name)) {
                let key = entry.public_key().clone();
                match entry.marker() {
                    None => self.keys.push(key),
                    Some(Marker::CertAuthority) => self.authorities.push(key),
                    Some(Marker::Revoked) => self.revoked.push(key),
                }
            }
        }
        Ok(())
    }

    /// Host key algorithms to ask the server for, so that it shows the key that is known of it.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut wanted = Vec::new();
        for key in &self.keys {
            let algorithm = key.algorithm();
            let algorithms = if algorithm.clone().is_rsa() {
                vec![rsa(HashAlg::Sha512), rsa(HashAlg::Sha256)]
            } else {
                vec![algorithm]
            };
            for algorithm in algorithms {
                if !wanted.contains(&algorithm) {
                    wanted.push(algorithm);
                }
            }
        }
        wanted
    }

    /// Algorithms of host certificates to ask for; none without a host CA.
    #[must_use]
    pub fn certificate_algorithms(&self) -> Vec<Algorithm> {
        if self.authorities.is_empty() {
            return Vec::new();
        }
        let ecdsa = |curve| Algorithm::Ecdsa { curve };
        vec![
            Algorithm::Ed25519,
            ecdsa(EcdsaCurve::NistP256),
            ecdsa(EcdsaCurve::NistP384),
            ecdsa(EcdsaCurve::NistP521),
            rsa(HashAlg::Sha512),
            rsa(HashAlg::Sha256),
        ]
    }

    /// Judges what the server showed. `now` is seconds since 1970.
    ///
    /// # Errors
    /// It is not the server's.
    pub fn verify(
        &self,
        presented: &PublicKeyOrCertificate,
        host: &[HostName],
        now: u64,
    ) -> Result<Verified, HostKeyProblem> {
        match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                let presented = key.fingerprint(HashAlg::Sha256).to_string();
                if self.revoked.iter().any(|revoked| revoked.key_data() == key.key_data()) {
                    return Err(HostKeyProblem::Revoked { presented });
                }
                if self.keys.iter().any(|known| known.key_data() == key.key_data()) {
                    return Ok(Verified::Known);
                }
                Err(HostKeyProblem::Unknown { presented })
            }
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.verify_certificate(certificate, host, now)
            }
        }
    }

    /// PROTOCOL.certkeys of OpenSSH: a host certificate, signed by a CA, for this name, now, without critical options.
    fn verify_certificate(
        &self,
        certificate: &Certificate,
        host: &[HostName],
        now: u64,
    ) -> Result<Verified, HostKeyProblem> {
        let refused =
            |problem| HostKeyProblem::Certificate { key_id: certificate.key_id().to_owned(), problem };
        let is_revoked = |key: &KeyData| self.revoked.iter().any(|revoked| revoked.key_data() == key);
        if is_revoked(certificate.public_key()) || is_revoked(certificate.signature_key()) {
            return Err(refused("its key, or its CA's, is revoked"));
        }
        if certificate.cert_type() != CertType::Host {
            return Err(refused("it is a user's certificate, not a host's"));
        }
        if !certificate.critical_options().is_empty() {
            return Err(refused(
                "it has a critical option, and hosts' certificates have none that are known",
            ));
        }
        let fingerprints: Vec<_> =
            self.authorities.iter().map(|authority| authority.fingerprint(HashAlg::Sha256)).collect();
        if certificate.validate_at(now, fingerprints.iter()).is_err() {
            return Err(refused("no host CA of the profile signed it, or it is not valid now"));
        }
        let named = certificate.valid_principals();
        // Unlike ssh(1) before 10.0, a certificate for nobody in particular is none: RFC draft and new OpenSSH agree.
        if !named.iter().any(|principal| host.iter().any(|host| matches(principal, &host.host))) {
            return Err(refused("it is for other hosts"));
        }
        Ok(Verified::Certified)
    }
}

fn rsa(hash: HashAlg) -> Algorithm {
    Algorithm::Rsa { hash: Some(hash) }
}

fn parse_keys(what: &str, keys: &[String]) -> Result<Vec<PublicKey>, HostKeyProblem> {
    let parse = |key: &String| {
        PublicKey::from_openssh(key).map_err(|error| HostKeyProblem::Unreadable {
            what: what.to_owned(),
            problem: format!("not a public key as `ssh-keyscan` shows it: {error}"),
        })
    };
    keys.iter().map(parse).collect()
}

/// Whether an entry is about a host (sshd(8): comma-separated patterns, `!` takes back; or a salted hash).
fn names_host(entry: &Entry, name: &str) -> bool {
    match entry.host_patterns() {
        HostPatterns::Patterns(patterns) => {
            let mut named = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(pattern) if matches(pattern, name) => return false,
                    Some(_) => {}
                    None => named |= matches(pattern, name),
                }
            }
            named
        }
        HostPatterns::HashedName { salt, hash } => {
            let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(salt) else { return false };
            mac.update(name.as_bytes());
            bool::from(mac.finalize().into_bytes().as_slice().ct_eq(hash))
        }
    }
}

/// ssh_config(5) patterns: `*` and `?`, whatever else a glob could hold stands for itself.
fn matches(pattern: &str, name: &str) -> bool {
    let mut escaped = String::with_capacity(pattern.len() + 8);
    for character in pattern.to_lowercase().chars() {
        if matches!(character, '[' | ']' | '{' | '}' | '\\' | '!') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    let glob = GlobBuilder::new(&escaped).literal_separator(false).backslash_escape(true).build();
    glob.is_ok_and(|glob| GlobMatcher::is_match(&glob.compile_matcher(), name))
}

/// Where OpenSSH keeps what the whole host knows; for hints.
#[must_use]
pub fn system_known_hosts() -> PathBuf {
    PathBuf::from("/etc/ssh/ssh_known_hosts")
}

#[cfg(test)]
mod tests {
    use russh::keys::ssh_key::rand_core::UnwrapErr;

    use super::*;

    fn host(port: u16) -> Vec<HostName> {
        vec![HostName { host: "db.internal".to_owned(), port }]
    }

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn presented(key: &str) -> PublicKeyOrCertificate {
        PublicKey::from_openssh(key).unwrap().into()
    }

    fn from_lines(lines: &str, port: u16) -> Result<HostTrust, HostKeyProblem> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        std::fs::write(&file, lines).unwrap();
        HostTrust::read(&[], &[], Some(&file), &host(port))
    }

    #[test]
    fn a_pinned_key_is_good_and_any_other_is_not() {
        let trust = HostTrust::read(&[ED25519.to_owned()], &[], None, &host(22)).unwrap();
        assert_eq!(trust.verify(&presented(ED25519), &host(22), 0), Ok(Verified::Known));
        let problem = trust.verify(&presented(OTHER), &host(22), 0).unwrap_err();
        assert!(
            matches!(&problem, HostKeyProblem::Unknown { presented } if presented.starts_with("SHA256:"))
        );
        assert_eq!(trust.algorithms(), [Algorithm::Ed25519]);
        assert!(trust.certificate_algorithms().is_empty());
    }

    #[test]
    fn known_hosts_lines_are_read_as_ssh_reads_them() {
        let good = |lines: &str, port| {
            from_lines(lines, port).and_then(|trust| trust.verify(&presented(ED25519), &host(port), 0))
        };
        for (lines, port) in [
            (format!("db.internal {ED25519}\n"), 22),
            (format!("# comment\n\nother,db.internal,10.0.0.1 {ED25519} me@here\n"), 22),
            (format!("[db.internal]:2222 {ED25519}\n"), 2222),
            (format!("*.internal,!web.internal {ED25519}\n"), 22),
            (format!("db.internal {OTHER}\nd?.internal {ED25519}\n"), 22),
            (format!("not a line\ndb.internal {ED25519}\n"), 22),
        ] {
            assert_eq!(good(&lines, port), Ok(Verified::Known), "{lines}");
        }
        for (lines, port) in [
            (format!("db.internal {ED25519}\n"), 2222),
            (format!("[db.internal]:2222 {ED25519}\n"), 22),
            (format!("*.internal,!db.internal {ED25519}\n"), 22),
            (format!("db.internal {OTHER}\n"), 22),
            (format!("@revoked * {ED25519}\ndb.internal {ED25519}\n"), 22),
            (format!("[d]b.internal {ED25519}\n"), 22),
            (String::new(), 22),
        ] {
            assert!(good(&lines, port).is_err(), "{lines}");
        }
    }

    #[test]
    fn hashed_names_are_found() {
        let salt = [7; 20];
        let mut mac = Hmac::<Sha1>::new_from_slice(&salt).unwrap();
        mac.update(b"[db.internal]:2222");
        let hash: [u8; 20] = mac.finalize().into_bytes().into();
        let entry: Entry = format!("db.internal {ED25519}").parse().unwrap();
        assert!(names_host(&entry, "db.internal"));
        let hashed = HostPatterns::HashedName { salt: salt.to_vec(), hash };
        let lines = format!("{} {ED25519}\n", hashed.to_string());
        assert!(from_lines(&lines, 2222).is_ok());
        assert!(matches!(from_lines(&lines, 22), Err(HostKeyProblem::NothingKnown { .. })));
    }

    fn certificate(kind: CertType, principal: &str, until: u64) -> (String, PublicKeyOrCertificate) {
        use russh::keys::PrivateKey;
        use russh::keys::ssh_key::certificate::Builder;
        let mut rng = UnwrapErr(getrandom::SysRng);
        let ca = PrivateKey::random(&mut rng, Algorithm::Ed25519).unwrap();
        let mut builder =
            Builder::new(vec![1; 16], PublicKey::from_openssh(ED25519).unwrap(), 100, until).unwrap();
        builder.cert_type(kind).unwrap();
        builder.key_id("db").unwrap();
        builder.valid_principal(principal).unwrap();
        let certificate = builder.sign(&ca).unwrap();
        (ca.public_key().to_openssh().unwrap(), certificate.into())
    }

    #[test]
    fn a_host_certificate_is_good_for_its_host_and_time_alone() {
        let judge = |kind, principal, now| {
            let (ca, certificate) = certificate(kind, principal, 200);
            let trust = HostTrust::read(&[], &[ca], None, &host(22)).unwrap();
            assert!(!trust.certificate_algorithms().is_empty());
            trust.verify(&certificate, &host(22), now)
        };
        assert_eq!(judge(CertType::Host, "db.internal", 150), Ok(Verified::Certified));
        assert_eq!(judge(CertType::Host, "*.internal", 150), Ok(Verified::Certified));
        for (kind, principal, now) in [
            (CertType::User, "db.internal", 150),
            (CertType::Host, "web.internal", 150),
            (CertType::Host, "db.internal", 99),
            (CertType::Host, "db.internal", 200),
        ] {
            assert!(judge(kind, principal, now).is_err(), "{principal} {now}");
        }
        let (_, stranger) = certificate(CertType::Host, "db.internal", 200);
        let (ca, _) = certificate(CertType::Host, "db.internal", 200);
        let trust = HostTrust::read(&[], &[ca], None, &host(22)).unwrap();
        assert!(trust.verify(&stranger, &host(22), 150).is_err());
    }
}
