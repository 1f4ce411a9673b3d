//! Notices of changes in folders, for files that are read again once somebody has written them.

use std::io;
use std::path::Path;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// Quiet time after a change before files are read: editors and configuration managers write in several steps.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Files are read this often even without a notice, because inotify does not see behind symbolic links and not at
/// all on some network file systems.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);

/// Buffer for change notices, in bytes. What they say is not used, so it need not hold all of them.
const NOTICE_BYTES: usize = 4096;

/// Notices what happens in some folders from its making on.
#[derive(Debug)]
pub struct Notices(AsyncFd<Inotify>);

impl Notices {
    /// Begins. A folder that is not there cannot be watched; it is then looked for every 30 s. Make it anew each time round,
    /// because a folder itself may have been replaced, and before the files are read, so that no change falls between the two.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance.
    pub fn begin<'p>(folders: impl IntoIterator<Item = &'p Path>) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        for folder in folders {
            drop(inotify.watches().add(folder, noticed()));
        }
        asynchronous(inotify).map(Self)
    }

    /// Waits for a change and then until it is quiet, or for 30 s.
    ///
    /// # Errors
    /// When the kernel's notices cannot be read.
    pub async fn settled(self) -> io::Result<()> {
        match timeout(RESCAN_INTERVAL, self.0.readable()).await {
            Ok(ready) => drop(ready?),
            Err(_elapsed) => {}
        }
        settle(self.0).await
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; here the descriptor is owned and stays open until dropped"
)]
fn asynchronous(inotify: Inotify) -> io::Result<AsyncFd<Inotify>> {
    AsyncFd::new(inotify)
}

/// Everything that could change what the files say.
fn noticed() -> WatchMask {
    WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
}

/// Waits until nothing has changed for `SETTLE_TIME`, at most `RESCAN_INTERVAL`.
async fn settle(mut notices: AsyncFd<Inotify>) -> io::Result<()> {
    let quiet = async {
        loop {
            sleep(SETTLE_TIME).await;
            let mut buffer = [0_u8; NOTICE_BYTES];
            match notices.get_mut().read_events(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    timeout(RESCAN_INTERVAL, quiet).await.unwrap_or(Ok(()))
}
