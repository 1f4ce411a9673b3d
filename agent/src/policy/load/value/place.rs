//! Places: hosts, addresses, networks and ports.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::policy::diagnostic::quoted;
use crate::policy::load::table::Word;
use crate::policy::rule::Destination;

impl Word for Destination {
    const WHAT: &'static str = "a destination such as \"db.internal:5432\"";

    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        let port = match port {
            "*" => None,
            port => Some(port_number(text, port)?),
        };
        if let Some((address, prefix)) = host.split_once('/') {
            return network(text, address, prefix, port);
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = address.to_canonical();
            return Ok(Self::Network { address, prefix: width(address), port });
        }
        host_name(text, host).map(|name| Self::Host { name, port })
    }

    fn pattern() -> Value {
        json!({ "pattern": "^.+:([0-9]{1,5}|\\*)$" })
    }
}

/// `upstream.address`: one host and one port.
pub(in crate::policy::load) struct HostPort(pub(in crate::policy::load) String);

impl Word for HostPort {
    const WHAT: &'static str = "an address such as \"db.internal:5432\"";

    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        port_number(text, port)?;
        if host.contains('/') {
            return Err(format!(
                "{} is a network; one server is dialled, so write its address",
                quoted(text)
            ));
        }
        if host.parse::<IpAddr>().is_err() {
            host_name(text, host)?;
        }
        Ok(Self(text.to_owned()))
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[^/]+:[0-9]{1,5}$" })
    }
}

/// Host and port of `host:port` or `[v6]:port`, brackets removed.
fn split_port(text: &str) -> Result<(&str, &str), String> {
    let missing = || {
        format!(
            "{} has no port; write \"{}:5432\", or \":*\" for every port",
            quoted(text),
            text.escape_debug()
        )
    };
    if text.contains("//") {
        return Err(format!(
            "{} is a URL; write only host and port, such as \"db.internal:5432\"",
            quoted(text)
        ));
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:").ok_or_else(|| {
            format!("{} does not close its bracket before the port; write \"[::1]:5432\"", quoted(text))
        });
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(missing)?;
    if host.contains(':') {
        return Err(format!("{} is an IPv6 address; put it in brackets: \"[::1]:5432\"", quoted(text)));
    }
    if host.is_empty() {
        return Err(format!("{} names no host; write 0.0.0.0/0 and [::/0] for every address", quoted(text)));
    }
    if port.is_empty() { Err(missing()) } else { Ok((host, port)) }
}

fn port_number(text: &str, port: &str) -> Result<u16, String> {
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        Ok(_) | Err(_) => Err(format!("{}: {} is not a TCP port (1 to 65535)", quoted(text), quoted(port))),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn network(text: &str, address: &str, prefix: &str, port: Option<u16>) -> Result<Destination, String> {
    let address: IpAddr =
        address.parse().map_err(|_| format!("{}: {} is not an IP address", quoted(text), quoted(address)))?;
    let width = width(address);
    let prefix = match prefix.parse::<u8>() {
        Ok(prefix) if prefix <= width => prefix,
        Ok(_) | Err(_) => {
            return Err(format!(
                "{}: {} is not a prefix length (0 to {width})",
                quoted(text),
                quoted(prefix)
            ));
        }
    };
    let base = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
            IpAddr::from((v4.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Err(format!("{} is IPv4 in IPv6 clothes; write the IPv4 network", quoted(text)));
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
            IpAddr::from((v6.to_bits() & mask).to_be_bytes())
        }
    };
    if base != address {
        return Err(format!(
            "{} has bits set beyond its prefix; did you mean \"{base}/{prefix}\"?",
            quoted(text)
        ));
    }
    Ok(Destination::Network { address, prefix, port })
}

/// A host name in lower case (RFC 1123 labels, and the underscores that internal names have).
fn host_name(text: &str, host: &str) -> Result<String, String> {
    if host.contains('*') {
        return Err(format!(
            "{}: host names are looked up, so they have no wildcards; write a network such as 10.0.0.0/8",
            quoted(text)
        ));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let looks_numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if host.len() > 253 || looks_numeric || !host.split('.').all(label_is_valid) {
        return Err(format!("{}: {} is neither a host name nor an IP address", quoted(text), quoted(host)));
    }
    Ok(host.to_ascii_lowercase())
}

/// `server_name =`: a host name without a port.
pub(in crate::policy::load) struct HostName(pub(in crate::policy::load) String);

impl Word for HostName {
    const WHAT: &'static str = "a host name";

    fn parse(text: &str) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        host_name(text, text).map(Self)
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[^:/*]+$" })
    }
}
