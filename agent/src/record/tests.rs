//! Tests of the whole recording: write, die, damage, read back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::asked::{Asked, BoundedText, Parameters, StatementSummary, Statements};
use super::before::before;
use super::error::RecordError;
use super::event::{EndReason, Ended, Event, Intent, Outcome, OutcomeStatus, Refused, SessionOpened};
use super::format::Kind;
use super::index::{INDEX_FILE, Index};
use super::read::{Catalogue, Recorded, Wanted};
use super::rows::{ResultColumn, ValueFormat};
use super::segment::{SegmentCursor, Step, list_segments, segment_path};
use super::summary::OperationState;
use super::writer::{Recorder, RecorderConfig};
use super::{Lsn, SessionRecord};
use crate::flow::{Flow, OriginalDst, Process, RunId, SessionId, Side};
use crate::policy::rule::Protocol;
use crate::request::Effect;

pub(crate) const CONFIG: RecorderConfig =
    RecorderConfig { segment_bytes: 4 * 1024 * 1024, min_free_bytes: 0 };
pub(crate) const SHARE: u64 = 1024 * 1024 * 1024;

pub(crate) fn opened() -> SessionOpened {
    let process = Process {
        tgid: 41,
        uid: 1000,
        gid: 1000,
        comm: "psql".to_owned(),
        exe: None,
        argv: vec!["psql".to_owned()],
    };
    SessionOpened {
        flow: Flow {
            session: SessionId::generate(),
            run: RunId::generate(),
            destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
            process,
            socket_cookie: 7,
        },
        connection: Some("orders-db".to_owned()),
        protocol: Protocol::Postgres,
        policy: "crewai".to_owned(),
        policy_version: "0123456789abcdef".to_owned(),
        run_labels: BTreeMap::new(),
        user_name: Some("agent".to_owned()),
        identity: None,
        through: None,
    }
}

pub(crate) fn asked(operation: u64, text: &str) -> Asked {
    let kind = text.split(' ').next().unwrap_or_default().to_lowercase();
    let statement = StatementSummary {
        kind,
        effect: Effect::Read,
        reason: None,
        reads: Vec::new(),
        writes: Vec::new(),
        functions: Vec::new(),
    };
    Asked {
        operation,
        text: BoundedText::new(text),
        parameters: Parameters::default(),
        statements: Statements([statement].into()),
        database: Some("shop".to_owned()),
        estimated_rows: None,
        http: None,
        ssh: None,
    }
}

fn intent(record: &mut SessionRecord, text: &str) -> Result<(u64, Lsn), RecordError> {
    let operation = record.next_operation();
    let intent =
        Intent { asked: asked(operation, text), rule: "default".to_owned(), approval: None, shadow: None };
    record.intent(&intent).map(|lsn| (operation, lsn))
}

pub(crate) fn done(operation: u64) -> Outcome {
    let command_tags = vec!["SELECT 1".to_owned()];
    Outcome { operation, status: OutcomeStatus::Done, command_tags, rows: 1, ..Outcome::default() }
}

pub(crate) fn finished() -> Ended {
    Ended { reason: EndReason::Finished, side: Side::Client, detail: None }
}

pub(crate) fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.as_bytes());
            }
        }
    }
    body
}

pub(crate) fn column(name: &str) -> ResultColumn {
    ResultColumn { name: name.to_owned(), type_oid: 25, format: ValueFormat::Text }
}

fn events(data: &Path, session: SessionId) -> Vec<Recorded> {
    Catalogue::open(data).unwrap().events(session).unwrap().map(Result::unwrap).collect()
}

fn kinds(events: &[Recorded]) -> Vec<Kind> {
    events.iter().map(|recorded| recorded.header.kind).collect()
}

/// Every intact frame of the store, in order, read without the index.
fn all_frames(data: &Path) -> Vec<super::format::Frame> {
    let store = data.join("store");
    let mut frames = Vec::new();
    for number in list_segments(&store).unwrap() {
        let mut cursor = SegmentCursor::open(&segment_path(&store, number)).unwrap();
        while let Step::Frame { frame, .. } = cursor.step().unwrap() {
            frames.push(frame);
        }
    }
    frames
}

#[tokio::test]
async fn a_conversation_comes_back_as_it_was() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    let (operation, lsn) = intent(&mut record, "SELECT name FROM customers").unwrap();
    recorder.durable(lsn).await.unwrap();
    record.begin_rows(operation, 0, &[column("name"), column("card")]).unwrap();
    record.row(&row(&[Some("Ada"), Some("**** 1111")])).unwrap();
    record.row(&row(&[Some("Bob"), None])).unwrap();
    record.outcome(done(operation)).unwrap();
    let second = record.next_operation();
    let refused = Refused {
        asked: asked(second, "DROP DATABASE shop"),
        rule: "no ddl".to_owned(),
        reason: "refused by rule no ddl".to_owned(),
        side: Side::Policy,
        approval: None,
        status: None,
    };
    record.refused(&refused).unwrap();
    let last = record.close(finished()).unwrap();

    // Beside the running daemon, once its last frames are written.
    recorder.durable(last).await.unwrap();
    let recorded = events(data.path(), opened.flow.session);
    assert_eq!(
        kinds(&recorded),
        [
            Kind::SessionOpened,
            Kind::Intent,
            Kind::ResultRows,
            Kind::Outcome,
            Kind::Refused,
            Kind::SessionClosed
        ]
    );
    assert!(recorded.iter().all(|recorded| recorded.missing == 0));
    let Some(Event::ResultRows(block)) = &recorded[2].event else { panic!("{recorded:?}") };
    assert_eq!(block.rows[1], [Some(b"Bob".to_vec()), None]);
    assert_eq!(recorded[4].event, Some(Event::Refused(Box::new(refused))));
    drop(recorder);

    // And from the index, after it stopped.
    let store_id = store_id(data.path());
    let index = Index::open_for_reading(data.path(), &store_id).unwrap();
    let summary = index.session(opened.flow.session).unwrap();
    assert_eq!((summary.operations, summary.denied, summary.rows), (2, 1, 1));
    assert_eq!(summary.ended_reason, Some(EndReason::Finished));
    let [(first, _), (second, _)] =
        &before(data.path(), opened.flow.run, u64::MAX, 10).unwrap().operations[..]
    else {
        panic!("two operations")
    };
    assert_eq!(first.state, OperationState::Done);
    assert_eq!((second.state, second.rule.as_str()), (OperationState::Refused, "no ddl"));
    assert_eq!(events(data.path(), opened.flow.session).len(), 6);
}

fn store_id(data: &Path) -> String {
    let store = data.join("store");
    let last = list_segments(&store).unwrap().pop().unwrap();
    SegmentCursor::open(&segment_path(&store, last)).unwrap().header().store.to_string()
}

#[test]
fn a_store_is_for_one_daemon_and_for_root_only() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let error = Recorder::open(data.path(), CONFIG).unwrap_err();
    assert!(matches!(error, RecordError::Busy { .. }), "{error}");
    drop(recorder);
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    drop(recorder);
    for file in ["store/seg-000001.pcr", "store/lock", INDEX_FILE] {
        let mode = fs::metadata(data.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(data.path().join("store")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_forgotten_record_ends_as_abandoned() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    record.begin_rows(1, 0, &[column("a")]).unwrap();
    record.row(&row(&[Some("kept")])).unwrap();
    drop(record);
    drop(recorder);
    let events = events(data.path(), opened.flow.session);
    assert_eq!(kinds(&events), [Kind::SessionOpened, Kind::ResultRows, Kind::SessionClosed]);
    let Some(Event::SessionClosed(closed)) = &events[2].event else { panic!("{events:?}") };
    assert_eq!(closed.ended.reason, EndReason::Abandoned);
}

#[tokio::test]
async fn a_failed_sync_poisons_until_reopened() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    let (_, lsn) = intent(&mut record, "select 1").unwrap();
    recorder.durable(lsn).await.unwrap();

    let faults = recorder.faults();
    faults.sync.store(true, Ordering::Relaxed);
    let (_, lsn) = intent(&mut record, "select 2").unwrap();
    let error = recorder.durable(lsn).await.unwrap_err();
    assert!(matches!(error, RecordError::Poisoned { what: "sync", .. }), "{error}");
    // The disk works again, but what it lost is not known: everything stays refused.
    faults.sync.store(false, Ordering::Relaxed);
    assert!(matches!(intent(&mut record, "select 3"), Err(RecordError::Poisoned { .. })));
    assert!(matches!(recorder.durable(lsn).await, Err(RecordError::Poisoned { .. })));
    assert!(matches!(recorder.session(&opened, SHARE), Err(RecordError::Poisoned { .. })));
    assert!(matches!(recorder.check(), Err(RecordError::Poisoned { .. })));
    drop((record, recorder));

    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    recorder.check().unwrap();
    drop(recorder);
    let events = events(data.path(), opened.flow.session);
    let Some(Event::SessionClosed(closed)) = &events.last().unwrap().event else { panic!("{events:?}") };
    assert_eq!(closed.ended.reason, EndReason::DaemonDied);
}

#[test]
fn a_failed_write_poisons() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let mut record = recorder.session(&opened(), SHARE).unwrap();
    let faults = recorder.faults();
    faults.write.store(true, Ordering::Relaxed);
    assert!(matches!(intent(&mut record, "select 1"), Err(RecordError::Poisoned { what: "write", .. })));
    faults.write.store(false, Ordering::Relaxed);
    assert!(matches!(intent(&mut record, "select 2"), Err(RecordError::Poisoned { .. })));
}

/// A small tmpfs, unmounted when dropped. Needs root, as everything this program does.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let size = format!("size={bytes},mode=700");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(status.unwrap().success(), "cannot mount a tmpfs: run the tests as root");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").args(["--lazy"]).arg(self.0.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot unmount {}", self.0.path().display());
    }
}

/// Fills the file system until at most `left` bytes are free. The index's thread may be writing at the same time.
fn fill(path: &Path, left: u64) {
    let filler = fs::File::create(path.join("filler")).unwrap();
    let free = || rustix::fs::statvfs(path).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    let mut filled = 0;
    while let excess @ 1.. = free().saturating_sub(left) {
        if rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), filled, excess).is_ok() {
            filled += excess;
        }
    }
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_what_is_new_and_heals() {
    let disk = SmallDisk::mount(16 * 1024 * 1024);
    let data = disk.0.path();
    let config = RecorderConfig { segment_bytes: 1024 * 1024, min_free_bytes: 4 * 1024 * 1024 };
    let recorder = Recorder::open(data, config).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    let (operation, lsn) = intent(&mut record, "select 1").unwrap();
    recorder.durable(lsn).await.unwrap();

    fill(data, 1024 * 1024);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(intent(&mut record, "select 2"), Err(RecordError::DiskFull { .. })));
    assert!(matches!(recorder.session(&opened, SHARE), Err(RecordError::DiskFull { .. })));
    assert!(matches!(recorder.check(), Err(RecordError::DiskFull { .. })));
    // What was admitted can still end, durably.
    let lsn = record.outcome(done(operation)).unwrap();
    recorder.durable(lsn).await.unwrap();

    fs::remove_file(data.join("filler")).unwrap();
    let (operation, lsn) = intent(&mut record, "select 3").unwrap();
    recorder.durable(lsn).await.unwrap();
    record.outcome(done(operation)).unwrap();
    record.close(finished()).unwrap();
    drop(recorder);
    let events = events(data, opened.flow.session);
    assert!(events.iter().all(|recorded| recorded.missing == 0));
    assert_eq!(events.len(), 6);
}

#[tokio::test]
async fn a_full_disk_never_loses_what_was_accepted() {
    // No free-space floor: only the reservation stands between an accepted intent and ENOSPC.
    let disk = SmallDisk::mount(8 * 1024 * 1024);
    let data = disk.0.path();
    let config = RecorderConfig { segment_bytes: 1024 * 1024, min_free_bytes: 0 };
    let recorder = Recorder::open(data, config).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    fill(data, 0);
    let text = format!("select '{}'", noise(3000));
    let mut accepted = Vec::new();
    let refused = loop {
        match intent(&mut record, &text) {
            Ok((operation, _)) => accepted.push(operation),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, RecordError::DiskFull { .. }), "{refused}");
    assert!(accepted.len() > 100, "{} intents", accepted.len());
    for operation in &accepted {
        record.outcome(done(*operation)).unwrap();
    }
    let lsn = record.close(finished()).unwrap();
    recorder.durable(lsn).await.unwrap();
    drop(recorder);
    let frames = all_frames(data);
    let count = |kind| frames.iter().filter(|frame| frame.header.kind == kind).count();
    assert_eq!((count(Kind::Intent), count(Kind::Outcome)), (accepted.len(), accepted.len()));
    assert_eq!(count(Kind::SessionClosed), 1);
}

/// Text that does not compress.
pub(crate) fn noise(length: usize) -> String {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| char::from(b'0' + byte % 64)).collect()
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_rest_kept() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    let (operation, _) = intent(&mut record, "select 1").unwrap();
    record.outcome(done(operation)).unwrap();
    intent(&mut record, "select 2").unwrap();
    record.note("the end").unwrap();
    record.close(finished()).unwrap();
    drop(recorder);

    let first = segment_path(&data.path().join("store"), 1);
    let bytes = fs::read(&first).unwrap();
    let mut starts = Vec::new();
    let mut cursor = SegmentCursor::open(&first).unwrap();
    while let Step::Frame { offset, .. } = cursor.step().unwrap() {
        starts.push(usize::try_from(offset).unwrap());
    }
    starts.push(bytes.len());
    let copy = TempDir::new().unwrap();
    let store = copy.path().join("store");
    // From the first session frame on: every length, and for each also a tail of zeros (a file longer than its data).
    for length in starts[1]..=bytes.len() {
        for zeros in [0, 200] {
            let whole = starts.iter().rposition(|start| *start <= length).unwrap();
            let torn = [&bytes[..length], &vec![0; zeros]].concat();
            fs::create_dir_all(&store).unwrap();
            fs::write(segment_path(&store, 1), torn).unwrap();
            let found = super::recovery::examine(&store).unwrap();
            let kept = fs::metadata(segment_path(&store, 1)).unwrap().len();
            assert_eq!(kept, starts[whole] as u64, "cut at {length}: back to the last whole frame");
            assert_eq!(found.report.torn_bytes, (length + zeros - starts[whole]) as u64);
            // All the rest of recovery at every frame's end, and one byte to either side of it.
            if starts.iter().any(|start| start.abs_diff(length) <= 1) {
                fs::write(segment_path(&store, 1), [&bytes[..length], &vec![0; zeros]].concat()).unwrap();
                drop(Recorder::open(copy.path(), CONFIG).unwrap());
                check_mended(copy.path(), opened.flow.session, length);
                fs::remove_dir_all(&store).unwrap();
            }
        }
    }
}

/// Every session has an end, every intent an outcome, and no frame of the session is missing or there twice.
fn check_mended(data: &Path, session: SessionId, length: usize) {
    let frames = all_frames(data);
    let frames: Vec<_> = frames.iter().filter(|frame| frame.header.session == session).collect();
    if let Some(last) = frames.last() {
        assert_eq!(last.header.kind, Kind::SessionClosed, "cut at {length}");
        let sequence: Vec<_> = frames.iter().map(|frame| frame.header.sequence).collect();
        assert_eq!(sequence, (1..=sequence.len() as u64).collect::<Vec<_>>(), "cut at {length}");
    }
    let count = |kind| frames.iter().filter(|frame| frame.header.kind == kind).count();
    assert_eq!(count(Kind::Intent), count(Kind::Outcome), "cut at {length}");
}

#[test]
fn a_flipped_bit_costs_one_frame_and_is_reported() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    for text in ["select 1", "select 2", "select 3"] {
        let (operation, _) = intent(&mut record, text).unwrap();
        record.outcome(done(operation)).unwrap();
    }
    record.close(finished()).unwrap();
    drop(recorder);

    let path = segment_path(&data.path().join("store"), 1);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"select 2").unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();

    // Through the index, and without it.
    for indexed in [true, false] {
        if !indexed {
            super::index::remove(data.path()).unwrap();
        }
        let events = events(data.path(), opened.flow.session);
        assert_eq!(events.len(), 7, "one of eight frames is gone");
        assert_eq!(events.iter().map(|recorded| recorded.missing).sum::<u64>(), 1);
        assert_eq!(events[3].missing, 1, "right where it was");
    }
    // Recovery leaves the damage in place, as evidence, and cuts nothing.
    drop(Recorder::open(data.path(), CONFIG).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    let recovered = all_frames_after(data.path(), 2);
    assert!(
        matches!(&recovered[..], [Event::CarriedOver(_), Event::Recovered(report)] if report.damaged_bytes > 0)
    );
}

fn all_frames_after(data: &Path, number: u32) -> Vec<Event> {
    let mut cursor = SegmentCursor::open(&segment_path(&data.join("store"), number)).unwrap();
    let mut events = Vec::new();
    while let Step::Frame { frame, .. } = cursor.step().unwrap() {
        events.push(Event::decode(frame.header.kind, &frame.payload().unwrap()).unwrap());
    }
    events
}

#[test]
fn sessions_span_segments_and_recovery_reads_only_the_last() {
    let data = TempDir::new().unwrap();
    let config = RecorderConfig { segment_bytes: 64 * 1024, min_free_bytes: 0 };
    let recorder = Recorder::open(data.path(), config).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    let (first, _) = intent(&mut record, "select 'long ago'").unwrap();
    for _ in 0..200 {
        let (operation, _) = intent(&mut record, &format!("select '{}'", noise(2000))).unwrap();
        record.outcome(done(operation)).unwrap();
    }
    let numbers = list_segments(&data.path().join("store")).unwrap();
    assert!(numbers.len() > 5, "{numbers:?}");
    // As a killed daemon leaves it: nothing is closed.
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("store")).unwrap();
    for number in &numbers {
        fs::copy(
            segment_path(&data.path().join("store"), *number),
            segment_path(&copy.path().join("store"), *number),
        )
        .unwrap();
    }
    drop(Recorder::open(copy.path(), config).unwrap());
    let recorded = events(copy.path(), opened.flow.session);
    assert!(recorded.iter().all(|recorded| recorded.missing == 0), "no frame is missing across segments");
    let outcome = recorded.iter().rev().find_map(|recorded| match &recorded.event {
        Some(Event::Outcome(outcome)) if outcome.operation == first => Some(outcome.clone()),
        _ => None,
    });
    assert_eq!(outcome.unwrap().status, OutcomeStatus::Unknown, "carried over from the first segment");
    drop((record, recorder));
}

#[test]
fn recovery_survives_its_own_death_and_a_damaged_opening() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    intent(&mut record, "select 1").unwrap();
    record.note("flushes nothing").unwrap();
    let copy = TempDir::new().unwrap();
    let store = copy.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::copy(segment_path(&data.path().join("store"), 1), segment_path(&store, 1)).unwrap();
    drop(Recorder::open(copy.path(), CONFIG).unwrap());

    // The recovering daemon died after its opening frames: segment 2 ends behind them.
    let mut cursor = SegmentCursor::open(&segment_path(&store, 2)).unwrap();
    assert!(matches!(cursor.step().unwrap(), Step::Frame { .. }));
    let file = fs::OpenOptions::new().write(true).open(segment_path(&store, 2)).unwrap();
    file.set_len(cursor.offset()).unwrap();
    drop(Recorder::open(copy.path(), CONFIG).unwrap());
    let closed = |frames: &[super::format::Frame]| {
        frames.iter().filter(|frame| frame.header.kind == Kind::SessionClosed).count()
    };
    assert_eq!(closed(&all_frames(copy.path())), 1, "closed by the second recovery");

    // Segment 3 goes, and segment 2's opening is damaged: segment 1 is read instead.
    fs::remove_file(segment_path(&store, 3)).unwrap();
    file.write_all_at(b"?", 70).unwrap();
    drop(Recorder::open(copy.path(), CONFIG).unwrap());
    assert_eq!(closed(&all_frames(copy.path())), 1, "closed by the third");

    // A file too short for its header holds nothing.
    fs::write(segment_path(&store, 4), b"PTC").unwrap();
    drop(Recorder::open(copy.path(), CONFIG).unwrap());
    assert!(fs::metadata(segment_path(&store, 4)).unwrap().len() > 64);
    drop((record, recorder));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_writers_at_once_lose_nothing() {
    let data = TempDir::new().unwrap();
    let config = RecorderConfig { segment_bytes: 256 * 1024, min_free_bytes: 0 };
    let recorder = Recorder::open(data.path(), config).unwrap();
    let mut writers = Vec::new();
    for writer in 0..200 {
        let recorder = Arc::clone(&recorder);
        writers.push(tokio::spawn(async move {
            let opened = opened();
            let mut record = recorder.session(&opened, SHARE).unwrap();
            for round in 0..10 {
                let (operation, lsn) = intent(&mut record, &format!("select {writer}, {round}")).unwrap();
                recorder.durable(lsn).await.unwrap();
                record.begin_rows(operation, 0, &[column("a")]).unwrap();
                record.row(&row(&[Some(&format!("{writer}/{round}"))])).unwrap();
                record.outcome(done(operation)).unwrap();
            }
            record.close(finished()).unwrap();
            (writer, opened.flow.session)
        }));
    }
    let mut sessions = Vec::new();
    for writer in writers {
        sessions.push(writer.await.unwrap());
    }
    drop(recorder);
    let catalogue = Catalogue::open(data.path()).unwrap();
    assert_eq!(catalogue.sessions(0, None, 1000, &mut |_| Wanted::Yes).unwrap().len(), 200);
    for (writer, session) in sessions {
        let events: Vec<_> = catalogue.events(session).unwrap().map(Result::unwrap).collect();
        assert_eq!(events.len(), 32);
        assert!(events.iter().all(|recorded| recorded.missing == 0));
        // Opened, ten times intent, rows and outcome, closed.
        let Some(Event::ResultRows(block)) = &events[29].event else { panic!("{events:?}") };
        assert_eq!(block.rows[0][0], Some(format!("{writer}/9").into_bytes()));
    }
}

#[test]
fn the_index_is_rebuilt_when_it_is_damaged_or_another_store_s() {
    let data = TempDir::new().unwrap();
    let write = || {
        let recorder = Recorder::open(data.path(), CONFIG).unwrap();
        let opened = opened();
        recorder.session(&opened, SHARE).unwrap().close(finished()).unwrap();
        opened.flow.session
    };
    let first = write();
    fs::write(data.path().join(INDEX_FILE), noise(20_000)).unwrap();
    assert!(Catalogue::open(data.path()).unwrap().session(first).is_some(), "the log is enough");
    let second = write();
    let index = Index::open_for_reading(data.path(), &store_id(data.path())).unwrap();
    assert!(index.session(first).is_some() && index.session(second).is_some());

    assert!(Index::open_for_reading(data.path(), "another").is_err());
    drop(index);
    let index = Index::open(data.path(), "another").unwrap();
    assert!(index.session(first).is_none());
}

#[test]
fn sessions_are_found_by_part_of_their_id() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let catalogue = || Catalogue::open(data.path()).unwrap();
    assert!(catalogue().resolve("last").is_err());
    let mut ids = Vec::new();
    for _ in 0..3 {
        let opened = opened();
        recorder.session(&opened, SHARE).unwrap().close(finished()).unwrap();
        ids.push(opened.flow.session);
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(recorder);
    for indexed in [true, false] {
        if !indexed {
            super::index::remove(data.path()).unwrap();
        }
        assert_eq!(catalogue().resolve("last").unwrap(), ids[2]);
        for id in &ids {
            let text = id.to_string();
            assert_eq!(catalogue().resolve(&text).unwrap(), *id);
            assert_eq!(catalogue().resolve(&text.split_at(18).1.to_lowercase()).unwrap(), *id);
        }
        let message = catalogue().resolve("0").unwrap_err().to_string();
        assert!(message.contains("ambiguous") && message.contains(&ids[0].to_string()), "{message}");
        assert!(catalogue().resolve("%").is_err());
        assert!(catalogue().resolve("").is_err());
    }
}

#[test]
fn results_beyond_the_share_are_counted_not_kept() {
    let data = TempDir::new().unwrap();
    let recorder = Recorder::open(data.path(), CONFIG).unwrap();
    let opened = opened();
    let mut record = recorder.session(&opened, 100).unwrap();
    let (operation, _) = intent(&mut record, "select").unwrap();
    record.begin_rows(operation, 0, &[column("a")]).unwrap();
    for _ in 0..10 {
        record.row(&row(&[Some("0123456789")])).unwrap();
    }
    record.outcome(done(operation)).unwrap();
    drop(record);
    drop(recorder);
    let events = events(data.path(), opened.flow.session);
    let Some(Event::ResultRows(block)) = &events[2].event else { panic!("{events:?}") };
    let Some(Event::Outcome(outcome)) = &events[3].event else { panic!("{events:?}") };
    assert_eq!((block.rows.len(), outcome.rows_left_out), (6, 4));
}

/// The child of `a_killed_writer_loses_nothing_that_was_durable`: records until it is killed, and prints each
/// operation only once it is durable. Does nothing in an ordinary test run.
#[tokio::test]
async fn killed_writer_child() {
    let Some(data) = std::env::var_os("PORTCULLIS_TEST_KILLED_WRITER") else { return };
    let config = RecorderConfig { segment_bytes: 256 * 1024, min_free_bytes: 0 };
    let recorder = Recorder::open(Path::new(&data), config).unwrap();
    let mut record = recorder.session(&opened(), SHARE).unwrap();
    loop {
        let (operation, lsn) = intent(&mut record, &format!("select '{}'", noise(500))).unwrap();
        recorder.durable(lsn).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "durable {operation}").unwrap();
        out.flush().unwrap();
        drop(out);
        record.begin_rows(operation, 0, &[column("a")]).unwrap();
        record.row(&row(&[Some("x")])).unwrap();
        record.outcome(done(operation)).unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_was_durable() {
    let data = TempDir::new().unwrap();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "record::tests::killed_writer_child", "--nocapture"])
            .env("PORTCULLIS_TEST_KILLED_WRITER", data.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut durable = 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while durable < 50 * round && Instant::now() < deadline {
            let line = lines.next().unwrap().unwrap();
            durable = line.strip_prefix("durable ").map_or(durable, |number| number.parse().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it printed before it died counts as well.
        for line in lines.map_while(Result::ok) {
            durable = line.strip_prefix("durable ").and_then(|number| number.parse().ok()).unwrap_or(durable);
        }
        assert!(durable >= 50 * round, "the child recorded {durable} operations");

        drop(Recorder::open(data.path(), CONFIG).unwrap());
        let catalogue = Catalogue::open(data.path()).unwrap();
        let newest = catalogue.resolve("last").unwrap();
        let summary = catalogue.session(newest).unwrap();
        assert_eq!(summary.ended_reason, Some(EndReason::DaemonDied), "round {round}");
        assert!(summary.operations >= durable, "{} of {durable} operations are left", summary.operations);
        let run = summary.opened.unwrap().run;
        let operations = before(data.path(), run, u64::MAX, 10_000).unwrap().operations;
        assert!(operations.len() as u64 == summary.operations);
        assert!(operations.iter().all(|(operation, _)| operation.state != OperationState::Running));
        let events: Vec<_> = catalogue.events(newest).unwrap().map(Result::unwrap).collect();
        assert!(events.iter().all(|recorded| recorded.missing == 0));
    }
}
