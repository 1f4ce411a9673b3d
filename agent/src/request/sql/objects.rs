//! The objects that DDL and administrative statements name otherwise than as a relation node.

use pg_query::NodeRef;
use pg_query::protobuf::{CommentStmt, DropStmt, Node, ObjectType, RenameStmt, RoleSpec, SecLabelStmt};

use super::names::{self, dotted, global, object, role};
use crate::request::ObjectName;

/// What `node` creates, alters, drops or grants on. Relation nodes below it are not repeated here.
#[expect(clippy::too_many_lines, reason = "one line for every statement PostgreSQL has")]
#[expect(clippy::wildcard_enum_match_arm, reason = "the others name relations only, or nothing")]
pub(super) fn objects(node: NodeRef<'_>) -> Vec<ObjectName> {
    match node {
        NodeRef::DropStmt(n) => dropped(n),
        NodeRef::CommentStmt(CommentStmt { objtype, object, .. })
        | NodeRef::SecLabelStmt(SecLabelStmt { objtype, object, .. }) => {
            object.as_deref().and_then(|node| described(*objtype, node)).into_iter().collect()
        }
        NodeRef::RenameStmt(n) => renamed(n).into_iter().collect(),
        NodeRef::AlterOwnerStmt(n) => n.object.as_deref().and_then(object).into_iter().collect(),
        NodeRef::AlterObjectSchemaStmt(n) => n.object.as_deref().and_then(object).into_iter().collect(),
        NodeRef::AlterObjectDependsStmt(n) => n.object.as_deref().and_then(object).into_iter().collect(),
        NodeRef::GrantStmt(n) => n.objects.iter().filter_map(object).collect(),
        NodeRef::GrantRoleStmt(n) => {
            n.granted_roles.iter().chain(&n.grantee_roles).filter_map(object).collect()
        }
        NodeRef::CreateRoleStmt(n) => one(&n.role),
        NodeRef::AlterRoleStmt(n) => role_of(n.role.as_ref()),
        NodeRef::AlterRoleSetStmt(n) => role_of(n.role.as_ref()),
        NodeRef::DropRoleStmt(n) => n.roles.iter().filter_map(object).collect(),
        NodeRef::DropOwnedStmt(n) => n.roles.iter().filter_map(object).collect(),
        NodeRef::ReassignOwnedStmt(n) => {
            n.roles.iter().filter_map(object).chain(n.newrole.as_ref().map(role)).collect()
        }
        NodeRef::CreateSchemaStmt(n) if n.schemaname.is_empty() => role_of(n.authrole.as_ref()),
        NodeRef::CreateSchemaStmt(n) => one(&n.schemaname),
        NodeRef::CreatedbStmt(n) => one(&n.dbname),
        NodeRef::AlterDatabaseStmt(n) => one(&n.dbname),
        NodeRef::AlterDatabaseRefreshCollStmt(n) => one(&n.dbname),
        NodeRef::AlterDatabaseSetStmt(n) => one(&n.dbname),
        NodeRef::DropdbStmt(n) => one(&n.dbname),
        NodeRef::CreateTableSpaceStmt(n) => one(&n.tablespacename),
        NodeRef::AlterTableSpaceOptionsStmt(n) => one(&n.tablespacename),
        NodeRef::DropTableSpaceStmt(n) => one(&n.tablespacename),
        NodeRef::AlterTableMoveAllStmt(n) => one(&n.orig_tablespacename),
        NodeRef::CreateExtensionStmt(n) => one(&n.extname),
        NodeRef::AlterExtensionStmt(n) => one(&n.extname),
        NodeRef::AlterExtensionContentsStmt(n) => {
            one(&n.extname).into_iter().chain(n.object.as_deref().and_then(object)).collect()
        }
        NodeRef::CreateFdwStmt(n) => one(&n.fdwname),
        NodeRef::AlterFdwStmt(n) => one(&n.fdwname),
        NodeRef::CreateForeignServerStmt(n) => one(&n.servername),
        NodeRef::AlterForeignServerStmt(n) => one(&n.servername),
        NodeRef::CreateUserMappingStmt(n) => one(&n.servername),
        NodeRef::AlterUserMappingStmt(n) => one(&n.servername),
        NodeRef::DropUserMappingStmt(n) => one(&n.servername),
        NodeRef::ImportForeignSchemaStmt(n) => vec![global(&n.server_name), global(&n.local_schema)],
        NodeRef::CreateAmStmt(n) => one(&n.amname),
        NodeRef::CreatePlangStmt(n) => one(&n.plname),
        NodeRef::CreateEventTrigStmt(n) => one(&n.trigname),
        NodeRef::AlterEventTrigStmt(n) => one(&n.trigname),
        NodeRef::CreatePublicationStmt(n) => one(&n.pubname),
        NodeRef::AlterPublicationStmt(n) => one(&n.pubname),
        NodeRef::CreateSubscriptionStmt(n) => one(&n.subname),
        NodeRef::AlterSubscriptionStmt(n) => one(&n.subname),
        NodeRef::DropSubscriptionStmt(n) => one(&n.subname),
        NodeRef::AlterSystemStmt(n) => n
            .setstmt
            .iter()
            .flat_map(|set| one(if set.name.is_empty() { "all" } else { &set.name }))
            .collect(),
        NodeRef::ReindexStmt(n) if !n.name.is_empty() => one(&n.name),
        NodeRef::DefineStmt(n) => named(&n.defnames),
        NodeRef::CreateDomainStmt(n) => named(&n.domainname),
        NodeRef::AlterDomainStmt(n) => named(&n.type_name),
        NodeRef::CreateEnumStmt(n) => named(&n.type_name),
        NodeRef::CreateRangeStmt(n) => named(&n.type_name),
        NodeRef::AlterEnumStmt(n) => named(&n.type_name),
        NodeRef::AlterTypeStmt(n) => named(&n.type_name),
        NodeRef::CreateFunctionStmt(n) => named(&n.funcname),
        NodeRef::AlterFunctionStmt(n) => {
            n.func.as_ref().map(|function| named(&function.objname)).unwrap_or_default()
        }
        NodeRef::AlterOperatorStmt(n) => {
            n.opername.as_ref().map(|name| named(&name.objname)).unwrap_or_default()
        }
        NodeRef::CreateOpClassStmt(n) => named(&n.opclassname),
        NodeRef::CreateOpFamilyStmt(n) => named(&n.opfamilyname),
        NodeRef::AlterOpFamilyStmt(n) => named(&n.opfamilyname),
        NodeRef::CreateConversionStmt(n) => named(&n.conversion_name),
        NodeRef::AlterCollationStmt(n) => named(&n.collname),
        NodeRef::CreateStatsStmt(n) => named(&n.defnames),
        NodeRef::AlterStatsStmt(n) => named(&n.defnames),
        NodeRef::AlterTsdictionaryStmt(n) => named(&n.dictname),
        NodeRef::AlterTsconfigurationStmt(n) => named(&n.cfgname),
        NodeRef::CreateCastStmt(n) => {
            n.sourcetype.iter().chain(&n.targettype).filter_map(names::type_name).collect()
        }
        NodeRef::CreateTransformStmt(n) => n.type_name.iter().filter_map(names::type_name).collect(),
        _ => Vec::new(),
    }
}

fn one(name: &str) -> Vec<ObjectName> {
    vec![global(name)]
}

fn named(parts: &[Node]) -> Vec<ObjectName> {
    dotted(parts).into_iter().collect()
}

fn role_of(spec: Option<&RoleSpec>) -> Vec<ObjectName> {
    spec.map(role).into_iter().collect()
}

fn dropped(statement: &DropStmt) -> Vec<ObjectName> {
    statement.objects.iter().filter_map(|node| described(statement.remove_type, node)).collect()
}

/// An object by its kind: what belongs to a relation is named by that relation.
fn described(kind: i32, node: &Node) -> Option<ObjectName> {
    match ObjectType::try_from(kind) {
        Ok(
            ObjectType::ObjectColumn
            | ObjectType::ObjectPolicy
            | ObjectType::ObjectRule
            | ObjectType::ObjectTabconstraint
            | ObjectType::ObjectTrigger,
        ) => names::owner(node),
        _ => object(node),
    }
}

fn renamed(statement: &RenameStmt) -> Option<ObjectName> {
    match (statement.relation.as_ref(), statement.object.as_deref()) {
        (Some(_), _) => None,
        (None, Some(node)) => object(node),
        (None, None) => Some(global(&statement.subname)),
    }
}
