//! One client connection: what all its exchanges share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use std::time::Instant;

use rustls::pki_types::ServerName;
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use super::head::Authority;
use super::masks::{Masks, NoMasks};
use super::proxy::Tunnel;
use crate::credential::{Credential, CredentialError};
use crate::flow::SessionId;
use crate::gate::Admission;
use crate::policy::Policy;
use crate::policy::rule::{Destination, PolicyVersion};
use crate::record::{RecordError, SessionRecord};
use crate::relay::Relay;
use crate::relay::open::{Open, OpenGuard};
use crate::request::http::Scheme;
use crate::secret::Secret;
use crate::upstream::http::{Target, Version};

/// What the client's side of the connection agreed on.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Whether it is TLS.
    pub(super) scheme: Scheme,
    /// What is spoken.
    pub(super) version: Version,
    /// The name it asked for by SNI.
    pub(super) sni: Option<String>,
    /// Whether it brought a certificate of its own.
    pub(super) has_certificate: bool,
}

/// One client connection under its admission.
pub(super) struct Session {
    pub(super) relay: Arc<Relay>,
    pub(super) admission: Admission,
    pub(super) client: Client,
    /// Name that the server's certificate must bear; `None` when the server speaks no TLS.
    pub(super) server_name: Option<ServerName<'static>>,
    /// What its connections to the server are for.
    pub(super) target: Arc<Target>,
    record: Mutex<Option<SessionRecord>>,
    /// Locked while it is fetched, so that requests that come together fetch it once.
    credential: tokio::sync::Mutex<Option<KnownCredential>>,
    masks: Mutex<Option<KnownMasks>>,
    operations: AtomicU64,
    open: Open,
    /// Connections of it that became another protocol's and still go on.
    upgraded: Open,
    /// Whether they are to end.
    cut: watch::Sender<bool>,
    /// A tunnel to be served when the last answer is out.
    tunnel: Mutex<Option<Tunnel>>,
    /// Sessions of other hosts that requests were for, when the connection is to a proxy.
    targets: Mutex<HashMap<Authority, Arc<Session>>>,
}

/// The credential in use, and since when.
struct KnownCredential {
    got: Instant,
    credential: Credential,
    injected: Injected,
}

/// What goes into a request. The same secret stays the same one, and what was made for it stays good.
#[derive(Clone)]
pub(super) struct Injected {
    pub(super) secret: Arc<Secret>,
    /// For basic authentication: the one that the secret was made for, else the profile's.
    pub(super) user: Option<String>,
}

/// Masks and what they were made from.
struct KnownMasks {
    version: PolicyVersion,
    credential: Option<Arc<Secret>>,
    masks: Arc<Masks>,
}

impl Session {
    pub(super) fn new(
        relay: &Arc<Relay>,
        admission: Admission,
        client: Client,
        server_name: Option<ServerName<'static>>,
        record: SessionRecord,
    ) -> Arc<Self> {
        Arc::new(Self {
            relay: Arc::clone(relay),
            target: Target::new(&admission, server_name.clone(), client.version),
            admission,
            client,
            server_name,
            record: Mutex::new(Some(record)),
            credential: tokio::sync::Mutex::default(),
            masks: Mutex::default(),
            operations: AtomicU64::new(0),
            open: Open::default(),
            upgraded: Open::default(),
            cut: watch::Sender::new(false),
            tunnel: Mutex::default(),
            targets: Mutex::default(),
        })
    }

    /// Which session, for answers.
    pub(super) fn id(&self) -> SessionId {
        self.admission.flow().session
    }

    /// A number for the next operation, from 1.
    pub(super) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes to the record; an error once the session is over, because what is not recorded does not pass.
    pub(super) fn with_record<T>(
        &self,
        write: impl FnOnce(&mut SessionRecord) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.as_mut().map_or(Err(RecordError::Closed), write)
    }

    /// The credential that goes into the session's requests, if the profile puts one there. It is fetched anew when it was
    /// fetched too long ago, so that a rotated secret is used soon; a lease is kept while it is good.
    pub(super) async fn credential(&self) -> Result<Option<Injected>, CredentialError> {
        let upstream = &self.admission.connection().upstream;
        if upstream.inject.is_none() {
            return Ok(None);
        }
        let mut known = self.credential.lock().await;
        if let Some(known) = known.as_ref()
            && known.credential.is_good_after(known.got.elapsed())
        {
            return Ok(Some(known.injected.clone()));
        }
        let Some(credential) = self.relay.credentials.get(&self.admission).await? else { return Ok(None) };
        let secret = match known.take() {
            Some(old) if bool::from(old.injected.secret.expose().ct_eq(credential.secret.expose())) => {
                old.injected.secret
            }
            Some(_) | None => Arc::new(credential.secret.clone()),
        };
        let user = credential.user.clone().or_else(|| upstream.user.clone());
        let injected = Injected { secret, user };
        *known = Some(KnownCredential { got: Instant::now(), credential, injected: injected.clone() });
        Ok(Some(injected))
    }

    /// The masks that a policy puts on the session.
    pub(super) fn masks(
        &self,
        policy: &Policy,
        credential: Option<&Arc<Secret>>,
    ) -> Result<Arc<Masks>, NoMasks> {
        let mut known = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref()
            && known.version == policy.version
            && known.credential.as_ref().map(Arc::as_ptr) == credential.map(Arc::as_ptr)
        {
            return Ok(Arc::clone(&known.masks));
        }
        let masks = self.relay.http_masks.of(policy, &self.admission, credential.map(AsRef::as_ref))?;
        *known = Some(KnownMasks {
            version: policy.version.clone(),
            credential: credential.cloned(),
            masks: Arc::clone(&masks),
        });
        Ok(masks)
    }

    /// Something goes on that the record waits for.
    pub(super) fn begin(&self) -> OpenGuard {
        self.open.begin()
    }

    /// Completes when nothing goes on any more.
    pub(super) async fn idle(&self) {
        self.open.idle().await;
    }

    /// The connection becomes another protocol's: it goes on after the last answer.
    pub(super) fn upgrade(&self) -> OpenGuard {
        self.upgraded.begin()
    }

    /// Completes when no such connection goes on any more.
    pub(super) async fn no_longer_upgraded(&self) {
        self.upgraded.idle().await;
    }

    /// Ends them.
    pub(super) fn cut_upgraded(&self) {
        self.cut.send_replace(true);
    }

    /// Completes when they are to end.
    pub(super) async fn when_cut(&self) {
        // An error means that the session itself is gone, which it is not while somebody asks.
        drop(self.cut.subscribe().wait_for(|cut| *cut).await);
    }

    /// Takes the record, to close it.
    pub(super) fn take_record(&self) -> Option<SessionRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The connection becomes this tunnel once its client has the answer.
    pub(super) fn promise(&self, tunnel: Tunnel) {
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    /// Takes the promised tunnel, to serve it.
    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The session of another host that a request was for.
    pub(super) fn target(&self, host: &Authority) -> Option<Arc<Session>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// How many there are.
    pub(super) fn targets(&self) -> usize {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Keeps the session of another host.
    pub(super) fn keep_target(&self, host: Authority, session: Arc<Session>) -> Arc<Session> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.insert(host, Arc::clone(&session));
        session
    }

    /// Takes them, to close them.
    pub(super) fn take_targets(&self) -> Vec<Arc<Session>> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.drain().map(|(_, session)| session).collect()
    }

    /// Whether the connection is for this host: a server behind the same address must not be reached by another name. A
    /// connection that the policy gives by host name is for those names alone; else the name must be the one TLS was
    /// opened for, or the address itself.
    pub(super) fn is_for(&self, authority: &Authority) -> bool {
        let destination = self.admission.flow().destination.0;
        if authority.port.is_some_and(|port| port != destination.port()) {
            return false;
        }
        let host = authority.host.as_str();
        let is_address = host.parse() == Ok(destination.ip());
        let named: Vec<&str> = self.hosts().collect();
        if named.contains(&host) {
            return true;
        }
        match &self.client.sni {
            Some(sni) => named.is_empty() && sni.eq_ignore_ascii_case(host),
            None => is_address || (named.is_empty() && self.client.scheme == Scheme::Http),
        }
    }

    /// Whether the server of this connection itself is named, as by a client that knows of no proxy.
    pub(super) fn is_server(&self, authority: &Authority) -> bool {
        let destination = self.admission.flow().destination.0;
        let host = authority.host.as_str();
        authority.port == Some(destination.port())
            && (host.parse() == Ok(destination.ip())
                || self.admission.host() == Some(host)
                || self.hosts().any(|named| named == host))
    }

    /// The host names by which the policy gives this connection.
    fn hosts(&self) -> impl Iterator<Item = &str> {
        let port = self.admission.flow().destination.0.port();
        self.admission.connection().to.iter().filter_map(move |to| match to {
            Destination::Host { name, port: wanted } if wanted.is_none_or(|wanted| wanted == port) => {
                Some(name.as_str())
            }
            Destination::Host { .. } | Destination::Network { .. } => None,
        })
    }
}
