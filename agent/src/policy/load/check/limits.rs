//! Limits and budgets of a guard: with which actions they mean something.

use toml::Spanned;

use crate::policy::load::shape::GuardTable;
use crate::policy::load::table::{Findings, Table};
use crate::policy::load::value::Act;

/// `max_rows` and `timeout` hold what passes, `over` says when no more passes.
pub(super) fn guard(table: &GuardTable, findings: &mut Findings<'_>) {
    let act = table.action.as_ref().map(|act| *act.get_ref());
    let limits = [
        ("max_rows", table.max_rows.as_ref().map(Spanned::span)),
        ("timeout", table.timeout.as_ref().map(Spanned::span)),
    ];
    if act == Some(Act::Deny) {
        for (key, span) in limits {
            if let Some(span) = span {
                findings
                    .error(span, format!("what is denied never runs; remove `{key}`, or change the action"));
            }
        }
    }
    let Some(over) = &table.over else { return };
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
