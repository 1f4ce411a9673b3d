//! The commands through their streams: what scripts read, and how they end.

use std::fs;
use std::path::Path;

use clap::Parser as _;
use serde_json::Value;

use super::{Console, Exit, Look, PolicyArgs, run};

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    policy: PolicyArgs,
}

struct Ended {
    exit: Exit,
    out: String,
    err: String,
}

fn portcullis_with(look: Look, stdin: &[u8], words: &[&str]) -> Ended {
    let line = Line::try_parse_from(["policy"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}"));
    let (mut stdin, mut stdout, mut stderr) = (stdin, Vec::new(), Vec::new());
    let mut console = Console {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        stdout_look: look,
        stderr_look: look,
    };
    let exit = run(&line.policy, &mut console).expect("the streams hold");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("only text is printed");
    Ended { exit, out: text(stdout), err: text(stderr) }
}

fn portcullis(stdin: &[u8], words: &[&str]) -> Ended {
    portcullis_with(Look::Plain, stdin, words)
}

const POLICY: &str = "version = 1\nname = \"t\"\n\
    [[connection]]\nname = \"one\"\nto = [\"127.0.0.1:1\"]\nprotocol = \"postgres\"\n\
    [[connection]]\nname = \"two\"\nto = [\"127.0.0.1:2\"]\nprotocol = \"postgres\"\n\
    [[guard]]\nname = \"readers\"\non = \"postgres\"\ngroups = [\"readers\"]\neffect = [\"unknown\"]\naction = \"allow\"\n\
    [[guard]]\nname = \"two is closed\"\non = \"postgres\"\nconnections = [\"two\"]\naction = \"deny\"\n\
    [[guard]]\nname = \"prod is closed\"\non = \"postgres\"\ndatabases = [\"prod\"]\naction = \"deny\"\nhint = \"Use dev.\"\n\
    [[guard]]\nname = \"what is unknown\"\non = \"postgres\"\neffect = [\"unknown\"]\naction = \"hold\"\napprovers = [\"dba\"]\n";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn path(folder: &tempfile::TempDir, file: &str) -> String {
    folder.path().join(file).display().to_string()
}

/// `explain --json` on a policy in a scratch folder: its lines as JSON.
fn explained(stdin: &[u8], words: &[&str]) -> Vec<Value> {
    let folder = folder(&[("t.toml", POLICY)]);
    let file = path(&folder, "t.toml");
    let all = [&["explain", "--policy", &file, "--protocol", "postgres", "--json"], words].concat();
    let Ended { exit, out, err } = portcullis(stdin, &all);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    out.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn inputs(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["input"].as_str().unwrap()).collect()
}

#[test]
fn check_of_a_good_file_is_silent() {
    let folder = folder(&[("a.toml", POLICY)]);
    let Ended { exit, out, err } = portcullis(b"", &["check", &path(&folder, "a.toml")]);
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Done, "", ""));
}

#[test]
fn check_reports_every_error_of_every_file() {
    let folder = folder(&[
        ("a.toml", "version = 1\nname = \"A\"\nx = 1\n"),
        ("b.toml", POLICY),
        ("c.toml", "version = 1\nname = \"c\"\n[egress]\ndefault = \"denny\"\n"),
    ]);
    let (a, b, c) = (path(&folder, "a.toml"), path(&folder, "b.toml"), path(&folder, "c.toml"));
    let Ended { exit, out, err } = portcullis(b"", &["check", &a, &b, &c]);
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 3, "{err}");
    assert!(lines[0].starts_with(&format!("{a}:2:8: error: \"A\" cannot be a name here")), "{err}");
    assert!(lines[1].starts_with(&format!("{a}:3:1: error: a policy has no key \"x\"")), "{err}");
    assert!(lines[2].starts_with(&format!("{c}:4:11: error: \"denny\" is not")), "{err}");
    assert!(lines[2].contains("did you mean \"deny\"?"), "{err}");
}

#[test]
fn check_shows_the_place_on_a_terminal() {
    let folder = folder(&[("a.toml", "version = 1\nname = \"A\"\n")]);
    let file = path(&folder, "a.toml");
    let plain = portcullis_with(Look::Terminal, b"", &["check", &file]);
    assert!(plain.err.ends_with("  |\n2 | name = \"A\"\n  |        ^^^\n"), "{}", plain.err);
    assert!(!plain.err.contains('\u{1b}'));
    let coloured = portcullis_with(Look::Coloured, b"", &["check", &file]);
    assert!(coloured.err.contains(":2:8: \u{1b}[31merror\u{1b}[0m: "), "{}", coloured.err);
}

#[test]
fn check_as_json() {
    let folder = folder(&[("a.toml", "version = 1\nname = \"A\"\n[match]\nunits = [\"a\", \"a\"]\n")]);
    let file = path(&folder, "a.toml");
    let Ended { exit, out, err } = portcullis(b"", &["check", "--json", &file]);
    assert_eq!((exit, err.as_str()), (Exit::Failed, ""));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert_eq!(lines[0]["file"], file);
    assert_eq!((&lines[0]["line"], &lines[0]["column"]), (&Value::from(2), &Value::from(8)));
    assert_eq!(
        (&lines[0]["severity"], &lines[1]["severity"]),
        (&Value::from("error"), &Value::from("warning"))
    );
    assert!(lines[0]["message"].as_str().unwrap().contains("cannot be a name"));
}

#[test]
fn a_warning_is_shown_and_passes() {
    let folder = folder(&[("a.toml", "version = 1\nname = \"a\"\n[match]\nunits = [\"a\", \"a\"]\n")]);
    let Ended { exit, err, .. } = portcullis(b"", &["check", &path(&folder, "a.toml")]);
    assert_eq!(exit, Exit::Done);
    assert!(err.contains(":4:15: warning: \"a\" is already in the list"), "{err}");
}

#[test]
fn a_file_that_is_not_there_fails_and_the_others_are_checked() {
    let folder = folder(&[("a.toml", "x = 1\nversion = 1\nname = \"a\"\n")]);
    let (missing, file) = (path(&folder, "missing.toml"), path(&folder, "a.toml"));
    let Ended { exit, err, .. } = portcullis(b"", &["check", &missing, &file]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("missing.toml: cannot be read: No such file"), "{err}");
    assert!(err.contains("a.toml:1:1: error:"), "{err}");
}

#[test]
fn explain_answers_every_line_in_order() {
    let lines = explained(b"SELECT 1\n\nnot SQL at all\nSELECT 2", &[]);
    assert_eq!(inputs(&lines), ["SELECT 1", "", "not SQL at all", "SELECT 2"]);
    let verdicts: Vec<&str> = lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["allow", "allow", "hold", "allow"]);
    assert_eq!(lines[1]["operations"], Value::Array(Vec::new()));
}

#[test]
fn explain_reads_operations_between_nuls() {
    for (stdin, expected) in [
        (b"SELECT 1\n, 2\0SELECT 3".as_slice(), vec!["SELECT 1\n, 2", "SELECT 3"]),
        (b"SELECT 1\0SELECT 3\0", vec!["SELECT 1", "SELECT 3"]),
        (b"SELECT 1\0\0SELECT 3\0\0", vec!["SELECT 1", "", "SELECT 3", ""]),
        (b"SELECT 1\r\n\0", vec!["SELECT 1\r\n"]),
        (b"", vec![]),
        (b"\0", vec![""]),
    ] {
        let lines = explained(stdin, &["-0"]);
        assert_eq!(inputs(&lines), expected);
    }
}

#[test]
fn explain_has_exactly_the_keys_that_were_promised() {
    let folder = folder(&[("t.toml", POLICY)]);
    let file = path(&folder, "t.toml");
    let words = ["explain", "--policy", &file, "--protocol", "postgres", "--json"];
    let out = portcullis(b"DROP TABLE orders", &words).out;
    assert_eq!(
        out,
        "{\"input\":\"DROP TABLE orders\",\"operations\":[{\"kind\":\"drop table\",\"effect\":\"ddl\",\
         \"objects\":[\"public.orders\"],\"reason\":null}],\"effect\":\"ddl\",\"verdict\":\"hold\",\"rule\":\"default\"}\n"
    );
}

#[test]
fn explain_takes_several_statements_as_one_operation() {
    let lines = explained(b"SELECT * FROM a; DROP DATABASE b", &[]);
    assert_eq!(lines.len(), 1);
    let kinds: Vec<&Value> =
        lines[0]["operations"].as_array().unwrap().iter().map(|one| &one["kind"]).collect();
    assert_eq!(kinds, ["select", "drop database"]);
    assert_eq!(lines[0]["operations"][1]["objects"], serde_json::json!(["b"]));
    assert_eq!((&lines[0]["effect"], &lines[0]["verdict"]), (&Value::from("admin"), &Value::from("hold")));
}

#[test]
fn explain_judges_what_it_is_told() {
    let verdict = |words: &[&str]| {
        let line = explained(b"DO $$ $$", words).remove(0);
        format!("{} {}", line["verdict"].as_str().unwrap(), line["rule"].as_str().unwrap())
    };
    assert_eq!(verdict(&[]), "hold what is unknown");
    assert_eq!(verdict(&["--as", "readers"]), "allow readers");
    assert_eq!(verdict(&["--as", "writers", "--as", "readers"]), "allow readers");
    assert_eq!(verdict(&["--connection", "two"]), "deny two is closed");
    assert_eq!(verdict(&["--database", "prod"]), "deny prod is closed");
}

#[test]
fn explain_fears_what_is_not_text() {
    let lines = explained(b"SELECT '\xff'\nSELECT 1\n", &[]);
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["effect"], &lines[0]["verdict"]), (&Value::from("unknown"), &Value::from("hold")));
    assert_eq!(lines[0]["operations"][0]["reason"], "is not valid UTF-8");
    assert_eq!(lines[1]["verdict"], "allow");
}

#[test]
fn explain_for_people_is_aligned_and_harmless() {
    let folder = folder(&[("t.toml", POLICY)]);
    let file = path(&folder, "t.toml");
    let words = ["explain", "--policy", &file, "--protocol", "postgres", "--database", "prod", "-0"];
    let Ended { out, .. } = portcullis("DROP TABLE \"a\u{1b}[2Jb\",\n c\0".as_bytes(), &words);
    assert!(!out.contains('\u{1b}'), "{out:?}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "deny   ddl      DROP TABLE \"a\\u{1b}[2Jb\", c");
    assert_eq!(lines[1], "       rule     \"prod is closed\" of policy t; the client is told: Use dev.");
    assert!(lines[2].starts_with("       ddl      drop table: public.a\\u{1b}[2Jb"), "{out}");
    let coloured = portcullis_with(Look::Coloured, b"SELECT 1", &words).out;
    assert!(
        coloured.starts_with("\u{1b}[31mdeny \u{1b}[0m  read     \u{1b}[1mSELECT 1\u{1b}[0m\n"),
        "{coloured:?}"
    );
}

#[test]
fn explain_judges_command_lines() {
    let folder = folder(&[("t.toml", POLICY)]);
    let file = path(&folder, "t.toml");
    let arguments = ["explain", "--policy", &file, "--protocol", "ssh", "-0", "--json"];
    let ended = portcullis(b"ls -la\0sudo rm -rf /srv; ls\0\xff", &arguments);
    assert_eq!(ended.exit, Exit::Done, "{}", ended.err);
    let lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["effect"], &lines[0]["verdict"]), (&"read".into(), &"allow".into()));
    assert_eq!((&lines[1]["effect"], &lines[1]["verdict"]), (&"ddl".into(), &"hold".into()));
    let operation = &lines[1]["operations"][0];
    assert_eq!((&operation["kind"], &operation["objects"][0]), (&"rm -rf".into(), &"/srv".into()));
    assert_eq!(lines[2]["effect"], "unknown");
    let arguments = ["explain", "--policy", &file, "--protocol", "ssh", "--operation", "rename", "--json"];
    let ended = portcullis(b"/srv/a /etc/passwd\n", &arguments);
    let line: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&line["effect"], &line["operations"][0]["kind"]), (&"admin".into(), &"rename".into()));
}

#[test]
fn explain_refuses_what_it_cannot_judge() {
    let folder = folder(&[("t.toml", POLICY), ("broken.toml", "version = 2\nname = \"t\"\n")]);
    let (file, broken, missing) =
        (path(&folder, "t.toml"), path(&folder, "broken.toml"), path(&folder, "no.toml"));
    let explain = |file: &str, more: &[&str]| {
        portcullis(b"SELECT\n", &[&["explain", "--policy", file, "--protocol"], more].concat())
    };
    for (ended, exit, words) in [
        (explain(&file, &["http"]), Exit::Usage, "the first line names no method and URL"),
        (
            explain(&file, &["kubernetes"]),
            Exit::Failed,
            "this version judges --protocol postgres, http and ssh",
        ),
        (explain(&broken, &["postgres"]), Exit::Failed, "broken.toml:1:11: error: version 2 is unknown here"),
        (explain(&missing, &["postgres"]), Exit::Failed, "no.toml: cannot be read"),
        (explain(&file, &["postgres", "--connection", "three"]), Exit::Usage, "(it has: one, two)"),
    ] {
        assert_eq!(ended.exit, exit);
        assert!(ended.err.contains(words), "{}", ended.err);
        assert_eq!(ended.out, "");
    }
}

#[test]
fn schema_is_the_published_one() {
    let Ended { exit, out, .. } = portcullis(b"", &["schema"]);
    assert_eq!(exit, Exit::Done);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), crate::policy::schema::schema());
}

#[test]
fn test_counts_what_passed() {
    let cases = "> SELECT 1\n= allow read default -- nothing in it\n\n@ as readers\n> DO $$ $$\n= allow unknown \"readers\" -- they may\n";
    let folder = folder(&[("t.toml", POLICY), ("t.cases", cases)]);
    let Ended { exit, out, err } = portcullis(b"", &["test", folder.path().to_str().unwrap()]);
    assert_eq!(exit, Exit::Done, "{err}");
    assert_eq!(out, "ok: 2 cases in 1 policy: 2 passed, 0 failed\n");
    assert_eq!(err.matches("warning: no case reaches the guard").count(), 3, "{err}");
}

#[test]
fn test_says_every_case_that_failed_and_where() {
    let cases = "> SELECT 1\n= hold read default -- it should wait\n> SELECT 1\n> , 2\n= allow write default -- it writes\n\
                 @ connection nine\n> SELECT 1\n= allow read default -- there\n";
    let folder = folder(&[("t.toml", POLICY), ("t.cases", cases)]);
    let Ended { exit, out, err } = portcullis(b"", &["test", folder.path().to_str().unwrap()]);
    assert_eq!(exit, Exit::Failed);
    assert_eq!(out, "failed: 3 cases in 1 policy: 0 passed, 3 failed\n");
    let file = path(&folder, "t.cases");
    assert!(err.contains(&format!("{file}:2: expected hold read default, came allow read default\n    > SELECT 1\n    it should wait\n")), "{err}");
    assert!(
        err.contains(&format!(
            "{file}:5: expected allow write default, came allow read default\n    > SELECT 1\n    > , 2\n"
        )),
        "{err}"
    );
    assert!(err.contains(&format!("{file}:8: policy \"t\" has no PostgreSQL connection \"nine\"")), "{err}");
}

#[test]
fn test_fails_on_what_it_cannot_test() {
    let broken = "version = 1\nname = \"b\"\n[egress]\ndefault = \"x\"\n";
    let good = "> SELECT 1\n= allow read default -- nothing in it\n";
    let folder = folder(&[
        ("t.toml", POLICY),
        ("b.toml", broken),
        ("b.cases", good),
        ("c.toml", POLICY),
        ("c.cases", "> SELECT 1\n"),
        ("d.toml", POLICY),
        ("d.cases", "# none\n"),
        ("orphan.cases", good),
    ]);
    let Ended { exit, out, err } = portcullis(b"", &["test", folder.path().to_str().unwrap()]);
    assert_eq!(exit, Exit::Failed);
    assert_eq!(out, "failed: 0 cases in 4 policies: 0 passed, 0 failed, 5 files not testable\n");
    for words in [
        "t.toml: has no cases; write ",
        "b.toml:4:11: error: \"x\" is not",
        "c.cases:1: the last statement has no '= …' line",
        "d.cases: has no case in it",
        "orphan.cases: no policy stands beside these cases",
    ] {
        assert!(err.contains(words), "{words}: {err}");
    }
}

#[test]
fn test_of_an_empty_or_missing_folder_fails() {
    let empty = folder(&[]);
    let ended = portcullis(b"", &["test", empty.path().to_str().unwrap()]);
    assert_eq!(ended.exit, Exit::Failed);
    assert!(ended.err.contains("no policy to test"));
    let missing = Path::new("/nonexistent/policies").to_str().unwrap();
    assert_eq!(portcullis(b"", &["test", missing]).exit, Exit::Failed);
}

#[test]
fn looks_follow_the_terminal_and_no_color() {
    use std::ffi::OsStr;
    assert_eq!(Look::of(false, None), Look::Plain);
    assert_eq!(Look::of(true, None), Look::Coloured);
    assert_eq!(Look::of(true, Some(OsStr::new(""))), Look::Coloured);
    assert_eq!(Look::of(true, Some(OsStr::new("1"))), Look::Terminal);
    assert_eq!(Look::of(false, Some(OsStr::new("1"))), Look::Plain);
}

#[test]
fn commands_called_wrongly_are_not_understood() {
    for words in [
        &["explain", "--protocol", "postgres"][..],
        &["explain", "--policy", "x"],
        &["explain", "--policy", "x", "--protocol", "mysql"],
        &["explain", "--policy", "x", "--protocol", "postgres", "--rows", "many"],
        &["judge"],
        &[],
    ] {
        assert!(Line::try_parse_from(["policy"].iter().chain(words)).is_err(), "{words:?}");
    }
}
