//! Text from agents, made safe and plain for a human's terminal.

use std::fmt::Display;

/// Replaces every character that could move the cursor, hide or reorder text by its escape (`\u{202e}`). Newlines and
/// tabs stay when `lines` is set and are escaped otherwise.
#[must_use]
pub fn shown(text: &str, lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let plain_space = lines && matches!(c, '\n' | '\t');
        if is_deceptive(c) && !plain_space {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Control characters, and the invisible and reordering ones of Unicode (UTS #39, "Trojan Source" CVE-2021-42574).
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The first `max` characters of a text on one line, with an ellipsis when there is more.
#[must_use]
pub fn summary(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = shown(&line, false);
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// A length of time in at most two units: `4m 12s`.
#[must_use]
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, m) => format!("{m}m {s}s"),
        (0, h, m) => format!("{h}h {m}m"),
        (d, h, _) => format!("{d}d {h}h"),
    }
}

/// A moment as RFC 3339 in UTC, to the second.
#[must_use]
pub fn moment(milliseconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Appends a line and its newline.
pub fn line(text: &mut String, line: impl Display) {
    text.push_str(&line.to_string());
    text.push('\n');
}

/// Rows as left-aligned columns, two spaces apart; the last column is not padded.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(at) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(&mut text, cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_deceives_reaches_a_terminal() {
        for (text, expected) in [
            ("SELECT 'grün' -- 東京", "SELECT 'grün' -- 東京"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("drop\u{8}\u{8}", "drop\\u{8}\\u{8}"),
            ("a\rb", "a\\rb"),
            ("/*\u{202e} } \u{2066}if*/", "/*\\u{202e} } \\u{2066}if*/"),
            ("na\u{200b}me\u{feff}", "na\\u{200b}me\\u{feff}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{e0041}", "\\u{e0041}"),
        ] {
            assert_eq!(shown(text, true), expected);
        }
        assert_eq!(shown("a\n\tb", true), "a\n\tb");
        assert_eq!(shown("a\n\tb", false), "a\\n\\tb");
    }

    #[test]
    fn summaries_and_numbers() {
        assert_eq!(summary("UPDATE  t\n  SET a = 1", 40), "UPDATE t SET a = 1");
        assert_eq!(summary("UPDATE t SET a = 1", 8), "UPDATE …");
        assert_eq!(
            [0, 59_999, 252_000, 7_380_000, 180_000_000].map(duration),
            ["0s", "59s", "4m 12s", "2h 3m", "2d 2h"]
        );
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        let rows = [["ID", "USER"], ["1", "a"], ["222", "b"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "ID   USER\n1    a\n222  b\n");
    }
}
