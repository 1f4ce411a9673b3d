//! Slack: a message with buttons, changed as the request goes on; clicks by Socket Mode or as signed requests.
//!
//! What Slack sends is trusted to come from Slack, and no further: who a Slack user is, the person has said on the page.

use std::sync::Arc;

use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};
use zeroize::Zeroizing;

use super::courier::{Health, Place, SendError, retry_after};
use super::inbound::Inbound;
use super::links::{Account, Links};
use super::once::Once;
use super::shown::Words;
use crate::approval::{Approvals, Entry, Reviewer};
use crate::config::chat::{Clicks, Slack as Settings};
use crate::config::sign_in::AccountNames;
use crate::credential::Credentials;
use crate::fetch::Fetch;

mod blocks;
mod clicked;
mod signed;
mod socket;
#[cfg(test)]
mod tests;
mod websocket;

/// Clicks worked on at once; more are turned away.
const CLICKS_MAX: usize = 16;

/// Errors of the Web API that pass, or that an operator can mend without a restart
/// (<https://docs.slack.dev/reference/methods/chat.postMessage#errors>). Another one means that this message is none.
const PASSING: [&str; 14] = [
    "account_inactive",
    "channel_not_found",
    "fatal_error",
    "internal_error",
    "invalid_auth",
    "is_archived",
    "missing_scope",
    "not_authed",
    "not_in_channel",
    "ratelimited",
    "request_timeout",
    "service_unavailable",
    "token_expired",
    "token_revoked",
];

/// One app in one channel.
pub struct Slack {
    settings: Settings,
    words: Words,
    /// `[web] step_up`.
    step_up: Option<std::time::Duration>,
    credentials: Credentials,
    fetch: Fetch,
    approvals: Arc<Approvals>,
    links: Arc<Links>,
    /// Signatures and envelopes that have come.
    once: Once,
    clicks: Arc<Semaphore>,
    /// The workspace that the app is installed in.
    team: OnceCell<String>,
    socket: Arc<Health>,
    /// Where clicks come as signed requests.
    inbound: Option<Inbound>,
}

/// What every method answers with (<https://docs.slack.dev/apis/web-api/#responses>).
#[derive(Deserialize)]
struct Said {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

impl Said {
    fn text(&self, name: &'static str) -> Result<&str, SendError> {
        let text = self.more.get(name).and_then(Value::as_str);
        text.ok_or_else(|| SendError::later(format!("Slack's answer has no {name}")))
    }
}

/// What a Slack has besides its settings.
pub(super) struct Parts {
    pub(super) words: Words,
    pub(super) step_up: Option<std::time::Duration>,
    pub(super) credentials: Credentials,
    pub(super) approvals: Arc<Approvals>,
    pub(super) links: Arc<Links>,
}

impl Slack {
    pub(super) fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        let inbound = match &settings.clicks {
            Clicks::Signed { signing_secret } => {
                Some(Inbound::new(parts.credentials.clone(), signing_secret.clone()))
            }
            Clicks::Socket { .. } => None,
        };
        Arc::new(Self {
            inbound,
            fetch: Fetch::new(Arc::default(), settings.root_cert.clone()),
            settings,
            words: parts.words,
            step_up: parts.step_up,
            credentials: parts.credentials,
            approvals: parts.approvals,
            links: parts.links,
            once: Once::default(),
            clicks: Arc::new(Semaphore::new(CLICKS_MAX)),
            team: OnceCell::new(),
            socket: Health::of("Slack's socket"),
        })
    }

    /// Keeps a socket open for clicks, where that is how they come. Until dropped.
    pub(super) async fn listen(self: Arc<Self>) {
        match &self.settings.clicks {
            Clicks::Socket { app_token } => socket::keep(Arc::clone(&self), app_token).await,
            Clicks::Signed { .. } => {}
        }
    }

    /// What an operator should know of the socket.
    pub(super) fn problem(&self) -> Option<String> {
        self.socket.problem()
    }

    /// Posts a request's message, or changes the one there is.
    pub(super) async fn tell(&self, entry: &Entry, before: Option<&Place>) -> Result<Place, SendError> {
        let said = self.words.said(entry);
        let message = json!({
            "channel": before.map_or(&self.settings.channel, |place| &place.channel),
            "text": blocks::notification(&said),
            "blocks": blocks::message(&said, entry),
            "unfurl_links": false,
            "unfurl_media": false,
        });
        let (method, message) = match before {
            None => ("chat.postMessage", message),
            Some(place) => ("chat.update", with(message, "ts", &place.message)),
        };
        let said = self.call(method, &self.settings.bot_token, &message).await?;
        Ok(Place { channel: said.text("channel")?.to_owned(), message: said.text("ts")?.to_owned() })
    }

    /// Says something to one user alone, where they clicked. By the API and not by the payload's `response_url`, so that no
    /// address that came from outside is ever asked.
    async fn whisper(&self, channel: &str, user: &str, text: &str, blocks: Value) -> Result<(), SendError> {
        let message = json!({ "channel": channel, "user": user, "text": text, "blocks": blocks });
        self.call("chat.postEphemeral", &self.settings.bot_token, &message).await.map(|_| ())
    }

    /// Whether a person who signed in is who this Slack user is, by the mail address that the workspace has of them
    /// (<https://docs.slack.dev/reference/methods/users.info>). Whoever gets a reviewer to follow their link would decide as them.
    pub async fn is_same_person(&self, account: &Account, who: &Reviewer) -> Result<bool, String> {
        match self.settings.accounts {
            AccountNames::Any => return Ok(true),
            AccountNames::Matching => {}
        }
        // Methods that only read take no JSON (<https://docs.slack.dev/apis/web-api/#post_bodies>).
        let form =
            form_urlencoded::Serializer::new(String::new()).append_pair("user", &account.user).finish();
        let kind = "application/x-www-form-urlencoded";
        let asked = self.ask("users.info", &self.settings.bot_token, kind, form).await;
        let said = asked.map_err(|error| error.to_string())?;
        let user = said.more.get("user");
        let is_its = user.and_then(|user| user.get("id")).and_then(Value::as_str) == Some(&account.user);
        let email = user.and_then(|user| user.get("profile")?.get("email")?.as_str()).filter(|_| is_its);
        let email =
            email.ok_or("Slack does not say their address; the app needs users:read and users:read.email")?;
        Ok(who.is_called(email))
    }

    /// The workspace that the app is installed in, as the API says.
    async fn team(&self) -> Result<&str, SendError> {
        let asked = async {
            let said = self.call("auth.test", &self.settings.bot_token, &json!({})).await?;
            said.text("team_id").map(str::to_owned)
        };
        self.team.get_or_try_init(|| asked).await.map(String::as_str)
    }

    /// Calls a method of the Web API with a token that is a credential.
    async fn call(&self, method: &'static str, token: &str, body: &Value) -> Result<Said, SendError> {
        self.ask(method, token, "application/json; charset=utf-8", body.to_string()).await
    }

    async fn ask(
        &self,
        method: &'static str,
        token: &str,
        kind: &'static str,
        body: String,
    ) -> Result<Said, SendError> {
        let token = self.credentials.named(token).await?;
        let bearer = Zeroizing::new([b"Bearer ", token.expose()].concat());
        let mut bearer = HeaderValue::from_bytes(&bearer)
            .map_err(|_| SendError::later("the credential of a Slack token holds no token"))?;
        bearer.set_sensitive(true);
        let request = Request::post(format!("{}/{method}", self.settings.api))
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, kind)
            .body(body.into_bytes())
            .map_err(|_| SendError::Refused("[chat.slack] api is no address".to_owned()))?;
        let answer = self.fetch.send(request).await?;
        if !answer.status().is_success() {
            return Err(SendError::status(&answer));
        }
        let said: Said = serde_json::from_slice(answer.body())
            .map_err(|_| SendError::later(format!("{method} is not answered as Slack does")))?;
        if said.ok {
            return Ok(said);
        }
        let error: String = said.error.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
        let what = format!("{method} is refused: {error}");
        Err(match PASSING.contains(&said.error.as_str()) {
            true => SendError::Later { what, after: retry_after(answer.headers()), only_this: false },
            false => SendError::Refused(what),
        })
    }
}

fn with(mut message: Value, name: &str, value: &str) -> Value {
    if let Some(fields) = message.as_object_mut() {
        fields.insert(name.to_owned(), value.into());
    }
    message
}
