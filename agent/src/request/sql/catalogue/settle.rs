//! The effect of statements once the catalogue was asked: lowered where every function that no list knows is trusted,
//! raised where a view or a row policy calls what may do more than read.

use super::doubt::Doubt;
use super::{Catalogue, Routine, Source, is_dangerous, is_users, own_effect};
use crate::request::sql::Analysis;
use crate::request::sql::lists::{self, Function};
use crate::request::{Effect, ObjectName, SessionAction, Statement};

/// How a session looks at a catalogue.
#[derive(Clone, Copy)]
pub struct Settle<'a> {
    /// What was read.
    pub catalogue: &'a Catalogue,
    /// Which functions of users the policy takes as reading only.
    pub trusts: &'a dyn Fn(&Routine) -> bool,
    /// Where unqualified names are looked up, when that is certain.
    pub path: Option<&'a [String]>,
    /// What changed since.
    pub doubt: &'a Doubt,
}

/// An effect and its reason.
type Found = (Effect, Option<String>);

impl Settle<'_> {
    /// The analysis as the catalogue makes it; `None` when it stays as it is. What earlier statements of the same text
    /// change is not certain for the later ones.
    #[must_use]
    pub fn analysis(&self, analysis: &Analysis) -> Option<Analysis> {
        let mut settled = analysis.clone();
        let (mut path, mut doubt) = (self.path, self.doubt.clone());
        for statement in &mut settled.statements {
            let look = Settle { path, doubt: &doubt, ..*self };
            let (mut found, hidden) = look.statement(statement);
            statement.unlisted.hidden = hidden.0 == Effect::Unknown || look.may_be_anothers(statement);
            raise(&mut found, hidden.1.map(|reason| (hidden.0, reason)));
            let effect = found.0;
            (statement.effect, statement.reason) = found;
            doubt.after(statement);
            let sets = matches!(statement.session, SessionAction::DiscardAll | SessionAction::Set { .. });
            if sets || effect > Effect::Write {
                path = None;
            }
        }
        settled.effect = settled.statements.iter().map(|found| found.effect).max().unwrap_or(analysis.effect);
        (settled != *analysis).then_some(settled)
    }

    /// What the text shows of it, and what it does not show.
    fn statement(&self, statement: &Statement) -> (Found, Found) {
        let unlisted = &statement.unlisted;
        let mut found = (unlisted.rest, unlisted.rest_reason.clone());
        for function in &unlisted.functions {
            raise(&mut found, self.unlisted_function(function));
        }
        for operator in &unlisted.operators {
            raise(&mut found, self.unlisted_operator(operator));
        }
        let mut hidden = (Effect::Read, None);
        for function in statement.functions.iter().filter(|name| !unlisted.functions.contains(name)) {
            raise(&mut hidden, self.shadowed(function));
        }
        for column in &statement.columns.names {
            raise(&mut hidden, self.called_as_column(column));
        }
        let written = statement.writes.iter().filter(|_| unlisted.rest <= Effect::Write);
        for relation in statement.reads.iter().chain(written).filter(|relation| is_users(relation)) {
            let refreshed = statement.writes.contains(relation);
            raise(&mut hidden, self.relation(relation, refreshed));
        }
        (found, hidden)
    }

    /// Whether the policy or our own list takes a function as reading only.
    fn trusted(&self, routine: &Routine) -> bool {
        // What a session makes for itself alone, it makes as it likes.
        let temporary = routine.schema.starts_with("pg_temp");
        if self.doubt.functions || routine.procedure || temporary {
            return false;
        }
        let of_extension = routine.native
            && routine.extension.as_ref().is_some_and(|name| lists::extension_reads(name, &routine.name));
        of_extension || (!is_dangerous(&routine.name) && (self.trusts)(routine))
    }

    fn effect_of(&self, routine: &Routine) -> Effect {
        match routine.is_own() {
            true => own_effect(routine),
            false if self.trusted(routine) => Effect::Read,
            false => Effect::Unknown,
        }
    }

    /// Whether a schema is one that a name is looked up in; `None` when that is not certain. Functions and operators are
    /// never looked for among temporary objects
    /// (<https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-SEARCH-PATH>).
    fn is_meant(&self, written: Option<&str>, schema: &str) -> Option<bool> {
        match (written, self.path) {
            (Some(written), _) => Some(written == schema),
            // It is looked into first, whatever the path says.
            (None, _) if schema == "pg_catalog" => Some(true),
            (None, Some(path)) => Some(path.iter().any(|name| name == schema)),
            (None, None) => None,
        }
    }

    /// A call that no list knows: all functions of its name, whatever their arguments, have to be trusted.
    fn unlisted_function(&self, function: &ObjectName) -> Option<(Effect, String)> {
        let unknown =
            || Some((Effect::Unknown, format!("calls {function}, which is not known to be read-only")));
        let mut found = false;
        for routine in self.catalogue.routines_named(&function.name) {
            match self.is_meant(function.schema.as_deref(), &routine.schema) {
                Some(false) => {}
                Some(true) if self.effect_of(routine) == Effect::Read => found = true,
                Some(true) | None => return unknown(),
            }
        }
        if found { None } else { unknown() }
    }

    /// The same of an operator: the functions behind all of its name.
    fn unlisted_operator(&self, operator: &ObjectName) -> Option<(Effect, String)> {
        let unknown =
            || Some((Effect::Unknown, format!("uses operator {operator}, which is not PostgreSQL's own")));
        let mut found = false;
        for candidate in self.catalogue.operators_named(&operator.name) {
            match self.is_meant(operator.schema.as_deref(), &candidate.schema) {
                Some(false) => continue,
                Some(true) => {}
                None => return unknown(),
            }
            let routine = self.catalogue.routines.get(&candidate.routine);
            if self.doubt.functions || routine.is_none_or(|routine| self.effect_of(routine) != Effect::Read) {
                return unknown();
            }
            found = true;
        }
        if found { None } else { unknown() }
    }

    /// A listed name, of which somebody made a function of their own: with other arguments it is the one that is called
    /// (<https://www.postgresql.org/docs/current/typeconv-func.html>). Those of extensions somebody decided to install.
    fn shadowed(&self, function: &ObjectName) -> Option<(Effect, String)> {
        let listed = lists::function(None, &function.name) != Function::Unlisted;
        if function.schema.is_some() || !listed {
            return None;
        }
        let routine = self.overloads(function).find(|routine| !self.trusted(routine))?;
        Some((Effect::Unknown, format!("calls {function}, which may be {}.{function}", routine.schema)))
    }

    /// Users' functions that an unqualified name could mean beside one of PostgreSQL's own.
    fn overloads(&self, function: &ObjectName) -> impl Iterator<Item = &Routine> {
        self.catalogue.routines_named(&function.name).filter(|routine| {
            routine.extension.is_none()
                && !routine.is_own()
                && self.is_meant(None, &routine.schema) != Some(false)
        })
    }

    /// Users' functions that take a row, as `alias.name` may call them.
    fn row_functions(&self, column: &str) -> impl Iterator<Item = &Routine> {
        self.catalogue.routines_named(column).filter(|routine| {
            routine.takes_row && !routine.is_own() && self.is_meant(None, &routine.schema) != Some(false)
        })
    }

    /// Whether a call that the text shows as one of PostgreSQL's own, or as a column, may be of a function of users', also one that is
    /// trusted: it reads only, and may give back what masks hide.
    fn may_be_anothers(&self, statement: &Statement) -> bool {
        let listed = |function: &&ObjectName| {
            function.schema.is_none() && lists::function(None, &function.name) != Function::Unlisted
        };
        let mut functions = statement.functions.iter().filter(listed);
        functions.any(|function| self.overloads(function).next().is_some())
            || statement.columns.names.iter().any(|name| self.row_functions(name).next().is_some())
    }

    /// `alias.name` calls name(alias) where the relation has no such column
    /// (<https://www.postgresql.org/docs/current/xfunc-sql.html#XFUNC-SQL-COMPOSITE-FUNCTIONS>).
    fn called_as_column(&self, column: &str) -> Option<(Effect, String)> {
        let routine = self.row_functions(column).find(|routine| !self.trusted(routine))?;
        Some((Effect::Unknown, format!("names {column}, which may be a call of {}.{column}", routine.schema)))
    }

    /// What reading a relation runs. Every relation of the name counts that could be meant, and temporary ones always.
    fn relation(&self, relation: &ObjectName, refreshed: bool) -> Option<(Effect, String)> {
        if self.doubt.everything || self.doubt.names.contains(&relation.name) {
            let system = relation.schema.as_deref() == Some("pg_catalog");
            let reason = || format!("names {relation}, which may be another since the schema changed");
            return (!system).then(|| (Effect::Unknown, reason()));
        }
        // A name that PostgreSQL implies is looked up like any other.
        let written = relation.schema.as_deref().filter(|schema| *schema != "pg_catalog");
        let meant = |source: &&Source| {
            let temporary = source.schema.starts_with("pg_temp_");
            match written {
                Some("pg_temp") => temporary,
                Some(_) => self.is_meant(written, &source.schema) != Some(false),
                None => temporary || self.is_meant(None, &source.schema) != Some(false),
            }
        };
        let sources = self
            .catalogue
            .sources_named(&relation.name)
            .filter(meant)
            .filter(|source| refreshed || !source.materialized);
        let calls = sources.flat_map(|source| self.catalogue.called_by(source.oid));
        let worst = calls.map(|(source, routine)| (self.effect_of(routine), source, routine));
        let (effect, source, routine) =
            worst.filter(|(effect, ..)| *effect > Effect::Read).max_by_key(|(effect, ..)| *effect)?;
        let why = match (effect, routine.is_own()) {
            (Effect::Unknown, false) => ", which is not known to be read-only",
            (Effect::Unknown, true) => ", which cannot be judged unseen",
            (Effect::Read | Effect::Write | Effect::Ddl | Effect::Admin, _) => "",
        };
        let called = match routine.is_own() {
            true => routine.name.clone(),
            false => format!("{}.{}", routine.schema, routine.name),
        };
        Some((effect, format!("reads {}.{}, which calls {called}{why}", source.schema, source.name)))
    }
}

/// Keeps the reason of whatever raised it last.
fn raise(found: &mut Found, call: Option<(Effect, String)>) {
    if let Some((effect, reason)) = call
        && effect > found.0
    {
        *found = (effect, Some(reason));
    }
}
