//! Passing an operation on: judge it, hold it, refuse it, or record its intent and forward it.

use std::sync::Arc;

use super::client::excess_names;
use super::conversation::{
    Answer, Broken, Conversation, Message, Portal, Question, Step, Waiting, Wires, record_refusal,
};
use super::facts::Facts;
use super::limits::terms_of;
use super::operation::{Operation, OperationId};
use super::refusal::Refusal;
use super::replies::Reply;
use super::waiting::approval_request;
use crate::codec::postgres::report::{OwnReport, Severity};
use crate::codec::postgres::sqlstate;
use crate::flow::Side;
use crate::gate::{self, Denial, Hold, Judgement, Permit, withdrawal};
use crate::policy::rule::Durability;
use crate::record::asked::Parameters;
use crate::record::event::{Decided, Held, Intent, Refused};
use crate::request::{SessionAction, Statement, sql};

/// A message that passes.
struct Pass<'a> {
    message: Message,
    bytes: &'a [u8],
    facts: Arc<Facts>,
    parameters: Parameters,
    estimated_rows: Option<u64>,
    operation: OperationId,
}

/// What a message asks for.
pub(super) struct Told {
    pub(super) message: Message,
    pub(super) facts: Arc<Facts>,
    pub(super) parameter_types: Arc<[u32]>,
    pub(super) parameters: Parameters,
}

impl Conversation {
    /// Judges an operation and forwards, refuses or holds it.
    pub(super) fn run(
        &mut self,
        message: Message,
        facts: Arc<Facts>,
        parameter_types: Arc<[u32]>,
        parameters: Parameters,
        bytes: &[u8],
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let operation = self.record.next_operation();
        self.run_as(operation, Told { message, facts, parameter_types, parameters }, bytes, wires)
    }

    /// The same for an operation that has its number already.
    pub(super) fn run_as(
        &mut self,
        operation: OperationId,
        told: Told,
        bytes: &[u8],
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let Told { message, facts, parameter_types, parameters } = told;
        let never = lexer_switch(&facts.analysis.statements).or_else(|| unmaskable_copy(&facts));
        let judgement = match never {
            Some(denial) => Judgement::Deny(denial),
            None => self.gate.judge(&self.admission, &self.judged(&facts, None)),
        };
        let wait = |facts, parameters| Waiting {
            message: message.clone(),
            bytes: bytes.to_vec(),
            facts,
            parameters,
            parameter_types,
            estimates: None,
            side_effects: None,
            operation,
            approval: None,
        };
        match judgement {
            Judgement::Permit(permit) => {
                let pass = Pass { message, bytes, facts, parameters, estimated_rows: None, operation };
                self.forward(permit, pass, wires)
            }
            Judgement::Deny(denial) => {
                let asked = self.asked(operation, &facts, parameters, None);
                self.deny(&denial, asked, &message, wires)
            }
            Judgement::Estimate => {
                self.waiting = Some(wait(facts, parameters));
                Ok(Step::Question(Question::Estimate))
            }
            Judgement::Hold(hold) => {
                let waiting = wait(facts, parameters);
                self.hold(hold, waiting, wires)
            }
        }
    }

    /// The answer to the question asked last.
    pub(crate) fn answer(&mut self, answer: Answer, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let Some(mut waiting) = self.waiting.take() else { return Ok(Step::Done) };
        match answer {
            Answer::Decided(Ok(permit)) => match self.gate.redeem(&self.admission, permit) {
                Ok(permit) => {
                    if let Some(approval) = permit.approval() {
                        let (operation, approval) = (waiting.operation, approval.clone());
                        self.record.decided(&Decided { operation, approval })?;
                    }
                    self.pass_waiting(permit, waiting, wires)
                }
                Err(denial) => self.deny_waiting(&denial, waiting, wires),
            },
            Answer::Decided(Err(denial)) => self.deny_waiting(&denial, waiting, wires),
            Answer::Function(function) => self.function_found(function, waiting, wires),
            Answer::Cancelled => self.cancel_waiting(waiting, wires),
            Answer::SideEffects(hold, found) => {
                waiting.side_effects = Some(found);
                self.put(*hold, waiting, wires)
            }
            Answer::Estimated(estimates) => {
                let judgement =
                    self.gate.judge(&self.admission, &self.judged(&waiting.facts, Some(&estimates)));
                waiting.estimates = Some(estimates);
                match judgement {
                    Judgement::Permit(permit) => self.pass_waiting(permit, waiting, wires),
                    Judgement::Deny(denial) => self.deny_waiting(&denial, waiting, wires),
                    Judgement::Hold(hold) => self.hold(hold, waiting, wires),
                    Judgement::Estimate => {
                        let denial =
                            Denial::new(Side::Portcullis, "the planner's estimate was asked twice", "");
                        self.deny_waiting(&denial, waiting, wires)
                    }
                }
            }
        }
    }

    fn pass_waiting(
        &mut self,
        permit: Permit,
        waiting: Waiting,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let estimated_rows = waiting.estimated_rows();
        let Waiting { message, bytes, facts, parameters, operation, .. } = waiting;
        self.forward(
            permit,
            Pass { message, bytes: &bytes, facts, parameters, estimated_rows, operation },
            wires,
        )
    }

    pub(super) fn deny_waiting(
        &mut self,
        denial: &Denial,
        waiting: Waiting,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let estimated_rows = waiting.estimated_rows();
        let Waiting { message, facts, parameters, operation, .. } = waiting;
        if let Some(approval) = denial.approval.as_deref().cloned() {
            self.record.decided(&Decided { operation, approval })?;
        }
        let asked = self.asked(operation, &facts, parameters, estimated_rows);
        self.deny(denial, asked, &message, wires)
    }

    /// The client asked, on another connection, to cancel what waits.
    fn cancel_waiting(&mut self, waiting: Waiting, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        self.record_withdrawal(&waiting)?;
        let estimated_rows = waiting.estimated_rows();
        let Waiting { message, facts, parameters, operation, approval, .. } = waiting;
        let recorded = self.record.refused(&Refused {
            asked: self.asked(operation, &facts, parameters, estimated_rows),
            rule: "cancel request".to_owned(),
            reason: "the client cancelled it while it waited".to_owned(),
            side: Side::Client,
            approval: approval.map(withdrawal),
            status: None,
        });
        let refusal = match recorded {
            Ok(_) => Refusal::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request"),
            Err(error) => record_refusal(&error),
        };
        self.refuse(&refusal, &message, wires)?;
        Ok(Step::Done)
    }

    /// Something is held: what it sets off is asked for first, where there is any.
    fn hold(&mut self, hold: Hold, waiting: Waiting, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        match self.written(&waiting.facts) {
            Some(written) => {
                self.waiting = Some(waiting);
                Ok(Step::Question(Question::SideEffects(Box::new(hold), written)))
            }
            None => self.put(hold, waiting, wires),
        }
    }

    /// Puts an operation to the approvers and tells the client so.
    fn put(&mut self, hold: Hold, mut waiting: Waiting, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let request = {
            let search_path = self.search_path.text().map(|path| &**path);
            approval_request(&self.admission, &self.database, &hold, &waiting, search_path)
        };
        let (rule, terms, locks) = (hold.rule().to_owned(), hold.terms().clone(), hold.locks());
        let held = match hold.ask(&self.gate, request) {
            Ok(held) => held,
            Err(denial) => return self.deny_waiting(&denial, waiting, wires),
        };
        let recorded = self.record.held(&Held {
            asked: self.asked(
                waiting.operation,
                &waiting.facts,
                waiting.parameters.clone(),
                waiting.estimated_rows(),
            ),
            rule: rule.clone(),
            approval: held.id(),
            approvers: terms.approvers.clone(),
            timeout_seconds: terms.timeout.as_secs(),
            in_transaction: locks,
            side_effects: waiting.side_effects.clone(),
        });
        if let Err(error) = recorded {
            // Dropped, the question is withdrawn from the approvers.
            drop(held);
            self.refuse(&record_refusal(&error), &waiting.message, wires)?;
            return Ok(Step::Done);
        }
        let is_decided = held.is_decided();
        let approvers =
            if terms.approvers.is_empty() { "an operator".to_owned() } else { terms.approvers.join(" or ") };
        let minutes = humantime::format_duration(terms.timeout);
        let text = format!(
            "portcullis: waiting for approval {} by {approvers}, at most {minutes}",
            held.id().code()
        );
        if !is_decided {
            OwnReport::new(Severity::Notice, sqlstate::SUCCESSFUL_COMPLETION, text)
                .detail(format!("Rule: {rule}."))
                .write(wires.client);
        }
        waiting.approval = Some(held.id());
        self.waiting = Some(waiting);
        Ok(Step::Question(Question::Held(Box::new(held))))
    }

    /// Records the intent and forwards. The pump sends nothing before the record is as durable as policy asks.
    fn forward(&mut self, permit: Permit, pass: Pass<'_>, wires: &mut Wires<'_>) -> Result<Step, Broken> {
        let Pass { message, bytes, facts, parameters, estimated_rows, operation } = pass;
        let intent = Intent {
            asked: self.asked(operation, &facts, parameters, estimated_rows),
            rule: permit.rule().to_owned(),
            approval: permit.approval().cloned(),
            shadow: permit.shadow(),
        };
        let recorded = match permit.durability() {
            Durability::Synced | Durability::Written => self.record.intent(&intent),
            Durability::Gathered => self.record.intent_gathered(&intent),
        };
        match recorded {
            Ok(lsn) if permit.durable() => self.barrier = Some(lsn),
            Ok(_) => {}
            Err(error) => {
                self.refuse(&record_refusal(&error), &message, wires)?;
                return Ok(Step::Done);
            }
        }
        let terms = terms_of(&permit);
        self.bounds.begins(terms.as_deref());
        self.operations.insert(Operation::new(operation, Arc::clone(&facts), terms));
        self.transaction_operations += u64::from(!only_begins(&facts.analysis.statements));
        self.generic_transaction |= facts.sensitivity.generic_errors;
        self.generic_exchange |= facts.sensitivity.generic_errors;
        match message {
            Message::FunctionCall | Message::Query => {
                self.replies.push(Reply::Query { operation, marks: facts.marks() });
                self.group = self.group.next();
            }
            Message::Bind(portal) => {
                self.names_changed(&portal);
                let (weight, names_epoch) = (facts.weight(), self.names_epoch);
                let bound = Portal { operation, facts, described: false, layout: None, names_epoch };
                self.portals.propose(&portal, self.group, bound, weight).map_err(|_| excess_names())?;
                self.replies.push(Reply::Bind { portal, operation });
            }
        }
        wires.upstream.operation(&permit, bytes);
        Ok(Step::Done)
    }

    /// What the gate is asked.
    pub(super) fn judged<'a>(
        &'a self,
        facts: &'a Facts,
        estimates: Option<&'a [Option<u64>]>,
    ) -> gate::Operation<'a> {
        gate::Operation {
            database: &self.database,
            analysis: &facts.analysis,
            estimates,
            taint: facts.sensitivity.taint,
            dependence: facts.dependence.as_deref(),
            locks: self.may_hold_locks(),
            // A text that may change the path is judged as if it had.
            search_path: if facts.turns { None } else { self.search_path.schemas() },
        }
    }
}

/// A COPY TO STDOUT of masked data that cannot be masked in the stream.
fn unmaskable_copy(facts: &Facts) -> Option<Denial> {
    let reason = facts.refused_copy.as_ref()?;
    Some(Denial::new(Side::Policy, reason, "copy the table with its columns listed, or use SELECT"))
}

/// BEGIN takes no locks.
fn only_begins(statements: &[Statement]) -> bool {
    statements.iter().all(|statement| statement.session == SessionAction::Begin)
}

/// A SET that changes how the server reads the next text cannot pass, whatever policy says: what is judged would no
/// longer be what runs (<https://www.postgresql.org/docs/current/runtime-config-compatible.html>).
pub(super) fn lexer_switch(statements: &[Statement]) -> Option<Denial> {
    let switches = |statement: &Statement| match &statement.session {
        SessionAction::Set { name, value } => match name.as_str() {
            "standard_conforming_strings" | "client_encoding" => !sql::keeps_pin(name, value.as_deref()),
            _ => false,
        },
        SessionAction::Begin
        | SessionAction::CloseCursor(_)
        | SessionAction::Deallocate(_)
        | SessionAction::DeclareCursor(_)
        | SessionAction::DiscardAll
        | SessionAction::EndTransaction
        | SessionAction::Execute(_)
        | SessionAction::FetchCursor(_)
        | SessionAction::None
        | SessionAction::Prepare(_)
        | SessionAction::Savepoint => false,
    };
    statements.iter().any(switches).then(|| {
        Denial::new(
            Side::Policy,
            "standard_conforming_strings and client_encoding are pinned to on and UTF8",
            "leave them as they are; statements are judged as UTF-8 with standard strings",
        )
    })
}
