//! What servers answer (section 7), and what we answer ourselves.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Fields, Packet, VERSION, kind};

/// Extensions that are understood; no other is offered to a client.
const EXTENSIONS: [&[u8]; 11] = [
    b"copy-data",
    b"expand-path@openssh.com",
    b"fstatvfs@openssh.com",
    b"fsync@openssh.com",
    b"hardlink@openssh.com",
    b"home-directory",
    b"limits@openssh.com",
    b"lsetstat@openssh.com",
    b"posix-rename@openssh.com",
    b"statvfs@openssh.com",
    b"users-groups-by-id@openssh.com",
];

/// Codes of `SSH_FXP_STATUS` (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCode {
    /// `SSH_FX_OK`.
    Ok,
    /// `SSH_FX_EOF`.
    Eof,
    /// `SSH_FX_PERMISSION_DENIED`.
    PermissionDenied,
    /// `SSH_FX_FAILURE`.
    Failure,
    /// `SSH_FX_BAD_MESSAGE`.
    BadMessage,
    /// `SSH_FX_OP_UNSUPPORTED`.
    OpUnsupported,
    /// Any other.
    Other(u32),
}

impl StatusCode {
    fn number(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Eof => 1,
            Self::PermissionDenied => 3,
            Self::Failure => 4,
            Self::BadMessage => 5,
            Self::OpUnsupported => 8,
            Self::Other(number) => number,
        }
    }

    fn of(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Eof,
            3 => Self::PermissionDenied,
            4 => Self::Failure,
            5 => Self::BadMessage,
            8 => Self::OpUnsupported,
            other => Self::Other(other),
        }
    }
}

/// `SSH_FXP_STATUS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it says.
    pub code: StatusCode,
    /// In words; empty where the server has none.
    pub message: String,
}

impl Status {
    /// Reads one; `None` when the packet is none.
    #[must_use]
    pub fn parse(packet: &Packet) -> Option<Self> {
        let mut fields = Fields::new(packet.body());
        fields.u32()?;
        let code = StatusCode::of(fields.u32().filter(|_| packet.kind() == kind::STATUS)?);
        let message = fields.string().unwrap_or_default();
        let message = String::from_utf8_lossy(&message).chars().take(256).collect();
        Some(Self { code, message })
    }
}

/// An `SSH_FXP_STATUS` of ours.
#[must_use]
pub fn status(id: u32, code: StatusCode, message: &str) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(kind::STATUS);
    body.put_u32(id);
    body.put_u32(code.number());
    put_string(&mut body, message.as_bytes());
    put_string(&mut body, b"en");
    framed(&body)
}

fn put_string(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn framed(body: &[u8]) -> Bytes {
    let mut packet = BytesMut::new();
    put_string(&mut packet, body);
    packet.freeze()
}

/// `SSH_FXP_HANDLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleReply(pub Bytes);

impl HandleReply {
    /// Reads one; `None` when the packet is none.
    #[must_use]
    pub fn parse(packet: &Packet) -> Option<Self> {
        let mut fields = Fields::new(packet.body());
        fields.u32()?;
        let handle = fields.string().filter(|_| packet.kind() == kind::HANDLE)?;
        fields.is_empty().then_some(Self(handle))
    }
}

/// The first name of an `SSH_FXP_NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub Bytes);

impl Name {
    /// Reads one; `None` when the packet is none, or has none.
    #[must_use]
    pub fn parse(packet: &Packet) -> Option<Self> {
        let mut fields = Fields::new(packet.body());
        fields.u32()?;
        let count = fields.u32().filter(|_| packet.kind() == kind::NAME)?;
        let name = fields.string()?;
        (count == 1).then_some(Self(name))
    }
}

/// An `SSH_FXP_VERSION` with those of its extensions that are understood; `None` when it is none, or of another version.
#[must_use]
pub fn known_extensions(packet: &Packet) -> Option<Bytes> {
    let mut fields = Fields::new(packet.body());
    let version = fields.u32().filter(|_| packet.kind() == kind::VERSION)?;
    if version != VERSION {
        return None;
    }
    let mut body = BytesMut::new();
    body.put_u8(kind::VERSION);
    body.put_u32(version);
    while !fields.is_empty() {
        let (name, data) = (fields.string()?, fields.string()?);
        if EXTENSIONS.contains(&name.as_ref()) {
            put_string(&mut body, &name);
            put_string(&mut body, &data);
        }
    }
    Some(framed(&body))
}

/// An `SSH_FXP_REALPATH` of ours.
#[must_use]
pub fn realpath(id: u32, path: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(kind::REALPATH);
    body.put_u32(id);
    put_string(&mut body, path);
    framed(&body)
}

/// An `SSH_FXP_READ` of ours.
#[must_use]
pub fn read(id: u32, handle: &[u8], offset: u64, length: u32) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(kind::READ);
    body.put_u32(id);
    put_string(&mut body, handle);
    body.put_u64(offset);
    body.put_u32(length);
    framed(&body)
}

/// An `SSH_FXP_DATA`.
#[must_use]
pub fn data(id: u32, data: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(data.len() + 9);
    body.put_u8(kind::DATA);
    body.put_u32(id);
    put_string(&mut body, data);
    framed(&body)
}

/// An `SSH_FXP_INIT` of the version that is spoken.
#[must_use]
pub fn init() -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(kind::INIT);
    body.put_u32(VERSION);
    framed(&body)
}
