//! The gate's own approvals page, which no agent may reach, whatever its policy says: whoever could answer there decides.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Denial;
use crate::flow::Side;

/// Whether a connection to this destination would arrive at this listener.
pub(super) fn is_at(listener: SocketAddr, destination: SocketAddr) -> bool {
    if listener.port() != destination.port() {
        return false;
    }
    let listens = listener.ip().to_canonical();
    // The kernel takes the unspecified address for loopback (ip(7)).
    let wanted = match destination.ip().to_canonical() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    };
    if listens.is_unspecified() { is_of_this_host(wanted) } else { listens == wanted }
}

/// Whether an address is one of this host's, by the kernel's tables (proc(5)). Where they cannot be read, every address is.
#[must_use]
pub fn is_of_this_host(address: IpAddr) -> bool {
    let listed = |path, is: fn(&str, IpAddr) -> bool| match fs::read_to_string(path) {
        Ok(table) => is(&table, address),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if address.is_loopback() {
        return true;
    }
    match address {
        IpAddr::V4(_) => listed("/proc/net/fib_trie", is_in_fib_trie),
        IpAddr::V6(_) => listed("/proc/net/if_inet6", is_in_if_inet6),
    }
}

/// `|-- 10.0.0.5`, and below it `/32 host LOCAL`.
fn is_in_fib_trie(table: &str, address: IpAddr) -> bool {
    let leaf = format!("|-- {address}");
    let lines = table.lines().zip(table.lines().skip(1));
    lines
        .map(|(line, below)| (line.trim(), below))
        .any(|(line, below)| line == leaf && below.contains("host LOCAL"))
}

/// 32 hex digits, then the interface.
fn is_in_if_inet6(table: &str, address: IpAddr) -> bool {
    let words = table.lines().filter_map(|line| line.split_whitespace().next());
    let mut listed = words.filter_map(|word| u128::from_str_radix(word, 16).ok()).map(Ipv6Addr::from);
    listed.any(|own| IpAddr::V6(own) == address)
}

pub(super) fn denial() -> Denial {
    Denial::new(
        Side::Policy,
        "this is where people decide about agents; no agent may connect to it",
        "wait for the decision",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Local:\n  |-- 10.0.0.5\n     /32 host LOCAL\n  |-- 10.0.0.255\n     /32 link BROADCAST\n";
        for (address, expected) in [("10.0.0.5", true), ("10.0.0.255", false), ("10.0.0.50", false)] {
            assert_eq!(is_in_fib_trie(trie, address.parse().unwrap()), expected, "{address}");
        }
        let table = "fe800000000000000000000000000001 02 40 20 80 eth0\n";
        assert!(is_in_if_inet6(table, "fe80::1".parse().unwrap()));
        assert!(!is_in_if_inet6(table, "fe80::2".parse().unwrap()));
        assert!(
            is_of_this_host("127.3.2.1".parse().unwrap()) && !is_of_this_host("192.0.2.1".parse().unwrap())
        );
    }

    #[test]
    fn every_way_to_the_listener_is_seen() {
        for (listener, destination, expected) in [
            ("127.0.0.1:8443", "127.0.0.1:8443", true),
            ("127.0.0.1:8443", "127.0.0.1:8444", false),
            ("127.0.0.1:8443", "127.0.0.2:8443", false),
            ("127.0.0.1:8443", "0.0.0.0:8443", true),
            ("127.0.0.1:8443", "[::ffff:127.0.0.1]:8443", true),
            ("[::1]:8443", "[::]:8443", true),
            ("0.0.0.0:8443", "127.7.7.7:8443", true),
            ("[::]:8443", "127.0.0.1:8443", true),
            ("0.0.0.0:8443", "192.0.2.1:8443", false),
        ] {
            let (at, to) = (listener.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(is_at(at, to), expected, "{listener} {destination}");
        }
    }
}
