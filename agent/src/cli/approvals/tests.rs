//! What people are shown of requests, and how they name them.

use super::show::short_id;
use super::*;
use crate::approval::{Content, Outcome, Request as Held, Reviewer};
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::request::side_effects::SideEffects;
use crate::request::{Effect, ObjectName};
use crate::run::Subject;
use ulid::Ulid;

fn entry(id: u128, statement: &str, outcome: Option<Outcome>) -> Arc<Entry> {
    let request = Held {
        run: RunId(Ulid(1)),
        session: SessionId(Ulid(2)),
        process: Process { tgid: 77, uid: 1500, comm: "psql".to_owned(), ..Process::default() },
        subject: Subject { uid: 1500, user: "agent".to_owned(), ..Subject::default() },
        connection: "orders-db".to_owned(),
        destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
        database: Some("shop".to_owned()),
        content: Content::new(statement.as_bytes(), &[Some(b"o'k\x1b"), None], &[Some(b"o'k\x1b"), None]),
        kinds: vec!["update".to_owned()],
        effect: Effect::Write,
        objects: vec![ObjectName { schema: Some("public".to_owned()), name: "orders".to_owned() }],
        estimated_rows: Some(51_000),
        rule: "big writes".to_owned(),
        policy: "crewai".to_owned(),
        policy_version: "0123456789abcdef".to_owned(),
        approvers: vec!["dba".to_owned()],
        in_transaction: true,
        timeout: Duration::ZERO,
        quorum: 1,
        distinct_groups: false,
        break_glass: Vec::new(),
        chat: crate::policy::rule::ChatUse::default(),
        step_up: None,
        shape: None,
        patience: None,
        side_effects: Some(SideEffects::not_asked()),
        again: Some(String::new()),
    };
    let delivered = false;
    let digest = "ab".repeat(32).parse().unwrap();
    let request = Box::new(request);
    Arc::new(Entry {
        votes: Vec::new(),
        deferred: false,
        grant: None,
        revision: 0,
        review: None,
        id: ApprovalId(Ulid(id)),
        digest,
        request,
        asked_ms: 0,
        expires_ms: 900_000,
        outcome,
        delivered,
    })
}

fn denied() -> Option<Outcome> {
    let by = Reviewer {
        uid: Some(1),
        user: "ada".to_owned(),
        groups: Vec::new(),
        pid: None,
        login_user: None,
        account: None,
        proof: None,
        login_uid: None,
        identity: None,
    };
    Some(Outcome::Denied { by, reason: "use\nstaging".to_owned(), at_ms: 0 })
}

#[test]
fn a_listing_shows_what_waits_first() {
    let entries =
        [entry(5, "UPDATE orders\n SET paid = true", None), entry(6, "DROP DATABASE shop", denied())];
    let expected = "\
ID      LEFT    EFFECT  ROWS    USER   PROCESS   RULE        STATEMENT
000005  14m 0s  write   ~51000  agent  psql[77]  big writes  UPDATE orders SET paid = true

settled lately
  000006  denied by ada: use staging  DROP DATABASE shop
";
    assert_eq!(listing(&entries, 60_000), expected);
    assert_eq!(listing(&[], 0), "nothing waits\n");
}

#[test]
fn details_hide_nothing_and_obey_nothing() {
    let text = details(&entry(5, "UPDATE orders -- \u{202e}\u{1b}[2J\nSET paid = true", None), 0);
    for expected in [
        "state:      waits, 15m 0s left\n",
        "effect:     write (update)\n",
        "objects:    public.orders\n",
        "rows:       ~51000\n",
        "target:     orders-db at 127.9.9.9:5432, database shop\n",
        "rule:       big writes (policy crewai, version 0123456789abcdef)\n",
        "caution:    it waits inside a transaction, which may hold locks\n",
        "statement:\n  UPDATE orders -- \\u{202e}\\u{1b}[2J\n  SET paid = true\n",
        "  $1 = 'o'k\\u{1b}'\n  $2 = NULL\n",
        "sets off:\n  could not be asked",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(!text.contains("CUT") && text.chars().all(|c| c == '\n' || !c.is_control()));
    let long = details(&entry(5, &"x".repeat(40_000), None), 0);
    assert!(long.contains("CUT: the statement has 40000 bytes"), "{long}");
}

#[test]
fn ids_may_be_shortened_while_they_are_unique() {
    let entries = || vec![entry(5, "a", None), entry((5 << 60) + 5, "b", None), entry(77, "c", None)];
    let found = |part: &str| match find(entries(), part) {
        Ok(entry) => entry.request.content.statement.clone(),
        Err(Failure::Failed(message) | Failure::Usage(message)) => message,
        Err(Failure::OutputGone | Failure::Told(_)) => panic!("nothing was printed"),
    };
    assert_eq!(found("002d"), "c");
    assert_eq!(found(&entries()[1].id.to_string()), "b");
    assert_eq!(found("000005"), "2 requests match `000005`; give more of the id");
    assert_eq!(found("05"), "give at least 4 characters of the id");
    assert!(found("ZZZZ\u{1b}").starts_with("no request `ZZZZ\\u{1b}` that you may see"));
    let (one, other) = (entries()[0].id, entries()[1].id);
    assert_ne!(short_id(one, &entries()), short_id(other, &entries()));
    assert_eq!(short_id(entries()[2].id, &entries()), "00002D");
}
