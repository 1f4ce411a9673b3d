//! `[postgres]`.

use super::{list, value};
use crate::policy::load::shape::PostgresTable;
use crate::policy::rule::PostgresRules;

pub(super) fn rules(table: Option<PostgresTable>) -> PostgresRules {
    let (rules, Some(table)) = (PostgresRules::default(), table) else { return PostgresRules::default() };
    PostgresRules {
        catalogue: value(table.catalogue),
        read_functions: list(table.read_functions, |pattern| pattern),
        volatility: match table.volatility {
            Some(volatility) => list(Some(volatility), |said| said),
            None => rules.volatility,
        },
    }
}
