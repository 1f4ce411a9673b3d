//! GraphQL over HTTP (<https://graphql.github.io/graphql-over-http/draft/>): which operations and fields a request asks for.

use apollo_parser::Parser;
use apollo_parser::cst::{
    Definition, FragmentDefinition, OperationDefinition, OperationType, Selection, SelectionSet,
};
use globset::{GlobBuilder, GlobMatcher};
use serde_json::Value;

use super::{Analysis, Body, HttpRequest, Reading};
use crate::request::Effect;

/// Tokens of one document, and how deep its selections nest.
const TOKENS_MAX: usize = 50_000;
const DEPTH_MAX: usize = 64;

/// Fields taken from one request, fragments followed.
const FIELDS_MAX: usize = 10_000;

/// Operations in one batch.
const BATCH_MAX: usize = 64;

/// What kind of operation a document asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads.
    Query,
    /// Reads, again and again.
    Subscription,
    /// Writes.
    Mutation,
}

impl Operation {
    /// As the language writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Subscription => "subscription",
            Self::Mutation => "mutation",
        }
    }

    /// How far it reaches, by the language's own rule: queries have no side effects.
    #[must_use]
    pub fn effect(self) -> Effect {
        match self {
            Self::Query | Self::Subscription => Effect::Read,
            Self::Mutation => Effect::Write,
        }
    }
}

/// One selected field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphqlField {
    /// Kind of the operation it is in.
    pub operation: Operation,
    /// Names of the fields from the root down to it, joined by dots; names, not aliases.
    pub path: String,
}

/// What a GraphQL request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Graphql {
    /// Nobody can tell: not parsed, only a digest of a stored document, or too large.
    NotUnderstood,
    /// Every selected field at every depth.
    Read(Vec<GraphqlField>),
}

impl Graphql {
    /// The highest kind of operation; `None` when it is not understood or asks for nothing.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        match self {
            Self::NotUnderstood => None,
            Self::Read(fields) => fields.iter().map(|field| field.operation).max(),
        }
    }
}

/// What a request asks for, if it is one of GraphQL. `Body::Unread` is `NotUnderstood` where it might be.
pub(super) fn graphql_of(request: &HttpRequest) -> Option<Graphql> {
    let at_endpoint = request
        .path
        .readings()
        .any(|segments| segments.last().is_some_and(|last| last.eq_ignore_ascii_case("graphql")));
    if request.method == "GET" {
        let document = request.parameters("query").next().filter(|_| at_endpoint)?;
        return Some(read(&[(document, request.parameters("operationName").next())]));
    }
    if request.method != "POST" {
        return None;
    }
    match &request.body {
        Body::Unread => at_endpoint.then_some(Graphql::NotUnderstood),
        Body::Json(Value::Array(batch)) if at_endpoint || batch.iter().any(has_document) => {
            let documents: Option<Vec<_>> = batch.iter().take(BATCH_MAX + 1).map(document_of).collect();
            Some(match documents {
                Some(documents) if documents.len() <= BATCH_MAX => read(&documents),
                Some(_) | None => Graphql::NotUnderstood,
            })
        }
        Body::Json(value) if at_endpoint || has_document(value) => {
            Some(document_of(value).map_or(Graphql::NotUnderstood, |document| read(&[document])))
        }
        Body::Other if at_endpoint || request.media_type() == "application/graphql" => {
            Some(Graphql::NotUnderstood)
        }
        Body::Form(fields) if at_endpoint => {
            let document = fields.iter().find(|(name, _)| name == "query");
            Some(document.map_or(Graphql::NotUnderstood, |(_, text)| read(&[(text, None)])))
        }
        Body::Json(_) | Body::Other | Body::Form(_) | Body::Empty => None,
    }
}

/// A JSON object with a document in it, wherever it was posted.
fn has_document(value: &Value) -> bool {
    let text = value.get("query").and_then(Value::as_str).unwrap_or_default().trim_start();
    ["query", "mutation", "subscription", "{", "fragment"].iter().any(|word| text.starts_with(word))
        && text.contains('{')
}

fn document_of(value: &Value) -> Option<(&str, Option<&str>)> {
    let text = value.get("query")?.as_str()?;
    Some((text, value.get("operationName").and_then(Value::as_str)))
}

fn read(documents: &[(&str, Option<&str>)]) -> Graphql {
    let mut fields = Vec::new();
    for (text, name) in documents {
        if collect(text, *name, &mut fields).is_none() {
            return Graphql::NotUnderstood;
        }
    }
    if fields.is_empty() { Graphql::NotUnderstood } else { Graphql::Read(fields) }
}

/// Adds the fields of one document. With several operations and no name for one, all count.
fn collect(text: &str, name: Option<&str>, fields: &mut Vec<GraphqlField>) -> Option<()> {
    let tree = Parser::new(text).recursion_limit(DEPTH_MAX).token_limit(TOKENS_MAX).parse();
    if tree.errors().next().is_some() {
        return None;
    }
    let (mut operations, mut fragments) = (Vec::new(), Vec::new());
    for definition in tree.document().definitions() {
        if let Definition::OperationDefinition(operation) = definition {
            operations.push(operation);
        } else if let Definition::FragmentDefinition(fragment) = definition {
            fragments.push(fragment);
        } else {
            // Schema definitions are no request.
            return None;
        }
    }
    let named = |operation: &OperationDefinition| {
        operation.name().is_some_and(|found| name.is_some_and(|name| found.text() == name))
    };
    if operations.iter().any(named) {
        operations.retain(named);
    }
    for operation in &operations {
        let kind = kind(operation.operation_type());
        walk(&operation.selection_set()?, kind, "", &fragments, 0, fields)?;
    }
    Some(())
}

fn kind(operation: Option<OperationType>) -> Operation {
    match operation {
        Some(operation) if operation.mutation_token().is_some() => Operation::Mutation,
        Some(operation) if operation.subscription_token().is_some() => Operation::Subscription,
        Some(_) | None => Operation::Query,
    }
}

fn walk(
    set: &SelectionSet,
    operation: Operation,
    prefix: &str,
    fragments: &[FragmentDefinition],
    depth: usize,
    fields: &mut Vec<GraphqlField>,
) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    for selection in set.selections() {
        match selection {
            Selection::Field(field) => {
                let name = field.name()?.text().to_string();
                let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                if fields.len() >= FIELDS_MAX {
                    return None;
                }
                fields.push(GraphqlField { operation, path: path.clone() });
                if let Some(inner) = field.selection_set() {
                    walk(&inner, operation, &path, fragments, depth + 1, fields)?;
                }
            }
            Selection::InlineFragment(fragment) => {
                walk(&fragment.selection_set()?, operation, prefix, fragments, depth + 1, fields)?;
            }
            Selection::FragmentSpread(spread) => {
                let wanted = spread.fragment_name()?.name()?.text().to_string();
                let named = |fragment: &&FragmentDefinition| {
                    let name = fragment.fragment_name().and_then(|name| name.name());
                    name.is_some_and(|name| name.text() == wanted.as_str())
                };
                let fragment = fragments.iter().find(named)?;
                walk(&fragment.selection_set()?, operation, prefix, fragments, depth + 1, fields)?;
            }
        }
    }
    Some(())
}

/// `mutation deleteRepository`, `query viewer.email`, `mutation *`, `query`.
#[derive(Clone, Debug)]
pub struct GraphqlPattern {
    text: String,
    operation: Operation,
    /// Globs over the names from the root down; `None` is any field.
    fields: Option<Vec<GlobMatcher>>,
}

impl GraphqlPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let operation = match word {
            "query" => Operation::Query,
            "mutation" => Operation::Mutation,
            "subscription" => Operation::Subscription,
            _ => {
                return Err(format!(
                    "{text:?} does not begin with query, mutation or subscription, as in \"mutation deleteRepository\""
                ));
            }
        };
        let rest = rest.trim();
        if rest.is_empty() {
            return Ok(Self { text: text.to_owned(), operation, fields: None });
        }
        let glob = |part: &str| {
            GlobBuilder::new(part)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| format!("{part:?} is not a pattern: {}", error.kind()))
        };
        let fields = rest.split('.').map(glob).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), operation, fields: Some(fields) })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a request selects such a field.
    #[must_use]
    pub fn matches(&self, analysis: &Analysis) -> Reading {
        match &analysis.graphql {
            None => Reading::No,
            Some(Graphql::NotUnderstood) => Reading::Perhaps,
            Some(Graphql::Read(fields)) => fields.iter().any(|field| self.takes(field, false)).into(),
        }
    }

    /// Whether it speaks of a field; `below` counts what lies below the field it names, too.
    fn takes(&self, field: &GraphqlField, below: bool) -> bool {
        if self.operation != field.operation {
            return false;
        }
        let Some(globs) = &self.fields else { return true };
        let names: Vec<&str> = field.path.split('.').collect();
        let long_enough = if below { names.len() >= globs.len() } else { names.len() == globs.len() };
        long_enough && globs.iter().zip(&names).all(|(glob, name)| glob.is_match(name))
    }
}

/// Whether the patterns together speak of everything a request selects. What leads to a field they name is spoken of, too.
#[must_use]
pub fn graphql_covers(patterns: &[GraphqlPattern], analysis: &Analysis) -> Reading {
    if patterns.is_empty() {
        return Reading::Yes;
    }
    match &analysis.graphql {
        None => Reading::No,
        Some(Graphql::NotUnderstood) => Reading::Perhaps,
        Some(Graphql::Read(fields)) => {
            let covered = |field: &GraphqlField| patterns.iter().any(|pattern| pattern.takes(field, true));
            let leads = |field: &GraphqlField| {
                let inside = format!("{}.", field.path);
                let mut below = fields
                    .iter()
                    .filter(|other| other.operation == field.operation && other.path.starts_with(&inside));
                let first = below.next();
                first.is_some_and(covered) && below.all(covered)
            };
            fields.iter().all(|field| covered(field) || leads(field)).into()
        }
    }
}
