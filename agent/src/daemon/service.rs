//! What the control socket gives access to, put together from the daemon's parts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use super::trust::Trust;
use crate::approval::Approvals;
use crate::chat::{self, Chat};
use crate::config::Config;
use crate::control::protocol::{Hook, PolicyFile};
use crate::control::server::{HostStatus, Service};
use crate::credential::Credentials;
use crate::identity::Issuers;
use crate::intercept::Counters;
use crate::policy::PolicySet;
use crate::policy::rule::PolicyHits;
use crate::policy::watch::Problem;
use crate::session::Host;
use crate::signin::Accounts;
use crate::web;

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub(super) struct HostView {
    pub(super) started: SystemTime,
    pub(super) proxy: Option<SocketAddr>,
    pub(super) trust: Arc<Trust>,
    /// Verifies tokens.
    pub(super) issuers: Arc<Issuers>,
    /// Who is signed in by the command line.
    pub(super) accounts: Option<Arc<Accounts>>,
    /// Group of the operators.
    pub(super) operators: String,
    /// Where the recordings are.
    pub(super) state_dir: PathBuf,
    /// The chats, where the configuration has some.
    pub(super) chat: Option<Arc<Chat>>,
}

/// The control socket's view of the daemon.
pub(super) fn service(
    host: &Arc<Host>,
    policies: &Arc<PolicySet>,
    approvals: &Arc<Approvals>,
    view: &HostView,
    stop: Arc<Notify>,
) -> Service {
    let find = Arc::clone(policies);
    let (status_host, status_policies, status_view) =
        (Arc::downgrade(host), Arc::clone(policies), view.clone());
    let (trust, live) = (Arc::clone(&view.trust), Arc::clone(&host.relay.live));
    let (cut, counted) = (Arc::clone(&live), Arc::clone(policies));
    Service {
        runs: Arc::clone(&host.runs),
        approvals: Arc::clone(approvals),
        policy: Box::new(move |name| find.get(name).ok_or_else(|| missing(&find, name))),
        environment: Box::new(move |run, own| trust.environment(run.id, own)),
        hits: Box::new(move || hits(&counted)),
        status: Box::new(move || match status_host.upgrade() {
            Some(host) => status(&host, &status_policies, &status_view),
            None => HostStatus::default(),
        }),
        kill: Box::new(move |session, kill| live.kill(session, kill).map_err(|error| error.to_string())),
        kill_run: Box::new(move |run, kill| cut.kill_run(run, kill)),
        issuers: Arc::clone(&view.issuers),
        accounts: view.accounts.clone(),
        operators: view.operators.clone(),
        state_dir: view.state_dir.clone(),
        stop: Box::new(move || stop.notify_one()),
    }
}

/// The chats, where the configuration wants some.
pub(super) fn chats(
    config: &Config,
    approvals: &Arc<Approvals>,
    credentials: &Credentials,
    issuers: &Arc<Issuers>,
) -> Option<Arc<Chat>> {
    let (settings, page) = config.chat.clone().zip(config.web.clone())?;
    Some(Chat::new(chat::Parts {
        settings,
        page,
        approvals: Arc::clone(approvals),
        credentials: credentials.clone(),
        issuers: Arc::clone(issuers),
    }))
}

/// The approvals page, where the configuration wants one.
pub(super) async fn page(
    config: Config,
    host: &Arc<Host>,
    policies: &Arc<PolicySet>,
    approvals: &Arc<Approvals>,
    view: &HostView,
) -> Result<Option<web::Server>, web::WebError> {
    let Some(settings) = config.web else { return Ok(None) };
    let cut = Arc::clone(&host.relay.live);
    let parts = web::Parts {
        settings,
        approvals: Arc::clone(approvals),
        runs: Arc::clone(&host.runs),
        policies: Arc::clone(policies),
        credentials: host.relay.credentials.clone(),
        issuers: Arc::clone(&view.issuers),
        operators: view.operators.clone(),
        state_dir: config.state_dir,
        kill_run: Box::new(move |run, kill| cut.kill_run(run, kill)),
        chat: view.chat.clone(),
    };
    web::Server::bind(parts).await.map(Some)
}

fn missing(policies: &PolicySet, name: &str) -> String {
    let snapshot = policies.snapshot();
    let broken = snapshot.problems.iter().find(|(path, _)| path.file_stem().is_some_and(|stem| stem == name));
    if let Some((path, problem)) = broken {
        return format!("policy `{name}` is broken: {}", located(path, problem));
    }
    let known: Vec<&str> = snapshot.policies.keys().map(String::as_str).collect();
    match known.is_empty() {
        true => format!("there is no policy `{name}`, nor any other"),
        false => format!("there is no policy `{name}`; there are: {}", known.join(", ")),
    }
}

/// A problem behind its file, as editors like it where it has a line.
fn located(path: &Path, problem: &Problem) -> String {
    match problem {
        Problem::Findings(_) => format!("{}:{problem}", path.display()),
        Problem::NameTaken { .. } | Problem::Read(_) | Problem::TooMany | Problem::Untrusted(_) => {
            format!("{}: {problem}", path.display())
        }
    }
}

fn hits(policies: &PolicySet) -> Vec<PolicyHits> {
    policies.snapshot().policies.values().map(|policy| policy.hits()).collect()
}

fn status(host: &Host, policies: &PolicySet, view: &HostView) -> HostStatus {
    let mut problems = host.runs.problems();
    if let Err(error) = host.relay.recorder.check() {
        problems.push(error.to_string());
    }
    problems.extend(view.chat.iter().flat_map(|chat| chat.problems()));
    let counters = match host.kernel.counters() {
        Ok(counters) => named(&counters),
        Err(error) => {
            problems.push(error.to_string());
            BTreeMap::new()
        }
    };
    let started = view.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    HostStatus {
        started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        // BPF LSM programs are a later layer; what is not there is not claimed.
        mode: "no-lsm".to_owned(),
        proxy: view.proxy.map(|proxy| proxy.to_string()).unwrap_or_default(),
        name_servers: host.resolver.upstream().servers().iter().map(ToString::to_string).collect(),
        hooks: host
            .kernel
            .hooks()
            .into_iter()
            .map(|(name, attached)| Hook { name: name.to_owned(), attached })
            .collect(),
        policies: policy_files(policies),
        counters,
        problems,
    }
}

/// The counters by their names.
fn named(counters: &Counters) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(counters).unwrap_or_default();
    let Some(counters) = value.as_object() else { return BTreeMap::new() };
    counters.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0))).collect()
}

fn policy_files(policies: &PolicySet) -> Vec<PolicyFile> {
    let snapshot = policies.snapshot();
    let good = snapshot.policies.values().map(|policy| PolicyFile {
        file: format!("{}.toml", policy.name),
        name: Some(policy.name.clone()),
        version: Some(policy.version.clone()),
        error: None,
    });
    let broken = snapshot.problems.iter().map(|(path, problem)| PolicyFile {
        file: path.display().to_string(),
        name: None,
        version: None,
        error: Some(problem.to_string()),
    });
    good.chain(broken).collect()
}
