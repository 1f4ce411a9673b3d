//! Each way to log in to a server, and each way to know it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::daemon::Daemon;
use harness::process::{self, Owned};

use super::{ALLOW, last_session, server, ssh};
use crate::wait;

/// A daemon whose connection says this of its server, with more credentials by name.
fn daemon(upstream: &str, credentials: &[(&str, &str)]) -> Daemon {
    let policy = server().policy_with(upstream, "", ALLOW);
    let mut daemon = Daemon::prepare(&[("shop", &policy)]).unwrap();
    for (name, key) in credentials {
        daemon.credential(name, &server().key(key).unwrap()).unwrap();
    }
    daemon.launch().unwrap();
    daemon
}

fn logs_in(daemon: &Daemon, by: &str) {
    let seen = ssh(daemon, "echo here");
    assert_eq!(seen.stdout, "here\n", "{}\n{}\n{}", seen.stderr, daemon.log(), server().log());
    let events = last_session(daemon);
    let note = events.iter().find(|event| event["event"] == "note").unwrap().to_string();
    assert!(note.contains(by), "{note}");
}

fn host_keys() -> String {
    format!("host_keys = [\"{}\"]", server().public_key("host_ed25519").unwrap())
}

#[test]
fn keys_of_every_kind_log_in() {
    for name in ["account", "account_ecdsa", "account_rsa"] {
        let daemon = daemon(&format!("credential = \"the-key\", {}", host_keys()), &[("the-key", name)]);
        logs_in(&daemon, "by publickey");
    }
}

#[test]
fn a_stored_certificate_logs_in() {
    let upstream = format!(
        "credential = \"the-key\", auth = \"certificate\", certificate = \"its-certificate\", {}",
        host_keys()
    );
    let daemon = daemon(&upstream, &[("the-key", "certified"), ("its-certificate", "certified-cert.pub")]);
    logs_in(&daemon, "by publickey with a certificate");
}

#[test]
fn an_authentication_agent_of_the_daemon_logs_in() {
    let folder = server().scratch("agent").unwrap();
    let socket = folder.join("socket");
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
    let _agent = Owned::spawn(&mut agent).unwrap();
    wait::until(Duration::from_secs(10), || if socket.exists() { Ok(()) } else { Err("no agent") });
    // OpenSSH wants its keys to be nobody else's.
    let key = folder.join("key");
    fs::copy(server().file("account"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    process::run(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket)).unwrap();
    let upstream = format!("auth = \"agent\", agent = \"{}\", {}", socket.display(), host_keys());
    logs_in(&daemon(&upstream, &[]), "by publickey of an authentication agent");
}

#[test]
fn a_server_is_known_by_the_ca_of_its_host_certificate() {
    let ca = server().public_key("host_ca").unwrap();
    let right = daemon(&format!("credential = \"k\", host_ca = [\"{ca}\"]"), &[("k", "account")]);
    logs_in(&right, "certificate");
    let other = server().public_key("user_ca").unwrap();
    let wrong = daemon(&format!("credential = \"k\", host_ca = [\"{other}\"]"), &[("k", "account")]);
    assert_eq!(ssh(&wrong, "echo here").code, 255);
}

#[test]
fn a_server_is_known_by_a_known_hosts_file() {
    let folder = server().scratch("known").unwrap();
    let file = folder.join("known_hosts");
    let key = server().public_key("host_ed25519").unwrap();
    let at = server().at();
    fs::write(&file, format!("[{}]:{} {key}\n", at.ip(), at.port())).unwrap();
    let upstream = format!("credential = \"k\", known_hosts = \"{}\"", file.display());
    logs_in(&daemon(&upstream, &[("k", "account")]), "known host key");
    fs::write(&file, format!("[{}]:{} {}\n", at.ip(), at.port(), server().public_key("user_ca").unwrap()))
        .unwrap();
    assert_eq!(ssh(&daemon(&upstream, &[("k", "account")]), "echo here").code, 255);
}

/// `ssh = { token = … }`: whoever is in the run and does not know it is not let in.
#[test]
fn a_token_is_asked_for_where_the_policy_says_so() {
    let upstream = format!("credential = \"k\", {}", host_keys());
    let policy = server().policy_with(&upstream, "ssh = { token = \"the-token\" }", ALLOW);
    let mut daemon = Daemon::prepare(&[("shop", &policy)]).unwrap();
    daemon.credential("k", &server().key("account").unwrap()).unwrap();
    daemon.credential("the-token", "open sesame\n").unwrap();
    daemon.launch().unwrap();
    assert_eq!(ssh(&daemon, "echo here").code, 255, "no password, no entry");
    const SCRIPT: &str = "import paramiko, sys\n\
        host, port, password = sys.argv[1:]\n\
        transport = paramiko.Transport((host, int(port)))\n\
        transport.connect()\n\
        try: transport.auth_password('agent', password)\n\
        except paramiko.AuthenticationException: sys.exit(3)\n\
        channel = transport.open_session(); channel.exec_command('echo here')\n\
        print(channel.makefile().read().decode(), end='')\n";
    for (password, code, said) in [("open sesame", 0, "here\n"), ("open", 3, ""), ("", 3, "")] {
        let mut run = harness::agent::under(&daemon, process::NOBODY, "shop").unwrap();
        run.arg(process::python()).args(["-c", SCRIPT]);
        run.args([server().at().ip().to_string(), server().at().port().to_string(), password.to_owned()]);
        let seen = process::finish(&mut run).unwrap();
        assert_eq!(
            (seen.code, seen.stdout.as_str()),
            (code, said),
            "{password}: {}\n{}",
            seen.stderr,
            daemon.log()
        );
    }
    assert!(!daemon.log().contains("sesame"));
}
