//! The decision on one HTTP request, by the same principle: what may be read in two ways is judged both ways.

use super::{Match, Stance};
use crate::policy::rule::{Guard, HttpWhen, Policy, Protocol, Verdict, Who};
use crate::request::Effect;
use crate::request::http::{Analysis, Body, HttpRequest, Reading};

/// Characters of a URL shown in a refusal.
const URL_CHARS_SHOWN: usize = 160;

/// One request to be judged.
#[derive(Clone, Copy, Debug)]
pub struct HttpOperation<'a> {
    /// Name of the connection it came on.
    pub connection: &'a str,
    /// The request.
    pub request: &'a HttpRequest,
    /// What it does.
    pub analysis: &'a Analysis,
    /// How conditions on a body that was not read are taken.
    pub unread: UnreadBody,
}

/// How conditions on a body that was not read are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadBody {
    /// They may hold: the stricter verdict wins.
    Doubted,
    /// They do not hold: the policy lets such bodies pass (`uninspected = "allow"`).
    Passed,
}

impl From<Reading> for Match {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::No => Self::No,
            Reading::Perhaps => Self::Perhaps,
            Reading::Yes => Self::Yes,
        }
    }
}

impl Policy {
    /// What this policy says of a request. Masks are not looked at here.
    pub fn decide_http(&self, operation: &HttpOperation<'_>, who: Who<'_>) -> Verdict {
        let matches = |guard: &Guard| guard.matches_http(operation, who);
        let analysis = operation.analysis;
        self.first_match(analysis.effect, &matches, &|| describe(operation.request, analysis))
    }

    /// Whether a guard that may decide on this request looks into its body.
    #[must_use]
    pub fn asks_for_body(&self, operation: &HttpOperation<'_>, who: Who<'_>) -> bool {
        for guard in &self.guards {
            match guard.matches_http(operation, who) {
                Match::No => {}
                Match::Perhaps | Match::Yes if guard.when.http.asks_for_body() => return true,
                Match::Perhaps => {}
                Match::Yes => return false,
            }
        }
        false
    }
}

impl Guard {
    fn matches_http(&self, operation: &HttpOperation<'_>, who: Who<'_>) -> Match {
        let HttpOperation { request, analysis, .. } = *operation;
        let stance = Stance::of(&self.action);
        let when = &self.when;
        let HttpWhen { hosts, methods, query, headers, .. } = &when.http;
        let certain = self.on == Protocol::Http
            && (when.effects.is_empty() || when.effects.contains(&analysis.effect))
            && (analysis.effect != Effect::Unknown
                || stance == Stance::Restrains
                || self.names_unknown_request(analysis))
            && (when.kinds.is_empty()
                || when.kinds.iter().any(|glob| glob.is_match(analysis.kind.to_lowercase())))
            && (when.connections.is_empty()
                || when.connections.iter().any(|name| name == operation.connection))
            && who.meets(when)
            && (hosts.is_empty() || hosts.iter().any(|glob| glob.is_match(&request.host)))
            && (methods.is_empty() || methods.contains(&request.method))
            && (query.is_empty() || query.iter().any(|pattern| pattern.matches_query(&request.query)))
            && (headers.is_empty()
                || headers.iter().any(|pattern| pattern.matches_headers(&request.headers)));
        if !certain {
            return Match::No;
        }
        let paths = any(&when.http.paths, |pattern| pattern.matches(&request.path));
        let grpc = any(&when.http.grpc, |pattern| pattern.matches(analysis));
        paths.min(grpc).min(self.matches_body(operation, stance))
    }

    fn matches_body(&self, operation: &HttpOperation<'_>, stance: Stance) -> Match {
        let HttpOperation { request, analysis, unread, .. } = *operation;
        let http = &self.when.http;
        if !http.asks_for_body() {
            return Match::Yes;
        }
        if request.body == Body::Unread && unread == UnreadBody::Passed {
            return Match::No;
        }
        let json = any(&http.json, |pattern| pattern.matches(&request.body));
        let graphql = match stance {
            Stance::Restrains => any(&http.graphql, |pattern| pattern.matches(analysis)),
            // An allow has to speak of everything the document asks for.
            Stance::Permits => crate::request::http::graphql_covers(&http.graphql, analysis).into(),
        };
        json.min(graphql)
    }

    /// Whether an allow guard speaks of requests that nobody can see through: it lists `unknown`, or names the very
    /// kind, or the gRPC method.
    fn names_unknown_request(&self, analysis: &Analysis) -> bool {
        let kind = analysis.kind.to_lowercase();
        self.when.effects.contains(&Effect::Unknown)
            || self.when.kinds.iter().any(|glob| glob.glob().glob() == kind)
            || (analysis.grpc.is_some() && !self.when.http.grpc.is_empty())
    }
}

/// The best match of several patterns; none do not constrain.
fn any<T>(patterns: &[T], reading: impl Fn(&T) -> Reading) -> Match {
    if patterns.is_empty() {
        return Match::Yes;
    }
    patterns.iter().map(reading).max().unwrap_or(Reading::No).into()
}

/// `DELETE https://api.github.com/repos/a/b (github repos/delete, ddl)`, without the query: it may hold secrets.
fn describe(request: &HttpRequest, analysis: &Analysis) -> String {
    let url = request.url();
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let mut shown: String = plain.chars().take(URL_CHARS_SHOWN).flat_map(char::escape_debug).collect();
    if plain.chars().nth(URL_CHARS_SHOWN).is_some() {
        shown.push('…');
    }
    let because = analysis.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let method = request.method.escape_debug();
    format!("{method} {shown} ({}, {}{because})", analysis.kind.escape_debug(), analysis.effect)
}

#[cfg(test)]
mod tests;
