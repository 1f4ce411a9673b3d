//! The list of differences that are accepted, each with its reason.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A test that may differ, or, with `*` at its end, all whose names begin so.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) suite: String,
    pub(crate) test: String,
    pub(crate) reason: String,
    /// Differs on some runs only: no complaint when it does not.
    pub(crate) sometimes: bool,
}

impl Accepted {
    pub(crate) fn covers(&self, suite: &str, test: &str) -> bool {
        self.suite == suite
            && match self.test.strip_suffix('*') {
                Some(beginning) => test.starts_with(beginning),
                None => self.test == test,
            }
    }
}

/// Reads the list: a reason begins with `= `, the tests that it is for follow, each after the name of its suite.
///
/// # Errors
/// When a line is neither, with its number.
pub(crate) fn read(path: &Path) -> Result<Vec<Accepted>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut reason = None;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(text) = line.strip_prefix("= ") {
            reason = Some(text);
            continue;
        }
        let place = || format!("{}:{}", path.display(), index + 1);
        let (suite, test) = line.split_once(' ').with_context(|| format!("{}: SUITE TEST", place()))?;
        let (sometimes, suite) = match suite.strip_prefix('~') {
            Some(suite) => (true, suite),
            None => (false, suite),
        };
        let reason = reason.with_context(|| format!("{}: no reason stands above it", place()))?;
        found.push(Accepted {
            suite: suite.to_owned(),
            test: test.to_owned(),
            reason: reason.to_owned(),
            sometimes,
        });
    }
    Ok(found)
}
