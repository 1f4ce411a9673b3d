//! The resolver of agents: their DNS comes here, over UDP and TCP. Only names that policy could let a run reach are
//! asked for; every question is recorded; and which name a run was given an address for is remembered.
//!
//! A and AAAA are answered from `upstream`, aliases followed and left out; HTTPS and SVCB of the same names are empty, so
//! that no client is led to other ports or to encrypted server names; PTR of addresses that were given out and
//! `localhost` come from memory. Everything else is refused.

mod journal;
mod message;
mod service;
mod upstream;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;

use self::journal::{Begun, Journal, Key};
use self::message::{Question, Reply};
use self::upstream::Found;
use crate::flow::{Process, RunId, Side};
use crate::gate::{Denial, Gate, NamePermit};
use crate::intercept::describe;
use crate::policy::DEFAULT_RULE;
use crate::record::event::EndReason;
use crate::record::{RecordError, Recorder};
use crate::run::{RunInfo, Runs, Subject};

pub use upstream::Upstream;

/// Port of DNS (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// Questions of one run that are answered at once; others wait for them.
const QUESTIONS_AT_ONCE_MAX: usize = 64;

/// Questions of one run that are answered or wait; beyond it datagrams are dropped, as a network would.
const QUESTIONS_PER_RUN_MAX: usize = 512;

/// How long a user's groups are kept, for runs whose processes each act for themselves.
const SUBJECT_TIME_MAX: Duration = Duration::from_secs(60);

/// Users of one run remembered at once.
const SUBJECTS_MAX: usize = 64;

/// How long a PTR record and a name of this host may be kept, in seconds.
const OWN_TIME_TO_LIVE: u32 = 60;

/// How often counted questions are written down and ended runs forgotten.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);

/// Answers agents' questions.
pub struct Resolver {
    upstream: Arc<Upstream>,
    gate: Arc<Gate>,
    recorder: Arc<Recorder>,
    runs: Arc<Runs>,
    asking: Mutex<HashMap<RunId, Arc<AskingRun>>>,
}

/// Who asks, as the kernel says.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Its run.
    pub run: Arc<RunInfo>,
    /// The process.
    pub process: Process,
    /// The resolver it meant to ask.
    pub resolver: SocketAddr,
    /// The socket it asks with.
    pub socket_cookie: u64,
}

/// A run that has asked something.
struct AskingRun {
    book: Mutex<Book>,
    /// Whom its processes act for, by user and group id.
    subjects: Mutex<HashMap<(u32, u32), (Subject, Instant)>>,
    answering: Semaphore,
    waiting: Arc<Semaphore>,
}

/// A run's journal.
enum Book {
    Unopened,
    Open(Box<Journal>),
    /// The run or the daemon has ended.
    Closed,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// Its run, or the daemon, has ended meanwhile.
    #[error("its run or the daemon is at its end")]
    Over,
    /// It cannot be recorded.
    #[error("it cannot be recorded: {0}")]
    Record(#[from] RecordError),
}

/// What is to be done about a question.
enum Verdict {
    /// Said from memory, under this rule.
    Known(Reply, String),
    /// The name servers are asked.
    Ask(NamePermit),
    /// It is refused, with this code.
    Refuse(Denial, ResponseCode),
}

impl Resolver {
    /// A resolver that asks `upstream` what `gate` permits and records in `recorder`.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, gate: Arc<Gate>, recorder: Arc<Recorder>, runs: Arc<Runs>) -> Self {
        Self { upstream, gate, recorder, runs, asking: Mutex::default() }
    }

    /// Whom it asks.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Writes down what was only counted, and forgets ended runs, now and then; never returns.
    pub async fn keep_house(&self) {
        let mut interval = tokio::time::interval(HOUSEKEEPING_INTERVAL);
        loop {
            interval.tick().await;
            self.tidy_up();
        }
    }

    /// Ends every run's journal; questions are answered with a failure from then on.
    pub fn close(&self) {
        let asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        for run in asking.values() {
            run.close(EndReason::Drained, Side::Portcullis);
        }
    }

    fn tidy_up(&self) {
        let is_over = |run| self.runs.get(run).is_none();
        self.gate.forget(is_over);
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.retain(|id, run| {
            if is_over(*id) {
                run.close(EndReason::Finished, Side::Client);
                return false;
            }
            run.settle();
            true
        });
    }

    fn asking(&self, run: RunId) -> Arc<AskingRun> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(asking.entry(run).or_default())
    }

    /// Judges a question, records it, and finds its answer. What cannot be recorded is not answered.
    async fn answer(&self, asker: &Asker, run: &AskingRun, question: &Question) -> Reply {
        match self.try_answer(asker, run, question).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!(run = %asker.run.id, %error, "a question is not answered");
                Reply::code(ResponseCode::ServFail)
            }
        }
    }

    async fn try_answer(
        &self,
        asker: &Asker,
        run: &AskingRun,
        question: &Question,
    ) -> Result<Reply, Unanswered> {
        let now = Instant::now();
        let subject = run.subject(asker).await;
        let verdict = self.judge(asker, &subject, question);
        let allowed = !matches!(verdict, Verdict::Refuse(..));
        let key = Key { kind: question.kind, name: question.name.clone(), allowed };
        run.open(|| self.open_journal(asker, subject))?;
        let (operation, lsn) = match run.journal(|journal| journal.begin(&key, &verdict, now))? {
            Begun::Said(reply) => {
                self.remember(asker.run.id, question, &reply);
                return Ok(reply);
            }
            Begun::Operation(operation, lsn) => (operation, lsn),
        };
        let reply = match verdict {
            // Said already.
            Verdict::Refuse(denial, code) => Reply::refused(code, &denial.reason),
            Verdict::Known(reply, _) => reply,
            Verdict::Ask(permit) => {
                // Nobody is asked before it is on record.
                if permit.durable() {
                    self.recorder.durable(lsn).await?;
                }
                self.ask(question).await
            }
        };
        run.journal(|journal| journal.end(operation, key, &reply, now))?;
        self.remember(asker.run.id, question, &reply);
        Ok(reply)
    }

    fn judge(&self, asker: &Asker, subject: &Subject, question: &Question) -> Verdict {
        let (kind, name) = (question.kind, question.name.as_str());
        if kind == RecordType::PTR {
            return self.pointer(asker.run.id, question).map_or_else(
                || not_answered("names of addresses that this run was not given"),
                |name| Verdict::Known(own_answer(RData::PTR(PTR(name))), DEFAULT_RULE.to_owned()),
            );
        }
        let is_address = matches!(kind, RecordType::A | RecordType::AAAA);
        if !is_address && !matches!(kind, RecordType::HTTPS | RecordType::SVCB) {
            return not_answered(&format!("{kind} records"));
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Verdict::Known(localhost(kind), DEFAULT_RULE.to_owned());
        }
        match self.gate.may_resolve(&asker.run, subject, name) {
            Ok(permit) if is_address => Verdict::Ask(permit),
            Ok(permit) => Verdict::Known(Reply::code(ResponseCode::NoError), permit.rule().to_owned()),
            Err(denial) if self.upstream.is_guess(name) => Verdict::Refuse(denial, ResponseCode::NXDomain),
            Err(denial) => Verdict::Refuse(denial, ResponseCode::Refused),
        }
    }

    /// The run is told these addresses, now.
    fn remember(&self, run: RunId, question: &Question, reply: &Reply) {
        let addresses: Vec<_> = reply.answers.iter().filter_map(RData::ip_addr).collect();
        if !addresses.is_empty() {
            let holds = Duration::from_secs(reply.time_to_live.into());
            self.gate.given().remember(run, &question.name, &addresses, holds);
        }
    }

    async fn ask(&self, question: &Question) -> Reply {
        match self.upstream.ask(question.query().name(), question.kind).await {
            Ok(Found::Addresses(addresses, time_to_live)) => {
                let answers = addresses.into_iter().map(RData::from).collect();
                Reply { answers, time_to_live, ..Reply::code(ResponseCode::NoError) }
            }
            Ok(Found::Nothing(code)) => Reply::code(code),
            Err(reason) => Reply { reason: Some(reason), ..Reply::code(ResponseCode::ServFail) },
        }
    }

    /// The name that belongs to the address which a PTR question is about: one that was given out, or this host's.
    fn pointer(&self, run: RunId, question: &Question) -> Option<Name> {
        let network = question.query().name().parse_arpa_name().ok()?;
        let address = network.addr();
        let whole = if address.is_ipv4() { 32 } else { 128 };
        if network.prefix_len() != whole {
            return None;
        }
        let given = self.gate.given().of(run, address);
        let own = || [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address);
        let name = given.first().map(|name| &**name).or_else(|| own().then_some("localhost"))?;
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    fn open_journal(&self, asker: &Asker, subject: Subject) -> Result<Journal, RecordError> {
        let mut process = asker.process.clone();
        describe(&mut process);
        let (resolver, socket_cookie) = (asker.resolver, asker.socket_cookie);
        Journal::open(&self.recorder, &asker.run, resolver, process, socket_cookie, subject.user)
    }
}

impl Default for AskingRun {
    fn default() -> Self {
        Self {
            book: Mutex::new(Book::Unopened),
            subjects: Mutex::default(),
            answering: Semaphore::new(QUESTIONS_AT_ONCE_MAX),
            waiting: Arc::new(Semaphore::new(QUESTIONS_PER_RUN_MAX)),
        }
    }
}

impl AskingRun {
    fn open(&self, open: impl FnOnce() -> Result<Journal, RecordError>) -> Result<(), RecordError> {
        let mut book = self.book();
        if let Book::Unopened = *book {
            *book = Book::Open(Box::new(open()?));
        }
        Ok(())
    }

    fn journal<T>(
        &self,
        write: impl FnOnce(&mut Journal) -> Result<T, RecordError>,
    ) -> Result<T, Unanswered> {
        match &mut *self.book() {
            Book::Open(journal) => Ok(write(journal)?),
            Book::Unopened | Book::Closed => Err(Unanswered::Over),
        }
    }

    fn settle(&self) {
        if let Err(Unanswered::Record(error)) = self.journal(|journal| journal.settle(Instant::now())) {
            tracing::warn!(%error, "cannot record how often questions were asked again");
        }
    }

    fn close(&self, reason: EndReason, side: Side) {
        let book = std::mem::replace(&mut *self.book(), Book::Closed);
        if let Book::Open(journal) = book
            && let Err(error) = journal.close(reason, side)
        {
            tracing::error!(%error, "cannot record the end of a run's questions");
        }
    }

    /// A panic elsewhere cannot have left a journal half written: frames are appended whole.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom the asking process acts for. The host's name service may take its time, so it is asked on a thread of its
    /// own, and not for every question.
    async fn subject(&self, asker: &Asker) -> Subject {
        if let Some(subject) = asker.run.known_subject() {
            return subject;
        }
        let (uid, gid) = (asker.process.uid, asker.process.gid);
        if let Some(known) = self.known_subject(uid, gid) {
            return known;
        }
        let run = Arc::clone(&asker.run);
        let found = tokio::task::spawn_blocking(move || run.subject_of(uid, gid)).await;
        // In no group, when it cannot be told.
        let Ok(subject) = found else {
            return Subject { uid, user: uid.to_string(), gid, ..Subject::default() };
        };
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if subjects.len() >= SUBJECTS_MAX {
            subjects.clear();
        }
        subjects.insert((uid, gid), (subject.clone(), Instant::now()));
        subject
    }

    fn known_subject(&self, uid: u32, gid: u32) -> Option<Subject> {
        let subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let (subject, at) = subjects.get(&(uid, gid))?;
        (at.elapsed() < SUBJECT_TIME_MAX).then(|| subject.clone())
    }
}

fn not_answered(what: &str) -> Verdict {
    let reason = format!("{what} are not answered here");
    let denial = Denial::new(Side::Policy, reason, "ask for the addresses of a host");
    Verdict::Refuse(denial, ResponseCode::Refused)
}

fn own_answer(record: RData) -> Reply {
    Reply { answers: vec![record], time_to_live: OWN_TIME_TO_LIVE, ..Reply::code(ResponseCode::NoError) }
}

/// RFC 6761 section 6.3.
fn localhost(kind: RecordType) -> Reply {
    if kind == RecordType::A {
        own_answer(RData::A(A(Ipv4Addr::LOCALHOST)))
    } else if kind == RecordType::AAAA {
        own_answer(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)))
    } else {
        Reply::code(ResponseCode::NoError)
    }
}
