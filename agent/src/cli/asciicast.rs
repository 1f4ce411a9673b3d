//! One operation of an SSH session as an asciicast, which asciinema plays: version 3
//! (<https://docs.asciinema.org/manual/asciicast/v3/>) or 2 (<https://docs.asciinema.org/manual/asciicast/v2/>).

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::record::event::{ApprovalOutcome, Event, Outcome};
use crate::record::read::Recorded;
use crate::record::stream::{StreamBlock, StreamName};

/// Size of a terminal where none was asked for.
const SIZE_DEFAULT: (u32, u32) = (80, 24);

/// Versions of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// Times since the beginning.
    #[value(name = "2")]
    Two,
    /// Times since the event before, and the exit status.
    #[value(name = "3")]
    Three,
}

/// Writes one operation. What comes of others is passed over.
pub struct Cast<'a> {
    out: &'a mut dyn Write,
    version: Version,
    /// The operation; the first that has output where none is named.
    operation: Option<u64>,
    /// Operations that showed nothing yet.
    asked: BTreeMap<u64, Asked>,
    /// The one that is written has a terminal.
    terminal: bool,
    /// Set once the header is written: when it all began, and when the last event was.
    times: Option<(u64, u64)>,
    stdout: Utf8,
    stderr: Utf8,
}

/// What is known of the operation before its first output.
struct Asked {
    command: String,
    terminal: Option<String>,
    wall_ns: u64,
    at_ns: u64,
    /// Holds and decisions before it ran.
    markers: Vec<(u64, String)>,
}

/// Text that arrives in pieces which may end inside a character.
#[derive(Default)]
struct Utf8(Vec<u8>);

impl Utf8 {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.0) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.0.clear();
                    return text;
                }
                Err(error) => {
                    let (good, rest) = self.0.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(good));
                    match error.error_len() {
                        // The rest of the character comes with the next piece.
                        None => {
                            self.0 = rest.to_vec();
                            return text;
                        }
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            self.0 = rest.get(bad..).unwrap_or_default().to_vec();
                        }
                    }
                }
            }
        }
    }
}

impl<'a> Cast<'a> {
    /// Nothing is written before the operation's first output.
    #[must_use]
    pub fn new(out: &'a mut dyn Write, version: Version, operation: Option<u64>) -> Self {
        Self {
            out,
            version,
            operation,
            asked: BTreeMap::new(),
            terminal: false,
            times: None,
            stdout: Utf8::default(),
            stderr: Utf8::default(),
        }
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// The output fails.
    pub fn event(&mut self, recorded: &Recorded) -> io::Result<()> {
        let (wall_ns, at_ns) = (recorded.header.wall_ns, recorded.header.monotonic_ns);
        match &recorded.event {
            Some(Event::Held(held)) if self.is_wanted(held.asked.operation) => {
                self.asked_for(&held.asked, wall_ns, at_ns);
                self.mark(held.asked.operation, at_ns, format!("held by {}", held.rule));
            }
            Some(Event::Decided(decided)) if self.is_wanted(decided.operation) => {
                let word = match decided.approval.outcome {
                    ApprovalOutcome::Approved => "approved",
                    ApprovalOutcome::Denied => "denied",
                    ApprovalOutcome::TimedOut => "not decided in time",
                    ApprovalOutcome::Withdrawn => "withdrawn",
                    ApprovalOutcome::Deferred => "not decided yet, to be asked again",
                };
                let by = decided.approval.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
                self.mark(decided.operation, at_ns, format!("{word}{by}"));
            }
            Some(Event::Intent(intent)) if self.is_wanted(intent.asked.operation) => {
                self.asked_for(&intent.asked, wall_ns, at_ns);
            }
            Some(Event::Stream(block)) if self.is_wanted(block.operation) => self.stream(block, at_ns)?,
            Some(Event::Outcome(outcome)) if self.is_wanted(outcome.operation) => {
                self.ended(outcome, at_ns)?
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Whether anything was written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.times.is_some()
    }

    fn is_wanted(&self, operation: u64) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
    }

    fn asked_for(&mut self, asked: &crate::record::asked::Asked, wall_ns: u64, at_ns: u64) {
        if self.times.is_some() {
            return;
        }
        self.asked.entry(asked.operation).or_insert_with(|| Asked {
            command: asked.text.text.clone(),
            terminal: asked.ssh.as_ref().and_then(|ssh| ssh.terminal.clone()),
            wall_ns,
            at_ns,
            markers: Vec::new(),
        });
    }

    fn mark(&mut self, operation: u64, at_ns: u64, text: String) {
        if let Some(asked) = self.asked.get_mut(&operation) {
            asked.markers.push((at_ns, text));
        }
    }

    fn stream(&mut self, block: &StreamBlock, at_ns: u64) -> io::Result<()> {
        self.begin(block.operation)?;
        match block.stream {
            StreamName::Resize => self.write(at_ns, "r", &String::from_utf8_lossy(&block.bytes)),
            StreamName::Stdin => self.write(at_ns, "i", &String::from_utf8_lossy(&block.bytes)),
            StreamName::Stdout | StreamName::Stderr => {
                let text =
                    if block.stream == StreamName::Stderr { &mut self.stderr } else { &mut self.stdout };
                let text = text.push(&block.bytes);
                // Without a terminal nobody moved the cursor back to the beginning of the line.
                let text = if self.terminal { text } else { text.replace('\n', "\r\n") };
                self.write(at_ns, "o", &text)
            }
        }
    }

    /// The header, and what happened before the first output.
    fn begin(&mut self, operation: u64) -> io::Result<()> {
        if self.times.is_some() {
            return Ok(());
        }
        self.operation = Some(operation);
        let Some(asked) = self.asked.remove(&operation) else { return Ok(()) };
        self.asked.clear();
        self.terminal = asked.terminal.is_some();
        let terminal = asked.terminal.as_deref().and_then(|text| text.rsplit_once(' '));
        let (kind, size) = terminal.map_or((None, None), |(kind, size)| (Some(kind), size.split_once('x')));
        let (columns, rows) = size
            .and_then(|(columns, rows)| Some((columns.parse().ok()?, rows.parse().ok()?)))
            .unwrap_or(SIZE_DEFAULT);
        let (timestamp, command) = (asked.wall_ns / 1_000_000_000, asked.command.as_str());
        let header = match self.version {
            Version::Three => {
                let mut term = json!({ "cols": columns, "rows": rows });
                if let (Some(kind), Some(term)) = (kind, term.as_object_mut()) {
                    term.insert("type".to_owned(), Value::from(kind));
                }
                json!({ "version": 3, "term": term, "timestamp": timestamp, "command": command })
            }
            Version::Two => {
                let env = kind.map_or_else(|| json!({}), |kind| json!({ "TERM": kind }));
                json!({ "version": 2, "width": columns, "height": rows, "timestamp": timestamp,
                        "command": command, "env": env })
            }
        };
        writeln!(self.out, "{header}")?;
        let at_ns = asked.at_ns;
        self.times = Some((at_ns, at_ns));
        for (at_ns, text) in asked.markers {
            self.write(at_ns, "m", &text)?;
        }
        Ok(())
    }

    fn ended(&mut self, outcome: &Outcome, at_ns: u64) -> io::Result<()> {
        let Some(ssh) = outcome.ssh.as_ref().filter(|_| self.operation == Some(outcome.operation)) else {
            return Ok(());
        };
        if let (Version::Three, Some(status), true) = (self.version, ssh.exit_status, self.is_written()) {
            self.write(at_ns, "x", &status.to_string())?;
        }
        Ok(())
    }

    fn write(&mut self, at_ns: u64, code: &str, text: &str) -> io::Result<()> {
        let Some((begun, last)) = &mut self.times else { return Ok(()) };
        if text.is_empty() {
            return Ok(());
        }
        let since = match self.version {
            Version::Two => at_ns.saturating_sub(*begun),
            Version::Three => at_ns.saturating_sub(*last),
        };
        *last = at_ns.max(*last);
        // Microseconds are what terminals can tell apart, and more.
        let seconds = json!(std::time::Duration::from_nanos(since / 1000 * 1000).as_secs_f64());
        writeln!(self.out, "{}", json!([seconds, code, text]))
    }
}

#[cfg(test)]
mod tests {
    use super::Utf8;

    #[test]
    fn characters_that_are_cut_are_put_together() {
        let text = "é\u{1f980} x";
        for cut in 0..text.len() {
            let mut utf8 = Utf8::default();
            let first = utf8.push(&text.as_bytes()[..cut]);
            assert_eq!(first + &utf8.push(&text.as_bytes()[cut..]), text);
        }
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"a\xffb\xf0\x9f"), "a\u{fffd}b");
        assert_eq!(utf8.push(b"x"), "\u{fffd}x");
    }
}
