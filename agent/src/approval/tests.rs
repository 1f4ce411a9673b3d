//! What counts as a decision, as data; and what happens to one.

use std::time::Duration;

use ulid::Ulid;

use super::request::{NotADigest, STATEMENT_SHOWN_BYTES_MAX};
use super::*;
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::request::Effect;
use crate::run::Subject;

const AGENT: u32 = 1500;

fn queue(holds_max: usize) -> Arc<Approvals> {
    Approvals::new(&Config { operators: "portcullis".to_owned(), holds_max, ..Config::default() })
}

fn request(approvers: &[&str]) -> Request {
    Request {
        run: RunId(Ulid::from_parts(1, 1)),
        session: SessionId(Ulid::from_parts(2, 2)),
        process: Process { uid: AGENT, ..Process::default() },
        subject: Subject { uid: AGENT, user: "agent".to_owned(), gid: AGENT, ..Subject::default() },
        connection: "orders-db".to_owned(),
        destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
        database: Some("shop".to_owned()),
        content: Content::new(b"DROP DATABASE shop", &[], &[]),
        kinds: vec!["drop database".to_owned()],
        effect: Effect::Admin,
        objects: Vec::new(),
        estimated_rows: None,
        rule: "no destructive DDL".to_owned(),
        policy: "crewai".to_owned(),
        policy_version: "v1".to_owned(),
        approvers: approvers.iter().map(|&name| name.to_owned()).collect(),
        in_transaction: false,
        timeout: Duration::from_secs(900),
    }
}

fn reviewer(uid: u32, groups: &[&str], login_uid: Option<u32>) -> Reviewer {
    let groups = groups.iter().map(|&name| name.to_owned()).collect();
    Reviewer {
        uid,
        user: if uid == 0 { "root".to_owned() } else { format!("u{uid}") },
        groups,
        pid: 1,
        login_uid,
    }
}

fn approve(queue: &Approvals, pending: &Pending, by: Reviewer) -> Result<Entry, DecideError> {
    let digest = queue.get(pending.id()).map_or_else(|| request(&[]).digest(), |entry| entry.digest);
    queue.decide(pending.id(), digest, by, Answer::Approve, "checked".to_owned())
}

#[tokio::test]
async fn who_may_decide() {
    // approvers of the rule, reviewer's uid, groups, login uid, what is said
    for (approvers, uid, groups, login, expected) in [
        (&["dba"][..], 1001, &["dba"][..], None, "yes"),
        (&["dba"], 1001, &["staff", "dba"], Some(1001), "yes"),
        (&["dba"], 1001, &["staff"], None, "only group dba may decide this"),
        (&["dba"], 1001, &["portcullis"], None, "only group dba may decide this"),
        (&["dba"], 0, &["root"], None, "only group dba may decide this"),
        (&["dba", "user:u1001"], 1001, &[], None, "yes"),
        (&["dba", "user:u1002"], 1001, &[], None, "only group dba, user u1002 may decide this"),
        (&["user:dba"], 1001, &["dba"], None, "only user dba may decide this"),
        (&[], 1001, &["portcullis"], None, "yes"),
        (&[], 0, &["root"], None, "yes"),
        (&[], 0, &["root"], Some(1001), "yes"),
        (&[], 1001, &["dba"], None, "only group portcullis, root may decide this"),
        // The run's own user, plainly, through sudo, and in every group there is.
        (&["dba"], AGENT, &["dba"], None, "this run acts for user id 1500; somebody else must decide"),
        (&[], AGENT, &["portcullis"], None, "this run acts for user id 1500; somebody else must decide"),
        (&[], 0, &["root"], Some(AGENT), "this run acts for user id 1500; somebody else must decide"),
        (&["dba"], 1001, &["dba"], Some(AGENT), "this run acts for user id 1500; somebody else must decide"),
        (&["user:u1500"], AGENT, &[], None, "this run acts for user id 1500; somebody else must decide"),
    ] {
        let queue = queue(8);
        let pending = queue.ask(request(approvers)).unwrap();
        let said = approve(&queue, &pending, reviewer(uid, groups, login));
        let said = said.map_or_else(|error| error.to_string(), |_| "yes".to_owned());
        assert_eq!(said, expected, "{approvers:?} {uid} {groups:?} {login:?}");
        assert_eq!(queue.waiting(), usize::from(expected != "yes"), "a refused decision changes nothing");
    }
}

#[tokio::test]
async fn the_process_that_asks_counts_as_the_asker_too() {
    let queue = queue(8);
    let mut request = request(&["dba"]);
    request.process.uid = 1001;
    let pending = queue.ask(request).unwrap();
    let said = approve(&queue, &pending, reviewer(1001, &["dba"], None)).unwrap_err();
    assert_eq!(said, DecideError::SelfReview { uid: 1001 });
}

#[tokio::test]
async fn an_approval_is_delivered_once() {
    let queue = queue(8);
    let mut pending = queue.ask(request(&["dba"])).unwrap();
    let by = reviewer(1001, &["dba"], None);
    approve(&queue, &pending, by.clone()).unwrap();
    assert!(!queue.get(pending.id()).unwrap().delivered);
    let Outcome::Approved { by: who, reason, .. } = pending.outcome().await else { panic!("not approved") };
    assert_eq!((who, reason.as_str()), (by, "checked"));
    assert!(queue.get(pending.id()).unwrap().delivered);
    assert_eq!(pending.outcome().await, Outcome::Withdrawn, "a used approval is no approval");
}

#[tokio::test]
async fn a_second_decision_changes_nothing_and_says_so() {
    let queue = queue(8);
    let mut pending = queue.ask(request(&["dba"])).unwrap();
    let digest = queue.get(pending.id()).unwrap().digest;
    let deny =
        |uid| queue.decide(pending.id(), digest, reviewer(uid, &["dba"], None), Answer::Deny, String::new());
    deny(1001).unwrap();
    assert_eq!(deny(1002).unwrap_err().to_string(), "denied by u1001 already");
    assert_eq!(deny(1001).unwrap_err().to_string(), "denied by u1001 already");
    assert!(matches!(pending.outcome().await, Outcome::Denied { by, .. } if by.uid == 1001));
}

#[tokio::test(start_paused = true)]
async fn time_denies() {
    let queue = queue(8);
    let mut awaited = queue.ask(request(&[])).unwrap();
    let forgotten = queue.ask(request(&[])).unwrap();
    assert_eq!(awaited.outcome().await, Outcome::Expired);
    // Nobody awaits this one: its time has run all the same.
    let said = approve(&queue, &forgotten, reviewer(0, &[], None)).unwrap_err();
    assert_eq!(said, DecideError::Expired);
    assert_eq!(queue.get(forgotten.id()).unwrap().outcome, Some(Outcome::Expired));
    assert_eq!(queue.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_may_be_interrupted_and_taken_up_again() {
    let queue = queue(8);
    let mut pending = queue.ask(request(&[])).unwrap();
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_secs(1), pending.outcome()).await.unwrap_err();
    }
    approve(&queue, &pending, reviewer(0, &[], None)).unwrap();
    assert!(matches!(pending.outcome().await, Outcome::Approved { .. }));
}

#[tokio::test]
async fn a_gone_asker_withdraws() {
    let queue = queue(8);
    let pending = queue.ask(request(&[])).unwrap();
    let id = pending.id();
    drop(pending);
    let entry = queue.get(id).unwrap();
    assert_eq!(entry.outcome, Some(Outcome::Withdrawn));
    let said = queue.decide(id, entry.digest, reviewer(0, &[], None), Answer::Approve, String::new());
    assert_eq!(said.unwrap_err(), DecideError::Withdrawn);
}

#[tokio::test]
async fn an_approval_of_a_gone_asker_stays_undelivered() {
    let queue = queue(8);
    let pending = queue.ask(request(&[])).unwrap();
    let id = pending.id();
    approve(&queue, &pending, reviewer(0, &[], None)).unwrap();
    drop(pending);
    let entry = queue.get(id).unwrap();
    assert!(matches!(entry.outcome, Some(Outcome::Approved { .. })) && !entry.delivered);
    // The same statement asked again waits again.
    let again = queue.ask(request(&[])).unwrap();
    assert!(queue.get(again.id()).unwrap().outcome.is_none());
}

#[tokio::test]
async fn a_decision_binds_what_was_shown() {
    let queue = queue(8);
    let pending = queue.ask(request(&[])).unwrap();
    let mut other = request(&[]);
    other.content = Content::new(b"DROP DATABASE shop2", &[], &[]);
    let said =
        queue.decide(pending.id(), other.digest(), reviewer(0, &[], None), Answer::Approve, String::new());
    assert_eq!(said.unwrap_err(), DecideError::NotWhatWasShown(pending.id()));
    assert_eq!(queue.waiting(), 1);
}

#[test]
fn every_bound_thing_changes_the_digest() {
    let changes: [fn(&mut Request); 12] = [
        |r| r.run = RunId(Ulid::from_parts(9, 9)),
        |r| r.session = SessionId(Ulid::from_parts(9, 9)),
        |r| r.destination = OriginalDst("127.9.9.9:5433".parse().unwrap()),
        |r| r.connection = "other".to_owned(),
        |r| r.database = None,
        |r| r.subject.user = "root".to_owned(),
        |r| r.subject.uid = 0,
        |r| r.process.uid = 0,
        |r| r.rule = "other".to_owned(),
        |r| r.policy = "other".to_owned(),
        |r| r.policy_version = "v2".to_owned(),
        |r| r.content = Content::new(b"DROP DATABASE shop", &[None], &[None]),
    ];
    let mut seen = std::collections::HashSet::from([request(&[]).digest()]);
    for change in changes {
        let mut request = request(&[]);
        change(&mut request);
        assert!(seen.insert(request.digest()), "{request:?}");
    }
    // Moving a boundary between fields is a change too.
    let digest = |parameters: &[Option<&[u8]>]| Content::new(b"SELECT $1, $2", parameters, parameters).sha256;
    assert_ne!(digest(&[Some(b"ab"), Some(b"c")]), digest(&[Some(b"a"), Some(b"bc")]));
    assert_ne!(digest(&[Some(b"")]), digest(&[None]));
}

#[test]
fn long_content_is_cut_for_display_and_digested_whole() {
    let mut long = "€".repeat(STATEMENT_SHOWN_BYTES_MAX);
    let one = Content::new(long.as_bytes(), &[Some(&[0xff; 1000]), None], &[Some(&[0xff; 1000]), None]);
    long.push('x');
    let other = Content::new(long.as_bytes(), &[Some(&[0xff; 1000]), None], &[Some(&[0xff; 1000]), None]);
    assert!(one.statement.len() <= STATEMENT_SHOWN_BYTES_MAX && one.statement.chars().all(|c| c == '€'));
    assert_eq!(one.statement, other.statement);
    assert_ne!(one.sha256, other.sha256);
    assert_eq!(one.parameters.len(), 2);
    assert_eq!(one.parameter_count, 2);
    assert_eq!(other.sha256.to_string().parse(), Ok(other.sha256));
    for wrong in ["", "00", &"0".repeat(63), &"+0".repeat(32), &"é".repeat(32)] {
        assert_eq!(wrong.parse::<Digest>(), Err(NotADigest), "{wrong}");
    }
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let queue = queue(2);
    let one = queue.ask(request(&[])).unwrap();
    let _two = queue.ask(request(&[])).unwrap();
    assert_eq!(queue.ask(request(&[])).err(), Some(TooManyHolds { max: 2 }));
    drop(one);
    let _three = queue.ask(request(&[])).unwrap();
    assert_eq!(queue.waiting(), 2);
}

#[tokio::test]
async fn settled_requests_are_forgotten_in_the_end() {
    let queue = queue(1);
    let first = queue.ask(request(&[])).unwrap().id();
    for _ in 0..SETTLED_KEPT {
        drop(queue.ask(request(&[])).unwrap());
    }
    assert_eq!(queue.list().len(), SETTLED_KEPT);
    let said =
        queue.decide(first, request(&[]).digest(), reviewer(0, &[], None), Answer::Deny, String::new());
    assert_eq!(said.unwrap_err(), DecideError::NotFound(first));
}

#[tokio::test]
async fn watchers_see_every_step() {
    let queue = queue(8);
    let mut watch = queue.subscribe();
    let mut pending = queue.ask(request(&[])).unwrap();
    approve(&queue, &pending, reviewer(0, &[], None)).unwrap();
    pending.outcome().await;
    let steps = [watch.recv().await, watch.recv().await, watch.recv().await].map(Result::unwrap);
    assert_eq!(
        steps.map(|entry| (entry.outcome.is_some(), entry.delivered)),
        [(false, false), (true, false), (true, true)]
    );
}

#[test]
fn who_may_read_a_request() {
    let queue = queue(8);
    for (approvers, uid, groups, expected) in [
        (&["dba"][..], 1001, &["dba"][..], true),
        (&["dba"], 1001, &["portcullis"], true),
        (&["dba"], 0, &[], true),
        (&["dba"], AGENT, &[], true),
        (&["dba"], 1001, &["staff"], false),
        (&[], 1001, &["dba"], false),
    ] {
        let may = queue.may_see(&request(approvers), &reviewer(uid, groups, None));
        assert_eq!(may, expected, "{approvers:?} {uid} {groups:?}");
    }
}
