//! `portcullis approvals`: see and decide what waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::text::{columns, duration, line, moment, shown, summary};
use super::{Failure, ask, print_json};
use crate::approval::{Answer, Decision, Entry, Grant, Outcome, Request as Held, Review, Scope};
use crate::config::Config;
use crate::control::{Client, ClientError, Reply, Request};
use crate::flow::{ApprovalId, id_as_written};
use crate::request::ObjectName;
use crate::run::now_ms;

/// Fewest characters of an id that name it.
const ID_CHARS_MIN: usize = 4;
/// Characters of an id that listings show, unless more are needed to tell two apart. The end of a ULID is its random
/// part; its beginning is the time.
const ID_CHARS_SHOWN: usize = 6;
/// How often an approval with --for may be used unless --uses says.
const USES_DEFAULT: u32 = 20;
/// Characters of a command line.
const COMMAND_CHARS: usize = 160;
/// Characters of a statement in a listing.
const SUMMARY_CHARS: usize = 60;

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
            if json { print_json(&entry) } else { print(&details(&entry, now_ms())) }
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

/// The one entry whose id begins or ends like this.
/// The id that this is a beginning or end of.
pub(super) fn find_id(config: &Config, part: &str) -> Result<ApprovalId, Failure> {
    Ok(find(list(config)?, part)?.id)
}

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

fn listing(entries: &[Arc<Entry>], now: u64) -> String {
    let (waiting, settled): (Vec<Arc<Entry>>, Vec<Arc<Entry>>) =
        entries.iter().cloned().partition(|entry| entry.outcome.is_none());
    let mut text =
        if waiting.is_empty() { "nothing waits\n".to_owned() } else { waiting_table(&waiting, now) };
    if !settled.is_empty() {
        text.push_str("\nsettled lately\n");
        let rows: Vec<_> = settled
            .iter()
            .map(|entry| {
                vec![
                    format!("  {}", short_id(entry.id, entries)),
                    outcome(entry),
                    summary(&entry.request.content.statement, SUMMARY_CHARS),
                ]
            })
            .collect();
        text.push_str(&columns(&rows));
    }
    text
}

fn waiting_table(waiting: &[Arc<Entry>], now: u64) -> String {
    let mut rows = vec![
        ["ID", "LEFT", "EFFECT", "ROWS", "USER", "PROCESS", "RULE", "STATEMENT"].map(str::to_owned).to_vec(),
    ];
    for entry in waiting {
        let request = &entry.request;
        rows.push(vec![
            short_id(entry.id, waiting),
            duration(entry.expires_ms.saturating_sub(now)),
            request.effect.to_string(),
            rows_text(request),
            summary(request.subject.shown(), 20),
            summary(&format!("{}[{}]", request.process.comm, request.process.tgid), 24),
            summary(&request.rule, 24),
            summary(&request.content.statement, SUMMARY_CHARS),
        ]);
    }
    columns(&rows)
}

/// The last characters of an id, as many as tell it from the others.
fn short_id(id: ApprovalId, among: &[Arc<Entry>]) -> String {
    let full = id.to_string();
    let tail = |chars: usize| full.get(full.len().saturating_sub(chars)..).unwrap_or(&full).to_owned();
    (ID_CHARS_SHOWN..full.len())
        .map(tail)
        .find(|tail| among.iter().filter(|entry| entry.id.to_string().ends_with(tail.as_str())).count() <= 1)
        .unwrap_or_else(|| full.clone())
}

fn rows_text(request: &Held) -> String {
    request.estimated_rows.map_or_else(|| "-".to_owned(), |rows| format!("~{rows}"))
}

fn outcome(entry: &Entry) -> String {
    let because = |reason: &str| match reason {
        "" => String::new(),
        reason => format!(": {}", summary(reason, SUMMARY_CHARS)),
    };
    match &entry.outcome {
        None if entry.votes.is_empty() => "waits".to_owned(),
        None => format!("waits, {} of {} approvals", entry.votes.len(), entry.request.quorum),
        Some(Outcome::Approved { by, reason, .. }) => {
            let unused = if entry.delivered { "" } else { " (not used so far)" };
            let glass = match &entry.review {
                None => String::new(),
                Some(Review { by: None, .. }) => " BREAKING GLASS, to be reviewed".to_owned(),
                Some(Review { by: Some(by), .. }) => {
                    format!(" breaking glass, reviewed by {}", summary(&by.user, 20))
                }
            };
            format!("approved by {}{glass}{unused}{}", summary(&by.user, 20), because(reason))
        }
        Some(Outcome::Denied { by, reason, .. }) => {
            format!("denied by {}{}", summary(&by.user, 20), because(reason))
        }
        Some(Outcome::Expired) => "expired, denied".to_owned(),
        Some(Outcome::Withdrawn) => "withdrawn".to_owned(),
    }
}

fn change(entry: &Entry) -> String {
    format!("{} {}: {}", entry.id, outcome(entry), summary(&entry.request.content.statement, SUMMARY_CHARS))
}

fn details(entry: &Entry, now: u64) -> String {
    let request = &entry.request;
    let process = &request.process;
    let objects: Vec<String> = request.objects.iter().map(ObjectName::to_string).collect();
    let command = match process.argv.is_empty() {
        true => process.comm.clone(),
        false => summary(&process.argv.join(" "), COMMAND_CHARS),
    };
    let left = duration(entry.expires_ms.saturating_sub(now));
    let database = request.database.as_deref().map_or_else(String::new, |name| format!(", database {name}"));
    let mut rows = vec![
        ("id", entry.id.to_string()),
        (
            "state",
            if entry.outcome.is_none() { format!("{}, {left} left", outcome(entry)) } else { outcome(entry) },
        ),
        ("asked", moment(entry.asked_ms)),
        ("effect", format!("{} ({})", request.effect, request.kinds.join("; "))),
        ("objects", if objects.is_empty() { "-".to_owned() } else { objects.join(", ") }),
        ("rows", rows_text(request)),
        ("target", format!("{} at {}{database}", request.connection, request.destination)),
        ("user", format!("{} (uid {})", request.subject.user, request.subject.uid)),
        ("process", format!("{} uid {}: {command}", process.tgid, process.uid)),
        ("run", request.run.to_string()),
        ("session", request.session.to_string()),
        ("rule", format!("{} (policy {}, version {})", request.rule, request.policy, request.policy_version)),
        (
            "approvers",
            if request.approvers.is_empty() { "operators".to_owned() } else { request.approvers.join(", ") },
        ),
        ("digest", entry.digest.to_string()),
    ];
    if let Some(identity) = &request.subject.identity {
        rows.push(("subject", identity.shown()));
    }
    if request.quorum > 1 {
        let distinct = if request.distinct_groups { ", each for another of the approvers" } else { "" };
        rows.push(("needs", format!("{} approvals by as many persons{distinct}", request.quorum)));
    }
    if let Some(needs) = &request.step_up {
        rows.push((
            "sign-in",
            format!(
                "who approves needs a fresh one {needs} (portcullis login --for {}, or the approvals page)",
                entry.id.code()
            ),
        ));
    }
    for vote in &entry.votes {
        rows.push(("approved", format!("by {} at {}: {}", vote.by.user, moment(vote.at_ms), vote.reason)));
    }
    if entry.deferred {
        rows.push((
            "client",
            "was sent away; the same operation takes the answer when it is asked again".to_owned(),
        ));
    }
    if let Some(grant) = &entry.grant {
        rows.push(("covers", covers(grant)));
    }
    if let Some(shape) = &request.shape {
        rows.push(("shape", summary(shape, COMMAND_CHARS)));
    }
    if request.in_transaction {
        rows.push(("caution", "it waits inside a transaction, which may hold locks".to_owned()));
    }
    let rows: Vec<_> =
        rows.into_iter().map(|(name, value)| vec![format!("{name}:"), shown(&value, false)]).collect();
    let mut text = columns(&rows);
    text.push_str(&statement(request));
    text
}

/// What an approval still covers, in words.
pub(crate) fn covers(grant: &Grant) -> String {
    let what = match grant.scope {
        Scope::Once => "this operation once",
        Scope::Operation { .. } => "this operation",
        Scope::Shape { .. } => "statements of its shape",
    };
    match &grant.revoked_by {
        Some(by) => format!("nothing any more: revoked by {by}"),
        None => format!("{what} until {}, {} more uses", moment(grant.until_ms), grant.uses_left),
    }
}

fn statement(request: &Held) -> String {
    let content = &request.content;
    let mut text = "statement:\n".to_owned();
    for row in shown(&content.statement, true).lines() {
        line(&mut text, format_args!("  {row}"));
    }
    if content.statement_bytes > u64::try_from(content.statement.len()).unwrap_or(u64::MAX) {
        line(
            &mut text,
            format_args!("CUT: the statement has {} bytes; the beginning is shown", content.statement_bytes),
        );
    }
    for (number, parameter) in content.parameters.iter().enumerate() {
        let value = parameter
            .as_deref()
            .map_or_else(|| "NULL".to_owned(), |value| format!("'{}'", shown(value, false)));
        line(&mut text, format_args!("  ${} = {value}", number + 1));
    }
    let shown_count = u64::try_from(content.parameters.len()).unwrap_or(u64::MAX);
    if content.parameter_count > shown_count {
        line(
            &mut text,
            format_args!(
                "CUT: there are {} parameters; the first {shown_count} are shown",
                content.parameter_count
            ),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::{Content, Reviewer};
    use crate::flow::{OriginalDst, Process, RunId, SessionId};
    use crate::request::{Effect, ObjectName};
    use crate::run::Subject;
    use ulid::Ulid;

    fn entry(id: u128, statement: &str, outcome: Option<Outcome>) -> Arc<Entry> {
        let request = Held {
            run: RunId(Ulid(1)),
            session: SessionId(Ulid(2)),
            process: Process { tgid: 77, uid: 1500, comm: "psql".to_owned(), ..Process::default() },
            subject: Subject { uid: 1500, user: "agent".to_owned(), ..Subject::default() },
            connection: "orders-db".to_owned(),
            destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
            database: Some("shop".to_owned()),
            content: Content::new(statement.as_bytes(), &[Some(b"o'k\x1b"), None], &[Some(b"o'k\x1b"), None]),
            kinds: vec!["update".to_owned()],
            effect: Effect::Write,
            objects: vec![ObjectName { schema: Some("public".to_owned()), name: "orders".to_owned() }],
            estimated_rows: Some(51_000),
            rule: "big writes".to_owned(),
            policy: "crewai".to_owned(),
            policy_version: "0123456789abcdef".to_owned(),
            approvers: vec!["dba".to_owned()],
            in_transaction: true,
            timeout: Duration::ZERO,
            quorum: 1,
            distinct_groups: false,
            break_glass: Vec::new(),
            chat: crate::policy::rule::ChatUse::default(),
            step_up: None,
            shape: None,
            patience: None,
            again: Some(String::new()),
        };
        let delivered = false;
        let digest = "ab".repeat(32).parse().unwrap();
        let request = Box::new(request);
        Arc::new(Entry {
            votes: Vec::new(),
            deferred: false,
            grant: None,
            revision: 0,
            review: None,
            id: ApprovalId(Ulid(id)),
            digest,
            request,
            asked_ms: 0,
            expires_ms: 900_000,
            outcome,
            delivered,
        })
    }

    fn denied() -> Option<Outcome> {
        let by = Reviewer {
            uid: Some(1),
            user: "ada".to_owned(),
            groups: Vec::new(),
            pid: None,
            login_user: None,
            account: None,
            proof: None,
            login_uid: None,
            identity: None,
        };
        Some(Outcome::Denied { by, reason: "use\nstaging".to_owned(), at_ms: 0 })
    }

    #[test]
    fn a_listing_shows_what_waits_first() {
        let entries =
            [entry(5, "UPDATE orders\n SET paid = true", None), entry(6, "DROP DATABASE shop", denied())];
        let expected = "\
ID      LEFT    EFFECT  ROWS    USER   PROCESS   RULE        STATEMENT
000005  14m 0s  write   ~51000  agent  psql[77]  big writes  UPDATE orders SET paid = true

settled lately
  000006  denied by ada: use staging  DROP DATABASE shop
";
        assert_eq!(listing(&entries, 60_000), expected);
        assert_eq!(listing(&[], 0), "nothing waits\n");
    }

    #[test]
    fn details_hide_nothing_and_obey_nothing() {
        let text = details(&entry(5, "UPDATE orders -- \u{202e}\u{1b}[2J\nSET paid = true", None), 0);
        for expected in [
            "state:      waits, 15m 0s left\n",
            "effect:     write (update)\n",
            "objects:    public.orders\n",
            "rows:       ~51000\n",
            "target:     orders-db at 127.9.9.9:5432, database shop\n",
            "rule:       big writes (policy crewai, version 0123456789abcdef)\n",
            "caution:    it waits inside a transaction, which may hold locks\n",
            "statement:\n  UPDATE orders -- \\u{202e}\\u{1b}[2J\n  SET paid = true\n",
            "  $1 = 'o'k\\u{1b}'\n  $2 = NULL\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(!text.contains("CUT") && text.chars().all(|c| c == '\n' || !c.is_control()));
        let long = details(&entry(5, &"x".repeat(40_000), None), 0);
        assert!(long.contains("CUT: the statement has 40000 bytes"), "{long}");
    }

    #[test]
    fn ids_may_be_shortened_while_they_are_unique() {
        let entries = || vec![entry(5, "a", None), entry((5 << 60) + 5, "b", None), entry(77, "c", None)];
        let found = |part: &str| match find(entries(), part) {
            Ok(entry) => entry.request.content.statement.clone(),
            Err(Failure::Failed(message) | Failure::Usage(message)) => message,
            Err(Failure::OutputGone | Failure::Told(_)) => panic!("nothing was printed"),
        };
        assert_eq!(found("002d"), "c");
        assert_eq!(found(&entries()[1].id.to_string()), "b");
        assert_eq!(found("000005"), "2 requests match `000005`; give more of the id");
        assert_eq!(found("05"), "give at least 4 characters of the id");
        assert!(found("ZZZZ\u{1b}").starts_with("no request `ZZZZ\\u{1b}` that you may see"));
        let (one, other) = (entries()[0].id, entries()[1].id);
        assert_ne!(short_id(one, &entries()), short_id(other, &entries()));
        assert_eq!(short_id(entries()[2].id, &entries()), "00002D");
    }
}
