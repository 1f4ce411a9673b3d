//! Guards on columns. A text names columns without saying of which relation, so of several relations each could be meant.

use crate::policy::decide::{Match, Stance};
use crate::policy::rule::ColumnPattern;
use crate::request::{ObjectName, Statement};

/// Whether a statement touches one of these columns (a deny or hold), or nothing but these (an allow). An empty list does not
/// constrain.
pub(super) fn match_columns(
    patterns: &[ColumnPattern],
    statement: &Statement,
    search_path: Option<&[String]>,
    stance: Stance,
) -> Match {
    if patterns.is_empty() {
        return Match::Yes;
    }
    match stance {
        Stance::Permits => only(patterns, statement, search_path).into(),
        Stance::Restrains => {
            let touched = patterns.iter().map(|pattern| touches(pattern, statement, search_path));
            touched.max().unwrap_or(Match::No)
        }
    }
}

/// Every relation has a pattern, and every name one of a relation that is there. What could be any column is not allowed.
fn only(patterns: &[ColumnPattern], statement: &Statement, search_path: Option<&[String]>) -> bool {
    let columns = &statement.columns;
    let certain = |pattern: &ColumnPattern, object: &ObjectName| {
        pattern.matches_relation(object, search_path) == Match::Yes
    };
    let relations = || statement.reads.iter().chain(&statement.writes);
    let there = |pattern: &&ColumnPattern| relations().any(|object| certain(pattern, object));
    !columns.whole_rows
        && !columns.opaque_calls
        && !columns.names.is_empty()
        && relations().all(|object| patterns.iter().any(|pattern| certain(pattern, object)))
        && columns
            .names
            .iter()
            .all(|name| patterns.iter().filter(there).any(|pattern| pattern.column.is_match(name)))
}

fn touches(pattern: &ColumnPattern, statement: &Statement, search_path: Option<&[String]>) -> Match {
    let columns = &statement.columns;
    let relations = || statement.reads.iter().chain(&statement.writes);
    let relation = relations().map(|object| pattern.matches_relation(object, search_path)).max();
    let named = columns.names.iter().any(|name| pattern.column.is_match(name));
    // INSERT and COPY FROM without a list of columns write all of them.
    let unlisted = columns.names.is_empty() && !statement.writes.is_empty();
    let column = match (named, columns.whole_rows || unlisted) {
        (true, _) if relations().count() == 1 => Match::Yes,
        (true, _) | (false, true) => Match::Perhaps,
        (false, false) => Match::No,
    };
    relation.unwrap_or(Match::No).min(column)
}

impl ColumnPattern {
    fn matches_relation(&self, object: &ObjectName, search_path: Option<&[String]>) -> Match {
        super::names_match(&self.table, self.schema.as_ref(), object, search_path)
    }
}
