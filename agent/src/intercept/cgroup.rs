//! The cgroup v2 tree: where it is mounted, and which directory a cgroup id names.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::InterceptError;
use crate::sys::bpf as sys;

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
///
/// # Errors
/// [`InterceptError::NoCgroup2`] when it is not mounted, [`InterceptError::Io`] when `/proc` is not readable.
pub fn cgroup2_root() -> Result<PathBuf, InterceptError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|source| InterceptError::io("read", path, source))?;
    mounted_at(&text).ok_or(InterceptError::NoCgroup2)
}

/// Finds the mount point in the format of `proc_pid_mountinfo(5)`. Mounts of a subtree do not count: programs attached
/// there would miss everything beside it.
fn mounted_at(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (filesystem.split(' ').next() == Some("cgroup2") && root == "/").then(|| PathBuf::from(unescape(at)))
    })
}

/// The cgroup of this process, relative to the root; `None` without cgroup v2.
pub(super) fn own() -> Option<PathBuf> {
    own_in(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// Version 2 is the hierarchy with number 0 and no controllers, `cgroups(7)`.
fn own_in(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| line.strip_prefix("0::/")).map(PathBuf::from)
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The root of the cgroup v2 tree, held open.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, InterceptError> {
        let directory = fs::File::open(path).map_err(|source| InterceptError::io("open", path, source))?;
        let filesystem = rustix::fs::fstatfs(&directory)
            .map_err(|source| InterceptError::io("inspect", path, source.into()))?;
        if filesystem.f_type != CGROUP2_MAGIC {
            return Err(InterceptError::NoCgroup2);
        }
        // The mount point as `/proc/self/fd` will spell it.
        let path = path.canonicalize().map_err(|source| InterceptError::io("resolve", path, source))?;
        Ok(Self { directory: directory.into(), path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a cgroup, relative to the root; `None` when it is gone.
    pub(super) fn locate(&self, id: u64) -> io::Result<Option<PathBuf>> {
        let directory = match sys::open_cgroup(self.as_fd(), id) {
            Ok(directory) => directory,
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
            Err(error) => return Err(error),
        };
        let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        // A removed directory keeps its inode while it is open; the kernel then marks the path.
        if path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)") {
            return Ok(None);
        }
        path.strip_prefix(&self.path).map(|inside| Some(inside.to_owned())).map_err(io::Error::other)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{mounted_at, own_in};
    use std::path::Path;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn finds_the_unified_tree_beside_version_1() {
        assert_eq!(mounted_at(HYBRID).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn finds_it_alone_and_with_a_space_in_its_path() {
        let line = "30 23 0:26 / /mnt/c\\040g rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mounted_at(line).as_deref(), Some(Path::new("/mnt/c g")));
    }

    #[test]
    fn the_own_cgroup_is_that_of_version_2() {
        let text = "9:name=systemd:/\n4:memory:/somewhere/else\n0::/system.slice/portcullis.service\n";
        assert_eq!(own_in(text).as_deref(), Some(Path::new("system.slice/portcullis.service")));
        assert_eq!(own_in("4:memory:/somewhere\n"), None);
    }

    #[test]
    fn a_mounted_subtree_is_not_the_root() {
        let line = "30 23 0:26 /system.slice /mnt/part rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted_at(line), None);
        assert_eq!(mounted_at("garbage\n"), None);
    }
}
