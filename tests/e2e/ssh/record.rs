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
    assert!(!events.contains("planted@") && events.contains("sha256"), "{events}");

    // Nor what a client says of its own file.
    let command = format!("scp -t {}", super::server().scratch("unmasked").unwrap().join("up").display());
    let mut run = super::server().ssh(&daemon, &[], &[&command]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"C0644 1 up\nx\x01lost planted@example.com\n").unwrap();
    child.wait_with_output().unwrap();
    let events = serde_json::to_string(&last_session(&daemon)).unwrap();
    assert!(events.contains("lost ") && !events.contains("planted@"), "{events}");
}

#[test]
fn output_is_on_record_when_it_came() {
    let daemon = daemon(ALLOW);
    assert_eq!(ssh(&daemon, "echo one; sleep 1; echo two").code, 0);
    let events = last_session(&daemon);
    let at = |text: &str| {
        let event = events.iter().find(|event| event["event"] == "stream" && event["bytes"] == text);
        event.unwrap_or_else(|| panic!("{text:?} {events:?}"))["wall_ns"].as_u64().unwrap()
    };
    assert!(at("two\n") - at("one\n") > 500_000_000, "{events:?}");
}

#[test]
fn a_command_and_a_shell_can_be_played_by_asciinema() {
    use std::io::Write as _;
    use std::process::Stdio;

    let daemon = super::daemon_with("ssh = { interactive = \"record\" }", ALLOW);
    let seen = ssh(&daemon, "echo one; echo two >&2; exit 2");
    assert_eq!(seen.code, 2);
    let cast = |more: &[&str]| {
        let words = [&["sessions", "export", "last", "--format", "asciicast"], more].concat();
        let seen = daemon.cli(&words).unwrap();
        assert_eq!(seen.code, 0, "{}", seen.stderr);
        seen.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    drop(last_session(&daemon));
    let lines = cast(&[]);
    assert_eq!((&lines[0]["version"], &lines[0]["term"]["cols"]), (&3.into(), &80.into()), "{lines:?}");
    let of = |lines: &[serde_json::Value], code: &str| {
        lines
            .iter()
            .skip(1)
            .filter(|line| line[1] == code)
            .map(|line| line[2].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    let output = of(&lines, "o");
    assert!(output.contains("one\r\n") && output.contains("two\r\n"), "{output}");
    assert_eq!(of(&lines, "x"), "2");

    let mut run = super::server().ssh(&daemon, &["-tt"], &[]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("TERM", "vt100");
    let mut child = run.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"stty cols 100; echo in-a-$((40+2)); exit\n").unwrap();
    child.wait_with_output().unwrap();
    drop(last_session(&daemon));
    let lines = cast(&["--asciicast-version", "2"]);
    assert_eq!((&lines[0]["version"], &lines[0]["env"]["TERM"]), (&2.into(), &"vt100".into()), "{lines:?}");
    assert!(of(&lines, "o").contains("in-a-42"), "{lines:?}");
    // What was typed is not on record, only what was shown.
    assert_eq!(of(&lines, "i"), "");
}
