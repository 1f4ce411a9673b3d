//! Counts what is still going on in a session, so that its record is closed after the last word.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What is going on.
#[derive(Default)]
pub(super) struct Open(Arc<Counted>);

#[derive(Default)]
struct Counted {
    count: AtomicUsize,
    changed: Notify,
}

/// Keeps a session's record open while it lives.
pub(super) struct OpenGuard(Arc<Counted>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl Open {
    /// Something goes on that the record waits for.
    pub(super) fn begin(&self) -> OpenGuard {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        OpenGuard(Arc::clone(&self.0))
    }

    /// How many things go on.
    pub(super) fn count(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    /// Completes when nothing goes on any more.
    pub(super) async fn idle(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the count is read, so that no change is missed.
            changed.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}
