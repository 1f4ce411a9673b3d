//! One SSH operation in the record: its intent, what goes over its streams, how it ended.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use russh::Sig;

use super::asked::Asked;
use super::connection::Connection;
use crate::gate::{Denial, Permit};
use crate::mask::http::{BodyMasks, Counts};
use crate::mask::terminal::TerminalMasker;
use crate::record::RecordError;
use crate::record::asked::{self as recorded, BoundedText, Parameters, Statements};
use crate::record::event::{self, Intent, Outcome, OutcomeStatus, ServerError};
use crate::record::stream::{FileOutcome, SshAsked, SshOutcome, StreamBlock, StreamName};
use crate::request::ssh::SshOperation;
use crate::upstream::ssh::ServerFacts;

/// Bytes of one stream that are gathered before they are written.
const BLOCK_BYTES: usize = 32 * 1024;

/// What is asked, as the record has it.
pub(super) fn asked(connection: &Connection, number: u64, operation: &SshOperation) -> recorded::Asked {
    let statements = match &operation.command_line {
        Some(line) if !line.commands.is_empty() => Statements::of_commands(&line.commands),
        Some(_) | None => {
            Statements::one(operation.kind.to_string(), operation.effect, operation.reason.clone())
        }
    };
    let masks = connection.masks();
    let shown = |text: &str| writable(masks.as_deref().ok(), text);
    recorded::Asked {
        operation: number,
        text: BoundedText::new(&shown(&operation.text)),
        parameters: Parameters::default(),
        statements,
        database: None,
        estimated_rows: None,
        http: None,
        ssh: Some(Box::new(SshAsked {
            user: connection.remote_user().to_owned(),
            operation: operation.kind.to_string(),
            paths: operation.objects().iter().map(|path| shown(path)).collect(),
            terminal: None,
            variables: Vec::new(),
        })),
    }
}

/// A text of the client as it may be written down: nothing of it when there should be masks and are none.
fn writable(masks: Option<&BodyMasks>, text: &str) -> String {
    match masks {
        Some(masks) => masks.text(text, &mut Counts::new()).unwrap_or_else(|| text.to_owned()),
        None => "(withheld: its masks cannot be applied)".to_owned(),
    }
}

/// That an operation is refused.
pub(super) fn refused(
    connection: &Connection,
    number: u64,
    operation: &SshOperation,
    denial: &Denial,
) -> event::Refused {
    event::Refused {
        asked: asked(connection, number, operation),
        rule: denial.rule.clone(),
        reason: writable(connection.masks().as_deref().ok(), &denial.reason),
        side: denial.side,
        approval: denial.approval.as_deref().cloned(),
        status: None,
    }
}

/// Says once what server this is, and how we logged in.
pub(super) fn logged_in(connection: &Connection, facts: &ServerFacts) {
    let ServerFacts { version, host_key, verified, algorithms, method, key } = facts;
    let key = key.as_ref().map_or_else(String::new, |key| format!(" ({key})"));
    let note = format!(
        "logged in to {version} as {} by {method}{key}; {} {host_key}; {}",
        connection.remote_user(),
        verified.unwrap_or("host key"),
        algorithms.join(", ")
    );
    if let Err(error) = connection.with_record(|record| record.note(&note).map(|_| ())) {
        tracing::error!(%error, "a login could not be recorded");
    }
}

/// One stream being recorded: blocks, within what the policy keeps.
#[derive(Default)]
struct Taken {
    bytes: u64,
    block: Vec<u8>,
}

/// What is kept of an operation's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The bytes, masked.
    Kept,
    /// How many there were: files pass unmasked, and nothing unmasked is written to disk.
    Counted,
}

/// One permitted operation, from its intent to its outcome.
pub(super) struct OperationLog {
    connection: Arc<Connection>,
    number: u64,
    begun: Instant,
    bytes_max: u64,
    kept: u64,
    terminal: bool,
    content: Content,
    /// What is recorded of the input is masked, what the server gets is not.
    stdin_masker: Option<TerminalMasker>,
    /// The same of what comes back, where the client gets it as it is: files.
    stdout_masker: Option<TerminalMasker>,
    /// Whether what is typed at a terminal is kept.
    typed: bool,
    stdin: Taken,
    stdout: Taken,
    stderr: Taken,
    outcome: SshOutcome,
    status: OutcomeStatus,
    error: Option<String>,
    masked: Counts,
    ended: bool,
}

impl OperationLog {
    /// The intent is on record, durably if the policy says so, before anything goes out.
    ///
    /// # Errors
    /// It is not.
    pub(super) async fn begin(
        connection: &Arc<Connection>,
        number: u64,
        operation: &SshOperation,
        with: &Asked,
        permit: Permit,
    ) -> Result<Self, RecordError> {
        let mut asked = asked(connection, number, operation);
        if let Some(ssh) = &mut asked.ssh {
            ssh.terminal = with
                .terminal
                .as_ref()
                .map(|terminal| format!("{} {}x{}", terminal.term, terminal.size.0, terminal.size.1));
            ssh.variables = with.variables.iter().map(|(name, _)| name.clone()).collect();
        }
        let intent = Intent {
            asked,
            rule: permit.rule().to_owned(),
            approval: permit.approval().cloned(),
            shadow: permit.shadow(),
        };
        let lsn = connection.with_record(|record| record.intent(&intent))?;
        if permit.durable() {
            connection.relay.recorder.durable(lsn).await?;
        }
        Ok(Self {
            connection: Arc::clone(connection),
            number,
            begun: Instant::now(),
            bytes_max: connection.admission.policy().record.result_bytes_max,
            kept: 0,
            terminal: with.terminal.is_some(),
            content: Content::Kept,
            stdin_masker: None,
            stdout_masker: None,
            typed: connection.admission.policy().record.typed,
            stdin: Taken::default(),
            stdout: Taken::default(),
            stderr: Taken::default(),
            outcome: SshOutcome::default(),
            status: OutcomeStatus::Unknown,
            error: None,
            masked: Counts::new(),
            ended: false,
        })
    }

    /// How its streams are kept, and what is masked in its input.
    pub(super) fn keep(&mut self, content: Content, masks: Option<&Arc<BodyMasks>>) {
        self.content = content;
        self.stdin_masker = masker(masks);
    }

    /// Bytes of the client that pass.
    ///
    /// # Errors
    /// They cannot be recorded, so they must not pass.
    pub(super) fn input(&mut self, data: &Bytes) -> Result<(), RecordError> {
        let Some(masker) = &mut self.stdin_masker else { return self.chunk(StreamName::Stdin, data) };
        let shown = masker.push(data.clone());
        self.chunk(StreamName::Stdin, &shown)
    }

    /// The content of its file is kept, masked.
    pub(super) fn keep_file(&mut self, masks: &Arc<BodyMasks>) {
        self.content = Content::Kept;
        self.stdin_masker = masker(Some(masks));
        self.stdout_masker = masker(Some(masks));
    }

    /// Bytes of a file that came out of order, and are not kept.
    pub(super) fn leave_out(&mut self, bytes: usize) {
        self.outcome.left_out += bytes as u64;
    }

    /// Bytes of a file that go to the client as they are.
    ///
    /// # Errors
    /// They cannot be recorded, so they must not pass.
    pub(super) fn output(&mut self, data: &Bytes) -> Result<(), RecordError> {
        let Some(masker) = &mut self.stdout_masker else { return self.chunk(StreamName::Stdout, data) };
        let shown = masker.push(data.clone());
        self.chunk(StreamName::Stdout, &shown)
    }

    /// Bytes that pass, as they may be recorded.
    ///
    /// # Errors
    /// They cannot be recorded, so they must not pass.
    pub(super) fn chunk(&mut self, stream: StreamName, data: &Bytes) -> Result<(), RecordError> {
        // What is typed at a terminal may be a password, and nothing here says that its echo is off: what is shown of it comes
        // back as output.
        let typed = self.terminal && stream == StreamName::Stdin;
        let keep = self.content == Content::Kept && (self.typed || !typed);
        let room = usize::try_from(self.bytes_max.saturating_sub(self.kept)).unwrap_or(usize::MAX);
        let kept = if keep { data.get(..room.min(data.len())).unwrap_or_default() } else { &[] };
        self.kept += kept.len() as u64;
        if keep || self.content == Content::Counted {
            self.outcome.left_out += (data.len() - kept.len()) as u64;
        }
        // A terminal is watched as it was: nothing is gathered.
        let gathered = if self.terminal { 0 } else { BLOCK_BYTES };
        let Some(taken) = self.taken(stream) else { return Ok(()) };
        taken.bytes += data.len() as u64;
        taken.block.extend_from_slice(kept);
        if taken.block.len() > gathered { self.flush(stream) } else { Ok(()) }
    }

    /// Nothing has come for a while: what is gathered is written, so that it can be watched.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn pause(&mut self) -> Result<(), RecordError> {
        [StreamName::Stdin, StreamName::Stdout, StreamName::Stderr]
            .into_iter()
            .try_for_each(|stream| self.flush(stream))
    }

    fn taken(&mut self, stream: StreamName) -> Option<&mut Taken> {
        match stream {
            StreamName::Stdin => Some(&mut self.stdin),
            StreamName::Stdout => Some(&mut self.stdout),
            StreamName::Stderr => Some(&mut self.stderr),
            StreamName::Resize => None,
        }
    }

    fn flush(&mut self, stream: StreamName) -> Result<(), RecordError> {
        let operation = self.number;
        let Some(taken) = self.taken(stream) else { return Ok(()) };
        if taken.block.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut taken.block);
        let offset = taken.bytes - bytes.len() as u64;
        self.write(&StreamBlock { operation, stream, offset, bytes })
    }

    fn write(&mut self, block: &StreamBlock) -> Result<(), RecordError> {
        self.connection.with_record(|record| record.stream(block).map(|_| ()))
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// It cannot be recorded.
    pub(super) fn resized(&mut self, columns: u32, rows: u32) -> Result<(), RecordError> {
        self.pause()?;
        let bytes = format!("{columns}x{rows}").into_bytes();
        self.write(&StreamBlock { operation: self.number, stream: StreamName::Resize, offset: 0, bytes })
    }

    /// The command has ended by itself.
    pub(super) fn exited(&mut self, status: u32) {
        self.outcome.exit_status = Some(status);
        self.status = OutcomeStatus::Done;
    }

    /// A signal ended it.
    pub(super) fn killed(&mut self, signal: &Sig, core_dumped: bool, message: &str) {
        let core = if core_dumped { " (core dumped)" } else { "" };
        self.outcome.signal = Some(format!("{}{core}", name(signal)));
        self.status = OutcomeStatus::Done;
        if !message.is_empty() {
            let message: String = message.chars().take(1024).collect();
            self.error = Some(self.writable(&message));
        }
    }

    /// What went through a forward, which has no other end.
    pub(super) fn counted(&mut self, up: usize, down: usize) {
        self.outcome.stdin_bytes = up as u64;
        self.outcome.stdout_bytes = down as u64;
        self.stdin.bytes = up as u64;
        self.stdout.bytes = down as u64;
        self.status = OutcomeStatus::Done;
    }

    /// The file that it moved.
    pub(super) fn file(&mut self, to_server: bool, file: FileOutcome) {
        if to_server {
            self.stdin.bytes = file.size;
        } else {
            self.stdout.bytes = file.size;
        }
        self.outcome.file = Some(file);
    }

    /// What was masked in its output.
    pub(super) fn masked(&mut self, counts: &Counts) {
        for (rule, count) in counts {
            *self.masked.entry(rule.clone()).or_default() += count;
        }
    }

    /// It could not be done.
    pub(super) fn failed(&mut self, why: &str) {
        self.status = OutcomeStatus::Failed;
        self.error = Some(self.writable(why.trim_end()));
    }

    /// Words of a client or a server, as they may be written down.
    fn writable(&self, text: &str) -> String {
        writable(self.connection.masks().as_deref().ok(), text)
    }

    /// It was permitted, and there is nothing more to come.
    pub(super) fn done(&mut self) {
        self.status = OutcomeStatus::Done;
    }

    /// What is still gathered.
    fn rest(&mut self) -> Result<(), RecordError> {
        if let Some(mut masker) = self.stdin_masker.take() {
            let shown = masker.relent();
            self.chunk(StreamName::Stdin, &shown)?;
        }
        if let Some(mut masker) = self.stdout_masker.take() {
            let shown = masker.relent();
            self.chunk(StreamName::Stdout, &shown)?;
        }
        self.pause()
    }

    /// Writes the end.
    pub(super) fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Err(error) = self.rest() {
            tracing::error!(session = %self.connection.id(), %error, "the last of a stream could not be recorded");
        }
        self.outcome.stdin_bytes = self.stdin.bytes;
        self.outcome.stdout_bytes = self.stdout.bytes;
        self.outcome.stderr_bytes = self.stderr.bytes;
        let message = self.error.take();
        let outcome = Outcome {
            operation: self.number,
            status: self.status,
            bytes: self.stdout.bytes + self.stderr.bytes,
            error: message.map(|message| ServerError { sqlstate: String::new(), message }),
            elapsed_us: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            masked: std::mem::take(&mut self.masked),
            ssh: Some(Box::new(std::mem::take(&mut self.outcome))),
            ..Outcome::default()
        };
        if let Err(error) = self.connection.with_record(|record| record.outcome(outcome).map(|_| ())) {
            tracing::error!(%error, "the outcome of an operation could not be recorded");
        }
    }
}

impl Drop for OperationLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// Masks one stream, where there is something to mask.
pub(super) fn masker(masks: Option<&Arc<BodyMasks>>) -> Option<TerminalMasker> {
    masks.filter(|masks| !masks.is_empty()).map(|masks| TerminalMasker::new(Arc::clone(masks)))
}

/// The signal's name (RFC 4254 §6.10).
fn name(signal: &Sig) -> &str {
    match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name,
    }
}
