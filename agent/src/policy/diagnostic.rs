//! What a policy file got wrong and where, as values: the loader makes them, the command line shows them.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// How bad a finding is. Ordered: errors first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and probably does not say what its author meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong and what to write instead. One line.
    pub message: String,
    /// The bytes it is about.
    #[serde(skip)]
    pub span: Range<usize>,
}

impl Diagnostic {
    /// A finding about the bytes `span` of `text`.
    #[must_use]
    pub fn new(text: &str, severity: Severity, span: Range<usize>, message: String) -> Self {
        let (line, column) = position(text, span.start);
        Self { severity, line, column, message, span }
    }

    /// The line it is about with a caret under the bytes meant, as compilers draw it. Ends without a newline.
    #[must_use]
    pub fn excerpt(&self, text: &str) -> String {
        let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or("");
        let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = self.column.saturating_sub(1);
        let meant = text.get(self.span.clone()).and_then(|meant| meant.lines().next()).unwrap_or("");
        let carets = "^".repeat(meant.chars().count().max(1));
        let gutter = " ".repeat(self.line.to_string().len());
        format!(
            "{gutter} |\n{number} | {shown}\n{gutter} | {indent}{carets}",
            number = self.line,
            indent = " ".repeat(before)
        )
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.line, self.column, self.severity, self.message)
    }
}

/// Line and column (in characters) of a byte offset, both counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// Longest piece of a file repeated in a message, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// A piece of the file as a message may show it: quoted, bounded, and with control characters escaped so that a file
/// cannot write to the reader's terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// `; did you mean "effect"?` when one of the known words is close enough to be meant, else nothing.
pub(super) fn did_you_mean<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let written = written.to_lowercase();
    let nearest = known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&written, &word.to_lowercase()), word))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, word)) if distance <= 1 || distance * 3 <= written.chars().count() => {
            format!("; did you mean \"{word}\"?")
        }
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Diagnostic, Severity, did_you_mean, position, quoted};

    #[test]
    fn positions_count_characters_not_bytes() {
        let text = "a = 1\nα = \"β\" # x\n";
        for (offset, expected) in
            [(0, (1, 1)), (4, (1, 5)), (5, (1, 6)), (6, (2, 1)), (8, (2, 2)), (11, (2, 5))]
        {
            assert_eq!(position(text, offset), expected, "offset {offset}");
        }
        assert_eq!(position(text, text.len()), (3, 1));
        assert_eq!(position(text, 10_000), (3, 1), "an offset beyond the end is the end");
    }

    #[test]
    fn an_excerpt_points_at_the_bytes() {
        let text = "x = 1\n\teffects = [\"ddl\"]\n";
        let found = Diagnostic::new(text, Severity::Error, 7..14, "unknown key".to_owned());
        assert_eq!(found.to_string(), "2:2: error: unknown key");
        assert_eq!(found.excerpt(text), "  |\n2 |  effects = [\"ddl\"]\n  |  ^^^^^^^");
    }

    #[test]
    fn an_excerpt_of_several_lines_stays_on_the_first() {
        let text = "to = [\n\"a\",\n]\n";
        let found = Diagnostic::new(text, Severity::Warning, 5..text.len(), "m".to_owned());
        assert_eq!(found.excerpt(text), "  |\n1 | to = [\n  |      ^");
    }

    #[test]
    fn quoted_text_cannot_reach_the_terminal() {
        assert_eq!(quoted("a\u{1b}[31m"), "\"a\\u{1b}[31m\"");
        assert_eq!(quoted(&"x".repeat(61)), format!("\"{}…\"", "x".repeat(60)));
        assert_eq!(quoted(&"x".repeat(60)), format!("\"{}\"", "x".repeat(60)));
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["effect", "action", "approvers", "on"];
        for (written, expected) in [
            ("effects", "; did you mean \"effect\"?"),
            ("Effect", "; did you mean \"effect\"?"),
            ("acton", "; did you mean \"action\"?"),
            ("aprovers", "; did you mean \"approvers\"?"),
            ("no", "; did you mean \"on\"?"),
            ("colour", ""),
            ("", ""),
        ] {
            assert_eq!(did_you_mean(written, known), expected, "{written}");
        }
    }
}
