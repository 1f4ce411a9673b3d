//! `portcullis doctor`: what works on this host, and what to do about the rest.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{statfs, statvfs};
use serde::Serialize;

use crate::cli::run::powerful_groups;
use crate::cli::text::{line, shown};
use crate::cli::{Failure, ask, print_json};
use crate::config::Config;
use crate::control::{ClientError, Reply, Request, Status, with_causes};
use crate::run::caller;
use crate::run::cgroup::Hierarchy;

mod clients;
mod server;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Oldest kernel with everything the gate needs, and the oldest with everything it wants.
const KERNEL_MIN: (u32, u32) = (5, 15);
const KERNEL_FULL: (u32, u32) = (6, 1);

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// The gate works, with less than it could have.
    Warn,
    /// The gate cannot work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), advice: String::new() }
    }

    /// Less than it could be.
    pub fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Warn, found: found.into(), advice: advice.into() }
    }

    /// Not usable.
    pub fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Fail, found: found.into(), advice: advice.into() }
    }
}

/// Exit code 1 when a check fails.
pub(in crate::cli) fn run(json: bool, config: &Config, probe: fn(&Config) -> Check) -> Result<(), Failure> {
    let root = rustix::process::geteuid().is_root();
    let mut checks = vec![kernel(), cgroups(), bpffs(&config.bpf_dir), lsm()];
    checks.push(if root {
        probe(config)
    } else {
        Check::warn("kernel programs", "not tried: only root may load them", "run `sudo portcullis doctor`")
    });
    checks.extend([
        user(),
        client("psql", "PostgreSQL client"),
        disk(&config.state_dir, config.free_bytes_min),
        name_service(),
    ]);
    checks.extend(daemon(config));
    checks.extend(clients::checks(config));
    if json {
        print_json(&checks)?;
    } else {
        io::stdout().write_all(render(&checks).as_bytes())?;
    }
    match checks.iter().filter(|check| check.state == State::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("{failed} of {} checks failed", checks.len()))),
    }
}

fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = match check.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        line(&mut text, format_args!("{mark}  {}: {}", check.name, shown(&check.found, false)));
        if !check.advice.is_empty() {
            line(&mut text, format_args!("      -> {}", shown(&check.advice, false)));
        }
    }
    text
}

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge_kernel(release.trim())
}

fn judge_kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Check::warn("kernel", release, "its version cannot be told; 5.15 or newer is needed");
    };
    if (major, minor) < KERNEL_MIN {
        Check::fail("kernel", release, "5.15 or newer is needed")
    } else if (major, minor) < KERNEL_FULL {
        Check::warn("kernel", release, "6.1 or newer is needed for mode `full`")
    } else {
        Check::ok("kernel", release)
    }
}

fn cgroups() -> Check {
    match Hierarchy::find() {
        Ok(hierarchy) => Check::ok("cgroup v2", hierarchy.root().display().to_string()),
        Err(error) => Check::fail("cgroup v2", "not found", error.to_string()),
    }
}

fn bpffs(folder: &Path) -> Check {
    let existing = existing_ancestor(folder);
    let advice = "mount it: mount -t bpf bpf /sys/fs/bpf (and keep paths.bpf below it)";
    match statfs(&existing) {
        Ok(found) if u64::try_from(found.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC) => {
            Check::ok("bpffs", existing.display().to_string())
        }
        Ok(_) => Check::fail("bpffs", format!("{} is not on a bpffs", folder.display()), advice),
        // Root's folder of mode 0700 inside the file system.
        Err(rustix::io::Errno::ACCESS) => Check::ok("bpffs", existing.display().to_string()),
        Err(error) => Check::fail("bpffs", format!("{}: {error}", existing.display()), advice),
    }
}

fn lsm() -> Check {
    match std::fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(active) if active.trim().split(',').any(|module| module == "bpf") => {
            Check::ok("BPF LSM", "active")
        }
        Ok(active) => Check::warn(
            "BPF LSM",
            format!("not active (active: {})", active.trim()),
            "add `bpf` to the kernel's `lsm=` parameter; without it Unix sockets and passed descriptors are not guarded (mode no-lsm)",
        ),
        Err(error) => Check::warn(
            "BPF LSM",
            format!("cannot be told: {error}"),
            "mount securityfs: mount -t securityfs securityfs /sys/kernel/security",
        ),
    }
}

/// Whether this user is fit to run agents.
fn user() -> Check {
    let subject = match caller::current() {
        Ok(subject) => subject,
        Err(error) => return Check::fail("user", format!("cannot be told: {error}"), "see id(1)"),
    };
    let found = format!("{} (uid {})", subject.user, subject.uid);
    if subject.uid == 0 {
        return Check::warn("user", found, "run agents as another user: root can lift the gate");
    }
    match powerful_groups(&subject).as_slice() {
        [] => Check::ok("user", found),
        groups => Check::warn(
            "user",
            format!("{found} is in {}", groups.join(", ")),
            "run agents as a user outside these groups: their members can become root and lift the gate",
        ),
    }
}

fn client(program: &str, name: &'static str) -> Check {
    match in_path(program) {
        Some(file) => Check::ok(name, file.display().to_string()),
        None => Check::warn(
            name,
            format!("no {program} in PATH"),
            "agents may bring their own; nothing here needs it",
        ),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn disk(folder: &Path, free_min: u64) -> Check {
    let existing = existing_ancestor(folder);
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    match statvfs(&existing) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} free for {}", mebibytes(free), folder.display());
            if free < free_min {
                let advice = format!(
                    "free some: below {} (record.free_min) nothing is forwarded",
                    mebibytes(free_min)
                );
                Check::fail("disk", text, advice)
            } else if free < free_min.saturating_mul(2) {
                Check::warn(
                    "disk",
                    text,
                    format!("at {} (record.free_min) forwarding stops", mebibytes(free_min)),
                )
            } else {
                Check::ok("disk", text)
            }
        }
        Err(error) => Check::warn("disk", format!("{}: {error}", existing.display()), "check paths.state"),
    }
}

/// Whether agents' look-ups become DNS, which is governed, or go to a local service by a Unix socket, which is not.
fn name_service() -> Check {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    judge_name_service(&text, Path::new("/run/nscd/socket").exists())
}

fn judge_name_service(nsswitch: &str, nscd: bool) -> Check {
    const NAME: &str = "name service";
    let hosts = nsswitch.lines().find_map(|line| line.trim().strip_prefix("hosts:")).unwrap_or("files dns");
    let hosts = hosts.split('#').next().unwrap_or_default().trim();
    let plain = ["files", "dns", "myhostname", "compat"];
    let word = |word: &str| word.starts_with('[') || word.ends_with(']') || plain.contains(&word);
    let around: Vec<_> = hosts.split_whitespace().filter(|source| !word(source)).collect();
    match (around.as_slice(), nscd) {
        ([], false) => Check::ok(NAME, format!("hosts: {hosts}")),
        ([], true) => {
            let advice = "stop nscd, or set `enable-cache hosts no`: it resolves for agents, ungoverned and unrecorded";
            Check::warn(NAME, "nscd is running", advice)
        }
        (_, _) => Check::warn(
            NAME,
            format!("hosts: {hosts}"),
            format!(
                "in /etc/nsswitch.conf leave `files dns`: {} may resolve for agents, ungoverned and unrecorded",
                around.join(", ")
            ),
        ),
    }
}

fn daemon(config: &Config) -> Vec<Check> {
    match ask(config, &Request::Status) {
        Ok(Reply::Status(status)) => judge_daemon(&status),
        Ok(_) => vec![Check::fail(
            "daemon",
            with_causes(&ClientError::NotUnderstood),
            "restart it after an upgrade",
        )],
        Err(error @ ClientError::NotRunning(_)) => {
            vec![Check::warn("daemon", "not running", with_causes(&error))]
        }
        Err(error) => vec![Check::fail("daemon", with_causes(&error), "see `journalctl -u portcullis`")],
    }
}

fn judge_daemon(status: &Status) -> Vec<Check> {
    let mut checks = vec![Check::ok("daemon", format!("process {}, mode {}", status.pid, status.mode))];
    let asks = status.name_servers.join(", ");
    checks.push(match asks.is_empty() {
        false => Check::ok("resolver", format!("{} over UDP and TCP, asks {asks}", status.proxy)),
        true => Check::warn("resolver", "asks nobody", "see the daemon's log, and /etc/resolv.conf"),
    });
    if status.version != env!("CARGO_PKG_VERSION") {
        let advice = "restart it: systemctl restart portcullis";
        checks.push(Check::warn("daemon version", status.version.clone(), advice));
    }
    for hook in status.hooks.iter().filter(|hook| !hook.attached) {
        let advice = "see the daemon's log; `portcullis detach` and a restart attach everything anew";
        checks.push(Check::fail("kernel program", format!("{} is not attached", hook.name), advice));
    }
    for problem in &status.problems {
        checks.push(Check::fail("daemon problem", problem.clone(), "see the daemon's log"));
    }
    for policy in &status.policies {
        if let Some(error) = &policy.error {
            let advice = format!("correct {}; until then its runs are denied", policy.file);
            checks.push(Check::fail("policy", error.clone(), advice));
        }
    }
    checks
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Hook;

    #[test]
    fn kernels_are_told_apart() {
        for (release, expected) in [
            ("4.18.0-553.el8", State::Fail),
            ("5.10.0-30-amd64", State::Fail),
            ("5.15.0-1049-aws", State::Warn),
            ("6.1.0-26-cloud-amd64", State::Ok),
            ("7.0-rc1", State::Ok),
            ("strange", State::Warn),
        ] {
            assert_eq!(judge_kernel(release).state, expected, "{release}");
        }
    }

    #[test]
    fn a_full_disk_fails_and_a_filling_one_warns() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("not/yet/there");
        assert_eq!(disk(&inside, 0).state, State::Ok);
        assert_eq!(disk(&inside, u64::MAX).state, State::Fail);
        let found = statvfs(folder.path()).unwrap();
        let free = found.f_bavail * found.f_frsize;
        assert_eq!(disk(&inside, free / 4 * 3).state, State::Warn);
    }

    #[test]
    fn an_ordinary_folder_is_no_bpffs() {
        let folder = tempfile::tempdir().unwrap();
        let check = bpffs(&folder.path().join("portcullis"));
        assert_eq!(check.state, State::Fail);
        assert!(check.advice.contains("mount -t bpf"), "{check:?}");
    }

    #[test]
    fn name_services_that_go_around_the_gate_are_pointed_out() {
        for (text, nscd, expected) in [
            ("", false, State::Ok),
            ("passwd: files systemd\nhosts:  files dns # usual\n", false, State::Ok),
            ("hosts: files myhostname [NOTFOUND=return] dns\n", false, State::Ok),
            ("hosts: files dns\n", true, State::Warn),
            ("hosts: mymachines resolve [!UNAVAIL=return] files dns\n", false, State::Warn),
            ("hosts: files mdns4_minimal [NOTFOUND=return] dns\n", false, State::Warn),
        ] {
            let check = judge_name_service(text, nscd);
            assert_eq!(check.state, expected, "{text:?} {check:?}");
        }
        let check = judge_name_service("hosts: mymachines resolve dns\n", false);
        assert!(check.advice.contains("mymachines, resolve may resolve"), "{check:?}");
    }

    #[test]
    fn a_daemon_in_trouble_is_reported() {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hooks: vec![Hook { name: "connect4".to_owned(), attached: false }],
            problems: vec!["recorder poisoned".to_owned()],
            ..Status::default()
        };
        let text = render(&judge_daemon(&status));
        assert!(text.contains("FAIL  kernel program: connect4 is not attached\n      -> "), "{text}");
        assert!(text.contains("FAIL  daemon problem: recorder poisoned\n"), "{text}");
    }
}
