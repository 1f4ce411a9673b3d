//! Names in scope, level by level, and what a column reference can mean.

use std::collections::HashMap;
use std::rc::Rc;

use pg_query::protobuf::ColumnRef;

use super::columns::{Column, Columns, column_of};
use super::{Tracer, names};
use crate::request::sql::lists;
use crate::request::{ObjectName, Reference, Source, Sources};

/// One query level.
#[derive(Default)]
pub(super) struct Level<'a> {
    /// Common table expressions, which hide relations of the same name.
    pub(super) ctes: HashMap<&'a str, Rc<Columns<'a>>>,
    /// What FROM has so far.
    pub(super) items: Vec<Item<'a>>,
    /// A join has merged columns, and a star shows those first.
    pub(super) merges: bool,
}

/// An item of FROM.
pub(super) struct Item<'a> {
    /// What it goes by; empty when it has no name.
    pub(super) label: &'a str,
    /// Its columns; of a join with an alias, those of both sides.
    pub(super) parts: Vec<Rc<Columns<'a>>>,
    /// Its columns are found behind its label only.
    pub(super) qualified_only: bool,
}

impl<'a> Tracer<'a> {
    /// The innermost query level.
    pub(super) fn level(&mut self) -> &mut Level<'a> {
        match self.levels.last_mut() {
            Some(level) => level,
            None => &mut self.outside,
        }
    }

    pub(super) fn add_item(&mut self, label: &'a str, columns: Rc<Columns<'a>>) {
        self.level().items.push(Item { label, parts: vec![columns], qualified_only: false });
    }

    pub(super) fn add_table(&mut self, label: &'a str, relation: ObjectName) {
        self.add_item(label, Rc::new(Columns::Table(relation)));
    }

    /// The common table expression that an unqualified name stands for.
    pub(super) fn cte(&self, name: &str) -> Option<Rc<Columns<'a>>> {
        self.levels.iter().rev().find_map(|level| level.ctes.get(name)).map(Rc::clone)
    }

    /// What a column reference stands for.
    pub(super) fn reference(&mut self, reference: &'a ColumnRef, into: &mut Sources) {
        let Some((last, qualifiers)) = reference.fields.split_last() else { return };
        let labels: Vec<&str> = qualifiers.iter().filter_map(names::text).collect();
        match (names::text(last), labels.as_slice()) {
            (Some(name), []) => self.unqualified(name, into),
            (Some(name), labels) => self.qualified(labels, name, into),
            // A star inside an expression.
            (None, labels) => {
                for part in self.parts_of(labels, into) {
                    let whole = self.whole(&part);
                    self.join(into, &whole);
                }
            }
        }
    }

    /// The columns that `*` or `label.*` in an output list stands for, and whether they stand in order.
    pub(super) fn star(&mut self, reference: &'a ColumnRef) -> (Vec<Column<'a>>, bool) {
        let labels: Vec<&str> = reference.fields.iter().filter_map(names::text).collect();
        let mut doubt = Sources::default();
        let parts = self.parts_of(&labels, &mut doubt);
        let mut ordered = !(labels.is_empty() && self.level().merges);
        let mut columns: Vec<Column<'a>> = Vec::new();
        for part in parts {
            ordered &= part.is_ordered();
            let expanded = part.expanded();
            if !self.has_room(expanded.len()) {
                doubt.doubt = true;
                break;
            }
            columns.extend(expanded);
        }
        if doubt.doubt {
            columns.push(Column { name: None, made: super::columns::Made::Many(doubt) });
        }
        (columns, ordered)
    }

    /// The items behind a label, or all of the innermost level.
    fn parts_of(&mut self, labels: &[&str], doubt: &mut Sources) -> Vec<Rc<Columns<'a>>> {
        if labels.is_empty() {
            let items = self.level().items.iter().filter(|item| !item.qualified_only);
            return items.flat_map(|item| item.parts.iter().map(Rc::clone)).collect();
        }
        self.labelled(labels, doubt)
    }

    /// The items behind a label: those of the nearest level that has it. With a schema in front it is only found where the relation has
    /// no alias, which the text of an inner level may hide, so every level counts.
    fn labelled(&mut self, labels: &[&str], doubt: &mut Sources) -> Vec<Rc<Columns<'a>>> {
        let mut found = Vec::new();
        let label = labels.last().copied().unwrap_or_default();
        for level in self.levels.iter().rev() {
            self.steps = self.steps.saturating_add(level.items.len());
            let items = level.items.iter().filter(|item| item.label == label);
            found.extend(items.flat_map(|item| item.parts.iter().map(Rc::clone)));
            if !found.is_empty() && labels.len() == 1 {
                break;
            }
        }
        if found.is_empty() || !self.has_room(0) {
            doubt.doubt = true;
        }
        found
    }

    fn qualified(&mut self, labels: &[&str], name: &str, into: &mut Sources) {
        for part in self.labelled(labels, into) {
            self.named(&part, name, true, into);
            if lists::takes_whole_row(name) {
                let whole = self.whole(&part);
                self.join(into, &whole);
            }
        }
    }

    fn unqualified(&mut self, name: &str, into: &mut Sources) {
        let (mut levels, mut rows) = (Vec::new(), Vec::new());
        let (mut lists, mut wholes) = (Vec::new(), Vec::new());
        let mut steps = 0_usize;
        for level in self.levels.iter().rev() {
            let mut group: Vec<ObjectName> = Vec::new();
            let mut settled = false;
            steps = steps.saturating_add(level.items.len());
            if self.steps.saturating_add(steps) > super::STEPS_MAX {
                into.doubt = true;
                break;
            }
            for item in &level.items {
                let is_label = item.label == name;
                for part in &item.parts {
                    match &**part {
                        Columns::Table(relation) => {
                            if !item.qualified_only {
                                group.push(relation.clone());
                            }
                            if is_label {
                                rows.push(relation.clone());
                            }
                        }
                        Columns::Any(_) if is_label || !item.qualified_only => wholes.push(Rc::clone(part)),
                        Columns::Listed(_) if is_label => wholes.push(Rc::clone(part)),
                        Columns::Listed(listed) if !item.qualified_only => {
                            settled |= listed.has(name);
                            lists.push(Rc::clone(part));
                        }
                        Columns::Any(_) | Columns::Listed(_) => {}
                    }
                }
            }
            if !group.is_empty() {
                levels.push(group);
            }
            if settled {
                break;
            }
        }
        self.steps = self.steps.saturating_add(steps);
        if !levels.is_empty() || !rows.is_empty() {
            let reference = Reference { name: name.to_owned(), levels, rows, qualified: false };
            self.add(Source::Column(reference), into);
        }
        for part in lists {
            self.named(&part, name, false, into);
        }
        for part in wholes {
            let whole = self.whole(&part);
            self.join(into, &whole);
        }
    }

    /// A column of the relation itself, whatever else is in scope.
    pub(super) fn own_column(&mut self, relation: &ObjectName, name: &str, into: &mut Sources) {
        self.add(Source::Column(column_of(relation, name, false)), into);
    }
}
