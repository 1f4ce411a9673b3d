//! Text to policy. Strict: whatever the file says that is not understood is an error with a position, and every error
//! is reported, not only the first.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Severity};
use super::rule::Policy;
use crate::flow::Side;
use shape::FileTable;
use table::{Findings, Read};

mod build;
mod check;
mod cover;
mod kinds;
mod shape;
mod table;
mod value;

/// Largest policy file, in bytes. Far beyond what a person writes; it bounds what reload reads.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;

/// A policy that can be used, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Findings that do not prevent its use, in file order.
    pub warnings: Vec<Diagnostic>,
}

/// A file that cannot be used: every error and warning in it, in file order; at least one error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// Everything found.
    pub findings: Vec<Diagnostic>,
}

impl LoadError {
    /// Whose fault it was: always the policy's.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Policy
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.findings.iter().filter(|found| found.severity == Severity::Error);
        if let Some(first) = errors.next() {
            first.fmt(f)?;
        }
        match errors.count() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

/// Reads one policy file.
///
/// # Errors
/// Everything wrong with the text. Where it is not TOML, what stands above the first syntax error is still checked;
/// below it the file's meaning is guesswork.
pub fn load(text: &str) -> Result<Loaded, LoadError> {
    if text.len() > POLICY_BYTES_MAX {
        let message = format!("the file has {} bytes; a policy has at most {POLICY_BYTES_MAX}", text.len());
        return Err(LoadError { findings: vec![Diagnostic::new(text, Severity::Error, 0..0, message)] });
    }
    let (document, syntax) = DeTable::parse_recoverable(text);
    let root = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    if !syntax.is_empty() {
        return Err(LoadError { findings: syntax_findings(text, &root, &syntax) });
    }
    let mut findings = Findings::new(text);
    let file = FileTable::read(&root, &mut findings);
    if let Some(file) = &file {
        check::file(file, &mut findings);
    }
    let spans = file.as_ref().map(cover::spans).unwrap_or_default();
    let policy = if findings.has_errors() { None } else { file.and_then(|file| build::policy(file, text)) };
    match policy {
        Some(policy) => {
            cover::report(&policy, &spans, &mut findings);
            Ok(Loaded { policy, warnings: findings.into_list() })
        }
        None => Err(LoadError { findings: findings.into_list() }),
    }
}

fn syntax_findings(text: &str, root: &Spanned<DeValue<'_>>, syntax: &[toml::de::Error]) -> Vec<Diagnostic> {
    let start_of = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let mut findings = Findings::of_a_part(text);
    // Only for its findings: a file that is not TOML makes no policy.
    drop(FileTable::read(root, &mut findings));
    findings.forget_from(syntax.iter().map(start_of).min().unwrap_or(0));
    for error in syntax {
        findings.error(error.span().unwrap_or(0..0), format!("not valid TOML: {}", error.message()));
    }
    findings.into_list()
}

/// JSON Schema of the file (draft 2020-12), generated from the tables that the reader itself uses.
#[must_use]
pub(super) fn file_schema() -> serde_json::Value {
    FileTable::schema()
}

#[cfg(test)]
mod tests;
