//! Settings of a profile: the session begins with them, and no statement may change them.

use crate::flow::Side;
use crate::request::sql::{Analysis, READ_WRITE};
use crate::request::{Effect, SessionAction};

use super::Denial;

/// Name of the rule in refusals.
const RULE: &str = "profile settings";

/// A refusal, where a statement would change one of them. RESET and DISCARD ALL go back to what the session began with, which
/// are these (<https://www.postgresql.org/docs/current/sql-reset.html>).
pub(super) fn changed(settings: &[(String, String)], analysis: &Analysis) -> Option<Denial> {
    if settings.is_empty() {
        return None;
    }
    analysis.statements.iter().find_map(|statement| {
        let read_write = statement.reason.as_deref() == Some(READ_WRITE);
        let calls = statement.functions.iter().any(|function| function.name == "set_config");
        let name = match &statement.session {
            // Its value may be anything where it is computed, and it may be called more than once.
            SessionAction::Set { name, .. } if calls => set_by_call(settings, name, statement.effect),
            _ if calls => settings.first().map(|(name, _)| name.as_str()),
            // RESET goes back to what the session began with.
            SessionAction::Set { .. } if statement.kind == "reset" => None,
            SessionAction::Set { name, value } => changes(settings, name, value.as_deref()),
            // It begins with SET SESSION AUTHORIZATION DEFAULT, and `role` is not reset with the rest.
            SessionAction::DiscardAll => kept(settings, "role"),
            SessionAction::Begin if read_write => kept(settings, "default_transaction_read_only"),
            SessionAction::Begin
            | SessionAction::CloseCursor(_)
            | SessionAction::EndTransaction
            | SessionAction::Deallocate(_)
            | SessionAction::DeclareCursor(_)
            | SessionAction::Execute(_)
            | SessionAction::FetchCursor(_)
            | SessionAction::None
            | SessionAction::Prepare(_)
            | SessionAction::Savepoint => None,
        }?;
        Some(Denial {
            rule: RULE.to_owned(),
            ..Denial::new(
                Side::Policy,
                format!("this connection's profile keeps {name} as it is"),
                "leave the setting out, or ask the owner of the policy for another profile",
            )
        })
    })
}

/// The setting that a call of `set_config` may change; a statement that changes more than one thing is not understood.
fn set_by_call<'s>(settings: &'s [(String, String)], name: &str, effect: Effect) -> Option<&'s str> {
    match effect {
        Effect::Unknown => settings.first().map(|(name, _)| name.as_str()),
        Effect::Read | Effect::Write | Effect::Ddl | Effect::Admin => changes(settings, name, None),
    }
}

/// The setting that `SET name = value` would change.
fn changes<'s>(settings: &'s [(String, String)], name: &str, value: Option<&str>) -> Option<&'s str> {
    match name {
        "transaction_read_only" | "session characteristics" | "transaction" | "transaction snapshot"
            if value != Some("on") =>
        {
            kept(settings, "default_transaction_read_only")
        }
        "session_authorization" => kept(settings, "role"),
        // The same under its name of old (src/backend/utils/misc/guc.c, map_old_guc_names).
        "sort_mem" => kept(settings, "work_mem"),
        "vacuum_mem" => kept(settings, "maintenance_work_mem"),
        _ => {
            let (kept, is) = settings.iter().find(|(kept, _)| kept == name)?;
            (value != Some(is.as_str())).then_some(kept.as_str())
        }
    }
}

fn kept<'s>(settings: &'s [(String, String)], name: &str) -> Option<&'s str> {
    let (name, value) = settings.iter().find(|(kept, _)| kept == name)?;
    // A profile that says `off` keeps nobody from reading only.
    (value != "off").then_some(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::sql::analyze;

    #[test]
    fn what_the_profile_sets_stays() {
        let settings: Vec<(String, String)> = [
            ("default_transaction_read_only", "on"),
            ("statement_timeout", "30s"),
            ("search_path", "app"),
            ("role", "reporting"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        for (sql, expected) in [
            ("SELECT 1", None),
            ("SET statement_timeout = '30s'", None),
            ("SET statement_timeout = 0", Some("statement_timeout")),
            ("SET LOCAL statement_timeout TO '1h'", Some("statement_timeout")),
            ("set Statement_Timeout = 0", Some("statement_timeout")),
            ("SELECT set_config('statement_timeout', '0', false)", Some("statement_timeout")),
            ("SET default_transaction_read_only = off", Some("default_transaction_read_only")),
            ("SET transaction_read_only = off", Some("default_transaction_read_only")),
            ("SET TRANSACTION READ WRITE", Some("default_transaction_read_only")),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", Some("default_transaction_read_only")),
            ("BEGIN READ WRITE", Some("default_transaction_read_only")),
            (
                "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
                Some("default_transaction_read_only"),
            ),
            ("BEGIN", None),
            ("BEGIN READ ONLY", None),
            ("SET search_path = secret", Some("search_path")),
            ("SET ROLE postgres", Some("role")),
            ("SET SESSION AUTHORIZATION postgres", Some("role")),
            ("RESET statement_timeout", None),
            ("RESET ALL", None),
            ("DISCARD ALL", Some("role")),
            ("SELECT set_config('statement_timeout', $1, false)", Some("statement_timeout")),
            ("SELECT set_config('search_path', 'sec' || 'ret', false)", Some("search_path")),
            ("SELECT set_config('search_path', 'app'::char(1), false)", Some("search_path")),
            ("SELECT set_config('work_mem', '1MB', false)", None),
            (
                "SELECT set_config('work_mem', '1MB', false), set_config('statement_timeout', '0', false)",
                Some("default_transaction_read_only"),
            ),
            (
                "PREPARE p AS SELECT set_config('statement_timeout', '0', false)",
                Some("default_transaction_read_only"),
            ),
            (
                "DECLARE c CURSOR FOR SELECT set_config('statement_timeout', '0', false)",
                Some("default_transaction_read_only"),
            ),
            ("SET statement_timeout TO DEFAULT", Some("statement_timeout")),
            ("SET work_mem = '1GB'", None),
            ("SELECT 1; SET statement_timeout = 0", Some("statement_timeout")),
        ] {
            let denial = changed(&settings, &analyze(sql));
            let expected = expected.map(|name| format!("this connection's profile keeps {name} as it is"));
            assert_eq!(denial.map(|denial| denial.reason), expected, "{sql}");
            assert!(changed(&[], &analyze(sql)).is_none());
        }
    }
}
