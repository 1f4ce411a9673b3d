//! Judges a text as the gate would, without a connection: for `policy explain` and `policy test`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::decide::{HttpOperation, PostgresOperation, SshAsked, UnreadBody, objects_of};
use super::rule::{Claims, Connection, Policy, Protocol, SshRules, Used, Verdict, Who};
use crate::request::http::{HttpRequest, Scheme, analyze as analyze_http};
use crate::request::sql::{Analysis, analyze};
use crate::request::ssh::{OperationKind, SshOperation, described, exec};
use crate::request::{Effect, ObjectName};

/// Where PostgreSQL looks for unqualified names unless told otherwise. The schema named like the user, which comes
/// before it, seldom exists.
const SEARCH_PATH: &str = "public";

/// Database judged when neither the caller nor the connection names one.
const DATABASE: &str = "postgres";

/// What a live session would know beside the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// What the text is: a statement of PostgreSQL (also without it), or an HTTP request.
    pub protocol: Option<Protocol>,
    /// Groups of the subject.
    pub groups: Vec<String>,
    /// Claims of the subject's token, under `[identity]`.
    pub claims: Option<Claims>,
    /// Connection; without it the policy's first one for PostgreSQL.
    pub connection: Option<String>,
    /// Database; without it the one the connection logs in to.
    pub database: Option<String>,
    /// Schemas that unqualified names are looked up in; without it `public`.
    pub search_path: Option<Vec<String>>,
    /// Of SSH, what the text is about; without it a command line that is run.
    pub operation: Option<OperationKind>,
    /// Account on the server; without it the one that the connection logs in to.
    pub user: Option<String>,
    /// The planner's row estimate for every statement; without it unknown.
    pub rows: Option<u64>,
    /// When it is asked, in milliseconds since 1970-01-01T00:00:00Z; without it, now is what the caller says.
    pub at_ms: Option<u64>,
    /// Names of rules whose budget the run has used up.
    pub used_up: Vec<String>,
}

impl Circumstances {
    fn who(&self) -> Who<'_> {
        Who { groups: &self.groups, claims: self.claims.as_ref(), at_ms: self.at_ms.unwrap_or_default() }
    }

    /// What a run that has used up these budgets, and nothing of the others, has had of each.
    fn used(&self, policy: &Policy) -> Vec<Used> {
        const ALL: Used = Used { statements: u64::MAX, rows: u64::MAX, bytes: u64::MAX };
        let budgets = policy.guards.iter().filter(|guard| guard.when.over.is_some());
        budgets.map(|guard| if self.used_up.contains(&guard.name) { ALL } else { Used::default() }).collect()
    }

    /// Sets when it is asked, as RFC 3339 writes it: `2026-11-28T10:00:00Z`.
    ///
    /// # Errors
    /// When it is no moment from 1970 on.
    pub fn at(&mut self, text: &str) -> Result<(), String> {
        let moment = text.parse::<jiff::Timestamp>().ok();
        let ms = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
        self.at_ms = Some(ms.ok_or("write a moment as 2026-11-28T10:00:00Z")?);
        Ok(())
    }

    /// Adds a claim, as `NAME=VALUE`; names between dots are tables inside of tables.
    ///
    /// # Errors
    /// When there is no `=`.
    pub fn claim(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').ok_or("write a claim as NAME=VALUE")?;
        let claims = self.claims.get_or_insert_default();
        let mut table = claims;
        let mut parts = name.trim().split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.trim().into());
                break;
            }
            let inner = table.entry(part).or_insert_with(|| Claims::new().into());
            table = inner.as_object_mut().ok_or("a claim cannot be a text and a table")?;
        }
        Ok(())
    }
}

/// A text, what it does, and what the policy says of it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The operations found in it.
    pub operations: Vec<Tried>,
    /// The highest effect of them, or of the whole where its readings differ.
    pub effect: Effect,
    /// The policy's verdict.
    pub verdict: Verdict,
}

/// One operation of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Command tag, or kind of request.
    pub kind: String,
    /// How far it reaches.
    pub effect: Effect,
    /// Objects it touches; of a request, its URL.
    pub objects: Vec<String>,
    /// Why the effect is what it is.
    pub reason: Option<String>,
}

/// A text that cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTrial {
    /// The policy has no such connection for the protocol.
    #[error("policy \"{policy}\" has no {protocol} connection \"{connection}\" (it has: {})", known.join(", "))]
    Connection {
        /// Policy.
        policy: String,
        /// As people call it.
        protocol: &'static str,
        /// What was asked for.
        connection: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The text is no HTTP request.
    #[error("{0}; write METHOD URL, then header fields, an empty line and the body, as in HTTP")]
    Request(String),
}

/// Judges one text.
///
/// # Errors
/// When the circumstances name a connection that the policy does not have, or the text is no request.
pub fn judge(policy: &Policy, text: &str, circumstances: &Circumstances) -> Result<Trial, NoTrial> {
    match circumstances.protocol {
        Some(Protocol::Http) => judge_http(policy, text, circumstances),
        Some(Protocol::Ssh) => judge_ssh(policy, text.as_bytes(), circumstances),
        Some(Protocol::Postgres | Protocol::Opaque | Protocol::Dns) | None => {
            judge_analysis(policy, analyze(text), circumstances)
        }
    }
}

/// Judges one HTTP request, written as on the wire but with its URL in full.
fn judge_http(policy: &Policy, text: &str, circumstances: &Circumstances) -> Result<Trial, NoTrial> {
    let request = request(text).map_err(NoTrial::Request)?;
    let analysis = analyze_http(&request);
    let connection = connection(policy, circumstances, Protocol::Http)?;
    let operation = HttpOperation {
        connection: connection.map_or("", |connection| &connection.name),
        request: &request,
        analysis: &analysis,
        unread: UnreadBody::Doubted,
    };
    let verdict = policy.decide_http(&operation, circumstances.who());
    let tried = Tried {
        kind: analysis.kind,
        effect: analysis.effect,
        objects: vec![request.url()],
        reason: analysis.reason,
    };
    Ok(Trial { operations: vec![tried], effect: analysis.effect, verdict })
}

/// Judges one operation of SSH: a command line, as a client sends it to be run, or what else the circumstances say it is.
///
/// # Errors
/// When the circumstances name a connection that the policy does not have.
pub fn judge_ssh(policy: &Policy, command: &[u8], circumstances: &Circumstances) -> Result<Trial, NoTrial> {
    let connection = connection(policy, circumstances, Protocol::Ssh)?;
    let operation = match circumstances.operation {
        None | Some(OperationKind::Exec) => exec(command),
        Some(kind) => described(kind, &String::from_utf8_lossy(command)),
    };
    let rules = SshRules::default();
    let account = connection.and_then(|connection| connection.upstream.user.as_deref());
    let asked = SshAsked {
        connection: connection.map_or("", |connection| &connection.name),
        rules: connection.map_or(&rules, |connection| &connection.ssh),
        user: circumstances.user.as_deref().or(account).unwrap_or_default(),
        operation: &operation,
    };
    let verdict = policy.decide_ssh(&asked, circumstances.who());
    Ok(Trial { operations: tried(&operation), effect: operation.effect, verdict })
}

/// The commands of a line; of what is none, the operation itself.
fn tried(operation: &SshOperation) -> Vec<Tried> {
    let commands = operation.command_line.iter().flat_map(|line| &line.commands);
    let commands: Vec<Tried> = commands
        .map(|command| Tried {
            kind: command.kind.clone(),
            effect: command.effect,
            objects: command.objects(),
            reason: command.reason.clone(),
        })
        .collect();
    if !commands.is_empty() || operation.command_line.is_some() {
        return commands;
    }
    vec![Tried {
        kind: operation.kind.to_string(),
        effect: operation.effect,
        objects: operation.objects().into_iter().chain(operation.target.clone()).collect(),
        reason: operation.reason.clone(),
    }]
}

/// `METHOD URL`, header fields, an empty line, the body.
fn request(text: &str) -> Result<HttpRequest, String> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split_whitespace();
    let (Some(method), Some(url)) = (words.next(), words.next()) else {
        return Err("the first line names no method and URL".to_owned());
    };
    let method =
        http::Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no method"))?;
    let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(_) | None => return Err(format!("{url:?} begins with neither http:// nor https://")),
    };
    let mut headers = http::HeaderMap::new();
    for line in lines {
        let field = line.split_once(':').and_then(|(name, value)| {
            let name = http::HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, http::HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = field.ok_or_else(|| format!("{line:?} is no header field"))?;
        headers.append(name, value);
    }
    let upgrade = headers.get(http::header::UPGRADE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or_else(|| scheme.default_port());
    let target = uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let mut request =
        HttpRequest::from_head(&method, &target, &headers, upgrade.as_deref(), scheme, &host, port)
            .map_err(|error| error.to_string())?;
    request.read_body(body.as_bytes());
    Ok(request)
}

/// Judges what was found in one text.
///
/// # Errors
/// When the circumstances name a connection that the policy does not have.
pub fn judge_analysis(
    policy: &Policy,
    analysis: Analysis,
    circumstances: &Circumstances,
) -> Result<Trial, NoTrial> {
    let connection = connection(policy, circumstances, Protocol::Postgres)?;
    let database = connection.and_then(|connection| connection.upstream.database.as_deref());
    let path = circumstances.search_path.clone().unwrap_or_else(|| vec![SEARCH_PATH.to_owned()]);
    let estimates: Vec<Option<u64>> = analysis.statements.iter().map(|_| circumstances.rows).collect();
    let operation = PostgresOperation {
        connection: connection.map_or("", |connection| &connection.name),
        database: circumstances.database.as_deref().or(database).unwrap_or(DATABASE),
        statements: &analysis.statements,
        effect: analysis.effect,
        search_path: Some(&path),
        estimates: &estimates,
        used: &circumstances.used(policy),
    };
    let depends = policy.dependence(&operation, circumstances.who());
    let verdict = policy.decide(&operation, circumstances.who()).and_dependence(policy, depends.as_ref());
    let operations = analysis.statements.iter().map(|statement| Tried {
        kind: statement.kind.clone(),
        effect: statement.effect,
        objects: objects_of(statement).into_iter().map(ObjectName::qualified).collect(),
        reason: statement.reason.clone(),
    });
    Ok(Trial { operations: operations.collect(), effect: analysis.effect, verdict })
}

fn connection<'p>(
    policy: &'p Policy,
    circumstances: &Circumstances,
    protocol: Protocol,
) -> Result<Option<&'p Connection>, NoTrial> {
    let mut known =
        policy.connections.iter().map(Arc::as_ref).filter(move |connection| connection.protocol == protocol);
    let Some(wanted) = &circumstances.connection else {
        return Ok(known.next());
    };
    known.clone().find(|connection| connection.name == *wanted).map(Some).ok_or_else(|| NoTrial::Connection {
        policy: policy.name.clone(),
        protocol: match protocol {
            Protocol::Http => "HTTP",
            Protocol::Postgres => "PostgreSQL",
            Protocol::Ssh => "SSH",
            Protocol::Opaque => "opaque",
            Protocol::Dns => "DNS",
        },
        connection: wanted.clone(),
        known: known.map(|connection| connection.name.clone()).collect(),
    })
}

/// Names of guards that no verdict of a run of trials came from.
#[must_use]
pub fn untried<'p>(policy: &'p Policy, rules: &BTreeSet<String>) -> Vec<&'p str> {
    policy.guards.iter().map(|guard| guard.name.as_str()).filter(|name| !rules.contains(*name)).collect()
}
