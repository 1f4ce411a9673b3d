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

/// The kernel says whose a connection is, so each way to log in is taken.
#[test]
fn clients_log_in_by_whatever_they_try_first() {
    const SCRIPT: &str = "import paramiko, sys\n\
        host, port = sys.argv[1], int(sys.argv[2])\n\
        ways = {\n\
        'none': lambda t: t.auth_none('agent'),\n\
        'password': lambda t: t.auth_password('agent', 'anything'),\n\
        'keyboard-interactive': lambda t: t.auth_interactive('agent', lambda title, text, asked: ['x' for _ in asked]),\n\
        'ecdsa key': lambda t: t.auth_publickey('agent', paramiko.ECDSAKey.generate()),\n\
        'rsa key': lambda t: t.auth_publickey('agent', paramiko.RSAKey.generate(2048)),\n\
        }\n\
        for name, way in ways.items():\n\
        \x20   transport = paramiko.Transport((host, port)); transport.connect(); way(transport)\n\
        \x20   channel = transport.open_session(); channel.exec_command('echo here')\n\
        \x20   print(name, channel.makefile().read().decode().strip()); transport.close()\n";
    let daemon = super::daemon(ALLOW);
    let mut run = harness::agent::under(&daemon, process::NOBODY, "shop").unwrap();
    run.arg(process::python()).args(["-c", SCRIPT]);
    run.args([server().at().ip().to_string(), server().at().port().to_string()]);
    let seen = process::finish(&mut run).unwrap();
    let expected = "none here\npassword here\nkeyboard-interactive here\necdsa key here\nrsa key here\n";
    assert_eq!(seen.stdout, expected, "{}\n{}", seen.stderr, daemon.log());
}

/// A server that takes nothing but a password: asyncssh's.
#[test]
fn a_password_of_ours_logs_in() {
    const SERVER: &str = "import asyncio, asyncssh, sys\n\
        class Server(asyncssh.SSHServer):\n\
        \x20   def begin_auth(self, user): return True\n\
        \x20   def password_auth_supported(self): return True\n\
        \x20   def validate_password(self, user, password): return (user, password) == ('root', 'upstream secret')\n\
        async def handle(process):\n\
        \x20   process.stdout.write('ran ' + process.command + '\\n'); process.exit(7)\n\
        async def main():\n\
        \x20   await asyncssh.create_server(Server, sys.argv[1], int(sys.argv[2]), server_host_keys=[sys.argv[3]], process_factory=handle)\n\
        \x20   await asyncio.Future()\n\
        asyncio.run(main())\n";
    let at = std::net::SocketAddrV4::new(*server().at().ip(), 2299);
    let key = server().file("host_ed25519");
    let mut asyncssh = Command::new(process::python());
    asyncssh.args(["-c", SERVER, &at.ip().to_string(), &at.port().to_string()]).arg(&key);
    let _server = Owned::spawn(asyncssh.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    wait::until(Duration::from_secs(20), || std::net::TcpStream::connect(at).map(drop));
    let upstream =
        format!("credential = \"its-password\", auth = \"password\", address = \"{at}\", {}", host_keys());
    let mut daemon = Daemon::prepare(&[("shop", &server().policy_with(&upstream, "", ALLOW))]).unwrap();
    daemon.credential("its-password", "upstream secret\n").unwrap();
    daemon.launch().unwrap();
    let seen = ssh(&daemon, "ls -la");
    assert_eq!((seen.code, seen.stdout.as_str()), (7, "ran ls -la\n"), "{}\n{}", seen.stderr, daemon.log());
    let events = last_session(&daemon);
    assert!(events.iter().any(|event| event.to_string().contains("by password")), "{events:?}");
    let all = format!("{}{}{events:?}", daemon.log(), seen.stderr);
    assert!(!all.contains("upstream secret"), "{all}");
}

#[test]
fn what_is_compressed_arrives() {
    let daemon = super::daemon(ALLOW);
    let run = |options: &[&str]| {
        let mut run = server().ssh(&daemon, options, &["seq 1 200000 | sha256sum; seq 1 200000"]).unwrap();
        process::finish(&mut run).unwrap()
    };
    let (plain, compressed) = (run(&[]), run(&["-C", "-v"]));
    assert_eq!((plain.code, compressed.code), (0, 0), "{}", compressed.stderr);
    assert!(plain.stdout == compressed.stdout && plain.stdout.len() > 1_000_000);
    assert!(compressed.stderr.contains("Enabling compression"), "{}", compressed.stderr);
}
