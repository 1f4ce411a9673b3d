//! Holds that outlast their client's patience, need several people, or cover more than one statement.

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{self, BYSTANDER, Finished, NOBODY, REVIEWER, Talking, User};
use harness::reviewer::code;
use serde_json::Value;

use crate::spine::server;

/// The shop's policy, whose first guard reads otherwise.
fn policy(terms: &str) -> String {
    let usual = "approvers = [\"user:daemon\"]\nhold = \"30s\"";
    let policy = shop_policy(server());
    assert!(policy.contains(usual));
    policy.replacen(usual, terms, 1)
}

/// Holds of which the client waits a second.
const IMPATIENT: &str = "approvers = [\"user:daemon\"]\nhold = \"10m\"\ninline = \"1s\"";

/// An agent's psql that goes on: statements are given to it one by one, in one run.
fn session(daemon: &Daemon) -> Talking {
    agent::psql_in_order(daemon, server(), NOBODY, &[]).unwrap()
}

fn approvals(daemon: &Daemon, user: User, arguments: &[&str]) -> Finished {
    process::finish(daemon.command_as(user).unwrap().arg("approvals").args(arguments)).unwrap()
}

/// What psql says of a statement that has to wait: all of it is read, so that the next answer is the next statement's.
fn sent_away(psql: &mut Talking) -> String {
    let error = psql.until_contains("ERROR").unwrap();
    assert!(error.contains("waits for a human's approval"), "{error}");
    psql.until_contains("HINT").unwrap();
    error
}

/// What waits now.
fn waiting(daemon: &Daemon) -> Vec<Value> {
    let all = daemon.json(&["approvals"]).unwrap();
    all.as_array().unwrap().iter().filter(|entry| entry["outcome"].is_null()).cloned().collect()
}

fn id_of(entry: &Value) -> String {
    entry["id"].as_str().unwrap().to_owned()
}

fn table(name: &str) {
    let sql = format!(
        "CREATE TABLE {name} (id int); ALTER TABLE {name} OWNER TO shop_agent; INSERT INTO {name} SELECT generate_series(1, 9)"
    );
    server().psql("shop", &sql).unwrap();
}

fn exists(name: &str) -> bool {
    server().psql("shop", &format!("SELECT to_regclass('{name}') IS NOT NULL")).unwrap().trim() == "t"
}

#[test]
fn an_impatient_client_comes_again_even_after_the_daemon_was_killed() {
    let mut daemon = Daemon::start(&[("shop", &policy(IMPATIENT))]).unwrap();
    table("deferred_drop");
    let mut psql = session(&daemon);
    psql.say("DROP TABLE deferred_drop;").unwrap();
    let refused = psql.until_contains("ERROR").unwrap();
    assert!(refused.contains("42501") && refused.contains("waits for a human's approval"), "{refused}");
    let detail = psql.until_contains("Approval: ").unwrap();
    let entry = waiting(&daemon).pop().unwrap();
    let id = id_of(&entry);
    assert!(detail.contains(&format!("Approval: {}.", code(&id))), "{detail}");
    assert!(
        psql.until_contains("HINT")
            .unwrap()
            .contains("the same operation passes once when you send it again")
    );
    assert_eq!((&entry["deferred"], exists("deferred_drop")), (&Value::Bool(true), true));
    // The daemon dies; the request is still there, and so is the answer that it then gets.
    daemon.kill().unwrap();
    daemon.launch().unwrap();
    assert_eq!(waiting(&daemon).iter().map(id_of).collect::<Vec<_>>(), std::slice::from_ref(&id));
    let own = approvals(&daemon, NOBODY, &["approve", &id]);
    assert!(own.code == 1 && own.stderr.contains("somebody else must decide"), "{}", own.stderr);
    let approved = approvals(&daemon, REVIEWER, &["approve", &id, "--reason", "fine"]);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    daemon.kill().unwrap();
    daemon.launch().unwrap();
    // In other words it is another operation, in another run as well; the same one passes once.
    psql.say("\\c").unwrap();
    psql.say("DROP TABLE deferred_drop ;").unwrap();
    sent_away(&mut psql);
    let other = agent::psql(&daemon, server(), NOBODY, "DROP TABLE deferred_drop").unwrap();
    assert!(other.stderr.contains("waits for a human's approval"), "{}", other.stderr);
    assert!(exists("deferred_drop"));
    psql.say("DROP TABLE deferred_drop;").unwrap();
    psql.until_contains("DROP TABLE").unwrap();
    assert!(!exists("deferred_drop"));
    table("deferred_drop");
    // A fresh session: in one that has changed the schema nobody can tell what a name means from then on.
    psql.say("\\c").unwrap();
    psql.say("DROP TABLE deferred_drop;").unwrap();
    sent_away(&mut psql);
}

#[test]
fn a_deferred_refusal_is_told_and_the_policy_that_changed_asks_anew() {
    let daemon = Daemon::start(&[("shop", &policy(IMPATIENT))]).unwrap();
    table("deferred_deny");
    let mut psql = session(&daemon);
    psql.say("DROP TABLE deferred_deny;").unwrap();
    sent_away(&mut psql);
    let id = id_of(&waiting(&daemon)[0]);
    assert_eq!(approvals(&daemon, REVIEWER, &["deny", &id, "--reason", "use staging"]).code, 0);
    psql.say("DROP TABLE deferred_deny;").unwrap();
    assert!(psql.until_contains("ERROR").unwrap().contains("denied by daemon: use staging"));
    assert!(waiting(&daemon).is_empty(), "nobody is asked twice");
    // Approved under one version of the policy, asked again under another.
    psql.say("DROP TABLE deferred_deny CASCADE;").unwrap();
    sent_away(&mut psql);
    let id = id_of(&waiting(&daemon)[0]);
    assert_eq!(approvals(&daemon, REVIEWER, &["approve", &id]).code, 0);
    let before = daemon.json(&["status"]).unwrap()["policies"][0]["version"].clone();
    daemon.policy("shop", &format!("{}# changed\n", policy(IMPATIENT))).unwrap();
    daemon.until(&["status"], |status| status[0]["policies"][0]["version"] != before).unwrap();
    psql.say("DROP TABLE deferred_deny CASCADE;").unwrap();
    sent_away(&mut psql);
    assert!(exists("deferred_deny"));
}

#[test]
fn two_people_of_two_groups_decide_together() {
    let terms =
        "approvers = [\"user:daemon\", \"user:bin\"]\nhold = \"30s\"\nquorum = 2\ndistinct_groups = true";
    let daemon = Daemon::start(&[("shop", &policy(terms))]).unwrap();
    table("quorum_drop");
    let mut psql = session(&daemon);
    psql.say("DROP TABLE quorum_drop;").unwrap();
    psql.until_contains("NOTICE").unwrap();
    let id = id_of(&waiting(&daemon)[0]);
    assert_eq!(approvals(&daemon, REVIEWER, &["approve", &id, "--reason", "one"]).code, 0);
    let twice = approvals(&daemon, REVIEWER, &["approve", &id]);
    assert!(twice.code == 1 && twice.stderr.contains("you have approved this already"), "{}", twice.stderr);
    assert!(exists("quorum_drop") && waiting(&daemon).len() == 1);
    let shown = approvals(&daemon, BYSTANDER, &["show", &id]);
    assert!(
        shown.stdout.contains("1 of 2 approvals") && shown.stdout.contains("by daemon"),
        "{}",
        shown.stdout
    );
    let second = approvals(&daemon, BYSTANDER, &["approve", &id, "--reason", "two"]);
    assert_eq!(second.code, 0, "{}", second.stderr);
    psql.until_contains("DROP TABLE").unwrap();
    assert!(!exists("quorum_drop"));
}

#[test]
fn broken_glass_lets_pass_is_alerted_and_reviewed_by_somebody_else() {
    let terms = "approvers = [\"user:bin\"]\nhold = \"30s\"\nbreak_glass = [\"user:daemon\"]";
    let daemon = Daemon::start(&[("shop", &policy(terms))]).unwrap();
    table("glass_drop");
    let mut psql = session(&daemon);
    psql.say("DROP TABLE glass_drop;").unwrap();
    psql.until_contains("NOTICE").unwrap();
    let id = id_of(&waiting(&daemon)[0]);
    let plain = approvals(&daemon, REVIEWER, &["approve", &id, "--reason", "please"]);
    assert!(plain.code == 1 && plain.stderr.contains("only user bin may decide this"), "{}", plain.stderr);
    let silent = approvals(&daemon, REVIEWER, &["approve", &id, "--break-glass"]);
    assert!(silent.code == 1 && silent.stderr.contains("say why"), "{}", silent.stderr);
    let broken =
        approvals(&daemon, REVIEWER, &["approve", &id, "--break-glass", "--reason", "the shop is down"]);
    assert!(
        broken.code == 0 && broken.stdout.contains("BREAKING GLASS"),
        "{}{}",
        broken.stdout,
        broken.stderr
    );
    psql.until_contains("DROP TABLE").unwrap();
    assert!(daemon.log().contains("ALERT: glass was broken"), "{}", daemon.log());
    let own = approvals(&daemon, REVIEWER, &["review", &id, "--reason", "looks fine to me"]);
    assert_eq!(own.code, 1);
    let other = approvals(&daemon, BYSTANDER, &["review", &id, "--reason", "was needed"]);
    assert!(other.code == 0 && other.stdout.contains("reviewed by bin"), "{}{}", other.stdout, other.stderr);
}

#[test]
fn an_approval_for_a_while_covers_the_shape_until_it_is_revoked() {
    let daemon = Daemon::start(&[(
        "shop",
        &policy(IMPATIENT).replace(
            "effect = [\"ddl\", \"admin\", \"unknown\"]",
            "effect = [\"write\", \"ddl\", \"admin\", \"unknown\"]",
        ),
    )])
    .unwrap();
    table("shape_rows");
    let mut psql = session(&daemon);
    psql.say("DELETE FROM shape_rows WHERE id = 1;").unwrap();
    sent_away(&mut psql);
    let id = id_of(&waiting(&daemon)[0]);
    let approved = approvals(&daemon, REVIEWER, &["approve", &id, "--for", "5m", "--uses", "3", "--shape"]);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    for number in [1, 2] {
        psql.say(&format!("DELETE FROM shape_rows WHERE id = {number};")).unwrap();
        psql.until_contains("DELETE 1").unwrap();
    }
    psql.say("DELETE FROM shape_rows WHERE id > 3;").unwrap();
    sent_away(&mut psql);
    assert_eq!(approvals(&daemon, REVIEWER, &["revoke", &id]).code, 0);
    psql.say("DELETE FROM shape_rows WHERE id = 3;").unwrap();
    sent_away(&mut psql);
    assert_eq!(server().psql("shop", "SELECT count(*) FROM shape_rows").unwrap().trim(), "7");
    // The record says which approval let each of them pass.
    let events = daemon.json_lines(&["sessions", "list"]).unwrap();
    let session = events[0]["session"].as_str().unwrap();
    let shown = daemon.json_lines(&["sessions", "show", session]).unwrap();
    let passed: Vec<Value> = shown.into_iter().filter(|event| event["event"] == "intent").collect();
    let deletes = passed.iter().filter(|event| event["approval"]["id"] == id.as_str()).count();
    assert_eq!(deletes, 2, "{passed:#?}");
}
