//! Lines typed into a shell that the policy guards: what passes, what waits, what is dropped, and what is on record.

use std::time::{Duration, Instant};

use harness::daemon::Daemon;
use harness::process::{self, REVIEWER};
use harness::reviewer::{Reviewer, code, id_of};
use serde_json::Value;

use super::terminal::Screen;
use super::{daemon_with, last_session, server};

const GUARDED: &str = "ssh = { interactive = \"line-guard\" }";

/// Nothing that removes, and whoever wants more asks.
const RULES: &str = "[[guard]]\nname = \"nothing is wiped\"\non = \"ssh\"\nprogram = [\"rm\"]\naction = \"deny\"\n\
    [[guard]]\nname = \"leaving\"\non = \"ssh\"\ncommand = [\"exit*\"]\naction = \"allow\"\n\
    [[guard]]\nname = \"the rest\"\non = \"ssh\"\noperation = [\"line\"]\neffect = [\"write\", \"ddl\", \"admin\", \"unknown\"]\n\
    action = \"deny\"\n";

/// What a Debian shell's prompt ends in.
const PROMPT: &str = "# ";

/// The lines that were judged: as what, and how that ended.
fn judged(daemon: &Daemon) -> Vec<(String, Value)> {
    let events = last_session(daemon);
    let line = |event: &&Value| event["asked"]["ssh"]["operation"] == "line";
    let text = |event: &Value| event["asked"]["text"]["text"].as_str().unwrap().to_owned();
    events.iter().filter(line).map(|event| (text(event), event["event"].clone())).collect()
}

#[test]
fn a_line_runs_only_when_it_may() {
    let daemon = daemon_with(GUARDED, RULES);
    let folder = server().scratch("lines").unwrap();
    let victim = folder.join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    let folder = folder.display();
    let mut screen = Screen::open(&daemon, &[]);
    screen.until(PROMPT);
    screen.type_in(&format!("ls {folder}\r"));
    screen.until("victim\r\n");
    screen.until(PROMPT);
    // Typed key by key, with a mistake.
    for key in ["l", "x", "\x7f", "s", " ", "-", "d"] {
        screen.type_in(key);
    }
    screen.until("-d");
    screen.type_in("\r");
    screen.until(".\r\n");
    screen.until(PROMPT);
    screen.type_in(&format!("rm -rf {}\r", victim.display()));
    let told = screen.until(")\r\n");
    assert!(told.contains("portcullis: ") && told.contains("nothing is wiped"), "{told:?}");
    screen.until(PROMPT);
    assert!(victim.exists());
    // From the history: what is shown is judged, and proves nothing.
    screen.type_in(&format!("ls {folder}\r"));
    screen.until("victim\r\n");
    screen.until(PROMPT);
    screen.type_in("\x1b[A\x1b[A");
    screen.until("ls -d");
    screen.type_in("\r");
    let told = screen.until(")\r\n");
    assert!(told.contains("the rest"), "{told:?}");
    screen.until(PROMPT);
    screen.type_in("exit 7\r");
    let (shown, code) = screen.end();
    assert_eq!(code, Some(7), "{shown}\n{}", daemon.log());
    assert!(victim.exists());
    let expected = [
        (format!("ls {folder}"), "intent"),
        ("ls -d".to_owned(), "intent"),
        (format!("rm -rf {}", victim.display()), "refused"),
        (format!("ls {folder}"), "intent"),
        ("ls -d".to_owned(), "refused"),
        ("exit 7".to_owned(), "intent"),
    ];
    let judged = judged(&daemon);
    assert_eq!(judged, expected.map(|(text, event)| (text, Value::from(event))), "{shown}");
}

#[test]
fn a_held_line_waits_and_can_be_given_up() {
    let daemon = daemon_with(
        GUARDED,
        "[[guard]]\nname = \"a human looks\"\non = \"ssh\"\nkind = [\"rm -rf\"]\naction = \"hold\"\n\
         approvers = [\"user:daemon\"]\nhold = \"60s\"\n",
    );
    let victim = server().scratch("held-line").unwrap().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mut screen = Screen::open(&daemon, &[]);
    screen.until(PROMPT);
    for decision in ["withdraw", "deny", "approve"] {
        screen.type_in(&format!("rm -rf {}\r", victim.display()));
        let entry = reviewer.waiting().unwrap();
        assert_eq!(entry["request"]["content"]["statement"], format!("rm -rf {}", victim.display()).as_str());
        let id = id_of(&entry);
        let told = screen.until(&format!("approval {})\r\n", code(&id)));
        assert!(told.contains("\r\nportcullis: waiting for user:daemon"), "{told:?}");
        assert!(victim.exists(), "nothing runs before the decision");
        match decision {
            "withdraw" => {
                screen.type_in("\x03");
                assert!(reviewer.settled(&id).unwrap().to_string().contains("withdrawn"));
            }
            "deny" => assert_eq!(reviewer.deny(&id, "no").unwrap().code, 0),
            _ => assert_eq!(reviewer.approve(&id, "fine").unwrap().code, 0),
        }
        screen.until(PROMPT);
        assert_eq!(victim.exists(), decision != "approve", "{decision}: {}", daemon.log());
    }
}

#[test]
fn a_paste_is_judged_line_by_line() {
    let daemon = daemon_with(GUARDED, RULES);
    let folder = server().scratch("pasted").unwrap();
    let file = folder.join("kept");
    std::fs::write(&file, "content\n").unwrap();
    let mut screen = Screen::open(&daemon, &[]);
    // Before there is a prompt.
    let file = file.display();
    screen.type_in(&format!("cat {file}\rrm {file}\rls {file}\rexit 3\r"));
    let (shown, code) = screen.end();
    assert_eq!(code, Some(3), "{shown}\n{}", daemon.log());
    assert!(folder.join("kept").exists());
    assert!(shown.contains("content\r\n"), "{shown}");
    let kinds: Vec<Value> = judged(&daemon).into_iter().map(|(_, event)| event).collect();
    assert_eq!(kinds, ["intent", "refused", "intent", "intent"], "{shown}");
}

#[test]
fn a_password_is_neither_shown_nor_recorded() {
    let unknown = "[[guard]]\nname = \"input\"\non = \"ssh\"\noperation = [\"line\"]\n\
        effect = [\"read\", \"write\", \"ddl\", \"admin\", \"unknown\"]\naction = \"allow\"\n";
    let daemon = daemon_with(GUARDED, unknown);
    let mut screen = Screen::open(&daemon, &[]);
    screen.until(PROMPT);
    screen.type_in("read -sp 'Password: ' x; echo; echo length ${#x}\r");
    screen.until("Password: ");
    let begun = Instant::now();
    screen.type_in("hunter2\r");
    screen.until("length 7\r\n");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    screen.until(PROMPT);
    screen.type_in("exit\r");
    assert_eq!(screen.end().1, Some(0));
    let events = serde_json::to_string(&last_session(&daemon)).unwrap();
    assert!(events.contains("typed without echo") && !events.contains("hunter2"), "{events}");
}

#[test]
fn lines_that_nobody_sees_are_not_guarded_but_refused() {
    let daemon = daemon_with(GUARDED, RULES);
    let seen = process::finish(&mut server().ssh(&daemon, &["-T"], &[]).unwrap()).unwrap();
    assert_eq!(seen.code, 126, "{}", daemon.log());
    assert!(seen.stderr.contains("without a terminal"), "{}", seen.stderr);
}
