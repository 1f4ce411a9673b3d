//! Any other system: webhooks out, and people's answers back, both signed with one secret
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::courier::SendError;
use super::inbound::Inbound;
use super::now;
use super::once::Once;
use super::shown::Words;
use crate::approval::{Answer as Word, Approvals, Entry, Outcome};
use crate::cli::text::moment;
use crate::config::chat::Webhook as Settings;
use crate::credential::{CredentialError, Credentials};
use crate::fetch::Fetch;
use crate::identity::Issuers;
use crate::policy::rule::IssuerRules;
use crate::request::ObjectName;

mod callback;
mod signed;
#[cfg(test)]
mod tests;

use signed::Key;

/// What a callback is answered with.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// What became of the request, or problem details (RFC 9457).
    pub body: Value,
}

/// One receiver.
pub struct Webhook {
    settings: Settings,
    words: Words,
    /// `[web] step_up`.
    step_up: Option<Duration>,
    credentials: Credentials,
    /// The secret, for what comes in.
    inbound: Inbound,
    fetch: Fetch,
    approvals: Arc<Approvals>,
    issuers: Arc<Issuers>,
    /// Whose ID tokens count: those for the page.
    rules: [IssuerRules; 1],
    /// Deliveries and tokens that have come.
    once: Once,
}

/// What a webhook has besides its settings.
pub(super) struct Parts {
    pub(super) words: Words,
    pub(super) step_up: Option<Duration>,
    pub(super) credentials: Credentials,
    pub(super) approvals: Arc<Approvals>,
    pub(super) issuers: Arc<Issuers>,
    pub(super) rules: IssuerRules,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("the credential of [chat.webhook] secret is not whsec_ and base64 of 24 to 64 bytes")]
    Malformed,
}

impl Webhook {
    pub(super) fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            inbound: Inbound::new(parts.credentials.clone(), settings.secret.clone()),
            fetch: Fetch::new(Arc::default(), settings.root_cert.clone()),
            settings,
            words: parts.words,
            step_up: parts.step_up,
            credentials: parts.credentials,
            approvals: parts.approvals,
            issuers: parts.issuers,
            rules: [parts.rules],
            once: Once::default(),
        })
    }

    /// Sends what has become of a request.
    pub(super) async fn tell(&self, entry: &Entry) -> Result<(), SendError> {
        let key = self.key().await.map_err(|error| SendError::later(error.to_string()))?;
        let (time, body) = (now().as_secs(), payload(&self.words, entry).to_string());
        // The same for every try of this message, so that its receiver can tell.
        let id = match &entry.outcome {
            None => format!("{}-{}", entry.id, entry.votes.len()),
            Some(_) => format!("{}-settled", entry.id),
        };
        let request = Request::post(&self.settings.url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", time.to_string())
            .header("webhook-signature", key.sign(&id, &time.to_string(), body.as_bytes()))
            .body(body.into_bytes())
            .map_err(|_| SendError::Refused("[chat.webhook] url is no address".to_owned()))?;
        let answer = self.fetch.send(request).await?;
        if answer.status().is_success() { Ok(()) } else { Err(SendError::status(&answer)) }
    }

    /// Takes a person's answer that the receiver passes on.
    pub async fn called(&self, headers: &HeaderMap, body: &[u8]) -> Answer {
        callback::answer(self, headers, body).await
    }

    async fn key(&self) -> Result<Key, KeyError> {
        let secret = self.credentials.named(&self.settings.secret).await?;
        let text = std::str::from_utf8(secret.expose()).map_err(|_| KeyError::Malformed)?;
        Key::parse(Zeroizing::new(text.to_owned()).as_str()).ok_or(KeyError::Malformed)
    }
}

/// One message: type, timestamp and data, as the specification proposes.
fn payload(words: &Words, entry: &Entry) -> Value {
    let (request, subject) = (&entry.request, &entry.request.subject);
    let mut data = json!({
        "approval": entry.id,
        "digest": entry.digest,
        "run": request.run,
        "policy": request.policy,
        "policy_version": request.policy_version,
        "rule": request.rule,
        "who": {
            "user": subject.user,
            "uid": subject.uid,
            "issuer": subject.identity.as_ref().map(|identity| &identity.issuer),
            "subject": subject.identity.as_ref().map(|identity| &identity.subject),
        },
        "connection": request.connection,
        "database": request.database,
        "effect": request.effect,
        "kinds": request.kinds,
        "objects": request.objects.iter().map(ObjectName::to_string).collect::<Vec<_>>(),
        "estimated_rows": request.estimated_rows,
        "approvers": request.approvers,
        "quorum": request.quorum,
        "approvals": entry.votes.iter().map(|vote| &vote.by.user).collect::<Vec<_>>(),
        "expires": moment(entry.expires_ms),
        "url": words.page(entry),
        "decide": entry.outcome.is_none() && words.decidable(request),
        "nonce": {
            "approve": callback::nonce_of(entry.id, &entry.digest, Word::Approve),
            "deny": callback::nonce_of(entry.id, &entry.digest, Word::Deny),
        },
    });
    if let Some(fields) = data.as_object_mut() {
        if words.statements {
            fields.insert("statement".to_owned(), request.content.statement.as_str().into());
            fields.insert("statement_bytes".to_owned(), request.content.statement_bytes.into());
            fields.insert("parameters".to_owned(), json!(request.content.parameters));
        }
        if let Some(outcome) = &entry.outcome {
            fields.insert("outcome".to_owned(), settled(outcome));
        }
    }
    let kind = if entry.outcome.is_none() { "approval.waiting" } else { "approval.settled" };
    json!({ "type": kind, "timestamp": moment(millis(now())), "data": data })
}

fn settled(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Approved { by, reason, .. } => json!({"state": "approved", "by": by.user, "reason": reason}),
        Outcome::Denied { by, reason, .. } => json!({"state": "denied", "by": by.user, "reason": reason}),
        Outcome::Expired => json!({"state": "expired"}),
        Outcome::Withdrawn => json!({"state": "withdrawn"}),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
