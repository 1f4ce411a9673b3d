//! BPF commands and cgroup look-ups that aya does not offer yet.
#![expect(unsafe_code, reason = "raw system calls live here and nowhere else")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Of `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// `FILEID_KERNFS` (include/linux/exportfs.h): a file handle that is a cgroup id.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// Opens a pinned BPF object (kernel 4.4).
///
/// # Errors
/// `NotFound` when nothing is pinned at `path`; otherwise what the kernel says.
pub fn bpf_obj_get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `Attr` is the kernel's layout for this command; `path` outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &attr) }?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program behind a link, in one step as seen by the hook (kernel 5.7).
///
/// # Errors
/// What the kernel says, for example `InvalidInput` when the program is of another attach type.
pub fn bpf_link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: RawFd,
        new_prog_fd: RawFd,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = Attr { link_fd: link.as_raw_fd(), new_prog_fd: program.as_raw_fd(), flags: 0, old_prog_fd: 0 };
    // SAFETY: `Attr` is the kernel's layout for this command; both descriptors are open.
    unsafe { bpf(BPF_LINK_UPDATE, &attr) }.map(drop)
}

/// Takes a link's program off its hook before returning (kernel 5.9). Removing a link's last pin does so, too, but at
/// some later moment.
///
/// # Errors
/// What the kernel says.
pub fn bpf_link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: RawFd,
    }
    // SAFETY: `Attr` is the kernel's layout for this command; the descriptor is open.
    unsafe { bpf(BPF_LINK_DETACH, &Attr { link_fd: link.as_raw_fd() }) }.map(drop)
}

/// `bpf(2)`.
///
/// # Safety
/// `attr` must be the kernel's layout for `command`, and every pointer in it valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<RawFd> {
    // SAFETY: upheld by the caller; the kernel reads at most the size given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// Opens the directory of a cgroup by its id, which is its file handle (kernel 5.5).
///
/// `root` is any open directory of the cgroup v2 mount.
///
/// # Errors
/// `ESTALE` when there is no such cgroup; `PermissionDenied` without `CAP_DAC_READ_SEARCH`.
pub fn open_cgroup(root: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `Handle` has the layout of `struct file_handle` with eight bytes of handle.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs `work` in a forked child and returns its answer.
///
/// # Safety of the caller's work
/// Other threads do not exist in the child, so their locks stay locked: `work` may make system calls, but must not
/// allocate, log or panic.
///
/// # Errors
/// What `fork` or `waitpid` say; `Interrupted` when the child was killed.
pub(crate) fn in_forked_child<T>(input: &T, work: fn(&T) -> u8) -> io::Result<u8> {
    // SAFETY: the child calls `work`, which keeps to system calls as documented, and `_exit`.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        let code = work(input);
        // SAFETY: ends the child at once, without destructors that belong to the parent.
        unsafe { libc::_exit(libc::c_int::from(code)) };
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place to write to; `child` is ours and not yet waited for.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if !libc::WIFEXITED(status) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    u8::try_from(libc::WEXITSTATUS(status)).map_err(io::Error::other)
}
