//! What a run did just before it asked: a few lines for whoever decides, the same on the command line and on the page.

use super::sessions::timestamp;
use super::text::{columns, line, summary};
use crate::record::before::Before;
use crate::record::summary::{OperationState, OperationSummary};

/// When what is known may not be all.
pub(crate) const LACKS: &str = "What came last may be missing here: the recordings' index is behind, or the run has had many connections.";

/// Characters of each one's text.
const TEXT_CHARS: usize = 160;
/// Characters of names in between.
const NAME_CHARS: usize = 40;

/// When, effect, what became of it, and the beginning of its text. Bounded, on one line, and shown harmless.
pub(crate) fn cells(operation: &OperationSummary) -> [String; 4] {
    let name = |text: &str| summary(text, NAME_CHARS);
    let verdict = match (operation.state, &operation.decided_by) {
        (OperationState::Refused, Some(by)) => format!("denied by {}", name(by)),
        (OperationState::Refused, None) => "refused".to_owned(),
        (OperationState::Held, _) => "held".to_owned(),
        (
            OperationState::Done
            | OperationState::Failed
            | OperationState::NotForwarded
            | OperationState::NotRun
            | OperationState::Running
            | OperationState::Unknown,
            by,
        ) => by.as_ref().map_or_else(|| "allowed".to_owned(), |by| format!("approved by {}", name(by))),
    };
    let became = match operation.state {
        OperationState::Done => ", done".to_owned(),
        OperationState::Failed => match &operation.sqlstate {
            Some(code) if !code.is_empty() => format!(", failed ({})", name(code)),
            Some(_) | None => ", failed".to_owned(),
        },
        OperationState::NotForwarded => ", not forwarded".to_owned(),
        OperationState::NotRun => ", not run".to_owned(),
        OperationState::Running => ", runs".to_owned(),
        OperationState::Unknown => ", end unknown".to_owned(),
        OperationState::Held | OperationState::Refused => String::new(),
    };
    [
        timestamp(operation.at_ns),
        operation.effect.to_string(),
        format!("{verdict} (rule {}){became}", name(&operation.rule)),
        summary(&operation.text, TEXT_CHARS),
    ]
}

/// As lines for a terminal.
pub(super) fn lines(before: &Before) -> String {
    let mut text = String::new();
    line(&mut text, "just before, in this run:");
    if !before.whole {
        line(&mut text, format_args!("  {LACKS}"));
    }
    if before.operations.is_empty() {
        line(&mut text, "  nothing on record");
    }
    let rows = before.operations.iter().map(|(operation, _)| cells(operation)).map(|[at, rest @ ..]| {
        let [effect, became, asked] = rest;
        vec![format!("  {at}"), effect, became, asked]
    });
    text.push_str(&columns(&rows.collect::<Vec<_>>()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::SessionId;
    use crate::request::Effect;
    use ulid::Ulid;

    fn before(operations: Vec<OperationSummary>) -> Before {
        Before {
            operations: operations.into_iter().map(|operation| (operation, None)).collect(),
            whole: true,
        }
    }

    #[test]
    fn lines_say_what_became_of_it_and_obey_nothing() {
        let operation = |state, decided_by: Option<&str>, text: &str| OperationSummary {
            session: SessionId(Ulid(1)),
            operation: 1,
            at_ns: 1_500_000_000,
            kind: "select".to_owned(),
            effect: Effect::Read,
            state,
            rule: "default".to_owned(),
            held: decided_by.is_some(),
            decided_by: decided_by.map(str::to_owned),
            rows: 1,
            elapsed_us: 1,
            sqlstate: Some("42P01".to_owned()),
            text: text.to_owned(),
        };
        let shown = lines(&before(vec![
            operation(OperationState::Done, None, "SELECT 1,\n  \u{1b}[2J2"),
            operation(OperationState::Failed, Some("ada"), &"x".repeat(500)),
            operation(OperationState::Refused, None, "DROP TABLE t"),
            operation(OperationState::Refused, Some("ada"), "DROP TABLE u"),
        ]));
        let expected = format!(
            "just before, in this run:\n  \
             1970-01-01T00:00:01.500Z  read  allowed (rule default), done                    SELECT 1, \\u{{1b}}[2J2\n  \
             1970-01-01T00:00:01.500Z  read  approved by ada (rule default), failed (42P01)  {}…\n  \
             1970-01-01T00:00:01.500Z  read  refused (rule default)                          DROP TABLE t\n  \
             1970-01-01T00:00:01.500Z  read  denied by ada (rule default)                    DROP TABLE u\n",
            "x".repeat(TEXT_CHARS - 1)
        );
        assert_eq!(shown, expected);
        assert_eq!(lines(&before(Vec::new())), "just before, in this run:\n  nothing on record\n");
    }
}
