//! `[postgres]`: what the catalogue of a PostgreSQL database is read for.

use super::ObjectPattern;
use crate::request::sql::catalogue::{Routine, Volatility};

/// What a policy says of functions that are not PostgreSQL's own, and of what reading views runs.
#[derive(Clone, Debug)]
pub struct PostgresRules {
    /// `catalogue =`: whether the catalogue is read to see through views and row policies. `None`: where it is read anyway,
    /// for column masks or `read_functions`.
    pub catalogue: Option<bool>,
    /// `read_functions = ["app.price_of"]`: functions that are taken as reading only.
    pub read_functions: Vec<ObjectPattern>,
    /// `volatility = ["immutable", "stable"]`: what those must say of themselves.
    pub volatility: Vec<Volatility>,
}

impl Default for PostgresRules {
    /// No function is trusted. PostgreSQL itself refuses statements that change something in functions that call themselves
    /// immutable or stable, so those two are what a pattern covers unless the file says more.
    fn default() -> Self {
        Self {
            catalogue: None,
            read_functions: Vec::new(),
            volatility: vec![Volatility::Immutable, Volatility::Stable],
        }
    }
}

impl PostgresRules {
    /// Whether the catalogue is asked what calls and views do; `masks` says whether column masks need it.
    #[must_use]
    pub fn looks(&self, masks: bool) -> bool {
        self.catalogue.unwrap_or(masks || !self.read_functions.is_empty())
    }

    /// Whether a function is taken as reading only.
    #[must_use]
    pub fn trusts(&self, routine: &Routine) -> bool {
        let named = |pattern: &ObjectPattern| {
            pattern.name.is_match(&routine.name)
                && pattern.schema.as_ref().is_none_or(|schema| schema.is_match(&routine.schema))
        };
        self.volatility.contains(&routine.volatility) && self.read_functions.iter().any(named)
    }
}
