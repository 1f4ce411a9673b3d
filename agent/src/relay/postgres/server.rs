//! What the server says: each reply is matched with what asked for it, masked, recorded and passed on.

use std::sync::Arc;

use super::conversation::{Broken, ClientState, Conversation, Waiting, Wires};
use super::layout::Layout;
use super::operation::OperationId;
use super::replies::{Closed, Reply, Skipped};
use crate::codec::postgres::backend::{CommandComplete, RowDescription, TransactionStatus};
use crate::codec::postgres::encode;
use crate::codec::postgres::report::Report;
use crate::codec::postgres::{BackendTag, Frame, Item, sqlstate};
use crate::flow::Side;
use crate::policy::DEFAULT_RULE;
use crate::record::event::{Refused, ServerError};

/// Longest error text kept in the record, in bytes.
const ERROR_TEXT_BYTES_MAX: usize = 4096;

/// Longest error, notice or function's result taken, in bytes: they are searched before they are passed on.
const REPORT_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Conversation {
    /// Handles the next item of the server's stream.
    pub(crate) fn server_item(
        &mut self,
        item: Item<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        if !matches!(item, Item::Frame(Frame { tag: BackendTag::DataRow, .. })) {
            self.rows_pause();
        }
        if self.bounds.has_cut() && !is_long_report(&item) {
            return self.after_cut(item, wires);
        }
        match item {
            Item::Frame(frame) => self.server_frame(frame, wires),
            Item::Large { tag: BackendTag::DataRow, body } => self.large_row_begins(body, wires),
            Item::Chunk { tag: BackendTag::DataRow, bytes, left } => {
                self.large_row_goes_on(bytes, left, wires)
            }
            Item::Large { tag: BackendTag::CopyData, body } => self.large_copy_data_begins(body, wires),
            Item::Chunk { tag: BackendTag::CopyData, bytes, .. } => {
                self.large_copy_data_goes_on(bytes, wires)
            }
            Item::Large {
                tag:
                    tag @ (BackendTag::ErrorResponse
                    | BackendTag::FunctionCallResponse
                    | BackendTag::NoticeResponse),
                body,
            } if body <= REPORT_BYTES_MAX => {
                self.report.clear();
                encode::large_header(&mut self.report, tag, body);
                Ok(())
            }
            Item::Large { tag: BackendTag::FunctionCallResponse, body } => {
                self.function_result_too_long(body, wires)
            }
            // Of one that is too long.
            Item::Chunk { tag: BackendTag::FunctionCallResponse, .. } if self.report.is_empty() => Ok(()),
            Item::Chunk {
                tag:
                    tag @ (BackendTag::ErrorResponse
                    | BackendTag::FunctionCallResponse
                    | BackendTag::NoticeResponse),
                bytes,
                left,
            } => {
                self.report.extend_from_slice(bytes);
                if left > 0 {
                    return Ok(());
                }
                let whole = std::mem::take(&mut self.report);
                self.server_item(Item::Frame(Frame { tag, bytes: &whole }), wires)
            }
            Item::Large { .. } | Item::Chunk { .. } => Err(Broken::Unasked("an oversized message")),
        }
    }

    pub(super) fn server_frame(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        match frame.tag {
            BackendTag::DataRow => return self.data_row(frame, wires),
            BackendTag::CopyData => return self.copy_data_out(frame.body(), wires),
            BackendTag::NoticeResponse => return self.notice(frame, wires),
            BackendTag::ParameterStatus => return self.parameter_status(frame, wires),
            BackendTag::NotificationResponse => return self.notification(frame, wires),
            BackendTag::ReadyForQuery => return self.ready(frame, wires),
            BackendTag::Authentication
            | BackendTag::BackendKeyData
            | BackendTag::BindComplete
            | BackendTag::CloseComplete
            | BackendTag::CommandComplete
            | BackendTag::CopyBothResponse
            | BackendTag::CopyDone
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
            | BackendTag::RowDescription => self.replies.give_up_late(),
        }
        self.reply(frame, wires)
    }

    /// A message that answers the client's next unanswered one.
    fn reply(&mut self, frame: Frame<'_, BackendTag>, wires: &mut Wires<'_>) -> Result<(), Broken> {
        match frame.tag {
            BackendTag::ErrorResponse => return self.error(frame, wires),
            BackendTag::RowDescription => return self.row_description(frame, wires),
            BackendTag::CommandComplete => return self.command_complete(frame, wires),
            BackendTag::EmptyQueryResponse => return self.empty_query(frame, wires),
            BackendTag::ParseComplete => match self.replies.pop() {
                Some(Reply::Parse { statement }) => {
                    self.statements.settle(&statement);
                    wires.client.extend_from_slice(frame.bytes);
                }
                other => return Err(unasked(other, "ParseComplete")),
            },
            BackendTag::BindComplete => match self.replies.pop() {
                Some(Reply::Bind { portal, .. }) => {
                    if let Some(replaced) = self.portals.settle(&portal) {
                        self.finish_operation(replaced.operation)?;
                    }
                    wires.client.extend_from_slice(frame.bytes);
                }
                other => return Err(unasked(other, "BindComplete")),
            },
            BackendTag::CloseComplete => return self.close_complete(frame, wires),
            BackendTag::ParameterDescription => match self.replies.head() {
                Some(Reply::DescribeStatement) => wires.client.extend_from_slice(frame.bytes),
                _ => return Err(Broken::Unasked("ParameterDescription")),
            },
            BackendTag::NoData => match self.replies.pop() {
                Some(Reply::DescribePortal { injected: true, .. }) => {}
                Some(Reply::DescribePortal { .. } | Reply::DescribeStatement) => {
                    wires.client.extend_from_slice(frame.bytes);
                }
                other => return Err(unasked(other, "NoData")),
            },
            BackendTag::PortalSuspended => match self.replies.pop() {
                Some(Reply::Execute { operation, .. }) => {
                    self.record.flush_rows()?;
                    self.bounds.pauses();
                    if let Some(operation) = self.operations.get_mut(operation) {
                        operation.answered();
                    }
                    wires.client.extend_from_slice(frame.bytes);
                }
                other => return Err(unasked(other, "PortalSuspended")),
            },
            BackendTag::CopyInResponse => return self.copy_in_begins(frame, wires),
            BackendTag::CopyOutResponse => return self.copy_out_begins(frame, wires),
            BackendTag::CopyBothResponse => return self.copy_both_begins(frame, wires),
            BackendTag::CopyDone => return self.copy_out_ends(frame, wires),
            BackendTag::FunctionCallResponse => return self.function_result(frame, wires),
            BackendTag::Authentication
            | BackendTag::BackendKeyData
            | BackendTag::CopyData
            | BackendTag::DataRow
            | BackendTag::NegotiateProtocolVersion
            | BackendTag::NoticeResponse
            | BackendTag::NotificationResponse
            | BackendTag::ParameterStatus
            | BackendTag::ReadyForQuery => return Err(Broken::Unasked(name_of(frame.tag))),
        }
        Ok(())
    }

    /// The operation whose results the server is sending.
    pub(super) fn current_operation(&self) -> Option<OperationId> {
        self.replies.head().and_then(Reply::operation)
    }

    fn row_description(&mut self, frame: Frame<'_, BackendTag>, wires: &mut Wires<'_>) -> Result<(), Broken> {
        let description = RowDescription::decode(frame.body()).map_err(Broken::Server)?;
        match self.replies.head() {
            Some(Reply::Query { operation, .. }) => {
                let id = *operation;
                if let Some(operation) = self.operations.get(id) {
                    let (facts, statement) = (Arc::clone(&operation.facts), operation.statement);
                    let layout = self.layout_of(&facts, statement, frame, description);
                    if let Some(operation) = self.operations.get_mut(id) {
                        operation.layout = Some(layout);
                    }
                }

                wires.client.extend_from_slice(frame.bytes);
            }
            Some(Reply::DescribeStatement) => {
                wires.client.extend_from_slice(frame.bytes);
                self.replies.pop();
            }
            Some(Reply::DescribePortal { injected, .. }) => {
                if !injected {
                    wires.client.extend_from_slice(frame.bytes);
                }
                let Some(Reply::DescribePortal { portal, .. }) = self.replies.pop() else { return Ok(()) };
                let Some(facts) = self.portals.settled(&portal).map(|portal| Arc::clone(&portal.facts))
                else {
                    return Ok(());
                };
                let layout = self.layout_of(&facts, 0, frame, description);
                if let Some(portal) = self.portals.settled_mut(&portal) {
                    portal.layout = Some(layout);
                }
            }
            Some(
                Reply::Bind { .. }
                | Reply::Close(_)
                | Reply::CopyEnd
                | Reply::Execute { .. }
                | Reply::LateSync
                | Reply::Parse { .. }
                | Reply::Refusal { .. }
                | Reply::Sync,
            )
            | None => return Err(Broken::Unasked("RowDescription")),
        }
        Ok(())
    }

    /// The layout of the rows that follow: a simple Query describes its own, a portal's was asked for or, when
    /// nothing about it needs masking, is not needed.
    pub(super) fn current_layout(&mut self, operation: OperationId) -> Option<Arc<Layout>> {
        let from_portal = match self.replies.head() {
            Some(Reply::Execute { portal, .. }) => {
                self.portals.settled(portal).and_then(|portal| portal.layout.clone())
            }
            Some(
                Reply::Bind { .. }
                | Reply::Close(_)
                | Reply::CopyEnd
                | Reply::DescribePortal { .. }
                | Reply::DescribeStatement
                | Reply::LateSync
                | Reply::Parse { .. }
                | Reply::Query { .. }
                | Reply::Refusal { .. }
                | Reply::Sync,
            )
            | None => None,
        };
        let operation = self.operations.get_mut(operation)?;
        if operation.layout.is_none() {
            operation.layout = from_portal;
        }
        operation.layout.clone()
    }

    fn command_complete(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let complete = CommandComplete::decode(frame.body()).map_err(Broken::Server)?;
        let Some(id) = self.current_operation() else { return Err(Broken::Unasked("CommandComplete")) };
        self.copy_out = None;
        let tag = String::from_utf8_lossy(complete.tag.as_bytes());
        self.statement_done(id, &tag)?;
        wires.client.extend_from_slice(frame.bytes);
        self.result_ends(id)
    }

    fn empty_query(&mut self, frame: Frame<'_, BackendTag>, wires: &mut Wires<'_>) -> Result<(), Broken> {
        let Some(id) = self.current_operation() else { return Err(Broken::Unasked("EmptyQueryResponse")) };
        if let Some(operation) = self.operations.get_mut(id) {
            operation.answered();
        }
        wires.client.extend_from_slice(frame.bytes);
        self.result_ends(id)
    }

    /// An Execute ends with its result; a simple Query goes on to its next statement.
    fn result_ends(&mut self, id: OperationId) -> Result<(), Broken> {
        if matches!(self.replies.head(), Some(Reply::Execute { .. })) {
            self.replies.pop();
            // The last rows go into the record together with it.
            return self.finish_operation(id);
        }
        self.record.flush_rows()?;
        Ok(())
    }

    pub(super) fn finish_operation(&mut self, id: OperationId) -> Result<(), Broken> {
        if let Some(operation) = self.operations.remove(id) {
            self.record.outcome(operation.outcome())?;
        }
        Ok(())
    }

    fn ready(&mut self, frame: Frame<'_, BackendTag>, wires: &mut Wires<'_>) -> Result<(), Broken> {
        self.transaction = TransactionStatus::decode(frame.body()).map_err(Broken::Server)?;
        match self.replies.pop() {
            Some(Reply::Query { operation, .. }) => self.finish_operation(operation)?,
            Some(Reply::Sync) => {}
            Some(Reply::LateSync) => {
                // The server reads on from there, and does not skip what the client sends next.
                self.client = ClientState::Normal;
            }
            other => return Err(unasked(other, "ReadyForQuery")),
        }
        if self.client == ClientState::CopyIn {
            // The copy failed before the client had sent all of it; the server drops the rest, so do we.
            self.client = ClientState::Normal;
        }
        if self.transaction == TransactionStatus::Idle {
            for closed in self.portals.close_all() {
                self.finish_operation(closed.operation)?;
            }
            self.transaction_operations =
                u64::try_from(self.replies.operations().count()).unwrap_or(u64::MAX);
            if self.replies.is_empty() {
                // Bound and never executed, or cut off by an error: nothing more will come of them.
                let ids: Vec<_> = self.operations.iter().map(|operation| operation.id).collect();
                for id in ids {
                    self.finish_operation(id)?;
                }
            }
        }
        let under_way = self.operations.iter().any(|operation| operation.facts.sensitivity.generic_errors);
        self.generic_exchange = under_way;
        self.generic_transaction =
            under_way || (self.generic_transaction && self.transaction != TransactionStatus::Idle);
        wires.client.extend_from_slice(frame.bytes);
        Ok(())
    }

    fn error(&mut self, frame: Frame<'_, BackendTag>, wires: &mut Wires<'_>) -> Result<(), Broken> {
        let report = Report::decode_error(frame.body()).map_err(Broken::Server)?;
        let generic = self.generic_reports();
        // A walsender takes no Parse at all.
        let expected = if self.replicates { sqlstate::PROTOCOL_VIOLATION } else { sqlstate::SYNTAX_ERROR };
        self.server_said_why |= report.is_fatal();
        if let Some(Reply::Refusal { response }) = self.replies.head()
            && report.sqlstate() == Some(expected)
        {
            // The server could not parse what went in place of the refused statement. Anything else is news.
            wires.client.extend_from_slice(response);
        } else if report.sqlstate() == Some(sqlstate::QUERY_CANCELED)
            && let Some(refusal) = self.current_operation().and_then(|id| self.overtime(id))
        {
            wires.client.extend_from_slice(&refusal.error());
        } else {
            self.masking.forward_report(frame, &report, generic, wires.client);
        }
        self.copy_out = None;
        if let Some(id) = self.current_operation() {
            self.record.flush_rows()?;
            let error = ServerError {
                sqlstate: report.sqlstate().map(|code| code.to_string()).unwrap_or_default(),
                message: self.masking.report_message(&report, generic, ERROR_TEXT_BYTES_MAX),
            };
            if let Some(operation) = self.operations.get_mut(id) {
                operation.failed(error);
            }
            self.doubt_failed(id);
        }
        if self.client == ClientState::CopyIn {
            self.client = ClientState::Normal;
        }
        if matches!(self.replies.head(), Some(Reply::Query { .. })) {
            return Ok(());
        }
        let Skipped { skipped, synced } = self.replies.skip_to_sync();
        for reply in skipped {
            self.never_answered(reply)?;
        }
        if synced { Ok(()) } else { self.skip_client() }
    }

    /// The server drops what the client sends up to the next Sync, so we do. What waits belongs to it.
    pub(super) fn skip_client(&mut self) -> Result<(), Broken> {
        // A Sync that was kept back is where the skipping ends.
        if !self.keeps_sync() {
            if self.client != ClientState::Finished {
                self.client = ClientState::SkipToSync;
            }
            self.postponed = None;
        }

        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        self.record_withdrawal(&waiting)?;
        let estimated_rows = waiting.estimated_rows();
        let Waiting { facts, parameters, operation, .. } = waiting;
        self.record.refused(&Refused {
            asked: self.asked(operation, &facts, parameters, estimated_rows),
            rule: DEFAULT_RULE.to_owned(),
            reason: "an earlier message of its pipeline failed while it waited".to_owned(),
            side: Side::Upstream,
            approval: None,
            status: None,
        })?;
        Ok(())
    }

    /// The server will not answer this one: it failed, or it came after a failure.
    fn never_answered(&mut self, reply: Reply) -> Result<(), Broken> {
        match reply {
            Reply::Parse { statement } => self.statements.abandon(&statement),
            Reply::Bind { portal, operation } => {
                self.portals.abandon(&portal);
                self.finish_operation(operation)?;
            }
            Reply::Execute { operation, .. } | Reply::Query { operation, .. } => {
                self.finish_operation(operation)?
            }
            Reply::Close(_)
            | Reply::CopyEnd
            | Reply::DescribePortal { .. }
            | Reply::DescribeStatement
            | Reply::LateSync
            | Reply::Refusal { .. }
            | Reply::Sync => {}
        }
        Ok(())
    }

    fn close_complete(&mut self, frame: Frame<'_, BackendTag>, wires: &mut Wires<'_>) -> Result<(), Broken> {
        match self.replies.pop() {
            Some(Reply::Close(Closed::Portal(name))) => self.close_portal(&name)?,
            Some(Reply::Close(Closed::Statement(name))) => drop(self.statements.close(&name)),
            other => return Err(unasked(other, "CloseComplete")),
        }
        wires.client.extend_from_slice(frame.bytes);
        Ok(())
    }
}

/// Whether it is a part of an error or a notice that is put together first.
fn is_long_report(item: &Item<'_, BackendTag>) -> bool {
    match item {
        Item::Large { tag, .. } | Item::Chunk { tag, .. } => {
            matches!(tag, BackendTag::ErrorResponse | BackendTag::NoticeResponse)
        }
        Item::Frame(_) => false,
    }
}

fn unasked(head: Option<Reply>, name: &'static str) -> Broken {
    tracing::debug!(?head, name, "reply out of order");
    Broken::Unasked(name)
}

fn name_of(tag: BackendTag) -> &'static str {
    match tag {
        BackendTag::Authentication => "an Authentication message",
        BackendTag::BackendKeyData => "BackendKeyData",
        BackendTag::NegotiateProtocolVersion => "NegotiateProtocolVersion",
        BackendTag::BindComplete
        | BackendTag::CloseComplete
        | BackendTag::CommandComplete
        | BackendTag::CopyBothResponse
        | BackendTag::CopyData
        | BackendTag::CopyDone
        | BackendTag::CopyInResponse
        | BackendTag::CopyOutResponse
        | BackendTag::DataRow
        | BackendTag::EmptyQueryResponse
        | BackendTag::ErrorResponse
        | BackendTag::FunctionCallResponse
        | BackendTag::NoData
        | BackendTag::NoticeResponse
        | BackendTag::NotificationResponse
        | BackendTag::ParameterDescription
        | BackendTag::ParameterStatus
        | BackendTag::ParseComplete
        | BackendTag::PortalSuspended
        | BackendTag::ReadyForQuery
        | BackendTag::RowDescription => "a reply",
    }
}
