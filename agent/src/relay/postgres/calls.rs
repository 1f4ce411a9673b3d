//! What one session knows of calls that a text cannot judge: the catalogue of its database, whom the policy trusts, and what
//! the session itself has changed since.

use std::sync::Arc;

use super::search_path::SearchPath;
use crate::policy::rule::PostgresRules;
use crate::request::Statement;
use crate::request::sql::Analysis;
use crate::request::sql::catalogue::{Catalogue, Doubt, Settle};

/// Judges statements by the catalogue, where the policy has it read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    known: Option<(Arc<Catalogue>, Arc<PostgresRules>)>,
    doubt: Doubt,
}

impl Calls {
    /// By a catalogue that was just read.
    pub(crate) fn new(catalogue: Arc<Catalogue>, rules: Arc<PostgresRules>) -> Self {
        Self { known: Some((catalogue, rules)), doubt: Doubt::default() }
    }

    /// Whether there is a catalogue to ask.
    pub(crate) fn are_known(&self) -> bool {
        self.known.is_some()
    }

    /// The analysis as the catalogue makes it.
    pub(super) fn settle(&self, analysis: Arc<Analysis>, path: &SearchPath) -> Arc<Analysis> {
        let Some((catalogue, rules)) = &self.known else { return analysis };
        let trusts = |routine: &_| rules.trusts(routine);
        let settle = Settle { catalogue, trusts: &trusts, path: path.schemas(), doubt: &self.doubt };
        settle.analysis(&analysis).map_or(analysis, Arc::new)
    }

    /// A statement ran. Whether something is less certain than before.
    pub(super) fn doubt_after(&mut self, done: &Statement) -> bool {
        let before = self.doubt.clone();
        self.doubt.after(done);
        self.are_known() && self.doubt != before
    }

    /// The same of a catalogue that was read while `earlier` was already in doubt.
    pub(super) fn doubted_as(self, earlier: Self) -> Self {
        Self { doubt: earlier.doubt, ..self }
    }
}
