//! Lines typed at a shell's prompt: from what the server shows and the keys that go to it, the line that Enter would run, or why
//! it cannot be told. Pure; whoever drives it says how long nothing came.
//!
//! This is no boundary. A shell can be told to mean something else by what is shown (aliases, functions, key bindings), and a
//! program that was let run takes keys that no Enter ends.

use std::fmt;

mod prompt;
mod screen;
#[cfg(test)]
mod tests;

use prompt::Prompt;
use screen::{Place, Screen};

/// Longest line that is followed, in bytes.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// The interrupt of a terminal (termios(3): VINTR).
pub const CTRL_C: u8 = 0x03;

const CTRL_D: u8 = 0x04;
const CTRL_H: u8 = 0x08;
const CTRL_O: u8 = 0x0f;

/// Drops what was typed of a line (termios(3): VKILL).
pub const CTRL_U: u8 = 0x15;

const CTRL_W: u8 = 0x17;
const CTRL_X: u8 = 0x18;
const CTRL_Z: u8 = 0x1a;
const CTRL_BACKSLASH: u8 = 0x1c;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;
const META_CTRL_E: u8 = 0x85;
const META_NUMBER_SIGN: u8 = 0xa3;

/// Whether a terminal makes a signal of this key, and drops what was typed before it (termios(3): VINTR, VSUSP, VQUIT).
#[must_use]
pub fn is_signal(key: u8) -> bool {
    matches!(key, CTRL_C | CTRL_Z | CTRL_BACKSLASH)
}

/// Why what Enter would run cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A program has the whole screen: an editor, a pager.
    AlternateScreen,
    /// The line was changed by keys whose effect only the shell knows: completion, history, search, moves, marked pastes.
    EditingKey,
    /// The shell's history expansion may put something else in its place.
    Expansion,
    /// Another key than Enter would end it.
    OtherKey,
    /// No prompt of the shell precedes it: a program reads it, or the line before is not complete.
    NoPrompt,
    /// Nothing of it is shown, as of a password.
    NotEchoed,
    /// What is shown is not what was typed.
    OtherText,
    /// It is longer than [`LINE_BYTES_MAX`].
    TooLong,
}

impl Doubt {
    /// As policies, reviewers and records have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlternateScreen => "typed into a program that has the whole screen",
            Self::EditingKey => "edited with keys whose effect only the shell knows",
            Self::Expansion => "the shell's history may put something else in its place",
            Self::OtherKey => "ended by a key other than Enter",
            Self::NoPrompt => "no prompt of the shell precedes it",
            Self::NotEchoed => "typed without echo",
            Self::OtherText => "what is shown is not what was typed",
            Self::TooLong => "too long to be followed",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What Enter would run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What is shown of it. Never what was typed unseen.
    pub text: String,
    /// Why that proves nothing; `None` when it is what will run.
    pub doubt: Option<Doubt>,
}

impl Line {
    /// Enter on an empty line at the prompt runs nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.doubt.is_none() && self.text.trim().is_empty()
    }
}

/// Who reads what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Nobody knows: something runs, and may end soon.
    Unknown,
    /// The shell, at its prompt.
    Shell,
    /// Something else.
    Program,
}

/// Follows one terminal. Has no `Debug`: what is typed may be a password.
pub struct LineGuard {
    screen: Screen,
    /// As the first one looked.
    prompt: Option<Prompt>,
    reader: Reader,
    /// Where the line begins, and what stands before it.
    start: Option<Place>,
    lead: String,
    /// What it should be by the keys.
    typed: Vec<u8>,
    /// Why that is not known.
    doubt: Option<Doubt>,
    /// The last key was Escape.
    escaped: bool,
    /// No line was ended yet.
    fresh: bool,
    /// Lines of the screen when the last one was ended, and what stood before the cursor: its own prompt is not the next one's.
    ended: (u64, Option<String>),
}

impl LineGuard {
    /// For a terminal of this width that a shell has just been started on.
    #[must_use]
    pub fn new(columns: u32) -> Self {
        Self {
            screen: Screen::new(columns),
            prompt: None,
            reader: Reader::Unknown,
            start: None,
            lead: String::new(),
            typed: Vec::new(),
            doubt: None,
            escaped: false,
            fresh: true,
            ended: (0, None),
        }
    }

    /// The server wrote this.
    pub fn output(&mut self, bytes: &[u8]) {
        self.screen.write(bytes);
    }

    /// The terminal has another width. What is being typed is drawn anew, in ways that are not followed.
    pub fn resize(&mut self, columns: u32) {
        self.screen.resize(columns);
        if self.reader == Reader::Shell && !self.typed.is_empty() {
            self.doubt(Doubt::OtherText);
        }
    }

    /// Whether it is known who reads the next key: until then keys wait. `quiet`: nothing was written for a while; `patient`: it
    /// was waited for as long as may be.
    pub fn ready(&mut self, quiet: bool, patient: bool) -> bool {
        let reader = if self.reader == Reader::Shell {
            return true;
        } else if self.screen.is_alternate() {
            Reader::Program
        } else if self.is_at_prompt() || (quiet && self.learn()) {
            Reader::Shell
        } else if self.reader == Reader::Program || (quiet && self.asks()) || patient {
            Reader::Program
        } else {
            return false;
        };
        if reader != self.reader {
            self.reader = reader;
            self.begin();
        }
        true
    }

    /// Takes note of keys, and says how many of them go to the server at once: up to a key that ends the line, or to one that
    /// changes who reads the next. To be called when ready.
    pub fn keys(&mut self, keys: &[u8]) -> usize {
        for (at, key) in keys.iter().enumerate() {
            if self.ends_line(*key) {
                return at;
            }
            self.escaped = *key == ESCAPE;
            match *key {
                // Signals: what was typed is dropped by the terminal.
                CTRL_C | CTRL_Z | CTRL_BACKSLASH => {
                    self.end();
                    return at + 1;
                }
                CTRL_H | DELETE => self.erase(),
                CTRL_U => self.typed.clear(),
                CTRL_W => self.erase_word(),
                b' '..=b'~' | 0x80.. => self.typed.push(*key),
                0x00..=0x1f => self.doubt(Doubt::EditingKey),
            }
            if self.typed.len() > LINE_BYTES_MAX {
                self.typed.truncate(LINE_BYTES_MAX);
                self.doubt(Doubt::TooLong);
            }
        }
        keys.len()
    }

    /// What is shown is what was typed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.reader == Reader::Shell && self.doubt.is_none() && self.is_as_typed()
    }

    /// No echo can make it any surer.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.doubt.is_some()
    }

    /// The line, when `key` is what ends it.
    #[must_use]
    pub fn line(&self, key: u8) -> Line {
        let shown = self.shown();
        let hidden = shown.as_deref().is_none_or(str::is_empty) && !self.typed.is_empty();
        let other = (!matches!(key, b'\r' | b'\n')).then_some(Doubt::OtherKey);
        let doubt = match self.doubt.or(other) {
            Some(Doubt::NoPrompt) | None if hidden => Some(Doubt::NotEchoed),
            None if !self.is_as_typed() => Some(Doubt::OtherText),
            None => shown.as_deref().is_some_and(expands).then_some(Doubt::Expansion),
            Some(doubt) => Some(doubt),
        };
        let mut text = match doubt {
            // With the blanks at its end.
            None => String::from_utf8_lossy(&self.typed).into_owned(),
            Some(_) => shown.unwrap_or_default(),
        };
        text.truncate(text.floor_char_boundary(LINE_BYTES_MAX));
        Line { text, doubt }
    }

    /// The line's end went to the server.
    pub fn sent(&mut self) {
        self.fresh = false;
        self.end();
    }

    /// The line is not to be run, and [`CTRL_U`] goes to the server instead. Whether the shell reads it, which shows a prompt again
    /// once it is asked to; a program is left alone, as it may do something that was permitted.
    pub fn dropped(&mut self) -> bool {
        if self.reader != Reader::Shell {
            self.begin();
            return false;
        }
        self.typed.clear();
        true
    }

    /// Nothing is left of the line.
    #[must_use]
    pub fn is_emptied(&self) -> bool {
        self.is_led()
            && self.screen.cursor() == self.start
            && self.shown().is_some_and(|shown| shown.is_empty())
    }

    /// Whether a key ends the line, or runs something by itself.
    fn ends_line(&self, key: u8) -> bool {
        match key {
            b'\r' | b'\n' => true,
            // Some of what follows an Escape runs things: shell-expand-line, insert-comment (bash's manual, READLINE). Only keys
            // of a keyboard do not.
            _ if self.escaped && self.reader == Reader::Shell => !matches!(key, b'[' | b'O'),
            // operate-and-get-next; the prefix of edit-and-execute-command; the two above where the eighth bit is an Escape.
            CTRL_O | CTRL_X | META_CTRL_E | META_NUMBER_SIGN => self.reader == Reader::Shell,
            // With something typed it is handed over without a line end.
            CTRL_D => !self.typed.is_empty() || (self.reader == Reader::Shell && self.doubt.is_some()),
            _ => false,
        }
    }

    /// A prompt of the shell that is new stands before the cursor, and nothing after it.
    #[must_use]
    pub fn is_at_prompt(&self) -> bool {
        let before = self.screen.before_cursor();
        let (Some(prompt), Some(text)) = (&self.prompt, &before) else { return false };
        let rest = self.screen.cursor().and_then(|place| self.screen.after(place));
        self.is_new(&before)
            && prompt.matches(text, self.screen.is_bracketed())
            && rest.is_some_and(|rest| rest.is_empty())
    }

    /// Whether something was shown since the last line was ended that is not that line.
    fn is_new(&self, before: &Option<String>) -> bool {
        let (lines, last) = &self.ended;
        self.screen.lines() > *lines || before != last
    }

    /// The first prompt.
    fn learn(&mut self) -> bool {
        if self.prompt.is_none() && self.fresh {
            let text = self.screen.before_cursor();
            self.prompt = text.and_then(|text| Prompt::learn(&text, self.screen.is_bracketed()));
            return self.prompt.is_some();
        }
        false
    }

    /// Something stands before the cursor: a question, perhaps.
    fn asks(&self) -> bool {
        let before = self.screen.before_cursor();
        self.is_new(&before) && before.is_none_or(|text| !text.trim().is_empty())
    }

    fn begin(&mut self) {
        self.typed.clear();
        self.escaped = false;
        self.start = self.screen.cursor();
        self.lead = self.screen.before_cursor().unwrap_or_default();
        self.doubt = match self.reader {
            Reader::Shell => None,
            Reader::Unknown | Reader::Program if self.screen.is_alternate() => Some(Doubt::AlternateScreen),
            Reader::Unknown | Reader::Program => Some(Doubt::NoPrompt),
        };
    }

    fn end(&mut self) {
        self.ended = (self.screen.lines(), self.screen.before_cursor());
        self.reader = Reader::Unknown;
        self.begin();
    }

    /// What is shown of the line; all of its row when its prompt is gone.
    fn shown(&self) -> Option<String> {
        let start = self.start?;
        if self.is_led() { self.screen.after(start) } else { self.screen.after(start.row_begin()) }
    }

    /// Whether what stood before the line still does.
    fn is_led(&self) -> bool {
        self.start.is_some_and(|start| self.screen.before(start).as_deref() == Some(self.lead.as_str()))
    }

    fn is_as_typed(&self) -> bool {
        self.is_led() && self.shown().is_some_and(|shown| same(&shown, &self.typed))
    }

    /// The first doubt is the reason.
    fn doubt(&mut self, doubt: Doubt) {
        self.doubt.get_or_insert(doubt);
    }

    fn erase(&mut self) {
        while self.typed.pop().is_some_and(|byte| matches!(byte, 0x80..=0xbf)) {}
    }

    /// Back to the last blank before a word, as readline's `unix-word-rubout`.
    fn erase_word(&mut self) {
        let words = self.typed.trim_ascii_end();
        let kept = words.iter().rposition(|byte| *byte == b' ').map_or(0, |at| at + 1);
        self.typed.truncate(kept);
    }
}

/// But for blanks at the end, which nobody sees.
fn same(shown: &str, typed: &[u8]) -> bool {
    let end = typed.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    typed.get(..end) == Some(shown.as_bytes())
}

/// Whether an interactive shell would put something from its history in (bash's manual, HISTORY EXPANSION): `!` but before a
/// blank, `=` or the end, wherever it stands; `^` at the beginning.
fn expands(text: &str) -> bool {
    let event = |at: usize| {
        let next = text.as_bytes().get(at + 1);
        !matches!(next, None | Some(b' ' | b'='))
    };
    text.starts_with('^') || text.match_indices('!').any(|(at, _)| event(at))
}
