//! Start-up parameters that are more than harmless: judged and recorded as the SET statements that they are, before the
//! server hears of them (<https://www.postgresql.org/docs/current/protocol-message-formats.html>, StartupMessage).

use super::conversation::record_refusal;
use super::masking::Rules;
use super::operation::OperationId;
use super::refusal::Refusal;
use crate::flow::Side;
use crate::gate::{self, Admission, Denial, Judgement, Permit};
use crate::mask::plan::Taint;
use crate::record::asked::{Asked, BoundedText, Parameters, Statements};
use crate::record::event::{EndReason, Ended, Intent, Outcome, OutcomeStatus, Refused};
use crate::record::{RecordError, SessionRecord};
use crate::relay::Relay;
use crate::request::SessionAction;
use crate::request::sql::Analysis;

/// Start-up parameters judged for one connection; drivers send two or three.
const SETTINGS_MAX: usize = 64;

/// What the session may begin with.
#[derive(Debug, Default)]
pub(super) struct Settings {
    permitted: Vec<(String, String)>,
    operations: Vec<OperationId>,
}

/// Why the connection is refused.
pub(super) struct Unsettled {
    pub(super) told: Refusal,
    pub(super) ended: Ended,
}

impl Unsettled {
    fn denied(denial: &Denial) -> Self {
        let (side, detail) = (denial.side, Some(denial.reason.clone()));
        Self { told: Refusal::denied(denial), ended: Ended { reason: EndReason::Refused, side, detail } }
    }

    fn unrecorded(error: &RecordError) -> Self {
        let (side, detail) = (Side::Portcullis, Some(error.to_string()));
        Self { told: record_refusal(error), ended: Ended { reason: EndReason::Failed, side, detail } }
    }
}

impl Settings {
    /// Judges each as a statement by the policy's guards. What the profile sets itself is left out: it counts, whatever
    /// the client asks.
    ///
    /// # Errors
    /// The policy denies one of them or holds it (nothing can wait before there is a session), or they cannot be recorded.
    pub(super) async fn judge(
        mut asked: Vec<(String, String)>,
        admission: &Admission,
        relay: &Relay,
        database: &str,
        record: &mut SessionRecord,
    ) -> Result<Self, Unsettled> {
        let own = &admission.connection().upstream.settings;
        asked.retain(|(name, _)| !own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)));
        if asked.is_empty() {
            return Ok(Self::default());
        }
        if asked.len() > SETTINGS_MAX {
            let why = format!("more than {SETTINGS_MAX} start-up parameters are not looked at");
            return Err(Unsettled::denied(&Denial::new(Side::Client, why, "set them with SET")));
        }
        let mut permitted = Vec::new();
        for (name, value) in &asked {
            permitted.push(judge(name, value, admission, relay, database, record)?);
        }
        let mut operations = Vec::new();
        let mut durable = None;
        for (permit, asked) in permitted {
            operations.push(asked.operation);
            let intent =
                Intent { asked, rule: permit.rule().to_owned(), approval: None, shadow: permit.shadow() };
            let written = record.intent(&intent).map_err(|error| Unsettled::unrecorded(&error))?;
            if permit.durable() {
                durable = Some(written);
            }
        }
        if let Some(written) = durable {
            let waited = relay.recorder.durable(written).await;
            waited.map_err(|error| Unsettled::unrecorded(&error))?;
        }
        Ok(Self { permitted: asked, operations })
    }

    /// Whether one of them changes who acts.
    pub(super) fn set_role(&self) -> bool {
        self.permitted.iter().any(|(name, _)| matches!(name.as_str(), "role" | "session_authorization"))
    }

    /// For the server.
    pub(super) fn parameters(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.permitted)
    }

    /// Records what became of them: with the start-up they succeed or fail together.
    pub(super) fn settle(self, status: OutcomeStatus, record: &mut SessionRecord) {
        for operation in self.operations {
            if let Err(error) = record.outcome(Outcome { operation, status, ..Outcome::default() }) {
                tracing::error!(%error, "cannot record what became of a start-up parameter");
            }
        }
    }
}

fn judge(
    name: &str,
    value: &str,
    admission: &Admission,
    relay: &Relay,
    database: &str,
    record: &mut SessionRecord,
) -> Result<(Permit, Asked), Unsettled> {
    let text = format!("SET {name} TO '{}'", value.replace('\'', "''"));
    let analysis = relay.analyses.analyze(&text);
    let operation = gate::Operation {
        database,
        analysis: &analysis,
        estimates: None,
        taint: Taint::Clean,
        dependence: None,
        locks: false,
        search_path: None,
    };
    let judgement = match sets(&analysis, name) {
        true => relay.gate.judge(admission, &operation),
        false => Judgement::Deny(Denial::new(
            Side::Client,
            format!("the start-up parameter {name} cannot be judged"),
            "leave it out of the connection string",
        )),
    };
    let asked = Asked {
        operation: record.next_operation(),
        text: BoundedText::new(&recorded(&text, admission, relay)),
        parameters: Parameters::default(),
        statements: Statements::new(&analysis.statements),
        database: Some(database.to_owned()),
        estimated_rows: None,
        http: None,
        ssh: None,
    };
    let denial = match judgement {
        Judgement::Permit(permit) => return Ok((permit, asked)),
        Judgement::Deny(denial) => denial,
        Judgement::Hold(hold) => hold.cannot_wait("a connection is being opened"),
        Judgement::Estimate => Denial::new(Side::Policy, "a setting has no rows to be estimated", ""),
    };
    let denial = Denial { reason: format!("the start-up parameter {name}: {}", denial.reason), ..denial };
    let refused = Refused {
        asked,
        rule: denial.rule.clone(),
        reason: denial.reason.clone(),
        side: denial.side,
        approval: None,
        status: None,
    };
    record.refused(&refused).map_err(|error| Unsettled::unrecorded(&error))?;
    Err(Unsettled::denied(&denial))
}

/// Whether the text is understood as what it was made to be.
fn sets(analysis: &Analysis, parameter: &str) -> bool {
    match analysis.statements.as_slice() {
        [statement] => {
            matches!(&statement.session, SessionAction::Set { name, .. } if name == parameter)
        }
        _ => false,
    }
}

/// The text with what the policy's detectors find masked.
fn recorded(text: &str, admission: &Admission, relay: &Relay) -> String {
    let rules = Rules::of(admission.policy(), admission);
    match relay.postgres_masks.without_catalogue(&rules) {
        Ok(masking) => masking.scan_text(text).into_owned(),
        // The session cannot be opened either.
        Err(_) => String::new(),
    }
}
