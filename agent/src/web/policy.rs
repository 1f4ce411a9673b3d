//! The policies in force with their rules, for operators.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;

use super::Web;
use super::html::Html;
use super::layout::Page;
use crate::cli::sessions::protocol_name;
use crate::cli::text::duration;
use crate::policy::rule::{ChatUse, HoldTerms};
use crate::policy::{Action, Policy};
use crate::run::now_ms;

/// `GET /policy`.
pub(super) async fn page(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    let signed = match web.operator(&headers, "/policy") {
        Ok(signed) => signed,
        Err(refusal) => return *refusal,
    };
    let snapshot = web.policies.snapshot();
    let body = Html::of(|html| {
        for (path, problem) in &snapshot.problems {
            html.leaf("p", &[("class", "notice")], format_args!("{}: {problem}", path.display()));
        }
        snapshot.policies.values().for_each(|policy| one(html, policy));
    });
    Page::new("Policy").of(&signed).with(&body).into_response()
}

fn one(html: &mut Html, policy: &Policy) {
    html.leaf("h2", &[], format_args!("{} ({})", policy.name, policy.version));
    table(html, &["connection", "protocol", "upstream user"], |html| {
        for connection in &policy.connections {
            let user = connection.upstream.user.as_deref().unwrap_or("-");
            row(html, &[&connection.name, protocol_name(connection.protocol), user]);
        }
    });
    let (now, hits) = (now_ms(), policy.hits());
    let since = duration(now.saturating_sub(hits.loaded_ms));
    html.leaf(
        "p",
        &[("class", "facts")],
        format_args!("loaded {since} ago; counted since then, masks are not"),
    );
    table(html, &["rule, the first that matches decides", "on", "then", "decided", "last"], |html| {
        let mut counted = hits.rules.iter();
        let mut line = |name: &str, on: &str, then: &str| {
            let Some(rule) = counted.next() else { return };
            let last = rule.last_ms.map(|last| format!("{} ago", duration(now.saturating_sub(last))));
            row(html, &[name, on, then, &rule.hits.to_string(), last.as_deref().unwrap_or("never")]);
        };
        for guard in &policy.guards {
            line(&guard.name, protocol_name(guard.on), &action(&guard.action));
        }
        for (effect, otherwise) in &policy.defaults.unmatched {
            line(&format!("otherwise, {effect}"), "", &action(otherwise));
        }
        line("beside the rules: masked data, bodies not looked into, shells", "", "");
    });
}

fn action(action: &Action) -> String {
    match action {
        Action::Allow => "allow".to_owned(),
        Action::Deny { hint: None } => "deny".to_owned(),
        Action::Deny { hint: Some(hint) } => format!("deny: {hint}"),
        Action::Hold(terms) => held(terms),
    }
}

fn held(terms: &HoldTerms) -> String {
    let by = if terms.approvers.is_empty() { "operators".to_owned() } else { terms.approvers.join(", ") };
    let time = duration(u64::try_from(terms.timeout.as_millis()).unwrap_or(u64::MAX));
    let quorum = if terms.quorum > 1 { format!(", {} of them", terms.quorum) } else { String::new() };
    let chat = match terms.chat {
        ChatUse::Decide => "",
        ChatUse::Link => ", chats lead here",
        ChatUse::None => ", no chat is told",
    };
    let step_up =
        terms.step_up.as_ref().map_or_else(String::new, |needs| format!(", who approves signs in {needs}"));
    format!("hold for {by}{quorum}, at most {time}{step_up}{chat}")
}

/// A table that scrolls by itself on a narrow screen.
pub(super) fn table(html: &mut Html, head: &[&str], rows: impl FnOnce(&mut Html)) {
    html.el("div", &[("class", "wide")], |html| {
        html.el("table", &[], |html| {
            html.el("tr", &[], |html| head.iter().for_each(|cell| html.leaf("th", &[], cell)));
            rows(html);
        });
    });
}

pub(super) fn row(html: &mut Html, cells: &[&str]) {
    html.el("tr", &[], |html| cells.iter().for_each(|cell| html.leaf("td", &[], cell)));
}
