//! `cargo xtask bench`: what Portcullis costs, measured beside a direct connection and other proxies on this machine.

use anyhow::Result;

use crate::{build_ebpf, needs, shell};

/// What to measure, and how.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The protocol
    #[arg(value_enum)]
    what: What,
    /// Fewer and shorter rounds: two minutes instead of five
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only targets with one of these words in their names, besides the direct connection
    #[arg(long, value_name = "WORD,…")]
    only: Option<String>,
    /// Measure another build of the agent in the same run
    #[arg(long, value_name = "PORTCULLIS")]
    baseline: Option<std::path::PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Requests over HTTPS: throughput, new connections, a download, the first event of a stream
    Http,
    /// Queries and results of PostgreSQL: added time, throughput, memory
    Postgres,
    /// A thousand statements that wait for a human at once: memory, and what others notice
    Holds,
    /// Copies of a large file, new connections and keystrokes over SSH
    Ssh,
}

/// Installs what is missing, builds for release, and measures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    needs::for_bench()?;
    build_ebpf::build(&shell::root())?;
    shell::say("building the agent and the bench for release (some minutes the first time)");
    shell::run(shell::cargo().args(["build", "--quiet", "--release", "--package", "portcullis"]))?;
    shell::run(shell::cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "tests",
        "--bin",
        "bench",
    ]))?;
    let mut bench = std::process::Command::new(shell::target_dir().join("release/bench"));
    bench.env("PORTCULLIS_BIN", shell::target_dir().join("release/portcullis"));
    bench.arg(match arguments.what {
        What::Holds => "holds",
        What::Http => "http",
        What::Postgres => "postgres",
        What::Ssh => "ssh",
    });
    bench.env("PORTCULLIS_PYTHON", needs::PYTHON);
    if let What::Http = arguments.what {
        bench.env("PORTCULLIS_MITMDUMP", needs::mitmdump()?);
    }
    for (flag, wanted) in [("--quick", arguments.quick), ("--json", arguments.json)] {
        bench.args(wanted.then_some(flag));
    }
    if let Some(only) = &arguments.only {
        bench.arg("--only").arg(only);
    }
    if let Some(baseline) = &arguments.baseline {
        bench.arg("--baseline").arg(std::path::absolute(baseline)?);
    }
    shell::run(&mut bench)
}
