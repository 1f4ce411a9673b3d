//! The masks of HTTP messages, made once for every version of a policy, connection and set of exemptions: compiling
//! detectors takes longer than a whole connection.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::PROXY_AUTHORIZATION;
use lru::LruCache;
use sha2::{Digest as _, Sha256};

use crate::gate::Admission;
use crate::mask::http::{BodyMasks, FieldRule};
use crate::mask::{Detector, HashKey, Method};
use crate::policy::Policy;
use crate::policy::rule::{Injection, MaskDirection, MaskRule, MaskTarget, PolicyVersion, Protocol};
use crate::record::asked::base64;
use crate::secret::Secret;

/// Sets of masks kept ready.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Masks by direction.
pub(super) struct Masks {
    /// What goes to the server.
    pub(super) request: Arc<BodyMasks>,
    /// What comes back.
    pub(super) response: Arc<BodyMasks>,
    /// What of a request is recorded: neither direction's secrets belong on the disk.
    pub(super) recorded: Arc<BodyMasks>,
}

/// Masks that were in use lately.
pub struct MaskCache {
    key: Arc<HashKey>,
    ready: Mutex<LruCache<Key, Arc<Masks>>>,
}

/// What masks depend on: policy, connection, and which rules apply.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    protocol: Protocol,
    policy: String,
    version: PolicyVersion,
    connection: String,
    applies: Vec<bool>,
    /// SHA-256 of the credentials that go into its requests.
    credentials: Option<[u8; 32]>,
}

/// The detectors could not be compiled.
#[derive(Debug, thiserror::Error)]
#[error("the masks of this connection cannot be applied")]
pub(crate) struct NoMasks;

impl MaskCache {
    /// An empty cache. `key` is that of the `hash` mask.
    #[must_use]
    pub fn new(key: Arc<HashKey>) -> Self {
        Self { key, ready: Mutex::new(LruCache::new(KEPT_MAX)) }
    }

    /// The masks that `policy` puts on an admitted connection.
    /// `credential` goes into its requests, and must not come back.
    pub(super) fn of(
        &self,
        policy: &Policy,
        admission: &Admission,
        credential: Option<&Secret>,
    ) -> Result<Arc<Masks>, NoMasks> {
        self.on(Protocol::Http, policy, admission, credential)
    }

    /// What is masked in the output of commands of an admitted SSH connection.
    ///
    /// # Errors
    /// The detectors cannot be compiled.
    pub(crate) fn of_stream(
        &self,
        policy: &Policy,
        admission: &Admission,
    ) -> Result<Arc<BodyMasks>, NoMasks> {
        self.on(Protocol::Ssh, policy, admission, None).map(|masks| Arc::clone(&masks.response))
    }

    fn on(
        &self,
        protocol: Protocol,
        policy: &Policy,
        admission: &Admission,
        credential: Option<&Secret>,
    ) -> Result<Arc<Masks>, NoMasks> {
        let connection = &admission.connection().name;
        let groups = &admission.subject().groups;
        let applies = |rule: &MaskRule| {
            rule.on.is_none_or(|on| on == protocol)
                && (rule.connections.is_empty() || rule.connections.contains(connection))
                && !rule.exempt.iter().any(|group| groups.contains(group))
        };
        let key = Key {
            protocol,
            policy: policy.name.clone(),
            version: policy.version.clone(),
            connection: connection.clone(),
            applies: policy.masks.iter().map(applies).collect(),
            credentials: digest(admission, credential),
        };
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(masks) = ready.get(&key) {
            return Ok(Arc::clone(masks));
        }
        let rules: Vec<&MaskRule> = policy.masks.iter().filter(|rule| applies(rule)).collect();
        let towards = |direction| rules.iter().copied().filter(move |rule| rule.direction == direction);
        let made = Arc::new(Masks {
            request: self.compile(towards(MaskDirection::Request), Vec::new())?,
            response: self.compile(towards(MaskDirection::Response), withheld(admission, credential))?,
            recorded: self.compile(rules.iter().copied(), Vec::new())?,
        });
        ready.put(key, Arc::clone(&made));
        Ok(made)
    }

    fn compile<'r>(
        &self,
        rules: impl Iterator<Item = &'r MaskRule>,
        withheld: Vec<Secret>,
    ) -> Result<Arc<BodyMasks>, NoMasks> {
        let (mut json, mut form, mut headers) = (Vec::new(), Vec::new(), Vec::new());
        let mut detect: Vec<(Detector, Method)> = Vec::new();
        for rule in rules {
            let method = rule.with;
            match &rule.what {
                MaskTarget::Columns(_) => {}
                MaskTarget::Detect(detectors) => {
                    detect.extend(detectors.iter().map(|found| (*found, method)))
                }
                MaskTarget::Form(globs) => {
                    form.extend(globs.iter().map(|glob| FieldRule {
                        rule: format!("form {}", glob.glob().glob()),
                        what: glob.clone(),
                        method,
                    }));
                }
                MaskTarget::Headers(globs) => {
                    headers.extend(globs.iter().map(|glob| FieldRule {
                        rule: format!("header {}", glob.glob().glob()),
                        what: glob.clone(),
                        method,
                    }));
                }
                MaskTarget::Json(paths) => json.extend(paths.iter().map(|path| FieldRule {
                    rule: path.text().to_owned(),
                    what: path.clone(),
                    method,
                })),
            }
        }
        let masks = BodyMasks::new(json, form, headers, &detect, withheld, Arc::clone(&self.key))
            .map_err(|_| NoMasks)?;
        Ok(Arc::new(masks))
    }
}

/// What the credentials of a connection are told apart by.
fn digest(admission: &Admission, credential: Option<&Secret>) -> Option<[u8; 32]> {
    let proxy = for_proxy(admission);
    if credential.is_none() && proxy.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    for secret in credential.into_iter().chain(&proxy) {
        digest.update(secret.expose().len().to_le_bytes());
        digest.update(secret.expose());
    }
    Some(digest.finalize().into())
}

/// What a proxy on the way is told in confidence, with and without its scheme.
fn for_proxy(admission: &Admission) -> Vec<Secret> {
    let Some(through) = admission.through() else { return Vec::new() };
    let value = through.fields().get(PROXY_AUTHORIZATION).map(http::HeaderValue::as_bytes);
    let bare = value.and_then(|value| value.splitn(2, |byte| *byte == b' ').nth(1));
    [value, bare].into_iter().flatten().map(|bytes| Secret::new(bytes.to_vec())).collect()
}

/// The credentials in the forms they are sent in, so that a server that echoes requests does not give them away.
fn withheld(admission: &Admission, credential: Option<&Secret>) -> Vec<Secret> {
    let mut secrets = for_proxy(admission);
    secrets.extend(own_withheld(admission, credential));
    secrets
}

fn own_withheld(admission: &Admission, credential: Option<&Secret>) -> Vec<Secret> {
    let upstream = &admission.connection().upstream;
    let (Some(secret), Some(how)) = (credential, &upstream.inject) else { return Vec::new() };
    match how {
        Injection::Bearer | Injection::Header(_) | Injection::Query(_) => vec![secret.clone()],
        Injection::Basic => {
            let pair = match &upstream.user {
                Some(user) => [user.as_bytes(), b":", secret.expose()].concat(),
                None => secret.expose().to_vec(),
            };
            vec![secret.clone(), Secret::new(base64(&pair).into_bytes())]
        }
        // The keys themselves are never sent.
        Injection::SigV4 => Vec::new(),
    }
}
