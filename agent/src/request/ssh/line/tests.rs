//! Lines as real shells show them. The captures are of bash 5.2 (readline 8.2) and dash 0.5.12 on a Linux terminal: `<` is what was
//! typed, `>` what was shown until nothing more came.

use super::*;

/// Keys and output, in order.
enum Step {
    Typed(Vec<u8>),
    Shown(Vec<u8>),
}

fn capture(text: &str) -> Vec<Step> {
    let step = |line: &str| {
        let (way, rest) = line.split_at(2);
        let bytes = unescaped(rest);
        if way == "< " { Step::Typed(bytes) } else { Step::Shown(bytes) }
    };
    text.lines().map(step).collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        out.push(match (character, character == '\\') {
            (_, false) => character,
            (_, true) => match chars.next().unwrap() {
                'r' => '\r',
                'n' => '\n',
                't' => '\t',
                'x' => {
                    let digits: String = chars.by_ref().take(2).collect();
                    char::from(u8::from_str_radix(&digits, 16).unwrap())
                }
                other => other,
            },
        });
    }
    out.into_bytes()
}

/// Types keys that are all let pass; what each line was.
fn pass(guard: &mut LineGuard, mut keys: &[u8], lines: &mut Vec<String>) {
    while !keys.is_empty() {
        assert!(guard.ready(true, true));
        let at = guard.keys(keys);
        keys = &keys[at..];
        let Some(key) = keys.first().filter(|key| at == 0 || guard.ends_line(**key)) else { continue };
        let line = guard.line(*key);
        assert_eq!(
            guard.is_settled(),
            line.doubt.is_none() || line.doubt == Some(Doubt::Expansion),
            "{line:?}"
        );
        if !line.is_nothing() {
            lines.push(
                line.doubt.map_or_else(|| line.text.clone(), |doubt| format!("{} ({doubt:?})", line.text)),
            );
        }
        guard.sent();
        keys = &keys[1..];
    }
}

/// What would be judged in a capture. `pieces`: how output is cut.
fn lines(text: &str, columns: u32, pieces: usize) -> Vec<String> {
    let mut guard = LineGuard::new(columns);
    let mut lines = Vec::new();
    for step in capture(text) {
        match step {
            Step::Shown(bytes) => bytes.chunks(pieces).for_each(|piece| guard.output(piece)),
            Step::Typed(keys) => pass(&mut guard, &keys, &mut lines),
        }
    }
    lines
}

fn check(text: &str, columns: u32, expected: &[&str]) {
    for pieces in [usize::MAX, 1, 3] {
        assert_eq!(lines(text, columns, pieces), expected);
    }
}

#[test]
fn what_is_typed_at_a_prompt_is_known() {
    let typed = ["ls src", "echo one", "pwd", "cat one three", "cd src", "ls", "exit"];
    check(include_str!("captures/typing.txt"), 80, &typed);
    check(include_str!("captures/dash.txt"), 80, &["ls src", "echo one", "pwd"]);
    check(include_str!("captures/colours.txt"), 80, &["ls", "cd src", "pwd"]);
}

#[test]
fn lines_longer_than_a_row_are_known() {
    let typed = ["echo one two three four fivx", "echo 01234567890123456789"];
    check(include_str!("captures/wrapped.txt"), 30, &typed);
}

#[test]
fn what_only_the_shell_knows_is_doubted() {
    check(
        include_str!("captures/readline.txt"),
        80,
        &[
            "echo hi",
            "echo hi (EditingKey)",
            "echo  x (EditingKey)",
            "(reverse-i-search)`hi': echo hi (EditingKey)",
            // What a key may hand over is judged; what comes after it in the same line has no prompt.
            "xecho (EditingKey)",
            "echo (NoPrompt)",
            "!! (Expansion)",
            "echo (EditingKey)",
            // A marked paste into a line that the shell has filled.
            " (NotEchoed)",
            "lspwd (NoPrompt)",
        ],
    );
}

#[test]
fn what_programs_read_is_doubted_and_passwords_are_not_seen() {
    check(
        include_str!("captures/programs.txt"),
        80,
        &[
            "read x",
            "hello (NoPrompt)",
            "read -s x",
            " (NotEchoed)",
            "read -p \"Password: \" -s x",
            " (NotEchoed)",
            // The prompt came on the row of the other one.
            "cat <<E (NoPrompt)",
            "one (NoPrompt)",
            "E (NoPrompt)",
            "python3 -q",
            "1 (NoPrompt)",
            "exit() (NoPrompt)",
            "ls",
        ],
    );
    check(include_str!("captures/screen.txt"), 80, &["less src/notes", "ls", "clear", "pwd"]);
}

/// A shell that echoes what it is told to.
fn shell() -> LineGuard {
    let mut guard = LineGuard::new(80);
    guard.output(b"Linux web 6.1.0\r\nLast login: today\r\nroot@web:~# ");
    assert!(!guard.ready(false, false), "more may come");
    assert!(guard.ready(true, false));
    guard
}

fn typed(guard: &mut LineGuard, keys: &str) {
    assert_eq!(guard.keys(keys.as_bytes()), keys.len());
    guard.output(keys.as_bytes());
}

#[test]
fn the_next_line_waits_for_its_own_prompt() {
    let mut guard = shell();
    assert_eq!(guard.keys(b"ls\rrm x\r"), 2);
    assert!(!guard.is_settled());
    guard.output(b"l");
    assert!(!guard.is_settled());
    assert_eq!(guard.line(b'\r').doubt, Some(Doubt::OtherText));
    guard.output(b"s");
    assert!(guard.is_settled());
    assert_eq!(guard.line(b'\r'), Line { text: "ls".to_owned(), doubt: None });
    guard.sent();
    assert!(!guard.ready(true, false), "its own prompt is not the next one's");
    guard.output(b"\r\nfile\r\n");
    assert!(!guard.ready(true, false), "nothing asks for anything");
    guard.output(b"root@web:/srv# ");
    assert!(guard.ready(false, false), "a known prompt is known at once");
    typed(&mut guard, "rm x\\ ");
    assert_eq!(guard.line(b'\r'), Line { text: "rm x\\ ".to_owned(), doubt: None });
    assert!(guard.dropped() && !guard.is_emptied());
    guard.output(b"\x08\x08\x08\x08\x08\x08");
    assert!(!guard.is_emptied());
    guard.output(b"\x1b[K");
    assert!(guard.is_emptied());
    guard.sent();
    guard.output(b"\r\nroot@web:/srv# ");
    assert!(guard.ready(false, false));
    assert!(guard.line(b'\r').is_nothing());
}

#[test]
fn a_program_is_told_from_the_shell() {
    let mut guard = shell();
    typed(&mut guard, "sleep 9");
    guard.sent();
    guard.output(b"\r\n");
    assert!(!guard.ready(true, false) && guard.ready(true, true), "patience ends");
    typed(&mut guard, "rm x");
    let line = guard.line(b'\r');
    assert_eq!((line.text.as_str(), line.doubt), ("rm x", Some(Doubt::NoPrompt)));
    // What was permitted goes on.
    assert!(!guard.dropped());
    guard.output(b"\r\nroot@web:~# ");
    assert!(guard.ready(false, false));
    typed(&mut guard, "ls");
    assert_eq!(guard.line(b'\n').doubt, None);

    guard.sent();
    guard.output(b"\r\n[sudo] password for alice: ");
    assert!(!guard.ready(false, false) && guard.ready(true, false));
    assert_eq!(guard.keys(b"hunter2"), 7);
    let line = guard.line(b'\r');
    assert_eq!((line.text.as_str(), line.doubt), ("", Some(Doubt::NotEchoed)));
    guard.sent();
    guard.output(b"\r\n\x1b[?1049h\x1b[2Jfile\x1b[5;5H");
    assert!(guard.ready(false, false));
    assert_eq!(guard.keys(b":!rm x"), 6);
    assert_eq!(guard.line(b'\r').doubt, Some(Doubt::AlternateScreen));
}

#[test]
fn a_line_that_changes_under_the_hand_is_doubted() {
    let other = |output: &[u8]| {
        let mut guard = shell();
        typed(&mut guard, "ls");
        guard.output(output);
        assert!(!guard.is_settled());
        guard.line(b'\r').doubt
    };
    // Messages of others, another line, another prompt, elsewhere.
    for output in
        [&b"; rm x"[..], b"\x08\x08rm", b"\r\nmail\r\n", b"\rroot@db:~# ls", b"\x1b[7;9H", b"\x1b[4h"]
    {
        assert!(matches!(other(output), Some(Doubt::OtherText | Doubt::NotEchoed)), "{output:?}");
    }
    let mut guard = shell();
    typed(&mut guard, "ls");
    guard.resize(40);
    assert_eq!(guard.line(b'\r').doubt, Some(Doubt::OtherText));
}

#[test]
fn keys_that_run_something_by_themselves_are_ends_of_lines() {
    for key in [CTRL_O, CTRL_X, CTRL_D] {
        let mut guard = shell();
        typed(&mut guard, "ls");
        assert_eq!(guard.keys(&[key]), 0);
        assert_eq!(guard.line(key).doubt, Some(Doubt::OtherKey));
    }
    // Expansion of the line in place; a comment, made or undone, that is handed over.
    for keys in [&b"\x1b\x05"[..], b"\x1b#", b"\x1bx", b"\x1b1"] {
        let mut guard = shell();
        typed(&mut guard, "#rm x");
        assert_eq!((guard.keys(keys), guard.keys(&keys[1..])), (1, 0), "{keys:?}");
        assert_eq!(guard.line(keys[1]).doubt, Some(Doubt::EditingKey));
        assert_eq!(guard.keys(b"\r"), 0);
    }
    let mut guard = shell();
    assert_eq!(guard.keys("\x1b[A\x1bOBé£".as_bytes()), 9, "one of its bytes may be such a key");
    let mut guard = shell();
    assert_eq!(guard.keys(&[CTRL_D]), 1, "the end of an empty line is the shell's");
    let mut guard = shell();
    assert_eq!(guard.keys(b"ls\x03rm"), 3, "what comes next has another prompt");
    assert!(!guard.ready(true, false));
}

#[test]
fn history_is_expanded_only_where_it_is() {
    for yes in ["!!", "!rm", "sudo !!", "echo \"!x\"", "^a^b", "!-2", "a!$"] {
        assert!(expands(yes), "{yes}");
    }
    for no in ["[ ! -f x ]", "test a != b", "echo hi!", "a ^b"] {
        assert!(!expands(no), "{no}");
    }
}

#[test]
fn whatever_comes_is_bounded() {
    let mut guard = shell();
    let long = "x".repeat(3 * LINE_BYTES_MAX);
    typed(&mut guard, &long);
    let line = guard.line(b'\r');
    assert_eq!(line.doubt, Some(Doubt::TooLong));
    assert!(line.text.len() <= LINE_BYTES_MAX);
    let mut seed = 1_u32;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [byte, ..] = seed.to_be_bytes();
        guard.output(&[byte, b'\x1b', b'[', b'9', b'9', byte % 64 + 64]);
        if guard.ready(true, true) {
            guard.keys(&[byte]);
        }
        drop(guard.line(byte));
    }
}
