//! `portcullis detach`: lifts the gate that a daemon left shut.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::BoxError;
use crate::config::Config;
use crate::control::socket;
use crate::intercept::{self, InterceptError};
use crate::run;

/// How long `detach` waits for a daemon that was told to stop, and how often it looks.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
const STOP_PAUSE: Duration = Duration::from_millis(20);

/// How long the pins may still be in use by a daemon that has let its state go: the kernel's side is the last that it drops.
const PINS_TIME_MAX: Duration = Duration::from_secs(5);

/// Lifts the gate that a daemon which has ended, or is about to, left shut. Returns how many runs still have processes,
/// which go on ungoverned.
///
/// # Errors
/// When a daemon goes on, or the kernel refuses.
pub fn detach(config: &Config) -> Result<usize, BoxError> {
    // Held to the end: a daemon that starts meanwhile would govern again what is being let go.
    let lock = match wait_for_end(&config.state_dir) {
        Ok(lock) => Ok(lock),
        // A disk that fails must not keep agents cut off.
        Err(error @ socket::SocketError::Io { .. }) => Err(error),
        Err(error) => return Err(error.into()),
    };
    once_free(|| intercept::detach(&config.bpf_dir, intercept::Detach::Force))?;
    let forgotten = match lock {
        Ok(_lock) => run::forget(config).map_err(BoxError::from),
        Err(error) => Err(error.into()),
    };
    forgotten.map_err(|error| {
        let error = crate::control::with_causes(error.as_ref());
        format!(
            "detached, nothing is governed any more; but the runs there were could not be forgotten: {error}"
        )
        .into()
    })
}

fn wait_for_end(state: &Path) -> Result<socket::StateLock, socket::SocketError> {
    let deadline = Instant::now() + STOP_TIME_MAX;
    loop {
        match socket::StateLock::take(state) {
            Err(socket::SocketError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(STOP_PAUSE);
            }
            taken => return taken,
        }
    }
}

/// Tries until nobody else holds the pins.
fn once_free(mut detach: impl FnMut() -> Result<(), InterceptError>) -> Result<(), InterceptError> {
    let deadline = Instant::now() + PINS_TIME_MAX;
    loop {
        match detach() {
            Err(InterceptError::Busy(_)) if Instant::now() < deadline => std::thread::sleep(STOP_PAUSE),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_may_take_a_moment_to_let_go_of_its_pins() {
        let mut tries = 0;
        let detached = once_free(|| {
            tries += 1;
            if tries < 3 { Err(InterceptError::Busy("/pins".into())) } else { Ok(()) }
        });
        assert!(detached.is_ok() && tries == 3);
        let refused = once_free(|| Err(InterceptError::AgentsRunning(1)));
        assert!(matches!(refused, Err(InterceptError::AgentsRunning(1))), "only that is waited for");
    }
}
