//! Replication connections: their own commands beside SQL, where the policy grants them
//! (<https://www.postgresql.org/docs/current/protocol-replication.html>).

use std::sync::Arc;

use super::conversation::{Broken, Conversation, Message, Step, Wires};
use super::refusal::Refusal;
use crate::flow::Side;
use crate::gate::Denial;
use crate::record::asked::Parameters;
use crate::request::sql::replication_command;

/// A replication connection brings what no guard on statements sees.
pub(super) fn ungranted() -> Denial {
    Denial::new(
        Side::Policy,
        "the policy does not grant replication on this connection",
        "ask the owner of the policy for `replication = true`, or connect without it",
    )
}

impl Conversation {
    /// Judges a text that is a command of a replication connection; `None` for any other.
    pub(super) fn replication(
        &mut self,
        text: &str,
        bytes: &[u8],
        wires: &mut Wires<'_>,
    ) -> Result<Option<Step>, Broken> {
        let Some(analysis) = replication_command(text).filter(|_| self.replicates) else { return Ok(None) };
        if !self.is_still_granted() {
            let denial = ungranted();
            self.record.note(&format!("refused {text:.60}: {}", denial.reason))?;
            self.refuse(&Refusal::denied(&denial), &Message::Query, wires)?;
            return Ok(Some(Step::Done));
        }
        let facts = self.facts.of_replication(text, analysis, &self.masking);
        self.run(Message::Query, facts, Arc::from([]), Parameters::default(), bytes, wires).map(Some)
    }

    /// The policy in force may have another opinion than the one the connection was opened under.
    fn is_still_granted(&self) -> bool {
        let name = &self.admission.connection().name;
        self.policy().is_some_and(|policy| {
            policy.connections.iter().any(|connection| connection.name == *name && connection.replication)
        })
    }
}
