//! `cargo xtask`: the project's own commands. Each one says what it does, what it needs, and how to get that.

mod bench;
mod build_ebpf;
mod ci;
mod conformance;
mod demo;
mod fuzz;
mod measure;
mod needs;
mod postgres18;
mod screenshots;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, check, test and show Portcullis.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure what Portcullis costs, beside a byte relay, HAProxy and PgBouncer.
    Bench(bench::Arguments),
    /// Build the kernel programs (target/ebpf/portcullis.o).
    BuildEbpf,
    /// Everything CI runs: fmt, clippy, tidy, test.
    Ci,
    /// Run PostgreSQL's regression suite directly and through Portcullis, and compare.
    Conformance(conformance::Arguments),
    /// See it work: a private PostgreSQL, an agent, masks, a held UPDATE, a denied DROP DATABASE.
    Demo(demo::Arguments),
    /// Judge every statement of PostgreSQL's regression suite, and compare with what the server says of it.
    Effects,
    /// Feed parsers of foreign bytes, and whole PostgreSQL sessions, with what nobody expects.
    Fuzz(fuzz::Arguments),
    /// Take pictures of the approvals page (tests/screenshots).
    Screenshots,
    /// Plant values in masked columns, and try to bring one out through every driver.
    Secrets(measure::Arguments),
    /// Every test, including those that need root and real servers.
    Test(test::Arguments),
    /// House rules that no linter knows: module order, file headers, file length.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BuildEbpf => build_ebpf::build(&shell::root()).map(drop).map_err(anyhow::Error::from),
        Command::Ci => ci::run(),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Effects => measure::effects(),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Screenshots => screenshots::run(),
        Command::Secrets(arguments) => measure::secrets(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
