//! What operators do with sessions: end one, watch one, find one.

use std::process::Stdio;
use std::time::Duration;

use harness::process::{self, REVIEWER, Talking};

use super::{ALLOW, daemon, last_session, server, ssh};
use crate::wait;

const WAIT_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_session_is_ended_and_its_client_is_told() {
    let daemon = daemon(ALLOW);
    let folder = server().scratch("killed").unwrap();
    let begun = folder.join("begun");
    let mut run = server().ssh(&daemon, &[], &[&format!("touch {}; sleep 600", begun.display())]).unwrap();
    let client = Talking::spawn(&mut run).unwrap();
    wait::until(WAIT_MAX, || if begun.exists() { Ok(()) } else { Err("nothing runs") });
    let live = daemon.json_lines(&["sessions", "list", "--live"]).unwrap();
    let [session] = live.as_slice() else { panic!("{live:?}") };
    let id = session["session"].as_str().unwrap();
    // Not everybody's to say.
    let refused =
        process::finish(daemon.command_as(REVIEWER).unwrap().args(["sessions", "kill", id])).unwrap();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("only root and group"), "{}", refused.stderr);
    let unknown = daemon.cli(&["sessions", "kill", "01AAAAAAAAAAAAAAAAAAAAAAAA"]).unwrap();
    assert!(unknown.code == 1 && unknown.stderr.contains("--live"), "{}", unknown.stderr);
    let killed = daemon.cli(&["sessions", "kill", id, "--reason", "it deletes too much"]).unwrap();
    assert_eq!(killed.code, 0, "{}", killed.stderr);
    let seen = client.finish().unwrap();
    assert_eq!(seen.code, 255);
    let told = format!("{}{}", seen.stdout, seen.stderr);
    assert!(told.contains("an operator ended this session: it deletes too much"), "{told}");
    let events = last_session(&daemon);
    let closed = events.last().unwrap();
    assert_eq!(closed["reason"], "killed", "{closed}");
    assert!(closed["detail"].as_str().unwrap().contains("by root: it deletes too much"), "{closed}");
    assert!(daemon.json_lines(&["sessions", "list", "--live"]).unwrap().is_empty());
}

#[test]
fn a_session_is_watched_while_it_goes_on() {
    let daemon = daemon(ALLOW);
    let mut run = server().ssh(&daemon, &["-tt"], &["echo first-word; read line; echo last-word"]).unwrap();
    run.stdin(Stdio::piped());
    let mut client = Talking::spawn(&mut run).unwrap();
    client.until_contains("first-word").unwrap();
    let mut watch = daemon.command().unwrap();
    let mut watch = Talking::spawn(watch.args(["sessions", "follow", "last"])).unwrap();
    watch.until_contains("first-word").unwrap();
    client.say("go on").unwrap();
    client.until_contains("last-word").unwrap();
    watch.until_contains("last-word").unwrap();
    client.finish().unwrap();
    // It ends with the session.
    assert_eq!(watch.finish().unwrap().code, 0);
}

#[test]
fn sessions_are_found_by_what_was_asked_and_what_was_shown() {
    let daemon = daemon(ALLOW);
    ssh(&daemon, "printf 'all \\033[31mFatal\\033[0m error\\n'");
    ssh(&daemon, "echo nothing of it");
    last_session(&daemon);
    let found = |words: &[&str]| {
        let found = daemon.json_lines(&[&["sessions", "list"], words].concat()).unwrap();
        found.len()
    };
    assert_eq!(found(&[]), 2);
    assert_eq!(found(&["--command", "ECHO NOTHING"]), 1);
    assert_eq!(found(&["--output", "fatal error"]), 1);
    assert_eq!(found(&["--output", "nothing of"]), 1);
    assert_eq!(found(&["--command", "printf", "--output", "nothing of"]), 0);
    assert_eq!(found(&["--output", "absent"]), 0);
}
