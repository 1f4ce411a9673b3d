//! Who is at the other end of a Unix socket, from the kernel: process, user, groups, cgroup, login.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;

use super::{Login, Subject, cgroup};
use crate::sys;

/// `/proc/PID/loginuid` of a process that nobody logged in for (audit's `AUDIT_UID_UNSET`).
const LOGIN_UNSET: u32 = u32::MAX;

/// A connected process, pinned: `pid` is only believed while `pidfd` says that the process lives.
#[derive(Debug)]
pub struct Caller {
    /// Process id, in our pid namespace.
    pub pid: u32,
    /// Effective user id at connect time.
    pub uid: u32,
    /// Effective group id at connect time.
    pub gid: u32,
    /// Supplementary group ids at connect time.
    pub groups: Vec<u32>,
    /// The user who logged in, through any later `sudo` or `su` (audit's login uid). `None` when nobody did or the kernel keeps no
    /// account of it.
    pub login_uid: Option<u32>,
    /// Which login it was (audit's session id): ssh and consoles each get one, and children keep it. `None` likewise.
    pub login_session: Option<u32>,
    pidfd: OwnedFd,
}

impl Caller {
    /// Asks the kernel who connected.
    ///
    /// # Errors
    /// When the peer is gone, lives in another pid namespace, or the kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid != 0)
            .ok_or_else(|| io::Error::other("the caller lives in another pid namespace"))?;
        let groups = sys::peer_groups(stream)?;
        let pidfd = match sys::peer_pidfd(stream) {
            Ok(pidfd) => pidfd,
            // Before Linux 6.5. The number might have been reused since connect(2): the owner must at least agree.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let pidfd = pidfd_open(number(pid)?, PidfdFlags::empty())?;
                if owner(pid)? != credentials.uid() {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                pidfd
            }
            Err(error) => return Err(error),
        };
        let [login_uid, login_session] = audit(pid)?;
        let caller = Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups,
            login_uid,
            login_session,
            pidfd,
        };
        // What was read is that process's: its number was not another's meanwhile.
        caller.check_alive()?;
        Ok(caller)
    }

    /// A process that did not connect, for tests.
    #[cfg(test)]
    pub(crate) fn child(pid: u32, uid: u32) -> io::Result<Self> {
        let pidfd = pidfd_open(number(pid)?, PidfdFlags::empty())?;
        Ok(Self { pid, uid, gid: uid, groups: Vec::new(), login_uid: None, login_session: None, pidfd })
    }

    /// Fails with `ESRCH` once the process has exited, that is, once its number may name another.
    ///
    /// # Errors
    /// `ESRCH`, or what `poll(2)` says.
    pub fn check_alive(&self) -> io::Result<()> {
        let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&zero))? {
            0 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    /// Whether the caller is root, could become root again (a saved id), or holds capabilities: whether it could lift
    /// the gate, that is.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn is_privileged(&self) -> io::Result<bool> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        self.check_alive()?;
        Ok(self.uid == 0 || is_privileged(&status))
    }

    /// The caller's cgroup-v2 path.
    ///
    /// # Errors
    /// When the process is gone or its cgroup cannot be read.
    pub fn cgroup(&self) -> io::Result<String> {
        let path = cgroup::of_process(self.pid)?;
        self.check_alive()?;
        Ok(path)
    }

    /// Names for the kernel's numbers. Looks them up in the host's name service, so it may block.
    #[must_use]
    pub fn subject(&self) -> Subject {
        let mut gids = self.groups.clone();
        gids.push(self.gid);
        let login = self.login_uid.map(Login::of);
        Subject { login, ..Subject::named(self.uid, self.gid, gids) }
    }
}

/// Who this process acts for, with names. May block on the host's name service.
///
/// # Errors
/// When the kernel does not give our groups.
pub fn current() -> io::Result<Subject> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut gids: Vec<u32> =
        rustix::process::getgroups()?.into_iter().map(rustix::process::Gid::as_raw).collect();
    gids.push(gid);
    Ok(Subject::named(uid, gid, gids))
}

/// What audit knows of a process: its login uid and session id. Unknown is an error, for it would make somebody else of whoever asks.
fn audit(pid: u32) -> io::Result<[Option<u32>; 2]> {
    let read = |name: &str| match std::fs::read_to_string(format!("/proc/{pid}/{name}")) {
        Ok(text) => {
            let number: u32 = text.trim().parse().map_err(|_| io::Error::other("audit's number is none"))?;
            Ok(Some(number).filter(|number| *number != LOGIN_UNSET))
        }
        // A kernel without audit has no such file, for us neither.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match std::fs::exists(format!("/proc/self/{name}"))? {
                false => Ok(None),
                true => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        }
        Err(error) => Err(error),
    };
    Ok([read("loginuid")?, read("sessionid")?])
}

fn number(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))
}

/// Reads a `/proc/PID/status`. What cannot be read counts as privileged.
fn is_privileged(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let root = field("Uid:").is_none_or(|ids| ids.split_whitespace().any(|id| id == "0"));
    let capable = |name| field(name).is_none_or(|set| set.trim().bytes().any(|digit| digit != b'0'));
    // The inheritable set alone gives nothing to a process that cannot gain privileges by execve(2).
    root || capable("CapPrm:") || capable("CapAmb:")
}

/// Effective user id of a process, from `/proc/PID/status`.
fn owner(pid: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .and_then(|uid| uid.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Uid in /proc/PID/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_is_told_by_the_kernel() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours).unwrap();
        assert_eq!(caller.pid, std::process::id());
        assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
        assert!(caller.cgroup().unwrap().starts_with('/'));
        assert_eq!(owner(caller.pid).unwrap(), caller.uid);
    }

    #[test]
    fn privilege_is_more_than_the_effective_user() {
        let status = |uids: &str, permitted: &str| {
            format!(
                "Name:\tx\nUid:\t{uids}\nCapInh:\t0000000800000000\nCapPrm:\t{permitted}\nCapAmb:\t0000000000000000\n"
            )
        };
        let none = "0000000000000000";
        for (status, expected) in [
            (status("1000\t1000\t1000\t1000", none), false),
            (status("10\t10\t10\t10", none), false),
            (status("0\t0\t0\t0", none), true),
            (status("1000\t1000\t0\t1000", none), true),
            (status("1000\t1000\t1000\t1000", "0000000000003000"), true),
            (String::new(), true),
        ] {
            assert_eq!(is_privileged(&status), expected, "{status}");
        }
    }

    #[test]
    fn a_dead_process_is_not_believed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let caller = Caller::child(child.id(), 0).unwrap();
        caller.check_alive().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(caller.check_alive().unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(caller.cgroup().is_err());
    }
}
