//! One request: understood, judged, held if a rule asks, recorded, given its credential, forwarded, answered.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{Problem, is_grpc};
use super::body::{Read, ResponseStream, Source, read};
use super::coding::decode_whole;
use super::door::Door;
use super::head::{authority, strip_hop_by_hop, wants_upgrade};
use super::log::causes;
use super::masks::Masks;
use super::session::{Injected, Session};
use super::{forward, hold, proxy};
use crate::flow::{OriginalDst, Side};
use crate::gate::{BodyRead, HttpJudgement, Judgement, Permit};
use crate::mask::http::Counts;
use crate::policy::Policy;
use crate::record::asked::{Asked, BoundedText, HttpAsked, Parameters, Statements, recorded_headers};
use crate::record::event::Refused;
use crate::relay::open::OpenGuard;
use crate::request::http::{Analysis, HttpRequest, Scheme, analyze};
use crate::upstream::http::Version;

/// How long a client may be silent in the middle of a body that is read before it is judged.
const BODY_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Memory for all bodies that are read before they are judged, in KiB.
pub const ROOM_KIB: usize = 256 * 1024;

/// How long a request waits for room for its body.
const ROOM_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// Bytes that a refused request may still send, and how long it may take.
const REST_BYTES_MAX: usize = 64 * 1024;
const REST_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// One request being served.
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    /// Number in the record.
    pub(super) operation: u64,
    pub(super) parts: http::request::Parts,
    pub(super) body: RequestBody,
    /// Room taken by a body that was read.
    pub(super) room: Option<OwnedSemaphorePermit>,
    /// The client's side of a connection that is to become another protocol's.
    pub(super) upgrade: Option<OnUpgrade>,
    /// The client's own credential for a proxy.
    pub(super) for_proxy: Option<HeaderValue>,
    pub(super) request: HttpRequest,
    pub(super) analysis: Analysis,
    pub(super) policy: Arc<Policy>,
    pub(super) masks: Arc<Masks>,
    /// The real credential, when the profile puts one into requests.
    pub(super) injected: Option<Injected>,
    /// A rule wanted to look into the body, could not, and the policy lets it pass.
    pub(super) uninspected: bool,
    /// Keeps the session's record open until the answer is recorded.
    pub(super) open: OpenGuard,
}

/// A request's body as far as it was read.
pub(super) enum RequestBody {
    /// Not yet.
    Stream(Incoming),
    /// Some or all of it.
    Read(Read),
}

/// Answers one request.
pub(super) async fn serve(door: Arc<Door>, mut request: Request<Incoming>) -> Response<ResponseStream> {
    let grpc = is_grpc(request.headers());
    let (id, answered) = match door.session(&mut request).await {
        Ok(session) => (session.id(), answer(&session, request).await),
        Err(problem) => {
            take_rest(door.version(), request.into_body()).await;
            (door.id(), Err(problem))
        }
    };
    match answered {
        Ok(response) => response,
        Err(problem) => {
            let (parts, body) = problem.response(grpc, id).into_parts();
            Response::from_parts(parts, ResponseStream::new(Source::Whole(Some(body)), None, None, None))
        }
    }
}

/// The story of one request.
async fn answer(
    session: &Arc<Session>,
    request: Request<Incoming>,
) -> Result<Response<ResponseStream>, Problem> {
    let target = proxy::target_of(session, &request).await?;
    let session = target.as_ref().unwrap_or(session);
    let mut exchange = match understand(session, request).await {
        Ok(exchange) => Box::new(exchange),
        Err(refused) => {
            let (problem, body) = *refused;
            take_rest(session.client.version, body).await;
            return Err(problem);
        }
    };
    match permission(&mut exchange).await {
        Ok(permit) if exchange.is_tunnel() => proxy::tunnel(exchange, permit).await,
        Ok(permit) => forward::forward(exchange, permit).await,
        Err(problem) => {
            let Exchange { session, body, upgrade, .. } = *exchange;
            if let (RequestBody::Stream(body) | RequestBody::Read(Read::Beginning(_, body)), None) =
                (body, upgrade)
            {
                take_rest(session.client.version, body).await;
            }
            Err(problem)
        }
    }
}

/// Has a request judged, and waits for a human where a rule asks for one.
async fn permission(exchange: &mut Exchange) -> Result<Permit, Problem> {
    let permit = match exchange.judge().await? {
        Judgement::Permit(permit) => permit,
        Judgement::Hold(hold) => hold::decide(exchange, hold).await?,
        Judgement::Deny(denial) => return Err(exchange.refuse(Problem::denied(&denial), denial.approval)),
        // Rows are PostgreSQL's.
        Judgement::Estimate => {
            return Err(
                exchange.refuse(Problem::new(StatusCode::FORBIDDEN, Side::Policy, "not judged"), None)
            );
        }
    };
    exchange.redeem(permit)
}

/// Reads what a refused HTTP/2 request still sends, within bounds: clients lose the answer on a stream that is reset
/// before they are through (curl 7.88 does). Over HTTP/1.1, hyper sees to it.
async fn take_rest(version: Version, mut body: Incoming) {
    match version {
        Version::Http1 => return,
        Version::Http2 => {}
    }
    let reading = async {
        let mut left = REST_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { break };
            left = less;
        }
    };
    drop(tokio::time::timeout(REST_TIME_MAX, reading).await);
}

/// Takes a request's head apart. What servers might read differently is refused here.
async fn understand(
    session: &Arc<Session>,
    mut request: Request<Incoming>,
) -> Result<Exchange, Box<(Problem, Incoming)>> {
    let upgrade = wants_upgrade(request.method(), request.headers());
    let extended = request.extensions().get::<hyper::ext::Protocol>().map(|found| found.as_str().to_owned());
    let protocol = upgrade.or(extended);
    let tunnel = request.method() == Method::CONNECT && protocol.is_none();
    let on_upgrade = (tunnel || protocol.is_some()).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let refuse = |problem: Problem, parts: &http::request::Parts| {
        refuse_head(session, &parts.method, &parts.uri, problem)
    };
    if let Some(problem) = not_carried(session, tunnel) {
        return Err(Box::new((refuse(problem, &parts), body)));
    }
    let host = match authority(parts.version, &parts.uri, &parts.headers) {
        Ok(host) if tunnel && host.port.is_some() => host,
        Ok(host) if !tunnel && session.is_for(&host) => host,
        Ok(_) => {
            let detail = "this connection is not for the host that the request names";
            let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, Side::Client, detail)
                .hint("open a connection to that host");
            return Err(Box::new((refuse(problem, &parts), body)));
        }
        Err(problem) => return Err(Box::new((refuse(problem, &parts), body))),
    };
    let target = target_of(&parts);
    let port = host.port.unwrap_or_else(|| session.admission.flow().destination.0.port());
    let scheme = session.client.scheme;
    let (method, headers) = (&parts.method, &parts.headers);
    let protocol = protocol.as_deref();
    let request = match HttpRequest::from_head(method, &target, headers, protocol, scheme, &host.host, port) {
        Ok(request) => request,
        Err(error) => {
            let problem = Problem::new(StatusCode::BAD_REQUEST, Side::Client, error.to_string());
            return Err(Box::new((refuse(problem, &parts), body)));
        }
    };
    let for_proxy = parts.headers.get(PROXY_AUTHORIZATION).cloned();
    strip_hop_by_hop(&mut parts.headers);
    let policy = session.relay.gate.policy(&session.admission);
    let policy = policy.unwrap_or_else(|| Arc::clone(session.admission.policy()));
    let injected = match session.credential().await {
        Ok(injected) => injected,
        Err(error) => return Err(Box::new((refuse(unusable_credential(session, &error), &parts), body))),
    };
    let masks = match session.masks(&policy, injected.as_ref().map(|injected| &injected.secret)) {
        Ok(masks) => masks,
        Err(error) => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, Side::Portcullis, error.to_string());
            return Err(Box::new((refuse(problem, &parts), body)));
        }
    };
    Ok(Exchange {
        operation: session.next_operation(),
        session: Arc::clone(session),
        analysis: analyze(&request),
        request,
        parts,
        body: RequestBody::Stream(body),
        room: None,
        upgrade: on_upgrade,
        for_proxy,
        policy,
        masks,
        injected,
        uninspected: false,
        open: session.begin(),
    })
}

/// What this connection cannot carry on, whatever the policy says.
fn not_carried(session: &Session, tunnel: bool) -> Option<Problem> {
    if tunnel && !proxy::may_be_proxy(session) {
        let detail = "CONNECT is for HTTP/1.1 proxies without TLS";
        let hint = "use the proxy's plain port, or connect directly: the connection is intercepted anyway";
        return Some(Problem::new(StatusCode::NOT_IMPLEMENTED, Side::Client, detail).hint(hint));
    }
    if session.client.has_certificate && session.admission.connection().upstream.client_cert.is_none() {
        let detail =
            "this client brings a certificate of its own, which cannot be relayed: its key is not here";
        let hint = "connect without it; the operator can have the daemon present one (upstream.client_cert)";
        return Some(Problem::new(StatusCode::FORBIDDEN, Side::Client, detail).hint(hint));
    }
    None
}

/// A credential that cannot be used; what exactly is wrong with it is the operator's business.
pub(super) fn unusable_credential(session: &Session, error: &dyn std::error::Error) -> Problem {
    tracing::error!(session = %session.id(), error = %causes(error), "a credential cannot be used");
    Problem::new(StatusCode::BAD_GATEWAY, Side::Portcullis, "the connection's credential cannot be used")
        .hint(format!("the daemon's log tells the operator why (session {})", session.id()))
}

/// Path and query; `*` for the server as a whole.
fn target_of(parts: &http::request::Parts) -> http::uri::PathAndQuery {
    parts.uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"))
}

/// Records a request that could not be taken apart, and refuses it.
pub(super) fn refuse_unread<B>(session: &Session, request: &Request<B>, problem: Problem) -> Problem {
    refuse_head(session, request.method(), request.uri(), problem)
}

fn refuse_head(session: &Session, method: &Method, uri: &http::Uri, problem: Problem) -> Problem {
    let (operation, destination) = (session.next_operation(), session.admission.flow().destination);
    let asked = head_asked(operation, session.client.scheme, destination, method, uri, &problem.detail);
    record_refusal(session, asked, problem, None)
}

/// What is recorded of a request of which nothing but the head was looked at, and why.
pub(super) fn head_asked(
    operation: u64,
    scheme: Scheme,
    destination: OriginalDst,
    method: &Method,
    uri: &http::Uri,
    why: &str,
) -> Asked {
    let scheme = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let url = format!("{scheme}://{destination}{}", uri.path());
    let (kind, effect) = (method.as_str().to_lowercase(), crate::request::Effect::Unknown);
    Asked {
        operation,
        text: BoundedText::new(&format!("{method} {url}")),
        parameters: Parameters::default(),
        statements: Statements::one(kind, effect, Some(why.to_owned())),
        database: None,
        estimated_rows: None,
        http: None,
        ssh: None,
    }
}

/// Records a refusal. When that fails the client is told so instead.
fn record_refusal(
    session: &Session,
    asked: Asked,
    problem: Problem,
    approval: Option<Box<crate::record::event::ApprovalRecord>>,
) -> Problem {
    let refused = Refused {
        asked,
        rule: problem.rule.clone().unwrap_or_else(|| crate::policy::DEFAULT_RULE.to_owned()),
        reason: problem.detail.clone(),
        side: problem.side,
        approval: approval.map(|approval| *approval),
        status: Some(problem.status.as_u16()),
    };
    match session.with_record(|record| record.refused(&refused).map(|_| ())) {
        Ok(()) => problem,
        Err(error) => unrecorded(&error),
    }
}

/// What cannot be recorded is not done.
pub(super) fn unrecorded(error: &crate::record::RecordError) -> Problem {
    tracing::error!(%error, "a request cannot be recorded");
    let detail = format!("the request cannot be recorded, so it is not forwarded: {error}");
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, Side::Portcullis, detail)
        .hint("the operator finds the cause in `portcullis status` and the daemon's log")
}

impl Exchange {
    /// Whether it asks for a tunnel to be opened.
    fn is_tunnel(&self) -> bool {
        self.parts.method == Method::CONNECT && self.request.upgrade.is_none()
    }

    /// Judges the request, reading its body first when a rule looks into it.
    async fn judge(&mut self) -> Result<Judgement, Problem> {
        let empty = matches!(&self.body, RequestBody::Stream(body) if hyper::body::Body::is_end_stream(body));
        let mut read = if empty { BodyRead::Whole } else { BodyRead::NotYet };
        loop {
            let session = Arc::clone(&self.session);
            let gate = &session.relay.gate;
            match gate.judge_http(&session.admission, &self.request, &self.analysis, read) {
                HttpJudgement::ReadBody => read = self.read_body().await?,
                HttpJudgement::Judged { judgement, uninspected } => {
                    self.uninspected = uninspected;
                    return Ok(judgement);
                }
            }
        }
    }

    /// Reads the body as far as the policy says and lets the rules look at it.
    pub(super) async fn read_body(&mut self) -> Result<BodyRead, Problem> {
        let max = usize::try_from(self.policy.defaults.inspect_bytes).unwrap_or(usize::MAX);
        let taken = std::mem::replace(
            &mut self.body,
            RequestBody::Read(Read::Whole { bytes: Bytes::new(), trailers: None }),
        );
        let body = match taken {
            RequestBody::Stream(body) => body,
            read @ RequestBody::Read(_) => {
                self.body = read;
                return Ok(self.body_read());
            }
        };
        self.room = Some(self.take_room(max).await?);
        let failed = |status, detail: String| Problem::new(status, Side::Client, detail);
        let read = match tokio::time::timeout(BODY_TIME_MAX, read(body, max)).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let detail = format!("the request's body broke off: {}", causes(&error));
                return Err(self.refuse(failed(StatusCode::BAD_REQUEST, detail), None));
            }
            Err(_elapsed) => {
                let detail = "the request's body did not come in time".to_owned();
                return Err(self.refuse(failed(StatusCode::REQUEST_TIMEOUT, detail), None));
            }
        };
        if let Read::Whole { bytes, .. } = &read
            && let Some(plain) = decode_whole(&self.parts.headers, bytes, max)
        {
            self.request.read_body(&plain);
            self.analysis = analyze(&self.request);
        }
        self.body = RequestBody::Read(read);
        Ok(self.body_read())
    }

    /// Room for a body of up to `max` bytes, or for as many as the request announces.
    async fn take_room(&self, max: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let announced =
            self.parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = announced.map_or(max, |length: usize| length.min(max));
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.session.relay.http_room).acquire_many_owned(kib);
        match tokio::time::timeout(ROOM_TIME_MAX, room).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => {
                let detail = "too many bodies are being looked into; send it again";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, Side::Portcullis, detail);
                Err(self.refuse(problem, None))
            }
        }
    }

    /// What of the body could be looked into.
    fn body_read(&self) -> BodyRead {
        match &self.body {
            RequestBody::Stream(_) => BodyRead::NotYet,
            RequestBody::Read(_) if self.request.body == crate::request::http::Body::Unread => {
                BodyRead::Impossible
            }
            RequestBody::Read(_) => BodyRead::Whole,
        }
    }

    /// The request as the record has it: secrets out.
    pub(super) fn asked(&self) -> Asked {
        let mut counts = Counts::new();
        let url = self.recorded_url(&mut counts);
        let headers = self.recorded_fields(&mut counts);
        let Analysis { kind, effect, reason, .. } = &self.analysis;
        Asked {
            operation: self.operation,
            text: BoundedText::new(&format!("{} {url}", self.parts.method)),
            parameters: Parameters::default(),
            statements: Statements::one(kind.clone(), *effect, reason.clone()),
            database: None,
            estimated_rows: None,
            http: Some(Box::new(HttpAsked {
                method: self.parts.method.to_string(),
                url,
                version: format!("{:?}", self.parts.version),
                headers,
            })),
            ssh: None,
        }
    }

    /// The header fields without what detectors find in them, and without secrets.
    pub(super) fn recorded_fields(&self, counts: &mut Counts) -> Vec<(String, String)> {
        let recorded = &self.masks.recorded;
        let shown = |(name, value): (String, String)| {
            let masked = recorded.header(&name, value.as_bytes(), counts);
            let value = masked.map_or(value, |bytes| String::from_utf8_lossy(&bytes).into_owned());
            (name, value)
        };
        recorded_headers(&self.parts.headers).into_iter().map(shown).collect()
    }

    /// The URL without what detectors find in it, and without the values of parameters that hold secrets.
    fn recorded_url(&self, counts: &mut Counts) -> String {
        let url = self.request.url();
        self.masks.recorded.text(&url, counts).unwrap_or(url)
    }

    /// Records that the request is refused, and gives back what the client is told.
    pub(super) fn refuse(
        &self,
        problem: Problem,
        approval: Option<Box<crate::record::event::ApprovalRecord>>,
    ) -> Problem {
        record_refusal(&self.session, self.asked(), problem, approval)
    }

    /// Whether an approval still counts.
    fn redeem(&self, permit: Permit) -> Result<Permit, Problem> {
        let gate = &self.session.relay.gate;
        gate.redeem(&self.session.admission, permit)
            .map_err(|denial| self.refuse(Problem::denied(&denial), denial.approval.clone()))
    }

    /// The body's bytes as far as they were read, and whether that is all.
    pub(super) fn bytes_read(&self) -> Option<(&Bytes, bool)> {
        match &self.body {
            RequestBody::Stream(_) => None,
            RequestBody::Read(Read::Whole { bytes, .. }) => Some((bytes, true)),
            RequestBody::Read(Read::Beginning(bytes, _)) => Some((bytes, false)),
        }
    }

    /// Replaces a body that was read whole.
    pub(super) fn replace_body(&mut self, new: Bytes) {
        self.parts.headers.remove(CONTENT_ENCODING);
        self.parts.headers.insert(CONTENT_LENGTH, new.len().into());
        if let RequestBody::Read(Read::Whole { bytes, .. }) = &mut self.body {
            *bytes = new;
        }
    }
}

/// A message's media type.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)
}
