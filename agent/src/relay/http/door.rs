//! Whose session a request belongs to: its connection's, or, where clients bring tokens themselves, that of the request's own
//! `Authorization: Bearer` (RFC 6750 section 2.1). The token goes no further than this.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::answer::{Problem, TokenProblem};
use super::client::server_name;
use super::exchange::{head_asked, unrecorded};
use super::session::{Client, Session};
use crate::flow::{SessionId, Side};
use crate::gate::{Denial, Unidentified};
use crate::policy::DEFAULT_RULE;
use crate::record::event::{EndReason, Ended, Refused};
use crate::record::{RecordError, SessionRecord};
use crate::relay::in_band::{NotOpened, cut_at_expiry, identify, no_token};
use crate::relay::{Relay, open_record, stop};
use crate::run::now_ms;
use crate::secret::Secret;
use crate::upstream::http::Version;

/// Tokens that count at once on one connection. Those that have expired make room.
const TOKENS_MAX: usize = 16;
/// Sessions that one connection may begin.
const SESSIONS_MAX: usize = 128;
/// Refusals of one connection that are recorded and, but for the first, logged quietly.
const REFUSALS_RECORDED_MAX: u64 = 64;

/// The scheme's name, which is read without regard to case (RFC 9110 section 11.1), and the blank behind it.
const BEARER: &[u8] = b"bearer ";

/// What requests come through.
pub(super) enum Door {
    /// One session, whatever comes.
    Open(Arc<Session>),
    /// A session for each token.
    Guarded(Box<Guarded>),
}

/// A connection whose requests bring tokens.
pub(super) struct Guarded {
    relay: Arc<Relay>,
    unidentified: Unidentified,
    client: Client,
    inside: Mutex<Inside>,
    /// Held while a token is verified, so that requests that come together have it done once.
    opening: tokio::sync::Mutex<()>,
    /// The connection has had its sessions; another has to be opened.
    worn: Notify,
}

#[derive(Default)]
struct Inside {
    holders: Vec<Holder>,
    /// They take no more requests; their last answers may still be under way.
    over: Vec<Holder>,
    /// How often a session was begun.
    begun: usize,
    /// Requests that were let into none.
    refused: u64,
    /// Where those are recorded, and why the last one was refused.
    nobody: Option<(SessionRecord, Denial)>,
}

/// Somebody whose token counts, or did.
pub(super) struct Holder {
    /// SHA-256 of the token as it came.
    token: [u8; 32],
    expires_ms: u64,
    pub(super) session: Arc<Session>,
    /// Ends the connection when the token has expired, where the policy wants that: as long as anything of the session goes on.
    cut: JoinHandle<()>,
    /// By its own id it can be ended as well.
    _live: stop::Entry,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.cut.abort();
    }
}

impl Door {
    /// The session that a request belongs to. Takes its token out.
    pub(super) async fn session(&self, request: &mut Request<Incoming>) -> Result<Arc<Session>, Problem> {
        match self {
            Self::Open(session) => Ok(Arc::clone(session)),
            Self::Guarded(guarded) => guarded.session(request).await,
        }
    }

    /// What the client speaks.
    pub(super) fn version(&self) -> Version {
        match self {
            Self::Open(session) => session.client.version,
            Self::Guarded(guarded) => guarded.client.version,
        }
    }

    /// What the connection as a whole is known by.
    pub(super) fn id(&self) -> SessionId {
        match self {
            Self::Open(session) => session.id(),
            Self::Guarded(guarded) => guarded.unidentified.flow().session,
        }
    }

    /// Completes when the client should open another connection.
    pub(super) async fn worn(&self) {
        match self {
            Self::Open(_) => std::future::pending().await,
            Self::Guarded(guarded) => guarded.worn.notified().await,
        }
    }
}

impl Guarded {
    pub(super) fn new(relay: &Arc<Relay>, unidentified: Unidentified, client: Client) -> Self {
        Self {
            relay: Arc::clone(relay),
            unidentified,
            client,
            inside: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            worn: Notify::new(),
        }
    }

    async fn session(&self, request: &mut Request<Incoming>) -> Result<Arc<Session>, Problem> {
        let found = match take_token(request.headers_mut()) {
            Brought::Token(token) => {
                self.find_or_begin(&token).await.map_err(|why| (why, TokenProblem::Invalid))
            }
            Brought::Nothing => Err((no_token(&self.unidentified), TokenProblem::Missing)),
            Brought::Several => Err((several(), TokenProblem::Invalid)),
        };
        found.map_err(|(why, token)| self.refuse(request, &why, token))
    }

    async fn find_or_begin(&self, token: &Secret) -> Result<Arc<Session>, NotOpened> {
        let digest: [u8; 32] = Sha256::digest(token.expose()).into();
        if let Some(session) = self.find(&digest) {
            return Ok(session);
        }
        let _one = self.opening.lock().await;
        if let Some(session) = self.find(&digest) {
            return Ok(session);
        }
        {
            let inside = self.inside();
            if inside.holders.len() >= TOKENS_MAX || inside.begun >= SESSIONS_MAX {
                self.worn.notify_one();
                return Err(too_many());
            }
        }
        let holder = self.begin(token, digest).await?;
        let session = Arc::clone(&holder.session);
        let mut inside = self.inside();
        inside.begun += 1;
        inside.holders.push(holder);
        Ok(session)
    }

    /// The session of a token that counts: that has not expired, and that the policy as it is now was asked about.
    fn find(&self, digest: &[u8; 32]) -> Option<Arc<Session>> {
        let (mut inside, now) = (self.inside(), now_ms());
        let policy = self.relay.gate.policy_for(&self.unidentified);
        let version = policy.as_ref().map(|policy| &policy.version);
        let over = |holder: &mut Holder| {
            holder.expires_ms <= now || Some(&holder.session.admission.policy().version) != version
        };
        let left: Vec<Holder> = inside.holders.extract_if(.., over).collect();
        inside.over.extend(left);
        let found = inside.holders.iter().find(|holder| bool::from(holder.token.ct_eq(digest)));
        found.map(|holder| Arc::clone(&holder.session))
    }

    async fn begin(&self, token: &Secret, digest: [u8; 32]) -> Result<Holder, NotOpened> {
        let (relay, unidentified) = (&self.relay, self.unidentified.once_more());
        let admission = identify(relay, &unidentified, token.expose()).await?;
        let (flow, subject) = (admission.flow(), admission.subject());
        let failed = |side, reason: String| {
            NotOpened::Denied(Denial::new(side, reason, ""), Box::new(subject.clone()))
        };
        let name = server_name(&admission, relay, &self.client);
        let name = name.map_err(|error| failed(error.side(), error.to_string()))?;
        let connection = self.unidentified.flow().session;
        let live = relay.live.also(flow.session, connection);
        let live = live.ok_or_else(|| failed(Side::Portcullis, "the connection is over".to_owned()))?;
        let record = open_record(&relay.recorder, flow, admission.run(), subject, Some(&admission));
        let record = record.map_err(|error| failed(Side::Portcullis, unrecorded(&error).detail))?;
        let expires_ms = subject.identity.as_ref().map_or(0, |identity| identity.expires_ms);
        let cut = {
            let (relay, admission) = (Arc::clone(relay), admission.clone());
            tokio::spawn(async move { cut_at_expiry(&relay, &admission, admission.flow().session).await })
        };
        let session = Session::new(relay, *admission, self.client.clone(), name, record);
        Ok(Holder { token: digest, expires_ms, session, cut, _live: live })
    }

    /// Records a request that is let into no session, and says what its client is told.
    fn refuse(&self, request: &Request<Incoming>, why: &NotOpened, token: TokenProblem) -> Problem {
        let denial = why.denial();
        let problem = match why {
            NotOpened::Token(denial) => Problem::unidentified(denial, token),
            NotOpened::Denied(denial, _) => Problem::denied(denial),
        };
        let mut inside = self.inside();
        inside.refused += 1;
        let session = self.unidentified.flow().session;
        if inside.refused == 1 {
            tracing::warn!(%session, reason = denial.reason, "a client's request is let in by no token");
        }
        if inside.refused > REFUSALS_RECORDED_MAX {
            return problem;
        }
        match self.record(&mut inside, request, why, &problem) {
            Ok(()) => problem,
            Err(error) => unrecorded(&error),
        }
    }

    fn record(
        &self,
        inside: &mut Inside,
        request: &Request<Incoming>,
        why: &NotOpened,
        problem: &Problem,
    ) -> Result<(), RecordError> {
        let denial = why.denial();
        // Whom it would have been for is not the session's subject: others may come on this connection.
        let reason = match why {
            NotOpened::Denied(denial, whom) => format!("{} (it is for {})", denial.reason, whom.shown()),
            NotOpened::Token(denial) => denial.reason.clone(),
        };
        let destination = self.unidentified.flow().destination;
        let (method, uri) = (request.method(), request.uri());
        let asked = head_asked(inside.refused, self.client.scheme, destination, method, uri, &reason);
        let refused = Refused {
            asked,
            rule: DEFAULT_RULE.to_owned(),
            reason,
            side: denial.side,
            approval: None,
            status: Some(problem.status.as_u16()),
        };
        let record = match inside.nobody.take() {
            Some((record, _)) => record,
            None => self.nobodys()?,
        };
        let (record, _) = inside.nobody.insert((record, denial.clone()));
        record.refused(&refused).map(drop)
    }

    /// A record of what comes from nobody.
    pub(super) fn nobodys(&self) -> Result<SessionRecord, RecordError> {
        let (flow, run) = (self.unidentified.flow(), self.unidentified.run());
        open_record(&self.relay.recorder, flow, run, self.unidentified.subject(), None)
    }

    /// Every session that was begun, and the record of what was let into none with how it ended.
    pub(super) fn close(&self) -> (Vec<Holder>, Option<(SessionRecord, Ended)>) {
        let mut inside = self.inside();
        let mut holders = std::mem::take(&mut inside.over);
        holders.append(&mut inside.holders);
        let nobody = inside.nobody.take().map(|(record, denial)| {
            let detail = Some(denial.reason);
            (record, Ended { reason: EndReason::Refused, side: denial.side, detail })
        });
        (holders, nobody)
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Every change is one push, move or count, so a panic elsewhere leaves it whole.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request brings.
enum Brought {
    Token(Secret),
    Nothing,
    /// More than one thing.
    Several,
}

/// Takes the token out of a request's head. Nothing else of `Authorization` goes on either: it is not the server's.
fn take_token(headers: &mut HeaderMap) -> Brought {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let brought = match (values.next(), values.next()) {
        (None, _) => Brought::Nothing,
        (Some(_), Some(_)) => Brought::Several,
        (Some(value), None) => match value.as_bytes().split_at_checked(BEARER.len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER) => {
                Brought::Token(Secret::new(token.trim_ascii().to_vec()))
            }
            Some(_) | None => Brought::Nothing,
        },
    };
    headers.remove(AUTHORIZATION);
    brought
}

fn several() -> NotOpened {
    NotOpened::Token(Denial::new(Side::Client, "the request has several Authorization fields", "send one"))
}

fn too_many() -> NotOpened {
    let reason = "this connection has had as many tokens as it may have";
    NotOpened::Token(Denial::new(Side::Client, reason, "open another connection"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_is_taken_out_of_the_head() {
        let brought = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            let brought = take_token(&mut headers);
            assert!(headers.is_empty(), "nothing of it goes on");
            match brought {
                Brought::Token(token) => String::from_utf8(token.expose().to_vec()).unwrap(),
                Brought::Nothing => "nothing".to_owned(),
                Brought::Several => "several".to_owned(),
            }
        };
        assert_eq!(brought(&["Bearer a.b.c"]), "a.b.c");
        assert_eq!(brought(&["bEARER   a.b.c "]), "a.b.c");
        for none in ["Basic YTpi", "Bearer", "Bear", "", "Bearera.b.c"] {
            assert_eq!(brought(&[none]), "nothing", "{none}");
        }
        assert_eq!(brought(&[]), "nothing");
        assert_eq!(brought(&["Bearer a", "Bearer b"]), "several");
    }
}
