//! Whether a run still stands: its token is one that the policy takes, has not expired, and nobody withdrew the run.

use std::sync::Arc;

use crate::flow::Side;
use crate::policy::Policy;
use crate::run::{Identity, Lapsed, RunInfo, Withdrawal, now_ms};

use super::{Admission, Denial};

/// Whether anything new may begin in a run.
pub(super) fn check(run: &RunInfo, policy: &Policy) -> Result<Option<Arc<Identity>>, Denial> {
    let identity = run.standing.check(now_ms()).map_err(|lapsed| lapsed_run(&lapsed))?;
    if policy.identity.is_empty() {
        return Ok(identity);
    }
    let Some(identity) = identity else { return Err(no_token(policy)) };
    match policy.identity.iter().find(|rules| rules.issuer == identity.issuer) {
        None => Err(not_taken(policy, &format!("no tokens of {}", identity.issuer))),
        Some(rules) => match rules.claims.unmet(&identity.claims) {
            Some(unmet) => Err(not_taken(policy, &format!("only tokens with {unmet}"))),
            None => Ok(Some(identity)),
        },
    }
}

/// Whether an admitted flow may go on: as above, and its token still says what it was admitted for.
pub(super) fn goes_on(admission: &Admission, policy: &Policy) -> Result<(), Denial> {
    // What this version of the policy takes was seen when the flow was admitted; a token that means the same changes nothing.
    let now = match policy.version == admission.policy.version {
        true => admission.run.standing.check(now_ms()).map_err(|lapsed| lapsed_run(&lapsed))?,
        false => check(&admission.run, policy)?,
    };
    match (now, &admission.subject.identity) {
        (None, None) => Ok(()),
        (Some(now), Some(then)) if Arc::ptr_eq(&now, then) || now.means_the_same(then) => Ok(()),
        (Some(_), Some(_)) => Err(Denial::new(
            Side::Policy,
            "the run's token was renewed and says other groups or claims than when this connection was opened",
            "connect again",
        )),
        // In-band tokens belong to their connection alone.
        (None, Some(then)) if then.expires_ms > now_ms() => Ok(()),
        (None, Some(then)) => Err(lapsed_run(&Lapsed::Expired(Arc::clone(then)))),
        (Some(_), None) => Err(Denial::new(
            Side::Policy,
            "this connection was opened before the run had its token",
            "connect again",
        )),
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

fn no_token(policy: &Policy) -> Denial {
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
