//! What outlives the daemon: links and maps pinned below the pin directory, one directory per layout.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapInfo};
use ebpf_abi::{
    AGENTS_MAX, Agent, COUNTERS, HANDSHAKES_MAX, Handshake, LAYOUT, QUESTIONS_MAX, Question, Socket,
};
use rustix::fs::FlockOperation;
use rustix::mount::MountFlags;

use super::InterceptError;
use super::cgroup::{Root, cgroup2_root};
use crate::sys::bpf as sys;

/// Where distributions mount the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// Tells pinned links from pinned maps.
const LINK_PREFIX: &str = "link_";

/// Mode of every directory we make there: whoever may open a pin may edit or detach what it names.
const PRIVATE: u32 = 0o700;

/// Name, key size, value size and entries of every map that a restarted daemon takes over.
pub(super) const MAPS: [(&str, usize, usize, usize); 6] = [
    ("AGENTS", size_of::<u64>(), size_of::<Agent>(), AGENTS_MAX),
    ("SOCKETS", size_of::<i32>(), size_of::<Socket>(), 0),
    ("ACCEPTED", size_of::<i32>(), size_of::<ebpf_abi::Origin>(), 0),
    ("HANDSHAKES", size_of::<Handshake>(), size_of::<ebpf_abi::Origin>(), HANDSHAKES_MAX),
    ("QUESTIONS", size_of::<Question>(), size_of::<ebpf_abi::Origin>(), QUESTIONS_MAX),
    ("COUNTERS", size_of::<u32>(), size_of::<u64>(), COUNTERS),
];

/// What [`detach`] does about agents that are still running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Refuse: without the programs they would connect directly.
    IfIdle,
    /// Let them go.
    Force,
}

/// The pin directory, held exclusively.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    /// Two daemons on one directory would swap each other's programs; the lock ends with this value or its process.
    _lock: Lock,
}

/// An exclusive lock on a directory.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that was just forked and has not yet executed its program.
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock a directory");
        }
    }
}

impl Pins {
    /// Opens or makes the directory, and refuses what another layout left there.
    pub(super) fn open(pin_dir: &Path) -> Result<Self, InterceptError> {
        ensure_bpffs(pin_dir)?;
        make_private(pin_dir)?;
        let lock = lock(pin_dir)?;
        let ours = layout_name();
        for entry in entries(pin_dir)? {
            if entry != pin_dir.join(&ours) {
                let found = entry.display();
                return Err(InterceptError::Layout(format!(
                    "{found} is of another version (this is {ours})"
                )));
            }
        }
        let directory = pin_dir.join(ours);
        make_private(&directory)?;
        let pins = Self { directory, _lock: lock };
        pins.check_maps()?;
        Ok(pins)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{program}"))
    }

    /// Whether nothing is pinned yet.
    pub(super) fn is_empty(&self) -> Result<bool, InterceptError> {
        Ok(entries(&self.directory)?.is_empty())
    }

    /// Removes everything and the directories themselves.
    pub(super) fn remove(&self) -> Result<(), InterceptError> {
        remove_layout(&self.directory)?;
        match self.directory.parent() {
            Some(pin_dir) => remove_directory(pin_dir),
            None => Ok(()),
        }
    }

    /// A map of another size under our layout's name was not made by this version, whatever it says.
    fn check_maps(&self) -> Result<(), InterceptError> {
        for (name, key, value, entries) in MAPS {
            let path = self.map(name);
            if !path.exists() {
                continue;
            }
            let info = MapInfo::from_pin(&path)
                .map_err(|error| InterceptError::kernel("inspect a pinned map", error))?;
            let found = [info.key_size(), info.value_size(), info.max_entries()];
            let wanted = [key, value, entries].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
            if found != wanted {
                let at = path.display();
                return Err(InterceptError::Layout(format!(
                    "{at} has sizes {found:?} where {wanted:?} belong"
                )));
            }
        }
        Ok(())
    }
}

/// Removes links and maps of any version below `pin_dir`, and the directory. Nothing there is no error.
///
/// # Errors
/// [`InterceptError::Busy`] while a daemon holds the directory, [`InterceptError::AgentsRunning`] under
/// [`Detach::IfIdle`].
pub fn detach(pin_dir: &Path, detach: Detach) -> Result<(), InterceptError> {
    if !pin_dir.exists() {
        return Ok(());
    }
    let _lock = lock(pin_dir)?;
    match detach {
        Detach::Force => {}
        Detach::IfIdle => match agents_running(&pin_dir.join(layout_name()).join("AGENTS"))? {
            0 => {}
            running => return Err(InterceptError::AgentsRunning(running)),
        },
    }
    for layout in entries(pin_dir)? {
        remove_layout(&layout)?;
    }
    remove_directory(pin_dir)
}

/// How many governed cgroups still have processes in them.
fn agents_running(map: &Path) -> Result<usize, InterceptError> {
    if !map.exists() {
        return Ok(0);
    }
    let data = aya::maps::MapData::from_pin(map)
        .map_err(|error| InterceptError::kernel("open a pinned map", error))?;
    let agents: HashMap<_, u64, Agent> = HashMap::try_from(Map::HashMap(data))
        .map_err(|error| InterceptError::kernel("read AGENTS", error))?;
    let root = Root::open(&cgroup2_root()?)?;
    let mut running = 0;
    for id in agents.keys() {
        let id = id.map_err(|error| InterceptError::kernel("read AGENTS", error))?;
        let located = root
            .locate(id)
            .map_err(|source| InterceptError::io("find a cgroup below", root.path(), source))?;
        let Some(cgroup) = located else { continue };
        let events = root.path().join(cgroup).join("cgroup.events");
        match fs::read_to_string(&events) {
            Ok(text) if text.lines().any(|line| line == "populated 0") => {}
            Ok(_) => running += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(InterceptError::io("read", &events, source)),
        }
    }
    Ok(running)
}

/// Makes sure `path` will be on a BPF file system, mounting it at its usual place if nobody did.
///
/// # Errors
/// [`InterceptError::Io`] when it is not and cannot be.
pub fn ensure_bpffs(path: &Path) -> Result<(), InterceptError> {
    if is_on_bpffs(path)? {
        return Ok(());
    }
    if path.starts_with(BPFFS) {
        mount_bpffs(path)?;
        if is_on_bpffs(path)? {
            return Ok(());
        }
    }
    let why = io::Error::other(format!("not on a BPF file system; choose a directory below {BPFFS}"));
    Err(InterceptError::io("pin below", path, why))
}

/// Mounts once, however many daemons find it missing at the same time: a second mount would hide the pins of the first.
fn mount_bpffs(path: &Path) -> Result<(), InterceptError> {
    let at = Path::new(BPFFS);
    let io = |source: rustix::io::Errno| InterceptError::io("mount a BPF file system at", at, source.into());
    let directory = File::open(at).map_err(|source| InterceptError::io("open", at, source))?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive).map_err(io)?;
    let _lock = Lock(directory);
    if is_on_bpffs(path)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", at, "bpf", flags, None).map_err(io)
}

fn is_on_bpffs(path: &Path) -> Result<bool, InterceptError> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let filesystem = rustix::fs::statfs(existing)
        .map_err(|source| InterceptError::io("inspect", existing, source.into()))?;
    Ok(filesystem.f_type == BPFFS_MAGIC)
}

fn layout_name() -> String {
    format!("v{LAYOUT}")
}

fn make_private(directory: &Path) -> Result<(), InterceptError> {
    match DirBuilder::new().mode(PRIVATE).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(InterceptError::io("make", directory, source)),
    }
    let found =
        fs::symlink_metadata(directory).map_err(|source| InterceptError::io("inspect", directory, source))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        let why = io::Error::other("must be a directory that only its owner, this user, may open");
        return Err(InterceptError::io("use", directory, why));
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<Lock, InterceptError> {
    let file = File::open(directory).map_err(|source| InterceptError::io("open", directory, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(InterceptError::Busy(directory.to_owned())),
        Err(source) => Err(InterceptError::io("lock", directory, source.into())),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, InterceptError> {
    fs::read_dir(directory)
        .and_then(|listing| listing.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| InterceptError::io("list", directory, source))
}

fn remove_layout(directory: &Path) -> Result<(), InterceptError> {
    for pin in entries(directory)? {
        if pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(LINK_PREFIX.as_bytes())) {
            sys::bpf_obj_get(&pin)
                .and_then(|link| sys::bpf_link_detach(link.as_fd()))
                .map_err(|source| InterceptError::io("detach", &pin, source))?;
        }
        fs::remove_file(&pin).map_err(|source| InterceptError::io("remove", &pin, source))?;
    }
    remove_directory(directory)
}

fn remove_directory(directory: &Path) -> Result<(), InterceptError> {
    fs::remove_dir(directory).map_err(|source| InterceptError::io("remove", directory, source))
}
