//! Tools that people and agents use with PostgreSQL: what each prints, both ways. Those that only read look at one database
//! with objects of every kind in it, which the regression suite leaves; those that write have a database for each way.

use anyhow::{Context as _, Result};
use std::path::Path;

use crate::report::{Outcomes, Suite};
use crate::side::{self, PORT, Side};
use crate::{Arguments, dumps, regression};

/// What PostgreSQL's programs look at.
pub(crate) const FULL: &str = "regression";

/// psql's commands that describe, for objects of every schema where they take a pattern.
const DESCRIBE: &[&str] = &[
    "\\d *.*",
    "\\d+",
    "\\dA+",
    "\\da *.*",
    "\\db+",
    "\\dc+ *.*",
    "\\dC+",
    "\\dd *.*",
    "\\dD+ *.*",
    "\\ddp",
    "\\dE+",
    "\\des+",
    "\\det+",
    "\\deu+",
    "\\dew+",
    "\\df+ public.*",
    "\\dF+",
    "\\dFd+",
    "\\dFp+",
    "\\dFt+",
    "\\dg+",
    "\\di+ *.*",
    "\\dl",
    "\\dL+",
    "\\dm+",
    "\\dn+",
    "\\do+ *.*",
    "\\dO+ *.*",
    "\\dp *.*",
    "\\dP+",
    "\\drds",
    "\\dRp+",
    "\\dRs+",
    "\\ds+ *.*",
    "\\dT+ *.*",
    "\\dt+ *.*",
    "\\dv+ *.*",
    "\\dx+",
    "\\dX",
    "\\dy+",
    "\\l+",
    "\\z",
    "\\dS+ pg_catalog.pg_class",
    "\\sf+ pg_catalog.abs(int4)",
    "\\sv+ pg_catalog.pg_views",
    "\\conninfo",
    "\\encoding",
    "\\dconfig work*",
];

/// Programs of the suite's own: a name, the file, and its arguments after the database's name.
const SCRIPTS: &[(&str, &str, &[&str])] = &[
    ("sqlalchemy reflection, psycopg", "reflect.py", &["postgresql+psycopg"]),
    ("sqlalchemy reflection, psycopg2", "reflect.py", &["postgresql+psycopg2"]),
    ("sqlalchemy reflection, asyncpg", "reflect.py", &["postgresql+asyncpg"]),
    ("sqlalchemy reflection, pg8000", "reflect.py", &["postgresql+pg8000"]),
];

/// Programs that write, with a database each.
const WRITERS: &[(&str, &str)] = &[("django", "django_steps.py"), ("alembic", "alembic_steps.py")];

/// Runs every tool both ways.
///
/// # Errors
/// When a server or a daemon cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<Vec<Suite>> {
    let sides = side::of_one_server(&arguments.out.join("tools"))?;
    let [direct, through] = &sides;
    // Sizes and statistics must not change between one way and the other.
    direct.server.psql("postgres", "ALTER SYSTEM SET autovacuum = off")?;
    direct.server.psql("postgres", "SELECT pg_reload_conf()")?;
    crate::say("tools: the regression suite, to have something to look at");
    regression::fill(arguments, direct)?;
    let mut suites = Vec::new();
    for (name, what, tool) in TOOLS.iter().filter(|(name, ..)| arguments.wants(name)) {
        let outcomes = |side: &Side| {
            side.announce(name);
            tool(arguments, side).with_context(|| format!("{name}, {}", side.name))
        };
        suites.push(Suite {
            name: (*name).to_owned(),
            what: (*what).to_owned(),
            direct: outcomes(direct)?,
            through: outcomes(through)?,
            not_run: |_| false,
            partial: false,
            missing: None,
        });
    }
    through.keep_log()?;
    Ok(suites)
}

type Tool = fn(&Arguments, &Side) -> Result<Outcomes>;

const TOOLS: &[(&str, &str, Tool)] = &[
    ("psql", "psql's \\d family over all of it", psql),
    ("pg_dump", "dumps of all of it in three formats, and what is restored from them", |_, side| {
        dumps::run(side)
    }),
    ("pgbench", "pgbench in each protocol: transactions done and rows left", pgbench),
    ("sqlalchemy", "SQLAlchemy reflecting all of it, over four drivers", reflection),
    ("frameworks", "Django's and Alembic's migrations", writers),
    ("jdbc", "the JDBC driver: metadata of all of it, and each way to query", jdbc),
];

fn psql(_: &Arguments, side: &Side) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for (index, command) in DESCRIBE.iter().enumerate() {
        let mut psql = side.postgres("psql")?;
        psql.args(["--no-psqlrc", "--dbname", FULL, "--command", command]);
        let said = side.log(&format!("psql-{index}"), &mut psql)?;
        outcomes.insert((*command).to_owned(), said);
    }
    Ok(outcomes)
}

fn pgbench(_: &Arguments, side: &Side) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    let database = own_database(side, "bench")?;
    let mut initialise = side.postgres("pgbench")?;
    initialise.args(["--initialize", "--quiet", "--foreign-keys", "--partitions=2", &database]);
    outcomes.insert("initialize".to_owned(), without_times(&side.log("pgbench-init", &mut initialise)?));
    for (name, options) in [
        ("simple", &["--protocol=simple"][..]),
        ("extended", &["--protocol=extended"]),
        ("prepared", &["--protocol=prepared"]),
        ("a connection each", &["--connect"]),
        ("prepared, reading", &["--protocol=prepared", "--select-only"]),
        ("simple, two threads", &["--protocol=simple", "--jobs=2"]),
    ] {
        let mut bench = side.postgres("pgbench")?;
        bench
            .args(["--no-vacuum", "--random-seed=1", "--client=4", "--transactions=50"])
            .args(options)
            .arg(&database);
        let said = without_times(&side.log(&format!("pgbench {name}"), &mut bench)?);
        let rows =
            side.server.psql(&database, "SELECT count(*), count(DISTINCT tid) > 1 FROM pgbench_history")?;
        outcomes.insert(name.to_owned(), format!("{said}{rows}"));
    }
    Ok(outcomes)
}

/// Without the lines that say how long something took.
fn without_times(said: &str) -> String {
    let is_timed = |line: &str| {
        ["latency", "tps", "initial connection", "average connection", "done in"]
            .iter()
            .any(|word| line.starts_with(word))
            || line.contains("tuples (")
    };
    said.lines().filter(|line| !is_timed(line)).map(|line| format!("{line}\n")).collect()
}

fn reflection(arguments: &Arguments, side: &Side) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for (name, file, more) in SCRIPTS {
        let mut script = side.command(&arguments.python)?;
        script.env("PGDATABASE", FULL).arg(arguments.own.join(file)).args(*more);
        sections(&mut outcomes, name, &side.log(name, &mut script)?);
    }
    Ok(outcomes)
}

fn writers(arguments: &Arguments, side: &Side) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for (name, file) in WRITERS {
        let database = own_database(side, name)?;
        let mut script = side.command(&arguments.python)?;
        script.env("PGDATABASE", &database).env("PYTHONPATH", &arguments.own).arg(arguments.own.join(file));
        sections(&mut outcomes, name, &side.log(name, &mut script)?.replace(&database, "DATABASE"));
    }
    Ok(outcomes)
}

fn jdbc(arguments: &Arguments, side: &Side) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    let own = own_database(side, "jdbc")?;
    for (name, database, what) in [("metadata", FULL, "metadata"), ("queries", &own, "queries")] {
        let mut java = side.command(program("java")?)?;
        java.args(["-Xmx512m", "-cp", "/usr/share/java/postgresql.jar"]);
        java.arg(arguments.own.join("Conformance.java"));
        java.arg(format!("jdbc:postgresql://{}:{PORT}/{database}", side.server.address().ip())).arg(what);
        sections(
            &mut outcomes,
            name,
            &side.log(&format!("jdbc {name}"), &mut java)?.replace(&own, "DATABASE"),
        );
    }
    Ok(outcomes)
}

/// Where a program is; a governed run has no shell's search.
fn program(name: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").context("no PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| Path::is_file(file))
        .with_context(|| format!("no {name} in PATH"))
}

/// A program's output is compared by sections, which lines with `== ` before their names begin.
fn sections(outcomes: &mut Outcomes, program: &str, said: &str) {
    let mut name = program.to_owned();
    for line in said.lines() {
        match line.strip_prefix("== ") {
            Some(section) => {
                name = format!("{program}: {section}");
                outcomes.entry(name.clone()).or_default();
            }
            None => {
                let text = outcomes.entry(name.clone()).or_default();
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}

/// An empty database for this way, which the other way does not use.
pub(crate) fn own_database(side: &Side, purpose: &str) -> Result<String> {
    let name = format!("{purpose}_{}", side.name);
    side.server.psql("postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))?;
    side.server.psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"))?;
    Ok(name)
}
