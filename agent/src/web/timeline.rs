//! One recorded session as a timeline, for operators; while it goes on, what comes is added (server-sent events, HTML Standard
//! section 9.2).

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::{HeaderMap, StatusCode};

use super::html::Html;
use super::layout::{Page, message};
use super::live::StreamPlace;
use super::recordings::{FRAMES_MAX, LAGS, read};
use super::session::{TokenDigest, Use};
use super::{Signed, Web};
use crate::cli::terminal::Style;
use crate::cli::text::shown;
use crate::cli::transcript::{SoFar, Transcript};
use crate::flow::SessionId;
use crate::record::event::Event;
use crate::record::read::{Catalogue, Place, ReadError};
use crate::signin::Fields;

/// Rows of each result shown.
const ROWS_SHOWN: u64 = 10;
/// Bytes of one timeline shown.
const TIMELINE_BYTES_MAX: usize = 512 * 1024;
/// Bytes of what is added at once, more or less: the last event is added whole.
const PART_BYTES: usize = 32 * 1024;
/// Sessions that are watched at once, in all and by one person.
pub(super) const TAILS_MAX: usize = 32;
pub(super) const TAILS_PER_PERSON_MAX: usize = 4;
/// How often a session that is watched is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// `GET /sessions/ID`.
pub(super) async fn page(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let signed = match web.operator(&headers, "/sessions") {
        Ok(signed) => signed,
        Err(refusal) => return *refusal,
    };
    let readers = Arc::clone(&web.readers);
    read(&readers, move || Ok(whole(&signed, &timeline(&web.state_dir, &id)?))).await
}

fn whole(signed: &Signed, timeline: &Timeline) -> Response {
    let body = Html::of(|html| {
        let tail = format!("/sessions/{}/tail?from={}", timeline.session, timeline.reached);
        let mut attributes = vec![("class", "timeline"), ("id", "timeline")];
        if timeline.goes_on {
            html.leaf("p", &[("class", "state"), ("id", "tail-state")], "It goes on; what comes is added.");
            attributes.push(("data-tail", &tail));
        }
        html.el("pre", &attributes, |html| html.lines(&timeline.text));
    });
    Page::new("Session").of(signed).with(&body).into_response()
}

/// As much of a session as is shown at first.
struct Timeline {
    session: SessionId,
    text: String,
    /// Behind what is shown.
    reached: Place,
    /// Whether more may come, and can be added.
    goes_on: bool,
}

fn timeline(data_dir: &FilePath, id: &str) -> Result<Timeline, ReadError> {
    let catalogue = Catalogue::open_within(data_dir, FRAMES_MAX)?;
    let session = catalogue.resolve(id)?;
    let mut shown = Bounded(Vec::new());
    let mut transcript = Transcript::new(&mut shown, Style::Plain, ROWS_SHOWN);
    let (mut events, mut goes_on) = (catalogue.events(session)?, true);
    while let Some(recorded) = events.next().transpose()? {
        // It says that it is full, and nothing else goes wrong with it.
        if transcript.event(&recorded).is_err() {
            goes_on = false;
            break;
        }
        goes_on &= !matches!(recorded.event, Some(Event::SessionClosed(_)));
    }
    let mut text = String::from_utf8_lossy(&shown.0).into_owned();
    if !catalogue.is_whole() {
        text = format!("{LAGS}\n\n{text}");
    }
    if shown.0.len() >= TIMELINE_BYTES_MAX {
        text.push_str("\nCUT: `portcullis sessions show` has the rest\n");
    }
    Ok(Timeline { session, text, reached: events.reached(), goes_on })
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

/// Somebody watches a session.
struct Tail {
    web: Arc<Web>,
    digest: TokenDigest,
    session: SessionId,
    reached: Place,
    so_far: SoFar,
    over: bool,
    /// Until when nothing new is looked for.
    next: tokio::time::Instant,
    _place: StreamPlace,
}

/// `GET /sessions/ID/tail?from=PLACE`. A browser that comes back says itself how far it was (`Last-Event-ID`).
pub(super) async fn tail(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let signed = match web.signed(&headers, Use::Script) {
        Some(signed) if signed.operator => signed,
        Some(_) => return message(StatusCode::FORBIDDEN, "this is for operators"),
        None => return message(StatusCode::UNAUTHORIZED, "not signed in"),
    };
    let fields = Fields::parse(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let (Ok(session), Ok(reached)) = (id.parse(), last.unwrap_or_else(|| fields.get("from")).parse()) else {
        return message(StatusCode::NOT_FOUND, "no such place in a session");
    };
    let Some(place) = web.tails.enter(&signed.who) else {
        return message(StatusCode::SERVICE_UNAVAILABLE, "too many sessions are watched at once");
    };
    let (digest, next, so_far) = (signed.digest, tokio::time::Instant::now(), SoFar::default());
    let tail = Tail { web, digest, session, reached, so_far, over: false, next, _place: place };
    let parts = stream::unfold(tail, |mut tail| async move {
        let part = tail.next().await?;
        Some((Ok::<_, Infallible>(part), tail))
    });
    Sse::new(parts).keep_alive(KeepAlive::default()).into_response()
}

impl Tail {
    /// What was added since; `None` once the session has ended, or whoever watches is signed out.
    async fn next(&mut self) -> Option<Sent> {
        while !self.over {
            tokio::time::sleep_until(self.next).await;
            // As they are now: somebody may have signed out, or in as another.
            self.web.sessions.find(&self.digest, Use::Script)?;
            let (web, session, reached) = (Arc::clone(&self.web), self.session, self.reached);
            let so_far = std::mem::take(&mut self.so_far);
            let reading = Arc::clone(&self.web.readers).acquire_owned().await.ok()?;
            let looked = tokio::task::spawn_blocking(move || {
                // Given back once it is read, also when nobody waits for it any more.
                let _reading = reading;
                added(&web.state_dir, session, reached, so_far)
            });
            let looked = looked.await;
            let added = match looked {
                Ok(Ok(added)) => added,
                Ok(Err(error)) => {
                    tracing::error!(%error, %session, "a session cannot be watched");
                    return None;
                }
                Err(_broken) => return None,
            };
            // A store that is slow to read is looked at less often.
            let pause = if added.more { Duration::ZERO } else { LOOK_INTERVAL.max(added.took * 3) };
            self.next = tokio::time::Instant::now() + pause;
            (self.reached, self.so_far, self.over) = (added.reached, added.so_far, added.over);
            if !added.text.is_empty() {
                let event = if self.over { "last" } else { "part" };
                return Some(
                    Sent::default().event(event).id(self.reached.to_string()).data(shown(&added.text, true)),
                );
            }
        }
        None
    }
}

/// What has come since.
struct Added {
    text: String,
    reached: Place,
    so_far: SoFar,
    /// It has ended.
    over: bool,
    /// There is more already.
    more: bool,
    took: Duration,
}

fn added(
    data_dir: &FilePath,
    session: SessionId,
    from: Place,
    mut so_far: SoFar,
) -> Result<Added, ReadError> {
    let begun = Instant::now();
    let catalogue = Catalogue::open_within(data_dir, FRAMES_MAX)?;
    so_far.started_ns = so_far.started_ns.or_else(|| Some(catalogue.session(session)?.started_ns));
    let (mut text, mut over, mut more) = (Vec::new(), false, false);
    let mut events = catalogue.events_from(session, from)?;
    while let Some(recorded) = events.next().transpose()? {
        let mut transcript = Transcript::after(so_far, &mut text, Style::Plain, ROWS_SHOWN);
        // Memory takes it.
        drop(transcript.event(&recorded));
        so_far = transcript.so_far();
        over |= matches!(recorded.event, Some(Event::SessionClosed(_)));
        more = text.len() >= PART_BYTES;
        if more {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Added { text, reached: events.reached(), so_far, over, more, took: begun.elapsed() })
}
