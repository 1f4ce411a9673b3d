//! The effect of each kind of statement, by the scale of [`Effect`].

use pg_query::NodeRef;
use pg_query::protobuf::ObjectType;

use crate::request::Effect;

/// The effect of a statement by its kind alone; `None` for what is not a statement.
#[expect(clippy::too_many_lines, reason = "one line for every statement PostgreSQL has")]
#[expect(clippy::wildcard_enum_match_arm, reason = "most kinds of node are not statements")]
pub(super) fn effect(node: NodeRef<'_>) -> Option<Effect> {
    Some(match node {
        NodeRef::SelectStmt(_)
        | NodeRef::TransactionStmt(_)
        | NodeRef::DeclareCursorStmt(_)
        | NodeRef::ClosePortalStmt(_)
        | NodeRef::FetchStmt(_)
        | NodeRef::CopyStmt(_)
        | NodeRef::ExplainStmt(_)
        | NodeRef::ListenStmt(_)
        | NodeRef::UnlistenStmt(_)
        | NodeRef::VariableSetStmt(_)
        | NodeRef::VariableShowStmt(_)
        | NodeRef::DiscardStmt(_)
        | NodeRef::ConstraintsSetStmt(_)
        | NodeRef::PrepareStmt(_)
        | NodeRef::DeallocateStmt(_) => Effect::Read,

        NodeRef::InsertStmt(_)
        | NodeRef::UpdateStmt(_)
        | NodeRef::DeleteStmt(_)
        | NodeRef::MergeStmt(_)
        | NodeRef::TruncateStmt(_)
        | NodeRef::LockStmt(_)
        | NodeRef::NotifyStmt(_)
        | NodeRef::VacuumStmt(_)
        | NodeRef::ClusterStmt(_)
        | NodeRef::ReindexStmt(_)
        | NodeRef::RefreshMatViewStmt(_) => Effect::Write,

        NodeRef::CreateStmt(_)
        | NodeRef::CreateSchemaStmt(_)
        | NodeRef::CreateDomainStmt(_)
        | NodeRef::CreateForeignTableStmt(_)
        | NodeRef::CreateTableAsStmt(_)
        | NodeRef::CreateFunctionStmt(_)
        | NodeRef::CreateSeqStmt(_)
        | NodeRef::CreateTrigStmt(_)
        | NodeRef::CreatePolicyStmt(_)
        | NodeRef::CreateStatsStmt(_)
        | NodeRef::CreateConversionStmt(_)
        | NodeRef::CreateOpClassStmt(_)
        | NodeRef::CreateOpFamilyStmt(_)
        | NodeRef::CompositeTypeStmt(_)
        | NodeRef::CreateEnumStmt(_)
        | NodeRef::CreateRangeStmt(_)
        | NodeRef::IndexStmt(_)
        | NodeRef::RuleStmt(_)
        | NodeRef::ViewStmt(_)
        | NodeRef::AlterTableStmt(_)
        | NodeRef::AlterTableMoveAllStmt(_)
        | NodeRef::AlterDomainStmt(_)
        | NodeRef::AlterFunctionStmt(_)
        | NodeRef::AlterSeqStmt(_)
        | NodeRef::AlterStatsStmt(_)
        | NodeRef::AlterCollationStmt(_)
        | NodeRef::AlterEnumStmt(_)
        | NodeRef::AlterTypeStmt(_)
        | NodeRef::AlterOpFamilyStmt(_)
        | NodeRef::AlterOperatorStmt(_)
        | NodeRef::AlterPolicyStmt(_)
        | NodeRef::AlterTsdictionaryStmt(_)
        | NodeRef::AlterTsconfigurationStmt(_)
        | NodeRef::CommentStmt(_) => Effect::Ddl,

        NodeRef::DropStmt(n) => of_object(n.remove_type),
        NodeRef::DefineStmt(n) => of_object(n.kind),
        NodeRef::RenameStmt(n) => of_object(n.rename_type),
        NodeRef::AlterObjectDependsStmt(n) => of_object(n.object_type),
        NodeRef::AlterObjectSchemaStmt(n) => of_object(n.object_type),
        NodeRef::AlterOwnerStmt(n) => of_object(n.object_type),

        NodeRef::GrantStmt(_)
        | NodeRef::GrantRoleStmt(_)
        | NodeRef::AlterDefaultPrivilegesStmt(_)
        | NodeRef::CreateRoleStmt(_)
        | NodeRef::AlterRoleStmt(_)
        | NodeRef::AlterRoleSetStmt(_)
        | NodeRef::DropRoleStmt(_)
        | NodeRef::DropOwnedStmt(_)
        | NodeRef::ReassignOwnedStmt(_)
        | NodeRef::CreatedbStmt(_)
        | NodeRef::AlterDatabaseStmt(_)
        | NodeRef::AlterDatabaseRefreshCollStmt(_)
        | NodeRef::AlterDatabaseSetStmt(_)
        | NodeRef::DropdbStmt(_)
        | NodeRef::CreateTableSpaceStmt(_)
        | NodeRef::AlterTableSpaceOptionsStmt(_)
        | NodeRef::DropTableSpaceStmt(_)
        | NodeRef::CreateExtensionStmt(_)
        | NodeRef::AlterExtensionStmt(_)
        | NodeRef::AlterExtensionContentsStmt(_)
        | NodeRef::CreatePlangStmt(_)
        | NodeRef::CreateCastStmt(_)
        | NodeRef::CreateTransformStmt(_)
        | NodeRef::CreateAmStmt(_)
        | NodeRef::CreateFdwStmt(_)
        | NodeRef::AlterFdwStmt(_)
        | NodeRef::CreateForeignServerStmt(_)
        | NodeRef::AlterForeignServerStmt(_)
        | NodeRef::CreateUserMappingStmt(_)
        | NodeRef::AlterUserMappingStmt(_)
        | NodeRef::DropUserMappingStmt(_)
        | NodeRef::ImportForeignSchemaStmt(_)
        | NodeRef::CreateEventTrigStmt(_)
        | NodeRef::AlterEventTrigStmt(_)
        | NodeRef::CreatePublicationStmt(_)
        | NodeRef::AlterPublicationStmt(_)
        | NodeRef::CreateSubscriptionStmt(_)
        | NodeRef::AlterSubscriptionStmt(_)
        | NodeRef::DropSubscriptionStmt(_)
        | NodeRef::AlterSystemStmt(_)
        | NodeRef::LoadStmt(_)
        | NodeRef::CheckPointStmt(_)
        | NodeRef::SecLabelStmt(_) => Effect::Admin,

        NodeRef::DoStmt(_) | NodeRef::CallStmt(_) | NodeRef::ExecuteStmt(_) => Effect::Unknown,
        _ => return None,
    })
}

/// DROP, RENAME, OWNER TO and their like reach as far as the kind of object they are about.
fn of_object(kind: i32) -> Effect {
    use ObjectType as O;
    match O::try_from(kind) {
        Ok(
            O::ObjectAccessMethod
            | O::ObjectCast
            | O::ObjectDatabase
            | O::ObjectDefacl
            | O::ObjectEventTrigger
            | O::ObjectExtension
            | O::ObjectFdw
            | O::ObjectForeignServer
            | O::ObjectLanguage
            | O::ObjectParameterAcl
            | O::ObjectPublication
            | O::ObjectPublicationNamespace
            | O::ObjectPublicationRel
            | O::ObjectRole
            | O::ObjectSubscription
            | O::ObjectTablespace
            | O::ObjectTransform
            | O::ObjectUserMapping,
        ) => Effect::Admin,
        Ok(
            O::ObjectAggregate
            | O::ObjectAmop
            | O::ObjectAmproc
            | O::ObjectAttribute
            | O::ObjectCollation
            | O::ObjectColumn
            | O::ObjectConversion
            | O::ObjectDefault
            | O::ObjectDomain
            | O::ObjectDomconstraint
            | O::ObjectForeignTable
            | O::ObjectFunction
            | O::ObjectIndex
            | O::ObjectLargeobject
            | O::ObjectMatview
            | O::ObjectOpclass
            | O::ObjectOperator
            | O::ObjectOpfamily
            | O::ObjectPolicy
            | O::ObjectProcedure
            | O::ObjectRoutine
            | O::ObjectRule
            | O::ObjectSchema
            | O::ObjectSequence
            | O::ObjectStatisticExt
            | O::ObjectTabconstraint
            | O::ObjectTable
            | O::ObjectTrigger
            | O::ObjectTsconfiguration
            | O::ObjectTsdictionary
            | O::ObjectTsparser
            | O::ObjectTstemplate
            | O::ObjectType
            | O::ObjectView,
        ) => Effect::Ddl,
        Ok(O::Undefined) | Err(_) => Effect::Unknown,
    }
}
