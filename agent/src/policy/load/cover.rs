//! Finds rules that can never decide anything because an earlier one always decides first.

use std::ops::Range;
use std::sync::Arc;

use globset::GlobMatcher;
use toml::Spanned;

use super::shape::FileTable;
use super::table::Findings;
use crate::policy::diagnostic::quoted;
use crate::policy::rule::{Action, Connection, Destination, Guard, HttpWhen, Mode, ObjectPattern, Policy};
use crate::request::Effect;
use crate::request::http::PairPattern;

/// Where each connection's and each guard's table begins, in file order.
#[derive(Default)]
pub(super) struct Spans {
    connections: Vec<Range<usize>>,
    guards: Vec<Range<usize>>,
}

/// Remembers positions, which the policy itself does not keep.
pub(super) fn spans(file: &FileTable) -> Spans {
    let connections = file.connection.iter().flat_map(|list| list.get_ref().0.iter());
    let guards = file.guard.iter().flat_map(|list| list.get_ref().0.iter());
    Spans {
        connections: connections
            .map(|table| table.get_ref().name.as_ref().map_or(table.span(), Spanned::span))
            .collect(),
        guards: guards
            .map(|table| table.get_ref().name.as_ref().map_or(table.span(), Spanned::span))
            .collect(),
    }
}

/// Warns about every connection and guard that an earlier one covers.
pub(super) fn report(policy: &Policy, spans: &Spans, findings: &mut Findings<'_>) {
    for (index, (guard, span)) in policy.guards.iter().zip(&spans.guards).enumerate() {
        if let Some(earlier) = policy.guards.iter().take(index).find(|earlier| covers(earlier, guard)) {
            findings.warning(
                span.clone(),
                format!(
                    "this guard never decides: {} matches all it could match and stands first",
                    quoted(&earlier.name)
                ),
            );
        }
    }
    for (index, (connection, span)) in policy.connections.iter().zip(&spans.connections).enumerate() {
        // One that only some may use leaves the others to later ones.
        let for_all = |earlier: &&Arc<Connection>| earlier.groups.is_empty() && earlier.claims.is_empty();
        let earlier = policy.connections.iter().take(index).filter(for_all);
        let unreachable = |to: &Destination| {
            earlier.clone().any(|earlier| earlier.to.iter().any(|before| destination_covers(before, to)))
        };
        if connection.to.iter().all(unreachable) {
            findings.warning(
                span.clone(),
                format!(
                    "connection {} is never used: earlier ones name all its destinations",
                    quoted(&connection.name)
                ),
            );
        }
    }
}

/// Whether every operation that `later` matches is matched by `earlier` too. Says `false` when it cannot tell.
fn covers(earlier: &Guard, later: &Guard) -> bool {
    let (before, after) = (&earlier.when, &later.when);
    let allows = match earlier.action {
        Action::Allow => true,
        Action::Deny { .. } | Action::Hold(_) => false,
    };
    earlier.on == later.on
                && before.estimated_rows.is_none()
                && before.over.is_none()
        && before.columns.is_empty()

        && before.during.windows.is_empty()
        // One that is only tried out decides nothing, and what it covers of another such one is still told apart.
        && earlier.mode == Mode::Enforce

        && before.claims.is_empty()
        && before.unbounded.is_none_or(|unbounded| after.unbounded == Some(unbounded))
        && effects_cover(&before.effects, &after.effects, allows)
        && words_cover(&before.connections, &after.connections)
        && words_cover(&before.groups, &after.groups)
        && globs_cover(&before.kinds, &after.kinds)
        && globs_cover(&before.databases, &after.databases)
        && patterns_cover(&before.objects, &after.objects, allows)
        && patterns_cover(&before.writes, &after.writes, allows)
        && patterns_cover(&before.functions, &after.functions, allows)
        && http_covers(&before.http, &after.http)
        // Conditions of SSH may match only perhaps.
        && before.ssh.is_empty()
}

/// Conditions that may match only perhaps (paths, bodies) never keep a later guard from being asked.
fn http_covers(before: &HttpWhen, after: &HttpWhen) -> bool {
    let texts = |patterns: &[PairPattern]| -> Vec<String> {
        patterns.iter().map(|pattern| pattern.text().to_owned()).collect()
    };
    before.paths.is_empty()
        && !before.asks_for_body()
        && globs_cover(&before.hosts, &after.hosts)
        && words_cover(&before.methods, &after.methods)
        && words_cover(&texts(&before.query), &texts(&after.query))
        && words_cover(&texts(&before.headers), &texts(&after.headers))
        && (before.grpc.is_empty()
            || (!after.grpc.is_empty()
                && after.grpc.iter().all(|later| before.grpc.iter().any(|g| g.text() == later.text()))))
}

/// An allow guard without effects does not match `unknown` by itself, so it covers only what names other effects.
fn effects_cover(before: &[Effect], after: &[Effect], allows: bool) -> bool {
    match (before.is_empty(), after.is_empty()) {
        (true, _) if !allows => true,
        (true, true) => false,
        (true, false) => !after.contains(&Effect::Unknown),
        (false, true) => before.len() >= 5,
        (false, false) => after.iter().all(|effect| before.contains(effect)),
    }
}

fn words_cover(before: &[String], after: &[String]) -> bool {
    before.is_empty() || (!after.is_empty() && after.iter().all(|word| before.contains(word)))
}

fn globs_cover(before: &[GlobMatcher], after: &[GlobMatcher]) -> bool {
    let one_covers = |after: &GlobMatcher| {
        let text = after.glob().glob();
        before
            .iter()
            .any(|before| before.glob().glob() == text || (is_literal(text) && before.is_match(text)))
    };
    before.is_empty() || (!after.is_empty() && after.iter().all(one_covers))
}

/// An allow guard needs every object to match, and a pattern with a schema may match only perhaps; neither then keeps
/// a later guard from being asked.
fn patterns_cover(before: &[ObjectPattern], after: &[ObjectPattern], allows: bool) -> bool {
    let covered = |pattern: &ObjectPattern| {
        before.iter().any(|before| before.schema.is_none() && before.text == pattern.text)
    };
    before.is_empty() || (!allows && !after.is_empty() && after.iter().all(covered))
}

/// Whether a glob is a plain word.
pub(super) fn is_literal(text: &str) -> bool {
    !text.contains(['*', '?', '[', ']', '{', '}', '\\', '!'])
}

fn destination_covers(before: &Destination, after: &Destination) -> bool {
    match (before, after) {
        (Destination::Host { name: a, port: p }, Destination::Host { name: b, port: q }) => {
            a == b && port_covers(*p, *q)
        }
        (
            Destination::Network { address, prefix, port },
            Destination::Network { address: inner, prefix: inner_prefix, port: inner_port },
        ) => {
            prefix <= inner_prefix
                && port_covers(*port, *inner_port)
                && crate::policy::rule::network_contains(*address, *prefix, *inner)
        }
        (Destination::Host { .. }, Destination::Network { .. })
        | (Destination::Network { .. }, Destination::Host { .. }) => false,
    }
}

fn port_covers(before: Option<u16>, after: Option<u16>) -> bool {
    before.is_none() || before == after
}
