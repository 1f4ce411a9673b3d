//! What is running, for operators; and a run's permission taken away.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};

use super::guard::Posted;
use super::html::Html;
use super::layout::{Page, message};
use super::session::Use;
use super::{Signed, Web, login};
use crate::cli::text::duration;
use crate::flow::RunId;
use crate::relay::stop::{Kill, REASON_CHARS_MAX};
use crate::run::{Lapsed, RunInfo, Withdrawal, now_ms};

/// `GET /runs`.
pub(super) async fn page(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    let signed = match web.operator(&headers, "/runs") {
        Ok(signed) => signed,
        Err(refusal) => return *refusal,
    };
    let runs = web.runs.list();
    let body = Html::of(|html| {
        if runs.is_empty() {
            html.leaf("p", &[("class", "empty")], "Nothing is governed now.");
        }
        runs.iter().for_each(|run| card(html, run, &signed));
    });
    Page::new("Runs").of(&signed).with(&body).into_response()
}

fn card(html: &mut Html, run: &RunInfo, signed: &Signed) {
    let now = now_ms();
    let subject = run.known_subject();
    let (token, over) = match run.standing.check(now) {
        Ok(Some(identity)) => {
            (format!("token: {} left", duration(identity.expires_ms.saturating_sub(now))), false)
        }
        Ok(None) => ("no token".to_owned(), false),
        Err(Lapsed::Expired(_)) => ("token expired".to_owned(), false),
        Err(Lapsed::Withdrawn(withdrawal)) => {
            (format!("withdrawn by {}: {}", withdrawal.by, withdrawal.reason), true)
        }
    };
    html.el("article", &[("class", "card"), ("tabindex", "-1")], |html| {
        html.el("p", &[("class", "facts")], |html| {
            let user = subject.as_ref().map_or("each connection's own", |subject| subject.user.as_str());
            html.leaf("strong", &[], user);
            html.leaf("span", &[], format_args!("policy {}", run.policy));
            html.leaf("span", &[], format_args!("for {}", duration(now.saturating_sub(run.started_ms))));
            html.leaf("span", &[], token);
            if let Some(identity) = subject.as_ref().and_then(|subject| subject.identity.as_ref()) {
                html.leaf("span", &[], identity.shown());
            }
            for (key, value) in &run.labels {
                html.leaf("span", &[], format_args!("{key}={value}"));
            }
            html.leaf("code", &[], run.id);
        });
        if over {
            return;
        }
        let (address, length) = (format!("/runs/{}/withdraw", run.id), REASON_CHARS_MAX.to_string());
        html.el("form", &[("method", "post"), ("action", &address), ("class", "who")], |html| {
            html.open("input", &[("type", "hidden"), ("name", "csrf"), ("value", &signed.csrf)]);
            let reason = [("name", "reason"), ("placeholder", "reason"), ("aria-label", "reason")];
            html.open("input", &[&reason[..], &[("maxlength", length.as_str())]].concat());
            html.leaf("button", &[("type", "submit"), ("class", "danger")], "Withdraw");
        });
    });
}

/// `POST /runs/ID/withdraw`.
pub(super) async fn withdraw(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Posted,
) -> Response {
    let (signed, fields) = match web.decided(&headers, &body, "/runs") {
        Ok(posted) => posted,
        Err(refusal) => return *refusal,
    };
    if !signed.operator {
        return message(StatusCode::FORBIDDEN, "this is for operators");
    }
    let Ok(run) = id.parse::<RunId>() else { return message(StatusCode::NOT_FOUND, "no such run") };
    let reason = fields.get("reason").to_owned();
    if reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        return message(StatusCode::BAD_REQUEST, "a reason is one short line");
    }
    // Waits for the disk.
    let done = tokio::task::spawn_blocking(move || withdrawn(&web, run, signed.who.user, reason));
    done.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a withdrawal on the approvals page broke");
        message(StatusCode::INTERNAL_SERVER_ERROR, "this broke; the daemon's log says why")
    })
}

fn withdrawn(web: &Web, run: RunId, by: String, reason: String) -> Response {
    let withdrawal = Withdrawal { by: by.clone(), reason: reason.clone(), at_ms: now_ms() };
    let withdrawn = web.runs.withdraw(run, &withdrawal);
    if withdrawn.runs.is_empty() {
        return message(StatusCode::NOT_FOUND, "no such run is active");
    }
    let kill = Kill { by: Some(by.clone()), reason };
    let sessions: usize = withdrawn.touched().map(|run| (web.kill_run)(run, &kill)).sum();
    tracing::info!(%run, by, sessions, "an operator withdrew a run");
    match withdrawn.forgetful {
        None => login::see_other("/runs"),
        Some(error) => {
            tracing::error!(%run, %error, "a withdrawn run cannot be remembered");
            message(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the run is withdrawn, but not beyond the daemon's next start",
            )
        }
    }
}

impl Web {
    /// An operator, or what others are told instead.
    pub(super) fn operator(&self, headers: &HeaderMap, path: &str) -> Result<Signed, Box<Response>> {
        match self.signed(headers, Use::Person) {
            Some(signed) if signed.operator => Ok(signed),
            Some(_) => Err(Box::new(message(StatusCode::FORBIDDEN, "this is for operators"))),
            None => Err(Box::new(login::sign_in(path))),
        }
    }
}
