//! Holds: what policy puts to humans, and the permit or denial that comes of it.

use std::time::Duration;

use super::{Approval, Denial, Gate, Obligations, Permit};
use crate::approval::{Outcome, Pending, Request, Reviewer, Settled};
use crate::flow::{ApprovalId, Side};
use crate::policy::rule::{Durability, HoldTerms, PolicyVersion};
use crate::record::event::{ApprovalOutcome, ApprovalRecord};

/// A hold that policy asks for, not yet put to anyone.
#[derive(Debug)]
pub struct Hold {
    pub(super) rule: String,
    pub(super) terms: HoldTerms,
    pub(super) policy_version: PolicyVersion,
    pub(super) locks: bool,
    pub(super) durability: Durability,
    pub(super) obligations: Option<Box<Obligations>>,
}

/// A hold that is being decided, or was before it was asked. Dropped early, it is withdrawn.
pub struct Held {
    rule: String,
    durability: Durability,
    obligations: Option<Box<Obligations>>,
    policy_version: PolicyVersion,
    pending: Pending,
}

impl Hold {
    /// Rule that asks.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Who may decide, and for how long they may think.
    #[must_use]
    pub fn terms(&self) -> &HoldTerms {
        &self.terms
    }

    /// Version of the policy that asks.
    #[must_use]
    pub fn policy_version(&self) -> &PolicyVersion {
        &self.policy_version
    }

    /// An open transaction may hold locks meanwhile.
    #[must_use]
    pub fn locks(&self) -> bool {
        self.locks
    }

    /// How long the client waits before it is told to come again, where its protocol's clients wait `usually` so long.
    #[must_use]
    pub fn patience(&self, usually: Option<Duration>) -> Option<Duration> {
        self.terms.inline.or(usually)
    }

    /// A refusal instead, where nobody can wait for an answer; `why` says what does not wait.
    #[must_use]
    pub fn cannot_wait(self, why: &str) -> Denial {
        Denial {
            reason: format!("rule \"{}\" holds this, and it cannot wait: {why}", self.rule),
            rule: self.rule,
            hint: Some("ask for a rule that allows it".to_owned()),
            side: Side::Policy,
            approval: None,
        }
    }

    /// Puts the question to the approvers, or takes the answer that the same question had before.
    ///
    /// # Errors
    /// When too many operations wait already.
    pub fn ask(self, gate: &Gate, request: Request) -> Result<Held, Denial> {
        let Self { rule, durability, obligations, policy_version, .. } = self;
        match gate.approvals.ask(request) {
            Ok(pending) => Ok(Held { rule, durability, obligations, policy_version, pending }),
            Err(error) => Err(Denial {
                rule,
                reason: error.to_string(),
                hint: Some("try again when some of the pending approvals are decided".to_owned()),
                side: Side::Portcullis,
                approval: None,
            }),
        }
    }
}

impl Held {
    /// Names the decision.
    #[must_use]
    pub fn id(&self) -> ApprovalId {
        self.pending.id()
    }

    /// Whether it was decided before it was asked: nobody waits.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.pending.is_decided()
    }

    /// The client waits for as long as the reviewers may take: what it sent would not be recognised when it comes again.
    #[must_use]
    pub fn stay(mut self) -> Self {
        self.pending.stay();
        self
    }

    /// Waits for the decision, or for as long as the client is to wait.
    ///
    /// # Errors
    /// Every way but an approval. [`Denial::is_deferred`] when nobody has decided yet.
    pub async fn decision(mut self) -> Result<Permit, Denial> {
        let settled = self.pending.outcome().await;
        self.conclude(settled)
    }

    fn conclude(self, settled: Settled) -> Result<Permit, Denial> {
        let (id, rule) = (self.pending.id(), self.rule);
        let outcome = match settled {
            Settled::As(outcome) => outcome,
            Settled::Deferred { until_ms } => return Err(deferred(id, rule, until_ms)),
        };
        let record = approval_record(id, &outcome);
        let reason = match outcome {
            Outcome::Approved { .. } => {
                let approval = Some(Approval { record, policy_version: self.policy_version });
                let obligations = self.obligations;
                return Ok(Permit { rule, approval, durability: self.durability, obligations });
            }
            Outcome::Denied { ref by, ref reason, .. } if reason.is_empty() => {
                format!("denied by {}", by.user)
            }
            Outcome::Denied { ref by, ref reason, .. } => format!("denied by {}: {reason}", by.user),
            Outcome::Expired => "nobody approved it in time".to_owned(),
            Outcome::Withdrawn => "the request was withdrawn".to_owned(),
        };
        Err(Denial { rule, reason, hint: None, side: Side::Policy, approval: Some(Box::new(record)) })
    }
}

/// The client is sent away with the id of what stays.
fn deferred(id: ApprovalId, rule: String, until_ms: u64) -> Denial {
    let until = std::time::UNIX_EPOCH + Duration::from_millis(until_ms);
    let until = humantime::format_rfc3339_seconds(until);
    Denial {
        rule,
        reason: format!("this waits for a human's approval ({})", id.code()),
        hint: Some(format!(
            "Nothing was done. If it is approved before {until}, the same operation passes once when you send it again \
             in this run; other words for it will not."
        )),
        side: Side::Policy,
        approval: Some(Box::new(by_nobody(id, ApprovalOutcome::Deferred))),
    }
}

/// The record of a request whose connection took it back.
#[must_use]
pub fn withdrawal(id: ApprovalId) -> ApprovalRecord {
    approval_record(id, &Outcome::Withdrawn)
}

fn by_nobody(id: ApprovalId, outcome: ApprovalOutcome) -> ApprovalRecord {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let decided_at_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    ApprovalRecord { id, outcome, by: None, reason: None, decided_at_ns }
}

fn approval_record(id: ApprovalId, outcome: &Outcome) -> ApprovalRecord {
    let by_human = |outcome, by: &Reviewer, reason: &str, at_ms: u64| ApprovalRecord {
        id,
        outcome,
        by: Some(by.user.clone()),
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        decided_at_ns: at_ms.saturating_mul(1_000_000),
    };
    match outcome {
        Outcome::Approved { by, reason, at_ms } => by_human(ApprovalOutcome::Approved, by, reason, *at_ms),
        Outcome::Denied { by, reason, at_ms } => by_human(ApprovalOutcome::Denied, by, reason, *at_ms),
        Outcome::Expired => by_nobody(id, ApprovalOutcome::TimedOut),
        Outcome::Withdrawn => by_nobody(id, ApprovalOutcome::Withdrawn),
    }
}
