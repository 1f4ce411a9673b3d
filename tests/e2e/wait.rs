//! Waiting for what happens in another process and cannot be awaited as an event.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to return; panics with the last complaint when `longest` has passed.
pub(crate) fn until<T, E: Display>(longest: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + longest;
    loop {
        match look() {
            Ok(found) => return found,
            Err(complaint) if Instant::now() > deadline => panic!("not within {longest:?}: {complaint}"),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
