//! The daemon's side of the control socket.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::login::unix;
use super::protocol::{
    Envelope, Hook, PolicyFile, REQUEST_BYTES_MAX, Refusal, Reply, Request, RunBrief, Status, VERSION,
};
use super::runs::Wanted;
use crate::approval::{Approvals, DecideError, Decision, Digest, Entry, Reviewer};
use crate::flow::{ApprovalId, RunId, SessionId, Side};
use crate::identity::Issuers;
use crate::policy::Policy;
use crate::policy::rule::PolicyHits;
use crate::relay::stop::{Kill, REASON_CHARS_MAX};
use crate::run::caller::Caller;
use crate::run::{RunInfo, Runs};
use crate::signin::Accounts;

/// Connections at once; beyond it new ones are refused.
pub const CLIENTS_MAX: usize = 256;
/// Connections of one user at once, root excepted: nobody may keep reviewers out.
pub const CLIENTS_PER_USER_MAX: usize = 32;
/// How long a client may take to send its request.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a client may take to read one reply line.
pub const REPLY_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed accept (the process is out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What only the daemon knows, for `status`.
#[derive(Clone, Debug, Default)]
pub struct HostStatus {
    /// See [`Status::started_ms`].
    pub started_ms: u64,
    /// See [`Status::mode`].
    pub mode: String,
    /// See [`Status::proxy`].
    pub proxy: String,
    /// See [`Status::name_servers`].
    pub name_servers: Vec<String>,
    /// See [`Status::hooks`].
    pub hooks: Vec<Hook>,
    /// See [`Status::policies`].
    pub policies: Vec<PolicyFile>,
    /// See [`Status::counters`].
    pub counters: BTreeMap<String, u64>,
    /// See [`Status::problems`].
    pub problems: Vec<String>,
}

/// Finds a policy by name; the error is one line for the caller of `portcullis run`.
pub type FindPolicy = Box<dyn Fn(&str) -> Result<Arc<Policy>, String> + Send + Sync>;
/// What a run's command finds in its environment, `PORTCULLIS_RUN` excepted, given the caller's own certificates (PEM);
/// the error is one line for the caller of `portcullis run`.
pub type Environment = Box<dyn Fn(&RunInfo, &str) -> Result<BTreeMap<String, String>, String> + Send + Sync>;

/// Ends a session by its id, or a beginning or end of it; the error is one line for the operator.
pub type KillSession = Box<dyn Fn(&str, Kill) -> Result<SessionId, String> + Send + Sync>;

/// Ends every session of a run; how many.
pub type KillRun = Box<dyn Fn(RunId, &Kill) -> usize + Send + Sync>;

/// What the control socket gives access to. The closures may block.
pub struct Service {
    /// Every run.
    pub runs: Arc<Runs>,
    /// Every hold.
    pub approvals: Arc<Approvals>,
    /// Policies by name.
    pub policy: FindPolicy,
    /// Environment of a new run.
    pub environment: Environment,
    /// What the rules of each policy have decided.
    pub hits: Box<dyn Fn() -> Vec<PolicyHits> + Send + Sync>,
    /// The rest of `status`.
    pub status: Box<dyn Fn() -> HostStatus + Send + Sync>,
    /// Ends a session; the error is one line for the operator.
    pub kill: KillSession,
    /// Ends every session of a run; how many.
    pub kill_run: KillRun,
    /// Verifies tokens.
    pub issuers: Arc<Issuers>,
    /// Who is signed in by the command line; `None` where nobody can.
    pub accounts: Option<Arc<Accounts>>,
    /// Group of the operators.
    pub operators: String,
    /// Where the recordings are.
    pub state_dir: PathBuf,
    /// Begins the daemon's end.
    pub stop: Box<dyn Fn() + Send + Sync>,
}

/// Serves until dropped; its connections end with it.
pub async fn serve(listener: UnixListener, service: Arc<Service>) {
    let crowd = Arc::new(Crowd::default());
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (service, crowd) = (Arc::clone(&service), Arc::clone(&crowd));
                    clients.spawn(async move {
                        if let Err(error) = attend(stream, &service, &crowd).await {
                            tracing::debug!(%error, "control client");
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = clients.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a control client's task broke");
            },
        }
    }
}

/// How many connections each user has.
#[derive(Default)]
struct Crowd(Mutex<HashMap<u32, usize>>);

/// One connection's place; given back when dropped.
struct Place<'a> {
    crowd: &'a Crowd,
    uid: u32,
}

impl Crowd {
    fn admit(&self, uid: u32) -> Result<Place<'_>, Refusal> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let own = counts.get(&uid).copied().unwrap_or(0);
        if total >= CLIENTS_MAX || (uid != 0 && own >= CLIENTS_PER_USER_MAX) {
            return Err(Refusal::new(
                Side::Client,
                "too many control connections are open; close some and try again",
            ));
        }
        counts.insert(uid, own + 1);
        Ok(Place { crowd: self, uid })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// One connection, from accept to its last reply.
async fn attend(stream: UnixStream, service: &Arc<Service>, crowd: &Crowd) -> io::Result<()> {
    let caller = Arc::new(Caller::of(&stream)?);
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let admitted = not_an_agent(&caller, service).and_then(|()| crowd.admit(caller.uid));
    let _place = match admitted {
        Ok(place) => place,
        Err(refusal) => return send(&mut write, &Reply::Refused(refusal)).await,
    };
    let request = match timeout(REQUEST_TIME_MAX, read_request(&mut read)).await {
        Ok(request) => request?,
        Err(_) => Err(Refusal::new(Side::Client, "no request arrived in time")),
    };
    // Asked again: since connecting, the caller may have become a run's first process.
    let request = request.and_then(|request| not_an_agent(&caller, service).map(|()| request));
    match request {
        Ok(Request::Watch) => watch(read, write, caller, service).await,
        Ok(request) => {
            let reply = answer(request, caller, service).await;
            send(&mut write, &reply).await?;
            // Not before: a daemon that ends drops its control connections.
            if reply == Reply::Done {
                (service.stop)();
            }
            Ok(())
        }
        Err(refusal) => send(&mut write, &Reply::Refused(refusal)).await,
    }
}

/// Refuses everything to processes inside a governed cgroup, and to those whose cgroup cannot be told.
fn not_an_agent(caller: &Caller, service: &Service) -> Result<(), Refusal> {
    match caller.cgroup() {
        Ok(cgroup) if !service.runs.is_agent(&cgroup) => Ok(()),
        Ok(cgroup) => {
            tracing::warn!(
                pid = caller.pid,
                uid = caller.uid,
                cgroup,
                "an agent tried to use the control socket"
            );
            Err(Refusal::new(Side::Policy, "processes of a governed run may not use the control socket"))
        }
        Err(error) => {
            tracing::warn!(pid = caller.pid, uid = caller.uid, %error, "a control client's cgroup cannot be told");
            Err(Refusal::new(Side::Client, "the caller's cgroup cannot be told"))
        }
    }
}

/// Reads one line of at most [`REQUEST_BYTES_MAX`]. The outer error means that there is nobody to answer.
async fn read_request(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Result<Request, Refusal>> {
    let refuse = |message: String| Ok(Err(Refusal::new(Side::Client, message)));
    let mut line = Vec::new();
    let limit = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX);
    read.take(limit).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return if line.len() >= REQUEST_BYTES_MAX {
            refuse(format!("the request is longer than {REQUEST_BYTES_MAX} bytes"))
        } else if line.is_empty() {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            refuse("the request ends before its newline".to_owned())
        };
    }
    match serde_json::from_slice::<Envelope>(&line) {
        Ok(Envelope { version: VERSION, request }) => match serde_json::from_value(request) {
            Ok(request) => Ok(Ok(request)),
            Err(error) => refuse(format!("not a request: {error}")),
        },
        Ok(Envelope { version, .. }) => refuse(format!(
            "the client speaks version {version}, the daemon {VERSION}; restart the daemon after an upgrade"
        )),
        Err(error) => refuse(format!("not a request: {error}")),
    }
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    timeout(REPLY_TIME_MAX, write.write_all(&line)).await?
}

/// Everything but `Watch`, on a thread that may block once what has to be asked of others is known.
async fn answer(request: Request, caller: Arc<Caller>, service: &Arc<Service>) -> Reply {
    if let Some(reply) = service.login(&request, &caller).await {
        return reply.unwrap_or_else(Reply::Refused);
    }
    let identity = match service.identify(&request).await {
        Ok(identity) => identity,
        Err(refusal) => return Reply::Refused(refusal),
    };
    let service = Arc::clone(service);
    let done = tokio::task::spawn_blocking(move || match request {
        Request::Status => Ok(Reply::Status(Box::new(service.full_status()))),
        Request::Run { policy, labels, allow_root, certificates, token: _ } => {
            service.run(&caller, Wanted { policy, labels, allow_root, certificates, identity })
        }
        Request::Terms { policy } => service.terms(&policy),
        Request::Renew { run, token: _ } => service.renew(&caller, run, identity),
        Request::Withdraw { run, reason } => service.withdraw(&caller, run, reason),
        Request::Approvals | Request::Watch => Ok(service.visible(&service.reviewer(&caller))),
        Request::Before { id } => service.before(&caller, id),
        Request::Hits => {
            service.operator(&caller, "see what rules decided").map(|_| Reply::Hits((service.hits)()))
        }
        Request::Decide { id, digest, decision } => service.decide(&caller, id, digest, decision),
        Request::Revoke { id } => service.revoke(&caller, id),
        Request::Review { id, note } => service.review(&caller, id, note),
        Request::Kill { session, reason } => service.kill(&caller, &session, reason),
        Request::Login { .. } | Request::LoggedIn { .. } | Request::WhoAmI | Request::Logout => {
            Err(Refusal::new(Side::Portcullis, "signing in is answered before"))
        }
        Request::Stop => may_stop(&caller),
    });
    match done.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(refusal)) => Reply::Refused(refusal),
        Err(error) => {
            tracing::error!(%error, "a control request broke");
            Reply::Refused(Refusal::new(
                Side::Portcullis,
                "the request broke the daemon's handler; see its log",
            ))
        }
    }
}

/// Lists, then passes changes on until the watcher hangs up, dies, becomes an agent or stops reading.
async fn watch(
    mut read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
    caller: Arc<Caller>,
    service: &Arc<Service>,
) -> io::Result<()> {
    let mut changes = service.approvals.subscribe();
    let named = Arc::clone(&caller);
    let unix = tokio::task::spawn_blocking(move || unix(&named)).await.map_err(io::Error::other)?;
    // A sign-in may end while they watch.
    let who = || service.as_signed_in(unix.clone(), &caller);
    send(&mut write, &service.visible(&who())).await?;
    let mut hangup = [0; 1];
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            // Nothing more is due from the watcher, so anything that arrives ends it.
            _ = read.read(&mut hangup) => return Ok(()),
        };
        if let Err(refusal) = not_an_agent(&caller, service) {
            return send(&mut write, &Reply::Refused(refusal)).await;
        }
        match change {
            Ok(entry) if service.approvals.may_see(&entry.request, &who()) => {
                send(&mut write, &Reply::Approval(entry)).await?;
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => send(&mut write, &service.visible(&who())).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

impl Service {
    fn full_status(&self) -> Status {
        let host = (self.status)();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: host.started_ms,
            mode: host.mode,
            proxy: host.proxy,
            name_servers: host.name_servers,
            hooks: host.hooks,
            runs: self.runs.list().iter().map(|run| RunBrief::from(run.as_ref())).collect(),
            policies: host.policies,
            holds: self.approvals.waiting(),
            counters: host.counters,
            problems: host.problems.into_iter().chain(self.runs.problems()).collect(),
        }
    }

    fn kill(&self, caller: &Caller, session: &str, reason: String) -> Result<Reply, Refusal> {
        let user = self.operator(caller, "end sessions")?;
        let kill = Kill { by: Some(user.clone()), reason: one_line(reason)? };
        let session = (self.kill)(session, kill).map_err(|problem| Refusal::new(Side::Client, problem))?;
        tracing::info!(%session, by = user, "an operator ended a session");
        Ok(Reply::Killed(session))
    }

    /// The name of a caller who is root or an operator.
    pub(super) fn operator(&self, caller: &Caller, what: &str) -> Result<String, Refusal> {
        // What only takes away is never made to wait for a sign-in.
        let by = self.reviewer(caller);
        if by.is_root() || by.groups.contains(&self.operators) {
            return Ok(by.user);
        }
        let who = format!("only root and group {} may {what}", self.operators);
        Err(Refusal::new(Side::Client, who))
    }

    fn visible(&self, who: &Reviewer) -> Reply {
        let mut entries = self.approvals.list();
        entries.retain(|entry| self.approvals.may_see(&entry.request, who));
        Reply::Approvals(entries)
    }

    fn before(&self, caller: &Caller, id: ApprovalId) -> Result<Reply, Refusal> {
        let by = self.reviewer(caller);
        let seen = self.visible_one(id, &by);
        let entry = seen.map_err(|error| Refusal::new(error.side(), error.to_string()))?;
        let all = self.approvals.may_see_run(&entry.request, &by);
        entry.done_before(&self.state_dir, all).map(Reply::Before).map_err(|error| {
            tracing::error!(%error, "the recordings cannot be read for a request");
            Refusal::new(Side::Portcullis, "the recordings cannot be read; the daemon's log says why")
        })
    }

    fn decide(
        &self,
        caller: &Caller,
        id: ApprovalId,
        digest: Digest,
        decision: Decision,
    ) -> Result<Reply, Refusal> {
        let by = self.decider(caller)?;
        told(
            id,
            caller,
            self.visible_one(id, &by).and_then(|_| self.approvals.decide(id, digest, by, decision)),
        )
    }

    fn revoke(&self, caller: &Caller, id: ApprovalId) -> Result<Reply, Refusal> {
        let by = self.decider(caller)?;
        told(id, caller, self.visible_one(id, &by).and_then(|_| self.approvals.revoke(id, &by)))
    }

    fn review(&self, caller: &Caller, id: ApprovalId, note: String) -> Result<Reply, Refusal> {
        let by = self.decider(caller)?;
        told(id, caller, self.visible_one(id, &by).and_then(|_| self.approvals.review(id, by, note)))
    }

    /// A request that the caller may read; others do not exist for them.
    pub(super) fn visible_one(&self, id: ApprovalId, by: &Reviewer) -> Result<Arc<Entry>, DecideError> {
        let known = self.approvals.get(id).filter(|entry| self.approvals.may_see(&entry.request, by));
        known.ok_or(DecideError::NotFound(id))
    }
}

fn told(id: ApprovalId, caller: &Caller, decided: Result<Arc<Entry>, DecideError>) -> Result<Reply, Refusal> {
    decided.map(Reply::Approval).map_err(|error| {
        tracing::warn!(approval = %id, uid = caller.uid, %error, "a decision was refused");
        Refusal::new(error.side(), error.to_string())
    })
}

/// A reason that clients are told.
pub(super) fn one_line(reason: String) -> Result<String, Refusal> {
    if reason.chars().count() <= REASON_CHARS_MAX && !reason.chars().any(char::is_control) {
        return Ok(reason);
    }
    let problem = format!("a reason is one line of at most {REASON_CHARS_MAX} characters");
    Err(Refusal::new(Side::Client, problem))
}

fn may_stop(caller: &Caller) -> Result<Reply, Refusal> {
    if caller.uid != 0 {
        return Err(Refusal::new(Side::Client, "only root may do this; try again with sudo"));
    }
    tracing::info!(pid = caller.pid, "asked to stop");
    Ok(Reply::Done)
}
