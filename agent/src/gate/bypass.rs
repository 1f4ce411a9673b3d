//! Ways around the host's resolver: DNS over TLS, and DNS over HTTPS at the well-known places.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

/// Port of DNS over TLS (RFC 7858 section 3.1).
pub(super) const DNS_OVER_TLS_PORT: u16 = 853;

/// Port of HTTPS.
const HTTPS_PORT: u16 = 443;

struct Known {
    names: HashSet<&'static str>,
    addresses: HashSet<IpAddr>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let lines =
        || include_str!("bypass.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    Known {
        names: lines().filter(|line| line.parse::<IpAddr>().is_err()).collect(),
        addresses: lines().filter_map(|line| line.parse().ok()).collect(),
    }
});

/// Whether a host name (lower case, no final dot) is a well-known resolver's, or below one.
#[must_use]
pub fn is_resolver_name(name: &str) -> bool {
    let mut rest = name;
    loop {
        if KNOWN.names.contains(rest) {
            return true;
        }
        match rest.split_once('.') {
            Some((_, parent)) => rest = parent,
            None => return false,
        }
    }
}

/// Whether a destination is where a well-known resolver serves DNS over HTTPS.
pub(super) fn is_resolver(destination: SocketAddr) -> bool {
    destination.port() == HTTPS_PORT && KNOWN.addresses.contains(&destination.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_is_below_them() {
        for name in ["dns.google", "mozilla.cloudflare-dns.com", "abc123.dns.nextdns.io", "one.one.one.one"] {
            assert!(is_resolver_name(name), "{name}");
        }
        for name in ["google", "notdns.google", "cloudflare.com", "one.one.one", "", "shop.test"] {
            assert!(!is_resolver_name(name), "{name}");
        }
    }

    #[test]
    fn addresses_at_the_port_of_https() {
        for destination in ["8.8.8.8:443", "[::ffff:1.1.1.1]:443", "[2620:fe::fe]:443"] {
            assert!(is_resolver(destination.parse().unwrap()), "{destination}");
        }
        for destination in ["8.8.8.8:80", "8.8.8.9:443"] {
            assert!(!is_resolver(destination.parse().unwrap()), "{destination}");
        }
    }

    #[test]
    fn every_line_is_an_address_or_a_host_name() {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        assert!(KNOWN.names.iter().all(|name| name.contains('.') && name.bytes().all(plain)));
        assert!(KNOWN.names.len() > 40 && KNOWN.addresses.len() > 40);
    }
}
