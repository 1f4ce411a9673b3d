//! Portcullis agent: the user-space half of the gate.
//!
//! The modules stand in the order a connection meets them. **A module uses only modules above it**;
//! `cargo xtask tidy` checks that. Pure modules (`codec`, `request`, `mask`, `policy` but for `policy::watch`)
//! do no I/O, read no clock and use no tokio.

// Each module stands apart so that formatting keeps the order.

// Words and foundations.
pub mod flow;

pub mod limits;

pub mod secret;

pub mod sys;

pub mod private;

// Pure: bytes, statements, masks, rules.
pub mod codec;

pub mod request;

pub mod mask;

pub mod policy;

// The host: configuration, kernel programs, governed runs, the store.
pub mod config;

pub mod intercept;

pub mod run;

pub mod record;

// One connection: decide, dial, relay.
pub mod approval;

pub mod gate;

pub mod resolve;

pub mod tls;

pub mod fetch;

pub mod identity;

pub mod credential;

pub mod upstream;

pub mod relay;

pub mod session;

// The program.
pub mod signin;

pub mod control;

pub mod cli;

pub mod chat;

pub mod web;

pub mod daemon;
