//! The log's end: appends frames of all sessions, makes them durable in groups, and stops for good when a
//! write or a sync fails.
//!
//! A failed `fdatasync` may leave pages marked clean that never reached the disk, so a later one proves nothing; the
//! recorder therefore stays poisoned until the store is opened again. Running low on space is not such a failure: new
//! operations are refused while room for the ends of the running ones is still reserved, and it heals by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::error::RecordError;
use super::event::{OpenOperation, OpenSession};
use super::format::{FrameBytes, FrameHeader, Kind, StoreId};
use super::recovery::{Found, OpenSessions, opening_bytes};
use super::segment::{Segment, is_disk_full, sync_files};
use super::writer::RecorderConfig;
use crate::flow::SessionId;

/// A position in the log: the end of a frame. Later frames have larger ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(u64);

impl Lsn {
    /// From a segment's number and an offset in it.
    pub(super) fn new(segment: u32, offset: u64) -> Self {
        Self(u64::from(segment) << 32 | offset & u64::from(u32::MAX))
    }

    /// From the bits that an atomic holds.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn from_database(value: i64) -> Self {
        Self(value.cast_unsigned())
    }

    pub(super) fn to_database(self) -> i64 {
        self.0.cast_signed()
    }

    pub(super) fn segment(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }

    pub(super) fn offset(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// Bytes gathered in memory before they are written in any case.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// How long a frame that nobody waits for may stay in memory: what a killed daemon can lose of an outcome.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// How long written bytes may stay off stable storage when nobody asks for them.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How long, and for how many written bytes, a look at the free space counts.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(250);
const SPACE_CHECK_BYTES: u64 = 4 * 1024 * 1024;
/// Room kept at a segment's end for outcomes and closings of what is already running, in bytes.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// The end of the log, shared by those who append, those who wait and the syncer.
#[derive(Debug)]
pub(super) struct SharedLog {
    config: RecorderConfig,
    store_dir: PathBuf,
    store: StoreId,
    opened: Instant,
    log: Mutex<Log>,
    /// Wakes the syncer.
    work: Condvar,
    durable: watch::Sender<Durable>,
    /// End of what readers may read, as an `Lsn`.
    written: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Durable {
    lsn: Lsn,
    failed: bool,
}

#[derive(Clone, Debug)]
struct Failure {
    what: &'static str,
    source: Arc<io::Error>,
}

impl From<Failure> for RecordError {
    fn from(failure: Failure) -> Self {
        Self::Poisoned { what: failure.what, source: failure.source }
    }
}

/// The end of the log. INVARIANT: `pending` belongs at `written`, and nothing else writes to the files.
#[derive(Debug)]
struct Log {
    segment: Segment,
    pending: Vec<u8>,
    last_crc: u32,
    open: OpenSessions,
    /// Segments that are complete but may not be on stable storage yet.
    retired: Vec<Segment>,
    /// A segment was created since the folder was last synced.
    directory_changed: bool,
    /// When the oldest bytes not on stable storage were appended.
    unsynced_since: Option<Instant>,
    sync_wanted: Lsn,
    syncer: Syncer,
    space: Space,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syncer {
    /// Looks again within `FLUSH_INTERVAL`, or is syncing.
    Awake,
    /// Must be woken for new bytes.
    Asleep,
    /// Writes out what there is and ends.
    Stopping,
}

/// The latest look at the free space.
#[derive(Debug)]
struct Space {
    enough: bool,
    checked: Instant,
    bytes_since: u64,
}

/// How a frame of this kind is treated when space is short, and how soon it must be in the kernel's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Something new begins: refused when space is short; written now, because forwarding depends on it.
    BeginsNow,
    /// Something new begins, but nothing depends on it yet.
    BeginsSoon,
    /// Something that was admitted ends: may use the reserve.
    EndsNow,
    /// As before, but nobody depends on it.
    EndsSoon,
}

impl Class {
    pub(super) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Intent | Kind::Held | Kind::Refused => Self::BeginsNow,
            Kind::SessionOpened
            | Kind::ResultRows
            | Kind::Note
            | Kind::Body
            | Kind::Message
            | Kind::Stream => Self::BeginsSoon,
            Kind::Decided | Kind::Recovered => Self::EndsNow,
            Kind::Outcome | Kind::OpaqueCounts | Kind::SessionClosed | Kind::CarriedOver => Self::EndsSoon,
        }
    }

    fn begins(self) -> bool {
        matches!(self, Self::BeginsNow | Self::BeginsSoon)
    }

    fn now(self) -> bool {
        matches!(self, Self::BeginsNow | Self::EndsNow)
    }
}

/// Where a frame belongs; the recorder adds the clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) kind: Kind,
    pub(super) session: SessionId,
    pub(super) sequence: u64,
    pub(super) operation: u64,
}

/// A frame that is to be appended.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) address: Address,
    pub(super) frame: FrameBytes,
    pub(super) class: Class,
}

impl Log {
    fn healthy(&self) -> Result<(), RecordError> {
        self.failure.clone().map_or(Ok(()), |failure| Err(failure.into()))
    }

    fn end(&self) -> u64 {
        self.segment.written + self.pending.len() as u64
    }

    fn end_lsn(&self) -> Lsn {
        Lsn::new(self.segment.number, self.end())
    }
}

impl SharedLog {
    /// Begins a new segment behind what `found` says is there.
    pub(super) fn begin(
        store_dir: &Path,
        store: StoreId,
        config: RecorderConfig,
        found: Found,
    ) -> Result<Self, RecordError> {
        let number = found.last_number + 1;
        let opening = opening_bytes(store, number, found.last_crc, &found.open, wall_clock_ns())?;
        let segment = Segment::create(store_dir, number, config.segment_bytes, &opening.bytes);
        let path = store_dir.to_owned();
        let segment = segment.map_err(|source| {
            if is_disk_full(&source) {
                RecordError::DiskFull { path: path.clone() }
            } else {
                RecordError::Open { what: "create a segment in", path: path.clone(), source }
            }
        })?;
        let now = Instant::now();
        let written = Arc::new(AtomicU64::new(Lsn::new(segment.number, segment.written).0));
        let log = Log {
            segment,
            pending: Vec::new(),
            last_crc: opening.crc,
            open: found.open,
            retired: Vec::new(),
            directory_changed: true,
            unsynced_since: Some(now),
            sync_wanted: Lsn::default(),
            syncer: Syncer::Awake,
            space: Space { enough: true, checked: now, bytes_since: SPACE_CHECK_BYTES },
            failure: None,
        };
        Ok(Self {
            config,
            store_dir: path,
            store,
            opened: now,
            log: Mutex::new(log),
            work: Condvar::new(),
            durable: watch::Sender::new(Durable { lsn: Lsn::default(), failed: false }),
            written,
        })
    }

    /// How far the log may be read, as the bits of an `Lsn`.
    pub(super) fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    /// Waits until everything up to `lsn` is on stable storage, together with whoever else waits.
    pub(super) async fn durable(&self, lsn: Lsn) -> Result<(), RecordError> {
        let mut durable = self.durable.subscribe();
        {
            let mut log = self.lock();
            log.healthy()?;
            log.sync_wanted = log.sync_wanted.max(lsn);
            self.work.notify_one();
        }
        // The sender lives as long as `self`; were it gone, that would be a failure too.
        let reached = durable.wait_for(|durable| durable.failed || durable.lsn >= lsn).await;
        let failed = reached.map_or(true, |durable| durable.failed);
        if failed { self.lock().healthy() } else { Ok(()) }
    }

    /// Puts everything on stable storage before it returns.
    pub(super) fn sync_now(&self) -> Result<(), RecordError> {
        self.sync(self.lock()).healthy()
    }

    /// Whether something new would be accepted.
    pub(super) fn check(&self) -> Result<(), RecordError> {
        let mut log = self.lock();
        log.healthy()?;
        self.check_space(&mut log, Instant::now())
    }

    /// Sessions without an end.
    pub(super) fn open_sessions(&self) -> Vec<OpenSession> {
        self.lock().open.list()
    }

    /// Operations of a session without an outcome.
    pub(super) fn unfinished(&self, session: SessionId) -> Vec<OpenOperation> {
        self.lock().open.operations(session)
    }

    /// Tells the syncer to write out everything and end.
    pub(super) fn stop(&self) {
        self.lock().syncer = Syncer::Stopping;
        self.work.notify_one();
    }

    /// Switches for failures of the current segment's file.
    #[cfg(test)]
    pub(super) fn faults(&self) -> Arc<super::segment::Faults> {
        Arc::clone(&self.lock().segment.file.faults)
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|poisoned: PoisonError<MutexGuard<'_, Log>>| {
            // A panic in the middle of an append: what is in memory cannot be trusted any more.
            let mut log = poisoned.into_inner();
            if log.failure.is_none() {
                self.fail(&mut log, "append", io::Error::other("a thread panicked while it was writing"));
            }
            log
        })
    }

    fn fail(&self, log: &mut Log, what: &'static str, error: io::Error) -> RecordError {
        tracing::error!(what, %error, "recording failed; nothing is forwarded until the daemon is restarted");
        let failure = log.failure.get_or_insert(Failure { what, source: Arc::new(error) }).clone();
        log.pending = Vec::new();
        self.durable.send_modify(|durable| durable.failed = true);
        failure.into()
    }

    /// Appends frames that belong together, at one moment; adds the clocks and the checksums. The end of the last one.
    pub(super) fn append<const N: usize>(&self, drafts: [Draft; N]) -> Result<Lsn, RecordError> {
        let now = Instant::now();
        let (monotonic_ns, wall_ns) = (nanoseconds(now.duration_since(self.opened)), wall_clock_ns());
        let sealed = drafts.map(|draft| {
            let Address { kind, session, sequence, operation } = draft.address;
            let header = FrameHeader { kind, session, sequence, operation, monotonic_ns, wall_ns };
            (draft.frame.seal(self.store, &header), header, draft.class)
        });
        let mut log = self.lock();
        log.healthy()?;
        // For all of them at once: either each is appended or none is.
        let bytes = sealed.iter().map(|(frame, ..)| frame.bytes().len() as u64).sum();
        let begins = sealed.iter().any(|(.., class)| class.begins());
        self.make_room(&mut log, bytes, begins, now)?;
        for (frame, header, class) in sealed {
            log.open.observe(&header);
            log.last_crc = frame.crc();
            log.space.bytes_since += frame.bytes().len() as u64;
            log.unsynced_since.get_or_insert(now);
            log.pending.extend_from_slice(frame.bytes());
            if class.now() || log.pending.len() >= PENDING_BYTES_MAX {
                self.write_pending(&mut log)?;
            }
        }
        if log.syncer == Syncer::Asleep {
            log.syncer = Syncer::Awake;
            self.work.notify_one();
        }
        Ok(log.end_lsn())
    }

    fn write_pending(&self, log: &mut Log) -> Result<(), RecordError> {
        if log.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = log.segment.file.write_at(&log.pending, log.segment.written) {
            return Err(self.fail(log, "write", error));
        }
        log.segment.written = log.end();
        log.pending.clear();
        log.pending.shrink_to(2 * PENDING_BYTES_MAX);
        self.written.store(log.end_lsn().0, Ordering::Release);
        Ok(())
    }

    /// Sees to it that `bytes` more fit into reserved space, in this segment or the next. What `begins` leaves room for the ends of
    /// what is running.
    fn make_room(&self, log: &mut Log, bytes: u64, begins: bool, now: Instant) -> Result<(), RecordError> {
        let after = log.end() + bytes;
        if !begins {
            return if after <= log.segment.reserved { Ok(()) } else { self.next_segment(log, bytes) };
        }
        self.check_space(log, now)?;
        let reserve = RESERVE_BYTES.min(self.config.segment_bytes / 4);
        if after + reserve <= log.segment.reserved { Ok(()) } else { self.next_segment(log, bytes + reserve) }
    }

    fn check_space(&self, log: &mut Log, now: Instant) -> Result<(), RecordError> {
        let stale = log.space.bytes_since >= SPACE_CHECK_BYTES
            || now.duration_since(log.space.checked) > SPACE_CHECK_INTERVAL;
        if stale || !log.space.enough {
            // What cannot be measured counts as full: deny on doubt.
            let free = rustix::fs::statvfs(&self.store_dir).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
            let enough = free >= self.config.min_free_bytes;
            if enough != log.space.enough {
                tracing::warn!(free, enough, path = %self.store_dir.display(), "free space of the recording store");
            }
            log.space = Space { enough, checked: Instant::now(), bytes_since: 0 };
        }
        if log.space.enough { Ok(()) } else { Err(self.disk_full()) }
    }

    fn disk_full(&self) -> RecordError {
        RecordError::DiskFull { path: self.store_dir.clone() }
    }

    fn next_segment(&self, log: &mut Log, room: u64) -> Result<(), RecordError> {
        self.write_pending(log)?;
        let number = log.segment.number + 1;
        let opening = opening_bytes(self.store, number, log.last_crc, &log.open, wall_clock_ns())?;
        let needed = opening.bytes.len() as u64 + room;
        match Segment::create(&self.store_dir, number, self.config.segment_bytes.max(needed), &opening.bytes)
        {
            Ok(segment) => {
                log.retired.push(std::mem::replace(&mut log.segment, segment));
                log.last_crc = opening.crc;
                log.directory_changed = true;
                self.written.store(log.end_lsn().0, Ordering::Release);
                Ok(())
            }
            Err(error) if is_disk_full(&error) => {
                log.space.enough = false;
                Err(self.disk_full())
            }
            Err(error) => Err(self.fail(log, "new segment", error)),
        }
    }

    /// The syncer's thread: writes what nobody waits for in time, and syncs for those who wait.
    pub(super) fn run_syncer(&self) {
        let mut log = self.lock();
        loop {
            let durable = *self.durable.borrow();
            let wait = match (&log.failure, log.unsynced_since) {
                _ if log.syncer == Syncer::Stopping => {
                    let log = self.sync(log);
                    if let (None, Err(error)) = (&log.failure, log.segment.file.trim(log.segment.written)) {
                        tracing::warn!(%error, "cannot give back reserved space");
                    }
                    return;
                }
                (Some(_), _) | (None, None) => Duration::MAX,
                (None, Some(since)) if log.sync_wanted > durable.lsn || since.elapsed() >= SYNC_INTERVAL => {
                    log = self.sync(log);
                    continue;
                }
                (None, Some(_)) if !log.pending.is_empty() => FLUSH_INTERVAL,
                (None, Some(since)) => SYNC_INTERVAL.saturating_sub(since.elapsed()),
            };
            log.syncer = if wait > FLUSH_INTERVAL { Syncer::Asleep } else { Syncer::Awake };
            let (woken, timeout) = match self.work.wait_timeout(log, wait) {
                Ok(woken) => woken,
                Err(_) => return drop(self.lock()),
            };
            log = woken;
            if timeout.timed_out()
                && let Err(error) = self.write_pending(&mut log)
            {
                tracing::error!(%error, "recording failed");
            }
        }
    }

    /// Writes what is pending and puts everything on stable storage; the lock is free while the disk works.
    fn sync<'a>(&'a self, mut log: MutexGuard<'a, Log>) -> MutexGuard<'a, Log> {
        if log.failure.is_some() || self.write_pending(&mut log).is_err() {
            return log;
        }
        let reached = log.end_lsn();
        let (retired, current) = (std::mem::take(&mut log.retired), Arc::clone(&log.segment.file));
        let directory_changed = std::mem::take(&mut log.directory_changed);
        log.unsynced_since = None;
        drop(log);
        let result = sync_files(&retired, &current, directory_changed.then_some(&self.store_dir));
        let mut log = self.lock();
        match result {
            Ok(()) if log.failure.is_none() => self.durable.send_modify(|durable| durable.lsn = reached),
            Ok(()) => {}
            Err(error) => {
                self.fail(&mut log, "sync", error);
            }
        }
        log
    }
}

fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanoseconds)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
