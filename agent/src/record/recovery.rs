//! What the last segment says of an unclean end: where its good frames stop, and what was left open.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::error::RecordError;
use super::event::{CarriedOver, Event, OpenOperation, OpenSession, Recovered, json_frame};
use super::format::{FrameHeader, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId};
use super::segment::{SegmentCursor, Step, list_segments, segment_path};
use crate::flow::SessionId;

/// Sessions and operations in one [`CarriedOver`] frame, at most.
const CARRIED_ENTRIES_MAX: usize = 8192;

/// Sessions without an end and operations without an outcome, kept up to date frame by frame.
#[derive(Debug, Default)]
pub(super) struct OpenSessions(HashMap<SessionId, Entry>);

#[derive(Debug, Default)]
struct Entry {
    sequence: u64,
    /// Operation to whether it was forwarded.
    operations: BTreeMap<u64, bool>,
}

impl OpenSessions {
    /// Takes note of a frame that was written, or read back.
    pub(super) fn observe(&mut self, frame: &FrameHeader) {
        match frame.kind {
            Kind::SessionOpened => {
                self.0.insert(frame.session, Entry { sequence: frame.sequence, ..Entry::default() });
            }
            Kind::SessionClosed => {
                self.0.remove(&frame.session);
            }
            Kind::Recovered | Kind::CarriedOver => {}
            Kind::Intent
            | Kind::Refused
            | Kind::Held
            | Kind::Decided
            | Kind::ResultRows
            | Kind::Outcome
            | Kind::Note
            | Kind::Body
            | Kind::Message
            | Kind::Stream
            | Kind::OpaqueCounts => {
                if let Some(entry) = self.0.get_mut(&frame.session) {
                    entry.observe(frame);
                }
            }
        }
    }

    fn restore(&mut self, carried: CarriedOver) {
        for session in carried.sessions {
            let operations = session.operations.iter().map(|open| (open.operation, open.forwarded)).collect();
            self.0.insert(session.session, Entry { sequence: session.sequence, operations });
        }
    }

    /// Operations of one session without an outcome, in order.
    pub(super) fn operations(&self, session: SessionId) -> Vec<OpenOperation> {
        self.0.get(&session).map(Entry::list).unwrap_or_default()
    }

    /// Everything open, oldest session first.
    pub(super) fn list(&self) -> Vec<OpenSession> {
        let open = |(session, entry): (&SessionId, &Entry)| OpenSession {
            session: *session,
            sequence: entry.sequence,
            operations: entry.list(),
        };
        let mut sessions: Vec<_> = self.0.iter().map(open).collect();
        sessions.sort_unstable_by_key(|open| open.session);
        sessions
    }

    /// The frames that open a segment; at least one, so that a segment without any is known to be damaged.
    pub(super) fn carried_over(&self) -> Vec<CarriedOver> {
        let mut frames = vec![CarriedOver::default()];
        let mut entries = 0;
        for session in self.list() {
            entries += 1 + session.operations.len();
            if entries > CARRIED_ENTRIES_MAX
                && let Some(full) = frames.last_mut()
            {
                full.more = true;
                frames.push(CarriedOver::default());
                entries = 1 + session.operations.len();
            }
            if let Some(frame) = frames.last_mut() {
                frame.sessions.push(session);
            }
        }
        frames
    }
}

impl Entry {
    fn list(&self) -> Vec<OpenOperation> {
        let open = |(operation, forwarded): (&u64, &bool)| OpenOperation {
            operation: *operation,
            forwarded: *forwarded,
        };
        self.operations.iter().map(open).collect()
    }

    fn observe(&mut self, frame: &FrameHeader) {
        self.sequence = frame.sequence;
        match frame.kind {
            Kind::Held => {
                self.operations.insert(frame.operation, false);
            }
            Kind::Intent => {
                self.operations.insert(frame.operation, true);
            }
            Kind::Refused | Kind::Outcome => {
                self.operations.remove(&frame.operation);
            }
            Kind::SessionOpened
            | Kind::SessionClosed
            | Kind::Decided
            | Kind::ResultRows
            | Kind::Note
            | Kind::Body
            | Kind::Message
            | Kind::Stream
            | Kind::OpaqueCounts
            | Kind::Recovered
            | Kind::CarriedOver => {}
        }
    }
}

/// A segment's first bytes, and the CRC of its last opening frame.
pub(super) struct Opening {
    pub(super) bytes: Vec<u8>,
    pub(super) crc: u32,
}

/// The first bytes of segment `number`: its header, and what is open.
pub(super) fn opening_bytes(
    store: StoreId,
    number: u32,
    previous_crc: u32,
    open: &OpenSessions,
    wall_ns: u64,
) -> Result<Opening, RecordError> {
    let header = SegmentHeader { number, store, wall_ns, previous_crc };
    let mut opening = Opening { bytes: header.encode().to_vec(), crc: 0 };
    for carried in open.carried_over() {
        let header = FrameHeader {
            kind: Kind::CarriedOver,
            session: FrameHeader::store_session(),
            sequence: 0,
            operation: 0,
            monotonic_ns: 0,
            wall_ns,
        };
        let frame = json_frame(&carried)?.seal(store, &header);
        opening.bytes.extend_from_slice(frame.bytes());
        opening.crc = frame.crc();
    }
    Ok(opening)
}

/// What the existing segments say.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The store's id; `None` when there is no readable segment.
    pub(super) store: Option<StoreId>,
    /// Number of the last segment, 0 when there is none.
    pub(super) last_number: u32,
    /// CRC of the last intact frame, 0 when there is none.
    pub(super) last_crc: u32,
    /// What was left open.
    pub(super) open: OpenSessions,
    /// Damage and torn bytes of the last segment.
    pub(super) report: Recovered,
}

/// Reads as many of the last segments as needed, and cuts the torn tail off the last one.
///
/// # Errors
/// A file cannot be read or cut.
pub(super) fn examine(store_dir: &Path) -> io::Result<Found> {
    let mut numbers = list_segments(store_dir)?;
    drop_stillborn(store_dir, &mut numbers)?;
    let mut found = Found { last_number: numbers.last().copied().unwrap_or(0), ..Found::default() };
    // Normally the last segment says what was open when it began. If that was damaged, the one before it does.
    let mut start = numbers.len();
    while start > 0 {
        start -= 1;
        let intact = numbers.get(start).map(|number| begins_intact(&segment_path(store_dir, *number)));
        if intact.transpose()? == Some(true) {
            break;
        }
    }
    for number in numbers.get(start..).unwrap_or_default() {
        read_segment(&segment_path(store_dir, *number), *number, &mut found)?;
    }
    Ok(found)
}

/// A daemon that died right after creating a segment leaves a file too short for its header: nothing was in it.
fn drop_stillborn(store_dir: &Path, numbers: &mut Vec<u32>) -> io::Result<()> {
    if let Some(last) = numbers.last() {
        let path = segment_path(store_dir, *last);
        if fs::metadata(&path)?.len() < SEGMENT_HEADER_BYTES as u64 {
            fs::remove_file(&path)?;
            numbers.pop();
        }
    }
    Ok(())
}

/// Whether a segment's opening frames are there: they say which sessions were open when it began.
fn begins_intact(path: &Path) -> io::Result<bool> {
    let mut cursor = match SegmentCursor::open(path) {
        Ok(cursor) => cursor,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
        Err(error) => return Err(error),
    };
    loop {
        let Step::Frame { frame, .. } = cursor.step()? else { return Ok(false) };
        let event = frame.payload().and_then(|payload| Event::decode(frame.header.kind, &payload));
        match event {
            Ok(Event::CarriedOver(carried)) if carried.more => {}
            Ok(Event::CarriedOver(_)) => return Ok(true),
            Ok(_) | Err(_) => return Ok(false),
        }
    }
}

fn read_segment(path: &Path, number: u32, found: &mut Found) -> io::Result<()> {
    let mut cursor = match SegmentCursor::open(path) {
        Ok(cursor) => cursor,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            // Left in place as evidence; every reader reports it.
            found.report.segment = number;
            found.report.damaged_bytes = fs::metadata(path)?.len();
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    found.store = Some(cursor.header().store);
    found.report = Recovered { segment: number, ..Recovered::default() };
    loop {
        match cursor.step()? {
            Step::Frame { frame, .. } => {
                found.last_crc = frame.crc;
                if frame.header.kind == Kind::CarriedOver {
                    let event =
                        frame.payload().and_then(|payload| Event::decode(frame.header.kind, &payload));
                    if let Ok(Event::CarriedOver(carried)) = event {
                        found.open.restore(carried);
                    }
                } else {
                    found.open.observe(&frame.header);
                }
            }
            Step::Damaged { bytes, .. } => found.report.damaged_bytes += bytes,
            Step::Torn { offset, bytes } => {
                if number == found.last_number {
                    found.report.torn_bytes = bytes;
                    let file = OpenOptions::new().write(true).open(path)?;
                    file.set_len(offset)?;
                    file.sync_all()?;
                } else {
                    found.report.damaged_bytes += bytes;
                }
                return Ok(());
            }
            Step::End => {
                if number == found.last_number {
                    // A killed daemon leaves the space it had reserved behind the last frame.
                    OpenOptions::new().write(true).open(path)?.set_len(cursor.offset())?;
                }
                return Ok(());
            }
        }
    }
}
