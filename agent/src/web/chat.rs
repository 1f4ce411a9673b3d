//! The page's part in chats: people say there which Slack user is theirs, and chat services bring what was clicked. Those
//! come without a browser's cookies and origin; what they bring is signed, and that alone counts.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::guard::Posted;
use super::html::Html;
use super::layout::{Page, message};
use super::session::Use;
use super::{Signed, Web, login};
use crate::chat::{Account, CODE_TIME_MAX, Chat};
use crate::cli::text::duration;
use crate::signin::Fields;

/// Where Slack sends clicks, unless by a socket.
pub(super) const SLACK: &str = "/chat/slack";
/// Where webhooks bring answers.
pub(super) const WEBHOOK: &str = "/chat/webhook";

/// Whether a path takes signed requests, and nothing of a browser's.
pub(super) fn is_signed(path: &str) -> bool {
    path == SLACK || path == WEBHOOK
}

/// `POST /chat/slack`.
pub(super) async fn slack(
    State(web): State<Arc<Web>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Some(slack) = web.chat.as_ref().and_then(|chat| chat.slack()) else { return nothing() };
    match body {
        Ok(body) => slack.signed(&headers, &body).await.into_response(),
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
    }
}

/// `POST /chat/webhook`.
pub(super) async fn webhook(
    State(web): State<Arc<Web>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Some(webhook) = web.chat.as_ref().and_then(|chat| chat.webhook()) else { return nothing() };
    let Ok(body) = body else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let answer = webhook.called(&headers, &body).await;
    let kind = match answer.status.is_success() {
        true => "application/json",
        false => "application/problem+json",
    };
    (answer.status, [(CONTENT_TYPE, HeaderValue::from_static(kind))], answer.body.to_string()).into_response()
}

/// `GET /chat/link/CODE`: asks whether that Slack user is theirs. Changes nothing.
pub(super) async fn link(
    State(web): State<Arc<Web>>,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(chat) = web.chat.as_ref().filter(|chat| chat.slack().is_some()) else { return nothing() };
    let Some(signed) = web.signed(&headers, Use::Person) else {
        return login::sign_in(&format!("/chat/link/{code}"));
    };
    match chat.links().asked(&code) {
        Some(account) => question(chat, &signed, &account, &code).into_response(),
        None => over(),
    }
}

/// `POST /chat/link/CODE/confirm`: it is. Who decides in a chat has proved as lately who they are as who decides here.
pub(super) async fn confirm(
    State(web): State<Arc<Web>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Posted,
) -> Response {
    let Some(chat) = web.chat.as_ref().filter(|chat| chat.slack().is_some()) else { return nothing() };
    let signed = match web.decided(&headers, &body, &format!("/chat/link/{code}")) {
        Ok((signed, _)) => signed,
        Err(refusal) => return *refusal,
    };
    let (Some(slack), Some(account)) = (chat.slack(), chat.links().asked(&code)) else { return over() };
    match slack.is_same_person(&account, &signed.who).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(
                user = signed.who.user,
                slack = account.user,
                "a Slack user of another person was not linked"
            );
            let why = "Slack knows that user by an address that is not yours. If somebody sent you here, they would decide as you.";
            return message(StatusCode::FORBIDDEN, why);
        }
        Err(error) => {
            tracing::warn!(slack = account.user, error, "Slack does not say who a user is");
            return message(
                StatusCode::BAD_GATEWAY,
                "Slack does not say who that user is; the daemon's log says why",
            );
        }
    }
    let Some(account) = chat.links().link(&code, signed.who.clone(), signed.age) else { return over() };
    tracing::info!(
        user = signed.who.user,
        slack = account.user,
        team = account.team,
        "a Slack user was linked"
    );
    let page = Page::new("Linked").of(&signed).with(&Html::of(|html| {
        html.leaf("p", &[], format_args!("Slack's {account} decides as {} now.", signed.who.user));
        html.leaf("p", &[], "Go back to Slack and click again.");
        html.el("p", &[], |html| html.leaf("a", &[("href", "/chat/links")], "Your Slack users"));
    }));
    page.into_response()
}

/// `GET /chat/links`: one's own.
pub(super) async fn own(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    let Some(chat) = web.chat.as_ref().filter(|chat| chat.slack().is_some()) else { return nothing() };
    match web.signed(&headers, Use::Person) {
        Some(signed) => listed(chat, &signed).into_response(),
        None => login::sign_in("/chat/links"),
    }
}

/// `POST /chat/links/end`.
pub(super) async fn end(State(web): State<Arc<Web>>, headers: HeaderMap, body: Posted) -> Response {
    let Some(chat) = web.chat.as_ref().filter(|chat| chat.slack().is_some()) else { return nothing() };
    let (signed, fields): (Signed, Fields) = match web.posted(&headers, &body) {
        Ok(posted) => posted,
        Err(refusal) => return *refusal,
    };
    if !chat.links().unlink(&signed.who, fields.get("team"), fields.get("user")) {
        return message(StatusCode::NOT_FOUND, "no such Slack user is linked to you");
    }
    tracing::info!(user = signed.who.user, slack = fields.get("user"), "a Slack user was unlinked");
    login::see_other("/chat/links")
}

fn question(chat: &Chat, signed: &Signed, account: &Account, code: &str) -> Page {
    let user = &signed.who.user;
    let lasts = duration(u64::try_from(chat.links().lasts().as_millis()).unwrap_or(u64::MAX));
    let page = Page::new("Is this you in Slack?").of(signed).notice(
        "Go on only if you have just clicked a button in Slack yourself. If somebody sent you this link, it is their Slack \
         user that would decide in your name.",
    );
    page.with(&Html::of(|html| {
        html.el("dl", &[], |html| {
            for (name, value) in [
                ("Slack user", account.user.as_str()),
                ("who calls themselves", account.called.as_str()),
                ("in workspace", account.team.as_str()),
                ("will decide as", user.as_str()),
                ("for", lasts.as_str()),
            ] {
                html.leaf("dt", &[], name);
                html.leaf("dd", &[], value);
            }
        });
        let action = format!("/chat/link/{code}/confirm");
        html.el("form", &[("method", "post"), ("action", &action), ("id", "link")], |html| {
            html.open("input", &[("type", "hidden"), ("name", "csrf"), ("value", &signed.csrf)]);
            html.leaf("button", &[("type", "submit"), ("class", "danger")], "This Slack user is mine");
        });
        html.el("p", &[], |html| html.leaf("a", &[("href", "/")], "No, it is not"));
    }))
}

fn listed(chat: &Chat, signed: &Signed) -> Page {
    let links = chat.links().of(&signed.who);
    Page::new("Your Slack users").of(signed).with(&Html::of(|html| {
        if links.is_empty() {
            html.leaf("p", &[], "None. Click a button in Slack, and you get a link.");
        }
        for (account, left) in &links {
            let left = duration(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            html.el("form", &[("method", "post"), ("action", "/chat/links/end")], |html| {
                html.leaf("span", &[], format_args!("{account}, for {left} more "));
                for (name, value) in
                    [("csrf", &signed.csrf), ("team", &account.team), ("user", &account.user)]
                {
                    html.open("input", &[("type", "hidden"), ("name", name), ("value", value)]);
                }
                html.leaf("button", &[("type", "submit")], "Unlink");
            });
        }
    }))
}

fn over() -> Response {
    let minutes = CODE_TIME_MAX.as_secs() / 60;
    let said = format!("this link is over: it counts once and for {minutes} minutes; click in Slack again");
    message(StatusCode::NOT_FOUND, &said)
}

fn nothing() -> Response {
    message(StatusCode::NOT_FOUND, "there is no such page")
}
