//! PostgreSQL's command tag of a statement in lower case, as `CreateCommandTag` in its `utility.c` gives it.

use pg_query::protobuf::{
    AlterTableMoveAllStmt, DiscardMode, LockClauseStrength, ObjectType, SelectStmt, TransactionStmt,
    TransactionStmtKind, VariableSetKind,
};
use pg_query::{NodeEnum, NodeRef};

/// The tag; `None` for what is not a statement.
#[expect(clippy::too_many_lines, reason = "one line for every statement PostgreSQL has")]
#[expect(clippy::wildcard_enum_match_arm, reason = "most kinds of node are not statements")]
pub(super) fn tag(node: NodeRef<'_>) -> Option<String> {
    let words = match node {
        NodeRef::SelectStmt(n) => select(n),
        NodeRef::InsertStmt(_) => "insert",
        NodeRef::UpdateStmt(_) => "update",
        NodeRef::DeleteStmt(_) => "delete",
        NodeRef::MergeStmt(_) => "merge",
        NodeRef::TransactionStmt(n) => transaction(n),
        NodeRef::DeclareCursorStmt(_) => "declare cursor",
        NodeRef::ClosePortalStmt(n) if n.portalname.is_empty() => "close cursor all",
        NodeRef::ClosePortalStmt(_) => "close cursor",
        NodeRef::FetchStmt(n) if n.ismove => "move",
        NodeRef::FetchStmt(_) => "fetch",
        NodeRef::CreateDomainStmt(_) => "create domain",
        NodeRef::CreateSchemaStmt(_) => "create schema",
        NodeRef::CreateStmt(_) => "create table",
        NodeRef::CreateTableSpaceStmt(_) => "create tablespace",
        NodeRef::DropTableSpaceStmt(_) => "drop tablespace",
        NodeRef::AlterTableSpaceOptionsStmt(_) => "alter tablespace",
        NodeRef::CreateExtensionStmt(_) => "create extension",
        NodeRef::AlterExtensionStmt(_) | NodeRef::AlterExtensionContentsStmt(_) => "alter extension",
        NodeRef::CreateFdwStmt(_) => "create foreign data wrapper",
        NodeRef::AlterFdwStmt(_) => "alter foreign data wrapper",
        NodeRef::CreateForeignServerStmt(_) => "create server",
        NodeRef::AlterForeignServerStmt(_) => "alter server",
        NodeRef::CreateUserMappingStmt(_) => "create user mapping",
        NodeRef::AlterUserMappingStmt(_) => "alter user mapping",
        NodeRef::DropUserMappingStmt(_) => "drop user mapping",
        NodeRef::CreateForeignTableStmt(_) => "create foreign table",
        NodeRef::ImportForeignSchemaStmt(_) => "import foreign schema",
        NodeRef::DropStmt(n) => return Some(format!("drop {}", object(n.remove_type))),
        NodeRef::TruncateStmt(_) => "truncate table",
        NodeRef::CommentStmt(_) => "comment",
        NodeRef::SecLabelStmt(_) => "security label",
        NodeRef::CopyStmt(_) => "copy",
        NodeRef::RenameStmt(n) => {
            let column = ObjectType::try_from(n.rename_type) == Ok(ObjectType::ObjectColumn);
            return Some(format!("alter {}", object(if column { n.relation_type } else { n.rename_type })));
        }
        NodeRef::AlterObjectDependsStmt(n) => return Some(format!("alter {}", object(n.object_type))),
        NodeRef::AlterObjectSchemaStmt(n) => return Some(format!("alter {}", object(n.object_type))),
        NodeRef::AlterOwnerStmt(n) => return Some(format!("alter {}", object(n.object_type))),
        NodeRef::AlterTableMoveAllStmt(AlterTableMoveAllStmt { objtype, .. }) => {
            return Some(format!("alter {}", object(*objtype)));
        }
        NodeRef::AlterTableStmt(n) => return Some(format!("alter {}", object(n.objtype))),
        NodeRef::AlterDomainStmt(_) => "alter domain",
        NodeRef::AlterFunctionStmt(n) => return Some(format!("alter {}", object(n.objtype))),
        NodeRef::GrantStmt(n) => {
            if n.is_grant {
                "grant"
            } else {
                "revoke"
            }
        }
        NodeRef::GrantRoleStmt(n) => {
            if n.is_grant {
                "grant role"
            } else {
                "revoke role"
            }
        }
        NodeRef::AlterDefaultPrivilegesStmt(_) => "alter default privileges",
        NodeRef::DefineStmt(n) => return Some(format!("create {}", object(n.kind))),
        NodeRef::CompositeTypeStmt(_) | NodeRef::CreateEnumStmt(_) | NodeRef::CreateRangeStmt(_) => {
            "create type"
        }
        NodeRef::AlterEnumStmt(_) | NodeRef::AlterTypeStmt(_) => "alter type",
        NodeRef::ViewStmt(_) => "create view",
        NodeRef::CreateFunctionStmt(n) => {
            if n.is_procedure {
                "create procedure"
            } else {
                "create function"
            }
        }
        NodeRef::IndexStmt(_) => "create index",
        NodeRef::RuleStmt(_) => "create rule",
        NodeRef::CreateSeqStmt(_) => "create sequence",
        NodeRef::AlterSeqStmt(_) => "alter sequence",
        NodeRef::DoStmt(_) => "do",
        NodeRef::CreatedbStmt(_) => "create database",
        NodeRef::AlterDatabaseStmt(_)
        | NodeRef::AlterDatabaseRefreshCollStmt(_)
        | NodeRef::AlterDatabaseSetStmt(_) => "alter database",
        NodeRef::DropdbStmt(_) => "drop database",
        NodeRef::NotifyStmt(_) => "notify",
        NodeRef::ListenStmt(_) => "listen",
        NodeRef::UnlistenStmt(_) => "unlisten",
        NodeRef::LoadStmt(_) => "load",
        NodeRef::CallStmt(_) => "call",
        NodeRef::ClusterStmt(_) => "cluster",
        NodeRef::VacuumStmt(n) => {
            if n.is_vacuumcmd {
                "vacuum"
            } else {
                "analyze"
            }
        }
        NodeRef::ExplainStmt(_) => "explain",
        NodeRef::CreateTableAsStmt(n) => match ObjectType::try_from(n.objtype) {
            Ok(ObjectType::ObjectMatview) => "create materialized view",
            _ if n.is_select_into => "select into",
            _ => "create table as",
        },
        NodeRef::RefreshMatViewStmt(_) => "refresh materialized view",
        NodeRef::AlterSystemStmt(_) => "alter system",
        NodeRef::VariableSetStmt(n) => match VariableSetKind::try_from(n.kind) {
            Ok(VariableSetKind::VarReset | VariableSetKind::VarResetAll) => "reset",
            _ => "set",
        },
        NodeRef::VariableShowStmt(_) => "show",
        NodeRef::DiscardStmt(n) => match DiscardMode::try_from(n.target) {
            Ok(DiscardMode::DiscardPlans) => "discard plans",
            Ok(DiscardMode::DiscardSequences) => "discard sequences",
            Ok(DiscardMode::DiscardTemp) => "discard temp",
            _ => "discard all",
        },
        NodeRef::CreateTransformStmt(_) => "create transform",
        NodeRef::CreateTrigStmt(_) => "create trigger",
        NodeRef::CreateEventTrigStmt(_) => "create event trigger",
        NodeRef::AlterEventTrigStmt(_) => "alter event trigger",
        NodeRef::CreatePlangStmt(_) => "create language",
        // CREATE USER and CREATE GROUP bear the same tag.
        NodeRef::CreateRoleStmt(_) => "create role",
        NodeRef::AlterRoleStmt(_) | NodeRef::AlterRoleSetStmt(_) => "alter role",
        NodeRef::DropRoleStmt(_) => "drop role",
        NodeRef::DropOwnedStmt(_) => "drop owned",
        NodeRef::ReassignOwnedStmt(_) => "reassign owned",
        NodeRef::LockStmt(_) => "lock table",
        NodeRef::ConstraintsSetStmt(_) => "set constraints",
        NodeRef::CheckPointStmt(_) => "checkpoint",
        NodeRef::ReindexStmt(_) => "reindex",
        NodeRef::CreateConversionStmt(_) => "create conversion",
        NodeRef::CreateCastStmt(_) => "create cast",
        NodeRef::CreateOpClassStmt(_) => "create operator class",
        NodeRef::CreateOpFamilyStmt(_) => "create operator family",
        NodeRef::AlterOpFamilyStmt(_) => "alter operator family",
        NodeRef::AlterOperatorStmt(_) => "alter operator",
        NodeRef::AlterTsdictionaryStmt(_) => "alter text search dictionary",
        NodeRef::AlterTsconfigurationStmt(_) => "alter text search configuration",
        NodeRef::CreatePolicyStmt(_) => "create policy",
        NodeRef::AlterPolicyStmt(_) => "alter policy",
        NodeRef::CreateAmStmt(_) => "create access method",
        NodeRef::CreatePublicationStmt(_) => "create publication",
        NodeRef::AlterPublicationStmt(_) => "alter publication",
        NodeRef::CreateSubscriptionStmt(_) => "create subscription",
        NodeRef::AlterSubscriptionStmt(_) => "alter subscription",
        NodeRef::DropSubscriptionStmt(_) => "drop subscription",
        NodeRef::AlterStatsStmt(_) => "alter statistics",
        NodeRef::CreateStatsStmt(_) => "create statistics",
        NodeRef::AlterCollationStmt(_) => "alter collation",
        NodeRef::PrepareStmt(_) => "prepare",
        NodeRef::ExecuteStmt(_) => "execute",
        NodeRef::DeallocateStmt(n) => {
            if n.isall {
                "deallocate all"
            } else {
                "deallocate"
            }
        }
        _ => return None,
    };
    Some(words.to_owned())
}

/// SELECT, or what INTO and row locks make of it.
fn select(select: &SelectStmt) -> &'static str {
    let mut first = select;
    while let Some(left) = first.larg.as_deref() {
        first = left;
    }
    if first.into_clause.is_some() {
        return "select into";
    }
    let strengths = select.locking_clause.iter().filter_map(|clause| match clause.node.as_ref() {
        Some(NodeEnum::LockingClause(locking)) => Some(locking.strength),
        Some(_) | None => None,
    });
    match strengths.max().map(LockClauseStrength::try_from) {
        None => "select",
        Some(Ok(LockClauseStrength::LcsForkeyshare)) => "select for key share",
        Some(Ok(LockClauseStrength::LcsForshare)) => "select for share",
        Some(Ok(LockClauseStrength::LcsFornokeyupdate)) => "select for no key update",
        Some(_) => "select for update",
    }
}

fn transaction(statement: &TransactionStmt) -> &'static str {
    match TransactionStmtKind::try_from(statement.kind) {
        Ok(TransactionStmtKind::TransStmtBegin) => "begin",
        Ok(TransactionStmtKind::TransStmtStart) => "start transaction",
        Ok(TransactionStmtKind::TransStmtCommit) => "commit",
        Ok(TransactionStmtKind::TransStmtRollback | TransactionStmtKind::TransStmtRollbackTo) => "rollback",
        Ok(TransactionStmtKind::TransStmtSavepoint) => "savepoint",
        Ok(TransactionStmtKind::TransStmtRelease) => "release",
        Ok(TransactionStmtKind::TransStmtPrepare) => "prepare transaction",
        Ok(TransactionStmtKind::TransStmtCommitPrepared) => "commit prepared",
        Ok(TransactionStmtKind::TransStmtRollbackPrepared) => "rollback prepared",
        Ok(TransactionStmtKind::Undefined) | Err(_) => "unknown",
    }
}

/// The words for a kind of object in DROP, ALTER and CREATE tags.
fn object(kind: i32) -> &'static str {
    use ObjectType as O;
    match O::try_from(kind) {
        Ok(O::ObjectAccessMethod) => "access method",
        Ok(O::ObjectAggregate) => "aggregate",
        Ok(O::ObjectAttribute | O::ObjectType) => "type",
        Ok(O::ObjectCast) => "cast",
        Ok(O::ObjectCollation) => "collation",
        Ok(O::ObjectColumn | O::ObjectTable | O::ObjectTabconstraint | O::ObjectDefault) => "table",
        Ok(O::ObjectConversion) => "conversion",
        Ok(O::ObjectDatabase) => "database",
        Ok(O::ObjectDefacl) => "default privileges",
        Ok(O::ObjectDomain | O::ObjectDomconstraint) => "domain",
        Ok(O::ObjectEventTrigger) => "event trigger",
        Ok(O::ObjectExtension) => "extension",
        Ok(O::ObjectFdw) => "foreign data wrapper",
        Ok(O::ObjectForeignServer) => "server",
        Ok(O::ObjectForeignTable) => "foreign table",
        Ok(O::ObjectFunction) => "function",
        Ok(O::ObjectIndex) => "index",
        Ok(O::ObjectLanguage) => "language",
        Ok(O::ObjectLargeobject) => "large object",
        Ok(O::ObjectMatview) => "materialized view",
        Ok(O::ObjectOpclass) => "operator class",
        Ok(O::ObjectOperator) => "operator",
        Ok(O::ObjectOpfamily | O::ObjectAmop | O::ObjectAmproc) => "operator family",
        Ok(O::ObjectParameterAcl) => "parameter",
        Ok(O::ObjectPolicy) => "policy",
        Ok(O::ObjectProcedure) => "procedure",
        Ok(O::ObjectPublication | O::ObjectPublicationNamespace | O::ObjectPublicationRel) => "publication",
        Ok(O::ObjectRole) => "role",
        Ok(O::ObjectRoutine) => "routine",
        Ok(O::ObjectRule) => "rule",
        Ok(O::ObjectSchema) => "schema",
        Ok(O::ObjectSequence) => "sequence",
        Ok(O::ObjectStatisticExt) => "statistics",
        Ok(O::ObjectSubscription) => "subscription",
        Ok(O::ObjectTablespace) => "tablespace",
        Ok(O::ObjectTransform) => "transform",
        Ok(O::ObjectTrigger) => "trigger",
        Ok(O::ObjectTsconfiguration) => "text search configuration",
        Ok(O::ObjectTsdictionary) => "text search dictionary",
        Ok(O::ObjectTsparser) => "text search parser",
        Ok(O::ObjectTstemplate) => "text search template",
        Ok(O::ObjectUserMapping) => "user mapping",
        Ok(O::ObjectView) => "view",
        Ok(O::Undefined) | Err(_) => "object",
    }
}
