//! Reading the recording: which sessions there are, and one session's events in order. Works beside a running daemon.

use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use std::{fmt, io};

use super::event::Event;
use super::format::FrameHeader;
use super::index::{Index, IndexError, Take, follow};
use super::log::Lsn;
use super::segment::{SegmentCursor, Step, list_segments, segment_path};
use super::summary::{Base, Changes, Extent, SessionSummary};
use super::writer::STORE_FOLDER;
use crate::flow::{RunId, SessionId};

/// Why the recording could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Several sessions match.
    #[error("{part:?} is ambiguous: {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        part: String,
        /// Some of the sessions that match.
        ids: Vec<SessionId>,
    },
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There is no store.
    #[error("there is no recording in {path}: is this the daemon's data folder, and are you root?")]
    NoStore {
        /// The store's folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No session matches.
    #[error("no session {part:?}; `portcullis sessions list` shows what there is")]
    NotFound {
        /// What was asked for.
        part: String,
    },
    /// A segment.
    #[error("cannot read {path}")]
    Segment {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The sessions of a store at one moment: the index, and what the log holds beyond it.
#[derive(Debug)]
pub struct Catalogue {
    store_dir: PathBuf,
    index: Option<Index>,
    tail: Changes,
    whole: bool,
}

struct Nothing;

impl Base for Nothing {
    fn session(&self, _: SessionId) -> Option<SessionSummary> {
        None
    }
}

impl Catalogue {
    /// Opens the recording below `data_dir`. Without a usable index the whole log is read.
    ///
    /// # Errors
    /// `NoStore`, or a segment that cannot be read.
    pub fn open(data_dir: &Path) -> Result<Self, ReadError> {
        Self::open_within(data_dir, usize::MAX)
    }

    /// The same, but of the log behind the index at most `frames_max` frames are read: for those who must not be kept
    /// waiting. What came last may be missing then; see [`Catalogue::is_whole`].
    ///
    /// # Errors
    /// As above.
    pub fn open_within(data_dir: &Path, frames_max: usize) -> Result<Self, ReadError> {
        let store_dir = data_dir.join(STORE_FOLDER);
        let numbers = list_segments(&store_dir)
            .map_err(|source| ReadError::NoStore { path: store_dir.clone(), source })?;
        let store = numbers.iter().rev().find_map(|number| {
            SegmentCursor::open(&segment_path(&store_dir, *number)).ok().map(|cursor| cursor.header().store)
        });
        let index = store.and_then(|store| Index::open_for_reading(data_dir, &store.to_string()).ok());
        let mut tail = Changes::default();
        let position = index.as_ref().map_or(Lsn::default(), Index::position);
        let base = index.as_ref().map_or(&Nothing as &dyn Base, Index::base);
        let reached = follow(data_dir, position, None, frames_max, base, &mut tail)?;
        let mut beyond = Changes::default();
        follow(data_dir, reached, None, 1, base, &mut beyond)?;
        let whole = beyond.extents.is_empty();
        Ok(Self { store_dir, index, tail, whole })
    }

    /// Whether everything is known that was recorded until now.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Sessions that started at or after `since_ns`, are older than `before` and `wanted`, newest first, at most `limit`.
    ///
    /// # Errors
    /// The index fails while it is read.
    pub fn sessions(
        &self,
        since_ns: u64,
        before: Option<SessionId>,
        limit: usize,
        wanted: &mut dyn FnMut(&SessionSummary) -> Wanted,
    ) -> Result<Vec<SessionSummary>, ReadError> {
        let older = |session: &SessionSummary| before.is_none_or(|before| session.session < before);
        let mut found: Vec<_> = self
            .tail
            .sessions
            .values()
            .filter(|session| session.started_ns >= since_ns && older(session))
            .filter(|session| wanted(session) == Wanted::Yes)
            .cloned()
            .collect();
        let mut indexed = Vec::new();
        if let Some(index) = &self.index {
            index.sessions(since_ns, before, &mut |session| {
                if self.tail.sessions.contains_key(&session.session) {
                    return Take::More;
                }
                match wanted(&session) {
                    Wanted::Yes => indexed.push(session),
                    Wanted::No => {}
                    Wanted::Stop => return Take::Enough,
                }
                if indexed.len() < limit { Take::More } else { Take::Enough }
            })?;
        }
        found.append(&mut indexed);
        found.sort_unstable_by_key(|session| std::cmp::Reverse(session.session));
        found.truncate(limit);
        Ok(found)
    }

    /// The session that `part` names: a whole id, a unique beginning or end of one, or `last`.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous`, `Index`.
    pub fn resolve(&self, part: &str) -> Result<SessionId, ReadError> {
        const SHOWN_MAX: u32 = 5;
        let not_found = || ReadError::NotFound { part: part.to_owned() };
        if part == "last" {
            let newest = self.sessions(0, None, 1, &mut |_| Wanted::Yes)?;
            return newest.first().map(|session| session.session).ok_or_else(not_found);
        }
        let wanted = part.to_ascii_uppercase();
        if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(not_found());
        }
        let mut ids = match &self.index {
            Some(index) => index.ids_like(&wanted, SHOWN_MAX)?,
            None => Vec::new(),
        };
        let matches = |id: &&SessionId| {
            let id = id.to_string();
            id.starts_with(&wanted) || id.ends_with(&wanted)
        };
        ids.extend(self.tail.sessions.keys().filter(matches));
        ids.sort_unstable();
        ids.dedup();
        match ids.as_slice() {
            [] => Err(not_found()),
            [id] => Ok(*id),
            [..] => Err(ReadError::Ambiguous { part: part.to_owned(), ids }),
        }
    }

    /// One session's summary.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionSummary> {
        let indexed = || self.index.as_ref()?.session(session);
        self.tail.sessions.get(&session).cloned().or_else(indexed)
    }

    /// One session's events, in order.
    ///
    /// # Errors
    /// The index fails while it is read.
    pub fn events(&self, session: SessionId) -> Result<Events, ReadError> {
        self.events_from(session, Place::default())
    }

    /// One session's events from where reading ended before, in order.
    ///
    /// # Errors
    /// The index fails while it is read.
    pub fn events_from(&self, session: SessionId, from: Place) -> Result<Events, ReadError> {
        let mut extents = self.extents(session)?;
        extents.retain(|extent| (extent.segment, extent.end) > (from.segment, from.offset));
        for extent in extents.iter_mut().filter(|extent| extent.segment == from.segment) {
            extent.first = extent.first.max(from.offset);
        }
        Ok(Events { reached: from, ..self.events_within(session, extents) })
    }

    /// Where a session's frames lie, in order.
    pub(super) fn extents(&self, session: SessionId) -> Result<Vec<Extent>, ReadError> {
        let mut extents = match &self.index {
            Some(index) => index.extents(session)?,
            None => Vec::new(),
        };
        let tail = self.tail.extents.iter().filter(|((owner, ..), _)| *owner == session);
        extents.extend(tail.map(|(_, extent)| *extent));
        extents.sort_unstable();
        Ok(extents)
    }

    /// A session's events in some of its extents, in order.
    pub(super) fn events_within(&self, session: SessionId, extents: Vec<Extent>) -> Events {
        let store_dir = self.store_dir.clone();
        let reached = Place::default();
        Events { store_dir, session, extents: extents.into_iter(), current: None, reached }
    }

    /// Sessions of a run, newest first, at most `limit` and those that the index does not have yet.
    pub(super) fn sessions_of(&self, run: RunId, limit: u32) -> Result<Vec<SessionSummary>, ReadError> {
        let of_run =
            |session: &&SessionSummary| session.opened.as_ref().is_some_and(|opened| opened.run == run);
        let mut sessions: Vec<_> = self.tail.sessions.values().filter(of_run).cloned().collect();
        if let Some(index) = &self.index {
            sessions.extend(index.sessions_of(run, limit)?);
        }
        // What the log says is newer than what the index does, and the sort keeps it in front.
        sessions.sort_by_key(|session| std::cmp::Reverse(session.session));
        sessions.dedup_by_key(|session| session.session);
        Ok(sessions)
    }

    /// Whether there is an index, so that only what is newer than it was read.
    pub(super) fn is_indexed(&self) -> bool {
        self.index.is_some()
    }
}

/// Whether a session is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// No more are looked at.
    Stop,
}

/// How far a session was read, so that reading goes on from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    segment: u32,
    offset: u64,
    sequence: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.segment, self.offset, self.sequence)
    }
}

impl FromStr for Place {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().unwrap_or_default();
        Ok(Self { segment: part().parse()?, offset: part().parse()?, sequence: part().parse()? })
    }
}

/// One event as read back.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its frame's header.
    pub header: FrameHeader,
    /// Frames of the session that are missing right before this one.
    pub missing: u64,
    /// The event; `None` when its payload cannot be read.
    pub event: Option<Event>,
}

/// One session's events, in order.
#[derive(Debug)]
pub struct Events {
    store_dir: PathBuf,
    session: SessionId,
    extents: std::vec::IntoIter<Extent>,
    current: Option<(u32, SegmentCursor)>,
    reached: Place,
}

impl Events {
    /// Behind the last event that was read.
    #[must_use]
    pub fn reached(&self) -> Place {
        self.reached
    }

    fn advance(&mut self) -> Result<Option<Recorded>, ReadError> {
        loop {
            let Some((segment, cursor)) = &mut self.current else {
                let Some(extent) = self.extents.next() else { return Ok(None) };
                let path = segment_path(&self.store_dir, extent.segment);
                let opened = SegmentCursor::open(&path);
                let mut cursor = opened.map_err(|source| ReadError::Segment { path, source })?;
                cursor.seek(extent.first);
                cursor.stop_at(extent.end);
                self.current = Some((extent.segment, cursor));
                continue;
            };
            match cursor.step() {
                Ok(Step::Frame { frame, .. }) if frame.header.session == self.session => {
                    let sequence = frame.header.sequence;
                    let missing = sequence.saturating_sub(self.reached.sequence.saturating_add(1));
                    self.reached = Place { segment: *segment, offset: cursor.offset(), sequence };
                    let event =
                        frame.payload().and_then(|payload| Event::decode(frame.header.kind, &payload));
                    return Ok(Some(Recorded { header: frame.header, missing, event: event.ok() }));
                }
                Ok(Step::Frame { .. } | Step::Damaged { .. }) => {}
                Ok(Step::Torn { .. } | Step::End) => self.current = None,
                Err(source) => {
                    self.current = None;
                    return Err(ReadError::Segment { path: self.store_dir.clone(), source });
                }
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<Recorded, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
