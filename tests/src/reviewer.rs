//! A reviewer who watches what waits and decides it, with the command line and as their own user.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::process::{self, Finished, Talking, User};

/// A user with `portcullis approvals --watch --json` open.
#[derive(Debug)]
pub struct Reviewer<'a> {
    daemon: &'a Daemon,
    user: User,
    watch: Talking,
    seen: Vec<String>,
}

impl<'a> Reviewer<'a> {
    /// Begins to watch.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn watch(daemon: &'a Daemon, user: User) -> Result<Self> {
        let mut command = daemon.command_as(user)?;
        let watch = Talking::spawn(command.args(["approvals", "--watch", "--json"]))?;
        Ok(Self { daemon, user, watch, seen: Vec::new() })
    }

    /// The next request that waits and was not returned before.
    ///
    /// # Errors
    /// When none comes.
    pub fn waiting(&mut self) -> Result<Value> {
        let seen = std::mem::take(&mut self.seen);
        let new = |entry: &Value| entry["outcome"].is_null() && !seen.contains(&id_of(entry));
        let entry = self.entry(new).context("nothing came to wait");
        self.seen = seen;
        self.seen.extend(entry.as_ref().ok().map(id_of));
        entry
    }

    /// The request once it is settled.
    ///
    /// # Errors
    /// When it is not settled in time.
    pub fn settled(&mut self, id: &str) -> Result<Value> {
        self.entry(|entry| !entry["outcome"].is_null() && id_of(entry) == id)
            .with_context(|| format!("{id} was not settled"))
    }

    fn entry(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let parse = |line: &str| serde_json::from_str::<Value>(line).ok();
        let line = self.watch.until(|line| parse(line).is_some_and(|entry| wanted(&entry)))?;
        parse(&line).context("not JSON")
    }

    /// Approves.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn approve(&self, id: &str, reason: &str) -> Result<Finished> {
        decide(self.daemon, self.user, "approve", id, reason)
    }

    /// Denies.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn deny(&self, id: &str, reason: &str) -> Result<Finished> {
        decide(self.daemon, self.user, "deny", id, reason)
    }
}

/// What people are told of an id.
#[must_use]
pub fn code(id: &str) -> &str {
    id.get(id.len().saturating_sub(6)..).unwrap_or(id)
}

/// The id of a request.
#[must_use]
pub fn id_of(entry: &Value) -> String {
    entry["id"].as_str().unwrap_or_default().to_owned()
}

/// `portcullis approvals approve|deny ID --reason REASON` as any user.
///
/// # Errors
/// When the command cannot be started.
pub fn decide(daemon: &Daemon, user: User, answer: &str, id: &str, reason: &str) -> Result<Finished> {
    process::finish(daemon.command_as(user)?.args(["approvals", answer, id, "--reason", reason]))
}
