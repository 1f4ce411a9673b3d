//! One PostgreSQL session between client and server, as a state machine without sockets: messages come in, bytes for
//! either side go out, and what only a human or the planner can answer is handed to the pump as a question.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;

use super::calls::Calls;
use super::copy::CopyOut;
use super::facts::{Facts, FactsCache, Known, Prepared};
use super::layout::{LargeRow, Latest, Layout, Passing};
use super::limits::Bounds;
use super::masking::Masking;
use super::names::{Group, Names};
use super::operation::{OperationId, Operations};
use super::refusal::Refusal;
use super::replies::{Replies, Reply};
use super::search_path::SearchPath;
use crate::codec::postgres::backend::TransactionStatus;
use crate::codec::postgres::encode::{EncodeError, backend, frontend};
use crate::codec::postgres::row::RowRewriter;
use crate::codec::postgres::{DecodeError, Frame, FrontendTag, Text, sqlstate};
use crate::flow::{ApprovalId, Side};
use crate::gate::{Admission, Denial, Gate, Held, Hold, Permit, withdrawal};
use crate::mask::copy::CopyError;
use crate::policy::Policy;
use crate::record::asked::{Asked, Parameters};
use crate::record::event::{Decided, OutcomeStatus, Refused};
use crate::record::{Lsn, RecordError, SessionRecord};
use crate::request::side_effects::SideEffects;
use crate::request::sql::AnalysisCache;
use crate::upstream::CalledFunction;
use crate::upstream::Written;

/// Text that no server can parse, sent in place of a refused statement when the transaction has to fail with it. The
/// server's log shows it.
const REFUSED_TEXT: &[u8] = b"portcullis refused this statement";

/// The name that text would have; a named statement, so that the client's unnamed one stays.
const REFUSED_NAME: &[u8] = b"portcullis_refused";

/// What one session needs from the rest of the program.
pub(crate) struct Parts {
    pub(crate) gate: Arc<Gate>,
    pub(crate) admission: Admission,
    pub(crate) analyses: Arc<AnalysisCache>,
    pub(crate) masking: Masking,
    /// What calls do.
    pub(crate) calls: Calls,
    pub(crate) record: SessionRecord,
    /// Database of the session.
    pub(crate) database: String,
    /// Where unqualified names are looked up.
    pub(crate) search_path: SearchPath,
    /// It is a replication connection.
    pub(crate) replicates: bool,
}

/// The state of one session.
pub(crate) struct Conversation {
    pub(super) gate: Arc<Gate>,
    pub(super) admission: Admission,
    pub(super) masking: Masking,
    pub(super) calls: Calls,
    pub(super) record: SessionRecord,
    pub(super) database: String,
    pub(super) facts: FactsCache,
    pub(super) statements: Names<Prepared>,
    pub(super) portals: Names<Portal>,
    pub(super) cursors: Names<Arc<Facts>>,
    pub(super) replies: Replies,
    pub(super) operations: Operations,
    pub(super) transaction: TransactionStatus,
    /// Operations forwarded since the transaction began, or since the last Sync outside one.
    pub(super) transaction_operations: u64,
    pub(super) group: Group,
    pub(super) client: ClientState,
    /// A Bind or FunctionCall too long for one piece, as far as it has come.
    pub(super) assembly: BytesMut,
    /// An error, notice or function's result too long for one piece, as far as it has come.
    pub(super) report: BytesMut,
    /// A message whose meaning depends on answers that are still to come.
    pub(super) postponed: Option<Postponed>,
    pub(super) waiting: Option<Waiting>,
    pub(super) copy_out: Option<CopyOut>,
    pub(super) large_row: Option<LargeRow>,
    pub(super) server_said_why: bool,
    /// Rows on their way, until another message comes.
    pub(super) passing: Option<Passing>,
    pub(super) rewriter: RowRewriter,
    pub(super) latest_layout: Option<Latest>,

    /// Nothing may be sent upstream before the record is durable up to here.
    pub(super) barrier: Option<Lsn>,
    /// The schema changed: the catalogue of masked columns is to be read again when the transaction has ended. It is
    /// read on another connection, which sees nothing before that.
    pub(super) schema_changed: bool,
    /// A statement of this transaction may make errors quote masked values, also later ones: constraints and triggers
    /// can be deferred to its end.
    pub(super) generic_transaction: bool,
    /// The same since the server was last ready: parameters and notifications are reported only then.
    pub(super) generic_exchange: bool,
    /// Counts the changes to what names mean.
    pub(super) names_epoch: u64,
    pub(super) search_path: SearchPath,
    pub(super) bounds: Bounds,
    /// It is a replication connection: texts may be commands of its own.
    pub(super) replicates: bool,
    /// PostgreSQL's own functions that were called by their OIDs.
    pub(super) called: HashMap<u32, Arc<CalledFunction>>,
}

/// A message to be handled once the server has answered what came before it.
#[derive(Debug)]
pub(super) struct Postponed {
    tag: FrontendTag,
    bytes: Vec<u8>,
}

/// A bound portal.
#[derive(Clone, Debug)]
pub(crate) struct Portal {
    pub(super) operation: OperationId,
    pub(super) facts: Arc<Facts>,
    /// Its RowDescription was asked for, by the client or by us.
    pub(super) described: bool,
    pub(super) layout: Option<Arc<Layout>>,
    /// What names meant when it was judged; see [`Conversation::names_epoch`].
    pub(super) names_epoch: u64,
}

/// What the client's next messages mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientState {
    /// Its data goes to the server's COPY FROM STDIN.
    CopyIn,
    /// It said goodbye.
    Finished,
    /// Each message stands for itself.
    Normal,
    /// A message was refused: everything up to the next Sync is dropped.
    SkipToSync,
}

/// The message that waits for an answer.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(super) message: Message,
    /// As it stood on the wire.
    pub(super) bytes: Vec<u8>,
    pub(super) facts: Arc<Facts>,
    pub(super) parameters: Parameters,
    /// Types of the parameters, as the client gave them with Parse.
    pub(super) parameter_types: Arc<[u32]>,
    /// The planner's estimates by statement, once asked.
    pub(super) estimates: Option<Vec<Option<u64>>>,
    /// What it sets off besides, once asked.
    pub(super) side_effects: Option<SideEffects>,
    pub(super) operation: OperationId,
    /// The human decision it waits for, once asked.
    pub(super) approval: Option<ApprovalId>,
}

impl Waiting {
    /// The largest estimate of any statement.
    pub(super) fn estimated_rows(&self) -> Option<u64> {
        self.estimates.iter().flatten().copied().flatten().max()
    }
}

/// What kind of message runs an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Bind, to this portal.
    Bind(Box<[u8]>),
    /// FunctionCall.
    FunctionCall,
    /// Simple Query.
    Query,
}

/// What the pump does next.
pub(crate) enum Step {
    /// Drop the rest of the large message that began.
    Discard,
    /// Go on.
    Done,
    /// Take no more from the client until this is answered.
    Question(Question),
    /// The message means what the server's next answers make it mean: handle it after them.
    Wait,
}

/// What only someone else can answer.
pub(crate) enum Question {
    /// Ask the planner; the text, parameters and formats are those of the waiting message.
    Estimate,
    /// Ask the server which function this OID stands for.
    Function(u32),
    /// Ask a human.
    Held(Box<Held>),
    /// Ask the catalogue what the statement sets off, before a human is asked.
    SideEffects(Box<Hold>, Written),
}

/// The answer to a question.
pub(crate) enum Answer {
    /// The client cancelled the request.
    Cancelled,
    /// A human decided, or time ran out.
    Decided(Result<Permit, Denial>),
    /// The planner's, by statement.
    Estimated(Vec<Option<u64>>),
    /// The catalogue's, for this hold.
    SideEffects(Box<Hold>, SideEffects),
    /// The function; `None` when there is none, or nobody can say.
    Function(Option<CalledFunction>),
}

/// Why the session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// A copy stream is not what was planned.
    #[error("{0}")]
    Copy(#[from] CopyError),
    /// A message of ours would not fit the protocol.
    #[error("{0}")]
    Encode(#[from] EncodeError),
    /// The client broke the protocol.
    #[error("{0}")]
    Client(DecodeError),
    /// A result is longer than may pass, and only the session's end keeps what follows from taking effect.
    #[error("{}", .0.message)]
    Cut(Box<Refusal>),
    /// The client uses more than we follow.
    #[error("the client {0}")]
    Excess(&'static str),
    /// The store cannot be written.
    #[error("cannot record: {0}")]
    Record(#[from] RecordError),
    /// The server broke the protocol.
    #[error("{0}")]
    Server(DecodeError),
    /// The server sent something nothing asked for.
    #[error("the server sent {0} although nothing asked for it")]
    Unasked(&'static str),
}

impl Broken {
    /// Whose fault.
    pub(crate) fn side(&self) -> Side {
        match self {
            Self::Client(_) | Self::Excess(_) => Side::Client,
            Self::Copy(error) => error.side(),
            Self::Cut(_) => Side::Policy,
            Self::Encode(_) | Self::Record(_) => Side::Portcullis,
            Self::Server(_) | Self::Unasked(_) => Side::Upstream,
        }
    }

    /// The last thing the client is told.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Client(error) => Refusal::new(error.sqlstate(), format!("portcullis: {error}")),
            Self::Excess(what) => {
                Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, format!("portcullis: the client {what}"))
            }
            Self::Record(error) => record_refusal(error),
            Self::Cut(refusal) => Refusal::clone(refusal),
            Self::Copy(_) | Self::Encode(_) | Self::Server(_) | Self::Unasked(_) => {
                Refusal::new(sqlstate::CONNECTION_FAILURE, "portcullis: the server broke the protocol")
                    .hint("the operator's log names the message")
            }
        }
    }
}

/// Where bytes go.
#[derive(Debug)]
pub(crate) struct Wires<'a> {
    /// To the client.
    pub(crate) client: &'a mut BytesMut,
    /// To the server.
    pub(crate) upstream: Upstream<'a>,
}

/// The way to the server: an operation needs its permit.
#[derive(Debug)]
pub(crate) struct Upstream<'a>(pub(crate) &'a mut BytesMut);

impl Upstream<'_> {
    /// Forwards an operation's message.
    pub(super) fn operation(&mut self, _permit: &Permit, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Forwards a message that runs nothing of its own: Execute and Describe of a permitted portal, Close, Sync,
    /// Flush, COPY data of a permitted COPY.
    pub(super) fn within(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes waiting to be sent.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Conversation {
    pub(crate) fn new(parts: Parts, transaction: TransactionStatus) -> Self {
        let Parts { gate, admission, analyses, masking, calls, record, database, search_path, replicates } =
            parts;
        Self {
            gate,
            admission,
            masking,
            calls,
            record,
            database,
            facts: FactsCache::new(analyses),
            statements: Names::new(),
            portals: Names::new(),
            cursors: Names::new(),
            replies: Replies::default(),
            operations: Operations::default(),
            transaction,
            transaction_operations: 0,
            group: Group::default(),
            client: ClientState::Normal,
            assembly: BytesMut::new(),
            report: BytesMut::new(),
            postponed: None,
            waiting: None,
            copy_out: None,
            large_row: None,
            server_said_why: false,
            passing: None,
            rewriter: RowRewriter::default(),
            latest_layout: None,

            barrier: None,
            schema_changed: false,
            generic_transaction: false,
            generic_exchange: false,
            names_epoch: 0,
            search_path,
            bounds: Bounds::default(),
            replicates,
            called: HashMap::new(),
        }
    }

    /// Whether the next message of the client may be handled now.
    pub(crate) fn takes_client(&self) -> bool {
        self.waiting.is_none()
            && self.postponed.is_none()
                        && self.client != ClientState::Finished
                        // What skips to the next Sync is read: without that the server would never be ready.
            && !(self.bounds.has_cut() && self.client == ClientState::Normal)

            && !self.replies.is_full()
    }

    /// Whether the client was sent a part of a long row: whatever came next would be taken for the rest of it.
    pub(crate) fn is_inside_row(&self) -> bool {
        self.large_row.is_some()
    }

    /// Whether the server said, by a fatal error that the client has, why it closes the connection.
    pub(crate) fn has_server_said_why(&self) -> bool {
        self.server_said_why
    }

    /// Whether the client said goodbye.
    pub(crate) fn is_finished(&self) -> bool {
        self.client == ClientState::Finished
    }

    /// Keeps a message until the server has answered what came before it, and asks it to.
    pub(super) fn postpone(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) {
        self.postponed = Some(Postponed { tag: frame.tag, bytes: frame.bytes.to_vec() });
        frontend::flush(wires.upstream.0);
    }

    /// Whether what is postponed is a Sync.
    pub(super) fn keeps_sync(&self) -> bool {
        self.postponed.as_ref().is_some_and(|postponed| postponed.tag == FrontendTag::Sync)
    }

    /// Handles the postponed message if it may be handled now.
    pub(crate) fn resume(&mut self, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let Some(postponed) = self.postponed.take() else { return Ok(Step::Done) };
        match self.client_frame(Frame { tag: postponed.tag, bytes: &postponed.bytes }, wires)? {
            Step::Wait => {
                self.postponed = Some(postponed);
                Ok(Step::Done)
            }
            step @ (Step::Discard | Step::Done | Step::Question(_)) => Ok(step),
        }
    }

    /// The record's position that must be durable before anything more is sent upstream; asked once.
    pub(crate) fn take_barrier(&mut self) -> Option<Lsn> {
        self.barrier.take()
    }

    /// Whether the schema changed since this was last asked, and the change can be seen by others.
    pub(crate) fn take_schema_changed(&mut self) -> bool {
        self.transaction == TransactionStatus::Idle && std::mem::take(&mut self.schema_changed)
    }

    /// Whether a change of the schema awaits the end of its transaction.
    pub(crate) fn schema_is_changing(&self) -> bool {
        self.schema_changed
    }

    /// What the session may do at all.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Option<Arc<Policy>> {
        self.gate.policy(&self.admission)
    }

    /// The catalogue is new.
    pub(crate) fn set_catalogue(&mut self, masking: Masking, calls: Calls) {
        // What was read is of no use any more if the schema changed meanwhile.
        let doubts = self.masking.doubts_parameters();
        (self.masking, self.calls) = match self.schema_changed {
            true => (masking.without_catalogue(), calls.doubted_as(std::mem::take(&mut self.calls))),
            false => (masking, calls),
        };
        if doubts {
            self.masking = self.masking.doubting_parameters();
        }
        self.facts.forget();
    }

    /// The masks of this session.
    pub(crate) fn masking(&self) -> &Masking {
        &self.masking
    }

    /// What the session knows of calls.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The message that waits, for whoever answers the question.
    pub(crate) fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    /// Whether a cancel request has something to stop upstream.
    pub(crate) fn is_busy(&self) -> bool {
        !self.replies.is_empty()
    }

    /// The record, to close it. A request that still waits is withdrawn.
    pub(crate) fn into_record(mut self) -> SessionRecord {
        self.rows_pause();
        if let Some(waiting) = self.waiting.take()
            && let Err(error) = self.record_withdrawal(&waiting)
        {
            tracing::error!(%error, "cannot record that a request was withdrawn");
        }
        for operation in self.operations.drain() {
            let mut outcome = operation.outcome();
            outcome.status = OutcomeStatus::Unknown;
            if let Err(error) = self.record.outcome(outcome) {
                tracing::error!(%error, "cannot record how an operation ended");
            }
        }
        self.record
    }

    /// Whether an open transaction may hold locks that a hold would keep.
    pub(super) fn may_hold_locks(&self) -> bool {
        self.transaction_operations > 0
    }

    /// Nobody will decide this any more: its client cancelled it or is gone.
    pub(super) fn record_withdrawal(&mut self, waiting: &Waiting) -> Result<(), RecordError> {
        let Some(id) = waiting.approval else { return Ok(()) };
        let decided = Decided { operation: waiting.operation, approval: withdrawal(id) };
        self.record.decided(&decided).map(drop)
    }

    /// Owes the client an error in place of the server's answer. Inside a transaction the server is made to fail as
    /// well, as if it had refused the statement itself: half of a transaction must not be committed by a client that
    /// takes no notice, and a pipeline is one transaction.
    pub(super) fn refuse(
        &mut self,
        refusal: &Refusal,
        message: &Message,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let quiet = self.replies.is_empty()
            && self.transaction == TransactionStatus::Idle
            && self.transaction_operations == 0;
        let response = refusal.error();
        if quiet {
            wires.client.extend_from_slice(&response);
        } else {
            self.fail_upstream(&response, wires)?;
        }
        match message {
            Message::Bind(_) => self.client = ClientState::SkipToSync,
            Message::FunctionCall | Message::Query => {
                self.group = self.group.next();
                if quiet {
                    backend::ready_for_query(wires.client, self.transaction);
                } else {
                    frontend::sync(wires.upstream.0);
                    self.replies.push(Reply::Sync);
                }
            }
        }
        Ok(())
    }

    /// Has the server fail, with our own word for it on the way to the client.
    pub(super) fn fail_upstream(&mut self, response: &[u8], wires: &mut Wires<'_>) -> Result<(), Broken> {
        let (name, text) = (Text::before_nul(REFUSED_NAME), Text::before_nul(REFUSED_TEXT));
        frontend::parse(wires.upstream.0, name, text, [].into_iter())?;
        self.replies.push(Reply::Refusal { response: response.into() });
        Ok(())
    }

    /// Has the server fail the open transaction. The client was told of an error already; what it hears is that the server
    /// is ready again, in a transaction that has failed.
    pub(super) fn fail_transaction(&mut self, wires: &mut Wires<'_>) -> Result<(), Broken> {
        self.fail_upstream(&[], wires)?;
        frontend::sync(wires.upstream.0);
        self.replies.push(Reply::Sync);
        self.group = self.group.next();
        Ok(())
    }

    /// What a text means now; `None` when that awaits the server's answer.
    pub(super) fn facts_of(&mut self, sql: &str) -> Option<Arc<Facts>> {
        let (statements, cursors, portals) = (&self.statements, &self.cursors, &self.portals);
        let (calls, path) = (&self.calls, &self.search_path);
        let known = Known { statements, cursors, portals, group: self.group, calls, path };
        self.facts.of(sql, &self.masking, &known)
    }

    /// What is asked, for the record.
    pub(super) fn asked(
        &self,
        operation: OperationId,
        facts: &Facts,
        parameters: Parameters,
        estimated_rows: Option<u64>,
    ) -> Asked {
        Asked {
            operation,
            text: facts.recorded.clone(),
            parameters,
            statements: facts.summary.clone(),
            database: Some(self.database.clone()),
            estimated_rows,
            http: None,
            ssh: None,
        }
    }

    /// Records a refusal and owes it to the client. One that cannot be recorded is a refusal for that reason.
    pub(super) fn deny(
        &mut self,
        denial: &Denial,
        asked: Asked,
        message: &Message,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let recorded = self.record.refused(&Refused {
            asked,
            rule: denial.rule.clone(),
            reason: denial.reason.clone(),
            side: denial.side,
            approval: denial.approval.as_deref().cloned(),
            status: None,
        });
        let refusal = match recorded {
            Ok(_) => Refusal::denied(denial),
            Err(error) => record_refusal(&error),
        };
        self.refuse(&refusal, message, wires)?;
        Ok(Step::Done)
    }
}

/// The client's text for a record that cannot be written.
pub(super) fn record_refusal(error: &RecordError) -> Refusal {
    let message = format!("portcullis: {}", error.for_client());
    match error {
        RecordError::DiskFull { .. } => Refusal::new(sqlstate::DISK_FULL, message)
            .hint("ask the operator to free space in the daemon's state folder, then try again"),
        RecordError::TooLarge => Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message),
        RecordError::Busy { .. }
        | RecordError::Closed
        | RecordError::Encode(_)
        | RecordError::Format(_)
        | RecordError::Open { .. }
        | RecordError::Poisoned { .. } => Refusal::new(sqlstate::IO_ERROR, message).hint(
            "ask the operator to look at the daemon's log; it must be restarted once the disk works again",
        ),
    }
}
