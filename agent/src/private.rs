//! Files that only their owner may read: opened without following a link out of their folder, wiped when dropped.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a private file was not read.
#[derive(Debug, Error)]
pub enum Problem {
    /// The name is not a plain file name.
    #[error("is not a plain file name: use letters, digits and dashes, no slash and no leading dot")]
    Name,
    /// The folder that holds it cannot be trusted, or opened.
    #[error("its folder {reason}")]
    Folder {
        /// What is wrong and what to do.
        reason: String,
    },
    /// It could not be opened or read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is a symbolic link to somewhere outside of its folder.
    #[error("is a link that leaves its folder: put the file itself there")]
    Leaves,
    /// It is a folder, a device, a pipe.
    #[error("is not a regular file")]
    NotRegular,
    /// It belongs to somebody else.
    #[error("belongs to user id {uid}, who could change it: run `chown root` on it")]
    Owner {
        /// Owner's user id.
        uid: u32,
    },
    /// Group or others have access.
    #[error("is accessible to more than its owner (mode {mode:03o}): run `chmod 600` on it")]
    Mode {
        /// Permission bits.
        mode: u32,
    },
    /// It holds nothing.
    #[error("is empty")]
    Empty,
    /// It is larger than the limit.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// Largest size accepted, in bytes.
        limit: usize,
    },
}

/// Opens a folder of private files; refuses one in which somebody else could put or swap files.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, Problem> {
    let refused = |reason: String| Problem::Folder { reason };
    let directory =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| refused(format!("cannot be opened: {}", io::Error::from(error))))?;
    let stat = rustix::fs::fstat(&directory)
        .map_err(|error| refused(format!("cannot be examined: {}", io::Error::from(error))))?;
    if !owned_by_us(&stat) {
        return Err(refused(format!("belongs to user id {}: run `chown root` on it", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refused("is writable by others: run `chmod 700` on it".to_owned()));
    }
    Ok(directory)
}

/// Who else may read a file; nobody else may ever write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone.
    Owner,
    /// Everyone.
    Everyone,
}

/// The contents of a file below an open folder, at most `bytes_max` of them, wiped when dropped.
pub(crate) fn read(
    directory: &OwnedFd,
    name: &Path,
    bytes_max: usize,
    readers: Readers,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    // NONBLOCK: opening a pipe that somebody left there must not hang. BENEATH lets links inside the folder work
    // (mounted secrets are often such links) and refuses those that leave it, in the kernel, without a race.
    let file = rustix::fs::openat2(
        directory,
        name,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|error| match error {
        Errno::XDEV | Errno::LOOP => Problem::Leaves,
        other => Problem::Unreadable(other.into()),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(|error| Problem::Unreadable(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Problem::NotRegular);
    }
    if !owned_by_us(&stat) {
        return Err(Problem::Owner { uid: stat.st_uid });
    }
    let forbidden = match readers {
        Readers::Owner => 0o077,
        Readers::Everyone => 0o022,
    };
    if stat.st_mode & forbidden != 0 {
        return Err(Problem::Mode { mode: stat.st_mode & 0o777 });
    }
    // The room is reserved once: growing would leave copies of the secret behind in freed memory.
    let mut contents = Zeroizing::new(Vec::with_capacity(bytes_max.saturating_add(1)));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::from(file).take(limit).read_to_end(&mut contents).map_err(Problem::Unreadable)?;
    if contents.len() > bytes_max {
        return Err(Problem::TooLarge { limit: bytes_max });
    }
    Ok(contents)
}

/// Root's, or the daemon's own when it runs as another user in a scratch folder.
fn owned_by_us(stat: &Stat) -> bool {
    stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw()
}
