//! Which recorded sessions are asked for, by what: the filters of `sessions list` and of the page.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::search::Search;
use super::sessions::protocol_name;
use crate::flow::SessionId;
use crate::record::read::{Catalogue, ReadError, Wanted};
use crate::record::summary::SessionSummary;

/// Filters of `sessions list`; all that are given must hold.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Only this run (its id, or a beginning or end of it).
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only sessions under this policy.
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Only sessions of this connection profile.
    #[arg(long, value_name = "NAME")]
    pub connection: Option<String>,
    /// Only sessions in which this is spoken: postgres, http, ssh, dns, opaque.
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,
    /// Only sessions of this user, by name or number.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Only sessions that started within this time (`90s`, `15m`, `2h`, `7d`).
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Only sessions with a refused operation.
    #[arg(long)]
    pub denied: bool,
    /// Only sessions with a held operation.
    #[arg(long)]
    pub held: bool,
    /// Only sessions that go on.
    #[arg(long)]
    pub live: bool,
    /// Only sessions in which a statement, request or command line has this text, in upper or lower case.
    #[arg(long, value_name = "TEXT")]
    pub command: Option<String>,
    /// Only sessions in which an SSH command or shell showed this text, in upper or lower case; colours do not hide it. Reads the
    /// recordings: narrow it by --since and the like.
    #[arg(long, value_name = "TEXT")]
    pub output: Option<String>,
    /// At most this many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Newest first.
    pub(crate) sessions: Vec<SessionSummary>,
    /// Sessions left out because their recording cannot be read.
    pub(crate) unreadable: usize,
    /// Where looking ended before all was seen, for want of time: older sessions were not looked at.
    pub(crate) reached: Option<SessionId>,
}

/// Sessions as these filters want them, newest first: older than `before`, and for as long as `go_on` says so. Waits for the
/// disk.
///
/// # Errors
/// The recording cannot be read.
pub(crate) fn sessions(
    args: &ListArgs,
    before: Option<SessionId>,
    go_on: &dyn Fn() -> bool,
    catalogue: &Catalogue,
) -> Result<Found, ReadError> {
    let since = args.since.and_then(|age| SystemTime::now().checked_sub(age));
    let since = since.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let since_ns = since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let search = Search { command: args.command.as_deref(), output: args.output.as_deref() };
    let mut found = Found::default();
    let mut wanted = |session: &SessionSummary| {
        if !go_on() {
            found.reached = found.reached.max(Some(session.session));
            return Wanted::Stop;
        }
        if !matches(args, session) {
            return Wanted::No;
        }
        match search.is_empty()
            || search.is_in(session.session, catalogue, go_on).unwrap_or_else(|_| {
                found.unreadable += 1;
                false
            }) {
            true => Wanted::Yes,
            false => Wanted::No,
        }
    };
    found.sessions = catalogue.sessions(since_ns, before, args.limit, &mut wanted)?;
    Ok(found)
}

/// Whether a session is as these filters want it, but for what stands in its recording.
fn matches(args: &ListArgs, session: &SessionSummary) -> bool {
    let opened = session.opened.as_ref();
    let policy = opened.map(|opened| opened.policy.as_str());
    let connection = opened.and_then(|opened| opened.connection.as_deref());
    let run_matches = |wanted: &String| {
        let wanted = wanted.to_ascii_uppercase();
        opened.is_some_and(|opened| {
            let run = opened.run.to_string();
            run.starts_with(&wanted) || run.ends_with(&wanted)
        })
    };
    let protocol = opened.map(|opened| protocol_name(opened.protocol));
    let user_matches = |wanted: &String| {
        opened.is_some_and(|opened| opened.user.as_ref() == Some(wanted) || opened.uid.to_string() == *wanted)
    };
    args.run.as_ref().is_none_or(run_matches)
        && args.policy.as_deref().is_none_or(|wanted| policy == Some(wanted))
        && args.connection.as_deref().is_none_or(|wanted| connection == Some(wanted))
        && args.protocol.as_deref().is_none_or(|wanted| protocol == Some(wanted))
        && args.user.as_ref().is_none_or(user_matches)
        && (!args.live || session.ended_reason.is_none())
        && (!args.denied || session.denied > 0)
        && (!args.held || session.held > 0)
}
