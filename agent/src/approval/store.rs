//! What outlives the daemon: deferred requests, approvals that cover more than one operation, broken glass. In SQLite, each
//! change one transaction that is on stable storage before anybody is told.

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
        Self::with(Connection::open(state_dir.join(FILE))?)
    }

    /// One that is gone with the process, for tests.
    #[cfg(test)]
    pub(super) fn in_memory() -> Result<Self, StoreError> {
        Self::with(Connection::open_in_memory()?)
    }

    fn with(connection: Connection) -> Result<Self, StoreError> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A decision that somebody was told of is not lost with the power.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS approvals (id TEXT PRIMARY KEY, entry TEXT NOT NULL) STRICT",
            [],
        )?;
        Ok(Self(Mutex::new(connection)))
    }

    /// Writes an entry in the place of its former state. Blocks for as long as the disk takes.
    pub(super) fn save(&self, entry: &Entry) -> Result<(), StoreError> {
        let text = serde_json::to_string(entry)?;
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .prepare("INSERT OR REPLACE INTO approvals (id, entry) VALUES (?1, ?2)")?
            .execute(params![entry.id.to_string(), text])?;
        Ok(())
    }

    /// Removes entries that nothing rests on any more.
    pub(super) fn forget(&self, ids: &[ApprovalId]) -> Result<(), StoreError> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            connection.prepare("DELETE FROM approvals WHERE id = ?1")?.execute([id.to_string()])?;
        }
        Ok(())
    }

    /// Every entry, oldest first.
    pub(super) fn load(&self) -> Result<Vec<Entry>, StoreError> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare("SELECT entry FROM approvals ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
    }
}
