//! `portcullis trust`: how clients outside of `portcullis run` come to trust the local CA.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, complain, print_json};
use crate::config::Config;
use crate::tls::variables;

pub(super) mod own;
mod restart;
mod store;

pub(super) use store::in_effect;

const HELP: &str = "\
`portcullis run` sets these variables by itself. A CI job that a policy matches by its
cgroup needs them in its environment, before the agent starts:

  portcullis trust env --format github >> \"$GITHUB_ENV\"
  portcullis trust env --format dotenv > trust.env
  eval \"$(portcullis trust env)\"

Clients that read nothing but the system's store, such as wget, need

  sudo portcullis trust install

Java and browsers keep stores of their own; see their manuals for adding
$PORTCULLIS_CA_FILE.";

/// Arguments of `portcullis trust`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the variables that make clients trust the local CA
    Env {
        /// How to write them
        #[arg(long, value_enum, default_value = "shell")]
        format: Format,
    },
    /// Put the local CA into the system's store of trusted certificates (root)
    Install {
        #[command(flatten)]
        place: Place,
    },
    /// Take it out again (root)
    Remove {
        #[command(flatten)]
        place: Place,
    },
    /// Whether it is there, and in effect
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// Whose store.
#[derive(Debug, Args)]
struct Place {
    /// A folder that stands for `/`, for tests. The update command is then looked for in its `usr/sbin` and `usr/bin`.
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// A way to write assignments down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// `export NAME='VALUE'`, for eval
    Shell,
    /// `NAME=VALUE`, for $GITHUB_ENV
    Github,
    /// `NAME=VALUE`, for .env files and GitLab's dotenv reports
    Dotenv,
}

/// Does what was asked.
pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let told = match &arguments.command {
        Command::Env { format } => env(*format, config)?,
        Command::Install { place } => store::install(config, &place.root)?,
        Command::Remove { place } => store::remove(config, &place.root)?,
        Command::Status { json, place } => {
            let status = store::status(config, &place.root)?;
            if *json {
                return print_json(&status);
            }
            status.text()
        }
    };
    Ok(io::stdout().write_all(told.as_bytes())?)
}

fn env(format: Format, config: &Config) -> Result<String, Failure> {
    let (ca_file, bundle) = (config.ca_file(), config.ca_bundle());
    for file in [&ca_file, &bundle] {
        if !file.is_file() {
            return Err(Failure::Failed(format!(
                "{} is not there; the daemon makes it: systemctl start portcullis",
                file.display()
            )));
        }
    }
    let own = own::of_caller(config);
    for warning in own.warnings {
        complain(&format!("warning: {warning}"));
    }
    if !own.pem.is_empty() {
        complain(
            "warning: variables set here name certificates that the bundle lacks; put them into the system's store, \
             which the bundle follows",
        );
    }
    assignments(format, &ca_file, &bundle)
}

fn assignments(format: Format, ca_file: &Path, bundle: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    for (name, value) in variables::assignments(ca_file, bundle) {
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c));
        let written = match format {
            Format::Shell => writeln!(text, "export {name}='{}'", value.replace('\'', "'\\''")),
            Format::Github if !value.contains(['\n', '\r']) => writeln!(text, "{name}={value}"),
            Format::Dotenv if plain => writeln!(text, "{name}={value}"),
            Format::Github | Format::Dotenv => {
                return Err(Failure::Failed(format!(
                    "`{}` cannot be written in this format; move control.socket to a plainer path",
                    value.escape_debug()
                )));
            }
        };
        written.map_err(|error| Failure::Failed(error.to_string()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(format: Format, bundle: &str) -> Vec<String> {
        let text = assignments(format, Path::new("/run/p/ca.pem"), Path::new(bundle)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn assignments_are_written_as_their_readers_read_them() {
        let shell = lines(Format::Shell, "/it's/bundle.pem");
        assert!(shell.contains(&"export SSL_CERT_FILE='/it'\\''s/bundle.pem'".to_owned()), "{shell:?}");
        for format in [Format::Github, Format::Dotenv] {
            let plain = lines(format, "/run/p/bundle.pem");
            assert!(plain.contains(&"SSL_CERT_FILE=/run/p/bundle.pem".to_owned()), "{plain:?}");
            assert!(plain.contains(&"NODE_EXTRA_CA_CERTS=/run/p/ca.pem".to_owned()), "{plain:?}");
            assert_eq!(plain.len(), shell.len());
        }
    }

    #[test]
    fn a_path_cannot_add_a_variable_of_its_own() {
        let (ca, bad) = (Path::new("/ca"), Path::new("/a\nLD_PRELOAD=/x"));
        assert!(assignments(Format::Github, ca, bad).is_err());
        assert!(assignments(Format::Dotenv, ca, bad).is_err());
        assert!(assignments(Format::Dotenv, ca, Path::new("/a b")).is_err());
    }
}
