//! `cargo xtask test`: every test there is, as root, against real servers, with a closing line that counts them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::postgres18::{self, Postgres18};
use crate::{build_ebpf, needs, shell};

/// What to run.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Tests counted over all binaries.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Builds everything, then runs unit tests, policy cases and end-to-end tests.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let started = std::time::Instant::now();
    needs::for_test()?;
    let newest = postgres18::install()?;
    build_ebpf::build(&shell::root())?;
    shell::say("building the agent");
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "portcullis"]))?;
    let mut counts = Counts::default();
    shell::say("unit tests");
    libtest(
        &["test", "--package", "portcullis", "--package", "ebpf-abi", "--package", "xtask"],
        &arguments.filters(),
        None,
        &mut counts,
    )?;
    shell::say("what fuzzing found and collected");
    libtest(&["test", "--package", "portcullis-fuzz", "--lib"], &arguments.filters(), None, &mut counts)?;
    shell::say("end-to-end tests: real kernel, real servers, real clients");
    libtest(&["test", "--package", "tests"], &arguments.filters(), None, &mut counts)?;
    let again = arguments.again();
    if again.is_empty() {
        shell::say("PostgreSQL 18: none of these tests, only those of the wire and of masks run against it");
    } else {
        shell::say(&format!("end-to-end tests against PostgreSQL 18: {}", again.join(" ")));
        libtest(&["test", "--package", "tests"], &again, Some(&newest), &mut counts)?;
    }
    let Counts { passed, failed, ignored } = counts;
    let seconds = started.elapsed().as_secs();
    if failed > 0 || ignored > 0 || passed == 0 {
        bail!("{failed} test(s) failed, {ignored} ignored, {passed} passed in {seconds} s");
    }
    shell::say(&format!("{passed} tests passed, none failed, none skipped, in {seconds} s"));
    Ok(())
}

impl Arguments {
    fn filters(&self) -> Vec<&str> {
        self.filter.as_deref().into_iter().collect()
    }

    /// Filters of the tests that run against PostgreSQL 18 as well.
    fn again(&self) -> Vec<&str> {
        match self.filter.as_deref() {
            None => postgres18::MODULES.to_vec(),
            Some(filter) => {
                let mut modules = postgres18::MODULES.iter().map(|module| module.trim_end_matches("::"));
                modules.any(|module| filter.contains(module)).then_some(filter).into_iter().collect()
            }
        }
    }
}

/// Runs one `cargo test` and adds up libtest's summary lines.
fn libtest(
    cargo: &[&str],
    filters: &[&str],
    postgres: Option<&Postgres18>,
    counts: &mut Counts,
) -> Result<()> {
    let mut command = shell::cargo();
    command.args(cargo).args(["--quiet", "--no-fail-fast"]).stdout(Stdio::piped());
    command.env("PORTCULLIS_BIN", shell::target_dir().join("debug/portcullis"));
    command.env("PORTCULLIS_PYTHON", needs::PYTHON);
    command.env("PORTCULLIS_VENV_PYTHON", needs::python_venv()?);
    command.env("PORTCULLIS_OIDC_PROVIDER", needs::oidc_provider()?);
    if let Some(Postgres18 { bin, psql }) = postgres {
        command.env("PORTCULLIS_POSTGRES_BIN", bin).env("PORTCULLIS_PSQL", psql);
    }
    command.arg("--").args(filters);
    let mut child = spawn(&mut command)?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let mut summaries = 0_u64;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("test result: ") {
            summaries += 1;
            counts.passed += number_before(rest, " passed");
            counts.failed += number_before(rest, " failed");
            counts.ignored += number_before(rest, " ignored");
        }
        shell::print(&line);
    }
    let status = child.wait()?;
    if summaries == 0 || (!status.success() && counts.failed == 0) {
        bail!("`cargo {}` ended with {status} before its tests could be counted", cargo.join(" "));
    }
    Ok(())
}

fn spawn(command: &mut Command) -> Result<std::process::Child> {
    command.spawn().context("cannot start cargo")
}

fn number_before(text: &str, word: &str) -> u64 {
    text.split(word)
        .next()
        .and_then(|head| head.rsplit([' ', ';']).next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::number_before;

    #[test]
    fn libtest_summary_is_read() {
        let line = "ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(number_before(line, " passed"), 12);
        assert_eq!(number_before(line, " failed"), 3);
        assert_eq!(number_before(line, " ignored"), 1);
    }
}
