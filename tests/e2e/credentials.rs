//! Credentials from elsewhere than the folder: each source logs in, leases live as long as their session, and no secret is
//! where an agent, an operator's command or a recording shows it.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::postgres::{PASSWORD, ROLE};
use harness::process::{self, NOBODY, Talking};
use harness::vault::{TOKEN, VaultStandIn};

use crate::spine::server;

/// A part of every planted password: nothing else of this host has it.
const PLANTED: &str = "zq7-planted-Xw3";
/// Where it is planted, and by which each password ends.
const SOURCES: [&str; 5] = ["file", "systemd", "env", "exec", "vault"];

/// The roles are the one server's, so tests that make some take turns.
static ROLES: Mutex<()> = Mutex::new(());

fn roles() -> std::sync::MutexGuard<'static, ()> {
    ROLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The shop's policy under another name, with another `upstream`.
fn policy(name: &str, upstream: &str) -> String {
    let shop = shop_policy(server());
    let old = format!("user = \"{ROLE}\", credential = \"shop-password\"");
    assert!(shop.contains(&old) && shop.contains("name = \"shop\"\n"));
    shop.replace(&old, upstream).replace("name = \"shop\"\n", &format!("name = \"{name}\"\n"))
}

fn role(name: &str, password: &str) {
    let sql = format!(
        "DROP ROLE IF EXISTS \"{name}\"; CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'; \
         GRANT SELECT ON customers TO \"{name}\""
    );
    server().psql("shop", &format!("DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN EXECUTE 'DROP OWNED BY \"{name}\"'; END IF; END $$")).unwrap();
    server().psql("shop", &sql).unwrap();
}

#[test]
fn a_dynamic_role_is_leased_for_the_session() {
    let _turn = roles();
    role("v-readonly-7", "d7namic-pass");
    let mut vault = VaultStandIn::start("v-readonly-7", "d7namic-pass", 4).unwrap();
    let upstream = "user = \"nobody_at_all\", credential = \"shop-dynamic\"";
    let mut daemon = Daemon::prepare(&[("shop", &policy("shop", upstream))]).unwrap();
    daemon.credential("vault-token", TOKEN).unwrap();
    daemon.configure(&vault.table("shop-dynamic", "database/creds/readonly")).unwrap();
    daemon.launch().unwrap();

    let mut shell =
        Talking::spawn(&mut agent::psql_shell(&daemon, server(), NOBODY, "shop").unwrap()).unwrap();
    shell.say("SELECT 'I am ' || session_user, ssn FROM customers WHERE id = 1;").unwrap();
    let said = shell.until_contains("I am").unwrap();
    assert_eq!(said, "I am v-readonly-7|[redacted]", "{}", daemon.log());
    vault.until("GET /v1/database/creds/readonly 200").unwrap();
    vault.until("POST /v1/sys/leases/renew 200").unwrap();
    vault.until("POST /v1/sys/leases/renew 200").unwrap();
    shell.say("SELECT 'still ' || session_user;").unwrap();
    shell.until_contains("still v-readonly-7").unwrap();
    assert_eq!(shell.finish().unwrap().code, 0);
    vault.until("POST /v1/sys/leases/revoke 204").unwrap();

    // A daemon that stops gives back what it still has.
    let mut shell =
        Talking::spawn(&mut agent::psql_shell(&daemon, server(), NOBODY, "shop").unwrap()).unwrap();
    shell.say("SELECT 'I am ' || session_user;").unwrap();
    shell.until_contains("I am v-readonly-7").unwrap();
    daemon.signal("TERM").unwrap();
    assert!(daemon.wait().unwrap(), "{}", daemon.log());
    vault.until("POST /v1/sys/leases/revoke 204").unwrap();
    assert!(!daemon.log().contains("d7namic") && !daemon.log().contains(TOKEN), "{}", daemon.log());
}

#[test]
fn the_clients_password_is_passed_through() {
    let upstream = format!("user = \"{ROLE}\", auth = \"pass-through\"");
    let daemon = Daemon::start(&[("shop", &policy("shop", &upstream))]).unwrap();
    let with = |password: &str| {
        let mut psql = agent::under(&daemon, NOBODY, "shop").unwrap();
        psql.args(agent::psql_arguments(server(), "shop")).args(["-At", "-w", "-c", "SELECT session_user"]);
        process::finish(psql.env("PGPASSWORD", password)).unwrap()
    };
    let seen = with(PASSWORD);
    assert_eq!((seen.code, seen.stdout.trim()), (0, ROLE), "{}\n{}", seen.stderr, daemon.log());
    let wrong = format!("{PLANTED}-wrong");
    let seen = with(&wrong);
    assert_eq!(seen.code, 2, "{}", seen.stdout);
    let expected = format!("FATAL:  portcullis: password authentication failed for user \"{ROLE}\"");
    assert!(seen.stderr.contains(&expected), "{}", seen.stderr);
    let (_, hint) = seen.stderr.split_once("HINT:  `portcullis sessions show ").unwrap();
    let shown = daemon.cli(&["sessions", "show", hint.split('`').next().unwrap()]).unwrap().stdout;
    assert!(shown.contains("does not accept the client's own password"), "{shown}");
    assert!(!shown.contains(PLANTED) && !seen.stderr.contains(PLANTED) && !daemon.log().contains(PLANTED));
    assert_eq!(found_in_files(&daemon.folder().join("state"), PASSWORD.as_bytes()), Vec::<PathBuf>::new());
}

/// A daemon that gets a password from each source, with a policy of the source's name that uses it.
fn planted(folder: &Path, vault: &VaultStandIn) -> Daemon {
    let secret = |source: &str| format!("{PLANTED}-{source}");
    let upstream = |source: &str| format!("user = \"planted_{source}\", credential = \"planted-{source}\"");
    let policies: Vec<(&str, String)> =
        SOURCES.iter().map(|source| (*source, policy(source, &upstream(source)))).collect();
    let policies: Vec<(&str, &str)> = policies.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut daemon = Daemon::prepare(&policies).unwrap();
    for source in SOURCES {
        role(&format!("planted_{source}"), &secret(source));
    }
    private(&folder.join("there"), 0o400, &secret("systemd"));
    private(&folder.join("exec-secret"), 0o600, &secret("exec"));
    private(
        &folder.join("get"),
        0o700,
        &format!("#!/bin/sh\ncat {0} {0} >&2; cat {0}; echo\n", folder.join("exec-secret").display()),
    );
    daemon.credential("planted-file", &secret("file")).unwrap();
    daemon.credential("vault-token", TOKEN).unwrap();
    daemon
        .configure(&format!(
            "[credential.planted-systemd]\nfrom = \"systemd\"\nname = \"there\"\n\
             [credential.planted-env]\nfrom = \"env\"\nvariable = \"PLANTED\"\n\
             [credential.planted-exec]\nfrom = \"exec\"\ncommand = [\"{}\"]\n{}",
            folder.join("get").display(),
            vault.table("planted-vault", "secret/data/planted")
        ))
        .unwrap();
    let mut serve = Command::new(process::portcullis().unwrap());
    serve.env("CREDENTIALS_DIRECTORY", folder).env("PLANTED", secret("env"));
    daemon.launch_as(serve).unwrap();
    daemon
}

fn private(path: &Path, mode: u32, text: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_planted_password_is_found_nowhere() {
    let _turn = roles();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let vault = VaultStandIn::start("unused", &format!("{PLANTED}-vault"), 60).unwrap();
    let mut daemon = planted(folder.path(), &vault);
    let psql = |source: &str| {
        let mut psql = agent::under(&daemon, NOBODY, source).unwrap();
        psql.args(agent::psql_arguments(server(), "shop")).args(["--tuples-only", "--no-align"]);
        psql.env("PGPASSWORD", "the-agents-own-words");
        psql
    };
    for source in SOURCES {
        let mut shell = Talking::spawn(&mut psql(source)).unwrap();
        shell.say("SELECT 'I am ' || session_user;").unwrap();
        shell.until_contains(&format!("I am planted_{source}")).unwrap();
        let pid = shell.process().id();
        assert!(memory_of(pid, b"the-agents-own-words"), "the search finds what is there");
        assert!(!memory_of(pid, PLANTED.as_bytes()), "{source}: in the agent's memory");
        for file in ["environ", "cmdline"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!has(&text, PLANTED.as_bytes()), "{source}: in its {file}");
        }
        assert_eq!(shell.finish().unwrap().code, 0);
    }
    // And where the server does not take it any more.
    for source in SOURCES {
        server().psql("shop", &format!("ALTER ROLE planted_{source} PASSWORD 'changed'")).unwrap();
        let seen = process::finish(psql(source).args(["-c", "SELECT 1"])).unwrap();
        assert_eq!(seen.code, 2, "{source}: {}", seen.stdout);
        assert!(seen.stderr.contains("does not accept the credential Portcullis holds"), "{}", seen.stderr);
        assert!(!seen.stderr.contains(PLANTED), "{source}: {}", seen.stderr);
    }
    nothing_tells(&mut daemon);
}

/// Neither the daemon's log, its own environment, its recordings, nor anything that its socket answers.
fn nothing_tells(daemon: &mut Daemon) {
    let log = daemon.log();
    assert!(!log.contains(PLANTED), "{log}");
    assert!(log.contains("bytes to its standard error, not shown"), "{log}");
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    assert!(
        !has(&fs::read(proc.join("environ")).unwrap(), PLANTED.as_bytes()),
        "taken out of the environment"
    );
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let found = found_in_files(&daemon.folder().join("state"), PLANTED.as_bytes());
    assert_eq!(found, Vec::<PathBuf>::new());
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert!(sessions.len() >= 2 * SOURCES.len(), "{sessions:?}");
    let mut commands = vec![vec!["status".to_owned(), "--json".to_owned()]];
    for words in [["approvals", "list"], ["sessions", "list"]] {
        commands.push([words.as_slice(), &["--json"]].concat().into_iter().map(str::to_owned).collect());
    }
    for session in &sessions {
        let id = session["session"].as_str().or_else(|| session["id"].as_str()).unwrap();
        commands.push(["sessions", "show", id].map(str::to_owned).to_vec());
        commands.push(["sessions", "show", id, "--json"].map(str::to_owned).to_vec());
    }
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let seen = daemon.cli(&words).unwrap();
        assert_eq!(seen.code, 0, "{words:?}: {}", seen.stderr);
        assert!(!seen.stdout.contains(PLANTED) && !seen.stderr.contains(PLANTED), "{words:?}");
    }
}

fn has(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// Files below a folder that hold these bytes as they are.
fn found_in_files(folder: &Path, wanted: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(found_in_files(&path, wanted));
        } else if path.is_file() && has(&fs::read(&path).unwrap(), wanted) {
            found.push(path);
        }
    }
    found
}

/// Whether any memory of a process that can be read holds these bytes.
fn memory_of(pid: u32, wanted: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let (range, permissions) = (fields.next().unwrap(), fields.next().unwrap());
        // Kernel's own pages cannot be read in this way.
        if !permissions.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            return false;
        }
        let (start, end) = range.split_once('-').unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (parse(start), parse(end));
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(start)).unwrap();
        // A mapping beyond the end of its file gives an error for those pages.
        drop(memory.by_ref().take(end - start).read_to_end(&mut bytes));
        has(&bytes, wanted)
    })
}
