//! Logging in to an SSH server (RFC 4252) with what the profile names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::rand_core::UnwrapErr;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use zeroize::Zeroizing;

use super::{ServerSide, SshError};
use crate::secret::Secret;

/// Clocks of hosts differ: a minted certificate is valid from this long before now.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);

/// Keys of an authentication agent that are tried; servers commonly cut off after six.
const AGENT_KEYS_MAX: usize = 5;

/// Rounds of keyboard-interactive that are answered.
const ROUNDS_MAX: usize = 4;

/// What a login is made with.
pub enum Credential {
    /// A private key.
    Key(Arc<PrivateKey>),
    /// A private key and the certificate that a CA gave it.
    Certificate(Arc<PrivateKey>, Box<Certificate>),
    /// A password, also where the server asks for it by keyboard-interactive.
    Password(Secret),
    /// Whatever the authentication agent at this socket holds.
    Agent(PathBuf),
}

/// What a certificate that we mint says.
pub struct Minted<'a> {
    /// Says in the server's log whose it is.
    pub key_id: String,
    /// Accounts that it is for.
    pub principals: &'a [String],
    /// How long it is good.
    pub validity: Duration,
    /// Seconds since 1970.
    pub now: u64,
}

impl Credential {
    /// A private key in OpenSSH's, PKCS#8 or PKCS#1 PEM, not encrypted.
    ///
    /// # Errors
    /// It is something else. `name` is the credential's.
    pub fn key(name: &str, secret: &Secret) -> Result<Self, SshError> {
        Ok(Self::Key(Arc::new(private_key(name, secret)?)))
    }

    /// A private key with its certificate (`id_ed25519-cert.pub`).
    ///
    /// # Errors
    /// One of them is something else, or they are not of one key.
    pub fn certificate(name: &str, key: &Secret, certificate: &Secret) -> Result<Self, SshError> {
        let key = private_key(name, key)?;
        let problem = |problem: &str| SshError::Key { name: name.to_owned(), problem: problem.to_owned() };
        let text = std::str::from_utf8(certificate.expose())
            .map_err(|_| problem("has a certificate that is no text"))?;
        let certificate = Certificate::from_openssh(text)
            .map_err(|_| problem("has a certificate that is none (`ssh-keygen -L -f` shows good ones)"))?;
        if certificate.public_key() != key.public_key().key_data() {
            return Err(problem("has a certificate of another key"));
        }
        Ok(Self::Certificate(Arc::new(key), Box::new(certificate)))
    }

    /// A fresh key and a certificate for it, signed by our own CA key.
    ///
    /// # Errors
    /// The CA key is none, or refuses what is to be signed.
    pub fn mint(name: &str, authority: &Secret, minted: &Minted<'_>) -> Result<Self, SshError> {
        let authority = private_key(name, authority)?;
        let failed = |error: russh::keys::ssh_key::Error| SshError::Key {
            name: name.to_owned(),
            problem: format!("cannot sign a certificate: {error}"),
        };
        let mut random = UnwrapErr(getrandom::SysRng);
        let key = PrivateKey::random(&mut random, Algorithm::Ed25519).map_err(failed)?;
        let from = minted.now.saturating_sub(CLOCK_LEEWAY.as_secs());
        let until = minted.now.saturating_add(minted.validity.as_secs());
        let mut builder =
            Builder::new_with_random_nonce(&mut random, key.public_key(), from, until).map_err(failed)?;
        builder.cert_type(CertType::User).map_err(failed)?;
        builder.key_id(minted.key_id.as_str()).map_err(failed)?;
        for principal in minted.principals {
            builder.valid_principal(principal.as_str()).map_err(failed)?;
        }
        for permitted in ["permit-port-forwarding", "permit-pty"] {
            builder.extension(permitted, "").map_err(failed)?;
        }
        let certificate = builder.sign(&authority).map_err(failed)?;
        Ok(Self::Certificate(Arc::new(key), Box::new(certificate)))
    }

    /// RFC 4252's name of the method, or what is special about it.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Key(_) => "publickey",
            Self::Certificate(..) => "publickey with a certificate",
            Self::Password(_) => "password",
            Self::Agent(_) => "publickey of an authentication agent",
        }
    }
}

fn private_key(name: &str, secret: &Secret) -> Result<PrivateKey, SshError> {
    let problem = |problem: &str| SshError::Key { name: name.to_owned(), problem: problem.to_owned() };
    let text =
        std::str::from_utf8(secret.expose()).map_err(|_| problem("is no private key: it is no text"))?;
    // The file's last newline is taken off where credentials are read, and some parsers want it.
    let mut text = Zeroizing::new(text.to_owned());
    text.push('\n');
    let key = russh::keys::decode_secret_key(&text, None).map_err(|_| {
        problem("is no private key that can be used: it wants an OpenSSH or PEM key without a passphrase")
    })?;
    if key.is_encrypted() {
        return Err(problem("is a key with a passphrase; take it off with `ssh-keygen -p`"));
    }
    Ok(key)
}

/// Logs in; says the fingerprint of the key that did it.
pub(super) async fn login(
    handle: &mut Handle<ServerSide>,
    user: &str,
    credential: &Credential,
) -> Result<Option<String>, SshError> {
    let (result, key) = match credential {
        Credential::Key(key) => {
            let hash = rsa_hash(handle, key.algorithm()).await?;
            let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            (handle.authenticate_publickey(user, key).await?, Some(fingerprint))
        }
        Credential::Certificate(key, certificate) => {
            let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
            let certificate = certificate.as_ref().clone();
            let result = handle.authenticate_openssh_cert(user, Arc::clone(key), certificate).await?;
            (result, Some(fingerprint))
        }
        Credential::Password(password) => (with_password(handle, user, password).await?, None),
        Credential::Agent(path) => return with_agent(handle, user, path).await.map(Some),
    };
    match result {
        AuthResult::Success => Ok(key),
        AuthResult::Failure { remaining_methods, .. } => {
            Err(refused(credential.method(), user, &remaining_methods))
        }
    }
}

fn refused(method: &'static str, user: &str, offers: &russh::MethodSet) -> SshError {
    let offers: Vec<&str> = offers.iter().map(<&str>::from).collect();
    SshError::Refused { method, user: user.to_owned(), offers: offers.join(", ") }
}

/// The best hash that the server says it takes with RSA keys (RFC 8332, RFC 8308); SHA-1 is never used.
async fn rsa_hash(
    handle: &Handle<ServerSide>,
    algorithm: Algorithm,
) -> Result<Option<HashAlg>, russh::Error> {
    if !algorithm.is_rsa() {
        return Ok(None);
    }
    Ok(Some(handle.best_supported_rsa_hash().await?.flatten().unwrap_or(HashAlg::Sha512)))
}

async fn with_password(
    handle: &mut Handle<ServerSide>,
    user: &str,
    password: &Secret,
) -> Result<AuthResult, SshError> {
    let text = std::str::from_utf8(password.expose()).map_err(|_| SshError::Key {
        name: "password".to_owned(),
        problem: "is no UTF-8, as RFC 4252 §8 wants".to_owned(),
    })?;
    let result = handle.authenticate_password(user, text).await?;
    let AuthResult::Failure { remaining_methods, .. } = &result else { return Ok(result) };
    if !remaining_methods.contains(&russh::MethodKind::KeyboardInteractive) {
        return Ok(result);
    }
    // Many servers ask for the very same password that way (PAM).
    let mut answer = handle.authenticate_keyboard_interactive_start(user, None).await?;
    for _ in 0..ROUNDS_MAX {
        answer = match answer {
            KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(result),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                // A prompt that is echoed asks for something else than a password.
                let answers = prompts
                    .iter()
                    .map(|prompt| if prompt.echo { String::new() } else { text.to_owned() })
                    .collect();
                handle.authenticate_keyboard_interactive_respond(answers).await?
            }
        };
    }
    Ok(result)
}

async fn with_agent(handle: &mut Handle<ServerSide>, user: &str, path: &Path) -> Result<String, SshError> {
    let problem = |problem: String| SshError::Agent { path: path.display().to_string(), problem };
    let mut agent = AgentClient::connect_uds(path).await.map_err(|error| problem(error.to_string()))?;
    let identities = agent.request_identities().await.map_err(|error| problem(error.to_string()))?;
    if identities.is_empty() {
        return Err(problem("it holds no key; `ssh-add -l` shows what it holds".to_owned()));
    }
    let mut last = russh::MethodSet::empty();
    for identity in identities.into_iter().take(AGENT_KEYS_MAX) {
        let (result, fingerprint) = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                let hash = rsa_hash(handle, key.algorithm()).await?;
                let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
                (handle.authenticate_publickey_with(user, key, hash, &mut agent).await, fingerprint)
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let hash = rsa_hash(handle, certificate.algorithm()).await?;
                let fingerprint = certificate.public_key().fingerprint(HashAlg::Sha256).to_string();
                (handle.authenticate_certificate_with(user, certificate, hash, &mut agent).await, fingerprint)
            }
        };
        match result.map_err(|error| problem(error.to_string()))? {
            AuthResult::Success => return Ok(fingerprint),
            AuthResult::Failure { remaining_methods, .. } => last = remaining_methods,
        }
    }
    Err(refused("publickey of an authentication agent", user, &last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> Secret {
        let key = PrivateKey::random(&mut UnwrapErr(getrandom::SysRng), Algorithm::Ed25519).unwrap();
        let text = key.to_openssh(russh::keys::ssh_key::LineEnding::LF).unwrap();
        Secret::new(text.trim_end().as_bytes().to_vec())
    }

    #[test]
    fn what_is_no_key_is_named_and_not_shown() {
        for bytes in [&b"hunter2"[..], b"\xff\xfe", b"-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"] {
            let Err(error) = Credential::key("deploy", &Secret::new(bytes.to_vec())) else {
                panic!("taken for a key")
            };
            let text = format!("{error} {error:?}");
            assert!(text.contains("deploy") && !text.contains("hunter2"), "{text}");
        }
        assert!(matches!(Credential::key("deploy", &pem()), Ok(Credential::Key(_))));
    }

    #[test]
    fn a_minted_certificate_is_short_lived_and_says_whose_it_is() {
        let minted = Minted {
            key_id: "portcullis run 01 for alice".to_owned(),
            principals: &["deploy".to_owned()],
            validity: Duration::from_secs(300),
            now: 10_000,
        };
        let authority = pem();
        let Ok(Credential::Certificate(key, certificate)) = Credential::mint("ca", &authority, &minted)
        else {
            panic!("no certificate")
        };
        assert_eq!(certificate.public_key(), key.public_key().key_data());
        assert_eq!((certificate.valid_after(), certificate.valid_before()), (9_940, 10_300));
        assert_eq!(certificate.key_id(), "portcullis run 01 for alice");
        assert_eq!(certificate.valid_principals(), ["deploy"]);
        let ca = private_key("ca", &authority).unwrap().fingerprint(HashAlg::Sha256);
        assert!(certificate.validate_at(10_100, [&ca]).is_ok());
        // Its key does not go with another's certificate.
        let text = Secret::new(certificate.to_openssh().unwrap().into_bytes());
        assert!(Credential::certificate("x", &pem(), &text).is_err());
    }
}
