//! `index.sqlite`: summaries of sessions, and where each session's frames lie. Rebuildable, never needed.
//!
//! It says nothing of single operations: who wants those reads the session's frames. An index of them would cost more than all
//! else that is done for a short statement.
//!
//! The index follows the log by reading it, from the position it last committed. Nothing is handed to it, so there is
//! no queue that could fill, and forwarding never waits for it: its thread runs at the lowest priority and may lag as
//! far as it likes. Readers read the part of the log behind its position themselves.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::log::Lsn;
use super::segment::{SegmentCursor, Step, list_segments, segment_path};
use super::summary::{Base, Changes, Extent, SessionSummary};
use super::writer::STORE_FOLDER;
use crate::flow::{RunId, SessionId};

/// Name of the index below the data folder.
pub const INDEX_FILE: &str = "index.sqlite";

/// Changes when the tables do; an index of another version is rebuilt.
const SCHEMA_VERSION: i64 = 3;
/// Frames in one transaction, at most.
const BATCH_FRAMES_MAX: usize = 4096;
/// How often the follower looks for new frames.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Pause after an error, before the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How long a stopping daemon waits for the index; what is left is caught up at the next start.
const FINISH_TIME_MAX: Duration = Duration::from_secs(2);
/// The kernel's lowest ordinary priority: the index never competes with forwarding.
const NICE: i32 = 19;

const SCHEMA: &str = "
CREATE TABLE meta (store TEXT NOT NULL, position INTEGER NOT NULL);
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, summary TEXT NOT NULL,
    run TEXT AS (summary ->> '$.opened.run'), policy TEXT AS (summary ->> '$.opened.policy'),
    connection TEXT AS (summary ->> '$.opened.connection'), started_ns INTEGER AS (summary ->> '$.started_ns'),
    ended_ns INTEGER AS (summary ->> '$.ended_ns'), ended_reason TEXT AS (summary ->> '$.ended_reason'),
    operations INTEGER AS (summary ->> '$.operations'), held INTEGER AS (summary ->> '$.held'),
    denied INTEGER AS (summary ->> '$.denied'), masked INTEGER AS (summary ->> '$.masked')
) WITHOUT ROWID;
CREATE INDEX sessions_by_run ON sessions (run, id);
CREATE TABLE extents (
    session TEXT NOT NULL, segment INTEGER NOT NULL, first INTEGER NOT NULL, past INTEGER NOT NULL,
    PRIMARY KEY (session, segment, first)
) WITHOUT ROWID;
";

/// Why the index could not be used. Never a reason to stop anything.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database.
    #[error("the session index failed")]
    Database(#[from] rusqlite::Error),
    /// A file of the log, or the index's own.
    #[error("the session index cannot read the log")]
    Log(#[from] io::Error),
    /// A summary.
    #[error("the session index holds a summary that cannot be read")]
    Summary(#[from] serde_json::Error),
}

/// An open index. Writers hold it read-write, commands read-only.
#[derive(Debug)]
pub struct Index {
    database: Connection,
    position: Lsn,
}

impl Index {
    /// Opens the index for writing. One that is damaged, of another version or of another store is made anew.
    ///
    /// # Errors
    /// The database cannot be created.
    pub fn open(data_dir: &Path, store: &str) -> Result<Self, IndexError> {
        if let Ok(index) = Self::open_existing(data_dir, store, OpenFlags::SQLITE_OPEN_READ_WRITE) {
            return Ok(index);
        }
        remove(data_dir)?;
        let path = data_dir.join(INDEX_FILE);
        // SQLite gives its companion files the mode of the database.
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        let mut database = Connection::open(&path)?;
        let transaction = database.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.execute("INSERT INTO meta (store, position) VALUES (?1, 0)", params![store])?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
        drop(database);
        Self::open_existing(data_dir, store, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// Opens the index of another process for reading, at one moment: later changes are not seen.
    ///
    /// # Errors
    /// There is none, it is damaged, or it belongs to another store or version. The log alone is enough then.
    pub fn open_for_reading(data_dir: &Path, store: &str) -> Result<Self, IndexError> {
        Self::open_existing(data_dir, store, OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    fn open_existing(data_dir: &Path, store: &str, mode: OpenFlags) -> Result<Self, IndexError> {
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(data_dir.join(INDEX_FILE), flags)?;
        if mode == OpenFlags::SQLITE_OPEN_READ_ONLY {
            database.execute_batch("BEGIN")?;
        } else {
            database.pragma_update(None, "journal_mode", "WAL")?;
            database.pragma_update(None, "synchronous", "NORMAL")?;
        }
        let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let query = "SELECT position FROM meta WHERE store = ?1 AND ?2 = ?3";
        let position =
            database.query_row(query, params![store, version, SCHEMA_VERSION], |row| row.get(0))?;
        Ok(Self { database, position: Lsn::from_database(position) })
    }

    /// Everything before this position of the log is in the index.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Reads the log from where the index ends until `target`, as long as `go_on` says so.
    ///
    /// # Errors
    /// What was committed before the error stays; the next call goes on from there.
    pub fn catch_up(
        &mut self,
        data_dir: &Path,
        target: Lsn,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), IndexError> {
        while self.position < target && go_on() {
            let mut changes = Changes::default();
            let reached = follow(
                data_dir,
                self.position,
                Some(target),
                BATCH_FRAMES_MAX,
                &self.database,
                &mut changes,
            )?;
            if reached == self.position {
                break;
            }
            self.commit(&changes, reached)?;
        }
        Ok(())
    }

    fn commit(&mut self, changes: &Changes, reached: Lsn) -> Result<(), IndexError> {
        let transaction = self.database.transaction()?;
        {
            let mut put = transaction.prepare("REPLACE INTO sessions (id, summary) VALUES (?1, ?2)")?;
            for (session, summary) in &changes.sessions {
                put.execute(params![session.to_string(), json(summary)?])?;
            }
            let sql = "REPLACE INTO extents (session, segment, first, past) VALUES (?1, ?2, ?3, ?4)";
            let mut put = transaction.prepare(sql)?;
            for ((session, ..), extent) in &changes.extents {
                let (first, past) = (extent.first.cast_signed(), extent.end.cast_signed());
                put.execute(params![session.to_string(), extent.segment, first, past])?;
            }
            transaction.execute("UPDATE meta SET position = ?1", params![reached.to_database()])?;
        }
        transaction.commit()?;
        self.position = reached;
        Ok(())
    }

    /// Summaries of sessions that started at or after `since_ns` and are older than `before`, newest first, until `take` returns `Take::Enough`.
    ///
    /// # Errors
    /// The database fails or holds what cannot be read.
    pub fn sessions(
        &self,
        since_ns: u64,
        before: Option<SessionId>,
        take: &mut dyn FnMut(SessionSummary) -> Take,
    ) -> Result<(), IndexError> {
        let sql = "SELECT summary FROM sessions WHERE id < ?2 AND started_ns >= ?1 ORDER BY id DESC";
        let mut statement = self.database.prepare(sql)?;
        // No id begins with a tilde.
        let before = before.map_or_else(|| "~".to_owned(), |before| before.to_string());
        let mut rows = statement.query(params![since_ns.cast_signed(), before])?;
        while let Some(row) = rows.next()? {
            let summary = serde_json::from_str(&row.get::<_, String>(0)?)?;
            if take(summary) == Take::Enough {
                break;
            }
        }
        Ok(())
    }

    /// Ids that begin or end with `part` (letters and digits only), newest first, at most `limit`.
    ///
    /// # Errors
    /// The database fails.
    pub fn ids_like(&self, part: &str, limit: u32) -> Result<Vec<SessionId>, IndexError> {
        let sql =
            "SELECT id FROM sessions WHERE id LIKE ?1 || '%' OR id LIKE '%' || ?1 ORDER BY id DESC LIMIT ?2";
        let mut statement = self.database.prepare(sql)?;
        let ids = statement.query_map(params![part, limit], |row| row.get::<_, String>(0))?;
        let ids: Vec<String> = ids.collect::<Result<_, _>>()?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// One session's summary.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionSummary> {
        Base::session(&self.database, session)
    }

    /// Sessions of one run, newest first, at most `limit`.
    ///
    /// # Errors
    /// The database fails or holds what cannot be read.
    pub fn sessions_of(&self, run: RunId, limit: u32) -> Result<Vec<SessionSummary>, IndexError> {
        let sql = "SELECT summary FROM sessions WHERE run = ?1 ORDER BY id DESC LIMIT ?2";
        self.summaries(sql, params![run.to_string(), limit])
    }

    fn summaries<T: DeserializeOwned>(
        &self,
        sql: &str,
        keys: &[&dyn rusqlite::ToSql],
    ) -> Result<Vec<T>, IndexError> {
        let mut statement = self.database.prepare(sql)?;
        let rows = statement.query_map(keys, |row| row.get::<_, String>(0))?;
        rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
    }

    /// Where one session's frames lie, in order.
    ///
    /// # Errors
    /// The database fails.
    pub fn extents(&self, session: SessionId) -> Result<Vec<Extent>, IndexError> {
        let sql = "SELECT segment, first, past FROM extents WHERE session = ?1 ORDER BY segment, first";
        let mut statement = self.database.prepare(sql)?;
        let rows = statement.query_map(params![session.to_string()], |row| {
            let (first, end): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(Extent { segment: row.get(0)?, first: first.cast_unsigned(), end: end.cast_unsigned() })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn base(&self) -> &dyn Base {
        &self.database
    }
}

/// Whether a listing wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// No more.
    Enough,
    /// The next one, please.
    More,
}

impl Base for Connection {
    fn session(&self, session: SessionId) -> Option<SessionSummary> {
        let sql = "SELECT summary FROM sessions WHERE id = ?1";
        lookup(self, sql, params![session.to_string()])
    }
}

fn lookup<T: DeserializeOwned>(database: &Connection, sql: &str, keys: &[&dyn rusqlite::ToSql]) -> Option<T> {
    let mut statement = database.prepare(sql).ok()?;
    let found: Option<String> = statement.query_row(keys, |row| row.get(0)).optional().ok()?;
    serde_json::from_str(&found?).ok()
}

fn json<T: Serialize>(summary: &T) -> Result<String, IndexError> {
    Ok(serde_json::to_string(summary)?)
}

/// Deletes the index. It is rebuilt from the log.
///
/// # Errors
/// A file exists and cannot be removed.
pub fn remove(data_dir: &Path) -> Result<(), IndexError> {
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(data_dir.join(format!("{INDEX_FILE}{suffix}"))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads the log from `from` until `target` (or its end) and at most `frames_max` frames; gives how far it came.
///
/// Damage is stepped over. A torn tail ends the last segment; in an earlier one it is stepped over too.
pub(super) fn follow(
    data_dir: &Path,
    from: Lsn,
    target: Option<Lsn>,
    frames_max: usize,
    base: &dyn Base,
    changes: &mut Changes,
) -> Result<Lsn, IndexError> {
    let store_dir = data_dir.join(STORE_FOLDER);
    let mut reached = from;
    let mut frames = 0;
    for number in list_segments(&store_dir)?.into_iter().filter(|number| *number >= from.segment()) {
        if target.is_some_and(|target| number > target.segment()) {
            break;
        }
        let mut cursor = match SegmentCursor::open(&segment_path(&store_dir, number)) {
            Ok(cursor) => cursor,
            // A header that cannot be read: the segment's frames are lost to every reader.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            Err(error) => return Err(error.into()),
        };
        if number == from.segment() {
            cursor.seek(from.offset());
        }
        if let Some(target) = target.filter(|target| target.segment() == number) {
            cursor.stop_at(target.offset());
        }
        while let Step::Frame { .. } | Step::Damaged { .. } = {
            let step = cursor.step()?;
            if let Step::Frame { offset, frame } = &step {
                changes.observe(base, frame, number, *offset, cursor.offset());
                frames += 1;
            }
            step
        } {
            reached = Lsn::new(number, cursor.offset());
            if frames == frames_max {
                return Ok(reached);
            }
        }
        reached = Lsn::new(number, cursor.offset());
    }
    Ok(reached)
}

/// The thread that keeps the index up with the log.
#[derive(Debug)]
pub(super) struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts following the log below `data_dir`; `written` is how far it may be read.
    pub(super) fn start(data_dir: &Path, store: String, written: Arc<AtomicU64>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (data_dir, stopping) = (data_dir.to_owned(), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("record-index".to_owned())
            .spawn(move || run_follower(&data_dir, &store, &written, &stopping))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the session index's thread panicked");
            }
        }
    }
}

fn run_follower(data_dir: &Path, store: &str, written: &AtomicU64, stop: &AtomicBool) {
    // On Linux the priority is the calling thread's own. Without it the index is merely less polite.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "cannot lower the session index's priority");
    }
    let mut index = None;
    let mut done = Lsn::default();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let target = Lsn::from_bits(written.load(Ordering::Acquire));
        let mut pause = POLL_INTERVAL;
        if target > done {
            let deadline = Instant::now() + FINISH_TIME_MAX;
            let go_on = || !stop.load(Ordering::Acquire) || Instant::now() < deadline;
            match advance(&mut index, data_dir, store, target, &go_on) {
                Ok(()) => done = target,
                Err(error) => {
                    tracing::warn!(%error, "the session index lags; listings read the log instead");
                    index = None;
                    pause = RETRY_INTERVAL;
                }
            }
        }
        if stopping {
            return;
        }
        thread::park_timeout(pause);
    }
}

fn advance(
    index: &mut Option<Index>,
    data_dir: &Path,
    store: &str,
    target: Lsn,
    go_on: &dyn Fn() -> bool,
) -> Result<(), IndexError> {
    let index = match index {
        Some(index) => index,
        None => index.insert(Index::open(data_dir, store)?),
    };
    let result = index.catch_up(data_dir, target, go_on);
    if let Err(IndexError::Database(error)) = &result
        && matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
        )
    {
        remove(data_dir)?;
    }
    result
}
