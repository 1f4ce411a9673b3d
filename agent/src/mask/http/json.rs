//! JSON documents as they stream by: rules by place, detectors over what strings say once their escapes are read. The
//! tokenizer is lenient: it follows strings and brackets, and nothing a server sends makes it stop masking.

use std::borrow::Cow;

use super::path::{Progress, Step, advance, at_root};
use super::text::TextMasker;
use super::{BodyMasks, Counts, FieldRule, JsonPath, count};
use crate::mask::Method;
use crate::mask::method::{REDACTED, partial_value};

/// Strings up to this many bytes are gathered; longer ones stream through a window.
const STRING_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a string already written that are kept before the rest, because matchers look back.
const CONTEXT_BYTES: usize = 1024;

/// How deep values may nest before rules by place give up and redact what is deeper.
const DEPTH_MAX: usize = 512;

/// One body of JSON documents being rewritten.
#[derive(Default)]
pub(super) struct JsonMasker {
    state: State,
    levels: Vec<Level>,
    /// Levels opened beyond [`DEPTH_MAX`] where no rule follows them.
    deeper: u64,
    /// What is being gathered: a string without its quotes, or what stands between structural characters.
    token: Vec<u8>,
    /// Length of the part of `token` that was written already.
    written: usize,
    /// A text that turned out to be no JSON.
    text: Option<TextMasker>,
}

#[derive(Default)]
enum State {
    /// Outside strings.
    #[default]
    Between,
    /// Inside a string.
    String { role: Role, escaped: bool },
    /// Inside a value that a rule replaces.
    Masked { rule: usize, depth: u32, string: bool, escaped: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Value,
}

/// One open object or array.
struct Level {
    object: bool,
    key_next: bool,
    key: String,
    index: u64,
    progress: Progress,
}

impl JsonMasker {
    pub(super) fn push(&mut self, masks: &BodyMasks, counts: &mut Counts, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            if let Some(text) = &mut self.text {
                return text.push(masks, counts, rest, out);
            }
            rest = match self.state {
                State::Between => self.between(masks, counts, rest, out),
                State::String { .. } => self.string(masks, counts, rest, out),
                State::Masked { .. } => self.masked(masks, counts, rest, out),
            };
        }
    }

    pub(super) fn finish(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        if let Some(text) = &mut self.text {
            return text.finish(masks, counts, out);
        }
        match self.state {
            State::Between => self.flush_bare(masks, counts, out),
            State::String { .. } => self.flush_string(masks, counts, true, out),
            State::Masked { rule, .. } => self.replace_masked(masks, counts, rule, false, out),
        }
    }

    fn between<'p>(
        &mut self,
        masks: &BodyMasks,
        counts: &mut Counts,
        rest: &'p [u8],
        out: &mut Vec<u8>,
    ) -> &'p [u8] {
        let structural = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':');
        let at = rest.iter().position(structural).unwrap_or(rest.len());
        let (bare, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        self.token.extend_from_slice(bare);
        if self.levels.is_empty() && self.deeper == 0 && is_prose(&self.token) {
            return self.turn_to_text(masks, counts, after, out);
        }
        if self.token.len() > STRING_BYTES_MAX {
            self.flush_bare(masks, counts, out);
        }
        let Some((byte, after)) = after.split_first() else { return &[] };
        self.flush_bare(masks, counts, out);
        match byte {
            b'"' => self.open_string(masks, out),
            b'{' | b'[' => self.open(masks, *byte, out),
            b'}' | b']' => {
                if self.deeper > 0 {
                    self.deeper -= 1;
                } else {
                    self.levels.pop();
                }
                out.push(*byte);
            }
            _ => {
                if let Some(level) = self.levels.last_mut() {
                    level.key_next = level.object && *byte == b',';
                    level.index += u64::from(*byte == b',');
                }
                out.push(*byte);
            }
        }
        after
    }

    /// What claimed to be JSON is none: all that is still here, and all that comes, is text.
    fn turn_to_text<'p>(
        &mut self,
        masks: &BodyMasks,
        counts: &mut Counts,
        after: &[u8],
        out: &mut Vec<u8>,
    ) -> &'p [u8] {
        let mut text = TextMasker::default();
        text.push(masks, counts, &std::mem::take(&mut self.token), out);
        text.push(masks, counts, after, out);
        self.text = Some(text);
        &[]
    }

    /// The rule that replaces the value that begins now, and where the paths stand inside it.
    fn value_begins(&mut self, masks: &BodyMasks) -> (Progress, Option<usize>) {
        if masks.json.is_empty() {
            return (Progress::new(), None);
        }
        let Some(level) = self.levels.last() else { return (at_root(masks.json.len()), None) };
        let step = if level.object { Step::Member(&level.key) } else { Step::Element(level.index) };
        advance(|number| masks.json.get(number).map(|rule| &rule.what), &level.progress, step)
    }

    fn open(&mut self, masks: &BodyMasks, byte: u8, out: &mut Vec<u8>) {
        let (progress, reached) = self.value_begins(masks);
        let too_deep = self.levels.len() >= DEPTH_MAX;
        let rule = reached.or_else(|| progress.first().filter(|_| too_deep).map(|(number, _)| *number));
        if let Some(rule) = rule {
            self.token.push(byte);
            self.state = State::Masked { rule, depth: 1, string: false, escaped: false };
            return;
        }
        out.push(byte);
        if too_deep {
            self.deeper += 1;
            return;
        }
        let object = byte == b'{';
        self.levels.push(Level { object, key_next: object, key: String::new(), index: 0, progress });
    }

    fn open_string(&mut self, masks: &BodyMasks, out: &mut Vec<u8>) {
        let key = self.deeper == 0 && self.levels.last().is_some_and(|level| level.key_next);
        if !key && let (_, Some(rule)) = self.value_begins(masks) {
            self.token.push(b'"');
            self.state = State::Masked { rule, depth: 0, string: true, escaped: false };
            return;
        }
        out.push(b'"');
        self.state = State::String { role: if key { Role::Key } else { Role::Value }, escaped: false };
    }

    fn string<'p>(
        &mut self,
        masks: &BodyMasks,
        counts: &mut Counts,
        rest: &'p [u8],
        out: &mut Vec<u8>,
    ) -> &'p [u8] {
        let State::String { role, escaped } = &mut self.state else { return rest };
        let (role, mut at) = (*role, 0);
        let closed = loop {
            if *escaped {
                if rest.get(at).is_none() {
                    break false;
                }
                *escaped = false;
                at += 1;
                continue;
            }
            match rest.get(at..).and_then(|tail| memchr::memchr2(b'"', b'\\', tail)) {
                None => {
                    at = rest.len();
                    break false;
                }
                Some(found) => {
                    at += found;
                    if rest.get(at) == Some(&b'"') {
                        break true;
                    }
                    *escaped = true;
                    at += 1;
                }
            }
        };
        let (part, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        self.token.extend_from_slice(part);
        if !closed {
            if self.token.len() > STRING_BYTES_MAX {
                self.flush_string(masks, counts, false, out);
            }
            return after;
        }
        if role == Role::Key && !masks.json.is_empty() {
            let key = unescape(&self.token).text;
            if let Some(level) = self.levels.last_mut() {
                level.key = String::from_utf8_lossy(&key).into_owned();
            }
        }
        self.flush_string(masks, counts, true, out);
        out.push(b'"');
        self.state = State::Between;
        after.get(1..).unwrap_or_default()
    }

    /// Writes what is decided of the string: detectors look at what it says, its bytes stay what they were.
    fn flush_string(&mut self, masks: &BodyMasks, counts: &mut Counts, complete: bool, out: &mut Vec<u8>) {
        if masks.finder.is_empty() {
            out.extend_from_slice(self.token.get(self.written..).unwrap_or_default());
            self.clear();
            return;
        }
        let read = unescape(&self.token);
        let decided = if complete { read.text.len() } else { masks.finder.decided(&read.text) };
        let end = if complete { self.token.len() } else { read.raw(decided) };
        let mut at = self.written;
        for found in masks.finder.find(&read.text) {
            let (start, stop) = (read.raw(found.range.start), read.raw(found.range.end));
            if stop <= at || start >= end {
                continue;
            }
            out.extend_from_slice(self.token.get(at..start.max(at)).unwrap_or_default());
            if start >= self.written {
                let text = read.text.get(found.range.clone()).unwrap_or_default();
                escape(&found.replacement(text, &masks.key), out);
                count(counts, found.name(), 1);
            }
            at = stop;
        }
        let end = end.max(at);
        out.extend_from_slice(self.token.get(at..end).unwrap_or_default());
        if complete {
            drop(read);
            self.clear();
            return;
        }
        // The context that stays begins at a whole character, as the map has it.
        let kept = read.raw(decided.saturating_sub(CONTEXT_BYTES)).min(end);
        drop(read);
        self.token.drain(..kept);
        self.written = end - kept;
    }

    fn clear(&mut self) {
        self.token.clear();
        self.written = 0;
    }

    /// Writes what stands between structural characters: a number, a word, blanks, or what is no JSON.
    fn flush_bare(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        if !self.token.trim_ascii().is_empty()
            && let (_, Some(number)) = self.value_begins(masks)
            && let Some(rule) = masks.json.get(number)
        {
            let before = self.token.len() - self.token.trim_ascii_start().len();
            let after = self.token.trim_ascii_end().len();
            out.extend_from_slice(self.token.get(..before).unwrap_or_default());
            write_replacement(masks, rule, self.token.trim_ascii(), false, out);
            out.extend_from_slice(self.token.get(after..).unwrap_or_default());
            count(counts, &rule.rule, 1);
            return self.clear();
        }
        let matches = masks.finder.find(&self.token);
        let number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let bare_number = self.token.trim_ascii().iter().all(number);
        let mut at = 0;
        for found in matches {
            let (start, end) = if bare_number {
                let before = self.token.len() - self.token.trim_ascii_start().len();
                (before, self.token.trim_ascii_end().len())
            } else {
                (found.range.start, found.range.end)
            };
            if end <= at {
                continue;
            }
            out.extend_from_slice(self.token.get(at..start).unwrap_or_default());
            let text = self.token.get(found.range.clone()).unwrap_or_default();
            let replacement = found.replacement(text, &masks.key);
            if bare_number {
                out.push(b'"');
                escape(&replacement, out);
                out.push(b'"');
            } else {
                out.extend_from_slice(&replacement);
            }
            count(counts, found.name(), 1);
            at = end;
        }
        out.extend_from_slice(self.token.get(at..).unwrap_or_default());
        self.clear();
    }

    fn masked<'p>(
        &mut self,
        masks: &BodyMasks,
        counts: &mut Counts,
        rest: &'p [u8],
        out: &mut Vec<u8>,
    ) -> &'p [u8] {
        let State::Masked { rule, depth, string, escaped } = &mut self.state else { return rest };
        let rule = *rule;
        for (index, byte) in rest.iter().enumerate() {
            if self.token.len() <= STRING_BYTES_MAX {
                self.token.push(*byte);
            }
            match (*string, *escaped, byte) {
                (true, true, _) => *escaped = false,
                (true, false, b'\\') => *escaped = true,
                (true, false, b'"') => *string = false,
                (false, _, b'"') => *string = true,
                (false, _, b'{' | b'[') => *depth += 1,
                (false, _, b'}' | b']') => *depth = depth.saturating_sub(1),
                (true | false, _, _) => {}
            }
            if *depth == 0 && !*string {
                self.replace_masked(masks, counts, rule, true, out);
                self.state = State::Between;
                return rest.get(index + 1..).unwrap_or_default();
            }
        }
        &[]
    }

    fn replace_masked(
        &mut self,
        masks: &BodyMasks,
        counts: &mut Counts,
        number: usize,
        complete: bool,
        out: &mut Vec<u8>,
    ) {
        if let Some(rule) = masks.json.get(number) {
            let whole = complete && self.token.len() <= STRING_BYTES_MAX;
            let string = self.token.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            match string.filter(|_| whole) {
                Some(raw) => write_replacement(masks, rule, &unescape(raw).text, false, out),
                None => write_replacement(masks, rule, &self.token, !whole || string.is_none(), out),
            }
            count(counts, &rule.rule, 1);
        }
        self.clear();
    }
}

/// Writes what stands in place of a value. Of a container, or a value that was not seen whole, nothing is shown.
fn write_replacement(
    masks: &BodyMasks,
    rule: &FieldRule<JsonPath>,
    value: &[u8],
    opaque: bool,
    out: &mut Vec<u8>,
) {
    let text: Cow<'_, [u8]> = match rule.method {
        Method::Null => return out.extend_from_slice(b"null"),
        Method::Redact => Cow::Borrowed(REDACTED.as_bytes()),
        Method::Hash => Cow::Owned(masks.key.token(value).into_bytes()),
        Method::Partial if opaque => Cow::Borrowed(REDACTED.as_bytes()),
        Method::Partial => Cow::Owned(partial_value(value)),
    };
    out.push(b'"');
    escape(&text, out);
    out.push(b'"');
}

/// Whether what stands at the root is neither a number nor a word of JSON.
fn is_prose(token: &[u8]) -> bool {
    let word = token.trim_ascii();
    let literal = [&b"true"[..], b"false", b"null", b"\xef\xbb\xbf", b")]}'"];
    let number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    !word.iter().all(number) && !literal.iter().any(|known| known.starts_with(word))
}

/// A string as it reads, and where each of its bytes came from.
struct Unescaped<'r> {
    text: Cow<'r, [u8]>,
    /// Offset in the raw string of each byte of `text`, and of its end; empty when they are the same.
    from: Vec<u32>,
}

impl Unescaped<'_> {
    fn raw(&self, at: usize) -> usize {
        if self.from.is_empty() {
            return at;
        }
        self.from.get(at).or(self.from.last()).map_or(at, |from| *from as usize)
    }
}

/// Reads the escapes of a string (RFC 8259 section 7). What is no escape stays as it is; an escape that is cut off at the
/// end is left out.
fn unescape(raw: &[u8]) -> Unescaped<'_> {
    if memchr::memchr(b'\\', raw).is_none() {
        return Unescaped { text: Cow::Borrowed(raw), from: Vec::new() };
    }
    let (mut text, mut from) = (Vec::with_capacity(raw.len()), Vec::with_capacity(raw.len() + 1));
    let mut at = 0;
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    while let Some(byte) = raw.get(at) {
        if *byte != b'\\' {
            text.push(*byte);
            from.push(offset(at));
            at += 1;
            continue;
        }
        let Some((read, length)) = escape_at(raw, at) else { break };
        let mut buffer = [0; 4];
        for byte in read.encode_utf8(&mut buffer).bytes() {
            text.push(byte);
            from.push(offset(at));
        }
        at += length;
    }
    from.push(offset(at));
    Unescaped { text: Cow::Owned(text), from }
}

/// The escape at a position and its length; `None` when it is cut off.
fn escape_at(raw: &[u8], at: usize) -> Option<(char, usize)> {
    let plain = match raw.get(at + 1)? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => return unicode_at(raw, at),
        other => char::from(*other),
    };
    Some((plain, 2))
}

fn unicode_at(raw: &[u8], at: usize) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = raw.get(at..at + 4)?;
        Some(std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok()))
    };
    let Some(first) = unit(at + 2)? else { return Some(('u', 2)) };
    if let Some(plain) = char::from_u32(first) {
        return Some((plain, 6));
    }
    // The first of a surrogate pair (RFC 8259 section 7).
    let follows =
        raw.get(at + 6).is_none_or(|byte| *byte == b'\\') && raw.get(at + 7).is_none_or(|byte| *byte == b'u');
    if !follows || !(0xd800..0xdc00).contains(&first) {
        return Some((char::REPLACEMENT_CHARACTER, 6));
    }
    let Some(second) = unit(at + 8)? else { return Some((char::REPLACEMENT_CHARACTER, 6)) };
    if !(0xdc00..0xe000).contains(&second) {
        return Some((char::REPLACEMENT_CHARACTER, 6));
    }
    let joined = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    Some((char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER), 12))
}

/// Appends text as the inside of a JSON string.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', u8::try_from(c).unwrap_or(b'?')]),
            c if u32::from(c) < 0x20 => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Says what becomes of a document's string: by its number, and as it reads.
pub(super) type StringRewriter<'r> = dyn FnMut(usize, &[u8]) -> Option<Vec<u8>> + 'r;

/// The string leaves of one JSON document with their places, for those who look across documents.
pub(super) fn rewrite_strings(document: &[u8], rewrite: &mut StringRewriter<'_>, out: &mut Vec<u8>) {
    let (mut at, mut number) = (0, 0);
    while let Some(found) = document.get(at..).and_then(|rest| memchr::memchr(b'"', rest)) {
        let start = at + found + 1;
        let mut end = start;
        while let Some(byte) = document.get(end) {
            match byte {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let raw = document.get(start..end).unwrap_or_default();
        out.extend_from_slice(document.get(at..start).unwrap_or_default());
        match rewrite(number, &unescape(raw).text) {
            Some(new) => escape(&new, out),
            None => out.extend_from_slice(raw),
        }
        number += 1;
        at = end.min(document.len());
        // The closing quote, if it is there.
        if document.get(at) == Some(&b'"') {
            out.push(b'"');
            at += 1;
        }
    }
    out.extend_from_slice(document.get(at..).unwrap_or_default());
}
