//! Limits and budgets of a guard: where they mean something.

use std::ops::Range;

use toml::Spanned;

use crate::policy::load::shape::GuardTable;
use crate::policy::load::table::{Findings, Table};
use crate::policy::load::value::Act;
use crate::policy::rule::Protocol;

/// `max_rows` and `timeout` hold what passes, `over` says when no more passes; both are PostgreSQL's.
pub(super) fn guard(table: &GuardTable, findings: &mut Findings<'_>) {
    let act = table.action.as_ref().map(|act| *act.get_ref());
    let limits = [
        ("max_rows", table.max_rows.as_ref().map(Spanned::span)),
        ("timeout", table.timeout.as_ref().map(Spanned::span)),
    ];
    let over = table.over.as_ref();
    let keys = limits.iter().cloned().chain([("over", over.map(Spanned::span))]);
    if table.on.as_ref().is_some_and(|on| *on.get_ref() != Protocol::Postgres) {
        for (key, span) in written(keys) {
            findings.error(span, format!("`{key}` is for on = \"postgres\"; remove it"));
        }
        return;
    }
    if act == Some(Act::Deny) {
        for (key, span) in written(limits.into_iter()) {
            findings.error(span, format!("what is denied never runs; remove `{key}`, or change the action"));
        }
    }
    let Some(over) = over else { return };
    if act == Some(Act::Allow) {
        findings.error(
            over.span(),
            "`over` says when a run has had enough; use it with action = \"deny\" or \"hold\", in front of the guard that \
             allows",
        );
    }
    let written = over.get_ref().written();
    if !written.iter().any(|key| ["statements", "rows", "bytes"].contains(&key.as_str())) {
        findings.error(over.span(), "`over` names no amount; give it `statements`, `rows` or `bytes`");
    }
}

fn written(
    keys: impl Iterator<Item = (&'static str, Option<Range<usize>>)>,
) -> impl Iterator<Item = (&'static str, Range<usize>)> {
    keys.filter_map(|(key, span)| Some((key, span?)))
}
