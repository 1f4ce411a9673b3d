//! The inbox: what waits for this person, oldest first, and what was settled lately.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};

use super::approval::{command, statement};
use super::html::Html;
use super::layout::{Page, fragment, message};
use super::session::Use;
use super::{Signed, Web, login};
use crate::approval::Entry;
use crate::cli::text::{duration, summary};
use crate::run::now_ms;

/// Settled requests shown.
const SETTLED_SHOWN: usize = 20;
/// Characters of a settled statement.
const SUMMARY_CHARS: usize = 100;

/// `GET /`.
pub(super) async fn page(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    let Some(signed) = web.signed(&headers, Use::Person) else { return login::sign_in("/") };
    let body = Html::of(|html| {
        html.el("div", &[("data-live", "/live/inbox"), ("aria-live", "polite")], |html| {
            html.piece(&entries(&web, &signed));
        });
    });
    Page::new("Inbox").of(&signed).with(&body).into_response()
}

/// `GET /live/inbox`: the same part once more, for the script.
pub(super) async fn part(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    match web.signed(&headers, Use::Script) {
        Some(signed) => fragment(entries(&web, &signed)),
        None => message(StatusCode::UNAUTHORIZED, "not signed in"),
    }
}

fn entries(web: &Web, signed: &Signed) -> Html {
    let mut entries = web.approvals.list();
    entries.retain(|entry| web.approvals.may_see(&entry.request, &signed.who));
    let (waiting, settled): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.outcome.is_none());
    let now = now_ms();
    Html::of(|html| {
        if waiting.is_empty() {
            html.leaf("p", &[("class", "empty")], "Nothing waits for you.");
        }
        for entry in &waiting {
            card(html, entry, now);
        }
        if !settled.is_empty() {
            html.leaf("h2", &[], "Settled lately");
            html.el("ul", &[("class", "settled")], |html| {
                settled.iter().take(SETTLED_SHOWN).for_each(|entry| line(html, entry));
            });
        }
    })
}

fn card(html: &mut Html, entry: &Entry, now: u64) {
    let (request, id) = (&entry.request, entry.id.to_string());
    let address = format!("/approvals/{id}");
    html.el("article", &[("class", "card"), ("tabindex", "-1"), ("data-id", &id)], |html| {
        html.el("p", &[("class", "facts")], |html| {
            html.leaf("span", &[("class", "effect")], request.effect);
            html.leaf("strong", &[], request.subject.shown());
            html.leaf("span", &[], format_args!("{} at {}", request.connection, request.destination));
            if let Some(rows) = request.estimated_rows {
                html.leaf("span", &[], format_args!("~{rows} rows"));
            }
            left(html, entry, now);
        });
        statement(html, request);
        html.el("p", &[("class", "facts")], |html| {
            html.leaf("span", &[], format_args!("rule {}", request.rule));
            html.leaf("span", &[], format_args!("policy {}", request.policy));
            html.leaf("code", &[], summary(&command(&request.process), SUMMARY_CHARS));
            if request.quorum > 1 {
                html.leaf("span", &[], format_args!("{} of {} approvals", entry.votes.len(), request.quorum));
            }
        });
        html.el("p", &[("class", "actions")], |html| {
            html.leaf("a", &[("class", "open"), ("href", &address)], "Look and decide");
        });
    });
}

/// The time left, which the script counts down.
pub(super) fn left(html: &mut Html, entry: &Entry, now: u64) {
    let left = entry.expires_ms.saturating_sub(now);
    let attributes = [("class", "left"), ("data-left", &*left.to_string())];
    html.leaf("time", &attributes, format_args!("{} left", duration(left)));
}

fn line(html: &mut Html, entry: &Entry) {
    html.el("li", &[], |html| {
        html.leaf("span", &[], entry.shown());
        html.text(" ");
        let address = format!("/approvals/{}", entry.id);
        html.el("a", &[("href", &address)], |html| {
            html.leaf("code", &[], summary(&entry.request.content.statement, SUMMARY_CHARS));
        });
    });
}
