//! Which addresses the host names of connections stand for now, by the system's resolver.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

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

/// A small cache over the system's resolver.
#[derive(Debug, Default)]
pub struct HostNames(RwLock<HashMap<String, Answer>>);

impl HostNames {
    /// Asks for every name whose answer is missing or old.
    pub async fn refresh(&self, names: impl IntoIterator<Item = &str>) {
        for name in names {
            if self.is_fresh(name) {
                continue;
            }
            let lookup = tokio::net::lookup_host((name, 0));
            let addresses = match tokio::time::timeout(LOOKUP_TIME_MAX, lookup).await {
                Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
                Ok(Err(error)) => {
                    tracing::warn!(name, %error, "cannot resolve a connection's host name; it matches nothing");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(
                        name,
                        "resolving a connection's host name takes too long; it matches nothing"
                    );
                    Vec::new()
                }
            };
            let mut answers = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if answers.len() >= NAMES_MAX {
                answers.clear();
            }
            answers.insert(name.to_owned(), Answer { addresses, at: Instant::now() });
        }
    }

    /// Whether `name` was last seen to stand for `address`.
    #[must_use]
    pub fn resolves(&self, name: &str, address: IpAddr) -> bool {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(name).is_some_and(|answer| answer.addresses.contains(&address.to_canonical()))
    }

    fn is_fresh(&self, name: &str) -> bool {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(name).is_some_and(|answer| answer.at.elapsed() < ANSWER_TIME_MAX)
    }
}
