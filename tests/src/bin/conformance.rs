//! PostgreSQL's own regression suite, run directly and through Portcullis under a policy that allows everything, and compared test by
//! test: `cargo xtask conformance` brings the suite and runs this.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use harness::daemon::Daemon;
use harness::postgres::{self, Server};
use harness::process::NOBODY;

const PORT: u16 = 5432;

/// Everything passes; nothing is masked.
fn policy(server: &Server) -> String {
    format!(
        r#"version = 1
name = "all"
[[connection]]
name = "regress"
to = ["{}"]
protocol = "postgres"
upstream = {{ user = "postgres", credential = "superuser", tls = "verify-full", root_cert = "{}" }}
[defaults]
read = "allow"
write = "allow"
ddl = "allow"
admin = "allow"
unknown = "allow"
"#,
        server.address(),
        server.ca().display()
    )
}

/// What to run; `cargo xtask conformance` gives it.
struct Arguments {
    /// PostgreSQL's source: the folder that holds src/test/regress.
    source: PathBuf,
    /// Where regress.so, refint.so and autoinc.so are.
    libraries: PathBuf,
    /// Where results are left, in `direct` and `through`.
    out: PathBuf,
    /// These tests instead of all, in this order.
    only: Vec<String>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut words = std::env::args_os().skip(1);
        let mut next = || words.next().map(PathBuf::from).context("SOURCE LIBRARIES OUT [TEST...]");
        let (source, libraries, out) = (next()?, next()?, next()?);
        let only = words.map(|word| word.to_string_lossy().into_owned()).collect();
        Ok(Self { source, libraries, out, only })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let direct = results(&arguments, "direct", Ipv4Addr::new(127, 83, 0, 1), false)?;
    let through = results(&arguments, "through", Ipv4Addr::new(127, 83, 0, 2), true)?;
    let mut differing = Vec::new();
    for (test, text) in &direct {
        if through.get(test) != Some(text) {
            differing.push(test.as_str());
        }
    }
    let mut told = std::io::stdout().lock();
    writeln!(told, "{} tests; the same as directly: {}", direct.len(), direct.len() - differing.len())?;
    for test in &differing {
        writeln!(told, "{test}")?;
    }
    Ok(())
}

/// Runs the suite against a server of its own; what each test printed.
fn results(
    arguments: &Arguments,
    name: &str,
    address: Ipv4Addr,
    through: bool,
) -> Result<BTreeMap<String, String>> {
    let out = arguments.out.join(name);
    drop(fs::remove_dir_all(&out));
    fs::create_dir_all(&out)?;
    for folder in [&out, &out.join("results"), &out.join("sql"), &out.join("expected")] {
        fs::create_dir_all(folder)?;
        // The server writes there, and so does the agent's user.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    }
    let server = Server::start(address, PORT)?;
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
    let mut daemon = Daemon::prepare(&[("all", &policy(&server))])?;
    daemon.credential("superuser", "superuser")?;
    daemon.launch()?;
    let mut run = match through {
        true => {
            let mut run = daemon.command_as(NOBODY)?;
            run.args(["run", "--policy", "all", "--"]).arg(pg_regress()?);
            run
        }
        false => Command::new(pg_regress()?),
    };
    regress_arguments(&mut run, arguments, &out, address);
    writeln!(std::io::stderr(), "running the suite: {name}")?;
    let log = fs::File::create(out.join("run.log"))?;
    let status = run.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).status()?;
    writeln!(std::io::stderr(), "  pg_regress: {status}")?;
    if through {
        fs::write(out.join("daemon.log"), daemon.log())?;
    }
    read(&out.join("results"))
}

fn regress_arguments(run: &mut Command, arguments: &Arguments, out: &Path, address: Ipv4Addr) {
    let input = arguments.source.join("src/test/regress");
    run.env("PGPASSWORD", "superuser")
        .arg("--use-existing")
        .arg(format!("--host={address}"))
        .arg(format!("--port={PORT}"))
        .args(["--user=postgres", "--dbname=regression", "--max-connections=20"])
        .arg(format!("--inputdir={}", input.display()))
        .arg(format!("--outputdir={}", out.display()))
        .arg(format!("--dlpath={}", arguments.libraries.display()));
    if let Ok(bin) = postgres::bin() {
        run.arg(format!("--bindir={}", bin.display()));
    }
    match arguments.only.as_slice() {
        [] => run.arg(format!("--schedule={}", input.join("parallel_schedule").display())),
        only => run.args(only),
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

fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
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
