//! What the client says: each message is judged, forwarded under a permit, refused, or turned into a question.

use std::sync::Arc;

use bytes::BytesMut;

use super::conversation::{Broken, ClientState, Conversation, Message, Portal, Step, Wires, record_refusal};
use super::copy::IN_COPY;
use super::facts::{Facts, Prepared};
use super::forward::lexer_switch;
use super::limits::terms_of;
use super::names::{Meaning, key};
use super::operation::{Operation, OperationId, Terms};
use super::parameters::readable;
use super::refusal::Refusal;
use super::replies::{Closed, Replies, Reply};
use crate::codec::postgres::encode::{self, EncodeError, frontend};
use crate::codec::postgres::frontend::{Bind, Execute, Object, Parse, Query};
use crate::codec::postgres::{DecodeError, Frame, FrontendTag, Item, SqlState, Text, sqlstate};
use crate::flow::Side;
use crate::gate::{Denial, Judgement};
use crate::record::asked::Parameters;
use crate::record::event::Intent;

/// Longest Bind or FunctionCall we take, in bytes: its parameters are recorded and bound to an approval, so they are held in memory.
const BIND_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Conversation {
    /// Handles the next item of the client's stream.
    pub(crate) fn client_item(
        &mut self,
        item: Item<'_, FrontendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        match item {
            Item::Frame(frame) => self.client_message(frame, wires),
            Item::Large { tag, body } => self.large(tag, body, wires),
            Item::Chunk { tag: tag @ (FrontendTag::Bind | FrontendTag::FunctionCall), bytes, left } => {
                self.assembly.extend_from_slice(bytes);
                if left > 0 {
                    return Ok(Step::Done);
                }
                let whole = std::mem::take(&mut self.assembly);
                self.client_message(Frame { tag, bytes: &whole }, wires)
            }
            Item::Chunk { bytes, .. } => {
                // Only COPY data is let through unassembled; anything else was discarded at its header.
                wires.upstream.within(bytes);
                Ok(Step::Done)
            }
        }
    }

    fn client_message(
        &mut self,
        frame: Frame<'_, FrontendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let step = self.client_frame(frame, wires)?;
        if matches!(step, Step::Wait) {
            self.postpone(frame, wires);
            return Ok(Step::Done);
        }
        Ok(step)
    }

    /// A message too long to hold begins.
    fn large(&mut self, tag: FrontendTag, body: usize, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let total = body + crate::codec::postgres::frame::HEADER_BYTES;
        if self.client == ClientState::SkipToSync {
            return Ok(Step::Discard);
        }
        match tag {
            FrontendTag::CopyData if self.takes_copy_data() => {
                encode::large_header(wires.upstream.0, tag, body);
                Ok(Step::Done)
            }
            FrontendTag::Bind | FrontendTag::FunctionCall if total <= BIND_BYTES_MAX => {
                self.assembly.clear();
                encode::large_header(&mut self.assembly, tag, body);
                Ok(Step::Done)
            }
            FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail => Ok(Step::Discard),
            FrontendTag::Bind
            | FrontendTag::Close
            | FrontendTag::Describe
            | FrontendTag::Execute
            | FrontendTag::Flush
            | FrontendTag::FunctionCall
            | FrontendTag::Parse
            | FrontendTag::Password
            | FrontendTag::Query
            | FrontendTag::Sync
            | FrontendTag::Terminate => {
                let message = if matches!(tag, FrontendTag::Query | FrontendTag::FunctionCall) {
                    Message::Query
                } else {
                    Message::Bind(Box::default())
                };
                let text = format!("portcullis: a {tag:?} message of {body} bytes is too long to be judged");
                let refusal = Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text)
                    .hint("split the statement, or send bulk data with COPY FROM STDIN");
                self.refuse(&refusal, &message, wires)?;
                Ok(Step::Discard)
            }
        }
    }

    pub(super) fn client_frame(
        &mut self,
        frame: Frame<'_, FrontendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        match self.client {
            ClientState::SkipToSync => return Ok(self.skipped(frame.tag, wires)),
            ClientState::CopyIn if !belongs_to_copy(frame.tag) => {
                return Err(Broken::Excess(IN_COPY));
            }
            ClientState::CopyIn | ClientState::Finished | ClientState::Normal => {}
        }
        match frame.tag {
            FrontendTag::Bind => self.bind(frame, wires),
            FrontendTag::Close => self.close(frame, wires),
            FrontendTag::CopyData => {
                if self.takes_copy_data() {
                    wires.upstream.within(frame.bytes);
                }
                Ok(Step::Done)
            }
            FrontendTag::CopyDone | FrontendTag::CopyFail => {
                if self.takes_copy_data() {
                    wires.upstream.within(frame.bytes);
                    if self.client == ClientState::Normal {
                        self.replies.push(Reply::CopyEnd);
                    }
                    self.client = ClientState::Normal;
                }
                Ok(Step::Done)
            }
            FrontendTag::Describe => self.describe(frame, wires),
            FrontendTag::Execute => self.execute(frame, wires),
            FrontendTag::Flush => {
                wires.upstream.within(frame.bytes);
                Ok(Step::Done)
            }
            FrontendTag::FunctionCall => self.function_call(frame, wires),
            FrontendTag::Parse => self.parse(frame, wires),
            FrontendTag::Password => {
                Err(Broken::Client(DecodeError::UnknownTag { side: Side::Client, byte: b'p' }))
            }
            FrontendTag::Query => self.query(frame, wires),
            FrontendTag::Sync if self.sync_waits() => Ok(Step::Wait),
            FrontendTag::Sync => {
                self.sync(frame.bytes, wires);
                Ok(Step::Done)
            }
            FrontendTag::Terminate => {
                wires.upstream.within(frame.bytes);
                self.client = ClientState::Finished;
                Ok(Step::Done)
            }
        }
    }

    /// After a refusal: everything up to Sync is dropped, as the server itself does after an error.
    fn skipped(&mut self, tag: FrontendTag, wires: &mut Wires<'_>) -> Step {
        match tag {
            FrontendTag::Sync => {
                self.client = ClientState::Normal;
                let mut sync = BytesMut::new();
                frontend::sync(&mut sync);
                self.sync(&sync, wires);
                Step::Done
            }
            FrontendTag::Terminate => {
                frontend::terminate(wires.upstream.0);
                self.client = ClientState::Finished;
                Step::Done
            }
            FrontendTag::Flush => {
                frontend::flush(wires.upstream.0);
                Step::Done
            }
            FrontendTag::Bind
            | FrontendTag::Close
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Describe
            | FrontendTag::Execute
            | FrontendTag::FunctionCall
            | FrontendTag::Parse
            | FrontendTag::Password
            | FrontendTag::Query => Step::Done,
        }
    }

    fn sync(&mut self, bytes: &[u8], wires: &mut Wires<'_>) {
        if self.client == ClientState::CopyIn {
            // The server swallows it there, and answers nothing.
            return;
        }
        wires.upstream.within(bytes);
        self.replies.push(Reply::Sync);
        self.group = self.group.next();
    }

    /// Whether COPY data has somewhere to go: the server reads it, or soon will.
    fn takes_copy_data(&self) -> bool {
        self.client == ClientState::CopyIn || self.replies.copies()
    }

    fn query(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        if self.replies.turns() || self.awaits_bounded() {
            return Ok(Step::Wait);
        }
        let query = Query::decode(frame.body()).map_err(Broken::Client)?;
        let Ok(sql) = query.sql() else {
            self.refuse(&not_utf8(), &Message::Query, wires)?;
            return Ok(Step::Done);
        };
        if let Some(step) = self.replication(sql, frame.bytes, wires)? {
            return Ok(step);
        }
        let Some(facts) = self.facts_of(sql) else { return Ok(Step::Wait) };
        self.run(Message::Query, facts, Arc::from([]), Parameters::default(), frame.bytes, wires)
    }

    fn parse(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        if self.replies.turns() {
            return Ok(Step::Wait);
        }
        let parse = Parse::decode(frame.body()).map_err(Broken::Client)?;
        let message = Message::Bind(Box::default());
        let Ok(sql) = parse.sql() else {
            self.refuse(&not_utf8(), &message, wires)?;
            return Ok(Step::Done);
        };
        let Some(facts) = self.facts_of(sql) else { return Ok(Step::Wait) };
        let name = parse.name.as_bytes();
        if !self.statements.has_room(name, facts.weight()) {
            return self.too_many_names();
        }
        let parameter_types: Arc<[u32]> = parse.parameter_types().collect();
        let verdict = lexer_switch(&facts.analysis.statements)
            .map_or_else(|| self.gate.prepare(&self.admission, &self.judged(&facts, None)), Err);
        match verdict {
            Ok(permit) => {
                // Preparing leaves no intent in the record, but its text goes upstream all the same.
                if let Err(error) = self.record.recorder().check() {
                    self.refuse(&record_refusal(&error), &message, wires)?;
                    return Ok(Step::Done);
                }
                let weight = facts.weight();
                let prepared = Prepared { facts, parameter_types, doubted: false };
                let proposed = self.statements.propose(name, self.group, prepared, weight);
                proposed.map_err(|_| excess_names())?;
                self.names_changed(name);
                wires.upstream.operation(&permit, frame.bytes);
                self.replies.push(Reply::Parse { statement: key(name).into() });
                Ok(Step::Done)
            }
            Err(denial) => {
                let id = self.record.next_operation();
                let asked = self.asked(id, &facts, Parameters::default(), None);
                self.deny(&denial, asked, &message, wires)
            }
        }
    }

    fn bind(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        if self.replies.turns() {
            return Ok(Step::Wait);
        }
        let bind = Bind::decode(frame.body()).map_err(Broken::Client)?;
        let portal = bind.portal.as_bytes();
        let message = Message::Bind(key(portal).into());
        let prepared = match self.statements.meaning(bind.statement.as_bytes(), self.group) {
            Meaning::Certain(prepared) => prepared,
            Meaning::Open => return Ok(Step::Wait),
            Meaning::None => {
                let refusal =
                    unknown_name(sqlstate::INVALID_SQL_STATEMENT_NAME, "prepared statement", bind.statement);
                self.refuse(&refusal, &message, wires)?;
                return Ok(Step::Done);
            }
        };
        let Some(facts) = self.facts_now(&prepared) else { return Ok(Step::Wait) };
        if !self.portals.has_room(portal, facts.weight()) {
            return self.too_many_names();
        }
        let types = prepared.parameter_types;
        let parameters = self.masking.scan_parameters(readable(&bind, &types));
        self.run(message, facts, types, parameters, frame.bytes, wires)
    }

    /// What a prepared statement does if it runs now.
    fn facts_now(&mut self, prepared: &Prepared) -> Option<Arc<Facts>> {
        let facts = if self.facts.holds(&prepared.facts) {
            Arc::clone(&prepared.facts)
        } else {
            self.facts_of(&prepared.facts.text)?
        };
        Some(if prepared.doubted { Arc::new(facts.doubted(&self.masking)) } else { facts })
    }

    /// A change of what a name means. The unnamed statement and portal cannot be named in SQL.
    pub(super) fn names_changed(&mut self, name: &[u8]) {
        self.names_epoch += u64::from(!name.is_empty());
    }

    /// The server's answers may make room; with none to come there is none.
    fn too_many_names(&self) -> Result<Step, Broken> {
        if self.replies.is_empty() { Err(excess_names()) } else { Ok(Step::Wait) }
    }

    fn describe(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        match Object::decode_describe(frame.body()).map_err(Broken::Client)? {
            Object::Statement(_) => self.replies.push(Reply::DescribeStatement),
            Object::Portal(name) => {
                let name = name.as_bytes();
                if self.is_open_portal(name) {
                    return Ok(Step::Wait);
                }
                if let Some(portal) = self.portals.latest_mut(name) {
                    portal.described = true;
                }
                self.replies.push(Reply::DescribePortal { portal: key(name).into(), injected: false });
            }
        }
        wires.upstream.within(frame.bytes);
        Ok(Step::Done)
    }

    fn close(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let object = Object::decode_close(frame.body()).map_err(Broken::Client)?;
        let (Object::Portal(name) | Object::Statement(name)) = object;
        self.names_changed(name.as_bytes());
        let name = key(name.as_bytes()).into();
        self.replies.push(Reply::Close(match object {
            Object::Portal(_) => Closed::Portal(name),
            Object::Statement(_) => Closed::Statement(name),
        }));
        wires.upstream.within(frame.bytes);
        Ok(Step::Done)
    }

    /// Whether it awaits an answer which portal this is.
    fn is_open_portal(&self, name: &[u8]) -> bool {
        let open = matches!(self.portals.meaning(name, self.group), Meaning::Open);
        open || (!name.is_empty() && self.replies.turns())
    }

    /// Runs a portal, which was judged when it was bound (or declared as a cursor).
    fn execute(&mut self, frame: Frame<'_, FrontendTag>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let execute = Execute::decode(frame.body()).map_err(Broken::Client)?;
        let name = execute.portal.as_bytes();
        if self.is_open_portal(name) || self.awaits_bounded() {
            return Ok(Step::Wait);
        }
        // It was judged under a token that may have run out since.
        if self.admission.subject().identity.is_some()
            && let Err(denial) = self.gate.still_admits(&self.admission)
        {
            self.record.note(&format!("refused to run a portal: {}", denial.reason))?;
            self.refuse(&Refusal::denied(&denial), &Message::Bind(name.into()), wires)?;
            return Ok(Step::Done);
        }
        let names_epoch = self.names_epoch;
        let describe = self.masking.describes_portals();
        let (operation, marks) = match self.portals.latest_mut(name) {
            Some(portal) if portal.facts.late && portal.names_epoch != names_epoch => {
                self.refuse(&names_moved(), &Message::Bind(name.into()), wires)?;
                return Ok(Step::Done);
            }
            Some(portal) if self.operations.get(portal.operation).is_some() => {
                let sensitive = portal.facts.sensitivity.describe;
                if describe && sensitive && !portal.described {
                    portal.described = true;
                    inject_describe(&mut self.replies, execute.portal, wires)?;
                }
                (portal.operation, portal.facts.marks())
            }
            // A cursor of SQL, or a portal that ran to its end and is run again: MOVE may have brought it back.
            known => {
                let facts = known.map(|portal| Arc::clone(&portal.facts));
                let Some(facts) = facts.or_else(|| self.cursors.settled(name).cloned()) else {
                    let refusal = unknown_name(sqlstate::INVALID_CURSOR_NAME, "portal", execute.portal);
                    self.refuse(&refusal, &Message::Bind(name.into()), wires)?;
                    return Ok(Step::Done);
                };
                let terms = match self.cursor_terms(&facts) {
                    Ok(terms) => terms,
                    Err(denial) => {
                        self.record.note(&format!("refused to run a cursor: {}", denial.reason))?;
                        self.refuse(&Refusal::denied(&denial), &Message::Bind(name.into()), wires)?;
                        return Ok(Step::Done);
                    }
                };
                if describe {
                    inject_describe(&mut self.replies, execute.portal, wires)?;
                }
                (self.cursor_operation(name, &facts, terms)?, facts.marks())
            }
        };
        self.replies.push(Reply::Execute { operation, portal: key(name).into(), marks });
        wires.upstream.within(frame.bytes);
        Ok(Step::Done)
    }

    /// What the rows of a SQL cursor are held to when it is run by wire Execute. It was judged when it was declared, and that
    /// statement has ended; where it would wait now, a policy that has bounds leaves none to hold it to.
    fn cursor_terms(&self, facts: &Facts) -> Result<Option<Box<Terms>>, Denial> {
        match self.gate.judge(&self.admission, &self.judged(facts, None)) {
            Judgement::Permit(permit) => Ok(terms_of(&permit)),
            Judgement::Deny(denial) => Err(denial),
            Judgement::Estimate | Judgement::Hold(_) => match self.policy() {
                Some(policy) if !policy.has_bounds() => Ok(None),
                Some(_) | None => Err(Denial::new(
                    Side::Policy,
                    "what this cursor may return cannot be told when it is run by its portal",
                    "read from it with FETCH",
                )),
            },
        }
    }

    /// A SQL cursor run by wire Execute: what it reads was judged when it was declared; the record gets its rows.
    fn cursor_operation(
        &mut self,
        name: &[u8],
        facts: &Arc<Facts>,
        terms: Option<Box<Terms>>,
    ) -> Result<OperationId, Broken> {
        let id = self.record.next_operation();
        let asked = self.asked(id, facts, Parameters::default(), None);
        let lsn =
            self.record.intent(&Intent { asked, rule: "cursor".to_owned(), approval: None, shadow: None })?;
        self.barrier = Some(lsn);
        self.bounds.begins(terms.as_deref());
        self.operations.insert(Operation::new(id, Arc::clone(facts), terms));
        let names_epoch = self.names_epoch;
        let portal =
            Portal { operation: id, facts: Arc::clone(facts), described: true, layout: None, names_epoch };
        self.portals.set(name, portal, facts.weight()).map_err(|_| excess_names())?;
        Ok(id)
    }
}

fn inject_describe(
    replies: &mut Replies,
    portal: Text<'_>,
    wires: &mut Wires<'_>,
) -> Result<(), EncodeError> {
    frontend::describe(wires.upstream.0, Object::Portal(portal))?;
    replies.push(Reply::DescribePortal { portal: portal.as_bytes().into(), injected: true });
    Ok(())
}

fn not_utf8() -> Refusal {
    Refusal::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "portcullis: the statement is not valid UTF-8")
        .hint("the session's client_encoding is pinned to UTF8")
}

fn unknown_name(sqlstate: SqlState, what: &str, name: Text<'_>) -> Refusal {
    let name = String::from_utf8_lossy(name.as_bytes());
    Refusal::new(sqlstate, format!("{what} \"{name}\" does not exist"))
}

/// EXECUTE and FETCH were judged by what their names meant when they were bound.
fn names_moved() -> Refusal {
    Refusal::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        "portcullis: the names this statement refers to have changed since it was bound",
    )
    .hint("bind it again")
}

pub(super) fn excess_names() -> Broken {
    Broken::Excess("holds more prepared statements, portals or cursors than one session may have")
}

/// What a client may send while the server reads COPY data
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY>).
fn belongs_to_copy(tag: FrontendTag) -> bool {
    match tag {
        FrontendTag::CopyData
        | FrontendTag::CopyDone
        | FrontendTag::CopyFail
        | FrontendTag::Flush
        | FrontendTag::Sync
        | FrontendTag::Terminate => true,
        FrontendTag::Bind
        | FrontendTag::Close
        | FrontendTag::Describe
        | FrontendTag::Execute
        | FrontendTag::FunctionCall
        | FrontendTag::Parse
        | FrontendTag::Password
        | FrontendTag::Query => false,
    }
}
