//! Clients that are set up for a proxy: CONNECT (RFC 9110 section 9.3.6), and requests in absolute form for other hosts
//! (RFC 9112 section 3.2.2). Every target is admitted and recorded as if the client had connected to it itself, and what
//! goes through a tunnel is read like any other connection.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::answer::Problem;
use super::body::{ResponseStream, Source};
use super::exchange::{Exchange, refuse_unread, unrecorded, unusable_credential};
use super::forward::intend;
use super::head::{Authority, authority};
use super::log::{ExchangeLog, RequestTap};
use super::session::{Client, Session};
use crate::flow::Side;
use crate::gate::{Admission, Admitted, Permit};
use crate::policy::rule::{ClientTls, Protocol};
use crate::record::SessionRecord;
use crate::record::body::BodyRecorder;
use crate::record::event::{Direction, EndReason, Ended, OutcomeStatus};
use crate::relay::counted::Counted;
use crate::relay::{Shutdown, open_record};
use crate::request::http::Scheme;
use crate::tls::Stream;
use crate::upstream::http::Version;
use crate::upstream::inject::inject;

/// Other hosts that one connection's requests may be for.
const TARGETS_MAX: usize = 16;

/// Port of `http` URLs (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// A tunnel that the client was promised.
pub(super) struct Tunnel {
    client: OnUpgrade,
    admission: Admission,
    record: SessionRecord,
}

/// Whether a connection can be one to a proxy: HTTP/1.1 without TLS.
pub(super) fn may_be_proxy(session: &Session) -> bool {
    match (session.client.scheme, session.client.version) {
        (Scheme::Http, Version::Http1) => true,
        (Scheme::Https, _) | (_, Version::Http2) => false,
    }
}

/// Opens a tunnel: the target is admitted and its record begun, and the client is told to go on. Whether the server can be
/// reached turns out when there is something to say to it.
pub(super) async fn tunnel(
    mut exchange: Box<Exchange>,
    permit: Permit,
) -> Result<Response<ResponseStream>, Problem> {
    let session = Arc::clone(&exchange.session);
    let own = exchange.for_proxy.take();
    let fields = fields_for_proxy(&session, own).await.map_err(|problem| exchange.refuse(problem, None))?;
    let (host, port) = (exchange.request.host.clone(), exchange.request.port);
    let (admission, record) = match admit(&session, &host, port, fields).await {
        Ok(admitted) => admitted,
        Err(problem) => return Err(exchange.refuse(problem, None)),
    };
    intend(&exchange, &permit).await?;
    let Exchange { operation, upgrade, policy, open, .. } = *exchange;
    let Some(client) = upgrade else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, Side::Client, "the connection cannot be a tunnel"));
    };
    let tap = RequestTap::new(&session, BodyRecorder::new(operation, Direction::Request, 0), None, None);
    let mut log = ExchangeLog::new(&session, operation, tap, policy.record.result_bytes_max, open);
    log.note(format!("what goes through the tunnel is session {}", admission.flow().session));
    let stream = ResponseStream::new(Source::Whole(None), None, None, None);
    let (head, body) = Response::new(stream).into_parts();
    log.answered(&head);
    log.finish(OutcomeStatus::Done, None);
    session.promise(Tunnel { client, admission, record });
    Ok(Response::from_parts(head, body))
}

/// What is said to the proxy alone: the profile's credential, else the client's own.
async fn fields_for_proxy(session: &Session, own: Option<HeaderValue>) -> Result<HeaderMap, Problem> {
    let mut fields = HeaderMap::new();
    let upstream = &session.admission.connection().upstream;
    let Some(how) = &upstream.inject else {
        fields.extend(own.map(|value| (PROXY_AUTHORIZATION, value)));
        return Ok(fields);
    };
    let injected = session.credential().await.map_err(|error| unusable_credential(session, &error))?;
    let Some(injected) = injected else { return Ok(fields) };
    let (mut parts, ()) = Request::new(()).into_parts();
    inject(&mut parts, how, injected.user.as_deref(), &injected.secret, None, SystemTime::now())
        .map_err(|error| unusable_credential(session, &error))?;
    let credential = parts.headers.remove(PROXY_AUTHORIZATION);
    let credential = credential.or_else(|| parts.headers.remove(AUTHORIZATION));
    fields.extend(credential.map(|value| (PROXY_AUTHORIZATION, value)));
    Ok(fields)
}

async fn admit(
    session: &Arc<Session>,
    host: &str,
    port: u16,
    fields: HeaderMap,
) -> Result<(Admission, SessionRecord), Problem> {
    let (relay, proxy) = (&session.relay, &session.admission);
    let admitted = relay.gate.admit_through(proxy, host, port, fields).await;
    match &admitted {
        Admitted::Yes(admission) => {
            let (flow, run) = (admission.flow(), admission.run());
            let record = open_record(&relay.recorder, flow, run, admission.subject(), Some(admission));
            let record = record.map_err(|error| unrecorded(&error))?;
            Ok(((**admission).clone(), record))
        }
        Admitted::No(denial) => Err(Problem::denied(denial)),
        // Whoever is at a proxy has been asked.
        Admitted::Asks(_) => Err(Problem::new(StatusCode::FORBIDDEN, Side::Policy, "this run has no token")),
    }
}

impl Tunnel {
    /// Serves what goes through it to its end, as the connection that it stands for.
    pub(super) async fn serve(self, session: &Session, shutdown: Shutdown) {
        let Self { client, admission, record } = self;
        match connection(client).await {
            Ok(stream) => {
                crate::relay::serve(stream, admission, &session.relay, record, shutdown).await;
            }
            Err(detail) => {
                let ended = Ended { reason: EndReason::Lost, side: Side::Client, detail: Some(detail) };
                super::finish(record, ended);
            }
        }
    }
}

/// The socket below a connection that HTTP is through with.
async fn connection(client: OnUpgrade) -> Result<tokio::net::TcpStream, String> {
    let upgraded = client.await.map_err(|error| error.to_string())?;
    let parts = upgraded
        .downcast::<TokioIo<Counted<Stream>>>()
        .map_err(|_other| "the tunnel is not the connection it was asked on".to_owned())?;
    if !parts.read_buf.is_empty() {
        return Err("the client spoke before the tunnel was open".to_owned());
    }
    match parts.io.into_inner().into_inner() {
        Stream::Plain(tcp) => Ok(tcp),
        Stream::Accepted(_) | Stream::Connected(_) => Err("the tunnel is inside TLS".to_owned()),
    }
}

/// The session of a request's target, when that is not the server its connection is to: a client that was told to use a
/// proxy names the target in the request.
///
/// # Errors
/// What the client is told when it may not go there.
pub(super) async fn target_of(
    session: &Arc<Session>,
    request: &Request<Incoming>,
) -> Result<Option<Arc<Session>>, Problem> {
    let uri = request.uri();
    let Some(scheme) = uri.scheme_str() else { return Ok(None) };
    if !may_be_proxy(session) || request.method() == Method::CONNECT {
        return Ok(None);
    }
    // A head that says two things is refused where requests are taken apart.
    let Ok(named) = authority(request.version(), uri, request.headers()) else { return Ok(None) };
    let target = Authority { port: Some(named.port.unwrap_or(HTTP_PORT)), ..named };
    if session.is_server(&target) {
        return Ok(None);
    }
    if scheme != "http" {
        let problem =
            Problem::new(StatusCode::BAD_REQUEST, Side::Client, "only http:// URLs are asked of a proxy");
        return Err(refuse_unread(session, request, problem.hint("use CONNECT for others")));
    }
    if let Some(known) = session.target(&target) {
        return Ok(Some(known));
    }
    match open_target(session, request, &target).await {
        Ok(opened) => Ok(Some(session.keep_target(target, opened))),
        Err(problem) => Err(refuse_unread(session, request, problem)),
    }
}

async fn open_target(
    session: &Arc<Session>,
    request: &Request<Incoming>,
    target: &Authority,
) -> Result<Arc<Session>, Problem> {
    if session.targets() >= TARGETS_MAX {
        let problem =
            Problem::new(StatusCode::MISDIRECTED_REQUEST, Side::Client, "too many hosts by one connection");
        return Err(problem.hint("open another connection to the proxy"));
    }
    let fields = fields_for_proxy(session, request.headers().get(PROXY_AUTHORIZATION).cloned()).await?;
    let port = target.port.unwrap_or(HTTP_PORT);
    let (admission, record) = admit(session, &target.host, port, fields).await?;
    let client = Client { scheme: Scheme::Http, version: Version::Http1, sni: None, has_certificate: false };
    let name = match (admission.connection().protocol, admission.connection().client_tls) {
        (Protocol::Http, ClientTls::Plain) => super::client::server_name(&admission, &session.relay, &client)
            .map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, error.side(), error.to_string())),
        (Protocol::Http, ClientTls::Intercept | ClientTls::Passthrough) => {
            let detail = "the policy wants TLS on this connection, and the client spoke without";
            Err(Problem::new(StatusCode::BAD_REQUEST, Side::Client, detail).hint("use https://"))
        }
        (Protocol::Postgres | Protocol::Ssh | Protocol::Opaque | Protocol::Dns, _) => {
            let detail = "the policy has another protocol than HTTP for this destination";
            Err(Problem::new(StatusCode::FORBIDDEN, Side::Policy, detail))
        }
    };
    match name {
        Ok(name) => Ok(Session::new(&session.relay, admission, client, name, record)),
        Err(problem) => {
            let ended = Ended {
                reason: EndReason::Refused,
                side: problem.side,
                detail: Some(problem.detail.clone()),
            };
            super::finish(record, ended);
            Err(problem)
        }
    }
}
