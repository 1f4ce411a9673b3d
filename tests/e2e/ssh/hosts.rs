//! The server's identity and ours: host keys, certificates, logins that fail.

use super::{ALLOW, server, ssh};

#[test]
fn another_host_key_is_refused_and_the_client_is_told_without_details() {
    let other = server().public_key("user_ca").unwrap();
    let policy =
        server().policy_with(&format!("credential = \"account-key\", host_keys = [\"{other}\"]"), "", ALLOW);
    let daemon = server().daemon(&policy).unwrap();
    let seen = ssh(&daemon, "ls");
    assert_eq!((seen.code, seen.stdout.as_str()), (255, ""));
    assert!(seen.stderr.contains("host key is not the one"), "{}", seen.stderr);
    assert!(daemon.log().contains("none of those that the profile trusts"), "{}", daemon.log());
}

#[test]
fn a_server_with_several_keys_is_asked_for_the_one_that_is_known() {
    let rsa = server().public_key("host_rsa").unwrap();
    let policy =
        server().policy_with(&format!("credential = \"account-key\", host_keys = [\"{rsa}\"]"), "", ALLOW);
    let daemon = server().daemon(&policy).unwrap();
    let seen = ssh(&daemon, "echo fine");
    assert_eq!(seen.stdout, "fine\n", "{}\n{}", seen.stderr, daemon.log());
}

#[test]
fn a_minted_certificate_logs_in_and_names_the_subject() {
    let key = server().public_key("host_ed25519").unwrap();
    let upstream = format!("credential = \"user-ca\", auth = \"ca\", host_keys = [\"{key}\"]");
    let daemon = server().daemon(&server().policy_with(&upstream, "", ALLOW)).unwrap();
    let seen = ssh(&daemon, "echo certified");
    assert_eq!(seen.stdout, "certified\n", "{}\n{}", seen.stderr, daemon.log());
    let run = daemon.json_lines(&["sessions", "list"]).unwrap();
    let run = run[0]["run"].as_str().unwrap_or_default().to_owned();
    assert!(server().log().contains("for nobody"), "{run}\n{}", server().log());
}

#[test]
fn a_key_that_the_server_does_not_take_is_the_operators_business() {
    let key = server().public_key("host_ed25519").unwrap();
    let upstream = format!("credential = \"user-ca\", host_keys = [\"{key}\"]");
    let daemon = server().daemon(&server().policy_with(&upstream, "", ALLOW)).unwrap();
    let seen = ssh(&daemon, "ls");
    assert_eq!(seen.code, 255);
    assert!(seen.stderr.contains("credential that the operator gave"), "{}", seen.stderr);
    assert!(daemon.log().contains("publickey"), "{}", daemon.log());
}
