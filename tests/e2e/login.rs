//! `portcullis login` with a real OpenID provider: by a browser on this host and by another device, and who decides then.

use std::process::Command;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{self, BYSTANDER, Finished, NOBODY, REVIEWER, Talking, User};
use harness::reviewer::{code, id_of};
use serde_json::Value;

use crate::identity::provider;
use crate::spine::server;

/// A daemon with `[login]`, whose policy holds statements for the provider's group `dba`.
fn daemon(login: &str, guard: &str) -> Daemon {
    let terms = format!("approvers = [\"dba\", \"user:grace\"]\nhold = \"60s\"\n{guard}");
    let usual = "approvers = [\"user:daemon\"]\nhold = \"30s\"";
    let policy = shop_policy(server());
    assert!(policy.contains(usual));
    let mut daemon = Daemon::prepare(&[("shop", &policy.replacen(usual, &terms, 1))]).unwrap();
    let table = format!(
        "[login]\nissuer = \"{}\"\nclient_id = \"portcullis-cli\"\ngroups_claim = \"groups\"\n\
         name_claim = \"preferred_username\"\n{login}\n",
        provider().issuer()
    );
    daemon.configure(&table).unwrap();
    daemon.launch().unwrap();
    daemon
}

/// The provider's people are called otherwise than this host's users.
const ANY: &str = "accounts = \"any\"";

fn cli(daemon: &Daemon, user: User, arguments: &[&str]) -> Finished {
    process::finish(daemon.command_as(user).unwrap().args(arguments)).unwrap()
}

/// `portcullis login` by a browser in which this person signs in.
fn login(daemon: &Daemon, user: User, name: &str, password: &str, arguments: &[&str]) -> Finished {
    let browser = provider().browser(daemon.folder(), name, password).unwrap();
    let mut command = daemon.command_as(user).unwrap();
    process::finish(command.arg("login").args(arguments).env("BROWSER", browser)).unwrap()
}

/// An agent whose statement waits; the request.
fn held(daemon: &Daemon, table: &str) -> (Talking, Value) {
    let mut run = agent::psql_shell(daemon, server(), NOBODY, "shop").unwrap();
    let mut psql = Talking::spawn(&mut run).unwrap();
    psql.say(&format!("CREATE TABLE {table} (id int);")).unwrap();
    psql.until_contains("waiting for approval").unwrap();
    let waiting = daemon.json(&["approvals", "list"]).unwrap();
    let entry = waiting.as_array().unwrap().iter().find(|entry| entry["outcome"].is_null()).unwrap().clone();
    (psql, entry)
}

#[test]
fn who_signed_in_in_a_browser_decides_as_the_provider_knows_them() {
    let daemon = daemon(ANY, "");
    let nobody = cli(&daemon, REVIEWER, &["whoami"]);
    assert!(nobody.code == 1 && nobody.stderr.contains("nobody is signed in here"), "{}", nobody.stderr);
    let (mut psql, entry) = held(&daemon, "login_browser");
    let id = id_of(&entry);
    let unseen = cli(&daemon, REVIEWER, &["approvals", "approve", &id]);
    assert!(unseen.stderr.contains("no request"), "a Unix user whom nobody names: {}", unseen.stderr);

    let done = login(&daemon, REVIEWER, "ada+dba", "x", &["--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let who: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&who["user"], &who["groups"][0]), (&"ada".into(), &"dba".into()));
    let shown = cli(&daemon, REVIEWER, &["whoami"]);
    assert!(shown.stdout.starts_with("ada (dba) by http://127.0.0.1:"), "{}", shown.stdout);
    let other = cli(&daemon, BYSTANDER, &["whoami"]);
    assert_eq!(other.code, 1, "it is one user's alone: {}", other.stdout);

    // As somebody reads it out.
    let spoken = code(&id).to_lowercase();
    let approved = cli(&daemon, REVIEWER, &["approvals", "approve", &spoken, "--reason", "ok"]);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    psql.until_contains("CREATE TABLE").unwrap();
    psql.finish().unwrap();
    let settled = daemon.json(&["approvals", "show", &id]).unwrap();
    let by = &settled["outcome"]["approved"]["by"];
    assert_eq!((&by["user"], &by["account"]), (&"ada".into(), &"daemon".into()), "{settled}");
    assert_eq!(by["identity"]["subject"], "ada+dba");

    let out = cli(&daemon, REVIEWER, &["logout"]);
    assert!(out.code == 0 && cli(&daemon, REVIEWER, &["whoami"]).code == 1, "{}", out.stderr);
}

#[test]
fn who_signed_in_on_another_device_may_have_to() {
    let daemon = daemon(&format!("required = true\ndevice = true\n{ANY}"), "");
    let (mut psql, entry) = held(&daemon, "login_device");
    let id = id_of(&entry);
    let root = daemon.cli(&["approvals", "approve", &id]).unwrap();
    assert!(root.code == 1 && root.stderr.contains("run `portcullis login`"), "root, too: {}", root.stderr);

    let mut command = daemon.command_as(REVIEWER).unwrap();
    let mut device = Talking::spawn(command.args(["login", "--device"])).unwrap();
    let told = device.until_contains("/device?user_code=").unwrap();
    let url = told.split_whitespace().find(|word| word.starts_with("http")).unwrap().to_owned();
    device.until_contains("and see that it shows this code: ").unwrap();
    let browser = provider().browser(daemon.folder(), "grace", "x").unwrap();
    let seen = process::finish(Command::new(browser).arg(&url)).unwrap();
    assert!(seen.stdout.contains("Sign-in Success"), "{}", seen.stdout);
    device.until_contains("grace (no group) by http://127.0.0.1:").unwrap();
    assert_eq!(device.finish().unwrap().code, 0);
    let approved = cli(&daemon, REVIEWER, &["approvals", "approve", &id, "--reason", "user:grace"]);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    psql.until_contains("CREATE TABLE").unwrap();
    psql.finish().unwrap();
}

#[test]
fn a_rule_may_ask_for_a_stronger_sign_in_and_nobody_approves_their_own() {
    let daemon = daemon(ANY, "acr = [\"phr\"]\nstep_up = \"5m\"");
    let (psql, entry) = held(&daemon, "login_step_up");
    let id = id_of(&entry);
    assert_eq!(login(&daemon, REVIEWER, "ada+dba", "pwd", &[]).code, 0);
    let weak = cli(&daemon, REVIEWER, &["approvals", "approve", &id]);
    assert!(weak.code == 1 && weak.stderr.contains("within 5m with phr"), "{}", weak.stderr);
    let weak = login(&daemon, REVIEWER, "ada+dba", "pwd", &["--for", code(&id)]);
    assert!(weak.code == 1 && weak.stderr.contains("not as the rule asks for"), "{}", weak.stderr);
    let strong = login(&daemon, REVIEWER, "ada+dba", "phr", &["--for", code(&id)]);
    assert_eq!(strong.code, 0, "{}", strong.stderr);
    // Whom the run acts for is called like this at the provider, whoever's account it is.
    assert_eq!(
        login(&daemon, BYSTANDER, "nobody+dba", "phr", &["--for", code(&id)]).code,
        1,
        "does not see it"
    );
    assert_eq!(login(&daemon, BYSTANDER, "nobody+dba", "phr", &[]).code, 0);
    let own = cli(&daemon, BYSTANDER, &["approvals", "approve", &id]);
    assert!(own.code == 1 && own.stderr.contains("acts for"), "{}", own.stderr);
    let approved = cli(&daemon, REVIEWER, &["approvals", "approve", &id]);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    drop(psql);
}

#[test]
fn another_users_or_an_agents_sign_in_gets_nowhere() {
    let daemon = daemon("", "");
    // An agent cannot even begin.
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    run.arg(process::portcullis().unwrap())
        .args(["login", "--device"])
        .env("PORTCULLIS_CONFIG", daemon.config());
    let agent = process::finish(&mut run).unwrap();
    assert!(agent.code == 1 && agent.stderr.contains("may not use the control socket"), "{}", agent.stderr);
    // Without [login] nobody signs in, and the message says so.
    let bare = Daemon::start(&[("bare", "version = 1\nname = \"bare\"\n")]).unwrap();
    let refused = cli(&bare, REVIEWER, &["login", "--device"]);
    assert!(refused.code == 1 && refused.stderr.contains("has no [login]"), "{}", refused.stderr);
    // Nor is anybody signed in as a person whom the host calls otherwise, who may have been led on: unless the file says so.
    let other = login(&daemon, REVIEWER, "ada+dba", "x", &[]);
    assert!(other.code == 1 && other.stderr.contains("this account is daemon's"), "{}", other.stderr);
    assert_eq!(login(&daemon, REVIEWER, "daemon+dba", "x", &[]).code, 0);
    assert!(!daemon.log().contains("eyJ"), "a token is in the log");
}
