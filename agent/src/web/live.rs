//! Tells the page's script that something has changed (server-sent events, HTML Standard section 9.2): ids alone. What it
//! then shows it asks for, and is judged again.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Web;
use super::layout::message;
use super::session::{TokenDigest, Use};
use crate::approval::{Entry, Reviewer};

/// Streams at once, in all and of one person.
pub(super) const STREAMS_MAX: usize = 256;
pub(super) const STREAMS_PER_PERSON_MAX: usize = 32;
/// How often a silent stream is looked at: whether its session lasts, whether somebody still reads.
const TICK: Duration = Duration::from_secs(10);

/// So many streams at once, in all and of one person: nobody keeps others from being told.
pub(super) struct Streams {
    max: usize,
    per_person: usize,
    taken: Arc<Mutex<Vec<String>>>,
}

/// One stream's place, given back when dropped.
pub(super) struct StreamPlace {
    person: String,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Streams {
    pub(super) fn new(max: usize, per_person: usize) -> Self {
        Self { max, per_person, taken: Arc::default() }
    }

    /// A place; `None` when there are too many.
    pub(super) fn enter(&self, who: &Reviewer) -> Option<StreamPlace> {
        let identity = who.identity.as_ref();
        let person =
            identity.map_or_else(|| who.user.clone(), |known| format!("{} {}", known.issuer, known.subject));
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.iter().filter(|other| **other == person).count();
        if taken.len() >= self.max || own >= self.per_person {
            return None;
        }
        taken.push(person.clone());
        Some(StreamPlace { person, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = taken.iter().position(|other| *other == self.person) {
            taken.swap_remove(at);
        }
    }
}

struct Stream {
    web: Arc<Web>,
    digest: TokenDigest,
    changes: Receiver<Arc<Entry>>,
    _place: StreamPlace,
}

/// `GET /events`.
pub(super) async fn events(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    let Some(signed) = web.signed(&headers, Use::Script) else {
        return message(StatusCode::UNAUTHORIZED, "not signed in");
    };
    let Some(place) = web.streams.enter(&signed.who) else {
        return message(StatusCode::SERVICE_UNAVAILABLE, "too many people look at once");
    };
    let changes = web.approvals.subscribe();
    let stream = Stream { web, digest: signed.digest, changes, _place: place };
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(TICK)).into_response()
}

impl Stream {
    /// The next change that this person may see; `None` once they are signed out.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let change = tokio::time::timeout(TICK, self.changes.recv()).await;
            let who = self.web.sessions.find(&self.digest, Use::Script)?.who;
            match change {
                Ok(Ok(entry)) if self.web.approvals.may_see(&entry.request, &who) => {
                    return Some(Event::default().event("approval").data(entry.id.to_string()));
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(RecvError::Lagged(_))) => return Some(Event::default().event("approval").data("all")),
                Ok(Err(RecvError::Closed)) => return None,
            }
        }
    }
}
