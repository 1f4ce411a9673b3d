//! One exchange in the record: its request's body as it passes, its answer, and how it ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use super::coding::Decoder;
use super::session::Session;
use crate::mask::http::{BodyMasker, Counts};
use crate::record::RecordError;
use crate::record::asked::recorded_headers;
use crate::record::body::{BodyRecorder, BodySummary};
use crate::record::event::{Direction, HttpOutcome, Outcome, OutcomeStatus, ServerError};
use crate::relay::open::OpenGuard;
use crate::upstream::http::BodyError;

/// What is recorded of a request's body while it passes. Shared between the body and the exchange's end.
#[derive(Clone)]
pub(super) struct RequestTap {
    session: Arc<Session>,
    state: Arc<Mutex<Tap>>,
}

struct Tap {
    recorder: Option<BodyRecorder>,
    /// What is recorded of a coded body is what it says.
    decoder: Option<Decoder>,
    masker: Option<BodyMasker>,
    summary: BodySummary,
    counts: Counts,
}

impl RequestTap {
    pub(super) fn new(
        session: &Arc<Session>,
        recorder: BodyRecorder,
        decoder: Option<Decoder>,
        masker: Option<BodyMasker>,
    ) -> Self {
        let state = Tap {
            recorder: Some(recorder),
            decoder,
            masker,
            summary: BodySummary::default(),
            counts: Counts::new(),
        };
        Self { session: Arc::clone(session), state: Arc::new(Mutex::new(state)) }
    }

    /// Takes note of a piece that is about to be forwarded.
    ///
    /// # Errors
    /// It cannot be recorded; it must not be forwarded then.
    pub(super) fn push(&self, piece: &Bytes) -> Result<(), BodyError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Tap { recorder: Some(recorder), decoder, masker, .. } = &mut *state else { return Ok(()) };
        let mut input = piece.clone();
        let (mut plain, mut shown) = (Vec::new(), Vec::new());
        loop {
            let before = (input.len(), plain.len());
            match decoder {
                // What cannot be decoded is recorded as a length and a digest of what was decoded so far.
                Some(decoder) => drop(decoder.step(&mut input, &mut plain)),
                None => {
                    plain.extend_from_slice(&input);
                    input = Bytes::new();
                }
            }
            let stuck = (input.len(), plain.len()) == before;
            match masker {
                Some(masker) => masker.push(&plain, &mut shown),
                None => std::mem::swap(&mut plain, &mut shown),
            }
            if let Some(block) = recorder.push(&shown) {
                self.session.with_record(|record| record.body(&block).map(|_| ()))?;
            }
            plain.clear();
            shown.clear();
            if stuck || input.is_empty() && decoder.is_none() {
                return Ok(());
            }
        }
    }

    /// Adds what was masked on the way to the server.
    pub(super) fn masked(&self, counts: &Counts) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut state.counts, counts);
    }

    /// The body is complete, or will not be.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut recorder) = state.recorder.take() else { return };
        let mut shown = Vec::new();
        if let Some(masker) = &mut state.masker {
            masker.finish(&mut shown);
        }
        let blocks = [recorder.push(&shown)].into_iter().flatten();
        let (last, summary) = recorder.finish();
        for block in blocks.chain(last) {
            if let Err(error) = self.session.with_record(|record| record.body(&block).map(|_| ())) {
                tracing::error!(%error, "the end of a request's body could not be recorded");
            }
        }
        state.summary = summary;
    }

    fn take(&self) -> (BodySummary, Counts) {
        self.end();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.summary), std::mem::take(&mut state.counts))
    }
}

/// Adds counts by rule.
pub(super) fn add(to: &mut Counts, more: &Counts) {
    for (rule, count) in more {
        *to.entry(rule.clone()).or_default() += count;
    }
}

/// One forwarded exchange, from its intent to its outcome.
pub(super) struct ExchangeLog {
    session: Arc<Session>,
    operation: u64,
    forwarded: Instant,
    answered: Option<Instant>,
    request: RequestTap,
    response: Option<BodyRecorder>,
    outcome: Box<HttpOutcome>,
    masked: Counts,
    ended: bool,
    /// The session's record stays open until this is written.
    _open: OpenGuard,
}

impl ExchangeLog {
    /// A request is about to be forwarded.
    pub(super) fn new(
        session: &Arc<Session>,
        operation: u64,
        request: RequestTap,
        bytes_max: u64,
        open: OpenGuard,
    ) -> Self {
        Self {
            _open: open,
            session: Arc::clone(session),
            operation,
            forwarded: Instant::now(),
            answered: None,
            request,
            response: Some(BodyRecorder::new(operation, Direction::Response, bytes_max)),
            outcome: Box::default(),
            masked: Counts::new(),
            ended: false,
        }
    }

    /// Something about the exchange that its reader should know.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.outcome.notes.push(text.into());
    }

    /// The connection it goes over.
    pub(super) fn connected(&mut self, address: std::net::SocketAddr, took: Option<Duration>) {
        self.outcome.server = Some(address.to_string());
        self.outcome.connect_us = took.map(micros);
    }

    /// The head of the answer, as the client gets it.
    pub(super) fn answered(&mut self, head: &http::response::Parts) {
        self.answered = Some(Instant::now());
        self.outcome.wait_us = micros(self.forwarded.elapsed());
        self.outcome.status = head.status.as_u16();
        self.outcome.version = format!("{:?}", head.version);
        self.outcome.headers = recorded_headers(&head.headers);
    }

    /// Adds what was masked.
    pub(super) fn masked(&mut self, counts: &Counts) {
        add(&mut self.masked, counts);
    }

    /// A piece of the answer that is about to be passed on, masked.
    ///
    /// # Errors
    /// It cannot be recorded; it must not be passed on then.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), RecordError> {
        let block = self.response.as_mut().and_then(|recorder| recorder.push(piece));
        match block {
            Some(block) => self.session.with_record(|record| record.body(&block).map(|_| ())),
            None => Ok(()),
        }
    }

    /// Fields after the answer's body.
    pub(super) fn trailers(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(trailers) = trailers {
            self.outcome.trailers = recorded_headers(trailers);
        }
    }

    /// Number of the operation.
    pub(super) fn operation(&self) -> u64 {
        self.operation
    }

    /// The exchange is over.
    pub(super) fn finish(mut self, status: OutcomeStatus, error: Option<&dyn std::error::Error>) {
        self.write(status, error);
    }

    fn write(&mut self, status: OutcomeStatus, error: Option<&dyn std::error::Error>) {
        self.ended = true;
        let (request_body, counts) = self.request.take();
        add(&mut self.masked, &counts);
        self.outcome.request_body = request_body;
        let mut last = None;
        if let Some(recorder) = self.response.take() {
            (last, self.outcome.response_body) = recorder.finish();
        }
        self.outcome.receive_us = self.answered.map_or(0, |at| micros(at.elapsed()));
        let outcome = Outcome {
            operation: self.operation,
            status,
            bytes: self.outcome.response_body.bytes,
            error: error.map(|error| ServerError { sqlstate: String::new(), message: causes(error) }),
            elapsed_us: micros(self.forwarded.elapsed()),
            masked: std::mem::take(&mut self.masked),
            http: Some(std::mem::take(&mut self.outcome)),
            ..Outcome::default()
        };
        let recorded = self.session.with_record(|record| {
            if let Some(block) = &last {
                record.body(block)?;
            }
            record.outcome(outcome).map(|_| ())
        });
        if let Err(error) = recorded {
            tracing::error!(%error, "the outcome of a request could not be recorded");
        }
    }
}

impl Drop for ExchangeLog {
    fn drop(&mut self) {
        if !self.ended {
            self.write(OutcomeStatus::Unknown, None);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An error with what caused it, in one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
