//! What a message says of a request, in words that no chat's formatting has touched yet; and whether a message may decide it.

use crate::approval::request::PARAMETER_SHOWN_BYTES_MAX;
use crate::approval::{Content, Entry, Request};
use crate::cli::text::{moment, shown, summary};
use crate::policy::rule::ChatUse;
use crate::request::ObjectName;

/// Characters of an operation's text in a message. Slack takes 3000 in one piece.
pub(super) const TEXT_CHARS_MAX: usize = 2500;
/// Lines of it, and blanks in a row: what stands behind more of them nobody sees.
const TEXT_LINES_MAX: usize = 60;
const BLANKS_MAX: usize = 120;
/// Characters of one fact.
const FACT_CHARS_MAX: usize = 300;
/// Characters of a title. Slack takes 150.
const TITLE_CHARS_MAX: usize = 140;
/// Objects named.
const OBJECTS_SHOWN: usize = 10;

/// Whether a request's own rule lets a message decide it: the one place where that is said. What it does not let is decided
/// on the page, to which every message leads. So is what asks for a fresh sign-in: the page leads to one by itself.
pub(super) fn buttons(request: &Request) -> bool {
    match request.chat {
        // What cannot be told to be the same (EXECUTE, FETCH, what is typed at a prompt) only names what runs.
        ChatUse::Decide => request.step_up.is_none() && request.again.is_some(),
        ChatUse::Link | ChatUse::None => false,
    }
}

/// What messages have in common.
#[derive(Clone, Debug)]
pub(super) struct Words {
    /// The page's origin.
    pub(super) url: String,
    /// Whether the text of operations is shown.
    pub(super) statements: bool,
}

/// A text that may have been cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Control, invisible and reordering characters are escapes; lines stay.
    pub(super) shown: String,
    /// Whether this is all of it, to the last byte.
    pub(super) whole: bool,
}

/// A message in plain words.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Effect and target.
    pub(super) title: String,
    /// The operation; `None` when it is left out.
    pub(super) statement: Option<Text>,
    /// Its parameters, one a line; `None` when there are none, or they are left out.
    pub(super) parameters: Option<Text>,
    /// Names and values.
    pub(super) facts: Vec<(&'static str, String)>,
    /// What has become of it, and who had a part in that.
    pub(super) state: String,
    /// Whether it still waits.
    pub(super) waits: bool,
    /// Whether the message may decide it.
    pub(super) decidable: bool,
    /// The request's own page.
    pub(super) page: String,
}

impl Words {
    /// What is said of a request.
    pub(super) fn said(&self, entry: &Entry) -> Said {
        let request = &entry.request;
        let shown = self.statements;
        Said {
            title: summary(&format!("{} on {}", request.effect, request.connection), TITLE_CHARS_MAX),
            statement: shown.then(|| statement(&request.content)),
            parameters: shown.then(|| parameters(&request.content)).flatten(),
            facts: facts(entry),
            state: state(entry),
            waits: entry.outcome.is_none(),
            decidable: entry.outcome.is_none() && self.decidable(request),
            page: self.page(entry),
        }
    }

    /// Whether a message of a bounded length may decide a request: its rule lets it, and nobody would decide what they have
    /// not seen all of.
    pub(super) fn decidable(&self, request: &Request) -> bool {
        buttons(request)
            && self.statements
            && statement(&request.content).whole
            && parameters(&request.content).is_none_or(|parameters| parameters.whole)
    }

    /// Where a request is on the page.
    pub(super) fn page(&self, entry: &Entry) -> String {
        format!("{}/approvals/{}", self.url, entry.id)
    }
}

fn statement(content: &Content) -> Text {
    // A byte that is no UTF-8 has been replaced, so the lengths differ or the mark is there.
    let all = u64::try_from(content.statement.len()).is_ok_and(|shown| shown == content.statement_bytes);
    cut(&content.statement, all && !content.statement.contains(char::REPLACEMENT_CHARACTER))
}

fn parameters(content: &Content) -> Option<Text> {
    if content.parameter_count == 0 {
        return None;
    }
    // A parameter is cut without a mark, somewhere in its last character.
    let all = u64::try_from(content.parameters.len()).is_ok_and(|shown| shown == content.parameter_count)
        && content.parameters.iter().flatten().all(|value| {
            value.len() + char::MAX_LEN_UTF8 <= PARAMETER_SHOWN_BYTES_MAX
                && !value.contains(char::REPLACEMENT_CHARACTER)
        });
    let lines = content.parameters.iter().enumerate().map(|(at, value)| match value {
        // On one line each, so that none can pass for the next.
        Some(value) => format!("${} = '{}'", at + 1, shown(value, false)),
        None => format!("${} = NULL", at + 1),
    });
    Some(cut(&lines.collect::<Vec<_>>().join("\n"), all))
}

/// The first characters, as they may be shown.
fn cut(text: &str, all: bool) -> Text {
    let shown = shown(text, true);
    let fits = shown.chars().count() <= TEXT_CHARS_MAX && is_seen(&shown);
    let text = if shown.chars().count() <= TEXT_CHARS_MAX {
        shown
    } else {
        shown.chars().take(TEXT_CHARS_MAX).collect()
    };
    Text { shown: text, whole: fits && all }
}

/// Whether somebody who looks at it sees its end.
fn is_seen(text: &str) -> bool {
    let is_blank = |c: char| c.is_whitespace() || matches!(c, '\u{2800}' | '\u{3164}' | '\u{ffa0}');
    let mut blanks = 0;
    let apart = text.chars().any(|c| {
        blanks = if is_blank(c) { blanks + 1 } else { 0 };
        blanks > BLANKS_MAX
    });
    !apart && text.lines().count() <= TEXT_LINES_MAX
}

fn facts(entry: &Entry) -> Vec<(&'static str, String)> {
    let (request, subject) = (&entry.request, &entry.request.subject);
    let whom = match &subject.identity {
        Some(identity) => identity.shown(),
        None => format!("{} (uid {})", subject.user, subject.uid),
    };
    let database = request.database.as_deref().map_or_else(String::new, |name| format!(", database {name}"));
    let approvers =
        if request.approvers.is_empty() { "operators".to_owned() } else { request.approvers.join(", ") };
    let needs = match request.quorum {
        0 | 1 => approvers,
        quorum => format!("{approvers}: {quorum} of them"),
    };
    let mut facts = vec![
        ("For", whom),
        ("Rule", format!("{} (policy {})", request.rule, request.policy)),
        ("Operation", request.kinds.join(", ")),
        ("Target", format!("{} ({}){database}", request.connection, request.destination)),
        ("Decided by", needs),
        ("Denied at", moment(entry.expires_ms)),
        ("Run", request.run.to_string()),
    ];
    if !request.objects.is_empty() {
        let objects: Vec<String> =
            request.objects.iter().take(OBJECTS_SHOWN).map(ObjectName::to_string).collect();
        let more = match request.objects.len().saturating_sub(OBJECTS_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        facts.push(("Objects", format!("{}{more}", objects.join(", "))));
    }
    if let Some(rows) = request.estimated_rows {
        facts.push(("Rows", format!("~{rows}")));
    }
    if let Some(found) = &request.side_effects {
        facts.push(("Sets off", found.brief()));
    }
    if request.in_transaction {
        facts.push(("Caution", "waits in a transaction, which may hold locks".to_owned()));
    }
    facts.into_iter().map(|(name, value)| (name, summary(&value, FACT_CHARS_MAX))).collect()
}

fn state(entry: &Entry) -> String {
    let voters = entry.votes.iter().map(|vote| vote.by.user.as_str()).collect::<Vec<_>>().join(", ");
    let by =
        if entry.outcome.is_none() && !voters.is_empty() { format!(": {voters}") } else { String::new() };
    summary(&format!("{}{by}", entry.shown()), FACT_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tests::{entry, held};
    use crate::policy::rule::StepUp;

    fn words() -> Words {
        Words { url: "https://gate".to_owned(), statements: true }
    }

    fn of(statement: &str, parameters: &[Option<&[u8]>]) -> Request {
        Request { content: Content::new(statement.as_bytes(), parameters, parameters), ..held() }
    }

    #[test]
    fn only_what_is_shown_whole_is_decided_in_a_chat() {
        let long = "x".repeat(TEXT_CHARS_MAX + 1);
        let (long_value, many): (&[u8], Vec<_>) = (&[b'v'; 253], vec![Some(&b"1"[..]); 65]);
        for (request, expected) in [
            (of("DROP TABLE a", &[Some(b"1"), None]), true),
            (of(&long, &[]), false),
            // Short, but long once its characters are escaped.
            (of(&"\u{202e}".repeat(TEXT_CHARS_MAX / 2), &[]), false),
            (of("SELECT $1", &[Some(long_value)]), false),
            (of("SELECT $1", &many), false),
            (of("SELECT '\u{fffd}'", &[]), false),
            (Request { content: Content::new(b"SELECT '\xff'", &[], &[]), ..held() }, false),
            (Request { chat: ChatUse::Link, ..held() }, false),
            // A name for what was prepared elsewhere.
            (Request { again: None, ..held() }, false),
            (of(&format!("SELECT 1;{}DROP TABLE a", "\n".repeat(100)), &[]), false),
            (of(&format!("SELECT 1;{}DROP TABLE a", " ".repeat(200)), &[]), false),
            (of(&format!("SELECT 1{}", "\n, 1".repeat(100)), &[]), false),
            (Request { chat: ChatUse::None, ..held() }, false),
            (
                Request { step_up: Some(StepUp { max_age: None, acr: vec!["phr".to_owned()] }), ..held() },
                false,
            ),
        ] {
            assert_eq!(words().decidable(&request), expected, "{:?}", request.content);
        }
        let silent = Words { statements: false, ..words() };
        assert!(!silent.decidable(&held()), "nobody decides what they have not seen");
        let said = silent.said(&entry(held()));
        assert_eq!((said.statement, said.parameters), (None, None));
    }

    #[test]
    fn what_deceives_is_shown_as_escapes() {
        let entry = entry(of("DROP\u{202e} TABLE a\n-- b\u{1b}[2J", &[Some(b"1'\n$2 = '3")]));
        let said = words().said(&entry);
        assert_eq!(said.statement.unwrap().shown, "DROP\\u{202e} TABLE a\n-- b\\u{1b}[2J");
        assert_eq!(said.parameters.unwrap().shown, "$1 = '1'\\n$2 = '3'");
        assert_eq!(said.page, format!("https://gate/approvals/{}", entry.id));
    }
}
