//! Asks the gate about an operation, and a human where the policy says so, while the client's channel stays open.

use std::sync::Arc;

use super::asked::Asked;
use super::connection::Connection;
use super::log::{OperationLog, asked as asked_event};
use super::session_channel::Notice;
use crate::approval::{Content, Request};
use crate::flow::Side;
use crate::gate::{Denial, Hold, Judgement, Permit};
use crate::record::event::{self, Decided};
use crate::relay::waiting::Waiting;
use crate::request::ObjectName;
use crate::request::ssh::{OperationKind, SshOperation};

/// What waits for an operation's permission.
pub(super) async fn decide(
    connection: &Arc<Connection>,
    number: u64,
    operation: &SshOperation,
    asked: &Asked,
    notice: Option<Notice<'_>>,
) -> Result<Permit, Denial> {
    let gate = &connection.relay.gate;
    let judgement = gate.judge_ssh(&connection.admission, connection.remote_user(), operation);
    let result = match judgement {
        Judgement::Permit(permit) => return Ok(permit),
        Judgement::Deny(denial) => Err(denial),
        // Only rows are estimated, and no rule of SSH can ask for that.
        Judgement::Estimate => Err(no_estimate()),
        Judgement::Hold(hold) => wait(connection, number, operation, asked, hold, notice).await,
    };
    if let Err(denial) = &result {
        refused(connection, number, operation, denial);
    }
    result
}

fn no_estimate() -> Denial {
    Denial::new(Side::Portcullis, "a rule asks for an estimate, and SSH has none", "")
}

async fn wait(
    connection: &Arc<Connection>,
    number: u64,
    operation: &SshOperation,
    asked: &Asked,
    hold: Hold,
    notice: Option<Notice<'_>>,
) -> Result<Permit, Denial> {
    let gate = &connection.relay.gate;
    let (rule, terms) = (hold.rule().to_owned(), hold.terms().clone());
    let request = request(connection, operation, asked, &hold);
    let held = hold.ask(gate, request)?;
    let id = held.id();
    let event = event::Held {
        asked: asked_event(connection, number, operation),
        rule: rule.clone(),
        approval: id,
        approvers: terms.approvers.clone(),
        timeout_seconds: terms.timeout.as_secs(),
        in_transaction: false,
        side_effects: None,
    };
    connection.with_record(|record| record.held(&event).map(|_| ())).map_err(|error| {
        Denial::new(Side::Portcullis, format!("this cannot be recorded ({error}), so nobody is asked"), "")
    })?;
    let waiting = Waiting::new(number, id, |decided| {
        connection.with_record(|record| record.decided(decided).map(|_| ()))
    });
    let approvers =
        if terms.approvers.is_empty() { "a reviewer".to_owned() } else { terms.approvers.join(", ") };
    if let Some(notice) = notice.filter(|_| !held.is_decided()) {
        let text = format!(
            "portcullis: waiting for {approvers} to approve this (rule: {rule}, approval {})\n",
            id.code()
        );
        notice.say(text).await;
    }
    let result = tokio::select! {
        result = held.decision() => result,
        () = connection.when_left() => {
            return Err(Denial::new(Side::Client, "the client went away before anybody decided", ""));
        }
    };
    waiting.settled();
    let approval = match &result {
        Ok(permit) => permit.approval().cloned(),
        Err(denial) => denial.approval.as_deref().cloned(),
    };
    if let Some(approval) = approval {
        let decided = Decided { operation: number, approval };
        connection.with_record(|record| record.decided(&decided).map(|_| ())).map_err(|error| {
            Denial::new(Side::Portcullis, format!("the decision cannot be recorded ({error})"), "")
        })?;
    }
    gate.redeem(&connection.admission, result?)
}

/// What the reviewer sees and the decision binds: the exact command, where it runs and as whom, its terminal and variables.
fn request(connection: &Connection, operation: &SshOperation, asked: &Asked, hold: &Hold) -> Request {
    let admission = &connection.admission;
    let mut parameters = vec![connection.remote_user().as_bytes().to_vec()];
    if let Some(terminal) = &asked.terminal {
        parameters.push(format!("terminal {}", terminal.term).into_bytes());
    }
    parameters.extend(asked.variables.iter().map(|(name, value)| format!("{name}={value}").into_bytes()));
    let parameters: Vec<Option<&[u8]>> = parameters.iter().map(|value| Some(value.as_slice())).collect();
    let terms = hold.terms();
    Request {
        run: admission.flow().run,
        session: admission.flow().session,
        process: admission.flow().process.clone(),
        subject: admission.subject().clone(),
        connection: admission.connection().name.clone(),
        destination: admission.flow().destination,
        database: None,
        content: Content::new(&asked.exact(operation), &parameters, &parameters),
        kinds: operation.kinds(),
        effect: operation.effect,
        objects: operation.objects().iter().map(|name| ObjectName::outside_schemas(name)).collect(),
        estimated_rows: None,
        rule: hold.rule().to_owned(),
        policy: admission.policy().name.clone(),
        policy_version: hold.policy_version().clone(),
        approvers: terms.approvers.clone(),
        in_transaction: false,
        timeout: terms.timeout,
        quorum: terms.quorum,
        distinct_groups: terms.distinct_groups,
        break_glass: terms.break_glass.clone(),
        chat: terms.chat,
        step_up: terms.step_up.clone(),
        shape: None,
        // What is typed at a prompt means what the shell has become by then.
        side_effects: None,
        again: (operation.kind != OperationKind::Line).then(String::new),
        patience: hold.patience(None),
    }
}

/// Records that an operation was refused.
pub(super) fn refused(connection: &Connection, number: u64, operation: &SshOperation, denial: &Denial) {
    // The reason may have words of the client in it, which are masked in the record and not here.
    tracing::info!(session = %connection.id(), operation = number, kind = %operation.kind, rule = denial.rule,
        "refused an operation");
    let event = super::log::refused(connection, number, operation, denial);
    if let Err(error) = connection.with_record(|record| record.refused(&event).map(|_| ())) {
        tracing::error!(%error, "a refusal could not be recorded");
    }
}

/// Whether something beside the operation proper may be: a terminal, a forward of the agent's keys. Recorded as what it is.
pub(super) async fn aside(connection: &Connection, operation: &SshOperation) -> bool {
    let Some(connection) = connection.this() else { return false };
    match begin_at_once(&connection, operation).await {
        Some(mut log) => {
            log.done();
            log.end();
            true
        }
        None => false,
    }
}

/// Judges an operation that cannot wait, because the client's next message is not read before it is answered, and records its
/// intent. A rule that holds it denies it.
pub(super) async fn begin_at_once(
    connection: &Arc<Connection>,
    operation: &SshOperation,
) -> Option<OperationLog> {
    let number = connection.next_operation();
    let judgement =
        connection.relay.gate.judge_ssh(&connection.admission, connection.remote_user(), operation);
    let denial = match judgement {
        Judgement::Permit(permit) => {
            return OperationLog::begin(connection, number, operation, &Asked::nothing(), permit).await.ok();
        }
        Judgement::Deny(denial) => denial,
        Judgement::Estimate => no_estimate(),
        Judgement::Hold(hold) => hold.cannot_wait("SSH answers requests in order"),
    };
    refused(connection, number, operation, &denial);
    None
}

/// Judges an operation that has no channel yet on which its client could be told to wait, and records its intent. A hold waits
/// all the same: the client's own request stays unanswered meanwhile.
pub(super) async fn begin_aside(
    connection: &Arc<Connection>,
    operation: &SshOperation,
) -> Option<OperationLog> {
    let number = connection.next_operation();
    let asked = Asked::nothing();
    let permit = decide(connection, number, operation, &asked, None).await.ok()?;
    OperationLog::begin(connection, number, operation, &asked, permit).await.ok()
}
