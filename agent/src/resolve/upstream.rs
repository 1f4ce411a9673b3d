//! Asks the host's name servers, `/etc/hosts` first.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};

/// How long one question may take in all: less than glibc waits before it asks again (5 s).
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(3);

/// How long one name server may take to answer before it is asked again.
const ATTEMPT_TIME_MAX: Duration = Duration::from_millis(1000);

/// Answers remembered for all runs together.
const CACHE_ENTRIES_MAX: u64 = 4096;

/// Longest that an answer is used, whatever it says of itself, and longest for "there is none".
const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(300);
const NEGATIVE_TIME_TO_LIVE_MAX: Duration = Duration::from_secs(30);

/// Addresses taken of one answer.
const ADDRESSES_MAX: usize = 32;

/// Aliases followed within one answer; the resolver below has its own bound for following by asking.
const ALIASES_MAX: usize = 8;

/// How often the system's files are looked at for changes.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// Questions in flight over one connection to a name server.
const IN_FLIGHT_MAX: usize = 1024;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// The host's name servers.
#[derive(Debug)]
pub struct Upstream {
    /// As configured; empty means the system's.
    configured: Vec<SocketAddr>,
    current: Mutex<Option<Current>>,
}

/// A resolver as the system's files were.
#[derive(Clone)]
struct Current {
    resolver: Arc<TokioResolver>,
    servers: Vec<SocketAddr>,
    /// Domains that clients put behind names of their own accord; lower case, no final dot.
    search: Vec<String>,
    files: [Option<(SystemTime, u64)>; 2],
    looked_at: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// What the name servers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The name's own addresses, or those of what it is an alias for, and for how many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// None: `NoError` when there may be other records, `NXDomain` when there is no such name.
    Nothing(ResponseCode),
}

impl Upstream {
    /// Asks these name servers; those of `/etc/resolv.conf` when there are none.
    #[must_use]
    pub fn new(configured: Vec<SocketAddr>) -> Self {
        Self { configured, current: Mutex::default() }
    }

    /// Whom it asks now.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.current().map(|current| current.servers).unwrap_or_default()
    }

    /// Whether a name (lower case, no final dot) is below a domain of `search` in `/etc/resolv.conf`: a client's guess
    /// at what a shorter name means, after which it tries others. It goes on when there is no such name, and gives up
    /// when it is refused.
    pub(super) fn is_guess(&self, name: &str) -> bool {
        self.current().is_ok_and(|current| current.search.iter().any(|domain| is_below(name, domain)))
    }

    /// Asks for a name's addresses; `kind` is A or AAAA.
    ///
    /// # Errors
    /// When nobody answers in time, or with an error; the text says which.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Found, String> {
        let current = self.current().map_err(|error| error.to_string())?;
        let mut name = name.to_lowercase();
        // Never with the host's search domains: those are other names.
        name.set_fqdn(true);
        match tokio::time::timeout(LOOKUP_TIME_MAX, current.resolver.lookup(name.clone(), kind)).await {
            Ok(Ok(lookup)) => Ok(addresses(&name, kind, lookup.answers())),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                let code = none.response_code;
                let is_answer = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
                if is_answer { Ok(Found::Nothing(code)) } else { Err(code.to_str().to_owned()) }
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("no answer within {LOOKUP_TIME_MAX:?}")),
        }
    }

    /// Every address of a host name that a policy has.
    ///
    /// # Errors
    /// When neither IPv4 nor IPv6 addresses could be asked for.
    pub async fn addresses(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        let name = Name::from_str_relaxed(name).map_err(std::io::Error::other)?;
        let (v4, v6) = tokio::join!(self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA));
        if let (Err(error), Err(_)) = (&v4, &v6) {
            return Err(std::io::Error::other(error.clone()));
        }
        let found = [v4, v6].into_iter().flatten().flat_map(|found| match found {
            Found::Addresses(addresses, _) => addresses,
            Found::Nothing(_) => Vec::new(),
        });
        Ok(found.collect())
    }

    /// The resolver for the system's files as they are, made anew when they changed.
    fn current(&self) -> Result<Current, NetError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = &mut *current {
            if now.duration_since(known.looked_at) < FILES_INTERVAL {
                return Ok(known.clone());
            }
            known.looked_at = now;
            if known.files == files() {
                return Ok(known.clone());
            }
        }
        let made = self.make(now)?;
        tracing::info!(servers = ?made.servers, "name servers");
        Ok(current.insert(made).clone())
    }

    fn make(&self, now: Instant) -> Result<Current, NetError> {
        let files = files();
        let system = fs::read(RESOLV_CONF).ok().and_then(|text| parse_resolv_conf(text).ok());
        let system = system.map(|(config, _)| config).unwrap_or_default();
        let servers = match self.configured.as_slice() {
            [] => system_servers(&system),
            configured => configured.to_vec(),
        };
        let search = system.search().iter().map(plain).filter(|domain| !domain.is_empty()).collect();
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options();
        let mut resolver = builder.build()?;
        let mut hosts = Hosts::default();
        if let Err(error) = File::open(HOSTS).and_then(|file| hosts.read_hosts_conf(file)) {
            tracing::warn!(%error, "cannot read {HOSTS}");
        }
        resolver.set_hosts(Arc::new(hosts));
        Ok(Current { resolver: Arc::new(resolver), servers, search, files, looked_at: now })
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT_TIME_MAX;
    options.attempts = 2;
    options.cache_size = CACHE_ENTRIES_MAX;
    options.positive_max_ttl = Some(TIME_TO_LIVE_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TIME_TO_LIVE_MAX);
    options.max_active_requests = IN_FLIGHT_MAX;
    options.preserve_intermediates = true;
    // They are read here, so that a change of them is seen.
    options.use_hosts_file = ResolveHosts::Never;
    options
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// A name as it is compared: lower case, no final dot.
pub(super) fn plain(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// The name servers of `/etc/resolv.conf`; without any, the one glibc takes.
fn system_servers(system: &ResolverConfig) -> Vec<SocketAddr> {
    match system.name_servers.iter().map(|server| SocketAddr::new(server.ip, 53)).collect::<Vec<_>>() {
        none if none.is_empty() => vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)],
        servers => servers,
    }
}

fn files() -> [Option<(SystemTime, u64)>; 2] {
    [RESOLV_CONF, HOSTS].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    })
}

/// The addresses that an answer gives `name`, by itself or by way of aliases. What it says of other names is nothing
/// that was asked.
fn addresses(name: &Name, kind: RecordType, answers: &[Record]) -> Found {
    let mut owner = name.clone();
    let mut time_to_live = u32::try_from(TIME_TO_LIVE_MAX.as_secs()).unwrap_or(u32::MAX);
    for _ in 0..ALIASES_MAX {
        let alias = answers.iter().filter(|record| record.name == owner).find_map(|record| {
            let RData::CNAME(target) = &record.data else { return None };
            Some((target.0.clone(), record.ttl))
        });
        let Some((target, ttl)) = alias else { break };
        (owner, time_to_live) = (target, time_to_live.min(ttl));
    }
    let own = answers.iter().filter(|record| record.name == owner && record.record_type() == kind);
    let mut found = Vec::new();
    for record in own.take(ADDRESSES_MAX) {
        if let Some(address) = record.data.ip_addr().filter(|address| is_a_hosts(*address)) {
            time_to_live = time_to_live.min(record.ttl);
            found.push(address);
        }
    }
    if found.is_empty() {
        Found::Nothing(ResponseCode::NoError)
    } else {
        Found::Addresses(found, time_to_live)
    }
}

/// Whether an address can be that of a host with a name. Link-local ones belong to this host's own network, and to the
/// metadata services of clouds: whoever answers for a name must not lead agents there.
fn is_a_hosts(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::str::FromStr as _;

    use hickory_proto::rr::rdata::{A, AAAA, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(Ipv4Addr::new(127, 0, 0, last))))
    }

    fn alias(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 50, RData::CNAME(CNAME(name(target))))
    }

    fn found(lasts: &[u8], ttl: u32) -> Found {
        Found::Addresses(lasts.iter().map(|last| Ipv4Addr::new(127, 0, 0, *last).into()).collect(), ttl)
    }

    #[test]
    fn only_what_is_said_of_the_name_itself_counts() {
        let asked = name("db.test.");
        let answers = [a("db.test.", 60, 1), a("other.test.", 60, 2), a("DB.test.", 40, 3)];
        assert_eq!(addresses(&asked, RecordType::A, &answers), found(&[1, 3], 40));
        assert_eq!(addresses(&asked, RecordType::AAAA, &answers), Found::Nothing(ResponseCode::NoError));
        let v6 = Record::from_rdata(asked.clone(), 9, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)));
        assert_eq!(
            addresses(&asked, RecordType::AAAA, &[v6]),
            Found::Addresses(vec![Ipv6Addr::LOCALHOST.into()], 9)
        );
    }

    #[test]
    fn addresses_that_no_named_host_has_are_not_believed() {
        let asked = name("db.test.");
        let lie = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            addresses(&asked, kind, &[Record::from_rdata(asked.clone(), 9, RData::from(address))])
        };
        for text in [
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.169.254",
        ] {
            assert_eq!(lie(text), Found::Nothing(ResponseCode::NoError), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert_eq!(lie(text), Found::Addresses(vec![text.parse().unwrap()], 9));
        }
    }

    #[test]
    fn aliases_are_followed_and_loops_end() {
        let asked = name("www.test.");
        let chain = [a("b.test.", 60, 7), alias("a.test.", "b.test."), alias("www.test.", "a.test.")];
        assert_eq!(addresses(&asked, RecordType::A, &chain), found(&[7], 50));
        let circle = [alias("www.test.", "a.test."), alias("a.test.", "www.test."), a("evil.test.", 60, 1)];
        assert_eq!(addresses(&asked, RecordType::A, &circle), Found::Nothing(ResponseCode::NoError));
    }

    #[test]
    fn a_guess_is_below_a_search_domain() {
        assert!(is_below("db.corp.test", "corp.test") && is_below("a.b.corp.test", "corp.test"));
        for other in ["corp.test", ".corp.test", "dbcorp.test", "db.corp.test.evil", "test", ""] {
            assert!(!is_below(other, "corp.test"), "{other}");
        }
        assert_eq!(plain(&Name::from_ascii("Corp.TEST.").unwrap()), "corp.test");
        assert_eq!(plain(&Name::root()), "");
    }

    #[test]
    fn answers_and_their_lives_are_bounded() {
        let many: Vec<_> = (0..200).map(|last| a("db.test.", u32::MAX, last)).collect();
        let Found::Addresses(addresses, ttl) = addresses(&name("db.test."), RecordType::A, &many) else {
            panic!("none")
        };
        assert_eq!((addresses.len(), ttl), (ADDRESSES_MAX, 300));
    }
}
