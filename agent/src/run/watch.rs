//! Notices when the last process of a started run is gone.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;

use super::{RunInfo, Runs, cgroup};
use crate::sys::Readiness;

/// Pause before another look at a run whose end could not be carried out or watched.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Runs {
    /// Awaits the run's end in the background and carries it out.
    pub(super) fn watch_until_empty(self: &Arc<Self>, run: Arc<RunInfo>) {
        let runs = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let emptied = until_empty(&runs.hierarchy().events_file(&run.cgroup.path)).await;
                let Err(error) = emptied.and_then(|()| runs.end(&run)) else { return };
                if runs.get(run.id).is_none() {
                    return; // Released by `detach` meanwhile.
                }
                // EBUSY: a process was put in between the look and the removal. Anything else stays governed.
                tracing::debug!(run = %run.id, %error, "the run's cgroup cannot be removed yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        });
    }
}

/// Returns once no process lives in the cgroup or below it. The kernel wakes pollers of `cgroup.events` with POLLPRI
/// when its content changes, counted from the poller's last read
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html#un-populated-notification>).
async fn until_empty(events: &std::path::Path) -> io::Result<()> {
    let mut file = match File::open(events) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let changes = Readiness::of(&file, Interest::PRIORITY)?;
    loop {
        let mut text = String::new();
        match file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)) {
            Ok(_) => {}
            // The cgroup itself is gone.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(error),
        }
        if cgroup::populated(&text) != Some(true) {
            return Ok(());
        }
        changes.wait(Interest::PRIORITY).await?;
    }
}
