//! The only place with unsafe code: system calls no library wraps.
#![expect(unsafe_code, reason = "each block says why it is sound; nothing outside this file may need one")]

pub mod bpf;

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::secret::Secret;

/// Longest answer of the user and group databases that is read, in bytes.
const NSS_BYTES_MAX: usize = 1 << 20;

/// Most supplementary groups read of one user; the kernel's own bound is 65,536 (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Awaits events on a descriptor that is read elsewhere. Holds a duplicate of it, so the two may be dropped in any order.
#[derive(Debug)]
pub struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Registers a descriptor with the current tokio runtime.
    ///
    /// # Errors
    /// When it cannot be duplicated or does not support `poll(2)`.
    pub fn of(fd: impl AsFd, interest: Interest) -> io::Result<Self> {
        let own = fd.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` stays open and keeps its number until it is dropped, and this type gives nobody mutable
        // access to it.
        Ok(Self(unsafe { AsyncFd::register_with_interest(own, interest) }?))
    }

    /// Returns at the first event since the last call. The caller then reads all there is.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn wait(&self, interest: Interest) -> io::Result<()> {
        self.0.ready(interest).await?.clear_ready();
        Ok(())
    }
}

/// An entry of the user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Takes a variable out of this process's environment: afterwards neither the environment nor `/proc/PID/environ` has its
/// value. `None` when it is not set.
///
/// # Errors
/// The process has more than one thread.
pub fn take_variable(name: &CStr) -> io::Result<Option<Secret>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the environment cannot be changed with more than one thread running"));
    }
    // SAFETY: only a running thread could start another, and this is the only one, so nobody else reads or changes the
    // environment until we return.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return Ok(None);
    }
    // SAFETY: getenv returned a NUL-terminated string, which nobody changes meanwhile; the borrow ends with the copy.
    let copy = unsafe { CStr::from_ptr(value) }.to_bytes().to_vec();
    // SAFETY: the string is `copy.len()` bytes long and the process's own to write: it is the kernel's copy on our stack, or
    // one that setenv made.
    unsafe { std::ptr::write_bytes(value, 0, copy.len()) };
    // SAFETY: `name` is NUL-terminated; nobody else uses the environment, as above.
    if unsafe { libc::unsetenv(name.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(Secret::new(copy)))
}

/// Gives memory that was used once, at the start, back to the system (malloc_trim(3)): the GNU C library keeps up to twice the
/// largest block that was freed, and the kernel's type information takes some ten megabytes to read.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A pidfd of the process that connected to this Unix socket (`SO_PEERPIDFD`, Linux 6.5).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels, `ESRCH` when the peer is gone.
pub fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut fd: RawFd = -1;
    let mut len = libc::socklen_t::try_from(size_of::<RawFd>()).unwrap_or(0);
    // SAFETY: `fd` is a valid int of `len` bytes for the duration of the call, and the socket is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Supplementary group ids of the process that connected to this Unix socket (`SO_PEERGROUPS`, Linux 4.13).
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut len = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
        // SAFETY: the buffer holds `len` bytes and the socket is open; the kernel writes at most `len`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = usize::try_from(len).unwrap_or(0) / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // On ERANGE the kernel has put the length it needs into `len`.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The network namespace of a socket, unique until reboot (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(0);
    // SAFETY: `cookie` is a valid word of `len` bytes for the duration of the call, and the socket is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Looks a user up by id, through whatever the host's name service is. May block on the network.
#[must_use]
pub fn user_by_id(uid: u32) -> Option<User> {
    // SAFETY: `entry`, `buffer` and `found` outlive the call; the lengths are the buffer's own.
    passwd(|entry, buffer, found| unsafe {
        libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), found)
    })
}

/// Looks a user up by name, through whatever the host's name service is. May block on the network.
#[must_use]
pub fn user_by_name(name: &str) -> Option<User> {
    let name = CString::new(name).ok()?;
    // SAFETY: as in `user_by_id`; `name` is NUL-terminated and outlives the call.
    passwd(|entry, buffer, found| unsafe {
        libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), found)
    })
}

/// The name of a group id. May block on the network.
#[must_use]
pub fn group_name(gid: u32) -> Option<String> {
    // SAFETY: `entry`, `buffer` and `found` outlive the call; the length is the buffer's own.
    let look_up = |entry, buffer: &mut [libc::c_char], found| unsafe {
        libc::getgrgid_r(gid, entry, buffer.as_mut_ptr(), buffer.len(), found)
    };
    // SAFETY: `group` passes an entry whose strings are alive.
    group(look_up, |entry| unsafe { owned(entry.gr_name) })
}

/// The id of a group name. May block on the network.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: as in `group_name`; `name` is NUL-terminated and outlives the call.
    let look_up = |entry, buffer: &mut [libc::c_char], found| unsafe {
        libc::getgrnam_r(name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), found)
    };
    group(look_up, |entry| entry.gr_gid)
}

/// All group ids of a user, the primary one included (`getgrouplist(3)`). May block on the network.
#[must_use]
pub fn groups_of(user: &User) -> Vec<u32> {
    let Ok(name) = CString::new(user.name.as_str()) else { return vec![user.gid] };
    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `name` is NUL-terminated; the buffer holds `count` group ids.
        let result =
            unsafe { libc::getgrouplist(name.as_ptr(), user.gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if result >= 0 {
            groups.truncate(count);
            return groups;
        }
        if count <= groups.len() || count > GROUPS_MAX {
            return vec![user.gid];
        }
        groups.resize(count, 0);
    }
}

/// Makes the next `execve(2)` close this descriptor. Harmless on a number that is not open.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD changes a flag of our own descriptor table; it touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn passwd(
    mut look_up: impl FnMut(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> libc::c_int,
) -> Option<User> {
    grow(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::zeroed();
        let mut found = std::ptr::null_mut();
        let error = look_up(entry.as_mut_ptr(), buffer, &raw mut found);
        if error != 0 {
            return Err(error);
        }
        // SAFETY: when not null, `found` points at `entry`, whose strings lie in `buffer`; both are alive.
        Ok(unsafe { found.as_ref() }.map(|entry| User {
            // SAFETY: as above.
            name: unsafe { owned(entry.pw_name) },
            uid: entry.pw_uid,
            gid: entry.pw_gid,
        }))
    })
}

fn group<T>(
    mut look_up: impl FnMut(*mut libc::group, &mut [libc::c_char], *mut *mut libc::group) -> libc::c_int,
    read: impl Fn(&libc::group) -> T,
) -> Option<T> {
    grow(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::zeroed();
        let mut found = std::ptr::null_mut();
        let error = look_up(entry.as_mut_ptr(), buffer, &raw mut found);
        if error != 0 {
            return Err(error);
        }
        // SAFETY: when not null, `found` points at `entry`, whose strings lie in `buffer`; both are alive.
        Ok(unsafe { found.as_ref() }.map(&read))
    })
}

/// Calls with a larger buffer for as long as the answer is ERANGE.
fn grow<T>(mut call: impl FnMut(&mut [libc::c_char]) -> Result<Option<T>, libc::c_int>) -> Option<T> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(found) => return found,
            Err(libc::ERANGE) if buffer.len() < NSS_BYTES_MAX => buffer.resize(buffer.len() * 4, 0),
            Err(_) => return None,
        }
    }
}

/// # Safety
/// `text` is null or a NUL-terminated string that is alive for the call.
unsafe fn owned(text: *const libc::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn root_is_in_the_user_database() {
        let root = user_by_id(0).unwrap();
        assert_eq!(root, user_by_name("root").unwrap());
        assert_eq!(group_name(0).unwrap(), "root");
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("no such group"), None);
        assert!(groups_of(&root).contains(&root.gid));
        assert!(user_by_id(3_999_999_999).is_none());
        assert!(user_by_name("no such\0user").is_none());
    }

    #[test]
    fn the_peer_of_a_socketpair_is_this_process() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let expected = rustix::process::getgroups().unwrap().len();
        assert_eq!(peer_groups(&socket).unwrap().len(), expected);
        match peer_pidfd(&socket) {
            Ok(pidfd) => drop(pidfd),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
    }

    #[test]
    fn close_on_exec_marks_a_descriptor() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
        close_on_exec(socket.as_raw_fd()).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&socket).unwrap(), rustix::io::FdFlags::CLOEXEC);
        assert!(close_on_exec(-1).is_err());
    }
}
