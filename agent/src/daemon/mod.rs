//! The daemon: builds the parts in order, serves, and ends cleanly.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use self::service::{HostView, chats, page, service};
use self::trust::Trust;
use crate::approval::Approvals;
use crate::cli::BoxError;
use crate::cli::doctor::Check;
use crate::config::Config;
use crate::control::{notify, socket};
use crate::credential::{Credentials, SystemdFolder, Variables};
use crate::gate::{Gate, HostNames};
use crate::identity::Issuers;
use crate::intercept::{self, Kernel, Settings, cgroup2_root, ensure_bpffs};
use crate::limits::CONNECTIONS_MAX;
use crate::policy::PolicySet;
use crate::policy::rule::OnExpiry;
use crate::record::{Recorder, RecorderConfig};
use crate::relay::ssh::proxy_key;
use crate::relay::stop::Kill;
use crate::relay::{Relay, Shutdown, ShutdownTrigger};
use crate::resolve::{Resolver, Upstream};
use crate::run::matching::{self, Claim};
use crate::run::{Governor, Lapsed, RunEvent, Runs, now_ms};
use crate::session::{self, Host, Places};
use crate::signin::Accounts;
use crate::sys;
use crate::tls::ca::{Ca, CaSettings};
use crate::upstream::{Dialler, SideConnections};
use crate::web;

mod detach;
mod files;
mod service;
mod trust;

pub use self::detach::detach;

/// How long open sessions may take to end once the daemon was told to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How long leases may then take to be given back.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);

/// How often a port is looked for that is free for TCP and UDP.
const LISTEN_TRIES: u32 = 20;

/// Pause after a failed accept: the process is out of descriptors, and more haste only burns the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often runs and holds are looked through for what has expired.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before something that watches the host is started again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Runs until told to end.
///
/// # Errors
/// When a part cannot be built; the text says which and what to do.
pub fn serve(config: Config) -> Result<(), BoxError> {
    if !rustix::process::geteuid().is_root() {
        return Err("the daemon must run as root: it loads kernel programs and makes cgroups".into());
    }
    keep_memory_private()?;
    // While there is only this thread.
    let variables = Variables::take(&config.sources)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let _lock = socket::StateLock::take(&config.state_dir)?;
        let daemon = Daemon::build(config, variables).await?;
        daemon.run().await
    })
}

/// No core dump of ours, which would hold credentials: neither by the kernel nor by a program it pipes them to (core(5)), and
/// nobody but root may look into this process (`PR_SET_DUMPABLE`).
fn keep_memory_private() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Tries whether the kernel takes our programs, on a pin directory of its own that is removed again.
#[must_use]
pub fn probe(config: &Config) -> Check {
    const NAME: &str = "kernel programs";
    let name = config.bpf_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let pin_dir = config.bpf_dir.with_file_name(format!("{name}-doctor-{}", std::process::id()));
    let tried = try_programs(&pin_dir);
    let removed = intercept::detach(&pin_dir, intercept::Detach::Force);
    match (tried, removed) {
        (Ok(()), Ok(())) => Check::ok(NAME, "load, attach and refuse what they must"),
        (Err(error), _) => Check::fail(NAME, error.to_string(), "see README, \"What it needs\""),
        (Ok(()), Err(error)) => Check::fail(NAME, error.to_string(), "remove the pins by hand"),
    }
}

fn try_programs(pin_dir: &Path) -> Result<(), BoxError> {
    ensure_bpffs(pin_dir)?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let SocketAddr::V4(proxy_v4) = listener.local_addr()? else { return Err("no IPv4 loopback".into()) };
    let cgroup_root = cgroup2_root()?;
    let settings = Settings { pin_dir: pin_dir.to_owned(), cgroup_root, proxy_v4, proxy_v6: None };
    Kernel::attach(&settings)?;
    Ok(())
}

/// Everything that runs.
struct Daemon {
    host: Arc<Host>,
    policies: Arc<PolicySet>,
    approvals: Arc<Approvals>,
    listeners: Vec<Listener>,
    control: tokio::net::UnixListener,
    trigger: ShutdownTrigger,
    shutdown: Shutdown,
    view: HostView,
    page: Option<web::Server>,
}

impl Daemon {
    /// Builds every part; nothing is served yet. The kernel programs come late: until they are attached nothing is
    /// governed, and once they are, everything that serves governed connections must be there.
    async fn build(config: Config, variables: Variables) -> Result<Self, BoxError> {
        let policies = Arc::new(PolicySet::load_dir(&config.policies_dir));
        let recorder = Recorder::open(
            &config.state_dir,
            RecorderConfig { min_free_bytes: config.free_bytes_min, ..RecorderConfig::default() },
        )?;
        let ca = Arc::new(Ca::open(&files::ca_folder(&config.state_dir)?, &ca_settings(&config))?.0);
        let control = socket::bind(&config)?;
        let trust = Arc::new(publish(&config, &ca)?);
        let ssh_key = proxy_key::load_or_create(&config.state_dir)?;
        trust::publish_host_key(&config, ssh_key.public_key())?;
        let hash_key = Arc::new(files::hash_key(&config.state_dir)?);
        let listeners = listen(&config).await?;
        let kernel = Arc::new(attach(&config, &listeners)?);
        let forgetful = Arc::clone(&trust);
        let runs = Runs::open(&config, governor(&kernel), Box::new(move |event| on_run(event, &forgetful)))?;
        runs.resume()?;
        trust.sweep(runs.list().iter().map(|run| run.id));
        let approvals = Approvals::open(&config)?;
        let credentials = Credentials::with_sources(
            &config.credentials_dir,
            config.sources.clone(),
            variables,
            SystemdFolder::of_environment(),
        );
        let upstream = Arc::new(Upstream::new(config.name_servers.clone()));
        let names = host_names(Arc::clone(&upstream));
        let gate = Gate::new(Arc::clone(&policies), Arc::clone(&approvals))
            .with_names(names)
            .with_page(config.web.as_ref().map(|page| page.listen));
        let issuers = Arc::new(Issuers::new(Arc::default()));
        let accounts = accounts(&config, &credentials, &issuers);
        let relay = Arc::new(Relay {
            analyses: Arc::default(),
            ca,
            cancels: Arc::default(),
            credentials: credentials.clone(),
            dialler: Dialler::default(),
            gate: Arc::new(gate),
            http_room: Arc::new(Semaphore::new(crate::relay::http::ROOM_KIB)),
            http_masks: crate::relay::http::MaskCache::new(Arc::clone(&hash_key)),
            postgres_masks: Arc::new(crate::relay::postgres::MaskCache::new(hash_key)),
            http_pool: Arc::default(),
            issuers: Arc::clone(&issuers),
            live: Arc::default(),
            runs: Arc::clone(&runs),
            recorder,
            sides: SideConnections::new(credentials),
            ssh_key: Arc::new(ssh_key),
        });
        let (trigger, shutdown) = Shutdown::new();
        let proxy = listeners.first().map(|listener| listener.tcp.local_addr()).transpose()?;
        let view = HostView {
            started: SystemTime::now(),
            proxy,
            trust,
            chat: chats(&config, &approvals, &relay.credentials, &issuers),
            issuers,
            operators: config.operators.clone(),
            accounts,
            state_dir: config.state_dir.clone(),
        };
        let (gate, recorder) = (Arc::clone(&relay.gate), Arc::clone(&relay.recorder));
        let resolver = Arc::new(Resolver::new(upstream, gate, recorder, Arc::clone(&runs)));
        let host = Arc::new(Host { kernel, runs, relay, resolver, places: Places::default() });
        let page = page(config, &host, &policies, &approvals, &view).await?;
        Ok(Self { host, policies, approvals, listeners, control, trigger, shutdown, view, page })
    }

    /// Serves until told to end.
    async fn run(self) -> Result<(), BoxError> {
        let stop = Arc::new(Notify::new());
        let mut background = JoinSet::new();
        background.spawn(follow_policies(Arc::clone(&self.policies)));
        background.spawn(follow_cgroups(Arc::clone(&self.host.runs), Arc::clone(&self.policies)));
        background.spawn(follow_expiry(
            Arc::clone(&self.host),
            Arc::clone(&self.policies),
            Arc::clone(&self.approvals),
        ));
        let service = service(&self.host, &self.policies, &self.approvals, &self.view, Arc::clone(&stop));
        background.spawn(crate::control::server::serve(self.control, Arc::new(service)));
        if let Some(page) = self.page {
            background.spawn(page.serve());
        }
        if let Some(chat) = &self.view.chat {
            background.spawn(Arc::clone(chat).run());
        }
        let mut accepting = JoinSet::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let resolver = Arc::clone(&self.host.resolver);
        background.spawn(async move { resolver.keep_house().await });
        for listener in self.listeners {
            let resolver = Arc::clone(&self.host.resolver);
            accepting.spawn(resolver.serve_datagrams(listener.udp, Arc::clone(&self.host.kernel)));
            accepting.spawn(accept(
                listener.tcp,
                Arc::clone(&self.host),
                self.shutdown.clone(),
                Arc::clone(&places),
            ));
        }
        sys::trim_memory();
        tracing::info!(proxy = ?self.view.proxy, policies = self.policies.snapshot().policies.len(), "ready");
        notify::notify(notify::READY)?;
        tokio::select! {
            () = stop.notified() => {}
            signal = stop_signal() => signal?,
        }
        tracing::info!("stopping");
        if let Err(error) = notify::notify(notify::STOPPING) {
            tracing::warn!(%error, "cannot tell the service manager; stopping all the same");
        }
        // First of all nobody gets in any more, so that who is told to leave finds the door shut.
        accepting.shutdown().await;
        self.trigger.begin();
        drain(&places).await;
        if !self.host.relay.credentials.settle(SETTLE_TIME_MAX).await {
            tracing::warn!("some leases could not be given back in time; they run out by themselves");
        }
        background.shutdown().await;
        self.host.resolver.close();
        Ok(())
    }
}

/// Where redirected connections and questions arrive.
struct Listener {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Listener {
    /// Listens for both at one port.
    async fn bind(at: SocketAddr) -> io::Result<Self> {
        let mut tries = LISTEN_TRIES;
        loop {
            let tcp = TcpListener::bind(at).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { tcp, udp }),
                // A port that the kernel picked for TCP may be taken for UDP.
                Err(error) if at.port() != 0 || tries == 0 => return Err(error),
                Err(_taken) => tries -= 1,
            }
        }
    }
}

/// IPv4 loopback, and IPv6 loopback on the same port where the host has it.
async fn listen(config: &Config) -> Result<Vec<Listener>, BoxError> {
    let wanted = config.proxy_listen();
    let v4 = Listener::bind(wanted.into()).await.map_err(|error| {
        format!(
            "cannot listen on {wanted}: {error}; end what uses it, or set [proxy] port in the configuration"
        )
    })?;
    let port = v4.tcp.local_addr()?.port();
    let v6 = Listener::bind((Ipv6Addr::LOCALHOST, port).into()).await;
    let v6 = v6.inspect_err(
        |error| tracing::warn!(%error, "no IPv6 listener; IPv6-only sockets of agents fail closed"),
    );
    Ok(std::iter::once(v4).chain(v6).collect())
}

fn attach(config: &Config, listeners: &[Listener]) -> Result<Kernel, BoxError> {
    let mut proxy = (None, None);
    for listener in listeners {
        match listener.tcp.local_addr()? {
            SocketAddr::V4(address) => proxy.0 = Some(address),
            SocketAddr::V6(address) => proxy.1 = Some(address),
        }
    }
    let (Some(proxy_v4), proxy_v6) = proxy else { return Err("no IPv4 loopback listener".into()) };
    ensure_bpffs(&config.bpf_dir)?;
    let settings =
        Settings { pin_dir: config.bpf_dir.clone(), cgroup_root: cgroup2_root()?, proxy_v4, proxy_v6 };
    Ok(Kernel::attach(&settings)?)
}

/// The policies' host names, by the same name servers as the agents' questions.
fn host_names(upstream: Arc<Upstream>) -> HostNames {
    HostNames::asking(Box::new(move |name| {
        let (upstream, name) = (Arc::clone(&upstream), name.to_owned());
        Box::pin(async move { upstream.addresses(&name).await })
    }))
}

fn governor(kernel: &Arc<Kernel>) -> Governor {
    let (govern, release, governed) = (Arc::clone(kernel), Arc::clone(kernel), Arc::clone(kernel));
    Governor {
        govern: Box::new(move |cgroup, run| govern.govern(cgroup, run).map_err(io::Error::other)),
        release: Box::new(move |cgroup| release.release(cgroup).map_err(io::Error::other)),
        governed: Box::new(move || governed.governed().map_err(io::Error::other)),
    }
}

fn ca_settings(config: &Config) -> CaSettings {
    CaSettings { name: config.ca_name.clone(), lifetime: config.ca_lifetime }
}

fn publish(config: &Config, ca: &Ca) -> Result<Trust, BoxError> {
    Trust::publish(config, ca.certificate())
        .map_err(|error| format!("cannot publish the CA in {}: {error}", config.published().display()).into())
}

fn on_run(event: &RunEvent, trust: &Trust) {
    match event {
        RunEvent::Started(run) => tracing::info!(run = %run.id, policy = %run.policy, "run started"),
        RunEvent::Resumed(run) => tracing::info!(run = %run.id, policy = %run.policy, "run taken up again"),
        RunEvent::Ended { run, .. } => {
            trust.forget(run.id);
            tracing::info!(run = %run.id, policy = %run.policy, "run ended");
        }
    }
}

/// Takes connections as long as there are places for them; each is served by a task of its own.
async fn accept(listener: TcpListener, host: Arc<Host>, shutdown: Shutdown, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let (host, shutdown) = (Arc::clone(&host), shutdown.clone());
                tokio::spawn(async move {
                    serve_one(tcp, &host, shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(tcp: TcpStream, host: &Host, shutdown: Shutdown) {
    if let Err(error) = session::serve(tcp, host, shutdown).await {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%error, cause, "closed a connection unanswered");
    }
}

/// Waits until every place is free again, for as long as a stop may take.
async fn drain(places: &Semaphore) {
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN_TIME_MAX, places.acquire_many(all)).await.is_err() {
        tracing::warn!("some sessions did not end in time and are cut off");
    }
}

/// Keeps the policies as the folder has them.
async fn follow_policies(policies: Arc<PolicySet>) {
    loop {
        let Err(error) = Arc::clone(&policies).follow().await;
        tracing::error!(%error, "policies are not followed; trying again");
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

/// Keeps the matched cgroups as the policies claim them.
async fn follow_cgroups(runs: Arc<Runs>, policies: Arc<PolicySet>) {
    let mut snapshots = policies.subscribe();
    let (sender, receiver) = watch::channel(claims(&policies));
    let forward = async move {
        while snapshots.changed().await.is_ok() {
            sender.send_replace(claims(&policies));
        }
    };
    let watch_tree = async {
        loop {
            if let Err(error) = matching::watch(Arc::clone(&runs), receiver.clone()).await {
                tracing::error!(%error, "cgroups are not watched; trying again");
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    };
    tokio::join!(forward, watch_tree);
}

/// Cuts the connections of runs whose token has expired, where their policy asks for it, and ends holds that nobody decided.
async fn follow_expiry(host: Arc<Host>, policies: Arc<PolicySet>, approvals: Arc<Approvals>) {
    let kill = Kill { by: None, reason: "the token of its run has expired".to_owned() };
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        ticks.tick().await;
        let tidied = Arc::clone(&approvals);
        if let Err(error) = tokio::task::spawn_blocking(move || tidied.tidy()).await {
            tracing::error!(%error, "holds are not looked through");
        }
        for run in host.runs.list() {
            let Err(Lapsed::Expired(identity)) = run.standing.check(now_ms()) else { continue };
            let policy = policies.get(&run.policy);
            let rules = policy.iter().flat_map(|policy| &policy.identity);
            if rules
                .filter(|rules| rules.issuer == identity.issuer)
                .any(|rules| rules.on_expiry == OnExpiry::Cut)
            {
                let sessions = host.relay.live.kill_run(run.id, &kill);
                if sessions > 0 {
                    tracing::info!(run = %run.id, sessions, "cut the sessions of a run whose token has expired");
                }
            }
        }
    }
}

/// Who signs in by the command line, where the configuration lets them.
fn accounts(config: &Config, credentials: &Credentials, issuers: &Arc<Issuers>) -> Option<Arc<Accounts>> {
    let settings = config.login.clone()?;
    Some(Arc::new(Accounts::new(settings, credentials.clone(), Arc::clone(issuers))))
}

fn claims(policies: &PolicySet) -> Arc<[Claim]> {
    let claim = |policy: &Arc<crate::policy::Policy>| Claim {
        policy: policy.name.clone(),
        version: policy.version.clone(),
        matches: policy.matches.clone(),
    };
    policies.snapshot().policies.values().map(claim).collect()
}

/// Completes at SIGTERM or SIGINT.
async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configurations_default_ca_is_the_cas_own_default() {
        let (configured, own) = (ca_settings(&Config::default()), CaSettings::default());
        assert_eq!((configured.name, configured.lifetime), (own.name, own.lifetime));
    }
}
