//! Follows columns through a statement by its text: where each output comes from, and which columns the result depends on.
//!
//! Names are resolved level by level, as PostgreSQL does
//! (<https://www.postgresql.org/docs/current/sql-expressions.html#SQL-EXPRESSIONS-COLUMN-REFS>). What the text leaves open is
//! kept open: a reference that several relations could answer lists them all, and the catalogue settles that later. What cannot
//! be followed at all is in doubt, which stands for every column of every relation of the statement.

use std::collections::HashMap;
use std::sync::Arc;

use pg_query::protobuf::{AExpr, AExprKind, BoolExprType, ColumnRef, CopyStmt, Node, SubLink, SubLinkType};
use pg_query::{NodeEnum, NodeRef};

use super::names;
use super::tree::{self, Known};
use super::walk::Facts;
use crate::request::{Lineage, ObjectName, Reference, Source, Sources};
use scope::Level;

mod columns;
mod from;
mod query;
mod scope;

/// Distinct sources followed in one statement; what comes after them is in doubt.
const SOURCES_MAX: usize = 4096;

/// Sources of one value; beyond it, the value is in doubt.
const PLACES_MAX: usize = 64;

/// Work done for one statement, in nodes, names and sources looked at; what is left then is in doubt.
const STEPS_MAX: usize = 1_000_000;

/// Names that a statement other than a query is taken to compare, times its relations; beyond it, all columns.
const NAMED_MAX: usize = 4096;

/// The lineage of a statement. `facts` are what the walk found: of statements that are no queries, what they name is taken for compared.
pub(super) fn of(node: NodeRef<'_>, facts: &Facts) -> Arc<Lineage> {
    let mut tracer = Tracer::default();
    if !tracer.statement(node) {
        tracer.all_that_is_named(node, facts);
    }
    // No relation, no masked column.
    if facts.reads.is_empty() && facts.writes.is_empty() && !tracer.found.unseen {
        return Arc::new(Lineage { by_position: tracer.found.by_position, ..Lineage::default() });
    }
    Arc::new(tracer.found)
}

/// What is being followed.
#[derive(Default)]
struct Tracer<'a> {
    found: Lineage,
    known: HashMap<Source, u32>,
    /// Query levels, the innermost last.
    levels: Vec<Level<'a>>,
    /// Stands in where there is no level.
    outside: Level<'a>,
    steps: usize,
}

impl<'a> Tracer<'a> {
    /// Follows a statement that holds a query, or none; false for any other.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told by what they name")]
    fn statement(&mut self, node: NodeRef<'a>) -> bool {
        match node {
            NodeRef::SelectStmt(_)
            | NodeRef::InsertStmt(_)
            | NodeRef::UpdateStmt(_)
            | NodeRef::DeleteStmt(_)
            | NodeRef::MergeStmt(_) => {
                let columns = self.query(node);
                self.found.outputs = columns.values();
                true
            }
            NodeRef::ExplainStmt(explain) => {
                self.found.unseen = executes(explain.query.as_deref());
                let told = self.inner(explain.query.as_deref());
                self.found.outputs = None;
                told
            }
            NodeRef::PrepareStmt(prepare) => self.inner(prepare.query.as_deref()),
            NodeRef::DeclareCursorStmt(cursor) => self.inner(cursor.query.as_deref()),
            NodeRef::CopyStmt(copy) => self.copy(copy),
            NodeRef::ViewStmt(view) => self.stored(view.query.as_deref()),
            NodeRef::CreateTableAsStmt(create) => self.stored(create.query.as_deref()),
            NodeRef::ExecuteStmt(execute) => {
                self.all_compared(&execute.params);
                true
            }
            _ => false,
        }
    }

    fn inner(&mut self, query: Option<&'a Node>) -> bool {
        kind(query).is_some_and(|kind| self.statement(kind.to_ref()))
    }

    /// A query whose rows do not come back: what they are made of is for whoever looks at what moves.
    fn stored(&mut self, query: Option<&'a Node>) -> bool {
        let told = self.inner(query);
        self.found.outputs = None;
        told
    }

    fn copy(&mut self, copy: &'a CopyStmt) -> bool {
        if copy.query.is_some() {
            return self.inner(copy.query.as_deref());
        }
        self.levels.push(Level::default());
        if let Some(range) = copy.relation.as_ref() {
            self.add_table(&range.relname, names::relation(range));
        }
        self.compare(copy.where_clause.as_deref());
        self.levels.pop();
        true
    }

    /// Index definitions, checks, rules and the like: every column that they name, of any of their relations. CLUSTER orders rows by
    /// an index that it only names.
    fn all_that_is_named(&mut self, node: NodeRef<'_>, facts: &Facts) {
        let relations: Vec<ObjectName> = facts.reads.iter().chain(&facts.writes).cloned().collect();
        let clusters = matches!(node, NodeRef::ClusterStmt(_));
        let all = facts.columns.whole_rows && !facts.referenced.is_empty();
        let mut compared = Sources::default();
        if clusters || all || facts.referenced.len().saturating_mul(relations.len()) > NAMED_MAX {
            compared.doubt = true;
        } else {
            for name in &facts.referenced {
                let (levels, rows) = (vec![relations.clone()], Vec::new());
                let reference = Reference { name: name.clone(), levels, rows, qualified: false };
                self.add(Source::Column(reference), &mut compared);
            }
        }
        self.depend_on(&compared);
    }

    /// Notes a source of a value.
    fn add(&mut self, source: Source, into: &mut Sources) {
        let names = match &source {
            Source::Column(reference) => reference.levels.iter().map(Vec::len).sum(),
            Source::Row(_) => 0,
        };
        if !self.has_room(1 + names) || self.found.sources.len() >= SOURCES_MAX {
            into.doubt = true;
            return;
        }
        let next = u32::try_from(self.found.sources.len()).unwrap_or(u32::MAX);
        let place = *self.known.entry(source.clone()).or_insert(next);
        if place == next {
            self.found.sources.push(source);
        }
        insert(into, place);
    }

    /// Notes all sources of one value as those of another.
    fn join(&mut self, into: &mut Sources, from: &Sources) {
        if !self.has_room(from.places.len()) {
            into.doubt = true;
        }
        into.doubt |= from.doubt;
        for place in &from.places {
            insert(into, *place);
        }
    }

    /// Takes so many steps; false once there are too many.
    fn has_room(&mut self, steps: usize) -> bool {
        self.steps = self.steps.saturating_add(steps);
        self.steps <= STEPS_MAX
    }

    /// The result depends on this.
    fn depend_on(&mut self, sources: &Sources) {
        let mut compared = std::mem::take(&mut self.found.compared);
        self.join(&mut compared, sources);
        self.found.compared = compared;
    }

    fn compare(&mut self, node: Option<&'a Node>) {
        let sources = self.made_of(node);
        self.depend_on(&sources);
    }

    fn all_compared(&mut self, nodes: &'a [Node]) {
        for node in nodes {
            self.compare(Some(node));
        }
    }

    /// What an expression is made of.
    fn made_of(&mut self, node: Option<&'a Node>) -> Sources {
        let mut sources = Sources::default();
        if let Some(kind) = kind(node) {
            self.expression(kind.to_ref(), &mut sources);
        }
        sources
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "tree::children names every kind")]
    fn expression(&mut self, node: NodeRef<'a>, into: &mut Sources) {
        if !self.has_room(1) {
            into.doubt = true;
            return;
        }
        match node {
            NodeRef::ColumnRef(reference) => self.reference(reference, into),
            NodeRef::SubLink(link) => self.sub_link(link, into),
            NodeRef::SelectStmt(_)
            | NodeRef::InsertStmt(_)
            | NodeRef::UpdateStmt(_)
            | NodeRef::DeleteStmt(_)
            | NodeRef::MergeStmt(_) => {
                let columns = self.query(node);
                let whole = self.whole(&columns);
                self.join(into, &whole);
            }
            _ => {
                let mut children = Vec::new();
                if tree::children(node, &mut children) == Known::No {
                    into.doubt = true;
                }
                for child in children {
                    self.expression(child, into);
                }
            }
        }
    }

    fn sub_link(&mut self, link: &'a SubLink, into: &mut Sources) {
        let mut sources = self.made_of(link.testexpr.as_deref());
        if let Some(query) = kind(link.subselect.as_deref()) {
            let columns = self.query(query.to_ref());
            // EXISTS asks whether there are rows, not what is in them.
            if !matches!(SubLinkType::try_from(link.sub_link_type), Ok(SubLinkType::ExistsSublink)) {
                let whole = self.whole(&columns);
                self.join(&mut sources, &whole);
            }
        }
        self.join(into, &sources);
    }

    /// A condition. Of a comparison with one value of the client's, only that is noted.
    fn condition(&mut self, node: Option<&'a Node>) {
        match kind(node) {
            Some(NodeEnum::BoolExpr(expression))
                if matches!(BoolExprType::try_from(expression.boolop), Ok(BoolExprType::AndExpr)) =>
            {
                for argument in &expression.args {
                    self.condition(Some(argument));
                }
            }
            Some(NodeEnum::AExpr(expression)) => match look_up(expression) {
                Some(column) => {
                    let mut sources = Sources::default();
                    self.reference(column, &mut sources);
                    self.look_up(&sources);
                }
                None => self.compare(node),
            },
            Some(_) | None => self.compare(node),
        }
    }

    fn look_up(&mut self, sources: &Sources) {
        let looked_up = &mut self.found.looked_up;
        let again = sources.places.iter().any(|place| looked_up.places.contains(place));
        if again || sources.doubt {
            self.depend_on(sources);
        } else {
            for place in &sources.places {
                insert(looked_up, *place);
            }
        }
    }
}

/// Adds a place where it belongs.
fn insert(sources: &mut Sources, place: u32) {
    if let Err(at) = sources.places.binary_search(&place) {
        if sources.places.len() >= PLACES_MAX {
            sources.doubt = true;
        } else {
            sources.places.insert(at, place);
        }
    }
}

/// Whether it runs a prepared statement, or stores what one gives.
fn executes(node: Option<&Node>) -> bool {
    match kind(node) {
        Some(NodeEnum::ExecuteStmt(_)) => true,
        Some(NodeEnum::CreateTableAsStmt(create)) => executes(create.query.as_deref()),
        Some(_) | None => false,
    }
}

fn kind(node: Option<&Node>) -> Option<&NodeEnum> {
    node.and_then(|node| node.node.as_ref())
}

/// The column of `column = value` or `value = column`, where the value is a literal or a parameter.
fn look_up(expression: &AExpr) -> Option<&ColumnRef> {
    let operator = names::dotted(&expression.name)?;
    let equals = matches!(AExprKind::try_from(expression.kind), Ok(AExprKind::AexprOp))
        && operator.name == "="
        && matches!(operator.schema.as_deref(), None | Some("pg_catalog"));
    if !equals {
        return None;
    }
    match (kind(expression.lexpr.as_deref()), kind(expression.rexpr.as_deref())) {
        (Some(NodeEnum::ColumnRef(column)), Some(value))
        | (Some(value), Some(NodeEnum::ColumnRef(column)))
            if is_given(value) =>
        {
            Some(column)
        }
        _ => None,
    }
}

fn is_given(value: &NodeEnum) -> bool {
    let inner = if let NodeEnum::TypeCast(cast) = value { kind(cast.arg.as_deref()) } else { Some(value) };
    matches!(inner, Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_)))
}

#[cfg(test)]
mod tests;
