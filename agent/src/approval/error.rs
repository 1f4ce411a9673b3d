//! Why nothing can be held, and why a decision does not count.

use super::entry::{Decision, GRANT_MS_MAX, GRANT_USES_MAX, Scope};
use super::proof::Lacking;
use super::{Answer, REASON_BYTES_MAX};
use crate::flow::{ApprovalId, Side};
use crate::policy::rule::StepUp;

/// Why nothing can be held now. The operation is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyHolds {
    /// On this host.
    #[error(
        "{max} operations wait for approval already; decide some (`portcullis approvals`) or raise approvals.holds_max"
    )]
    InAll {
        /// The limit.
        max: usize,
    },
    /// Of one run.
    #[error("{max} operations of this run wait for approval already; wait until some are decided")]
    OfRun {
        /// The limit.
        max: usize,
    },
}

/// Why a decision does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// No such request, or one settled long ago.
    #[error("no request {0} is known; list them with `portcullis approvals`")]
    NotFound(ApprovalId),
    /// The reviewer is who asks.
    #[error("this run acts for {who}; somebody else must decide")]
    SelfReview {
        /// What both are known by.
        who: String,
    },
    /// The reviewer is in none of the groups that may decide.
    #[error("only {} may decide this", allowed.join(", "))]
    NotAnApprover {
        /// Groups and users that may.
        allowed: Vec<String>,
    },
    /// Whoever approves must have proved more of themselves, by a sign-in.
    #[error("who approves this needs a sign-in at the identity provider {needs}, and {lacking}")]
    StepUp {
        /// What the rule asks for.
        needs: StepUp,
        /// What was not there.
        lacking: Lacking,
    },
    /// The rule has no glass to break.
    #[error("the rule that holds this names nobody who may break glass (break_glass)")]
    NoGlass,
    /// The same person has approved it already.
    #[error("you have approved this already; it needs the word of others as well")]
    VotedAlready,
    /// The digest is not that of the request.
    #[error("what you were shown is not what waits; look at it again with `portcullis approvals show {0}`")]
    NotWhatWasShown(ApprovalId),
    /// It was decided before; nothing changed.
    #[error("{} by {} already", if *approved { "approved" } else { "denied" }, by)]
    AlreadyDecided {
        /// The login name that decided.
        by: String,
        /// Which way.
        approved: bool,
    },
    /// Time was up, which denied it.
    #[error("nobody decided in time; it was denied")]
    Expired,
    /// The connection that asked is gone.
    #[error("the connection that asked has cancelled it or gone away")]
    Withdrawn,
    /// The reason is too long.
    #[error("the reason is longer than {REASON_BYTES_MAX} bytes")]
    ReasonTooLong,
    /// Glass is not broken without a word.
    #[error("say why: broken glass is reviewed afterwards (--reason)")]
    NoReason,
    /// The time or number is none.
    #[error("an approval lasts from 1 s to {} h, and for 1 to {GRANT_USES_MAX} uses", GRANT_MS_MAX / 3_600_000)]
    BadScope,
    /// Nothing but a statement has a shape.
    #[error("this has no shape that others could have; approve the operation itself")]
    NoShape,
    /// Nothing later can be told to be the same.
    #[error("no later operation can be told to be the same as this one; approve it once")]
    NotAgain,
    /// Nothing lasts of it.
    #[error("nothing of this approval is left to revoke")]
    NothingToRevoke,
    /// No glass was broken, or somebody has looked already.
    #[error("there is nothing to review about this")]
    NothingToReview,
    /// Whoever broke it does not review it.
    #[error("somebody else than who broke the glass must review it")]
    OwnGlass,
    /// The disk.
    #[error("this cannot be remembered, so it does not count: {0}")]
    NotRemembered(String),
}

impl DecideError {
    /// Whose fault it was; here `Client` is the reviewer.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::SelfReview { .. }
            | Self::NotAnApprover { .. }
            | Self::StepUp { .. }
            | Self::NoGlass
            | Self::VotedAlready
            | Self::OwnGlass => Side::Policy,
            Self::NotRemembered(_) => Side::Portcullis,
            Self::NotFound(_)
            | Self::NotWhatWasShown(_)
            | Self::ReasonTooLong
            | Self::NoReason
            | Self::BadScope
            | Self::NoShape
            | Self::NotAgain
            | Self::NothingToRevoke
            | Self::NothingToReview
            | Self::AlreadyDecided { .. }
            | Self::Expired
            | Self::Withdrawn => Side::Client,
        }
    }

    pub(super) fn not_an_approver(approvers: &[String]) -> Self {
        let shown = |approver: &String| match approver.strip_prefix("user:") {
            Some("root") => "root".to_owned(),
            Some(user) => format!("user {user}"),
            None => format!("group {approver}"),
        };
        Self::NotAnApprover { allowed: approvers.iter().map(shown).collect() }
    }
}

/// What can be said against a decision without knowing what it is about.
pub(super) fn check_decision(decision: &Decision) -> Result<(), DecideError> {
    if decision.reason.len() > REASON_BYTES_MAX {
        return Err(DecideError::ReasonTooLong);
    }
    if decision.break_glass && decision.answer == Answer::Approve && decision.reason.trim().is_empty() {
        return Err(DecideError::NoReason);
    }
    if decision.break_glass && decision.scope != Scope::Once {
        return Err(DecideError::BadScope);
    }
    match decision.scope {
        Scope::Once => Ok(()),
        Scope::Operation { for_ms, uses } | Scope::Shape { for_ms, uses } => {
            let fits = (1000..=GRANT_MS_MAX).contains(&for_ms) && (1..=GRANT_USES_MAX).contains(&uses);
            if fits { Ok(()) } else { Err(DecideError::BadScope) }
        }
    }
}
