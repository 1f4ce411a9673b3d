//! Whose session a request belongs to: its connection's, or, where clients bring tokens themselves, that of the request's own
//! `Authorization: Bearer` (RFC 6750 section 2.1). The token goes no further than this.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::answer::{Problem, TokenProblem};
use super::client::server_name;
use super::exchange::unrecorded;
use super::session::{Client, Session};
use crate::flow::{SessionId, Side};
use crate::gate::{Denial, Unidentified};
use crate::record::event::{EndReason, Ended};
use crate::relay::in_band::{Unknown, cut_at_expiry, identify, no_token};
use crate::relay::{Relay, open_record};
use crate::run::now_ms;
use crate::secret::Secret;
use crate::upstream::http::Version;

/// Tokens that count at once on one connection. Those that have expired make room.
const TOKENS_MAX: usize = 16;

/// Sessions that one connection may begin.
const SESSIONS_MAX: usize = 128;

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
}

#[derive(Default)]
struct Inside {
    known: Vec<Known>,
    /// Whose token has expired; their last answers may still be under way.
    over: Vec<Arc<Session>>,
    /// How often a session was begun.
    begun: usize,
    /// Why the last request was let into none.
    refused: Option<Denial>,
}

/// Somebody whose token counts.
struct Known {
    /// SHA-256 of the token as it came.
    token: [u8; 32],
    expires_ms: u64,
    session: Arc<Session>,
    /// Ends the connection when the token has expired, where the policy wants that.
    cut: JoinHandle<()>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.cut.abort();
    }
}

impl Door {
    /// The session that a request belongs to. Takes its token out.
    pub(super) async fn session(&self, request: &mut Request<Incoming>) -> Result<Arc<Session>, Problem> {
        match self {
            Self::Open(session) => Ok(Arc::clone(session)),
            Self::Guarded(guarded) => guarded.session(request.headers_mut()).await,
        }
    }

    /// What the client speaks.
    pub(super) fn version(&self) -> Version {
        match self {
            Self::Open(session) => session.client.version,
            Self::Guarded(guarded) => guarded.client.version,
        }
    }

    /// A session to name in answers.
    pub(super) fn id(&self) -> SessionId {
        match self {
            Self::Open(session) => session.id(),
            Self::Guarded(guarded) => guarded.unidentified.flow().session,
        }
    }
}

impl Guarded {
    pub(super) fn new(relay: &Arc<Relay>, unidentified: Unidentified, client: Client) -> Self {
        Self { relay: Arc::clone(relay), unidentified, client, inside: Mutex::default() }
    }

    async fn session(&self, headers: &mut HeaderMap) -> Result<Arc<Session>, Problem> {
        let brought = take_token(headers);
        // Held while a token is verified, so that requests that come together have it done once.
        let mut inside = self.inside.lock().await;
        let found = match brought {
            Brought::Token(token) => self.find(&mut inside, &token).await,
            Brought::Nothing => Err((no_token(&self.unidentified), TokenProblem::Missing)),
            Brought::Several => Err((several(), TokenProblem::Invalid)),
        };
        found.map_err(|(unknown, token)| {
            inside.refused = Some(unknown.denial().clone());
            match unknown {
                Unknown::Token(denial) => Problem::unidentified(&denial, token),
                Unknown::Denied(denial) => Problem::denied(&denial),
            }
        })
    }

    async fn find(
        &self,
        inside: &mut Inside,
        token: &Secret,
    ) -> Result<Arc<Session>, (Unknown, TokenProblem)> {
        inside.leave_expired();
        let digest: [u8; 32] = Sha256::digest(token.expose()).into();
        let same = |known: &&Known| bool::from(known.token.ct_eq(&digest));
        if let Some(known) = inside.known.iter().find(same) {
            return Ok(Arc::clone(&known.session));
        }
        let invalid = |unknown| (unknown, TokenProblem::Invalid);
        if inside.known.len() >= TOKENS_MAX || inside.begun >= SESSIONS_MAX {
            return Err(invalid(too_many()));
        }
        // The first session is the one that the connection is known by.
        let unidentified = match inside.begun {
            0 => self.unidentified.clone(),
            _ => self.unidentified.once_more(),
        };
        let known = self.begin(&unidentified, token, digest).await.map_err(invalid)?;
        let session = Arc::clone(&known.session);
        inside.begun += 1;
        inside.known.push(known);
        Ok(session)
    }

    async fn begin(
        &self,
        unidentified: &Unidentified,
        token: &Secret,
        digest: [u8; 32],
    ) -> Result<Known, Unknown> {
        let relay = &self.relay;
        let admission = identify(relay, unidentified, token.expose()).await?;
        let failed = |side, reason: String| Unknown::Denied(Denial::new(side, reason, ""));
        let name = server_name(&admission, relay, &self.client);
        let name = name.map_err(|error| failed(error.side(), error.to_string()))?;
        let (flow, subject) = (admission.flow(), admission.subject());
        let record = open_record(&relay.recorder, flow, admission.run(), subject, Some(&admission));
        let record = record.map_err(|error| failed(Side::Portcullis, unrecorded(&error).detail))?;
        let expires_ms = subject.identity.as_ref().map_or(0, |identity| identity.expires_ms);
        let connection = self.unidentified.flow().session;
        let cut = {
            let (relay, admission) = (Arc::clone(relay), admission.clone());
            tokio::spawn(async move { cut_at_expiry(&relay, &admission, connection).await })
        };
        let session = Session::new(relay, *admission, self.client.clone(), name, record);
        Ok(Known { token: digest, expires_ms, session, cut })
    }

    /// Every session that was begun, and how the connection ended for somebody who was let into none.
    pub(super) async fn close(&self) -> (Vec<Arc<Session>>, Option<Ended>) {
        let mut inside = self.inside.lock().await;
        let mut sessions = std::mem::take(&mut inside.over);
        sessions.extend(inside.known.drain(..).map(|known| Arc::clone(&known.session)));
        let refused = inside.refused.take().map(|denial| Ended {
            reason: EndReason::Refused,
            side: denial.side,
            detail: Some(denial.reason),
        });
        (sessions, refused)
    }
}

impl Inside {
    /// Sessions of tokens that have expired take no more requests.
    fn leave_expired(&mut self) {
        let now = now_ms();
        let expired = self.known.extract_if(.., |known| known.expires_ms <= now);
        self.over.extend(expired.map(|known| Arc::clone(&known.session)));
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

fn several() -> Unknown {
    Unknown::Token(Denial::new(Side::Client, "the request has several Authorization fields", "send one"))
}

fn too_many() -> Unknown {
    let reason = "this connection has had as many tokens as it may have";
    Unknown::Token(Denial::new(Side::Client, reason, "open another connection"))
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
