//! Recorded sessions, for operators: the list with the filters of `portcullis sessions list`, and one as a timeline.

use std::io::{self, Write};
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};

use super::html::Html;
use super::layout::{Page, message};
use super::policy::table;
use super::{Signed, Web};
use crate::cli::sessions::{ListArgs, listing_row, matches};
use crate::cli::terminal::Style;
use crate::cli::transcript::Transcript;
use crate::record::read::{Catalogue, ReadError};
use crate::signin::Fields;

/// Sessions listed.
const SESSIONS_SHOWN: usize = 100;
/// Rows of each result shown.
const ROWS_SHOWN: u64 = 10;
/// Bytes of one timeline shown.
const TIMELINE_BYTES_MAX: usize = 512 * 1024;
/// Filters that are texts, and that are either on or off.
const TEXTS: [&str; 3] = ["run", "policy", "connection"];
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
    read(move || Ok(listing(&signed, &fields, &found(&web.state_dir, &fields)?))).await
}

/// `GET /sessions/ID`.
pub(super) async fn one(State(web): State<Arc<Web>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let signed = match web.operator(&headers, "/sessions") {
        Ok(signed) => signed,
        Err(refusal) => return *refusal,
    };
    read(move || {
        let text = timeline(&web.state_dir, &id)?;
        let body = Html::of(|html| html.el("pre", &[("class", "timeline")], |html| html.lines(&text)));
        Ok(Page::new("Session").of(&signed).with(&body).into_response())
    })
    .await
}

/// Reads recordings on a thread that may wait for the disk.
async fn read(work: impl FnOnce() -> Result<Response, ReadError> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
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

fn found(data_dir: &FilePath, fields: &Fields) -> Result<Vec<Vec<String>>, ReadError> {
    let text = |name| Some(fields.get(name).to_owned()).filter(|text| !text.is_empty());
    let on = |name| !fields.get(name).is_empty();
    let wanted = ListArgs {
        run: text("run"),
        policy: text("policy"),
        connection: text("connection"),
        since: None,
        denied: on("denied"),
        held: on("held"),
        live: on("live"),
        command: None,
        output: None,
        limit: SESSIONS_SHOWN,
        json: false,
    };
    let sessions =
        Catalogue::open(data_dir)?.sessions(0, SESSIONS_SHOWN, &|session| matches(&wanted, session))?;
    Ok(sessions.iter().map(listing_row).collect())
}

fn listing(signed: &Signed, fields: &Fields, sessions: &[Vec<String>]) -> Response {
    let head =
        ["session", "started", "lasted", "policy", "to", "by", "ops", "held", "denied", "masked", "ended"];
    let body = Html::of(|html| {
        html.el("form", &[("method", "get"), ("action", "/sessions"), ("class", "filters")], |html| {
            for name in TEXTS {
                let value = fields.get(name);
                html.open(
                    "input",
                    &[("name", name), ("placeholder", name), ("aria-label", name), ("value", value)],
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
        table(html, &head, |html| {
            for cells in sessions {
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
    });
    Page::new("Sessions").of(signed).with(&body).into_response()
}

/// As much of a session as is shown.
fn timeline(data_dir: &FilePath, id: &str) -> Result<String, ReadError> {
    let catalogue = Catalogue::open(data_dir)?;
    let mut shown = Bounded(Vec::new());
    let mut transcript = Transcript::new(&mut shown, Style::Plain, ROWS_SHOWN);
    for recorded in catalogue.events(catalogue.resolve(id)?)? {
        // It says that it is full, and nothing else goes wrong with it.
        if transcript.event(&recorded?).is_err() {
            break;
        }
    }
    let mut text = String::from_utf8_lossy(&shown.0).into_owned();
    if shown.0.len() >= TIMELINE_BYTES_MAX {
        text.push_str("\nCUT: `portcullis sessions show` has the rest\n");
    }
    Ok(text)
}

/// A buffer that takes so much and no more.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = TIMELINE_BYTES_MAX.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend(bytes.iter().take(room));
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
