//! Text for a terminal: foreign text made harmless, aligned tables, colours where they are wanted.

use std::fmt::{self, Write as _};
use std::io;

/// Foreign text, written so that it can neither control the terminal nor show as something it is not: control
/// characters, bidirectional overrides and invisible characters appear as `\u{…}`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                character if is_deceptive(character) => write!(f, "\\u{{{:x}}}", u32::from(character))?,
                character => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Control, format and invisible characters (Unicode categories Cc, and those of Cf and Z* that hide or reorder text).
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether output may carry colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Escape sequences of ECMA-48 (`SGR`).
    Colour,
    /// None.
    Plain,
}

/// What a piece of text means; a colour is only its dress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Went through.
    Good,
    /// Needs a look.
    Warning,
    /// Refused or failed.
    Bad,
    /// What was asked.
    Strong,
    /// Details.
    Faint,
}

impl Style {
    /// `text` in the dress of `tone`. The text must be harmless already.
    #[must_use]
    pub fn dress(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// How wide a column is and on which side its text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Width in characters; every character counts as one.
    pub width: usize,
    /// Numbers stand right.
    pub right: bool,
}

/// Widths that hold every cell of `rows`.
#[must_use]
pub fn fit(right: &[bool], rows: &[Vec<String>]) -> Vec<Column> {
    let width =
        |index: usize| rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max();
    right
        .iter()
        .enumerate()
        .map(|(index, right)| Column { width: width(index).unwrap_or(0), right: *right })
        .collect()
}

/// Writes one row of cells, separated by `separator`, without trailing spaces.
///
/// # Errors
/// The output fails.
pub fn write_row(
    out: &mut dyn io::Write,
    columns: &[Column],
    cells: &[String],
    separator: &str,
) -> io::Result<()> {
    let padded: Vec<_> = columns
        .iter()
        .zip(cells)
        .map(
            |(Column { width, right }, cell)| {
                if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            },
        )
        .collect();
    writeln!(out, "{}", padded.join(separator).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_control_the_terminal_or_deceive() {
        for (text, shown) in [
            ("plain – café 日本", "plain – café 日本"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("x\u{200b}y\u{feff}\u{9b}31m", "x\\u{200b}y\\u{feff}\\u{9b}31m"),
            ("a\r\n\tb\u{2028}", "a\\r\\n\\tb\\u{2028}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    #[test]
    fn columns_align() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "23".to_owned()]];
        let columns = fit(&[false, true], &rows);
        let mut out = Vec::new();
        for row in &rows {
            write_row(&mut out, &columns, row, " | ").unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "a    |  1\nlong | 23\n");
    }
}
