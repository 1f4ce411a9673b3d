//! `cargo xtask effects` and `cargo xtask secrets`: whether statements are judged as PostgreSQL means them, and whether masked
//! values stay where they are.

use std::process::Command;

use anyhow::Result;

use crate::{build_ebpf, conformance, needs, shell};

/// How many statements, and of whom.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Statements of each driver, at least
    #[arg(long, default_value_t = 1500)]
    statements: usize,
    /// These drivers alone
    drivers: Vec<String>,
}

/// Runs the suite with the server's log on, and compares judgements with it.
pub(crate) fn effects() -> Result<()> {
    build("effects")?;
    let source = conformance::postgresql_source()?;
    let libraries = conformance::libraries(&source)?;
    let out = shell::target_dir().join("effects");
    shell::run(program("effects").args([&source, &libraries, &out]))
}

/// Plants values, and searches everything that came back for them.
pub(crate) fn secrets(arguments: &Arguments) -> Result<()> {
    build("secrets")?;
    let mut secrets = program("secrets");
    secrets.arg(shell::target_dir().join("secrets")).arg(arguments.statements.to_string());
    shell::run(secrets.args(&arguments.drivers))
}

fn build(program: &str) -> Result<()> {
    needs::for_conformance(false)?;
    build_ebpf::build(&shell::root())?;
    for package in ["portcullis", "tests"] {
        let bin = if package == "tests" { program } else { package };
        shell::run(shell::cargo().args(["build", "--quiet", "--package", package, "--bin", bin]))?;
    }
    Ok(())
}

fn program(name: &str) -> Command {
    let mut command = Command::new(shell::target_dir().join("debug").join(name));
    command.env("PORTCULLIS_BIN", shell::target_dir().join("debug/portcullis"));
    command
}
