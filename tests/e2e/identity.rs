//! Runs bound to tokens of a real OpenID provider: who may begin one, what groups and claims open, and what happens when a
//! token expires, is renewed, or is withdrawn.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use harness::agent;
use harness::daemon::Daemon;
use harness::oidc::Provider;
use harness::postgres::{ROLE, Server};
use harness::process::{self, BYSTANDER, Finished, NOBODY, Talking};
use serde_json::{Value, json};

use crate::spine::server;
use crate::wait;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// One provider for all of these tests.
pub(crate) fn provider() -> &'static Provider {
    static PROVIDER: LazyLock<Provider> = LazyLock::new(|| {
        Provider::start().unwrap_or_else(|error| panic!("the OpenID provider does not start: {error:#}"))
    });
    &PROVIDER
}

/// Two profiles of one server, by group; tokens of acme's repositories alone.
pub(crate) fn policy(server: &Server, issuer: &str, more: &str) -> String {
    format!(
        r#"version = 1
name = "shop"
[identity]
issuer = "{issuer}"
audience = "portcullis"
groups_claim = "groups"
name_claim = "actor"
claims = {{ repository_owner = "acme" }}
leeway = "1s"
{more}
[[connection]]
name = "as-owner"
to = ["{address}"]
protocol = "postgres"
groups = ["dba"]
upstream = {{ user = "{ROLE}", database = "shop", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}
[[connection]]
name = "for-main"
to = ["{address}"]
protocol = "postgres"
claims = {{ ref = "refs/heads/main" }}
upstream = {{ user = "{ROLE}", database = "postgres", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}
[[guard]]
name = "writes are for dba"
on = "postgres"
effect = ["write"]
groups = ["dba"]
action = "allow"
[defaults]
write = "deny"
"#,
        address = server.address(),
        ca = server.ca().display(),
    )
}

fn daemon(more: &str) -> Daemon {
    Daemon::start(&[("shop", &policy(server(), provider().issuer(), more))]).unwrap()
}

pub(crate) fn claims(more: &Value) -> Value {
    let mut claims = json!({
        "sub": "repo:acme/orders", "repository_owner": "acme", "actor": "octocat", "groups": [], "ref": "refs/heads/x",
    });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub(crate) fn token(more: &Value, seconds: i64) -> String {
    provider().token(&claims(more), seconds).unwrap()
}

/// A file that the agent's user may read, as a CI system would leave it.
fn token_file(daemon: &Daemon, token: &str) -> PathBuf {
    let folder = daemon.folder().join("tokens");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}.jwt", fs::read_dir(&folder).unwrap().count()));
    fs::write(&path, token).unwrap();
    path
}

/// `portcullis run --policy shop ARGUMENTS` as nobody, without a command yet.
fn run_with(daemon: &Daemon, arguments: &[&str]) -> std::process::Command {
    let mut run = daemon.command_as(NOBODY).unwrap();
    run.args(["run", "--policy", "shop"]).args(arguments).arg("--");
    run
}

pub(crate) fn psql_with(daemon: &Daemon, token: &str, sql: &str) -> Finished {
    let path = token_file(daemon, token);
    let mut run = run_with(daemon, &["--token-file", path.to_str().unwrap()]);
    run.args(agent::psql_arguments(server(), "anything")).args([
        "--tuples-only",
        "--no-align",
        "--command",
        sql,
    ]);
    process::finish(&mut run).unwrap()
}

#[test]
fn groups_and_claims_of_the_token_pick_the_profile() {
    let daemon = daemon("");
    let database = |more: &Value| psql_with(&daemon, &token(more, 60), "SELECT current_database()");
    let owner = database(&json!({"groups": ["dev", "dba"], "ref": "refs/heads/main"}));
    assert_eq!(owner.stdout.trim(), "shop", "{}", owner.stderr);
    let main = database(&json!({"groups": ["dev"], "ref": "refs/heads/main"}));
    assert_eq!(main.stdout.trim(), "postgres", "the first profile that the subject may use: {}", main.stderr);
    let neither = database(&json!({"groups": ["dev"]}));
    assert_ne!(neither.code, 0);
    for expected in ["gives connection `as-owner` and `for-main` to others", "dba; or ref = refs/heads/main"]
    {
        assert!(neither.stderr.contains(expected), "{}", neither.stderr);
    }
    // Unix groups of the same name do not count: the token speaks.
    let write = "UPDATE orders SET status = status WHERE id = 1";
    assert_eq!(psql_with(&daemon, &token(&json!({"groups": ["dba"]}), 60), write).code, 0);
    let denied = psql_with(&daemon, &token(&json!({"groups": ["nogroup", "nobody"]}), 60), write);
    assert_ne!(denied.code, 0);
}

#[test]
fn a_run_without_a_good_token_does_not_begin() {
    let daemon = daemon("");
    let other = provider().mint(&json!({"aud": "another-client", "claims": claims(&json!({}))})).unwrap();
    let cut = token(&json!({}), 60).rsplit_once('.').map(|(rest, _)| format!("{rest}.AAAA")).unwrap();
    for (token, expected) in [
        (token(&json!({}), -30), "expired"),
        (token(&json!({"repository_owner": "evil"}), 60), "only tokens with repository_owner = acme"),
        (token(&json!({"azp": "another-client"}), 60), "issued to the client another-client"),
        (token(&json!({"nbf": 4_000_000_000_u64}), 60), "is this host's clock right"),
        (other, "not for this gate"),
        (cut, "signature does not count"),
        ("x".repeat(20_000), "longer than 16384 bytes"),
        ("hello".to_owned(), "no ID token"),
    ] {
        let refused = psql_with(&daemon, &token, "SELECT 1");
        assert_eq!(refused.code, 1, "{expected}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
    }
    let none = process::finish(run_with(&daemon, &[]).arg("true")).unwrap();
    assert_eq!(none.code, 1);
    let expected = format!("needs a token of {} for the audience \"portcullis\"", provider().issuer());
    assert!(none.stderr.contains(&expected), "{}", none.stderr);
    assert!(!daemon.log().contains("eyJ"), "no token is in the log");
}

#[test]
fn where_nobody_asks_for_a_token_none_is_taken() {
    let daemon = Daemon::start(&[("shop", "version = 1\nname = \"shop\"\n")]).unwrap();
    let path = token_file(&daemon, &token(&json!({}), 60));
    let refused =
        process::finish(run_with(&daemon, &["--token-file", path.to_str().unwrap()]).arg("true")).unwrap();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("has no [identity]"), "{}", refused.stderr);
    assert_eq!(process::finish(run_with(&daemon, &[]).arg("true")).unwrap().code, 0);
}

#[test]
fn a_job_of_a_ci_system_gets_its_token_by_itself_and_the_agent_does_not_see_it() {
    let more = "[match]\nunits = [\"no-such-unit\"]";
    let daemon = daemon(more);
    let mut run = run_with(&daemon, &[]);
    run.envs(provider().actions()).args(["sh", "-c", "env; cat /proc/self/environ"]);
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    assert!(
        seen.stderr.contains("the run's token is from GitHub Actions (audience portcullis)"),
        "{}",
        seen.stderr
    );
    assert!(!seen.stdout.contains("ACTIONS_ID_TOKEN") && !seen.stdout.contains("eyJ"), "{}", seen.stdout);
    let mut run = run_with(&daemon, &["--token-env", "MY_TOKEN"]);
    run.env("MY_TOKEN", token(&json!({}), 60)).args(["sh", "-c", "env"]);
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    assert!(!seen.stdout.contains("MY_TOKEN"), "{}", seen.stdout);
}

/// psql of a run that goes on, which is given statements one by one.
/// psql in a run of its own with this token.
pub(crate) fn session_of(daemon: &Daemon, token: &str) -> Talking {
    session(daemon, &token_file(daemon, token))
}

fn session(daemon: &Daemon, path: &std::path::Path) -> Talking {
    agent::psql_in_order(daemon, server(), NOBODY, &["--token-file", path.to_str().unwrap()]).unwrap()
}

/// Moves a fresh token into the place of the old one, whole.
fn replace(path: &std::path::Path, token: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, token).unwrap();
    fs::rename(draft, path).unwrap();
}

#[test]
fn an_expired_token_stops_what_is_new_and_a_renewed_one_lets_it_go_on() {
    let daemon = daemon("");
    let main = json!({"ref": "refs/heads/main"});
    let path = token_file(&daemon, &token(&main, 4));
    let mut psql = session(&daemon, &path);
    // What is running finishes, although its token expires meanwhile.
    psql.say("SELECT 'slept' FROM pg_sleep(7);").unwrap();
    psql.until_contains("slept").unwrap();
    psql.say("SELECT 'again';").unwrap();
    let refused = psql.until_contains("ERROR").unwrap();
    assert!(
        refused.contains("octocat (repo:acme/orders of ") && refused.contains("has expired"),
        "{refused}"
    );
    let runs = daemon.json(&["runs"]).unwrap();
    assert_eq!(runs[0]["subject"], format!("octocat (repo:acme/orders of {})", provider().issuer()));
    // Another subject's token is no renewal; a fresh one of the same is.
    replace(&path, &token(&json!({"ref": "refs/heads/main", "sub": "repo:acme/other"}), 60));
    wait::until(WAIT_MAX, || match daemon.log().contains("another subject") {
        true => Ok(()),
        false => Err(daemon.log()),
    });
    replace(&path, &token(&main, 60));
    daemon.until(&["runs"], |runs| runs[0][0]["expires_ms"].as_u64() > Some(now_ms() + 20_000)).unwrap();
    psql.say("SELECT 'once more';").unwrap();
    psql.until_contains("once more").unwrap();
    // Other groups or claims: what was opened under the old ones ends.
    replace(&path, &token(&json!({"ref": "refs/heads/other"}), 120));
    daemon.until(&["runs"], |runs| runs[0][0]["expires_ms"].as_u64() > Some(now_ms() + 80_000)).unwrap();
    psql.say("SELECT 'and now';").unwrap();
    psql.until_contains("says other groups or claims").unwrap();
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[test]
fn where_the_policy_says_so_an_expired_token_cuts() {
    let daemon = daemon("on_expiry = \"cut\"");
    let path = token_file(&daemon, &token(&json!({"groups": ["dba"]}), 3));
    let mut psql = session(&daemon, &path);
    psql.say("SELECT pg_sleep(60);").unwrap();
    let cut = psql.until_contains("portcullis:").unwrap();
    assert!(cut.contains("the token of its run has expired"), "{cut}");
}

#[test]
fn a_withdrawn_run_ends_and_its_token_with_it() {
    let mut daemon = daemon("");
    let text = token(&json!({"groups": ["dba"]}), 300);
    let path = token_file(&daemon, &text);
    let mut psql = session(&daemon, &path);
    psql.say("SELECT 'ready';").unwrap();
    psql.until_contains("ready").unwrap();
    let id = daemon.json(&["runs"]).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let mut other = daemon.command_as(BYSTANDER).unwrap();
    let refused = process::finish(other.args(["runs", "withdraw", &id])).unwrap();
    assert!(refused.code == 1 && refused.stderr.contains("only root and group"), "{}", refused.stderr);
    psql.say("SELECT pg_sleep(60);").unwrap();
    daemon.until(&["sessions", "list"], |sessions| sessions[0]["operations"].as_u64() > Some(1)).unwrap();
    let done = daemon.cli(&["runs", "withdraw", &id, "--reason", "it leaks"]).unwrap();
    assert!(done.code == 0 && done.stdout.contains("sessions that end: 1"), "{}{}", done.stdout, done.stderr);
    assert!(psql.until_contains("portcullis:").unwrap().contains("it leaks"));
    let replay = psql_with(&daemon, &text, "SELECT 1");
    assert!(
        replay.code == 1 && replay.stderr.contains("was withdrawn, and the token with it"),
        "{}",
        replay.stderr
    );
    // Neither the run nor the token comes back with the daemon.
    daemon.kill().unwrap();
    daemon.launch().unwrap();
    let replay = psql_with(&daemon, &text, "SELECT 1");
    assert!(replay.code == 1 && replay.stderr.contains("was withdrawn"), "{}", replay.stderr);
    let fresh = psql_with(&daemon, &token(&json!({"groups": ["dba"], "jti": "2"}), 300), "SELECT 'fresh'");
    assert_eq!(fresh.stdout.trim(), "fresh", "{}", fresh.stderr);
}

#[test]
fn an_issuer_that_is_down_refuses_new_runs_and_leaves_running_ones_alone() {
    let own = Provider::start().unwrap();
    let daemon = Daemon::start(&[("shop", &policy(server(), own.issuer(), ""))]).unwrap();
    let [first, second] = [1, 2].map(|number| {
        own.token(&claims(&json!({"groups": ["dba"], "jti": number.to_string()})), 300).unwrap()
    });
    drop(own);
    let refused = psql_with(&daemon, &first, "SELECT 1");
    assert!(refused.code == 1 && refused.stderr.contains("cannot be had"), "{}", refused.stderr);
    // One whose keys were known when it went away.
    let own = Provider::start().unwrap();
    daemon.policy("shop", &policy(server(), own.issuer(), "")).unwrap();
    daemon.until(&["status"], |status| status[0]["policies"][0]["error"].is_null()).unwrap();
    let good = own.token(&claims(&json!({"groups": ["dba"]})), 300).unwrap();
    let path = token_file(&daemon, &good);
    let mut psql = wait::until(WAIT_MAX, || {
        let mut psql = session(&daemon, &path);
        psql.say("SELECT 'ready';").unwrap();
        match psql.until(|line| line.contains("ready") || line.contains("takes tokens of")) {
            Ok(line) if line.contains("ready") => Ok(psql),
            other => Err(format!("{other:?}")),
        }
    });
    drop(own);
    psql.say("SELECT 'still here';").unwrap();
    psql.until_contains("still here").unwrap();
    assert!(psql_with(&daemon, &second, "SELECT 1").code == 1);
    thread::yield_now();
}

#[test]
fn a_profiles_settings_hold_for_the_whole_session() {
    let settings = "settings = { default_transaction_read_only = true, statement_timeout = \"7s\", search_path = \"pg_catalog\" }, tls";
    let text = policy(server(), provider().issuer(), "").replace("tls", settings).replace(
        "[defaults]",
        "[[guard]]\non = \"postgres\"\neffect = [\"ddl\", \"write\"]\naction = \"allow\"\n[defaults]",
    );
    let daemon = Daemon::start(&[("shop", &text)]).unwrap();
    let path = token_file(&daemon, &token(&json!({"groups": ["dba"]}), 60));
    let mut psql = session(&daemon, &path);
    psql.say("SHOW statement_timeout; SHOW search_path; SHOW transaction_read_only;").unwrap();
    for expected in ["7s", "pg_catalog", "on"] {
        assert_eq!(psql.until(|line| !line.contains("NOTICE")).unwrap().trim(), expected);
    }
    psql.say("CREATE TABLE public.kept_out ();").unwrap();
    assert!(psql.until_contains("ERROR").unwrap().contains("read-only transaction"), "the server says so");
    for statement in ["SET statement_timeout = 0", "BEGIN READ WRITE", "SET search_path = public"] {
        psql.say(&format!("{statement};")).unwrap();
        assert!(psql.until_contains("ERROR").unwrap().contains("profile keeps"), "{statement}");
    }
    psql.say("RESET ALL; DISCARD ALL; SHOW statement_timeout;").unwrap();
    psql.until_contains("7s").unwrap();
}

/// What the README shows, with the shipped policy; the provider stands in GitHub's place, the shop in staging's.
#[test]
fn the_readmes_job_works_as_written() {
    let shipped =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/ci-job.toml")).unwrap();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    assert!(readme.contains("- run: portcullis run --policy ci-job -- python agent.py"));
    let (github, staging) = ("https://token.actions.githubusercontent.com", "staging-db.internal:5432");
    assert!(shipped.contains(github) && shipped.contains(staging));
    let ca = format!("tls = \"verify-full\", root_cert = \"{}\"", server().ca().display());
    let policy = shipped
        .replace(github, provider().issuer())
        .replace(staging, &server().address().to_string())
        .replace("tls = \"verify-full\"", &ca)
        .replace("\"staging_rw\"", &format!("\"{ROLE}\""))
        .replace("\"staging-rw-password\"", "\"shop-password\"");
    let daemon = Daemon::start(&[("ci-job", &policy)]).unwrap();
    let script = "import sys, psycopg
c = psycopg.connect(host=sys.argv[1], port=sys.argv[2], user='agent', dbname='shop', autocommit=True)
print(c.execute('SELECT current_user').fetchone()[0])
print(c.execute('SELECT ssn FROM customers LIMIT 1').fetchone()[0])
print(c.execute(\"UPDATE orders SET status = 'ci' WHERE id = 1\").rowcount)
print(c.execute('SHOW statement_timeout').fetchone()[0])";
    let mut run = daemon.command_as(NOBODY).unwrap();
    run.envs(provider().actions()).args(["run", "--policy", "ci-job", "--"]).arg(process::python());
    let address = server().address();
    run.args(["-c", script, &address.ip().to_string(), &address.port().to_string()]);
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.stdout, format!("{ROLE}\n[redacted]\n1\n5min\n"), "{}\n{}", seen.stderr, daemon.log());
    // Whoever reads the record finds on whose behalf.
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    let session = sessions[0]["session"].as_str().unwrap();
    let opened = daemon.json_lines(&["sessions", "show", session]).unwrap().remove(0);
    assert_eq!(opened["identity"]["subject"], "repo:acme/orders:ref:refs/heads/main", "{opened}");
    assert_eq!(opened["identity"]["claims"]["actor"], "octocat");
    let replay = daemon.cli(&["replay", session, "--speed", "max"]).unwrap();
    assert!(
        replay.stdout.contains("for      octocat (repo:acme/orders:ref:refs/heads/main of"),
        "{}",
        replay.stdout
    );
}
