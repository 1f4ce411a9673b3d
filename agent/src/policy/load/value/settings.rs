//! Parameters that a PostgreSQL session begins with.

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use crate::policy::diagnostic::quoted;
use crate::policy::load::table::{Findings, Read, noun};

/// What the gate pins for every session, because statements are read by it.
const LEXER: [&str; 3] = ["client_encoding", "standard_conforming_strings", "backslash_quote"];

/// What makes the server load code or write elsewhere.
const LOADS_CODE: [&str; 4] = [
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
    "dynamic_library_path",
];

/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// Names in lower case with their values, in file order.
pub(in crate::policy::load) struct Settings(pub(in crate::policy::load) Vec<(String, String)>);

impl Read for Settings {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let found = noun(value.get_ref());
            findings.error(
                value.span(),
                format!("expected parameters, found {found}; write {{ statement_timeout = \"30s\" }}"),
            );
            return None;
        };
        let mut settings = Vec::new();
        for (name, value) in table {
            let text = match value.get_ref() {
                DeValue::String(text) => text.as_ref().to_owned(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Boolean(true) => "on".to_owned(),
                DeValue::Boolean(false) => "off".to_owned(),
                other
                @ (DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_)) => {
                    findings.error(value.span(), format!("expected a text, found {}", noun(other)));
                    continue;
                }
            };
            match check(name.get_ref(), &text) {
                Ok(()) => settings.push((name.get_ref().to_ascii_lowercase(), text)),
                Err(problem) => findings.error(name.span(), problem),
            }
        }
        Some(Self(settings))
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": { "type": ["string", "integer", "boolean"] },
        })
    }
}

fn check(name: &str, value: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("{} is no name of a parameter", quoted(name)));
    }
    let lower = name.to_ascii_lowercase();
    if LEXER.contains(&lower.as_str()) {
        return Err(format!("{} is what statements are read by; it is always the same here", quoted(name)));
    }
    if LOADS_CODE.contains(&lower.as_str())
        || matches!(lower.as_str(), "user" | "database" | "replication" | "options")
    {
        return Err(format!("{} is not for a profile; set it at the server", quoted(name)));
    }
    if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(format!("the value of {} is too long, or no plain text", quoted(name)));
    }
    Ok(())
}
