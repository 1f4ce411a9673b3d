//! Whom clients trust: the variables and the bundle of a run, certificates of the caller's own, the system's store, and
//! what doctor finds out with real clients.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{self, Finished, NOBODY, Talking, as_user, finish};
use serde_json::Value;

use crate::spine::server;
use crate::wait;

/// Variables that must name the bundle, and those that must name the CA alone.
const OF_BUNDLE: [&str; 11] = [
    "PORTCULLIS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CODEX_CA_CERTIFICATE",
    "DENO_CERT",
];
const OF_CA: [&str; 2] = ["PORTCULLIS_CA_FILE", "NODE_EXTRA_CA_CERTS"];

/// Common name and days left of every authority that Python's OpenSSL loads from `sys.argv[1]`, one JSON object.
const AUTHORITIES: &str = r#"
import json, ssl, sys, time
found = {}
for certificate in ssl.create_default_context(cafile=sys.argv[1]).get_ca_certs():
    subject = dict(pair for part in certificate["subject"] for pair in part)
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    found[subject.get("commonName", str(subject))] = left / 86400
print(json.dumps(found))
"#;

/// A daemon with a policy that names no connection, and a CA of its own name and lifetime.
fn bare() -> Daemon {
    let mut daemon = Daemon::prepare(&[("bare", "version = 1\nname = \"bare\"\n")]).unwrap();
    let config = fs::read_to_string(daemon.config()).unwrap();
    fs::write(daemon.config(), config + "\n[ca]\nname = \"Example gate\"\nlifetime = \"90d\"\n").unwrap();
    daemon.launch().unwrap();
    daemon
}

/// `portcullis run --policy bare -- sh -c SCRIPT` as nobody, without the variables this process has.
fn shell(daemon: &Daemon, script: &str) -> Command {
    let mut run = agent::under(daemon, NOBODY, "bare").unwrap();
    run.args(["sh", "-c", script]);
    without_variables(&mut run);
    run
}

fn without_variables(command: &mut Command) {
    for name in OF_BUNDLE.iter().chain(&OF_CA) {
        command.env_remove(name);
    }
}

fn well(finished: &Finished) -> &str {
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{}", finished.stdout);
    finished.stdout.trim()
}

fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// What a client of nobody's loads from a file of certificates.
fn authorities(file: &str) -> BTreeMap<String, f64> {
    let mut python = as_user(NOBODY, process::python());
    let found = finish(python.current_dir("/").args(["-c", AUTHORITIES, file])).unwrap();
    serde_json::from_str(well(&found)).unwrap()
}

/// The name of the daemon's CA among others, with its days.
fn gate(authorities: &BTreeMap<String, f64>) -> Option<(&String, f64)> {
    let mut found = authorities.iter().filter(|(name, _)| name.starts_with("Example gate "));
    let first = found.next().map(|(name, days)| (name, *days));
    assert!(found.next().is_none(), "one CA: {authorities:?}");
    first
}

#[test]
fn a_run_finds_variables_and_a_bundle_of_the_systems_roots_and_the_ca() {
    let daemon = bare();
    let mut run = shell(&daemon, "env");
    let system = "/etc/ssl/certs/ca-certificates.crt";
    // The system's own roots are no certificates of the caller's.
    run.env("SSL_CERT_FILE", system).env("KEPT", "yes");
    let seen = finish(&mut run).unwrap();
    let seen = variables(well(&seen));
    let folder = daemon.folder().join("run");
    for (names, file) in [(&OF_BUNDLE[..], "bundle.pem"), (&OF_CA[..], "ca.pem")] {
        for name in names {
            assert_eq!(seen.get(name).map(Path::new), Some(folder.join(file).as_path()), "{name}");
        }
    }
    assert!(!seen.contains_key("PGSSLROOTCERT"), "libpq's sslmode=prefer would fall back to plaintext");
    assert_eq!(seen["KEPT"], "yes");

    let alone = authorities(seen["NODE_EXTRA_CA_CERTS"]);
    let (name, days) = gate(&alone).unwrap();
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert!((89.9..=90.0).contains(&days), "{days} days");
    let (system, bundle) = (authorities(system), authorities(seen["SSL_CERT_FILE"]));
    assert!(system.len() > 50, "this machine has no roots: install ca-certificates");
    assert!(system.keys().all(|root| bundle.contains_key(root)) && bundle.contains_key(name));
    assert_eq!(bundle.len(), system.len() + 1);
}

#[test]
fn certificates_of_the_callers_own_last_as_long_as_the_run() {
    let daemon = bare();
    let own = server().ca();
    let mut run = shell(&daemon, "echo \"$CURL_CA_BUNDLE\"; env; echo end; read -r _");
    run.env("SSL_CERT_FILE", own).env("NODE_EXTRA_CA_CERTS", own);
    let mut running = Talking::spawn(&mut run).unwrap();
    let bundle = running.until_contains("/bundles/").unwrap();
    for name in OF_BUNDLE.iter().chain(&["NODE_EXTRA_CA_CERTS"]) {
        running.until(|line| line == format!("{name}={bundle}")).unwrap();
    }
    running.until_contains("end").unwrap();
    let found = authorities(&bundle);
    assert!(found.contains_key("Shop test authority") && gate(&found).is_some(), "{found:?}");
    assert!(found.len() > 50, "and the system's: {found:?}");
    let shared = authorities(&daemon.folder().join("run/bundle.pem").display().to_string());
    assert!(!shared.contains_key("Shop test authority"), "nobody else's");

    assert_eq!(running.finish().unwrap().code, 1, "`read` met the end of its input");
    wait::until(Duration::from_secs(20), || match Path::new(&bundle).exists() {
        true => Err(format!("{bundle} outlives its run")),
        false => Ok(()),
    });
}

#[test]
fn a_file_of_the_callers_that_cannot_be_used_is_named() {
    let daemon = bare();
    let mut run = shell(&daemon, "echo $PIP_CERT");
    let seen = finish(run.env("PIP_CERT", "/nonexistent.pem")).unwrap();
    assert_eq!(seen.stdout.trim(), daemon.folder().join("run/bundle.pem").display().to_string());
    assert!(seen.stderr.contains("warning: PIP_CERT names /nonexistent.pem"), "{}", seen.stderr);
    assert_eq!(seen.stderr.lines().count(), 1, "{}", seen.stderr);
}

/// A file of that many certificates of 1.5 KB, none like another.
fn many_certificates(count: usize) -> String {
    let one = |at: usize| format!("-----BEGIN CERTIFICATE-----\n{at:A>1500}\n-----END CERTIFICATE-----\n");
    (0..count).map(|at| one(at + 100_000)).collect()
}

#[test]
fn too_many_certificates_are_refused_before_anything_runs_and_as_many_as_may_be_are_kept() {
    let daemon = bare();
    let file = daemon.folder().join("many.pem");
    let mut run = shell(&daemon, "grep -c BEGIN $SSL_CERT_FILE");
    run.env("SSL_CERT_FILE", &file);
    let shared = fs::read_to_string(daemon.folder().join("run/bundle.pem")).unwrap();
    fs::write(&file, many_certificates(280)).unwrap();
    let kept = finish(&mut run).unwrap();
    assert_eq!(well(&kept), (shared.matches("BEGIN").count() + 280).to_string());
    fs::write(&file, many_certificates(320)).unwrap();
    let refused = finish(&mut run).unwrap();
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("are too many"), "{}", refused.stderr);
}

#[test]
fn a_client_verifies_the_gate_by_the_bundle() {
    let daemon = Daemon::start(&[("shop", &shop_policy(server()))]).unwrap();
    let address = server().address();
    for (file, expected) in [("PORTCULLIS_CA_BUNDLE", 0), ("PORTCULLIS_CA_FILE", 0), ("SHOPS_OWN", 2)] {
        let script = format!(
            "psql -XAt \"host={} port={} user=agent dbname=shop sslmode=verify-full sslrootcert=${file}\" -c 'SELECT 7'",
            address.ip(),
            address.port()
        );
        let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
        let seen = finish(run.env("SHOPS_OWN", server().ca()).args(["sh", "-c", &script])).unwrap();
        assert_eq!(seen.code, expected, "{file}: {}{}", seen.stderr, daemon.log());
        assert_eq!(seen.stdout.trim(), if expected == 0 { "7" } else { "" });
    }
}

#[test]
fn a_ci_job_gets_the_same_variables_for_its_environment_file() {
    let daemon = bare();
    let trust = |arguments: &[&str]| {
        let mut command = daemon.command_as(NOBODY).unwrap();
        without_variables(command.args(["trust", "env"]).args(arguments));
        finish(&mut command).unwrap()
    };
    let run = finish(&mut shell(&daemon, "env")).unwrap();
    let of_run = variables(well(&run));
    for format in ["github", "dotenv"] {
        let printed = trust(&["--format", format]);
        let printed = variables(well(&printed));
        assert_eq!(printed.len(), OF_BUNDLE.len() + OF_CA.len());
        assert!(printed.iter().all(|(name, value)| of_run.get(name) == Some(value)), "{printed:?}");
    }
    let script = format!("{}\necho $GIT_SSL_CAINFO", well(&trust(&[])));
    let evaluated = finish(Command::new("sh").args(["-c", &script])).unwrap();
    assert_eq!(well(&evaluated), of_run["GIT_SSL_CAINFO"]);
}

#[test]
fn without_a_daemon_there_is_nothing_to_trust_yet() {
    let daemon = Daemon::prepare(&[]).unwrap();
    let printed = daemon.cli(&["trust", "env"]).unwrap();
    assert_eq!((printed.code, printed.stdout.as_str()), (1, ""));
    assert!(printed.stderr.contains("the daemon makes it"), "{}", printed.stderr);
}

/// Debian's real update command on the real store, in a mount namespace of its own: the machine's store is untouched.
#[test]
fn the_systems_store_takes_the_ca_and_gives_it_back() {
    let daemon = bare();
    let script = r#"set -e
        mount -t tmpfs tmpfs /usr/local/share/ca-certificates
        mkdir "$1/certs" && cp -a /etc/ssl/certs/. "$1/certs" && mount --bind "$1/certs" /etc/ssl/certs
        "$2" trust status --json
        "$2" trust install
        echo =
        "$3" -c "$4" /etc/ssl/certs/ca-certificates.crt
        "$2" trust install
        "$2" trust status --json
        "$2" trust remove
        echo =
        "$3" -c "$4" /etc/ssl/certs/ca-certificates.crt
        "$2" trust status --json
        find /etc/ssl/certs /usr/local/share/ca-certificates -name '*portcullis*'
    "#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    unshare.arg(daemon.folder()).arg(process::portcullis().unwrap()).arg(process::python()).arg(AUTHORITIES);
    let seen = finish(unshare.env("PORTCULLIS_CONFIG", daemon.config())).unwrap();
    assert_eq!(seen.code, 0, "{}{}", seen.stdout, seen.stderr);

    let objects: Vec<Value> =
        seen.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let [before, installed, during, removed, after] = objects.as_slice() else { panic!("{}", seen.stdout) };
    let state =
        |status: &Value| [&status["installed"], &status["current"], &status["in_effect"]].map(|v| v == true);
    assert_eq!(state(before), [false, false, false]);
    assert_eq!(state(during), [true, true, true]);
    assert_eq!(state(after), [false, false, false]);
    assert_eq!(during["store"], "debian");
    let names = |roots: &Value| roots.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(names(installed).iter().any(|name| name.starts_with("Example gate ")), "{installed}");
    assert!(!names(removed).iter().any(|name| name.starts_with("Example gate ")), "{removed}");
    assert!(names(removed).len() > 50, "the others stay");
    for told in [
        "wrote /usr/local/share/ca-certificates/portcullis.crt",
        "already installed",
        "need a restart",
        "removed ",
    ] {
        assert!(seen.stdout.contains(told), "{told}: {}", seen.stdout);
    }
    assert!(seen.stdout.trim_end().ends_with('}'), "a file of ours is left: {}", seen.stdout);
    assert!(
        !Path::new("/usr/local/share/ca-certificates/portcullis.crt").exists(),
        "the machine's own store"
    );

    let refused = finish(daemon.command_as(NOBODY).unwrap().args(["trust", "install"])).unwrap();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("only root may change the system's store"), "{}", refused.stderr);
}

#[test]
fn doctor_finds_out_what_real_clients_trust() {
    let daemon = bare();
    let doctor = |command: &mut Command| -> Vec<Value> {
        // Debian's Python and its libraries, not a version manager's.
        let seen = finish(command.env("PATH", "/usr/local/bin:/usr/bin:/bin")).unwrap();
        serde_json::from_str(&seen.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", seen.stdout, seen.stderr))
    };
    let checks = doctor(daemon.command_as(NOBODY).unwrap().args(["doctor", "--json"]));
    let state = |name: &str| {
        checks.iter().find(|check| check["name"] == name).map(|check| check["state"].as_str().unwrap())
    };
    for name in ["curl", "git", "python urllib", "python requests", "python httpx", "python aiohttp", "psql"]
    {
        assert_eq!(state(name), Some("ok"), "{name}: {checks:#?}");
    }
    let absent = checks.iter().find(|check| check["name"] == "clients not installed");
    let absent = absent.map_or("", |check| check["found"].as_str().unwrap());
    for name in ["node", "kubectl"] {
        assert_eq!(
            state(name).unwrap_or("absent"),
            if absent.contains(name) { "absent" } else { "ok" },
            "{checks:#?}"
        );
    }

    let mut inside = agent::under(&daemon, NOBODY, "bare").unwrap();
    let checks = doctor(inside.arg(process::portcullis().unwrap()).args(["doctor", "--json"]));
    let clients = checks.iter().find(|check| check["name"] == "clients").unwrap();
    assert!(clients["found"].as_str().unwrap().starts_with("not tried: inside a run"), "{clients}");
    assert!(!checks.iter().any(|check| check["name"] == "curl"), "{checks:#?}");
}
