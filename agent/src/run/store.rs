//! What a restarted daemon needs to know of the runs it finds: one small JSON file per run in the state folder.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RunInfo;
use crate::flow::RunId;

/// Largest stored run read, in bytes.
const RUN_BYTES_MAX: u64 = 256 * 1024;

/// The folder of stored runs.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    boot: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// `/proc/sys/kernel/random/boot_id`: cgroup ids mean nothing after a reboot.
    boot: String,
    run: RunInfo,
}

impl Store {
    /// Opens the folder, making it (0700) when it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made or the kernel's boot id cannot be read.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("runs");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { folder, boot })
    }

    /// Writes a run whole or not at all. Not synced: a run does not outlive the machine.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn save(&self, run: &RunInfo) -> io::Result<()> {
        let text = serde_json::to_vec(&Stored { boot: self.boot.clone(), run: run.clone() })?;
        let (draft, file) = (self.folder.join(format!("{}.draft", run.id)), self.file(run.id));
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?
            .write_all(&text)?;
        fs::rename(draft, file)
    }

    /// Forgets a run. One that is not there is fine.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn forget(&self, run: RunId) -> io::Result<()> {
        match fs::remove_file(self.file(run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Every stored run of this boot, oldest first. What cannot be read, or is of an earlier boot, is removed and
    /// logged: its cgroup either is gone or stays governed by the kernel without a name, which denies.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(super) fn load(&self) -> io::Result<Vec<RunInfo>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match self.read(&path) {
                Ok(Some(run)) => runs.push(run),
                Ok(None) => discard(&path, "it is of an earlier boot"),
                Err(error) => discard(&path, &error.to_string()),
            }
        }
        runs.sort_by_key(|run| run.id);
        Ok(runs)
    }

    fn read(&self, path: &Path) -> io::Result<Option<RunInfo>> {
        let mut text = Vec::new();
        fs::File::open(path)?.take(RUN_BYTES_MAX).read_to_end(&mut text)?;
        let stored: Stored = serde_json::from_slice(&text)?;
        Ok((stored.boot == self.boot).then_some(stored.run))
    }

    fn file(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("{run}.json"))
    }
}

fn discard(path: &Path, why: &str) {
    tracing::info!(path = %path.display(), why, "removing a stored run");
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a stored run");
    }
}
