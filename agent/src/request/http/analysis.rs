//! What a request does: its kind and how far it reaches, from its method, from catalogues of known APIs, and from the
//! protocols that travel inside HTTP.

use super::catalog::{self, Call};
use super::graphql::{Graphql, graphql_of};
use super::{Body, HttpRequest, aws};
use crate::request::Effect;

/// What a request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// Name of the call where a catalogue knows it (`github repos/delete`), else `graphql mutation`, `grpc pkg.Service/Call`,
    /// `websocket`, `connect`, or the method in lower case.
    pub kind: String,
    /// How far it reaches.
    pub effect: Effect,
    /// Why, when the method alone does not say.
    pub reason: Option<String>,
    /// What it asks for in GraphQL.
    pub graphql: Option<Graphql>,
    /// Which gRPC method it calls, `package.Service/Method`.
    pub grpc: Option<String>,
}

/// Fields by which clients ask for another method than they send (several frameworks heed them).
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// Analyses a request as far as it is known.
#[must_use]
pub fn analyze(request: &HttpRequest) -> Analysis {
    let plain = Analysis {
        kind: request.method.to_lowercase(),
        effect: method_effect(&request.method),
        reason: None,
        graphql: None,
        grpc: None,
    };
    if let Some(protocol) = &request.upgrade {
        let reason = Some("opens a stream that no rule looks into".to_owned());
        return Analysis { kind: protocol.clone(), effect: Effect::Unknown, reason, ..plain };
    }
    if let Some(method) = grpc_method(request) {
        let reason = Some("calls a gRPC method whose effect is not known".to_owned());
        let kind = format!("grpc {method}");
        return Analysis { kind, effect: Effect::Unknown, reason, grpc: Some(method), ..plain };
    }
    let mut analysis = plain;
    let graphql = graphql_of(request);
    let known = aws::call(request).or_else(|| catalog::lookup(request));
    if let Some(graphql) = graphql {
        of_graphql(&mut analysis, graphql);
    } else if let Some(Call { kind, effect, reason, certain }) = known {
        analysis.effect = if certain { effect } else { effect.max(analysis.effect) };
        analysis.kind = kind;
        analysis.reason = reason;
    }
    raise_by_override(request, &mut analysis);
    analysis
}

fn of_graphql(analysis: &mut Analysis, graphql: Graphql) {
    match graphql.operation() {
        Some(operation) => {
            analysis.kind = format!("graphql {}", operation.word());
            analysis.effect = operation.effect();
        }
        None => {
            "graphql".clone_into(&mut analysis.kind);
            analysis.effect = Effect::Unknown;
            analysis.reason = Some("holds a GraphQL document that cannot be read".to_owned());
        }
    }
    analysis.graphql = Some(graphql);
}

/// A method that is asked for beside the one that is sent may count instead of it.
fn raise_by_override(request: &HttpRequest, analysis: &mut Analysis) {
    let fields = METHOD_OVERRIDES.iter().filter_map(|name| request.header(name));
    let form: &[(String, String)] = match &request.body {
        Body::Form(form) => form,
        Body::Empty | Body::Json(_) | Body::Other | Body::Unread => &[],
    };
    let form = form.iter().filter(|(name, _)| name == "_method").map(|(_, value)| value.as_str());
    for method in fields.chain(request.parameters("_method")).chain(form) {
        let effect = method_effect(&method.trim().to_ascii_uppercase());
        if effect > analysis.effect {
            analysis.effect = effect;
            analysis.reason = Some("asks for another method beside the one it is sent with".to_owned());
        }
    }
}

/// RFC 9110 section 9.2: what is safe only reads.
pub(super) fn method_effect(method: &str) -> Effect {
    match method {
        // What goes through a tunnel is judged for itself.
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT" => Effect::Read,
        "POST" | "PUT" | "PATCH" | "DELETE" => Effect::Write,
        _ => Effect::Unknown,
    }
}

/// `/package.Service/Method` of a gRPC or gRPC-Web request.
fn grpc_method(request: &HttpRequest) -> Option<String> {
    let media_type = request.media_type();
    if request.method != "POST" || !media_type.starts_with("application/grpc") {
        return None;
    }
    Some(request.path.segments().join("/"))
}

/// Whether kind or effect can change once the body is known, so that it must be read first.
#[must_use]
pub fn depends_on_body(request: &HttpRequest) -> bool {
    if request.method != "POST" || request.body != Body::Unread || request.upgrade.is_some() {
        return false;
    }
    let media_type = request.media_type();
    let at_graphql = request
        .path
        .readings()
        .any(|segments| segments.last().is_some_and(|last| last.eq_ignore_ascii_case("graphql")));
    at_graphql
        || media_type == "application/graphql"
        || (media_type == "application/x-www-form-urlencoded" && aws::is_for_aws(request))
}
