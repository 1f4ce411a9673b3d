//! What moves bytes between the agent and the real server, under the permits of the gate.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::credential::Credentials;
use crate::flow::Flow;
use crate::gate::{Admission, Gate, Unidentified};
use crate::identity::Issuers;
use crate::policy::rule::Protocol;
use crate::record::event::SessionOpened;
use crate::record::{RecordError, Recorder, SessionRecord};
use crate::request::sql::AnalysisCache;
use crate::run::{RunInfo, Runs, Subject};
use crate::tls::ca::Ca;
use crate::upstream::http::HttpPool;
use crate::upstream::{Dialler, SideConnections};

mod counted;
pub mod http;
mod in_band;
pub mod leg;
pub mod opaque;
mod open;
mod opening;
pub mod postgres;
pub mod ssh;
pub mod stop;
mod waiting;

pub use stop::{Shutdown, ShutdownTrigger};

/// What every relay uses and none owns.
pub struct Relay {
    /// Understood statements, by text.
    pub analyses: Arc<AnalysisCache>,
    /// Certificates for the client's side.
    pub ca: Arc<Ca>,
    /// Keys of live sessions.
    pub cancels: Arc<postgres::Cancels>,
    /// Upstream secrets.
    pub credentials: Credentials,
    /// Connects to servers.
    pub dialler: Dialler,
    /// Judges.
    pub gate: Arc<Gate>,
    /// Idle connections to HTTP servers.
    pub http_pool: Arc<HttpPool>,
    /// Room for HTTP bodies that are read before they are judged, in KiB.
    pub http_room: Arc<tokio::sync::Semaphore>,
    /// Masks of HTTP messages.
    pub http_masks: http::MaskCache,
    /// Masks of PostgreSQL sessions.
    pub postgres_masks: Arc<postgres::MaskCache>,
    /// Verifies tokens that clients bring.
    pub issuers: Arc<Issuers>,
    /// Every run, for tokens that were withdrawn.
    pub runs: Arc<Runs>,
    /// Sessions that go on.
    pub live: Arc<stop::Live>,
    /// The store.
    pub recorder: Arc<Recorder>,
    /// Catalogues and planners of the servers.
    pub sides: SideConnections,
    /// The host key that SSH clients see.
    pub ssh_key: Arc<russh::keys::PrivateKey>,
}

impl Relay {
    /// Whether a host name of a connection stands for an address: by what the run was told, else by our own look-up.
    fn resolves(&self, admission: &Admission, name: &str, address: IpAddr) -> bool {
        match admission.host() {
            Some(host) => host == name,
            None => self.gate.names().resolves(name, address),
        }
    }
}

/// Relays one admitted connection to its end, which is recorded.
pub fn serve<'s>(
    tcp: TcpStream,
    admission: Admission,
    relay: &'s Arc<Relay>,
    record: SessionRecord,
    shutdown: Shutdown,
) -> Pin<Box<dyn Future<Output = ()> + Send + 's>> {
    // A box for each, because it takes as much memory as the largest that it may hold.
    match admission.connection().protocol {
        Protocol::Http => Box::pin(http::serve(tcp, admission, relay, record, shutdown)),
        Protocol::Postgres => Box::pin(postgres::serve(tcp, admission, relay, record, shutdown)),
        Protocol::Ssh => Box::pin(ssh::serve(tcp, admission, relay, record, shutdown)),
        Protocol::Opaque | Protocol::Dns => {
            Box::pin(async move { opaque::serve(tcp, &[], &admission, relay, record, shutdown).await })
        }
    }
}

/// Serves a connection whose client has to bring a token first, to its end, which is recorded.
///
/// # Errors
/// When it cannot be recorded. It is closed then.
pub fn serve_unidentified<'s>(
    tcp: TcpStream,
    unidentified: Unidentified,
    relay: &'s Arc<Relay>,
    shutdown: Shutdown,
) -> Pin<Box<dyn Future<Output = Result<(), RecordError>> + Send + 's>> {
    Box::pin(async move {
        match unidentified.protocol() {
            Protocol::Postgres => {
                Box::pin(postgres::serve_unidentified(tcp, unidentified, relay, shutdown)).await
            }
            // The gate asks for tokens in these two protocols only.
            Protocol::Http | Protocol::Ssh | Protocol::Opaque | Protocol::Dns => {
                http::serve_unidentified(tcp, unidentified, relay, shutdown).await
            }
        }
    })
}

/// Opens the record of a flow, admitted or not; it is there before anything is said to any server.
///
/// # Errors
/// The store cannot be written.
pub fn open_record(
    recorder: &Arc<Recorder>,
    flow: &Flow,
    run: &RunInfo,
    subject: &Subject,
    admission: Option<&Admission>,
) -> Result<SessionRecord, RecordError> {
    let (policy_version, result_bytes_max) = match admission {
        Some(admission) => {
            let policy = admission.policy();
            (policy.version.clone(), policy.record.result_bytes_max)
        }
        None => (run.policy_version.clone(), 0),
    };
    let opened = SessionOpened {
        flow: flow.clone(),
        connection: admission.map(|admission| admission.connection().name.clone()),
        protocol: admission.map_or(Protocol::Opaque, |admission| admission.connection().protocol),
        policy: run.policy.clone(),
        policy_version,
        run_labels: run.labels.clone(),
        user_name: Some(subject.user.clone()),
        identity: subject.identity.clone(),
        through: admission.and_then(|admission| Some(admission.through()?.proxy().flow().session)),
    };
    recorder.session(&opened, result_bytes_max)
}
