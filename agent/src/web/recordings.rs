//! Recorded sessions, for operators: the list with the filters of `portcullis sessions list`, a page at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;

use super::html::Html;
use super::layout::{Page, message};
use super::policy::table;
use super::{Signed, Web};
use crate::cli::find::{self, Found, ListArgs};
use crate::cli::sessions::listing_row;
use crate::flow::SessionId;
use crate::record::read::{Catalogue, ReadError};
use crate::signin::Fields;

/// Recordings looked through at once, and, so that those who decide never wait for those who look back, requests that are
/// shown with what came before them.
pub(super) const READERS_MAX: usize = 4;
pub(super) const REQUESTS_MAX: usize = 4;
/// Frames of the log behind the index that are read for one page.
pub(super) const FRAMES_MAX: usize = 256 * 1024;
/// What is said where there are more.
pub(super) const LAGS: &str =
    "The index of the recordings is being made: what came last may be missing here.";
/// Sessions of one page.
const SESSIONS_SHOWN: usize = 100;
/// How long recordings are looked through for one page; the next page goes on from there.
const LOOK_TIME_MAX: Duration = Duration::from_secs(8);
/// Filters that are texts, with what is said of each.
const TEXTS: [(&str, &str); 8] = [
    ("run", "run"),
    ("policy", "policy"),
    ("connection", "connection"),
    ("protocol", "protocol"),
    ("user", "user"),
    ("since", "within, such as 2h"),
    ("command", "text of what was asked"),
    ("output", "text that SSH showed"),
];
/// Filters that are either on or off.
const SWITCHES: [&str; 3] = ["live", "held", "denied"];

/// `GET /sessions`.
pub(super) async fn list(
    State(web): State<Arc<Web>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let signed = match web.operator(&headers, "/sessions") {
        Ok(signed) => signed,
        Err(refusal) => return *refusal,
    };
    let fields = Fields::parse(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let Some((wanted, before)) = asked(&fields) else {
        return listing(&signed, &fields, &Found::default())
            .notice("This cannot be looked for: a time is written like 90s, 2h or 7d.")
            .status(StatusCode::BAD_REQUEST)
            .into_response();
    };
    let readers = Arc::clone(&web.readers);
    read(&readers, move || {
        let catalogue = Catalogue::open_within(&web.state_dir, FRAMES_MAX)?;
        let page = listing(&signed, &fields, &found(&catalogue, &wanted, before)?);
        Ok(if catalogue.is_whole() { page } else { page.notice(LAGS) }.into_response())
    })
    .await
}

/// Reads recordings on a thread that may wait for the disk, of which there are as many as there are `places`.
pub(super) async fn read(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<Response, ReadError> + Send + 'static,
) -> Response {
    let Ok(place) = Arc::clone(places).acquire_owned().await else {
        return message(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending");
    };
    let reading = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    match reading.await {
        Ok(Ok(page)) => page,
        Ok(Err(error @ (ReadError::NotFound { .. } | ReadError::Ambiguous { .. }))) => {
            message(StatusCode::NOT_FOUND, &error.to_string())
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the approvals page cannot read the recordings");
            message(StatusCode::INTERNAL_SERVER_ERROR, "the recordings cannot be read; the log says why")
        }
        Err(_broken) => message(StatusCode::INTERNAL_SERVER_ERROR, "this broke; the log says why"),
    }
}

/// What a form asks for: the filters, and the session that the page before ended at. `None` when it says what it cannot mean.
fn asked(fields: &Fields) -> Option<(ListArgs, Option<SessionId>)> {
    let text = |name| Some(fields.get(name).trim().to_owned()).filter(|text| !text.is_empty());
    let on = |name| !fields.get(name).is_empty();
    let before = text("before").map(|id| id.parse()).transpose().ok()?;
    let wanted = ListArgs {
        run: text("run"),
        policy: text("policy"),
        connection: text("connection"),
        protocol: text("protocol"),
        user: text("user"),
        since: text("since").map(|time| humantime::parse_duration(&time)).transpose().ok()?,
        denied: on("denied"),
        held: on("held"),
        live: on("live"),
        command: text("command"),
        output: text("output"),
        limit: SESSIONS_SHOWN,
        json: false,
    };
    Some((wanted, before))
}

fn found(catalogue: &Catalogue, wanted: &ListArgs, before: Option<SessionId>) -> Result<Found, ReadError> {
    let begun = Instant::now();
    let go_on = || begun.elapsed() < LOOK_TIME_MAX;
    find::sessions(wanted, before, &go_on, catalogue)
}

fn listing(signed: &Signed, fields: &Fields, found: &Found) -> Page {
    let head =
        ["session", "started", "lasted", "policy", "to", "by", "ops", "held", "denied", "masked", "ended"];
    let body = Html::of(|html| {
        filters(html, fields);
        table(html, &head, |html| {
            for cells in found.sessions.iter().map(listing_row) {
                html.el("tr", &[], |html| {
                    for (at, cell) in cells.iter().enumerate() {
                        html.el("td", &[], |html| match at {
                            0 => html.leaf("a", &[("href", &format!("/sessions/{cell}"))], cell),
                            _ => html.text(cell),
                        });
                    }
                });
            }
        });
        if found.unreadable > 0 {
            let said = format!("{} sessions could not be read and were left out.", found.unreadable);
            html.leaf("p", &[("class", "notice")], said);
        }
        more(html, fields, found);
    });
    Page::new("Sessions").of(signed).with(&body)
}

fn filters(html: &mut Html, fields: &Fields) {
    html.el("form", &[("method", "get"), ("action", "/sessions"), ("class", "filters")], |html| {
        for (name, said) in TEXTS {
            let value = fields.get(name);
            html.open(
                "input",
                &[("name", name), ("placeholder", said), ("aria-label", said), ("value", value)],
            );
        }
        for name in SWITCHES {
            let mut attributes = vec![("type", "checkbox"), ("name", name)];
            if !fields.get(name).is_empty() {
                attributes.push(("checked", ""));
            }
            html.el("label", &[], |html| {
                html.open("input", &attributes);
                html.text(name);
            });
        }
        html.leaf("button", &[("type", "submit")], "Filter");
    });
}

/// The way to what is older, with the same filters.
fn more(html: &mut Html, fields: &Fields, found: &Found) {
    let last = found.sessions.last().map(|session| session.session);
    let full = found.sessions.len() >= SESSIONS_SHOWN;
    let Some(before) = found.reached.or(last.filter(|_| full)) else { return };
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in TEXTS.iter().map(|(name, _)| *name).chain(SWITCHES) {
        let value = fields.get(name);
        if !value.is_empty() {
            query.append_pair(name, value);
        }
    }
    query.append_pair("before", &before.to_string());
    let said = match found.reached {
        Some(_) => "Looking took too long; go on with older ones",
        None => "Older",
    };
    html.el("p", &[], |html| {
        html.leaf("a", &[("id", "older"), ("href", &format!("/sessions?{}", query.finish()))], said);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_what_is_looked_for() {
        let said = |query: &str| asked(&Fields::parse(query.as_bytes()).unwrap());
        let (wanted, before) = said("policy=shop&user=+ada&since=2h&live=on&output=&command=DROP").unwrap();
        assert_eq!((wanted.policy.as_deref(), wanted.user.as_deref()), (Some("shop"), Some("ada")));
        assert_eq!((wanted.since, wanted.live, wanted.held), (Some(Duration::from_hours(2)), true, false));
        assert_eq!((wanted.command.as_deref(), wanted.output, before), (Some("DROP"), None, None));
        let id = SessionId::generate();
        assert_eq!(said(&format!("before={id}")).unwrap().1, Some(id));
        assert!(said("since=yesterday").is_none() && said("before=x").is_none());
    }

    #[test]
    fn what_took_too_long_goes_on_from_where_it_ended() {
        let fields = Fields::parse(b"command=a%26b&before=x&live=on").unwrap();
        let id = SessionId::generate();
        let html = Html::of(|html| more(html, &fields, &Found { reached: Some(id), ..Found::default() }));
        let text = html.fragment();
        assert!(text.contains(&format!("/sessions?command=a%26b&amp;live=on&amp;before={id}\"")), "{text}");
        assert_eq!(Html::of(|html| more(html, &fields, &Found::default())).fragment(), "");
    }
}
