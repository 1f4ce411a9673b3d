//! A request that waits for a human: first with the client in line, then, when that takes long, without it.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::answer::Problem;
use super::body::Read;
use super::coding::decode_whole;
use super::exchange::{Exchange, RequestBody, unrecorded};
use crate::approval::request::Fields;
use crate::approval::{Content, Request};
use crate::flow::Side;
use crate::gate::{BodyRead, Denial, Held, Hold, Permit};
use crate::mask::http::Counts;
use crate::policy::rule::INLINE_TIME_DEFAULT;
use crate::record::event::{self, Decided};
use crate::relay::waiting::Waiting;

/// Asks and waits. A client that comes back to a hold it was sent away from gets that one's decision.
pub(super) async fn decide(exchange: &mut Exchange, hold: Hold) -> Result<Permit, Problem> {
    // Whoever decides must see what it is about, and the decision binds every byte of it.
    let whole = exchange.read_body().await? != BodyRead::NotYet
        && matches!(&exchange.body, RequestBody::Read(Read::Whole { .. }));
    let content = content(exchange);
    let held = ask(exchange, hold, content)?;
    // What was not read whole cannot be recognised when it comes again.
    let held = if whole { held } else { held.stay() };
    let session = Arc::clone(&exchange.session);
    let waiting = Waiting::new(exchange.operation, held.id(), |decided| {
        session.with_record(|record| record.decided(decided).map(|_| ()))
    });
    let result = held.decision().await;
    waiting.settled();
    let result = match result {
        Ok(permit) => session.relay.gate.redeem(&session.admission, permit),
        Err(denial) => Err(denial),
    };
    concluded(exchange, result)
}

/// Puts the question, and records it.
fn ask(exchange: &Exchange, hold: Hold, content: Content) -> Result<Held, Problem> {
    let session = &exchange.session;
    let admission = &session.admission;
    let (rule, terms) = (hold.rule().to_owned(), hold.terms().clone());
    let request = Request {
        run: admission.flow().run,
        session: admission.flow().session,
        process: admission.flow().process.clone(),
        subject: admission.subject().clone(),
        connection: admission.connection().name.clone(),
        destination: admission.flow().destination,
        database: None,
        content,
        kinds: vec![exchange.analysis.kind.clone()],
        effect: exchange.analysis.effect,
        objects: Vec::new(),
        estimated_rows: None,
        rule: rule.clone(),
        policy: exchange.policy.name.clone(),
        policy_version: hold.policy_version().clone(),
        approvers: terms.approvers.clone(),
        in_transaction: false,
        timeout: terms.timeout,
        quorum: terms.quorum,
        distinct_groups: terms.distinct_groups,
        break_glass: terms.break_glass.clone(),
        chat: terms.chat,
        step_up: terms.step_up.clone(),
        shape: None,
        side_effects: None,
        again: Some(fields(&exchange.parts.headers)),
        patience: hold.patience(Some(INLINE_TIME_DEFAULT)),
    };
    let held = hold
        .ask(&session.relay.gate, request)
        .map_err(|denial| exchange.refuse(Problem::denied(&denial), denial.approval.clone()))?;
    let event = event::Held {
        asked: exchange.asked(),
        rule,
        approval: held.id(),
        approvers: terms.approvers,
        timeout_seconds: terms.timeout.as_secs(),
        in_transaction: false,
        side_effects: None,
    };
    // Dropped, the question is withdrawn from the approvers.
    session.with_record(|record| record.held(&event).map(|_| ())).map_err(|error| unrecorded(&error))?;
    Ok(held)
}

/// Fields that say nothing of what is asked for, or are new in each request, or never reach the server as they are.
const ORDINARY: [&str; 22] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "baggage",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
    "x-amz-date",
    "x-b3-traceid",
    "x-request-id",
];

fn is_ordinary(name: &str) -> bool {
    ORDINARY.contains(&name) || name.starts_with("x-stainless-")
}

/// Whether a field of this name could hold what authenticates. More are taken for such than in the record: reviewers and chats see this,
/// and what the value is exactly, the digest of [`fields`] binds.
fn may_authenticate(name: &str) -> bool {
    ["auth", "key", "jwt", "session", "cookie", "sign"].iter().any(|part| name.contains(part))
}

/// The other fields, as one text: a request with other ones is another request.
fn fields(headers: &http::HeaderMap) -> String {
    let mut lines: Vec<String> = headers
        .iter()
        .filter(|(name, _)| !is_ordinary(name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.as_bytes().escape_ascii()))
        .collect();
    lines.sort_unstable();
    let mut digest = Fields::new("portcullis header fields 1");
    lines.iter().for_each(|line| digest.bytes(line.as_bytes()));
    // Keys can be among them: what is kept is their digest.
    format!("header fields {}", digest.finish())
}

/// What the decision binds and the reviewer sees: method, URL, media type, the fields that are not ordinary (some of them say what
/// is asked, such as `X-Amz-Target` and `X-HTTP-Method-Override`), and the exact body.
fn content(exchange: &Exchange) -> Content {
    let url = exchange.request.url();
    let mut statement = format!("{} {url}\n", exchange.parts.method).into_bytes();
    if let Some(kind) = super::exchange::content_type(&exchange.parts.headers) {
        statement.extend_from_slice(b"content-type: ");
        statement.extend_from_slice(kind);
        statement.push(b'\n');
    }
    let mut fields = exchange.recorded_fields(&mut Counts::new());
    fields.retain(|(name, _)| !is_ordinary(name));
    // A client that sends them in another order asks for the same.
    fields.sort_unstable();
    for (name, value) in fields {
        let value = if may_authenticate(&name) { "[redacted]" } else { &value };
        statement.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    let empty = Bytes::new();
    let (body, whole) = exchange.bytes_read().unwrap_or((&empty, true));
    let max = usize::try_from(exchange.policy.defaults.inspect_bytes).unwrap_or(usize::MAX);
    let shown = decode_whole(&exchange.parts.headers, body, max).unwrap_or_else(|| body.clone());
    if !shown.is_empty() {
        statement.push(b'\n');
        statement.extend_from_slice(&shown);
    }
    if !whole {
        statement.extend_from_slice(b"\n(the body goes on; this much of it was looked at)\n");
    }
    let coded = shown != *body;
    let exact = [Some(body.as_ref())];
    let note: [Option<&[u8]>; 1] = [Some(b"(the body as sent, in its content coding)")];
    let content =
        if coded { Content::new(&statement, &exact, &note) } else { Content::new(&statement, &[], &[]) };
    if whole { content } else { content.cut_short() }
}

/// The decision is there.
fn concluded(exchange: &Exchange, result: Result<Permit, Denial>) -> Result<Permit, Problem> {
    let approval = match &result {
        Ok(permit) => permit.approval().cloned(),
        Err(denial) => denial.approval.as_deref().cloned(),
    };
    if let Some(approval) = approval {
        let decided = Decided { operation: exchange.operation, approval };
        let recorded = exchange.session.with_record(|record| record.decided(&decided).map(|_| ()));
        recorded.map_err(|error| unrecorded(&error))?;
    }
    result.map_err(|denial| {
        let mut problem = match denial.is_deferred() {
            true => Problem::deferred(&denial),
            false => Problem::denied(&denial),
        };
        if denial.side == Side::Policy && !denial.is_deferred() {
            problem.status = StatusCode::FORBIDDEN;
        }
        exchange.refuse(problem, denial.approval.clone())
    })
}
