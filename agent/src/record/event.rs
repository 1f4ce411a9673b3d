//! What is recorded: one type per kind of frame. JSON, but for result rows. Everything here is already masked.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::body::{BodyBlock, BodySummary, MessageBlock};
use super::error::RecordError;
use super::format::{FormatError, FrameBytes, Kind};
use super::rows::RowBlock;
use super::stream::{SshOutcome, StreamBlock};
use crate::flow::{ApprovalId, Flow, SessionId, Side};
use crate::policy::rule::Protocol;
use crate::request::side_effects::SideEffects;
use crate::run::Identity;

/// One event of a session, or of the store itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A flow was accepted.
    SessionOpened(Box<SessionOpened>),
    /// An operation is about to be forwarded.
    Intent(Box<Intent>),
    /// An operation was refused.
    Refused(Box<Refused>),
    /// An operation waits for a human.
    Held(Box<Held>),
    /// The end of a hold.
    Decided(Decided),
    /// Masked result rows.
    ResultRows(RowBlock),
    /// How a forwarded operation ended.
    Outcome(Outcome),
    /// Free text.
    Note(Note),
    /// Bytes relayed unread.
    OpaqueCounts(OpaqueCounts),
    /// The session's end.
    SessionClosed(SessionClosed),
    /// The recorder was opened after an unclean end.
    Recovered(Recovered),
    /// Sessions open when the segment began.
    CarriedOver(CarriedOver),
    /// A stretch of an HTTP body, masked.
    Body(BodyBlock),
    /// A WebSocket message, masked.
    Message(MessageBlock),
    /// A stretch of an SSH channel's stream, masked.
    Stream(StreamBlock),
}

impl Event {
    /// Reads a frame's payload.
    ///
    /// # Errors
    /// `FormatError::Payload` when it is not what its kind says.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, FormatError> {
        fn json<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, FormatError> {
            serde_json::from_slice(payload).map_err(|_| FormatError::Payload)
        }
        Ok(match kind {
            Kind::SessionOpened => Self::SessionOpened(json(payload)?),
            Kind::Intent => Self::Intent(json(payload)?),
            Kind::Refused => Self::Refused(json(payload)?),
            Kind::Held => Self::Held(json(payload)?),
            Kind::Decided => Self::Decided(json(payload)?),
            Kind::ResultRows => Self::ResultRows(RowBlock::decode(payload)?),
            Kind::Outcome => Self::Outcome(json(payload)?),
            Kind::Note => Self::Note(json(payload)?),
            Kind::OpaqueCounts => Self::OpaqueCounts(json(payload)?),
            Kind::SessionClosed => Self::SessionClosed(json(payload)?),
            Kind::Recovered => Self::Recovered(json(payload)?),
            Kind::CarriedOver => Self::CarriedOver(json(payload)?),
            Kind::Body => Self::Body(BodyBlock::decode(payload)?),
            Kind::Message => Self::Message(MessageBlock::decode(payload)?),
            Kind::Stream => Self::Stream(StreamBlock::decode(payload)?),
        })
    }
}

impl Event {
    /// Whether it says what was asked.
    pub(super) fn asks(&self) -> bool {
        match self {
            Self::Held(_) | Self::Intent(_) | Self::Refused(_) => true,
            Self::SessionOpened(_)
            | Self::Decided(_)
            | Self::ResultRows(_)
            | Self::Outcome(_)
            | Self::Note(_)
            | Self::OpaqueCounts(_)
            | Self::SessionClosed(_)
            | Self::Recovered(_)
            | Self::CarriedOver(_)
            | Self::Body(_)
            | Self::Message(_)
            | Self::Stream(_) => false,
        }
    }
}

/// Who connected to what, under which policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// The intercepted connection.
    pub flow: Flow,
    /// Name of the connection profile; `None` for a destination that no connection names.
    pub connection: Option<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Policy name.
    pub policy: String,
    /// Version of the policy's text.
    pub policy_version: String,
    /// Labels given to the run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub run_labels: BTreeMap<String, String>,
    /// Name of the user the process runs as, when the host knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Whom the run's token speaks of: issuer, subject, groups and every claim, as they were when the session began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<Identity>>,
    /// The session of the connection to the proxy that it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<SessionId>,
}

/// The gate let an operation pass. Durable before its first byte goes upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// What was asked.
    pub asked: Asked,
    /// Name of the rule that decided.
    pub rule: String,
    /// The human's decision, when the rule held the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRecord>,
    /// What a rule that is only tried out would have done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowRecord>,
}

/// What a rule that is only tried out (`mode = "shadow"`) would have done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRecord {
    /// The rule.
    pub rule: String,
    /// `held` or `denied`.
    pub verdict: String,
}

/// The gate refused an operation; nothing of it went upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// What was asked.
    pub asked: Asked,
    /// Name of the rule that decided.
    pub rule: String,
    /// What the client was told.
    pub reason: String,
    /// Whose doing it was: the policy's, or an error's that made judging impossible.
    pub side: Side,
    /// The human's decision, when the rule held the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRecord>,
    /// HTTP status that the client was answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// An operation waits for a human.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// What was asked.
    pub asked: Asked,
    /// Name of the rule that held it.
    pub rule: String,
    /// The pending decision.
    pub approval: ApprovalId,
    /// Who may decide.
    pub approvers: Vec<String>,
    /// Seconds until it is denied for want of a decision.
    pub timeout_seconds: u64,
    /// A transaction is open: locks may be held meanwhile.
    pub in_transaction: bool,
    /// What it sets off besides, as whoever decides was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_effects: Option<SideEffects>,
}

/// A hold ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The operation that was held.
    pub operation: u64,
    /// How.
    pub approval: ApprovalRecord,
}

/// A human's decision, or its absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRecord {
    /// Which decision.
    pub id: ApprovalId,
    /// What it was.
    pub outcome: ApprovalOutcome,
    /// Who decided; `None` when nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, in the decider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, nanoseconds since 1970.
    pub decided_at_ns: u64,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalOutcome {
    /// A human let it pass.
    Approved,
    /// A human refused it.
    Denied,
    /// Nobody decided in time.
    TimedOut,
    /// The client cancelled or went away.
    Withdrawn,
    /// Nobody has decided within the client's patience; it was sent away to come again.
    Deferred,
}

/// How a forwarded operation ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which operation.
    pub operation: u64,
    /// In one word.
    pub status: OutcomeStatus,
    /// Command tags the server sent, one per statement that completed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command_tags: Vec<String>,
    /// Rows sent to the client.
    pub rows: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// The server's error, masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ServerError>,
    /// From forwarding to the end, microseconds.
    pub elapsed_us: u64,
    /// Values masked, by rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masked: BTreeMap<String, u64>,
    /// Rows the client got that are not in the record; filled in by the session's record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_left_out: u64,
    /// The answer of an HTTP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<HttpOutcome>>,
    /// How an SSH command ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Box<SshOutcome>>,
}

/// Which way something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the server.
    Request,
    /// To the client.
    Response,
}

/// The answer of an HTTP server, as the client got it: masked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpOutcome {
    /// Status code; 0 when there was no answer.
    pub status: u16,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// Fields in order, without what authenticates.
    pub headers: Vec<(String, String)>,
    /// Fields after the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trailers: Vec<(String, String)>,
    /// What was sent.
    pub request_body: BodySummary,
    /// What came back.
    pub response_body: BodySummary,
    /// From forwarding to the head of the answer, microseconds.
    pub wait_us: u64,
    /// From there to the end of its body, microseconds.
    pub receive_us: u64,
    /// For a new connection, how long it took to be ready, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u64>,
    /// The server's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What the reader should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Outcome {
    /// Stands for an outcome that nobody saw.
    pub(super) fn missing(open: OpenOperation) -> Self {
        let status = if open.forwarded { OutcomeStatus::Unknown } else { OutcomeStatus::NotForwarded };
        Self { operation: open.operation, status, ..Self::default() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// How a forwarded operation ended, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// The server completed it.
    Done,
    /// The server refused or failed it.
    Failed,
    /// It was held and then never forwarded: the session or the daemon ended first.
    NotForwarded,
    /// The server did not run it: it was bound and never executed, or skipped after an earlier error.
    NotRun,
    /// It may have run: the connection or the daemon ended before the answer.
    #[default]
    Unknown,
}

/// An error as the server sent it, masked; of HTTP, why there was no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerError {
    /// Five characters, PostgreSQL documentation appendix A; empty for HTTP.
    pub sqlstate: String,
    /// Primary message.
    pub message: String,
}

/// Free text about the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The text.
    pub text: String,
}

/// Bytes relayed unread since the session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpaqueCounts {
    /// Client to server, bytes.
    pub to_upstream: u64,
    /// Server to client, bytes.
    pub to_client: u64,
}

/// The session's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClosed {
    /// Why.
    #[serde(flatten)]
    pub ended: Ended,
    /// Client to server, bytes; `None` when nobody was left to count.
    pub bytes_to_upstream: Option<u64>,
    /// Server to client, bytes.
    pub bytes_to_client: Option<u64>,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// In one word.
    pub reason: EndReason,
    /// Whose doing.
    pub side: Side,
    /// For the log: what exactly happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a session ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its handle was dropped without an end: the task was cancelled or failed.
    Abandoned,
    /// The daemon died while it was open; found when the store was next opened.
    DaemonDied,
    /// The daemon was stopped.
    Drained,
    /// A peer broke the protocol or a stage failed.
    Failed,
    /// A peer said goodbye.
    Finished,
    /// An operator ended it.
    Killed,
    /// A peer's connection broke or closed without a goodbye.
    Lost,
    /// The connection was refused.
    Refused,
}

impl EndReason {
    /// The word, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::DaemonDied => "daemon_died",
            Self::Drained => "drained",
            Self::Failed => "failed",
            Self::Finished => "finished",
            Self::Killed => "killed",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }
}

/// The recorder was opened after an unclean end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Segment whose end was torn.
    pub segment: u32,
    /// Bytes cut off behind the last good frame.
    pub torn_bytes: u64,
    /// Bytes in that segment that are no good frames and have good frames behind them; left in place.
    pub damaged_bytes: u64,
    /// Sessions found open and closed as `daemon_died`.
    pub sessions_closed: u64,
    /// Operations forwarded without a recorded outcome.
    pub outcomes_unknown: u64,
}

/// Sessions open when a segment began, so that recovery reads one segment and not the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedOver {
    /// Open sessions.
    pub sessions: Vec<OpenSession>,
    /// Another frame like this one follows.
    pub more: bool,
}

/// One session that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Which.
    pub session: SessionId,
    /// Sequence of its latest frame.
    pub sequence: u64,
    /// Operations held or forwarded, without an outcome yet.
    pub operations: Vec<OpenOperation>,
}

/// One operation without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOperation {
    /// Which.
    pub operation: u64,
    /// It was forwarded, or about to be.
    pub forwarded: bool,
}

/// A frame with a JSON payload.
pub(super) fn json_frame<T: Serialize>(event: &T) -> Result<FrameBytes, RecordError> {
    FrameBytes::raw(|out| serde_json::to_writer(out, event).map_err(RecordError::Encode))
}
