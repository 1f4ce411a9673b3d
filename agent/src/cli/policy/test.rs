//! `portcullis policy test`: every case beside every policy of a folder.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::check::{counted, report};
use super::{Colour, Console, Exit, POLICIES_FOLDER, TestArgs, cannot_read, read_text};
use crate::policy::cases::{Case, parse, run as run_case};
use crate::policy::load::{LoadError, Loaded, load};
use crate::policy::rule::Policy;
use crate::policy::trial::untried;

/// What came of a folder.
#[derive(Default)]
struct Tally {
    policies: usize,
    passed: usize,
    failed: usize,
    /// Files that could not be tested.
    broken: usize,
}

pub(super) fn run(args: &TestArgs, console: &mut Console<'_>) -> io::Result<Exit> {
    let folder = args.dir.as_deref().unwrap_or(Path::new(POLICIES_FOLDER));
    let files = match files(folder) {
        Ok(files) => files,
        Err(error) => return cannot_read(folder, &error, console),
    };
    let mut tally = Tally::default();
    for cases in files.iter().filter(|path| is(path, "cases")) {
        if !files.contains(&cases.with_extension("toml")) {
            tally.broken += 1;
            writeln!(console.stderr, "{}: no policy stands beside these cases", cases.display())?;
        }
    }
    for policy in files.iter().filter(|path| is(path, "toml")) {
        tally.policies += 1;
        test(policy, &mut tally, console)?;
    }
    if tally.policies == 0 {
        writeln!(console.stderr, "{}: no policy to test", folder.display())?;
        return Ok(Exit::Failed);
    }
    let Tally { policies, passed, failed, broken } = tally;
    let good = failed == 0 && broken == 0;
    let result = if good {
        console.stdout_look.paint(Colour::Green, "ok")
    } else {
        console.stdout_look.paint(Colour::Red, "failed")
    };
    let where_ = if policies == 1 { "1 policy".to_owned() } else { format!("{policies} policies") };
    let cases = counted(passed + failed, "case");
    let untested =
        if broken == 0 { String::new() } else { format!(", {} not testable", counted(broken, "file")) };
    writeln!(console.stdout, "{result}: {cases} in {where_}: {passed} passed, {failed} failed{untested}")?;
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// Everything in a folder, sorted.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    files.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    files.sort();
    Ok(files)
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn test(path: &Path, tally: &mut Tally, console: &mut Console<'_>) -> io::Result<()> {
    let (Some(policy), Some(cases)) = (read_policy(path, console)?, read_cases(path, console)?) else {
        tally.broken += 1;
        return Ok(());
    };
    let file = path.with_extension("cases");
    let mut rules = BTreeSet::new();
    for case in &cases {
        let came = match run_case(&policy, case) {
            Ok(came) => came,
            Err(error) => {
                tally.failed += 1;
                writeln!(console.stderr, "{}:{}: {error}", file.display(), case.line)?;
                continue;
            }
        };
        if came == case.expected {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            let Case { line, input, expected, why, .. } = case;
            writeln!(console.stderr, "{}:{line}: expected {expected}, came {came}", file.display())?;
            for part in input.lines() {
                let part: String = part.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                writeln!(console.stderr, "    > {part}")?;
            }
            writeln!(console.stderr, "    {why}")?;
        }
        rules.insert(came.rule);
    }
    for guard in untried(&policy, &rules) {
        let warning = console.stderr_look.paint(Colour::Yellow, "warning");
        writeln!(console.stderr, "{}: {warning}: no case reaches the guard \"{guard}\"", file.display())?;
    }
    Ok(())
}

fn read_policy(path: &Path, console: &mut Console<'_>) -> io::Result<Option<Policy>> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => return cannot_read(path, &error, console).map(|_| None),
    };
    match load(&text) {
        Ok(Loaded { policy, .. }) => Ok(Some(policy)),
        Err(LoadError { findings }) => {
            report(path, &text, &findings, console)?;
            Ok(None)
        }
    }
}

fn read_cases(path: &Path, console: &mut Console<'_>) -> io::Result<Option<Vec<Case>>> {
    let file = path.with_extension("cases");
    let text = match read_text(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            writeln!(console.stderr, "{}: has no cases; write {}", path.display(), file.display())?;
            return Ok(None);
        }
        Err(error) => return cannot_read(&file, &error, console).map(|_| None),
    };
    match parse(&text) {
        Ok(cases) if cases.is_empty() => {
            writeln!(console.stderr, "{}: has no case in it", file.display())?;
            Ok(None)
        }
        Ok(cases) => Ok(Some(cases)),
        Err(errors) => {
            for error in errors {
                writeln!(console.stderr, "{}:{}: {error}", file.display(), error.line)?;
            }
            Ok(None)
        }
    }
}
