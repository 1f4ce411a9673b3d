//! Signing people in at an OpenID provider: in a browser, for the approvals page, or by the command line, for this host's
//! control socket.

use std::sync::Arc;

use crate::approval::{Proof, Reviewer};
use crate::run::{Identity, now_ms};

mod accounts;
mod device;
mod fields;
mod provider;

pub use accounts::{Account, AccountError, Accounts, Begun, Finished, LoginBy};
pub(crate) use fields::Fields;
pub(crate) use provider::{Ask, Provider, ProviderError, Secrets, rules};

/// A signed-in person, as approvals know them.
pub(crate) fn reviewer(identity: Identity) -> Reviewer {
    Reviewer {
        uid: None,
        user: identity.name.clone().unwrap_or_else(|| identity.subject.clone()),
        groups: identity.groups.clone(),
        pid: None,
        login_uid: None,
        login_user: None,
        account: None,
        proof: Some(proof(&identity)),
        identity: Some(Arc::new(identity)),
    }
}

/// How they signed in. What is said to have been later than now was now.
fn proof(identity: &Identity) -> Proof {
    let at = identity.claims.get("auth_time").and_then(serde_json::Value::as_u64);
    let acr = identity.claims.get("acr").and_then(serde_json::Value::as_str);
    Proof {
        auth_time_ms: at.map(|seconds| seconds.saturating_mul(1000).min(now_ms())),
        acr: acr.map(str::to_owned),
    }
}
