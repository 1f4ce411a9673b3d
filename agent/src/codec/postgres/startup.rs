//! The untagged packets a client opens with: TLS and GSS requests, cancel requests, and the startup message.
//!
//! The limits are the server's own (`ProcessStartupPacket`, PostgreSQL source `src/backend/tcop/backend_startup.c`).

use std::collections::HashSet;
use std::fmt;

use super::error::{DecodeError, Message};
use super::fields::{Fields, Text};

/// Longest body of a startup packet, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_BODY_BYTES_MAX: usize = 10_000;

/// Request codes stand where a version would, with a major version that no protocol will have.
pub(super) const CANCEL_REQUEST: u32 = code(1234, 5678);
pub(super) const SSL_REQUEST: u32 = code(1234, 5679);
pub(super) const GSSENC_REQUEST: u32 = code(1234, 5680);

/// Length of a cancel key in bytes: always 4 in protocol 3.0, up to 256 in 3.2.
pub const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// Prefix of the names of protocol options, which are not parameters of the server.
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// First byte of a TLS record that carries a handshake (RFC 8446 §5.1). No startup packet can begin with it: the
/// first byte of an allowed length is 0.
const TLS_HANDSHAKE: u8 = 0x16;

const fn code(major: u16, minor: u16) -> u32 {
    (major as u32) << 16 | minor as u32
}

/// A protocol version as `StartupMessage` and `NegotiateProtocolVersion` carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// Major number; 3 since PostgreSQL 7.4.
    pub major: u16,
    /// Minor number.
    pub minor: u16,
}

impl ProtocolVersion {
    /// What every server since 7.4 speaks.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// PostgreSQL 18: cancel keys of up to 256 bytes. There is no 3.1.
    pub const V3_2: Self = Self { major: 3, minor: 2 };

    /// The version from its number on the wire.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self { major: (number >> 16) as u16, minor: number as u16 }
    }

    /// The full number on the wire, 0x30002 for 3.2.
    #[must_use]
    pub const fn number(self) -> u32 {
        code(self.major, self.minor)
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a client opens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupPacket<'a> {
    /// The first byte of a TLS handshake: TLS without asking (PostgreSQL 17 and later). Nothing was consumed; the TLS
    /// layer wants these bytes, and ALPN `postgresql` is required.
    DirectTls,
    /// Asks for TLS: answer one byte, `S` or `N`. Whatever else is buffered belongs to the TLS layer, or is an attack.
    SslRequest,
    /// Asks for GSSAPI encryption: answer one byte, `G` or `N`.
    GssEncRequest,
    /// Asks to cancel what another connection does. It is answered by closing.
    CancelRequest(CancelKey<'a>),
    /// Opens a session.
    Startup(StartupMessage<'a>),
}

/// What proves that a cancel request comes from the client whose connection it names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CancelKey<'a> {
    /// Process ID from `BackendKeyData`.
    pub process_id: u32,
    /// Secret from `BackendKeyData`, 4 to 256 bytes. Compare in constant time.
    pub secret_key: &'a [u8],
}

impl<'a> CancelKey<'a> {
    pub(super) fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let process_id = fields.u32("process ID")?;
        let secret_key = fields.take(fields.rest().len(), "secret key")?;
        if CANCEL_KEY_BYTES.contains(&secret_key.len()) {
            return Ok(Self { process_id, secret_key });
        }
        Err(fields.impossible("secret key length", i64::try_from(secret_key.len()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Debug for CancelKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey(process {}, {} secret bytes)", self.process_id, self.secret_key.len())
    }
}

/// The message that opens a session.
#[derive(Clone, PartialEq, Eq)]
pub struct StartupMessage<'a> {
    /// What the client asks for: major 3, any minor.
    pub version: ProtocolVersion,
    /// Names and values in the client's order, names not empty and each given once.
    pub parameters: Vec<(&'a str, &'a str)>,
}

impl fmt::Debug for StartupMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.parameters.iter().map(|(name, _)| name).collect::<Vec<_>>();
        f.debug_struct("StartupMessage").field("version", &self.version).field("names", &names).finish()
    }
}

/// How to go on after a startup message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Negotiation<'a> {
    /// Go on in this version.
    Accepted(ProtocolVersion),
    /// Say `NegotiateProtocolVersion` with these, then go on in this version. A client that cannot live with it closes.
    Negotiate {
        /// The newest version we speak that is not newer than what was asked for.
        version: ProtocolVersion,
        /// Names of the `_pq_.` options asked for, none of which we know.
        unknown_options: Vec<&'a str>,
    },
}

impl<'a> StartupMessage<'a> {
    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    /// Parameters for the server, without the `_pq_.` protocol options.
    pub fn server_parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.parameters.iter().copied().filter(|(name, _)| !name.starts_with(PROTOCOL_OPTION_PREFIX))
    }

    /// Which version to speak, and whether the client must be told that it is not what it asked for.
    ///
    /// 3.0 and 3.2 are spoken; 3.1 never existed and is served as 3.0, silently like the server does. libpq refuses an
    /// answer that names a version above the one it asked for, or 3.1, so neither is ever given.
    #[must_use]
    pub fn negotiate(&self) -> Negotiation<'a> {
        let version =
            if self.version < ProtocolVersion::V3_2 { ProtocolVersion::V3_0 } else { ProtocolVersion::V3_2 };
        let unknown_options = self
            .parameters
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| name.starts_with(PROTOCOL_OPTION_PREFIX))
            .collect::<Vec<_>>();
        if self.version <= ProtocolVersion::V3_2 && unknown_options.is_empty() {
            return Negotiation::Accepted(version);
        }
        Negotiation::Negotiate { version, unknown_options }
    }
}

/// The packet at the start of `input` and how many bytes it takes; `None` when more bytes are needed.
///
/// A client may send `GssEncRequest` and `SslRequest` once each, in either order, before the rest; the caller counts.
///
/// # Errors
/// Any [`DecodeError`] but `UnknownTag`, as soon as the bytes that show it are there.
pub fn decode(input: &[u8]) -> Result<Option<(StartupPacket<'_>, usize)>, DecodeError> {
    if input.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((StartupPacket::DirectTls, 0)));
    }
    let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let body = match (length as usize).checked_sub(4) {
        Some(body) if (4..=STARTUP_BODY_BYTES_MAX).contains(&body) => body,
        _ => {
            let max = STARTUP_BODY_BYTES_MAX as u32 + 4;
            return Err(DecodeError::Length { message: Message::Startup, length, min: 8, max });
        }
    };
    let Some(body) = rest.get(..body) else { return Ok(None) };
    let mut fields = Fields::new(Message::Startup, body);
    let packet = match fields.u32("version")? {
        SSL_REQUEST => StartupPacket::SslRequest,
        GSSENC_REQUEST => StartupPacket::GssEncRequest,
        CANCEL_REQUEST => StartupPacket::CancelRequest(CancelKey::read(&mut fields)?),
        number => match ProtocolVersion::from_number(number) {
            version @ ProtocolVersion { major: 3, .. } => {
                StartupPacket::Startup(StartupMessage { version, parameters: parameters(&mut fields)? })
            }
            ProtocolVersion { major, minor } => return Err(DecodeError::Version { major, minor }),
        },
    };
    fields.end()?;
    Ok(Some((packet, 4 + body.len())))
}

/// Pairs of strings up to an empty name. A packet of the largest size has room for some 3,000 pairs.
fn parameters<'a>(fields: &mut Fields<'a>) -> Result<Vec<(&'a str, &'a str)>, DecodeError> {
    let utf8 = |text: Text<'a>, field| text.utf8(Message::Startup, field);
    let mut parameters = Vec::new();
    let mut seen = HashSet::new();
    loop {
        let name = utf8(fields.text("parameter name")?, "parameter name")?;
        if name.is_empty() {
            return Ok(parameters);
        }
        let value = utf8(fields.text("parameter value")?, "parameter value")?;
        if !seen.insert(name) {
            return Err(DecodeError::DuplicateParameter);
        }
        parameters.push((name, value));
    }
}
