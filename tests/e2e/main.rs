//! End-to-end tests. All need root: they make cgroups and attach programs.
//!
//! The modules are marked `cfg(test)`, which is always so here, for clippy to see that their helpers are tests, too.

#[cfg(test)]
mod capture;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod death;
#[cfg(test)]
mod deferred;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod drivers;
#[cfg(test)]
mod effects;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod holds;
#[cfg(test)]
mod http;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod in_band;
#[cfg(test)]
mod interactive;
#[cfg(test)]
mod intercept;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod login;
#[cfg(test)]
mod masks;
#[cfg(test)]
mod names;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod service;
#[cfg(test)]
mod spine;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod wait;
#[cfg(test)]
mod web;
#[cfg(test)]
mod web_page;
#[cfg(test)]
mod wire;
