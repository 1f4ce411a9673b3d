//! The one place where permission is made. An `Admission` opens a connection, a `Permit` lets one operation pass;
//! neither can be built anywhere else, and what dials or forwards asks for one.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::approval::Approvals;
use crate::flow::{Flow, RunId, Side};
use crate::mask::Dependence;
use crate::mask::plan::Taint;
use crate::policy::decide::PostgresOperation;
use crate::policy::rule::{Durability, InTransaction, Limits, PolicyVersion, Shadow};
use crate::policy::{Connection, DEFAULT_RULE, Policy, PolicySet, Verdict};
use crate::record::event::{ApprovalOutcome, ApprovalRecord, ShadowRecord};
use crate::request::sql::Analysis;
use crate::run::{RunInfo, Subject, now_ms};

use self::budget::Budgets;

mod admit;
mod budget;
mod bypass;
mod given;
mod hold;
mod http;
mod in_band;
mod names;
mod own;
mod question;
mod settings;
mod ssh;
mod standing;
mod through;

#[cfg(test)]
mod tests;

pub use budget::Charged;
pub use bypass::is_resolver_name;
pub use given::GivenNames;
pub use hold::{Held, Hold, withdrawal};
pub use http::{BodyRead, HttpJudgement};
pub use in_band::Unidentified;
pub use names::{Addresses, HostNames, Lookup};
pub use own::is_of_this_host;
pub use question::NamePermit;
pub use through::Through;

/// Name given to the profile of a destination that no connection names, under `egress = "record"`.
pub const UNNAMED_CONNECTION: &str = "(unnamed)";

/// Decides, from the policies in force and from humans.
pub struct Gate {
    policies: Arc<PolicySet>,
    approvals: Arc<Approvals>,
    names: HostNames,
    given: GivenNames,
    budgets: Arc<Budgets>,
    page: Option<SocketAddr>,
}

/// A flow may be connected to its target. Needed by `upstream::dial`.
#[derive(Clone, Debug)]
pub struct Admission {
    flow: Arc<Flow>,
    run: Arc<RunInfo>,
    subject: Subject,
    policy: Arc<Policy>,
    connection: Arc<Connection>,
    host: Option<Arc<str>>,
    through: Option<Arc<Through>>,
}

/// Whether a flow may be connected.
#[derive(Debug)]
#[must_use]
pub enum Admitted {
    /// To this target.
    Yes(Box<Admission>),
    /// It is decided once its client has brought a token.
    Asks(Box<Unidentified>),
    /// No.
    No(Denial),
}

/// Why something may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Rule that decided; `default` when none did.
    pub rule: String,
    /// For the client: what was refused and why, in one sentence without a full stop.
    pub reason: String,
    /// For the client: what to do instead.
    pub hint: Option<String>,
    /// Whose doing it was.
    pub side: Side,
    /// The human's decision, when there was one.
    pub approval: Option<Box<ApprovalRecord>>,
}

impl Denial {
    /// A denial that no rule of the policy made.
    #[must_use]
    pub fn new(side: Side, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        Self { rule: DEFAULT_RULE.to_owned(), reason: reason.into(), hint, side, approval: None }
    }

    /// Rule and approval, for the client's detail field.
    #[must_use]
    pub fn detail(&self) -> String {
        match &self.approval {
            Some(approval) => format!("Rule: {}. Approval: {}.", self.rule, approval.id.code()),
            None => format!("Rule: {}.", self.rule),
        }
    }

    /// Whether nobody has decided yet, and the client may come again for the answer.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.approval.as_ref().is_some_and(|approval| approval.outcome == ApprovalOutcome::Deferred)
    }
}

/// One operation may pass, once. Cannot be copied or made outside this module.
#[derive(Debug)]
pub struct Permit {
    rule: String,
    approval: Option<Approval>,
    durability: Durability,
    obligations: Option<Box<Obligations>>,
}

/// What goes with a permit beside its rule.
#[derive(Debug, Default)]
struct Obligations {
    limits: Limits,
    charged: Charged,
    shadow: Option<Shadow>,
}

/// What makes a permit of a hold.
#[derive(Debug)]
struct Approval {
    record: ApprovalRecord,
    policy_version: PolicyVersion,
}

impl Obligations {
    /// Most permits have none, and cost nothing for it.
    fn some(self) -> Option<Box<Self>> {
        let none = self.limits == Limits::default() && self.charged.is_empty() && self.shadow.is_none();
        (!none).then(|| Box::new(self))
    }
}

impl Permit {
    /// Rule that allowed or held it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The human's decision, when the rule asked for one.
    #[must_use]
    pub fn approval(&self) -> Option<&ApprovalRecord> {
        self.approval.as_ref().map(|approval| &approval.record)
    }

    /// Whether its intent must be on stable storage before it is forwarded; otherwise written is enough.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.durability == Durability::Synced
    }

    /// What must have become of its intent before it is forwarded.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// What it is held to while it runs.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.obligations.as_ref().map_or_else(Limits::default, |obligations| obligations.limits)
    }

    /// The budgets that it counts for.
    #[must_use]
    pub fn charged(&self) -> Charged {
        self.obligations.as_ref().map(|obligations| obligations.charged.clone()).unwrap_or_default()
    }

    /// What a rule that is only tried out would have done with it.
    #[must_use]
    pub fn shadow(&self) -> Option<ShadowRecord> {
        let shadow = self.obligations.as_ref()?.shadow.as_ref()?;
        Some(ShadowRecord { rule: shadow.rule.clone(), verdict: shadow.verdict.participle().to_owned() })
    }
}

/// What the gate says of one operation.
#[derive(Debug)]
#[must_use]
pub enum Judgement {
    /// Refuse it.
    Deny(Denial),
    /// A rule depends on the planner's estimate: ask, then judge again.
    Estimate,
    /// A human must decide.
    Hold(Hold),
    /// Let it pass.
    Permit(Permit),
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Database it goes to.
    pub database: &'a str,
    /// What it was understood to be.
    pub analysis: &'a Analysis,
    /// The planner's estimates by statement; `None` before it was asked.
    pub estimates: Option<&'a [Option<u64>]>,
    /// What it may do with masked data.
    pub taint: Taint,
    /// The masked columns that its result depends on, where the masks do not let it.
    pub dependence: Option<&'a Dependence>,
    /// An open transaction may hold locks.
    pub locks: bool,
    /// Schemas that unqualified names are looked up in; `None` when that is not certain.
    pub search_path: Option<&'a [String]>,
}

impl Gate {
    /// A gate over these policies.
    #[must_use]
    pub fn new(policies: Arc<PolicySet>, approvals: Arc<Approvals>) -> Self {
        Self {
            policies,
            approvals,
            names: HostNames::default(),
            given: GivenNames::default(),
            budgets: Arc::default(),
            page: None,
        }
    }

    /// The same, with these as the host names' addresses.
    #[must_use]
    pub fn with_names(self, names: HostNames) -> Self {
        Self { names, ..self }
    }

    /// The same, with the approvals page listening here: nobody is admitted to it.
    #[must_use]
    pub fn with_page(self, page: Option<SocketAddr>) -> Self {
        Self { page, ..self }
    }

    /// Which names runs were told addresses for.
    #[must_use]
    pub fn given(&self) -> &GivenNames {
        &self.given
    }

    /// Forgets what was kept of the runs that `is_over` says have ended.
    pub fn forget(&self, is_over: impl Fn(RunId) -> bool) {
        self.given.forget(&is_over);
        self.budgets.forget(is_over);
    }

    /// What the host names of connections stand for.
    #[must_use]
    pub fn names(&self) -> &HostNames {
        &self.names
    }

    /// Judges one operation of an admitted flow, by the policy in force now.
    pub fn judge(&self, admission: &Admission, operation: &Operation<'_>) -> Judgement {
        self.weigh(admission, operation, |_| true)
    }

    /// The same; `counts` says which verdicts are the last word on the operation.
    fn weigh(
        &self,
        admission: &Admission,
        operation: &Operation<'_>,
        counts: impl Fn(&Verdict) -> bool,
    ) -> Judgement {
        let policy = match self.current(admission) {
            Ok(policy) => policy,
            Err(denial) => return Judgement::Deny(denial),
        };
        let now = now_ms();
        let who = admission.subject.who(now);
        let used = self.budgets.used(admission.run.id, &policy, now);
        let asked = PostgresOperation {
            connection: &admission.connection.name,
            database: operation.database,
            statements: &operation.analysis.statements,
            effect: operation.analysis.effect,
            search_path: operation.search_path,
            estimates: operation.estimates.unwrap_or_default(),
            used: &used,
        };
        if let Some(denial) = settings::changed(&admission.connection.upstream.settings, operation.analysis) {
            return Judgement::Deny(denial);
        }
        if operation.estimates.is_none() && !policy.needs_estimate(&asked, who).is_empty() {
            return Judgement::Estimate;
        }
        let durability = policy.record.durability(operation.analysis.effect);
        let masked = policy.on_masked_data(operation.taint);
        let verdict = policy.decide(&asked, who).or_stricter(masked);
        let verdict = verdict.and_dependence(&policy, operation.dependence);
        if counts(&verdict) {
            policy.count(&verdict, operation.analysis.effect, now);
        }
        let charged = || self.budgets.charged(admission.run.id, &policy, &policy.budgets_of(&asked, who));
        match verdict {
            Verdict::Allow { rule, limits, shadow } => {
                let obligations = Obligations { limits, charged: charged(), shadow }.some();
                Judgement::Permit(Permit { rule, approval: None, durability, obligations })
            }
            Verdict::Deny { rule, reason, hint } => {
                Judgement::Deny(Denial { rule, reason, hint, side: Side::Policy, approval: None })
            }
            Verdict::Hold { rule, terms, .. }
                if operation.locks && terms.in_transaction == InTransaction::Refuse =>
            {
                Judgement::Deny(hold_in_transaction(rule))
            }
            Verdict::Hold { rule, terms, limits } => {
                let policy_version = policy.version.clone();
                let obligations = Obligations { limits, charged: charged(), shadow: None }.some();
                Judgement::Hold(Hold {
                    rule,
                    terms,
                    policy_version,
                    locks: operation.locks,
                    durability,
                    obligations,
                })
            }
        }
    }

    /// A statement may be prepared: nothing runs before it is bound, and binding is judged with the parameters.
    ///
    /// # Errors
    /// When no parameters could make it pass.
    pub fn prepare(&self, admission: &Admission, operation: &Operation<'_>) -> Result<Permit, Denial> {
        // What may pass is judged, and counted, when it is bound.
        let refuses = |verdict: &Verdict| matches!(verdict, Verdict::Deny { .. });
        match self.weigh(admission, &Operation { locks: false, ..*operation }, refuses) {
            Judgement::Deny(denial) => Err(denial),
            Judgement::Estimate | Judgement::Hold(_) => {
                let obligations = None;
                Ok(Permit {
                    rule: DEFAULT_RULE.to_owned(),
                    approval: None,
                    durability: Durability::Written,
                    obligations,
                })
            }
            Judgement::Permit(permit) => Ok(permit),
        }
    }

    /// Whether an approval still counts when it is used: the reviewer decided under one version of the policy, and
    /// what a later one says of the operation nobody has looked at.
    ///
    /// # Errors
    /// When the policy changed, or does not let the flow use its connection any more.
    pub fn redeem(&self, admission: &Admission, permit: Permit) -> Result<Permit, Denial> {
        let Some(approval) = &permit.approval else { return Ok(permit) };
        let refused = match self.current(admission) {
            Ok(policy) if policy.version == approval.policy_version => return Ok(permit),
            Ok(_) => Denial::new(
                Side::Policy,
                "the policy changed while this waited, so its approval does not count",
                "send it again to have it judged by the policy as it is now",
            ),
            Err(denial) => denial,
        };
        Err(Denial { rule: permit.rule, approval: Some(Box::new(approval.record.clone())), ..refused })
    }

    /// The policy in force by the name of the one a flow was admitted under; `None` when it is gone or broken.
    #[must_use]
    pub fn policy(&self, admission: &Admission) -> Option<Arc<Policy>> {
        self.policies.get(&admission.run.policy)
    }
}

impl Admission {
    /// The admitted flow.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The run it belongs to.
    #[must_use]
    pub fn run(&self) -> &RunInfo {
        &self.run
    }

    /// Whom it acts for.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The policy it was admitted under.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The connection profile it may use.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The host name of its destination (lower case, no final dot): the one the run was told this address for, the
    /// connection's own before any other and then the latest; else that of the connection's `to` which matched.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The proxy it goes by, when its client was set up for one.
    #[must_use]
    pub fn through(&self) -> Option<&Arc<Through>> {
        self.through.as_ref()
    }
}

fn hold_in_transaction(rule: String) -> Denial {
    Denial {
        rule,
        reason: "this needs an approval, and the open transaction would keep its locks while a human decides"
            .to_owned(),
        hint: Some(
            "send it outside a transaction (autocommit), or as the transaction's first statement".to_owned(),
        ),
        side: Side::Policy,
        approval: None,
    }
}
