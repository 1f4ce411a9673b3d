//! Tokens that clients bring themselves, for runs that have none: verified as runs' tokens are, and then the gate decides.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Relay;
use super::stop::Kill;
use crate::flow::{SessionId, Side};
use crate::gate::{Admission, Admitted, Denial, Unidentified};
use crate::policy::Policy;
use crate::policy::rule::OnExpiry;
use crate::run::{Subject, now_ms};

/// Why a connection is not opened for whoever its client says.
#[derive(Clone, Debug)]
pub(super) enum NotOpened {
    /// Its token does not count, or there is none; another may.
    Token(Denial),
    /// The token counts, and this subject of it may not go there.
    Denied(Denial, Box<Subject>),
}

impl NotOpened {
    /// What is recorded, and what the client is told.
    pub(super) fn denial(&self) -> &Denial {
        match self {
            Self::Token(denial) | Self::Denied(denial, _) => denial,
        }
    }
}

/// Admits a flow for whom this token speaks of, by the policy as it is now.
///
/// # Errors
/// When it does not count, or the policy does not let them.
pub(super) async fn identify(
    relay: &Relay,
    unidentified: &Unidentified,
    token: &[u8],
) -> Result<Box<Admission>, NotOpened> {
    let policy = relay.gate.policy_for(unidentified);
    let policy = policy.as_deref().unwrap_or(unidentified.policy());
    let refused = |side, reason: String| NotOpened::Token(Denial::new(side, reason, bring(policy)));
    let text =
        std::str::from_utf8(token).map_err(|_| refused(Side::Client, "this is no token".to_owned()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let identity = relay.issuers.verify(&policy.identity, text, now).await;
    let identity = identity.map_err(|error| refused(error.side(), error.to_string()))?;
    let (runs, run, brought) = (Arc::clone(&relay.runs), unidentified.run().id, identity.clone());
    // Waits while a withdrawal is written down.
    let noted = tokio::task::spawn_blocking(move || runs.brought(run, &brought)).await;
    match noted {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(refused(error.side(), error.to_string())),
        Err(error) => return Err(refused(Side::Portcullis, error.to_string())),
    }
    let whom = unidentified.subject().clone().with(Some(Arc::new(identity.clone())));
    match relay.gate.identify(unidentified, identity).await {
        Admitted::Yes(admission) if admission.policy().version == policy.version => Ok(admission),
        // Verified by one version, admitted by the next.
        Admitted::Yes(_) => Err(refused(Side::Policy, "the policy changed in this moment".to_owned())),
        Admitted::No(denial) => Err(NotOpened::Denied(denial, Box::new(whom))),
        Admitted::Asks(_) => Err(refused(Side::Policy, "the policy asks for a token once more".to_owned())),
    }
}

/// A client that brings no token.
pub(super) fn no_token(unidentified: &Unidentified) -> NotOpened {
    let policy = unidentified.policy();
    let reason = format!(
        "policy `{}` is for runs with a token, this run has none, and its client brings none",
        policy.name
    );
    NotOpened::Token(Denial::new(Side::Client, reason, bring(policy)))
}

/// What the client has to do.
fn bring(policy: &Policy) -> String {
    let rules = policy.identity.iter().filter(|rules| rules.in_band);
    let whose = rules.map(|rules| format!("{} for the audience \"{}\"", rules.issuer, rules.audience));
    let whose: Vec<String> = whose.collect();
    format!("bring an ID token of {}", whose.join(", or of "))
}

/// Ends the session once its own token has expired, where the policy cuts what runs then.
pub(super) async fn cut_at_expiry(relay: &Relay, admission: &Admission, session: SessionId) {
    let identity = admission.subject().identity.as_ref();
    let rules = admission.policy().identity.iter();
    let cuts =
        |issuer: &str| rules.clone().any(|rules| rules.issuer == issuer && rules.on_expiry == OnExpiry::Cut);
    match identity {
        Some(identity) if cuts(&identity.issuer) => {
            tokio::time::sleep(Duration::from_millis(identity.expires_ms.saturating_sub(now_ms()))).await;
            let reason = "the token of this connection has expired".to_owned();
            // It may have ended by itself.
            drop(relay.live.kill(&session.to_string(), Kill { by: None, reason }));
        }
        Some(_) | None => std::future::pending().await,
    }
}
