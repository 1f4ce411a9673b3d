//! `portcullis sessions`: which conversations were recorded, and one of them in full.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::asciicast::{Cast, Version as CastVersion};
use super::complain;
pub use super::find::ListArgs;
use super::find::{self, Found};
use super::har::Archive;
use super::terminal::{Escaped, Style, fit, write_row};
use super::text::duration;
use super::transcript::Transcript;
use crate::policy::rule::Protocol;
use crate::record::asked::base64;
use crate::record::event::Event;
use crate::record::read::{Catalogue, ReadError, Recorded};
use crate::record::summary::SessionSummary;

/// How often a session that is followed is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Rows of each result that `show` prints.
const ROWS_SHOWN_MAX: u64 = 10;

/// Arguments of `portcullis sessions`; without a subcommand it lists.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

impl SessionsArgs {
    /// What to do.
    #[must_use]
    pub fn command(self) -> SessionsCommand {
        self.command.unwrap_or(SessionsCommand::List(self.list))
    }
}

/// `portcullis sessions …`.
#[derive(Clone, Debug, Subcommand)]
pub enum SessionsCommand {
    /// List recorded sessions, newest first.
    List(ListArgs),
    /// Show one session: every operation with its verdict, outcome and first rows.
    Show(ShowArgs),
    /// Watch a session that goes on, until it ends.
    Follow(FollowArgs),
    /// End a session that goes on; its client is told.
    Kill(KillArgs),
    /// Write one session in a format of other tools.
    Export(ExportArgs),
}

/// Arguments of `sessions show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Session id, a unique beginning or end of one, or `last`.
    pub id: String,
    /// One JSON object per recorded event and line, complete.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sessions follow`.
#[derive(Clone, Debug, Args)]
pub struct FollowArgs {
    /// Session id, a unique beginning or end of one, or `last`.
    pub id: String,
    /// One JSON object per recorded event and line, complete.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sessions kill`.
#[derive(Clone, Debug, Args)]
pub struct KillArgs {
    /// Session id, or a unique beginning or end of one.
    pub id: String,
    /// Why, in one line; the client is told, and it is recorded.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Arguments of `sessions export`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis sessions export last --format har > last.har   # open it in a browser's network panel\n  \
                  portcullis sessions export last --format asciicast > last.cast   # asciinema play last.cast"
)]
pub struct ExportArgs {
    /// Session id, a unique beginning or end of one, or `last`.
    pub id: String,
    /// har: an HTTP archive, for HTTP sessions. asciicast: one command or shell of an SSH session, for asciinema. jsonl: every
    /// recorded event, one JSON object per line.
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// With asciicast: the operation; the first with output unless given.
    #[arg(long, value_name = "N")]
    pub operation: Option<u64>,
    /// With asciicast: version of the format.
    #[arg(long, value_enum, default_value = "3", value_name = "2|3")]
    pub asciicast_version: CastVersion,
}

/// Formats of `sessions export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// asciinema's recording of a terminal.
    Asciicast,
    /// HTTP archive 1.2.
    Har,
    /// What `sessions show --json` prints.
    Jsonl,
}

/// Why a command about recordings failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The output.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// The recording.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The format has no place for what was recorded.
    #[error("an HTTP archive holds HTTP, and this session is {0}; use --format jsonl")]
    NotHttp(&'static str),
    /// Nothing of it was shown.
    #[error("this session has no output of an SSH command or shell to be played; use --format jsonl")]
    NothingToPlay,
}

/// Runs `portcullis sessions …` on the recording below `data_dir`.
///
/// # Errors
/// The recording cannot be read, no such session, or the output fails.
pub fn run(
    command: &SessionsCommand,
    data_dir: &Path,
    out: &mut dyn Write,
    style: Style,
) -> Result<(), SessionsError> {
    let catalogue = Catalogue::open(data_dir)?;
    match command {
        SessionsCommand::List(args) => list(args, &catalogue, out),
        SessionsCommand::Show(args) => show(args, &catalogue, out, style),
        SessionsCommand::Follow(args) => follow(args, data_dir, out, style),
        SessionsCommand::Export(args) => export(args, &catalogue, out),
        // The daemon's: whoever dispatches asks it.
        SessionsCommand::Kill(_) => Ok(()),
    }
}

/// Prints what is on record and what comes, until the session ends.
fn follow(
    args: &FollowArgs,
    data_dir: &Path,
    out: &mut dyn Write,
    style: Style,
) -> Result<(), SessionsError> {
    let session = Catalogue::open(data_dir)?.resolve(&args.id)?;
    let mut transcript = Transcript::new(out, style, ROWS_SHOWN_MAX);
    let mut seen = 0;
    loop {
        let begun = Instant::now();
        // A segment that is being written may end in the middle of a frame: that one comes with the next look.
        for recorded in Catalogue::open(data_dir)?.events(session)? {
            let recorded = recorded?;
            if recorded.header.sequence <= seen {
                continue;
            }
            seen = recorded.header.sequence;
            if args.json {
                transcript.line(&event_json(&recorded))?;
            } else {
                transcript.event(&recorded)?;
            }
            if matches!(recorded.event, Some(Event::SessionClosed(_))) {
                return Ok(transcript.flush()?);
            }
        }
        transcript.flush()?;
        // A long recording takes longer to look through, and is looked at less often.
        std::thread::sleep(FOLLOW_INTERVAL.max(begun.elapsed() * 3));
    }
}

fn list(args: &ListArgs, catalogue: &Catalogue, out: &mut dyn Write) -> Result<(), SessionsError> {
    let Found { sessions, unreadable, .. } = find::sessions(args, None, &|| true, catalogue)?;
    if unreadable > 0 {
        complain(&format!("warning: {unreadable} sessions could not be read and were left out"));
    }
    if args.json {
        for session in &sessions {
            write_json(out, session)?;
        }
        return Ok(());
    }
    let header =
        ["SESSION", "STARTED", "LASTED", "POLICY", "TO", "BY", "OPS", "HELD", "DENIED", "MASKED", "ENDED"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(sessions.iter().map(listing_row));
    let right = [false, false, true, false, false, false, true, true, true, true, false];
    let columns = fit(&right, &rows);
    for row in &rows {
        write_row(out, &columns, row, "  ")?;
    }
    Ok(())
}

/// A session's cells, as the list shows them.
pub(crate) fn listing_row(session: &SessionSummary) -> Vec<String> {
    let unknown = || "?".to_owned();
    let opened = session.opened.as_ref();
    let lasted = session.ended_ns.map(|ended| Duration::from_nanos(ended.saturating_sub(session.started_ns)));
    let ended =
        session.ended_reason.map_or_else(|| "open".to_owned(), |reason| reason.as_str().replace('_', " "));
    vec![
        session.session.to_string(),
        timestamp(session.started_ns),
        lasted.map_or_else(|| "-".to_owned(), span),
        opened.map_or_else(unknown, |opened| Escaped(&opened.policy).to_string()),
        opened.map_or_else(unknown, |opened| {
            Escaped(opened.connection.as_deref().unwrap_or(&opened.destination)).to_string()
        }),
        opened.map_or_else(unknown, |opened| {
            let user = opened.subject.clone().or_else(|| opened.user.clone());
            let user = user.unwrap_or_else(|| opened.uid.to_string());
            format!("{}[{}] {}", Escaped(&opened.process), opened.pid, Escaped(&user))
        }),
        session.operations.to_string(),
        session.held.to_string(),
        session.denied.to_string(),
        session.masked.to_string(),
        ended,
    ]
}

fn show(
    args: &ShowArgs,
    catalogue: &Catalogue,
    out: &mut dyn Write,
    style: Style,
) -> Result<(), SessionsError> {
    let events = catalogue.events(catalogue.resolve(&args.id)?)?;
    if args.json {
        for recorded in events {
            write_json(out, &event_json(&recorded?))?;
        }
        return Ok(());
    }
    let mut transcript = Transcript::new(out, style, ROWS_SHOWN_MAX);
    for recorded in events {
        transcript.event(&recorded?)?;
    }
    Ok(())
}

fn export(args: &ExportArgs, catalogue: &Catalogue, out: &mut dyn Write) -> Result<(), SessionsError> {
    let mut events = catalogue.events(catalogue.resolve(&args.id)?)?;
    match args.format {
        ExportFormat::Jsonl => {
            for recorded in events {
                write_json(out, &event_json(&recorded?))?;
            }
        }
        ExportFormat::Asciicast => {
            let mut cast = Cast::new(out, args.asciicast_version, args.operation);
            for recorded in events {
                cast.event(&recorded?)?;
            }
            if !cast.is_written() {
                return Err(SessionsError::NothingToPlay);
            }
        }
        ExportFormat::Har => {
            // The first event says what is spoken, before anything is written.
            let first = events.next().transpose()?;
            if let Some(Event::SessionOpened(opened)) = first.as_ref().and_then(|first| first.event.as_ref())
                && opened.protocol != Protocol::Http
            {
                return Err(SessionsError::NotHttp(protocol_name(opened.protocol)));
            }
            let mut archive = Archive::begin(out)?;
            for recorded in first.map(Ok).into_iter().chain(events) {
                archive.event(recorded?)?;
            }
            archive.end()?;
        }
    }
    Ok(())
}

/// One event with its frame's facts, everything on one level.
fn event_json(recorded: &Recorded) -> Value {
    let header = &recorded.header;
    let mut line = json!({
        "event": header.kind.as_str(),
        "session": header.session,
        "sequence": header.sequence,
        "at": timestamp(header.wall_ns),
        "wall_ns": header.wall_ns,
        "monotonic_ns": header.monotonic_ns,
        "missing_before": recorded.missing,
    });
    let body = recorded.event.as_ref().and_then(|event| body_json(event).ok());
    match (line.as_object_mut(), body) {
        (Some(line), Some(Value::Object(body))) => line.extend(body),
        (Some(line), _) => {
            line.insert("unreadable".to_owned(), Value::Bool(true));
        }
        (None, _) => {}
    }
    line
}

fn body_json(event: &Event) -> serde_json::Result<Value> {
    match event {
        Event::SessionOpened(body) => serde_json::to_value(body),
        Event::Intent(body) => serde_json::to_value(body),
        Event::Refused(body) => serde_json::to_value(body),
        Event::Held(body) => serde_json::to_value(body),
        Event::Decided(body) => serde_json::to_value(body),
        Event::Outcome(body) => serde_json::to_value(body),
        Event::Note(body) => serde_json::to_value(body),
        Event::OpaqueCounts(body) => serde_json::to_value(body),
        Event::SessionClosed(body) => serde_json::to_value(body),
        Event::Recovered(body) => serde_json::to_value(body),
        Event::CarriedOver(body) => serde_json::to_value(body),
        Event::Body(block) => Ok(json!({
            "operation": block.operation,
            "direction": block.direction,
            "offset": block.offset,
            "bytes": text_or_base64(&block.bytes),
        })),
        Event::Message(block) => Ok(json!({
            "operation": block.operation,
            "direction": block.direction,
            "text": block.text,
            "bytes": text_or_base64(&block.bytes),
        })),
        Event::Stream(block) => Ok(json!({
            "operation": block.operation,
            "stream": block.stream,
            "offset": block.offset,
            "bytes": text_or_base64(&block.bytes),
        })),
        Event::ResultRows(block) => {
            let value = |value: &Option<Vec<u8>>| match value
                .as_deref()
                .map(|bytes| (bytes, str::from_utf8(bytes)))
            {
                None => Value::Null,
                Some((_, Ok(text))) => Value::from(text),
                Some((bytes, Err(_))) => json!({ "base64": base64(bytes) }),
            };
            let rows: Vec<Vec<Value>> =
                block.rows.iter().map(|row| row.iter().map(value).collect()).collect();
            Ok(json!({
                "operation": block.operation,
                "statement": block.statement,
                "first_row": block.first_row,
                "columns": block.columns,
                "rows": rows,
            }))
        }
    }
}

/// Bytes as text where they are text.
fn text_or_base64(bytes: &[u8]) -> Value {
    str::from_utf8(bytes).map_or_else(|_| json!({ "base64": base64(bytes) }), Value::from)
}

fn write_json<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// A length of time with about three digits: `75 ms`, `9.4 s`, `4m 12s`.
fn span(length: Duration) -> String {
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        1..=59 => format!("{:.1} s", length.as_secs_f64()),
        60.. => duration(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// RFC 3339, UTC, milliseconds.
#[must_use]
pub fn timestamp(wall_ns: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(wall_ns));
    time.map_or_else(|| "?".to_owned(), |time| humantime::format_rfc3339_millis(time).to_string())
}

/// A protocol's name as policies write it.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Postgres => "postgres",
        Protocol::Ssh => "ssh",
        Protocol::Opaque => "opaque",
        Protocol::Dns => "dns",
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::cli::replay::{self, ReplayArgs, Speed};
    use crate::flow::{ApprovalId, SessionId, Side};
    use crate::record::Recorder;
    use crate::record::asked::Parameters;
    use crate::record::event::{
        ApprovalOutcome, ApprovalRecord, Decided, Held, Intent, Outcome, OutcomeStatus, Refused, ServerError,
    };
    use crate::record::tests::{CONFIG, SHARE, asked, column, finished, opened, row};

    /// A store with one session: a masked SELECT, an error, and a DROP that was held and denied.
    fn recorded() -> (TempDir, SessionId) {
        let data = TempDir::new().unwrap();
        let recorder = Recorder::open(data.path(), CONFIG).unwrap();
        let opened = opened();
        let mut record = recorder.session(&opened, SHARE).unwrap();

        let mut select = asked(record.next_operation(), "SELECT name, card\nFROM customers WHERE id = $1");
        select.parameters = Parameters::new([Some((&b"7\x1b[2J"[..], 25)), None, Some((&b"\xff"[..], 17))]);
        record
            .intent(&Intent { asked: select, rule: "default".to_owned(), approval: None, shadow: None })
            .unwrap();
        record.begin_rows(1, 0, &[column("name"), column("card")]).unwrap();
        for number in 0..12 {
            record.row(&row(&[Some(&format!("Ada {number}\u{202e}")), None])).unwrap();
        }
        record
            .outcome(Outcome {
                operation: 1,
                status: OutcomeStatus::Done,
                command_tags: vec!["SELECT 12".to_owned()],
                rows: 12,
                elapsed_us: 1500,
                masked: [("cards".to_owned(), 12)].into(),
                ..Outcome::default()
            })
            .unwrap();

        let broken = asked(record.next_operation(), "SELECT 1/0");
        record
            .intent(&Intent { asked: broken, rule: "default".to_owned(), approval: None, shadow: None })
            .unwrap();
        let error = ServerError { sqlstate: "22012".to_owned(), message: "division by zero".to_owned() };
        let failed =
            Outcome { operation: 2, status: OutcomeStatus::Failed, error: Some(error), ..Outcome::default() };
        record.outcome(failed).unwrap();

        let drop = asked(record.next_operation(), "DROP DATABASE shop");
        let id = ApprovalId::generate();
        let rule = "no destructive DDL".to_owned();
        record
            .held(&Held {
                asked: drop.clone(),
                rule: rule.clone(),
                approval: id,
                approvers: vec!["dba".to_owned()],
                timeout_seconds: 900,
                in_transaction: false,
                side_effects: None,
            })
            .unwrap();
        let approval = ApprovalRecord {
            id,
            outcome: ApprovalOutcome::Denied,
            by: Some("alice".to_owned()),
            reason: Some("not today".to_owned()),
            decided_at_ns: 1,
        };
        record.decided(&Decided { operation: 3, approval: approval.clone() }).unwrap();
        let reason = "refused by rule \"no destructive DDL\"".to_owned();
        record
            .refused(&Refused {
                asked: drop,
                rule,
                reason,
                side: Side::Policy,
                approval: Some(approval),
                status: None,
            })
            .unwrap();
        record.close(finished()).unwrap();
        (data, opened.flow.session)
    }

    fn output(command: &SessionsCommand, data: &Path) -> String {
        let mut out = Vec::new();
        run(command, data, &mut out, Style::Plain).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn list_args() -> ListArgs {
        ListArgs {
            live: false,
            command: None,
            output: None,
            run: None,
            policy: None,
            connection: None,
            protocol: None,
            user: None,
            since: None,
            denied: false,
            held: false,
            limit: 100,
            json: false,
        }
    }

    fn contains_all(text: &str, parts: &[&str]) {
        let mut rest = text;
        for part in parts {
            let (_, after) =
                rest.split_once(part).unwrap_or_else(|| panic!("no {part:?}, in order, in:\n{text}"));
            rest = after;
        }
    }

    #[test]
    fn a_listing_says_what_happened_in_one_line() {
        let (data, session) = recorded();
        let text = output(&SessionsCommand::List(list_args()), data.path());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        contains_all(lines[0], &["SESSION", "POLICY", "OPS", "HELD", "DENIED", "MASKED", "ENDED"]);
        let id = session.to_string();
        contains_all(
            lines[1],
            &[&id, "crewai", "orders-db", "psql[41] agent", "3", "1", "1", "12", "finished"],
        );
    }

    #[test]
    fn lengths_of_time_are_read_at_a_glance() {
        for (milliseconds, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (9_440, "9.4 s"),
            (59_999, "60.0 s"),
            (252_000, "4m 12s"),
        ] {
            assert_eq!(span(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn filters_hold_together() {
        let (data, _) = recorded();
        let count = |change: fn(&mut ListArgs)| {
            let mut args = ListArgs { json: true, ..list_args() };
            change(&mut args);
            output(&SessionsCommand::List(args), data.path()).lines().count()
        };
        assert_eq!(count(|args| args.denied = true), 1);
        assert_eq!(count(|args| args.held = true), 1);
        assert_eq!(count(|args| args.policy = Some("crewai".to_owned())), 1);
        assert_eq!(count(|args| args.policy = Some("other".to_owned())), 0);
        assert_eq!(count(|args| args.connection = Some("other".to_owned())), 0);
        assert_eq!(count(|args| args.run = Some("nope".to_owned())), 0);
        assert_eq!(count(|args| args.since = Some(Duration::from_secs(60))), 1);
        assert_eq!(count(|args| args.since = Some(Duration::ZERO)), 0);
        assert_eq!(count(|args| args.limit = 0), 0);
    }

    #[test]
    fn a_session_reads_as_a_conversation() {
        let (data, session) = recorded();
        let args = ShowArgs { id: "last".to_owned(), json: false };
        let text = output(&SessionsCommand::Show(args), data.path());
        let title = format!("session {session}");
        contains_all(
            &text,
            &[
                &title,
                "to       orders-db (postgres, 127.9.9.9:5432)",
                "from     psql[41] of user agent (1000)",
                "select (read) allowed by default\n    SELECT name, card\n    FROM customers",
                "$1 = '7\\u{1b}[2J'\n    $2 = NULL\n    $3 = base64 /w==",
                "  name          | card\n  --------------+-----\n  Ada 0\\u{202e} | NULL\n",
                "Ada 9",
                "SELECT 12, 1.5 ms; 12 masked by cards; 12 rows, 10 shown",
                "ERROR 22012: division by zero",
                "held by no destructive DDL, approval ",
                "approvers: dba; for 900 s",
                "denied by alice: not today",
                "refused by no destructive DDL, denied by alice: not today",
                "ended ",
                "finished (client)",
            ],
        );
        assert!(!text.contains("Ada 10"), "only the first rows:\n{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "foreign text is harmless");
    }

    #[test]
    fn scripts_get_everything() {
        let (data, session) = recorded();
        let args = ShowArgs { id: session.to_string(), json: true };
        let text = output(&SessionsCommand::Show(args), data.path());
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(
            events,
            [
                "session_opened",
                "intent",
                "result_rows",
                "outcome",
                "intent",
                "outcome",
                "held",
                "decided",
                "refused",
                "session_closed"
            ]
        );
        assert_eq!(lines[1]["asked"]["parameters"][2]["base64"], "/w==");
        assert_eq!(lines[2]["rows"].as_array().unwrap().len(), 12);
        assert_eq!(lines[8]["approval"]["by"], "alice");
        assert!(lines.iter().all(|line| line["session"] == session.to_string()));
    }

    #[test]
    fn a_replay_shows_every_row_and_waits_between_events() {
        let (data, session) = recorded();
        let mut out = Vec::new();
        let mut waited = 0;
        let args = ReplayArgs { id: session.to_string().to_lowercase(), speed: Speed::Times(1.0) };
        replay::run(&args, data.path(), &mut out, Style::Colour, &mut |_| waited += 1).unwrap();
        let text = String::from_utf8(out).unwrap();
        contains_all(&text, &["Ada 0", "Ada 11", "DROP DATABASE shop", "ended"]);
        assert!(waited > 0, "events are apart in time");

        let args = ReplayArgs { speed: Speed::Max, ..args };
        replay::run(&args, data.path(), &mut Vec::new(), Style::Plain, &mut |_| panic!("must not wait"))
            .unwrap();
    }

    #[test]
    fn what_is_not_there_is_said_plainly() {
        let empty = TempDir::new().unwrap();
        let show = SessionsCommand::Show(ShowArgs { id: "last".to_owned(), json: false });
        let error = run(&show, empty.path(), &mut Vec::new(), Style::Plain).unwrap_err();
        assert!(error.to_string().starts_with("there is no recording in "), "{error}");
        let (data, _) = recorded();
        let show = SessionsCommand::Show(ShowArgs { id: "zzz".to_owned(), json: false });
        let error = run(&show, data.path(), &mut Vec::new(), Style::Plain).unwrap_err();
        assert!(error.to_string().contains("no session \"zzz\""), "{error}");
    }
}
