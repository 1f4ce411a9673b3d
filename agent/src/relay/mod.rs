//! What moves bytes between the agent and the real server, under the permits of the gate.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::credential::Credentials;
use crate::gate::{Admission, Gate};
use crate::mask::HashKey;
use crate::record::Recorder;
use crate::request::sql::AnalysisCache;
use crate::tls::ca::Ca;
use crate::upstream::http::HttpPool;
use crate::upstream::{Dialler, SideConnections};

mod counted;
pub mod http;
pub mod leg;
pub mod opaque;
mod opening;
pub mod postgres;

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
    /// Key of the `hash` mask.
    pub hash_key: Arc<HashKey>,
    /// The store.
    pub recorder: Arc<Recorder>,
    /// Catalogues and planners of the servers.
    pub sides: SideConnections,
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

/// Says when the daemon begins to stop.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Begins the stop; dropping it does too.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl Shutdown {
    /// A trigger and what it triggers.
    #[must_use]
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Completes when the stop has begun.
    pub async fn begun(&mut self) {
        // An error means that the trigger is gone, which is a stop as well.
        drop(self.0.wait_for(|stopping| *stopping).await);
    }
}

impl ShutdownTrigger {
    /// Begins the stop.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}
