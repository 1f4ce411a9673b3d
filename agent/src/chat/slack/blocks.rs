//! Messages as blocks (<https://docs.slack.dev/reference/block-kit/blocks>).
//!
//! Agents' words stand in `rich_text` and `plain_text` alone, which know no formatting, no links and no mentions; `mrkdwn`
//! is not used. In text objects `&`, `<` and `>` are control characters, so there they are escaped.

use serde_json::{Value, json};

use super::super::shown::Said;
use crate::approval::{Answer, Digest, Entry};
use crate::flow::ApprovalId;

/// Characters of a text object that Slack takes, in the smallest of the places where they stand but for headers.
pub(super) const PLAIN_CHARS_MAX: usize = 2000;
/// Characters of a header.
const HEADER_CHARS_MAX: usize = 150;
/// Fields of one section that Slack takes.
const FIELDS_MAX: usize = 10;
/// Actions of our buttons.
pub(super) const APPROVE: &str = "portcullis_approve";
pub(super) const DENY: &str = "portcullis_deny";
/// A button that only leads to a page; Slack reports its clicks, too.
const PAGE: &str = "portcullis_page";
/// Longest value of a button, in bytes: an id, a blank and a digest.
const VALUE_BYTES_MAX: usize = 128;

/// What a button says when it is clicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pressed {
    pub(super) answer: Answer,
    pub(super) id: ApprovalId,
    pub(super) seen: Digest,
}

impl Pressed {
    /// From the action of one of our buttons.
    pub(super) fn parse(action: &str, value: &str) -> Option<Self> {
        let answer = match action {
            APPROVE => Answer::Approve,
            DENY => Answer::Deny,
            _ => return None,
        };
        let (id, seen) = value.split_once(' ').filter(|_| value.len() <= VALUE_BYTES_MAX)?;
        Some(Self { answer, id: id.parse().ok()?, seen: seen.parse().ok()? })
    }
}

/// A request's message.
pub(super) fn message(said: &Said, entry: &Entry) -> Value {
    let mut blocks = vec![json!({"type": "header", "text": plain_within(&said.title, HEADER_CHARS_MAX)})];
    for text in said.statement.iter().chain(&said.parameters).filter(|text| !text.shown.is_empty()) {
        blocks.push(preformatted(&text.shown));
        if !text.whole {
            blocks.push(context("Cut: the page has more, and is where this is decided."));
        }
    }
    let fields = said.facts.iter().take(FIELDS_MAX).map(|(name, value)| plain(&format!("{name}: {value}")));
    blocks.push(json!({"type": "section", "fields": fields.collect::<Vec<_>>()}));
    blocks.push(context(&said.state));
    let mut elements = Vec::new();
    if said.decidable {
        let value = format!("{} {}", entry.id, entry.digest);
        elements.push(json!({
            "type": "button", "action_id": APPROVE, "text": plain("Approve once"), "style": "primary", "value": value,
            "confirm": {
                "title": plain("Approve it?"),
                "text": plain("It runs as soon as enough people have approved it."),
                "confirm": plain("Approve once"),
                "deny": plain("Not now"),
            },
        }));
        elements.push(json!({
            "type": "button", "action_id": DENY, "text": plain("Deny"), "style": "danger", "value": value,
        }));
    }
    elements
        .push(leading_to(if said.waits { "Decide on the page" } else { "See it on the page" }, &said.page));
    blocks.push(json!({"type": "actions", "elements": elements}));
    blocks.into()
}

/// What a phone shows, and screen readers read: no agent's word.
pub(super) fn notification(said: &Said) -> String {
    escaped(
        &format!("{}: {}", said.title, if said.waits { "an approval waits" } else { "settled" }),
        PLAIN_CHARS_MAX,
    )
}

/// A sentence to one user, and where it leads to.
pub(super) fn whisper(text: &str, link: Option<(&str, &str)>) -> Value {
    let mut blocks = vec![json!({"type": "section", "text": plain(text)})];
    if let Some((said, url)) = link {
        blocks.push(json!({"type": "actions", "elements": [leading_to(said, url)]}));
    }
    blocks.into()
}

fn leading_to(text: &str, url: &str) -> Value {
    json!({"type": "button", "action_id": PAGE, "text": plain(text), "url": url})
}

fn context(text: &str) -> Value {
    json!({"type": "context", "elements": [plain(text)]})
}

fn preformatted(text: &str) -> Value {
    let inside = json!([{"type": "text", "text": text}]);
    json!({"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": inside}]})
}

fn plain(text: &str) -> Value {
    plain_within(text, PLAIN_CHARS_MAX)
}

fn plain_within(text: &str, longest: usize) -> Value {
    json!({"type": "plain_text", "text": escaped(text, longest), "emoji": false})
}

/// Text for a text object, of so many characters at most
/// (<https://docs.slack.dev/messaging/formatting-message-text#escaping>).
pub(super) fn escaped(text: &str, longest: usize) -> String {
    let (mut whole, mut length) = (String::new(), 0);
    for c in text.chars() {
        let mut own = [0; 4];
        let piece = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            other => &*other.encode_utf8(&mut own),
        };
        length += piece.chars().count();
        if length >= longest {
            whole.push('…');
            break;
        }
        whole.push_str(piece);
    }
    whole
}
