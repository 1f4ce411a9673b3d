//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>): each goes out the moment it is
//! complete, unless its text could be the beginning of something that goes on in the next. Language models send their
//! answers so, a few characters an event, and a secret is then spread over many.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::json::{JsonMasker, rewrite_strings};
use super::text::TextMasker;
use super::{BodyMasks, Counts, count, looks_like_json};
use crate::mask::method::REDACTED;

/// Longest event, in bytes; a body with a longer one is masked as plain text from there on.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Events held back at once, and their bytes; beyond it what is undecided is redacted.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 1024 * 1024;

/// Events without a text after which that text counts as ended.
const GAP_EVENTS_MAX: u64 = 16;

/// Texts that are followed at once.
const THREADS_MAX: usize = 64;

/// Bytes of a text already released that are kept, because matchers look back.
const CONTEXT_BYTES: usize = 1024;

/// Members whose texts go on from event to event, in the events of model APIs and of whatever else streams text.
const CONTINUED: [&str; 21] = [
    "answer",
    "arguments",
    "chunk",
    "completion",
    "content",
    "data",
    "delta",
    "generated_text",
    "input_json",
    "message",
    "output",
    "output_text",
    "partial_json",
    "reasoning",
    "reasoning_content",
    "refusal",
    "response",
    "summary",
    "text",
    "thinking",
    "token",
];

/// One stream of events being rewritten.
#[derive(Default)]
pub(super) struct EventMasker {
    /// The event that is coming in.
    event: Vec<u8>,
    /// Where its current line begins.
    line: usize,
    number: u64,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    threads: HashMap<String, Thread>,
    /// Events are too long: the rest is text.
    text: Option<TextMasker>,
}

/// An event that waits, as it came.
struct Pending {
    raw: Vec<u8>,
    /// Where its `data:` values stand.
    data: Vec<Range<usize>>,
    pieces: Vec<Piece>,
}

/// A part of a text that goes on over events.
struct Piece {
    thread: String,
    /// Which string of the document it is.
    string: usize,
    /// Its place in the thread.
    range: Range<usize>,
}

/// A text that goes on over events.
#[derive(Default)]
struct Thread {
    /// Place of `text`'s first byte.
    base: usize,
    text: Vec<u8>,
    last_event: u64,
    closed: bool,
}

impl EventMasker {
    pub(super) fn push(&mut self, masks: &BodyMasks, counts: &mut Counts, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            if let Some(text) = &mut self.text {
                return text.push(masks, counts, rest, out);
            }
            // As far as the next line end, so that an event is seen when its last byte comes.
            let at = memchr::memchr2(b'\n', b'\r', rest).map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
            self.event.extend_from_slice(line);
            rest = after;
            if self.line_ended(rest) {
                let blank = self.event.get(self.line..).is_some_and(|line| line.trim_ascii().is_empty());
                self.line = self.event.len();
                if blank {
                    self.complete(masks, counts, out);
                }
            }
            if self.event.len() > EVENT_BYTES_MAX {
                self.give_up(masks, counts, out);
            }
        }
    }

    pub(super) fn finish(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        if let Some(text) = &mut self.text {
            return text.finish(masks, counts, out);
        }
        if !self.event.is_empty() {
            self.complete(masks, counts, out);
        }
        self.close_all();
        self.release(masks, counts, out);
    }

    /// The line is over; of CR LF only with the LF.
    fn line_ended(&self, rest: &[u8]) -> bool {
        match self.event.last() {
            Some(b'\n') => true,
            Some(b'\r') => rest.first().is_some_and(|next| *next != b'\n'),
            Some(_) | None => false,
        }
    }

    /// An event too long to be looked at as one.
    fn give_up(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        self.close_all();
        self.release(masks, counts, out);
        let mut text = TextMasker::default();
        text.push(masks, counts, &std::mem::take(&mut self.event), out);
        self.text = Some(text);
    }

    /// An event was held back.
    pub(super) fn holds(&self) -> bool {
        !self.pending.is_empty() || self.text.as_ref().is_some_and(TextMasker::holds)
    }

    /// Nothing has come for a while: a text that ends in an ordinary word counts as ended.
    pub(super) fn relent(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        if let Some(text) = &mut self.text {
            return text.relent(masks, counts, out);
        }
        for thread in self.threads.values_mut() {
            thread.closed |= masks.finder.decided_but_words(&thread.text) == thread.text.len();
        }
        self.release(masks, counts, out);
    }

    fn close_all(&mut self) {
        self.threads.values_mut().for_each(|thread| thread.closed = true);
    }

    /// Takes up a complete event and releases what is decided.
    fn complete(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        let raw = std::mem::take(&mut self.event);
        self.line = 0;
        self.number += 1;
        let data = data_lines(&raw);
        let payload = joined(&raw, &data);
        if payload.trim_ascii() == b"[DONE]" {
            self.close_all();
        }
        let pieces = if masks.finder.is_empty() { Vec::new() } else { self.take_up(&payload) };
        for thread in self.threads.values_mut() {
            thread.closed |= self.number - thread.last_event > GAP_EVENTS_MAX;
        }
        self.pending_bytes += raw.len();
        self.pending.push_back(Pending { raw, data, pieces });
        self.release(masks, counts, out);
        while self.pending.len() > PENDING_MAX || self.pending_bytes > PENDING_BYTES_MAX {
            self.release_front(masks, counts, out, true);
        }
    }

    /// Adds an event's continued texts to their threads.
    fn take_up(&mut self, payload: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if payload.is_empty() {
            return pieces;
        }
        // Plain data is one text per event: nothing says that the next goes on with it.
        let leaves = if looks_like_json(payload) { continued_leaves(payload) } else { None };
        for (string, place, text) in leaves.unwrap_or_default() {
            pieces.extend(self.join(place, string, &text));
        }
        pieces
    }

    fn join(&mut self, place: String, string: usize, text: &[u8]) -> Option<Piece> {
        if self.threads.len() >= THREADS_MAX && !self.threads.contains_key(&place) {
            // Looked at by itself only.
            return None;
        }
        let thread = self.threads.entry(place.clone()).or_default();
        if thread.closed {
            // What comes now is another text; a separator keeps the two apart.
            thread.text.push(b'\n');
            thread.closed = false;
        }
        let start = thread.base + thread.text.len();
        thread.text.extend_from_slice(text);
        thread.last_event = self.number;
        Some(Piece { thread: place, string, range: start..start + text.len() })
    }

    /// Sends out what nothing can change any more, in order.
    fn release(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        let decided: HashMap<&str, usize> =
            self.threads.iter().map(|(place, thread)| (place.as_str(), thread.decided(masks))).collect();
        let ready = self
            .pending
            .iter()
            .take_while(|event| {
                event.pieces.iter().all(|piece| {
                    decided.get(piece.thread.as_str()).is_none_or(|decided| piece.range.end <= *decided)
                })
            })
            .count();
        for _ in 0..ready {
            self.release_front(masks, counts, out, false);
        }
        if self.pending.is_empty() {
            self.threads.retain(|_, thread| !thread.closed);
            self.threads.values_mut().for_each(Thread::forget);
        }
    }

    fn release_front(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>, forced: bool) {
        let Some(event) = self.pending.pop_front() else { return };
        self.pending_bytes -= event.raw.len();
        let payload = joined(&event.raw, &event.data);
        let mut rewritten = payload.clone();
        let replaced: Vec<(usize, Vec<u8>)> = event
            .pieces
            .iter()
            .filter_map(|piece| {
                let thread = self.threads.get(&piece.thread)?;
                Some((piece.string, thread.rewritten(masks, counts, &piece.range, forced)?))
            })
            .collect();
        if !replaced.is_empty() {
            rewritten = apply(&payload, &replaced);
        }
        let mut masked = Vec::with_capacity(rewritten.len());
        if looks_like_json(&rewritten) {
            let mut json = JsonMasker::default();
            json.push(masks, counts, &rewritten, &mut masked);
            json.finish(masks, counts, &mut masked);
        } else {
            let mut text = TextMasker::default();
            text.push(masks, counts, &rewritten, &mut masked);
            text.finish(masks, counts, &mut masked);
        }
        if masked == payload {
            write_fields(masks, counts, &event.raw, &event.data, None, out);
        } else {
            write_fields(masks, counts, &event.raw, &event.data, Some(&masked), out);
        }
    }
}

impl Thread {
    fn decided(&self, masks: &BodyMasks) -> usize {
        self.base + if self.closed { self.text.len() } else { masks.finder.decided(&self.text) }
    }

    /// What becomes of a stretch; `None` when it stays. A match is replaced where it begins, and the stretches it goes on in
    /// lose their part of it.
    fn rewritten(
        &self,
        masks: &BodyMasks,
        counts: &mut Counts,
        range: &Range<usize>,
        forced: bool,
    ) -> Option<Vec<u8>> {
        let (start, end) = (range.start.checked_sub(self.base)?, range.end.checked_sub(self.base)?);
        let decided = if forced { self.decided(masks).saturating_sub(self.base) } else { self.text.len() };
        let (mut out, mut at, mut changed) = (Vec::new(), start, false);
        for found in masks.finder.find(&self.text) {
            if found.range.end <= at || found.range.start >= end.min(decided) {
                continue;
            }
            out.extend_from_slice(self.text.get(at..found.range.start.max(at)).unwrap_or_default());
            if found.range.start >= start {
                let text = self.text.get(found.range.clone()).unwrap_or_default();
                out.extend_from_slice(&found.replacement(text, &masks.key));
                count(counts, found.name(), 1);
            }
            at = found.range.end.min(end);
            changed = true;
        }
        let rest = end.min(decided).max(at);
        out.extend_from_slice(self.text.get(at..rest).unwrap_or_default());
        if rest < end {
            out.extend_from_slice(REDACTED.as_bytes());
            count(counts, "too long to wait for", 1);
            changed = true;
        }
        changed.then_some(out)
    }

    /// Everything is released: only what matchers look back at stays.
    fn forget(&mut self) {
        let drained = self.text.len().saturating_sub(CONTEXT_BYTES);
        self.text.drain(..drained);
        self.base += drained;
    }
}

/// Puts new texts in place of a document's strings.
fn apply(payload: &[u8], replaced: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len());
    let mut rewrite = |number: usize, _: &[u8]| {
        replaced.iter().find(|(string, _)| *string == number).map(|(_, text)| text.clone())
    };
    rewrite_strings(payload, &mut rewrite, &mut out);
    out
}

/// The values of an event's `data:` lines.
fn data_lines(raw: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let line = raw.get(at..).unwrap_or_default();
        let length = memchr::memchr2(b'\n', b'\r', line).unwrap_or(line.len());
        if let Some(value) = line.get(..length).and_then(|line| line.strip_prefix(b"data:")) {
            let skipped = 5 + usize::from(value.first() == Some(&b' '));
            found.push((at + skipped).min(at + length)..at + length);
        }
        at += length + 1;
    }
    found
}

fn joined(raw: &[u8], data: &[Range<usize>]) -> Vec<u8> {
    let lines: Vec<&[u8]> = data.iter().filter_map(|range| raw.get(range.clone())).collect();
    lines.join(&b'\n')
}

/// Writes an event with new data. What is not data (`id:`, `event:`, comments) is under the detectors alone.
fn write_fields(
    masks: &BodyMasks,
    counts: &mut Counts,
    raw: &[u8],
    data: &[Range<usize>],
    new: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    let mut other = |text: &[u8], out: &mut Vec<u8>| match masks.scan(text, counts) {
        Some(masked) => out.extend_from_slice(&masked),
        None => out.extend_from_slice(text),
    };
    let mut at = 0;
    let lines: Option<Vec<&[u8]>> = new.map(|new| new.split(|byte| *byte == b'\n').collect());
    for (index, range) in data.iter().enumerate() {
        other(raw.get(at..range.start).unwrap_or_default(), out);
        match &lines {
            None => out.extend_from_slice(raw.get(range.clone()).unwrap_or_default()),
            Some(lines) if index + 1 == data.len() => {
                // The last line takes all that is left.
                let rest = lines.get(index..).unwrap_or_default();
                out.extend_from_slice(&rest.join(&b"\ndata: "[..]));
            }
            Some(lines) => out.extend_from_slice(lines.get(index).copied().unwrap_or_default()),
        }
        at = range.end;
    }
    other(raw.get(at..).unwrap_or_default(), out);
}

/// The strings of a document that go on from event to event: number among its strings, place, text. `None` when it is no
/// JSON document.
fn continued_leaves(document: &[u8]) -> Option<Vec<(usize, String, Vec<u8>)>> {
    let _valid: serde::de::IgnoredAny = serde_json::from_slice(document).ok()?;
    let mut walk = Walk { document, at: 0, strings: 0, leaves: Vec::new() };
    walk.value("", 0)?;
    Some(walk.leaves)
}

/// Follows a document that is known to be valid.
struct Walk<'d> {
    document: &'d [u8],
    at: usize,
    strings: usize,
    leaves: Vec<(usize, String, Vec<u8>)>,
}

impl Walk<'_> {
    fn value(&mut self, place: &str, depth: usize) -> Option<()> {
        // serde_json stops at 128 levels itself.
        if depth > 128 {
            return None;
        }
        self.blanks();
        match self.document.get(self.at)? {
            b'{' => self.object(place, depth),
            b'[' => self.array(place, depth),
            b'"' => {
                let (number, text) = self.string()?;
                let name = place
                    .rsplit('.')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '[' | ']'));
                if CONTINUED.contains(&name) {
                    self.leaves.push((number, place.to_owned(), text));
                }
                Some(())
            }
            _ => {
                let word = |byte: &u8| !matches!(byte, b',' | b']' | b'}') && !byte.is_ascii_whitespace();
                self.at += self.document.get(self.at..)?.iter().take_while(|byte| word(byte)).count();
                Some(())
            }
        }
    }

    fn object(&mut self, place: &str, depth: usize) -> Option<()> {
        self.at += 1;
        loop {
            self.blanks();
            match self.document.get(self.at)? {
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                b'"' => {
                    let (_, key) = self.string()?;
                    self.blanks();
                    // The colon.
                    self.at += 1;
                    let key = String::from_utf8_lossy(&key).into_owned();
                    self.value(&format!("{place}.{key}"), depth + 1)?;
                }
                _ => self.at += 1,
            }
        }
    }

    fn array(&mut self, place: &str, depth: usize) -> Option<()> {
        self.at += 1;
        let mut index = 0;
        loop {
            self.blanks();
            match self.document.get(self.at)? {
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => {
                    self.at += 1;
                    index += 1;
                }
                _ => self.value(&format!("{place}[{index}]"), depth + 1)?,
            }
        }
    }

    fn string(&mut self) -> Option<(usize, Vec<u8>)> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            match self.document.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let raw = self.document.get(start - 1..=end)?;
        let text: String = serde_json::from_slice(raw).ok()?;
        self.at = end + 1;
        self.strings += 1;
        Some((self.strings - 1, text.into_bytes()))
    }

    fn blanks(&mut self) {
        let rest = self.document.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }
}
