//! The bench: what Portcullis adds to PostgreSQL queries, HTTP requests and SSH, beside other proxies. Everything runs on
//! one core (SSH on two: both ends of it are encrypted), because wake-ups across idle cores cost more than any of them and vary from run to run.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

mod holds;
mod http;
mod idle;
mod measure;
mod memory;
mod postgres;
mod relay;
mod report;
mod ssh;
mod targets;

/// The core that everything runs on.
const CORE: &str = "0";

/// The cores of SSH: client and server work at the same time, and the bulk of it is encryption.
const SSH_CORES: &str = "0,1";

/// Set once we run on that core.
const PINNED: &str = "PORTCULLIS_BENCH_PINNED";

const USAGE: &str = "usage: bench postgres|http|ssh|holds [--quick] [--json] [--only TARGET[,TARGET]...] \
                     [--scenario WORD[,WORD]...] [--baseline PORTCULLIS]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["postgres", options @ ..] => {
            let options = Options::parse(options)?;
            pin(CORE)?;
            postgres::run(&options)
        }
        ["http", options @ ..] => {
            let options = Options::parse(options)?;
            pin(CORE)?;
            http::run(&options)
        }
        ["holds", options @ ..] => {
            let options = Options::parse(options)?;
            pin(CORE)?;
            holds::run(&options)
        }
        ["ssh", options @ ..] => {
            let options = Options::parse(options)?;
            pin(SSH_CORES)?;
            ssh::run(&options)
        }
        // The rest is what the bench starts of itself.
        ["relay", listen, target] => relay::serve(listen, target),
        ["idle", address, sessions] => idle::hold(address, sessions.parse()?),
        ["hold", address, sessions] => holds::hold(address, sessions.parse()?),
        ["ask", address, count] => holds::ask_many(address, count.parse()?),
        _ => bail!(USAGE),
    }
}

/// How to run it.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Fewer and shorter rounds.
    pub(crate) quick: bool,
    /// Machine-readable output.
    pub(crate) json: bool,
    /// Only targets with these words in their names, besides `direct`; all when empty.
    pub(crate) only: Vec<String>,
    /// Only scenarios with these words in their titles, where there are several; all when empty.
    pub(crate) scenarios: Vec<String>,
    /// Another build of the agent to measure in the same run.
    pub(crate) baseline: Option<String>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--only" => {
                    let names = words.next().context(USAGE)?;
                    options.only = names.split(',').map(str::to_owned).collect();
                }
                "--scenario" => {
                    let words = words.next().context(USAGE)?;
                    options.scenarios = words.split(',').map(str::to_owned).collect();
                }
                "--baseline" => options.baseline = Some((*words.next().context(USAGE)?).to_owned()),
                _ => bail!(USAGE),
            }
        }
        Ok(options)
    }
}

/// Starts over on these cores alone, ahead of whatever else the machine does; children inherit both.
fn pin(cores: &str) -> Result<()> {
    if std::env::var_os(PINNED).is_some() {
        return Ok(());
    }
    let error = Command::new("nice")
        .args(["-n", "-20", "taskset", "--cpu-list", cores])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(PINNED, "1")
        .exec();
    Err(error).context("cannot start `nice` and `taskset`")
}
