//! Portcullis's own connection beside a client's: as the same user, read-only, opened when there is something to ask.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::catalog;
use super::dial::{Dialled, Target};
use super::error::{LoginProblem, Stage, UpstreamError};
use super::estimate::{PlanRequest, estimate};
use super::function::{CalledFunction, WhichFunction};
use super::login::{Startup, login};
use super::query::Client;
use super::routines;
use super::side_effects::{Written, side_effects};
use super::wire::within;
use crate::credential::{Credential, Credentials};
use crate::gate::Admission;
use crate::mask::catalog::Relation;
use crate::policy::rule::PolicyVersion;
use crate::request::side_effects::SideEffects;
use crate::request::sql::catalogue::Catalogue;

/// Databases whose catalogue is kept.
const ENTRIES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Age at which a catalogue is read again though no change was seen: others change tables too.
pub const CATALOG_AGE_MAX: Duration = Duration::from_secs(60);
/// How long reading a catalogue may take, login included.
pub const CATALOG_TIME_MAX: Duration = Duration::from_secs(30);
/// How often a catalogue is read at most before its error counts. PostgreSQL describes views by what is there now, not by
/// our snapshot, so a view that somebody drops meanwhile is an error (`pg_get_viewdef`, internal error XX000).
const CATALOG_TRIES_MAX: usize = 4;
/// How long an estimate may take, login included.
pub const ESTIMATE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long asking for side effects may take, login included.
pub const SIDE_EFFECTS_TIME_MAX: Duration = Duration::from_secs(5);
/// How long it may take to find out which function an OID stands for, login included.
const FUNCTION_TIME_MAX: Duration = Duration::from_secs(5);
/// How the connection shows in `pg_stat_activity`.
const APPLICATION_NAME: &str = "portcullis";

/// The side connections of this daemon and the catalogues they read, shared between sessions that may see the same.
#[derive(Debug)]
pub struct SideConnections {
    credentials: Credentials,
    entries: Mutex<LruCache<Key, Arc<Entry>>>,
}

/// Sessions that agree in all of this share a catalogue. The address is part of it: one profile may name a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    policy: PolicyVersion,
    connection: String,
    address: std::net::SocketAddr,
    user: String,
    database: String,
}

#[derive(Debug, Default)]
struct Entry {
    relations: Kept<Vec<Relation>>,
    calls: Kept<Catalogue>,
    /// Counts the changes we know of; a catalogue read before the last one is stale.
    changes: AtomicU64,
    /// Shared by the live sessions, gone with the last of them: a connection of ours must never be what keeps a
    /// database from being dropped.
    link: Mutex<Weak<Link>>,
}

/// Locked while it is read, so that sessions that start together read it once.
type Kept<T> = tokio::sync::Mutex<Option<Read<T>>>;

#[derive(Debug)]
struct Read<T> {
    what: Arc<T>,
    at: Instant,
    changes: u64,
}

struct Link {
    admission: Admission,
    target: Target,
    credentials: Credentials,
    /// What the session itself logged in with, where asking again would give something else.
    own: Option<Credential>,
    startup: Startup,
    client: tokio::sync::Mutex<Option<Client>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("target", &self.target).finish_non_exhaustive()
    }
}

/// One session's way to ask its server. Dropping the last one of a database closes the connection.
#[derive(Clone, Debug)]
pub struct Side {
    entry: Arc<Entry>,
    link: Arc<Link>,
}

impl SideConnections {
    /// None yet; `credentials` is where their logins take the password from.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, entries: Mutex::new(LruCache::new(ENTRIES_MAX)) }
    }

    /// The side of a session that is logged in as `user` to `database` of `target`. Opens nothing yet. It logs in with the
    /// session's `own` credential, or with what the profile names then.
    #[must_use]
    pub fn side(
        &self,
        admission: &Admission,
        target: &Target,
        user: &str,
        database: &str,
        own: Option<Credential>,
    ) -> Side {
        let key = Key {
            policy: admission.policy().version.clone(),
            connection: admission.connection().name.clone(),
            address: target.address(),
            user: user.to_owned(),
            database: database.to_owned(),
        };
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.get_or_insert(key, Arc::default).clone()
        };
        let link = {
            let mut shared = entry.link.lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let link = Arc::new(self.link(admission, target, user, database, own));
                *shared = Arc::downgrade(&link);
                link
            })
        };
        Side { entry, link }
    }

    fn link(
        &self,
        admission: &Admission,
        target: &Target,
        user: &str,
        database: &str,
        own: Option<Credential>,
    ) -> Link {
        Link {
            admission: admission.clone(),
            target: target.clone(),
            credentials: self.credentials.clone(),
            own,
            startup: Startup {
                user: user.to_owned(),
                database: database.to_owned(),
                minor: 0,
                replication: None,
                parameters: vec![("application_name".to_owned(), APPLICATION_NAME.to_owned())],
                settings: admission.connection().upstream.settings.clone(),
            },
            client: tokio::sync::Mutex::new(None),
        }
    }
}

impl Side {
    /// Every relation of the database, at most [`CATALOG_AGE_MAX`] old and younger than the last change we know of.
    /// The same `Arc` as long as nothing was read anew.
    ///
    /// # Errors
    /// The server cannot be asked; nothing older is offered instead.
    pub async fn relations(&self) -> Result<Arc<Vec<Relation>>, UpstreamError> {
        self.read(&self.entry.relations, &WholeCatalog).await
    }

    /// What calls and views do, as old at most.
    ///
    /// # Errors
    /// The server cannot be asked; nothing older is offered instead.
    pub async fn calls(&self) -> Result<Arc<Catalogue>, UpstreamError> {
        self.read(&self.entry.calls, &Calls).await
    }

    async fn read<Q: Question>(
        &self,
        kept: &Kept<Q::Answer>,
        question: &Q,
    ) -> Result<Arc<Q::Answer>, UpstreamError> {
        let mut kept = kept.lock().await;
        // Before reading: a change that comes in meanwhile makes the result stale.
        let changes = self.entry.changes.load(Ordering::Acquire);
        if let Some(read) = &*kept
            && read.changes == changes
            && read.at.elapsed() < CATALOG_AGE_MAX
        {
            return Ok(Arc::clone(&read.what));
        }
        let at = Instant::now();
        let what = Arc::new(self.read_now(question).await?);
        *kept = Some(Read { what: Arc::clone(&what), at, changes });
        Ok(what)
    }

    async fn read_now<Q: Question>(&self, question: &Q) -> Result<Q::Answer, UpstreamError> {
        let mut tries = 1;
        loop {
            match self.link.ask(question, CATALOG_TIME_MAX).await {
                Err(UpstreamError::Server(report)) if tries < CATALOG_TRIES_MAX => {
                    tracing::debug!(%report, tries, "reading the catalogue again");
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// The database's structure has changed, or may have: the next [`Side::relations`] reads it again.
    pub fn changed(&self) {
        self.entry.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts the changes that sessions reported with [`Side::changed`].
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.entry.changes.load(Ordering::Acquire)
    }

    /// The planner's estimate of the rows a statement writes, or returns when it writes none. `None` when there is
    /// none to be had; rules take that for the worst.
    pub async fn estimate(&self, request: &PlanRequest<'_>) -> Option<u64> {
        match self.link.ask(request, ESTIMATE_TIME_MAX).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(%error, "the planner gives no estimate");
                None
            }
        }
    }

    /// The function that has an OID, if it can be called by it. One that an open transaction has made is not seen.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn function(&self, oid: u32) -> Result<Option<CalledFunction>, UpstreamError> {
        self.link.ask(&WhichFunction(oid), FUNCTION_TIME_MAX).await
    }

    /// What writing to relations sets off, for whoever decides about it.
    pub async fn side_effects(&self, written: &Written) -> SideEffects {
        match self.link.ask(written, SIDE_EFFECTS_TIME_MAX).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the catalogue does not say what a held statement sets off");
                SideEffects::not_asked()
            }
        }
    }
}

impl Question for Written {
    type Answer = SideEffects;

    async fn put(&self, client: &mut Client) -> Result<SideEffects, UpstreamError> {
        side_effects(client, self).await
    }
}

/// What a side connection is asked. A trait and not a closure, so that the compiler can tell that the answer's future
/// may move between threads.
pub(super) trait Question: Sync {
    type Answer: Send;

    fn put(&self, client: &mut Client) -> impl Future<Output = Result<Self::Answer, UpstreamError>> + Send;
}

struct WholeCatalog;

impl Question for WholeCatalog {
    type Answer = Vec<Relation>;

    async fn put(&self, client: &mut Client) -> Result<Vec<Relation>, UpstreamError> {
        catalog::load(client).await
    }
}

struct Calls;

impl Question for Calls {
    type Answer = Catalogue;

    async fn put(&self, client: &mut Client) -> Result<Catalogue, UpstreamError> {
        routines::load(client).await
    }
}

impl Question for PlanRequest<'_> {
    type Answer = Option<u64>;

    async fn put(&self, client: &mut Client) -> Result<Option<u64>, UpstreamError> {
        estimate(client, self).await
    }
}

impl Link {
    /// Lets `question` use the connection, which is opened if need be and kept when it is still good for the next.
    /// It is out of its place meanwhile: a question that is abandoned half-way takes the connection with it.
    async fn ask<Q: Question>(&self, question: &Q, limit: Duration) -> Result<Q::Answer, UpstreamError> {
        let conversation = async {
            let mut place = self.client.lock().await;
            if let Some(mut client) = place.take() {
                match question.put(&mut client).await {
                    // The server may have closed it since; a new one gets the same question.
                    Err(UpstreamError::Broken { .. }) => {}
                    result => return settle(&mut place, client, result),
                }
            }
            let mut client = self.connect().await?;
            let result = question.put(&mut client).await;
            settle(&mut place, client, result)
        };
        within(limit, Stage::Query, self.target.address(), conversation).await
    }

    async fn connect(&self) -> Result<Client, UpstreamError> {
        let credential = match &self.own {
            Some(own) => Some(own.clone()),
            None => self.credentials.get(&self.admission).await.map_err(LoginProblem::from)?,
        };
        let secret = credential.as_ref().map(|credential| &credential.secret);
        let dialled = Dialled { stream: self.target.redial().await?, target: self.target.clone() };
        let login = login(dialled, &self.startup, secret).await?;
        Ok(Client::new(login, self.target.address()))
    }
}

/// A connection stays in use after a success and after nothing else: what an error left behind on it is not worth
/// finding out.
fn settle<T>(
    place: &mut Option<Client>,
    client: Client,
    result: Result<T, UpstreamError>,
) -> Result<T, UpstreamError> {
    if result.is_ok() {
        *place = Some(client);
    }
    result
}
