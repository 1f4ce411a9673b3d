//! The `portcullis` program: logging, then the command line.

use std::process::ExitCode;

use portcullis::cli::{self, BoxError, Entry};
use portcullis::config::{Config, LogLevel};
use portcullis::daemon;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    cli::main(&Entry { serve, detach: daemon::detach, probe: daemon::probe })
}

fn serve(config: Config) -> Result<(), BoxError> {
    start_log(config.log)?;
    daemon::serve(config)
}

/// Logs to stderr, which systemd keeps: at the configured level, or by the directives in `PORTCULLIS_LOG`
/// (`warn,portcullis::relay=debug`).
fn start_log(level: LogLevel) -> Result<(), BoxError> {
    let directives = std::env::var("PORTCULLIS_LOG").unwrap_or_else(|_| level.to_string());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| format!("PORTCULLIS_LOG={directives} is not understood; try `debug`: {error}"))?;
    // The journal has its own time stamps and no colours.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if under_systemd {
        log.with_ansi(false).without_time().try_init()?;
    } else {
        use std::io::IsTerminal as _;
        log.with_ansi(std::io::stderr().is_terminal()).try_init()?;
    }
    Ok(())
}
