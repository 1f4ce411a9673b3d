//! Walks a parse tree and gathers what it touches: names in scope, expressions, functions and operators.

use std::collections::BTreeSet;

use pg_query::protobuf::{AExpr, AExprKind, AIndirection, Alias, ColumnRef, FuncCall, Node, SubLink};
use pg_query::{NodeEnum, NodeRef};

use super::lists::{self, Function};
use super::tree::{self, Known};
use super::{names, settings};
use crate::request::{ColumnUse, CopyTo, Effect, ObjectName, Output, SessionAction, Unlisted};

/// What is known of one statement so far.
pub(super) struct Facts {
    /// Apart from calls that no list knows.
    pub(super) effect: Effect,
    pub(super) reason: Option<String>,
    /// Functions and operators that no list knows.
    pub(super) unlisted: (BTreeSet<ObjectName>, BTreeSet<ObjectName>),
    /// Why the first of them makes the statement unknown.
    pub(super) unlisted_reason: Option<String>,
    pub(super) renames: bool,
    pub(super) reads: BTreeSet<ObjectName>,
    pub(super) writes: BTreeSet<ObjectName>,
    pub(super) functions: BTreeSet<ObjectName>,
    pub(super) columns: ColumnUse,
    pub(super) unbounded: bool,
    pub(super) session: SessionAction,
    pub(super) copy: Option<CopyTo>,
    /// Columns that are given a value.
    pub(super) assigned: BTreeSet<String>,
    /// Columns that stand in an expression.
    pub(super) referenced: BTreeSet<String>,
}

impl Facts {
    /// The effect with its reason, whatever is called, and what that is without calls that no list knows.
    pub(super) fn settle(&mut self) -> (Effect, Option<String>, Unlisted) {
        let (functions, operators) = std::mem::take(&mut self.unlisted);
        let (rest, rest_reason) = (self.effect, self.reason.take());
        let unlisted =
            Unlisted { functions, operators, rest, rest_reason: rest_reason.clone(), hidden: false };
        match self.unlisted_reason.take() {
            Some(reason) => (Effect::Unknown, Some(reason), unlisted),
            None => (rest, rest_reason, unlisted),
        }
    }
}

/// Whether a query's rows go to the client or into something around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its outputs are the statement's outputs.
    Top,
    /// Inside another statement or expression.
    Nested,
}

/// Whether what is walked will run, or is only planned because EXPLAIN stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It runs.
    Runs,
    /// It is planned: its own effect does not happen. Functions may still be evaluated by the planner.
    Planned,
}

/// What a query gives to its surroundings.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// As [`ColumnUse::outputs`]; empty for a nested query.
    pub(super) outputs: Vec<Output>,
    /// As [`ColumnUse::plain_outputs`].
    pub(super) plain_outputs: bool,
    /// As [`ColumnUse::plain_from`].
    pub(super) plain_from: bool,
    /// Relations in its FROM, which a row lock around it locks too.
    pub(super) relations: Vec<ObjectName>,
}

/// The names one query level adds to those around it.
#[derive(Default)]
pub(super) struct Scope<'a> {
    /// Common table expressions, which hide relations of the same name.
    pub(super) ctes: Vec<&'a str>,
    /// What a whole-row reference could mean: aliases and unaliased relations of FROM.
    pub(super) rows: Vec<&'a str>,
    /// Relations in FROM with the alias they go by, for row locks.
    pub(super) relations: Vec<(&'a str, ObjectName)>,
    /// Relations named at this level itself with what they go by: `label.name` can be a call of name(row).
    pub(super) tables: Vec<(&'a str, ObjectName)>,
}

/// The walk over one statement.
pub(super) struct Walker<'a> {
    pub(super) facts: Facts,
    pub(super) scopes: Vec<Scope<'a>>,
    pub(super) mode: Mode,
    /// The top-level output being walked, if any.
    pub(super) output: Option<Output>,
    /// Items of FROM met so far: a query that met none moves no rows.
    pub(super) sources: usize,
    /// Column references met so far, but for `excluded.*`, which holds only what the client sent.
    pub(super) references: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn new() -> Self {
        Self {
            facts: Facts {
                effect: Effect::Read,
                reason: None,
                unlisted: Default::default(),
                unlisted_reason: None,
                renames: false,
                reads: BTreeSet::new(),
                writes: BTreeSet::new(),
                functions: BTreeSet::new(),
                columns: ColumnUse::default(),
                unbounded: false,
                session: SessionAction::None,
                copy: None,
                assigned: BTreeSet::new(),
                referenced: BTreeSet::new(),
            },
            scopes: vec![Scope::default()],
            mode: Mode::Runs,
            output: None,
            sources: 0,
            references: 0,
        }
    }

    /// Raises the effect, and keeps the reason of whatever raised it last.
    pub(super) fn raise(&mut self, effect: Effect, reason: impl FnOnce() -> String) {
        if effect > self.facts.effect {
            self.facts.effect = effect;
            self.facts.reason = Some(reason());
        }
    }

    /// Notes a call that may do anything, unless somebody knows what is called.
    fn unlisted(&mut self, reason: String) {
        // What is unknown for another reason keeps that one.
        if self.facts.effect != Effect::Unknown {
            self.facts.unlisted_reason.get_or_insert(reason);
        }
    }

    /// Raises the effect because of what the statement itself is: its kind is reason enough. Not if it is only planned.
    pub(super) fn act(&mut self, effect: Effect) {
        if self.mode == Mode::Runs && effect > self.facts.effect {
            self.facts.effect = effect;
            self.facts.reason = None;
        }
    }

    /// Notes an object that the statement changes.
    pub(super) fn write(&mut self, object: ObjectName) {
        if self.mode == Mode::Planned {
            self.facts.reads.insert(object);
            return;
        }
        if object.schema.as_deref() == Some("pg_catalog")
            && (self.facts.effect >= Effect::Write || self.facts.unlisted_reason.is_some())
        {
            self.raise(Effect::Admin, || format!("changes the system catalogue {}", object.name));
        }
        self.facts.writes.insert(object);
    }

    /// Notes a session action; a statement that asks for two cannot be followed.
    pub(super) fn session(&mut self, action: SessionAction) {
        if self.facts.session == SessionAction::None {
            self.facts.session = action;
        } else if self.facts.session != action {
            self.raise(Effect::Unknown, || "changes more than one thing about the session".to_owned());
        }
    }

    /// Walks any node: those with a meaning of their own here, the others through their children.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "tree::children names every kind; here are those that mean more"
    )]
    pub(super) fn node(&mut self, node: NodeRef<'a>) {
        match node {
            NodeRef::ColumnRef(reference) => self.column(reference),
            NodeRef::FuncCall(call) => self.call(call),
            NodeRef::AExpr(expression) => self.expression(expression),
            NodeRef::AIndirection(indirection) => self.indirection(indirection),
            NodeRef::SubLink(link) => self.sub_link(link),
            NodeRef::SortBy(sort) => {
                self.operator(&sort.use_op);
                self.children(node);
            }
            NodeRef::IndexElem(element) => {
                self.column_name(&element.name);
                self.children(node);
            }
            NodeRef::StatsElem(element) => {
                self.column_name(&element.name);
                self.children(node);
            }
            NodeRef::PartitionElem(element) => {
                self.column_name(&element.name);
                self.children(node);
            }
            // Elsewhere than in FROM, a relation is the object of the statement.
            NodeRef::RangeVar(range) => self.write(names::relation(range)),
            NodeRef::TableLikeClause(like) => {
                self.facts.reads.extend(like.relation.as_ref().map(names::relation))
            }
            NodeRef::SelectStmt(_)
            | NodeRef::InsertStmt(_)
            | NodeRef::UpdateStmt(_)
            | NodeRef::DeleteStmt(_)
            | NodeRef::MergeStmt(_) => drop(self.query(node, Place::Nested)),
            _ => self.utility_or_children(node),
        }
    }

    /// Walks what hangs under a node.
    pub(super) fn children(&mut self, node: NodeRef<'a>) {
        let mut children = Vec::new();
        if tree::children(node, &mut children) == Known::No {
            self.raise(Effect::Unknown, || "holds a construct that is not known".to_owned());
        }
        for child in children {
            self.node(child);
        }
    }

    pub(super) fn nodes(&mut self, nodes: &'a [Node]) {
        for node in nodes {
            self.optional(Some(node));
        }
    }

    pub(super) fn optional(&mut self, node: Option<&'a Node>) {
        if let Some(kind) = node.and_then(|node| node.node.as_ref()) {
            self.node(kind.to_ref());
        }
    }

    /// Notes a column by name; the empty name is none.
    pub(super) fn column_name(&mut self, name: &str) {
        if !name.is_empty() {
            self.facts.columns.names.insert(name.to_owned());
            self.facts.referenced.insert(name.to_owned());
            if let Some(output) = self.output.as_mut() {
                output.names.insert(name.to_owned());
            }
        }
    }

    /// Notes a column that is given a value; the old one is not read.
    pub(super) fn assigned_name(&mut self, name: &str) {
        if !name.is_empty() {
            self.facts.columns.names.insert(name.to_owned());
            self.facts.assigned.insert(name.to_owned());
        }
    }

    /// Notes that every column may be touched.
    pub(super) fn whole_row(&mut self) {
        self.facts.columns.whole_rows = true;
        if let Some(output) = self.output.as_mut() {
            output.whole_row = true;
        }
    }

    /// Notes that values may come from or go to somewhere the statement does not show.
    fn opaque(&mut self) {
        self.facts.columns.opaque_calls = true;
        if let Some(output) = self.output.as_mut() {
            output.opaque = true;
        }
    }

    /// Makes an alias known; renaming columns hides what is read, so it counts as reading all of them.
    pub(super) fn alias(&mut self, alias: &'a Alias) {
        self.row(&alias.aliasname);
        if !alias.colnames.is_empty() {
            self.whole_row();
        }
    }

    /// Makes a name known that a whole-row reference could use.
    pub(super) fn row(&mut self, name: &'a str) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.rows.push(name);
        }
    }

    fn is_row(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.rows.contains(&name))
    }

    fn column(&mut self, reference: &'a ColumnRef) {
        let Some((last, qualifiers)) = reference.fields.split_last() else {
            return;
        };
        let qualifier = qualifiers.last().and_then(names::text);
        if qualifier != Some("excluded") {
            self.references += 1;
        }
        let Some(name) = names::text(last) else {
            self.whole_row();
            return;
        };
        // `t`, or `schema.t`, where t is in FROM: the row. `t.to_json` calls to_json(t).
        let of_known_row = qualifier.is_some_and(|qualifier| self.is_row(qualifier));
        if (!of_known_row && self.is_row(name)) || (qualifier.is_some() && lists::takes_whole_row(name)) {
            self.whole_row();
        }
        if let Some(relation) = qualifier.and_then(|label| self.table(label)) {
            self.facts.columns.attributes.insert((relation, name.to_owned()));
        }
        self.column_name(name);
    }

    /// The relation that goes by a label, unless a nearer level means something else by it.
    fn table(&self, label: &str) -> Option<ObjectName> {
        let scope = self.scopes.iter().rev().find(|scope| scope.rows.contains(&label))?;
        scope.tables.iter().find(|(known, _)| *known == label).map(|(_, relation)| relation.clone())
    }

    fn indirection(&mut self, indirection: &'a AIndirection) {
        self.optional(indirection.arg.as_deref());
        for step in &indirection.indirection {
            match step.node.as_ref() {
                Some(NodeEnum::String(field)) => {
                    if lists::takes_whole_row(&field.sval) {
                        self.whole_row();
                    }
                    self.column_name(&field.sval);
                }
                Some(NodeEnum::AStar(_)) => self.whole_row(),
                Some(_) | None => self.optional(Some(step)),
            }
        }
    }

    fn sub_link(&mut self, link: &'a SubLink) {
        if let Some(output) = self.output.as_mut() {
            output.opaque = true;
        }
        self.operator(&link.oper_name);
        self.optional(link.testexpr.as_deref());
        self.optional(link.subselect.as_deref());
    }

    fn expression(&mut self, expression: &'a AExpr) {
        let between = matches!(
            AExprKind::try_from(expression.kind),
            Ok(AExprKind::AexprBetween
                | AExprKind::AexprNotBetween
                | AExprKind::AexprBetweenSym
                | AExprKind::AexprNotBetweenSym)
        );
        // BETWEEN carries its keywords where the others carry an operator.
        if !between {
            self.operator(&expression.name);
        }
        self.optional(expression.lexpr.as_deref());
        self.optional(expression.rexpr.as_deref());
    }

    /// An operator that is not PostgreSQL's own is a function of somebody's.
    fn operator(&mut self, name: &'a [Node]) {
        let Some(operator) = names::dotted(name) else {
            return;
        };
        if !lists::is_own_operator(operator.schema.as_deref(), &operator.name) {
            self.opaque();
            self.unlisted(format!("uses operator {operator}, which is not PostgreSQL's own"));
            self.facts.unlisted.1.insert(operator.clone());
            self.facts.functions.insert(operator);
        }
    }

    fn call(&mut self, call: &'a FuncCall) {
        if let Some(function) = names::dotted(&call.funcname) {
            // `name(row)` can also be `row.name`, the column.
            if call.args.len() == 1 {
                self.column_name(&function.name);
            }
            self.function(function, &call.args);
        } else {
            self.raise(Effect::Unknown, || "calls a function without a name".to_owned());
        }
        self.nodes(&call.args);
        self.nodes(&call.agg_order);
        self.optional(call.agg_filter.as_deref());
        if let Some(window) = call.over.as_deref() {
            self.children(NodeRef::WindowDef(window));
        }
    }

    /// Notes a call and judges it by name.
    pub(super) fn function(&mut self, function: ObjectName, arguments: &[Node]) {
        let class = lists::function(function.schema.as_deref(), &function.name);
        match class {
            Function::Read => {}
            Function::Write => self.function_effect(Effect::Write, &function),
            Function::Admin => self.function_effect(Effect::Admin, &function),
            Function::SetConfig => settings::set_config(self, arguments),
            Function::Dynamic => {
                self.raise(Effect::Unknown, || format!("calls {function}, which runs SQL that it is given"));
            }
            Function::Unlisted => {
                self.unlisted(format!("calls {function}, which is not known to be read-only"));
                self.facts.unlisted.0.insert(function.clone());
            }
        }
        // A parameter set to what the client itself sent moves nothing.
        let opaque = match class {
            Function::Read => false,
            Function::SetConfig => !settings::is_given(arguments),
            Function::Admin | Function::Dynamic | Function::Unlisted | Function::Write => true,
        };
        if opaque {
            self.opaque();
        }
        self.facts.functions.insert(function);
    }

    /// The planner evaluates immutable functions, and PostgreSQL's own ones with effects are all volatile.
    fn function_effect(&mut self, effect: Effect, function: &ObjectName) {
        if self.mode == Mode::Runs {
            self.raise(effect, || format!("calls {function}"));
        }
    }
}
