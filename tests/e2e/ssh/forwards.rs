//! Forwards: refused unless a rule names where they may lead.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use harness::process::{self, NOBODY, Owned, Talking};

use super::{ALLOW, daemon, daemon_with, server};
use crate::wait;

const WAIT_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_forward_is_refused_unless_a_rule_names_where_it_leads() {
    let target = server().at();
    let through = format!("{}:{}", target.ip(), target.port());
    let refused = daemon("");
    let mut run = server().ssh(&refused, &["-W", &through], &[]).unwrap();
    run.stdin(Stdio::null());
    let seen = process::finish(&mut run).unwrap();
    assert_ne!(seen.code, 0);
    assert!(seen.stderr.contains("administratively prohibited"), "{}", seen.stderr);

    let allowed = daemon(&format!(
        "[[guard]]\nname = \"itself\"\non = \"ssh\"\noperation = [\"direct-tcpip\"]\ntarget = [\"{through}\"]\naction = \"allow\"\n"
    ));
    let mut run = server().ssh(&allowed, &["-W", &through], &[]).unwrap();
    run.stdin(Stdio::null()).stdout(Stdio::piped());
    let out = run.output().unwrap();
    assert!(out.stdout.starts_with(b"SSH-2.0-OpenSSH"), "{}", allowed.log());

    // Nobody listens there: that is said, and other channels of the connection go on.
    let open = daemon(
        "[[guard]]\nname = \"anywhere\"\non = \"ssh\"\noperation = [\"direct-tcpip\"]\naction = \"allow\"\n",
    );
    let mut run = server().ssh(&open, &["-W", "127.0.0.1:1"], &[]).unwrap();
    run.stdin(Stdio::null());
    let seen = process::finish(&mut run).unwrap();
    assert!(seen.stderr.contains("connect failed") || seen.stderr.contains("open failed"), "{}", seen.stderr);
}

/// A guard that lets one kind of operation pass.
fn lets(operation: &str) -> String {
    format!(
        "[[guard]]\nname = \"{operation}\"\non = \"ssh\"\noperation = [\"{operation}\"]\naction = \"allow\"\n{ALLOW}"
    )
}

/// Answers everybody who connects with one line, in a thread of its own.
fn greeter(path: &Path, line: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.and_then(|mut stream| stream.write_all(line.as_bytes())));
        }
    });
}

fn said(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let mut stream = UnixStream::connect(path).map_err(|error| error.to_string())?;
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.is_empty() { Err("nothing was said".to_owned()) } else { Ok(text) }
}

#[test]
fn a_socket_of_the_server_is_reached_where_a_rule_says_so() {
    let folder = server().scratch("socket").unwrap();
    let (remote, local) = (folder.join("remote"), folder.join("local"));
    greeter(&remote, "from the server\n");
    let daemon = daemon(&lets("direct-streamlocal"));
    let forward = format!("{}:{}", local.display(), remote.display());
    let mut run = server().ssh(&daemon, &["-N", "-L", &forward], &[]).unwrap();
    run.stdin(Stdio::null());
    let _client = Owned::spawn(&mut run).unwrap();
    assert_eq!(wait::until(WAIT_MAX, || said(&local)), "from the server\n");
}

#[test]
fn the_server_listens_for_the_agent_where_a_rule_says_so() {
    let folder = server().scratch("listen").unwrap();
    let (agents, remote) = (folder.join("agents"), folder.join("remote"));
    greeter(&agents, "from the agent\n");
    let daemon = daemon(&lets("streamlocal-forward"));
    let forward = format!("{}:{}", remote.display(), agents.display());
    let mut run =
        server().ssh(&daemon, &["-N", "-o", "ExitOnForwardFailure=yes", "-R", &forward], &[]).unwrap();
    run.stdin(Stdio::null());
    let _client = Owned::spawn(&mut run).unwrap();
    assert_eq!(wait::until(WAIT_MAX, || said(&remote)), "from the agent\n");
}

#[test]
fn the_server_listens_on_a_port_that_it_chooses() {
    let folder = server().scratch("port").unwrap();
    let agents = folder.join("agents");
    greeter(&agents, "from the agent\n");
    let forward = format!("0:{}", agents.display());
    let options = ["-N", "-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=INFO", "-R", &forward];
    let allowed = daemon(&lets("tcpip-forward"));
    let mut run = server().ssh(&allowed, &options, &[]).unwrap();
    let mut client = Talking::spawn(&mut run).unwrap();
    let said = client.until_contains("Allocated port").unwrap();
    let port: u16 = said.split_whitespace().nth(2).unwrap().parse().unwrap();
    let text = wait::until(WAIT_MAX, || {
        let mut text = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
        if text.is_empty() { Err("nothing was said".to_owned()) } else { Ok(text) }
    });
    assert_eq!(text, "from the agent\n");
    // A rule that holds it denies it: nothing can wait here.
    let hold = "[[guard]]\nname = \"ask\"\non = \"ssh\"\noperation = [\"tcpip-forward\"]\naction = \"hold\"\napprovers = [\"user:daemon\"]\n";
    for rules in ["", hold] {
        let refused = daemon(rules);
        let seen = process::finish(&mut server().ssh(&refused, &options, &[]).unwrap()).unwrap();
        assert_eq!(seen.code, 255, "{}", seen.stderr);
    }
}

#[test]
fn the_agents_keys_and_display_are_lent_where_the_connection_says_so() {
    let folder = server().scratch("lent").unwrap();
    let socket = folder.join("agent");
    let mut agent = process::as_user(NOBODY, "ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
    let _agent = Owned::spawn(&mut agent).unwrap();
    wait::until(WAIT_MAX, || if socket.exists() { Ok(()) } else { Err("no agent") });
    for (lent, connection) in [(false, ""), (true, "ssh = { agent_forwarding = true, x11 = true }")] {
        let daemon = daemon_with(connection, ALLOW);
        let command = "ssh-add -l; echo \"display=$DISPLAY\"";
        let mut run = server().ssh(&daemon, &["-A", "-X"], &[command]).unwrap();
        run.env("SSH_AUTH_SOCK", &socket).env("DISPLAY", ":77").env("XAUTHORITY", folder.join("xauthority"));
        let seen = process::finish(&mut run).unwrap();
        // ssh-add asks an agent that holds nothing, or finds none.
        assert_eq!(
            seen.stdout.contains("The agent has no identities"),
            lent,
            "{}\n{}",
            seen.stdout,
            seen.stderr
        );
        assert_eq!(seen.stdout.contains("display=localhost:"), lent, "{}\n{}", seen.stdout, seen.stderr);
    }
}
