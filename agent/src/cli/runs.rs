//! `portcullis runs`: what is governed now, and the way to end a run's permission.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::text::{columns, duration, shown};
use super::{Failure, ask, print_json};
use crate::config::Config;
use crate::control::protocol::RunBrief;
use crate::control::{ClientError, Reply, Request};
use crate::run::now_ms;

const HELP: &str = "\
Examples:
  portcullis runs                              what is governed now, and for whom
  portcullis runs withdraw 01J… --reason leak  its sessions end, nothing new starts in it, and
                                               its token counts no more, here or in another run

Its processes go on; end them as you would any others.";

/// Arguments of `portcullis runs`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<RunsCommand>,
    /// One JSON array
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// Active runs, oldest first (without a command, this)
    List,
    /// Take a run's permission away, and that of its token (root, operators)
    Withdraw {
        /// The run's id, or a beginning or end of it
        id: String,
        /// Why; its clients are told
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let Reply::Status(status) = ask(config, &Request::Status)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    match arguments.command.unwrap_or(RunsCommand::List) {
        RunsCommand::List if arguments.json => print_json(&status.runs),
        RunsCommand::List => Ok(io::stdout().write_all(listing(&status.runs, now_ms()).as_bytes())?),
        RunsCommand::Withdraw { id, reason } => {
            let run = find(&status.runs, &id)?.id;
            let Reply::Withdrawn { sessions } = ask(config, &Request::Withdraw { run, reason })? else {
                return Err(ClientError::NotUnderstood.into());
            };
            Ok(writeln!(io::stdout(), "run {run} is withdrawn; sessions that end: {sessions}")?)
        }
    }
}

fn find<'r>(runs: &'r [RunBrief], part: &str) -> Result<&'r RunBrief, Failure> {
    let wanted = part.to_ascii_uppercase();
    let mut found = runs.iter().filter(|run| {
        let id = run.id.to_string();
        !wanted.is_empty() && (id.starts_with(&wanted) || id.ends_with(&wanted))
    });
    match (found.next(), found.next()) {
        (Some(run), None) => Ok(run),
        (None, _) => Err(Failure::Failed(format!("no run `{}` is active", shown(part, false)))),
        (Some(_), Some(_)) => Err(Failure::Failed("several runs match; give more of the id".to_owned())),
    }
}

fn listing(runs: &[RunBrief], now: u64) -> String {
    if runs.is_empty() {
        return "nothing is governed now\n".to_owned();
    }
    let mut rows = vec![["RUN", "POLICY", "USER", "AGE", "TOKEN", "SUBJECT"].map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        let token = match (&run.withdrawn_by, run.expires_ms) {
            (Some(by), _) => format!("withdrawn by {}", shown(by, false)),
            (None, Some(expires)) if expires <= now => "expired".to_owned(),
            (None, Some(expires)) => format!("{} left", duration(expires - now)),
            (None, None) => "-".to_owned(),
        };
        let text = |value: &Option<String>| {
            value.as_deref().map_or_else(|| "-".to_owned(), |text| shown(text, false))
        };
        vec![
            run.id.to_string(),
            run.policy.clone(),
            text(&run.user),
            duration(now.saturating_sub(run.started_ms)),
            token,
            text(&run.subject),
        ]
    }));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::RunId;
    use ulid::Ulid;

    fn brief(id: u128) -> RunBrief {
        RunBrief {
            id: RunId(Ulid(id)),
            policy: "crewai".to_owned(),
            user: Some("agent".to_owned()),
            subject: Some("repo:acme/orders\u{1b} of https://idp".to_owned()),
            expires_ms: Some(61_000),
            withdrawn_by: None,
            cgroup: "/x".to_owned(),
            started_ms: 0,
        }
    }

    #[test]
    fn a_listing_says_whose_a_run_is_and_how_long_its_token_counts() {
        let text = listing(&[brief(5), RunBrief { withdrawn_by: Some("ada".to_owned()), ..brief(6) }], 1000);
        assert!(text.contains("crewai  agent  1s   1m 0s left"), "{text}");
        assert!(text.contains("withdrawn by ada") && text.contains("acme/orders\\u{1b}"), "{text}");
        assert!(listing(&[brief(5)], 61_000).contains("expired"));
        assert_eq!(listing(&[], 0), "nothing is governed now\n");
    }

    #[test]
    fn a_run_is_meant_by_a_part_of_its_id_alone_if_it_is_the_only_one() {
        let runs = [brief(5), brief(6)];
        assert_eq!(find(&runs, "05").unwrap().id, runs[0].id);
        assert!(find(&runs, "000").is_err() && find(&runs, "").is_err() && find(&runs, "zz").is_err());
    }
}
