//! Governed runs: which cgroup belongs to which policy and subject, from the first process in it to the last.
//!
//! A run's cgroup is known to the kernel side **before** any process is in it, and forgotten there only after its
//! directory is gone. Whatever goes wrong between leaves a cgroup governed without a name, and that denies.
//!
//! **Nesting.** A cgroup inside a governed one is never claimed anew: a process that may make cgroups below its own
//! must not choose its policy. Where a policy that claims an outer cgroup arrives later, the inner run keeps its own
//! until it ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

pub mod caller;
pub mod cgroup;
pub mod identity;
mod info;
pub mod matching;
mod renewal;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use crate::config::Config;
use crate::flow::{RunId, Side};
use crate::policy::rule::PolicyVersion;
use caller::Caller;
use cgroup::Hierarchy;
pub use identity::{Identity, Lapsed, Standing, Withdrawal};
pub use info::{CgroupRef, How, Login, RunInfo, Subject};
use renewal::WithdrawnTokens;
pub use renewal::{RenewError, Withdrawn};
use store::Store;

/// Runs at once; beyond it new ones are refused.
pub const RUNS_MAX: usize = 4096;
/// Ended runs remembered for `find`.
pub const ENDED_RUNS_KEPT: usize = 1024;
/// Labels of one run.
pub const LABELS_MAX: usize = 32;
/// Length of a label's key, in bytes.
pub const LABEL_KEY_BYTES_MAX: usize = 64;
/// Length of a label's value, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 512;

/// What happened to a run.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// It is governed and its first process is in.
    Started(Arc<RunInfo>),
    /// Taken up again after the daemon's restart.
    Resumed(Arc<RunInfo>),
    /// Its last process is gone.
    Ended {
        /// The run.
        run: Arc<RunInfo>,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        at_ms: u64,
    },
}

/// The kernel side, as far as runs need it.
pub struct Governor {
    /// Governs a cgroup and all below it from now on. Governing it again with the same run changes nothing.
    pub govern: Box<dyn Fn(u64, RunId) -> io::Result<()> + Send + Sync>,
    /// Stops governing a cgroup. One that is not governed is fine.
    pub release: Box<dyn Fn(u64) -> io::Result<()> + Send + Sync>,
    /// Every governed cgroup id and its run.
    pub governed: Governed,
}

/// Lists governed cgroup ids with their runs.
pub type Governed = Box<dyn Fn() -> io::Result<Vec<(u64, RunId)>> + Send + Sync>;

/// Called for every event, in order per run. Must not block for long.
pub type Notify = Box<dyn Fn(&RunEvent) + Send + Sync>;

/// What `portcullis run` asks for.
#[derive(Clone, Debug)]
pub struct Start {
    /// Policy name; the caller has checked that it exists and that this user may run under it.
    pub policy: String,
    /// Its version now.
    pub policy_version: PolicyVersion,
    /// What its token says; whoever starts the run has verified it.
    pub identity: Option<Identity>,
    /// Labels, not yet checked.
    pub labels: BTreeMap<String, String>,
    /// Whether uid 0 is acceptable.
    pub allow_root: bool,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The caller is root.
    #[error(
        "an agent must not be root: root can lift the gate. Start it as another user (`runuser -u NAME -- \
             portcullis run …`), or pass --allow-root if you accept that"
    )]
    Root,
    /// A label is not acceptable.
    #[error("label {0}")]
    Label(String),
    /// An operator withdrew a run with this token.
    #[error("a run with this token was withdrawn, and the token with it; get a new one")]
    TokenWithdrawn,
    /// `RUNS_MAX` runs exist.
    #[error("{RUNS_MAX} runs are active; wait for one to end")]
    Full,
    /// The caller went away, or its process id may be another's by now.
    #[error("the caller is gone")]
    CallerGone,
    /// The cgroup could not be made or entered, or the kernel refused.
    #[error("cannot {step}")]
    Host {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Root | Self::Label(_) | Self::CallerGone => Side::Client,
            Self::TokenWithdrawn => Side::Policy,
            Self::Full | Self::Host { .. } => Side::Portcullis,
        }
    }
}

/// Every run of this host.
pub struct Runs {
    hierarchy: Hierarchy,
    /// cgroup path below which `portcullis run` puts its cgroups.
    parent: String,
    store: Store,
    withdrawn: WithdrawnTokens,
    /// Held by who renews or withdraws.
    changes: Mutex<()>,
    governor: Governor,
    notify: Notify,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    active: HashMap<RunId, Arc<RunInfo>>,
    ended: VecDeque<Arc<RunInfo>>,
    /// Claimed cgroups that are not governed, and why.
    unclaimable: BTreeMap<String, String>,
}

impl Runs {
    /// Opens the registry. Call [`Runs::resume`] before anything else uses it.
    ///
    /// # Errors
    /// When cgroup v2 or the state folder is not there.
    pub fn open(config: &Config, governor: Governor, notify: Notify) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            hierarchy: Hierarchy::find()?,
            parent: cgroup::child("/", &config.runs_cgroup),
            store: Store::open(&config.state_dir)?,
            withdrawn: WithdrawnTokens::open(&config.state_dir)?,
            changes: Mutex::default(),
            governor,
            notify,
            table: RwLock::default(),
        }))
    }

    /// An active run.
    #[must_use]
    pub fn get(&self, run: RunId) -> Option<Arc<RunInfo>> {
        self.read().active.get(&run).cloned()
    }

    /// A run that is active or ended a while ago.
    #[must_use]
    pub fn find(&self, run: RunId) -> Option<Arc<RunInfo>> {
        let table = self.read();
        table.active.get(&run).or_else(|| table.ended.iter().find(|ended| ended.id == run)).cloned()
    }

    /// Active runs, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<RunInfo>> {
        let mut runs: Vec<_> = self.read().active.values().cloned().collect();
        runs.sort_by_key(|run| run.id);
        runs
    }

    /// The active run whose cgroup is this path or holds it; the innermost when there are several.
    #[must_use]
    pub fn covering(&self, path: &str) -> Option<Arc<RunInfo>> {
        self.read()
            .active
            .values()
            .filter(|run| cgroup::contains(&run.cgroup.path, path))
            .max_by_key(|run| run.cgroup.path.len())
            .cloned()
    }

    /// Whether a process at this cgroup path is an agent's: inside any run, or inside the folder of runs at all.
    #[must_use]
    pub fn is_agent(&self, path: &str) -> bool {
        cgroup::contains(&self.parent, path) || self.covering(path).is_some()
    }

    /// Cgroups that a policy claims and that are not governed all the same, one line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.read()
            .unclaimable
            .iter()
            .map(|(path, why)| format!("cgroup {path} is not governed: {why}"))
            .collect()
    }

    /// The cgroup tree.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Begins a run: makes its cgroup, governs it, then moves the caller in. Blocks; needs a tokio context, in which
    /// the run's end is awaited.
    ///
    /// # Errors
    /// When the request is refused or the host fails; the caller is then where it was.
    pub fn start(self: &Arc<Self>, start: Start, caller: &Caller) -> Result<Arc<RunInfo>, StartError> {
        if !start.allow_root && caller.is_privileged().map_err(|_| StartError::CallerGone)? {
            return Err(StartError::Root);
        }
        check_labels(&start.labels)?;
        if start.identity.as_ref().is_some_and(|identity| self.withdrawn.holds(&identity.token)) {
            return Err(StartError::TokenWithdrawn);
        }
        if self.read().active.len() >= RUNS_MAX {
            return Err(StartError::Full);
        }
        let run = self.prepare(start, caller)?;
        // Known to all by now: a withdrawal that came in between finds it here, a later one finds it itself.
        self.withdraw_with_its_token(&run);
        if run.standing.withdrawn().is_some() {
            self.discard(&run);
            return Err(StartError::TokenWithdrawn);
        }
        match self.place(&run, caller) {
            Ok(()) => {
                tracing::info!(run = %run.id, policy = run.policy, uid = caller.uid, pid = caller.pid, "run started");
                (self.notify)(&RunEvent::Started(Arc::clone(&run)));
                self.watch_until_empty(Arc::clone(&run));
                Ok(run)
            }
            Err(error) => {
                self.discard(&run);
                Err(error)
            }
        }
    }

    /// Makes and governs the cgroup; nobody is in it yet.
    fn prepare(&self, start: Start, caller: &Caller) -> Result<Arc<RunInfo>, StartError> {
        let host = |step| move |source| StartError::Host { step, source };
        let id = RunId::generate();
        let path = cgroup::child(&self.parent, &id.to_string());
        let cgroup_id = self.hierarchy.create(&path).map_err(host("make the run's cgroup"))?;
        let run = Arc::new(RunInfo {
            id,
            policy: start.policy,
            policy_version: start.policy_version,
            subject: Some(caller.subject()),
            standing: Standing::new(start.identity),
            labels: start.labels,
            started_ms: now_ms(),
            how: How::Started { pid: caller.pid },
            cgroup: CgroupRef { path, id: cgroup_id },
        });
        if let Err(error) = self.enter(&run) {
            self.discard(&run);
            return Err(host("govern the run's cgroup")(error));
        }
        Ok(run)
    }

    /// Remembers and governs a run, in the order that leaves nothing ungoverned or nameless on the way.
    fn enter(&self, run: &Arc<RunInfo>) -> io::Result<()> {
        self.store.save(run)?;
        self.write().active.insert(run.id, Arc::clone(run));
        (self.governor.govern)(run.cgroup.id, run.id)
    }

    /// Moves the caller in, and makes sure that it was the caller: as long as a process is not reaped its number
    /// names nobody else, so a caller that is alive *after* the move was alive during it.
    fn place(&self, run: &RunInfo, caller: &Caller) -> Result<(), StartError> {
        let gone = |_| StartError::CallerGone;
        let origin = caller.cgroup().map_err(gone)?;
        self.hierarchy.place(&run.cgroup.path, caller.pid).map_err(|source| {
            if source.raw_os_error() == Some(libc::ESRCH) {
                StartError::CallerGone
            } else {
                StartError::Host { step: "move the caller into the run's cgroup", source }
            }
        })?;
        caller.check_alive().map_err(|_| {
            for stranger in self.hierarchy.processes(&run.cgroup.path).unwrap_or_default() {
                if let Err(error) = self.hierarchy.place(&origin, stranger) {
                    tracing::error!(stranger, origin, %error, "cannot put a process back into its cgroup");
                }
            }
            StartError::CallerGone
        })
    }

    /// Undoes a run that did not begin.
    fn discard(&self, run: &RunInfo) {
        if let Err(error) = self.leave(run) {
            tracing::error!(run = %run.id, %error, "a run that did not begin stays governed");
        }
    }

    /// Ends a run whose cgroup holds no process any more.
    fn end(&self, run: &Arc<RunInfo>) -> io::Result<()> {
        self.leave(run)?;
        tracing::info!(run = %run.id, policy = run.policy, "run ended");
        (self.notify)(&RunEvent::Ended { run: Arc::clone(run), at_ms: now_ms() });
        Ok(())
    }

    /// Forgets a run everywhere: the directory first (the kernel refuses while a process is in it), then the kernel's
    /// entry, then ours.
    fn leave(&self, run: &RunInfo) -> io::Result<()> {
        match run.how {
            How::Started { .. } => self.hierarchy.remove(&run.cgroup.path)?,
            // Its maker removes it.
            How::Matched { .. } => {}
        }
        (self.governor.release)(run.cgroup.id)?;
        self.store.forget(run.id)?;
        let mut table = self.write();
        if let Some(run) = table.active.remove(&run.id) {
            if table.ended.len() >= ENDED_RUNS_KEPT {
                table.ended.pop_front();
            }
            table.ended.push_back(run);
        }
        Ok(())
    }

    /// Takes up what a previous daemon left: runs whose cgroup is still there go on, the others are forgotten, and a
    /// governed cgroup that nobody remembers stays governed (its connections are denied) until it is gone. Needs a
    /// tokio context.
    ///
    /// # Errors
    /// When stored runs or the kernel's entries cannot be read; the daemon must not start then.
    pub fn resume(self: &Arc<Self>) -> io::Result<()> {
        for run in self.store.load()? {
            let run = Arc::new(run);
            if self.hierarchy.id(&run.cgroup.path).is_ok_and(|id| id == run.cgroup.id) {
                self.withdraw_with_its_token(&run);
                self.enter(&run)?;
                tracing::info!(run = %run.id, policy = run.policy, "run resumed");
                (self.notify)(&RunEvent::Resumed(Arc::clone(&run)));
                if matches!(run.how, How::Started { .. }) {
                    self.watch_until_empty(run);
                }
            } else {
                self.end(&run)?;
            }
        }
        self.resume_nameless()
    }

    fn resume_nameless(&self) -> io::Result<()> {
        for name in self.hierarchy.children(&self.parent) {
            let path = cgroup::child(&self.parent, &name);
            if self.covering(&path).is_some() || self.hierarchy.remove(&path).is_ok() {
                continue;
            }
            tracing::error!(path, "a run's cgroup has processes but no record; its connections are denied");
            let run = name.parse().unwrap_or_else(|_| RunId::generate());
            (self.governor.govern)(self.hierarchy.id(&path)?, run)?;
        }
        let alive = matching::every_id(&self.hierarchy);
        for (id, run) in (self.governor.governed)()? {
            if !alive.contains(&id) {
                (self.governor.release)(id)?;
            } else if self.get(run).is_none() {
                tracing::error!(cgroup = id, %run, "a governed cgroup has no record; its connections are denied");
            }
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        // The table is only ever changed by single inserts and removals, so a panic elsewhere leaves it whole.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the runs of a daemon that is gone and removes their cgroups, for `portcullis detach`. A cgroup with processes
/// in it stays until a daemon starts again; returns how many do.
///
/// # Errors
/// When the state folder or the cgroup tree cannot be read or changed.
pub fn forget(config: &Config) -> io::Result<usize> {
    let store = Store::open(&config.state_dir)?;
    for run in store.load()? {
        store.forget(run.id)?;
    }
    let hierarchy = Hierarchy::find()?;
    let parent = cgroup::child("/", &config.runs_cgroup);
    let mut populated = 0;
    for name in hierarchy.children(&parent) {
        match hierarchy.remove(&cgroup::child(&parent, &name)) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => populated += 1,
            removed => removed?,
        }
    }
    if populated == 0 {
        hierarchy.remove(&parent)?;
    }
    Ok(populated)
}

/// Keys as in Kubernetes and OCI labels; values are shown to people, so no control characters.
fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), StartError> {
    if labels.len() > LABELS_MAX {
        return Err(StartError::Label(format!("count {} is over {LABELS_MAX}", labels.len())));
    }
    let key_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX || !key.chars().all(key_char) {
            let shown: String = key.escape_debug().take(LABEL_KEY_BYTES_MAX).collect();
            return Err(StartError::Label(format!(
                "key `{shown}` is not acceptable; use up to {LABEL_KEY_BYTES_MAX} letters, digits, `.`, `_`, `-`, `/`"
            )));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(StartError::Label(format!(
                "`{key}`: its value is not acceptable; use up to {LABEL_VALUE_BYTES_MAX} bytes without control characters"
            )));
        }
    }
    Ok(())
}

/// Milliseconds since 1970-01-01T00:00:00Z.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
