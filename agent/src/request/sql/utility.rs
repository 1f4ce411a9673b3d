//! Every statement that is not a plain query: its effect by the scale of [`Effect`], and the objects it names.

use pg_query::protobuf::{
    AlterTableType, CopyStmt, CreateFunctionStmt, CreateTableAsStmt, ExplainStmt, FuncCall, Node,
    TransactionStmt, TransactionStmtKind,
};
use pg_query::{NodeEnum, NodeRef};

use super::effect::effect;
use super::objects::objects;
use super::walk::{Mode, Place, Shape, Walker};
use super::{names, settings};
use crate::request::{CopyTo, Effect, SessionAction};

impl<'a> Walker<'a> {
    /// Walks a statement that stands by itself, so that it may also act on the session.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others have nothing of their own; `effect` names them all"
    )]
    pub(super) fn statement(&mut self, node: NodeRef<'a>) -> Shape {
        match node {
            NodeRef::SelectStmt(_)
            | NodeRef::InsertStmt(_)
            | NodeRef::UpdateStmt(_)
            | NodeRef::DeleteStmt(_)
            | NodeRef::MergeStmt(_) => return self.query(node, Place::Top),
            NodeRef::ExplainStmt(explain) => self.explain(explain),
            NodeRef::PrepareStmt(prepare) => {
                self.nodes(&prepare.argtypes);
                self.session(SessionAction::Prepare(prepare.name.clone()));
                return self.inner(prepare.query.as_deref());
            }
            NodeRef::DeclareCursorStmt(cursor) => {
                if self.mode == Mode::Runs {
                    self.session(SessionAction::DeclareCursor(cursor.portalname.clone()));
                }
                return self.inner(cursor.query.as_deref());
            }
            NodeRef::CopyStmt(copy) => return self.copy(copy),
            NodeRef::CreateTableAsStmt(create) => self.create_table_as(create),
            NodeRef::ExecuteStmt(execute) => {
                if self.mode == Mode::Runs {
                    self.session(SessionAction::Execute(execute.name.clone()));
                    self.raise(Effect::Unknown, || format!("runs prepared statement {}", execute.name));
                }
                // Its parameters are evaluated even if it is only explained.
                let mode = std::mem::replace(&mut self.mode, Mode::Runs);
                self.nodes(&execute.params);
                self.mode = mode;
            }
            NodeRef::VariableSetStmt(set) => settings::set(self, set),
            NodeRef::TransactionStmt(transaction) => self.transaction(transaction),
            NodeRef::FetchStmt(fetch) => self.session(SessionAction::FetchCursor(fetch.portalname.clone())),
            NodeRef::ClosePortalStmt(close) => {
                self.session(SessionAction::CloseCursor(named(&close.portalname)))
            }
            NodeRef::DeallocateStmt(deallocate) => {
                self.session(SessionAction::Deallocate(named(&deallocate.name)))
            }
            NodeRef::DiscardStmt(_) => self.discard(node),
            _ => self.utility_or_children(node),
        }
        Shape::default()
    }

    /// The query inside a statement whose rows are its own.
    fn inner(&mut self, query: Option<&'a Node>) -> Shape {
        match query.and_then(|query| query.node.as_ref()) {
            Some(kind) => self.statement(kind.to_ref()),
            None => Shape::default(),
        }
    }

    /// A statement inside another one, or any node that is none.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others have nothing of their own; `effect` names them all"
    )]
    pub(super) fn utility_or_children(&mut self, node: NodeRef<'a>) {
        let Some(effect) = effect(node) else {
            self.children(node);
            return;
        };
        self.act(effect);
        match node {
            NodeRef::CreateTableAsStmt(create) => return self.create_table_as(create),
            NodeRef::CreateFunctionStmt(function) => self.create_function(function),
            NodeRef::TruncateStmt(_) if self.mode == Mode::Runs => self.facts.unbounded = true,
            NodeRef::RefreshMatViewStmt(_) => self.facts.columns.moves_rows = true,
            NodeRef::DoStmt(_) => {
                self.raise(Effect::Unknown, || "runs code that cannot be judged".to_owned())
            }
            NodeRef::CallStmt(call) => self.call_procedure(call.funccall.as_deref()),
            NodeRef::RuleStmt(_) => {
                self.row("old");
                self.row("new");
            }
            // Arming a function is not calling it, but whoever reads the request wants its name.
            NodeRef::CreateTrigStmt(trigger) => self.facts.functions.extend(names::dotted(&trigger.funcname)),
            NodeRef::CreateEventTrigStmt(trigger) => {
                self.facts.functions.extend(names::dotted(&trigger.funcname))
            }
            NodeRef::AlterTableStmt(alter) if alter.cmds.iter().any(changes_row_security) => {
                self.facts.reason.get_or_insert_with(|| "changes row level security".to_owned());
            }
            NodeRef::RenameStmt(_) | NodeRef::AlterObjectSchemaStmt(_) => self.facts.renames = true,
            _ => {}
        }
        for object in objects(node) {
            self.write(object);
        }
        self.children(node);
    }

    fn explain(&mut self, explain: &'a ExplainStmt) {
        self.nodes(&explain.options);
        let around = self.mode;
        if !analyzes(&explain.options) {
            self.mode = Mode::Planned;
        }
        drop(self.inner(explain.query.as_deref()));
        self.mode = around;
    }

    fn transaction(&mut self, transaction: &'a TransactionStmt) {
        use TransactionStmtKind as Kind;
        match Kind::try_from(transaction.kind) {
            Ok(Kind::TransStmtBegin | Kind::TransStmtStart) => settings::begin(self, transaction),
            Ok(Kind::TransStmtCommit | Kind::TransStmtRollback) => {
                self.session(SessionAction::EndTransaction)
            }
            Ok(Kind::TransStmtSavepoint | Kind::TransStmtRelease | Kind::TransStmtRollbackTo) => {
                self.session(SessionAction::Savepoint);
            }
            Ok(Kind::TransStmtPrepare) => {
                self.act(Effect::Write);
                self.session(SessionAction::EndTransaction);
            }
            Ok(Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared) => self.act(Effect::Write),
            Ok(Kind::Undefined) | Err(_) => {
                self.raise(Effect::Unknown, || "holds a construct that is not known".to_owned());
            }
        }
    }

    fn discard(&mut self, node: NodeRef<'a>) {
        if super::tag::tag(node).as_deref() == Some("discard all") {
            self.session(SessionAction::DiscardAll);
        }
    }

    /// COPY: a file or program is out of the database whichever way the rows go.
    fn copy(&mut self, copy: &'a CopyStmt) -> Shape {
        let outside = copy.is_program || !copy.filename.is_empty();
        if outside {
            self.raise(Effect::Admin, || {
                if copy.is_program { "runs a program on the server" } else { "uses a file on the server" }
                    .to_owned()
            });
        }
        self.nodes(&copy.options);
        for column in copy.attlist.iter().filter_map(names::text) {
            if copy.is_from { self.assigned_name(column) } else { self.column_name(column) }
        }
        if !copy.is_from && !outside {
            self.facts.copy = Some(copy_to(copy));
        }
        if let Some(range) = copy.relation.as_ref() {
            if copy.is_from {
                self.act(Effect::Write);
                self.write(names::relation(range));
            } else {
                self.facts.reads.insert(names::relation(range));
                if copy.attlist.is_empty() {
                    self.whole_row();
                }
            }
        }
        self.facts.columns.moves_rows |= outside && !copy.is_from;
        self.optional(copy.where_clause.as_deref());
        self.inner(copy.query.as_deref())
    }

    fn create_table_as(&mut self, create: &'a CreateTableAsStmt) {
        self.act(Effect::Ddl);
        if let Some(into) = create.into.as_deref() {
            self.children(NodeRef::IntoClause(into));
        }
        let before = self.sources;
        match create.query.as_deref().and_then(|query| query.node.as_ref()) {
            Some(NodeEnum::ExecuteStmt(execute)) => {
                self.facts.columns.moves_rows = true;
                drop(self.statement(NodeRef::ExecuteStmt(execute)));
            }
            Some(query) => self.node(query.to_ref()),
            None => {}
        }
        self.facts.columns.moves_rows |= self.sources != before;
    }

    /// A function stores code. In a language that is not confined, the code is the server's own.
    fn create_function(&mut self, function: &'a CreateFunctionStmt) {
        let language = function.options.iter().find_map(|option| match option.node.as_ref() {
            Some(NodeEnum::DefElem(element)) if element.defname == "language" => {
                element.arg.as_deref().and_then(names::constant)
            }
            Some(_) | None => None,
        });
        let language = language.unwrap_or_default().to_ascii_lowercase();
        let unconfined = language == "c"
            || language == "internal"
            || (language.starts_with("pl") && language.ends_with('u'));
        if unconfined {
            self.raise(Effect::Admin, || format!("stores code in the unconfined language {language}"));
        }
    }

    fn call_procedure(&mut self, call: Option<&'a FuncCall>) {
        let name = call.and_then(|call| names::dotted(&call.funcname));
        self.raise(Effect::Unknown, || match &name {
            Some(name) => format!("calls procedure {name}, which may do anything"),
            None => "calls a procedure, which may do anything".to_owned(),
        });
    }
}

/// What masking needs of a COPY TO STDOUT.
fn copy_to(copy: &CopyStmt) -> CopyTo {
    let option = |node: &Node| match node.node.as_ref() {
        Some(NodeEnum::DefElem(element)) => {
            Some((element.defname.to_ascii_lowercase(), element.arg.as_deref().and_then(names::constant)))
        }
        Some(_) | None => None,
    };
    CopyTo {
        relation: copy.relation.as_ref().map(names::relation),
        columns: copy.attlist.iter().filter_map(names::text).map(str::to_owned).collect(),
        options: copy.options.iter().filter_map(option).collect(),
    }
}

fn named(name: &str) -> Option<String> {
    if name.is_empty() { None } else { Some(name.to_owned()) }
}

/// Whether EXPLAIN runs its statement: the last of several ANALYZE options wins, and an unreadable value counts as on.
fn analyzes(options: &[Node]) -> bool {
    let last = options.iter().rev().find_map(|option| match option.node.as_ref() {
        Some(NodeEnum::DefElem(element)) if element.defname == "analyze" => Some(element),
        Some(_) | None => None,
    });
    let Some(element) = last else {
        return false;
    };
    let value = element.arg.as_deref().and_then(names::constant).map(|value| value.to_ascii_lowercase());
    !matches!(value.as_deref(), Some("false" | "off" | "0"))
}

fn changes_row_security(command: &Node) -> bool {
    let Some(NodeEnum::AlterTableCmd(command)) = command.node.as_ref() else {
        return false;
    };
    matches!(
        AlterTableType::try_from(command.subtype),
        Ok(AlterTableType::AtEnableRowSecurity
            | AlterTableType::AtDisableRowSecurity
            | AlterTableType::AtForceRowSecurity
            | AlterTableType::AtNoForceRowSecurity)
    )
}
