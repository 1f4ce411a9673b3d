//! Microsoft Teams: a card with a link, posted through the webhook of a workflow
//! (<https://learn.microsoft.com/connectors/teams/>, "When a Teams webhook request is received").
//!
//! A workflow's webhook cannot say who clicked, so nothing is decided there. Agents' words stand in `TextRun`s, which know no
//! Markdown; `TextBlock` and `FactSet` do.

use std::sync::Arc;

use http::Request;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::courier::SendError;
use super::shown::{Said, Words};
use crate::approval::Entry;
use crate::config::chat::Teams as Settings;
use crate::credential::Credentials;
use crate::fetch::{Fetch, FetchError};

/// One channel.
pub(super) struct Teams {
    settings: Settings,
    words: Words,
    credentials: Credentials,
    fetch: Fetch,
}

impl Teams {
    pub(super) fn new(settings: Settings, words: Words, credentials: Credentials) -> Self {
        let fetch = Fetch::new(Arc::default(), settings.root_cert.clone());
        Self { settings, words, credentials, fetch }
    }

    /// Posts a card.
    pub(super) async fn tell(&self, entry: &Entry) -> Result<(), SendError> {
        let url = self.credentials.named(&self.settings.webhook_url).await?;
        let body = json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": null,
                "content": card(&self.words.said(entry)),
            }],
        });
        let request = Request::post(url.expose())
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            // The address is a secret, so nothing of it is said.
            .map_err(|_| SendError::later("the credential of webhook_url holds no address"))?;
        let answer = self.fetch.send(request).await.map_err(|error| nameless(&error))?;
        if answer.status().is_success() { Ok(()) } else { Err(SendError::status(&answer)) }
    }
}

/// A failure without the address, which is the secret; the host's name may be said.
fn nameless(error: &FetchError) -> SendError {
    match error {
        FetchError::Address { why, .. } => {
            SendError::later(format!("the address in webhook_url cannot be used: {why}"))
        }
        FetchError::Trust(_) | FetchError::Server { .. } | FetchError::Slow { .. } => {
            SendError::later(error.to_string())
        }
    }
}

/// An Adaptive Card 1.4 (<https://adaptivecards.io/explorer/AdaptiveCard.html>).
fn card(said: &Said) -> Value {
    let bold = |text: &str| json!({"type": "TextRun", "text": text, "weight": "Bolder"});
    let plain = |text: &str| json!({"type": "TextRun", "text": text});
    let line = |runs: Vec<Value>| json!({"type": "RichTextBlock", "inlines": runs});
    let mut body =
        vec![line(vec![json!({"type": "TextRun", "text": said.title, "weight": "Bolder", "size": "Large"})])];
    for text in said.statement.iter().chain(&said.parameters) {
        let end = if text.whole { "" } else { "\n… cut; the page has more" };
        body.push(line(vec![
            json!({"type": "TextRun", "text": format!("{}{end}", text.shown), "fontType": "Monospace"}),
        ]));
    }
    body.extend(said.facts.iter().map(|(name, value)| line(vec![bold(&format!("{name}: ")), plain(value)])));
    json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "actions": [{"type": "Action.OpenUrl", "title": "Decide on the approvals page", "url": said.page}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::Content;
    use crate::chat::tests::{entry, held};

    #[test]
    fn a_card_is_words_and_one_link() {
        let hostile = "[Approve](https://evil) **all** <at>everybody</at>";
        let request =
            crate::approval::Request { content: Content::new(hostile.as_bytes(), &[], &[]), ..held() };
        let words = Words { url: "https://gate".to_owned(), statements: true };
        let entry = entry(request);
        let card = card(&words.said(&entry));
        assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
        let blocks = card["body"].as_array().unwrap();
        assert!(
            blocks.iter().all(|block| block["type"] == "RichTextBlock"),
            "nothing that reads Markdown: {card}"
        );
        assert!(blocks[1]["inlines"][0]["text"] == hostile, "{card}");
        assert_eq!(
            card["actions"],
            json!([{"type": "Action.OpenUrl", "title": "Decide on the approvals page",
                    "url": format!("https://gate/approvals/{}", entry.id)}])
        );
    }
}
