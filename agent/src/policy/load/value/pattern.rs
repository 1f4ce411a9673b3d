//! Patterns: globs over commands, objects, columns, databases, units and cgroups.

use globset::{Glob, GlobBuilder, GlobMatcher};
use serde_json::{Value, json};

use crate::policy::diagnostic::quoted;
use crate::policy::load::table::Word;
use crate::policy::rule::{ColumnPattern, ObjectPattern};

/// Compiles one glob, with the library's complaint turned into advice.
pub(super) fn glob(
    text: &str,
    build: &dyn Fn(&str) -> Result<Glob, globset::Error>,
) -> Result<GlobMatcher, String> {
    if text.trim().is_empty() {
        return Err("an empty pattern matches nothing; write a name, or * for all".to_owned());
    }
    build(text).map(|glob| glob.compile_matcher()).map_err(|error| {
        format!("{} is not a pattern: {}; * ? [a-z] {{a,b}} are special", quoted(text), error.kind())
    })
}

/// A glob over a name that has no case-folding of its own: a database.
pub(in crate::policy::load) struct NameGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for NameGlob {
    const WHAT: &'static str = "a pattern such as \"shop_*\"";

    fn parse(text: &str) -> Result<Self, String> {
        glob(text, &Glob::new).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// A glob over command tags, which have no case.
pub(in crate::policy::load) struct KindGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for KindGlob {
    const WHAT: &'static str = "a command such as \"drop *\"";

    fn parse(text: &str) -> Result<Self, String> {
        glob(&text.to_lowercase(), &Glob::new).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// A glob over systemd unit names or cgroup paths. One that would claim the whole host is refused.
pub(in crate::policy::load) struct UnitGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for UnitGlob {
    const WHAT: &'static str = "a unit such as \"crewai@*.service\"";

    fn parse(text: &str) -> Result<Self, String> {
        claims_too_much(text)?;
        if text.contains('/') {
            return Err(format!("{} has a '/': unit names have none; put paths in `cgroups`", quoted(text)));
        }
        glob(text, &Glob::new).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "pattern": "^[^/]*$" })
    }
}

/// A glob over cgroup paths: `*` stays within one component, `**` crosses them.
pub(in crate::policy::load) struct CgroupGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for CgroupGlob {
    const WHAT: &'static str = "a cgroup path such as \"/ci.slice/agent-*\"";

    fn parse(text: &str) -> Result<Self, String> {
        claims_too_much(text)?;
        if !text.starts_with('/') {
            return Err(format!(
                "{} must start with '/': it is a path below the cgroup root, such as \"/ci.slice/agent-*\"",
                quoted(text)
            ));
        }
        glob(text, &|text| GlobBuilder::new(text).literal_separator(true).build()).map(Self)
    }

    fn pattern() -> Value {
        json!({ "pattern": "^/." })
    }
}

fn claims_too_much(text: &str) -> Result<(), String> {
    let named = text.trim_start_matches('/').split('.').next().unwrap_or("");
    if !text.is_empty() && named.chars().all(|c| matches!(c, '*' | '?' | '/')) {
        return Err(format!("{} would govern every service of the host; name the agents", quoted(text)));
    }
    Ok(())
}

/// What PostgreSQL does to an unquoted name, and so what a pattern with capitals silently misses.
fn folding_doubt(text: &str) -> Option<String> {
    text.chars().any(|c| c.is_ascii_uppercase()).then(|| {
        format!(
            "{} has capitals: PostgreSQL folds unquoted names to lower case, so this matches only names created in \
             double quotes",
            quoted(text)
        )
    })
}

impl Word for ObjectPattern {
    const WHAT: &'static str = "an object such as \"public.customers\"";

    fn parse(text: &str) -> Result<Self, String> {
        let (schema, name) = match text.rsplit_once('.') {
            None => (None, text),
            Some((schema, _)) if schema.contains('.') => {
                return Err(format!("{} has more than one dot; write schema.name or name", quoted(text)));
            }
            // Any schema, also one that is not known.
            Some(("*", name)) => (None, name),
            Some((schema, name)) => (Some(glob(schema, &Glob::new)?), name),
        };
        Ok(Self { text: text.to_owned(), schema, name: glob(name, &Glob::new)? })
    }

    fn doubt(&self) -> Option<String> {
        folding_doubt(&self.text)
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[^.]+(\\.[^.]+)?$" })
    }
}

impl Word for ColumnPattern {
    const WHAT: &'static str = "a column such as \"customers.ssn\"";

    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('.').collect();
        let (schema, table, column) = match parts.as_slice() {
            [table, column] => (None, *table, *column),
            [schema, table, column] => (Some(glob(schema, &Glob::new)?), *table, *column),
            [column] => {
                return Err(format!(
                    "{} names no table; write \"table.{column}\", or \"*.{column}\" for every table",
                    quoted(text),
                    column = column.escape_debug()
                ));
            }
            _ => return Err(format!("{} has too many dots; write schema.table.column", quoted(text))),
        };
        Ok(Self {
            text: text.to_owned(),
            schema,
            table: glob(table, &Glob::new)?,
            column: glob(column, &Glob::new)?,
        })
    }

    fn doubt(&self) -> Option<String> {
        folding_doubt(&self.text)
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[^.]+\\.[^.]+(\\.[^.]+)?$" })
    }
}
