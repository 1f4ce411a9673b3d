//! `cargo xtask demo`: see it work, from nothing, on this machine.

use anyhow::Result;

use crate::{build_ebpf, needs, shell};

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show the daemon's log as well
    #[arg(long)]
    verbose: bool,
}

/// Installs what is missing, builds, and runs the demo.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    needs::for_demo()?;
    shell::say("building the kernel programs");
    build_ebpf::build(&shell::root())?;
    shell::say("building the agent and the demo");
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "portcullis"]))?;
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "tests", "--bin", "demo"]))?;
    let mut demo = std::process::Command::new(shell::target_dir().join("debug/demo"));
    demo.env("PORTCULLIS_BIN", shell::target_dir().join("debug/portcullis"));
    demo.env("PORTCULLIS_PYTHON", needs::PYTHON);
    if arguments.verbose {
        demo.arg("--verbose");
    }
    shell::run(&mut demo)
}
