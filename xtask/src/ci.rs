//! `cargo xtask ci`: exactly what CI runs, in the order that fails soonest.

use anyhow::Result;

use crate::{needs, shell, test, tidy};

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    shell::say("format");
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    needs::for_test()?;
    shell::say("clippy, warnings denied");
    shell::run(shell::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    test::run(&test::Arguments::default())
}
