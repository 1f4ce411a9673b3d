//! Which addresses the host names of connections stand for now, by the host's resolver.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

/// How long an answer is used before it is asked again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// How long one look-up may take; without an answer the name matches nothing.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// Names remembered at once; policies hold far fewer.
const NAMES_MAX: usize = 4096;

#[derive(Debug)]
struct Answer {
    addresses: Vec<IpAddr>,
    at: Instant,
}

/// Addresses of a host name, in time.
pub type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Finds the addresses of a host name that the policy has.
pub type Lookup = Box<dyn Fn(&str) -> Addresses + Send + Sync>;

/// A small cache over a resolver.
pub struct HostNames {
    lookup: Lookup,
    answers: RwLock<HashMap<String, Answer>>,
}

impl Default for HostNames {
    /// Asks the C library.
    fn default() -> Self {
        Self::asking(Box::new(|name| {
            let host = (name.to_owned(), 0);
            Box::pin(async move {
                let found = tokio::net::lookup_host(host).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        }))
    }
}

impl fmt::Debug for HostNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostNames").field("answers", &self.answers).finish_non_exhaustive()
    }
}

impl HostNames {
    /// A cache over this resolver.
    #[must_use]
    pub fn asking(lookup: Lookup) -> Self {
        Self { lookup, answers: RwLock::default() }
    }

    /// Asks for every name whose answer is missing or old, for all of them at once.
    pub async fn refresh(&self, names: impl IntoIterator<Item = &str>) {
        let stale = names.into_iter().filter(|name| !self.is_fresh(name));
        join_all(stale.map(|name| self.look_up(name))).await;
    }

    async fn look_up(&self, name: &str) {
        let addresses = match tokio::time::timeout(LOOKUP_TIME_MAX, (self.lookup)(name)).await {
            Ok(Ok(found)) => found.iter().map(IpAddr::to_canonical).collect(),
            Ok(Err(error)) => {
                tracing::warn!(name, %error, "cannot resolve a connection's host name; it matches nothing");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(name, "resolving a connection's host name takes too long; it matches nothing");
                Vec::new()
            }
        };
        let mut answers = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= NAMES_MAX {
            answers.clear();
        }
        answers.insert(name.to_owned(), Answer { addresses, at: Instant::now() });
    }

    /// Whether `name` was last seen to stand for `address`.
    #[must_use]
    pub fn resolves(&self, name: &str, address: IpAddr) -> bool {
        let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(name).is_some_and(|answer| answer.addresses.contains(&address.to_canonical()))
    }

    /// An address that `name` was last seen to stand for.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<IpAddr> {
        let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(name)?.addresses.first().copied()
    }

    fn is_fresh(&self, name: &str) -> bool {
        let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(name).is_some_and(|answer| answer.at.elapsed() < ANSWER_TIME_MAX)
    }
}
