//! One request: everything that is known of it, and the forms of whoever may decide it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};

use super::html::Html;
use super::inbox::left;
use super::layout::{Page, fragment, message};
use super::recordings::read;
use super::session::Use;
use super::{Signed, Web, login, sql};
use crate::approval::{Entry, GRANT_USES_MAX, REASON_BYTES_MAX, Request, Review};
use crate::cli::approvals::covers;
use crate::cli::before;
use crate::cli::text::moment;
use crate::flow::{ApprovalId, Process};
use crate::request::ObjectName;
use crate::run::now_ms;

/// Labels of the run shown.
const LABELS_SHOWN: usize = 16;

/// `GET /approvals/ID`.
pub(super) async fn page(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(signed) = web.signed(&headers, Use::Person) else {
        return login::sign_in(&format!("/approvals/{id}"));
    };
    match web.visible(&id, &signed) {
        Some(entry) => {
            let places = Arc::clone(&web.requests);
            read(&places, move || Ok(whole(&web, &signed, &entry).into_response())).await
        }
        None => message(StatusCode::NOT_FOUND, "no such request that you may see"),
    }
}

/// `GET /live/approvals/ID`: what may have changed, for the script.
pub(super) async fn part(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(signed) = web.signed(&headers, Use::Script) else {
        return message(StatusCode::UNAUTHORIZED, "not signed in");
    };
    match web.visible(&id, &signed) {
        Some(entry) => fragment(state(&entry)),
        None => message(StatusCode::NOT_FOUND, "no such request that you may see"),
    }
}

impl Web {
    /// A request that this person may read; others do not exist for them.
    pub(super) fn visible(&self, id: &str, signed: &Signed) -> Option<Arc<Entry>> {
        let id: ApprovalId = id.parse().ok()?;
        self.approvals.get(id).filter(|entry| self.approvals.may_see(&entry.request, &signed.who))
    }
}

/// The page, for more to be said on it. Waits for the disk.
pub(super) fn whole(web: &Web, signed: &Signed, entry: &Entry) -> Page {
    let live = format!("/live/approvals/{}", entry.id);
    let body = Html::of(|html| {
        html.el("div", &[("data-live", &live), ("data-id", &entry.id.to_string())], |html| {
            html.piece(&state(entry));
        });
        statement(html, &entry.request);
        parameters(html, &entry.request);
        side_effects(html, &entry.request);
        forms(html, web, signed, entry);
        done_before(html, web, signed, entry);
        facts(html, web, entry);
    });
    Page::new(format!("{} on {}", entry.request.effect, entry.request.connection)).of(signed).with(&body)
}

/// What may change while somebody looks.
fn state(entry: &Entry) -> Html {
    Html::of(|html| {
        let settled = if entry.outcome.is_some() { "yes" } else { "no" };
        html.el("p", &[("class", "state"), ("data-settled", settled)], |html| {
            html.leaf("strong", &[], entry.shown());
            if entry.outcome.is_none() {
                html.text(" ");
                left(html, entry, now_ms());
            }
        });
        for vote in &entry.votes {
            let said = format!("approved by {} at {}: {}", vote.by.user, moment(vote.at_ms), vote.reason);
            html.leaf("p", &[("class", "vote")], said);
        }
        if let Some(grant) = &entry.grant {
            html.leaf("p", &[], format!("covers {}", covers(grant)));
        }
        if let Some(Review { by: Some(by), note }) = &entry.review {
            html.leaf("p", &[], format_args!("reviewed by {}: {note}", by.user));
        }
    })
}

/// The statement, whole or with the word that it is cut.
pub(super) fn statement(html: &mut Html, request: &Request) {
    let content = &request.content;
    html.el("pre", &[("class", "statement")], |html| match request.database {
        Some(_) => sql::write(html, &content.statement),
        None => html.lines(&content.statement),
    });
    if content.statement_bytes > u64::try_from(content.statement.len()).unwrap_or(u64::MAX) {
        let said = format!("CUT: it has {} bytes; the beginning is shown", content.statement_bytes);
        html.leaf("p", &[("class", "notice")], said);
    }
}

fn parameters(html: &mut Html, request: &Request) {
    let content = &request.content;
    if content.parameters.is_empty() {
        return;
    }
    html.el("ol", &[("class", "parameters")], |html| {
        for parameter in &content.parameters {
            html.leaf(
                "li",
                &[],
                parameter.as_deref().map_or_else(|| "NULL".to_owned(), |v| format!("'{v}'")),
            );
        }
    });
    if content.parameter_count > u64::try_from(content.parameters.len()).unwrap_or(u64::MAX) {
        let said = format!("CUT: there are {} parameters; the first are shown", content.parameter_count);
        html.leaf("p", &[("class", "notice")], said);
    }
}

/// What the run did just before, for whoever has to judge this one in its context.
fn done_before(html: &mut Html, web: &Web, signed: &Signed, entry: &Entry) {
    html.leaf("h2", &[], "Just before, in this run");
    let all = web.approvals.may_see_run(&entry.request, &signed.who);
    let found = entry.done_before(&web.state_dir, all);
    if found.as_ref().is_ok_and(|before| !before.whole) {
        html.leaf("p", &[("class", "notice")], before::LACKS);
    }
    match found {
        Ok(before) if before.operations.is_empty() => {
            html.leaf("p", &[("class", "empty")], "Nothing is on record.");
        }
        Ok(found) => html.el("ol", &[("class", "before"), ("id", "before")], |html| {
            for (operation, _) in &found.operations {
                let [at, effect, became, text] = before::cells(operation);
                html.el("li", &[], |html| {
                    html.el("p", &[("class", "facts")], |html| {
                        html.leaf("span", &[], at);
                        html.leaf("span", &[], effect);
                        html.leaf("span", &[], became);
                    });
                    html.leaf("code", &[], text);
                });
            }
        }),
        Err(error) => {
            tracing::error!(%error, "the approvals page cannot read the recordings");
            html.leaf("p", &[("class", "notice")], "The recordings cannot be read; the log says why.");
        }
    }
}

/// What it sets off besides.
fn side_effects(html: &mut Html, request: &Request) {
    let Some(found) = &request.side_effects else { return };
    html.leaf("h2", &[], "What it sets off");
    html.el("ul", &[("class", "side-effects")], |html| {
        for (relation, parts) in found.lines() {
            html.el("li", &[], |html| {
                html.text(relation);
                if !parts.is_empty() {
                    html.el("ul", &[], |html| parts.iter().for_each(|part| html.leaf("li", &[], part)));
                }
            });
        }
    });
}

fn facts(html: &mut Html, web: &Web, entry: &Entry) {
    let (request, subject) = (&entry.request, &entry.request.subject);
    let objects: Vec<String> = request.objects.iter().map(ObjectName::to_string).collect();
    let approvers =
        if request.approvers.is_empty() { "operators".to_owned() } else { request.approvers.join(", ") };
    let database = request.database.as_deref().map_or_else(String::new, |name| format!(", database {name}"));
    let mut rows = vec![
        ("effect", format!("{} ({})", request.effect, request.kinds.join("; "))),
        ("objects", if objects.is_empty() { "-".to_owned() } else { objects.join(", ") }),
        ("rows", request.estimated_rows.map_or_else(|| "-".to_owned(), |rows| format!("~{rows}"))),
        ("target", format!("{} at {}{database}", request.connection, request.destination)),
        ("user", format!("{} (uid {})", subject.user, subject.uid)),
        (
            "process",
            format!("{} uid {}: {}", request.process.tgid, request.process.uid, command(&request.process)),
        ),
        ("rule", format!("{} (policy {}, version {})", request.rule, request.policy, request.policy_version)),
        ("approvers", approvers),
        ("needs", format!("{} approvals by as many persons", request.quorum)),
        ("asked", moment(entry.asked_ms)),
        ("run", request.run.to_string()),
        ("session", request.session.to_string()),
        ("id", entry.id.to_string()),
        ("digest", entry.digest.to_string()),
    ];
    if let Some(identity) = &subject.identity {
        rows.push(("subject", identity.shown()));
    }
    if let Some(needs) = &request.step_up {
        rows.push(("sign-in", format!("who approves needs a fresh one {needs}")));
    }
    if request.distinct_groups {
        rows.push(("distinct", "each for another of the approvers".to_owned()));
    }
    if let Some(shape) = &request.shape {
        rows.push(("shape", shape.clone()));
    }
    if let Some(run) = web.runs.find(request.run) {
        let labels = run.labels.iter().take(LABELS_SHOWN).map(|(key, value)| format!("{key}={value}"));
        rows.push(("labels", labels.collect::<Vec<_>>().join(", ")));
    }
    if entry.deferred {
        rows.push(("client", "was sent away; it takes the answer when it asks again".to_owned()));
    }
    if request.in_transaction {
        rows.push(("caution", "it waits inside a transaction, which may hold locks".to_owned()));
    }
    html.el("dl", &[], |html| {
        for (name, value) in &rows {
            html.leaf("dt", &[], name);
            html.leaf("dd", &[], value);
        }
    });
}

/// What this person may do with it now. What they may not is said, and why.
fn forms(html: &mut Html, web: &Web, signed: &Signed, entry: &Entry) {
    let may = web.approvals.may_decide(&entry.request, &signed.who, false);
    let glass = web.approvals.may_decide(&entry.request, &signed.who, true).is_ok();
    let proved = entry.request.check_proof(&signed.who, now_ms());
    let seen = [("csrf", signed.csrf.clone()), ("digest", entry.digest.to_string())];
    if entry.outcome.is_none() {
        if let (Err(error), false) = (&may, glass) {
            html.leaf("p", &[("class", "notice"), ("id", "may-not")], error);
            return;
        }
        html.el("div", &[("class", "forms")], |html| {
            if let Err(error) = &proved {
                login::for_approval(html, entry, error);
            }
            if may.is_ok() && proved.is_ok() {
                form(html, entry, "decide", "approve", &seen, |html| {
                    reason(html, false);
                    scope(html, &entry.request);
                    html.leaf("button", &[("type", "submit"), ("class", "primary")], "Approve");
                });
            }
            if may.is_ok() {
                form(html, entry, "decide", "deny", &seen, |html| {
                    reason(html, false);
                    html.leaf("button", &[("type", "submit"), ("class", "danger")], "Deny");
                });
            }
            if glass && proved.is_ok() {
                form(html, entry, "decide", "break-glass", &seen, |html| {
                    html.leaf(
                        "p",
                        &[],
                        "In an emergency, without the others whose word it needs. Alerted, and reviewed.",
                    );
                    reason(html, true);
                    html.leaf("button", &[("type", "submit"), ("class", "danger")], "Break glass");
                });
            }
        });
        return;
    }
    if entry.grant.as_ref().is_some_and(|grant| grant.revoked_by.is_none() && grant.uses_left > 0) {
        form(html, entry, "revoke", "revoke", &seen, |html| {
            html.leaf("button", &[("type", "submit")], "Revoke what is left of it");
        });
    }
    if entry.review.as_ref().is_some_and(|review| review.by.is_none()) && may.is_ok() {
        match &proved {
            Err(error) => login::for_approval(html, entry, error),
            Ok(()) => form(html, entry, "review", "review", &seen, |html| {
                reason(html, false);
                html.leaf("button", &[("type", "submit")], "I have looked at this broken glass");
            }),
        }
    }
}

fn form(
    html: &mut Html,
    entry: &Entry,
    action: &str,
    answer: &str,
    hidden: &[(&str, String)],
    inside: impl FnOnce(&mut Html),
) {
    let address = format!("/approvals/{}/{action}", entry.id);
    html.el("form", &[("method", "post"), ("action", &address), ("id", answer)], |html| {
        html.open("input", &[("type", "hidden"), ("name", "answer"), ("value", answer)]);
        for (name, value) in hidden {
            html.open("input", &[("type", "hidden"), ("name", name), ("value", value)]);
        }
        inside(html);
    });
}

fn reason(html: &mut Html, needed: bool) {
    let length = REASON_BYTES_MAX.to_string();
    html.el("label", &[], |html| {
        html.text(if needed { "Reason (needed) " } else { "Reason " });
        let mut attributes = vec![
            ("type", "text"),
            ("name", "reason"),
            ("maxlength", length.as_str()),
            ("autocomplete", "off"),
        ];
        if needed {
            attributes.push(("required", ""));
        }
        html.open("input", &attributes);
    });
}

fn scope(html: &mut Html, request: &Request) {
    html.el("label", &[], |html| {
        html.text("Covers ");
        html.el("select", &[("name", "scope")], |html| {
            html.leaf("option", &[("value", "once")], "this operation, once");
            html.leaf("option", &[("value", "operation")], "this operation in this run, for a while");
            if request.shape.is_some() {
                html.leaf("option", &[("value", "shape")], "its shape in this run, for a while");
            }
        });
    });
    let uses = GRANT_USES_MAX.to_string();
    for (name, said, value, max) in
        [("minutes", "for minutes ", "10", "1440"), ("uses", "at most so often ", "20", uses.as_str())]
    {
        html.el("label", &[("class", "while")], |html| {
            html.text(said);
            html.open(
                "input",
                &[("type", "number"), ("name", name), ("value", value), ("min", "1"), ("max", max)],
            );
        });
    }
}

/// The command line, or the name where `/proc` did not have it.
pub(super) fn command(process: &Process) -> String {
    match process.argv.is_empty() {
        true => process.comm.clone(),
        false => process.argv.join(" "),
    }
}
