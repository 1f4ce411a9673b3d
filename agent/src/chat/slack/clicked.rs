//! A click: who it was, what they pressed, and what they are told.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::TryAcquireError;

use super::super::courier::SendError;
use super::super::links::{Account, CODE_TIME_MAX};
use super::Slack;
use super::blocks::{self, Pressed};
use crate::approval::{Decision, Entry, Reviewer};
use crate::cli::text::summary;

/// Longest id of Slack's, in bytes; they have a dozen.
const ID_BYTES_MAX: usize = 64;
/// Characters shown of what somebody calls themselves.
const NAME_CHARS_MAX: usize = 80;

/// As much of a `block_actions` payload as counts (<https://docs.slack.dev/reference/interaction-payloads/block_actions-payload>).
#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "type")]
    kind: String,
    user: User,
    #[serde(default)]
    channel: Option<Named>,
    #[serde(default)]
    actions: Vec<Action>,
}

#[derive(Deserialize)]
struct User {
    id: String,
    #[serde(default)]
    username: String,
    /// The user's own workspace, which may be another than the channel's.
    #[serde(default)]
    team_id: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Action {
    action_id: String,
    #[serde(default)]
    value: String,
}

/// One of our buttons, pressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Click {
    pub(super) account: Account,
    pub(super) channel: String,
    pub(super) pressed: Pressed,
}

impl Click {
    /// From a payload; `None` when it is no click on a button that decides.
    pub(super) fn parse(payload: &str) -> Option<Self> {
        let payload: Payload = serde_json::from_str(payload).ok()?;
        let [action] = payload.actions.as_slice() else { return None };
        if payload.kind != "block_actions" {
            return None;
        }
        let pressed = Pressed::parse(&action.action_id, &action.value)?;
        // The workspace that the user is of, which need not be the app's.
        let team = payload.user.team_id?;
        let called = summary(&payload.user.username, NAME_CHARS_MAX);
        let account = Account { team: id(team)?, user: id(payload.user.id)?, called };
        Some(Self { account, channel: id(payload.channel?.id)?, pressed })
    }
}

fn id(text: String) -> Option<String> {
    let plain = (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some(text)
}

/// What somebody who clicked is told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    text: String,
    /// What a button says, and where it leads to.
    link: Option<(&'static str, String)>,
}

impl Told {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), link: None }
    }
}

impl Slack {
    /// Works on a payload that is Slack's, in the background.
    ///
    /// # Errors
    /// When too many are worked on.
    pub(super) fn take(self: &Arc<Self>, payload: String) -> Result<(), TryAcquireError> {
        // What is no click on our buttons is none of our business; Slack reports those that only lead to the page, too.
        let Some(click) = Click::parse(&payload) else { return Ok(()) };
        let place = Arc::clone(&self.clicks).try_acquire_owned();
        let place =
            place.inspect_err(|_| tracing::warn!("too many clicks in Slack at once; one was turned away"))?;
        let slack = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = slack.answer(click).await {
                tracing::warn!(%error, "somebody clicked in Slack, and cannot be told what came of it");
            }
            drop(place);
        });
        Ok(())
    }

    async fn answer(&self, click: Click) -> Result<(), SendError> {
        let told = self.told(&click).await?;
        let link = told.link.as_ref().map(|(said, url)| (*said, url.as_str()));
        let (text, blocks): (String, Value) =
            (blocks::escaped(&told.text, blocks::PLAIN_CHARS_MAX), blocks::whisper(&told.text, link));
        self.whisper(&click.channel, &click.account.user, &text, blocks).await
    }

    async fn told(&self, click: &Click) -> Result<Told, SendError> {
        let Click { account, pressed, .. } = click;
        if self.team().await? != account.team {
            tracing::warn!(
                user = account.user,
                team = account.team,
                "a click in Slack from another workspace"
            );
            return Ok(Told::plain(
                "Only members of the workspace that Portcullis is installed in decide here.",
            ));
        }
        let person = self.links.find(account);
        let fresh = person.filter(|person| self.step_up.is_none_or(|step_up| person.age <= step_up));
        let Some(person) = fresh else { return self.unlinked(account) };
        let Some(entry) = self.approvals.get(pressed.id) else {
            return Ok(Told::plain("This is so long over that nothing is known of it any more."));
        };
        if !self.words.decidable(&entry.request) {
            let page = self.words.page(&entry);
            return Ok(Told {
                text: "This is decided on the page alone.".to_owned(),
                link: Some(("Open the page", page)),
            });
        }
        Ok(self.decide(entry, account, *pressed, person.who).await)
    }

    /// What a Slack user whom nobody has vouched for lately is told: a link for them alone.
    fn unlinked(&self, account: &Account) -> Result<Told, SendError> {
        let code = self.links.code(account.clone()).map_err(|error| SendError::later(error.to_string()))?;
        let minutes = CODE_TIME_MAX.as_secs() / 60;
        Ok(Told {
            text: format!(
                "Nothing was decided: Portcullis has to know who you are. Sign in on its page within {minutes} minutes, then \
                 click again. The link is yours alone: whoever follows it lets your Slack user decide in their name."
            ),
            link: Some(("Sign in", format!("{}/chat/link/{}", self.words.url, *code))),
        })
    }

    async fn decide(&self, entry: Arc<Entry>, account: &Account, pressed: Pressed, who: Reviewer) -> Told {
        let (approvals, user) = (Arc::clone(&self.approvals), who.user.clone());
        let reason = format!("in Slack, as {}", account.user);
        // The disk may have to be waited for.
        let done = tokio::task::spawn_blocking(move || {
            approvals.decide(pressed.id, pressed.seen, who, Decision::plain(pressed.answer, reason))
        });
        match done.await {
            Ok(Ok(entry)) => Told::plain(format!("Done, as {user}: {}.", entry.shown())),
            Ok(Err(error)) => {
                tracing::warn!(approval = %entry.id, user, slack = account.user, %error, "a decision in Slack was refused");
                Told {
                    text: format!("Nothing was decided: {error}."),
                    link: Some(("Open the page", self.words.page(&entry))),
                }
            }
            Err(error) => {
                tracing::error!(%error, "a decision in Slack broke");
                Told::plain("This broke; the daemon's log says why.")
            }
        }
    }
}
