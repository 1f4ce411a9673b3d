//! The cgroup-v2 tree: found through mountinfo, read and changed through its files.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Largest cgroup file read, in bytes (`cgroup.procs` of a busy unit is the longest).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The cgroup-v2 hierarchy. Paths below it are written as `/proc/PID/cgroup` writes them: `/`, `/a.slice/b.service`.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    /// Finds where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts.
    ///
    /// # Errors
    /// `NotFound` when it is not mounted, or only a part of it is.
    pub fn find() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        mounted_at(&mounts).map(|root| Self { root }).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "cgroup v2 is not mounted; mount it with `mount -t cgroup2 cgroup2 /sys/fs/cgroup`",
            )
        })
    }

    /// The mount point.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a cgroup's directory is.
    #[must_use]
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The id the kernel's helpers report for a cgroup: its directory's inode number.
    ///
    /// # Errors
    /// `NotFound` when there is no such cgroup.
    pub fn id(&self, path: &str) -> io::Result<u64> {
        fs::symlink_metadata(self.directory(path)).map(|metadata| metadata.ino())
    }

    /// Makes a cgroup and its missing parents, owned by the caller (root), and returns its id.
    ///
    /// # Errors
    /// What `mkdir(2)` says.
    pub fn create(&self, path: &str) -> io::Result<u64> {
        let directory = self.directory(path);
        let missing: Vec<_> = directory.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        for directory in missing.into_iter().rev() {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                // Whatever our umask: runtimes size themselves by reading their cgroup's limits.
                Ok(()) | Err(_) => fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?,
            }
        }
        self.id(path)
    }

    /// Moves a process, all its threads, into a cgroup.
    ///
    /// # Errors
    /// `ESRCH` when the process is gone; what `write(2)` says otherwise.
    pub fn place(&self, path: &str, pid: u32) -> io::Result<()> {
        use io::Write as _;
        // No O_CREAT: a file that is not there must not be made.
        let mut procs = fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.directory(path).join("cgroup.procs"))?;
        procs.write_all(pid.to_string().as_bytes())
    }

    /// Processes directly in a cgroup.
    ///
    /// # Errors
    /// `NotFound` or `ENODEV` when the cgroup is gone.
    pub fn processes(&self, path: &str) -> io::Result<Vec<u32>> {
        let text = read(&self.directory(path).join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// The file that tells whether anything lives in a cgroup or below it, and wakes `poll(2)` when that changes.
    #[must_use]
    pub fn events_file(&self, path: &str) -> PathBuf {
        self.directory(path).join("cgroup.events")
    }

    /// Removes an empty cgroup and the empty cgroups below it, leaves first. One that is already gone is fine.
    ///
    /// # Errors
    /// `EBUSY` when a process lives in one of them.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let mut found = vec![self.directory(path)];
        let mut next = 0;
        while let Some(directory) = found.get(next).cloned() {
            found.extend(subdirectories(&directory));
            next += 1;
        }
        for directory in found.iter().rev() {
            match fs::remove_dir(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Names of the cgroups directly below one. Empty when it is gone.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<String> {
        subdirectories(&self.directory(path))
            .into_iter()
            .filter_map(|directory| directory.file_name().and_then(|name| name.to_str()).map(str::to_owned))
            .collect()
    }
}

/// The cgroup-v2 path of a process, from its `/proc/PID/cgroup`.
///
/// # Errors
/// `NotFound` when the process is gone, `InvalidData` when it has no cgroup-v2 line.
pub fn of_process(pid: u32) -> io::Result<String> {
    let text = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        // A cgroup that was removed under a dying process bears this suffix.
        .map(|path| path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the process has no cgroup-v2 path"))
}

/// Whether `inner` is `outer` or lies below it.
#[must_use]
pub fn contains(outer: &str, inner: &str) -> bool {
    outer == "/" || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path of `name` directly below `parent`.
#[must_use]
pub fn child(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

/// What `cgroup.events` says of `populated`.
#[must_use]
pub fn populated(events: &str) -> Option<bool> {
    events.lines().find_map(|line| line.strip_prefix("populated ")).map(|value| value.trim() != "0")
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The mount point of the whole cgroup-v2 tree in a mountinfo text (proc_pid_mountinfo(5)).
fn mounted_at(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A bind mount of a subtree would hide cgroups from us.
        (file_system.starts_with("cgroup2 ") && root == "/").then(|| unescape(point))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escape, plain);
    }
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_found_where_it_is_mounted() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mounted_at(unified).unwrap(), Path::new("/sys/fs/cgroup"));
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted_at(hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let odd = "41 31 0:38 / /mnt/my\\040cgroups rw,relatime - cgroup2 none rw\n";
        assert_eq!(mounted_at(odd).unwrap(), Path::new("/mnt/my cgroups"));
        let part = "41 31 0:38 /a.slice /mnt/part rw - cgroup2 none rw\n";
        assert_eq!(mounted_at(part), None);
        assert_eq!(mounted_at("nonsense\n"), None);
    }

    #[test]
    fn lineage_goes_by_whole_components() {
        assert!(contains("/a", "/a"));
        assert!(contains("/a", "/a/b/c"));
        assert!(!contains("/a", "/ab"));
        assert!(!contains("/a/b", "/a"));
        assert!(contains("/", "/anything"));
        assert_eq!(child("/", "a"), "/a");
        assert_eq!(child("/a", "b"), "/a/b");
    }

    #[test]
    fn populated_is_read_from_events() {
        assert_eq!(populated("populated 1\nfrozen 0\n"), Some(true));
        assert_eq!(populated("populated 0\nfrozen 0\n"), Some(false));
        assert_eq!(populated("frozen 0\n"), None);
    }
}
