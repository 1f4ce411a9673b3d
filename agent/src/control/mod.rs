//! The control socket: one JSON line asks, one JSON line answers (a watch answers with many).
//!
//! Everybody may connect; what they may do is judged by what the kernel says of them. A process inside a governed
//! cgroup may do nothing at all: an agent reaches neither runs nor approvals.

pub mod client;
mod login;
pub mod notify;
pub mod protocol;
mod runs;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub use protocol::{Refusal, Reply, Request, Status};
pub use server::{HostStatus, Service, serve};

/// An error and its sources in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
