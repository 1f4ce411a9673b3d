//! Forwards: refused unless a rule names where they may lead.

use std::process::Stdio;

use harness::process;

use super::{daemon, server};

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
