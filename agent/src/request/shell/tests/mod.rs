//! Lines as agents, tools and people send them, with the effect that each must have: `harmless.txt` and `lines.toml` are ordinary
//! ones, `hostile.toml` are tricks.

use super::analyse;
use crate::request::Effect;

fn effect(line: &str) -> Effect {
    analyse(line).effect
}

/// `EFFECT  LINE`, one a line; `\n` in it is a newline.
fn corpus(text: &str) -> Vec<(Effect, String)> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (word, rest) = line.split_once(' ').unwrap();
            let effect = match word {
                "read" => Effect::Read,
                "write" => Effect::Write,
                "ddl" => Effect::Ddl,
                "admin" => Effect::Admin,
                "unknown" => Effect::Unknown,
                other => panic!("{other}"),
            };
            (effect, rest.trim_start().replace("\\n", "\n"))
        })
        .collect()
}

#[test]
fn ordinary_lines_have_their_effect() {
    hold_to(&corpus(include_str!("ordinary.txt")));
}

#[test]
fn lines_that_nobody_had_in_mind_have_their_effect() {
    hold_to(&corpus(include_str!("field.txt")));
    hold_to(&corpus(include_str!("wide.txt")));
    hold_to(&corpus(include_str!("natural.txt")));
}

/// None is judged below what it is, and at most one in twenty of the harmless above.
fn hold_to(lines: &[(Effect, String)]) {
    let harmless = lines.iter().filter(|(expected, _)| *expected == Effect::Read).count();
    let mut raised = Vec::new();
    let mut lowered = Vec::new();
    for (expected, line) in lines {
        let came = effect(line);
        if came < *expected {
            lowered.push(format!("{line}: {came}, not {expected}"));
        }
        if *expected == Effect::Read && came > Effect::Read {
            raised.push(format!("{line}: {came} ({:?})", analyse(line).reason));
        }
    }
    assert!(lowered.is_empty(), "{} judged below what they are:\n{}", lowered.len(), lowered.join("\n"));
    assert!(
        raised.len() * 20 <= harmless,
        "{} of {harmless} harmless lines:\n{}",
        raised.len(),
        raised.join("\n")
    );
}

/// None of them is in the catalogue's mind: at most one in twenty is feared.
#[test]
fn lines_of_runbooks_are_looks() {
    let lines = corpus(include_str!("runbook.txt"));
    let raised: Vec<&String> =
        lines.iter().filter(|(_, line)| effect(line) > Effect::Read).map(|(_, line)| line).collect();
    assert!(raised.len() * 20 <= lines.len(), "{} of {}: {raised:#?}", raised.len(), lines.len());
}

#[test]
fn nothing_destructive_is_taken_for_a_look() {
    let lowered: Vec<String> = corpus(include_str!("hostile.txt"))
        .into_iter()
        .filter_map(|(expected, line)| {
            let came = effect(&line);
            (came < expected).then(|| format!("{line}: {came}, not {expected} or more"))
        })
        .collect();
    assert!(lowered.is_empty(), "{}", lowered.join("\n"));
}

#[test]
fn what_a_line_hands_to_a_database_is_judged_as_sql() {
    for line in [
        "psql -c \"DROP DATABASE x\"",
        "sudo -u postgres psql -d shop -c 'DROP DATABASE x'",
        "psql <<'EOF'\nDROP DATABASE x;\nEOF",
        "echo 'DROP DATABASE x' | psql",
        "ssh db-1 \"psql -c 'DROP DATABASE x'\"",
    ] {
        let found = analyse(line);
        assert_eq!(found.effect, Effect::Admin, "{line}: {found:?}");
        let command = found.commands.last().unwrap();
        assert_eq!(command.kind, "drop database", "{line}");
        assert_eq!(command.statements[0].kind, "drop database", "{line}");
    }
    assert_eq!(effect("psql -Atc 'SELECT 1'"), Effect::Read);
    assert_eq!(effect("psql -c 'SELECT 1'"), Effect::Read);
    assert_eq!(effect("psql -c 'SELECT 1 \\g |sh'"), Effect::Unknown);
    assert_eq!(effect("psql -c '\\! id'"), Effect::Unknown);
    assert_eq!(effect("psql -c '\\dt'"), Effect::Read);
}

#[test]
fn transfers_are_recognised() {
    use super::Transfer;
    let transfer = |line: &str| analyse(line).transfer;
    assert_eq!(
        transfer("scp -r -t -- '/srv/my app'"),
        Some(Transfer::ScpSink { path: "/srv/my app".to_owned(), recursive: true, folder: false })
    );
    assert_eq!(
        transfer("scp -f a b"),
        Some(Transfer::ScpSource { paths: vec!["a".to_owned(), "b".to_owned()], recursive: false })
    );
    assert_eq!(
        transfer("rsync --server --sender -vlogDtpre.iLsfxCIvu . /srv/x"),
        Some(Transfer::Rsync { sender: true, paths: vec!["/srv/x".to_owned()] })
    );
    assert_eq!(
        transfer("git-receive-pack '/srv/x.git'"),
        Some(Transfer::GitReceivePack { repository: "/srv/x.git".to_owned() })
    );
    for line in [
        "rsync --server -vlogDtprze.iLsfxCIvu --log-format=%i --partial . /srv/x",
        "rsync --server --sender -de.LsfxCIvu --list-only . /srv/x",
        "rsync --server -logDtpre.iLsfxCIvu --delete-during --bwlimit=100 -B1024 --inplace . /srv/x",
    ] {
        assert!(matches!(transfer(line), Some(Transfer::Rsync { .. })), "{line}");
    }
    for line in [
        "LD_PRELOAD=x git-upload-pack y",
        "X=y git-upload-pack y",
        "git-upload-pack y > z",
        "git-upload-pack y < z",
        "git-upload-pack y <<EOF\nEOF",
        "git-upload-pack y &",
        "! git-upload-pack y",
        "(git-upload-pack y)",
        "git-upload-pack --strict y",
        "git-upload-pack \"y$(true)\"",
        "sh -c 'git-upload-pack y'",
        "X=y; git-upload-pack $X",
        "if git-upload-pack y; then :; fi",
        "scp -t -- -x",
        "rsync --server --daemon . x",
        "rsync --server --sender -vse.iLsfxCIvu . x",
        "rsync --server --remove-source-files --sender -re.iLsfxCIvu . x",
        "rsync --server -re.iLsfxCIvu --backup-dir /etc . x",
        "rsync --server -re.iLsfxCIvu --log-file=/etc/x . x",
        "rsync --server -re.iLsfxCIvu . -x",
    ] {
        assert_eq!(transfer(line), None, "{line}");
    }
    assert_eq!(effect("git-upload-pack '/srv/x.git'"), Effect::Read);
    assert_eq!(effect("git-receive-pack '/srv/x.git'"), Effect::Write);
    assert_eq!(effect("scp -t /etc/passwd"), Effect::Admin);
    assert_eq!(transfer("scp -t a; rm -rf /"), None);
    assert_eq!(transfer("scp -t $(id)"), None);
}

#[test]
fn nested_commands_say_what_they_run_under() {
    let found = analyse("sudo -n env LANG=C bash -c 'ls | xargs rm'");
    let last = found.commands.last().unwrap();
    assert_eq!(last.program.as_deref(), Some("rm"));
    assert_eq!(last.through, ["sudo", "env", "bash -c", "xargs"]);
}

#[test]
fn a_line_says_whether_all_of_it_was_understood() {
    for line in ["ls", "rm -rf /", "frobnicate", "bash x.sh", "psql -f x", "export FOO=bar; ls"] {
        assert_eq!(analyse(line).opaque, None, "{line}");
    }
    for line in ["frobnicate; PATH=/tmp; ls", "frobnicate; ls ${x:-$(id)}", "frobnicate (", "((x[`id`])); ls"]
    {
        assert!(analyse(line).opaque.is_some(), "{line}");
    }
}

/// Loops are walked several times, within bounds.
#[test]
fn loops_in_loops_are_bounded() {
    let body = "x=1; ls; ".repeat(100);
    let line = format!("{}{body}{}", "while true; do x=2; cd a; ".repeat(7), "done; ".repeat(7));
    assert_eq!(analyse(&line).effect, Effect::Unknown);
    assert_eq!(effect("while true; do x=2; ls; while true; do y=3; ls $x; done; done"), Effect::Read);
}

/// A line that looks like a command of psql's may stand in a literal or a comment.
#[test]
fn a_statement_does_not_hide_in_a_command_of_the_client() {
    for text in [
        "psql -c \"select '\n\\d '; drop table t; select '\n'\"",
        "psql -c '/*\n\\d */ drop table t; /*\n*/'",
        "mysql -e \"select 1\n\\d ; drop table t\"",
        "sqlite3 x.db \"select '\n\\d '; drop table t; select '\n'\"",
    ] {
        assert_eq!(effect(text), Effect::Unknown, "{text}");
    }
    assert_eq!(effect("psql -c '\\d'"), Effect::Read);
}

#[test]
fn paths_are_placed_where_the_line_stands() {
    let paths = |line: &str| {
        let last = analyse(line).commands.pop().unwrap();
        last.paths.into_iter().map(|path| path.path).collect::<Vec<_>>()
    };
    assert_eq!(paths("cd /srv/app && cat x"), ["/srv/app/x"]);
    assert_eq!(paths("cd /srv && cd app && cat ./x ../y /z"), ["/srv/app/x", "/srv/app/../y", "/z"]);
    // `cd` may have failed.
    assert_eq!(paths("cd /srv/app; cat x"), ["/srv/app/x", "x"]);
    assert_eq!(paths("(cd /srv/app && ls); cat x"), ["x"]);
    assert_eq!(paths("cd /srv/app && ssh web cat x"), ["x"]);
    // Anywhere.
    assert_eq!(paths("cd $X && cat x"), ["x", ""]);
    assert_eq!(paths("cd && cat x"), ["~/x"]);
}

/// What random lines are made of.
const PIECES: &[&str] = &[
    "rm",
    " ",
    "-rf",
    "/",
    "$(",
    ")",
    "`",
    "'",
    "\"",
    "\\",
    "{",
    "}",
    ";",
    "|",
    "&&",
    "||",
    "&",
    "<",
    ">",
    "<<EOF\n",
    "EOF\n",
    "if",
    "then",
    "fi",
    "for",
    "in",
    "do",
    "done",
    "case",
    "esac",
    "$x",
    "${x",
    "((",
    "))",
    "[[",
    "]]",
    "#",
    "\n",
    "é",
    "\u{202e}",
    "sh -c ",
    "sudo ",
    "eval ",
    "=",
    "x=",
    "function f",
    "()",
    "!",
    "~",
    "*",
    "?",
    "$'",
    "\\x",
];

/// Anything at all is answered, and within bounds.
#[test]
fn no_line_makes_it_fail() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..3_000 {
        let mut line = String::new();
        for _ in 0..(state % 24) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            line.push_str(PIECES[usize::try_from(state % PIECES.len() as u64).unwrap()]);
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let found = analyse(&line);
        assert!(found.commands.len() <= super::walk::COMMANDS_MAX + 1);
    }
    for open in ["$(", "(", "{ ", "`", "if true; then ", "sh -c '", "((", "\"$(", "<(", "${x:-"] {
        assert_eq!(effect(&open.repeat(4_000)), Effect::Unknown);
        assert_eq!(effect(&open.repeat(9)), Effect::Unknown);
    }
}
