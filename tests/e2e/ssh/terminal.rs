//! Terminals: what is masked on them, how soon it is shown, and what becomes of it at the end.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harness::daemon::Daemon;
use harness::process::Owned;

use super::{ALLOW, daemon, last_session, server};

/// How long something may take that needs no decision, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pieces of output that nobody has looked at.
const PIECES_MAX: usize = 4096;

/// OpenSSH's client with a terminal at the server.
pub(super) struct Screen {
    client: Owned,
    pieces: mpsc::Receiver<Vec<u8>>,
    /// What was waited for already.
    seen: String,
    unread: String,
}

impl Screen {
    /// Runs a command, or the shell if there is none.
    pub(super) fn open(daemon: &Daemon, command: &[&str]) -> Self {
        let mut run = server().ssh(daemon, &["-tt", "-o", "LogLevel=ERROR"], command).unwrap();
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).env("TERM", "xterm");
        let mut client = Owned::spawn(&mut run).unwrap();
        let mut stdout = client.child().stdout.take().unwrap();
        let (sender, pieces) = mpsc::sync_channel(PIECES_MAX);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { client, pieces, seen: String::new(), unread: String::new() }
    }

    pub(super) fn type_in(&mut self, keys: &str) {
        self.client.child().stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for this to be shown after what was waited for before; what was shown up to it.
    pub(super) fn until(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unread.find(wanted) {
                let rest = self.unread.split_off(at + wanted.len());
                let shown = std::mem::replace(&mut self.unread, rest);
                self.seen.push_str(&shown);
                return shown;
            }
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.unread.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("waited for {wanted:?} and saw {:?} after {:?}", self.unread, self.seen),
            }
        }
    }

    /// Waits for the end: all that was shown, and the exit status.
    pub(super) fn end(mut self) -> (String, Option<i32>) {
        while let Ok(piece) = self.pieces.recv_timeout(PATIENCE) {
            self.unread.push_str(&String::from_utf8_lossy(&piece));
        }
        let status = self.client.child().wait().unwrap();
        (format!("{}{}", self.seen, self.unread), status.code())
    }
}

const MASKS: &str = "[[mask]]\ndetect = [\"payment-card\", \"email\", \"iban\", \"aws-key\", \"api-key\"]\nwith = \"redact\"\n";

#[test]
fn coloured_secrets_are_masked_and_colours_stay() {
    let daemon = daemon(&format!("{ALLOW}\n{MASKS}"));
    let command = "printf '\\033[1mcard\\033[0m 4111\\033[31m1111\\033[32m11111111\\033[0m end\\n'; \
                   printf '\\033[1;31malice\\033[m@exam'; sleep 0.01; printf 'ple\\033[K.com \\033[0mdone\\n'; exit 5";
    let (shown, code) = Screen::open(&daemon, &[command]).end();
    assert_eq!(code, Some(5), "{shown:?}\n{}", daemon.log());
    assert_eq!(
        shown,
        "\x1b[1mcard\x1b[0m [redacted]\x1b[31m\x1b[32m\x1b[0m end\r\n\
         \x1b[1;31m[redacted]\x1b[m\x1b[K \x1b[0mdone\r\n"
    );
    // And on a pipe, in pieces that come slowly.
    let command = "printf '\\033[1mcard\\033[0m 4111\\033[31m1111'; sleep 0.3; printf '\\033[32m11111111\\033[0m end\\n'; exit 6";
    let seen = super::ssh(&daemon, command);
    assert_eq!(seen.code, 6);
    assert_eq!(seen.stdout, "\x1b[1mcard\x1b[0m [redacted]\x1b[31m\x1b[32m\x1b[0m end\n");
    let events = serde_json::to_string(&last_session(&daemon)).unwrap();
    assert!(events.contains("[redacted]") && !events.contains("11111111\\u001b"), "{events}");
}

#[test]
fn prompts_are_shown_at_once_whatever_they_end_in() {
    let daemon = daemon(&format!("{ALLOW}\n{MASKS}"));
    // Each could go on as a card number, an account number, a mailbox, a key.
    for prompt in ["code 4111", "DE89", "alice", "ghp_", "AKIAIOSFODNN7EXAMPLE", "\\033[1mpin 5"] {
        let command = format!("printf '{prompt}'; read answer; echo \"got $answer\"; exit 3");
        let mut screen = Screen::open(&daemon, &[&command]);
        let last = prompt.split('m').next_back().unwrap();
        let wanted = if last.starts_with("AKIA") { "[redacted]" } else { last };
        let (most, rest) = wanted.split_at(wanted.len() - 1);
        screen.until(most);
        let begun = Instant::now();
        screen.until(rest);
        assert!(begun.elapsed() < Duration::from_secs(1), "{prompt}: {:?}", begun.elapsed());
        screen.type_in("yes\n");
        screen.until("got yes");
        assert_eq!(screen.end().1, Some(3), "{}", daemon.log());
    }
    // A program that asks on a pipe is heard, too.
    let mut run = server().ssh(&daemon, &[], &["printf 'pin 4'; read answer; echo \"got $answer\""]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = Owned::spawn(&mut run).unwrap();
    let mut prompt = [0; 5];
    client.child().stdout.as_mut().unwrap().read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"pin 4");
}

#[test]
fn what_is_typed_is_echoed_without_a_delay() {
    const KEYS: usize = 40;
    let daemon = daemon(&format!("{ALLOW}\n{MASKS}"));
    let mut screen = Screen::open(&daemon, &["stty -icanon; echo ready; cat > /dev/null"]);
    screen.until("ready\r\n");
    let mut delays: Vec<Duration> = (0..KEYS)
        .map(|_| {
            let begun = Instant::now();
            screen.type_in("7");
            screen.until("7");
            begun.elapsed()
        })
        .collect();
    delays.sort_unstable();
    // Held back, each would take fifty.
    assert!(delays[KEYS / 2] < Duration::from_millis(25), "{delays:?}");
}
