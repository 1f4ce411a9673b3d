//! What a reviewer is shown of an operation that waits: the exact bytes that will run, and nothing the digest misses.

use super::conversation::{Message, Waiting};
use super::parameters::{Readable, readable, readable_arguments};
use crate::approval::{Content, Request};
use crate::codec::postgres::frame::HEADER_BYTES;
use crate::codec::postgres::frontend::{Bind, FunctionCall};
use crate::gate::{Admission, Hold};
use crate::request::ObjectName;
use crate::request::sql::shape_of;

/// Objects listed to a reviewer; the statement itself names all of them.
const OBJECTS_MAX: usize = 100;

/// The question for the approvers.
pub(super) fn approval_request(
    admission: &Admission,
    database: &str,
    hold: &Hold,
    waiting: &Waiting,
    search_path: Option<&str>,
) -> Request {
    let flow = admission.flow();
    let statements = &waiting.facts.analysis.statements;
    let mut objects: Vec<ObjectName> = statements
        .iter()
        .flat_map(|statement| statement.writes.iter().chain(&statement.reads))
        .cloned()
        .collect();
    // With other literals, a condition on a masked column is another question about it.
    let shape = match waiting.facts.dependence {
        Some(_) => None,
        None => shape_of(&waiting.facts.text, &waiting.facts.analysis),
    };
    objects.dedup();
    objects.truncate(OBJECTS_MAX);
    Request {
        run: flow.run,
        session: flow.session,
        process: flow.process.clone(),
        subject: admission.subject().clone(),
        connection: admission.connection().name.clone(),
        destination: flow.destination,
        database: Some(database.to_owned()),
        content: content(waiting),
        kinds: statements.iter().map(|statement| statement.kind.clone()).collect(),
        effect: waiting.facts.analysis.effect,
        objects,
        estimated_rows: waiting.estimated_rows(),
        side_effects: waiting.side_effects.clone(),
        rule: hold.rule().to_owned(),
        policy: admission.policy().name.clone(),
        policy_version: hold.policy_version().clone(),
        approvers: hold.terms().approvers.clone(),
        in_transaction: hold.locks(),
        timeout: hold.terms().timeout,
        quorum: hold.terms().quorum,
        distinct_groups: hold.terms().distinct_groups,
        break_glass: hold.terms().break_glass.clone(),
        chat: hold.terms().chat,
        step_up: hold.terms().step_up.clone(),
        shape,
        again: again(waiting, search_path),
        patience: hold.patience(None),
    }
}

/// What makes a later statement the same one. Nothing does where the text only names what it runs (EXECUTE, FETCH), or where
/// it is not certain which schemas its names are looked up in.
fn again(waiting: &Waiting, search_path: Option<&str>) -> Option<String> {
    let search_path = search_path.filter(|_| !waiting.facts.refers)?;
    let formats = match &waiting.message {
        Message::Query => String::new(),
        Message::FunctionCall => {
            let call = FunctionCall::decode(waiting.bytes.get(HEADER_BYTES..)?).ok()?;
            format!("function {} {:?} {:?}", call.function, call.argument_formats, call.result_format)
        }
        Message::Bind(_) => {
            let bind = Bind::decode(waiting.bytes.get(HEADER_BYTES..)?).ok()?;
            // The same bytes in another format or of another type are another value.
            format!("{:?} {:?} {:?}", bind.parameter_formats, bind.result_formats, waiting.parameter_types)
        }
    };
    Some(format!("search_path {search_path}; {formats}"))
}

fn content(waiting: &Waiting) -> Content {
    let text = waiting.facts.text.as_bytes();
    let body = waiting.bytes.get(HEADER_BYTES..).unwrap_or_default();
    match &waiting.message {
        Message::Query => Content::new(text, &[], &[]),
        // Either was decoded before it was made to wait.
        Message::Bind(_) => {
            let Ok(bind) = Bind::decode(body) else { return Content::new(text, &[Some(body)], &[]) };
            let exact: Vec<_> = bind.parameters.clone().collect();
            with_values(text, &exact, &readable(&bind, &waiting.parameter_types))
        }
        Message::FunctionCall => {
            let Ok(call) = FunctionCall::decode(body) else { return Content::new(text, &[Some(body)], &[]) };
            let exact: Vec<_> = call.arguments.clone().collect();
            with_values(text, &exact, &readable_arguments(&call, &waiting.parameter_types))
        }
    }
}

fn with_values(text: &[u8], exact: &[Option<&[u8]>], readable: &[Readable<'_>]) -> Content {
    let shown: Vec<Option<&[u8]>> =
        readable.iter().map(|value| value.as_ref().map(|(bytes, _)| &**bytes)).collect();
    Content::new(text, exact, &shown)
}
