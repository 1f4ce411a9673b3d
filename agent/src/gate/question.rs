//! Whether a run may have a name resolved: only names that some connection or egress rule could allow it to reach.

use crate::policy::rule::{Destination, Egress};
use crate::policy::{Connection, DEFAULT_RULE, Policy};
use crate::request::Effect;
use crate::run::{RunInfo, Subject};

use super::admit::{for_others, policy_missing};
use super::standing::{self, Whose};
use super::{Denial, Gate, Side, bypass};

/// A name may be asked for, once. Made here only.
#[derive(Debug)]
pub struct NamePermit {
    rule: String,
    durable: bool,
}

impl NamePermit {
    /// The connection that names the host; `default` under `egress = "record"`.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Whether the question must be on stable storage before it is asked of anyone.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.durable
    }
}

impl Gate {
    /// Whether a run may ask for the addresses of `name` (lower case, no final dot), by the policy in force now.
    ///
    /// # Errors
    /// When it may not.
    pub fn may_resolve(&self, run: &RunInfo, subject: &Subject, name: &str) -> Result<NamePermit, Denial> {
        let policy = self.policies.get(&run.policy).ok_or_else(|| policy_missing(run))?;
        let who = standing::check(run, &policy)?.subject(&policy, subject)?;
        let durable = policy.record.durable.contains(&Effect::Read);
        let named = || policy.connections.iter().filter(|connection| names(connection, name));
        if let Some(connection) = named().find(|connection| who.may_use(connection, subject)) {
            return Ok(NamePermit { rule: connection.name.clone(), durable });
        }
        if named().next().is_some() {
            return Err(for_others(named(), &policy));
        }
        match policy.egress {
            Egress::Deny => Err(unnamed_host(name, &policy)),
            Egress::Record if bypass::is_resolver_name(name) => Err(around_the_resolver(name)),
            Egress::Record if who == Whose::ItsClientsToSay => Err(standing::no_token(&policy)),
            Egress::Record => Ok(NamePermit { rule: DEFAULT_RULE.to_owned(), durable }),
        }
    }

    /// Whether a run may speak TLS to this server at a destination that no connection names.
    ///
    /// # Errors
    /// When the name is that of a well-known resolver, which would be a way around this host's.
    pub fn may_greet(name: &str) -> Result<(), Denial> {
        if bypass::is_resolver_name(name) { Err(around_the_resolver(name)) } else { Ok(()) }
    }
}

/// Whether a connection names this host in `to`, at whatever port.
fn names(connection: &Connection, wanted: &str) -> bool {
    connection.to.iter().any(|to| match to {
        Destination::Host { name, .. } => name == wanted,
        Destination::Network { .. } => false,
    })
}

fn unnamed_host(name: &str, policy: &Policy) -> Denial {
    Denial::new(
        Side::Policy,
        format!("no connection of policy `{}` names the host {name}", policy.name),
        "ask the operator to add a [[connection]] for it",
    )
}

/// Of a destination or host that would resolve names unseen.
pub(super) fn around_the_resolver(what: &str) -> Denial {
    Denial::new(
        Side::Policy,
        format!("{what} is a way around this host's resolver"),
        "use the host's resolver; or ask the operator for a [[connection]] that names it",
    )
}
