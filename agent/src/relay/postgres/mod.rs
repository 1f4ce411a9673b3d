//! PostgreSQL sessions: greet the client, log in to the server with the profile's credential, then relay under the
//! gate, masking and recording on the way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::cancel::Requested;
use self::conversation::{Conversation, Parts, record_refusal};
use self::greeting::{Greeted, Greeting, GreetingError, greet};
use self::password::PasswordError;
use self::planner::Planner;
use self::pump::Pump;
use self::refusal::Refusal;
use self::search_path::SearchPath;
use self::settings::Settings;
use super::in_band::{self, NotOpened, cut_at_expiry};
use super::leg::Leg;
use super::{Relay, Shutdown, open_record};
use crate::codec::postgres::backend::TransactionStatus;
use crate::codec::postgres::encode::backend;
use crate::codec::postgres::report::{FieldEdit, Report};
use crate::codec::postgres::startup::CancelKey;
use crate::codec::postgres::{SqlState, Text, sqlstate};
use crate::credential::{Credential, CredentialError};
use crate::flow::{Flow, SessionId, Side};
use crate::gate::{Admission, Denial, Unidentified};
use crate::record::event::{EndReason, Ended, OpaqueCounts, OutcomeStatus};
use crate::record::{RecordError, SessionRecord};
use crate::run::Subject;
use crate::tls::Stream;
use crate::upstream::{LoggedIn, LoginProblem, Startup, Target, UpstreamError, login};

mod asynchronous;
mod calls;
mod cancel;
mod client;
mod conversation;
mod copy;
mod effects;
#[cfg(test)]
mod exchanges;
mod facts;
mod forward;
mod function_call;
mod greeting;
mod layout;
mod limits;
mod masking;
mod masks;
mod names;
mod operation;
mod parameters;
mod password;
mod planner;
mod pump;
mod refusal;
mod replication;
mod replies;
mod search_path;
mod server;
mod settings;
mod shown;
mod side_effects;
mod waiting;

#[cfg(test)]
mod tests;

pub use self::cancel::Cancels;
pub use self::masks::MaskCache;

/// How long a refused client may take to read why, before the connection is closed under it.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a connection is not served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unserved<'a> {
    /// The gate said no.
    Denied(&'a Denial),
    /// Its recording cannot be begun.
    Unrecorded(&'a RecordError),
}

/// The same for an idle client when the daemon stops: it will not close before it is used again, and the others wait.
const STOP_WORDS_TIME_MAX: Duration = Duration::from_millis(500);

/// Relays one admitted session to its end, which is recorded.
pub(crate) async fn serve(
    tcp: TcpStream,
    admission: Admission,
    relay: &Relay,
    record: SessionRecord,
    shutdown: Shutdown,
) {
    // What opens a session is on the heap only until it is open.
    let greeting = match Box::pin(welcome(tcp, admission.flow(), relay)).await {
        Ok(greeting) => greeting,
        Err(ended) => return finish(record, ended),
    };
    serve_greeted(greeting, admission, relay, record, shutdown).await;
}

/// The same of a client that was greeted.
async fn serve_greeted(
    greeting: Box<Greeting>,
    admission: Admission,
    relay: &Relay,
    record: SessionRecord,
    shutdown: Shutdown,
) {
    // What is leased is held to the end.
    let Opened { client, server, parts, planner, cancel, held } =
        match Box::pin(open(greeting, admission, relay, record)).await {
            Ok(opened) => opened,
            Err((record, ended)) => return finish(record, ended),
        };
    let pump = Box::new(Pump {
        client,
        server,
        conversation: Conversation::new(*parts, TransactionStatus::Idle),
        recorder: Arc::clone(&relay.recorder),
        planner,
        cancel,
        shutdown,
    });
    let (ended, conversation, moved) = pump.run().await;
    drop(held);
    let mut record = conversation.into_record();
    record.count_bytes(OpaqueCounts { to_upstream: moved.to_upstream, to_client: moved.to_client });
    finish(record, ended);
}

/// Asks a client for a token as its password, and relays the session that it opens to its end.
///
/// # Errors
/// When it cannot be recorded; the client is told.
pub(crate) async fn serve_unidentified(
    tcp: TcpStream,
    unidentified: Unidentified,
    relay: &Relay,
    shutdown: Shutdown,
) -> Result<(), RecordError> {
    let (flow, run) = (unidentified.flow(), unidentified.run());
    let begin = |subject: &Subject, admission: Option<&Admission>| {
        open_record(&relay.recorder, flow, run, subject, admission)
    };
    let mut greeting = match welcome(tcp, flow, relay).await {
        Ok(greeting) => greeting,
        Err(ended) => return begin(unidentified.subject(), None)?.close(ended).map(drop),
    };
    let admission = match identified(&mut greeting.client, &unidentified, relay).await {
        Ok(admission) => admission,
        Err(refusal) => {
            let NotIdentified { told, ended, whom } = refusal;
            tracing::warn!(session = %flow.session, reason = ended.detail, "a client is not let in by its token");
            last_words(&mut greeting.client, &told).await;
            return begin(&whom, None)?.close(ended).map(drop);
        }
    };
    let record = match begin(admission.subject(), Some(&admission)) {
        Ok(record) => record,
        Err(error) => {
            last_words(&mut greeting.client, &record_refusal(&error)).await;
            return Err(error);
        }
    };
    let cut = cut_at_expiry(relay, &admission, flow.session);
    let serving = serve_greeted(greeting, Admission::clone(&admission), relay, record, shutdown);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        () = serving.as_mut() => return Ok(()),
        () = cut => {}
    }
    serving.await;
    Ok(())
}

/// Why a client's token opens nothing.
struct NotIdentified {
    told: Refusal,
    ended: Ended,
    /// As far as it is known.
    whom: Subject,
}

async fn identified(
    client: &mut Leg<Stream>,
    unidentified: &Unidentified,
    relay: &Relay,
) -> Result<Box<Admission>, NotIdentified> {
    let token = password::ask(client).await.map_err(|error| {
        let told = Refusal::new(sqlstate::INVALID_PASSWORD, format!("portcullis: {error}"));
        let why = error.to_string();
        let ended = Ended { reason: EndReason::Failed, side: Side::Client, detail: Some(why) };
        NotIdentified { told, ended, whom: unidentified.subject().clone() }
    })?;
    in_band::identify(relay, unidentified, token.expose()).await.map_err(|why| {
        let denial = why.denial();
        let (side, detail) = (denial.side, Some(denial.reason.clone()));
        let ended = Ended { reason: EndReason::Refused, side, detail };
        match why {
            NotOpened::Denied(denial, whom) => {
                NotIdentified { told: Refusal::denied(&denial), ended, whom: *whom }
            }
            NotOpened::Token(denial) => {
                let told = format!("portcullis: {}", denial.reason);
                let told = Refusal::new(sqlstate::INVALID_PASSWORD, told);
                let told = told.hint(denial.hint.unwrap_or_default());
                NotIdentified { told, ended, whom: unidentified.subject().clone() }
            }
        }
    })
}

/// Tells a client that is not served why, in its own protocol.
pub(crate) async fn refuse(tcp: TcpStream, flow: &Flow, why: Unserved<'_>, relay: &Relay) {
    if let Ok(mut greeting) = welcome(tcp, flow, relay).await {
        let refusal = match why {
            Unserved::Denied(denial) => Refusal::denied(denial),
            Unserved::Unrecorded(error) => record_refusal(error),
        };
        last_words(&mut greeting.client, &refusal).await;
    }
}

/// The client's part of the start. Cancel requests are answered here.
async fn welcome(tcp: TcpStream, flow: &Flow, relay: &Relay) -> Result<Box<Greeting>, Ended> {
    let failed = |side, detail: String| Ended { reason: EndReason::Failed, side, detail: Some(detail) };
    let name = ServerName::from(flow.destination.0.ip());
    let tls = relay.ca.leaf(&name).map_err(|error| failed(Side::Portcullis, error.to_string()))?;
    match greet(tcp, tls).await {
        Ok(Greeted::Session(greeting)) => Ok(greeting),
        Ok(Greeted::Gone) => Err(Ended {
            reason: EndReason::Lost,
            side: Side::Client,
            detail: Some("left before start-up".to_owned()),
        }),
        Ok(Greeted::Cancel { process_id, key, stream }) => {
            let request = CancelKey { process_id, secret_key: key.expose() };
            let detail = match relay.cancels.request(flow.run, &request) {
                Requested::PassedOn(done) => {
                    // Clients send their next statement when this connection closes, and the cancel must not meet that.
                    done.or_timed_out().await;
                    "a cancel request, passed on"
                }
                Requested::Unknown => "a cancel request that names no session of this run",
            };
            drop(stream);
            Err(Ended { reason: EndReason::Finished, side: Side::Client, detail: Some(detail.to_owned()) })
        }
        Err(error @ GreetingError::Parameter(_)) => {
            Err(Ended { reason: EndReason::Refused, side: Side::Policy, detail: Some(error.to_string()) })
        }
        Err(error) => Err(failed(Side::Client, error.to_string())),
    }
}

/// Everything a session needs once both sides are there.
struct Opened {
    client: Leg<Stream>,
    server: Leg<Stream>,
    parts: Box<Parts>,
    planner: Planner,
    cancel: cancel::CancelTicket,
    /// The session's own credential, where asking again would give something else.
    held: Option<Credential>,
}

/// The server's part of the start, and the hand-over: the client learns that it is logged in only when the server has
/// let us in and the masks are known.
async fn open(
    greeting: Box<Greeting>,
    admission: Admission,
    relay: &Relay,
    mut record: SessionRecord,
) -> Result<Opened, (SessionRecord, Ended)> {
    let Greeting { mut client, user, database, minor, parameters, replication: wanted, settings } = *greeting;
    let profile = &admission.connection().upstream;
    let user = profile.user.clone().unwrap_or(user);
    let database = profile.database.clone().unwrap_or(database);
    let startup = Startup {
        user,
        database: database.clone(),
        minor,
        replication: wanted,
        parameters,
        settings: admission.connection().upstream.settings.clone(),
    };
    let entered = enter(&mut client, &admission, relay, startup, settings, &mut record).await;
    let (Connected { logged_in, target, user, held }, role_is_set) = match entered {
        Ok(entered) => entered,
        Err(ended) => return Err((record, ended)),
    };
    let LoggedIn { stream, leftover, parameter_statuses, backend_key, notices, minor } = logged_in;
    let mut server = Leg::new(stream, leftover);
    // `"$user"` in it is then somebody else, and who, only the server knows.
    let known_role = (!role_is_set).then_some(user.as_str());
    let search_path = match SearchPath::of(&mut server, &parameter_statuses, known_role).await {
        Ok(search_path) => search_path,
        Err(error) => {
            tracing::warn!(session = %admission.flow().session, %error, "the server cannot be asked");
            let refusal = Refusal::new(sqlstate::CONNECTION_FAILURE, format!("portcullis: {error}"));
            last_words(&mut client, &refusal).await;
            let ended =
                Ended { reason: EndReason::Failed, side: Side::Upstream, detail: Some(error.to_string()) };
            return Err((record, ended));
        }
    };
    let side = relay.sides.side(&admission, &target, &user, &database, held.clone());
    let mut planner = Planner::new(side, admission.policy(), Arc::clone(&relay.postgres_masks));
    let (masking, calls) = match planner.renew(admission.policy(), &admission).await {
        Ok(known) => known,
        Err(error) => {
            tracing::error!(session = %admission.flow().session, %error, "masks cannot be applied");
            let refusal = Refusal::new(sqlstate::CANNOT_CONNECT, format!("portcullis: {error}"))
                .hint("ask the operator to look at the daemon's log");
            last_words(&mut client, &refusal).await;
            let ended =
                Ended { reason: EndReason::Failed, side: Side::Portcullis, detail: Some(error.to_string()) };
            return Err((record, ended));
        }
    };
    let key = backend_key.map(|key| (target, key));
    let cancel = match relay.cancels.register(admission.flow().run, minor, key) {
        Ok(cancel) => cancel,
        Err(error) => {
            let ended =
                Ended { reason: EndReason::Failed, side: Side::Portcullis, detail: Some(error.to_string()) };
            return Err((record, ended));
        }
    };
    hand_over(&mut client, &parameter_statuses, &notices, &cancel.key());
    let parts = Box::new(Parts {
        gate: Arc::clone(&relay.gate),
        admission,
        analyses: Arc::clone(&relay.analyses),
        masking,
        calls,
        record,
        database,
        search_path,
        replicates: wanted.is_some(),
    });
    Ok(Opened { client, server, parts, planner, cancel, held })
}

/// Logs in with the settings that policy permits. Says whether one of them changes who acts.
///
/// # Errors
/// How the session ends. The client has been told.
async fn enter(
    client: &mut Leg<Stream>,
    admission: &Admission,
    relay: &Relay,
    mut startup: Startup,
    settings: Vec<(String, String)>,
    record: &mut SessionRecord,
) -> Result<(Connected, bool), Ended> {
    if startup.replication.is_some() && !admission.connection().replication {
        let denial = replication::ungranted();
        last_words(client, &Refusal::denied(&denial)).await;
        let (side, detail) = (denial.side, Some(denial.reason));
        return Err(Ended { reason: EndReason::Refused, side, detail });
    }
    let mut settings = match Settings::judge(settings, admission, relay, &startup.database, record).await {
        Ok(settings) => settings,
        Err(refused) => {
            last_words(client, &refused.told).await;
            return Err(refused.ended);
        }
    };
    let role_is_set = settings.set_role();
    startup.parameters.extend(settings.parameters());
    match connect(client, admission, relay, startup).await {
        Ok(connected) => {
            settings.settle(OutcomeStatus::Done, record);
            Ok((connected, role_is_set))
        }
        Err(error) => {
            tracing::warn!(session = %admission.flow().session, %error, "cannot open the upstream connection");
            settings.settle(OutcomeStatus::Failed, record);
            last_words(client, &error.refusal(admission.flow().session)).await;
            Err(error.ended())
        }
    }
}

/// Why the server cannot be used.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl ConnectError {
    /// The client is told whom to ask; what exactly is wrong with the operator's set-up is not its business.
    fn refusal(&self, session: SessionId) -> Refusal {
        let (code, text) = match self {
            Self::Credential(_) => {
                (sqlstate::CANNOT_CONNECT, "the connection's credential cannot be used".to_owned())
            }
            Self::Password(error) => (sqlstate::INVALID_PASSWORD, error.to_string()),
            Self::Upstream(error) => {
                let code = SqlState::parse(error.sqlstate().as_bytes()).unwrap_or(sqlstate::CANNOT_CONNECT);
                (code, error.client_text())
            }
        };
        let hint = format!("`portcullis sessions show {session}` tells the operator what to do");
        Refusal::new(code, format!("portcullis: {text}")).hint(hint)
    }

    fn ended(&self) -> Ended {
        let side = match self {
            Self::Credential(error) => error.side(),
            Self::Password(_) => Side::Client,
            Self::Upstream(error) => error.side(),
        };
        Ended { reason: EndReason::Failed, side, detail: Some(self.to_string()) }
    }
}

/// The server, logged in to.
struct Connected {
    logged_in: LoggedIn,
    target: Target,
    /// As whom: a dynamic credential brings its own.
    user: String,
    held: Option<Credential>,
}

async fn connect(
    client: &mut Leg<Stream>,
    admission: &Admission,
    relay: &Relay,
    mut startup: Startup,
) -> Result<Connected, ConnectError> {
    let passed = admission.connection().upstream.pass_through;
    let credential = match passed {
        true => Some(Credential::passed_through(password::ask(client).await?)),
        false => relay.credentials.get(admission).await?,
    };
    if let Some(user) = credential.as_ref().and_then(|credential| credential.user.clone()) {
        startup.user = user;
    }
    let certificate = relay.credentials.client_certificate(admission).await?;
    let resolved = |name: &str, address| relay.resolves(admission, name, address);
    let dialled = relay.dialler.dial(admission, &resolved, certificate.as_ref()).await?;
    let target = dialled.target.clone();
    let secret = credential.as_ref().map(|credential| &credential.secret);
    let logged_in = match login(dialled, &startup, secret).await {
        // The client's own, and the client is told so.
        Err(UpstreamError::Login(LoginProblem::Rejected { user, report })) if passed => {
            return Err(UpstreamError::from(LoginProblem::NotTheirs { user, report }).into());
        }
        result => result?,
    };
    let held = credential.filter(|credential| passed || credential.lease().is_some());
    Ok(Connected { logged_in, target, user: startup.user, held })
}

/// Says to the client what the server said to us, with a cancel key of our own.
fn hand_over(
    client: &mut Leg<Stream>,
    parameter_statuses: &[(String, String)],
    notices: &[Bytes],
    key: &CancelKey<'_>,
) {
    let out = &mut client.outbox;
    backend::authentication_ok(out);
    for (name, value) in parameter_statuses {
        let (name, value) = (Text::before_nul(name.as_bytes()), Text::before_nul(value.as_bytes()));
        if let Err(error) = backend::parameter_status(out, name, value) {
            tracing::warn!(%error, "a parameter of the server cannot be passed on");
        }
    }
    if let Err(error) = backend::backend_key_data(out, *key) {
        tracing::error!(%error, "no cancel key for the client");
    }
    for notice in notices {
        if let Ok(report) = Report::decode_notice(notice) {
            report.rewrite(out, |_, _| FieldEdit::Keep);
        }
    }
    backend::ready_for_query(out, TransactionStatus::Idle);
}

async fn last_words(client: &mut Leg<Stream>, refusal: &Refusal) {
    client.outbox.extend_from_slice(&refusal.fatal());
    close_politely(client, LAST_WORDS_TIME_MAX).await;
}

/// Sends what is left and waits for the client to close, so that a reset does not overtake the last words.
async fn close_politely(leg: &mut Leg<Stream>, longest: Duration) {
    let farewell = async {
        leg.finish().await?;
        while leg.fill().await? == super::leg::Fill::More {
            leg.inbox.clear();
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that is gone, or does not care, has nothing more to lose.
    drop(timeout(longest, farewell).await);
}

fn finish(record: SessionRecord, ended: Ended) {
    if let Err(error) = record.close(ended) {
        tracing::error!(%error, "cannot record a session's end");
    }
}

/// Whether these first bytes of a connection open a PostgreSQL session: an SSL, GSS or cancel request, or a start-up
/// message of major version 3 (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
#[must_use]
pub(crate) fn looks_like_startup(first: &[u8]) -> bool {
    let Some((length, code)) = first.split_first_chunk::<4>().and_then(|(length, rest)| {
        Some((u32::from_be_bytes(*length), u32::from_be_bytes(*rest.first_chunk::<4>()?)))
    }) else {
        return false;
    };
    let requests = 80_877_102..=80_877_104;
    (8..=10_004).contains(&length) && (requests.contains(&code) || code >> 16 == 3)
}
