//! Finds cgroups that a policy claims by unit name or path: those that exist, and those that appear.
//!
//! A cgroup that appears is governed a moment after it is made; systemd needs longer than that to fork the service
//! into it, but nothing makes it wait. Where that is not enough, claim the slice around the units: it is there before
//! them, and what is below a governed cgroup is governed from its first instruction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::io::Interest;
use tokio::sync::watch;

use super::cgroup::{self, Hierarchy};
use super::{CgroupRef, How, RUNS_MAX, RunEvent, RunInfo, Runs, now_ms};
use crate::flow::RunId;
use crate::policy::rule::{Matches, PolicyVersion};
use crate::sys::Readiness;

/// How often the tree is walked again while the kernel cannot watch all of it.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes read from inotify at once.
const EVENT_BYTES: usize = 16 * 1024;

/// What one valid policy claims. Every valid policy has one, if only with empty lists: a policy that is *not* there
/// (deleted, broken) keeps what it has, denied, while one that no longer claims a cgroup lets go of it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Policy name.
    pub policy: String,
    /// Its version.
    pub version: PolicyVersion,
    /// Its globs.
    pub matches: Matches,
}

impl Claim {
    fn covers(&self, path: &str) -> bool {
        let unit = unit_of(path);
        self.matches.units.iter().any(|glob| glob.is_match(unit))
            || self.matches.cgroups.iter().any(|glob| glob.is_match(path))
    }
}

/// Governs claimed cgroups for as long as it is polled. Ends when the sender of `claims` is dropped.
///
/// # Errors
/// When inotify is not to be had or breaks; call it again.
pub async fn watch(runs: Arc<Runs>, mut claims: watch::Receiver<Arc<[Claim]>>) -> io::Result<()> {
    let mut inotify = Inotify::init()?;
    let changes = Readiness::of(&inotify, Interest::READABLE)?;
    let own = cgroup::of_process(std::process::id())?;
    let mut tree = Tree {
        watches: inotify.watches(),
        runs,
        own,
        claims: claims.borrow_and_update().clone(),
        directories: HashMap::new(),
        refused: HashSet::new(),
        complete: true,
    };
    let mut buffer = vec![0; EVENT_BYTES];
    tree.reconsider();
    loop {
        let rescan = if tree.complete { Duration::MAX } else { RESCAN_INTERVAL };
        tokio::select! {
            changed = claims.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                tree.claims = claims.borrow_and_update().clone();
                tree.reconsider();
            }
            () = tokio::time::sleep(rescan) => tree.reconsider(),
            ready = changes.wait(Interest::READABLE) => {
                ready?;
                tree.drain(&mut inotify, &mut buffer)?;
            }
        }
    }
}

/// Ids of every cgroup there is.
pub(super) fn every_id(hierarchy: &Hierarchy) -> HashSet<u64> {
    let mut ids = HashSet::new();
    let mut paths = vec!["/".to_owned()];
    while let Some(path) = paths.pop() {
        // One that vanishes meanwhile has no id to keep.
        ids.extend(hierarchy.id(&path).ok());
        paths.extend(hierarchy.children(&path).iter().map(|name| cgroup::child(&path, name)));
    }
    ids
}

/// The ungoverned part of the cgroup tree, watched.
struct Tree {
    runs: Arc<Runs>,
    watches: Watches,
    /// The daemon's own cgroup: nothing that holds it may be claimed, or the gate would gate itself.
    own: String,
    claims: Arc<[Claim]>,
    directories: HashMap<WatchDescriptor, String>,
    /// Claimed cgroups that could not be governed when last looked at.
    refused: HashSet<String>,
    /// Whether every directory is watched.
    complete: bool,
}

impl Tree {
    /// Walks the whole tree: ends runs whose cgroup is gone or no longer claimed, then claims what is there.
    fn reconsider(&mut self) {
        for run in self.runs.list() {
            if matches!(run.how, How::Matched { .. }) && !self.keeps(&run) {
                self.end(&run);
            }
        }
        self.complete = true;
        self.refused.clear();
        self.visit("/".to_owned());
        let refused = &self.refused;
        self.runs.write().unclaimable.retain(|path, _| refused.contains(path));
    }

    fn keeps(&self, run: &RunInfo) -> bool {
        let same = self.runs.hierarchy().id(&run.cgroup.path).is_ok_and(|id| id == run.cgroup.id);
        let mut claim = self.claims.iter().filter(|claim| claim.policy == run.policy);
        same && claim.next().is_none_or(|claim| claim.covers(&run.cgroup.path))
    }

    fn drain(&mut self, inotify: &mut Inotify, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match inotify.read_events(buffer) {
                Ok(events) => events.for_each(|event| self.changed(&event)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn changed(&mut self, event: &inotify::Event<&std::ffi::OsStr>) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return self.reconsider();
        }
        if event.mask.contains(EventMask::IGNORED) {
            self.directories.remove(&event.wd);
            return;
        }
        let (Some(parent), Some(name)) =
            (self.directories.get(&event.wd), event.name.and_then(std::ffi::OsStr::to_str))
        else {
            return;
        };
        let path = cgroup::child(parent, name);
        if event.mask.contains(EventMask::CREATE) {
            self.visit(path);
        } else if event.mask.contains(EventMask::DELETE) {
            self.vanished(&path);
        }
    }

    /// Looks at a directory and everything below it. Each is watched before it is listed, so that a child made in
    /// between is seen twice rather than never.
    fn visit(&mut self, path: String) {
        let mut paths = vec![path];
        while let Some(path) = paths.pop() {
            if self.runs.is_agent(&path) || self.claim(&path) {
                continue; // What is below belongs to it.
            }
            let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
            match self.watches.add(self.runs.hierarchy().directory(&path), mask) {
                Ok(watch) => {
                    self.directories.insert(watch, path.clone());
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => continue,
                Err(error) => {
                    if self.complete {
                        tracing::error!(path, %error, "cannot watch a cgroup; raise fs.inotify.max_user_watches. \
                                        Until then new cgroups are looked for every second");
                    }
                    self.complete = false;
                }
            }
            paths.extend(self.runs.hierarchy().children(&path).iter().map(|name| cgroup::child(&path, name)));
        }
    }

    /// Governs a cgroup if a policy claims it. Of several the first by name does, and the log says so.
    fn claim(&mut self, path: &str) -> bool {
        let all = Arc::clone(&self.claims);
        let mut claims: Vec<&Claim> = all.iter().filter(|claim| claim.covers(path)).collect();
        claims.sort_by(|a, b| a.policy.cmp(&b.policy));
        let Some((claim, others)) = claims.split_first() else { return false };
        if cgroup::contains(path, &self.own) {
            self.cannot_claim(path, &claim.policy, "the daemon itself lives in it");
            return false;
        }
        if !others.is_empty() {
            let others: Vec<_> = others.iter().map(|claim| claim.policy.as_str()).collect();
            tracing::warn!(path, policy = claim.policy, ?others, "several policies claim this cgroup");
        }
        match self.govern(path, claim) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.cannot_claim(path, &claim.policy, &error.to_string());
                false
            }
        }
    }

    /// Says so once in the log, and in `status` for as long as it is so.
    fn cannot_claim(&mut self, path: &str, policy: &str, why: &str) {
        self.refused.insert(path.to_owned());
        let why = format!("policy `{policy}` claims it, but {why}");
        let known = self.runs.write().unclaimable.insert(path.to_owned(), why.clone());
        if known.as_ref() != Some(&why) {
            tracing::error!(path, why, "not governed");
        }
    }

    fn govern(&self, path: &str, claim: &Claim) -> io::Result<()> {
        if self.runs.read().active.len() >= RUNS_MAX {
            return Err(io::Error::other(format!("{RUNS_MAX} runs are active")));
        }
        let run = Arc::new(RunInfo {
            id: RunId::generate(),
            policy: claim.policy.clone(),
            policy_version: claim.version.clone(),
            subject: None,
            standing: super::Standing::default(),
            labels: BTreeMap::new(),
            started_ms: now_ms(),
            how: How::Matched { unit: unit_of(path).to_owned() },
            cgroup: CgroupRef { path: path.to_owned(), id: self.runs.hierarchy().id(path)? },
        });
        if let Err(error) = self.runs.enter(&run) {
            self.runs.discard(&run);
            return Err(error);
        }
        let already = self.runs.hierarchy().processes(path).map_or(0, |processes| processes.len());
        tracing::info!(run = %run.id, policy = run.policy, path, processes = already, "cgroup matched");
        (self.runs.notify)(&RunEvent::Started(run));
        Ok(())
    }

    /// Ends the run whose cgroup was removed. By its id: the path may have been made anew, and claimed, since.
    fn vanished(&self, path: &str) {
        self.runs.write().unclaimable.remove(path);
        for run in self.runs.list() {
            let gone = || self.runs.hierarchy().id(&run.cgroup.path).ok() != Some(run.cgroup.id);
            if matches!(run.how, How::Matched { .. }) && run.cgroup.path == path && gone() {
                self.end(&run);
            }
        }
    }

    fn end(&self, run: &Arc<RunInfo>) {
        if let Err(error) = self.runs.end(run) {
            tracing::error!(run = %run.id, %error, "cannot release a matched cgroup");
        }
    }
}

fn unit_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
