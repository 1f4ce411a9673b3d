//! The recorder: one per daemon, owns the store, its two threads, and everything a session needs to record.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use zstd::bulk::Compressor;

use super::error::RecordError;
use super::event::{EndReason, Ended, OpenOperation, Outcome, Recovered, SessionClosed, json_frame};
use super::format::{COMPRESSION_LEVEL, FormatError, FrameBytes, FrameHeader, Kind, StoreId};
use super::index::Follower;
use super::log::{Address, Class, Draft, Lsn, SharedLog};
use super::recovery;
use super::segment::SEGMENT_FILE_BYTES_MAX;
use crate::flow::{SessionId, Side};

/// Idle compressors kept for the next block; each holds about half a mebibyte.
const COMPRESSORS_KEPT: usize = 4;

/// Where the log's segments lie below the data folder.
pub(super) const STORE_FOLDER: &str = "store";

/// How a recorder keeps its store.
#[derive(Clone, Copy, Debug)]
pub struct RecorderConfig {
    /// A segment of about this many bytes is followed by the next one. At most 1 GiB.
    pub segment_bytes: u64,
    /// Free bytes of the file system below which nothing new is accepted.
    pub min_free_bytes: u64,
}

impl Default for RecorderConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, min_free_bytes: 256 * 1024 * 1024 }
    }
}

/// The recorder of one store. One per daemon; dropped, it writes out everything and lets the store go.
#[derive(Debug)]
pub struct Recorder {
    log: Arc<SharedLog>,
    compressors: Mutex<Vec<SharedCompressor>>,
    syncer: Option<JoinHandle<()>>,
    follower: Option<Follower>,
    _lock: File,
}

struct SharedCompressor(Compressor<'static>);

impl std::fmt::Debug for SharedCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedCompressor")
    }
}

impl Recorder {
    /// Opens the store below `data_dir`, creating it if need be; mends an unclean end: cuts a torn tail, closes the
    /// sessions that were open and marks forwarded operations without an outcome as unknown.
    ///
    /// # Errors
    /// `Busy`, `DiskFull`, `Open`, or `Poisoned` when the first write fails.
    pub fn open(data_dir: &Path, config: RecorderConfig) -> Result<Arc<Self>, RecordError> {
        let store_dir = data_dir.join(STORE_FOLDER);
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| RecordError::Open { what, path, source }
        };
        let create_folder = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        create_folder(&store_dir).map_err(fail("create", &store_dir))?;
        let lock = lock_store(&store_dir)?;
        let found = recovery::examine(&store_dir).map_err(fail("read", &store_dir))?;
        let store =
            found.store.map_or_else(random_store_id, Ok).map_err(fail("draw an id for", &store_dir))?;
        let segment_bytes = config.segment_bytes.min(SEGMENT_FILE_BYTES_MAX / 2);
        let config = RecorderConfig { segment_bytes, ..config };

        let report = found.report.clone();
        let log = Arc::new(SharedLog::begin(&store_dir, store, config, found)?);
        mend(&log, report)?;
        let syncing = Arc::clone(&log);
        let syncer = thread::Builder::new()
            .name("record-sync".to_owned())
            .spawn(move || syncing.run_syncer())
            .map_err(fail("start a thread for", &store_dir))?;
        let written = log.written();
        let mut recorder =
            Self { log, compressors: Mutex::default(), syncer: Some(syncer), follower: None, _lock: lock };
        let follower = Follower::start(data_dir, store.to_string(), written);
        recorder.follower = Some(follower.map_err(fail("start a thread for", data_dir))?);
        Ok(Arc::new(recorder))
    }

    /// Waits until everything up to `lsn` is on stable storage. Callers that wait at the same time share one sync.
    ///
    /// # Errors
    /// `Poisoned`.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), RecordError> {
        self.log.durable(lsn).await
    }

    /// Whether operations can be recorded right now; for `status`.
    ///
    /// # Errors
    /// What an append would return.
    pub fn check(&self) -> Result<(), RecordError> {
        self.log.check()
    }

    /// Switches for failures of the current segment's file.
    #[cfg(test)]
    pub(super) fn faults(&self) -> Arc<super::segment::Faults> {
        self.log.faults()
    }

    /// Appends frames that belong together.
    pub(super) fn append<const N: usize>(&self, drafts: [Draft; N]) -> Result<Lsn, RecordError> {
        self.log.append(drafts)
    }

    /// Operations of a session that were held or forwarded and have no outcome yet.
    pub(super) fn unfinished(&self, session: SessionId) -> Vec<OpenOperation> {
        self.log.unfinished(session)
    }

    /// Compresses a payload with one of the shared compressors.
    pub(super) fn compress(&self, payload: &[u8]) -> Result<FrameBytes, RecordError> {
        let kept = self.compressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = match kept {
            Some(compressor) => compressor,
            None => SharedCompressor(
                Compressor::new(COMPRESSION_LEVEL).map_err(|_| RecordError::Format(FormatError::Payload))?,
            ),
        };
        let frame = FrameBytes::compressed(&mut compressor.0, payload);
        let mut kept = self.compressors.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < COMPRESSORS_KEPT {
            kept.push(compressor);
        }
        Ok(frame?)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.log.stop();
        if let Some(Err(_)) = self.syncer.take().map(JoinHandle::join) {
            tracing::error!("the recorder's sync thread panicked");
        }
        // After the last frame is written, so that the index ends complete.
        drop(self.follower.take());
    }
}

/// Writes the recovery frame and the ends of what the last daemon left open, durably.
fn mend(log: &SharedLog, mut report: Recovered) -> Result<(), RecordError> {
    let open = log.open_sessions();
    report.sessions_closed = open.len() as u64;
    let forwarded = open.iter().flat_map(|session| &session.operations).filter(|open| open.forwarded);
    report.outcomes_unknown = forwarded.count() as u64;
    let clean = Recovered { segment: report.segment, ..Recovered::default() };
    if report != clean {
        tracing::warn!(?report, "the recording store was not closed cleanly; mended");
        let store = Address {
            kind: Kind::Recovered,
            session: FrameHeader::store_session(),
            sequence: 0,
            operation: 0,
        };
        let (frame, class) = (json_frame(&report)?, Class::of(Kind::Recovered));
        log.append([Draft { address: store, frame, class }])?;
    }
    for session in open {
        let mut sequence = session.sequence;
        let mut draft = |kind, operation, frame| {
            sequence += 1;
            let address = Address { kind, session: session.session, sequence, operation };
            Draft { address, frame, class: Class::of(kind) }
        };
        for open in session.operations {
            let outcome = Outcome::missing(open);
            log.append([draft(Kind::Outcome, open.operation, json_frame(&outcome)?)])?;
        }
        let ended = Ended { reason: EndReason::DaemonDied, side: Side::Portcullis, detail: None };
        let closed = SessionClosed { ended, bytes_to_upstream: None, bytes_to_client: None };
        log.append([draft(Kind::SessionClosed, 0, json_frame(&closed)?)])?;
    }
    log.sync_now()
}

fn lock_store(store_dir: &Path) -> Result<File, RecordError> {
    let path = store_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = match file {
        Ok(file) => file,
        Err(source) => return Err(RecordError::Open { what: "lock", path, source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RecordError::Busy { path }),
        Err(TryLockError::Error(source)) => Err(RecordError::Open { what: "lock", path, source }),
    }
}

fn random_store_id() -> io::Result<StoreId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(StoreId(id))
}
