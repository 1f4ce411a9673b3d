//! What a rule holds statements to while they run: rows of a result, and time.
//!
//! A result that grows too long is cut: the client gets its rows up to the bound and then an error, and the server is asked
//! to cancel. Until it is ready again nothing more of what it says about this statement reaches the client. Most results
//! that are a little too long have been sent whole by then; where that leaves a transaction open, the server is made to
//! fail it, as after a refusal, because a client that takes no notice must not commit what it was told has failed. Of a simple
//! Query with several statements that does not hold: the server commits them as one, and those around the long result
//! may have taken effect.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::conversation::{Broken, ClientState, Conversation, Upstream, Wires};
use super::operation::{OperationId, Terms};
use super::refusal::Refusal;
use super::replies::Reply;
use crate::codec::postgres::backend::TransactionStatus;
use crate::codec::postgres::{BackendTag, Item, sqlstate};
use crate::gate::Permit;
use crate::record::event::ServerError;
use crate::request::Effect;

/// How long after a cancel that came to nothing the server is asked once more.
const CANCEL_AGAIN_TIME: Duration = Duration::from_secs(5);

/// Bounds of what runs, and what came of them.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Some operation has a bound on its time.
    timed: bool,
    /// Some operation has a bound on its rows.
    counted: bool,
    /// When the operation that the server works on has to be cancelled.
    deadline: Option<(OperationId, Instant)>,
    /// A result was cut, and the server has yet to be ready.
    cut: bool,
    /// The server is to be asked to cancel.
    cancel: bool,
}

impl Bounds {
    /// An operation goes to the server.
    pub(super) fn begins(&mut self, terms: Option<&Terms>) {
        self.timed |= terms.is_some_and(|terms| terms.limits.time.is_some());
        self.counted |= terms.is_some_and(|terms| terms.limits.rows.is_some());
    }

    /// What runs waits for its client to ask for more: that time is not the statement's.
    pub(super) fn pauses(&mut self) {
        self.deadline = None;
    }

    /// Whether a result was cut, and what the server says is about it.
    pub(super) fn has_cut(&self) -> bool {
        self.cut
    }
}

/// The terms of a permit, where it has some.
pub(super) fn terms_of(permit: &Permit) -> Option<Box<Terms>> {
    let terms = Terms { rule: permit.rule().to_owned(), limits: permit.limits(), charged: permit.charged() };
    terms.means_something().then(|| Box::new(terms))
}

impl Conversation {
    /// When the statement that the server works on must have ended. It says nothing of what comes before an Execute until that
    /// ends or its buffer is full, so the first one that is not answered is the one it works on.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        if !self.bounds.timed {
            return None;
        }
        let id = self.replies.operations().next()?;
        let time = self.operations.get(id)?.terms()?.limits.time?;
        match self.bounds.deadline {
            Some((known, deadline)) if known == id => Some(deadline),
            Some(_) | None => {
                let deadline = Instant::now() + time;
                self.bounds.deadline = Some((id, deadline));
                Some(deadline)
            }
        }
    }

    /// It has not: the server is to be asked to cancel it.
    pub(crate) fn timed_out(&mut self) {
        let Some((id, _)) = self.bounds.deadline else { return };
        if let Some(operation) = self.operations.get_mut(id) {
            operation.overtime();
        }
        self.bounds.deadline = Some((id, Instant::now() + CANCEL_AGAIN_TIME));
        self.bounds.cancel = true;
    }

    /// Whether a result is on its way that may turn out too long. What its client sends to be run meanwhile waits: it would run,
    /// and perhaps commit, before it is known. What takes data is left out, which may still have to come from the client.
    pub(super) fn awaits_bounded(&self) -> bool {
        let bounded = |id: OperationId| {
            let operation = self.operations.get(id);
            operation.is_some_and(|operation| operation.is_bounded() && !operation.facts.only_takes_data())
        };
        self.bounds.counted && self.replies.operations().any(bounded)
    }

    /// Whether a Sync has to wait for that. It would commit what stands before it in the pipeline, which is one transaction
    /// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING>), or what the statement itself writes.
    pub(super) fn sync_waits(&self) -> bool {
        let writes = |id: OperationId| {
            let operation = self.operations.get(id);
            operation.is_some_and(|operation| operation.facts.analysis.effect > Effect::Read)
        };
        self.bounds.counted
            && self.client == ClientState::Normal
            && self.transaction == TransactionStatus::Idle
            && self.awaits_bounded()
            && (self.transaction_operations > 1 || self.replies.operations().any(writes))
    }

    /// Whether the server is to be asked to cancel; asked once.
    pub(crate) fn take_cancel(&mut self) -> bool {
        std::mem::take(&mut self.bounds.cancel) && !self.replies.is_empty()
    }

    /// What the client is told in place of the server's word that a statement was cancelled, when that was us.
    pub(super) fn overtime(&self, id: OperationId) -> Option<Refusal> {
        let operation = self.operations.get(id)?;
        let terms = operation.terms().filter(|_| operation.is_overtime())?;
        let time = humantime::format_duration(terms.limits.time?);
        let text = format!("portcullis: the statement ran for longer than {time} and was cancelled");
        Some(
            Refusal::new(sqlstate::QUERY_CANCELED, text)
                .detail(format!("Rule: {}.", terms.rule))
                .hint("ask for less at once, or ask the owner of the policy for more time"),
        )
    }

    /// The result has as many rows as its rule lets pass, and another one comes.
    pub(super) fn cut(&mut self, id: OperationId, wires: &mut Wires<'_>) -> Result<(), Broken> {
        self.rows_pause();
        self.record.flush_rows()?;
        let Some(operation) = self.operations.get_mut(id) else { return Err(Broken::Unasked("rows")) };
        let Some(terms) = operation.terms() else { return Err(Broken::Unasked("rows")) };
        let rows = terms.limits.rows.unwrap_or_default();
        let text = format!("portcullis: the result has more than {rows} rows, the most that may pass");
        let refusal = Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text)
            .detail(format!("Rule: {}.", terms.rule))
                        .hint(match operation.facts.analysis.effect > Effect::Read && matches!(self.replies.head(), Some(Reply::Query { .. })) {
                true => "it may have taken effect all the same: look before you repeat it, and return fewer rows",
                false => "add a LIMIT, or a narrower WHERE; what came before this message is the beginning of the result",
            });
        let last = operation.statement + 1 >= operation.facts.analysis.statements.len();
        operation
            .failed(ServerError { sqlstate: refusal.sqlstate.to_string(), message: refusal.message.clone() });
        if !last || self.replies.runs_more_before_sync() {
            // The server goes on with what the client would take for skipped.
            return Err(Broken::Cut(Box::new(refusal)));
        }
        wires.client.extend_from_slice(&refusal.error());
        if matches!(self.replies.head(), Some(Reply::Execute { .. })) && !self.replies.has_sync() {
            self.fail_upstream(&[], wires)?;
            self.skip_client()?;
        }

        self.copy_out = None;
        self.large_row = None;
        self.bounds.cut = true;
        self.bounds.cancel = true;
        Ok(())
    }

    /// What the server says after a cut and until it is ready: it changes what we know, and the client hears none of it.
    pub(super) fn after_cut(
        &mut self,
        item: Item<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let frame = match item {
            Item::Frame(frame) => frame,
            // Of rows and copies: errors and notices were put together.
            Item::Large { .. } | Item::Chunk { .. } => return Ok(()),
        };
        match frame.tag {
            BackendTag::DataRow | BackendTag::CopyData | BackendTag::CopyDone => Ok(()),
            BackendTag::NoticeResponse | BackendTag::NotificationResponse | BackendTag::ParameterStatus => {
                self.server_frame(frame, wires)
            }
            BackendTag::ReadyForQuery => self.ready_after_cut(frame, wires),
            BackendTag::Authentication
            | BackendTag::BackendKeyData
            | BackendTag::BindComplete
            | BackendTag::CloseComplete
            | BackendTag::CommandComplete
            | BackendTag::CopyBothResponse
            | BackendTag::CopyInResponse
            | BackendTag::CopyOutResponse
            | BackendTag::EmptyQueryResponse
            | BackendTag::ErrorResponse
            | BackendTag::FunctionCallResponse
            | BackendTag::NegotiateProtocolVersion
            | BackendTag::NoData
            | BackendTag::ParameterDescription
            | BackendTag::ParseComplete
            | BackendTag::PortalSuspended
            | BackendTag::RowDescription => {
                let mut unheard = BytesMut::new();
                let upstream = Upstream(wires.upstream.0);
                self.server_frame(frame, &mut Wires { client: &mut unheard, upstream })
            }
        }
    }

    fn ready_after_cut(
        &mut self,
        frame: crate::codec::postgres::Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        (self.bounds.cut, self.bounds.cancel) = (false, false);
        let mut unheard = BytesMut::new();
        self.server_frame(frame, &mut Wires { client: &mut unheard, upstream: Upstream(wires.upstream.0) })?;
        if self.transaction != TransactionStatus::InTransaction {
            wires.client.extend_from_slice(&unheard);
            return Ok(());
        }
        if !self.replies.is_empty() || self.client == ClientState::Finished {
            let text = "portcullis: a result was longer than may pass, and the transaction went on";
            return Err(Broken::Cut(Box::new(Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text))));
        }
        self.fail_transaction(wires)
    }
}
