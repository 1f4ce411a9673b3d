//! What a database's catalogue says of calls that a text alone cannot judge: functions and operators that are not
//! PostgreSQL's own, and what views and row policies call unseen. Pure: the side connection reads it.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::lists::{self, Function};
use crate::request::{Effect, ObjectName};
pub use doubt::{Doubt, hides_code};
pub use settle::Settle;

mod doubt;
mod settle;
#[cfg(test)]
mod tests;

/// OIDs from here on are those of users' objects (`FirstNormalObjectId`, `src/include/access/transam.h`).
pub const FIRST_USER_OID: u32 = 16_384;

/// How far a function says that it reaches
/// (<https://www.postgresql.org/docs/current/xfunc-volatility.html>). Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Volatility {
    /// Computes from its arguments.
    Immutable,
    /// Looks at the database. PostgreSQL refuses statements that change something in the usual languages.
    Stable,
    /// May do anything.
    Volatile,
}

/// A function, aggregate, window function or procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routine {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it says of itself; of an aggregate, the furthest of the functions that it is made of.
    pub volatility: Volatility,
    /// Written in C.
    pub native: bool,
    /// The extension it belongs to.
    pub extension: Option<String>,
    /// Only CALL can run it.
    pub procedure: bool,
    /// Its first argument may be a row, so that `alias.name` may be a call of it.
    pub takes_row: bool,
}

impl Routine {
    fn is_own(&self) -> bool {
        self.oid < FIRST_USER_OID
    }
}

/// An operator that is not PostgreSQL's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_operator.oprcode`: the function it stands for.
    pub routine: u32,
}

/// A relation that runs more than its name says when it is read: a view, or a table with row policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its rows are kept: its definition runs when it is refreshed.
    pub materialized: bool,
}

/// What was read of a catalogue, row by row.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Users' routines, and those of PostgreSQL's own that do more than compute or stand behind a user's operator.
    pub routines: Vec<Routine>,
    /// Users' operators.
    pub operators: Vec<Operator>,
    /// Users' views and tables with row policies.
    pub sources: Vec<Source>,
    /// Which of those calls which routine. Routines that are not among `routines` only compute.
    pub calls: Vec<(u32, u32)>,
    /// Which of those reads which relation.
    pub reads: Vec<(u32, u32)>,
}

/// A catalogue, ready to be asked.
#[derive(Debug, Default)]
pub struct Catalogue {
    routines: HashMap<u32, Routine>,
    routines_by_name: HashMap<String, Vec<u32>>,
    operators_by_name: HashMap<String, Vec<Operator>>,
    sources: HashMap<u32, Known>,
    sources_by_name: HashMap<String, Vec<u32>>,
}

#[derive(Debug)]
struct Known {
    source: Source,
    calls: Vec<u32>,
    reads: Vec<u32>,
}

impl Catalogue {
    /// Makes it searchable.
    #[must_use]
    pub fn new(contents: Contents) -> Self {
        let Contents { routines, operators, sources, calls, reads } = contents;
        let mut catalogue = Self::default();
        for routine in routines {
            catalogue.routines_by_name.entry(routine.name.clone()).or_default().push(routine.oid);
            catalogue.routines.insert(routine.oid, routine);
        }
        for operator in operators {
            catalogue.operators_by_name.entry(operator.name.clone()).or_default().push(operator);
        }
        for source in sources {
            catalogue.sources_by_name.entry(source.name.clone()).or_default().push(source.oid);
            catalogue.sources.insert(source.oid, Known { source, calls: Vec::new(), reads: Vec::new() });
        }
        for (source, routine) in calls {
            if let (Some(known), true) =
                (catalogue.sources.get_mut(&source), catalogue.routines.contains_key(&routine))
            {
                known.calls.push(routine);
            }
        }
        for (source, relation) in reads {
            if let Some(known) = catalogue.sources.get_mut(&source) {
                known.reads.push(relation);
            }
        }
        catalogue
    }

    fn routines_named(&self, name: &str) -> impl Iterator<Item = &Routine> {
        let oids = self.routines_by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        oids.iter().filter_map(|oid| self.routines.get(oid))
    }

    fn operators_named(&self, name: &str) -> &[Operator] {
        self.operators_by_name.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn sources_named(&self, name: &str) -> impl Iterator<Item = &Source> {
        let oids = self.sources_by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        oids.iter().filter_map(|oid| self.sources.get(oid)).map(|known| &known.source)
    }

    /// Everything that reading a source calls, also through the views it reads: by which of them, and what. A materialized
    /// view further down gives the rows that it keeps.
    fn called_by(&self, source: u32) -> Vec<(&Source, &Routine)> {
        let (mut called, mut seen) = (Vec::new(), HashSet::from([source]));
        let mut open = vec![source];
        while let Some(known) = open.pop().and_then(|oid| self.sources.get(&oid)) {
            let routines = known.calls.iter().filter_map(|oid| self.routines.get(oid));
            called.extend(routines.map(|routine| (&known.source, routine)));
            for read in &known.reads {
                let kept = self.sources.get(read).is_none_or(|known| known.source.materialized);
                if !kept && seen.insert(*read) {
                    open.push(*read);
                }
            }
        }
        called
    }
}

/// What one of PostgreSQL's own functions does, by its name. What only computes is on no list where it stands behind an
/// operator, so that its volatility counts.
fn own_effect(routine: &Routine) -> Effect {
    match lists::function(Some(&routine.schema), &routine.name) {
        Function::Read => Effect::Read,
        Function::Write => Effect::Write,
        Function::Admin => Effect::Admin,
        Function::Dynamic | Function::SetConfig => Effect::Unknown,
        Function::Unlisted if routine.volatility < Volatility::Volatile => Effect::Read,
        Function::Unlisted => Effect::Unknown,
    }
}

/// Whether a name is on our lists as one that does more than read, whoever's it is: no pattern of a policy covers it.
fn is_dangerous(name: &str) -> bool {
    match lists::function(None, name) {
        Function::Admin | Function::Dynamic | Function::SetConfig | Function::Write => true,
        Function::Read | Function::Unlisted => false,
    }
}

/// Relations of a statement whose definition could run when it does.
fn is_users(relation: &ObjectName) -> bool {
    !matches!(relation.schema.as_deref(), Some("" | "information_schema"))
}

/// The names alone.
fn names(objects: &[ObjectName]) -> BTreeSet<String> {
    objects.iter().map(|object| object.name.clone()).collect()
}
