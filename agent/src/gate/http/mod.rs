//! Judging HTTP requests.

use super::{Admission, Denial, Gate, Hold, Judgement, Obligations, Permit};
use crate::flow::Side;
use crate::policy::rule::{Limits, Policy, Uninspected};
use crate::policy::{HttpOperation, UnreadBody, Verdict};
use crate::request::http::{Analysis, HttpRequest, depends_on_body};
use crate::run::now_ms;

/// How much of a body was read before its request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRead {
    /// Nothing yet.
    NotYet,
    /// All of it, or there is none.
    Whole,
    /// It cannot be looked into: too long, or in an unknown coding.
    Impossible,
}

/// What the gate says of one request.
#[derive(Debug)]
#[must_use]
pub enum HttpJudgement {
    /// A rule looks into the body: read it, then judge again.
    ReadBody,
    /// As judged. `uninspected` says that a rule wanted to look into the body and could not.
    Judged {
        /// What it is.
        judgement: Judgement,
        /// The body passes unread by the policy's own word.
        uninspected: bool,
    },
}

impl Gate {
    /// Judges one request of an admitted flow, by the policy in force now.
    pub fn judge_http(
        &self,
        admission: &Admission,
        request: &HttpRequest,
        analysis: &Analysis,
        read: BodyRead,
    ) -> HttpJudgement {
        let judged = |judgement| HttpJudgement::Judged { judgement, uninspected: false };
        let policy = match self.current(admission) {
            Ok(policy) => policy,
            Err(denial) => return judged(Judgement::Deny(denial)),
        };
        let who = admission.subject.who(now_ms());
        let connection = &admission.connection.name;
        let asked = HttpOperation { connection, request, analysis, unread: UnreadBody::Doubted };
        let wanted = match read {
            BodyRead::Whole => false,
            BodyRead::NotYet | BodyRead::Impossible => {
                depends_on_body(request) || policy.asks_for_body(&asked, who)
            }
        };
        match (wanted, read) {
            (true, BodyRead::NotYet) => return HttpJudgement::ReadBody,
            (true, BodyRead::Impossible) => {}
            (true | false, _) => {
                return judged(self.judgement(&policy, policy.decide_http(&asked, who), analysis));
            }
        }
        let passed = HttpOperation { unread: UnreadBody::Passed, ..asked };
        let passed = || policy.decide_http(&passed, who);
        let doubted = || policy.decide_http(&asked, who);
        let (verdict, uninspected) = match policy.defaults.uninspected {
            Uninspected::Allow => (passed(), true),
            Uninspected::Deny => (doubted().or_stricter(unread_body(&policy)), false),
            // A human looks instead of the rule that cannot: its deny for doubt alone would leave nothing to decide.
            Uninspected::Hold => match doubted() {
                Verdict::Deny { .. } => (passed().or_stricter(unread_body(&policy)), false),
                verdict @ (Verdict::Hold { .. } | Verdict::Allow { .. }) => {
                    (verdict.or_stricter(unread_body(&policy)), false)
                }
            },
        };
        HttpJudgement::Judged { judgement: self.judgement(&policy, verdict, analysis), uninspected }
    }

    fn judgement(&self, policy: &Policy, verdict: Verdict, analysis: &Analysis) -> Judgement {
        policy.count(&verdict, analysis.effect, now_ms());
        let durability = policy.record.durability(analysis.effect);
        match verdict {
            Verdict::Allow { rule, shadow, .. } => {
                let obligations = Obligations { shadow, ..Obligations::default() }.some();
                Judgement::Permit(Permit { rule, approval: None, durability, obligations })
            }
            Verdict::Deny { rule, reason, hint } => {
                Judgement::Deny(Denial { rule, reason, hint, side: Side::Policy, approval: None })
            }
            Verdict::Hold { rule, terms, .. } => {
                let policy_version = policy.version.clone();
                let obligations = None;
                Judgement::Hold(Hold { rule, terms, policy_version, locks: false, durability, obligations })
            }
        }
    }
}

/// What the policy says of a body that cannot be looked into.
fn unread_body(policy: &Policy) -> Option<Verdict> {
    let rule = "uninspected body".to_owned();
    let deny = || Verdict::Deny {
        rule: rule.clone(),
        reason: "a rule looks into the body, and this body is too long or in an unknown coding".to_owned(),
        hint: Some("send a shorter body, without Content-Encoding".to_owned()),
    };
    match policy.defaults.uninspected {
        Uninspected::Allow => None,
        Uninspected::Deny => Some(deny()),
        Uninspected::Hold => match policy.unknown_terms() {
            Some(terms) => Some(Verdict::Hold { rule, terms, limits: Limits::default() }),
            None => Some(deny()),
        },
    }
}

#[cfg(test)]
mod tests;
