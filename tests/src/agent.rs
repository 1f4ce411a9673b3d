//! The agent: an unprivileged process under `portcullis run`, with unchanged clients and no secrets.

use std::process::Command;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::postgres::{self, Server};
use crate::process::{self, Finished, Talking, User};

/// A command of an agent under a policy, to which the caller adds what to run.
///
/// # Errors
/// When there is no binary.
pub fn under(daemon: &Daemon, user: User, policy: &str) -> Result<Command> {
    let mut run = daemon.command_as(user)?;
    run.args(["run", "--policy", policy, "--"]);
    Ok(run)
}

/// psql against the server's own address, with a password that is not the real one.
#[must_use]
pub fn psql_arguments(server: &Server, database: &str) -> Vec<String> {
    vec![
        postgres::psql(),
        "--no-psqlrc".to_owned(),
        "--set=ON_ERROR_STOP=1".to_owned(),
        format!(
            "host={} port={} user=agent dbname={database}",
            server.address().ip(),
            server.address().port()
        ),
    ]
}

/// Runs one statement with psql under the policy `shop`.
///
/// # Errors
/// When nothing can be started.
pub fn psql(daemon: &Daemon, server: &Server, user: User, sql: &str) -> Result<Finished> {
    let mut run = under(daemon, user, "shop")?;
    run.args(psql_arguments(server, "shop")).args(["--tuples-only", "--no-align", "--command", sql]);
    process::finish(&mut run)
}

/// Runs a Python script with Debian's client libraries under the policy `shop`. The server's address is in `sys.argv`.
///
/// # Errors
/// When nothing can be started.
pub fn python(daemon: &Daemon, server: &Server, user: User, script: &str) -> Result<Finished> {
    process::finish(&mut python_command(daemon, server, user, "shop", script)?)
}

/// The same as a command, under any policy.
///
/// # Errors
/// When there is no binary.
pub fn python_command(
    daemon: &Daemon,
    server: &Server,
    user: User,
    policy: &str,
    script: &str,
) -> Result<Command> {
    let mut run = under(daemon, user, policy)?;
    run.arg(process::python()).args(["-u", "-c", script]);
    run.arg(server.address().ip().to_string()).arg(server.address().port().to_string());
    Ok(run)
}

/// psql that reads statements from its standard input and shows errors in full; it goes on after them.
///
/// # Errors
/// When there is no binary.
pub fn psql_shell(daemon: &Daemon, server: &Server, user: User, database: &str) -> Result<Command> {
    let mut run = under(daemon, user, "shop")?;
    run.args(psql_arguments(server, database));
    run.args(["--set=ON_ERROR_STOP=0", "--set=VERBOSITY=verbose", "--tuples-only", "--no-align"]);
    Ok(run)
}

/// psql that is given statements one by one, in a run of its own under the policy `shop` with these further arguments of
/// `portcullis run`. Errors, notices and results come in one stream, in order.
///
/// # Errors
/// When it cannot be started.
pub fn psql_in_order(daemon: &Daemon, server: &Server, user: User, arguments: &[&str]) -> Result<Talking> {
    let mut words = vec![process::portcullis()?.display().to_string()];
    words.extend(["run", "--policy", "shop"].map(str::to_owned));
    words.extend(arguments.iter().map(|&word| word.to_owned()));
    words.push("--".to_owned());
    words.extend(psql_arguments(server, "shop"));
    let shown = ["--set=ON_ERROR_STOP=0", "--set=VERBOSITY=verbose", "--tuples-only", "--no-align"];
    words.extend(shown.map(str::to_owned));
    let mut shell = process::as_user(user, "sh");
    shell.env("PORTCULLIS_CONFIG", daemon.config()).current_dir("/");
    Talking::spawn(shell.args(["-c", "exec \"$@\" 2>&1", "sh"]).args(words))
}
