//! `portcullis policy check`: every finding of every file.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CheckArgs, Colour, Console, Exit, Look, POLICIES_FOLDER, read_text};
use crate::policy::diagnostic::{Diagnostic, Severity};
use crate::policy::load::{LoadError, Loaded, load};
use crate::policy::watch::policy_files;

/// One finding as JSON.
#[derive(Serialize)]
struct JsonFinding<'a> {
    file: &'a Path,
    #[serde(flatten)]
    finding: &'a Diagnostic,
}

pub(super) fn run(args: &CheckArgs, console: &mut Console<'_>) -> io::Result<Exit> {
    let files = if args.files.is_empty() {
        match installed(console)? {
            Some(files) => files,
            None => return Ok(Exit::Failed),
        }
    } else {
        args.files.clone()
    };
    let mut exit = Exit::Done;
    for file in &files {
        match check(file, args.json, console)? {
            Exit::Done => {}
            failed @ (Exit::Failed | Exit::Usage) => exit = failed,
        }
    }
    if exit == Exit::Done && !args.json && console.stdout_look != Look::Plain {
        let good = console.stdout_look.paint(Colour::Green, "ok");
        writeln!(console.stdout, "{good}: {}", counted(files.len(), "policy file"))?;
    }
    Ok(exit)
}

/// The files of the daemon's own folder, or `None` when there is nothing to check, which was told.
fn installed(console: &mut Console<'_>) -> io::Result<Option<Vec<PathBuf>>> {
    match policy_files(Path::new(POLICIES_FOLDER)) {
        Ok(files) if files.is_empty() => {
            writeln!(console.stderr, "{POLICIES_FOLDER} has no policy; name the files to check")?;
            Ok(None)
        }
        Ok(files) => Ok(Some(files)),
        Err(problem) => {
            let cause = problem.source().map_or_else(String::new, |cause| format!(": {cause}"));
            writeln!(console.stderr, "{POLICIES_FOLDER}: {problem}{cause}; name the files to check")?;
            Ok(None)
        }
    }
}

fn check(file: &PathBuf, json: bool, console: &mut Console<'_>) -> io::Result<Exit> {
    let text = match read_text(file) {
        Ok(text) => text,
        Err(error) => return super::cannot_read(file, &error, console),
    };
    let (findings, exit) = match load(&text) {
        Ok(Loaded { warnings, .. }) => (warnings, Exit::Done),
        Err(LoadError { findings }) => (findings, Exit::Failed),
    };
    if json {
        for finding in &findings {
            serde_json::to_writer(&mut *console.stdout, &JsonFinding { file, finding })?;
            writeln!(console.stdout)?;
        }
    } else {
        report(file, &text, &findings, console)?;
    }
    Ok(exit)
}

/// Findings for people: one line each, and on a terminal the line they are about.
pub(super) fn report(
    file: &Path,
    text: &str,
    findings: &[Diagnostic],
    console: &mut Console<'_>,
) -> io::Result<()> {
    let look = console.stderr_look;
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => look.paint(Colour::Red, "error"),
            Severity::Warning => look.paint(Colour::Yellow, "warning"),
        };
        let Diagnostic { line, column, message, .. } = finding;
        writeln!(console.stderr, "{}:{line}:{column}: {severity}: {message}", file.display())?;
        if look != Look::Plain {
            writeln!(console.stderr, "{}", finding.excerpt(text))?;
        }
    }
    Ok(())
}

/// `1 case`, `2 cases`, `1 policy file`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
