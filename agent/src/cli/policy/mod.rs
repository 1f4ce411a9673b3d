//! `portcullis policy`: check, explain, schema and test, which need no daemon; and hits, which ask it.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::policy::load::POLICY_BYTES_MAX;
use crate::policy::schema::schema;
use crate::request::ssh::OperationKind;

mod check;
mod explain;
pub(super) mod hits;
mod test;

/// Where policies are unless the command names files.
pub const POLICIES_FOLDER: &str = "/etc/portcullis/policies";

/// Arguments of `portcullis policy`.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Check policy files: every error, with file, line and column
    Check(CheckArgs),
    /// Judge operations from stdin without running them
    Explain(Box<ExplainArgs>),
    /// Print the JSON Schema of a policy file
    Schema,
    /// Run NAME.cases beside each NAME.toml
    Test(TestArgs),
    /// How often each rule has decided since its policy was loaded (root, operators)
    Hits(HitsArgs),
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// Files to check [default: every *.toml in /etc/portcullis/policies]
    files: Vec<PathBuf>,
    /// One JSON object per finding
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ExplainArgs {
    /// Policy file to judge by
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Protocol of the operations
    #[arg(long)]
    protocol: ExplainProtocol,
    /// Group of the subject; may be repeated
    #[arg(long = "as", value_name = "GROUP")]
    groups: Vec<String>,
    /// Claim of the subject's token, under [identity]; may be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// Operations are separated by NUL instead of being one per line
    #[arg(short = '0')]
    nul: bool,
    /// One JSON object per operation
    #[arg(long)]
    json: bool,
    /// Connection of the policy that the operations are sent on [default: the first one]
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// Database they are sent to [default: the one the connection logs in to, or postgres]
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Schemas that unqualified names are looked up in
    #[arg(long, value_name = "SCHEMA,...", value_delimiter = ',')]
    search_path: Option<Vec<String>>,
    /// Of SSH, what the lines of stdin are about: `upload` and its like take a path, `rename` and `link` two, forwards where they lead
    #[arg(long, value_name = "KIND", default_value = "exec")]
    operation: OperationKind,
    /// Account on the SSH server [default: the one the connection logs in to]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The planner's row estimate [default: unknown, which matches every deny or hold that has a bound]
    #[arg(long, value_name = "NUMBER")]
    rows: Option<u64>,
    /// When they are asked, such as 2026-11-28T10:00:00Z [default: now]
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    /// A rule whose budget (`over`) the run has used up; may be repeated [default: nothing is]
    #[arg(long = "used-up", value_name = "RULE")]
    used_up: Vec<String>,
}

/// Protocols whose operations can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExplainProtocol {
    Postgres,
    Http,
    Ssh,
    Kubernetes,
}

#[derive(Args, Debug)]
struct TestArgs {
    /// Folder of policies and their cases [default: /etc/portcullis/policies]
    dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct HitsArgs {
    /// One JSON array of policies
    #[arg(long)]
    json: bool,
}

impl PolicyArgs {
    /// Whether the daemon is asked what its rules decided, and then whether as JSON.
    pub(super) fn asks_for_hits(&self) -> Option<bool> {
        match &self.command {
            PolicyCommand::Hits(args) => Some(args.json),
            PolicyCommand::Check(_)
            | PolicyCommand::Explain(_)
            | PolicyCommand::Schema
            | PolicyCommand::Test(_) => None,
        }
    }
}

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: refused or failed.
    Failed,
    /// 2: not called correctly.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
        })
    }
}

/// Whether a stream is for a person's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A file or a pipe: one line each, no colours.
    Plain,
    /// A terminal of somebody who wants no colours (`NO_COLOR`, <https://no-color.org>): excerpts only.
    Terminal,
    /// A terminal.
    Coloured,
}

/// The three streams, and how each output looks.
pub struct Console<'a> {
    /// Standard input.
    pub stdin: &'a mut dyn BufRead,
    /// Standard output.
    pub stdout: &'a mut dyn Write,
    /// Standard error.
    pub stderr: &'a mut dyn Write,
    /// Look of standard output.
    pub stdout_look: Look,
    /// Look of standard error.
    pub stderr_look: Look,
}

/// A colour of the sixteen that every terminal has.
#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Red,
    Yellow,
}

impl Look {
    /// How a stream looks, given what the caller found out about it.
    #[must_use]
    pub fn of(is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> Self {
        match (is_terminal, no_color) {
            (false, _) => Self::Plain,
            (true, Some(value)) if !value.is_empty() => Self::Terminal,
            (true, Some(_) | None) => Self::Coloured,
        }
    }

    /// The text in a colour, where there are colours (ECMA-48 SGR).
    fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => 1,
            Colour::Green => 32,
            Colour::Red => 31,
            Colour::Yellow => 33,
        };
        match self {
            Self::Coloured => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Plain | Self::Terminal => text.to_owned(),
        }
    }
}

/// Runs `portcullis policy …`.
///
/// # Errors
/// Only when a stream breaks; everything else is told on the streams and in the exit code.
pub fn run(args: &PolicyArgs, console: &mut Console<'_>) -> io::Result<Exit> {
    let ended = match &args.command {
        PolicyCommand::Check(args) => check::run(args, console),
        PolicyCommand::Explain(args) => explain::run(args, console),
        PolicyCommand::Schema => print_schema(console),
        PolicyCommand::Test(args) => test::run(args, console),
        // The daemon's: whoever dispatches asks it.
        PolicyCommand::Hits(_) => Ok(Exit::Done),
    };
    match ended.and_then(|exit| console.stdout.flush().map(|()| exit)) {
        // `portcullis policy schema | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        other => other,
    }
}

fn print_schema(console: &mut Console<'_>) -> io::Result<Exit> {
    let text = serde_json::to_string_pretty(&schema()).map_err(io::Error::other)?;
    writeln!(console.stdout, "{text}")?;
    Ok(Exit::Done)
}

/// A file's text, read no further than a policy may be long (and a byte more, so that the loader sees it is too
/// long).
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(POLICY_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Tells that a file cannot be read.
fn cannot_read(path: &Path, error: &io::Error, console: &mut Console<'_>) -> io::Result<Exit> {
    writeln!(console.stderr, "{}: cannot be read: {error}", path.display())?;
    Ok(Exit::Failed)
}

#[cfg(test)]
mod tests;
