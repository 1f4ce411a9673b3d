//! What outlives the daemon: deferred requests, approvals that cover more than one operation, broken glass. In SQLite, each
//! change one transaction that is on stable storage before anybody is told.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, params};

use super::entry::Entry;
use crate::flow::ApprovalId;

/// Of the state folder.
const FILE: &str = "approvals.sqlite";

/// Why nothing could be remembered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so.
    #[error("approvals.sqlite in the state folder cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The daemon is ending.
    #[error("the daemon is ending")]
    Interrupted,
    /// The file cannot be made.
    #[error("approvals.sqlite in the state folder cannot be made: {0}")]
    Io(#[from] std::io::Error),
    /// A row that is no entry.
    #[error("approvals.sqlite holds something that is no approval: {0}")]
    Json(#[from] serde_json::Error),
}

/// The file.
#[derive(Debug)]
pub(super) struct Store(Mutex<Connection>);

impl Store {
    /// Opens it, making it when it is missing.
    pub(super) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        // Statements, parameters and claims are in it.
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        Self::with(Connection::open(path)?)
    }

    /// One that is gone with the process, for tests.
    #[cfg(test)]
    pub(super) fn in_memory() -> Result<Self, StoreError> {
        Self::with(Connection::open_in_memory()?)
    }

    /// From here on every write fails, for tests.
    #[cfg(test)]
    pub(super) fn break_down(&self) {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection.execute("DROP TABLE approvals", []).expect("a database in memory");
    }

    fn with(connection: Connection) -> Result<Self, StoreError> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A decision that somebody was told of is not lost with the power.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS approvals (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, entry TEXT) STRICT",
            [],
        )?;
        // What was forgotten before the last start cannot come back any more.
        connection.execute("DELETE FROM approvals WHERE entry IS NULL", [])?;
        Ok(Self(Mutex::new(connection)))
    }

    /// Writes an entry in the place of an earlier state of it; a later one stays. Blocks for as long as the disk takes.
    pub(super) fn save(&self, entry: &Entry) -> Result<(), StoreError> {
        let text = serde_json::to_string(entry)?;
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .prepare(
                "INSERT INTO approvals (id, revision, entry) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET \
                 revision = excluded.revision, entry = excluded.entry WHERE excluded.revision > approvals.revision",
            )?
            .execute(params![entry.id.to_string(), i64::try_from(entry.revision).unwrap_or(i64::MAX - 1), text])?;
        Ok(())
    }

    /// Forgets entries that nothing rests on any more, so that no late save of an earlier state brings one back.
    pub(super) fn forget(&self, ids: &[ApprovalId]) -> Result<(), StoreError> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        for id in ids {
            transaction
                .prepare("UPDATE approvals SET entry = NULL, revision = ?2 WHERE id = ?1")?
                .execute(params![id.to_string(), i64::MAX])?;
        }
        Ok(transaction.commit()?)
    }

    /// Every entry, oldest first.
    pub(super) fn load(&self) -> Result<Vec<Entry>, StoreError> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement =
            connection.prepare("SELECT entry FROM approvals WHERE entry IS NOT NULL ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
    }
}
