//! Answers a server's demand for authentication with the profile's credential.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use zeroize::Zeroizing;

use super::error::{LoginProblem, UpstreamError};
use super::wire::{Fields, Wire};
use crate::secret::Secret;

/// Mechanism names read from one offer. PostgreSQL 18 knows three.
const MECHANISMS_MAX: usize = 16;

/// How far authentication has come.
enum State {
    /// Nothing has been asked of us.
    Start,
    /// The password went out, in whatever form was asked for.
    Answered,
    /// The first SCRAM message went out.
    ScramBegun(ScramSha256),
    /// The SCRAM proof went out; the server owes us its own.
    ScramProven(ScramSha256),
    /// The server has proven that it knows the password.
    ServerProven,
}

/// What the caller does next.
pub(super) enum Progress {
    /// Reads on.
    Continue,
    /// The server is satisfied, and so are we.
    Authenticated,
}

/// One login's authentication.
pub(super) struct Authentication<'a> {
    user: &'a str,
    credential: Option<&'a Secret>,
    address: SocketAddr,
    state: State,
}

impl<'a> Authentication<'a> {
    pub(super) fn new(user: &'a str, credential: Option<&'a Secret>, address: SocketAddr) -> Self {
        Self { user, credential, address, state: State::Start }
    }

    /// Answers one Authentication message
    /// (codes: <https://www.postgresql.org/docs/current/protocol-message-formats.html>).
    pub(super) async fn answer(
        &mut self,
        mut message: Fields,
        wire: &mut Wire,
    ) -> Result<Progress, UpstreamError> {
        let state = std::mem::replace(&mut self.state, State::Answered);
        self.state = match (message.u32()?, state) {
            (0, State::Start | State::Answered | State::ServerProven) => return Ok(Progress::Authenticated),
            (0, State::ScramBegun(_) | State::ScramProven(_)) => {
                return Err(unproven("it skipped its own proof"));
            }
            (3, State::Start) => self.cleartext(wire).await?,
            (5, State::Start) => self.md5(message.bytes(4)?, wire).await?,
            (10, State::Start) => self.scram_begin(message, wire).await?,
            (11, State::ScramBegun(scram)) => scram_continue(scram, message.rest(), wire).await?,
            (12, State::ScramProven(mut scram)) => {
                scram.finish(&message.rest()).map_err(|error| unproven(error.to_string()))?;
                State::ServerProven
            }
            (2, State::Start) => return Err(self.unsupported("Kerberos V5")),
            (7, State::Start) => return Err(self.unsupported("GSSAPI")),
            (9, State::Start) => return Err(self.unsupported("SSPI")),
            (code, _) => {
                return Err(UpstreamError::protocol(format!("authentication request {code} out of turn")));
            }
        };
        Ok(Progress::Continue)
    }

    fn credential(&self, method: &'static str) -> Result<&'a Secret, LoginProblem> {
        self.credential.ok_or(LoginProblem::NoCredential { method })
    }

    fn unsupported(&self, method: &str) -> UpstreamError {
        LoginProblem::Unsupported { method: method.to_owned(), user: self.user.to_owned() }.into()
    }

    async fn cleartext(&self, wire: &mut Wire) -> Result<State, UpstreamError> {
        let password = self.credential("cleartext")?;
        if !wire.stream.is_tls() && !self.address.ip().to_canonical().is_loopback() {
            return Err(LoginProblem::Cleartext.into());
        }
        send_password(password.expose(), wire).await?;
        Ok(State::Answered)
    }

    async fn md5(&self, salt: Bytes, wire: &mut Wire) -> Result<State, UpstreamError> {
        let password = self.credential("md5")?;
        let salt =
            <[u8; 4]>::try_from(salt.as_ref()).map_err(|_short| UpstreamError::protocol("a short salt"))?;
        let digest = Zeroizing::new(md5_hash(self.user.as_bytes(), password.expose(), salt));
        send_password(digest.as_bytes(), wire).await?;
        Ok(State::Answered)
    }

    /// Chooses the mechanism: with channel binding whenever the server offers it and we can compute it.
    async fn scram_begin(&self, mut offer: Fields, wire: &mut Wire) -> Result<State, UpstreamError> {
        let mut offered = Vec::new();
        while offered.len() < MECHANISMS_MAX {
            match offer.text()? {
                end if end.is_empty() => break,
                mechanism => offered.push(mechanism),
            }
        }
        let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
        let end_point = wire.stream.server_certificate().map(tls_server_end_point);
        let (mechanism, binding) = match end_point {
            Some(Some(hash)) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            _ if !offers(SCRAM_SHA_256) => return Err(self.unsupported(&offered.join(" or "))),
            // We could bind and the server says that it cannot: it then checks that it really said so, which shows
            // an offer that was tampered with (RFC 5802 §6).
            Some(Some(_)) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            Some(None) | None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        let scram = ScramSha256::new(self.credential(mechanism)?.expose(), binding);
        let mut response = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut response).map_err(unsendable)?;
        wire.send(&response).await?;
        Ok(State::ScramBegun(scram))
    }
}

/// Derives the key and sends our proof. The derivation takes milliseconds by design, so it leaves the async threads.
async fn scram_continue(
    mut scram: ScramSha256,
    challenge: Bytes,
    wire: &mut Wire,
) -> Result<State, UpstreamError> {
    let derived = tokio::task::spawn_blocking(move || scram.update(&challenge).map(|()| scram)).await;
    let scram =
        derived.map_err(|error| unproven(error.to_string()))?.map_err(|error| unproven(error.to_string()))?;
    let mut response = BytesMut::new();
    frontend::sasl_response(scram.message(), &mut response).map_err(unsendable)?;
    wire.send(&response).await?;
    Ok(State::ScramProven(scram))
}

/// PasswordMessage, in a buffer that is wiped afterwards and never grows (growing would leave a copy behind).
async fn send_password(password: &[u8], wire: &mut Wire) -> Result<(), UpstreamError> {
    if password.contains(&0) {
        return Err(unsendable("the credential holds a NUL byte, which no PostgreSQL password can"));
    }
    let length = u32::try_from(password.len().saturating_add(5)).unwrap_or(u32::MAX);
    let mut message = Zeroizing::new(Vec::with_capacity(password.len().saturating_add(6)));
    message.push(b'p');
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(password);
    message.push(0);
    wire.send(&message).await
}

fn unproven(reason: impl Into<String>) -> UpstreamError {
    LoginProblem::Unproven { reason: reason.into() }.into()
}

fn unsendable(reason: impl ToString) -> UpstreamError {
    UpstreamError::protocol(reason.to_string())
}

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// The channel binding `tls-server-end-point` (RFC 5929 §4.1): the certificate hashed with the hash function of its
/// own signature, or SHA-256 where that is MD5 or SHA-1. `None` where the signature names no single hash function
/// (Ed25519, RSASSA-PSS).
fn tls_server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    const SHA224: [ObjectIdentifier; 2] = [oid("1.2.840.113549.1.1.14"), oid("1.2.840.10045.4.3.1")];
    const SHA256: [ObjectIdentifier; 5] = [
        oid("1.2.840.113549.1.1.11"),
        oid("1.2.840.10045.4.3.2"),
        oid("1.2.840.113549.1.1.4"), // md5WithRSAEncryption
        oid("1.2.840.113549.1.1.5"), // sha1WithRSAEncryption
        oid("1.2.840.10045.4.1"),    // ecdsa-with-SHA1
    ];
    const SHA384: [ObjectIdentifier; 2] = [oid("1.2.840.113549.1.1.12"), oid("1.2.840.10045.4.3.3")];
    const SHA512: [ObjectIdentifier; 2] = [oid("1.2.840.113549.1.1.13"), oid("1.2.840.10045.4.3.4")];
    let signature = x509_cert::Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    if SHA256.contains(&signature) {
        Some(Sha256::digest(certificate).to_vec())
    } else if SHA384.contains(&signature) {
        Some(Sha384::digest(certificate).to_vec())
    } else if SHA512.contains(&signature) {
        Some(Sha512::digest(certificate).to_vec())
    } else if SHA224.contains(&signature) {
        Some(Sha224::digest(certificate).to_vec())
    } else {
        None
    }
}
