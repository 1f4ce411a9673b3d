//! What is known by name: PostgreSQL's own functions, operators, relations and settings, kept as sorted text in `lists/`.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

const FUNCTIONS_READ: &str = include_str!("lists/functions_read.txt");
const FUNCTIONS_SUPPORT: &str = include_str!("lists/functions_support.txt");
const FUNCTIONS_WRITE: &str = include_str!("lists/functions_write.txt");
const FUNCTIONS_ADMIN: &str = include_str!("lists/functions_admin.txt");
const FUNCTIONS_DYNAMIC: &str = include_str!("lists/functions_dynamic.txt");
const FUNCTIONS_WHOLE_ROW: &str = include_str!("lists/functions_whole_row.txt");
const OPERATORS: &str = include_str!("lists/operators.txt");
const RELATIONS: &str = include_str!("lists/relations.txt");
const SETTINGS_ADMIN: &str = include_str!("lists/settings_admin.txt");
const EXTENSIONS: &str = include_str!("lists/extensions.txt");
const SETTINGS_LEXER: &str = include_str!("lists/settings_lexer.txt");

/// What a function does, as far as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    /// Computes or looks, and cannot fetch rows that the statement does not name.
    Read,
    /// Changes data, takes locks, reaches large objects.
    Write,
    /// Reaches files, processes or other servers.
    Admin,
    /// Runs SQL that it is given as text.
    Dynamic,
    /// `set_config`: as its first argument says.
    SetConfig,
    /// On no list: may do anything.
    Unlisted,
}

/// What setting a parameter means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Changes how this session's own statements run or look.
    Ordinary,
    /// Changes who acts, what code is loaded, or what is logged and checked.
    Admin,
    /// Changes how text becomes tokens.
    Lexer,
}

static FUNCTIONS: LazyLock<HashMap<&str, Function>> = LazyLock::new(|| {
    let classes = [
        (FUNCTIONS_READ, Function::Read),
        (FUNCTIONS_SUPPORT, Function::Read),
        (FUNCTIONS_WRITE, Function::Write),
        (FUNCTIONS_ADMIN, Function::Admin),
        (FUNCTIONS_DYNAMIC, Function::Dynamic),
        ("set_config", Function::SetConfig),
    ];
    classes.into_iter().flat_map(|(list, class)| entries(list).map(move |name| (name, class))).collect()
});
static EXTENSION_FUNCTIONS: LazyLock<HashSet<&str>> = LazyLock::new(|| entries(EXTENSIONS).collect());
static WHOLE_ROW: LazyLock<HashSet<&str>> = LazyLock::new(|| entries(FUNCTIONS_WHOLE_ROW).collect());
static OPERATOR_NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| entries(OPERATORS).collect());
static RELATION_NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| entries(RELATIONS).collect());
static SETTINGS: LazyLock<HashMap<&str, Setting>> = LazyLock::new(|| {
    let admin = entries(SETTINGS_ADMIN).map(|name| (name, Setting::Admin));
    admin.chain(entries(SETTINGS_LEXER).map(|name| (name, Setting::Lexer))).collect()
});

/// The lines of a list that are not comments. An operator may begin with `#`, a comment begins with `# `.
fn entries(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.lines().filter(|line| !line.is_empty() && !line.starts_with("# "))
}

/// The class of the function called as `schema.name`.
pub(super) fn function(schema: Option<&str>, name: &str) -> Function {
    let known = match schema {
        None | Some("pg_catalog") => FUNCTIONS.get(name),
        // Helper functions of the information schema, which drivers call by their full name.
        Some("information_schema") => FUNCTIONS.get(format!("information_schema.{name}").as_str()),
        Some(_) => None,
    };
    known.copied().unwrap_or(Function::Unlisted)
}

/// Whether a function of an extension, if it is written in C, only reads.
pub(super) fn extension_reads(extension: &str, name: &str) -> bool {
    EXTENSION_FUNCTIONS.contains(format!("{extension} {name}").as_str())
}

/// Whether a function takes a whole row, so that `alias.name` may be a call of it.
pub(super) fn takes_whole_row(name: &str) -> bool {
    WHOLE_ROW.contains(name)
}

/// Whether PostgreSQL itself has an operator of this name.
pub(super) fn is_own_operator(schema: Option<&str>, name: &str) -> bool {
    matches!(schema, None | Some("pg_catalog")) && OPERATOR_NAMES.contains(name)
}

/// Whether an unqualified relation name means one of PostgreSQL's catalogues.
pub(super) fn is_catalog_relation(name: &str) -> bool {
    name.starts_with("pg_") && RELATION_NAMES.contains(name)
}

/// What setting the parameter `name`, in lower case, means.
pub(super) fn setting(name: &str) -> Setting {
    SETTINGS.get(name).copied().unwrap_or(Setting::Ordinary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_name_nothing_twice() {
        let functions =
            [FUNCTIONS_READ, FUNCTIONS_SUPPORT, FUNCTIONS_WRITE, FUNCTIONS_ADMIN, FUNCTIONS_DYNAMIC];
        let settings = [SETTINGS_ADMIN, SETTINGS_LEXER];
        for list in
            functions.iter().chain(&settings).chain(&[EXTENSIONS, FUNCTIONS_WHOLE_ROW, OPERATORS, RELATIONS])
        {
            let names: Vec<_> = entries(list).collect();
            assert!(names.len() > 2);
            for pair in names.windows(2) {
                assert!(pair[0] < pair[1], "{pair:?} out of order");
            }
        }
        for group in [functions.as_slice(), settings.as_slice()] {
            let names: Vec<_> = group.iter().flat_map(|list| entries(list)).collect();
            let distinct: HashSet<_> = names.iter().collect();
            assert_eq!(names.len(), distinct.len(), "a name is on two lists");
        }
    }

    #[test]
    fn dangerous_functions_are_not_read() {
        for name in
            ["pg_read_file", "lo_import", "dblink", "pg_terminate_backend", "pg_config", "pg_switch_wal"]
        {
            assert_eq!(function(None, name), Function::Admin, "{name}");
        }
        for name in ["query_to_xml", "table_to_xml", "schema_to_xml", "ts_stat", "ts_rewrite", "crosstab"] {
            assert_eq!(function(Some("pg_catalog"), name), Function::Dynamic, "{name}");
        }
        for name in ["nextval", "pg_notify", "pg_advisory_lock", "lo_get"] {
            assert_eq!(function(None, name), Function::Write, "{name}");
        }
        for name in ["int4mul", "booleq", "array_in", "float4send", "interval_hash"] {
            assert_eq!(function(None, name), Function::Read, "{name}");
        }
        assert_eq!(function(None, "binary_upgrade_set_record_init_privs"), Function::Admin);
        for name in ["fmgr_c_validator", "plpgsql_validator", "amvalidate"] {
            assert_eq!(function(None, name), Function::Unlisted, "{name}");
        }
        assert_eq!(function(Some("evil"), "lower"), Function::Unlisted);
        assert_eq!(function(Some("information_schema"), "_pg_expandarray"), Function::Read);
        assert_eq!(function(None, "_pg_expandarray"), Function::Unlisted);
        assert!(extension_reads("pgcrypto", "digest") && extension_reads("pg_trgm", "similarity"));
        for (extension, name) in
            [("tablefunc", "crosstab"), ("dblink", "dblink"), ("pgcrypto", "lower"), ("isn", "isn_weak")]
        {
            assert!(!extension_reads(extension, name), "{name}");
        }
    }
}
