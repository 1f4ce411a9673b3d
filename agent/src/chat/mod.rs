//! Chats that are told of what waits, and where people may decide it: Slack, Microsoft Teams, and whatever takes webhooks.
//!
//! A decision made there is [`Approvals::decide`]'s, with the digest of what was shown and the person that the identity
//! provider vouches for, so that the rules are the same as on the page. What a message cannot show whole, and what a rule
//! does not let chats decide (`shown::buttons`), is decided on the page, to which every message leads.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::approval::Approvals;
use crate::config::chat::Chat as Settings;
use crate::config::web::Web as Page;
use crate::credential::Credentials;
use crate::identity::Issuers;
use crate::signin::rules;

mod courier;
mod inbound;
mod links;
mod once;
mod shown;
mod slack;
mod teams;
#[cfg(test)]
pub(crate) mod tests;
mod webhook;

pub use links::{Account, CODE_TIME_MAX, Links};
pub use slack::Slack;
pub use webhook::{Answer, Webhook};

use courier::{Courier, Health, Service};
use shown::Words;
use teams::Teams;

/// Longest request of a chat service, in bytes. Slack sends the message that was clicked along.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// What chats are made of.
pub struct Parts {
    /// `[chat]`.
    pub settings: Settings,
    /// `[web]`: where messages lead, and whose ID tokens count.
    pub page: Page,
    /// Every hold.
    pub approvals: Arc<Approvals>,
    /// Where tokens and secrets are.
    pub credentials: Credentials,
    /// Verifies ID tokens.
    pub issuers: Arc<Issuers>,
}

/// All chats of this daemon.
pub struct Chat {
    approvals: Arc<Approvals>,
    links: Arc<Links>,
    slack: Option<(Arc<Slack>, Arc<Health>)>,
    teams: Option<(Arc<Teams>, Arc<Health>)>,
    webhook: Option<(Arc<Webhook>, Arc<Health>)>,
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat").field("links", &self.links).finish_non_exhaustive()
    }
}

impl Chat {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { settings, page, approvals, credentials, issuers } = parts;
        let words = Words { url: page.url.clone(), statements: settings.statements };
        let links = Links::new(settings.slack.as_ref().map_or(Duration::ZERO, |slack| slack.linked));
        let slack = settings.slack.map(|slack| {
            let parts = slack::Parts {
                words: words.clone(),
                step_up: page.step_up,
                credentials: credentials.clone(),
                approvals: Arc::clone(&approvals),
                links: Arc::clone(&links),
            };
            (Slack::new(slack, parts), Health::of("Slack"))
        });
        let teams = settings.teams.map(|teams| {
            (Arc::new(Teams::new(teams, words.clone(), credentials.clone())), Health::of("Teams"))
        });
        let webhook = settings.webhook.map(|webhook| {
            let parts = webhook::Parts {
                words: words.clone(),
                step_up: page.step_up,
                credentials: credentials.clone(),
                approvals: Arc::clone(&approvals),
                issuers,
                rules: rules(&page.client),
            };
            (Webhook::new(webhook, parts), Health::of("webhook"))
        });
        Arc::new(Self { approvals, links, slack, teams, webhook })
    }

    /// Tells of what happens, and listens for clicks. Until dropped.
    pub async fn run(self: Arc<Self>) {
        let courier = |service: Option<Service>, health: Option<&Arc<Health>>| {
            let (approvals, health) = (Arc::clone(&self.approvals), health.map(Arc::clone));
            async move {
                if let (Some(service), Some(health)) = (service, health) {
                    Courier::new(service, approvals, health).run().await;
                }
            }
        };
        let slack = self.slack.as_ref();
        let (teams, webhook) = (self.teams.as_ref(), self.webhook.as_ref());
        let listening = async {
            if let Some((slack, _)) = slack {
                Arc::clone(slack).listen().await;
            }
        };
        tokio::join!(
            courier(
                slack.map(|(slack, _)| Service::Slack(Arc::clone(slack))),
                slack.map(|(_, health)| health)
            ),
            courier(
                teams.map(|(teams, _)| Service::Teams(Arc::clone(teams))),
                teams.map(|(_, health)| health)
            ),
            courier(
                webhook.map(|(webhook, _)| Service::Webhook(Arc::clone(webhook))),
                webhook.map(|(_, health)| health)
            ),
            listening,
        );
    }

    /// What an operator should know: services that cannot be reached, or do not take what they are sent.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let healths = [
            self.slack.as_ref().map(|(_, health)| health),
            self.teams.as_ref().map(|(_, health)| health),
            self.webhook.as_ref().map(|(_, health)| health),
        ];
        let socket = self.slack.as_ref().and_then(|(slack, _)| slack.problem());
        healths.into_iter().flatten().filter_map(|health| health.problem()).chain(socket).collect()
    }

    /// Slack, where the configuration has it.
    #[must_use]
    pub fn slack(&self) -> Option<&Arc<Slack>> {
        self.slack.as_ref().map(|(slack, _)| slack)
    }

    /// The receiver of webhooks, where the configuration has one.
    #[must_use]
    pub fn webhook(&self) -> Option<&Arc<Webhook>> {
        self.webhook.as_ref().map(|(webhook, _)| webhook)
    }

    /// Who is whom in Slack.
    #[must_use]
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }
}

/// Since 1970-01-01T00:00:00Z.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
