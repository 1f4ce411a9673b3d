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
