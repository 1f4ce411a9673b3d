//! Conformance: PostgreSQL's regression suite, drivers' own suites and common tools, each run directly and through Portcullis under
//! a policy that allows everything, and compared. `cargo xtask conformance` brings what they need and runs this.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

mod accepted;
mod drivers;
mod dumps;
mod regression;
mod report;
mod side;
mod tools;

use report::Suite;

/// What to run; `cargo xtask conformance` gives it.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// `regression`, `drivers` or `tools`; all when empty.
    families: Vec<String>,
    /// Only suites of these names, and of the regression suite only these tests.
    only: Vec<String>,
    json: bool,
    /// PostgreSQL's source: the folder that holds src/test/regress.
    postgresql: PathBuf,
    /// Where regress.so, refint.so and autoinc.so are.
    libraries: PathBuf,
    /// The drivers' sources, a folder each, and those that could not be had.
    sources: PathBuf,
    missing: Vec<String>,
    /// A Python with the drivers and frameworks.
    python: PathBuf,
    /// The programs and lists of the conformance suite itself.
    own: PathBuf,
    /// Where results are left.
    out: PathBuf,
}

const USAGE: &str = "usage: conformance [regression|drivers|tools]... [--json] [--only NAME]... [--missing NAME]... \
    --postgresql FOLDER --libraries FOLDER --sources FOLDER --python PROGRAM --own FOLDER --out FOLDER";

impl Arguments {
    fn parse() -> Result<Self> {
        let mut words = std::env::args().skip(1);
        let (mut families, mut only, mut missing, mut json) = (Vec::new(), Vec::new(), Vec::new(), false);
        let mut paths = std::collections::BTreeMap::new();
        while let Some(word) = words.next() {
            match word.as_str() {
                "regression" | "drivers" | "tools" => families.push(word),
                "--json" => json = true,
                "--only" => only.push(words.next().context(USAGE)?),
                "--missing" => missing.push(words.next().context(USAGE)?),
                "--postgresql" | "--libraries" | "--sources" | "--python" | "--own" | "--out" => {
                    paths.insert(word, PathBuf::from(words.next().context(USAGE)?));
                }
                other => bail!("{other:?} is no argument; {USAGE}"),
            }
        }
        let mut path = |name: &str| paths.remove(name).context(USAGE);
        Ok(Self {
            postgresql: path("--postgresql")?,
            libraries: path("--libraries")?,
            sources: path("--sources")?,
            python: path("--python")?,
            own: path("--own")?,
            out: path("--out")?,
            families,
            only,
            missing,
            json,
        })
    }

    fn wants_family(&self, family: &str) -> bool {
        self.families.is_empty() || self.families.iter().any(|wanted| wanted == family)
    }

    fn wants(&self, suite: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == suite)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether everything that differs is accepted, and everything accepted differs.
fn run() -> Result<bool> {
    let arguments = Arguments::parse()?;
    let accepted = accepted::read(&arguments.own.join("accepted.txt"))?;
    let mut suites: Vec<Suite> = Vec::new();
    if arguments.wants_family("regression") {
        suites.push(regression::run(&arguments)?);
    }
    if arguments.wants_family("drivers") {
        drivers::run(&arguments, &mut suites)?;
    }
    if arguments.wants_family("tools") {
        suites.extend(tools::run(&arguments)?);
    }
    report::report(&arguments, &accepted, &suites)
}

/// Says on standard error what happens next.
pub(crate) fn say(line: &str) {
    // A closed pipe must not stop the work.
    drop(writeln!(std::io::stderr(), "{line}"));
}
