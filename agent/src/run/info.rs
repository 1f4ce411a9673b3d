//! Words for a run: what it is, whom it acts for, how it came to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::identity::{Identity, Standing};
use crate::flow::RunId;
use crate::policy::rule::{PolicyVersion, Who};
use crate::sys;

/// Who a run acts for, as far as the host knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// User id.
    pub uid: u32,
    /// Login name; the number when the host has no name for it.
    pub user: String,
    /// Primary group id.
    pub gid: u32,
    /// Names of all groups; the number when the host has no name for one. Those of the token, when there is one.
    pub groups: Vec<String>,
    /// The user who logged in, through any `sudo` since; `None` when nobody did, or the kernel keeps no account of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// What the run's token says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<Identity>>,
}

impl Subject {
    /// Puts names to the kernel's numbers. Looks them up in the host's name service, so it may block.
    #[must_use]
    pub fn named(uid: u32, gid: u32, mut gids: Vec<u32>) -> Self {
        gids.sort_unstable();
        gids.dedup();
        let user = sys::user_by_id(uid).map_or_else(|| uid.to_string(), |user| user.name);
        let groups =
            gids.into_iter().map(|gid| sys::group_name(gid).unwrap_or_else(|| gid.to_string())).collect();
        Self { uid, user, gid, groups, login: None, identity: None }
    }

    /// The same, as its token knows it.
    #[must_use]
    pub fn with(self, identity: Option<Arc<Identity>>) -> Self {
        match identity {
            Some(identity) => Self { groups: identity.groups.clone(), identity: Some(identity), ..self },
            None => self,
        }
    }

    /// As rules see it, at this moment (milliseconds since 1970-01-01T00:00:00Z).
    #[must_use]
    pub fn who(&self, at_ms: u64) -> Who<'_> {
        Who { groups: &self.groups, claims: self.identity.as_ref().map(|identity| &identity.claims), at_ms }
    }

    /// For people: what the token calls it, or the login name.
    #[must_use]
    pub fn shown(&self) -> &str {
        let identity = self.identity.as_ref();
        identity.map_or(&self.user, |identity| identity.called())
    }

    /// The subject behind a process of which only user and group id are known; its groups are the ones the host's
    /// name service gives that user. May block.
    #[must_use]
    pub fn of_process(uid: u32, gid: u32) -> Self {
        let mut gids = sys::user_by_id(uid).map_or_else(Vec::new, |user| sys::groups_of(&user));
        gids.push(gid);
        Self::named(uid, gid, gids)
    }
}

/// A user who logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// User id.
    pub uid: u32,
    /// Login name; the number when the host has no name for it.
    pub user: String,
}

impl Login {
    /// By its number. May block on the host's name service.
    #[must_use]
    pub fn of(uid: u32) -> Self {
        let user = sys::user_by_id(uid).map_or_else(|| uid.to_string(), |user| user.name);
        Self { uid, user }
    }
}

/// How a run came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A policy claims the cgroup; it was there, or appeared.
    Matched {
        /// Last component of the cgroup's path: a systemd unit's name, where systemd made it.
        unit: String,
    },
    /// `portcullis run` asked for it.
    Started {
        /// The process that asked and became the run's first.
        pid: u32,
    },
}

/// A cgroup-v2 directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRef {
    /// Path below the hierarchy's root, as in `/proc/PID/cgroup`.
    pub path: String,
    /// The kernel's id: the directory's inode number.
    pub id: u64,
}

/// One run. Never changes once made, but for its standing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Identifies it everywhere.
    pub id: RunId,
    /// Name of its policy. The file may have changed, broken or gone since; whoever judges looks it up by name.
    pub policy: String,
    /// Version of the policy when the run began.
    pub policy_version: PolicyVersion,
    /// Who started it. `None` for a matched cgroup: there each connection's own process is the subject.
    pub subject: Option<Subject>,
    /// Its token, and whether it may go on.
    #[serde(default)]
    pub standing: Standing,
    /// `--label K=V`.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub started_ms: u64,
    /// How it came to be.
    pub how: How,
    /// Its cgroup.
    pub cgroup: CgroupRef,
}

impl RunInfo {
    /// Whom a connection of this run acts for, given the connecting process's user and group id. Blocks on the host's
    /// name service for matched cgroups.
    #[must_use]
    pub fn subject_of(&self, uid: u32, gid: u32) -> Subject {
        self.known_subject().unwrap_or_else(|| Subject::of_process(uid, gid))
    }

    /// Whom it acts for, where that is not each connection's own process.
    #[must_use]
    pub fn known_subject(&self) -> Option<Subject> {
        self.subject.clone().map(|subject| subject.with(self.standing.identity()))
    }
}
