//! One SSH connection of an agent: what all its channels share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::client::{self, ChannelOpenHandle};
use russh::server;
use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, OnceCell, watch};

use super::forward;
use crate::credential::Lease;
use crate::flow::SessionId;
use crate::gate::Admission;
use crate::mask::http::BodyMasks;
use crate::policy::rule::{SshAuth, SshUpstream};
use crate::record::{RecordError, SessionRecord};
use crate::relay::Relay;
use crate::relay::http::NoMasks;
use crate::relay::open::{Open, OpenGuard};
use crate::upstream::ssh::{self, Credential, Forwarded, Minted, ServerChannels, SshError, Upstream};

/// Channels that are open at once on one connection. OpenSSH's clients stop at ten sessions unless told otherwise.
pub(super) const CHANNELS_MAX: usize = 64;

/// Addresses and sockets that the server listens on for one connection.
const LISTENING_MAX: usize = 64;

/// One client connection under its admission.
pub(super) struct Connection {
    pub(super) relay: Arc<Relay>,
    pub(super) admission: Admission,
    /// As the client logged in; the profile may name another for the server.
    user: OnceLock<String>,
    /// Says things to the client that belong to no channel; there once the client's side stands.
    client: OnceLock<server::Handle>,
    upstream: OnceCell<Result<Upstream, SshError>>,
    /// Held as long as the connection lasts, where what we logged in with is leased.
    lease: OnceLock<Arc<Lease>>,
    record: Mutex<Option<SessionRecord>>,
    operations: AtomicU64,
    open: Open,
    authenticated: Notify,
    /// Whether the client is gone.
    left: watch::Sender<bool>,
    /// What the server listens on for the client, with its permission.
    listening: Mutex<Vec<Listening>>,
    this: Weak<Self>,
}

/// Something the server listens on (RFC 4254 §7.1, PROTOCOL of OpenSSH §2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// An address and a port.
    Tcpip(String, u32),
    /// A Unix socket.
    Streamlocal(String),
}

impl Connection {
    pub(super) fn new(relay: &Arc<Relay>, admission: Admission, record: SessionRecord) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            relay: Arc::clone(relay),
            admission,
            user: OnceLock::new(),
            client: OnceLock::new(),
            upstream: OnceCell::new(),
            lease: OnceLock::new(),
            record: Mutex::new(Some(record)),
            operations: AtomicU64::new(0),
            open: Open::default(),
            authenticated: Notify::new(),
            left: watch::Sender::new(false),
            listening: Mutex::default(),
            this: Weak::clone(this),
        })
    }

    /// The same, to be kept.
    pub(super) fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// Whether there was a server, and is none any more.
    pub(super) fn lost_server(&self) -> bool {
        self.upstream.get().is_some_and(|known| known.as_ref().is_ok_and(|server| server.handle.is_closed()))
    }

    /// What is masked in output, by the policy in force.
    pub(super) fn masks(&self) -> Result<Arc<BodyMasks>, NoMasks> {
        let current = self.relay.gate.policy(&self.admission);
        let policy = current.as_deref().unwrap_or_else(|| self.admission.policy());
        self.relay.http_masks.of_stream(policy, &self.admission)
    }

    /// The masks for files that are downloaded; `None` where there are none, or nothing to mask.
    pub(super) fn download_masks(&self) -> Result<Option<Arc<BodyMasks>>, NoMasks> {
        if !self.admission.connection().ssh.mask_downloads {
            return Ok(None);
        }
        self.masks().map(|masks| Some(masks).filter(|masks| !masks.is_empty()))
    }

    /// The client is gone: nobody waits for a decision any more.
    pub(super) fn leave(&self) {
        self.left.send_replace(true);
    }

    /// Completes when the client is gone.
    pub(super) async fn when_left(&self) {
        // An error means that this connection itself is gone, which it is not while somebody asks.
        drop(self.left.subscribe().wait_for(|left| *left).await);
    }

    /// Whether there is room to listen on one thing more.
    pub(super) fn may_listen(&self) -> bool {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).len() < LISTENING_MAX
    }

    /// The server listens on this for the client from now on.
    pub(super) fn listen(&self, on: Listening) {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).push(on);
    }

    /// The client wants it no more; `false` when it never was.
    pub(super) fn listen_no_more(&self, on: &Listening) -> bool {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let before = listening.len();
        listening.retain(|known| known != on);
        listening.len() < before
    }

    /// Whether a channel of the server leads to what its client asked for with permission.
    pub(super) fn wanted(&self, from: &Forwarded) -> bool {
        let on = match from {
            Forwarded::Tcpip { address, port, .. } => Listening::Tcpip(address.clone(), *port),
            Forwarded::Streamlocal { path } => Listening::Streamlocal(path.clone()),
            // Asked for by a request of a channel, which is let through only where the policy permits it.
            Forwarded::Agent => return self.admission.connection().ssh.agent_forwarding,
            Forwarded::X11 { .. } => return self.admission.connection().ssh.x11,
        };
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).contains(&on)
    }

    /// Which session, for logs.
    pub(super) fn id(&self) -> SessionId {
        self.admission.flow().session
    }

    /// What the policy says of the server.
    pub(super) fn profile(&self) -> &SshUpstream {
        &self.admission.connection().upstream.ssh
    }

    /// A number for the next operation, from 1.
    pub(super) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The client asks to be let in as this user: `false` when it asked as another before (RFC 4252 §5 lets a server
    /// refuse that).
    pub(super) fn log_in(&self, user: &str) -> bool {
        self.user.get_or_init(|| user.to_owned()) == user
    }

    /// Whether clients have to show a token.
    pub(super) fn asks_for_token(&self) -> bool {
        self.admission.connection().ssh.token.is_some()
    }

    /// Whether this is the token that the policy names. Where it cannot be read, nothing is.
    pub(super) async fn is_token(&self, given: &str) -> bool {
        let Some(name) = self.admission.connection().ssh.token.as_deref() else { return false };
        match self.relay.credentials.named(name).await {
            Ok(token) => !token.expose().is_empty() && token.expose().ct_eq(given.as_bytes()).into(),
            Err(error) => {
                tracing::error!(session = %self.id(), %error, "the token that clients have to show cannot be read");
                false
            }
        }
    }

    /// The client is let in.
    pub(super) fn authenticated(&self, client: server::Handle) {
        drop(self.client.set(client));
        self.authenticated.notify_one();
        // The server is greeted while the client thinks of what to ask.
        if let Some(connection) = self.this.upgrade() {
            tokio::spawn(async move { connection.upstream().await.map(|_| ()).map_err(|_| ()) });
        }
    }

    /// Completes when the client is let in.
    pub(super) async fn when_authenticated(&self) {
        self.authenticated.notified().await;
    }

    /// Speaks to the client's side.
    pub(super) fn client(&self) -> Option<&server::Handle> {
        self.client.get()
    }

    /// The account on the server: the profile's, else the client's.
    pub(super) fn remote_user(&self) -> &str {
        let profile = self.admission.connection().upstream.user.as_deref();
        profile.unwrap_or_else(|| self.user.get().map_or("", String::as_str))
    }

    /// The server, greeted and logged in to once.
    pub(super) async fn upstream(&self) -> Result<&Upstream, &SshError> {
        self.upstream.get_or_init(|| self.connect()).await.as_ref()
    }

    async fn connect(&self) -> Result<Upstream, SshError> {
        let connected = async {
            let credential = self.credential().await?;
            let channels: Arc<dyn ServerChannels> = Arc::new(Opened(Weak::clone(&self.this)));
            let user = self.remote_user();
            ssh::connect(&self.relay.dialler, &self.admission, self.profile(), user, credential, channels)
                .await
        };
        let result = connected.await;
        match &result {
            Ok(upstream) => super::log::logged_in(self, &upstream.facts),
            Err(error) => {
                tracing::warn!(session = %self.id(), connection = self.admission.connection().name, %error,
                    "an SSH server cannot be used");
                let note = format!("the server cannot be used: {error}");
                drop(self.with_record(|record| record.note(&note).map(|_| ())));
            }
        }
        result
    }

    /// What the profile logs in with.
    async fn credential(&self) -> Result<Credential, SshError> {
        let profile = self.profile();
        if let SshAuth::Agent { socket } = &profile.auth {
            return Ok(Credential::Agent(socket.clone()));
        }
        let upstream = &self.admission.connection().upstream;
        let name = upstream.credential.as_deref().unwrap_or_default();
        let got = self.relay.credentials.get(&self.admission).await?.ok_or_else(|| SshError::Key {
            name: name.to_owned(),
            problem: "is not named by the profile".to_owned(),
        })?;
        if let Some(lease) = got.lease() {
            drop(self.lease.set(Arc::clone(lease)));
        }
        let secret = got.secret;
        match &profile.auth {
            SshAuth::Key => Credential::key(name, &secret),
            SshAuth::Password => Ok(Credential::Password(secret)),
            SshAuth::Certificate { certificate } => {
                let certificate = self.relay.credentials.named(certificate).await?;
                Credential::certificate(name, &secret, &certificate)
            }
            SshAuth::Authority { principals, validity } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let own = [self.remote_user().to_owned()];
                let key_id = format!(
                    "portcullis session {} run {} for {}",
                    self.id(),
                    self.admission.run().id,
                    self.admission.subject().user
                );
                let principals = if principals.is_empty() { &own[..] } else { principals };
                Credential::mint(name, &secret, &Minted { key_id, principals, validity: *validity, now })
            }
            SshAuth::Agent { socket } => Ok(Credential::Agent(socket.clone())),
        }
    }

    /// Writes to the record; an error once the session is over, because what is not recorded does not pass.
    pub(super) fn with_record<T>(
        &self,
        write: impl FnOnce(&mut SessionRecord) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.as_mut().map_or(Err(RecordError::Closed), write)
    }

    /// Takes the record, to close it.
    pub(super) fn take_record(&self) -> Option<SessionRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A channel is opened, if there is room for it.
    pub(super) fn open_channel(&self) -> Option<OpenGuard> {
        let guard = self.open.begin();
        (self.open.count() <= CHANNELS_MAX).then_some(guard)
    }

    /// Completes when all channels are done.
    pub(super) async fn idle(&self) {
        self.open.idle().await;
    }
}

/// Hands on what the server opens.
struct Opened(Weak<Connection>);

impl ServerChannels for Opened {
    fn opened(&self, from: Forwarded, channel: russh::Channel<client::Msg>, reply: ChannelOpenHandle) {
        // Dropping the reply refuses the channel.
        let Some(connection) = self.0.upgrade() else { return };
        let Some(guard) = connection.open_channel() else { return };
        tokio::spawn(async move {
            forward::from_server(&connection, from, channel, reply).await;
            drop(guard);
        });
    }
}
