//! The policies of one folder, kept current: a good file replaces its policy, a broken one keeps the last good version
//! and is reported, a removed one takes its policy away. The only part of `policy` that does I/O.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

mod notice;

pub use notice::Notices;

use super::diagnostic::Diagnostic;
use super::load::{POLICY_BYTES_MAX, load};
use super::rule::Policy;
use crate::flow::Side;

/// Most policy files of one folder.
pub const POLICY_FILES_MAX: usize = 256;

/// Permission bit of `stat(2)`: others may write.
const MODE_OTHERS_WRITE: u32 = 0o002;

/// What is in force, and what is wrong in the folder. Replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Policies by name.
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// Files that could not be used, by path; a policy of such a file is the last good version, or absent.
    pub problems: BTreeMap<PathBuf, Problem>,
    /// Warnings in the files in use, by path.
    pub warnings: BTreeMap<PathBuf, Vec<Diagnostic>>,
}

/// Why a file, or the whole folder, could not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Problem {
    /// The text is wrong.
    #[error("{}", first_of(.0))]
    Findings(Vec<Diagnostic>),
    /// Another file has a policy of this name.
    #[error("policy \"{name}\" is already defined by {}; rename one of them", .other.display())]
    NameTaken {
        /// The name.
        name: String,
        /// The file that has it.
        other: PathBuf,
    },
    /// It could not be read.
    #[error("cannot be read")]
    Read(#[source] Arc<io::Error>),
    /// Somebody else could change what it says.
    #[error(
        "{0}; a policy is trusted, so only root or the daemon's user may own it, and not everyone write it"
    )]
    Untrusted(&'static str),
    /// There are too many files.
    #[error("more than {POLICY_FILES_MAX} policy files in one folder; this one is not read")]
    TooMany,
}

impl Problem {
    /// Whose fault it is.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Findings(_) | Self::NameTaken { .. } | Self::TooMany => Side::Policy,
            Self::Read(_) | Self::Untrusted(_) => Side::Portcullis,
        }
    }
}

fn first_of(findings: &[Diagnostic]) -> String {
    match findings {
        [] => "has no finding".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// Changes to the folder cannot be noticed.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {} for changes", folder.display())]
pub struct WatchError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

impl WatchError {
    /// Whose fault it is: always ours or the host's.
    #[must_use]
    pub fn side(&self) -> Side {
        Side::Portcullis
    }
}

/// The last good version of one file.
#[derive(Debug)]
struct Good {
    policy: Arc<Policy>,
    warnings: Vec<Diagnostic>,
}

/// All policies of a folder.
#[derive(Debug)]
pub struct PolicySet {
    folder: PathBuf,
    /// Last good version by file. Its lock is also held while the folder is read, so that two reloads do not mix.
    good: Mutex<BTreeMap<PathBuf, Good>>,
    current: watch::Sender<Arc<Snapshot>>,
}

impl PolicySet {
    /// Reads every `*.toml` of a folder. Broken files are in the snapshot's `problems`; so is a folder that cannot be
    /// read, which leaves no policy at all: nothing is permitted until it can.
    #[must_use]
    pub fn load_dir(folder: &Path) -> Self {
        let set = Self {
            folder: folder.to_owned(),
            good: Mutex::new(BTreeMap::new()),
            current: watch::Sender::new(Arc::new(Snapshot::default())),
        };
        set.reload();
        set
    }

    /// The policy of this name, as it is now.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Policy>> {
        self.current.borrow().policies.get(name).map(Arc::clone)
    }

    /// What is in force now, and what is wrong.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// Notices of every change; the current snapshot counts as seen.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }

    /// Reads the folder again. Blocks on file I/O. Subscribers are told only if something changed.
    pub fn reload(&self) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let next = read_folder(&self.folder, &mut good);
        self.current.send_if_modified(|current| {
            let changed = !alike(current, &next);
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
    }

    /// Reloads whenever the folder changes, for as long as it is polled.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance. A folder that does not exist yet is no error: it is looked for every
    /// 30 s.
    pub async fn follow(self: Arc<Self>) -> Result<Infallible, WatchError> {
        let failed = |source| WatchError { folder: self.folder.clone(), source };
        loop {
            let notices = Notices::begin([self.folder.as_path()]).map_err(failed)?;
            Arc::clone(&self).reload_aside().await;
            notices.settled().await.map_err(failed)?;
        }
    }

    async fn reload_aside(self: Arc<Self>) {
        // Fails only when the runtime is shutting down or the reading panicked; either way the last snapshot stays.
        drop(tokio::task::spawn_blocking(move || self.reload()).await);
    }
}

fn read_folder(folder: &Path, good: &mut BTreeMap<PathBuf, Good>) -> Snapshot {
    let mut problems = BTreeMap::new();
    match policy_files(folder) {
        Ok(mut files) => {
            for extra in files.split_off(files.len().min(POLICY_FILES_MAX)) {
                problems.insert(extra, Problem::TooMany);
            }
            good.retain(|path, _| files.contains(path));
            for path in files {
                match read_file(&path, good.get(&path)) {
                    Ok(Some(fresh)) => drop(good.insert(path, fresh)),
                    Ok(None) => {}
                    Err(problem) => drop(problems.insert(path, problem)),
                }
            }
        }
        // The last good versions stay: a folder that cannot be listed is not a folder without policies.
        Err(problem) => drop(problems.insert(folder.to_owned(), problem)),
    }
    let mut owners: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut policies = BTreeMap::new();
    let mut warnings = BTreeMap::new();
    for (path, file) in good.iter() {
        let name = &file.policy.name;
        if let Some(other) = owners.get(name) {
            let taken = Problem::NameTaken { name: name.clone(), other: other.clone() };
            problems.entry(path.clone()).or_insert(taken);
            continue;
        }
        owners.insert(name.clone(), path.clone());
        policies.insert(name.clone(), Arc::clone(&file.policy));
        if !file.warnings.is_empty() {
            warnings.insert(path.clone(), file.warnings.clone());
        }
    }
    Snapshot { policies, problems, warnings }
}

/// Paths of the folder's policy files, sorted. Hidden files are not policies: editors keep theirs so.
///
/// # Errors
/// When the folder cannot be listed or others may write to it.
pub fn policy_files(folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    let read = |error| Problem::Read(Arc::new(error));
    trusted(&std::fs::metadata(folder).map_err(read)?)?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The file's policy, or `None` when its text is the one already known.
fn read_file(path: &Path, known: Option<&Good>) -> Result<Option<Good>, Problem> {
    let text = read_policy(path)?;
    let loaded = load(&text).map_err(|error| Problem::Findings(error.findings))?;
    if known.is_some_and(|known| known.policy.version == loaded.policy.version) {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    loaded.policy.begin(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    Ok(Some(Good { policy: Arc::new(loaded.policy), warnings: loaded.warnings }))
}

/// Text of a policy file that nobody else can change, at most a byte beyond the limit (which `load` then refuses).
fn read_policy(path: &Path) -> Result<String, Problem> {
    let read = |error| Problem::Read(Arc::new(error));
    // A FIFO would block here; the folder is root's, so it is root's own mistake and no attack.
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    trusted(&metadata)?;
    if !metadata.is_file() {
        return Err(Problem::Untrusted("this is not a regular file"));
    }
    let mut text = String::new();
    file.take(POLICY_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(read)?;
    Ok(text)
}

fn trusted(metadata: &Metadata) -> Result<(), Problem> {
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Problem::Untrusted("it belongs to another user"));
    }
    if metadata.mode() & MODE_OTHERS_WRITE != 0 {
        return Err(Problem::Untrusted("everyone may write to it"));
    }
    Ok(())
}

/// Whether two snapshots say the same. Errors have no equality, so their texts are compared.
fn alike(a: &Snapshot, b: &Snapshot) -> bool {
    let versions = |snapshot: &Snapshot| -> Vec<(String, String)> {
        snapshot.policies.iter().map(|(name, policy)| (name.clone(), policy.version.clone())).collect()
    };
    let problems = |snapshot: &Snapshot| -> Vec<(PathBuf, String)> {
        snapshot.problems.iter().map(|(path, problem)| (path.clone(), format!("{problem:?}"))).collect()
    };
    versions(a) == versions(b) && problems(a) == problems(b) && a.warnings == b.warnings
}

#[cfg(test)]
mod tests;
