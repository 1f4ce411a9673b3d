//! What is asked about runs: to begin one, to renew its token, to withdraw it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::protocol::{Refusal, Reply, Request, Token, TokenTerms};
use super::server::{Service, one_line};
use super::with_causes;
use crate::flow::{RunId, Side};
use crate::policy::Policy;
use crate::policy::rule::{RunRules, known_hosts_names};
use crate::relay::stop::Kill;
use crate::run::caller::Caller;
use crate::run::{Identity, Start, Subject, Withdrawal, now_ms};

/// A run that somebody wants to begin.
pub(super) struct Wanted {
    pub(super) policy: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) allow_root: bool,
    pub(super) certificates: String,
    pub(super) identity: Option<Identity>,
}

impl Service {
    /// Verifies the token of a request that has one. May ask the issuer.
    pub(super) async fn identify(&self, request: &Request) -> Result<Option<Identity>, Refusal> {
        let (policy, token) = match request {
            Request::Run { policy, token, .. } => (policy.clone(), token.as_ref()),
            Request::Renew { run, token } => {
                let known = self.runs.get(*run);
                let known =
                    known.ok_or_else(|| Refusal::new(Side::Client, format!("no run {run} is active")))?;
                (known.policy.clone(), Some(token))
            }
            Request::Status
            | Request::Terms { .. }
            | Request::Withdraw { .. }
            | Request::Approvals
            | Request::Watch
            | Request::Decide { .. }
            | Request::Login { .. }
            | Request::LoggedIn { .. }
            | Request::WhoAmI
            | Request::Logout
            | Request::Revoke { .. }
            | Request::Review { .. }
            | Request::Kill { .. }
            | Request::Stop => return Ok(None),
        };
        let policy = (self.policy)(&policy).map_err(|message| Refusal::new(Side::Policy, message))?;
        match (policy.identity.is_empty(), token) {
            (true, None) => Ok(None),
            (true, Some(_)) => Err(Refusal::new(
                Side::Client,
                format!(
                    "policy `{}` has no [identity]: nobody would look at the token; leave it out",
                    policy.name
                ),
            )),
            (false, None) => Err(Refusal::new(Side::Client, needs_token(&policy))),
            (false, Some(token)) => self.verify(&policy, token).await.map(Some),
        }
    }

    async fn verify(&self, policy: &Policy, token: &Token) -> Result<Identity, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.issuers.verify(&policy.identity, token.expose(), now).await.map_err(|error| {
            tracing::warn!(policy = policy.name, %error, "a token was refused");
            Refusal::new(error.side(), error.to_string())
        })
    }

    /// Whose tokens a policy asks for.
    pub(super) fn terms(&self, name: &str) -> Result<Reply, Refusal> {
        let policy = (self.policy)(name).map_err(|message| Refusal::new(Side::Policy, message))?;
        let terms = policy
            .identity
            .iter()
            .map(|rules| TokenTerms { issuer: rules.issuer.clone(), audience: rules.audience.clone() });
        Ok(Reply::Terms(terms.collect()))
    }

    pub(super) fn run(&self, caller: &Caller, wanted: Wanted) -> Result<Reply, Refusal> {
        let Wanted { policy: name, labels, allow_root, certificates, identity } = wanted;
        let policy = (self.policy)(&name).map_err(|message| Refusal::new(Side::Policy, message))?;
        may_run(&policy.run, &caller.subject()).map_err(|who| {
            Refusal::new(
                Side::Policy,
                format!("policy `{name}` lets only {who} start runs; see its [run] table"),
            )
        })?;
        // It may have changed while the token was verified.
        if identity.is_none() && !policy.identity.is_empty() {
            return Err(Refusal::new(Side::Client, needs_token(&policy)));
        }
        let policy_version = policy.version.clone();
        let start = Start { policy: name, policy_version, identity, labels, allow_root };
        let run = self.runs.start(start, caller).map_err(|error| {
            if error.side() == Side::Portcullis {
                tracing::error!(error = with_causes(&error), uid = caller.uid, "cannot start a run");
            }
            Refusal::new(error.side(), with_causes(&error))
        })?;
        let mut environment = (self.environment)(&run, &certificates)
            .map_err(|message| Refusal::new(Side::Portcullis, message))?;
        environment.insert("PORTCULLIS_RUN".to_owned(), run.id.to_string());
        Ok(Reply::Started {
            run: run.id,
            environment,
            ssh_hosts: known_hosts_names(&policy.connections),
            cgroup: self.runs.hierarchy().directory(&run.cgroup.path),
            expires_ms: run.standing.identity().map(|identity| identity.expires_ms),
        })
    }

    /// Only whoever started the run may renew it: a token that somebody else found is no reason to.
    pub(super) fn renew(
        &self,
        caller: &Caller,
        run: RunId,
        identity: Option<Identity>,
    ) -> Result<Reply, Refusal> {
        let known = self.runs.get(run).and_then(|run| run.subject.clone());
        if caller.uid != 0 && known.is_none_or(|subject| subject.uid != caller.uid) {
            return Err(Refusal::new(Side::Client, "only the user who started a run may renew its token"));
        }
        let identity = identity.ok_or_else(|| Refusal::new(Side::Client, "there is no token"))?;
        let (run, changed) = self.runs.renew(run, identity).map_err(|error| {
            tracing::warn!(%run, error = with_causes(&error), "a run's token is not renewed");
            Refusal::new(error.side(), with_causes(&error))
        })?;
        let expires_ms = run.standing.identity().map_or(0, |identity| identity.expires_ms);
        let told = "the run's token was renewed and says other groups or claims; connect again".to_owned();
        let ended = if changed { (self.kill_run)(run.id, &Kill { by: None, reason: told }) } else { 0 };
        tracing::info!(run = %run.id, expires_ms, ended, "a run's token is renewed");
        Ok(Reply::Renewed { expires_ms })
    }

    pub(super) fn withdraw(&self, caller: &Caller, run: RunId, reason: String) -> Result<Reply, Refusal> {
        let by = self.operator(caller, "withdraw runs")?;
        let reason = one_line(reason)?;
        let withdrawal = Withdrawal { by: by.clone(), reason: reason.clone(), at_ms: now_ms() };
        let withdrawn = self.runs.withdraw(run, &withdrawal);
        if withdrawn.runs.is_empty() {
            return Err(Refusal::new(Side::Client, format!("no run {run} is active")));
        }
        let kill = Kill { by: Some(by.clone()), reason };
        let sessions = withdrawn.touched().map(|run| (self.kill_run)(run, &kill)).sum();
        tracing::info!(%run, by, sessions, "an operator withdrew a run");
        if let Some(error) = withdrawn.forgetful {
            tracing::error!(%run, %error, "a withdrawn run cannot be remembered");
            let problem = format!("the run is withdrawn, but not beyond the daemon's next start: {error}");
            return Err(Refusal::new(Side::Portcullis, problem));
        }
        Ok(Reply::Withdrawn { sessions })
    }
}

fn needs_token(policy: &Policy) -> String {
    let issuers: Vec<String> = policy
        .identity
        .iter()
        .map(|rules| format!("{} for the audience \"{}\"", rules.issuer, rules.audience))
        .collect();
    format!(
        "policy `{}` needs a token of {}: name it with --token-file or --token-env",
        policy.name,
        issuers.join(", or of ")
    )
}

/// Whether `[run]` names this user; the error says whom it names.
fn may_run(rules: &RunRules, subject: &Subject) -> Result<(), String> {
    let open = rules.users.is_empty() && rules.groups.is_empty();
    let named = rules.users.contains(&subject.user)
        || rules.groups.iter().any(|group| subject.groups.contains(group));
    if open || named {
        return Ok(());
    }
    let users = rules.users.iter().map(|user| format!("user {user}"));
    let groups = rules.groups.iter().map(|group| format!("group {group}"));
    Err(users.chain(groups).collect::<Vec<_>>().join(", "))
}
