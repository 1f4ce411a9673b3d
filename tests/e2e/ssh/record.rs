//! What is on record of an SSH session.

use super::{ALLOW, daemon, last_session, ssh};

#[test]
fn a_command_is_on_record_with_its_output_and_its_end() {
    let daemon = daemon(ALLOW);
    let seen = ssh(&daemon, "echo to-stdout; echo to-stderr >&2; exit 5");
    assert_eq!(seen.code, 5);
    let events = last_session(&daemon);
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let intent = of("intent")[0];
    assert_eq!(intent["asked"]["text"]["text"], "echo to-stdout; echo to-stderr >&2; exit 5", "{intent}");
    assert_eq!(intent["asked"]["ssh"]["user"], "root");
    assert_eq!(intent["rule"], "the rest");
    let streams = of("stream");
    let bytes = |name: &str| {
        streams
            .iter()
            .filter(|event| event["stream"] == name)
            .filter_map(|event| event["bytes"].as_str())
            .collect::<String>()
    };
    assert_eq!((bytes("stdout").as_str(), bytes("stderr").as_str()), ("to-stdout\n", "to-stderr\n"));
    let outcome = of("outcome")[0];
    assert_eq!(
        (&outcome["status"], &outcome["ssh"]["exit_status"]),
        (&"done".into(), &5.into()),
        "{outcome}"
    );
    let note = of("note")[0].to_string();
    assert!(note.contains("logged in") && note.contains("known host key SHA256:"), "{note}");
    let replay = daemon.cli(&["replay", "last", "--speed", "max"]).unwrap();
    assert!(
        replay.stdout.contains("to-stdout") && replay.stdout.contains("exit status 5"),
        "{}",
        replay.stdout
    );
}

#[test]
fn nothing_unmasked_is_on_record() {
    use std::io::Write as _;
    use std::process::Stdio;

    let daemon = daemon(&format!("{ALLOW}\n[[mask]]\ndetect = [\"email\"]\nwith = \"redact\"\n"));
    let mut run =
        super::server().ssh(&daemon, &[], &["cat; echo out@example.com; echo err@example.com >&2"]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in@example.com\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let seen = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!seen.contains("example.com"), "{seen}");
    // But for the client's own command line, which is the kernel's.
    let mut events = last_session(&daemon);
    events.retain(|event| event["event"] != "session_opened");
    assert!(events.iter().filter(|event| event["event"] == "stream").count() >= 3, "{events:?}");
    assert!(!events.iter().any(|event| event.to_string().contains("example.com")), "{events:?}");

    let file = super::server().scratch("unmasked").unwrap().join("file");
    std::fs::write(&file, "planted@example.com\n").unwrap();
    let command = format!("scp -f {}", file.display());
    let mut run = super::server().ssh(&daemon, &[], &[&command]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[0; 3]).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("planted@example.com"), "files pass as they are");
    let events = serde_json::to_string(&last_session(&daemon)).unwrap();
    assert!(!events.contains("planted@") && events.contains("left_out"), "{events}");
}
