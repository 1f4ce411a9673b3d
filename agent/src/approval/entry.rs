//! Words for a request and what becomes of it: votes, outcomes, what an approval covers.

use serde::{Deserialize, Serialize};

use super::request::{Digest, Request};
use super::reviewer::Reviewer;
use crate::flow::ApprovalId;

/// Longest time that an approval may cover, in milliseconds: a day.
pub const GRANT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Most uses that an approval may cover.
pub const GRANT_USES_MAX: u32 = 1000;

/// What a reviewer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Let it pass.
    Approve,
    /// Refuse it.
    Deny,
}

/// What an approval covers. All of it in the same run, under the same rule of the same policy version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This operation, once.
    #[default]
    Once,
    /// This exact operation, again and again.
    Operation {
        /// For so many milliseconds from the decision on.
        for_ms: u64,
        /// So often at most, this time included.
        uses: u32,
    },
    /// Statements of the same shape: literals and parameters may differ.
    Shape {
        /// See above.
        for_ms: u64,
        /// See above.
        uses: u32,
    },
}

impl Scope {
    /// How long it lasts beyond the operation itself, and how often it may be used, this time included.
    #[must_use]
    pub fn lasting(self) -> Option<(u64, u32)> {
        match self {
            Self::Once => None,
            Self::Operation { for_ms, uses } | Self::Shape { for_ms, uses } => Some((for_ms, uses)),
        }
    }
}

/// A reviewer's whole word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Which way.
    pub answer: Answer,
    /// Why; may be empty, but not when glass is broken.
    #[serde(default)]
    pub reason: String,
    /// What an approval covers.
    #[serde(default)]
    pub scope: Scope,
    /// In an emergency: counts without the others whose word the rule asks for. Alerted, and to be reviewed afterwards.
    #[serde(default)]
    pub break_glass: bool,
}

impl Decision {
    /// One way or the other, once.
    #[must_use]
    pub fn plain(answer: Answer, reason: impl Into<String>) -> Self {
        Self { answer, reason: reason.into(), scope: Scope::Once, break_glass: false }
    }
}

/// One approval among those that a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Who.
    pub by: Reviewer,
    /// Why, as they wrote it; may be empty.
    pub reason: String,
    /// What it would cover.
    pub scope: Scope,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

/// How a request was settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A reviewer let it pass; of several, the last one.
    Approved {
        /// Who.
        by: Reviewer,
        /// Why, as they wrote it; may be empty.
        reason: String,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        at_ms: u64,
    },
    /// A reviewer refused it.
    Denied {
        /// Who.
        by: Reviewer,
        /// Why, as they wrote it; may be empty.
        reason: String,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        at_ms: u64,
    },
    /// Nobody decided in time. Counts as denied.
    Expired,
    /// The connection that asked cancelled it or went away.
    Withdrawn,
}

/// What an approval still covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which operations.
    pub scope: Scope,
    /// Until when; milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: u64,
    /// How often it may still be used.
    pub uses_left: u32,
    /// Who took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
}

/// The later look at a broken glass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// Who looked; `None` while nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Reviewer>,
    /// What they found.
    #[serde(default)]
    pub note: String,
}

/// A request as reviewers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Identifies the request.
    pub id: ApprovalId,
    /// What a decision must name; see [`Request::digest`].
    pub digest: Digest,
    /// What is asked.
    pub request: Box<Request>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub asked_ms: u64,
    /// When it is denied for want of a decision; milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: u64,
    /// Approvals so far, while more are needed, and all of them afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<Vote>,
    /// Whether its client was sent away to come again.
    #[serde(default)]
    pub deferred: bool,
    /// `None` while it waits.
    pub outcome: Option<Outcome>,
    /// Whether the connection that asked received the outcome. An approval that was not received never will be, unless it
    /// was deferred.
    pub delivered: bool,
    /// What the approval still covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// Raised with every change: of two states the later one counts, in whichever order they reach the disk.
    #[serde(default)]
    pub revision: u64,
    /// Whether glass was broken, and who has looked at it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
}

impl Entry {
    /// What has become of it, in words; names and reasons as people wrote them.
    #[must_use]
    pub fn shown(&self) -> String {
        let because = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let glass = match &self.review {
            None => "",
            Some(Review { by: None, .. }) => " BREAKING GLASS, to be reviewed",
            Some(Review { by: Some(_), .. }) => " breaking glass, reviewed",
        };
        match &self.outcome {
            None if self.request.quorum > 1 => {
                format!("waits, {} of {} approvals", self.votes.len(), self.request.quorum)
            }
            None => "waits".to_owned(),
            Some(Outcome::Approved { by, reason, .. }) => {
                format!("approved by {}{glass}{}", by.user, because(reason))
            }
            Some(Outcome::Denied { by, reason, .. }) => format!("denied by {}{}", by.user, because(reason)),
            Some(Outcome::Expired) => "expired, denied".to_owned(),
            Some(Outcome::Withdrawn) => "withdrawn".to_owned(),
        }
    }

    /// Whether a later operation may still rest on it, at this time.
    pub(super) fn is_live(&self, now_ms: u64) -> bool {
        match (&self.outcome, &self.grant) {
            (Some(Outcome::Approved { .. }), Some(grant)) => {
                grant.revoked_by.is_none() && grant.uses_left > 0 && now_ms < grant.until_ms
            }
            // A deferred refusal answers its client once it comes again, however often.
            (Some(Outcome::Denied { .. }), _) => self.deferred && now_ms < self.expires_ms,
            (Some(Outcome::Approved { .. } | Outcome::Expired | Outcome::Withdrawn) | None, _) => false,
        }
    }

    /// Whether it must outlive the daemon.
    pub(super) fn lasts(&self, now_ms: u64) -> bool {
        let unreviewed = self.review.as_ref().is_some_and(|review| review.by.is_none());
        unreviewed
            || self.is_live(now_ms)
            || (self.deferred && self.outcome.is_none() && now_ms < self.expires_ms)
    }
}
