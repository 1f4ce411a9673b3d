//! The five statements that have rows: their outputs, and what those that come back depend on.

use std::rc::Rc;

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::{
    DeleteStmt, InsertStmt, MergeStmt, Node, OnConflictClause, RangeVar, ReturningClause, SelectStmt,
    SetOperation, UpdateStmt,
};
use pg_query::{NodeEnum, NodeRef};

use super::columns::{Column, Columns, Made};
use super::scope::{Item, Level};
use super::{Tracer, kind, names};
use crate::request::{ObjectName, Source, Sources};

impl<'a> Tracer<'a> {
    /// Follows one of the five, and gives its outputs.
    #[expect(clippy::wildcard_enum_match_arm, reason = "anything but the five is not understood")]
    pub(super) fn query(&mut self, node: NodeRef<'a>) -> Columns<'a> {
        if !self.has_room(1) {
            self.found.compared.doubt = true;
            return Columns::Any(Sources { doubt: true, ..Sources::default() });
        }
        self.levels.push(Level::default());
        let columns = match node {
            NodeRef::SelectStmt(select) => self.select(select),
            NodeRef::InsertStmt(insert) => self.insert(insert),
            NodeRef::UpdateStmt(update) => self.update(update),
            NodeRef::DeleteStmt(delete) => self.delete(delete),
            NodeRef::MergeStmt(merge) => self.merge(merge),
            _ => {
                self.found.compared.doubt = true;
                Columns::Any(Sources { doubt: true, ..Sources::default() })
            }
        };
        self.levels.pop();
        columns
    }

    fn select(&mut self, select: &'a SelectStmt) -> Columns<'a> {
        self.with(select.with_clause.as_ref());
        let arms = (select.larg.as_deref(), select.rarg.as_deref());
        let columns = if let (Some(left), Some(right)) = arms {
            let left = self.query(NodeRef::SelectStmt(left));
            let right = self.query(NodeRef::SelectStmt(right));
            let columns = self.united(&left, &right);
            let is_union = matches!(SetOperation::try_from(select.op), Ok(SetOperation::SetopUnion));
            if !(is_union && select.all) {
                self.depend_on_all(&columns);
            }
            columns
        } else {
            self.from(&select.from_clause);
            let columns = match select.values_lists.as_slice() {
                [] => self.targets(&select.target_list),
                rows => self.values(rows),
            };
            self.condition(select.where_clause.as_deref());
            self.compare(select.having_clause.as_deref());
            self.all_compared(&select.window_clause);
            columns
        };
        for key in &select.group_clause {
            self.key(key, &columns);
        }
        for key in &select.distinct_clause {
            match kind(Some(key)) {
                Some(_) => self.key(key, &columns),
                // DISTINCT alone is a list of one empty node.
                None => self.depend_on_all(&columns),
            }
        }
        for key in &select.sort_clause {
            self.key(key, &columns);
        }
        self.compare(select.limit_offset.as_deref());
        self.compare(select.limit_count.as_deref());
        columns
    }

    fn depend_on_all(&mut self, columns: &Columns<'a>) {
        let whole = self.whole(columns);
        self.depend_on(&whole);
    }

    /// One thing to order, group or tell apart by: an output by its position or its name, or an expression
    /// (<https://www.postgresql.org/docs/current/sql-select.html#SQL-ORDERBY>).
    fn key(&mut self, node: &'a Node, outputs: &Columns<'a>) {
        match node.node.as_ref() {
            Some(NodeEnum::SortBy(sort)) => {
                if let Some(node) = sort.node.as_deref() {
                    self.key(node, outputs);
                }
            }
            Some(NodeEnum::GroupingSet(set)) => set.content.iter().for_each(|node| self.key(node, outputs)),
            Some(NodeEnum::RowExpr(row)) => row.args.iter().for_each(|node| self.key(node, outputs)),
            Some(NodeEnum::List(list)) => list.items.iter().for_each(|node| self.key(node, outputs)),
            Some(NodeEnum::AConst(constant)) => {
                // Another number there is another output, though it is the same text but for its literals.
                self.found.by_position = true;
                match constant.val.as_ref() {
                    Some(Val::Ival(position)) => {
                        let sources = self.at_position(outputs, position.ival);
                        self.depend_on(&sources);
                    }
                    Some(Val::Fval(_) | Val::Boolval(_) | Val::Sval(_) | Val::Bsval(_)) | None => {
                        self.depend_on_all(outputs);
                    }
                }
            }
            Some(NodeEnum::ColumnRef(reference)) => {
                if let [only] = reference.fields.as_slice()
                    && let Some(name) = names::text(only)
                {
                    let mut sources = Sources::default();
                    self.named(outputs, name, false, &mut sources);
                    self.depend_on(&sources);
                }
                self.compare(Some(node));
            }
            Some(_) | None => self.compare(Some(node)),
        }
    }

    /// A SELECT or RETURNING list. What an output computes with decides whether, and when, it fails.
    fn targets(&mut self, targets: &'a [Node]) -> Columns<'a> {
        let mut columns = Vec::with_capacity(targets.len().min(super::columns::COLUMNS_MAX));
        let mut all_ordered = true;
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = target.node.as_ref() else {
                self.found.compared.doubt = true;
                continue;
            };
            let value = target.val.as_deref();
            let given = Some(target.name.as_str()).filter(|name| !name.is_empty());
            match kind(value) {
                Some(NodeEnum::ColumnRef(reference)) => match reference.fields.last().and_then(names::text) {
                    Some(name) => {
                        let mut sources = Sources::default();
                        self.reference(reference, &mut sources);
                        columns.push(Column { name: given.or(Some(name)), made: Made::Value(sources) });
                    }
                    None => {
                        let (expanded, ordered) = self.star(reference);
                        all_ordered &= ordered;
                        columns.extend(expanded);
                    }
                },
                Some(_) | None => {
                    let sources = self.made_of(value);
                    self.depend_on(&sources);
                    columns.push(match is_star(value) {
                        true => Column { name: None, made: Made::Many(sources) },
                        false => Column { name: given.or(own_name(value)), made: Made::Value(sources) },
                    });
                }
            }
            // The rest is looked at all the same: what it computes may be seen without being shown.
            if columns.len() > super::columns::COLUMNS_MAX {
                columns.truncate(super::columns::COLUMNS_MAX + 1);
            }
        }
        self.listed(columns, all_ordered)
    }

    /// VALUES: each output is made of everything in its column.
    fn values(&mut self, rows: &'a [Node]) -> Columns<'a> {
        let mut made: Vec<Sources> = Vec::new();
        for row in rows {
            let Some(NodeEnum::List(row)) = row.node.as_ref() else {
                self.found.compared.doubt = true;
                continue;
            };
            made.resize_with(made.len().max(row.items.len()), Sources::default);
            for (sources, item) in made.iter_mut().zip(&row.items) {
                let item_sources = self.made_of(Some(item));
                if !matches!(item.node, Some(NodeEnum::ColumnRef(_))) {
                    self.depend_on(&item_sources);
                }
                self.join(sources, &item_sources);
            }
        }
        let columns = made.into_iter().map(|sources| Column { name: None, made: Made::Value(sources) });
        self.listed(columns.collect(), true)
    }

    /// The relation that is changed; what it goes by.
    fn target(&mut self, range: Option<&'a RangeVar>) -> Option<ObjectName> {
        let range = range?;
        let relation = names::relation(range);
        let alias = range.alias.as_ref();
        let label = alias.map_or(range.relname.as_str(), |alias| &alias.aliasname);
        self.add_table(label, relation.clone());
        Some(relation)
    }

    fn returning(
        &mut self,
        relation: Option<&ObjectName>,
        clause: Option<&'a ReturningClause>,
    ) -> Columns<'a> {
        let (Some(relation), Some(clause)) = (relation, clause) else {
            return Columns::Any(Sources::default());
        };
        let renamed = clause.options.iter().filter_map(|option| match option.node.as_ref() {
            Some(NodeEnum::ReturningOption(option)) => Some(option.value.as_str()),
            Some(_) | None => None,
        });
        for label in ["old", "new"].into_iter().chain(renamed) {
            let parts = vec![Rc::new(Columns::Table(relation.clone()))];
            self.level().items.push(Item { label, parts, qualified_only: true });
        }
        self.targets(&clause.exprs)
    }

    /// `SET a = …`: what is computed.
    fn assignments(&mut self, targets: &'a [Node]) {
        for target in targets {
            self.compare(Some(target));
        }
    }

    fn insert(&mut self, insert: &'a InsertStmt) -> Columns<'a> {
        self.with(insert.with_clause.as_ref());
        // What is put into the relation moves there; its outputs are none of this statement's.
        if let Some(query) = kind(insert.select_stmt.as_deref()) {
            drop(self.query(query.to_ref()));
        }
        // `t (doc[(SELECT …)])`: where in the column it goes is computed, and comes back with it.
        self.assignments(&insert.cols);
        let relation = self.target(insert.relation.as_ref());
        if let (Some(relation), Some(conflict)) = (&relation, insert.on_conflict_clause.as_deref()) {
            self.on_conflict(relation, &insert.cols, conflict);
        }
        self.returning(relation.as_ref(), insert.returning_clause.as_ref())
    }

    /// Whether a row is there already is told by what happens: the columns of the constraint are compared. Where none are named, any
    /// that is written may be.
    fn on_conflict(&mut self, relation: &ObjectName, written: &'a [Node], conflict: &'a OnConflictClause) {
        let mut compared = Sources::default();
        match conflict.infer.as_deref() {
            Some(infer) if infer.conname.is_empty() => {
                for element in &infer.index_elems {
                    if let Some(NodeEnum::IndexElem(element)) = element.node.as_ref()
                        && !element.name.is_empty()
                    {
                        self.own_column(relation, &element.name, &mut compared);
                    } else {
                        self.compare(Some(element));
                    }
                }
                self.compare(infer.where_clause.as_deref());
            }
            Some(_) | None if written.is_empty() => {
                self.add(Source::Row(relation.clone()), &mut compared);
            }
            Some(_) | None => {
                for target in written {
                    if let Some(NodeEnum::ResTarget(target)) = target.node.as_ref() {
                        self.own_column(relation, &target.name, &mut compared);
                    }
                }
            }
        }
        self.depend_on(&compared);
        // What the client sent.
        self.add_item("excluded", Rc::new(Columns::Any(Sources::default())));
        self.assignments(&conflict.target_list);
        self.compare(conflict.where_clause.as_deref());
        self.level().items.pop();
    }

    fn update(&mut self, update: &'a UpdateStmt) -> Columns<'a> {
        self.with(update.with_clause.as_ref());
        let relation = self.target(update.relation.as_ref());
        self.from(&update.from_clause);
        self.assignments(&update.target_list);
        self.condition(update.where_clause.as_deref());
        self.returning(relation.as_ref(), update.returning_clause.as_ref())
    }

    fn delete(&mut self, delete: &'a DeleteStmt) -> Columns<'a> {
        self.with(delete.with_clause.as_ref());
        let relation = self.target(delete.relation.as_ref());
        self.from(&delete.using_clause);
        self.condition(delete.where_clause.as_deref());
        self.returning(relation.as_ref(), delete.returning_clause.as_ref())
    }

    fn merge(&mut self, merge: &'a MergeStmt) -> Columns<'a> {
        self.with(merge.with_clause.as_ref());
        let relation = self.target(merge.relation.as_ref());
        if let Some(source) = merge.source_relation.as_deref() {
            self.item(source);
        }
        self.condition(merge.join_condition.as_deref());
        for clause in &merge.merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(when)) = clause.node.as_ref() else {
                self.found.compared.doubt = true;
                continue;
            };
            self.compare(when.condition.as_deref());
            self.assignments(&when.target_list);
            self.all_compared(&when.values);
        }
        self.returning(relation.as_ref(), merge.returning_clause.as_ref())
    }
}

/// Whether a target is `(row).*`.
fn is_star(value: Option<&Node>) -> bool {
    let Some(NodeEnum::AIndirection(indirection)) = kind(value) else { return false };
    let last = indirection.indirection.last().and_then(|step| step.node.as_ref());
    matches!(last, Some(NodeEnum::AStar(_)))
}

/// The name that PostgreSQL gives a call; of other expressions it is not worth knowing.
fn own_name(value: Option<&Node>) -> Option<&str> {
    match kind(value) {
        Some(NodeEnum::FuncCall(call)) => call.funcname.last().and_then(names::text),
        Some(_) | None => None,
    }
}
