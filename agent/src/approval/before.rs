//! What a run did just before it asked: whoever decides judges one operation by those around it.

use std::path::Path;

use super::entry::Entry;
use crate::record::read::{self, ReadError};
use crate::record::summary::OperationSummary;

/// Operations shown.
const SHOWN: u32 = 5;

impl Entry {
    /// The last operations of the run before it asked for this, oldest first, as recorded: masked. For whoever may see the
    /// request. Waits for the disk.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn done_before(&self, data_dir: &Path) -> Result<Vec<OperationSummary>, ReadError> {
        read::before(data_dir, self.request.run, self.asked_ms.saturating_mul(1_000_000), SHOWN)
    }
}
