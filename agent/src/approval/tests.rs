//! What counts as a decision, as data; and what happens to one.

use std::time::Duration;

use ulid::Ulid;

use super::request::{NotADigest, STATEMENT_SHOWN_BYTES_MAX};
use super::reviewer::askers;
use super::*;
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::policy::rule::StepUp;
use crate::request::side_effects::{Reached, SideEffects};
use crate::request::{Effect, ObjectName};
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
        quorum: 1,
        distinct_groups: false,
        break_glass: Vec::new(),
        chat: crate::policy::rule::ChatUse::default(),
        step_up: None,
        shape: None,
        patience: None,
        side_effects: None,
        again: Some(String::new()),
    }
}

fn reviewer(uid: u32, groups: &[&str], login_uid: Option<u32>) -> Reviewer {
    let groups = groups.iter().map(|&name| name.to_owned()).collect();
    Reviewer {
        uid: Some(uid),
        identity: None,
        user: if uid == 0 { "root".to_owned() } else { format!("u{uid}") },
        groups,
        pid: Some(1),
        login_uid,
        login_user: None,
        account: None,
        proof: None,
    }
}

fn approve(queue: &Approvals, pending: &Pending, by: Reviewer) -> Result<Arc<Entry>, DecideError> {
    let digest = queue.get(pending.id()).map_or_else(|| request(&[]).digest(), |entry| entry.digest);
    queue.decide(pending.id(), digest, by, Decision::plain(Answer::Approve, "checked"))
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
    assert_eq!(said, DecideError::SelfReview { who: "user id 1001".to_owned() });
}

#[tokio::test]
async fn an_approval_is_delivered_once() {
    let queue = queue(8);
    let mut pending = queue.ask(request(&["dba"])).unwrap();
    let by = reviewer(1001, &["dba"], None);
    approve(&queue, &pending, by.clone()).unwrap();
    assert!(!queue.get(pending.id()).unwrap().delivered);
    let Settled::As(Outcome::Approved { by: who, reason, .. }) = pending.outcome().await else {
        panic!("not approved")
    };
    assert_eq!((who, reason.as_str()), (by, "checked"));
    assert!(queue.get(pending.id()).unwrap().delivered);
    assert_eq!(pending.outcome().await, Settled::As(Outcome::Withdrawn), "a used approval is no approval");
}

#[tokio::test]
async fn a_second_decision_changes_nothing_and_says_so() {
    let queue = queue(8);
    let mut pending = queue.ask(request(&["dba"])).unwrap();
    let digest = queue.get(pending.id()).unwrap().digest;
    let deny = |uid| {
        queue.decide(pending.id(), digest, reviewer(uid, &["dba"], None), Decision::plain(Answer::Deny, ""))
    };
    deny(1001).unwrap();
    assert_eq!(deny(1002).unwrap_err().to_string(), "denied by u1001 already");
    assert_eq!(deny(1001).unwrap_err().to_string(), "denied by u1001 already");
    assert!(
        matches!(pending.outcome().await, Settled::As(Outcome::Denied { by, .. }) if by.uid == Some(1001))
    );
}

#[tokio::test(start_paused = true)]
async fn time_denies() {
    let queue = queue(8);
    let mut awaited = queue.ask(request(&[])).unwrap();
    let forgotten = queue.ask(request(&[])).unwrap();
    assert_eq!(awaited.outcome().await, Settled::As(Outcome::Expired));
    // Whoever is asked about the other one finds its time run out, too.
    let mut forgotten = forgotten;
    let id = forgotten.id();
    assert_eq!(forgotten.outcome().await, Settled::As(Outcome::Expired));
    let digest = queue.get(id).unwrap().digest;
    let said =
        queue.decide(id, digest, reviewer(0, &[], None), Decision::plain(Answer::Approve, "")).unwrap_err();
    assert_eq!(said, DecideError::Expired);
    assert_eq!(queue.get(id).unwrap().outcome, Some(Outcome::Expired));
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
    assert!(matches!(pending.outcome().await, Settled::As(Outcome::Approved { .. })));
}

#[tokio::test]
async fn a_gone_asker_withdraws() {
    let queue = queue(8);
    let pending = queue.ask(request(&[])).unwrap();
    let id = pending.id();
    drop(pending);
    let entry = queue.get(id).unwrap();
    assert_eq!(entry.outcome, Some(Outcome::Withdrawn));
    let said = queue.decide(id, entry.digest, reviewer(0, &[], None), Decision::plain(Answer::Approve, ""));
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
    let said = queue.decide(
        pending.id(),
        other.digest(),
        reviewer(0, &[], None),
        Decision::plain(Answer::Approve, ""),
    );
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
    assert_eq!(queue.ask(request(&[])).err(), Some(TooManyHolds::InAll { max: 2 }));
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
        queue.decide(first, request(&[]).digest(), reviewer(0, &[], None), Decision::plain(Answer::Deny, ""));
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

/// A rule of two people, each for another group, with a glass for the people on call.
fn of_two() -> Request {
    Request {
        quorum: 2,
        distinct_groups: true,
        break_glass: vec!["oncall".to_owned()],
        ..request(&["dba", "security"])
    }
}

fn vote(
    queue: &Approvals,
    id: ApprovalId,
    by: Reviewer,
    decision: Decision,
) -> Result<Arc<Entry>, DecideError> {
    queue.decide(id, queue.get(id).map_or_else(|| request(&[]).digest(), |entry| entry.digest), by, decision)
}

fn yes() -> Decision {
    Decision::plain(Answer::Approve, "yes")
}

#[tokio::test]
async fn a_quorum_is_of_distinct_persons_for_distinct_groups() {
    // reviewers in order; whether the last one is enough
    for (voters, expected) in [
        (&[(1001, &["dba"][..]), (1002, &["security"])][..], true),
        (&[(1001, &["dba"]), (1002, &["dba"])], false),
        // Somebody in both groups stands for one of them, whichever the others leave.
        (&[(1001, &["dba", "security"])], false),
        (&[(1001, &["dba", "security"]), (1002, &["dba"])], true),
        (&[(1001, &["dba", "security"]), (1002, &["security"])], true),
        (&[(1001, &["dba", "security"]), (1002, &["dba", "security"])], true),
    ] {
        let queue = queue(8);
        let pending = queue.ask(of_two()).unwrap();
        for (uid, groups) in voters {
            vote(&queue, pending.id(), reviewer(*uid, groups, None), yes()).unwrap();
        }
        let settled = queue.get(pending.id()).unwrap();
        assert_eq!(settled.outcome.is_some(), expected, "{voters:?}");
    }
    let queue = queue(8);
    let pending = queue.ask(of_two()).unwrap();
    vote(&queue, pending.id(), reviewer(1001, &["dba", "security"], None), yes()).unwrap();
    // Twice the same person: plainly, by sudo, and as somebody whom a provider knows by the same name.
    let mut by_token = reviewer(1003, &["security"], None);
    by_token.identity = Some(Arc::new(identity("ada", &[("preferred_username", "u1001")])));
    for again in
        [reviewer(1001, &["dba", "security"], None), reviewer(1002, &["security"], Some(1001)), by_token]
    {
        let said = vote(&queue, pending.id(), again, yes()).unwrap_err();
        assert_eq!(said, DecideError::VotedAlready);
    }
    // One word against it is enough.
    vote(&queue, pending.id(), reviewer(1002, &["security"], None), Decision::plain(Answer::Deny, "no"))
        .unwrap();
    assert!(matches!(queue.get(pending.id()).unwrap().outcome, Some(Outcome::Denied { .. })));
}

fn identity(subject: &str, claims: &[(&str, &str)]) -> crate::run::Identity {
    crate::run::Identity {
        issuer: "https://idp.example".to_owned(),
        subject: subject.to_owned(),
        name: None,
        groups: Vec::new(),
        groups_claim: None,
        claims: claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect(),
        expires_ms: u64::MAX,
        token: String::new(),
        meaning: String::new(),
    }
}

#[tokio::test]
async fn what_was_approved_for_one_persons_job_is_not_anothers() {
    // One subject of the issuer, as GitHub has it for a branch; two people's tokens.
    let job = |actor: &str| {
        let mut asked = again(None);
        let identity = identity("repo:acme/app:ref:refs/heads/main", &[("actor", actor)]).with_meaning();
        asked.subject.identity = Some(Arc::new(identity));
        asked
    };
    let queue = queue(8);
    let pending = queue.ask(job("alice")).unwrap();
    let lasting = Decision { scope: Scope::Operation { for_ms: 60_000, uses: 5 }, ..yes() };
    vote(&queue, pending.id(), reviewer(1001, &["dba"], None), lasting).unwrap();
    assert!(!queue.ask(job("bob")).unwrap().is_decided(), "he may be who approved it");
    assert!(queue.ask(job("alice")).unwrap().is_decided());
}

#[tokio::test]
async fn nobody_decides_for_themselves_in_another_guise() {
    let queue = queue(8);
    let mut asked = request(&["dba"]);
    asked.subject.identity = Some(Arc::new(identity(
        "repo:acme/orders",
        &[("actor", "Octocat"), ("user_email", "ada@acme.example")],
    )));
    let pending = queue.ask(asked).unwrap();
    let with = |user: &str, subject: &str, claims: &[(&str, &str)]| Reviewer {
        user: user.to_owned(),
        identity: Some(Arc::new(identity(subject, claims))),
        ..reviewer(2001, &["dba"], None)
    };
    for (who, by) in [
        ("the token's own subject", with("x", "repo:acme/orders", &[])),
        ("whom the job's token names", with("octocat", "1", &[])),
        ("the same address", with("x", "1", &[("email", "Ada@acme.example")])),
        ("the same name elsewhere", with("x", "1", &[("preferred_username", "octocat")])),
        ("the Unix user by name", with("agent", "1", &[])),
    ] {
        let said = vote(&queue, pending.id(), by, yes());
        assert!(matches!(said, Err(DecideError::SelfReview { .. })), "{who}: {said:?}");
    }
    vote(&queue, pending.id(), with("grace", "2", &[("email", "grace@acme.example")]), yes()).unwrap();
}

#[tokio::test]
async fn glass_is_broken_by_those_named_with_a_reason_and_reviewed_by_others() {
    let queue = queue(8);
    let pending = queue.ask(of_two()).unwrap();
    let id = pending.id();
    let broken = |reason: &str| Decision { break_glass: true, ..Decision::plain(Answer::Approve, reason) };
    let oncall = || reviewer(1005, &["oncall"], None);
    assert!(vote(&queue, id, reviewer(1001, &["dba"], None), broken("now")).is_err(), "not theirs to break");
    assert_eq!(vote(&queue, id, oncall(), broken(" ")).unwrap_err(), DecideError::NoReason);
    let own = vote(&queue, id, reviewer(AGENT, &["oncall"], None), broken("now"));
    assert!(matches!(own, Err(DecideError::SelfReview { .. })), "there is no exception: {own:?}");
    assert!(vote(&queue, id, oncall(), yes()).is_err(), "who may break glass is no approver otherwise");
    let entry = vote(&queue, id, oncall(), broken("the shop is down")).unwrap();
    assert!(matches!(entry.outcome, Some(Outcome::Approved { .. })) && entry.review.is_some());
    assert_eq!(
        queue.review(id, oncall(), String::new()).unwrap_err().to_string(),
        "only group dba, group security may decide this"
    );
    let both = reviewer(1005, &["oncall", "dba"], None);
    assert_eq!(queue.review(id, both, String::new()).unwrap_err(), DecideError::OwnGlass);
    queue.review(id, reviewer(1001, &["dba"], None), "in order".to_owned()).unwrap();
    let again = queue.review(id, reviewer(1002, &["dba"], None), String::new());
    assert!(again.is_err());
    let plain = queue.ask(request(&["dba"])).unwrap();
    assert_eq!(vote(&queue, plain.id(), oncall(), broken("now")).unwrap_err(), DecideError::NoGlass);
}

/// The same operation on another connection of the same run.
fn again(shape: Option<&str>) -> Request {
    Request {
        session: SessionId::generate(),
        patience: Some(Duration::from_secs(10)),
        shape: shape.map(str::to_owned),
        ..request(&["dba"])
    }
}

async fn deferred(queue: &Arc<Approvals>) -> ApprovalId {
    let mut pending = queue.ask(again(None)).unwrap();
    assert!(matches!(pending.outcome().await, Settled::Deferred { .. }));
    pending.id()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_sent_away_takes_the_answer_when_it_comes_again() {
    let queue = queue(8);
    let id = deferred(&queue).await;
    // Before the decision it waits for the same request; going away again withdraws nothing.
    let second = queue.ask(again(None)).unwrap();
    assert_eq!(second.id(), id);
    drop(second);
    assert_eq!(queue.waiting(), 1);
    vote(&queue, id, reviewer(1001, &["dba"], None), yes()).unwrap();
    // Other bytes, another run, another policy: nothing of it is approved.
    for change in [
        |r: &mut Request| r.content = Content::new(b"DROP DATABASE shop ", &[], &[]),
        |r: &mut Request| r.run = RunId(Ulid::from_parts(9, 9)),
        |r: &mut Request| r.policy_version = "v2".to_owned(),
        |r: &mut Request| r.destination = OriginalDst("127.9.9.10:5432".parse().unwrap()),
        |r: &mut Request| r.subject.uid = 1600,
    ] {
        let mut other = again(None);
        change(&mut other);
        assert!(!queue.ask(other).unwrap().is_decided());
    }
    let mut third = queue.ask(again(None)).unwrap();
    assert!(third.is_decided() && third.id() == id);
    assert!(matches!(third.outcome().await, Settled::As(Outcome::Approved { .. })));
    let fourth = queue.ask(again(None)).unwrap();
    assert!(!fourth.is_decided() && fourth.id() != id, "once");
}

#[tokio::test(start_paused = true)]
async fn a_deferred_refusal_answers_too_and_a_reviewer_in_the_last_moment_is_heard() {
    let queue = queue(8);
    let id = deferred(&queue).await;
    vote(&queue, id, reviewer(1001, &["dba"], None), Decision::plain(Answer::Deny, "use staging")).unwrap();
    for _ in 0..3 {
        let mut pending = queue.ask(again(None)).unwrap();
        assert!(matches!(pending.outcome().await, Settled::As(Outcome::Denied { .. })));
    }
    assert_eq!(queue.waiting(), 0, "nobody is asked again");
}

#[tokio::test(start_paused = true)]
async fn what_is_deferred_survives_the_daemon_and_what_was_used_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
    let first = Approvals::open(&config).unwrap();
    let id = deferred(&first).await;
    let inline = first.ask(request(&["dba"])).unwrap();
    drop(first);
    let second = Approvals::open(&config).unwrap();
    assert_eq!(second.list().len(), 1, "what waited in line is gone with its client");
    drop(inline);
    vote(&second, id, reviewer(1001, &["dba"], None), yes()).unwrap();
    drop(second);
    let third = Approvals::open(&config).unwrap();
    let mut pending = third.ask(again(None)).unwrap();
    assert!(matches!(pending.outcome().await, Settled::As(Outcome::Approved { .. })));
    drop((pending, third));
    let fourth = Approvals::open(&config).unwrap();
    assert!(!fourth.ask(again(None)).unwrap().is_decided());
}

#[tokio::test]
async fn an_approval_covers_what_it_says_and_no_more() {
    let queue = queue(64);
    let shape = Some("DELETE FROM orders WHERE id = $1");
    let of = |id: u32, shape: Option<&str>| {
        let statement = format!("DELETE FROM orders WHERE id = {id}");
        Request { content: Content::new(statement.as_bytes(), &[], &[]), ..again(shape) }
    };
    let by = || reviewer(1001, &["dba"], None);
    let lasting = |scope: Scope| Decision { scope, ..yes() };
    let mut one = queue.ask(of(1, shape)).unwrap();
    vote(&queue, one.id(), by(), lasting(Scope::Operation { for_ms: 60_000, uses: 3 })).unwrap();
    assert!(matches!(one.outcome().await, Settled::As(Outcome::Approved { .. })));
    assert!(queue.ask(of(1, shape)).unwrap().is_decided(), "the second use");
    assert!(!queue.ask(of(2, shape)).unwrap().is_decided(), "another literal");
    assert!(queue.ask(of(1, shape)).unwrap().is_decided(), "the third use");
    assert!(!queue.ask(of(1, shape)).unwrap().is_decided(), "three uses are used up");
    let two = queue.ask(of(3, shape)).unwrap();
    vote(&queue, two.id(), by(), lasting(Scope::Shape { for_ms: 60_000, uses: 10 })).unwrap();
    assert!(queue.ask(of(4, shape)).unwrap().is_decided(), "the same shape");
    assert!(!queue.ask(of(4, None)).unwrap().is_decided(), "no shape");
    assert!(!queue.ask(of(4, Some("DELETE FROM orders"))).unwrap().is_decided(), "another shape");
    queue.revoke(two.id(), &by()).unwrap();
    assert!(!queue.ask(of(4, shape)).unwrap().is_decided(), "revoked");
    assert!(queue.revoke(two.id(), &by()).is_err());
    for scope in [
        Scope::Operation { for_ms: 0, uses: 1 },
        Scope::Operation { for_ms: GRANT_MS_MAX + 1, uses: 1 },
        Scope::Shape { for_ms: 1000, uses: 0 },
        Scope::Shape { for_ms: 1000, uses: GRANT_USES_MAX + 1 },
    ] {
        let pending = queue.ask(of(9, shape)).unwrap();
        assert_eq!(vote(&queue, pending.id(), by(), lasting(scope)).unwrap_err(), DecideError::BadScope);
    }
    let shapeless = queue.ask(of(9, None)).unwrap();
    let said = vote(&queue, shapeless.id(), by(), lasting(Scope::Shape { for_ms: 1000, uses: 1 }));
    assert_eq!(said.unwrap_err(), DecideError::NoShape);
}

#[tokio::test]
async fn one_run_cannot_keep_the_others_from_asking() {
    let config = Config { holds_max: 8, holds_per_run_max: 2, ..Config::default() };
    let queue = Approvals::new(&config);
    let _held = [queue.ask(request(&[])).unwrap(), queue.ask(request(&[])).unwrap()];
    assert_eq!(queue.ask(request(&[])).err(), Some(TooManyHolds::OfRun { max: 2 }));
    let other = Request { run: RunId(Ulid::from_parts(9, 9)), ..request(&[]) };
    assert!(queue.ask(other).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recognised_again_is_waited_for_and_approved_once() {
    let queue = queue(8);
    let only_named = || Request { again: None, ..again(Some("EXECUTE p($1)")) };
    let mut pending = queue.ask(only_named()).unwrap();
    assert_eq!(pending.outcome().await, Settled::As(Outcome::Expired), "its client is not sent away");
    let pending = queue.ask(only_named()).unwrap();
    for scope in [Scope::Operation { for_ms: 60_000, uses: 5 }, Scope::Shape { for_ms: 60_000, uses: 5 }] {
        let said = vote(&queue, pending.id(), reviewer(1001, &["dba"], None), Decision { scope, ..yes() });
        assert_eq!(said.unwrap_err(), DecideError::NotAgain);
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_text_with_another_meaning_is_another_operation() {
    let queue = queue(8);
    let id = deferred(&queue).await;
    vote(&queue, id, reviewer(1001, &["dba"], None), yes()).unwrap();
    for change in [
        |r: &mut Request| r.again = Some("search_path prod; formats [1]".to_owned()),
        |r: &mut Request| r.again = None,
        |r: &mut Request| r.kinds = vec!["delete".to_owned()],
        |r: &mut Request| r.effect = Effect::Write,
        |r: &mut Request| r.side_effects = Some(SideEffects::not_asked()),
        |r: &mut Request| {
            let name = "customers".to_owned();
            r.objects = vec![ObjectName { schema: None, name }];
        },
    ] {
        let mut other = again(None);
        change(&mut other);
        assert!(!queue.ask(other).unwrap().is_decided());
    }
    assert!(queue.ask(again(None)).unwrap().is_decided());
}

#[test]
fn a_decision_binds_what_was_shown_of_side_effects_but_for_numbers() {
    let asked = again(None);
    let shown = |rows, kind: &str| {
        let name = ObjectName { schema: Some("public".to_owned()), name: "orders".to_owned() };
        let (through, bytes, partitions) = (None, None, 0);
        let (triggers, rules, cascades) = (Vec::new(), Vec::new(), Vec::new());
        let kind = kind.to_owned();
        let reached = Reached { name, kind, through, rows, bytes, partitions, triggers, rules, cascades };
        let found = SideEffects { relations: vec![reached], ..SideEffects::default() };
        Request { side_effects: Some(found), ..asked.clone() }
    };
    let (few, many, view) = (shown(Some(1), "table"), shown(Some(9), "table"), shown(Some(1), "view"));
    assert!(few.is_same_operation(&many) && few.digest() == many.digest());
    for other in [view, asked] {
        assert!(!few.is_same_operation(&other) && few.digest() != other.digest());
    }
}

#[tokio::test]
async fn of_two_states_the_later_one_counts_however_they_reach_the_disk() {
    let store = Store::in_memory().unwrap();
    let mut early = new_entry(again(None), ApprovalId::generate(), 1);
    let mut late = early.clone();
    (early.revision, late.revision) = (1, 2);
    late.deferred = true;
    store.save(&late).unwrap();
    store.save(&early).unwrap();
    assert!(store.load().unwrap()[0].deferred);
    store.forget(&[late.id]).unwrap();
    store.save(&late).unwrap();
    assert!(store.load().unwrap().is_empty(), "what was forgotten does not come back");
}

#[tokio::test]
async fn an_explicit_refusal_goes_before_a_wider_approval() {
    let queue = queue(8);
    let shape = Some("DELETE FROM orders WHERE id = $1");
    let by = || reviewer(1001, &["dba"], None);
    let wide = queue.ask(again(shape)).unwrap();
    let scope = Scope::Shape { for_ms: 60_000, uses: 9 };
    vote(&queue, wide.id(), by(), Decision { scope, ..yes() }).unwrap();
    let mut other = again(shape);
    other.content = Content::new(b"DELETE FROM orders WHERE id = 7", &[], &[]);
    let mut entry = new_entry(other.clone(), ApprovalId::generate(), now_ms());
    entry.deferred = true;
    entry.outcome = Some(Outcome::Denied { by: by(), reason: "not this one".to_owned(), at_ms: 1 });
    queue.lock().lasting.insert(entry.id, Arc::new(entry));
    let mut pending = queue.ask(other).unwrap();
    assert!(matches!(pending.outcome().await, Settled::As(Outcome::Denied { .. })));
    assert!(queue.ask(again(shape)).unwrap().is_decided());
}

#[test]
fn a_persons_login_and_address_are_marks_too() {
    let mut asked = request(&["dba"]);
    asked.subject.login = Some(crate::run::Login { uid: 1001, user: "alice".to_owned() });
    for by in [
        reviewer(1001, &["dba"], None),
        reviewer(0, &["dba"], Some(1001)),
        Reviewer { user: "alice".to_owned(), ..reviewer(7, &["dba"], None) },
        Reviewer { login_user: Some("alice".to_owned()), ..reviewer(0, &["dba"], None) },
        Reviewer {
            identity: Some(Arc::new(identity("x", &[("email", "Alice@corp.example")]))),
            ..reviewer(9, &["dba"], None)
        },
    ] {
        assert!(askers(&asked).in_common(&by.marks()).is_some(), "{by:?}");
    }
    assert!(askers(&asked).in_common(&reviewer(1002, &["dba"], None).marks()).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_does_not_count() {
    let queue = queue(8);
    let id = deferred(&queue).await;
    vote(&queue, id, reviewer(1001, &["dba"], None), yes()).unwrap();
    let waits = {
        let other = Request { content: Content::new(b"DROP TABLE t", &[], &[]), ..again(None) };
        let mut pending = queue.ask(other).unwrap();
        assert!(matches!(pending.outcome().await, Settled::Deferred { .. }));
        pending.id()
    };
    // As with a disk that is full or gone.
    queue.store.break_down();
    let mut approved = queue.ask(again(None)).unwrap();
    assert_eq!(approved.outcome().await, Settled::As(Outcome::Withdrawn), "its use could not be remembered");
    let said = vote(&queue, waits, reviewer(1001, &["dba"], None), yes());
    assert!(matches!(said, Err(DecideError::NotRemembered(_))), "{said:?}");
    assert!(queue.get(waits).unwrap().outcome.is_none(), "nothing was decided");
    let third = Request { content: Content::new(b"DROP TABLE u", &[], &[]), ..again(None) };
    let mut pending = queue.ask(third).unwrap();
    assert_eq!(pending.outcome().await, Settled::As(Outcome::Withdrawn), "nobody is told to come again");
}

#[tokio::test(start_paused = true)]
async fn the_file_forgets_what_is_used_up() {
    let queue = queue(8);
    for _ in 0..3 {
        let id = deferred(&queue).await;
        let mut second = queue.ask(again(None)).unwrap();
        vote(&queue, id, reviewer(1001, &["dba"], None), yes()).unwrap();
        assert!(matches!(second.outcome().await, Settled::As(Outcome::Approved { .. })));
    }
    queue.tidy();
    assert!(queue.store.load().unwrap().is_empty());
}

/// Somebody who proved so many seconds ago, and by these means, who they are.
fn proved(seconds: Option<u64>, acr: Option<&str>) -> Option<Proof> {
    let auth_time_ms = seconds.map(|seconds| now_ms() - seconds * 1000);
    Some(Proof { auth_time_ms, acr: acr.map(str::to_owned) })
}

fn asks_for_proof(seconds: Option<u64>, acr: &[&str]) -> Request {
    let acr = acr.iter().map(|&value| value.to_owned()).collect();
    let step_up = StepUp { max_age: seconds.map(Duration::from_secs), acr };
    Request { step_up: Some(step_up), break_glass: vec!["oncall".to_owned()], ..request(&["dba"]) }
}

#[tokio::test]
async fn who_approves_has_proved_what_the_rule_asks_for() {
    // within, by which means; what the reviewer has; what they are told
    for (within, acr, proof, expected) in [
        (Some(300), &[][..], proved(Some(290), None), "yes"),
        (Some(300), &[], None, "who decides here has none: use `portcullis login` or the approvals page"),
        (
            Some(300),
            &[],
            proved(Some(320), None),
            "yours is 5m 20s old: sign in again (`portcullis login`, or on the approvals page)",
        ),
        (Some(300), &[], proved(None, Some("phr")), "the provider does not say how old yours is (auth_time)"),
        (Some(300), &["phr"], proved(Some(1), Some("phr")), "yes"),
        (
            Some(300),
            &["phr"],
            proved(Some(400), Some("phr")),
            "yours is 6m 40s old: sign in again (`portcullis login`, or on the approvals page)",
        ),
        (None, &["phr", "phrh"], proved(None, Some("phrh")), "yes"),
        (
            None,
            &["phr"],
            proved(Some(1), Some("pwd")),
            "yours was with pwd: sign in again (`portcullis login`, or on the approvals page)",
        ),
        (
            None,
            &["phr"],
            proved(Some(1), Some("PHR")),
            "yours was with PHR: sign in again (`portcullis login`, or on the approvals page)",
        ),
        (None, &["phr"], proved(Some(1), None), "the provider does not say with what yours was (acr)"),
        (None, &["phr"], None, "who decides here has none: use `portcullis login` or the approvals page"),
    ] {
        for break_glass in [false, true] {
            let queue = queue(8);
            let pending = queue.ask(asks_for_proof(within, acr)).unwrap();
            let by = || Reviewer { proof: proof.clone(), ..reviewer(1001, &["dba", "oncall"], None) };
            let said = vote(&queue, pending.id(), by(), Decision { break_glass, ..yes() });
            let said = said.map_or_else(|error| error.to_string(), |_| "yes".to_owned());
            assert!(said.ends_with(expected), "{within:?} {acr:?} {proof:?}: {said}");
            assert_eq!(queue.waiting(), usize::from(expected != "yes"), "{said}");
            if expected != "yes" {
                let denied = vote(&queue, pending.id(), by(), Decision::plain(Answer::Deny, "no"));
                assert!(denied.is_ok(), "a denial needs no proof");
            }
        }
    }
}

#[tokio::test]
async fn each_of_a_quorum_and_whoever_reviews_broken_glass_has_proved_it() {
    let queue = queue(8);
    let pending = queue.ask(Request { quorum: 2, ..asks_for_proof(Some(60), &[]) }).unwrap();
    let by = |uid, seconds| Reviewer { proof: proved(Some(seconds), None), ..reviewer(uid, &["dba"], None) };
    vote(&queue, pending.id(), by(1001, 1), yes()).unwrap();
    assert!(matches!(vote(&queue, pending.id(), by(1002, 100), yes()), Err(DecideError::StepUp { .. })));
    assert_eq!((queue.waiting(), queue.get(pending.id()).unwrap().votes.len()), (1, 1));
    let oncall = Reviewer { groups: vec!["oncall".to_owned()], ..by(1003, 1) };
    let breaking = Decision { break_glass: true, ..yes() };
    vote(&queue, pending.id(), oncall, breaking).unwrap();
    let note = || "seen".to_owned();
    assert!(matches!(queue.review(pending.id(), by(1002, 100), note()), Err(DecideError::StepUp { .. })));
    queue.review(pending.id(), by(1002, 1), note()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_approval_covers_nothing_that_asks_more_of_whoever_gave_it() {
    let queue = queue(8);
    let id = deferred(&queue).await;
    vote(&queue, id, reviewer(1001, &["dba"], None), yes()).unwrap();
    let step_up = Some(StepUp { max_age: Some(Duration::from_secs(60)), acr: Vec::new() });
    assert!(!queue.ask(Request { step_up, ..again(None) }).unwrap().is_decided());
    assert!(queue.ask(again(None)).unwrap().is_decided());
    let written = serde_json::to_value(again(None)).unwrap();
    assert!(
        written.get("step_up").is_none(),
        "requests are read that were written before there was such a thing"
    );
}
