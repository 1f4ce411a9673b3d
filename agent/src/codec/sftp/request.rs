//! What clients ask (sections 4, 6 and 8; OpenSSH's PROTOCOL section 4).

use bytes::Bytes;

use super::{Fields, HANDLE_BYTES_MAX, Packet, SftpError, kind};

/// Longest path, in bytes (Linux's `PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// Extended attributes of one packet, at most.
const EXTENDED_MAX: u32 = 64;

/// A request of a client, but for `SSH_FXP_WRITE`, which is streamed. Paths are bytes: nobody says which encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `SSH_FXP_INIT`: the version that the client speaks.
    Init(u32),
    /// `SSH_FXP_OPEN`.
    Open {
        /// The file.
        path: Bytes,
        /// For what.
        flags: OpenFlags,
        /// What it should have if it is made.
        attributes: Attributes,
    },
    /// `SSH_FXP_CLOSE`.
    Close(Bytes),
    /// `SSH_FXP_READ`.
    Read {
        /// The file's.
        handle: Bytes,
        /// Where.
        offset: u64,
        /// How much at most.
        length: u32,
    },
    /// `SSH_FXP_FSTAT`, `SSH_FXP_READDIR`, and extensions that look at what is open.
    LookAtHandle(Bytes),
    /// `SSH_FXP_STAT`, `LSTAT`, `READLINK`, and extensions that look at a path.
    LookAtPath(Bytes),
    /// `SSH_FXP_REALPATH`, `expand-path@openssh.com`.
    Realpath(Bytes),
    /// `SSH_FXP_SETSTAT`, `lsetstat@openssh.com`.
    Setstat {
        /// The file.
        path: Bytes,
        /// To what.
        attributes: Attributes,
    },
    /// `SSH_FXP_FSETSTAT`.
    Fsetstat {
        /// The file's.
        handle: Bytes,
        /// To what.
        attributes: Attributes,
    },
    /// `SSH_FXP_OPENDIR`.
    Opendir(Bytes),
    /// `SSH_FXP_REMOVE`, `SSH_FXP_RMDIR`.
    Remove(Bytes),
    /// `SSH_FXP_MKDIR`.
    Mkdir {
        /// The folder.
        path: Bytes,
        /// What it should have.
        attributes: Attributes,
    },
    /// `SSH_FXP_RENAME`, `posix-rename@openssh.com`.
    Rename {
        /// The name that goes.
        from: Bytes,
        /// The name that comes.
        to: Bytes,
    },
    /// `SSH_FXP_SYMLINK` (in OpenSSH's order, which clients follow).
    Symlink {
        /// What it leads to, as seen from the link's folder.
        target: Bytes,
        /// The link.
        link: Bytes,
    },
    /// `hardlink@openssh.com`.
    Hardlink {
        /// The file that gets another name.
        target: Bytes,
        /// That name.
        link: Bytes,
    },
    /// Another extension.
    Extended(ExtendedRequest),
}

/// An extension that is neither a look nor a change of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtendedRequest {
    /// `fsync@openssh.com`.
    Fsync(Bytes),
    /// `copy-data`: from one open file to another.
    CopyData {
        /// Read.
        from: Bytes,
        /// Written.
        to: Bytes,
    },
    /// `limits@openssh.com`, `home-directory`, `users-groups-by-id@openssh.com`: about nothing that is a file.
    Harmless,
    /// One that nobody here knows.
    Unknown,
}

/// `pflags` (section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags(pub u32);

impl OpenFlags {
    const READ: u32 = 1;
    const WRITE: u32 = 2;
    const APPEND: u32 = 4;
    const CREAT: u32 = 8;
    const TRUNC: u32 = 16;

    /// Whether the file can be changed through it: TRUNC and CREAT change it by themselves.
    #[must_use]
    pub fn writes(self) -> bool {
        self.0 & (Self::WRITE | Self::APPEND | Self::CREAT | Self::TRUNC) != 0
    }

    /// Whether it can be read.
    #[must_use]
    pub fn reads(self) -> bool {
        self.0 & Self::READ != 0 || !self.writes()
    }

    /// Whether what is written goes to the end, wherever its offset is.
    #[must_use]
    pub fn appends(self) -> bool {
        self.0 & Self::APPEND != 0
    }
}

/// `ATTRS` (section 5), as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Mode bits.
    pub permissions: Option<u32>,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// Length.
    pub size: Option<u64>,
}

impl Attributes {
    const SIZE: u32 = 1;
    const UIDGID: u32 = 2;
    const PERMISSIONS: u32 = 4;
    const ACMODTIME: u32 = 8;
    const EXTENDED: u32 = 0x8000_0000;

    /// Whether whoever runs the file gets its owner's or group's rights.
    #[must_use]
    pub fn sets_id(&self) -> bool {
        self.permissions.is_some_and(|mode| mode & 0o6000 != 0)
    }

    fn read(fields: &mut Fields) -> Option<Self> {
        let flags = fields.u32()?;
        let mut attributes = Self::default();
        if flags & Self::SIZE != 0 {
            attributes.size = Some(fields.u64()?);
        }
        if flags & Self::UIDGID != 0 {
            attributes.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & Self::PERMISSIONS != 0 {
            attributes.permissions = Some(fields.u32()?);
        }
        if flags & Self::ACMODTIME != 0 {
            fields.u64()?;
        }
        if flags & Self::EXTENDED != 0 {
            let count = fields.u32().filter(|count| *count <= EXTENDED_MAX)?;
            for _ in 0..count * 2 {
                fields.string()?;
            }
        }
        let known = Self::SIZE | Self::UIDGID | Self::PERMISSIONS | Self::ACMODTIME | Self::EXTENDED;
        (flags & !known == 0).then_some(attributes)
    }
}

impl Request {
    /// Understands a packet, all of it.
    ///
    /// # Errors
    /// `Kind` for a type that clients do not send, `Malformed` for one with too much or too little in it.
    pub fn parse(packet: &Packet) -> Result<Self, SftpError> {
        let kind = packet.kind();
        let mut fields = Fields::new(packet.body());
        if kind == kind::INIT {
            // Extensions of the client may follow, which no version 3 server reads.
            return fields.u32().map(Self::Init).ok_or(SftpError::Malformed(kind));
        }
        let known = (kind::OPEN..=kind::SYMLINK).contains(&kind) && kind != kind::WRITE;
        if !known && kind != kind::EXTENDED {
            return Err(SftpError::Kind(kind));
        }
        let request = fields.u32().and_then(|_id| {
            if kind == kind::EXTENDED { Self::extended(&mut fields) } else { Self::plain(kind, &mut fields) }
        });
        let unknown = request == Some(Self::Extended(ExtendedRequest::Unknown));
        match request {
            Some(request) if fields.is_empty() || unknown => Ok(request),
            Some(_) | None => Err(SftpError::Malformed(kind)),
        }
    }

    fn plain(kind: u8, fields: &mut Fields) -> Option<Self> {
        Some(match kind {
            kind::OPEN => Self::Open {
                path: path(fields)?,
                flags: OpenFlags(fields.u32()?),
                attributes: Attributes::read(fields)?,
            },
            kind::CLOSE => Self::Close(handle(fields)?),
            kind::READ => {
                Self::Read { handle: handle(fields)?, offset: fields.u64()?, length: fields.u32()? }
            }
            kind::FSTAT | kind::READDIR => Self::LookAtHandle(handle(fields)?),
            kind::LSTAT | kind::STAT | kind::READLINK => Self::LookAtPath(path(fields)?),
            kind::SETSTAT => Self::Setstat { path: path(fields)?, attributes: Attributes::read(fields)? },
            kind::FSETSTAT => {
                Self::Fsetstat { handle: handle(fields)?, attributes: Attributes::read(fields)? }
            }
            kind::OPENDIR => Self::Opendir(path(fields)?),
            kind::REMOVE | kind::RMDIR => Self::Remove(path(fields)?),
            kind::MKDIR => Self::Mkdir { path: path(fields)?, attributes: Attributes::read(fields)? },
            kind::REALPATH => Self::Realpath(path(fields)?),
            kind::RENAME => Self::Rename { from: path(fields)?, to: path(fields)? },
            kind::SYMLINK => Self::Symlink { target: path(fields)?, link: path(fields)? },
            _ => return None,
        })
    }

    fn extended(fields: &mut Fields) -> Option<Self> {
        let name = fields.string()?;
        Some(match name.as_ref() {
            b"posix-rename@openssh.com" => Self::Rename { from: path(fields)?, to: path(fields)? },
            b"hardlink@openssh.com" => Self::Hardlink { target: path(fields)?, link: path(fields)? },
            b"statvfs@openssh.com" => Self::LookAtPath(path(fields)?),
            b"fstatvfs@openssh.com" => Self::LookAtHandle(handle(fields)?),
            b"lsetstat@openssh.com" => {
                Self::Setstat { path: path(fields)?, attributes: Attributes::read(fields)? }
            }
            b"expand-path@openssh.com" => Self::Realpath(path(fields)?),
            b"fsync@openssh.com" => Self::Extended(ExtendedRequest::Fsync(handle(fields)?)),
            b"copy-data" => {
                let from = handle(fields)?;
                fields.u64()?;
                fields.u64()?;
                let to = handle(fields)?;
                fields.u64()?;
                Self::Extended(ExtendedRequest::CopyData { from, to })
            }
            b"limits@openssh.com" => Self::Extended(ExtendedRequest::Harmless),
            b"home-directory" => {
                path(fields)?;
                Self::Extended(ExtendedRequest::Harmless)
            }
            b"users-groups-by-id@openssh.com" => {
                path(fields)?;
                path(fields)?;
                Self::Extended(ExtendedRequest::Harmless)
            }
            _ => Self::Extended(ExtendedRequest::Unknown),
        })
    }
}

/// A server's programs end a name at its first NUL: it would not be the name that was looked at.
fn path(fields: &mut Fields) -> Option<Bytes> {
    fields.string().filter(|path| path.len() <= PATH_BYTES_MAX && !path.contains(&0))
}

fn handle(fields: &mut Fields) -> Option<Bytes> {
    fields.string().filter(|handle| handle.len() <= HANDLE_BYTES_MAX as usize)
}
