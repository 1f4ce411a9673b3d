//! Reading the recording: which sessions there are, and one session's events in order. Works beside a running daemon.

use std::io;
use std::path::{Path, PathBuf};

use super::event::Event;
use super::format::FrameHeader;
use super::index::{Index, IndexError, Take, follow};
use super::log::Lsn;
use super::segment::{SegmentCursor, Step, list_segments, segment_path};
use super::summary::{Base, Changes, Extent, OperationSummary, SessionSummary};
use super::writer::STORE_FOLDER;
use crate::flow::SessionId;

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
}

struct Nothing;

impl Base for Nothing {
    fn session(&self, _: SessionId) -> Option<SessionSummary> {
        None
    }

    fn operation(&self, _: SessionId, _: u64) -> Option<OperationSummary> {
        None
    }
}

impl Catalogue {
    /// Opens the recording below `data_dir`. Without a usable index the whole log is read.
    ///
    /// # Errors
    /// `NoStore`, or a segment that cannot be read.
    pub fn open(data_dir: &Path) -> Result<Self, ReadError> {
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
        follow(data_dir, position, None, usize::MAX, base, &mut tail)?;
        Ok(Self { store_dir, index, tail })
    }

    /// Sessions that started at or after `since_ns` and for which `wanted` holds, newest first, at most `limit`.
    ///
    /// # Errors
    /// The index fails while it is read.
    pub fn sessions(
        &self,
        since_ns: u64,
        limit: usize,
        wanted: &dyn Fn(&SessionSummary) -> bool,
    ) -> Result<Vec<SessionSummary>, ReadError> {
        let mut found: Vec<_> = self
            .tail
            .sessions
            .values()
            .filter(|session| session.started_ns >= since_ns && wanted(session))
            .cloned()
            .collect();
        let mut indexed = Vec::new();
        if let Some(index) = &self.index {
            index.sessions(since_ns, &mut |session| {
                if !self.tail.sessions.contains_key(&session.session) && wanted(&session) {
                    indexed.push(session);
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
            let newest = self.sessions(0, 1, &|_| true)?;
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

    /// One session's operations, in order.
    ///
    /// # Errors
    /// The index fails while it is read.
    pub fn operations(&self, session: SessionId) -> Result<Vec<OperationSummary>, ReadError> {
        let mut operations = match &self.index {
            Some(index) => index.operations(session)?,
            None => Vec::new(),
        };
        operations.retain(|operation| !self.tail.operations.contains_key(&(session, operation.operation)));
        operations
            .extend(self.tail.operations.values().filter(|operation| operation.session == session).cloned());
        operations.sort_unstable_by_key(|operation| operation.operation);
        Ok(operations)
    }

    /// One session's events, in order.
    ///
    /// # Errors
    /// The index fails while it is read.
    pub fn events(&self, session: SessionId) -> Result<Events, ReadError> {
        let mut extents = match &self.index {
            Some(index) => index.extents(session)?,
            None => Vec::new(),
        };
        let tail = self.tail.extents.iter().filter(|((owner, ..), _)| *owner == session);
        extents.extend(tail.map(|(_, extent)| *extent));
        extents.sort_unstable();
        let store_dir = self.store_dir.clone();
        Ok(Events { store_dir, session, extents: extents.into_iter(), current: None, sequence: 0 })
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
    current: Option<SegmentCursor>,
    sequence: u64,
}

impl Events {
    fn advance(&mut self) -> Result<Option<Recorded>, ReadError> {
        loop {
            let Some(cursor) = &mut self.current else {
                let Some(extent) = self.extents.next() else { return Ok(None) };
                let path = segment_path(&self.store_dir, extent.segment);
                let opened = SegmentCursor::open(&path);
                let mut cursor = opened.map_err(|source| ReadError::Segment { path, source })?;
                cursor.seek(extent.first);
                cursor.stop_at(extent.end);
                self.current = Some(cursor);
                continue;
            };
            match cursor.step() {
                Ok(Step::Frame { frame, .. }) if frame.header.session == self.session => {
                    let missing = frame.header.sequence.saturating_sub(self.sequence + 1);
                    self.sequence = frame.header.sequence;
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
