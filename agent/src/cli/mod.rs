//! The command line: what may be asked, in which words, and which exit code says what came of it.

use std::error::Error;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod approvals;
pub mod asciicast;
mod callback;
pub mod doctor;
pub mod har;
mod known_hosts;
pub mod login;
pub mod policy;
pub mod renew;
pub mod replay;
pub mod run;
pub mod runs;
mod search;
pub mod sessions;
pub mod status;
pub mod terminal;
pub mod text;
mod token;
pub mod transcript;
pub mod trust;

use crate::config::{self, Config, ConfigError};
use crate::control::{Client, ClientError, Reply, Request, with_causes};

const EXAMPLES: &str = "\
Examples:
  portcullis doctor                                 what works here, what to do about the rest
  portcullis run --policy crewai -- python crew.py  an agent, governed
  portcullis approvals                              what waits for a human
  portcullis approvals approve 7QX2ZC               let it pass, once

Exit codes: 0 done, 1 refused or failed, 2 usage. `run` exits as its command does.
Files: /etc/portcullis/portcullis.toml, /etc/portcullis/policies/*.toml";

/// Host-level gate for AI agents: intercepts, judges, holds, masks and records what they ask of production systems.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Arguments {
    /// Configuration file [default: $PORTCULLIS_CONFIG, or /etc/portcullis/portcullis.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (systemd does this)
    Serve {
        /// Print a configuration file with every default, and exit
        #[arg(long)]
        print_config: bool,
    },
    /// Run a command in a new governed cgroup
    Run(run::Arguments),
    /// Renews a run's token; `portcullis run` starts it
    #[command(hide = true)]
    Renew(renew::Arguments),
    /// List runs, and withdraw one
    Runs(runs::Arguments),
    /// Sign in at the identity provider, to decide as it knows you
    Login(login::Arguments),
    /// Sign out
    Logout,
    /// Who is signed in here
    Whoami {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// What is attached, running and waiting
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check that this host can govern agents, and say what to do where it cannot
    Doctor {
        /// One JSON array of checks
        #[arg(long)]
        json: bool,
    },
    /// End the daemon and lift the gate: agents go on ungoverned (root)
    Detach,
    /// How clients come to trust the local CA: variables, and the system's store
    Trust(trust::Arguments),
    /// Check, explain, describe and test policy files
    Policy(policy::PolicyArgs),
    /// See and decide operations that wait for a human
    Approvals(approvals::Arguments),
    /// List and read recorded sessions (root)
    Sessions(sessions::SessionsArgs),
    /// Watch a recorded session at the pace it had (root)
    Replay(replay::ReplayArgs),
}

/// Any error, with its causes.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The parts of the program that stand beside the command line.
pub struct Entry {
    /// Runs the daemon until it is told to end.
    pub serve: fn(Config) -> Result<(), BoxError>,
    /// Lifts the gate once the daemon has ended. Returns how many runs go on ungoverned.
    pub detach: fn(&Config) -> Result<usize, BoxError>,
    /// Tries whether the kernel takes our programs. Called as root only.
    pub probe: fn(&Config) -> doctor::Check,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was refused or failed; exit code 1.
    Failed(String),
    /// It was not asked properly; exit code 2.
    Usage(String),
    /// Whoever read our output is gone; exit code 1, and nothing to say.
    OutputGone,
    /// The command has said what there is to say; this is its exit code.
    Told(u8),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Failed(with_causes(&error))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Failed(with_causes(&error))
    }
}

impl From<sessions::SessionsError> for Failure {
    fn from(error: sessions::SessionsError) -> Self {
        match error {
            sessions::SessionsError::Output(error) => error.into(),
            sessions::SessionsError::Read(error) => Self::Failed(with_causes(&error)),
            error @ (sessions::SessionsError::NotHttp(_) | sessions::SessionsError::NothingToPlay) => {
                Self::Failed(with_causes(&error))
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() == io::ErrorKind::BrokenPipe {
            true => Self::OutputGone,
            false => Self::Failed(with_causes(&error)),
        }
    }
}

/// Reads the arguments, does what they say, and reports.
pub fn main(entry: &Entry) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to stdout with code 0, the rest to stderr with 2. If even that fails, nobody listens.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(arguments, entry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, message) = match failure {
                Failure::Failed(message) => (1, message),
                Failure::Usage(message) => (2, message),
                Failure::OutputGone => return ExitCode::from(1),
                Failure::Told(code) => return ExitCode::from(code),
            };
            complain(&message);
            ExitCode::from(code)
        }
    }
}

fn dispatch(arguments: Arguments, entry: &Entry) -> Result<(), Failure> {
    let file = arguments.config.as_deref();
    let failed = |error: BoxError| Failure::Failed(with_causes(error.as_ref()));
    match arguments.command {
        Command::Serve { print_config: true } => Ok(io::stdout().write_all(config::EXAMPLE.as_bytes())?),
        Command::Serve { print_config: false } => (entry.serve)(configuration(file)?).map_err(failed),
        Command::Run(arguments) => run::run(arguments, &configuration(file)?),
        Command::Renew(arguments) => renew::run(arguments),
        Command::Runs(arguments) => runs::run(arguments, &configuration(file)?),
        Command::Login(arguments) => login::run(&arguments, &configuration(file)?),
        Command::Logout => login::logout(&configuration(file)?),
        Command::Whoami { json } => login::whoami(json, &configuration(file)?),
        Command::Status { json } => status::run(json, &configuration(file)?),
        Command::Doctor { json } => doctor::run(json, &configuration(file)?, entry.probe),
        Command::Detach => {
            let config = configuration(file)?;
            match ask(&config, &Request::Stop) {
                Ok(Reply::Done) | Err(ClientError::NotRunning(_)) => {}
                Ok(_) => return Err(ClientError::NotUnderstood.into()),
                Err(error) => return Err(error.into()),
            }
            let told = match (entry.detach)(&config).map_err(failed)? {
                0 => "detached; nothing is governed any more\n".to_owned(),
                runs => format!("detached; runs that go on ungoverned: {runs}\n"),
            };
            Ok(io::stdout().write_all(told.as_bytes())?)
        }
        Command::Trust(arguments) => trust::run(&arguments, &configuration(file)?),
        Command::Policy(arguments) => policy_command(&arguments),
        Command::Approvals(arguments) => approvals::run(arguments, &configuration(file)?),
        Command::Sessions(arguments) => {
            let config = configuration(file)?;
            let command = arguments.command();
            if let sessions::SessionsCommand::Kill(kill) = command {
                return end_session(kill, &config);
            }
            let (mut out, style) = (io::stdout().lock(), style());
            Ok(sessions::run(&command, &config.state_dir, &mut out, style)?)
        }
        Command::Replay(arguments) => {
            let (mut out, style) = (io::stdout().lock(), style());
            let state = configuration(file)?.state_dir;
            Ok(replay::run(&arguments, &state, &mut out, style, &mut |pause| std::thread::sleep(pause))?)
        }
    }
}

/// `portcullis sessions kill`.
fn end_session(kill: sessions::KillArgs, config: &Config) -> Result<(), Failure> {
    let request = Request::Kill { session: kill.id, reason: kill.reason };
    let Reply::Killed(session) = ask(config, &request)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    Ok(writeln!(io::stdout(), "session {session} is ended")?)
}

/// `portcullis policy`: it needs no daemon and brings its own exit code.
fn policy_command(arguments: &policy::PolicyArgs) -> Result<(), Failure> {
    let no_color = std::env::var_os("NO_COLOR");
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let looks =
        [stdout.is_terminal(), stderr.is_terminal()].map(|is| policy::Look::of(is, no_color.as_deref()));
    let [stdout_look, stderr_look] = looks;
    let mut console = policy::Console {
        stdin: &mut io::stdin().lock(),
        stdout: &mut stdout.lock(),
        stderr: &mut stderr.lock(),
        stdout_look,
        stderr_look,
    };
    match policy::run(arguments, &mut console)? {
        policy::Exit::Done => Ok(()),
        policy::Exit::Failed => Err(Failure::Told(1)),
        policy::Exit::Usage => Err(Failure::Told(2)),
    }
}

/// Colours on a terminal whose owner has not asked for none (<https://no-color.org>).
fn style() -> terminal::Style {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !refused { terminal::Style::Colour } else { terminal::Style::Plain }
}

/// The configuration that `--config` or `PORTCULLIS_CONFIG` names, or the usual one; defaults when there is none.
fn configuration(named: Option<&Path>) -> Result<Config, Failure> {
    let from_environment = std::env::var_os("PORTCULLIS_CONFIG").map(PathBuf::from);
    match named.map(Path::to_owned).or(from_environment) {
        Some(path) => Ok(Config::load(&path)?),
        None if Path::new(config::DEFAULT_PATH).exists() => {
            Ok(Config::load(Path::new(config::DEFAULT_PATH))?)
        }
        None => Ok(Config::default()),
    }
}

fn ask(config: &Config, request: &Request) -> Result<Reply, ClientError> {
    Client::connect(&config.control_socket)?.ask(request)
}

/// Prints one JSON value and a newline.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(value).map_err(io::Error::from)?;
    text.push('\n');
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Writes a line to stderr. If that fails there is nobody left to tell.
fn complain(message: &str) {
    drop(writeln!(io::stderr(), "portcullis: {message}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_is_accepted_and_what_is_not() {
        for (line, accepted) in [
            ("serve", true),
            ("serve --config /tmp/x.toml", true),
            ("serve --print-config", true),
            ("--config /tmp/x.toml status --json", true),
            ("run --policy p -- true", true),
            ("run --policy p --label a=b --label c=d -- true --policy q", true),
            ("run --policy p true", false),
            ("run --policy p --", false),
            ("run -- true", false),
            ("run --policy p --token-file /t -- true", true),
            ("run --policy p --token-env T -- true", true),
            ("run --policy p --token-file /t --token-env T -- true", false),
            ("runs", true),
            ("runs list --json", true),
            ("runs withdraw 01ABC --reason no", true),
            ("runs withdraw", false),
            ("run --policy p --label novalue -- true", false),
            ("approvals", true),
            ("approvals --watch --json", true),
            ("approvals list --json", true),
            ("approvals show 01ABC", true),
            ("approvals approve 01ABC --reason ok", true),
            ("approvals deny", false),
            ("login", true),
            ("login --device --json", true),
            ("login --no-browser --for 7QX2ZC", true),
            ("login --device --no-browser", false),
            ("logout", true),
            ("whoami --json", true),
            ("detach", true),
            ("doctor --json", true),
            ("trust env", true),
            ("trust env --format github", true),
            ("trust env --format xml", false),
            ("trust install", true),
            ("trust remove --root /tmp/x", true),
            ("trust status --json", true),
            ("trust", false),
            ("reboot", false),
            ("", false),
        ] {
            let words = std::iter::once("portcullis").chain(line.split_whitespace());
            assert_eq!(Arguments::try_parse_from(words).is_ok(), accepted, "{line}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = configuration(Some(Path::new("/nonexistent/p.toml"))).unwrap_err();
        let Failure::Failed(message) = error else { panic!("{error:?}") };
        assert!(message.starts_with("cannot read /nonexistent/p.toml; create it"), "{message}");
    }
}
