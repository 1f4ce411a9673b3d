//! What a statement that ran does to what later ones mean: names it made, the search path, and what is known of the
//! schema.

use std::sync::Arc;

use super::client::excess_names;
use super::conversation::{Broken, Conversation};
use super::facts::{Facts, Prepared};
use super::operation::OperationId;
use crate::request::sql::catalogue::hides_code;
use crate::request::{Effect, SessionAction, Statement};

impl Conversation {
    /// One statement of an operation is complete: what it does to the session takes hold.
    pub(super) fn statement_done(&mut self, id: OperationId, tag: &str) -> Result<(), Broken> {
        let Some(operation) = self.operations.get_mut(id) else { return Ok(()) };
        let (facts, index) = (Arc::clone(&operation.facts), operation.statement);
        operation.completed(tag);
        let Some(done) = facts.analysis.statements.get(index) else { return Ok(()) };
        self.path_after(done);
        self.doubt_after(done);
        match &done.session {
            SessionAction::Prepare(name) => {
                if let Some(facts) = facts.part(index, &self.masking) {
                    let weight = facts.weight();
                    let parameter_types = Arc::from([]);
                    let prepared = Prepared { facts: Arc::new(facts), parameter_types, doubted: false };
                    self.statements.set(name.as_bytes(), prepared, weight).map_err(|_| excess_names())?;
                }
            }
            SessionAction::Deallocate(Some(name)) => drop(self.statements.close(name.as_bytes())),
            SessionAction::Deallocate(None) => drop(self.statements.close_all()),
            SessionAction::DeclareCursor(name) => {
                let facts = facts.part(index, &self.masking);
                self.close_portal(name.as_bytes())?;
                if let Some(facts) = facts {
                    self.cursor_declared(name.as_bytes(), facts)?;
                }
            }
            SessionAction::CloseCursor(Some(name)) => self.close_portal(name.as_bytes())?,
            SessionAction::CloseCursor(None) => self.close_portals()?,
            SessionAction::DiscardAll => {
                drop(self.statements.close_all());
                self.close_portals()?;
            }
            SessionAction::Begin
            | SessionAction::EndTransaction
            | SessionAction::Execute(_)
            | SessionAction::FetchCursor(_)
            | SessionAction::None
            | SessionAction::Savepoint
            | SessionAction::Set { .. } => return Ok(()),
        }
        self.names_epoch += 1;
        Ok(())
    }

    fn path_after(&mut self, statement: &Statement) {
        let before = self.search_path.clone();
        self.search_path.after(statement);
        if self.search_path != before {
            self.names_epoch += 1;
            // Which functions and views are meant.
            if self.calls.are_known() {
                self.facts.forget();
            }
        }
    }

    /// Cursors end with their transaction unless they were declared WITH HOLD, so those that are still remembered may be
    /// gone; when they are too many, all are forgotten, which leaves a FETCH from them with nothing known of it.
    fn cursor_declared(&mut self, name: &[u8], facts: Facts) -> Result<(), Broken> {
        let weight = facts.weight();
        if !self.cursors.has_room(name, weight) {
            drop(self.cursors.close_all());
        }
        self.cursors.set(name, Arc::new(facts), weight).map_err(|_| excess_names())
    }

    pub(super) fn close_portal(&mut self, name: &[u8]) -> Result<(), Broken> {
        drop(self.cursors.close(name));
        match self.portals.close(name) {
            Some(closed) => self.finish_operation(closed.operation),
            None => Ok(()),
        }
    }

    fn close_portals(&mut self) -> Result<(), Broken> {
        drop(self.cursors.close_all());
        for closed in self.portals.close_all() {
            self.finish_operation(closed.operation)?;
        }
        Ok(())
    }

    /// After a change of the schema, what is known of relations is doubtful until the catalogue was read again; after
    /// code that nobody saw, so is what names stand for. A function that policy allows by its name is trusted to do
    /// neither; if it does, the catalogue's age sets a bound.
    fn doubt_after(&mut self, done: &Statement) {
        let hides = hides_code(done);
        if done.effect == Effect::Unknown && self.masking.names_columns() && !self.masking.doubts_parameters()
        {
            self.masking = self.masking.doubting_parameters();
            self.facts.forget();
        }
        if hides || matches!(done.effect, Effect::Ddl | Effect::Admin) {
            self.schema_changed = true;
            if self.masking.names_columns() {
                self.masking = self.masking.without_catalogue();
                self.facts.forget();
            }
        }
        if self.calls.doubt_after(done) {
            self.facts.forget();
        }
        if hides {
            let Self { masking, statements, portals, cursors, names_epoch, .. } = self;
            for prepared in statements.every_mut() {
                prepared.doubted = true;
            }
            for portal in portals.every_mut() {
                portal.facts = Arc::new(portal.facts.doubted(masking));
                portal.layout = None;
                portal.described = false;
            }
            drop(cursors.close_all());
            *names_epoch += 1;
        }
    }

    /// A statement that failed undid itself, but code that nobody saw may have done what is never undone: prepared
    /// statements and some settings outlive a failure.
    pub(super) fn doubt_failed(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get(id) else { return };
        let (facts, index) = (Arc::clone(&operation.facts), operation.statement);
        if let Some(failed) = facts.analysis.statements.get(index)
            && failed.effect == Effect::Unknown
        {
            self.path_after(failed);
            self.doubt_after(failed);
        }
    }
}
