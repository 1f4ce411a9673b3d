//! Who is at the other end of a connection to the page, as far as this host can tell: no agent, and not this daemon, which
//! connects for agents. The kernel redirects agents' connections and the gate refuses them; this is what is left: sockets
//! from before a process was governed, and names that a policy lets lead here.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::gate::is_of_this_host;
use crate::run::{Runs, cgroup};

/// Whether a connection may be served. One of this host whose owner cannot be told may not.
pub(super) async fn may_come(tcp: &TcpStream, runs: &Arc<Runs>) -> bool {
    let (Ok(peer), Ok(local)) = (tcp.peer_addr(), tcp.local_addr()) else { return false };
    let (peer, local) = (canonical(peer), canonical(local));
    if !is_of_this_host(peer.ip()) {
        return true;
    }
    let runs = Arc::clone(runs);
    let looked = tokio::task::spawn_blocking(move || {
        let inode = inode_of(peer, local)?;
        Ok::<_, io::Error>(inode.filter(|inode| !is_an_agents(*inode, &runs)).is_some())
    });
    match looked.await {
        Ok(Ok(true)) => true,
        Ok(Ok(false)) => {
            tracing::warn!(%peer, "an agent, or somebody who cannot be told, tried to reach the approvals page");
            false
        }
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "cannot tell who comes to the approvals page");
            false
        }
        Err(_broken) => false,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The inode of the socket at the other end, from `/proc/net/tcp` and `tcp6` (proc(5)).
fn inode_of(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        let found = text.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (own, other) = (parse(fields.next()?)?, parse(fields.next()?)?);
            let inode = fields.nth(6)?.parse().ok()?;
            (own == peer && other == local).then_some(inode)
        });
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// An address as the kernel prints it: words of four bytes in the host's order, then the port.
fn parse(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = std::str::from_utf8(word).ok().filter(|word| word.len() == 8)?;
        let word = u32::from_str_radix(word, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// Whether this daemon, or a process of a governed cgroup, has this socket.
fn is_an_agents(inode: u64, runs: &Runs) -> bool {
    if holds(Path::new("/proc/self/fd"), inode) {
        return true;
    }
    // Not every process may be looked at, and those that end meanwhile hold nothing.
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| cgroup::of_process(*pid).is_ok_and(|cgroup| runs.is_agent(&cgroup)))
        .any(|pid| holds(Path::new(&format!("/proc/{pid}/fd")), inode))
}

fn holds(folder: &Path, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(folder).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str().as_bytes() == wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_found_and_is_ours() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own connection")]
        let client = TcpStream::connect(local).await.unwrap();
        let inode = inode_of(client.local_addr().unwrap(), local).unwrap().unwrap();
        assert!(holds(Path::new("/proc/self/fd"), inode), "the daemon's own connections are seen as such");
        assert!(!holds(Path::new("/proc/self/fd"), inode + 1_000_000_000));
        assert_eq!(inode_of("127.0.0.1:1".parse().unwrap(), local).unwrap(), None);
    }

    #[test]
    fn the_kernels_addresses_are_read() {
        for (text, expected) in [
            ("0100007F:20FB", Some("127.0.0.1:8443")),
            ("0000000000000000FFFF00000100007F:0050", Some("127.0.0.1:80")),
            ("00000000000000000000000001000000:0050", Some("[::1]:80")),
            ("01:0050", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }
}
