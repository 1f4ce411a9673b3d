//! What a run did just before it asked: whoever decides judges one operation by those around it.

use std::path::Path;

use super::Approvals;
use super::entry::Entry;
use super::request::Request;
use super::reviewer::{Reviewer, askers};
use crate::record::before::{Before, before};
use crate::record::read::ReadError;

/// Operations shown.
const SHOWN: u32 = 5;

impl Approvals {
    /// Whether somebody may read all that a run did: operators, root, and whoever it acts for. Others read what went by the
    /// connection that they decide on.
    #[must_use]
    pub fn may_see_run(&self, request: &Request, who: &Reviewer) -> bool {
        who.is_root()
            || who.groups.contains(&self.operators)
            || askers(request).in_common(&who.marks()).is_some()
    }
}

impl Entry {
    /// The last operations of the run before it asked for this, oldest first, as recorded: masked. For whoever may see the request:
    /// `all` of them, or without the texts of what went by other connections than its own. Waits for the disk.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn done_before(&self, data_dir: &Path, all: bool) -> Result<Before, ReadError> {
        let asked_ns = self.asked_ms.saturating_mul(1_000_000);
        let mut before = before(data_dir, self.request.run, asked_ns, SHOWN)?;
        for (operation, connection) in &mut before.operations {
            if !all && connection.as_ref() != Some(&self.request.connection) {
                let by = connection.as_deref().unwrap_or("no connection");
                operation.text = format!("(by {by}: for those who decide there)");
                operation.kind = String::new();
            }
        }
        Ok(before)
    }
}
