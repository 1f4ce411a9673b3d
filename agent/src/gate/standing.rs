//! Whether a run still stands: its token is one that the policy takes, has not expired, and nobody withdrew the run.

use std::sync::Arc;

use serde_json::Value;

use crate::flow::Side;
use crate::policy::rule::{ClaimPath, IssuerRules};
use crate::policy::{Connection, Policy};
use crate::run::{Identity, Lapsed, RunInfo, Subject, Withdrawal, now_ms};

use super::admit::may_use;
use super::{Admission, Denial};

/// Whom a run's connections act for.
pub(super) enum Bound {
    /// For whom the run's token speaks of; for whom the kernel names where the policy asks for no token.
    ToTheRun,
    /// For whom each client's own token speaks of.
    ToClients,
}

/// Whether it is known yet whom a flow acts for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// It is.
    Known,
    /// Only once its client has brought a token.
    ItsClientsToSay,
}

/// Whether anything new may begin in a run.
pub(super) fn check(run: &RunInfo, policy: &Policy) -> Result<Bound, Denial> {
    let identity = run.standing.check(now_ms()).map_err(|lapsed| lapsed_run(&lapsed))?;
    match identity {
        _ if policy.identity.is_empty() => Ok(Bound::ToTheRun),
        Some(identity) => taken(policy, &identity, |_| true).map(|()| Bound::ToTheRun),
        None if policy.identity.iter().any(|rules| rules.in_band) => Ok(Bound::ToClients),
        None => Err(no_token(policy)),
    }
}

impl Bound {
    /// Whether it is known that a flow acts for this subject.
    ///
    /// # Errors
    /// When the token that its client brought does not count.
    pub(super) fn subject(self, policy: &Policy, subject: &Subject) -> Result<Whose, Denial> {
        match (self, &subject.identity) {
            (Self::ToTheRun, _) => Ok(Whose::Known),
            (Self::ToClients, None) => Ok(Whose::ItsClientsToSay),
            (Self::ToClients, Some(identity)) => own_token(policy, identity).map(|()| Whose::Known),
        }
    }
}

impl Whose {
    /// Whether a connection's groups and claims let them use it, as far as is known.
    pub(super) fn may_use(self, connection: &Connection, subject: &Subject) -> bool {
        match self {
            Self::Known => may_use(connection, subject),
            Self::ItsClientsToSay => true,
        }
    }
}

/// Whether a token that a client brought counts, now.
fn own_token(policy: &Policy, identity: &Arc<Identity>) -> Result<(), Denial> {
    if identity.expires_ms <= now_ms() {
        return Err(Denial::new(
            Side::Client,
            format!("the token of this connection ({}) has expired", identity.shown()),
            "connect again with a new one",
        ));
    }
    taken(policy, identity, |rules| rules.in_band)
}

/// Whether the policy as it is now takes such a token.
fn taken(
    policy: &Policy,
    identity: &Identity,
    in_this_way: impl Fn(&IssuerRules) -> bool,
) -> Result<(), Denial> {
    let mut known = policy.identity.iter().filter(|rules| in_this_way(rules));
    match known.find(|rules| rules.issuer == identity.issuer) {
        None => Err(not_taken(policy, &format!("no such tokens of {}", identity.issuer))),
        Some(rules) if !is_for(identity, &rules.audience) => {
            Err(not_taken(policy, &format!("only tokens for the audience {}", rules.audience)))
        }
        Some(rules)
            if rules.groups_claim.as_ref().map(ClaimPath::as_str) != identity.groups_claim.as_deref() =>
        {
            Err(not_taken(policy, "groups from another claim than when this token was verified"))
        }
        Some(rules) => match rules.claims.unmet(&identity.claims) {
            Some(unmet) => Err(not_taken(policy, &format!("only tokens with {unmet}"))),
            None => Ok(()),
        },
    }
}

/// Whether an admitted flow may go on: as above, and its token still says what it was admitted for.
pub(super) fn goes_on(admission: &Admission, policy: &Policy) -> Result<(), Denial> {
    let run = &admission.run;
    let now = run.standing.check(now_ms()).map_err(|lapsed| lapsed_run(&lapsed))?;
    // What this version of the policy takes was seen when the flow was admitted; a token that means the same changes nothing.
    if policy.version != admission.policy.version {
        match check(run, policy)?.subject(policy, &admission.subject)? {
            Whose::Known => {}
            Whose::ItsClientsToSay => return Err(no_token(policy)),
        }
    }
    match (now, &admission.subject.identity) {
        (None, None) => Ok(()),
        (Some(now), Some(then)) if Arc::ptr_eq(&now, then) || now.means_the_same(then) => Ok(()),
        (Some(_), Some(_)) => Err(Denial::new(
            Side::Policy,
            "the run's token was renewed and says other groups or claims than when this connection was opened",
            "connect again",
        )),
        (None, Some(own)) => own_token(policy, own),
        (Some(_), None) => Err(Denial::new(
            Side::Policy,
            "this connection was opened before the run had its token",
            "connect again",
        )),
    }
}

/// Whether a token is for this audience: `aud` is a text or a list of them (RFC 7519 section 4.1.3).
fn is_for(identity: &Identity, audience: &str) -> bool {
    match identity.claims.get("aud") {
        Some(Value::String(only)) => only == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}

fn lapsed_run(lapsed: &Lapsed) -> Denial {
    match lapsed {
        Lapsed::Expired(identity) => Denial::new(
            Side::Client,
            format!("the token of this run ({}) has expired and was not renewed", identity.shown()),
            "renew the file that --token-file names, or start a new run",
        ),
        Lapsed::Withdrawn(Withdrawal { by, reason, .. }) => {
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            Denial::new(Side::Policy, format!("{by} withdrew this run{why}"), "")
        }
    }
}

pub(super) fn no_token(policy: &Policy) -> Denial {
    Denial::new(
        Side::Policy,
        format!("policy `{}` is for runs with a token, and this one has none", policy.name),
        "start it with `portcullis run --token-file FILE`",
    )
}

fn not_taken(policy: &Policy, what: &str) -> Denial {
    Denial::new(
        Side::Policy,
        format!("policy `{}` as it is now takes {what}", policy.name),
        "start a new run with such a token",
    )
}
