//! Which name each run was told an address for, so that a connection to the address has an exact host name.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::flow::{Flow, OriginalDst, RunId};
use crate::gate::Gate;
use crate::policy::rule::Destination;
use crate::policy::{Connection, Policy};

/// How long an answer is remembered beyond its own time to live: clients keep addresses for longer than they may.
const KEPT_TIME: Duration = Duration::from_secs(15 * 60);

/// Addresses remembered of one run; beyond it the one that is soonest forgotten makes room.
const ADDRESSES_PER_RUN_MAX: usize = 4096;

/// Names remembered of one address; beyond it the oldest answer makes room.
const NAMES_PER_ADDRESS_MAX: usize = 16;

/// The memory of every run.
#[derive(Debug, Default)]
pub struct GivenNames(RwLock<HashMap<RunId, HashMap<IpAddr, VecDeque<Given>>>>);

/// One name, as the answer to the run's question.
#[derive(Clone, Debug)]
struct Given {
    name: Arc<str>,
    until: Instant,
}

impl GivenNames {
    /// `run` is told that `name` (lower case, no final dot) has these addresses, for so long.
    pub fn remember(&self, run: RunId, name: &str, addresses: &[IpAddr], time_to_live: Duration) {
        let now = Instant::now();
        let given = Given { name: name.into(), until: now + time_to_live + KEPT_TIME };
        let mut runs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let memory = runs.entry(run).or_default();
        for address in addresses {
            let address = address.to_canonical();
            if !memory.contains_key(&address) {
                make_room(memory, now);
            }
            let names = memory.entry(address).or_default();
            names.retain(|known| known.name != given.name && known.until > now);
            names.truncate(NAMES_PER_ADDRESS_MAX - 1);
            names.push_front(given.clone());
        }
    }

    /// The names that `run` was told this address for, the latest answer first.
    #[must_use]
    pub fn of(&self, run: RunId, address: IpAddr) -> Vec<Arc<str>> {
        let now = Instant::now();
        let runs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let names = runs.get(&run).and_then(|memory| memory.get(&address.to_canonical()));
        let current = names.into_iter().flatten().filter(|given| given.until > now);
        current.map(|given| Arc::clone(&given.name)).collect()
    }

    /// Forgets the runs that `is_over` says have ended.
    pub fn forget(&self, is_over: impl Fn(RunId) -> bool) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|run, _| !is_over(*run));
    }
}

/// What a flow's destination is called.
pub(super) struct Named {
    /// What the run was told this address for, the latest answer first.
    given: Vec<Arc<str>>,
    /// The first of them that a connection has for this port.
    wanted: Option<Arc<str>>,
}

impl Gate {
    /// Names for a flow's destination. Without one that the run was told and a connection has, the host names of the
    /// policy are resolved: the client may have its address from elsewhere, or from before.
    pub(super) async fn named(&self, flow: &Flow, policy: &Policy) -> Named {
        let port = flow.destination.0.port();
        let given = self.given().of(flow.run, flow.destination.0.ip());
        let has = |name: &Arc<str>| policy.host_names(port).any(|known| known == &**name);
        let wanted = given.iter().find(|name| has(name)).cloned();
        if wanted.is_none() {
            self.names().refresh(policy.host_names(port)).await;
        }
        Named { given, wanted }
    }
}

impl Named {
    /// Whether a connection's host name stands for the destination.
    pub(super) fn resolves(&self, gate: &Gate, name: &str, address: IpAddr) -> bool {
        match &self.wanted {
            Some(wanted) => **wanted == *name,
            None => gate.names().resolves(name, address),
        }
    }

    /// See [`super::Admission::host`].
    pub(super) fn host(
        &self,
        connection: &Connection,
        destination: OriginalDst,
        resolved: &dyn Fn(&str, IpAddr) -> bool,
    ) -> Option<Arc<str>> {
        let port_matches = |port: &Option<u16>| port.is_none_or(|port| port == destination.0.port());
        let matched = || {
            connection.to.iter().find_map(|to| match to {
                Destination::Host { name, port }
                    if port_matches(port) && resolved(name, destination.0.ip()) =>
                {
                    Some(Arc::from(name.as_str()))
                }
                Destination::Host { .. } | Destination::Network { .. } => None,
            })
        };
        self.wanted.clone().or_else(matched).or_else(|| self.given.first().cloned())
    }
}

/// Room for one more address: what is too old goes, and if that is nothing, what soonest will be.
fn make_room(memory: &mut HashMap<IpAddr, VecDeque<Given>>, now: Instant) {
    if memory.len() < ADDRESSES_PER_RUN_MAX {
        return;
    }
    let until = |names: &VecDeque<Given>| names.front().map(|given| given.until);
    memory.retain(|_, names| until(names).is_some_and(|until| until > now));
    if memory.len() < ADDRESSES_PER_RUN_MAX {
        return;
    }
    let soonest = memory.iter().min_by_key(|(_, names)| until(names)).map(|(address, _)| *address);
    if let Some(soonest) = soonest {
        memory.remove(&soonest);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x7f00_0000 | number).into()
    }

    fn names(given: &GivenNames, run: RunId, number: u32) -> Vec<String> {
        given.of(run, address(number)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_latest_answer_comes_first_and_runs_do_not_share() {
        let given = GivenNames::default();
        let (run, other) = (RunId::generate(), RunId::generate());
        let minute = Duration::from_secs(60);
        given.remember(run, "a.test", &[address(1), address(2)], minute);
        given.remember(run, "b.test", &[address(1)], minute);
        assert_eq!(names(&given, run, 1), ["b.test", "a.test"]);
        assert_eq!(names(&given, run, 2), ["a.test"]);
        given.remember(run, "a.test", &["::ffff:127.0.0.1".parse().unwrap()], minute);
        assert_eq!(names(&given, run, 1), ["a.test", "b.test"]);
        assert!(names(&given, other, 1).is_empty());
        given.forget(|ended| ended == run);
        assert!(names(&given, run, 1).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_newest() {
        let given = GivenNames::default();
        let run = RunId::generate();
        let addresses = u32::try_from(ADDRESSES_PER_RUN_MAX).unwrap();
        for number in 0..addresses + 100 {
            given.remember(run, "many.test", &[address(number)], Duration::ZERO);
        }
        assert_eq!(given.0.read().unwrap()[&run].len(), ADDRESSES_PER_RUN_MAX);
        assert!(names(&given, run, 0).is_empty());
        assert_eq!(names(&given, run, addresses + 99), ["many.test"]);
        for number in 0..100 {
            given.remember(run, &format!("n{number}.test"), &[address(addresses)], Duration::ZERO);
        }
        let known = names(&given, run, addresses);
        assert_eq!((known.len(), known[0].as_str()), (NAMES_PER_ADDRESS_MAX, "n99.test"));
    }
}
