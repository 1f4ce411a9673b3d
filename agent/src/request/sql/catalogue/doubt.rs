//! What is not certain of a catalogue any more: a session has changed the schema since it was read.

use std::collections::BTreeSet;

use super::names;
use crate::request::{Effect, Statement};

/// Names remembered; beyond it, all are doubted.
const NAMES_MAX: usize = 1024;

/// Commands that run code which their text does not show.
const HIDING_KINDS: [&str; 4] = ["call", "do", "execute", "unknown"];

/// Changes of the schema after which reading the relation runs what it ran before.
const PLAIN_KINDS: [&str; 9] = [
    "alter sequence",
    "alter table",
    "comment",
    "create index",
    "create sequence",
    "create table",
    "create table as",
    "drop index",
    "select into",
];

/// Commands that bring objects which they do not name.
const BRINGING_KINDS: [&str; 3] = ["alter extension", "create extension", "import foreign schema"];

/// Whether a statement runs code that could redefine names: a function that policy knows by name is trusted not to.
#[must_use]
pub fn hides_code(statement: &Statement) -> bool {
    statement.effect == Effect::Unknown && HIDING_KINDS.contains(&statement.kind.as_str())
}

/// What a session has changed since the catalogue was read, which nobody else may see yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Functions may be others than those that were read.
    pub(super) functions: bool,
    /// So may every relation.
    pub(super) everything: bool,
    /// Relations that may have become views, or may have new policies.
    pub(super) names: BTreeSet<String>,
}

impl Doubt {
    /// A statement ran, or will have run when the next one does.
    pub fn after(&mut self, done: &Statement) {
        let hides = hides_code(done);
        if done.effect < Effect::Ddl {
            return;
        }
        // Whatever a function that nobody vouches for has done, those that are trusted by name may be others now.
        if done.effect == Effect::Unknown && !hides {
            self.functions = true;
            return;
        }
        self.functions = true;
        if hides || done.renames || BRINGING_KINDS.contains(&done.kind.as_str()) {
            self.everything = true;
        } else if !PLAIN_KINDS.contains(&done.kind.as_str()) {
            self.names.extend(names(&done.writes));
            self.everything |= self.names.len() > NAMES_MAX;
        }
        if self.everything {
            self.names.clear();
        }
    }
}
