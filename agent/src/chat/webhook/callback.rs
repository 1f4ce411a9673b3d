//! A person's answer that comes back through the receiver. The receiver's signature says that it came from there; the
//! person's ID token says who they are, so that the receiver cannot make persons up.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::super::now;
use super::super::once::NotOnce;
use super::signed::{Key, SKEW_MAX, Signed, Unsigned};
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
    let refused = |error: Unsigned| {
        tracing::debug!(%error, "a webhook was refused");
        Problem::new(StatusCode::UNAUTHORIZED, error.to_string())
    };
    // Before anything is done for it: anybody may send such.
    let signed = Signed::of(headers, now()).map_err(refused)?;
    let secret = webhook.inbound.secret().await;
    let key = secret.and_then(|secret| Key::parse(std::str::from_utf8(secret.expose()).ok()?));
    let key = key.ok_or_else(|| {
        let why = "signatures cannot be verified; the daemon's log says why";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
    })?;
    let id = key.verify(&signed, body).map_err(refused)?;
    let again = "this delivery has come before; each counts once";
    webhook.once.first(&delivery(id), 2 * SKEW_MAX).map_err(|not| once(not, again))?;
    Ok(id)
}

fn delivery(id: &str) -> String {
    format!("delivery {id}")
}

fn once(not: NotOnce, again: &str) -> Problem {
    match not {
        NotOnce::Again => Problem::new(StatusCode::CONFLICT, again),
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
    let nonce = identity.claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
    let expected = nonce_of(called.approval, &called.digest, called.answer);
    if !bool::from(nonce.as_bytes().ct_eq(expected.as_bytes())) {
        let why = "the ID token was asked for another purpose: its nonce is not this decision's";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
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
    let word = token(&identity);
    webhook
        .once
        .first(&word, lasts)
        .map_err(|not| once(not, "this ID token has come before; each counts for one decision"))?;
    let (approvals, who) = (Arc::clone(&webhook.approvals), reviewer(identity));
    let decision = Decision::plain(called.answer, called.reason);
    // The disk may have to be waited for.
    let done =
        tokio::task::spawn_blocking(move || approvals.decide(called.approval, called.digest, who, decision));
    match done.await {
        Ok(Ok(entry)) => Ok(entry),
        Ok(Err(error)) => {
            if error.side() == Side::Portcullis {
                // Nothing was decided, and not by their fault: they may say it again.
                webhook.once.forget(&word);
            }
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

/// What the nonce of a decision's ID token has to be: whoever signed in did so for this request and this answer, and the receiver can
/// put their word to no other use. SHA-256 over three lines, in base64url without padding.
pub(super) fn nonce_of(approval: ApprovalId, digest: &Digest, answer: Word) -> String {
    let answer = match answer {
        Word::Approve => "approve",
        Word::Deny => "deny",
    };
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{approval}\n{digest}\n{answer}")))
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
