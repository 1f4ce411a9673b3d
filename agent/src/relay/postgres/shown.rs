//! Parameters of the session that may hold masked values. Code that nobody saw can set one to what it read; from then on, what
//! shows parameters is masked like any output whose origin cannot be told.

use crate::request::sql::Analysis;
use crate::request::{ColumnUse, Effect, ObjectName, Statement};

/// Functions that show parameters
/// (<https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SET>).
const FUNCTIONS: [&str; 3] = ["pg_show_all_settings", "pg_stat_get_activity", "pg_stat_get_wal_senders"];

/// Shows the one that its first argument names.
const CURRENT_SETTING: &str = "current_setting";

/// Catalogues that show parameters, or what the server was told by them.
const RELATIONS: [&str; 5] =
    ["pg_db_role_setting", "pg_settings", "pg_stat_activity", "pg_stat_replication", "pg_user"];

/// Parameters whose values are words of the server's own: no text or number of a client's fits into them.
const FIXED: [&str; 17] = [
    "client_encoding",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "intervalstyle",
    "is_superuser",
    "jit",
    "server_encoding",
    "server_version",
    "server_version_num",
    "standard_conforming_strings",
    "transaction isolation level",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// The analysis with every statement that shows parameters made one whose outputs cannot be told; `None` when none does.
/// `already`: such code has run before. Otherwise it may run in a statement before or in the one that shows.
pub(super) fn doubted(analysis: &Analysis, text: &str, already: bool) -> Option<Analysis> {
    let mut doubt = already;
    let mut found = false;
    let statements = analysis.statements.iter().map(|statement| {
        doubt |= statement.effect == Effect::Unknown;
        if !doubt || !shows(statement, text) {
            return statement.clone();
        }
        found = true;
        let known = statement.columns.clone();
        let columns = ColumnUse { opaque_calls: true, plain_from: false, plain_outputs: false, ..known };
        Statement { columns, ..statement.clone() }
    });
    let statements = statements.collect();
    found.then_some(Analysis { statements, effect: analysis.effect })
}

/// Whether which parameters are shown is in the text's literals: what is known of one text then says nothing of another.
pub(super) fn depends_on_literals(analysis: &Analysis) -> bool {
    let functions = analysis.statements.iter().flat_map(|statement| &statement.functions);
    functions.into_iter().any(|function| function.name == CURRENT_SETTING)
}

/// Whether a statement shows what a parameter holds.
fn shows(statement: &Statement, text: &str) -> bool {
    let written = text.get(statement.span.clone()).unwrap_or(text).to_ascii_lowercase();
    let is_one = |object: &ObjectName, names: &[&str]| names.contains(&object.name.as_str());
    match statement.kind.as_str() {
        "show" => {
            // A comment or a quoted name only makes it another than those that are fixed.
            let words = written.trim_end_matches(|end: char| end == ';' || end.is_whitespace());
            let name: Vec<&str> = words.split_whitespace().skip(1).collect();
            !FIXED.contains(&name.join(" ").as_str())
        }
        // Its option SETTINGS shows the search path, among others.
        "explain" if written.contains("settings") => true,
        _ => {
            let asks = statement.functions.iter().any(|function| function.name == CURRENT_SETTING);
            (asks && !(statement.kind == "select" && asks_for_fixed(&written)))
                || statement.functions.iter().any(|function| is_one(function, &FUNCTIONS))
                || statement.reads.iter().any(|relation| is_one(relation, &RELATIONS))
        }
    }
}

/// Whether the server's word on where outputs come from says nothing: the columns of these catalogues show what anything put there.
pub(super) fn hides_origins(statement: &Statement) -> bool {
    statement.columns.opaque_calls
        && statement.reads.iter().any(|relation| RELATIONS.contains(&relation.name.as_str()))
}

/// Whether every `current_setting` in a SELECT, in lower case, is a call with the name of a fixed parameter: drivers make such.
fn asks_for_fixed(written: &str) -> bool {
    let is_fixed = |(at, name): (usize, &str)| {
        let rest = written.get(at + name.len()..).and_then(|rest| rest.strip_prefix("('"));
        rest.and_then(|rest| rest.split_once('\'')).is_some_and(|(parameter, rest)| {
            FIXED.contains(&parameter) && (rest.starts_with(')') || rest.starts_with(','))
        })
    };
    // Without Unicode escapes a name cannot be called that is not written.
    !written.contains("u&")
        && written.contains(CURRENT_SETTING)
        && written.match_indices(CURRENT_SETTING).all(is_fixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::sql::analyze;

    fn is_doubted(text: &str) -> bool {
        doubted(&analyze(text), text, true).is_some()
    }

    #[test]
    fn what_shows_parameters_is_doubted() {
        for text in [
            "SHOW application_name",
            "show ALL;",
            "SELECT 1; SHOW my.own",
            "SELECT current_setting('a.b')",
            "SELECT pg_catalog.current_setting('a.b', true) || ''",
            "SELECT setting FROM pg_settings",
            "SELECT application_name FROM pg_stat_activity",
            "WITH s AS (SELECT current_setting('a.b') AS x) SELECT x FROM s",
            "COPY (SELECT current_setting('a.b')) TO STDOUT",
            "DECLARE c CURSOR FOR SELECT current_setting('a.b')",
            "PREPARE p AS SELECT current_setting('a.b')",
            "EXPLAIN (SETTINGS) SELECT 1",
            "SHOW /* x */ search_path",
            "SELECT current_setting('jit'), current_setting('a.b')",
            "SELECT current_setting('jit' || 'x')",
            "SELECT 'current_setting(''jit'')', \"current_setting\"('a.b')",
            "SELECT $$current_setting('jit')$$, U&\"current\\005fsetting\"('a.b')",
        ] {
            assert!(is_doubted(text), "{text}");
        }
    }

    #[test]
    fn what_shows_words_of_the_servers_own_is_not() {
        for text in [
            "SHOW transaction_isolation",
            "SHOW TRANSACTION ISOLATION LEVEL",
            "show server_version_num ;\n",
            "SELECT 1",
            "SELECT version(), current_schema()",
            "EXPLAIN SELECT 1",
            "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
            "SELECT pg_catalog.current_setting('server_version_num', true)",
        ] {
            assert!(!is_doubted(text), "{text}");
        }
    }

    #[test]
    fn columns_of_such_catalogues_have_no_origin_then() {
        let text = "SELECT setting FROM pg_settings";
        let known = analyze(text);
        assert!(!known.statements.iter().any(hides_origins));
        let doubted = doubted(&known, text, true).unwrap();
        assert!(doubted.statements.iter().all(hides_origins));
    }

    #[test]
    fn code_in_the_same_text_is_enough() {
        let is_doubted = |text: &str| doubted(&analyze(text), text, false).is_some();
        assert!(is_doubted("DO 'x'; SHOW application_name"));
        assert!(is_doubted("SELECT unknown_code(), current_setting('a.b')"));
        assert!(!is_doubted("SHOW application_name; DO 'x'"));
        assert!(!is_doubted("SELECT current_setting('a.b')"));
        assert!(depends_on_literals(&analyze("SELECT 1; SELECT current_setting('jit')")));
        assert!(!depends_on_literals(&analyze("SELECT lower('jit')")));
    }
}
