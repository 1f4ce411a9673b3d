//! The drivers' own test suites: what becomes of each test. A plug-in for pytest, `conformance_report.py`, writes that down.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::postgres;

use crate::report::{Outcomes, Suite};
use crate::side::{self, Side};
use crate::{Arguments, say};

/// A driver's suite.
struct Driver {
    name: &'static str,
    what: &'static str,
    /// Its folder among the sources.
    source: &'static str,
    /// What makes the server ready for it.
    prepare: &'static [(&'static str, &'static str)],
    /// Adds program, arguments and variables.
    command: fn(&Arguments, &Side, &mut Command),
}

const DRIVERS: &[Driver] = &[
    Driver {
        name: "asyncpg",
        what: "asyncpg's own suite, against the server",
        source: "asyncpg",
        prepare: &[],
        command: |_, _, command| {
            command.env("PGDATABASE", "postgres").arg("tests");
        },
    },
    Driver {
        name: "asyncpg-servers",
        what: "those of its tests that start servers of their own",
        source: "asyncpg",
        prepare: &[],
        command: |_, _, command| {
            command.env_remove("PGHOST").env_remove("PGPORT").env_remove("PGUSER").env_remove("PGPASSWORD");
            if let Ok(bin) = postgres::bin() {
                command.env("PGINSTALLATION", bin);
            }
            // Those that it leaves out when it is given a server.
            command.args(
                [
                    "adversity.py",
                    "codecs.py::TestCodecsLargeOIDs",
                    "connect.py::TestAuthentication",
                    "connect.py::TestClientSSLConnection",
                    "connect.py::TestNoSSLConnection",
                    "connect.py::TestSSLConnection",
                    "listeners.py::TestConnectionTerminationListener",
                    "pool.py::TestHotStandby",
                    "pool.py::TestPoolReconnectWithTargetSessionAttrs",
                ]
                .map(|test| format!("tests/test_{test}")),
            );
        },
    },
    Driver {
        name: "psycopg",
        what: "psycopg 3's own suite",
        source: "psycopg3",
        prepare: &[("postgres", "CREATE DATABASE psycopg_test")],
        command: |arguments, side, command| {
            let address = side.server.address();
            command.arg(format!(
                "--test-dsn=host={} port={} user=postgres password=superuser dbname=psycopg_test",
                address.ip(),
                address.port()
            ));
            // The suite's own version, which is older than the frameworks need.
            let packages = [&arguments.own, &arguments.sources.join("psycopg3/psycopg")]
                .map(|path| path.display().to_string());
            command.env("PYTHONPATH", packages.join(":"));
            command.args(["-m", "not mypy and not dns", "tests"]);
        },
    },
    Driver {
        name: "psycopg2",
        what: "psycopg2's own suite",
        source: "psycopg2",
        prepare: &[
            ("postgres", "CREATE DATABASE psycopg2_test"),
            ("psycopg2_test", "CREATE EXTENSION hstore"),
        ],
        command: |_, _, command| {
            command.env("PSYCOPG2_TEST_REPL_DSN", "").arg("tests");
        },
    },
    Driver {
        name: "pg8000",
        what: "pg8000's own suite (a driver in Python alone)",
        source: "pg8000",
        prepare: &[("postgres", "CREATE EXTENSION hstore"), ("postgres", "CREATE DATABASE pg8000_test")],
        command: |_, _, command| {
            command.env("PGDATABASE", "postgres");
            command.args(["test", "--ignore=test/test_readme.py", "-k", "not benchmark"]);
        },
    },
    Driver {
        name: "sqlalchemy-psycopg",
        what: "SQLAlchemy's suite for databases, over psycopg 3",
        source: "sqlalchemy",
        prepare: SQLALCHEMY,
        command: |_, side, command| sqlalchemy(side, command, "postgresql+psycopg"),
    },
    Driver {
        name: "sqlalchemy-asyncpg",
        what: "the same over asyncpg",
        source: "sqlalchemy",
        prepare: SQLALCHEMY,
        command: |_, side, command| sqlalchemy(side, command, "postgresql+asyncpg"),
    },
];

/// As its README.unittests asks for.
const SQLALCHEMY: &[(&str, &str)] = &[
    ("postgres", "CREATE DATABASE test"),
    ("test", "CREATE SCHEMA test_schema"),
    ("test", "CREATE SCHEMA test_schema_2"),
    ("test", "CREATE EXTENSION hstore"),
    ("test", "CREATE EXTENSION citext"),
];

fn sqlalchemy(side: &Side, command: &mut Command, dialect: &str) {
    let address = side.server.address();
    command.arg(format!("--dburi={dialect}://postgres:superuser@{}:{}/test", address.ip(), address.port()));
    command.args([
        "--backend-only",
        "--maxfail=100000",
        "test/dialect/postgresql",
        "test/dialect/test_suite.py",
    ]);
}

/// Runs every suite that is wanted.
///
/// # Errors
/// When one cannot be run at all although its source is there.
pub(crate) fn run(arguments: &Arguments, suites: &mut Vec<Suite>) -> Result<()> {
    for driver in DRIVERS.iter().filter(|driver| arguments.wants(driver.name)) {
        if arguments.missing.iter().any(|name| name == driver.source) {
            say(&format!("{}: its source cannot be had", driver.name));
            suites.push(Suite::missing(
                driver.name,
                "not run: its source cannot be had from the package sources",
            ));
            continue;
        }
        suites.push(suite(arguments, driver).with_context(|| driver.name)?);
    }
    Ok(())
}

fn suite(arguments: &Arguments, driver: &Driver) -> Result<Suite> {
    let [direct, through] = &side::of_two_servers(&arguments.out.join(driver.name))?;
    Ok(Suite {
        name: driver.name.to_owned(),
        what: driver.what.to_owned(),
        direct: outcomes(arguments, driver, direct)?,
        through: outcomes(arguments, driver, through)?,
        not_run: |outcome| outcome.starts_with("skipped"),
        partial: false,
        missing: None,
    })
}

fn outcomes(arguments: &Arguments, driver: &Driver, side: &Side) -> Result<Outcomes> {
    side.announce(driver.name);
    for (database, statement) in driver.prepare {
        side.server.psql(database, statement)?;
    }
    let report = side.out.join("outcomes.txt");
    let mut command = side.command(&arguments.python)?;
    command
        .current_dir(arguments.sources.join(driver.source))
        .env("PYTHONPATH", &arguments.own)
        .env("CONFORMANCE_OUTCOMES", &report)
        .args(["-m", "pytest", "-q", "-p", "conformance_report", "-p", "no:cacheprovider", "--timeout=120"])
        .arg(format!("--basetemp={}", side.out.join("pytest").display()));
    (driver.command)(arguments, side, &mut command);
    side.log("pytest", &mut command)?;
    side.keep_log()?;
    read(&report)
}

fn read(report: &Path) -> Result<Outcomes> {
    let text = fs::read_to_string(report).context("the suite wrote no outcomes: see pytest.log")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(test, outcome)| (test.to_owned(), outcome.to_owned()))
        .collect())
}
