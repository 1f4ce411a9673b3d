//! What holds for every request and every answer: the host it is for, where it comes from, how long it takes, and the header
//! fields that keep browsers from doing more than this page needs.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::layout::message;
use super::{Web, chat};

/// How long a request may take from its head to the head of its answer, its form included.
pub(super) const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// Nothing inline, nothing from elsewhere, in no frame (CSP Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// A year (RFC 6797).
const HSTS: &str = "max-age=31536000";

/// Fetch Metadata Request Headers, section 2.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Around every route.
pub(super) async fn check(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let refusal = refusal(&web, &request);
    let mut response = match refusal {
        Some((status, why)) => message(status, why),
        None => match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_late) => message(StatusCode::REQUEST_TIMEOUT, "this took too long"),
        },
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if web.secure() {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
    }
    response
}

fn refusal(web: &Web, request: &Request) -> Option<(StatusCode, &'static str)> {
    if !is_for_us(web, request) {
        return Some((StatusCode::MISDIRECTED_REQUEST, "this host is not served here"));
    }
    match *request.method() {
        Method::GET | Method::HEAD => None,
        // Of no browser: they bring no cookie that would count, and are signed.
        Method::POST if chat::is_signed(request.uri().path()) => None,
        Method::POST if is_from_us(web, request.headers()) => None,
        Method::POST => Some((StatusCode::FORBIDDEN, "this came from another site")),
        _ => Some((StatusCode::METHOD_NOT_ALLOWED, "only GET and POST")),
    }
}

/// Against DNS rebinding: one `Host`, and it is the configured one (RFC 9110 section 7.2).
fn is_for_us(web: &Web, request: &Request) -> bool {
    let ours = |host: &str| host.eq_ignore_ascii_case(web.settings.authority());
    let mut hosts = request.headers().get_all(HOST).iter();
    let named = hosts.next().and_then(|host| host.to_str().ok()).is_some_and(ours);
    let target = request.uri().authority().is_none_or(|authority| ours(authority.as_str()));
    named && hosts.next().is_none() && target
}

/// Whether a page of ours sent it. Under `no-referrer` browsers write `Origin: null` for forms (Fetch Standard, "append a
/// request Origin header"), so that counts where they also say that it is ours.
fn is_from_us(web: &Web, headers: &HeaderMap) -> bool {
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
    let ours = web.settings.url.as_bytes();
    match (site, origin) {
        (Some(b"same-origin"), Some(origin)) => origin == ours || origin == b"null",
        (Some(b"same-origin"), None) => true,
        (Some(_), _) => false,
        (None, origin) => origin == Some(ours),
    }
}

/// A form's bytes, no more than there may be of them.
pub(super) struct Posted(Bytes);

impl Deref for Posted {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl FromRequest<Arc<Web>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, web: &Arc<Web>) -> Result<Self, Response> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().is_none_or(|kind| kind.trim() != "application/x-www-form-urlencoded") {
            return Err(message(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not a form"));
        }
        let bytes = Bytes::from_request(request, web).await;
        bytes
            .map(Self)
            .map_err(|_| message(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long, or broke off"))
    }
}
