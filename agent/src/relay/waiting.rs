//! A client that waits for a human. When it goes away the question is withdrawn, which the record says.

use crate::flow::ApprovalId;
use crate::gate::withdrawal;
use crate::record::RecordError;
use crate::record::event::Decided;

/// A client in line.
pub(super) struct Waiting<F: Fn(&Decided) -> Result<(), RecordError>> {
    operation: u64,
    id: ApprovalId,
    record: F,
    open: bool,
}

impl<F: Fn(&Decided) -> Result<(), RecordError>> Waiting<F> {
    /// From now on; `record` writes that the question was withdrawn.
    pub(super) fn new(operation: u64, id: ApprovalId, record: F) -> Self {
        Self { operation, id, record, open: true }
    }

    /// It has its answer.
    pub(super) fn settled(mut self) {
        self.open = false;
    }
}

impl<F: Fn(&Decided) -> Result<(), RecordError>> Drop for Waiting<F> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let decided = Decided { operation: self.operation, approval: withdrawal(self.id) };
        if let Err(error) = (self.record)(&decided) {
            tracing::error!(%error, "a withdrawn hold could not be recorded");
        }
    }
}
