//! HashiCorp Vault and OpenBao by their HTTP API: log in, read a secret, renew and revoke its lease
//! (<https://developer.hashicorp.com/vault/api-docs>, <https://openbao.org/api-docs/>).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode};
use thiserror::Error;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::json::{self, Json};
use super::lease::{Lease, Leases};
use super::{Credential, CredentialError, Credentials, REMOTE_AGE_MAX, usable};
use crate::config::credential::{VaultAuth, VaultSource};
use crate::fetch::{Fetch, FetchError};
use crate::private::{self, Problem, Readers};
use crate::secret::Secret;
use crate::tls::upstream_side::ServerTrust;

/// Largest file with a signed token, in bytes.
const TOKEN_FILE_BYTES_MAX: usize = 64 * 1024;
/// Field of a dynamic secret that names its user.
const USER_FIELD: &str = "username";

/// Why Vault gave no secret. What it answered is not repeated: an answer could hold one.
#[derive(Debug, Error)]
pub enum VaultError {
    /// It cannot be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What logs in to it cannot be had.
    #[error("cannot log in to Vault: {0}")]
    Login(#[source] CredentialError),
    /// The file with the token that logs in cannot be had.
    #[error("cannot log in to Vault: {path} {problem}", path = path.display())]
    TokenFile {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        problem: Problem,
    },
    /// It knows us, or does not, and refuses.
    #[error("Vault refuses to {0} (403): has the token or secret id run out, and does its policy allow it?")]
    Denied(&'static str),
    /// There is nothing.
    #[error(
        "Vault has nothing to {0} there (404): correct `path` (with KV version 2 it has /data/ behind the mount), or the mount"
    )]
    Missing(&'static str),
    /// It cannot be used now.
    #[error("Vault is sealed, in maintenance or not initialised ({0}): unseal it")]
    Sealed(u16),
    /// Any other answer.
    #[error("Vault does not {0} (status {1}): look at its audit log")]
    Status(&'static str, u16),
    /// It answers with something else.
    #[error("what answers is not Vault: its answer to {0} is not the JSON that is documented")]
    Malformed(&'static str),
    /// The secret has no such field.
    #[error("the secret has no field \"{0}\" that is a string: correct `field`")]
    NoField(String),
    /// What is in the field.
    #[error("the secret's field {0}")]
    Field(Box<super::Fault>),
    /// What logs in holds what no token can.
    #[error("cannot log in to Vault: its token or secret id is no line of plain text")]
    NotText,
    /// The daemon ends.
    #[error("was not fetched: Portcullis is stopping")]
    Stopped,
}

/// One secret's place in one Vault, and the token that we last logged in with.
pub(super) struct Vault {
    name: String,
    source: VaultSource,
    fetch: Fetch,
    leases: Leases,
    /// Locked while we log in, so that sessions that start together log in once.
    token: tokio::sync::Mutex<Option<Arc<ClientToken>>>,
}

/// What we are known by, and until when.
pub(super) struct ClientToken {
    secret: Secret,
    life: Mutex<Option<Life>>,
}

#[derive(Clone, Copy)]
struct Life {
    ends: Instant,
    whole: Duration,
}

impl ClientToken {
    fn new(secret: Secret, lasts: Duration) -> Self {
        let life = (!lasts.is_zero()).then(|| Life { ends: Instant::now() + lasts, whole: lasts });
        Self { secret, life: Mutex::new(life) }
    }

    fn life(&self) -> Option<Life> {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it is still good; `None` when that is not known, or for ever.
    pub(super) fn left(&self) -> Option<Duration> {
        self.life().map(|life| life.ends.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_half_over(&self) -> bool {
        self.life().is_some_and(|life| life.ends.saturating_duration_since(Instant::now()) <= life.whole / 2)
    }

    /// Good for one more login: a tenth of its time is still left.
    fn is_fresh(&self) -> bool {
        self.life().is_none_or(|life| life.ends.saturating_duration_since(Instant::now()) > life.whole / 10)
    }
}

/// What was granted, and for how long.
pub(super) struct Grant {
    id: Zeroizing<String>,
    pub(super) duration: Duration,
    pub(super) renewable: bool,
}

/// The body of an answer, wiped when dropped.
struct Answer(Zeroizing<Vec<u8>>);

impl Answer {
    fn json(&self, what: &'static str) -> Result<Json<'_>, VaultError> {
        Json::parse(&self.0).filter(|json| json.is_object()).ok_or(VaultError::Malformed(what))
    }
}

impl Vault {
    pub(super) fn new(name: &str, source: &VaultSource, trust: Arc<ServerTrust>, leases: Leases) -> Self {
        let fetch = Fetch::new(trust, source.root_cert.clone());
        Self {
            name: name.to_owned(),
            source: source.clone(),
            fetch,
            leases,
            token: tokio::sync::Mutex::default(),
        }
    }

    /// The credential's name, for the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Reads the secret. A token that we still had may have been revoked since: then we log in once more.
    pub(super) async fn read(self: &Arc<Self>, credentials: &Credentials) -> Result<Credential, VaultError> {
        let (token, kept) = self.log_in(credentials, None).await?;
        match self.read_with(&token).await {
            Err(VaultError::Denied(_)) if kept => {
                let (token, _) = self.log_in(credentials, Some(&token)).await?;
                self.read_with(&token).await
            }
            read => read,
        }
    }

    async fn read_with(self: &Arc<Self>, token: &Arc<ClientToken>) -> Result<Credential, VaultError> {
        const WHAT: &str = "read the secret";
        let answer = self.ask(Method::GET, &self.source.path, Some(token), Vec::new(), WHAT).await?;
        let json = answer.json(WHAT)?;
        // First of all: whatever else is wrong, a lease that was granted is given back.
        let lease =
            grant(json).map(|grant| Arc::new(Lease::keep(self, Arc::clone(token), grant, &self.leases)));
        let data = json.get("data").filter(|data| data.is_object()).ok_or(VaultError::Malformed(WHAT))?;
        // KV version 2 wraps the secret's own data, beside what it says of the version.
        let data = match (data.get("data"), data.get("metadata")) {
            (Some(inner), Some(metadata)) if inner.is_object() && metadata.is_object() => inner,
            (_, Some(metadata)) if metadata.is_object() => return Err(VaultError::Missing(WHAT)),
            (Some(_) | None, _) => data,
        };
        let field = &self.source.field;
        let value = data.get(field).and_then(Json::bytes);
        let value = value.ok_or_else(|| VaultError::NoField(field.clone()))?;
        let secret = usable(value).map_err(|fault| VaultError::Field(Box::new(fault)))?;
        let user = lease.as_ref().and_then(|_| data.get(USER_FIELD)?.text());
        Ok(Credential { secret, user, lease, age_max: REMOTE_AGE_MAX })
    }

    /// Makes a lease longer by its own length.
    pub(super) async fn renew(&self, token: &Arc<ClientToken>, lease: &Grant) -> Result<Grant, VaultError> {
        const WHAT: &str = "renew the lease";
        let body = json::object(&[("lease_id", &lease.id)]);
        let answer = self.ask(Method::POST, "sys/leases/renew", Some(token), body, WHAT).await?;
        grant(answer.json(WHAT)?).ok_or(VaultError::Malformed(WHAT))
    }

    /// Gives a lease back. One that is gone already is fine.
    pub(super) async fn revoke(&self, token: &Arc<ClientToken>, lease: &Grant) -> Result<(), VaultError> {
        let body = json::object(&[("lease_id", &lease.id)]);
        match self.ask(Method::POST, "sys/leases/revoke", Some(token), body, "revoke the lease").await {
            Ok(_) | Err(VaultError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a token last longer, for the leases that end with it.
    pub(super) async fn renew_token(&self, token: &Arc<ClientToken>) -> Result<(), VaultError> {
        const WHAT: &str = "renew the token";
        let answer =
            self.ask(Method::POST, "auth/token/renew-self", Some(token), b"{}".to_vec(), WHAT).await?;
        let auth = answer.json(WHAT)?.get("auth").ok_or(VaultError::Malformed(WHAT))?;
        let lasts = lasting(auth);
        let mut life = token.life.lock().unwrap_or_else(PoisonError::into_inner);
        *life = (!lasts.is_zero()).then(|| Life { ends: Instant::now() + lasts, whole: lasts });
        Ok(())
    }

    /// A token that is good, and whether it is one that we still had. `bad` is known not to be.
    async fn log_in(
        &self,
        credentials: &Credentials,
        bad: Option<&Arc<ClientToken>>,
    ) -> Result<(Arc<ClientToken>, bool), VaultError> {
        let (mount, member, role, secret) = match &self.source.auth {
            // Read anew each time: whoever holds it may replace it.
            VaultAuth::Token { credential } => {
                let secret = own(credentials, credential).await?;
                return Ok((Arc::new(ClientToken::new(secret, Duration::ZERO)), false));
            }
            VaultAuth::AppRole { mount, role_id, secret_id } => {
                (mount, "secret_id", ("role_id", role_id), Given::Credential(secret_id))
            }
            VaultAuth::Jwt { mount, role, token_file } => {
                (mount, "jwt", ("role", role), Given::File(token_file))
            }
        };
        let mut known = self.token.lock().await;
        if let Some(token) = known.as_ref()
            && token.is_fresh()
            && bad.is_none_or(|bad| !Arc::ptr_eq(bad, token))
        {
            return Ok((Arc::clone(token), true));
        }
        let secret = match secret {
            Given::Credential(name) => own(credentials, name).await?,
            Given::File(path) => token_file(path)?,
        };
        let text = std::str::from_utf8(secret.expose()).map_err(|_| VaultError::NotText)?;
        let body = json::object(&[(role.0, role.1), (member, text)]);
        let token = Arc::new(self.new_token(mount, body).await?);
        *known = Some(Arc::clone(&token));
        Ok((token, false))
    }

    async fn new_token(&self, mount: &str, body: Vec<u8>) -> Result<ClientToken, VaultError> {
        const WHAT: &str = "log us in";
        let answer = self.ask(Method::POST, &format!("auth/{mount}/login"), None, body, WHAT).await?;
        let auth = answer.json(WHAT)?.get("auth").ok_or(VaultError::Malformed(WHAT))?;
        let mut token = auth.get("client_token").and_then(Json::bytes).ok_or(VaultError::Malformed(WHAT))?;
        let lasts = lasting(auth);
        Ok(ClientToken::new(Secret::new(std::mem::take(&mut *token)), lasts))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&Arc<ClientToken>>,
        body: Vec<u8>,
        what: &'static str,
    ) -> Result<Answer, VaultError> {
        // Wiped also if the request is never made.
        let mut body = Zeroizing::new(body);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.source.address))
            // Vault's agent asks for it, so that nothing on the way can be talked into asking (SSRF).
            .header("x-vault-request", "true");
        if let Some(namespace) = &self.source.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_bytes(token.secret.expose()).map_err(|_| VaultError::NotText)?;
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        let request = request.body(std::mem::take(&mut *body)).map_err(|_| VaultError::Malformed(what))?;
        let (head, body) = self.fetch.send(request).await?.into_parts();
        let body = Answer(Zeroizing::new(body));
        refused(head.status, what).map_or(Ok(body), Err)
    }
}

/// Where the secret of a login comes from.
enum Given<'v> {
    Credential(&'v str),
    File(&'v Path),
}

async fn own(credentials: &Credentials, name: &str) -> Result<Secret, VaultError> {
    let fixed = credentials.fixed(name).await;
    fixed
        .map(|credential| credential.secret)
        .map_err(|fault| VaultError::Login(credentials.error(name, fault)))
}

/// Kubernetes mounts the token of a service account readable for everyone, behind links inside of its folder.
fn token_file(path: &Path) -> Result<Secret, VaultError> {
    let read = || {
        let (folder, name) = path.parent().zip(path.file_name()).ok_or(Problem::Name)?;
        let folder = private::open_directory(folder)?;
        private::read(&folder, Path::new(name), TOKEN_FILE_BYTES_MAX, Readers::Everyone)
    };
    let failed = |problem| VaultError::TokenFile { path: path.to_owned(), problem };
    usable(read().map_err(failed)?).map_err(|_empty| failed(Problem::Empty))
}

/// The lease of an answer; static secrets have none.
fn grant(json: Json<'_>) -> Option<Grant> {
    let id = Zeroizing::new(json.get("lease_id")?.text().filter(|id| !id.is_empty())?);
    Some(Grant { id, duration: lasting(json), renewable: json.get("renewable").is_some_and(Json::is_true) })
}

/// How long something is good. Longer than a year is a year: clocks cannot hold everything that a number can say.
fn lasting(json: Json<'_>) -> Duration {
    const SECONDS_MAX: u64 = 365 * 24 * 60 * 60;
    Duration::from_secs(json.get("lease_duration").and_then(Json::number).unwrap_or(0).min(SECONDS_MAX))
}

/// What a status means (<https://developer.hashicorp.com/vault/api-docs#http-status-codes>).
fn refused(status: StatusCode, what: &'static str) -> Option<VaultError> {
    match status.as_u16() {
        200..=299 => None,
        403 => Some(VaultError::Denied(what)),
        404 => Some(VaultError::Missing(what)),
        code @ (501 | 503) => Some(VaultError::Sealed(code)),
        code => Some(VaultError::Status(what, code)),
    }
}

#[cfg(test)]
mod tests;
