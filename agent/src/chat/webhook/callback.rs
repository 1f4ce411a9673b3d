//! A person's answer that comes back through the receiver. The receiver's signature says that it came from there; the
//! person's ID token says who they are, so that the receiver cannot make persons up.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::super::now;
use super::super::once::NotOnce;
use super::signed::SKEW_MAX;
use super::{Answer, Webhook, millis};
use crate::approval::{Answer as Word, Decision, Digest, Entry, Outcome};
use crate::flow::{ApprovalId, Side};
use crate::run::Identity;
use crate::signin::{Provider, reviewer};

/// What a callback says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Called {
    approval: ApprovalId,
    /// Of what the person was shown.
    digest: Digest,
    answer: Word,
    #[serde(default)]
    reason: String,
    /// Theirs, for the page's client.
    id_token: Zeroizing<String>,
}

/// Why nothing was decided.
struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// Problem details (RFC 9457 section 3.1): the type is the status itself.
    fn answer(self) -> Answer {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail,
        });
        Answer { status: self.status, body }
    }
}

/// Verifies and decides.
pub(super) async fn answer(webhook: &Webhook, headers: &HeaderMap, body: &[u8]) -> Answer {
    let id = match delivered(webhook, headers, body).await {
        Ok(id) => id,
        Err(problem) => return problem.answer(),
    };
    match decided(webhook, body).await {
        Ok(entry) => Answer { status: StatusCode::OK, body: state(&entry) },
        Err(problem) => {
            tracing::warn!(delivery = id, status = %problem.status, detail = problem.detail, "a webhook decided nothing");
            // A sender tries again what failed by us or the provider, by the same id.
            if problem.status.is_server_error() {
                webhook.once.forget(&delivery(id));
            }
            problem.answer()
        }
    }
}

/// The id of a message that the receiver has signed, and that has not come before.
async fn delivered<'h>(webhook: &Webhook, headers: &'h HeaderMap, body: &[u8]) -> Result<&'h str, Problem> {
    let key = webhook.key().await.map_err(|error| {
        tracing::error!(%error, "webhooks cannot be verified");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "signatures cannot be verified; the daemon's log says why",
        )
    })?;
    let id = key.verify(headers, body, now()).map_err(|error| {
        tracing::warn!(%error, "a webhook was refused");
        Problem::new(StatusCode::UNAUTHORIZED, error.to_string())
    })?;
    webhook.once.first(&delivery(id), 2 * SKEW_MAX).map_err(once)?;
    Ok(id)
}

fn delivery(id: &str) -> String {
    format!("delivery {id}")
}

fn once(not: NotOnce) -> Problem {
    match not {
        NotOnce::Again => {
            Problem::new(StatusCode::CONFLICT, "this delivery or ID token has come before; each counts once")
        }
        NotOnce::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many deliveries lately"),
    }
}

async fn decided(webhook: &Webhook, body: &[u8]) -> Result<Arc<Entry>, Problem> {
    let called: Called = serde_json::from_slice(body).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "not {approval, digest, answer: approve or deny, reason, id_token} as JSON",
        )
    })?;
    let identity = person(webhook, &called.id_token).await?;
    let Some(entry) = webhook.approvals.get(called.approval) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no such request"));
    };
    if !webhook.words.decidable(&entry.request) {
        let page = webhook.words.page(&entry);
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!("this is decided on the page alone: {page}"),
        ));
    }
    // A token is one person's word once: the receiver cannot go on in their name.
    let lasts = Duration::from_millis(identity.expires_ms.saturating_sub(millis(now())));
    webhook.once.first(&token(&identity), lasts).map_err(once)?;
    let (approvals, who) = (Arc::clone(&webhook.approvals), reviewer(identity));
    let decision = Decision::plain(called.answer, called.reason);
    // The disk may have to be waited for.
    let done =
        tokio::task::spawn_blocking(move || approvals.decide(called.approval, called.digest, who, decision));
    match done.await {
        Ok(Ok(entry)) => Ok(entry),
        Ok(Err(error)) => {
            let status = match error.side() {
                Side::Policy => StatusCode::FORBIDDEN,
                Side::Portcullis => StatusCode::INTERNAL_SERVER_ERROR,
                Side::Client | Side::Upstream => StatusCode::CONFLICT,
            };
            Err(Problem::new(status, error.to_string()))
        }
        Err(error) => {
            tracing::error!(%error, "a decision by webhook broke");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this broke; the daemon's log says why"))
        }
    }
}

/// What a token is remembered by: what it says, for its signature could be written in more than one way.
fn token(identity: &Identity) -> String {
    let said = Sha256::digest(Value::Object(identity.claims.clone()).to_string());
    said.iter().fold("token ".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Whom the token speaks of, who has proved lately enough who they are.
async fn person(webhook: &Webhook, token: &str) -> Result<Identity, Problem> {
    let verified = webhook.issuers.verify(&webhook.rules, token, now()).await;
    let identity = verified.map_err(|error| {
        let status = match error.side() {
            Side::Upstream => StatusCode::BAD_GATEWAY,
            Side::Client | Side::Policy | Side::Portcullis => StatusCode::FORBIDDEN,
        };
        Problem::new(status, format!("the ID token does not count: {error}"))
    })?;
    match Provider::age(&identity, webhook.step_up) {
        Ok(_) => Ok(identity),
        Err(error) => Err(Problem::new(StatusCode::FORBIDDEN, format!("to decide, sign in again: {error}"))),
    }
}

fn state(entry: &Entry) -> Value {
    let state = match &entry.outcome {
        None => "waiting",
        Some(Outcome::Approved { .. }) => "approved",
        Some(Outcome::Denied { .. }) => "denied",
        Some(Outcome::Expired) => "expired",
        Some(Outcome::Withdrawn) => "withdrawn",
    };
    json!({
        "approval": entry.id, "state": state, "approvals": entry.votes.len(), "quorum": entry.request.quorum,
    })
}
