//! `portcullis approvals`: see and decide what waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

mod show;
#[cfg(test)]
mod tests;

use super::text::shown;
use super::{Failure, ask, before, complain, print_json};
use crate::approval::{Answer, Decision, Entry, Scope};
use crate::config::Config;
use crate::control::{Client, ClientError, Reply, Request, with_causes};
use crate::flow::{ApprovalId, id_as_written};
use crate::record::before::Before;
use crate::run::now_ms;
pub(crate) use show::covers;
use show::{change, details, listing};

/// Fewest characters of an id that name it.
const ID_CHARS_MIN: usize = 4;
/// How often an approval with --for may be used unless --uses says.
const USES_DEFAULT: u32 = 20;

const HELP: &str = "\
An operation that a guard holds waits here until somebody decides or its time is up,
which denies it. Whoever the run acts for cannot decide. IDs may be shortened to any
unique beginning or end.

Examples:
  portcullis approvals                   what waits
  portcullis approvals --watch           and what comes
  portcullis approvals show 7QX2ZC       the whole statement, who asks, under which rule
  portcullis approvals approve 7QX2ZC --reason \"checked with Ada\"
  portcullis approvals approve 7QX2ZC --for 10m --uses 5     the same operation, in this run
  portcullis approvals approve 7QX2ZC --for 10m --shape      and with other literals
  portcullis approvals revoke 7QX2ZC     what it still covers, no more
  portcullis approvals deny 7QX2ZC --reason \"use the staging database\"";

/// Arguments of `portcullis approvals`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Kept with the decision and shown to whoever asked
    #[arg(long, global = true, value_name = "TEXT")]
    reason: Option<String>,
    /// JSON: an array, one object, or with --watch one object per line
    #[arg(long, global = true)]
    json: bool,
    /// Go on showing changes until interrupted
    #[arg(long, global = true)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What waits, and what was settled lately (the default)
    List,
    /// Everything about one request
    Show {
        /// Its id, or a unique beginning or end of it
        id: String,
    },
    /// Let it pass: once, or what --for and --uses say
    Approve {
        /// Its id, or a unique beginning or end of it
        id: String,
        /// Also the same operation in the same run, for so long, such as 10m
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasting: Option<Duration>,
        /// With --for: so often at most, this time included
        #[arg(long, value_name = "N", requires = "lasting", default_value_t = USES_DEFAULT)]
        uses: u32,
        /// With --for: also with other literals and parameters
        #[arg(long, requires = "lasting")]
        shape: bool,
        /// In an emergency, without the others whose word it needs; alerted, and reviewed afterwards
        #[arg(long)]
        break_glass: bool,
    },
    /// Refuse it
    Deny {
        /// Its id, or a unique beginning or end of it
        id: String,
    },
    /// Take back what an approval still covers
    Revoke {
        /// Its id, or a unique beginning or end of it
        id: String,
    },
    /// Say that you have looked at glass that somebody else broke (with --reason, what you found)
    Review {
        /// Its id, or a unique beginning or end of it
        id: String,
    },
}

/// What `show --json` prints: the request, and what its run did just before.
#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    before: Option<Before>,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let Arguments { command, reason, json, watch } = arguments;
    let command = command.unwrap_or(Command::List);
    let deciding = matches!(command, Command::Approve { .. } | Command::Deny { .. } | Command::Review { .. });
    if reason.is_some() && !deciding {
        return Err(Failure::Usage("--reason goes with approve, deny or review".to_owned()));
    }
    if watch && !matches!(command, Command::List) {
        return Err(Failure::Usage("--watch goes with list".to_owned()));
    }
    let reason = reason.unwrap_or_default();
    match command {
        Command::List if watch => follow(json, config),
        Command::List => {
            let entries = list(config)?;
            if json { print_json(&entries) } else { print(&listing(&entries, now_ms())) }
        }
        Command::Show { id } => {
            let entry = find(list(config)?, &id)?;
            // Whoever has to decide sees the request, even when the recordings cannot be read.
            let before = done_before(entry.id, config);
            let unknown = before.as_ref().err().map(|error| with_causes(error));
            unknown.iter().for_each(|message| complain(message));
            let before = before.ok();
            if json {
                return print_json(&Shown { entry: &entry, before });
            }
            print(&details(&entry, now_ms()))?;
            before.map_or(Ok(()), |operations| print(&before::lines(&operations)))
        }
        Command::Approve { id, lasting, uses, shape, break_glass } => {
            let scope = scope(lasting, uses, shape);
            decide(&id, Decision { answer: Answer::Approve, reason, scope, break_glass }, json, config)
        }
        Command::Deny { id } => decide(&id, Decision::plain(Answer::Deny, reason), json, config),
        Command::Revoke { id } => {
            let id = find(list(config)?, &id)?.id;
            tell(&Request::Revoke { id }, json, config)
        }
        Command::Review { id } => {
            let entry = find(list(config)?, &id)?;
            if !json {
                print(&details(&entry, now_ms()))?;
            }
            tell(&Request::Review { id: entry.id, note: reason }, json, config)
        }
    }
}

fn scope(lasting: Option<Duration>, uses: u32, shape: bool) -> Scope {
    let Some(lasting) = lasting else { return Scope::Once };
    let for_ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
    if shape { Scope::Shape { for_ms, uses } } else { Scope::Operation { for_ms, uses } }
}

fn list(config: &Config) -> Result<Vec<Arc<Entry>>, Failure> {
    let Reply::Approvals(entries) = ask(config, &Request::Approvals)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    Ok(entries)
}

fn done_before(id: ApprovalId, config: &Config) -> Result<Before, ClientError> {
    let Reply::Before(operations) = ask(config, &Request::Before { id })? else {
        return Err(ClientError::NotUnderstood);
    };
    Ok(operations)
}

/// Shows what is being decided, then decides exactly that: the daemon compares digests.
fn decide(id: &str, decision: Decision, json: bool, config: &Config) -> Result<(), Failure> {
    let entry = find(list(config)?, id)?;
    if !json {
        print(&details(&entry, now_ms()))?;
    }
    tell(&Request::Decide { id: entry.id, digest: entry.digest, decision }, json, config)
}

fn tell(request: &Request, json: bool, config: &Config) -> Result<(), Failure> {
    let Reply::Approval(entry) = ask(config, request)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    if json { print_json(&entry) } else { print(&format!("{}\n", change(&entry))) }
}

fn follow(json: bool, config: &Config) -> Result<(), Failure> {
    let mut watch = Client::connect(&config.control_socket)?.watch()?;
    loop {
        match watch.reply()? {
            Reply::Approvals(entries) if json => entries.iter().try_for_each(print_json)?,
            Reply::Approvals(entries) => print(&listing(&entries, now_ms()))?,
            Reply::Approval(entry) if json => print_json(&entry)?,
            Reply::Approval(entry) => print(&format!("{}\n", change(&entry)))?,
            Reply::Status(_)
            | Reply::Started { .. }
            | Reply::Terms(_)
            | Reply::Renewed { .. }
            | Reply::LoginAt { .. }
            | Reply::LoginWaits { .. }
            | Reply::Login(_)
            | Reply::Withdrawn { .. }
            | Reply::Killed(_)
            | Reply::Before(_)
            | Reply::Hits(_)
            | Reply::Done
            | Reply::Refused(_) => {
                return Err(ClientError::NotUnderstood.into());
            }
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// The id that this is a beginning or end of.
pub(super) fn find_id(config: &Config, part: &str) -> Result<ApprovalId, Failure> {
    Ok(find(list(config)?, part)?.id)
}

/// The one entry whose id begins or ends like this.
fn find(entries: Vec<Arc<Entry>>, part: &str) -> Result<Arc<Entry>, Failure> {
    let part = id_as_written(part);
    if part.len() < ID_CHARS_MIN {
        return Err(Failure::Usage(format!("give at least {ID_CHARS_MIN} characters of the id")));
    }
    let matches = |id: ApprovalId| {
        let id = id.to_string();
        id.starts_with(&part) || id.ends_with(&part)
    };
    let mut found: Vec<Arc<Entry>> = entries.into_iter().filter(|entry| matches(entry.id)).collect();
    match (found.pop(), found.len()) {
        (Some(entry), 0) => Ok(entry),
        (Some(_), others) => Err(Failure::Failed(format!(
            "{} requests match `{}`; give more of the id",
            others + 1,
            shown(&part, false)
        ))),
        (None, _) => Err(Failure::Failed(format!(
            "no request `{}` that you may see; list them with `portcullis approvals`",
            shown(&part, false)
        ))),
    }
}
