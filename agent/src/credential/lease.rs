//! Leases of dynamic secrets: renewed while a session uses them, given back when it ends.
//!
//! Nothing of a lease is on disk: after `kill -9` it runs out by its own time to live.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::vault::{ClientToken, Grant, Vault};

/// How often giving back is tried, and the pause before the second time, which doubles.
const REVOKE_TRIES: u32 = 5;
const REVOKE_PAUSE: Duration = Duration::from_secs(1);
/// Less than this is left: renewing comes too late.
const LEFT_MIN: Duration = Duration::from_millis(500);

/// A secret on loan. Dropping it gives the secret back, in the background.
#[derive(Debug)]
pub struct Lease {
    live: Arc<AtomicBool>,
    /// The keeper notices when this is gone.
    _held: oneshot::Sender<Infallible>,
}

impl Lease {
    /// Whether it is good for a further login: it has not run out and is not about to.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// A lease on what Vault granted, kept by a task of its own.
    pub(super) fn keep(vault: &Arc<Vault>, token: Arc<ClientToken>, grant: Grant, leases: &Leases) -> Self {
        let live = Arc::new(AtomicBool::new(true));
        let (held, dropped) = oneshot::channel();
        let counted = leases.count();
        let keeper = Keeper {
            vault: Arc::clone(vault),
            token,
            ends: Instant::now() + grant.duration,
            live: Arc::clone(&live),
            grant,
        };
        tokio::spawn(async move {
            keeper.run(dropped).await;
            drop(counted);
        });
        Self { live, _held: held }
    }
}

/// Shortest time between two renewals.
const PAUSE_MIN: Duration = Duration::from_secs(1);

struct Keeper {
    vault: Arc<Vault>,
    /// Whose child the lease is: it ends with the token.
    token: Arc<ClientToken>,
    grant: Grant,
    ends: Instant,
    live: Arc<AtomicBool>,
}

impl Keeper {
    async fn run(mut self, dropped: oneshot::Receiver<Infallible>) {
        tokio::select! {
            _ = dropped => {}
            never = self.renew() => match never {},
        }
        self.live.store(false, Ordering::Release);
        self.revoke().await;
    }

    /// Renews at half of what is left, until the lease cannot become longer. Then it runs out: what the session does goes on
    /// until the server itself refuses.
    async fn renew(&mut self) -> Infallible {
        while self.grant.renewable {
            let left = self.ends.saturating_duration_since(Instant::now());
            if left < LEFT_MIN {
                break;
            }
            let token_left = self.token.left().unwrap_or(Duration::MAX);
            if token_left.is_zero() {
                // Nobody can renew it in this name any more.
                break;
            }
            tokio::time::sleep((left / 2).min(token_left / 2).max(PAUSE_MIN)).await;
            if self.token.is_half_over()
                && let Err(error) = self.vault.renew_token(&self.token).await
            {
                tracing::warn!(credential = self.vault.name(), %error, "the token of a lease cannot be renewed");
            }
            match self.vault.renew(&self.token, &self.grant).await {
                Ok(granted) => {
                    let ends = Instant::now() + granted.duration;
                    // What does not make it longer has met the longest time that its role allows.
                    self.grant.renewable = granted.renewable && ends > self.ends + granted.duration / 4;
                    self.ends = ends.max(self.ends);
                }
                Err(error) => {
                    tracing::warn!(credential = self.vault.name(), %error, "a lease cannot be renewed");
                }
            }
        }
        let last = self.ends.checked_sub(self.grant.duration / 10).unwrap_or(self.ends);
        tokio::time::sleep_until(last).await;
        self.live.store(false, Ordering::Release);
        std::future::pending().await
    }

    async fn revoke(&self) {
        let mut pause = REVOKE_PAUSE;
        for tried in 1..=REVOKE_TRIES {
            match self.vault.revoke(&self.token, &self.grant).await {
                Ok(()) => return,
                Err(error) if tried == REVOKE_TRIES => {
                    let left = self.ends.saturating_duration_since(Instant::now()).as_secs();
                    tracing::error!(credential = self.vault.name(), %error,
                        "a lease cannot be revoked; it runs out by itself in {left} s");
                }
                Err(error) => {
                    tracing::warn!(credential = self.vault.name(), %error, "a lease cannot be revoked yet");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

/// Counts the leases that are out.
#[derive(Clone, Debug)]
pub(super) struct Leases(watch::Sender<usize>);

impl Default for Leases {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Leases {
    fn count(&self) -> Counted {
        self.0.send_modify(|out| *out += 1);
        Counted(self.0.clone())
    }

    /// Completes when none is out.
    pub(super) async fn all_back(&self) {
        // The sender is ours and still there.
        drop(self.0.subscribe().wait_for(|out| *out == 0).await);
    }
}

struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|out| *out = out.saturating_sub(1));
    }
}
