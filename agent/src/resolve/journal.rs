//! What one run asked, as one session of the record: each question an operation. The same question within a moment is
//! answered from here and counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::Verdict;
use super::message::Reply;
use crate::flow::{Flow, OriginalDst, Process, SessionId, Side};
use crate::policy::rule::Protocol;
use crate::record::asked::{Asked, BoundedText, Parameters, StatementSummary, Statements};
use crate::record::event::{EndReason, Ended, Intent, Outcome, OutcomeStatus, Refused, SessionOpened};
use crate::record::{Lsn, RecordError, Recorder, SessionRecord};
use crate::request::Effect;
use crate::run::RunInfo;

/// How long an answer stands for the same question again, unless it says that it holds for less.
const REPEAT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a failure stands: clients ask a second time at once, and must not wait a second time.
const FAILURE_TIME: Duration = Duration::from_secs(2);

/// Answers that may stand for questions at once; beyond it each question is one more operation.
const REPEATS_MAX: usize = 4096;

/// Operations a run may have recorded in a row, and per second in the long run: it cannot fill the disk with questions.
const OPERATIONS_BURST: f64 = 2000.0;
const OPERATIONS_PER_SECOND: f64 = 200.0;

/// Questions that one note lists; the rest is summed up.
const NOTED_MAX: usize = 50;

/// Names a question among those that were answered a moment ago. What policy says of it is part of it: a change of
/// policy makes it another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) kind: RecordType,
    pub(super) name: String,
    pub(super) allowed: bool,
}

impl Key {
    /// The question as it is recorded.
    fn text(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// What became of a question so far.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is answered: refused, the same as a moment ago, or too much.
    Said(Reply),
    /// It is this operation. Nobody may be asked before the record of it is durable, where policy wants that.
    Operation(u64, Lsn),
}

/// The record of a run's questions.
#[derive(Debug)]
pub(super) struct Journal {
    record: SessionRecord,
    recent: HashMap<Key, Recent>,
    tokens: f64,
    counted_at: Instant,
    /// Questions refused because there were too many.
    excess: u64,
}

#[derive(Debug)]
struct Recent {
    reply: Reply,
    until: Instant,
    repeats: u64,
}

impl Journal {
    /// Begins the session. `process` and `resolver` are those of the first question; `user_name` is whom the run acts
    /// for.
    pub(super) fn open(
        recorder: &Arc<Recorder>,
        run: &RunInfo,
        resolver: SocketAddr,
        process: Process,
        socket_cookie: u64,
        user_name: String,
    ) -> Result<Self, RecordError> {
        let destination = OriginalDst(resolver);
        let flow = Flow { session: SessionId::generate(), run: run.id, destination, process, socket_cookie };
        let opened = SessionOpened {
            flow,
            connection: None,
            protocol: Protocol::Dns,
            policy: run.policy.clone(),
            policy_version: run.policy_version.clone(),
            run_labels: run.labels.clone(),
            user_name: Some(user_name),
            identity: run.standing.identity(),
            through: None,
        };
        let record = recorder.session(&opened, 0)?;
        let (recent, counted_at) = (HashMap::new(), Instant::now());
        Ok(Self { record, recent, tokens: OPERATIONS_BURST, counted_at, excess: 0 })
    }

    /// Records a question before anything is done about it.
    pub(super) fn begin(&mut self, key: &Key, verdict: &Verdict, now: Instant) -> Result<Begun, RecordError> {
        if let Some(recent) = self.recent.get_mut(key).filter(|recent| recent.until > now) {
            recent.repeats += 1;
            return Ok(Begun::Said(match verdict {
                Verdict::Known(reply, _) => reply.clone(),
                Verdict::Ask(_) | Verdict::Refuse(..) => recent.reply.clone(),
            }));
        }
        if !self.has_room(now) {
            return Ok(Begun::Said(Reply::code(ResponseCode::ServFail)));
        }
        let asked = self.asked(key);
        let operation = asked.operation;
        let lsn = match verdict {
            Verdict::Refuse(denial, code) => {
                let (rule, reason) = (denial.rule.clone(), denial.reason.clone());
                let refused =
                    Refused { asked, rule, reason, side: denial.side, approval: None, status: None };
                self.record.refused(&refused)?;
                let reply = Reply::refused(*code, &denial.reason);
                self.remember(key.clone(), &reply, now);
                return Ok(Begun::Said(reply));
            }
            Verdict::Known(_, rule) => self.intent(asked, rule)?,
            Verdict::Ask(permit) => self.intent(asked, permit.rule())?,
        };
        Ok(Begun::Operation(operation, lsn))
    }

    fn intent(&mut self, asked: Asked, rule: &str) -> Result<Lsn, RecordError> {
        self.record.intent(&Intent { asked, rule: rule.to_owned(), approval: None, shadow: None })
    }

    /// Records what the agent is told.
    pub(super) fn end(
        &mut self,
        operation: u64,
        key: Key,
        reply: &Reply,
        begun: Instant,
    ) -> Result<(), RecordError> {
        let failed = reply.code == ResponseCode::ServFail;
        let outcome = Outcome {
            operation,
            status: if failed { OutcomeStatus::Failed } else { OutcomeStatus::Done },
            command_tags: told(reply),
            rows: reply.answers.len() as u64,
            elapsed_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Outcome::default()
        };
        self.record.outcome(outcome)?;
        self.remember(key, reply, Instant::now());
        Ok(())
    }

    /// Whether one more operation may be recorded; counted when not.
    fn has_room(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * OPERATIONS_PER_SECOND).min(OPERATIONS_BURST);
        self.counted_at = now;
        if self.tokens < 1.0 {
            self.excess += 1;
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Lets an answer stand for the same question for a moment.
    fn remember(&mut self, key: Key, reply: &Reply, now: Instant) {
        if self.recent.len() >= REPEATS_MAX {
            return;
        }
        let holds = match reply.answers.is_empty() {
            true if reply.code == ResponseCode::ServFail => FAILURE_TIME,
            true => REPEAT_TIME_MAX,
            false => REPEAT_TIME_MAX.min(Duration::from_secs(reply.time_to_live.into())),
        };
        if holds.is_zero() {
            return;
        }
        let repeats = self.recent.get(&key).map_or(0, |before| before.repeats);
        self.recent.insert(key, Recent { reply: reply.clone(), until: now + holds, repeats });
    }

    /// Writes down what was only counted and forgets what is over.
    pub(super) fn settle(&mut self, now: Instant) -> Result<(), RecordError> {
        let mut repeated: Vec<(String, u64)> = Vec::new();
        self.recent.retain(|key, recent| {
            if recent.repeats > 0 {
                repeated.push((key.text(), std::mem::take(&mut recent.repeats)));
            }
            recent.until > now
        });
        if !repeated.is_empty() {
            repeated.sort();
            let listed: Vec<_> =
                repeated.iter().take(NOTED_MAX).map(|(text, count)| format!("{text} {count}x")).collect();
            let rest: u64 = repeated.iter().skip(NOTED_MAX).map(|(_, count)| count).sum();
            let rest = if rest > 0 { format!(", others {rest}x") } else { String::new() };
            self.record.note(&format!("asked again and answered the same: {}{rest}", listed.join(", ")))?;
        }
        if self.excess > 0 {
            let excess = std::mem::take(&mut self.excess);
            self.record.note(&format!("{excess} more questions than may be asked at once: not answered"))?;
        }
        Ok(())
    }

    /// Ends the session.
    pub(super) fn close(mut self, reason: EndReason, side: Side) -> Result<(), RecordError> {
        let settled = self.settle(Instant::now());
        self.record.close(Ended { reason, side, detail: None })?;
        settled
    }

    fn asked(&mut self, key: &Key) -> Asked {
        let kind = format!("dns {}", key.kind.to_string().to_ascii_lowercase());
        let statement = StatementSummary {
            kind,
            effect: Effect::Read,
            reason: None,
            reads: Vec::new(),
            writes: Vec::new(),
            functions: Vec::new(),
        };
        Asked {
            operation: self.record.next_operation(),
            text: BoundedText::new(&key.text()),
            parameters: Parameters::default(),
            statements: Statements([statement].into()),
            database: None,
            estimated_rows: None,
            http: None,
            ssh: None,
        }
    }
}

/// The answer in words: the records, or why there are none.
fn told(reply: &Reply) -> Vec<String> {
    if !reply.answers.is_empty() {
        return reply.answers.iter().map(ToString::to_string).collect();
    }
    let is_empty = reply.code == ResponseCode::NoError;
    let word = if is_empty { "no such records" } else { reply.code.to_str() };
    let word = word.to_ascii_lowercase();
    vec![reply.reason.as_ref().map_or(word.clone(), |reason| format!("{word}: {reason}"))]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::RData;
    use tempfile::TempDir;

    use super::*;
    use crate::gate::Denial;
    use crate::record::event::Event;
    use crate::record::read::Catalogue;
    use crate::record::tests::CONFIG;

    struct Rig {
        journal: Journal,
        recorder: Arc<Recorder>,
        folder: TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let recorder = Recorder::open(folder.path(), CONFIG).unwrap();
            let record = recorder.session(&crate::record::tests::opened(), 0).unwrap();
            let (recent, counted_at) = (HashMap::new(), Instant::now());
            let journal = Journal { record, recent, tokens: OPERATIONS_BURST, counted_at, excess: 0 };
            Self { journal, recorder, folder }
        }

        /// Whether the question became an operation, and what was said otherwise.
        fn begin(&mut self, name: &str, verdict: &Verdict, at: Instant) -> Result<u64, Reply> {
            match self.journal.begin(&key(name, verdict), verdict, at).unwrap() {
                Begun::Operation(operation, _) => Ok(operation),
                Begun::Said(reply) => Err(reply),
            }
        }

        /// Everything recorded, in words.
        fn close(self) -> Vec<String> {
            let session = self.journal.record.id();
            self.journal.close(EndReason::Finished, Side::Client).unwrap();
            drop(self.recorder);
            let catalogue = Catalogue::open(self.folder.path()).unwrap();
            let events = catalogue.events(session).unwrap();
            let word = |event: Event| {
                if let Event::Intent(intent) = event {
                    return Some(format!("intent {}", intent.asked.text.text));
                }
                if let Event::Refused(refused) = event {
                    return Some(format!("refused {}", refused.asked.text.text));
                }
                if let Event::Outcome(outcome) = event {
                    return Some(format!("told {}", outcome.command_tags.join(" ")));
                }
                if let Event::Note(note) = event { Some(note.text) } else { None }
            };
            events.filter_map(|recorded| word(recorded.unwrap().event.unwrap())).collect()
        }
    }

    fn key(name: &str, verdict: &Verdict) -> Key {
        let allowed = !matches!(verdict, Verdict::Refuse(..));
        Key { kind: RecordType::A, name: name.to_owned(), allowed }
    }

    fn addresses(last: u8, time_to_live: u32) -> Reply {
        let answers = vec![RData::A(Ipv4Addr::new(127, 0, 0, last).into())];
        Reply { answers, time_to_live, ..Reply::code(ResponseCode::NoError) }
    }

    fn known(reply: Reply) -> Verdict {
        Verdict::Known(reply, "api".to_owned())
    }

    fn refusal() -> Verdict {
        Verdict::Refuse(Denial::new(Side::Policy, "nobody names it", ""), ResponseCode::Refused)
    }

    #[test]
    fn a_repeated_question_is_answered_the_same_and_counted() {
        let mut rig = Rig::new();
        let begun = Instant::now();
        let allowed = known(addresses(1, 60));
        let operation = rig.begin("a.test", &allowed, begun).unwrap();
        rig.journal.end(operation, key("a.test", &allowed), &addresses(1, 60), begun).unwrap();
        for _ in 0..3 {
            assert_eq!(rig.begin("a.test", &allowed, begun).unwrap_err(), addresses(1, 60));
        }
        let refused = Reply::refused(ResponseCode::Refused, "nobody names it");
        // A change of policy is seen at once.
        for _ in 0..2 {
            assert_eq!(rig.begin("a.test", &refusal(), begun).unwrap_err(), refused);
        }
        let later = begun + REPEAT_TIME_MAX + Duration::from_secs(1);
        rig.begin("a.test", &allowed, later).expect("asked anew");
        let expected = [
            "intent A a.test",
            "told 127.0.0.1",
            "refused A a.test",
            "intent A a.test",
            "asked again and answered the same: A a.test 1x, A a.test 3x",
            "told ",
        ];
        assert_eq!(rig.close(), expected, "the last was never answered");
    }

    #[test]
    fn an_answer_stands_no_longer_than_it_says() {
        let mut rig = Rig::new();
        for (name, reply, stands) in [
            ("none", addresses(1, 0), None),
            ("short", addresses(1, 1), Some(Duration::from_secs(1))),
            ("long", addresses(1, 600), Some(REPEAT_TIME_MAX)),
            ("nothing", Reply::code(ResponseCode::NXDomain), Some(REPEAT_TIME_MAX)),
            ("failed", Reply::code(ResponseCode::ServFail), Some(FAILURE_TIME)),
        ] {
            let verdict = known(reply.clone());
            let operation = rig.begin(name, &verdict, Instant::now()).unwrap();
            rig.journal.end(operation, key(name, &verdict), &reply, Instant::now()).unwrap();
            let until = rig.journal.recent.get(&key(name, &verdict)).map(|recent| recent.until);
            let left = until.map(|until| until.saturating_duration_since(Instant::now()).as_secs_f64());
            let wanted = stands.map(|stands| stands.as_secs_f64());
            assert!(left.is_none() == wanted.is_none(), "{name}: {left:?}");
            assert!((left.unwrap_or(0.0) - wanted.unwrap_or(0.0)).abs() < 0.9, "{name}: {left:?}");
        }
    }

    #[test]
    fn a_run_cannot_fill_the_record_with_questions() {
        let mut rig = Rig::new();
        let begun = rig.journal.counted_at;
        let recorded = |rig: &mut Rig, at, from: u32| {
            (from..from + 3000)
                .filter(|number| {
                    rig.begin(&format!("n{number}.test"), &refusal(), at).unwrap_err().code
                        == ResponseCode::Refused
                })
                .count()
        };
        assert_eq!(recorded(&mut rig, begun, 0), 2000);
        assert_eq!(recorded(&mut rig, begun + Duration::from_secs(2), 3000), 400);
        let said = rig.close();
        assert_eq!(said.iter().filter(|said| said.starts_with("refused")).count(), 2400);
        assert_eq!(said.last().unwrap(), "3600 more questions than may be asked at once: not answered");
    }

    #[test]
    fn notes_are_bounded() {
        let mut rig = Rig::new();
        let now = rig.journal.counted_at;
        for number in 0..NOTED_MAX + 10 {
            for _ in 0..2 {
                rig.begin(&format!("n{number:03}.test"), &refusal(), now).unwrap_err();
            }
        }
        let said = rig.close();
        let note = said.last().unwrap();
        assert!(note.ends_with("A n049.test 1x, others 10x"), "{note}");
    }
}
