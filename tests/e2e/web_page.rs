//! The approvals page with a real OpenID provider, in a real browser: people sign in, see what an agent asks as it comes, and
//! decide it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::oidc::{PAGE_SECRET, Provider};
use harness::process::{self, Finished, NOBODY, REVIEWER, Talking, finish};
use harness::reviewer;
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};

use crate::spine::server;
use crate::wait;

/// How long the daemon may take to notice a file.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// A daemon with a page, and the provider that signs people in to it.
pub(crate) struct Page {
    pub(crate) daemon: Daemon,
    pub(crate) url: String,
    pub(crate) provider: Provider,
}

impl Page {
    /// Over TLS, as a public client; or plain, as a confidential one.
    fn start(tls: bool, policy: &str) -> Self {
        Self::start_with(tls, policy, "", &[])
    }

    /// With more in the daemon's file, and more credentials.
    pub(crate) fn start_with(tls: bool, policy: &str, more: &str, credentials: &[(&str, &str)]) -> Self {
        // Free now, and taken by nobody else until the daemon does: the kernel hands out ports in no order.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" });
        let provider = Provider::start_for(&[&format!("{url}/callback")]).unwrap();
        let mut daemon = Daemon::prepare(&[("shop", policy)]).unwrap();
        let mut table = format!(
            "\n[web]\nlisten = \"127.0.0.1:{port}\"\nurl = \"{url}\"\nissuer = \"{}\"\ngroups_claim = \"groups\"\n\
             name_claim = \"preferred_username\"\n",
            provider.issuer()
        );
        if tls {
            let made = generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
            let (certificate, key) = (daemon.folder().join("page.pem"), daemon.folder().join("page-key.pem"));
            fs::write(&certificate, made.cert.pem()).unwrap();
            fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            table +=
                &format!("client_id = \"portcullis-page\"\ncertificate = {certificate:?}\nkey = {key:?}\n");
        } else {
            table += "client_id = \"portcullis-page-confidential\"\nclient_secret = \"page-secret\"\nstep_up = \"10m\"\n";
            daemon.credential("page-secret", PAGE_SECRET).unwrap();
        }
        daemon.configure(&(table + more)).unwrap();
        for (name, secret) in credentials {
            daemon.credential(name, secret).unwrap();
        }
        daemon.launch().unwrap();
        Self { daemon, url, provider }
    }

    fn shop(tls: bool) -> Self {
        Self::start(tls, &shop_policy(server()).replace("user:daemon", "dba").replace("30s", "120s"))
    }

    pub(crate) fn agent(&self, sql: &str) -> Talking {
        let mut run = agent::under(&self.daemon, NOBODY, "shop").unwrap();
        run.args(agent::psql_arguments(server(), "shop")).args([
            "--set=VERBOSITY=verbose",
            "--command",
            BEFORE,
            "--command",
            sql,
        ]);
        Talking::spawn(&mut run).unwrap()
    }
}

/// What the agent does before it asks.
const BEFORE: &str = "SELECT 40 + 2 AS answer";

/// Somebody's browser.
pub(crate) struct Browser(Option<Talking>);

impl Browser {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/oidc/browser.py");
        let mut python = Command::new(process::venv_python().unwrap());
        Self(Some(Talking::spawn(python.args(["-u", script])).unwrap()))
    }

    pub(crate) fn tell(&mut self, wanted: &Value) -> Value {
        let shown = wanted.to_string();
        let talking = self.0.as_mut().unwrap();
        talking.say(&shown).unwrap();
        let said = talking.until(|line| line.starts_with('{')).unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert!(said.get("error").is_none(), "{shown}: {said}");
        said["ok"].clone()
    }

    pub(crate) fn until(&mut self, text: &str) -> String {
        self.tell(&json!({"do": "until", "text": text})).as_str().unwrap().to_owned()
    }

    fn sign_in(&mut self, page: &Page, name: &str) -> String {
        self.tell(&json!({"do": "sign_in", "with": [page.url, name]})).as_str().unwrap().to_owned()
    }

    /// A picture for `cargo xtask screenshots`, where it has asked for some.
    fn picture(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os("PORTCULLIS_SCREENSHOTS") {
            let path = std::path::Path::new(&folder).join(name);
            self.tell(&json!({"do": "screenshot", "with": [path]}));
        }
    }

    fn keys(&mut self, keys: &[&str]) {
        self.tell(&json!({"do": "keys", "with": keys}));
    }
}

impl Drop for Browser {
    /// At the end of its input the script closes the browser; killed, it would leave it behind.
    fn drop(&mut self) {
        drop(self.0.take().map(Talking::finish));
    }
}

pub(crate) fn table(name: &str) {
    server()
        .psql("shop", &format!("CREATE TABLE {name} (id int); ALTER TABLE {name} OWNER TO shop_agent"))
        .unwrap();
}

pub(crate) fn exists(name: &str) -> bool {
    server().psql("shop", &format!("SELECT to_regclass('{name}') IS NOT NULL")).unwrap().trim() == "t"
}

#[test]
fn a_reviewer_sees_it_come_and_approves_it_by_keyboard() {
    let page = Page::shop(true);
    table("page_approved");
    let mut ada = Browser::start();
    let seen = ada.sign_in(&page, "ada+dba");
    assert!(seen.contains("Nothing waits for you."), "{seen}");
    ada.tell(&json!({"do": "run", "with": ["window.notReloaded = true"]}));

    let mut psql = page.agent("DROP TABLE page_approved");
    let seen = ada.until("DROP TABLE page_approved");
    assert!(seen.contains("nobody") && seen.contains("rule nothing irreversible"), "{seen}");
    assert_eq!(ada.tell(&json!({"do": "run", "with": ["return window.notReloaded"]})), true, "it came live");
    assert!(exists("page_approved"), "nothing ran before the decision");

    ada.keys(&["j"]);
    ada.picture("inbox.png");
    ada.keys(&["Enter"]);
    ada.tell(&json!({"do": "until", "url": "/approvals/", "css": "#approve"}));
    ada.picture("approval.png");
    ada.keys(&["a"]);
    ada.keys(&["o", "k", "Enter"]);
    ada.until("approved by ada: ok");
    psql.until_contains("DROP TABLE").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0, "{}", page.daemon.log());
    assert!(!exists("page_approved"));

    // Who it was is on record, by the provider's word.
    let settled = page.daemon.json(&["approvals", "list"]).unwrap();
    let by = &settled[0]["outcome"]["approved"]["by"];
    assert_eq!((&by["user"], &by["identity"]["subject"]), (&json!("ada"), &json!("ada+dba")));
    assert!(!page.daemon.log().contains("eyJ"), "no token is in the log");

    ada.tell(&json!({"do": "click", "with": [".who button"]}));
    ada.until("You are signed out here.");
    ada.tell(&json!({"do": "open", "with": [page.url]}));
    ada.tell(&json!({"do": "until", "text": "Sign in", "css": "button.primary"}));
}

#[test]
fn a_session_is_shown_as_it_went() {
    let page = Page::shop(true);
    let mut psql = page.agent("SELECT name, email, ssn FROM customers ORDER BY id LIMIT 2");
    psql.until_contains("[redacted]").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0);
    let mut eve = Browser::start();
    eve.sign_in(&page, "eve+portcullis");
    eve.tell(&json!({"do": "open", "with": [format!("{}/sessions/last", page.url)]}));
    let seen = eve.until("SELECT name, email, ssn");
    assert!(seen.contains("[redacted]"), "{seen}");
    eve.picture("session.png");
}

#[test]
fn a_denial_and_its_reason_reach_psql() {
    let page = Page::shop(false);
    table("page_denied");
    let mut ada = Browser::start();
    ada.sign_in(&page, "ada+dba");
    let mut psql = page.agent("DROP TABLE page_denied");
    ada.until("DROP TABLE page_denied");
    ada.keys(&["j"]);
    ada.keys(&["d"]);
    ada.tell(&json!({"do": "until", "url": "#deny", "css": "#deny"}));
    ada.tell(&json!({"do": "type", "with": ["#deny input[name=reason]", "use the <staging> database"]}));
    ada.keys(&["Enter"]);
    ada.until("denied by ada: use the <staging> database");
    psql.until_contains("use the <staging> database").unwrap();
    assert_ne!(psql.finish().unwrap().code, 0);
    assert!(exists("page_denied"));
}

#[test]
fn whom_a_run_acts_for_cannot_approve_it_and_a_bystander_sees_nothing() {
    let page = Page::shop(false);
    table("page_own");
    let _psql = page.agent("DROP TABLE page_own");
    // The run is nobody's, and so is this sign-in.
    let mut own = Browser::start();
    own.sign_in(&page, "nobody+dba");
    own.until("DROP TABLE page_own");
    own.keys(&["j"]);
    own.keys(&["Enter"]);
    let seen = own.until("this run acts for user nobody; somebody else must decide");
    assert!(!seen.contains("Approve"), "{seen}");
    let mut bystander = Browser::start();
    let seen = bystander.sign_in(&page, "bob+dev");
    assert!(seen.contains("Nothing waits for you."), "{seen}");
    assert!(exists("page_own"));
}

#[test]
fn who_approves_proves_what_the_rule_asks_for() {
    let policy =
        shop_policy(server()).replace("\"user:daemon\"", "\"dba\", \"user:daemon\"").replace("30s", "120s");
    let asking = policy.replace("action = \"hold\"", "action = \"hold\"\nstep_up = \"5m\"\nacr = [\"phr\"]");
    assert_ne!(policy, asking);
    let page = Page::start(false, &asking);
    table("page_proved");
    let mut psql = page.agent("DROP TABLE page_proved");
    let mut ada = Browser::start();
    ada.sign_in(&page, "ada+dba");
    ada.until("DROP TABLE page_proved");
    ada.keys(&["j"]);
    ada.keys(&["Enter"]);
    let seen = ada.until("needs a sign-in at the identity provider within 5m with phr");
    assert!(!seen.contains("Covers"), "there is no form to approve it with: {seen}");
    // Whoever decides sees what the run did just before.
    assert!(seen.contains("Just before, in this run") && seen.contains(BEFORE), "{seen}");
    // The command line's reviewers have no such proof.
    let id = page.daemon.json(&["approvals", "list"]).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let shown = page.daemon.cli(&["approvals", "show", &id]).unwrap().stdout;
    assert!(shown.contains("just before, in this run:") && shown.contains(BEFORE), "{shown}");
    let refused = reviewer::decide(&page.daemon, REVIEWER, "approve", &id, "").unwrap();
    assert!(
        refused.stdout.contains("who approves needs a fresh one within 5m with phr"),
        "{}",
        refused.stdout
    );
    assert!(
        refused.stderr.contains("who decides here has none: use `portcullis login` or the approvals page"),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.code, 1);
    // The provider is asked for it and takes no notice.
    ada.tell(&json!({"do": "click", "with": ["#step-up button"]}));
    ada.tell(&json!({"do": "prove", "with": ["ada+dba", "any"]}));
    ada.until("yours was with pwd");
    ada.tell(&json!({"do": "click", "with": ["main a"]}));
    ada.tell(&json!({"do": "until", "url": &id, "css": "#step-up"}));
    ada.keys(&["a"]);
    ada.keys(&["Enter"]);
    ada.tell(&json!({"do": "prove", "with": ["ada+dba", "phr"]}));
    ada.tell(&json!({"do": "until", "url": &id, "css": "#approve"}));
    assert!(exists("page_proved"), "nothing ran before the decision");
    ada.tell(&json!({"do": "click", "with": ["#approve button"]}));
    ada.until("approved by ada");
    psql.until_contains("DROP TABLE").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0, "{}", page.daemon.log());
    let settled = page.daemon.json(&["approvals", "list"]).unwrap();
    assert_eq!(settled[0]["outcome"]["approved"]["by"]["proof"]["acr"], "phr");
}

#[test]
fn an_operator_sees_what_runs_and_what_was_recorded_and_withdraws() {
    let page = Page::shop(false);
    table("page_withdrawn");
    let psql = page.agent("DROP TABLE page_withdrawn");
    let mut eve = Browser::start();
    eve.sign_in(&page, "eve+portcullis");
    eve.until("DROP TABLE page_withdrawn");
    let mut open = |path: &str, expected: &str| {
        eve.tell(&json!({"do": "open", "with": [format!("{}{path}", page.url)]}));
        eve.until(expected)
    };
    let seen = open("/policy", "nothing irreversible");
    assert!(seen.contains("hold for dba, at most 2m 0s"), "{seen}");
    // What each rule has decided, as the command line has it.
    let hits = page.daemon.json(&["policy", "hits"]).unwrap();
    let rules = hits[0]["rules"].as_array().unwrap();
    let held = rules.iter().find(|rule| rule["rule"] == "nothing irreversible").unwrap();
    assert_eq!((&held["hits"], &held["action"]), (&json!(1), &json!("hold")), "{hits}");
    let row = seen.lines().find(|line| line.starts_with("nothing irreversible")).unwrap();
    assert!(row.contains("1\t") && row.contains(" ago"), "{row}");
    let seen = open("/sessions?policy=shop&live=on", "shop-db");
    assert!(seen.contains("nobody"), "{seen}");
    open("/sessions/last", "DROP TABLE page_withdrawn");
    let mut kim = Browser::start();
    kim.sign_in(&page, "kim+portcullis");
    kim.tell(&json!({"do": "open", "with": [format!("{}/sessions/last", page.url)]}));
    kim.until("It goes on; what comes is added.");
    open("/runs", "policy shop");
    eve.tell(&json!({"do": "type", "with": ["input[name=reason]", "enough"]}));
    eve.keys(&["Enter"]);
    assert_ne!(psql.finish().unwrap().code, 0);
    let seen = kim.until("It has ended.");
    assert!(seen.contains("enough"), "what came was added: {seen}");
    eve.tell(&json!({"do": "open", "with": [format!("{}/runs", page.url)]}));
    eve.until("Nothing is governed now.");
    assert!(exists("page_withdrawn"));
    assert!(page.daemon.log().contains("an operator withdrew a run"), "{}", page.daemon.log());
}

/// Contrast of ordinary text at least (WCAG 2.2, success criterion 1.4.3).
const CONTRAST_MIN: f64 = 4.5;

#[test]
fn a_telephone_is_wide_enough_and_light_and_dark_can_be_read() {
    let policy = shop_policy(server()).replace("user:daemon", "dba\", \"portcullis").replace("30s", "120s");
    let page = Page::start(false, &policy);
    table("page_narrow");
    let long = format!("DROP TABLE page_narrow /* {} */", "x".repeat(300));
    let _psql = page.agent(&long);
    let mut eve = Browser::start();
    eve.sign_in(&page, "eve+portcullis");
    eve.until("DROP TABLE page_narrow");
    let id = page.daemon.json(&["approvals", "list"]).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let approval = format!("/approvals/{id}");
    for scheme in ["light", "dark"] {
        eve.tell(&json!({"do": "emulate", "with": [360, scheme]}));
        for path in ["/", &approval, "/sessions", "/sessions/last", "/policy", "/runs"] {
            eve.tell(&json!({"do": "open", "with": [format!("{}{path}", page.url)]}));
            eve.until("Portcullis");
            let looks = eve.tell(&json!({"do": "looks"}));
            assert_eq!((&looks["page"], &looks["window"]), (&json!(360), &json!(360)), "{path}: {looks}");
            assert_eq!(looks["dark"], json!(scheme == "dark"), "{looks}");
            assert!(looks["contrast"].as_f64().unwrap() >= CONTRAST_MIN, "{scheme} {path}: {looks}");
        }
    }
}

#[test]
fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
    let page = Page::shop(true);
    let (certificate, key) =
        (page.daemon.folder().join("page.pem"), page.daemon.folder().join("page-key.pem"));
    let asks = |trusted: &std::path::Path| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]).arg(trusted).arg(&page.url);
        finish(&mut curl).unwrap()
    };
    let old = page.daemon.folder().join("old.pem");
    fs::copy(&certificate, &old).unwrap();
    assert!(asks(&old).stdout.contains("Sign in"));
    // Whoever has the page open keeps it.
    let mut ada = Browser::start();
    ada.sign_in(&page, "ada+dba");
    let made = generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let put = |path: &std::path::Path, text: &str| {
        let draft = page.daemon.folder().join("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(draft, path).unwrap();
    };
    put(&certificate, &made.cert.pem());
    put(&key, &made.signing_key.serialize_pem());
    let served = |answer: Finished| match answer.stdout.contains("Sign in") {
        true => Ok(()),
        false => Err(answer.stderr),
    };
    wait::until(WAIT_MAX, || served(asks(&certificate)));
    assert_ne!(asks(&old).code, 0, "and the old one is not");
    table("page_renewed");
    let _psql = page.agent("DROP TABLE page_renewed");
    ada.until("DROP TABLE page_renewed");
    put(&key, "no key");
    wait::until(WAIT_MAX, || {
        let log = page.daemon.log();
        let told = log.contains("the approvals page keeps the certificate that it has");
        if told { Ok(()) } else { Err(log) }
    });
    served(asks(&certificate)).unwrap();
    assert!(!page.daemon.log().contains("no key"), "nothing of a file is in the log");
}

#[test]
fn no_agent_reaches_the_page_whatever_its_policy_says() {
    let policy = "version = 1\nname = \"shop\"\n[egress]\ndefault = \"record\"\n";
    let page = Page::start(false, policy);
    let address = page.url.trim_start_matches("http://");
    let reached = finish(Command::new("curl").args(["--silent", "--noproxy", "*", &page.url])).unwrap();
    assert!(reached.stdout.contains("Sign in"), "others do: {} {}", reached.stdout, reached.stderr);
    for target in [
        page.url.clone(),
        page.url.replace("127.0.0.1", "0.0.0.0"),
        page.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let mut curl = agent::under(&page.daemon, NOBODY, "shop").unwrap();
        curl.args(["curl", "--silent", "--noproxy", "*", "--header", &format!("Host: {address}"), &target]);
        let refused = finish(&mut curl).unwrap();
        assert!(!refused.stdout.contains("Sign in"), "{target}: {}", refused.stdout);
    }
    // A policy that leads there by another name.
    let led = format!(
        "version = 1\nname = \"led\"\n[[connection]]\nname = \"led\"\nto = [\"127.88.0.1:80\"]\nprotocol = \"opaque\"\n\
         upstream = {{ address = \"{address}\" }}\n"
    );
    page.daemon.policy("led", &led).unwrap();
    let known = |names: &[Value]| names.iter().any(|status| status.to_string().contains("\"led\""));
    page.daemon.until(&["status"], known).unwrap();
    let mut curl = agent::under(&page.daemon, NOBODY, "led").unwrap();
    curl.args([
        "curl",
        "--silent",
        "--noproxy",
        "*",
        "--header",
        &format!("Host: {address}"),
        "http://127.88.0.1/",
    ]);
    let refused = finish(&mut curl).unwrap();
    assert!(!refused.stdout.contains("Sign in"), "{}", refused.stdout);
    assert!(page.daemon.log().contains("tried to reach the approvals page"), "{}", page.daemon.log());
}
