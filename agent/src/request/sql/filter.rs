//! Whether a WHERE clause limits which rows change, or only looks as if it did.

use pg_query::protobuf::{AExpr, BoolExpr, BoolExprType, ColumnRef, Node};
use pg_query::{NodeEnum, NodeRef};

use super::names;
use super::tree::{self, Known};

/// The relation whose rows change.
pub(super) struct Target<'t> {
    /// Its alias, or its name.
    pub(super) label: &'t str,
}

/// Whether `condition` could be false for some row of `target` because of what is in that row. Constants, a column
/// compared with itself and conditions on other relations limit nothing. `x > 0` counts as a limit: whether it is one
/// only the data can tell.
pub(super) fn limits(condition: &Node, target: &Target<'_>) -> bool {
    match condition.node.as_ref() {
        Some(NodeEnum::BoolExpr(expression)) => limits_boolean(expression, target),
        Some(NodeEnum::AExpr(expression)) if compares_with_itself(expression) => false,
        Some(NodeEnum::CurrentOfExpr(_)) => true,
        Some(kind) => mentions(kind.to_ref(), target, Depth::Outside),
        None => false,
    }
}

fn limits_boolean(expression: &BoolExpr, target: &Target<'_>) -> bool {
    let mut arguments = expression.args.iter();
    match BoolExprType::try_from(expression.boolop) {
        Ok(BoolExprType::OrExpr) => arguments.all(|argument| limits(argument, target)),
        Ok(BoolExprType::AndExpr | BoolExprType::NotExpr) => {
            arguments.any(|argument| limits(argument, target))
        }
        Ok(BoolExprType::Undefined) | Err(_) => false,
    }
}

/// Whether a column reference stands inside a subquery, where an unqualified name is more likely the subquery's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Outside,
    Subquery,
}

/// Whether an expression refers to a column of the target.
fn mentions(node: NodeRef<'_>, target: &Target<'_>, depth: Depth) -> bool {
    if let NodeRef::ColumnRef(reference) = node {
        return is_of(reference, target, depth);
    }
    let mut children = Vec::new();
    if tree::children(node, &mut children) == Known::No {
        return false;
    }
    children.into_iter().any(|child| {
        let depth = if matches!(child, NodeRef::SelectStmt(_)) { Depth::Subquery } else { depth };
        mentions(child, target, depth)
    })
}

fn is_of(reference: &ColumnRef, target: &Target<'_>, depth: Depth) -> bool {
    let qualifier =
        reference.fields.split_last().and_then(|(_, qualifiers)| qualifiers.last()).and_then(names::text);
    match qualifier {
        Some(qualifier) => qualifier == target.label,
        // With other relations in scope it may be theirs; it is taken for the target's, as a join predicate would be.
        None => depth == Depth::Outside,
    }
}

fn compares_with_itself(expression: &AExpr) -> bool {
    match (expression.lexpr.as_deref(), expression.rexpr.as_deref()) {
        (Some(left), Some(right)) => same(left, right),
        (Some(_) | None, Some(_) | None) => false,
    }
}

/// Whether two expressions are the same but for where they stand and for constants in them.
fn same(left: &Node, right: &Node) -> bool {
    let (Some(left), Some(right)) = (left.node.as_ref(), right.node.as_ref()) else {
        return false;
    };
    match (left, right) {
        (NodeEnum::ColumnRef(left), NodeEnum::ColumnRef(right)) => same_column(left, right),
        // Whatever their values, so that no literal decides a verdict.
        (NodeEnum::AConst(_), NodeEnum::AConst(_)) => true,
        (NodeEnum::TypeCast(left), NodeEnum::TypeCast(right)) => {
            same_optional(left.arg.as_deref(), right.arg.as_deref())
        }
        (NodeEnum::FuncCall(left), NodeEnum::FuncCall(right)) => {
            names::dotted(&left.funcname) == names::dotted(&right.funcname)
                && same_list(&left.args, &right.args)
        }
        (NodeEnum::AExpr(left), NodeEnum::AExpr(right)) => {
            names::dotted(&left.name) == names::dotted(&right.name)
                && same_optional(left.lexpr.as_deref(), right.lexpr.as_deref())
                && same_optional(left.rexpr.as_deref(), right.rexpr.as_deref())
        }
        _ => false,
    }
}

fn same_optional(left: Option<&Node>, right: Option<&Node>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => same(left, right),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn same_list(left: &[Node], right: &[Node]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
}

/// `id` and `t.id` are taken for the same: an UPDATE of one table is where this matters.
fn same_column(left: &ColumnRef, right: &ColumnRef) -> bool {
    let (Some(left), Some(right)) = (names::dotted(&left.fields), names::dotted(&right.fields)) else {
        return false;
    };
    left.name == right.name
        && (left.schema.is_none() || right.schema.is_none() || left.schema == right.schema)
}
