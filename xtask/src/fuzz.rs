//! `cargo xtask fuzz`: new inputs for parsers of foreign bytes, and for whole PostgreSQL sessions. What was collected before is
//! run first; `cargo xtask test` runs that as well, without the fuzzer.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{needs, shell};

/// What to feed, and for how long.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Targets, by name (default: those of PostgreSQL)
    targets: Vec<String>,
    /// Minutes for each
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
}

/// What runs when no target is named.
const POSTGRES: [&str; 4] = ["postgres_codec", "analyze", "postgres_masks", "postgres_proxy"];

/// An input that takes longer is a finding, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;

/// Threads of the store count and allocate while a session runs, which says nothing of the input.
const MANY_THREADS: [&str; 4] = ["-detect_leaks=0", "-entropic=0", "-use_counters=0", "-reduce_inputs=0"];

/// Feeds one target after the other; a finding ends it, and cargo-fuzz says how to see it again.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let fuzz = shell::root().join("agent/fuzz");
    let known = targets(&fuzz)?;
    let asked: Vec<&str> = arguments.targets.iter().map(String::as_str).collect();
    if let Some(unknown) = asked.iter().find(|name| !known.iter().any(|known| known == *name)) {
        bail!("no fuzz target is called {unknown}; there are {}", known.join(", "));
    }
    needs::for_fuzz()?;
    for name in if asked.is_empty() { &POSTGRES } else { asked.as_slice() } {
        shell::say(&format!(
            "{name}: {} minutes (the first build takes a quarter of an hour)",
            arguments.minutes
        ));
        one(&fuzz, name, arguments.minutes * 60)?;
    }
    Ok(())
}

fn one(fuzz: &Path, name: &str, seconds: u64) -> Result<()> {
    let (found, corpus) =
        (shell::target_dir().join("fuzz-corpus").join(name), fuzz.join("corpus").join(name));
    std::fs::create_dir_all(&found)?;
    let mut cargo = Command::new("cargo");
    cargo.current_dir(fuzz).args(["fuzz", "run", "--fuzz-dir"]).args([fuzz, Path::new(name), &found]);
    if corpus.is_dir() {
        cargo.arg(&corpus);
    }
    cargo.args(["--", &format!("-max_total_time={seconds}"), &format!("-timeout={INPUT_SECONDS_MAX}")]);
    if name == "postgres_proxy" {
        cargo.args(MANY_THREADS);
    }
    // Sanitizers are not in stable Rust.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", shell::target_dir().join("fuzz"));
    // What makes a release small and fast makes an instrumented build slow.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    // Two of SQLite's own tables have one name.
    cargo.env("ASAN_OPTIONS", "detect_odr_violation=0");
    shell::run(&mut cargo)
}

/// The names of all targets: those of their programs.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fuzz.join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
