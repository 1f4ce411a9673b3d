//! `cargo xtask conformance`: PostgreSQL's regression suite, drivers' suites and tools, directly and through Portcullis.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, needs, shell};

mod sources;

pub(crate) use sources::{libraries, postgresql as postgresql_source};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// These families instead of all
    #[arg(value_enum)]
    families: Vec<Family>,
    /// Only suites of these names (as the table has them); with `regression` alone, tests of it, in this order
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// One JSON object with every difference and everything that was not run
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Family {
    /// PostgreSQL's own regression suite: what each test prints
    Regression,
    /// The drivers' own test suites: what becomes of each test
    Drivers,
    /// psql, pg_dump, pgbench, SQLAlchemy, Django, Alembic, JDBC: what each prints
    Tools,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::Drivers => "drivers",
            Self::Tools => "tools",
        }
    }
}

/// Brings the suites, builds, runs each twice, and fails when something differs that the list of accepted differences
/// (`tests/src/conformance/accepted.txt`) does not name.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wants = |family| arguments.families.is_empty() || arguments.families.contains(&family);
    needs::for_conformance(wants(Family::Tools))?;
    let postgresql = postgresql_source()?;
    let libraries = libraries(&postgresql)?;
    let (folder, missing) = match wants(Family::Drivers) {
        true => sources::drivers()?,
        false => (PathBuf::new(), Vec::new()),
    };
    let python =
        if wants(Family::Drivers) || wants(Family::Tools) { sources::python()? } else { PathBuf::new() };
    let (conformance, portcullis) = binaries()?;
    let mut suite = Command::new(conformance);
    suite.env("PORTCULLIS_BIN", portcullis).args(arguments.families.iter().map(|family| family.name()));
    suite.args(arguments.json.then_some("--json"));
    for only in &arguments.only {
        suite.args(["--only", only]);
    }
    for missing in missing {
        suite.args(["--missing", missing]);
    }
    for (option, path) in [
        ("--postgresql", postgresql),
        ("--libraries", libraries),
        ("--sources", folder),
        ("--python", python),
        ("--own", shell::root().join("tests/src/conformance")),
        ("--out", shell::target_dir().join("conformance-results")),
    ] {
        suite.arg(option).arg(path);
    }
    // It says on stderr how far it is.
    let status = suite.stderr(Stdio::inherit()).status().context("cannot start the suites")?;
    if status.success() {
        Ok(())
    } else {
        bail!("not everything is as the list of accepted differences says")
    }
}

/// The suites' runner and the agent: `PORTCULLIS_BIN` when it is set, else one that is built for release.
fn binaries() -> Result<(PathBuf, PathBuf)> {
    let built = |package: &str, profile: &[&str]| {
        let mut cargo = shell::cargo();
        cargo.args(["build", "--quiet", "--package", package, "--bins"]).args(profile);
        shell::run(&mut cargo)
    };
    if let Some(portcullis) = std::env::var_os("PORTCULLIS_BIN") {
        built("tests", &[])?;
        return Ok((shell::target_dir().join("debug/conformance"), std::path::absolute(portcullis)?));
    }
    build_ebpf::build(&shell::root())?;
    shell::tell("building the agent for release (some minutes the first time)");
    built("portcullis", &["--release"])?;
    built("tests", &["--release"])?;
    Ok((shell::target_dir().join("release/conformance"), shell::target_dir().join("release/portcullis")))
}
