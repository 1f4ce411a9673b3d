//! What Portcullis itself answers: problem details (RFC 9457), or a gRPC status for a gRPC client.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;

use crate::flow::{ApprovalId, SessionId, Side};
use crate::gate::Denial;

/// Seconds after which a client that was told to come again should do so.
const RETRY_SECONDS: u64 = 10;

/// Longest text in a gRPC message, in bytes: it travels in a header field.
const GRPC_MESSAGE_BYTES_MAX: usize = 1024;

/// An answer that is not the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What the client is told by number.
    pub(super) status: StatusCode,
    /// What happened, in one sentence.
    pub(super) detail: String,
    /// What to do instead.
    pub(super) hint: Option<String>,
    /// Rule that decided, when one did.
    pub(super) rule: Option<String>,
    /// The decision it is about.
    pub(super) approval: Option<ApprovalId>,
    /// Whose doing it was.
    pub(super) side: Side,
    /// What is wrong with the client's token (RFC 6750 section 3.1), when that is what it is about.
    pub(super) token: Option<TokenProblem>,
}

/// Why a client's token does not open its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenProblem {
    /// There is none.
    Missing,
    /// It does not count.
    Invalid,
}

impl TokenProblem {
    /// `WWW-Authenticate`. A request without a token is told no error (RFC 6750 section 3.1).
    fn challenge(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Missing => "Bearer realm=\"portcullis\"",
            Self::Invalid => "Bearer realm=\"portcullis\", error=\"invalid_token\"",
        })
    }
}

impl Problem {
    /// A problem that no rule made.
    pub(super) fn new(status: StatusCode, side: Side, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), hint: None, rule: None, approval: None, side, token: None }
    }

    /// A request that the gate refuses.
    pub(super) fn denied(denial: &Denial) -> Self {
        let status = match denial.side {
            Side::Policy => StatusCode::FORBIDDEN,
            Side::Client => StatusCode::BAD_REQUEST,
            Side::Portcullis => StatusCode::SERVICE_UNAVAILABLE,
            Side::Upstream => StatusCode::BAD_GATEWAY,
        };
        Self {
            status,
            detail: denial.reason.clone(),
            hint: denial.hint.clone(),
            rule: Some(denial.rule.clone()),
            approval: denial.approval.as_ref().map(|approval| approval.id),
            side: denial.side,
            token: None,
        }
    }

    /// A request whose client has to bring a token, or another one.
    pub(super) fn unidentified(denial: &Denial, token: TokenProblem) -> Self {
        let status = match denial.side {
            Side::Client | Side::Policy => StatusCode::UNAUTHORIZED,
            // It may be a good one.
            Side::Portcullis | Side::Upstream => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, token: Some(token), ..Self::denied(denial) }
    }

    /// A held request whose client shall come again.
    pub(super) fn deferred(denial: &Denial) -> Self {
        Self { status: StatusCode::LOCKED, ..Self::denied(denial) }
    }

    /// The same with a hint.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As a whole response, in the terms of a gRPC client or of any other.
    pub(super) fn response(&self, grpc: bool, session: SessionId) -> Response<Bytes> {
        if grpc {
            return self.grpc();
        }
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "session": session.to_string(),
        });
        if let Some(object) = body.as_object_mut() {
            let optional = [
                ("rule", self.rule.clone()),
                ("approval", self.approval.map(|id| id.to_string())),
                ("hint", self.hint.clone()),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    object.insert(key.to_owned(), value.into());
                }
            }
        }
        let mut response = Response::new(Bytes::from(format!("{body}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let (Some(token), StatusCode::UNAUTHORIZED) = (self.token, self.status) {
            headers.insert(WWW_AUTHENTICATE, token.challenge());
        }
        if self.status == StatusCode::LOCKED {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response
    }

    /// A response of trailers only (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
    fn grpc(&self) -> Response<Bytes> {
        // grpc-status: INVALID_ARGUMENT, PERMISSION_DENIED, UNAVAILABLE, UNAUTHENTICATED.
        let code = match (self.side, self.token) {
            (Side::Client | Side::Policy, Some(_)) => 16,
            (Side::Client, None) => 3,
            (Side::Policy, None) => 7,
            (Side::Portcullis | Side::Upstream, _) => 14,
        };
        let hint = self.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let rule = self.rule.as_deref().map(|rule| format!("; rule: {rule}")).unwrap_or_default();
        let approval = self.approval.map(|id| format!("; approval: {id}")).unwrap_or_default();
        let mut text = format!("{}{hint}{rule}{approval}", self.detail);
        text.truncate(text.floor_char_boundary(GRPC_MESSAGE_BYTES_MAX));
        // The protocol percent-encodes what is not printable ASCII, and the percent sign itself.
        const KEPT: percent_encoding::AsciiSet = percent_encoding::CONTROLS.add(b'%');
        let message = percent_encoding::utf8_percent_encode(&text, &KEPT).to_string();
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// Whether a client speaks gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_rule_reason_and_what_to_do() {
        let denial = Denial::new(Side::Policy, "no", "ask the owner");
        let response = Problem::denied(&denial).response(false, SessionId::generate());
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["rule"], &body["detail"], &body["hint"]),
            (&"default".into(), &"no".into(), &"ask the owner".into())
        );
        assert!(body.get("approval").is_none());
    }

    #[test]
    fn a_deferred_hold_says_when_to_come_again() {
        let id = ApprovalId::generate();
        let denial = Denial {
            approval: Some(Box::new(crate::gate::withdrawal(id))),
            ..Denial::new(Side::Policy, "this waits", "send it again")
        };
        let response = Problem::deferred(&denial).response(false, SessionId::generate());
        assert_eq!(response.status(), 423);
        assert!(response.headers().contains_key(RETRY_AFTER));
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["approval"], id.to_string());
    }

    #[test]
    fn grpc_clients_get_a_status_of_their_own() {
        let denial = Denial::new(Side::Policy, "100% n\u{f6}", "");
        let response = Problem::denied(&denial).response(true, SessionId::generate());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "100%25 n%C3%B6; rule: default");
    }
}
