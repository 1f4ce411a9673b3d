//! Names out of parse nodes: relations, functions, roles and other objects as [`ObjectName`]s.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeVar, RoleSpec, RoleSpecType, TypeName};

use super::lists;
use crate::request::ObjectName;

/// The relation that a FROM item or a statement's target names.
pub(super) fn relation(range: &RangeVar) -> ObjectName {
    let schema = match range.schemaname.as_str() {
        "" if lists::is_catalog_relation(&range.relname) => Some("pg_catalog".to_owned()),
        "" => None,
        schema => Some(schema.to_owned()),
    };
    ObjectName { schema, name: range.relname.clone() }
}

/// The text of a node that is a bare string.
pub(super) fn text(node: &Node) -> Option<&str> {
    match node.node.as_ref() {
        Some(NodeEnum::String(string)) => Some(&string.sval),
        Some(_) | None => None,
    }
}

/// A possibly qualified name from its parts; a database name in front is dropped.
pub(super) fn dotted(parts: &[Node]) -> Option<ObjectName> {
    let mut backwards = parts.iter().rev().filter_map(text);
    let name = backwards.next()?.to_owned();
    Some(ObjectName { schema: backwards.next().map(str::to_owned), name })
}

/// A name in no schema: a database, a role, an extension.
pub(super) fn global(name: &str) -> ObjectName {
    ObjectName::outside_schemas(name)
}

/// A role, also when it is written as a keyword.
pub(super) fn role(spec: &RoleSpec) -> ObjectName {
    let keyword = match RoleSpecType::try_from(spec.roletype) {
        Ok(RoleSpecType::RolespecCurrentRole) => "current_role",
        Ok(RoleSpecType::RolespecCurrentUser) => "current_user",
        Ok(RoleSpecType::RolespecSessionUser) => "session_user",
        Ok(RoleSpecType::RolespecPublic) => "public",
        Ok(RoleSpecType::RolespecCstring | RoleSpecType::Undefined) | Err(_) => &spec.rolename,
    };
    global(keyword)
}

/// The name of a type.
pub(super) fn type_name(name: &TypeName) -> Option<ObjectName> {
    dotted(&name.names)
}

/// The object that DROP, COMMENT, GRANT and their like point at, whatever node it is written with.
pub(super) fn object(node: &Node) -> Option<ObjectName> {
    match node.node.as_ref() {
        Some(NodeEnum::String(string)) => Some(global(&string.sval)),
        Some(NodeEnum::List(list)) => dotted(&list.items).or_else(|| list.items.last().and_then(object)),
        Some(NodeEnum::ObjectWithArgs(object)) => dotted(&object.objname),
        Some(NodeEnum::TypeName(name)) => type_name(name),
        Some(NodeEnum::RangeVar(range)) => Some(relation(range)),
        Some(NodeEnum::RoleSpec(spec)) => Some(role(spec)),
        Some(NodeEnum::AccessPriv(privilege)) => Some(global(&privilege.priv_name)),
        Some(_) | None => None,
    }
}

/// The relation in front of a trigger's, rule's, policy's or column's own name.
pub(super) fn owner(node: &Node) -> Option<ObjectName> {
    match node.node.as_ref() {
        Some(NodeEnum::List(list)) => list.items.split_last().and_then(|(_, relation)| dotted(relation)),
        Some(_) | None => None,
    }
}

/// A constant's text: strings as they are, numbers and booleans as written.
pub(super) fn constant(node: &Node) -> Option<String> {
    use pg_query::protobuf::a_const::Val;
    match node.node.as_ref() {
        Some(NodeEnum::AConst(constant)) => match constant.val.as_ref()? {
            Val::Sval(string) => Some(string.sval.clone()),
            Val::Ival(integer) => Some(integer.ival.to_string()),
            Val::Fval(float) => Some(float.fval.clone()),
            Val::Boolval(boolean) => Some(boolean.boolval.to_string()),
            Val::Bsval(_) => None,
        },
        Some(NodeEnum::String(string)) => Some(string.sval.clone()),
        Some(NodeEnum::Integer(integer)) => Some(integer.ival.to_string()),
        Some(NodeEnum::Boolean(boolean)) => Some(boolean.boolval.to_string()),
        Some(NodeEnum::TypeCast(cast)) => constant(cast.arg.as_deref()?),
        Some(_) | None => None,
    }
}
