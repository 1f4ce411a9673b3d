//! Where an accepted connection came from and where it was going, as the kernel recorded it.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ebpf_abi::{Address, Endpoint};
use ulid::Ulid;

use super::argv::without_secrets;
use crate::flow::{OriginalDst, Process, RunId};
use crate::limits::ARGV_BYTES_MAX;

/// The kernel's record of one redirected `connect(2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The run that governs the connection.
    pub run: RunId,
    /// Where the process wanted to go.
    pub destination: OriginalDst,
    /// Who called `connect(2)`. Only what the kernel attests; [`describe`] adds what `/proc` says.
    pub process: Process,
    /// The calling thread.
    pub tid: u32,
    /// The cgroup the process was in.
    pub cgroup: u64,
    /// The governed cgroup: an ancestor of `cgroup`, or the one the socket was made in.
    pub governed_by: u64,
    /// The client socket's cookie (`SO_COOKIE`).
    pub socket_cookie: u64,
    /// The client's network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// When, on the boot-time clock.
    pub since_boot: Duration,
}

impl From<&ebpf_abi::Origin> for Origin {
    fn from(raw: &ebpf_abi::Origin) -> Self {
        let name = raw.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        Self {
            run: RunId(Ulid::from_bytes(raw.run)),
            destination: OriginalDst(socket_addr(raw.destination)),
            process: Process {
                tgid: raw.tgid,
                uid: raw.uid,
                gid: raw.gid,
                comm: String::from_utf8_lossy(name).into_owned(),
                exe: None,
                argv: Vec::new(),
            },
            tid: raw.tid,
            cgroup: raw.cgroup,
            governed_by: raw.governed_by,
            socket_cookie: raw.socket_cookie,
            netns_cookie: raw.netns_cookie,
            since_boot: Duration::from_nanos(raw.boot_ns),
        }
    }
}

/// Adds what `/proc` says of the process: executable and command line. Best effort, and decoration only: the process
/// may be gone, may have executed something else since, and chooses its own command line.
pub fn describe(process: &mut Process) {
    let proc = format!("/proc/{}", process.tgid);
    process.exe = fs::read_link(format!("{proc}/exe")).ok();
    let mut text = Vec::new();
    let limit = u64::try_from(ARGV_BYTES_MAX).unwrap_or(u64::MAX);
    let read =
        fs::File::open(format!("{proc}/cmdline")).and_then(|file| file.take(limit).read_to_end(&mut text));
    if read.is_ok() {
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        process.argv = text
            .split(|byte| *byte == 0)
            .map(|word| without_secrets(&String::from_utf8_lossy(word)))
            .collect();
    }
}

/// The kernel side's spelling of an address; IPv4-mapped ones are IPv4 again.
fn socket_addr(endpoint: Endpoint) -> SocketAddr {
    let Address([first, second, third, fourth]) = endpoint.address;
    let mut octets = [0; 16];
    for (to, word) in octets.chunks_exact_mut(4).zip([first, second, third, fourth]) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    // The kernel side keeps a port in a word for alignment; it only ever stores 16 bits.
    let port = u16::try_from(endpoint.port).unwrap_or_default();
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(), port)
}

/// The other way round.
pub(super) fn endpoint(address: SocketAddr) -> Endpoint {
    let octets = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    for (word, from) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*from);
    }
    Endpoint { address: Address(words), port: address.port().into() }
}

#[cfg(test)]
mod tests {
    use super::{Origin, describe, endpoint, socket_addr};
    use crate::flow::Process;
    use std::net::SocketAddr;

    #[test]
    fn addresses_survive_the_kernel_spelling() {
        for text in ["127.0.0.1:5432", "10.1.2.3:1", "[::1]:65535", "[2001:db8::7]:443", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_addr(endpoint(address)), address, "{text}");
        }
    }

    #[test]
    fn mapped_addresses_come_out_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:127.9.9.9]:80".parse().unwrap();
        assert_eq!(socket_addr(endpoint(mapped)), "127.9.9.9:80".parse().unwrap());
    }

    #[test]
    fn the_task_name_ends_at_its_first_zero() {
        let raw = ebpf_abi::Origin { comm: *b"psql\0old-name\0\0\0", ..Default::default() };
        assert_eq!(Origin::from(&raw).process.comm, "psql");
    }

    #[test]
    fn proc_adds_the_executable_and_arguments_of_this_test() {
        let mut process = Process { tgid: std::process::id(), ..Process::default() };
        describe(&mut process);
        assert_eq!(process.exe, std::env::current_exe().ok());
        assert_eq!(process.argv, std::env::args().collect::<Vec<_>>());
    }

    #[test]
    fn a_process_that_is_gone_stays_undescribed() {
        let mut process = Process { tgid: u32::MAX, ..Process::default() };
        describe(&mut process);
        assert_eq!(process, Process { tgid: u32::MAX, ..Process::default() });
    }
}
