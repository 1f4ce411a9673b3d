//! A recorded conversation as text: every operation with its verdict, outcome and rows, event by event.

use std::io::{self, Write};
use std::time::Duration;

use super::terminal::{Column, Escaped, Style, Tone, fit, write_row};
use super::text::summary;
use crate::flow::Side;
use crate::record::asked::{Asked, ParameterValue, Parameters};
use crate::record::body::{BodyBlock, MessageBlock};
use crate::record::event::{
    ApprovalOutcome, ApprovalRecord, Direction, Event, Held, Intent, Outcome, OutcomeStatus, Refused,
    SessionClosed, SessionOpened,
};
use crate::record::read::Recorded;
use crate::record::rows::{ResultColumn, RowBlock, ValueFormat};
use crate::record::stream::{FileOutcome, SshOutcome, StreamBlock};

/// Characters of one value shown in a table, or of one parameter.
const VALUE_CHARS_MAX: usize = 80;
/// Characters of a command line shown.
const COMMAND_CHARS: usize = 160;
/// Lines shown of one stretch of a body, and characters of each.
const BODY_LINES_MAX: usize = 12;
const LINE_CHARS_MAX: usize = 200;
/// Lines of one operation's text shown.
const TEXT_LINES_MAX: usize = 200;

/// Writes a conversation, one event at a time.
pub struct Transcript<'a> {
    out: &'a mut dyn Write,
    style: Style,
    /// Rows shown of each result; the rest is counted.
    rows_max: u64,
    so_far: SoFar,
}

/// What a transcript has to know of the events before, when it goes on elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct SoFar {
    /// When the session began, nanoseconds since 1970.
    pub(crate) started_ns: Option<u64>,
    /// Widths of the result being shown, so that later blocks line up with the first.
    columns: Vec<Column>,
}

impl<'a> Transcript<'a> {
    /// A transcript onto `out` that shows at most `rows_max` rows of each result.
    pub fn new(out: &'a mut dyn Write, style: Style, rows_max: u64) -> Self {
        Self { out, style, rows_max, so_far: SoFar::default() }
    }

    /// One that goes on from where another ended.
    pub(crate) fn after(so_far: SoFar, out: &'a mut dyn Write, style: Style, rows_max: u64) -> Self {
        Self { out, style, rows_max, so_far }
    }

    /// For another one to go on.
    pub(crate) fn so_far(self) -> SoFar {
        self.so_far
    }

    /// Writes one event.
    ///
    /// # Errors
    /// The output fails.
    pub fn event(&mut self, recorded: &Recorded) -> io::Result<()> {
        let started = *self.so_far.started_ns.get_or_insert(recorded.header.wall_ns);
        let since = Duration::from_nanos(recorded.header.wall_ns.saturating_sub(started));
        let at = self.style.dress(Tone::Faint, &format!("+{:.3}s", since.as_secs_f64()));
        if recorded.missing > 0 {
            let gap = format!("-- {} frames of this session are missing here --", recorded.missing);
            writeln!(self.out, "{}", self.style.dress(Tone::Bad, &gap))?;
        }
        match &recorded.event {
            None => writeln!(self.out, "{}", self.style.dress(Tone::Bad, "-- a frame cannot be read --")),
            Some(Event::SessionOpened(opened)) => self.opened(opened, recorded.header.wall_ns),
            Some(Event::Intent(intent)) => self.intent(intent, &at),
            Some(Event::Refused(refused)) => self.refused(refused, &at),
            Some(Event::Held(held)) => self.held(held, &at),
            Some(Event::Decided(decided)) => {
                let what = decision(&decided.approval);
                writeln!(self.out, "#{} {at} {}", decided.operation, self.style.dress(Tone::Strong, &what))
            }
            Some(Event::ResultRows(block)) => self.rows(block),
            Some(Event::Body(block)) => self.body(block),
            Some(Event::Message(block)) => self.message(block, &at),
            Some(Event::Stream(block)) => self.stream(block),
            Some(Event::Outcome(outcome)) => self.outcome(outcome, &at),
            Some(Event::Note(note)) => writeln!(self.out, "{at} note: {}", Escaped(&note.text)),
            Some(Event::OpaqueCounts(counts)) => writeln!(
                self.out,
                "{at} relayed unread: {} bytes to the server, {} bytes to the client",
                counts.to_upstream, counts.to_client
            ),
            Some(Event::SessionClosed(closed)) => self.closed(closed, &at),
            // The store's own frames belong to no session.
            Some(Event::Recovered(_) | Event::CarriedOver(_)) => Ok(()),
        }
    }

    /// Writes a line of JSON instead.
    ///
    /// # Errors
    /// The output fails.
    pub fn line(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }

    /// Passes on what was written.
    ///
    /// # Errors
    /// The output fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn opened(&mut self, opened: &SessionOpened, wall_ns: u64) -> io::Result<()> {
        let flow = &opened.flow;
        let connection = opened.connection.as_deref().unwrap_or("no connection profile");
        let title = format!("session {}", flow.session);
        writeln!(self.out, "{}", self.style.dress(Tone::Strong, &title))?;
        writeln!(
            self.out,
            "  to       {} ({}, {})",
            Escaped(connection),
            super::sessions::protocol_name(opened.protocol),
            flow.destination
        )?;
        if let Some(through) = &opened.through {
            writeln!(self.out, "  through  the proxy of session {through}")?;
        }
        let user = opened.user_name.as_deref().unwrap_or("?");
        let process = &flow.process;
        writeln!(
            self.out,
            "  from     {}[{}] of user {} ({})",
            Escaped(&process.comm),
            process.tgid,
            Escaped(user),
            process.uid
        )?;
        if let Some(identity) = &opened.identity {
            writeln!(self.out, "  for      {}", Escaped(&identity.shown()))?;
        }
        if !process.argv.is_empty() {
            writeln!(self.out, "  command  {}", Escaped(&summary(&process.argv.join(" "), COMMAND_CHARS)))?;
        }
        writeln!(self.out, "  run      {}", flow.run)?;
        for (name, value) in &opened.run_labels {
            writeln!(self.out, "  label    {}={}", Escaped(name), Escaped(value))?;
        }
        let version = Escaped(&opened.policy_version);
        writeln!(self.out, "  policy   {} (version {version})", Escaped(&opened.policy))?;
        writeln!(self.out, "  started  {}", super::sessions::timestamp(wall_ns))
    }

    fn intent(&mut self, intent: &Intent, at: &str) -> io::Result<()> {
        let mut verdict = format!("allowed by {}", Escaped(&intent.rule));
        if let Some(approval) = &intent.approval {
            verdict = format!("held by {}, {}", Escaped(&intent.rule), decision(approval));
        }
        if let Some(shadow) = &intent.shadow {
            verdict.push_str(&format!(
                ", would have been {} by {}",
                Escaped(&shadow.verdict),
                Escaped(&shadow.rule)
            ));
        }
        self.asked(&intent.asked, at, Tone::Good, &verdict)
    }

    fn refused(&mut self, refused: &Refused, at: &str) -> io::Result<()> {
        let by = match refused.side {
            Side::Policy => format!("refused by {}", Escaped(&refused.rule)),
            Side::Client | Side::Portcullis | Side::Upstream => "refused".to_owned(),
        };
        let decided = refused.approval.as_ref().map(|approval| format!(", {}", decision(approval)));
        let verdict = format!("{by}{}", decided.unwrap_or_default());
        self.asked(&refused.asked, at, Tone::Bad, &verdict)?;
        let status = refused.status.map(|status| format!("{status} ")).unwrap_or_default();
        writeln!(self.out, "  told: {status}{}", Escaped(&refused.reason))
    }

    fn held(&mut self, held: &Held, at: &str) -> io::Result<()> {
        let verdict = format!("held by {}, approval {}", Escaped(&held.rule), held.approval);
        self.asked(&held.asked, at, Tone::Warning, &verdict)?;
        let approvers = if held.approvers.is_empty() { "any".to_owned() } else { held.approvers.join(", ") };
        let locks = if held.in_transaction { "; inside a transaction" } else { "" };
        writeln!(self.out, "  approvers: {}; for {} s{locks}", Escaped(&approvers), held.timeout_seconds)
    }

    /// Title line, text and parameters.
    fn asked(&mut self, asked: &Asked, at: &str, tone: Tone, verdict: &str) -> io::Result<()> {
        let kinds: Vec<_> = asked.statements.0.iter().map(|statement| statement.kind.as_str()).collect();
        let kinds = Escaped(&kinds.join("; ")).to_string();
        let (number, effect) = (asked.operation, asked.statements.effect());
        let verdict = self.style.dress(tone, verdict);
        writeln!(self.out, "\n#{number} {at} {kinds} ({effect}) {verdict}")?;
        for line in asked.text.text.lines().take(TEXT_LINES_MAX) {
            let line = Escaped(line).to_string();
            writeln!(self.out, "    {}", self.style.dress(Tone::Strong, &line))?;
        }
        let lines = asked.text.text.lines().count();
        if lines > TEXT_LINES_MAX {
            writeln!(self.out, "    … {} more lines; --json has them", lines - TEXT_LINES_MAX)?;
        }
        if let Some(whole) = &asked.text.whole {
            writeln!(self.out, "    … cut: {} bytes, SHA-256 {}", whole.bytes, Escaped(&whole.sha256))?;
        }
        if let Some(http) = &asked.http {
            for (name, value) in &http.headers {
                writeln!(self.out, "  > {}: {}", Escaped(name), shorten_line(value))?;
            }
        }
        for statement in asked.statements.0.iter().filter(|statement| statement.reason.is_some()) {
            let reason = statement.reason.as_deref().unwrap_or_default();
            writeln!(self.out, "  because it {}", Escaped(reason))?;
        }
        if let Some(rows) = asked.estimated_rows {
            writeln!(self.out, "  estimated rows: {rows}")?;
        }
        self.parameters(&asked.parameters)
    }

    fn parameters(&mut self, parameters: &Parameters) -> io::Result<()> {
        for (number, parameter) in (1..).zip(&parameters.0) {
            let shown = match parameter.as_ref().map(|parameter| &parameter.value) {
                None => "NULL".to_owned(),
                Some(ParameterValue::Text(text)) => format!("'{}'", shorten(text)),
                Some(ParameterValue::Base64(text)) => format!("base64 {}", shorten(text)),
                Some(ParameterValue::Digest(whole)) => {
                    format!("{} bytes, SHA-256 {}", whole.bytes, shorten(&whole.sha256))
                }
            };
            writeln!(self.out, "    ${number} = {shown}")?;
        }
        Ok(())
    }

    fn rows(&mut self, block: &RowBlock) -> io::Result<()> {
        let room = self.rows_max.saturating_sub(block.first_row);
        let shown = block.rows.get(..usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or(&block.rows);
        if let [ResultColumn { format: ValueFormat::Copy, .. }] = block.columns.as_slice() {
            return self.copied(shown);
        }
        let cells: Vec<Vec<String>> = shown
            .iter()
            .map(|row| {
                block
                    .columns
                    .iter()
                    .zip(row)
                    .map(|(column, value)| show_value(column, value.as_deref()))
                    .collect()
            })
            .collect();
        if block.first_row == 0 {
            let names: Vec<_> = block.columns.iter().map(|column| shorten(&column.name)).collect();
            let right: Vec<_> = block.columns.iter().map(|column| is_number(column.type_oid)).collect();
            let mut all = vec![names.clone()];
            all.extend(cells.iter().cloned());
            self.so_far.columns = fit(&right, &all);
            write!(self.out, "  ")?;
            write_row(self.out, &self.so_far.columns, &names, " | ")?;
            let rule: Vec<_> = self.so_far.columns.iter().map(|column| "-".repeat(column.width)).collect();
            writeln!(self.out, "  {}", rule.join("-+-"))?;
        }
        for row in &cells {
            write!(self.out, "  ")?;
            write_row(self.out, &self.so_far.columns, row, " | ")?;
        }
        Ok(())
    }

    /// A stretch of a body: text as it was, anything else by its length.
    fn body(&mut self, block: &BodyBlock) -> io::Result<()> {
        let arrow = arrow(block.direction);
        let Ok(text) = str::from_utf8(&block.bytes) else {
            return writeln!(self.out, "  {arrow} {} bytes that are no text", block.bytes.len());
        };
        let shown = if self.rows_max == u64::MAX { usize::MAX } else { BODY_LINES_MAX };
        for line in text.lines().take(shown) {
            let line = if self.rows_max == u64::MAX { Escaped(line).to_string() } else { shorten_line(line) };
            writeln!(self.out, "  {arrow} {line}")?;
        }
        let lines = text.lines().count();
        if lines > shown {
            writeln!(
                self.out,
                "  {arrow} … {} more lines; replay, --json or export has them",
                lines - shown
            )?;
        }
        Ok(())
    }

    /// One WebSocket message.
    fn message(&mut self, block: &MessageBlock, at: &str) -> io::Result<()> {
        let arrow = arrow(block.direction);
        let text = match str::from_utf8(&block.bytes) {
            Ok(text) if block.text => shorten_line(text),
            Ok(_) | Err(_) => format!("{} bytes", block.bytes.len()),
        };
        writeln!(self.out, "#{} {at} {arrow} {text}", block.operation)
    }

    /// A stretch of a command's input or output.
    fn stream(&mut self, block: &StreamBlock) -> io::Result<()> {
        let name = block.stream.as_str();
        let text = String::from_utf8_lossy(&block.bytes);
        let shown = if self.rows_max == u64::MAX { usize::MAX } else { BODY_LINES_MAX };
        for line in text.lines().take(shown) {
            let line = if self.rows_max == u64::MAX { Escaped(line).to_string() } else { shorten_line(line) };
            writeln!(self.out, "  {name} {line}")?;
        }
        let lines = text.lines().count();
        if lines > shown {
            writeln!(self.out, "  {name} … {} more lines; replay, --json or export has them", lines - shown)?;
        }
        Ok(())
    }

    fn copied(&mut self, chunks: &[Vec<Option<Vec<u8>>>]) -> io::Result<()> {
        for chunk in chunks.iter().flatten().flatten() {
            for line in String::from_utf8_lossy(chunk).lines() {
                writeln!(self.out, "  {}", shorten(line))?;
            }
        }
        Ok(())
    }

    fn outcome(&mut self, outcome: &Outcome, at: &str) -> io::Result<()> {
        let elapsed = format!("{:.1} ms", Duration::from_micros(outcome.elapsed_us).as_secs_f64() * 1000.0);
        let (tone, what) = match (outcome.status, &outcome.error) {
            _ if outcome.http.is_some() => self.answered(outcome, &elapsed),
            (status, _) if outcome.ssh.is_some() && status == OutcomeStatus::Done => {
                ran(outcome.ssh.as_deref(), &elapsed)
            }
            (OutcomeStatus::Done, _) => {
                (Tone::Good, format!("{}, {elapsed}", Escaped(&outcome.command_tags.join(", "))))
            }
            (OutcomeStatus::Failed, Some(error)) => {
                let message = format!("ERROR {}: {}", error.sqlstate, error.message);
                (Tone::Bad, format!("{}, {elapsed}", Escaped(&message)))
            }
            (OutcomeStatus::Failed, None) => (Tone::Bad, format!("failed, {elapsed}")),
            (OutcomeStatus::NotForwarded, _) => (Tone::Warning, "never forwarded".to_owned()),
            (OutcomeStatus::NotRun, _) => (Tone::Warning, "not run by the server".to_owned()),
            (OutcomeStatus::Unknown, _) => {
                (Tone::Bad, "outcome unknown: it was forwarded, and no answer was recorded".to_owned())
            }
        };
        let mut more = String::new();
        for (rule, count) in &outcome.masked {
            more.push_str(&format!("; {count} masked by {}", Escaped(rule)));
        }
        if outcome.rows > self.rows_max {
            more.push_str(&format!("; {} rows, {} shown", outcome.rows, self.rows_max));
        }
        if outcome.rows_left_out > 0 {
            more.push_str(&format!("; {} rows are not in the recording", outcome.rows_left_out));
        }
        writeln!(self.out, "#{} {at} {}{more}", outcome.operation, self.style.dress(tone, &what))
    }

    /// `200 OK, 12.3 ms (waited 11.9 ms), 1234 bytes of application/json`.
    fn answered(&self, outcome: &Outcome, elapsed: &str) -> (Tone, String) {
        let Some(http) = &outcome.http else { return (Tone::Bad, String::new()) };
        let reason =
            http::StatusCode::from_u16(http.status).ok().and_then(|status| status.canonical_reason());
        let mut text = match http.status {
            0 => "no answer".to_owned(),
            status => format!("{status} {}", reason.unwrap_or_default()).trim_end().to_owned(),
        };
        text.push_str(&format!(", {elapsed}"));
        if http.status != 0 {
            let waited = Duration::from_micros(http.wait_us).as_secs_f64() * 1000.0;
            text.push_str(&format!(" (waited {waited:.1} ms)"));
            let kind = http.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value);
            text.push_str(&format!(", {} bytes", http.response_body.bytes));
            if let Some(kind) = kind {
                text.push_str(&format!(" of {}", Escaped(&summary(kind, VALUE_CHARS_MAX))));
            }
        }
        for (what, body) in [("sent", &http.request_body), ("received", &http.response_body)] {
            if let Some(digest) = &body.sha256 {
                text.push_str(&format!(
                    "; {} of {} bytes {what} kept, SHA-256 {digest}",
                    body.kept, body.bytes
                ));
            }
        }
        if let Some(error) = &outcome.error {
            text.push_str(&format!("; {}", Escaped(&error.message)));
        }
        for note in &http.notes {
            text.push_str(&format!("; {}", Escaped(note)));
        }
        let tone = match (outcome.status, http.status) {
            (OutcomeStatus::Done, 100..=399) => Tone::Good,
            (_, 400..) | (OutcomeStatus::Failed, _) => Tone::Bad,
            (_, _) => Tone::Warning,
        };
        (tone, text)
    }

    fn closed(&mut self, closed: &SessionClosed, at: &str) -> io::Result<()> {
        let side = match closed.ended.side {
            Side::Client => "client",
            Side::Policy => "policy",
            Side::Portcullis => "portcullis",
            Side::Upstream => "upstream",
        };
        let detail = closed.ended.detail.as_deref().map(|detail| format!(": {}", Escaped(detail)));
        let reason = closed.ended.reason.as_str().replace('_', " ");
        write!(self.out, "\nended {at} {reason} ({side}){}", detail.unwrap_or_default())?;
        if let (Some(up), Some(down)) = (closed.bytes_to_upstream, closed.bytes_to_client) {
            write!(self.out, "; {up} bytes to the server, {down} bytes to the client")?;
        }
        writeln!(self.out)
    }
}

/// Which way: `>` to the server, `<` to the client.
fn arrow(direction: Direction) -> char {
    match direction {
        Direction::Request => '>',
        Direction::Response => '<',
    }
}

/// One line of a body, harmless and bounded.
fn shorten_line(line: &str) -> String {
    Escaped(&summary(line, LINE_CHARS_MAX)).to_string()
}

fn decision(approval: &ApprovalRecord) -> String {
    let by = Escaped(approval.by.as_deref().unwrap_or("nobody")).to_string();
    let reason =
        approval.reason.as_deref().map(|reason| format!(": {}", Escaped(reason))).unwrap_or_default();
    match approval.outcome {
        ApprovalOutcome::Approved => format!("approved by {by}{reason}"),
        ApprovalOutcome::Denied => format!("denied by {by}{reason}"),
        ApprovalOutcome::TimedOut => "nobody decided in time".to_owned(),
        ApprovalOutcome::Withdrawn => "withdrawn by the client".to_owned(),
        ApprovalOutcome::Deferred => "not decided yet; the client may ask again".to_owned(),
    }
}

/// One value in harmless, bounded form. Binary values of the common types are decoded, the others shown in hex.
fn show_value(column: &ResultColumn, value: Option<&[u8]>) -> String {
    let Some(value) = value else { return "NULL".to_owned() };
    let decoded = match column.format {
        ValueFormat::Text | ValueFormat::Copy => std::str::from_utf8(value).ok().map(shorten),
        ValueFormat::Binary => decode_binary(column.type_oid, value),
    };
    decoded.unwrap_or_else(|| {
        let shown = value.get(..VALUE_CHARS_MAX / 2).unwrap_or(value);
        let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
        if shown.len() < value.len() { format!("\\x{hex}…") } else { format!("\\x{hex}") }
    })
}

/// PostgreSQL's binary forms (`*send` functions); type OIDs from `pg_type.dat`.
fn decode_binary(type_oid: u32, value: &[u8]) -> Option<String> {
    match type_oid {
        16 => match value {
            [0] => Some("f".to_owned()),
            [1] => Some("t".to_owned()),
            _ => None,
        },
        20 => Some(i64::from_be_bytes(value.try_into().ok()?).to_string()),
        21 => Some(i16::from_be_bytes(value.try_into().ok()?).to_string()),
        23 => Some(i32::from_be_bytes(value.try_into().ok()?).to_string()),
        26 => Some(u32::from_be_bytes(value.try_into().ok()?).to_string()),
        700 => Some(f32::from_be_bytes(value.try_into().ok()?).to_string()),
        701 => Some(f64::from_be_bytes(value.try_into().ok()?).to_string()),
        // name, text, json, xml, unknown, bpchar, varchar
        19 | 25 | 114 | 142 | 705 | 1042 | 1043 => std::str::from_utf8(value).ok().map(shorten),
        _ => None,
    }
}

fn is_number(type_oid: u32) -> bool {
    // int8, int2, int4, oid, float4, float8, numeric
    matches!(type_oid, 20 | 21 | 23 | 26 | 700 | 701 | 1700)
}

fn shorten(text: &str) -> String {
    let mut characters = text.chars();
    let kept: String = characters.by_ref().take(VALUE_CHARS_MAX).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("{}{more}", Escaped(&kept))
}

/// How a command ended, in a line.
fn ran(outcome: Option<&SshOutcome>, elapsed: &str) -> (Tone, String) {
    let Some(outcome) = outcome else { return (Tone::Good, elapsed.to_owned()) };
    if let Some(FileOutcome { size, sha256 }) = &outcome.file {
        let hash =
            sha256.as_ref().map_or_else(|| "moved in pieces".to_owned(), |hash| format!("SHA-256 {hash}"));
        return (Tone::Good, format!("{size} bytes, {hash}, {elapsed}"));
    }
    let ended = match (outcome.exit_status, &outcome.signal) {
        (_, Some(signal)) => (Tone::Bad, format!("killed by SIG{}", Escaped(signal))),
        (Some(0), None) => (Tone::Good, "exit status 0".to_owned()),
        (Some(status), None) => (Tone::Bad, format!("exit status {status}")),
        (None, None) => (Tone::Warning, "closed without an exit status".to_owned()),
    };
    (ended.0, format!("{}, {elapsed}", ended.1))
}
