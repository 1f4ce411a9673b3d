//! SSH servers: dialled under an admission, their host key verified, logged in with the profile's credential.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::client::{self, Handle};
use russh::keys::{HashAlg, PublicKeyOrCertificate};
use russh::{Preferred, SshId, cipher, compression, kex};

use super::{Dialler, UpstreamError};
use crate::credential::CredentialError;
use crate::flow::Side;
use crate::gate::Admission;
use crate::policy::rule::SshUpstream;

pub mod host_key;
mod login;

use host_key::{HostKeyProblem, HostName, HostTrust, Verified};
pub use login::{Credential, Minted};

/// How long a server may take from its TCP connection to the end of our login.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(20);

/// Bytes that a peer may send on one channel before somebody took them. OpenSSH's own value.
pub const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Longest piece of data in one message, in bytes (RFC 4253 §6.1: what everybody must take).
pub const PACKET_BYTES_MAX: u32 = 32 * 1024;

/// Messages of one channel that nobody took yet. The window bounds their bytes; this bounds their number.
pub const MESSAGES_MAX: usize = 16 * 1024;

/// How often a silent peer is asked whether it is still there, and how often in vain before it is given up.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered questions after which a peer is gone.
pub const KEEPALIVE_COUNT_MAX: usize = 4;

/// Ciphers of both sides, the best first. GCM is fast in hardware.
pub const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// Compression of both sides: none unless the other side wants it, and only after it has logged in.
pub const COMPRESSION: &[compression::Name] = &[compression::NONE, compression::ZLIB_LEGACY];

/// Why there is no session with the server.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// It cannot be reached.
    #[error(transparent)]
    Dial(#[from] UpstreamError),
    /// It is not who it should be.
    #[error(transparent)]
    HostKey(#[from] HostKeyProblem),
    /// The profile's credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The profile's credential is not what it should be.
    #[error("credential \"{name}\" {problem}")]
    Key {
        /// The credential.
        name: String,
        /// What is wrong; never its contents.
        problem: String,
    },
    /// The authentication agent of the daemon does not help.
    #[error("the authentication agent at {path}: {problem}")]
    Agent {
        /// Its socket.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// It does not let us in.
    #[error("the server does not accept {method} of user {user}; it offers: {offers}")]
    Refused {
        /// How we tried.
        method: &'static str,
        /// As whom.
        user: String,
        /// What the server would take.
        offers: String,
    },
    /// The protocol broke.
    #[error("SSH with the server failed: {0}")]
    Protocol(#[from] russh::Error),
    /// It took too long.
    #[error("the server took longer than {LOGIN_TIME_MAX:?} to let us in")]
    TimedOut,
}

impl SshError {
    /// Whose doing it is.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Dial(error) => error.side(),
            Self::HostKey(HostKeyProblem::NothingKnown { .. } | HostKeyProblem::Unreadable { .. })
            | Self::Credential(_)
            | Self::Key { .. }
            | Self::Agent { .. } => Side::Portcullis,
            Self::HostKey(
                HostKeyProblem::Unknown { .. }
                | HostKeyProblem::Revoked { .. }
                | HostKeyProblem::Certificate { .. },
            )
            | Self::Refused { .. }
            | Self::Protocol(_)
            | Self::TimedOut => Side::Upstream,
        }
    }

    /// What the agent is told: nothing of files, keys and accounts that are ours.
    #[must_use]
    pub fn told(&self) -> &'static str {
        match self {
            Self::Dial(_) => "the server cannot be reached",
            Self::HostKey(_) => "the server's host key is not the one that the operator trusts",
            Self::Credential(_) | Self::Key { .. } | Self::Agent { .. } => {
                "the credential for this server cannot be used; ask the operator"
            }
            Self::Refused { .. } => "the server does not accept the credential that the operator gave for it",
            Self::Protocol(_) => "the SSH connection to the server failed",
            Self::TimedOut => "the server took too long to answer",
        }
    }
}

/// What is known of a server once we are logged in; for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its identification string (RFC 4253 §4.2).
    pub version: String,
    /// Fingerprint of its host key, or of its certificate's.
    pub host_key: String,
    /// How that was verified.
    pub verified: Option<&'static str>,
    /// Key exchange, host key and cipher that were agreed on.
    pub algorithms: Vec<String>,
    /// By what method we logged in.
    pub method: &'static str,
    /// Fingerprint of the key we logged in with.
    pub key: Option<String>,
}

/// What the server asks of us, handed to whoever joins the two connections.
pub trait ServerChannels: Send + Sync + 'static {
    /// It opens a channel that leads back to the agent.
    fn opened(&self, from: Forwarded, channel: russh::Channel<client::Msg>, reply: client::ChannelOpenHandle);
}

/// A channel that a server opens (RFC 4254 §7.2, §6.3.2; PROTOCOL of OpenSSH §2.4, §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `forwarded-tcpip`.
    Tcpip {
        /// Address that was listened on.
        address: String,
        /// Port that was listened on.
        port: u32,
        /// Who connected.
        originator: (String, u32),
    },
    /// `forwarded-streamlocal@openssh.com`.
    Streamlocal {
        /// Socket that was listened on.
        path: String,
    },
    /// `auth-agent@openssh.com`.
    Agent,
    /// `x11`.
    X11 {
        /// Who connected.
        originator: (String, u32),
    },
}

/// A session with a server.
pub struct Upstream {
    /// Opens channels.
    pub handle: Handle<ServerSide>,
    /// Who it is.
    pub facts: ServerFacts,
}

/// What the handshake found out.
#[derive(Default)]
struct Found {
    problem: Option<HostKeyProblem>,
    host_key: String,
    verified: Option<Verified>,
    algorithms: Vec<String>,
    version: String,
}

/// Answers the server.
pub struct ServerSide {
    trust: HostTrust,
    host: Vec<HostName>,
    found: Arc<Mutex<Found>>,
    channels: Arc<dyn ServerChannels>,
}

/// Connects to the server of an admission, verifies it and logs in as `user`.
///
/// # Errors
/// It cannot be reached, is not who it should be, or does not let us in.
pub async fn connect(
    dialler: &Dialler,
    admission: &Admission,
    profile: &SshUpstream,
    user: &str,
    credential: Credential,
    channels: Arc<dyn ServerChannels>,
) -> Result<Upstream, SshError> {
    let host = host_names(admission);
    let trust = HostTrust::read(&profile.host_keys, &profile.host_ca, profile.known_hosts.as_deref(), &host)?;
    let stream = dialler.dial_opaque(admission).await?;
    let found = Arc::new(Mutex::new(Found::default()));
    let config = Arc::new(config(&trust));
    let side = ServerSide { trust, host, found: Arc::clone(&found), channels };
    let login = async {
        let mut handle = client::connect_stream(config, stream, side).await.map_err(|error| {
            let problem = found.lock().unwrap_or_else(PoisonError::into_inner).problem.take();
            problem.map_or(SshError::Protocol(error), SshError::HostKey)
        })?;
        let key = login::login(&mut handle, user, &credential).await?;
        let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        let facts = ServerFacts {
            version: found.version,
            host_key: found.host_key,
            verified: found.verified.map(Verified::as_str),
            algorithms: found.algorithms,
            method: credential.method(),
            key,
        };
        Ok(Upstream { handle, facts })
    };
    tokio::time::timeout(LOGIN_TIME_MAX, login).await.map_err(|_elapsed| SshError::TimedOut)?
}

/// Names the server may be known by: where the profile or the client says it is.
fn host_names(admission: &Admission) -> Vec<HostName> {
    let destination = admission.flow().destination.0;
    if let Some(address) = &admission.connection().upstream.address {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
        return vec![HostName { host, port: port.parse().unwrap_or(destination.port()) }];
    }
    let named = admission.host().map(str::to_owned);
    let names = named.into_iter().chain([destination.ip().to_string()]);
    names.map(|host| HostName { host, port: destination.port() }).collect()
}

fn config(trust: &HostTrust) -> client::Config {
    let mut preferred = Preferred {
        cipher: Cow::Borrowed(CIPHERS),
        compression: Cow::Borrowed(COMPRESSION),
        host_key_certificates: Cow::Owned(trust.certificate_algorithms()),
        ..Preferred::DEFAULT
    };
    // As ssh(1) does: a server with several keys is asked for one that is known.
    let known = trust.algorithms();
    if !known.is_empty() {
        preferred.key = Cow::Owned(known);
    }
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed("SSH-2.0-Portcullis")),
        preferred,
        window_size: WINDOW_BYTES,
        manual_window: true,
        maximum_packet_size: PACKET_BYTES_MAX,
        channel_buffer_size: MESSAGES_MAX,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_COUNT_MAX,
        nodelay: true,
        ..client::Config::default()
    }
}

impl client::Handler for ServerSide {
    type Error = russh::Error;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let verified = self.trust.verify(presented, &self.host, now);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.host_key = match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.fingerprint(HashAlg::Sha256).to_string(),
            PublicKeyOrCertificate::Certificate(certificate) => {
                certificate.public_key().fingerprint(HashAlg::Sha256).to_string()
            }
        };
        match verified {
            Ok(verified) => {
                found.verified = Some(verified);
                Ok(true)
            }
            Err(problem) => {
                found.problem = Some(problem);
                Ok(false)
            }
        }
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &russh::Names,
        session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.version = String::from_utf8_lossy(session.remote_sshid()).into_owned();
        let kex: &kex::Name = &names.kex;
        let cipher: &cipher::Name = &names.cipher;
        found.algorithms = vec![kex.as_ref().to_owned(), names.key.to_string(), cipher.as_ref().to_owned()];
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: russh::Channel<client::Msg>,
        address: &str,
        port: u32,
        originator_address: &str,
        originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        let originator = (originator_address.to_owned(), originator_port);
        self.channels.opened(
            Forwarded::Tcpip { address: address.to_owned(), port, originator },
            channel,
            reply,
        );
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: russh::Channel<client::Msg>,
        socket_path: &str,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.channels.opened(Forwarded::Streamlocal { path: socket_path.to_owned() }, channel, reply);
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: russh::Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.channels.opened(Forwarded::Agent, channel, reply);
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        channel: russh::Channel<client::Msg>,
        originator_address: &str,
        originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        let originator = (originator_address.to_owned(), originator_port);
        self.channels.opened(Forwarded::X11 { originator }, channel, reply);
        Ok(())
    }

    // A server opens no channels of these kinds (RFC 4254 §6.1, §7.2); dropping the handle refuses them.

    async fn server_channel_open_session(
        &mut self,
        _channel: russh::Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: russh::Channel<client::Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: russh::Channel<client::Msg>,
        _socket_path: &str,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        drop(reply);
        Ok(())
    }
}
