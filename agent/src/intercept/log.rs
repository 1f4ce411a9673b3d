//! Forwards the few lines that the kernel programs log to this program's log.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, poll};

/// Lines per [`PERIOD`]; the rest is dropped, the counters have it. An agent can cause such lines at will.
const LINES_MAX: u32 = 5;
const PERIOD: Duration = Duration::from_secs(1);

/// The forwarding thread; ends when this is dropped.
#[derive(Debug)]
pub(super) struct Forwarder {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Takes over the log of `ebpf`'s programs.
    pub(super) fn start(ebpf: &mut aya::Ebpf) -> Result<Self, super::InterceptError> {
        let logger = EbpfLogger::init_with_logger(ebpf, Lines::default())
            .map_err(|error| super::InterceptError::kernel("read the programs' log", error))?;
        let spawned =
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from).and_then(|stop| {
                let stop = Arc::new(stop);
                let seen = Arc::clone(&stop);
                thread::Builder::new()
                    .name("kernel-log".into())
                    .spawn(move || forward(logger, &seen))
                    .map(|t| (stop, t))
            });
        let (stop, thread) =
            spawned.map_err(|error| super::InterceptError::kernel("start the log thread", error))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take())
            && thread.join().is_err()
        {
            tracing::warn!("the kernel log thread panicked");
        }
    }
}

fn forward(mut logger: EbpfLogger<Lines>, stop: &OwnedFd) {
    loop {
        let mut ready =
            [PollFd::from_borrowed_fd(logger.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut ready, None::<&Timespec>) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::error!(%error, "the kernel programs' log is lost");
                return;
            }
        }
        if ready.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return;
        }
        logger.flush();
    }
}

/// Passes lines on to `tracing`, at a bounded rate.
#[derive(Debug, Default)]
struct Lines {
    /// Start of the current period, and lines in it.
    seen: Mutex<Option<(Instant, u32)>>,
}

impl Lines {
    fn has_room(&self, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, lines) = match *seen {
            Some((start, lines)) if now.duration_since(start) < PERIOD => (start, lines),
            Some(_) | None => (now, 0),
        };
        *seen = Some((start, lines.saturating_add(1)));
        lines < LINES_MAX
    }
}

impl Log for Lines {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if self.has_room(Instant::now()) {
            tracing::warn!(level = %record.level(), "kernel programs: {}", record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::{LINES_MAX, Lines, PERIOD};
    use std::time::Instant;

    #[test]
    fn a_flood_is_cut_and_the_next_period_starts_afresh() {
        let lines = Lines::default();
        let now = Instant::now();
        let passed = (0..100).filter(|_| lines.has_room(now)).count();
        assert_eq!(passed, LINES_MAX as usize);
        assert!(lines.has_room(now + PERIOD));
    }
}
