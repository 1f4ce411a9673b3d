//! Bodies on their way: decoded, masked and recorded piece by piece, with bounded memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::coding::Decoder;
use super::forward::mask_headers;
use super::log::{ExchangeLog, RequestTap};
use crate::mask::http::{BodyMasker, BodyMasks, Counts};
use crate::record::event::OutcomeStatus;
use crate::upstream::http::{BodyError, Lease};

/// Bytes gathered into one piece before it is passed on.
const PIECE_BYTES: usize = 64 * 1024;

/// How long a word at the end of what has come is held back, because it could be the beginning of something.
const PATIENCE: Duration = Duration::from_secs(1);

/// What becomes of a body's bytes: decoded if they are coded, then masked.
pub(super) struct Rewrite {
    decoder: Option<Decoder>,
    masker: BodyMasker,
    input: Bytes,
    plain: Vec<u8>,
    ended: bool,
    finished: bool,
    /// Runs while something is held back and nothing comes.
    patience: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Rewrite {
    pub(super) fn new(decoder: Option<Decoder>, masker: BodyMasker) -> Self {
        Self {
            decoder,
            masker,
            input: Bytes::new(),
            plain: Vec::new(),
            ended: false,
            finished: false,
            patience: None,
        }
    }

    /// The next piece of the original; only when [`Rewrite::produce`] left `out` empty.
    pub(super) fn feed(&mut self, piece: Bytes) {
        self.input = piece;
        self.patience = None;
    }

    /// The original is complete.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Appends what is decided of the rewritten body, about [`PIECE_BYTES`] at a time. Nothing appended means: feed more,
    /// or after the end, that all was given.
    ///
    /// # Errors
    /// The body is not in the coding it claims.
    pub(super) fn produce(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while out.len() < PIECE_BYTES {
            let left = self.input.len();
            match &mut self.decoder {
                None => {
                    self.masker.push(&self.input, out);
                    self.input = Bytes::new();
                    break;
                }
                Some(decoder) => {
                    self.plain.clear();
                    decoder.step(&mut self.input, &mut self.plain)?;
                    if self.plain.is_empty() && self.input.len() == left {
                        break;
                    }
                    self.masker.push(&self.plain, out);
                }
            }
        }
        if self.ended && !self.finished && self.input.is_empty() && out.len() < PIECE_BYTES {
            if let Some(decoder) = &self.decoder {
                decoder.finish()?;
            }
            self.masker.finish(out);
            self.finished = true;
        }
        Ok(())
    }

    /// What was masked so far.
    pub(super) fn counts(&self) -> &Counts {
        self.masker.counts()
    }

    /// Lets go of ordinary words once nothing has come for [`PATIENCE`]. Ready with what was let go.
    fn poll_relent(&mut self, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        if !self.masker.holds() {
            self.patience = None;
            return Poll::Pending;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        ready!(patience.as_mut().poll(context));
        self.patience = None;
        let mut out = Vec::new();
        self.masker.relent(&mut out);
        if out.is_empty() { Poll::Pending } else { Poll::Ready(out) }
    }

    /// Rewrites a whole body.
    ///
    /// # Errors
    /// As [`Rewrite::produce`].
    pub(super) fn whole(mut self, body: Bytes) -> io::Result<(Bytes, Counts)> {
        let mut out = Vec::with_capacity(body.len());
        self.feed(body);
        self.end();
        loop {
            let mut piece = Vec::new();
            self.produce(&mut piece)?;
            if piece.is_empty() && self.finished {
                return Ok((out.into(), self.masker.counts().clone()));
            }
            out.extend_from_slice(&piece);
        }
    }
}

/// A body read before its request was judged, as far as it was.
pub(super) enum Read {
    /// All of it.
    Whole {
        /// The bytes as sent.
        bytes: Bytes,
        /// Fields after the body.
        trailers: Option<HeaderMap>,
    },
    /// Its beginning; the rest is still to come.
    Beginning(Bytes, Incoming),
}

/// Reads up to `max` bytes of a body.
///
/// # Errors
/// The client broke off, or its body is malformed.
pub(super) async fn read(mut body: Incoming, max: usize) -> Result<Read, hyper::Error> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                return Ok(Read::Whole { bytes: bytes.freeze(), trailers: frame.into_trailers().ok() });
            }
        }
        if bytes.len() > max {
            return Ok(Read::Beginning(bytes.freeze(), body));
        }
    }
    Ok(Read::Whole { bytes: bytes.freeze(), trailers: None })
}

/// A request's body on its way to the server.
pub(super) struct RequestStream {
    beginning: Option<Bytes>,
    rest: Option<Incoming>,
    rewrite: Option<Rewrite>,
    trailers: Option<HeaderMap>,
    trailer_masks: Option<Arc<BodyMasks>>,
    tap: RequestTap,
    /// Given back when the body is on its way.
    _room: Option<OwnedSemaphorePermit>,
}

impl RequestStream {
    pub(super) fn new(
        beginning: Option<Bytes>,
        rest: Option<Incoming>,
        trailers: Option<HeaderMap>,
        rewrite: Option<Rewrite>,
        tap: RequestTap,
        room: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { beginning, rest, rewrite, trailers, trailer_masks: None, tap, _room: room }
    }

    /// The same, with these masks over its trailers.
    pub(super) fn masking_trailers(self, masks: &Arc<BodyMasks>) -> Self {
        Self { trailer_masks: Some(Arc::clone(masks)), ..self }
    }

    /// The next piece of the original; `None` at its end.
    fn poll_original(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        if let Some(beginning) = self.beginning.take().filter(|bytes| !bytes.is_empty()) {
            return Poll::Ready(Ok(Some(beginning)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(None)) };
        match ready!(Pin::new(rest).poll_frame(context)) {
            None => {
                self.rest = None;
                Poll::Ready(Ok(None))
            }
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Poll::Ready(Ok(Some(data))),
                Err(frame) => {
                    self.trailers = frame.into_trailers().ok();
                    self.rest = None;
                    Poll::Ready(Ok(None))
                }
            },
        }
    }
}

impl Body for RequestStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(rewrite) = &mut this.rewrite {
                let mut out = Vec::new();
                rewrite.produce(&mut out)?;
                if !out.is_empty() {
                    let out = Bytes::from(out);
                    this.tap.push(&out)?;
                    return Poll::Ready(Some(Ok(Frame::data(out))));
                }
                if rewrite.finished {
                    this.tap.masked(rewrite.counts());
                    this.rewrite = None;
                    break;
                }
            }
            match ready!(this.poll_original(context))? {
                Some(data) => match &mut this.rewrite {
                    Some(rewrite) => rewrite.feed(data),
                    None => {
                        this.tap.push(&data)?;
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                },
                None => match &mut this.rewrite {
                    Some(rewrite) => rewrite.end(),
                    None => break,
                },
            }
        }
        let mut counts = Counts::new();
        mask_trailers(this.trailers.as_mut(), this.trailer_masks.as_ref(), &mut counts);
        this.tap.masked(&counts);
        this.tap.end();
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.rewrite.is_none()
            && self.trailers.is_none()
            && self.beginning.as_ref().is_none_or(Bytes::is_empty)
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let beginning = self.beginning.as_ref().map_or(0, Bytes::len) as u64;
        match (&self.rewrite, &self.rest) {
            (Some(_), _) => SizeHint::default(),
            (None, None) => SizeHint::with_exact(beginning),
            (None, Some(rest)) => {
                let mut hint = rest.size_hint();
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper.saturating_add(beginning));
                }
                hint.set_lower(hint.lower().saturating_add(beginning));
                hint
            }
        }
    }
}

/// Where an answer's bytes come from.
pub(super) enum Source {
    /// The server, as they come.
    Server(Incoming),
    /// They are all here.
    Whole(Option<Bytes>),
}

/// An answer's body on its way to the client.
pub(super) struct ResponseStream {
    source: Source,
    rewrite: Option<Rewrite>,
    trailers: Option<HeaderMap>,
    trailer_masks: Option<Arc<BodyMasks>>,
    log: Option<ExchangeLog>,
    lease: Option<Lease>,
}

impl ResponseStream {
    pub(super) fn new(
        source: Source,
        rewrite: Option<Rewrite>,
        log: Option<ExchangeLog>,
        lease: Option<Lease>,
    ) -> Self {
        Self { source, rewrite, trailers: None, trailer_masks: None, log, lease }
    }

    /// The same, with these masks over its trailers.
    pub(super) fn masking_trailers(mut self, masks: &Arc<BodyMasks>) -> Self {
        self.trailer_masks = Some(Arc::clone(masks));
        self
    }

    fn poll_original(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        match &mut self.source {
            Source::Whole(bytes) => Poll::Ready(Ok(bytes.take().filter(|bytes| !bytes.is_empty()))),
            Source::Server(body) => match ready!(Pin::new(body).poll_frame(context)) {
                None => Poll::Ready(Ok(None)),
                Some(Err(error)) => Poll::Ready(Err(error.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Ok(Some(data))),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        Poll::Ready(Ok(None))
                    }
                },
            },
        }
    }

    fn pass(&mut self, data: Bytes) -> Result<Frame<Bytes>, BodyError> {
        if let Some(log) = &mut self.log {
            log.push(&data)?;
        }
        Ok(Frame::data(data))
    }

    /// All was passed on.
    fn complete(&mut self) -> Option<Frame<Bytes>> {
        let mut counts = Counts::new();
        mask_trailers(self.trailers.as_mut(), self.trailer_masks.as_ref(), &mut counts);
        if let Some(mut log) = self.log.take() {
            log.masked(&counts);
            if let Some(rewrite) = &self.rewrite {
                log.masked(rewrite.counts());
            }
            log.trailers(self.trailers.as_ref());
            log.finish(OutcomeStatus::Done, None);
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.rewrite = None;
        self.trailers.take().map(Frame::trailers)
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        loop {
            if let Some(rewrite) = &mut self.rewrite {
                let mut out = Vec::new();
                rewrite.produce(&mut out)?;
                if !out.is_empty() {
                    return Poll::Ready(self.pass(out.into()).map(Some));
                }
                if rewrite.finished {
                    return Poll::Ready(Ok(self.complete()));
                }
            }
            let Poll::Ready(original) = self.poll_original(context) else {
                let Some(rewrite) = &mut self.rewrite else { return Poll::Pending };
                let let_go = ready!(rewrite.poll_relent(context));
                return Poll::Ready(self.pass(let_go.into()).map(Some));
            };
            match original? {
                Some(data) => match &mut self.rewrite {
                    Some(rewrite) => rewrite.feed(data),
                    None => return Poll::Ready(self.pass(data).map(Some)),
                },
                None => match &mut self.rewrite {
                    Some(rewrite) => rewrite.end(),
                    None => return Poll::Ready(Ok(self.complete())),
                },
            }
        }
    }
}

impl Body for ResponseStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(self.poll_next(context)) {
            Ok(frame) => Poll::Ready(frame.map(Ok)),
            Err(error) => {
                if let Some(log) = self.log.take() {
                    log.finish(OutcomeStatus::Failed, Some(&*error));
                }
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rewrite.is_none()
            && self.trailers.is_none()
            && match &self.source {
                Source::Server(body) => body.is_end_stream(),
                Source::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.rewrite, &self.source) {
            (Some(_), _) => SizeHint::default(),
            (None, Source::Server(body)) => body.size_hint(),
            (None, Source::Whole(bytes)) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        // Nobody asks an empty body for its end.
        if self.is_end_stream() {
            self.complete();
        } else if let Some(log) = self.log.take() {
            log.finish(OutcomeStatus::Unknown, Some(&ClientLeft));
        }
    }
}

fn mask_trailers(trailers: Option<&mut HeaderMap>, masks: Option<&Arc<BodyMasks>>, counts: &mut Counts) {
    if let (Some(trailers), Some(masks)) = (trailers, masks) {
        mask_headers(trailers, masks, counts);
    }
}

/// The client did not stay for all of the answer.
#[derive(Debug, thiserror::Error)]
#[error("the client left before the end of the answer")]
struct ClientLeft;
