//! Proof that the programs fire: a child in a governed cgroup tries what must be refused.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, ipproto};

use super::InterceptError;
use crate::sys::bpf as sys;

/// One thing the child tries. The value is its bit in the child's exit code, set when it was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Attempt {
    Create = 1 << 0,
    Connect4 = 1 << 1,
    Send4 = 1 << 2,
    Bind4 = 1 << 3,
    Connect6 = 1 << 4,
    Send6 = 1 << 5,
    Bind6 = 1 << 6,
}

const ATTEMPTS: [Attempt; 7] = [
    Attempt::Create,
    Attempt::Connect4,
    Attempt::Send4,
    Attempt::Bind4,
    Attempt::Connect6,
    Attempt::Send6,
    Attempt::Bind6,
];

/// The child could not even move into its cgroup.
const OUTSIDE: u8 = 1 << 7;

/// A cgroup is busy for a moment after its last process was reaped.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "socket(2) of another protocol than TCP and UDP",
            Self::Connect4 => "connect(2) to the proxy over IPv4",
            Self::Send4 => "sendto(2) over IPv4",
            Self::Bind4 => "bind(2) to the proxy's port over IPv4",
            Self::Connect6 => "connect(2) to the proxy over IPv6",
            Self::Send6 => "sendto(2) over IPv6",
            Self::Bind6 => "bind(2) to the proxy's port over IPv6",
        })
    }
}

/// A cgroup for the probe alone, removed when dropped.
#[derive(Debug)]
pub(super) struct ProbeCgroup {
    path: PathBuf,
    id: u64,
}

impl ProbeCgroup {
    pub(super) fn create(root: &Path) -> Result<Self, InterceptError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("portcullis-probe-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|source| InterceptError::io("make", &path, source))?;
        let id = fs::metadata(&path).map_err(|source| InterceptError::io("inspect", &path, source))?.ino();
        Ok(Self { path, id })
    }

    /// Its id, which is its directory's inode number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Runs the child. The cgroup must be governed.
    pub(super) fn run(&self, proxy: SocketAddrV4) -> Result<(), InterceptError> {
        let procs = self.path.join("cgroup.procs");
        let file = OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(|source| InterceptError::io("open", &procs, source))?;
        let code = sys::in_forked_child(&(file, proxy), attempt_all)
            .map_err(|source| InterceptError::io("run a probe in", &self.path, source))?;
        if code == 0 {
            return Ok(());
        }
        if code & OUTSIDE != 0 {
            let why = io::Error::other("the probe could not enter its cgroup");
            return Err(InterceptError::io("enter", &self.path, why));
        }
        let allowed: Vec<String> =
            ATTEMPTS.iter().filter(|attempt| code & **attempt as u8 != 0).map(ToString::to_string).collect();
        Err(InterceptError::Probe(allowed.join(", ")))
    }
}

impl Drop for ProbeCgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVE_PAUSE),
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot remove the probe's cgroup");
                    return;
                }
            }
        }
    }
}

/// Runs in the child: system calls only (rustix makes them without libc), no allocation.
fn attempt_all((procs, proxy): &(File, SocketAddrV4)) -> u8 {
    if rustix::io::write(procs, b"0") != Ok(1) {
        return OUTSIDE;
    }
    let port = proxy.port();
    let v4 = SocketAddr::V4(*proxy);
    let mapped = SocketAddr::V6(SocketAddrV6::new(proxy.ip().to_ipv6_mapped(), port, 0, 0));
    let v4_any = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let v6_any = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0));
    ATTEMPTS.into_iter().fold(0, |code, attempt| {
        let outcome = match attempt {
            Attempt::Create => create(),
            Attempt::Connect4 => connect(v4),
            Attempt::Connect6 => connect(mapped),
            Attempt::Send4 => send(v4_any),
            Attempt::Send6 => send(v6_any),
            Attempt::Bind4 => bind(v4_any),
            Attempt::Bind6 => bind(v6_any),
        };
        // A host without IPv6 or UDP-Lite has nothing to refuse there.
        let refused = matches!(outcome, Err(Errno::PERM | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT));
        if refused { code } else { code | attempt as u8 }
    })
}

fn create() -> Result<(), Errno> {
    rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDPLITE)).map(drop)
}

fn connect(to: SocketAddr) -> Result<(), Errno> {
    let socket = socket(to, SocketType::STREAM, ipproto::TCP)?;
    rustix::net::connect(&socket, &to)
}

fn send(to: SocketAddr) -> Result<(), Errno> {
    let socket = socket(to, SocketType::DGRAM, ipproto::UDP)?;
    rustix::net::sendto(&socket, b"probe", SendFlags::empty(), &to).map(drop)
}

fn bind(at: SocketAddr) -> Result<(), Errno> {
    let socket = socket(at, SocketType::STREAM, ipproto::TCP)?;
    rustix::net::bind(&socket, &at)
}

fn socket(address: SocketAddr, kind: SocketType, protocol: Protocol) -> Result<rustix::fd::OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    rustix::net::socket(family, kind, Some(protocol))
}
