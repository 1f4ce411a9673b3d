//! The real server: dial it, verify it, log in with the profile's credential, cancel, and ask it what we must know.

use std::time::Duration;

mod auth;
pub mod cancel;
pub mod catalog;
pub mod dial;
pub mod error;
pub mod estimate;
pub mod function;
pub mod http;
pub mod inject;
pub mod login;
mod query;
mod routines;
pub mod side;
pub mod side_effects;
mod sigv4;
pub mod ssh;
mod tunnel;
mod wire;

pub use dial::{Dialled, Dialler, Target};
pub use error::{LoginProblem, ServerReport, Stage, UpstreamError};
pub use estimate::PlanRequest;
pub use function::CalledFunction;
pub use login::{BackendKey, LoggedIn, Replication, Startup, login};
pub use side::{Side, SideConnections};
pub use side_effects::Written;

/// How long name resolution and the TCP connection to a server may take.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a server may take for the TLS handshake, SSLRequest included.
pub const TLS_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a server may take from our StartupMessage to its ReadyForQuery.
pub const LOGIN_TIME_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
