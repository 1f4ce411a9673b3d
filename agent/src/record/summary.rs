//! What listings show of a session and its operations, gathered frame by frame. Pure; shared by index and readers.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::event::{ApprovalOutcome, ApprovalRecord, EndReason, Event, OutcomeStatus, SessionOpened};
use super::format::{Frame, FrameHeader, Kind};
use crate::flow::{RunId, SessionId};
use crate::policy::rule::Protocol;
use crate::request::Effect;

/// Bytes of an operation's text kept in its summary.
pub const SUMMARY_TEXT_BYTES_MAX: usize = 512;

/// Log bytes that one extent of a session covers at most; reading one session touches this much per frame at worst.
const EXTENT_BYTES: u64 = 1024 * 1024;

/// One session, for listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Which.
    pub session: SessionId,
    /// Who, where and under which policy; `None` when the session's first frame is damaged.
    pub opened: Option<OpenedSummary>,
    /// First frame, nanoseconds since 1970.
    pub started_ns: u64,
    /// Last frame, once the session has ended.
    pub ended_ns: Option<u64>,
    /// Why it ended.
    pub ended_reason: Option<EndReason>,
    /// Operations asked for.
    pub operations: u64,
    /// Operations that were held.
    pub held: u64,
    /// Operations refused.
    pub denied: u64,
    /// Values masked.
    pub masked: u64,
    /// Rows returned.
    pub rows: u64,
    /// Client to server, bytes; `None` until it is known.
    pub bytes_to_upstream: Option<u64>,
    /// Server to client, bytes; `None` until it is known.
    pub bytes_to_client: Option<u64>,
}

/// The part of a summary that the session's first frame fixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedSummary {
    /// Run.
    pub run: RunId,
    /// Policy name.
    pub policy: String,
    /// Version of the policy's text.
    pub policy_version: String,
    /// Connection profile.
    pub connection: Option<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the client wanted to go.
    pub destination: String,
    /// User id of the process.
    pub uid: u32,
    /// User name of the process.
    pub user: Option<String>,
    /// Whom it acts for, by the token's name or subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Process id.
    pub pid: u32,
    /// Task name.
    pub process: String,
}

impl From<&SessionOpened> for OpenedSummary {
    fn from(opened: &SessionOpened) -> Self {
        Self {
            run: opened.flow.run,
            policy: opened.policy.clone(),
            policy_version: opened.policy_version.clone(),
            connection: opened.connection.clone(),
            protocol: opened.protocol,
            destination: opened.flow.destination.to_string(),
            uid: opened.flow.process.uid,
            user: opened.user_name.clone(),
            subject: opened.identity.as_ref().map(|identity| identity.called().to_owned()),
            pid: opened.flow.process.tgid,
            process: opened.flow.process.comm.clone(),
        }
    }
}

/// One operation, for listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// Its session.
    pub session: SessionId,
    /// Its number within the session.
    pub operation: u64,
    /// First frame, nanoseconds since 1970.
    pub at_ns: u64,
    /// Command tags of its statements.
    pub kind: String,
    /// Highest effect of its statements.
    pub effect: Effect,
    /// What became of it.
    pub state: OperationState,
    /// Rule that decided.
    pub rule: String,
    /// It was held.
    pub held: bool,
    /// Who decided on the hold.
    pub decided_by: Option<String>,
    /// Rows returned.
    pub rows: u64,
    /// From forwarding to the end, microseconds.
    pub elapsed_us: u64,
    /// SQLSTATE of the server's error.
    pub sqlstate: Option<String>,
    /// Beginning of its text.
    pub text: String,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// The server completed it.
    Done,
    /// The server refused or failed it.
    Failed,
    /// Waiting for a human.
    Held,
    /// Held, and the daemon died before it was forwarded.
    NotForwarded,
    /// Forwarded, and not run by the server.
    NotRun,
    /// Refused.
    Refused,
    /// Forwarded; no answer yet.
    Running,
    /// Forwarded; nobody knows how it ended.
    Unknown,
}

/// Frames of one session within one stretch of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Segment number.
    pub segment: u32,
    /// Start of the first frame.
    pub first: u64,
    /// End of the last frame.
    pub end: u64,
}

/// Where summaries that already exist come from.
pub(super) trait Base {
    /// The session's summary so far.
    fn session(&self, session: SessionId) -> Option<SessionSummary>;
}

/// Summaries that a stretch of the log adds or changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) sessions: HashMap<SessionId, SessionSummary>,
    pub(super) extents: HashMap<(SessionId, u32, u64), Extent>,
}

impl Changes {
    /// Takes note of the frame at `offset..end` of `segment`. A payload that cannot be read still counts as a frame.
    pub(super) fn observe(&mut self, base: &dyn Base, frame: &Frame, segment: u32, offset: u64, end: u64) {
        let header = &frame.header;
        if header.session == FrameHeader::store_session() {
            return;
        }
        let extent = self.extents.entry((header.session, segment, offset / EXTENT_BYTES)).or_insert(Extent {
            segment,
            first: offset,
            end,
        });
        extent.end = end;
        let session = self
            .sessions
            .entry(header.session)
            .or_insert_with(|| base.session(header.session).unwrap_or_else(|| SessionSummary::new(header)));
        session.follow(frame);
    }
}

impl SessionSummary {
    fn new(header: &FrameHeader) -> Self {
        Self {
            session: header.session,
            opened: None,
            started_ns: header.wall_ns,
            ended_ns: None,
            ended_reason: None,
            operations: 0,
            held: 0,
            denied: 0,
            masked: 0,
            rows: 0,
            bytes_to_upstream: None,
            bytes_to_client: None,
        }
    }

    /// Takes note of a frame. Of most the header says enough: their payloads are not read.
    fn follow(&mut self, frame: &Frame) {
        let header = &frame.header;
        match header.kind {
            // Rows and bodies say nothing that the outcome does not, and may come before their operation does.
            Kind::ResultRows | Kind::Body | Kind::Message | Kind::Stream => return,
            Kind::SessionOpened | Kind::Outcome | Kind::OpaqueCounts | Kind::SessionClosed => {
                self.read(frame)
            }
            Kind::Held => self.held += 1,
            Kind::Refused => self.denied += 1,
            Kind::Intent | Kind::Decided | Kind::Note | Kind::Recovered | Kind::CarriedOver => {}
        }
        // Operations are numbered from 1.
        self.operations = self.operations.max(header.operation);
    }

    fn read(&mut self, frame: &Frame) {
        let header = &frame.header;
        let Ok(event) = frame.payload().and_then(|payload| Event::decode(header.kind, &payload)) else {
            return;
        };
        match event {
            Event::SessionOpened(opened) => self.opened = Some(OpenedSummary::from(opened.as_ref())),
            Event::Outcome(outcome) => {
                self.rows += outcome.rows;
                self.masked += outcome.masked.values().sum::<u64>();
            }
            Event::OpaqueCounts(counts) => {
                self.bytes_to_upstream = Some(counts.to_upstream);
                self.bytes_to_client = Some(counts.to_client);
            }
            Event::SessionClosed(closed) => {
                self.ended_ns = Some(header.wall_ns);
                self.ended_reason = Some(closed.ended.reason);
                self.bytes_to_upstream = closed.bytes_to_upstream.or(self.bytes_to_upstream);
                self.bytes_to_client = closed.bytes_to_client.or(self.bytes_to_client);
            }
            Event::Intent(_)
            | Event::Held(_)
            | Event::Refused(_)
            | Event::Decided(_)
            | Event::ResultRows(_)
            | Event::Body(_)
            | Event::Message(_)
            | Event::Stream(_)
            | Event::Note(_)
            | Event::Recovered(_)
            | Event::CarriedOver(_) => {}
        }
    }
}

impl OperationSummary {
    /// Of which no more is known than the header of one of its frames.
    pub(super) fn new(header: &FrameHeader) -> Self {
        Self {
            session: header.session,
            operation: header.operation,
            at_ns: header.wall_ns,
            kind: String::new(),
            effect: Effect::Unknown,
            state: OperationState::Unknown,
            rule: String::new(),
            held: false,
            decided_by: None,
            rows: 0,
            elapsed_us: 0,
            sqlstate: None,
            text: String::new(),
        }
    }

    /// Takes note of an event of this operation.
    pub(super) fn observe(&mut self, event: &Event) {
        match event {
            Event::Intent(intent) => {
                self.asked(&intent.asked, &intent.rule, OperationState::Running);
                self.approval(intent.approval.as_ref());
            }
            Event::Refused(refused) => {
                self.asked(&refused.asked, &refused.rule, OperationState::Refused);
                self.approval(refused.approval.as_ref());
            }
            Event::Held(held) => {
                self.asked(&held.asked, &held.rule, OperationState::Held);
                self.held = true;
            }
            Event::Decided(decided) => self.approval(Some(&decided.approval)),
            Event::Outcome(outcome) => {
                self.state = match outcome.status {
                    OutcomeStatus::Done => OperationState::Done,
                    OutcomeStatus::Failed => OperationState::Failed,
                    OutcomeStatus::NotForwarded => OperationState::NotForwarded,
                    OutcomeStatus::NotRun => OperationState::NotRun,
                    OutcomeStatus::Unknown => OperationState::Unknown,
                };
                self.rows = outcome.rows;
                self.elapsed_us = outcome.elapsed_us;
                self.sqlstate = outcome.error.as_ref().map(|error| error.sqlstate.clone());
            }
            Event::SessionOpened(_)
            | Event::ResultRows(_)
            | Event::Body(_)
            | Event::Message(_)
            | Event::Stream(_)
            | Event::Note(_)
            | Event::OpaqueCounts(_)
            | Event::SessionClosed(_)
            | Event::Recovered(_)
            | Event::CarriedOver(_) => {}
        }
    }

    fn asked(&mut self, asked: &Asked, rule: &str, state: OperationState) {
        let kinds: Vec<_> = asked.statements.0.iter().map(|statement| statement.kind.as_str()).collect();
        let text = &asked.text.text;
        self.kind = kinds.join("; ");
        self.effect = asked.statements.effect();
        self.state = state;
        rule.clone_into(&mut self.rule);
        text.split_at(text.floor_char_boundary(SUMMARY_TEXT_BYTES_MAX)).0.clone_into(&mut self.text);
    }

    fn approval(&mut self, approval: Option<&ApprovalRecord>) {
        if let Some(approval) = approval {
            self.held = true;
            self.decided_by = match approval.outcome {
                ApprovalOutcome::Approved | ApprovalOutcome::Denied => approval.by.clone(),
                ApprovalOutcome::TimedOut | ApprovalOutcome::Withdrawn | ApprovalOutcome::Deferred => None,
            };
        }
    }
}
