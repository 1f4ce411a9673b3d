//! FROM and WITH: which columns each of their items has.

use std::collections::HashMap;
use std::rc::Rc;

use pg_query::protobuf::{
    Alias, CommonTableExpr, JoinExpr, Node, RangeFunction, RangeSubselect, RangeVar, WithClause,
};
use pg_query::{NodeEnum, NodeRef};

use super::columns::Columns;
use super::scope::Item;
use super::{Tracer, insert, kind, names};
use crate::request::Sources;

impl<'a> Tracer<'a> {
    /// WITH. Under RECURSIVE each expression sees all of them, itself included.
    pub(super) fn with(&mut self, with: Option<&'a WithClause>) {
        let Some(with) = with else { return };
        let expressions = with.ctes.iter().filter_map(|cte| match cte.node.as_ref() {
            Some(NodeEnum::CommonTableExpr(expression)) => Some(&**expression),
            Some(_) | None => None,
        });
        if with.recursive {
            let doubted = Rc::new(Columns::Any(Sources { doubt: true, ..Sources::default() }));
            let names = expressions.clone().map(|cte| (cte.ctename.as_str(), Rc::clone(&doubted)));
            let names: HashMap<_, _> = names.collect();
            self.level().ctes.extend(names);
        }
        for cte in expressions {
            let columns = if with.recursive { self.recursive(cte) } else { self.common(cte) };
            self.level().ctes.insert(&cte.ctename, Rc::new(columns));
        }
    }

    fn common(&mut self, cte: &'a CommonTableExpr) -> Columns<'a> {
        let columns = match kind(cte.ctequery.as_deref()) {
            Some(query) => self.query(query.to_ref()),
            None => Columns::Any(Sources::default()),
        };
        self.renamed(columns, &cte.aliascolnames)
    }

    /// What refers to itself is followed twice: first with no rows of its own, which gives everything that can go into any of its
    /// columns, then with all of that in each of them.
    fn recursive(&mut self, cte: &'a CommonTableExpr) -> Columns<'a> {
        let is_union = matches!(kind(cte.ctequery.as_deref()),
            Some(NodeEnum::SelectStmt(select)) if select.larg.is_some());
        if !is_union {
            return self.common(cte);
        }
        // Both add columns of their own, made of others.
        if cte.search_clause.is_some() || cte.cycle_clause.is_some() {
            self.found.compared.doubt = true;
        }
        let nothing = Rc::new(Columns::Any(Sources::default()));
        self.level().ctes.insert(&cte.ctename, nothing);
        let first = self.common(cte);
        let all = self.whole(&first);
        self.level().ctes.insert(&cte.ctename, Rc::new(Columns::Any(all.clone())));
        // Followed once more, what is looked up is not looked up twice.
        let before = std::mem::take(&mut self.found.looked_up);
        drop(self.common(cte));
        let again = std::mem::replace(&mut self.found.looked_up, before);
        for place in again.places {
            insert(&mut self.found.looked_up, place);
        }
        self.found.looked_up.doubt |= again.doubt;
        Columns::Any(all)
    }

    pub(super) fn from(&mut self, items: &'a [Node]) {
        for item in items {
            self.item(item);
        }
    }

    pub(super) fn item(&mut self, item: &'a Node) {
        match item.node.as_ref() {
            Some(NodeEnum::RangeVar(range)) => self.relation(range),
            Some(NodeEnum::JoinExpr(join)) => self.joined(join),
            Some(NodeEnum::RangeTableSample(sample)) => {
                if let Some(relation) = sample.relation.as_deref() {
                    self.item(relation);
                }
                self.all_compared(&sample.args);
                self.compare(sample.repeatable.as_deref());
            }
            Some(NodeEnum::RangeSubselect(query)) => self.subquery(query),
            Some(NodeEnum::RangeFunction(function)) => {
                let label = function_label(function);
                self.computed(NodeRef::RangeFunction(function), label);
            }
            Some(NodeEnum::RangeTableFunc(table)) => {
                let label = table.alias.as_ref().map_or("xmltable", |alias| &alias.aliasname);
                self.computed(NodeRef::RangeTableFunc(table), label);
            }
            Some(NodeEnum::JsonTable(table)) => {
                let label = table.alias.as_ref().map_or("json_table", |alias| &alias.aliasname);
                self.computed(NodeRef::JsonTable(table), label);
            }
            Some(_) => self.found.compared.doubt = true,
            None => {}
        }
    }

    /// A relation, or the common table expression that hides it.
    fn relation(&mut self, range: &'a RangeVar) {
        let hidden = if range.schemaname.is_empty() { self.cte(&range.relname) } else { None };
        let (label, new_names) = match range.alias.as_ref() {
            Some(alias) => (alias.aliasname.as_str(), alias.colnames.as_slice()),
            None => (range.relname.as_str(), &[] as &[Node]),
        };
        let columns = match hidden {
            Some(columns) if new_names.is_empty() => columns,
            Some(columns) => {
                let expanded = columns.expanded();
                let ordered = columns.is_ordered();
                let copy = self.listed(expanded, ordered);
                Rc::new(self.renamed(copy, new_names))
            }
            None => Rc::new(self.renamed(Columns::Table(names::relation(range)), new_names)),
        };
        self.add_item(label, columns);
    }

    /// What stands beside a subquery in FROM is out of its sight, unless it is LATERAL.
    fn subquery(&mut self, sub: &'a RangeSubselect) {
        let Some(query) = kind(sub.subquery.as_deref()) else { return };
        let hidden = if sub.lateral { Vec::new() } else { std::mem::take(&mut self.level().items) };
        let columns = self.query(query.to_ref());
        if !sub.lateral {
            self.level().items = hidden;
        }
        let (label, new_names) = alias_of(sub.alias.as_ref());
        let columns = self.renamed(columns, new_names);
        self.add_item(label, Rc::new(columns));
    }

    /// A function or a table made of XML or JSON. How many rows it has depends on what it is given.
    fn computed(&mut self, node: NodeRef<'a>, label: &'a str) {
        let mut sources = Sources::default();
        self.expression(node, &mut sources);
        self.depend_on(&sources);
        self.add_item(label, Rc::new(Columns::Any(sources)));
    }

    fn joined(&mut self, join: &'a JoinExpr) {
        let before = self.level().items.len();
        for side in [join.larg.as_deref(), join.rarg.as_deref()].into_iter().flatten() {
            self.item(side);
        }
        // The condition sees these two sides, and nothing else of this level.
        let sides = self.level().items.split_off(before);
        let others = std::mem::replace(&mut self.level().items, sides);
        let parts: Vec<Rc<Columns<'a>>> =
            self.level().items.iter().flat_map(|item| item.parts.iter().map(Rc::clone)).collect();
        if join.is_natural {
            // Whichever names both sides have.
            for part in &parts {
                let whole = self.whole(part);
                self.depend_on(&whole);
            }
        }
        for column in join.using_clause.iter().filter_map(names::text) {
            let mut sources = Sources::default();
            for part in &parts {
                self.named(part, column, false, &mut sources);
            }
            self.depend_on(&sources);
        }
        self.condition(join.quals.as_deref());
        let sides = std::mem::replace(&mut self.level().items, others);
        self.level().merges |= join.is_natural || !join.using_clause.is_empty();
        match join.alias.as_ref() {
            Some(alias) => self.aliased(alias, parts),
            None => self.level().items.extend(sides),
        }
        if let Some(alias) = join.join_using_alias.as_ref() {
            let parts = self.level().items.iter().skip(before);
            let parts = parts.flat_map(|item| item.parts.iter().map(Rc::clone)).collect();
            let label = alias.aliasname.as_str();
            self.level().items.push(Item { label, parts, qualified_only: true });
        }
    }

    /// A join with a name of its own, behind which its sides are not seen any more.
    fn aliased(&mut self, alias: &'a Alias, parts: Vec<Rc<Columns<'a>>>) {
        let (label, new_names) = alias_of(Some(alias));
        if new_names.is_empty() {
            self.level().items.push(Item { label, parts, qualified_only: false });
            return;
        }
        let mut all = Sources::default();
        for part in parts {
            let whole = self.whole(&part);
            self.join(&mut all, &whole);
        }
        self.add_item(label, Rc::new(Columns::Any(all)));
    }
}

fn alias_of(alias: Option<&Alias>) -> (&str, &[Node]) {
    alias.map_or(("", &[]), |alias| (alias.aliasname.as_str(), alias.colnames.as_slice()))
}

/// Without an alias, a function in FROM goes by its own name.
fn function_label(function: &RangeFunction) -> &str {
    if let Some(alias) = function.alias.as_ref() {
        return &alias.aliasname;
    }
    let Some(NodeEnum::List(first)) = function.functions.first().and_then(|node| node.node.as_ref()) else {
        return "";
    };
    match first.items.first().and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::FuncCall(call)) => call.funcname.last().and_then(names::text).unwrap_or_default(),
        Some(_) | None => "",
    }
}
