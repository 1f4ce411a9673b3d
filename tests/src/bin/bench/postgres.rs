//! `bench postgres`: starts everything, measures in turns, prints.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use harness::postgres::{self, Server};
use harness::process;
use serde_json::json;

use crate::measure::{COPIED_FILE, Scenario, Series, measure};
use crate::memory::Memory;
use crate::report::{self, Row};
use crate::targets::{self, Target};
use crate::{CORE, Options};

/// pgbench's scale: 100,000 accounts each.
const SCALE: &str = "2";

/// The server's own address; the proxies have the ones after it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 44, 7, 10);

/// Runs the whole comparison.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (rounds, time) =
        if options.quick { (3, Duration::from_secs(1)) } else { (5, Duration::from_secs(2)) };
    report::progress("starting PostgreSQL, the proxies and the daemon");
    let folder = tempfile::Builder::new().prefix("portcullis-bench.").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let script = folder.path().join("rows.sql");
    fs::write(&script, "SELECT * FROM pgbench_accounts;\n")?;
    let server = Server::start(ADDRESS, 5432)?;
    fill(&server, folder.path())?;
    let targets = targets(&server, options, folder.path())?;
    let scenarios = Scenario::wanted(&options.scenarios);
    let mut results: Vec<Vec<Series>> =
        scenarios.iter().map(|_| targets.iter().map(|_| Series::default()).collect()).collect();
    for round in 0..=rounds {
        report::progress(&match round {
            0 => "warming up".to_owned(),
            _ => format!("round {round} of {rounds}, {} targets in turn", targets.len()),
        });
        for (scenario, series) in scenarios.iter().copied().zip(&mut results) {
            for (target, series) in targets.iter().zip(series) {
                if scenario == Scenario::CopyIn {
                    server.psql("bench", "TRUNCATE copied")?;
                }

                let figure = measure(target, scenario, time, &script)?;
                if round > 0 {
                    series.push(figure);
                }
            }
        }
    }
    report::progress("memory");
    let memory = Memory::measure(&server, &targets::binary()?)?;
    let names: Vec<String> = targets.iter().map(|target| target.name().to_owned()).collect();
    let tables = scenarios.into_iter().zip(results).map(|(scenario, series)| {
        let rows = names.iter().cloned().zip(series).map(|(target, series)| Row { target, series });
        (scenario, rows.collect::<Vec<_>>())
    });
    print(&tables.collect::<Vec<_>>(), &memory, options, rounds)
}

fn targets(server: &Server, options: &Options, folder: &Path) -> Result<Vec<Target>> {
    let at = |last: u8| SocketAddr::from(([127, 44, 7, last], 5432));
    let mut targets = vec![
        Target::direct(server),
        Target::relay(server, at(11))?,
        Target::haproxy(server, at(12), folder)?,
        Target::pgbouncer(server, at(13), folder)?,
    ];
    targets.extend(Target::portcullis(server, &targets::binary()?, "Portcullis")?);
    if let Some(baseline) = &options.baseline {
        targets.extend(Target::portcullis(server, Path::new(baseline), "baseline")?);
    }
    let wanted = |target: &Target| {
        options.only.is_empty()
            || target.name() == "direct"
            || options.only.iter().any(|name| target.name().contains(name.as_str()))
    };
    targets.retain(wanted);
    Ok(targets)
}

/// A database for pgbench, which every target's role may read.
fn fill(server: &Server, folder: &Path) -> Result<()> {
    server.psql("postgres", "CREATE DATABASE bench")?;
    let mut pgbench = Command::new(postgres::bin()?.join("pgbench"));
    pgbench.env("PGPASSWORD", "superuser").env("PGSSLMODE", "disable");
    pgbench.args(["--initialize", "--quiet", "--scale", SCALE, "--username=postgres"]);
    pgbench.arg(format!("--host={}", server.address().ip()));
    pgbench.arg(format!("--port={}", server.address().port())).arg("bench");
    process::run(&mut pgbench)?;
    server.psql("bench", "CREATE TABLE customers (id integer PRIMARY KEY, ssn text)")?;
    server.psql("bench", "CREATE UNLOGGED TABLE copied (LIKE pgbench_accounts)")?;
    fs::write(folder.join(COPIED_FILE), server.psql("bench", "COPY pgbench_accounts TO STDOUT")?)?;
    server.psql("bench", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")?;
    server.psql("bench", "GRANT INSERT ON copied TO PUBLIC")?;
    server.psql("bench", "VACUUM ANALYZE").map(drop)
}

fn print(tables: &[(Scenario, Vec<Row>)], memory: &Memory, options: &Options, rounds: u32) -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    if options.json {
        let scenarios: Vec<_> =
            tables.iter().map(|(scenario, rows)| report::value(*scenario, rows)).collect();
        let all = json!({ "rounds": rounds, "load": load, "scenarios": scenarios, "memory": memory.value() });
        return report::say(&all.to_string());
    }
    for (scenario, rows) in tables {
        report::table(*scenario, rows)?;
    }
    memory.print()?;
    report::say("")?;
    report::say(&format!(
        "Medians of {rounds} rounds, targets in turn. Everything, the server and pgbench included, runs on core {CORE} at \
         nice -20.\nNo TLS on either leg. \"CPU\" is the target's own user and system time for one query or result.\n\
         Absolute figures belong to this machine (load {load} now); compare ratios, and differences only where the\n\
         ranges do not overlap."
    ))
}
