//! What counts once: signatures, ids of deliveries, tokens. Remembered for as long as it could come again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Things remembered at once. Only what was signed gets here, so nobody else can fill it.
pub(super) const REMEMBERED_MAX: usize = 8192;

/// Why something does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOnce {
    /// It has come before.
    Again,
    /// Too much has come lately to tell.
    Full,
}

/// What has come already.
#[derive(Debug, Default)]
pub(super) struct Once(Mutex<HashMap<String, Instant>>);

impl Once {
    /// Takes note of something that could come again for so long.
    pub(super) fn first(&self, what: &str, lasts: Duration) -> Result<(), NotOnce> {
        let (now, mut known) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        known.retain(|_, until| *until > now);
        if known.contains_key(what) {
            return Err(NotOnce::Again);
        }
        if known.len() >= REMEMBERED_MAX {
            return Err(NotOnce::Full);
        }
        known.insert(what.to_owned(), now + lasts);
        Ok(())
    }

    /// It did not count after all: it may come again.
    pub(super) fn forget(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thing_counts_once_while_it_could_come_again() {
        let (once, lasts) = (Once::default(), Duration::from_mins(10));
        assert_eq!(once.first("a", lasts), Ok(()));
        assert_eq!(once.first("a", lasts), Err(NotOnce::Again));
        once.forget("a");
        assert_eq!(once.first("a", lasts), Ok(()));
        tokio::time::advance(lasts).await;
        assert_eq!(once.first("a", lasts), Ok(()), "it could not be used any more, so it is forgotten");
        for number in 1..REMEMBERED_MAX {
            once.first(&number.to_string(), lasts).unwrap();
        }
        assert_eq!(once.first("b", lasts), Err(NotOnce::Full), "in doubt it does not count");
    }
}
