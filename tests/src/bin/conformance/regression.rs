//! PostgreSQL's own regression suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use harness::postgres::{self, Server};

use crate::Arguments;
use crate::report::{Outcomes, Suite};
use crate::side::{self, PORT, Side};

/// Runs the suite against a server of its own each way, and keeps what each test printed.
///
/// # Errors
/// When it cannot be run.
pub(crate) fn run(arguments: &Arguments) -> Result<Suite> {
    let [direct, through] = &side::of_two_servers(&arguments.out.join("regression"))?;
    let outcomes = |side: &Side| {
        side.announce("regression");
        fill(arguments, side)?;
        side.keep_log()?;
        read(&side.out.join("results"))
    };
    Ok(Suite {
        name: "regression".to_owned(),
        what: "PostgreSQL's regression suite: what each test prints".to_owned(),
        direct: outcomes(direct)?,
        through: outcomes(through)?,
        not_run: |_| false,
        partial: !arguments.only.is_empty(),
        missing: None,
    })
}

/// Makes the database `regression` and runs the suite in it, which leaves objects of every kind there.
///
/// # Errors
/// When the suite cannot be started. A test that fails is none: results are what is compared.
pub(crate) fn fill(arguments: &Arguments, side: &Side) -> Result<()> {
    for folder in ["results", "sql", "expected"] {
        side::fresh(&side.out.join(folder))?;
    }
    database(&side.server)?;
    let mut suite = side.command(pg_regress()?)?;
    regress_arguments(&mut suite, arguments, side);
    let said = side.log("pg_regress", &mut suite)?;
    if fs::read_dir(side.out.join("results"))?.next().is_none() {
        bail!("the suite did not run: {said}");
    }
    Ok(())
}

fn database(server: &Server) -> Result<()> {
    server.psql("postgres", "CREATE DATABASE regression TEMPLATE template0")?;
    for setting in [
        "lc_messages TO 'C'",
        "lc_monetary TO 'C'",
        "lc_numeric TO 'C'",
        "lc_time TO 'C'",
        "bytea_output TO 'hex'",
        "timezone_abbreviations TO 'Default'",
    ] {
        server.psql("postgres", &format!("ALTER DATABASE regression SET {setting}"))?;
    }
    Ok(())
}

fn regress_arguments(run: &mut Command, arguments: &Arguments, side: &Side) {
    let input = arguments.postgresql.join("src/test/regress");
    run.arg("--use-existing")
        .arg(format!("--host={}", side.server.address().ip()))
        .arg(format!("--port={PORT}"))
        .args(["--user=postgres", "--dbname=regression", "--max-connections=20"])
        .arg(format!("--inputdir={}", input.display()))
        .arg(format!("--outputdir={}", side.out.display()))
        .arg(format!("--dlpath={}", arguments.libraries.display()));
    if let Ok(bin) = postgres::bin() {
        run.arg(format!("--bindir={}", bin.display()));
    }
    match arguments.only.as_slice() {
        only if !only.is_empty() && arguments.families == ["regression"] => run.args(only),
        _ => run.arg(format!("--schedule={}", input.join("parallel_schedule").display())),
    };
}

fn pg_regress() -> Result<PathBuf> {
    let bin = postgres::bin()?;
    let program = bin.parent().context("no server")?.join("lib/pgxs/src/test/regress/pg_regress");
    if program.is_file() {
        Ok(program)
    } else {
        bail!("no {}: apt-get install postgresql-server-dev-15", program.display())
    }
}

fn read(folder: &Path) -> Result<Outcomes> {
    let mut found = Outcomes::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let (Some(name), Some("out")) =
            (path.file_stem().and_then(|name| name.to_str()), path.extension().and_then(|end| end.to_str()))
        else {
            continue;
        };
        found.insert(name.to_owned(), String::from_utf8_lossy(&fs::read(&path)?).into_owned());
    }
    Ok(found)
}
