//! SET, RESET and `set_config`: which parameter, to which value, and how far that reaches.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, TransactionStmt, VariableSetKind, VariableSetStmt};

use super::lists::{self, Setting};
use super::names;
use super::walk::{Mode, Walker};
use crate::request::{Effect, SessionAction};

/// Whether the server reads texts as before when one of the lexer's parameters that the proxy pins is set to `value`.
/// True for every other parameter. Names of encodings are compared as the server does: letters and digits, without case
/// (`clean_encoding_name` in src/common/encnames.c).
pub fn keeps_pin(name: &str, value: Option<&str>) -> bool {
    let value = || value.map(str::to_ascii_lowercase).unwrap_or_default();
    match name {
        "backslash_quote" => value() == "safe_encoding",
        "client_encoding" => {
            let cleaned: String = value().chars().filter(char::is_ascii_alphanumeric).collect();
            matches!(cleaned.as_str(), "utf8" | "unicode")
        }
        "standard_conforming_strings" => matches!(value().as_str(), "on" | "true" | "yes" | "1"),
        _ => true,
    }
}

/// Why a statement that lifts a read-only transaction says so although its effect stays `read`: every later write is
/// judged on its own.
pub const READ_WRITE: &str = "asks for a read-write transaction";

/// SET or RESET as a statement of its own.
pub(super) fn set(walker: &mut Walker<'_>, statement: &VariableSetStmt) {
    let name = statement.name.to_ascii_lowercase();
    match VariableSetKind::try_from(statement.kind) {
        Ok(VariableSetKind::VarResetAll) => {
            walker.session(SessionAction::Set { name: "all".to_owned(), value: None });
        }
        Ok(VariableSetKind::VarSetMulti) => set_transaction(walker, &name, &statement.args),
        Ok(VariableSetKind::VarSetValue) => {
            let values: Option<Vec<_>> = statement.args.iter().map(names::constant).collect();
            apply(walker, name, values.map(|values| values.join(", ")));
        }
        Ok(VariableSetKind::VarSetDefault | VariableSetKind::VarSetCurrent | VariableSetKind::VarReset) => {
            apply(walker, name, None);
        }
        Ok(VariableSetKind::Undefined) | Err(_) => {
            walker.raise(Effect::Unknown, || "holds a construct that is not known".to_owned());
        }
    }
}

/// SET TRANSACTION, SET SESSION CHARACTERISTICS and SET TRANSACTION SNAPSHOT.
fn set_transaction(walker: &mut Walker<'_>, name: &str, options: &[Node]) {
    let prefix = if name == "session characteristics" { "default_" } else { "" };
    let action = match read_only(options) {
        Some(value) => {
            if value == "off" {
                walker.facts.reason = Some(READ_WRITE.to_owned());
            }
            SessionAction::Set {
                name: format!("{prefix}transaction_read_only"),
                value: Some(value.to_owned()),
            }
        }
        None => SessionAction::Set { name: name.to_owned(), value: None },
    };
    walker.session(action);
}

/// BEGIN with options.
pub(super) fn begin(walker: &mut Walker<'_>, statement: &TransactionStmt) {
    if read_only(&statement.options) == Some("off") {
        walker.facts.reason = Some(READ_WRITE.to_owned());
    }
    walker.session(SessionAction::Begin);
}

/// `on` for READ ONLY, `off` for READ WRITE; the last one wins.
fn read_only(options: &[Node]) -> Option<&'static str> {
    options.iter().rev().find_map(|option| match option.node.as_ref() {
        Some(NodeEnum::DefElem(element)) if element.defname == "transaction_read_only" => {
            let off = element.arg.as_deref().and_then(names::constant).as_deref() == Some("0");
            Some(if off { "off" } else { "on" })
        }
        Some(_) | None => None,
    })
}

/// `set_config(name, value, is_local)`.
pub(super) fn set_config(walker: &mut Walker<'_>, arguments: &[Node]) {
    if walker.mode == Mode::Planned {
        return;
    }
    let mut arguments = arguments.iter();
    match arguments.next().and_then(names::constant) {
        Some(name) => apply(walker, name.to_ascii_lowercase(), arguments.next().and_then(names::constant)),
        None => walker.raise(Effect::Unknown, || "sets a parameter whose name is not written out".to_owned()),
    }
}

/// Whether all arguments are constants or parameters of the client's.
pub(super) fn is_given(arguments: &[Node]) -> bool {
    arguments.iter().all(|argument| {
        names::constant(argument).is_some() || matches!(argument.node, Some(NodeEnum::ParamRef(_)))
    })
}

fn apply(walker: &mut Walker<'_>, name: String, value: Option<String>) {
    match lists::setting(&name) {
        Setting::Ordinary => {}
        Setting::Admin => walker.raise(Effect::Admin, || format!("sets {name}")),
        Setting::Lexer => {
            if !keeps_pin(&name, value.as_deref()) {
                walker.raise(Effect::Unknown, || {
                    format!("sets {name}: the server would then read later statements differently than they are judged")
                });
            }
        }
    }
    if name == "default_transaction_read_only" || name == "transaction_read_only" {
        let off = value.as_deref().is_none_or(|value| !matches!(value, "on" | "true" | "yes" | "1"));
        if off && walker.facts.reason.is_none() {
            walker.facts.reason = Some(READ_WRITE.to_owned());
        }
    }
    walker.session(SessionAction::Set { name, value });
}
