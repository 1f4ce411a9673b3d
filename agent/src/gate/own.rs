//! The gate's own approvals page, which no agent may reach, whatever its policy says: whoever could answer there decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

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
        address => address,
    };
    if listens.is_unspecified() { is_of_this_host(wanted) } else { listens == wanted }
}

/// Only an address of this host can be bound to.
fn is_of_this_host(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
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
