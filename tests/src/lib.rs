//! Harness of the end-to-end tests, the demo and the bench: private PostgreSQL and HTTP servers, a daemon in a scratch
//! folder, an unprivileged agent, a reviewer.

pub mod agent;
pub mod chat;
pub mod daemon;
pub mod dns;
pub mod http;
pub mod oidc;
pub mod postgres;
pub mod process;
pub mod reviewer;
pub mod ssh;
pub mod vault;
pub mod web;
