//! Judging SSH operations.

use super::{Admission, Denial, Gate, Hold, Judgement, Obligations, Permit};
use crate::flow::Side;
use crate::policy::{SshAsked, Verdict};
use crate::request::ssh::SshOperation;
use crate::run::now_ms;

impl Gate {
    /// Judges one operation of an admitted flow, by the policy in force now. `user` is the account on the server.
    pub fn judge_ssh(&self, admission: &Admission, user: &str, operation: &SshOperation) -> Judgement {
        let policy = match self.current(admission) {
            Ok(policy) => policy,
            Err(denial) => return Judgement::Deny(denial),
        };
        let current = policy.connections.iter().find(|known| known.name == admission.connection.name);
        let asked = SshAsked {
            connection: &admission.connection.name,
            rules: current.map_or(&admission.connection.ssh, |connection| &connection.ssh),
            user,
            operation,
        };
        let durability = policy.record.durability(operation.effect);
        let now = now_ms();
        let verdict = policy.decide_ssh(&asked, admission.subject.who(now));
        policy.count(&verdict, operation.effect, now);
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
