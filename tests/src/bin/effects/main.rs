//! What is read, write, ddl or more by PostgreSQL's own word, and by ours: `cargo xtask effects` runs this over the regression
//! suite, PL/pgSQL's and the contributed modules' tests.
//!
//! The suite runs three times on servers that log what they are asked: everything, what changes data (`log_statement = 'mod'`),
//! what defines (`'ddl'`). Then `effects.py` judges each text, runs what was judged `read` where nothing can be written, and looks
//! into PostgreSQL's own analysis of SELECTs for what they call.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use harness::postgres::{self, Server};
use harness::process;
use serde_json::{Value, json};

const PORT: u16 = 5432;

/// Nothing depends on its rules: judgements alone are asked for.
const POLICY: &str = r#"version = 1
name = "all"
[[connection]]
name = "regress"
to = ["127.0.0.1:5432"]
protocol = "postgres"
upstream = { user = "postgres", credential = "superuser" }
"#;

/// At most this part of the plain SELECTs may be judged above `read`.
const ABOVE_READ_MAX: f64 = 0.01;

/// What to run; `cargo xtask effects` gives it.
struct Arguments {
    /// PostgreSQL's source.
    source: PathBuf,
    /// Where regress.so, refint.so and autoinc.so are.
    libraries: PathBuf,
    /// Where logs and the report are left.
    out: PathBuf,
}

fn main() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let mut next = || words.next().map(PathBuf::from).context("SOURCE LIBRARIES OUT");
    let arguments = Arguments { source: next()?, libraries: next()?, out: next()? };
    let mut logs = serde_json::Map::new();
    for (level, last) in [("ddl", 12), ("mod", 13)] {
        let server = logged(&arguments, level, Ipv4Addr::new(127, 83, 0, last))?;
        logs.insert(level.to_owned(), json!(log(&arguments, level)));
        drop(server);
    }
    // This one's databases are looked into afterwards.
    let server = logged(&arguments, "all", Ipv4Addr::new(127, 83, 0, 11))?;
    logs.insert("all".to_owned(), json!(log(&arguments, "all")));
    let policy = arguments.out.join("all.toml");
    fs::write(&policy, POLICY)?;
    let given = json!({
        "logs": logs, "agent": process::portcullis()?, "policy": policy,
        "host": server.address().ip().to_string(), "port": PORT,
    });
    let mut python = Command::new(process::python());
    let told = process::run(python.args(["-c", include_str!("effects.py")]).arg(given.to_string()))?;
    fs::write(arguments.out.join("report.json"), &told)?;
    report(&serde_json::from_str(&told)?)
}

fn log(arguments: &Arguments, level: &str) -> PathBuf {
    arguments.out.join(level).join("server.csv")
}

/// Runs every test against a server of its own that logs at this level.
fn logged(arguments: &Arguments, level: &str, address: Ipv4Addr) -> Result<Server> {
    let out = arguments.out.join(level);
    drop(fs::remove_dir_all(&out));
    for folder in [&out, &out.join("results"), &out.join("sql"), &out.join("expected")] {
        fs::create_dir_all(folder)?;
        // The server writes there as a user of its own.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    }
    writeln!(std::io::stderr(), "running the suite with log_statement = {level}")?;
    let folder = out.display().to_string();
    let server = Server::start_with(
        address,
        PORT,
        &[
            ("logging_collector", "on"),
            ("log_destination", "csvlog"),
            ("log_directory", &folder),
            ("log_filename", "server.log"),
            ("log_rotation_size", "0"),
            ("log_rotation_age", "0"),
            ("log_statement", level),
            ("log_min_error_statement", "panic"),
        ],
    )?;
    for database in ["regression", "contrib"] {
        server.psql("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"))?;
    }
    for setting in ["lc_messages TO 'C'", "bytea_output TO 'hex'", "timezone_abbreviations TO 'Default'"] {
        server.psql("postgres", &format!("ALTER DATABASE regression SET {setting}"))?;
    }
    regression(arguments, &out, address)?;
    modules(arguments, address)?;
    Ok(server)
}

fn regression(arguments: &Arguments, out: &Path, address: Ipv4Addr) -> Result<()> {
    let input = arguments.source.join("src/test/regress");
    let bin = postgres::bin()?;
    let program = bin.parent().context("no server")?.join("lib/pgxs/src/test/regress/pg_regress");
    if !program.is_file() {
        bail!("no {}: apt-get install postgresql-server-dev-15", program.display());
    }
    let log = fs::File::create(out.join("run.log"))?;
    // Tests that fail were run all the same.
    Command::new(program)
        .env("PGPASSWORD", "superuser")
        .arg("--use-existing")
        .arg(format!("--host={address}"))
        .arg(format!("--port={PORT}"))
        .args(["--user=postgres", "--dbname=regression", "--max-connections=20"])
        .arg(format!("--inputdir={}", input.display()))
        .arg(format!("--outputdir={}", out.display()))
        .arg(format!("--dlpath={}", arguments.libraries.display()))
        .arg(format!("--bindir={}", bin.display()))
        .arg(format!("--schedule={}", input.join("parallel_schedule").display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    Ok(())
}

/// The tests of PL/pgSQL and of the contributed modules, with psql alone.
fn modules(arguments: &Arguments, address: Ipv4Addr) -> Result<()> {
    let mut folders = vec![arguments.source.join("src/pl/plpgsql/src")];
    folders.extend(fs::read_dir(arguments.source.join("contrib"))?.flatten().map(|entry| entry.path()));
    folders.sort();
    for folder in folders {
        let mut files: Vec<PathBuf> = fs::read_dir(folder.join("sql"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "sql")) {
            Command::new("timeout")
                .args(["60", "psql", "--no-psqlrc", "--quiet"])
                .env("PGPASSWORD", "superuser")
                .env("PG_ABS_SRCDIR", &folder)
                .env("PG_LIBDIR", &arguments.libraries)
                .env("PG_DLSUFFIX", ".so")
                .current_dir(&folder)
                .arg(format!("--host={address}"))
                .arg(format!("--port={PORT}"))
                .args(["--username=postgres", "--dbname=contrib", "--file"])
                .arg(file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
        }
    }
    Ok(())
}

/// Says the figures, and fails when they are not as they should be.
fn report(told: &Value) -> Result<()> {
    let count = |name: &str| told.get(name).and_then(Value::as_u64).unwrap_or_default();
    let list = |name: &str| told.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} messages asked, {} of them distinct, with {} statements; the server calls {} of them ddl, {} mod",
        count("messages"),
        count("texts"),
        count("statements"),
        count("ddl"),
        count("mod")
    )?;
    let (below_log, below) = (list("below_the_log"), list("below_the_effect"));
    writeln!(out, "below what the server logs: {}", below_log.len())?;
    writeln!(
        out,
        "judged read and run read-only: {}; written all the same: {}, by functions of the suite's own: {}",
        count("reads_run"),
        below.len(),
        list("through_catalogue").len()
    )?;
    for one in below_log.iter().chain(&below) {
        writeln!(out, "  {one}")?;
    }
    let (plain, above) = (count("plain_selects"), count("above_read"));
    writeln!(out, "plain SELECTs: {plain}; judged above read: {above}")?;
    for (reason, texts) in told.get("reasons").and_then(Value::as_object).into_iter().flatten() {
        writeln!(out, "  {reason}: {texts}")?;
    }
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand statements")]
    let part = above as f64 / plain.max(1) as f64;
    if below_log.is_empty() && below.is_empty() && part <= ABOVE_READ_MAX {
        return Ok(());
    }
    bail!("statements are not judged as PostgreSQL means them")
}
