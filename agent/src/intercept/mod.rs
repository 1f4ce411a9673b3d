//! The agent's hold on the kernel side: attach it, name the governed cgroups, ask where a connection was going.

mod argv;
mod cgroup;
mod log;
mod origin;
mod pins;
mod probe;

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{error, fmt, io};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, SkStorage};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use ebpf_abi::{Agent, CGROUP_LEVELS_MAX, Counter, Question, Routes};
use ulid::Ulid;

use crate::flow::{RunId, Side};
use crate::sys::bpf as sys;
use cgroup::Root;
use pins::Pins;
use probe::ProbeCgroup;

pub use cgroup::cgroup2_root;
pub use origin::{Origin, describe};
pub use pins::{Detach, detach, ensure_bpffs};

/// The kernel programs; empty when they were not built with this binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis-ebpf"));

/// The programs in the order they are attached or swapped: what accepts records before what makes them.
const PROGRAMS: [&str; 13] = [
    "handshake",
    "peer4",
    "peer6",
    "receive4",
    "receive6",
    "leave",
    "bind_v4",
    "bind_v6",
    "send4",
    "send6",
    "dial4",
    "dial6",
    "create",
];

/// Where and how to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory for pins on a BPF file system, for example `/sys/fs/bpf/portcullis`. One per daemon.
    pub pin_dir: PathBuf,
    /// Root of the cgroup v2 tree; see [`cgroup2_root`].
    pub cgroup_root: PathBuf,
    /// The proxy's TCP listener on IPv4 loopback, where its UDP socket for DNS is, too. Best outside `net.ipv4.ip_local_port_range`, or any process may get the
    /// port as its source port while the proxy is down.
    pub proxy_v4: SocketAddrV4,
    /// The same on IPv6 loopback. Without it, IPv6-only sockets of agents get `ENETUNREACH`.
    pub proxy_v6: Option<SocketAddrV6>,
}

impl Settings {
    fn routes(&self) -> Result<Routes, InterceptError> {
        let mut routes = Routes { proxy_v4: origin::endpoint(self.proxy_v4.into()), ..Routes::default() };
        let mut listeners = vec![SocketAddr::V4(self.proxy_v4)];
        if let Some(proxy) = self.proxy_v6 {
            routes.proxy_v6 = origin::endpoint(proxy.into());
            listeners.push(proxy.into());
        }
        for listener in &listeners {
            if !listener.ip().is_loopback() || listener.port() == 0 {
                let text =
                    format!("the proxy must listen on loopback at a port of its own, not at {listener}");
                return Err(InterceptError::Settings(text));
            }
        }
        Ok(routes)
    }
}

/// The attached programs. Dropping this leaves them attached: agents then get `ECONNREFUSED`. [`detach`] removes them.
pub struct Kernel {
    agents: Mutex<HashMap<MapData, u64, Agent>>,
    accepted: SkStorage<MapData, ebpf_abi::Origin>,
    questions: HashMap<MapData, Question, ebpf_abi::Origin>,
    counters: PerCpuArray<MapData, u64>,
    /// This process's network namespace, the only one whose loopback the proxy is on.
    netns_cookie: u64,
    root: Root,
    proxy_v4: SocketAddrV4,
    pins: Pins,
    /// Held open so that removing a pin behind our back does not detach its program.
    _links: Vec<OwnedFd>,
    _log: log::Forwarder,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("pins", &self.pins)
            .field("proxy_v4", &self.proxy_v4)
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads and attaches the programs, or puts this version of them behind the links that an earlier daemon pinned,
    /// and proves with a probe that they fire.
    ///
    /// While links are swapped there is no moment without a program. Cgroups governed before stay governed. When it
    /// fails on a fresh pin directory, nothing stays attached; on one in use, the earlier programs do.
    ///
    /// # Errors
    /// Any [`InterceptError`] but `Cgroup` and `AgentsRunning`.
    pub fn attach(settings: &Settings) -> Result<Self, InterceptError> {
        if OBJECT.is_empty() {
            return Err(InterceptError::NoObject);
        }
        let routes = settings.routes()?;
        let root = Root::open(&settings.cgroup_root)?;
        let pins = Pins::open(&settings.pin_dir)?;
        let fresh = pins.is_empty()?;
        let netns_cookie = netns_cookie()?;
        match load(&routes, &root, &pins) {
            Ok(loaded) => {
                let kernel = Self {
                    agents: Mutex::new(loaded.agents),
                    accepted: loaded.accepted,
                    questions: loaded.questions,
                    counters: loaded.counters,
                    netns_cookie,
                    root,
                    proxy_v4: settings.proxy_v4,
                    pins,
                    _links: loaded.links,
                    _log: loaded.log,
                };
                match kernel.probe() {
                    Ok(()) => Ok(kernel),
                    Err(error) => Err(clean_up(fresh, &kernel.pins, error)),
                }
            }
            Err(error) => Err(clean_up(fresh, &pins, error)),
        }
    }

    /// Has a child process in a governed cgroup try what must be refused.
    ///
    /// # Errors
    /// [`InterceptError::Probe`] names what was allowed.
    pub fn probe(&self) -> Result<(), InterceptError> {
        let cgroup = ProbeCgroup::create(self.root.path())?;
        self.govern(cgroup.id(), RunId(Ulid::nil()))?;
        let outcome = cgroup.run(self.proxy_v4);
        self.release(cgroup.id())?;
        outcome
    }

    /// From now on, everything in and below this cgroup belongs to `run`. A second call replaces the run.
    ///
    /// # Errors
    /// [`InterceptError::Cgroup`] when there is no such cgroup, it is the root or too deep, this process is in it, or too
    /// many are governed.
    pub fn govern(&self, cgroup: u64, run: RunId) -> Result<(), InterceptError> {
        let refuse = |why: String| InterceptError::Cgroup { id: cgroup, why };
        let path = self.root.locate(cgroup).map_err(|error| refuse(error.to_string()))?;
        let path = path.ok_or_else(|| refuse("it does not exist".into()))?;
        let depth = path.components().count();
        let deepest = usize::try_from(CGROUP_LEVELS_MAX).unwrap_or(usize::MAX);
        if !(1..=deepest).contains(&depth) {
            return Err(refuse(format!("it is {depth} levels below the root, not 1 to {deepest}")));
        }
        if cgroup::own().is_some_and(|own| own.starts_with(&path)) {
            return Err(refuse("this daemon is in it, and would connect to itself".into()));
        }
        self.agents()
            .insert(cgroup, Agent { run: run.0.to_bytes() }, 0)
            .map_err(|error| refuse(format!("the kernel did not take it: {error}")))
    }

    /// Ends the governance of a cgroup. Sockets made under it stay unusable. No error if it was not governed.
    ///
    /// # Errors
    /// [`InterceptError::Kernel`] when the map cannot be written.
    pub fn release(&self, cgroup: u64) -> Result<(), InterceptError> {
        match self.agents().remove(&cgroup) {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(InterceptError::kernel("write AGENTS", error)),
        }
    }

    /// Every governed cgroup, including those of an earlier daemon.
    ///
    /// # Errors
    /// [`InterceptError::Kernel`] when the map cannot be read.
    pub fn governed(&self) -> Result<Vec<(u64, RunId)>, InterceptError> {
        self.agents()
            .iter()
            .map(|entry| entry.map(|(cgroup, agent)| (cgroup, RunId(Ulid::from_bytes(agent.run)))))
            .collect::<Result<_, _>>()
            .map_err(|error| InterceptError::kernel("read AGENTS", error))
    }

    /// Where an accepted connection came from and was going. On any error the caller closes it.
    ///
    /// # Errors
    /// [`OriginError::Missing`] when no agent opened it, [`OriginError::Kernel`] when the kernel cannot say.
    pub fn origin(&self, accepted: &impl AsFd) -> Result<Origin, OriginError> {
        match self.accepted.get(&accepted.as_fd().as_raw_fd(), 0) {
            // Every origin has a governing cgroup; the kernel makes the storage a moment before it fills it.
            Ok(raw) if raw.governed_by == 0 => Err(OriginError::Missing),
            Ok(raw) => Ok(Origin::from(&raw)),
            Err(error) if is_missing(&error) => Err(OriginError::Missing),
            Err(error) => Err(OriginError::Kernel(error)),
        }
    }

    /// Who sent the DNS question with this id that the proxy's UDP socket got from `from`. On any error the caller drops
    /// it.
    ///
    /// # Errors
    /// As [`Kernel::origin`].
    pub fn asker(&self, from: SocketAddr, id: u16) -> Result<Origin, OriginError> {
        let client = origin::endpoint(from);
        match self.questions.get(&Question { client, id: id.into() }, 0) {
            // Another namespace's loopback has the same addresses, and nothing to do with this socket.
            Ok(raw) if raw.netns_cookie != self.netns_cookie => Err(OriginError::Missing),
            Ok(raw) => Ok(Origin::from(&raw)),
            Err(error) if is_missing(&error) => Err(OriginError::Missing),
            Err(error) => Err(OriginError::Kernel(error)),
        }
    }

    /// Every program, and whether its link is still pinned: without the pin it would go with this process.
    #[must_use]
    pub fn hooks(&self) -> Vec<(&'static str, bool)> {
        PROGRAMS.iter().map(|name| (*name, self.pins.link(name).exists())).collect()
    }

    /// What the kernel side has counted since it was first attached.
    ///
    /// # Errors
    /// [`InterceptError::Kernel`] when the map cannot be read.
    pub fn counters(&self) -> Result<Counters, InterceptError> {
        let read = |counter: Counter| {
            let per_cpu = self.counters.get(&(counter as u32), 0);
            let per_cpu = per_cpu.map_err(|error| InterceptError::kernel("read COUNTERS", error))?;
            Ok(per_cpu.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)))
        };
        Ok(Counters {
            redirected: read(Counter::Redirected)?,
            identified: read(Counter::Identified)?,
            unidentified: read(Counter::Unidentified)?,
            proxy_dial_refused: read(Counter::ProxyDialRefused)?,
            protocol_refused: read(Counter::ProtocolRefused)?,
            datagram_refused: read(Counter::DatagramRefused)?,
            bind_refused: read(Counter::BindRefused)?,
            egress_dropped: read(Counter::EgressDropped)?,
            orphan_refused: read(Counter::OrphanRefused)?,
            storage_refused: read(Counter::StorageRefused)?,
            handshakes_full: read(Counter::HandshakesFull)?,
            question_redirected: read(Counter::QuestionRedirected)?,
            question_unidentified: read(Counter::QuestionUnidentified)?,
        })
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<MapData, u64, Agent>> {
        // The map is the kernel's; a panic elsewhere cannot have left it half written.
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Totals over all CPUs; see [`Counter`] for what each means. The probe of [`Kernel::attach`] counts, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the names are those of `ebpf_abi::Counter`, which documents them")]
pub struct Counters {
    pub redirected: u64,
    pub identified: u64,
    pub unidentified: u64,
    pub proxy_dial_refused: u64,
    pub protocol_refused: u64,
    pub datagram_refused: u64,
    pub bind_refused: u64,
    pub egress_dropped: u64,
    pub orphan_refused: u64,
    pub storage_refused: u64,
    pub handshakes_full: u64,
    pub question_redirected: u64,
    pub question_unidentified: u64,
}

/// Why the kernel side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// The binary was built without the kernel programs.
    #[error("this binary has no kernel programs in it: run `cargo xtask build-ebpf`, then build it again")]
    NoObject,
    /// An address cannot be used as asked.
    #[error("{0}")]
    Settings(String),
    /// The host has no cgroup v2, or the configured root is not one.
    #[error("no cgroup v2 tree: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`) or boot with one")]
    NoCgroup2,
    /// Another daemon uses the pin directory.
    #[error("{} is in use by another portcullis: stop that one first, or configure another pin directory", .0.display())]
    Busy(PathBuf),
    /// The pins are of another version.
    #[error("{0}: end the runs of that version, then `portcullis detach`")]
    Layout(String),
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A BPF operation failed.
    #[error("cannot {what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why not; for a program that was refused, with the verifier's log.
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// A cgroup cannot be governed.
    #[error("cannot govern cgroup {id}: {why}")]
    Cgroup {
        /// Its id.
        id: u64,
        /// Why not.
        why: String,
    },
    /// The programs are attached and yet do not refuse what they must.
    #[error("the kernel programs do not take effect: {0} was allowed in a governed cgroup")]
    Probe(String),
    /// Agents would connect directly if the programs went.
    #[error("{0} governed cgroups still have processes: end those runs first, or force it")]
    AgentsRunning(usize),
}

impl InterceptError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    fn kernel(what: &'static str, source: impl error::Error + Send + Sync + 'static) -> Self {
        Self::Kernel { what, source: Box::new(source) }
    }

    /// Whose fault it was: always this host's.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Portcullis
    }
}

/// Why an accepted connection has no origin. Either way it must be closed.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Not opened by an agent, or its record was lost.
    #[error("the kernel has no record of this connection")]
    Missing,
    /// The kernel could not be asked.
    #[error("cannot ask the kernel about this connection")]
    Kernel(#[source] MapError),
}

impl OriginError {
    /// Whose fault it was: a stranger's who dialled the proxy, or ours.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Missing => Side::Client,
            Self::Kernel(_) => Side::Portcullis,
        }
    }
}

struct Loaded {
    agents: HashMap<MapData, u64, Agent>,
    accepted: SkStorage<MapData, ebpf_abi::Origin>,
    questions: HashMap<MapData, Question, ebpf_abi::Origin>,
    counters: PerCpuArray<MapData, u64>,
    links: Vec<OwnedFd>,
    log: log::Forwarder,
}

fn load(routes: &Routes, root: &Root, pins: &Pins) -> Result<Loaded, InterceptError> {
    let mut loader = EbpfLoader::new();
    loader.override_global("ROUTES", routes, true);
    for (name, ..) in pins::MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut ebpf =
        loader.load(OBJECT).map_err(|error| InterceptError::kernel("load the kernel programs", error))?;
    let log = log::Forwarder::start(&mut ebpf)?;
    // All pass the verifier before the first one is put to work.
    for name in PROGRAMS {
        let program = ebpf.program_mut(name).ok_or(InterceptError::NoObject)?;
        load_program(program).map_err(|error| InterceptError::kernel("load a kernel program", error))?;
    }
    let mut links = Vec::with_capacity(PROGRAMS.len());
    for name in PROGRAMS {
        let program = ebpf.program_mut(name).ok_or(InterceptError::NoObject)?;
        links.push(attach_or_swap(program, root, &pins.link(name))?);
    }
    Ok(Loaded {
        agents: take_map(&mut ebpf, "AGENTS")?,
        accepted: take_map(&mut ebpf, "ACCEPTED")?,
        questions: take_map(&mut ebpf, "QUESTIONS")?,
        counters: take_map(&mut ebpf, "COUNTERS")?,
        links,
        log,
    })
}

fn netns_cookie() -> Result<u64, InterceptError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    socket
        .map_err(io::Error::from)
        .and_then(crate::sys::netns_cookie)
        .map_err(|error| InterceptError::kernel("tell this process's network namespace", error))
}

fn take_map<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, InterceptError> {
    let map = ebpf.take_map(name).ok_or(InterceptError::NoObject)?;
    M::try_from(map).map_err(|error| InterceptError::kernel("use a map of the kernel programs", error))
}

/// Returns the link. Attaching first and removing the old one later would run both for a while, the second seeing
/// addresses that the first has rewritten.
fn attach_or_swap(program: &mut Program, root: &Root, pin: &Path) -> Result<OwnedFd, InterceptError> {
    match sys::bpf_obj_get(pin) {
        Ok(link) => {
            let program =
                program.fd().map_err(|error| InterceptError::kernel("use a kernel program", error))?;
            sys::bpf_link_update(link.as_fd(), program.as_fd())
                .map_err(|source| InterceptError::io("swap the program behind", pin, source))?;
            Ok(link)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            attach_program(program, root)
                .map_err(|error| InterceptError::kernel("attach a kernel program", error))?
                .pin(pin)
                .map_err(|error| InterceptError::kernel("pin a link", error))?;
            sys::bpf_obj_get(pin).map_err(|source| InterceptError::io("open", pin, source))
        }
        Err(source) => Err(InterceptError::io("open", pin, source)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "aya's enum of all program types, of which we have four")]
fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// `Single` is the mode the kernel accepts on the link path, where other tools' programs run beside ours anyway.
#[expect(clippy::wildcard_enum_match_arm, reason = "as in `load_program`")]
fn attach_program(program: &mut Program, root: &Root) -> Result<FdLink, ProgramError> {
    let mode = CgroupAttachMode::Single;
    let link = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(root, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSock(program) => {
            let id = program.attach(root, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSkb(program) => {
            let id = program.attach(root, CgroupSkbAttachType::Egress, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::SockOps(program) => {
            let id = program.attach(root, mode)?;
            program.take_link(id)?.try_into()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    // Fails on kernels without links, which are below our floor.
    link.map_err(|_error: LinkError| ProgramError::NotAttached)
}

/// Removes what a failed first attach left, and passes its error on.
fn clean_up(fresh: bool, pins: &Pins, error: InterceptError) -> InterceptError {
    if fresh && let Err(left) = pins.remove() {
        tracing::error!(error = %left, "cannot remove the pins of a failed start");
    }
    error
}

fn is_missing(error: &MapError) -> bool {
    let no_entry = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    matches!(error, MapError::KeyNotFound)
        || matches!(error, MapError::SyscallError(error) if no_entry(&error.io_error))
}
