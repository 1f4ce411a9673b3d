//! `[postgres]`: keys that need each other, and trust that is wider than it looks.

use toml::Spanned;

use crate::mask::Predicates;
use crate::policy::diagnostic::quoted;
use crate::policy::load::shape::{FileTable, PostgresTable};
use crate::policy::load::table::{Findings, Table as _};
use crate::request::sql::catalogue::Volatility;

/// What a trusted function gives back is compared unseen, whatever masks say of conditions.
pub(super) fn compared(table: &PostgresTable, file: &FileTable, findings: &mut Findings<'_>) {
    let masks = file.mask.iter().flat_map(|list| list.get_ref().0.iter());
    let of_masks = masks.filter_map(|mask| mask.get_ref().predicates.as_ref());
    let of_defaults = file.defaults.iter().filter_map(|defaults| defaults.get_ref().predicates.as_ref());
    let restricts = of_masks.chain(of_defaults).any(|choice| *choice.get_ref() != Predicates::Allow);
    if let (true, Some(read)) = (restricts, &table.read_functions) {
        findings.warning(
            read.span(),
            "what these functions give back may be compared, whatever `predicates` says; list none that gives back masked columns",
        );
    }
}

pub(super) fn rules(table: &PostgresTable, findings: &mut Findings<'_>) {
    if table.written().is_empty() {
        findings.error(
            table.span(),
            "[postgres] says nothing; give it `catalogue` or `read_functions`, or remove it",
        );
    }
    let read = table.read_functions.as_ref();
    if let (Some(catalogue), Some(_)) = (table.catalogue.as_ref().filter(|read| !*read.get_ref()), read) {
        findings.error(
            catalogue.span(),
            "without the catalogue nobody can tell which function is meant by `read_functions`; remove one of them",
        );
    }
    if let (Some(volatility), None) = (&table.volatility, read) {
        findings.error(volatility.span(), "`volatility` is about `read_functions`, which is not written");
    }
    for pattern in read.iter().flat_map(|list| list.get_ref().0.iter()) {
        if pattern.get_ref().schema.is_none() {
            findings.warning(
                pattern.span(),
                format!(
                    "{} names no schema: a function of this name in any schema is trusted",
                    quoted(&pattern.get_ref().text)
                ),
            );
        }
    }
    for volatile in table.volatility.iter().flat_map(|list| list.get_ref().0.iter()) {
        if *Spanned::get_ref(volatile) == Volatility::Volatile {
            findings.warning(volatile.span(), "PostgreSQL lets volatile functions change data");
        }
    }
}
