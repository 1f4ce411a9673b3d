//! Requests as text: the list of them, one in full, and what has become of one.

use std::sync::Arc;

use crate::approval::{Entry, Grant, Outcome, Request as Held, Review, Scope};
use crate::cli::text::{columns, duration, line, moment, shown, summary};
use crate::flow::ApprovalId;
use crate::request::ObjectName;

/// Characters of an id that listings show, unless more are needed to tell two apart. The end of a ULID is its random
/// part; its beginning is the time.
const ID_CHARS_SHOWN: usize = 6;
/// Characters of a command line.
const COMMAND_CHARS: usize = 160;
/// Characters of a statement in a listing.
const SUMMARY_CHARS: usize = 60;

pub(super) fn listing(entries: &[Arc<Entry>], now: u64) -> String {
    let (waiting, settled): (Vec<Arc<Entry>>, Vec<Arc<Entry>>) =
        entries.iter().cloned().partition(|entry| entry.outcome.is_none());
    let mut text =
        if waiting.is_empty() { "nothing waits\n".to_owned() } else { waiting_table(&waiting, now) };
    if !settled.is_empty() {
        text.push_str("\nsettled lately\n");
        let rows: Vec<_> = settled
            .iter()
            .map(|entry| {
                vec![
                    format!("  {}", short_id(entry.id, entries)),
                    outcome(entry),
                    summary(&entry.request.content.statement, SUMMARY_CHARS),
                ]
            })
            .collect();
        text.push_str(&columns(&rows));
    }
    text
}

fn waiting_table(waiting: &[Arc<Entry>], now: u64) -> String {
    let mut rows = vec![
        ["ID", "LEFT", "EFFECT", "ROWS", "USER", "PROCESS", "RULE", "STATEMENT"].map(str::to_owned).to_vec(),
    ];
    for entry in waiting {
        let request = &entry.request;
        rows.push(vec![
            short_id(entry.id, waiting),
            duration(entry.expires_ms.saturating_sub(now)),
            request.effect.to_string(),
            rows_text(request),
            summary(request.subject.shown(), 20),
            summary(&format!("{}[{}]", request.process.comm, request.process.tgid), 24),
            summary(&request.rule, 24),
            summary(&request.content.statement, SUMMARY_CHARS),
        ]);
    }
    columns(&rows)
}

/// The last characters of an id, as many as tell it from the others.
pub(super) fn short_id(id: ApprovalId, among: &[Arc<Entry>]) -> String {
    let full = id.to_string();
    let tail = |chars: usize| full.get(full.len().saturating_sub(chars)..).unwrap_or(&full).to_owned();
    (ID_CHARS_SHOWN..full.len())
        .map(tail)
        .find(|tail| among.iter().filter(|entry| entry.id.to_string().ends_with(tail.as_str())).count() <= 1)
        .unwrap_or_else(|| full.clone())
}

fn rows_text(request: &Held) -> String {
    request.estimated_rows.map_or_else(|| "-".to_owned(), |rows| format!("~{rows}"))
}

fn outcome(entry: &Entry) -> String {
    let because = |reason: &str| match reason {
        "" => String::new(),
        reason => format!(": {}", summary(reason, SUMMARY_CHARS)),
    };
    match &entry.outcome {
        None if entry.votes.is_empty() => "waits".to_owned(),
        None => format!("waits, {} of {} approvals", entry.votes.len(), entry.request.quorum),
        Some(Outcome::Approved { by, reason, .. }) => {
            let unused = if entry.delivered { "" } else { " (not used so far)" };
            let glass = match &entry.review {
                None => String::new(),
                Some(Review { by: None, .. }) => " BREAKING GLASS, to be reviewed".to_owned(),
                Some(Review { by: Some(by), .. }) => {
                    format!(" breaking glass, reviewed by {}", summary(&by.user, 20))
                }
            };
            format!("approved by {}{glass}{unused}{}", summary(&by.user, 20), because(reason))
        }
        Some(Outcome::Denied { by, reason, .. }) => {
            format!("denied by {}{}", summary(&by.user, 20), because(reason))
        }
        Some(Outcome::Expired) => "expired, denied".to_owned(),
        Some(Outcome::Withdrawn) => "withdrawn".to_owned(),
    }
}

pub(super) fn change(entry: &Entry) -> String {
    format!("{} {}: {}", entry.id, outcome(entry), summary(&entry.request.content.statement, SUMMARY_CHARS))
}

pub(super) fn details(entry: &Entry, now: u64) -> String {
    let request = &entry.request;
    let process = &request.process;
    let objects: Vec<String> = request.objects.iter().map(ObjectName::to_string).collect();
    let command = match process.argv.is_empty() {
        true => process.comm.clone(),
        false => summary(&process.argv.join(" "), COMMAND_CHARS),
    };
    let left = duration(entry.expires_ms.saturating_sub(now));
    let database = request.database.as_deref().map_or_else(String::new, |name| format!(", database {name}"));
    let mut rows = vec![
        ("id", entry.id.to_string()),
        (
            "state",
            if entry.outcome.is_none() { format!("{}, {left} left", outcome(entry)) } else { outcome(entry) },
        ),
        ("asked", moment(entry.asked_ms)),
        ("effect", format!("{} ({})", request.effect, request.kinds.join("; "))),
        ("objects", if objects.is_empty() { "-".to_owned() } else { objects.join(", ") }),
        ("rows", rows_text(request)),
        ("target", format!("{} at {}{database}", request.connection, request.destination)),
        ("user", format!("{} (uid {})", request.subject.user, request.subject.uid)),
        ("process", format!("{} uid {}: {command}", process.tgid, process.uid)),
        ("run", request.run.to_string()),
        ("session", request.session.to_string()),
        ("rule", format!("{} (policy {}, version {})", request.rule, request.policy, request.policy_version)),
        (
            "approvers",
            if request.approvers.is_empty() { "operators".to_owned() } else { request.approvers.join(", ") },
        ),
        ("digest", entry.digest.to_string()),
    ];
    if let Some(identity) = &request.subject.identity {
        rows.push(("subject", identity.shown()));
    }
    if request.quorum > 1 {
        let distinct = if request.distinct_groups { ", each for another of the approvers" } else { "" };
        rows.push(("needs", format!("{} approvals by as many persons{distinct}", request.quorum)));
    }
    if let Some(needs) = &request.step_up {
        rows.push((
            "sign-in",
            format!(
                "who approves needs a fresh one {needs} (portcullis login --for {}, or the approvals page)",
                entry.id.code()
            ),
        ));
    }
    for vote in &entry.votes {
        rows.push(("approved", format!("by {} at {}: {}", vote.by.user, moment(vote.at_ms), vote.reason)));
    }
    if entry.deferred {
        rows.push((
            "client",
            "was sent away; the same operation takes the answer when it is asked again".to_owned(),
        ));
    }
    if let Some(grant) = &entry.grant {
        rows.push(("covers", covers(grant)));
    }
    if let Some(shape) = &request.shape {
        rows.push(("shape", summary(shape, COMMAND_CHARS)));
    }
    if request.in_transaction {
        rows.push(("caution", "it waits inside a transaction, which may hold locks".to_owned()));
    }
    let rows: Vec<_> =
        rows.into_iter().map(|(name, value)| vec![format!("{name}:"), shown(&value, false)]).collect();
    [columns(&rows), statement(request), side_effects(request)].concat()
}

fn side_effects(request: &Held) -> String {
    let Some(found) = &request.side_effects else { return String::new() };
    let mut text = "sets off:\n".to_owned();
    for (relation, parts) in found.lines() {
        line(&mut text, format_args!("  {}", shown(&relation, false)));
        parts.iter().for_each(|part| line(&mut text, format_args!("    {}", shown(part, false))));
    }
    text
}

/// What an approval still covers, in words.
pub(crate) fn covers(grant: &Grant) -> String {
    let what = match grant.scope {
        Scope::Once => "this operation once",
        Scope::Operation { .. } => "this operation",
        Scope::Shape { .. } => "statements of its shape",
    };
    match &grant.revoked_by {
        Some(by) => format!("nothing any more: revoked by {by}"),
        None => format!("{what} until {}, {} more uses", moment(grant.until_ms), grant.uses_left),
    }
}

fn statement(request: &Held) -> String {
    let content = &request.content;
    let mut text = "statement:\n".to_owned();
    for row in shown(&content.statement, true).lines() {
        line(&mut text, format_args!("  {row}"));
    }
    if content.statement_bytes > u64::try_from(content.statement.len()).unwrap_or(u64::MAX) {
        line(
            &mut text,
            format_args!("CUT: the statement has {} bytes; the beginning is shown", content.statement_bytes),
        );
    }
    for (number, parameter) in content.parameters.iter().enumerate() {
        let value = parameter
            .as_deref()
            .map_or_else(|| "NULL".to_owned(), |value| format!("'{}'", shown(value, false)));
        line(&mut text, format_args!("  ${} = {value}", number + 1));
    }
    let shown_count = u64::try_from(content.parameters.len()).unwrap_or(u64::MAX);
    if content.parameter_count > shown_count {
        line(
            &mut text,
            format_args!(
                "CUT: there are {} parameters; the first {shown_count} are shown",
                content.parameter_count
            ),
        );
    }
    text
}
