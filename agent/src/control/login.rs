//! Signing in by the command line, and who decides by it then.

use std::sync::Arc;
use std::time::Duration;

use super::protocol::{Refusal, Reply, Request, SignedIn, Token};
use super::server::Service;
use crate::approval::Reviewer;
use crate::flow::{ApprovalId, Side};
use crate::policy::rule::StepUp;
use crate::run::caller::Caller;
use crate::run::{Subject, now_ms};
use crate::signin::{Account, AccountError, Accounts, Finished, LoginBy};

impl Service {
    /// Answers what is about signing in; may ask the provider. `None`: it is about something else.
    pub(super) async fn login(
        self: &Arc<Self>,
        request: &Request,
        caller: &Arc<Caller>,
    ) -> Option<Result<Reply, Refusal>> {
        let account = Account::of(caller);
        match request {
            Request::Login { by, approval } => Some(self.begin_login(caller, *by, *approval).await),
            Request::LoggedIn { login, answer } => {
                Some(self.finish_login(caller, login, answer.as_ref()).await)
            }
            Request::WhoAmI => Some(self.accounts().map(|accounts| {
                let found = accounts.find(account);
                Reply::Login(found.map(|(who, left)| Box::new(signed_in(&who, left))))
            })),
            Request::Logout => Some(self.accounts().map(|accounts| {
                if accounts.end(account) {
                    tracing::info!(uid = caller.uid, "signed out by the command line");
                }
                Reply::Login(None)
            })),
            Request::Status
            | Request::Run { .. }
            | Request::Terms { .. }
            | Request::Renew { .. }
            | Request::Withdraw { .. }
            | Request::Approvals
            | Request::Watch
            | Request::Decide { .. }
            | Request::Revoke { .. }
            | Request::Review { .. }
            | Request::Kill { .. }
            | Request::Stop => None,
        }
    }

    async fn begin_login(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        by: LoginBy,
        approval: Option<ApprovalId>,
    ) -> Result<Reply, Refusal> {
        let needs = match approval {
            Some(id) => self.needs(caller, id).await?,
            None => None,
        };
        let begun = self.accounts()?.begin(Account::of(caller), by, needs).await;
        let begun = begun.map_err(|error| Refusal::new(error.side(), error.to_string()))?;
        Ok(Reply::LoginAt {
            login: Token::new(begun.login.to_string()),
            url: begun.url,
            user_code: begun.user_code,
            interval_ms: milliseconds(begun.interval),
            time_left_ms: milliseconds(begun.time_left),
        })
    }

    /// What the rule behind a request that the caller may see asks of whoever approves it.
    async fn needs(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        id: ApprovalId,
    ) -> Result<Option<StepUp>, Refusal> {
        let (service, caller) = (Arc::clone(self), Arc::clone(caller));
        let found = tokio::task::spawn_blocking(move || {
            let by = service.reviewer(&caller);
            service.visible_one(id, &by).map(|entry| entry.request.step_up.clone())
        });
        let found = found.await.map_err(|error| Refusal::new(Side::Portcullis, error.to_string()))?;
        found.map_err(|error| Refusal::new(error.side(), error.to_string()))
    }

    async fn finish_login(
        &self,
        caller: &Arc<Caller>,
        login: &Token,
        answer: Option<&Token>,
    ) -> Result<Reply, Refusal> {
        let named = Arc::clone(caller);
        let host = tokio::task::spawn_blocking(move || {
            let Subject { user, login, .. } = named.subject();
            [Some(user), login.map(|login| login.user)].into_iter().flatten().collect::<Vec<_>>()
        });
        let host = host.await.map_err(|error| Refusal::new(Side::Portcullis, error.to_string()))?;
        let account = Account::of(caller);
        let answer = answer.map(Token::expose);
        let finished = self.accounts()?.finish(account, &host, login.expose(), answer).await;
        match finished {
            Ok(Finished::NotYet(interval)) => Ok(Reply::LoginWaits { interval_ms: milliseconds(interval) }),
            Ok(Finished::SignedIn(who, left)) => Ok(Reply::Login(Some(Box::new(signed_in(&who, left))))),
            Err(AccountError::OtherAnswer) => Ok(Reply::LoginWaits { interval_ms: 0 }),
            Err(
                error @ (AccountError::Provider(_)
                | AccountError::Over
                | AccountError::TooMany
                | AccountError::OtherPerson { .. }
                | AccountError::NoDevices
                | AccountError::Refused(_)
                | AccountError::NotEnough { .. }),
            ) => Err(Refusal::new(error.side(), error.to_string())),
        }
    }

    fn accounts(&self) -> Result<&Accounts, Refusal> {
        self.accounts.as_deref().ok_or_else(|| {
            let problem =
                "nobody signs in on this host: its configuration has no [login]; reviewers are Unix users";
            Refusal::new(Side::Portcullis, problem)
        })
    }

    /// Who reads and decides: the caller, as the provider knows them once they are signed in. Name look-ups may block.
    pub(super) fn reviewer(&self, caller: &Caller) -> Reviewer {
        self.as_signed_in(unix(caller), caller)
    }

    /// A Unix user as the provider knows them, while they are signed in.
    pub(super) fn as_signed_in(&self, unix: Reviewer, caller: &Caller) -> Reviewer {
        match self.accounts.as_ref().and_then(|accounts| accounts.find(Account::of(caller))) {
            Some((who, _)) => Reviewer {
                user: who.user.clone(),
                groups: who.groups.clone(),
                account: Some(unix.user),
                identity: who.identity.clone(),
                proof: who.proof.clone(),
                ..unix
            },
            None => unix,
        }
    }

    /// The same of somebody who wants to decide.
    pub(super) fn decider(&self, caller: &Caller) -> Result<Reviewer, Refusal> {
        let by = self.reviewer(caller);
        match &self.accounts {
            Some(accounts) if accounts.is_required() && by.identity.is_none() => Err(Refusal::new(
                Side::Client,
                "who decides here has to be signed in; run `portcullis login`",
            )),
            Some(_) | None => Ok(by),
        }
    }
}

/// As the host knows a caller. Name look-ups may block.
pub(super) fn unix(caller: &Caller) -> Reviewer {
    let Subject { uid, user, groups, login, .. } = caller.subject();
    Reviewer {
        uid: Some(uid),
        user,
        groups,
        pid: Some(caller.pid),
        login_uid: login.as_ref().map(|login| login.uid),
        login_user: login.map(|login| login.user),
        account: None,
        identity: None,
        proof: None,
    }
}

fn signed_in(who: &Reviewer, left: Duration) -> SignedIn {
    let (issuer, subject) = who
        .identity
        .as_ref()
        .map(|identity| (identity.issuer.clone(), identity.subject.clone()))
        .unwrap_or_default();
    let until_ms = now_ms().saturating_add(milliseconds(left));
    SignedIn { user: who.user.clone(), groups: who.groups.clone(), issuer, subject, until_ms }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
