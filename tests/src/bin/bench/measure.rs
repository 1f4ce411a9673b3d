//! One measurement: pgbench against one target for a while, and the processor time of the process in between.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::{postgres, process};

use crate::targets::Target;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One client, simple protocol, a different text each time.
    Simple,
    /// One client, one prepared statement.
    Prepared,
    /// Eight clients, one prepared statement each.
    PreparedEight,
    /// 200,000 rows of 114 bytes in one result.
    Rows,
    /// The same rows by COPY TO STDOUT, as psql takes them.
    CopyOut,
    /// The same rows by COPY FROM STDIN.
    CopyIn,
    /// Four clients that connect anew for each query.
    Connect,
}

/// What a scenario's figures mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    MicrosPerQuery,
    Millis,
    PerSecond,
}

impl Scenario {
    pub(crate) const ALL: [Self; 7] = [
        Self::Simple,
        Self::Prepared,
        Self::PreparedEight,
        Self::Rows,
        Self::CopyOut,
        Self::CopyIn,
        Self::Connect,
    ];

    /// Those with one of these words in their titles; all when there are none.
    pub(crate) fn wanted(words: &[String]) -> Vec<Self> {
        let named = |scenario: &Self| words.iter().any(|word| scenario.title().contains(word.as_str()));
        Self::ALL.into_iter().filter(|scenario| words.is_empty() || named(scenario)).collect()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Simple => "simple protocol, one client",
            Self::Prepared => "prepared statement, one client",
            Self::PreparedEight => "prepared statement, eight clients",
            Self::Rows => "one result of 200,000 rows, 22.8 MB",
            Self::CopyOut => "COPY TO STDOUT of the same rows",
            Self::CopyIn => "COPY FROM STDIN of the same rows",
            Self::Connect => "connections, four clients",
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Simple | Self::Prepared => Unit::MicrosPerQuery,
            Self::Rows | Self::CopyOut | Self::CopyIn => Unit::Millis,
            Self::PreparedEight | Self::Connect => Unit::PerSecond,
        }
    }

    fn arguments(self, script: &Path, time: Duration) -> Vec<String> {
        let seconds = format!("--time={}", time.as_secs().max(1));
        let words: &[&str] = match self {
            Self::Simple => &["--select-only", "--protocol=simple"],
            Self::Prepared => &["--select-only", "--protocol=prepared"],
            Self::PreparedEight => &["--select-only", "--protocol=prepared", "--client=8"],
            Self::Connect => &["--select-only", "--connect", "--client=4"],
            Self::Rows | Self::CopyOut | Self::CopyIn => &["--protocol=simple"],
        };
        let script = (self == Self::Rows).then(|| format!("--file={}", script.display()));
        words.iter().map(|word| (*word).to_owned()).chain(script).chain([seconds]).collect()
    }
}

/// Figures of one scenario and target, round by round.
#[derive(Debug, Default)]
pub(crate) struct Series {
    values: Vec<f64>,
    cpu: Vec<f64>,
}

impl Series {
    pub(crate) fn push(&mut self, figure: Figure) {
        self.values.push(figure.value);
        self.cpu.extend(figure.cpu);
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.values)
    }

    /// Processor time of the target per query or result, in the scenario's unit of time.
    pub(crate) fn cpu(&self) -> Option<f64> {
        (!self.cpu.is_empty()).then(|| median(&self.cpu))
    }

    pub(crate) fn spread(&self) -> (f64, f64) {
        let fold = |pick: fn(f64, f64) -> f64| self.values.iter().copied().reduce(pick).unwrap_or(f64::NAN);
        (fold(f64::min), fold(f64::max))
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What one run of pgbench gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    value: f64,
    cpu: Option<f64>,
}

/// Copies in one run of psql.
const COPIES: u32 = 5;

/// Name of the file with the rows that are copied in, beside the script.
pub(crate) const COPIED_FILE: &str = "copied.txt";

/// Measures once.
pub(crate) fn measure(target: &Target, scenario: Scenario, time: Duration, script: &Path) -> Result<Figure> {
    match scenario {
        Scenario::CopyOut => copies(target, "COPY pgbench_accounts TO STDOUT"),
        Scenario::CopyIn => {
            let file = script.with_file_name(COPIED_FILE);
            copies(target, &format!("\\copy copied FROM '{}'", file.display()))
        }
        Scenario::Simple
        | Scenario::Prepared
        | Scenario::PreparedEight
        | Scenario::Rows
        | Scenario::Connect => pgbench(target, scenario, time, script),
    }
}

/// psql copies some times over, and throws away what comes.
fn copies(target: &Target, copy: &str) -> Result<Figure> {
    let mut psql = target.client(postgres::bin()?.join("psql"))?;
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]);
    psql.args(target.connection()).arg("--dbname=bench");
    for _ in 0..COPIES {
        psql.arg("--command").arg(copy);
    }
    let before = target.process().map(processor_time).transpose()?;
    let started = Instant::now();
    process::run(&mut psql).with_context(|| format!("{} failed", target.name()))?;
    let value = started.elapsed().as_secs_f64() * 1e3 / f64::from(COPIES);
    let after = target.process().map(processor_time).transpose()?;
    let cpu = before.zip(after).map(|(before, after)| (after - before) * 1e3 / f64::from(COPIES));
    Ok(Figure { value, cpu })
}

/// Runs pgbench once.
fn pgbench(target: &Target, scenario: Scenario, time: Duration, script: &Path) -> Result<Figure> {
    let mut pgbench = target.client(postgres::bin()?.join("pgbench"))?;
    pgbench.args(["--no-vacuum"]).args(scenario.arguments(script, time));
    let before = target.process().map(processor_time).transpose()?;
    let printed = process::run(pgbench.args(target.connection()).arg("bench"))
        .with_context(|| format!("{} failed", target.name()))?;
    let after = target.process().map(processor_time).transpose()?;
    let tps = number(&printed, "tps = ")?;
    let transactions = number(&printed, "transactions actually processed: ")?;
    let (value, per_unit) = match scenario.unit() {
        Unit::MicrosPerQuery => (1e6 / tps, 1e6),
        Unit::Millis => (1e3 / tps, 1e3),
        Unit::PerSecond => (tps, 1e6),
    };
    let cpu = before.zip(after).map(|(before, after)| (after - before) / transactions * per_unit);
    Ok(Figure { value, cpu })
}

fn number(printed: &str, before: &str) -> Result<f64> {
    let rest = printed.split_once(before).with_context(|| format!("no `{before}` in: {printed}"))?.1;
    let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().with_context(|| format!("not a number: {digits}"))
}

/// User and system time of a process so far, in seconds (proc(5), fields 14 and 15; 100 ticks a second on Linux).
fn processor_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no task name in /proc/PID/stat")?.1;
    let ticks: u32 =
        after_name.split_whitespace().skip(11).take(2).map(str::parse::<u32>).sum::<Result<_, _>>()?;
    Ok(f64::from(ticks) / 100.0)
}

/// A command to be pinned like the rest, in an empty environment but for where PostgreSQL's clients look.
pub(crate) fn client_environment(command: &mut Command) {
    command.env("PGSSLMODE", "disable").env("PGPASSWORD", postgres::PASSWORD).current_dir("/");
}
