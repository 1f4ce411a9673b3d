//! A permitted request on its way to the server, and the answer on its way back.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, HOST, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Problem;
use super::body::{Read, RequestStream, ResponseStream, Rewrite, Source};
use super::coding::{Decoder, restrict_accepted};
use super::exchange::{Exchange, RequestBody, content_type, unrecorded, unusable_credential};
use super::log::{ExchangeLog, RequestTap, causes};
use super::upgrade::{self, Switch};
use crate::flow::Side;
use crate::gate::{Permit, Through};
use crate::mask::http::{BodyKind, BodyMasker, BodyMasks, Counts};
use crate::policy::rule::Uninspected;
use crate::record::body::BodyRecorder;
use crate::record::event::{Direction, Intent, OutcomeStatus};
use crate::request::http::Scheme;
use crate::secret::Secret;
use crate::upstream::UpstreamError;
use crate::upstream::http::{Lease, SendError, Target, Version};
use crate::upstream::inject::{inject, needs_body, signed};

/// An answer of at most this many bytes is masked whole, so that its length can be told.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// Fields that speak of a body's exact bytes; they are wrong once it is rewritten (RFC 9530, RFC 1864).
static DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Forwards a permitted request.
///
/// # Errors
/// What the client is told instead of an answer.
pub(super) async fn forward(
    mut exchange: Box<Exchange>,
    permit: Permit,
) -> Result<Response<ResponseStream>, Problem> {
    let mut masked = Counts::new();
    prepare_head(&mut exchange, &mut masked)?;
    let rewrite = mask_body(&mut exchange, &mut masked)?;
    put_credential(&mut exchange).await?;
    intend(&exchange, &permit).await?;
    let protocol = exchange.request.upgrade.clone();
    let asked = Asked { method: exchange.parts.method.clone(), version: exchange.parts.version };
    if let (Some(protocol), Some(_)) = (&protocol, &exchange.upgrade)
        && let Err(error) = upgrade::prepare(&mut exchange.parts, protocol)
    {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, Side::Portcullis, error.to_string());
        return Err(exchange.refuse(problem, None));
    }
    let Exchange { session, operation, parts, body, room, upgrade, policy, masks, uninspected, open, .. } =
        *exchange;
    let tap = tap(&session, operation, &parts.headers, &masks.recorded, policy.record.result_bytes_max);
    let mut log = ExchangeLog::new(&session, operation, tap.clone(), policy.record.result_bytes_max, open);
    log.masked(&masked);
    if uninspected {
        log.note(
            "the body could not be looked into, and the policy lets such pass (uninspected = \"allow\")",
        );
    }
    let stream = outgoing(body, rewrite, tap, room).masking_trailers(&masks.request);
    let client_certificate = match session.relay.credentials.client_certificate(&session.admission).await {
        Ok(certificate) => certificate,
        Err(error) => {
            let problem = unusable_credential(&session, &error);
            log.finish(OutcomeStatus::Failed, Some(&error));
            return Err(problem);
        }
    };
    // WebSockets over HTTP/2 are opened as over HTTP/1.1: few servers take RFC 8441.
    let target = match (&upgrade, session.client.version) {
        (Some(_), Version::Http2) => {
            Target::new(&session.admission, session.server_name.clone(), Version::Http1)
        }
        (Some(_), Version::Http1) | (None, _) => Arc::clone(&session.target),
    };
    let way = Way { target: &target, client_certificate: client_certificate.as_ref() };
    let (response, lease) = match send(&session, &way, parts, stream, &mut log).await {
        Ok(answered) => answered,
        Err((problem, error)) => {
            tracing::warn!(session = %session.id(), error = %causes(&*error), "a request could not be forwarded");
            log.finish(OutcomeStatus::Failed, Some(&*error));
            return Err(problem);
        }
    };
    if let (Some(client), Some(protocol), StatusCode::SWITCHING_PROTOCOLS) =
        (upgrade, protocol, response.status())
    {
        let extended = asked.method == Method::CONNECT;
        let switch = Switch { session, masks, protocol, client, extended, log };
        return Ok(upgrade::switch(switch, response));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        log.finish(
            OutcomeStatus::Failed,
            Some(&Unanswered("the server switches protocols unasked".to_owned())),
        );
        return Err(bad_gateway("the server switches to a protocol that nobody asked for"));
    }
    let (mut head, body) = response.into_parts();
    super::head::strip_hop_by_hop(&mut head.headers);
    head.version = asked.version;
    answer(asked, head, body, &masks.response, policy.defaults.uninspected, log, lease).await
}

/// A request's body as it is sent on.
fn outgoing(
    body: RequestBody,
    rewrite: Option<Rewrite>,
    tap: RequestTap,
    room: Option<OwnedSemaphorePermit>,
) -> RequestStream {
    match body {
        RequestBody::Stream(body) => RequestStream::new(None, Some(body), None, rewrite, tap, room),
        RequestBody::Read(Read::Whole { bytes, trailers }) => {
            RequestStream::new(Some(bytes), None, trailers, rewrite, tap, room)
        }
        RequestBody::Read(Read::Beginning(bytes, rest)) => {
            RequestStream::new(Some(bytes), Some(rest), None, rewrite, tap, room)
        }
    }
}

/// Where a request goes, and who we are there.
struct Way<'w> {
    target: &'w Arc<Target>,
    /// PEM of a client certificate and its key.
    client_certificate: Option<&'w Secret>,
}

/// What of a request its answer depends on.
struct Asked {
    method: Method,
    version: http::Version,
}

/// Header fields and URL on their way out.
fn prepare_head(exchange: &mut Exchange, counts: &mut Counts) -> Result<(), Problem> {
    let masks = Arc::clone(&exchange.masks);
    mask_headers(&mut exchange.parts.headers, &masks.request, counts);
    if masks.request.text(&exchange.request.url(), counts).is_some() {
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            Side::Policy,
            "the URL holds what the policy does not let out, and a URL cannot be masked",
        );
        return Err(exchange.refuse(problem.hint("send it in the body, where it is masked"), None));
    }
    let headers = &mut exchange.parts.headers;
    if !masks.response.is_empty() {
        restrict_accepted(headers);
        // A part of a body could begin in the middle of what must be masked.
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
    }
    Ok(())
}

/// Rewrites an answer's head: its fields, and its reason phrase, which is the server's to choose.
pub(super) fn mask_head(head: &mut http::response::Parts, masks: &BodyMasks, counts: &mut Counts) {
    mask_headers(&mut head.headers, masks, counts);
    if let Some(reason) = head.extensions.get::<ReasonPhrase>()
        && !masks.is_empty()
        && masks.header("", reason.as_bytes(), counts).is_some()
    {
        head.extensions.remove::<ReasonPhrase>();
    }
}

/// Rewrites header fields.
pub(super) fn mask_headers(headers: &mut HeaderMap, masks: &BodyMasks, counts: &mut Counts) {
    if masks.is_empty() {
        return;
    }
    for (name, value) in headers.iter_mut() {
        if let Some(masked) = masks.header(name.as_str(), value.as_bytes(), counts) {
            *value = HeaderValue::from_bytes(&masked)
                .unwrap_or_else(|_| HeaderValue::from_static(crate::mask::method::REDACTED));
        }
    }
}

/// Masks on the way out: at once for a body that was read, else as it passes.
fn mask_body(exchange: &mut Exchange, counts: &mut Counts) -> Result<Option<Rewrite>, Problem> {
    let masks = Arc::clone(&exchange.masks.request);
    let kind = BodyKind::of(content_type(&exchange.parts.headers));
    if !masks.reads(kind) || exchange.upgrade.is_some() {
        return Ok(None);
    }
    let empty = match &exchange.body {
        RequestBody::Stream(body) => body.is_end_stream(),
        RequestBody::Read(Read::Whole { bytes, .. }) => bytes.is_empty(),
        RequestBody::Read(Read::Beginning(..)) => false,
    };
    if empty {
        return Ok(None);
    }
    let decoder = match Decoder::of(&exchange.parts.headers) {
        Ok(decoder) => decoder,
        Err(error) => match exchange.policy.defaults.uninspected {
            Uninspected::Allow => {
                exchange.uninspected = true;
                return Ok(None);
            }
            Uninspected::Hold | Uninspected::Deny => {
                let problem = Problem::new(StatusCode::FORBIDDEN, Side::Policy, error.to_string());
                return Err(exchange.refuse(problem.hint("send it without Content-Encoding"), None));
            }
        },
    };
    let rewrite = Rewrite::new(decoder, BodyMasker::new(masks, kind));
    for name in &DIGESTS {
        exchange.parts.headers.remove(name);
    }
    let whole = match &exchange.body {
        RequestBody::Read(Read::Whole { bytes, .. }) => bytes.clone(),
        RequestBody::Read(Read::Beginning(..)) | RequestBody::Stream(_) => {
            exchange.parts.headers.remove(CONTENT_ENCODING);
            exchange.parts.headers.remove(CONTENT_LENGTH);
            return Ok(Some(rewrite));
        }
    };
    match rewrite.whole(whole) {
        Ok((bytes, found)) => {
            super::log::add(counts, &found);
            exchange.replace_body(bytes);
            Ok(None)
        }
        Err(error) => {
            let detail = format!("the body is not in the content coding it claims: {error}");
            Err(exchange.refuse(Problem::new(StatusCode::BAD_REQUEST, Side::Client, detail), None))
        }
    }
}

/// Puts the real credential where the profile says. What the agent sent there is dropped.
async fn put_credential(exchange: &mut Exchange) -> Result<(), Problem> {
    let session = Arc::clone(&exchange.session);
    let upstream = &session.admission.connection().upstream;
    let Some(how) = &upstream.inject else { return Ok(()) };
    let Some(injected) = exchange.injected.take() else { return Ok(()) };
    if needs_body(how, &exchange.parts) {
        exchange.read_body().await?;
    }
    let digest = signed(how).then(|| digest(exchange)).flatten();
    let injected = inject(
        &mut exchange.parts,
        how,
        injected.user.as_deref(),
        &injected.secret,
        digest.as_ref(),
        SystemTime::now(),
    );
    injected.map_err(|error| exchange.refuse(unusable_credential(&session, &error), None))
}

/// SHA-256 of the exact body, when it is known.
fn digest(exchange: &Exchange) -> Option<[u8; 32]> {
    match (exchange.bytes_read(), &exchange.body) {
        (Some((bytes, true)), _) => Some(Sha256::digest(bytes).into()),
        (None, RequestBody::Stream(body)) if body.is_end_stream() => Some(Sha256::digest(b"").into()),
        (Some((_, false)), _) | (None, RequestBody::Stream(_) | RequestBody::Read(_)) => None,
    }
}

/// The intent is on record, durably if the policy says so, before anything goes out.
pub(super) async fn intend(exchange: &Exchange, permit: &Permit) -> Result<(), Problem> {
    let intent = Intent {
        asked: exchange.asked(),
        rule: permit.rule().to_owned(),
        approval: permit.approval().cloned(),
        shadow: permit.shadow(),
    };
    let session = &exchange.session;
    let lsn = session.with_record(|record| record.intent(&intent)).map_err(|error| unrecorded(&error))?;
    if permit.durable() {
        let durable = session.relay.recorder.durable(lsn).await;
        durable.map_err(|error| unrecorded(&error))?;
    }
    Ok(())
}

/// What is recorded of the request's body.
fn tap(
    session: &Arc<super::session::Session>,
    operation: u64,
    headers: &HeaderMap,
    masks: &Arc<BodyMasks>,
    bytes_max: u64,
) -> RequestTap {
    let kind = BodyKind::of(content_type(headers));
    let reads = masks.reads(kind);
    // A body in an unknown coding is not kept where masks apply: nobody could tell what it holds.
    let (decoder, kept) = match Decoder::of(headers) {
        Ok(decoder) if reads => (decoder, bytes_max),
        Ok(_) => (None, bytes_max),
        Err(_) if reads => (None, 0),
        Err(_) => (None, bytes_max),
    };
    let masker = reads.then(|| BodyMasker::new(Arc::clone(masks), kind));
    let recorder = BodyRecorder::new(operation, Direction::Request, kept);
    RequestTap::new(session, recorder, decoder, masker)
}

/// A request that got no answer, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unanswered(String);

type Failure = (Problem, Box<dyn std::error::Error + Send + Sync>);

/// Sends the request, once more when an idle connection turned out to be closed.
async fn send(
    session: &super::session::Session,
    way: &Way<'_>,
    parts: http::request::Parts,
    stream: RequestStream,
    log: &mut ExchangeLog,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let mut unsent = Some((parts, stream));
    let mut request: Option<Request<_>> = None;
    loop {
        let relay = &session.relay;
        let leased = relay
            .http_pool
            .lease(&relay.dialler, &session.admission, way.target, way.client_certificate)
            .await;
        let mut lease = leased.map_err(|error| (unreachable(&error), error.into()))?;
        log.connected(lease.address, lease.connected_in);
        let ready = match (request.take(), unsent.take()) {
            (Some(request), _) => request,
            (None, Some((mut parts, stream))) => {
                let proxy = session.admission.through().filter(|_| session.server_name.is_none());
                address(&mut parts, lease.is_http2(), session.client.scheme, proxy)
                    .map_err(|error| (bad_gateway("the request cannot be sent on"), error.into()))?;
                Request::from_parts(parts, stream.boxed_unsync())
            }
            (None, None) => return Err((bad_gateway("the request is gone"), "sent twice".into())),
        };
        match lease.send(ready).await {
            Ok(response) => return Ok((response, lease)),
            Err(SendError::NotSent(unsent)) if lease.is_reused() => request = Some(*unsent),
            Err(error @ SendError::NotSent(_)) => {
                return Err((
                    bad_gateway("the server closed the connection"),
                    Box::new(Unanswered(error.to_string())),
                ));
            }
            Err(error @ SendError::NoAnswer(_)) => {
                return Err((
                    bad_gateway("the server broke off before it answered"),
                    Box::new(Unanswered(causes(&error))),
                ));
            }
        }
    }
}

/// Target and `Host` as the version wants them (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn address(
    parts: &mut http::request::Parts,
    http2: bool,
    scheme: Scheme,
    proxy: Option<&Arc<Through>>,
) -> Result<(), http::Error> {
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let host = match parts.headers.get(HOST) {
        Some(host) => host.clone(),
        None => {
            let authority = parts.uri.authority().map_or("", http::uri::Authority::as_str);
            HeaderValue::from_str(authority)?
        }
    };
    if http2 {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        parts.uri =
            Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(target).build()?;
        parts.headers.remove(HOST);
        parts.version = http::Version::HTTP_2;
    } else {
        parts.uri = match proxy {
            None => Uri::builder().path_and_query(target).build()?,
            Some(through) => {
                parts.headers.extend(through.fields().clone());
                let authority = host.as_bytes();
                Uri::builder().scheme("http").authority(authority).path_and_query(target).build()?
            }
        };
        parts.headers.insert(HOST, host);
        parts.version = http::Version::HTTP_11;
    }
    Ok(())
}

fn bad_gateway(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, Side::Upstream, detail)
}

/// What a client is told of a server that cannot be used: a certificate's fault in words, for it is often the test set-up.
fn unreachable(error: &UpstreamError) -> Problem {
    let status = match error {
        UpstreamError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        UpstreamError::Resolve { .. }
        | UpstreamError::Connect { .. }
        | UpstreamError::TlsNotOffered { .. }
        | UpstreamError::Certificate { .. }
        | UpstreamError::Broken { .. }
        | UpstreamError::Trust(_)
        | UpstreamError::Login(_)
        | UpstreamError::Http { .. }
        | UpstreamError::Proxy { .. }
        | UpstreamError::Server(_)
        | UpstreamError::Protocol { .. } => StatusCode::BAD_GATEWAY,
    };
    let mut text = error.client_text();
    if let UpstreamError::Certificate { problem, .. } = error {
        text = format!("{text}: {problem}");
    }
    Problem::new(status, error.side(), text)
}

/// The answer, masked on its way.
async fn answer(
    asked: Asked,
    mut head: http::response::Parts,
    body: Incoming,
    masks: &Arc<BodyMasks>,
    uninspected: Uninspected,
    mut log: ExchangeLog,
    lease: Lease,
) -> Result<Response<ResponseStream>, Problem> {
    let pass = |body, rewrite, log, lease| {
        ResponseStream::new(Source::Server(body), rewrite, Some(log), Some(lease)).masking_trailers(masks)
    };
    let mut counts = Counts::new();
    mask_head(&mut head, masks, &mut counts);
    log.masked(&counts);
    let kind = BodyKind::of(content_type(&head.headers));
    let bare = asked.method == Method::HEAD || body.is_end_stream();
    if !masks.reads(kind) {
        log.answered(&head);
        return Ok(Response::from_parts(head, pass(body, None, log, lease)));
    }
    let decoder = match Decoder::of(&head.headers) {
        Ok(decoder) => decoder,
        Err(error) if uninspected == Uninspected::Allow => {
            log.note(format!("{error}; the policy lets such pass (uninspected = \"allow\")"));
            log.answered(&head);
            return Ok(Response::from_parts(head, pass(body, None, log, lease)));
        }
        Err(error) => {
            log.answered(&head);
            let problem = Problem::new(StatusCode::BAD_GATEWAY, Side::Policy, error.to_string());
            log.finish(OutcomeStatus::Failed, Some(&error));
            return Err(problem.hint("ask for it with Accept-Encoding: identity"));
        }
    };
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    for name in DIGESTS.iter().chain([&ACCEPT_RANGES, &CONTENT_LENGTH]) {
        head.headers.remove(name);
    }
    if bare {
        log.answered(&head);
        return Ok(Response::from_parts(head, pass(body, None, log, lease)));
    }
    let small = decoder.is_none() && length.is_some_and(|length| length <= SMALL_BYTES_MAX);
    head.headers.remove(CONTENT_ENCODING);
    let rewrite = Rewrite::new(decoder, BodyMasker::new(Arc::clone(masks), kind));
    if !small {
        log.answered(&head);
        return Ok(Response::from_parts(head, pass(body, Some(rewrite), log, lease)));
    }
    let collected = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            log.finish(OutcomeStatus::Failed, Some(&error));
            return Err(bad_gateway("the server broke off in the middle of its answer"));
        }
    };
    let masked = if masks.leaves_alone(kind, &collected) {
        Ok((collected, Counts::new()))
    } else {
        rewrite.whole(collected)
    };
    let (bytes, counts): (Bytes, Counts) = match masked {
        Ok(masked) => masked,
        Err(error) => {
            log.finish(OutcomeStatus::Failed, Some(&error));
            return Err(bad_gateway("the server's answer cannot be decoded"));
        }
    };
    log.masked(&counts);
    head.headers.insert(CONTENT_LENGTH, bytes.len().into());
    log.answered(&head);
    let stream =
        ResponseStream::new(Source::Whole(Some(bytes)), None, Some(log), Some(lease)).masking_trailers(masks);
    Ok(Response::from_parts(head, stream))
}
