//! FunctionCall: a function run by its OID, without a text. The server is asked what the OID stands for, and the call is
//! judged, recorded and masked as the SELECT that would do the same
//! (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-FUNCTION-CALL>).

use std::sync::Arc;

use super::conversation::{Broken, Conversation, Message, Question, Step, Waiting, Wires};
use super::facts::{Call, Facts};
use super::forward::Told;
use super::layout::edit_cell;
use super::operation::OperationId;
use super::parameters::readable_arguments;
use super::refusal::Refusal;
use crate::codec::postgres::backend::decode_function_call_response;
use crate::codec::postgres::encode::backend;
use crate::codec::postgres::frame::HEADER_BYTES;
use crate::codec::postgres::frontend::FunctionCall;
use crate::codec::postgres::row::Edit;
use crate::codec::postgres::{BackendTag, Frame, FrontendTag, sqlstate};
use crate::flow::Side;
use crate::gate::Denial;
use crate::mask::Findings;
use crate::record::asked::Parameters;
use crate::record::event::ServerError;
use crate::upstream::CalledFunction;
use crate::upstream::function::FIRST_NORMAL_OID;

/// Stands in the record for the command tag that a function's result does not have.
const TAG: &str = "FUNCTION CALL";

impl Conversation {
    pub(super) fn function_call(
        &mut self,
        frame: Frame<'_, FrontendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        if self.replies.turns() || self.awaits_bounded() {
            return Ok(Step::Wait);
        }
        let call = FunctionCall::decode(frame.body()).map_err(Broken::Client)?;
        let operation = self.record.next_operation();
        if let Some(function) = self.called.get(&call.function).cloned() {
            return self.run_function(operation, function, frame.bytes, wires);
        }
        // What is recorded if nobody can say what it is.
        let text = format!("function with OID {}", call.function);
        self.waiting = Some(Waiting {
            message: Message::FunctionCall,
            bytes: frame.bytes.to_vec(),
            facts: self.facts.of_call(&text, None, &self.masking),
            parameters: self.masking.scan_parameters(readable_arguments(&call, &[])),
            parameter_types: Arc::from([]),
            estimates: None,
            operation,
            approval: None,
            side_effects: None,
        });
        Ok(Step::Question(Question::Function(call.function)))
    }

    /// The server said what the OID stands for, or nobody could.
    pub(super) fn function_found(
        &mut self,
        function: Option<CalledFunction>,
        waiting: Waiting,
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let Some(function) = function else {
            let denial = Denial::new(
                Side::Policy,
                "it cannot be told which function is called, so it cannot be judged",
                "call it with SELECT; a function made in a transaction is seen when that has been committed",
            );
            return self.deny_waiting(&denial, waiting, wires);
        };
        let function = Arc::new(function);
        if function.oid < FIRST_NORMAL_OID {
            self.called.insert(function.oid, Arc::clone(&function));
        }
        self.run_function(waiting.operation, function, &waiting.bytes, wires)
    }

    fn run_function(
        &mut self,
        operation: OperationId,
        function: Arc<CalledFunction>,
        bytes: &[u8],
        wires: &mut Wires<'_>,
    ) -> Result<Step, Broken> {
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let call = FunctionCall::decode(body).map_err(Broken::Client)?;
        let text = select(&function, &call);
        let types: Arc<[u32]> = function.argument_types.as_slice().into();
        let parameters: Parameters = self.masking.scan_parameters(readable_arguments(&call, &types));
        let called = Call { function, result_format: call.result_format };
        let facts = self.facts.of_call(&text, Some(called), &self.masking);
        let told = Told { message: Message::FunctionCall, facts, parameter_types: types, parameters };
        self.run_as(operation, told, bytes, wires)
    }

    /// The operation whose function the server has run, with what is known of it.
    fn function_that_ran(&self) -> Result<(OperationId, Arc<Facts>, Call), Broken> {
        let operation = self.current_operation().and_then(|id| self.operations.get(id));
        let called = operation.and_then(|operation| {
            let call = operation.facts.call.clone()?;
            Some((operation.id, Arc::clone(&operation.facts), call))
        });
        called.ok_or(Broken::Unasked("FunctionCallResponse"))
    }

    /// The result, masked as a column of a SELECT would be.
    pub(super) fn function_result(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let value = decode_function_call_response(frame.body()).map_err(Broken::Server)?;
        let (id, facts, call) = self.function_that_ran()?;
        let layout = self.masking.result_layout(&facts, &call);
        let (mut scratch, mut findings, mut masked) = (Vec::new(), Findings::default(), 0);
        let shown = value.and_then(|value| {
            let edit = edit_cell(&layout, &self.masking, 0, value, &mut scratch, &mut findings, &mut masked);
            match edit {
                Edit::Keep => Some(value),
                Edit::Null => None,
                Edit::Replace => Some(scratch.as_slice()),
            }
        });
        backend::function_call_response(wires.client, shown)?;
        self.begin_result(id, Some(&layout), &[])?;
        self.record.row(&row_of(shown))?;
        self.record.flush_rows()?;
        if let Some(operation) = self.operations.get_mut(id) {
            operation.sent(1, shown.map_or(0, <[u8]>::len));
            for rule in &layout.plan.rules {
                operation.masked(rule, masked);
            }
            operation.found(&findings);
        }
        self.statement_done(id, TAG)
    }

    /// It ran, but what it returned cannot be looked into; the client gets an error in its place.
    pub(super) fn function_result_too_long(
        &mut self,
        body: usize,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let (id, ..) = self.function_that_ran()?;
        let message =
            format!("the function ran, but its result of {body} bytes is too long to be looked into");
        let refusal = Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, format!("portcullis: {message}"))
            .hint("read in smaller pieces");
        wires.client.extend_from_slice(&refusal.error());
        self.report.clear();
        if let Some(operation) = self.operations.get_mut(id) {
            operation.failed(ServerError { sqlstate: refusal.sqlstate.to_string(), message });
        }
        Ok(())
    }
}

/// The body of a DataRow with this value alone, for the record.
fn row_of(value: Option<&[u8]>) -> Vec<u8> {
    let mut row = 1_i16.to_be_bytes().to_vec();
    let length = value.map_or(Some(-1), |value| i32::try_from(value.len()).ok());
    row.extend(length.unwrap_or(-1).to_be_bytes());
    row.extend(value.unwrap_or_default());
    row
}

/// The SELECT that would make this call. What `set_config` sets is written out: it decides what the call does.
fn select(function: &CalledFunction, call: &FunctionCall<'_>) -> String {
    let written_out = if function.schema == "pg_catalog" && function.name == "set_config" { 2 } else { 0 };
    let arguments: Vec<String> = call
        .arguments
        .clone()
        .enumerate()
        .map(|(index, value)| {
            let literal = value
                .filter(|_| index < written_out)
                // A text's binary form is the text.
                .and_then(|value| std::str::from_utf8(value).ok())
                .map(|text| format!("'{}'", text.replace('\'', "''")));
            literal.unwrap_or_else(|| format!("${}", index + 1))
        })
        .collect();
    let schema = match function.schema.as_str() {
        "pg_catalog" => "pg_catalog".to_owned(),
        other => quoted(other),
    };
    // Behind the dot, keywords are names.
    let plain = function.name.starts_with(|first: char| first == '_' || first.is_ascii_lowercase())
        && function.name.bytes().all(|byte| matches!(byte, b'_' | b'a'..=b'z' | b'0'..=b'9'));
    let name = if plain { function.name.clone() } else { quoted(&function.name) };
    format!("SELECT {schema}.{name}({})", arguments.join(", "))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
