//! What a run did last before a moment: for those who decide on what it wants next.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::read::{Catalogue, ReadError};
use super::summary::{Extent, OperationState, OperationSummary, SessionSummary};
use crate::flow::RunId;
use crate::policy::rule::Protocol;

/// Sessions of a run that are looked at: the newest.
const SESSIONS_MAX: u32 = 32;
/// Frames behind the index that are read; where the index lags further, what came last may be missing.
const FRAMES_MAX: usize = 8192;
/// Bytes of the log that are read in all.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a run did last before a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Oldest first, each with the connection that it went by.
    pub operations: Vec<(OperationSummary, Option<String>)>,
    /// Whether that is certain: nothing newer can be missing.
    pub whole: bool,
}

/// What a run did last before a moment, over all of its sessions, oldest first, at most `limit` operations. Names that were
/// answered are left out: every connection asks for some, and they would push out what was done. Reads no more than is bounded
/// by the constants above, and waits for the disk.
///
/// # Errors
/// The recording cannot be read.
pub fn before(data_dir: &Path, run: RunId, before_ns: u64, limit: u32) -> Result<Before, ReadError> {
    let catalogue = Catalogue::open_within(data_dir, FRAMES_MAX)?;
    if !catalogue.is_indexed() && !catalogue.is_whole() {
        // The beginning of the log is not what came last.
        return Ok(Before::default());
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let sessions_max = usize::try_from(SESSIONS_MAX).unwrap_or(usize::MAX);
    let sessions = catalogue.sessions_of(run, SESSIONS_MAX)?;
    let mut whole = catalogue.is_whole() && sessions.len() < sessions_max;
    let mut reading = Reading { catalogue: &catalogue, before_ns, limit, bytes_left: BYTES_MAX };
    let mut found = Vec::new();
    for session in sessions.iter().take(sessions_max) {
        let latest = reading.latest(session)?;
        whole &= latest.whole;
        let connection = session.opened.as_ref().and_then(|opened| opened.connection.clone());
        found.extend(latest.operations.into_iter().map(|operation| (operation, connection.clone())));
    }
    found.sort_unstable_by_key(|(operation, _)| (operation.at_ns, operation.session, operation.operation));
    found.drain(..found.len().saturating_sub(limit));
    Ok(Before { operations: found, whole })
}

struct Reading<'a> {
    catalogue: &'a Catalogue,
    before_ns: u64,
    limit: usize,
    bytes_left: u64,
}

struct Latest {
    operations: Vec<OperationSummary>,
    whole: bool,
}

impl Reading<'_> {
    /// The last operations of one session: of its newest stretch of the log, of more stretches while that is not enough.
    fn latest(&mut self, session: &SessionSummary) -> Result<Latest, ReadError> {
        let extents = self.catalogue.extents(session.session)?;
        let mut latest = Latest { operations: Vec::new(), whole: false };
        let mut stretches = 1;
        loop {
            let newest = extents.get(extents.len().saturating_sub(stretches)..).unwrap_or(&extents);
            let bytes = newest.iter().map(|extent| extent.end.saturating_sub(extent.first)).sum();
            let Some(bytes_left) = self.bytes_left.checked_sub(bytes) else { return Ok(latest) };
            self.bytes_left = bytes_left;
            latest.operations = self.operations(session, newest.to_vec())?;
            latest.whole = newest.len() == extents.len() || latest.operations.len() == self.limit;
            if latest.whole {
                return Ok(latest);
            }
            stretches *= 4;
        }
    }

    /// The last operations among those that a session began in these extents.
    fn operations(
        &self,
        session: &SessionSummary,
        extents: Vec<Extent>,
    ) -> Result<Vec<OperationSummary>, ReadError> {
        let names = session.opened.as_ref().is_some_and(|opened| opened.protocol == Protocol::Dns);
        let mut operations: BTreeMap<u64, OperationSummary> = BTreeMap::new();
        for recorded in self.catalogue.events_within(session.session, extents) {
            let recorded = recorded?;
            let (header, Some(event)) = (&recorded.header, &recorded.event) else { continue };
            if header.operation == 0 {
                continue;
            }
            // Of what was asked in an earlier stretch only the end is here.
            if event.asks() || operations.contains_key(&header.operation) {
                let new = || OperationSummary::new(header);
                operations.entry(header.operation).or_insert_with(new).observe(event);
            }
        }
        let wanted = |operation: &OperationSummary| {
            operation.at_ns < self.before_ns && (!names || operation.state == OperationState::Refused)
        };
        let mut operations: Vec<_> = operations.into_values().filter(wanted).collect();
        operations.drain(..operations.len().saturating_sub(self.limit));
        Ok(operations)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use tempfile::TempDir;

    use super::*;
    use crate::flow::Side;
    use crate::record::event::{Intent, Refused, SessionOpened};
    use crate::record::tests::{CONFIG, SHARE, asked, column, done, finished, noise, opened, row};
    use crate::record::{Recorder, SessionRecord, index};

    fn allow(record: &mut SessionRecord, text: &str) {
        let asked = asked(record.next_operation(), text);
        record.intent(&Intent { asked, rule: "default".to_owned(), approval: None, shadow: None }).unwrap();
    }

    fn refuse(record: &mut SessionRecord, text: &str) {
        let (asked, rule) = (asked(record.next_operation(), text), "no".to_owned());
        let (reason, side) = (String::new(), Side::Policy);
        record.refused(&Refused { asked, rule, reason, side, approval: None, status: None }).unwrap();
    }

    fn now_ns() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
    }

    #[test]
    fn what_a_run_did_last_is_found_over_all_of_its_sessions() {
        let data = TempDir::new().unwrap();
        let recorder = Recorder::open(data.path(), CONFIG).unwrap();
        let begin = |opened: &SessionOpened| recorder.session(opened, SHARE).unwrap();
        let first = opened();
        let run = first.flow.run;
        let of_run = |protocol| {
            let mut session = opened();
            (session.flow.run, session.protocol) = (run, protocol);
            begin(&session)
        };
        let (mut database, mut other) = (begin(&first), begin(&opened()));
        let (mut web, mut names) = (of_run(Protocol::Http), of_run(Protocol::Dns));
        for number in 0..4 {
            allow(&mut database, &format!("SELECT {number}"));
            allow(&mut names, &format!("A db-{number}.internal"));
            allow(&mut other, "SELECT 'of another run'");
        }
        allow(&mut web, "GET https://a/");
        refuse(&mut names, "A evil.example");
        refuse(&mut database, "DROP TABLE t");
        let moment = now_ns();
        allow(&mut database, "SELECT 'later'");
        for record in [database, other, web, names] {
            record.close(finished()).unwrap();
        }
        let texts = |limit, moment| -> Vec<String> {
            let found = before(data.path(), run, moment, limit).unwrap();
            found.operations.into_iter().map(|(operation, _)| operation.text).collect()
        };
        // The index's thread writes what it has on its way out.
        drop(recorder);
        let expected = ["SELECT 3", "GET https://a/", "A evil.example", "DROP TABLE t"];
        assert_eq!(texts(4, moment), expected);
        assert_eq!(texts(100, moment).len(), 7);
        assert_eq!(texts(1, u64::MAX >> 1), ["SELECT 'later'"]);
        // Without an index the log is read, as far as that is bounded.
        index::remove(data.path()).unwrap();
        assert_eq!(texts(4, moment), expected);
        let within = |frames| Catalogue::open_within(data.path(), frames).unwrap();
        assert!(!within(8).is_whole() && within(1000).is_whole() && within(usize::MAX).is_whole());
    }

    #[test]
    fn what_was_asked_before_a_long_answer_is_found() {
        let data = TempDir::new().unwrap();
        let recorder = Recorder::open(data.path(), CONFIG).unwrap();
        let opened = opened();
        let mut record = recorder.session(&opened, u64::MAX).unwrap();
        for text in ["SELECT 1", "SELECT 2", "SELECT noise"] {
            allow(&mut record, text);
        }
        record.begin_rows(3, 0, &[column("noise")]).unwrap();
        for _ in 0..800 {
            record.row(&row(&[Some(&noise(16 * 1024))])).unwrap();
        }
        record.outcome(done(3)).unwrap();
        record.close(finished()).unwrap();
        drop(recorder);
        let catalogue = Catalogue::open(data.path()).unwrap();
        assert!(
            catalogue.extents(opened.flow.session).unwrap().len() > 4,
            "the answer fills several stretches"
        );
        let found = before(data.path(), opened.flow.run, u64::MAX, 2).unwrap();
        let texts: Vec<_> = found
            .operations
            .iter()
            .map(|(operation, _)| (operation.text.as_str(), operation.state))
            .collect();
        assert_eq!(texts, [("SELECT 2", OperationState::Unknown), ("SELECT noise", OperationState::Done)]);
        assert!(found.whole);
        let mut reading =
            Reading { catalogue: &catalogue, before_ns: u64::MAX, limit: 2, bytes_left: 2 * 1024 * 1024 };
        let session = catalogue.session(opened.flow.session).unwrap();
        assert!(!reading.latest(&session).unwrap().whole, "no more is read than allowed, and it says so");
    }
}
