//! SELECT, INSERT, UPDATE, DELETE and MERGE: what they read and write, with PostgreSQL's rules for names in scope.

use pg_query::protobuf::{
    CmdType, DeleteStmt, InsertStmt, JoinExpr, JoinType, MergeMatchKind, MergeStmt, MergeWhenClause, Node,
    RangeVar, ReturningClause, SelectStmt, UpdateStmt, WithClause,
};
use pg_query::{NodeEnum, NodeRef};

use super::filter::{self, Target};
use super::names;
use super::walk::{Mode, Place, Scope, Shape, Walker};
use crate::request::{Effect, Output};

impl<'a> Walker<'a> {
    /// Walks one of the five statements that have rows.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "callers pass one of the five; anything else is not understood"
    )]
    pub(super) fn query(&mut self, node: NodeRef<'a>, place: Place) -> Shape {
        self.scopes.push(Scope::default());
        let mut shape = match node {
            NodeRef::SelectStmt(select) => self.select(select, place),
            NodeRef::InsertStmt(insert) => self.insert(insert, place),
            NodeRef::UpdateStmt(update) => self.update(update, place),
            NodeRef::DeleteStmt(delete) => self.delete(delete, place),
            NodeRef::MergeStmt(merge) => self.merge(merge, place),
            _ => {
                self.raise(Effect::Unknown, || "holds a construct that is not known".to_owned());
                Shape::default()
            }
        };
        if let Some(scope) = self.scopes.pop() {
            shape.relations = scope.relations.into_iter().map(|(_, relation)| relation).collect();
        }
        shape
    }

    fn select(&mut self, select: &'a SelectStmt, place: Place) -> Shape {
        self.with(select.with_clause.as_ref());
        let arms = (select.larg.as_deref(), select.rarg.as_deref());
        let mut shape = if let (Some(left), Some(right)) = arms {
            let left = self.query(NodeRef::SelectStmt(left), place);
            let right = self.query(NodeRef::SelectStmt(right), place);
            Shape { outputs: union(left.outputs, right.outputs), ..Shape::default() }
        } else {
            let plain_from = self.from(&select.from_clause);
            let Targets { mut outputs, plain } = self.targets(&select.target_list, place);
            let windows = self.collect(&select.window_clause);
            for output in &mut outputs {
                merge_output(output, &windows);
            }
            outputs.extend(self.values(&select.values_lists, place));
            let plain_outputs = plain && select.values_lists.is_empty();
            Shape { outputs, plain_outputs, plain_from, ..Shape::default() }
        };
        shape.plain_from &= select.with_clause.is_none();
        // `DISTINCT` alone is a list of one empty node.
        self.nodes(&select.distinct_clause);
        self.optional(select.where_clause.as_deref());
        self.nodes(&select.group_clause);
        self.optional(select.having_clause.as_deref());
        self.nodes(&select.sort_clause);
        self.optional(select.limit_offset.as_deref());
        self.optional(select.limit_count.as_deref());
        if let Some(into) = select.into_clause.as_deref() {
            self.act(Effect::Ddl);
            self.facts.columns.moves_rows = true;
            self.children(NodeRef::IntoClause(into));
        }
        self.row_locks(&select.locking_clause);
        shape
    }

    /// Walks expressions and gives back what they refer to, as an output would.
    fn collect(&mut self, nodes: &'a [Node]) -> Output {
        let around = self.output.replace(Output::default());
        self.nodes(nodes);
        let collected = self.output.take().unwrap_or_default();
        self.output = around;
        if let Some(output) = self.output.as_mut() {
            merge_output(output, &collected);
        }
        collected
    }

    /// A SELECT or RETURNING list. A star makes the list unknown, so it gives no outputs.
    fn targets(&mut self, targets: &'a [Node], place: Place) -> Targets {
        if place == Place::Nested {
            self.nodes(targets);
            return Targets::default();
        }
        let mut starred = false;
        let mut plain = true;
        let mut outputs = Vec::with_capacity(targets.len());
        for target in targets {
            let star = is_star(target);
            let mut output = self.collect(std::slice::from_ref(target));
            output.plain = is_column(target) && !output.whole_row;
            plain &= output.plain || (star && is_column(target));
            starred |= star;
            outputs.push(output);
        }
        Targets { outputs: if starred { Vec::new() } else { outputs }, plain }
    }

    /// The rows of VALUES: each output is made of everything in its column.
    fn values(&mut self, rows: &'a [Node], place: Place) -> Vec<Output> {
        let mut outputs: Vec<Output> = Vec::new();
        for row in rows {
            let Some(NodeEnum::List(row)) = row.node.as_ref() else {
                self.optional(Some(row));
                continue;
            };
            if place == Place::Nested {
                self.nodes(&row.items);
                continue;
            }
            outputs.resize_with(outputs.len().max(row.items.len()), Output::default);
            for (output, item) in outputs.iter_mut().zip(&row.items) {
                merge_output(output, &self.collect(std::slice::from_ref(item)));
            }
        }
        outputs
    }

    /// WITH: without RECURSIVE each expression sees only those before it; with it, all see all.
    fn with(&mut self, with: Option<&'a WithClause>) {
        let Some(with) = with else {
            return;
        };
        if with.recursive {
            let names = with.ctes.iter().filter_map(cte_name);
            if let Some(scope) = self.scopes.last_mut() {
                scope.ctes.extend(names);
            }
        }
        for cte in &with.ctes {
            if let Some(NodeEnum::CommonTableExpr(expression)) = cte.node.as_ref() {
                self.children(NodeRef::CommonTableExpr(expression));
            } else {
                self.optional(Some(cte));
            }
            if let Some(scope) = self.scopes.last_mut() {
                scope.ctes.extend(cte_name(cte));
            }
        }
    }

    /// FROM or USING. True if it is plain relations only.
    fn from(&mut self, items: &'a [Node]) -> bool {
        let mut plain = true;
        for item in items {
            plain &= self.item(item);
        }
        plain
    }

    fn item(&mut self, item: &'a Node) -> bool {
        self.sources += 1;
        match item.node.as_ref() {
            Some(NodeEnum::RangeVar(range)) => self.source(range),
            Some(NodeEnum::JoinExpr(join)) => self.join(join),
            Some(NodeEnum::RangeTableSample(sample)) => {
                let plain = sample.relation.as_deref().is_none_or(|relation| self.item(relation));
                // The two methods PostgreSQL has; any other is an extension's function.
                if let Some(method) = names::dotted(&sample.method)
                    && !(matches!(method.schema.as_deref(), None | Some("pg_catalog"))
                        && matches!(method.name.as_str(), "bernoulli" | "system"))
                {
                    self.function(method, &[]);
                }
                self.nodes(&sample.args);
                self.optional(sample.repeatable.as_deref());
                plain
            }
            Some(NodeEnum::RangeSubselect(sub)) => {
                if let Some(query) = sub.subquery.as_deref().and_then(|query| query.node.as_ref()) {
                    let inner = self.query(query.to_ref(), Place::Nested);
                    let label = sub.alias.as_ref().map_or("", |alias| &alias.aliasname);
                    if let Some(scope) = self.scopes.last_mut() {
                        scope.relations.extend(inner.relations.into_iter().map(|relation| (label, relation)));
                    }
                }
                // Its columns were referred to inside, so new names for them hide nothing.
                self.row(sub.alias.as_ref().map_or("", |alias| &alias.aliasname));
                false
            }
            Some(other) => {
                self.children(other.to_ref());
                self.row(row_alias(item));
                false
            }
            None => true,
        }
    }

    /// A relation in FROM, unless a common table expression hides it.
    fn source(&mut self, range: &'a RangeVar) -> bool {
        let label = range.alias.as_ref().map_or(range.relname.as_str(), |alias| &alias.aliasname);
        let hidden = range.schemaname.is_empty()
            && self.scopes.iter().any(|scope| scope.ctes.contains(&range.relname.as_str()));
        if !hidden {
            let relation = names::relation(range);
            if let Some(scope) = self.scopes.last_mut() {
                scope.relations.push((label, relation.clone()));
                scope.tables.push((label, relation.clone()));
            }
            self.facts.reads.insert(relation);
        }
        self.row(label);
        let renamed = range.alias.as_ref().is_some_and(|alias| !alias.colnames.is_empty());
        if renamed {
            self.whole_row();
        }
        !hidden && !renamed
    }

    fn join(&mut self, join: &'a JoinExpr) -> bool {
        let mut plain = join.larg.as_deref().is_none_or(|item| self.item(item));
        plain &= join.rarg.as_deref().is_none_or(|item| self.item(item));
        if join.is_natural {
            self.whole_row();
        }
        // What a full join merges is computed from both sides.
        if matches!(JoinType::try_from(join.jointype), Ok(JoinType::JoinFull)) {
            plain &= !join.is_natural && join.using_clause.is_empty();
        }
        for column in join.using_clause.iter().filter_map(names::text) {
            self.references += 1;
            self.column_name(column);
        }
        self.optional(join.quals.as_deref());
        for alias in [join.alias.as_ref(), join.join_using_alias.as_ref()].into_iter().flatten() {
            plain &= alias.colnames.is_empty();
            self.alias(alias);
        }
        plain
    }

    /// FOR UPDATE and its like: rows of the named items, or of all, are locked.
    fn row_locks(&mut self, clauses: &'a [Node]) {
        for clause in clauses {
            let Some(NodeEnum::LockingClause(locking)) = clause.node.as_ref() else {
                self.optional(Some(clause));
                continue;
            };
            self.act(Effect::Write);
            let wanted: Vec<_> = locking
                .locked_rels
                .iter()
                .filter_map(|node| match node.node.as_ref() {
                    Some(NodeEnum::RangeVar(range)) => Some(range.relname.as_str()),
                    Some(_) | None => None,
                })
                .collect();
            let relations = self.scopes.last().map(|scope| scope.relations.clone()).unwrap_or_default();
            for (label, relation) in relations {
                if wanted.is_empty() || wanted.contains(&label) {
                    self.write(relation);
                }
            }
        }
    }

    /// The relation that a data-modifying statement changes. Common table expressions do not hide it.
    fn target(&mut self, relation: Option<&'a RangeVar>) {
        self.act(Effect::Write);
        if let Some(range) = relation {
            self.write(names::relation(range));
            self.table_row(label(range), range);
        }
    }

    /// Makes a name known that stands for a relation's rows.
    fn table_row(&mut self, label: &'a str, range: &RangeVar) {
        self.row(label);
        if let Some(scope) = self.scopes.last_mut() {
            scope.tables.push((label, names::relation(range)));
        }
    }

    /// RETURNING gives rows of the target to the client or to a query around it.
    fn returning(
        &mut self,
        relation: Option<&'a RangeVar>,
        clause: Option<&'a ReturningClause>,
        place: Place,
    ) -> Targets {
        let Some(clause) = clause else {
            return Targets { outputs: Vec::new(), plain: true };
        };
        self.facts.reads.extend(relation.map(names::relation));
        self.sources += 1;
        let renamed = clause.options.iter().filter_map(|option| match option.node.as_ref() {
            Some(NodeEnum::ReturningOption(option)) => Some(option.value.as_str()),
            Some(_) | None => None,
        });
        for label in ["old", "new"].into_iter().chain(renamed) {
            match relation {
                Some(range) => self.table_row(label, range),
                None => self.row(label),
            }
        }
        self.targets(&clause.exprs, place)
    }

    /// `SET a = …` or the columns of INSERT: their names, and what is put into them.
    fn assignments(&mut self, targets: &'a [Node]) {
        for target in targets {
            if let Some(NodeEnum::ResTarget(target)) = target.node.as_ref() {
                self.assigned_name(&target.name);
            }
            self.optional(Some(target));
        }
    }

    /// As `assignments`; copying a column or a query's rows into the target moves them.
    fn updates(&mut self, targets: &'a [Node]) {
        let before = (self.sources, self.references);
        self.assignments(targets);
        self.facts.columns.moves_rows |= (self.sources, self.references) != before;
    }

    fn insert(&mut self, insert: &'a InsertStmt, place: Place) -> Shape {
        self.with(insert.with_clause.as_ref());
        let before = self.sources;
        self.optional(insert.select_stmt.as_deref());
        // `t (doc[(SELECT …)])`: a subquery there puts something into the relation as well.
        self.assignments(&insert.cols);
        self.facts.columns.moves_rows |= self.sources != before;
        let relation = insert.relation.as_ref();
        self.target(relation);
        if let Some(conflict) = insert.on_conflict_clause.as_deref() {
            self.row("excluded");
            if let Some(infer) = conflict.infer.as_deref() {
                self.children(NodeRef::InferClause(infer));
            }
            self.updates(&conflict.target_list);
            self.optional(conflict.where_clause.as_deref());
        }
        let Targets { outputs, plain: plain_outputs } =
            self.returning(relation, insert.returning_clause.as_ref(), place);
        Shape { outputs, plain_outputs, plain_from: insert.with_clause.is_none(), ..Shape::default() }
    }

    fn update(&mut self, update: &'a UpdateStmt, place: Place) -> Shape {
        self.with(update.with_clause.as_ref());
        let relation = update.relation.as_ref();
        self.target(relation);
        let plain = self.from(&update.from_clause);
        self.updates(&update.target_list);
        self.facts.columns.moves_rows |= !update.from_clause.is_empty();
        self.optional(update.where_clause.as_deref());
        self.bounded_by(relation, update.where_clause.as_deref());
        let Targets { outputs, plain: plain_outputs } =
            self.returning(relation, update.returning_clause.as_ref(), place);
        Shape {
            outputs,
            plain_outputs,
            plain_from: plain && update.with_clause.is_none() && !renames(relation),
            ..Shape::default()
        }
    }

    fn delete(&mut self, delete: &'a DeleteStmt, place: Place) -> Shape {
        self.with(delete.with_clause.as_ref());
        let relation = delete.relation.as_ref();
        self.target(relation);
        let plain = self.from(&delete.using_clause);
        self.optional(delete.where_clause.as_deref());
        self.bounded_by(relation, delete.where_clause.as_deref());
        let Targets { outputs, plain: plain_outputs } =
            self.returning(relation, delete.returning_clause.as_ref(), place);
        Shape {
            outputs,
            plain_outputs,
            plain_from: plain && delete.with_clause.is_none() && !renames(relation),
            ..Shape::default()
        }
    }

    fn merge(&mut self, merge: &'a MergeStmt, place: Place) -> Shape {
        self.with(merge.with_clause.as_ref());
        let relation = merge.relation.as_ref();
        self.target(relation);
        let plain = merge.source_relation.as_deref().is_none_or(|source| self.item(source));
        self.facts.columns.moves_rows = true;
        let condition = merge.join_condition.as_deref();
        self.optional(condition);
        for clause in &merge.merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(when)) = clause.node.as_ref() else {
                self.optional(Some(clause));
                continue;
            };
            self.optional(when.condition.as_deref());
            self.assignments(&when.target_list);
            self.nodes(&when.values);
            let reaches_all = reaches_all(when);
            if reaches_all == Some(Reach::Target) {
                self.bounded_by(relation, when.condition.as_deref());
            } else if reaches_all == Some(Reach::Matched) && when.condition.is_none() {
                self.bounded_by(relation, condition);
            }
        }
        let Targets { outputs, plain: plain_outputs } =
            self.returning(relation, merge.returning_clause.as_ref(), place);
        Shape {
            outputs,
            plain_outputs,
            plain_from: plain && merge.with_clause.is_none() && !renames(relation),
            ..Shape::default()
        }
    }

    /// Notes that nothing limits which rows of the target change.
    fn bounded_by(&mut self, relation: Option<&'a RangeVar>, condition: Option<&'a Node>) {
        let Some(range) = relation else {
            return;
        };
        let target = Target { label: label(range) };
        if self.mode == Mode::Runs && !condition.is_some_and(|condition| filter::limits(condition, &target)) {
            self.facts.unbounded = true;
        }
    }
}

/// Which rows of its target a MERGE action changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Those the join condition matches.
    Matched,
    /// Those without a source row.
    Target,
}

fn reaches_all(when: &MergeWhenClause) -> Option<Reach> {
    if !matches!(CmdType::try_from(when.command_type), Ok(CmdType::CmdUpdate | CmdType::CmdDelete)) {
        return None;
    }
    match MergeMatchKind::try_from(when.match_kind) {
        Ok(MergeMatchKind::MergeWhenNotMatchedBySource) => Some(Reach::Target),
        Ok(
            MergeMatchKind::MergeWhenMatched
            | MergeMatchKind::MergeWhenNotMatchedByTarget
            | MergeMatchKind::Undefined,
        )
        | Err(_) => Some(Reach::Matched),
    }
}

/// What a relation goes by inside its statement.
fn label(range: &RangeVar) -> &str {
    range.alias.as_ref().map_or(range.relname.as_str(), |alias| &alias.aliasname)
}

fn renames(range: Option<&RangeVar>) -> bool {
    range.and_then(|range| range.alias.as_ref()).is_some_and(|alias| !alias.colnames.is_empty())
}

fn cte_name(node: &Node) -> Option<&str> {
    match node.node.as_ref() {
        Some(NodeEnum::CommonTableExpr(expression)) => Some(&expression.ctename),
        Some(_) | None => None,
    }
}

/// The alias of a FROM item that is a function or a table made of XML or JSON; empty if it has none.
fn row_alias(item: &Node) -> &str {
    let alias = match item.node.as_ref() {
        Some(NodeEnum::RangeFunction(function)) => function.alias.as_ref(),
        Some(NodeEnum::RangeTableFunc(function)) => function.alias.as_ref(),
        Some(NodeEnum::JsonTable(table)) => table.alias.as_ref(),
        Some(_) | None => None,
    };
    alias.map_or("", |alias| &alias.aliasname)
}

/// A list of outputs.
#[derive(Default)]
struct Targets {
    /// As [`crate::request::ColumnUse::outputs`].
    outputs: Vec<Output>,
    /// As [`crate::request::ColumnUse::plain_outputs`].
    plain: bool,
}

/// Whether a target is a reference to a column, a row or a star, without anything around it.
fn is_column(target: &Node) -> bool {
    let Some(NodeEnum::ResTarget(target)) = target.node.as_ref() else {
        return false;
    };
    matches!(target.val.as_deref().and_then(|value| value.node.as_ref()), Some(NodeEnum::ColumnRef(_)))
}

/// Whether a target is `*`, `t.*` or `(row).*`.
fn is_star(target: &Node) -> bool {
    let Some(NodeEnum::ResTarget(target)) = target.node.as_ref() else {
        return false;
    };
    let steps = match target.val.as_deref().and_then(|value| value.node.as_ref()) {
        Some(NodeEnum::ColumnRef(reference)) => &reference.fields,
        Some(NodeEnum::AIndirection(indirection)) => &indirection.indirection,
        Some(_) | None => return false,
    };
    steps.last().is_some_and(|step| matches!(step.node, Some(NodeEnum::AStar(_))))
}

fn merge_output(into: &mut Output, from: &Output) {
    into.names.extend(from.names.iter().cloned());
    into.whole_row |= from.whole_row;
    into.opaque |= from.opaque;
}

/// The outputs of a set operation: each is made of both arms' at its position, or unknown if either arm's are.
fn union(mut left: Vec<Output>, right: Vec<Output>) -> Vec<Output> {
    if left.len() != right.len() {
        return Vec::new();
    }
    for (output, other) in left.iter_mut().zip(&right) {
        merge_output(output, other);
        output.plain = false;
    }
    left
}
