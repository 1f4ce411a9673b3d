//! What people do to a request: decide it, take back what it covers, review a broken glass. Only what they were shown.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};

use super::guard::Posted;
use super::layout::message;
use super::{Signed, Web, approval, login};
use crate::approval::{Answer, DecideError, Decision, Entry, Scope};
use crate::flow::Side;
use crate::signin::Fields;

/// Milliseconds of a minute.
const MINUTE_MS: u64 = 60_000;

/// `POST /approvals/ID/decide`.
pub(super) async fn decide(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Posted,
) -> Response {
    change(web, id, headers, body, |web, entry, signed, fields| {
        let decision = decision(fields).ok_or(Refused::Form)?;
        let seen = fields.get("digest").parse().map_err(|_| Refused::Form)?;
        web.approvals.decide(entry.id, seen, signed.who.clone(), decision).map_err(Refused::Approval)
    })
    .await
}

/// `POST /approvals/ID/revoke`.
pub(super) async fn revoke(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Posted,
) -> Response {
    change(web, id, headers, body, |web, entry, signed, _| {
        web.approvals.revoke(entry.id, &signed.who).map_err(Refused::Approval)
    })
    .await
}

/// `POST /approvals/ID/review`.
pub(super) async fn review(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Posted,
) -> Response {
    change(web, id, headers, body, |web, entry, signed, fields| {
        let note = fields.get("reason").to_owned();
        web.approvals.review(entry.id, signed.who.clone(), note).map_err(Refused::Approval)
    })
    .await
}

/// Why nothing was changed.
enum Refused {
    /// Not what a form of ours sends.
    Form,
    /// By the approvals' own rules.
    Approval(DecideError),
}

type Change = fn(&Web, &Entry, &Signed, &Fields) -> Result<Arc<Entry>, Refused>;

/// Makes a change on a thread that may wait for the disk, then shows what has become of the request.
async fn change(web: Arc<Web>, id: String, headers: HeaderMap, body: Posted, make: Change) -> Response {
    let (signed, fields) = match web.decided(&headers, &body, &format!("/approvals/{id}")) {
        Ok(posted) => posted,
        Err(refusal) => return *refusal,
    };
    let Some(entry) = web.visible(&id, &signed) else {
        return message(StatusCode::NOT_FOUND, "no such request that you may see");
    };
    let done = tokio::task::spawn_blocking(move || {
        let made = make(&web, &entry, &signed, &fields);
        answer(&web, &entry, &signed, made)
    });
    done.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a decision on the approvals page broke");
        message(StatusCode::INTERNAL_SERVER_ERROR, "this broke; the daemon's log says why")
    })
}

fn answer(web: &Web, entry: &Entry, signed: &Signed, made: Result<Arc<Entry>, Refused>) -> Response {
    let error = match made {
        Ok(_) => return login::see_other(&format!("/approvals/{}", entry.id)),
        Err(Refused::Form) => return message(StatusCode::BAD_REQUEST, "not a form of this page"),
        Err(Refused::Approval(error)) => error,
    };
    tracing::warn!(approval = %entry.id, user = signed.who.user, %error, "a decision was refused");
    let status = match error.side() {
        Side::Policy => StatusCode::FORBIDDEN,
        Side::Portcullis => StatusCode::INTERNAL_SERVER_ERROR,
        Side::Client | Side::Upstream => StatusCode::CONFLICT,
    };
    // As it is now: it may have been settled meanwhile.
    let now = web.approvals.get(entry.id);
    let page = approval::whole(web, signed, now.as_deref().unwrap_or(entry));
    page.status(status).notice(error.to_string()).into_response()
}

/// What a form says.
fn decision(fields: &Fields) -> Option<Decision> {
    let reason = fields.get("reason").to_owned();
    match fields.get("answer") {
        "deny" => Some(Decision::plain(Answer::Deny, reason)),
        "approve" => {
            Some(Decision { answer: Answer::Approve, reason, scope: scope(fields)?, break_glass: false })
        }
        "break-glass" => {
            Some(Decision { answer: Answer::Approve, reason, scope: Scope::Once, break_glass: true })
        }
        _ => None,
    }
}

fn scope(fields: &Fields) -> Option<Scope> {
    let lasting = || {
        let minutes: u64 = fields.get("minutes").parse().ok()?;
        Some((minutes.checked_mul(MINUTE_MS)?, fields.get("uses").parse().ok()?))
    };
    match fields.get("scope") {
        "once" | "" => Some(Scope::Once),
        "operation" => lasting().map(|(for_ms, uses)| Scope::Operation { for_ms, uses }),
        "shape" => lasting().map(|(for_ms, uses)| Scope::Shape { for_ms, uses }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_one_thing() {
        let said = |form: &str| decision(&Fields::parse(form.as_bytes()).unwrap());
        let once = said("answer=approve&reason=ok&scope=once&minutes=10&uses=20").unwrap();
        assert_eq!((once.scope, once.reason.as_str(), once.break_glass), (Scope::Once, "ok", false));
        let shape = said("answer=approve&scope=shape&minutes=10&uses=20").unwrap();
        assert_eq!(shape.scope, Scope::Shape { for_ms: 600_000, uses: 20 });
        assert!(said("answer=break-glass&reason=fire").unwrap().break_glass);
        assert_eq!(said("answer=deny").unwrap().answer, Answer::Deny);
        for form in
            ["", "answer=maybe", "answer=approve&scope=all", "answer=approve&scope=shape&minutes=x&uses=1"]
        {
            assert_eq!(said(form), None, "{form}");
        }
        assert_eq!(said("answer=approve&scope=operation&minutes=18446744073709551615&uses=1"), None);
    }
}
