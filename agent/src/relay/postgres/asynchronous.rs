//! What the server says on its own, at any time: notices, parameters that changed, notifications.

use super::conversation::{Broken, Conversation, Wires};
use crate::codec::postgres::backend::{Notification, ParameterStatus};
use crate::codec::postgres::encode::backend;
use crate::codec::postgres::report::Report;
use crate::codec::postgres::{BackendTag, Frame, Text};
use crate::request::SessionAction;

/// What a client is told in place of a notification that may carry masked values.
const WITHHELD: &[u8] = b"[redacted]";

/// Reported parameters whose values are words of the server's own. Any other can be given any text by `set_config`
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC>).
const FIXED_PARAMETERS: &[&[u8]] = &[
    b"DateStyle",
    b"IntervalStyle",
    b"client_encoding",
    b"default_transaction_read_only",
    b"in_hot_standby",
    b"integer_datetimes",
    b"is_superuser",
    b"server_encoding",
    b"server_version",
    b"standard_conforming_strings",
];

impl Conversation {
    /// Whether error and notice texts may quote masked values now.
    pub(super) fn generic_reports(&self) -> bool {
        let Some(operation) = self.current_operation().and_then(|id| self.operations.get(id)) else {
            return self.generic_transaction;
        };
        let statement = operation.facts.analysis.statements.get(operation.statement);
        let deferred = statement.is_none_or(|statement| {
            statement.session == SessionAction::EndTransaction || statement.kind == "set constraints"
        });
        operation.facts.sensitivity.generic_errors || (deferred && self.generic_transaction)
    }

    pub(super) fn notice(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let report = Report::decode_notice(frame.body()).map_err(Broken::Server)?;
        self.masking.forward_report(frame, &report, self.generic_reports(), wires.client);
        Ok(())
    }

    pub(super) fn parameter_status(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let status = ParameterStatus::decode(frame.body()).map_err(Broken::Server)?;
        if self.lexer_left_its_pin(&status) {
            return Err(Broken::Unasked("a change of client_encoding or standard_conforming_strings"));
        }
        if self.generic_exchange && !FIXED_PARAMETERS.contains(&status.name.as_bytes()) {
            // The client keeps the value it knows.
            return Ok(());
        }
        match self.masking.scan_bytes(status.value.as_bytes()) {
            None => wires.client.extend_from_slice(frame.bytes),
            Some(masked) => backend::parameter_status(wires.client, status.name, Text::before_nul(&masked))?,
        }
        Ok(())
    }

    /// Whatever made the server read texts differently, judging them is no longer possible.
    fn lexer_left_its_pin(&self, status: &ParameterStatus<'_>) -> bool {
        match status.name.as_bytes() {
            // The server keeps the one alias as it was written (check_client_encoding in src/backend/commands/variable.c).
            b"client_encoding" => !matches!(status.value.as_bytes(), b"UTF8" | b"UNICODE"),
            b"standard_conforming_strings" => status.value.as_bytes() != b"on",
            _ => false,
        }
    }

    pub(super) fn notification(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let notification = Notification::decode(frame.body()).map_err(Broken::Server)?;
        let masked = match self.generic_exchange && !notification.payload.as_bytes().is_empty() {
            true => Some(WITHHELD.to_vec()),
            false => self.masking.scan_bytes(notification.payload.as_bytes()),
        };
        match masked {
            None => wires.client.extend_from_slice(frame.bytes),
            Some(masked) => {
                let payload = Text::before_nul(&masked);
                backend::notification_response(wires.client, Notification { payload, ..notification })?;
            }
        }
        Ok(())
    }
}
