//! AWS Signature Version 4
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>): a request that an agent's
//! SDK signed with keys of no worth is signed again with the real ones, for the same region and service.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::flow::Side;
use crate::secret::Secret;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

static DATE: HeaderName = HeaderName::from_static("x-amz-date");
static CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
static TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// A body that is not signed; only where TLS protects it.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Everything but what AWS calls unreserved.
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a request cannot be signed again.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It bears no signature to take region and service from.
    #[error(
        "the request is not signed with AWS Signature Version 4; give the agent's SDK any access key, so that it signs for \
         the region and service it means"
    )]
    NotSigned,
    /// A presigned URL.
    #[error("presigned URLs are not signed again; let the agent's SDK sign in the Authorization header")]
    Presigned,
    /// Each chunk has a signature of its own.
    #[error(
        "the body is signed chunk by chunk, which cannot be done again; set the SDK to sign payloads whole or not at all \
         (for S3: request_checksum_calculation = when_required)"
    )]
    Chunked,
    /// The body must be known.
    #[error("the body is too long to be signed; raise inspect_bytes in the policy")]
    BodyNeeded,
    /// The credential.
    #[error(
        "the credential must be ACCESS_KEY_ID:SECRET_ACCESS_KEY, with :SESSION_TOKEN behind it where there is one"
    )]
    Credential,
}

impl SignError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::NotSigned | Self::Presigned | Self::Chunked | Self::BodyNeeded => Side::Client,
            Self::Credential => Side::Portcullis,
        }
    }
}

/// What the agent's signature was for.
struct Scope {
    region: String,
    service: String,
    /// Lower-case names, in order.
    headers: Vec<String>,
}

/// Whether the body must be read before the request can be signed.
pub(super) fn needs_body(parts: &Parts) -> bool {
    let announced = parts.headers.get(&CONTENT).and_then(|value| value.to_str().ok());
    !announced.is_some_and(|value| value == UNSIGNED || value.starts_with("STREAMING-UNSIGNED-"))
}

/// Signs a request again. The credential is `ID:SECRET[:TOKEN]`.
pub(super) fn sign(
    parts: &mut Parts,
    secret: &Secret,
    body: Option<&[u8; 32]>,
    now: SystemTime,
) -> Result<(), SignError> {
    let scope = scope(parts)?;
    let text = std::str::from_utf8(secret.expose()).map_err(|_| SignError::Credential)?;
    let mut fields = text.trim().splitn(3, ':');
    let (Some(id), Some(key)) = (fields.next(), fields.next()) else { return Err(SignError::Credential) };
    let token = fields.next();
    let (stamp, day) = timestamps(now);
    put(parts, &DATE, &stamp)?;
    parts.headers.remove(http::header::DATE);
    match token {
        Some(token) => put(parts, &TOKEN, token)?,
        None => drop(parts.headers.remove(&TOKEN)),
    }
    let payload = payload(parts, &scope, body)?;
    let names = signed_names(parts, &scope);
    let canonical = canonical_request(parts, &scope, &names, &payload);
    let credential_scope = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{credential_scope}\n{}", hex(&Sha256::digest(canonical)));
    let signature = signature(key, &day, &scope, &to_sign);
    let value = format!(
        "{ALGORITHM} Credential={id}/{credential_scope}, SignedHeaders={}, Signature={signature}",
        names.join(";")
    );
    put(parts, &AUTHORIZATION, &value)
}

fn put(parts: &mut Parts, name: &HeaderName, value: &str) -> Result<(), SignError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| SignError::Credential)?;
    value.set_sensitive(*name == AUTHORIZATION || *name == TOKEN);
    parts.headers.insert(name.clone(), value);
    Ok(())
}

fn scope(parts: &Parts) -> Result<Scope, SignError> {
    if parts.uri.query().is_some_and(|query| query.contains("X-Amz-Signature=")) {
        return Err(SignError::Presigned);
    }
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let fields = header.and_then(|value| value.strip_prefix(ALGORITHM)).ok_or(SignError::NotSigned)?;
    let field = |name: &str| {
        fields
            .split(',')
            .map(str::trim)
            .find_map(|field| field.strip_prefix(name))
            .ok_or(SignError::NotSigned)
    };
    let mut credential = field("Credential=")?.split('/').skip(2);
    let (region, service) = (credential.next(), credential.next());
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match (region, service) {
        (Some(region), Some(service)) if plain(region) && plain(service) && !service.is_empty() => {
            Ok(Scope {
                region: region.to_owned(),
                service: service.to_owned(),
                headers: field("SignedHeaders=")?.split(';').map(str::to_ascii_lowercase).collect(),
            })
        }
        (_, _) => Err(SignError::NotSigned),
    }
}

/// What stands for the body in the signature.
fn payload(parts: &mut Parts, scope: &Scope, body: Option<&[u8; 32]>) -> Result<String, SignError> {
    let announced = parts.headers.get(&CONTENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match announced {
        Some(value) if value == UNSIGNED || value.starts_with("STREAMING-UNSIGNED-") => Ok(value),
        Some(value) if value.starts_with("STREAMING-") => Err(SignError::Chunked),
        Some(_) => {
            let digest = hex(body.ok_or(SignError::BodyNeeded)?);
            put(parts, &CONTENT, &digest)?;
            Ok(digest)
        }
        None if scope.service == "s3" => {
            let value = body.map_or_else(|| UNSIGNED.to_owned(), |digest| hex(digest));
            put(parts, &CONTENT, &value)?;
            Ok(value)
        }
        None => Ok(hex(body.ok_or(SignError::BodyNeeded)?)),
    }
}

/// The names the agent signed, as far as they are there, and those that must be.
fn signed_names(parts: &Parts, scope: &Scope) -> Vec<String> {
    let mut names: Vec<String> =
        scope.headers.iter().filter(|name| parts.headers.contains_key(name.as_str())).cloned().collect();
    for required in [HOST.as_str(), DATE.as_str(), CONTENT.as_str(), TOKEN.as_str()] {
        let there = parts.headers.contains_key(required) || required == HOST.as_str();
        if there && !names.iter().any(|name| name == required) {
            names.push(required.to_owned());
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn canonical_request(parts: &Parts, scope: &Scope, names: &[String], payload: &str) -> String {
    let mut text = format!("{}\n{}\n{}\n", parts.method, path(parts, scope), query(parts));
    for name in names {
        let values: Vec<String> = parts
            .headers
            .get_all(name.as_str())
            .iter()
            .map(|value| {
                String::from_utf8_lossy(value.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        let value = match (values.is_empty(), name == HOST.as_str()) {
            (true, true) => parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
            (true | false, _) => values.join(","),
        };
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("\n{}\n{payload}", names.join(";")));
    text
}

/// Every service but S3 signs the path as it is sent, encoded once more.
fn path(parts: &Parts, scope: &Scope) -> String {
    let path = match parts.uri.path() {
        "" => "/",
        path => path,
    };
    let segment = |text: &str| {
        if scope.service == "s3" {
            let decoded: Vec<u8> = percent_decode_str(text).collect();
            percent_encoding::percent_encode(&decoded, &ENCODED).to_string()
        } else {
            utf8_percent_encode(text, &ENCODED).to_string()
        }
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn query(parts: &Parts) -> String {
    let query = parts.uri.query().unwrap_or_default();
    let encode = |text: &str| {
        let decoded: Vec<u8> = percent_decode_str(text).collect();
        percent_encoding::percent_encode(&decoded, &ENCODED).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn signature(key: &str, day: &str, scope: &Scope, to_sign: &str) -> String {
    let mut secret = Zeroizing::new(format!("AWS4{key}").into_bytes());
    for part in [day, &scope.region, &scope.service, "aws4_request"] {
        secret = Zeroizing::new(hmac(&secret, part.as_bytes()).to_vec());
    }
    hex(&hmac(&secret, to_sign.as_bytes()))
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    // A key of any length will do (RFC 2104 section 3), so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20150830T123600Z` and its day.
fn timestamps(now: SystemTime) -> (String, String) {
    let whole = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = UNIX_EPOCH + std::time::Duration::from_secs(whole);
    let stamp: String = humantime::format_rfc3339_seconds(time)
        .to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    let day = stamp.split('T').next().unwrap_or_default().to_owned();
    (stamp, day)
}

#[cfg(test)]
mod tests;
