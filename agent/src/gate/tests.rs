//! The gate against data: who is admitted where, what is judged how, and what a change of policy does to both.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::approval::{Answer, Content, Digest};
use crate::approval::{Decision, Request, Reviewer};
use crate::config::Config;
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::policy::rule::Protocol;
use crate::request::Effect;
use crate::request::sql::analyze;
use crate::run::{CgroupRef, How};

const POLICY: &str = r#"
version = 1
name = "shop"

[[connection]]
name = "orders"
to = ["127.9.9.9:5432", "127.10.0.0/16:6000"]
protocol = "postgres"
upstream = { user = "app", tls = "disable" }

[[connection]]
name = "payroll"
to = ["127.9.9.10:5432"]
protocol = "postgres"
groups = ["finance"]
upstream = { user = "app", tls = "disable" }

[[guard]]
name = "bulk"
on = "postgres"
effect = ["write"]
estimated_rows = "> 100"
action = "hold"
approvers = ["dba"]

[[guard]]
name = "small"
on = "postgres"
effect = ["write"]
action = "allow"

[[guard]]
name = "drops"
on = "postgres"
kind = ["drop *"]
action = "deny"

[[guard]]
name = "migrations"
on = "postgres"
effect = ["ddl"]
action = "hold"
in_transaction = "hold"
approvers = ["dba"]

[[guard]]
name = "secret schema"
on = "postgres"
objects = ["secret.*"]
action = "deny"

[record]
durable = ["write", "ddl"]
"#;

struct Rig {
    gate: Gate,
    policies: Arc<PolicySet>,
    approvals: Arc<Approvals>,
    file: PathBuf,
    _folder: TempDir,
}

impl Rig {
    fn new(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.toml");
        std::fs::write(&file, policy).unwrap();
        let policies = Arc::new(PolicySet::load_dir(folder.path()));
        assert!(policies.get("shop").is_some(), "{:?}", policies.snapshot().problems);
        let approvals = Approvals::new(&Config::default());
        let gate = Gate::new(Arc::clone(&policies), Arc::clone(&approvals));
        Self { gate, policies, approvals, file, _folder: folder }
    }

    fn reload(&self, policy: &str) {
        std::fs::write(&self.file, policy).unwrap();
        self.policies.reload();
    }

    async fn admit(&self, destination: &str, groups: &[&str]) -> Admitted {
        let (run, subject) = (Self::run(), Self::subject(groups));
        self.admit_of(&run, destination, subject).await
    }

    async fn admit_of(&self, run: &Arc<RunInfo>, destination: &str, subject: Subject) -> Admitted {
        let flow = Arc::new(Flow {
            session: SessionId::generate(),
            run: run.id,
            destination: OriginalDst(destination.parse().unwrap()),
            process: Process::default(),
            socket_cookie: 0,
        });
        self.gate.admit(&flow, run, subject).await
    }

    fn run() -> Arc<RunInfo> {
        Arc::new(RunInfo {
            standing: crate::run::Standing::default(),
            id: RunId::generate(),
            policy: "shop".to_owned(),
            policy_version: "at start".to_owned(),
            subject: None,
            labels: std::collections::BTreeMap::new(),
            started_ms: 0,
            how: How::Started { pid: 1 },
            cgroup: CgroupRef { path: "/test".to_owned(), id: 1 },
        })
    }

    fn subject(groups: &[&str]) -> Subject {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Subject { uid: 1000, user: "agent".to_owned(), gid: 1000, groups, identity: None, login: None }
    }

    async fn admission(&self) -> Admission {
        match self.admit("127.9.9.9:5432", &[]).await {
            Admitted::Yes(admission) => *admission,
            other @ (Admitted::Asks(_) | Admitted::No(_)) => panic!("{other:?}"),
        }
    }

    /// One word for the judgement, and the rule.
    fn judge(&self, admission: &Admission, sql: &str, with: With<'_>) -> (&'static str, String) {
        match self.judgement(admission, sql, with) {
            Judgement::Deny(denial) => ("deny", denial.rule),
            Judgement::Estimate => ("estimate", String::new()),
            Judgement::Hold(hold) => ("hold", hold.rule),
            Judgement::Permit(permit) if permit.durable() => ("durable", permit.rule),
            Judgement::Permit(permit) => ("permit", permit.rule),
        }
    }

    fn judgement(&self, admission: &Admission, sql: &str, with: With<'_>) -> Judgement {
        let analysis = analyze(sql);
        let With { estimates, taint, dependence, locks, search_path } = with;
        let (database, analysis) = ("shop", &analysis);
        let operation = Operation { database, analysis, estimates, taint, dependence, locks, search_path };
        self.gate.judge(admission, &operation)
    }

    fn ask(&self, admission: &Admission, sql: &str) -> Held {
        let Judgement::Hold(hold) = self.judgement(admission, sql, With::default()) else {
            panic!("{sql} is not held")
        };
        let request = Request {
            run: admission.flow().run,
            session: admission.flow().session,
            process: admission.flow().process.clone(),
            subject: admission.subject().clone(),
            connection: admission.connection().name.clone(),
            destination: admission.flow().destination,
            database: None,
            content: Content::new(sql.as_bytes(), &[], &[]),
            kinds: Vec::new(),
            effect: Effect::Ddl,
            objects: Vec::new(),
            estimated_rows: None,
            rule: hold.rule().to_owned(),
            policy: admission.policy().name.clone(),
            policy_version: hold.policy_version().clone(),
            approvers: hold.terms().approvers.clone(),
            in_transaction: false,
            timeout: Duration::from_secs(60),
            quorum: 1,
            distinct_groups: false,
            break_glass: Vec::new(),
            chat: crate::policy::rule::ChatUse::default(),
            step_up: None,
            shape: None,
            patience: None,
            side_effects: None,
            again: Some(String::new()),
        };
        hold.ask(&self.gate, request).unwrap()
    }

    fn decide(&self, held: &Held, answer: Answer) {
        let by = Reviewer {
            uid: Some(2000),
            user: "dora".to_owned(),
            groups: vec!["dba".to_owned()],
            pid: Some(7),
            login_user: None,
            account: None,
            proof: None,
            login_uid: None,
            identity: None,
        };
        let digest: Digest = self.approvals.get(held.id()).unwrap().digest;
        self.approvals.decide(held.id(), digest, by, Decision::plain(answer, "because")).unwrap();
    }
}

#[derive(Clone, Copy)]
struct With<'a> {
    estimates: Option<&'a [Option<u64>]>,
    taint: Taint,
    dependence: Option<&'a Dependence>,
    locks: bool,
    search_path: Option<&'a [String]>,
}

impl Default for With<'_> {
    fn default() -> Self {
        Self { estimates: None, taint: Taint::Clean, dependence: None, locks: false, search_path: None }
    }
}

#[tokio::test]
async fn a_flow_is_admitted_to_the_connection_that_names_its_destination() {
    let rig = Rig::new(POLICY);
    let cases: [(&str, &[&str], Option<&str>); 8] = [
        ("127.9.9.9:5432", &[], Some("orders")),
        ("[::ffff:127.9.9.9]:5432", &[], Some("orders")),
        ("127.10.200.3:6000", &[], Some("orders")),
        ("127.10.200.3:5432", &[], None),
        ("127.9.9.9:5433", &[], None),
        ("127.9.9.10:5432", &["finance", "staff"], Some("payroll")),
        ("127.9.9.10:5432", &["staff"], None),
        ("127.9.9.10:5432", &[], None),
    ];
    for (destination, groups, expected) in cases {
        let admitted = match rig.admit(destination, groups).await {
            Admitted::Yes(admission) => Some(admission.connection().name.clone()),
            Admitted::Asks(_) | Admitted::No(_) => None,
        };
        assert_eq!(admitted.as_deref(), expected, "{destination} {groups:?}");
    }
}

#[tokio::test]
async fn without_its_policy_nothing_is_admitted_or_judged() {
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    std::fs::remove_file(&rig.file).unwrap();
    rig.policies.reload();
    assert!(matches!(rig.admit("127.9.9.9:5432", &[]).await, Admitted::No(_)));
    assert_eq!(rig.judge(&admission, "SELECT 1", With::default()).0, "deny");
}

#[tokio::test]
async fn destinations_that_no_connection_names_are_recorded_where_the_policy_says_so() {
    let rig = Rig::new(&format!("{POLICY}\n[egress]\ndefault = \"record\"\n"));
    let Admitted::Yes(admission) = rig.admit("127.1.1.1:80", &[]).await else { panic!("denied") };
    assert_eq!(
        (admission.connection().protocol, admission.connection().name.as_str()),
        (Protocol::Opaque, UNNAMED_CONNECTION)
    );
    assert!(matches!(rig.admit("127.9.9.10:5432", &[]).await, Admitted::No(_)), "named, for others");
}

#[tokio::test]
async fn operations_are_judged_by_the_first_rule_that_fits() {
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    let public = ["public".to_owned()];
    let secret = ["secret".to_owned()];
    let base = With::default();
    let path = |path| With { search_path: Some(path), ..base };
    let rows = |rows: &'static [Option<u64>]| With { estimates: Some(rows), ..base };
    let cases: [(&str, With<'_>, &str, &str); 16] = [
        ("", base, "permit", "default"),
        ("SELECT 1", base, "permit", "default"),
        ("SELECT * FROM orders", base, "deny", "secret schema"),
        ("SELECT * FROM orders", path(&public), "permit", "default"),
        ("SELECT * FROM orders", path(&secret), "deny", "secret schema"),
        ("SELECT * FROM secret.orders", path(&public), "deny", "secret schema"),
        ("DELETE FROM orders WHERE id = 1", base, "estimate", ""),
        ("DELETE FROM orders WHERE id = 1", rows(&[Some(1)]), "durable", "small"),
        ("DELETE FROM orders WHERE id = 1", rows(&[Some(101)]), "hold", "bulk"),
        ("DELETE FROM orders WHERE id = 1", rows(&[None]), "hold", "bulk"),
        ("DELETE FROM orders WHERE id = 1", rows(&[]), "hold", "bulk"),
        ("DELETE FROM orders", With { locks: true, ..rows(&[Some(101)]) }, "deny", "bulk"),
        ("CREATE TABLE t (a int)", With { locks: true, ..base }, "hold", "migrations"),
        ("SELECT 1; DROP TABLE orders", base, "deny", "drops"),
        ("DO $$ BEGIN END $$", base, "hold", "default"),
        ("this is not SQL", base, "hold", "default"),
    ];
    for (sql, with, verdict, rule) in cases {
        assert_eq!(rig.judge(&admission, sql, with), (verdict, rule.to_owned()), "{sql}");
    }
}

#[tokio::test]
async fn masked_data_makes_a_verdict_stricter_and_never_milder() {
    use Taint::{Clean, MovesMasked, ReadsMasked};
    let cases = [
        ("mask", Clean, "SELECT 1", "permit"),
        ("mask", ReadsMasked, "SELECT 1", "permit"),
        ("mask", MovesMasked, "SELECT 1", "hold"),
        ("hold", ReadsMasked, "SELECT 1", "hold"),
        ("deny", ReadsMasked, "SELECT 1", "deny"),
        ("deny", MovesMasked, "SELECT 1", "deny"),
        ("deny", Clean, "SELECT 1", "permit"),
        ("mask", MovesMasked, "DROP TABLE orders", "deny"),
        ("hold", ReadsMasked, "DROP TABLE orders", "deny"),
    ];
    for (unknown_origin, taint, sql, expected) in cases {
        let rig = Rig::new(&format!("{POLICY}\n[defaults]\nunknown_origin = \"{unknown_origin}\"\n"));
        let admission = rig.admission().await;
        let (verdict, _) = rig.judge(&admission, sql, With { taint, ..With::default() });
        assert_eq!(verdict, expected, "{unknown_origin} {taint:?} {sql}");
    }
}

#[tokio::test]
async fn a_result_that_depends_on_masked_columns_is_held_or_denied() {
    use crate::mask::Answer;
    let named = |answer| Dependence::Named {
        answer,
        what: "orders.card".to_owned(),
        rule: "mask orders.card".to_owned(),
    };
    let cases = [
        ("hold", named(Answer::Hold), "SELECT 1", "hold", "mask orders.card"),
        ("deny", named(Answer::Hold), "SELECT 1", "hold", "mask orders.card"),
        ("hold", named(Answer::Deny), "SELECT 1", "deny", "mask orders.card"),
        ("hold", named(Answer::Deny), "CREATE TABLE t (a int)", "deny", "mask orders.card"),
        ("hold", named(Answer::Hold), "DROP TABLE orders", "deny", "drops"),
        ("hold", Dependence::Unseen, "SELECT 1", "hold", "masked data"),
        ("deny", Dependence::Unseen, "SELECT 1", "deny", "masked data"),
    ];
    for (unknown, dependence, sql, verdict, rule) in cases {
        let rig = Rig::new(&format!("{POLICY}\n[defaults]\nunknown = \"{unknown}\"\n"));
        let admission = rig.admission().await;
        let with = With { dependence: Some(&dependence), ..With::default() };
        assert_eq!(rig.judge(&admission, sql, with), (verdict, rule.to_owned()), "{dependence:?} {sql}");
    }
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    let dependence = named(Answer::Deny);
    let with = With { dependence: Some(&dependence), ..With::default() };
    let Judgement::Deny(denial) = rig.judgement(&admission, "SELECT 1", with) else { panic!("it passes") };
    assert_eq!(denial.reason, "the result depends on orders.card, which is masked and may only be shown");
}

#[tokio::test]
async fn preparing_is_refused_only_when_nothing_could_make_it_pass() {
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    let prepare = |sql: &str| {
        let analysis = analyze(sql);
        let operation = Operation {
            database: "shop",
            analysis: &analysis,
            estimates: None,
            taint: Taint::Clean,
            dependence: None,
            locks: true,
            search_path: None,
        };
        rig.gate.prepare(&admission, &operation).is_ok()
    };
    assert!(prepare("SELECT 1"));
    assert!(prepare("DELETE FROM orders WHERE id = $1"));
    assert!(prepare("CREATE TABLE t (a int)"));
    assert!(!prepare("DROP TABLE orders"));
}

#[tokio::test]
async fn a_changed_policy_judges_sessions_that_began_under_the_old_one() {
    let cases = [
        ("the same again", POLICY.to_owned(), "permit"),
        ("another rule", POLICY.replace("[\"write\", \"ddl\"]", "[\"read\"]"), "durable"),
        ("other groups", POLICY.replacen("upstream", "groups = [\"finance\"]\nupstream", 1), "deny"),
        ("another target", POLICY.replace("127.9.9.9:5432", "127.9.9.8:5432"), "deny"),
        ("another login", POLICY.replacen("user = \"app\"", "user = \"other\"", 1), "deny"),
        ("another name", POLICY.replacen("name = \"orders\"", "name = \"sales\"", 1), "deny"),
    ];
    for (what, changed, expected) in cases {
        let rig = Rig::new(POLICY);
        let admission = rig.admission().await;
        rig.reload(&changed);
        assert_eq!(rig.judge(&admission, "SELECT 1", With::default()).0, expected, "{what}");
    }
}

#[tokio::test]
async fn an_approval_lets_one_operation_pass() {
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    let held = rig.ask(&admission, "CREATE TABLE t (a int)");
    rig.decide(&held, Answer::Approve);
    let permit = rig.gate.redeem(&admission, held.decision().await.unwrap()).unwrap();
    assert!(permit.durable());
    assert_eq!(permit.approval().unwrap().by.as_deref(), Some("dora"));

    let held = rig.ask(&admission, "CREATE TABLE t (a int)");
    rig.decide(&held, Answer::Deny);
    let denial = held.decision().await.unwrap_err();
    assert_eq!(denial.reason, "denied by dora: because");
}

#[tokio::test]
async fn an_approval_under_a_policy_that_has_changed_is_worth_nothing() {
    for change in [format!("{POLICY}\n# reviewed\n"), String::new()] {
        let rig = Rig::new(POLICY);
        let admission = rig.admission().await;
        let held = rig.ask(&admission, "CREATE TABLE t (a int)");
        if change.is_empty() {
            std::fs::remove_file(&rig.file).unwrap();
            rig.policies.reload();
        } else {
            rig.reload(&change);
        }
        rig.decide(&held, Answer::Approve);
        let permit = held.decision().await.unwrap();
        let denial = rig.gate.redeem(&admission, permit).unwrap_err();
        let expected = if change.is_empty() { "missing or broken" } else { "policy changed" };
        assert!(denial.reason.contains(expected), "{denial:?}");
    }
}

#[tokio::test]
async fn a_name_matches_the_addresses_it_was_seen_to_have_and_no_other() {
    let names = HostNames::default();
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    assert!(!names.resolves("localhost", address), "before it was asked");
    names.refresh(["localhost", "no-such-name.invalid"]).await;
    assert!(names.resolves("localhost", address));
    assert!(names.resolves("localhost", "::ffff:127.0.0.1".parse().unwrap()));
    assert!(!names.resolves("localhost", "127.0.0.2".parse().unwrap()));
    assert!(!names.resolves("no-such-name.invalid", address));
}

/// Three names at one address, and a network around it.
const NAMED: &str = r#"
version = 1
name = "shop"

[[connection]]
name = "one"
to = ["one.test:5432"]
protocol = "opaque"

[[connection]]
name = "two"
to = ["two.test:5432", "two.test:6000"]
protocol = "opaque"

[[connection]]
name = "theirs"
to = ["theirs.test:5432"]
protocol = "opaque"
groups = ["finance"]

[[connection]]
name = "net"
to = ["127.8.0.0/16:7000"]
protocol = "opaque"
"#;

/// A gate that knows the addresses of one name without having been asked, and counts how often it looked.
fn named_rig(policy: &str) -> (Rig, Arc<std::sync::atomic::AtomicUsize>) {
    let looked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&looked);
    let names = HostNames::asking(Box::new(move |name| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let known = name == "one.test";
        Box::pin(async move { Ok(known.then(|| "127.8.0.1".parse().unwrap()).into_iter().collect()) })
    }));
    let mut rig = Rig::new(policy);
    rig.gate = Gate::new(Arc::clone(&rig.policies), Arc::clone(&rig.approvals)).with_names(names);
    (rig, looked)
}

#[tokio::test]
async fn a_flow_goes_where_its_run_was_told_that_it_would() {
    let (rig, looked) = named_rig(NAMED);
    let run = Rig::run();
    let address: IpAddr = "127.8.0.1".parse().unwrap();
    let admitted = async |destination: &str, groups: &[&str]| match rig
        .admit_of(&run, destination, Rig::subject(groups))
        .await
    {
        Admitted::Yes(admission) => {
            format!("{} {}", admission.connection().name, admission.host().unwrap_or("-"))
        }
        Admitted::Asks(_) => "asked for a token".to_owned(),
        Admitted::No(denial) => denial.reason,
    };
    let tell = |name: &str| rig.gate.given().remember(run.id, name, &[address], Duration::from_secs(60));
    assert_eq!(admitted("127.8.0.1:5432", &[]).await, "one one.test", "as the host resolves it");
    assert_eq!(admitted("127.8.0.1:7000", &[]).await, "net -");
    let before = looked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(before > 0);
    tell("two.test");
    assert_eq!(admitted("127.8.0.1:5432", &[]).await, "two two.test");
    assert_eq!(admitted("[::ffff:127.8.0.1]:6000", &[]).await, "two two.test");
    assert_eq!(looked.load(std::sync::atomic::Ordering::Relaxed), before, "nobody had to be asked");
    tell("one.test");
    assert_eq!(admitted("127.8.0.1:5432", &[]).await, "one one.test", "the latest answer");
    assert_eq!(
        admitted("127.8.0.1:6000", &[]).await,
        "two two.test",
        "the one with a connection for the port"
    );
    tell("other.test");
    assert_eq!(admitted("127.8.0.1:5432", &[]).await, "one one.test");
    assert_eq!(admitted("127.8.0.1:7000", &[]).await, "net other.test");
    tell("theirs.test");
    assert_eq!(admitted("127.8.0.1:5432", &[]).await, "policy `shop` gives connection `theirs` to others");
    assert_eq!(admitted("127.8.0.1:5432", &["finance"]).await, "theirs theirs.test");
    assert_eq!(admitted("127.8.0.2:5432", &[]).await, "no connection of policy `shop` names 127.8.0.2:5432");
    let other = rig.admit_of(&Rig::run(), "127.8.0.1:6000", Rig::subject(&[])).await;
    assert!(matches!(other, Admitted::No(_)), "another run was told nothing");
}

#[tokio::test]
async fn a_name_may_be_asked_for_when_a_connection_has_it() {
    let (rig, _) = named_rig(NAMED);
    let run = Rig::run();
    let ask = |name: &str, groups: &[&str]| {
        let asked = rig.gate.may_resolve(&run, &Rig::subject(groups), name);
        asked.map(|permit| permit.rule().to_owned()).map_err(|denial| denial.reason)
    };
    assert_eq!(ask("two.test", &[]), Ok("two".to_owned()));
    assert_eq!(ask("theirs.test", &["finance"]), Ok("theirs".to_owned()));
    for (name, part) in [
        ("theirs.test", "to others"),
        ("x.two.test", "names the host x.two.test"),
        ("test", "names the host test"),
        ("", "names the host"),
        ("127.8.0.1", "names the host"),
    ] {
        assert!(ask(name, &[]).unwrap_err().contains(part), "{name}");
    }
    rig.reload(&format!("{NAMED}\n[egress]\ndefault = \"record\"\n"));
    assert_eq!(ask("x.two.test", &[]), Ok(DEFAULT_RULE.to_owned()));
    assert!(ask("theirs.test", &[]).unwrap_err().contains("to others"), "named, for others");
    assert!(ask("dns.google", &[]).unwrap_err().contains("around this host's resolver"));
    std::fs::remove_file(&rig.file).unwrap();
    rig.policies.reload();
    assert!(ask("two.test", &[]).unwrap_err().contains("missing or broken"));
}

#[tokio::test]
async fn encrypted_resolvers_are_refused_unless_a_connection_names_them() {
    let record = format!("{NAMED}\n[egress]\ndefault = \"record\"\n");
    let (rig, _) = named_rig(&record);
    let is_admitted = async |destination: &str| matches!(rig.admit(destination, &[]).await, Admitted::Yes(_));
    for refused in ["127.8.0.1:853", "8.8.8.8:443", "[2606:4700:4700::1111]:443"] {
        assert!(!is_admitted(refused).await, "{refused}");
    }
    assert!(is_admitted("8.8.8.8:80").await && is_admitted("8.8.8.7:443").await);
    let named = "[[connection]]\nname = \"doh\"\nto = [\"8.8.8.8:443\", \"8.8.8.8:853\", \"dns.google:443\"]\nprotocol = \"opaque\"\n";
    rig.reload(&format!("{record}{named}"));
    assert!(is_admitted("8.8.8.8:443").await);
    assert!(!is_admitted("8.8.8.8:853").await, "never");
    assert!(rig.gate.may_resolve(&Rig::run(), &Rig::subject(&[]), "dns.google").is_ok());
    assert!(rig.gate.may_resolve(&Rig::run(), &Rig::subject(&[]), "x.dns.google").is_err());
}

#[tokio::test]
async fn nobody_is_admitted_to_the_approvals_page() {
    let policy = POLICY.replace("name = \"shop\"\n", "name = \"shop\"\n[egress]\ndefault = \"record\"\n");
    let rig = Rig::new(&policy);
    let page = "127.10.0.1:6000";
    assert!(matches!(rig.admit(page, &[]).await, Admitted::Yes(_)), "the policy itself lets it pass");
    let Rig { gate, policies, approvals, file, _folder } = rig;
    let rig = Rig { gate: gate.with_page(Some(page.parse().unwrap())), policies, approvals, file, _folder };
    for destination in [page, "[::ffff:127.10.0.1]:6000"] {
        let Admitted::No(denial) = rig.admit(destination, &[]).await else { panic!("admitted") };
        assert!(denial.reason.contains("no agent may connect to it"), "{}", denial.reason);
    }
    assert!(matches!(rig.admit("127.10.0.2:6000", &[]).await, Admitted::Yes(_)));
}

const IN_BAND: &str = r#"
[identity]
issuer = "https://idp.example"
audience = "portcullis"
claims = { org = "acme" }
in_band = true
[[connection]]
name = "by-claim"
to = ["127.7.0.1:5432"]
protocol = "postgres"
claims = { role = "dba" }
upstream = { user = "app", tls = "disable" }
[[connection]]
name = "site"
to = ["127.7.0.2:80"]
protocol = "http"
tls = "plain"
[[connection]]
name = "shell"
to = ["127.7.0.3:22"]
protocol = "ssh"
upstream = { user = "app", credential = "k", host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJlzIWg7ODKIVImiOZR4TYR4nUrFtrXYMuPFN9oLpkbw"] }
[[connection]]
name = "blind"
to = ["127.7.0.4:1", "named.test:1"]
protocol = "opaque"
"#;

fn identity(mut claims: serde_json::Value, lasts_ms: u64) -> crate::run::Identity {
    claims["aud"] = "portcullis".into();
    crate::run::Identity {
        issuer: "https://idp.example".to_owned(),
        subject: "job".to_owned(),
        name: None,
        groups: Vec::new(),
        groups_claim: None,
        claims: claims.as_object().cloned().unwrap(),
        expires_ms: now_ms() + lasts_ms,
        token: "digest".to_owned(),
        meaning: String::new(),
    }
    .with_meaning()
}

#[tokio::test]
async fn a_client_of_a_run_without_a_token_brings_its_own() {
    let text = format!("{POLICY}{IN_BAND}");
    let rig = Rig::new(&text);
    let asked = async |destination: &str| match rig.admit(destination, &[]).await {
        Admitted::Asks(unidentified) => Ok(*unidentified),
        Admitted::Yes(admission) => panic!("{admission:?}"),
        Admitted::No(denial) => Err(denial.reason),
    };
    for mute in ["127.7.0.3:22", "127.7.0.4:1"] {
        assert!(asked(mute).await.unwrap_err().contains("cannot bring one"), "{mute}");
    }
    assert!(asked("127.7.0.9:1").await.unwrap_err().contains("no connection"));
    assert!(asked("127.7.0.2:80").await.is_ok());
    let unidentified = asked("127.7.0.1:5432").await.unwrap();
    let admitted = async |claims: serde_json::Value, lasts_ms: u64| match rig
        .gate
        .identify(&unidentified, identity(claims, lasts_ms))
        .await
    {
        Admitted::Yes(admission) => Ok(*admission),
        Admitted::Asks(_) => panic!("asked again"),
        Admitted::No(denial) => Err(denial.reason),
    };
    let dba = || serde_json::json!({"org": "acme", "role": "dba"});
    let admission = admitted(dba(), 60_000).await.unwrap();
    assert_eq!(admission.connection().name, "by-claim");
    assert_eq!(rig.judge(&admission, "SELECT 1", With::default()).0, "permit");
    let dev = serde_json::json!({"org": "acme", "role": "dev"});
    assert!(admitted(dev, 60_000).await.unwrap_err().contains("to others"));
    let stranger = serde_json::json!({"org": "other", "role": "dba"});
    assert!(admitted(stranger, 60_000).await.unwrap_err().contains("org = acme"));
    assert!(admitted(dba(), 0).await.unwrap_err().contains("has expired"));
    let brief = admitted(dba(), 30).await.unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(
        rig.judge(&brief, "SELECT 1", With::default()).0,
        "deny",
        "the token ends, the connection does not"
    );
    // The name of a host that somebody's token may open has to be found first.
    assert!(rig.gate.may_resolve(&Rig::run(), &Rig::subject(&[]), "named.test").is_ok());
    rig.reload(&text.replace("in_band = true", "in_band = false"));
    assert_eq!(rig.judge(&admission, "SELECT 1", With::default()).0, "deny", "not taken any more");
    assert!(matches!(rig.admit("127.7.0.1:5432", &[]).await, Admitted::No(_)));
    for other in [
        text.replace("audience = \"portcullis\"", "audience = \"another\""),
        text.replace("in_band = true", "in_band = true\ngroups_claim = \"roles\""),
    ] {
        rig.reload(&other);
        assert_eq!(
            rig.judge(&admission, "SELECT 1", With::default()).0,
            "deny",
            "would not be verified like this now"
        );
    }
    rig.reload(&text.replace("org = \"acme\"", "org = \"acme2\""));
    assert_eq!(rig.judge(&admission, "SELECT 1", With::default()).0, "deny", "of others now");
}

#[tokio::test]
async fn a_connection_from_before_the_policy_asked_for_tokens_goes_no_further() {
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    rig.reload(&format!("{POLICY}{IN_BAND}"));
    assert_eq!(rig.judge(&admission, "SELECT 1", With::default()).0, "deny");
}

#[tokio::test]
async fn under_one_destination_a_token_opens_one_protocol() {
    let other =
        "[[connection]]\nname = \"web\"\nto = [\"127.7.0.1:5432\"]\nprotocol = \"http\"\ntls = \"plain\"\n";
    let rig = Rig::new(&format!("{POLICY}{IN_BAND}{other}"));
    let Admitted::Asks(unidentified) = rig.admit("127.7.0.1:5432", &[]).await else { panic!("not asked") };
    let dev = identity(serde_json::json!({"org": "acme"}), 60_000);
    let Admitted::No(denial) = rig.gate.identify(&unidentified, dev).await else { panic!("admitted") };
    assert!(denial.reason.contains("several protocols"), "{}", denial.reason);
}

#[tokio::test]
async fn what_somebody_acts_on_is_counted_once_and_anew_for_each_version() {
    let rig = Rig::new(POLICY);
    let admission = rig.admission().await;
    let counted = || {
        let hits = rig.policies.get("shop").unwrap().hits();
        let of = |rule: &str| hits.rules.iter().find(|known| known.rule == rule).unwrap().hits;
        ["bulk", "small", "drops", "default (read)", "(others)"].map(of)
    };
    let prepare = |sql: &str| {
        let (analysis, taint) = (analyze(sql), Taint::Clean);
        let (estimates, locks, search_path) = (None, false, None);
        let database = "shop";
        drop(rig.gate.prepare(
            &admission,
            &Operation {
                database,
                analysis: &analysis,
                estimates,
                taint,
                dependence: None,
                locks,
                search_path,
            },
        ));
    };
    // What may pass counts when it is bound, and only once the planner's answer is there.
    prepare("SELECT 1");
    prepare("INSERT INTO t VALUES (1)");
    assert_eq!(rig.judge(&admission, "INSERT INTO t VALUES (1)", With::default()).0, "estimate");
    assert_eq!(counted(), [0; 5]);
    let with = |rows| With { estimates: rows, ..With::default() };
    assert!(rig.judgement(&admission, "INSERT INTO t VALUES (1)", with(Some(&[Some(1)]))).is_permit());
    assert!(!rig.judgement(&admission, "INSERT INTO t VALUES (1)", with(Some(&[Some(1000)]))).is_permit());
    prepare("DROP TABLE t");
    assert!(rig.judgement(&admission, "SELECT 1", With::default()).is_permit());
    let moves = With { taint: Taint::MovesMasked, ..With::default() };
    assert!(!rig.judgement(&admission, "SELECT 1", moves).is_permit());
    assert_eq!(counted(), [1, 1, 1, 1, 1]);
    rig.reload(POLICY);
    assert_eq!(counted(), [1, 1, 1, 1, 1], "the same text was not loaded again");
    rig.reload(&format!("{POLICY}# another version\n"));
    assert_eq!(counted(), [0; 5]);
}

impl Judgement {
    fn is_permit(&self) -> bool {
        matches!(self, Self::Permit(_))
    }
}
