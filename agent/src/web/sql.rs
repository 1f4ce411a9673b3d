//! Colours for SQL: just enough of PostgreSQL's lexical structure to tell words from literals and comments
//! (<https://www.postgresql.org/docs/current/sql-syntax-lexical.html>). Nothing is decided by it.

use super::html::Html;

/// Key words worth seeing at a glance, in upper case, sorted.
const WORDS: [&str; 76] = [
    "ADD",
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BEGIN",
    "BETWEEN",
    "BY",
    "CALL",
    "CASCADE",
    "CASE",
    "COLUMN",
    "COMMIT",
    "CONSTRAINT",
    "COPY",
    "CREATE",
    "CROSS",
    "DATABASE",
    "DEFAULT",
    "DELETE",
    "DESC",
    "DISTINCT",
    "DO",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXECUTE",
    "EXISTS",
    "EXPLAIN",
    "FROM",
    "FULL",
    "FUNCTION",
    "GRANT",
    "GROUP",
    "HAVING",
    "IF",
    "IN",
    "INDEX",
    "INNER",
    "INSERT",
    "INTERSECT",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "RETURNING",
    "REVOKE",
    "RIGHT",
    "ROLE",
    "SCHEMA",
    "SELECT",
    "SET",
    "TABLE",
    "THEN",
    "TO",
    "TRUNCATE",
    "UNION",
    "UPDATE",
    "USING",
    "VALUES",
    "VIEW",
    "WHEN",
    "WHERE",
    "WITH",
];

/// What a piece of a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Name,
    Text,
    Number,
    Comment,
    Other,
}

impl Kind {
    fn class(self) -> Option<&'static str> {
        match self {
            Self::Word => Some("k"),
            Self::Text => Some("s"),
            Self::Number => Some("n"),
            Self::Comment => Some("c"),
            Self::Name | Self::Other => None,
        }
    }
}

/// Writes a statement with its parts marked.
pub(super) fn write(html: &mut Html, statement: &str) {
    let mut rest = statement;
    while let Some((kind, piece, after)) = next(rest) {
        match kind.class() {
            Some(class) => html.el("span", &[("class", class)], |html| html.lines(piece)),
            None => html.lines(piece),
        }
        rest = after;
    }
}

/// The first piece, which is not empty, and what follows it.
fn next(text: &str) -> Option<(Kind, &str, &str)> {
    let first = text.chars().next()?;
    let (kind, length) = match first {
        '-' if text.starts_with("--") => (Kind::Comment, text.find('\n').unwrap_or(text.len())),
        '/' if text.starts_with("/*") => (Kind::Comment, comment(text)),
        '\'' => (Kind::Text, quoted(text, '\'')),
        '"' => (Kind::Name, quoted(text, '"')),
        '$' => match dollar(text) {
            Some(length) => (Kind::Text, length),
            None => (Kind::Other, 1),
        },
        c if c.is_ascii_digit() => (Kind::Number, run(text, |c| c.is_ascii_alphanumeric() || c == '.')),
        c if is_letter(c) => {
            let length = run(text, |c| is_letter(c) || c.is_ascii_digit() || c == '$');
            let word = text.get(..length).unwrap_or(text).to_ascii_uppercase();
            (if WORDS.binary_search(&word.as_str()).is_ok() { Kind::Word } else { Kind::Name }, length)
        }
        _ => (
            Kind::Other,
            run(text, |c| !c.is_alphanumeric() && !matches!(c, '-' | '/' | '\'' | '"' | '$' | '_')),
        ),
    };
    let length = if length == 0 { first.len_utf8() } else { length };
    let (piece, after) = text.split_at_checked(length).unwrap_or((text, ""));
    Some((kind, piece, after))
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// Bytes of the characters at the beginning that are such.
fn run(text: &str, such: impl Fn(char) -> bool) -> usize {
    text.find(|c| !such(c)).unwrap_or(text.len())
}

/// A quoted piece; a doubled quote goes on.
fn quoted(text: &str, quote: char) -> usize {
    let mut inside = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = inside.next() {
        if c == quote {
            match inside.peek() {
                Some((_, next)) if *next == quote => drop(inside.next()),
                Some(_) | None => return at + 1,
            }
        }
    }
    text.len()
}

/// Comments nest.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth.saturating_add(1), at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth.saturating_sub(1), at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// `$tag$ … $tag$`.
fn dollar(text: &str) -> Option<usize> {
    let tag = run(text.get(1..)?, |c| is_letter(c) || c.is_ascii_digit()) + 2;
    let opening = text.get(..tag).filter(|opening| opening.ends_with('$'))?;
    if opening.chars().nth(1).is_some_and(|c| c.is_ascii_digit()) {
        return None;
    }
    let end = text.get(tag..)?.find(opening).map(|at| at + 2 * tag);
    Some(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(statement: &str) -> String {
        Html::of(|html| write(html, statement)).fragment()
    }

    #[test]
    fn words_literals_and_comments_are_told_apart() {
        assert!(WORDS.is_sorted());
        let (k, s) = (|w: &str| format!("<span class=\"k\">{w}</span>"), "<span class=\"s\">");
        assert_eq!(
            written("update t set a='it''s' -- DROP\nwhere b>10"),
            format!(
                "{} t {} a={s}&#39;it&#39;&#39;s&#39;</span> <span class=\"c\">-- DROP</span>\n{} b&gt;<span class=\"n\">10</span>",
                k("update"),
                k("set"),
                k("where")
            )
        );
        assert_eq!(written("$a$ DROP $b$ $a$ x"), format!("{s}$a$ DROP $b$ $a$</span> x"));
        assert_eq!(
            written("\"select\" $1 /* a /* b */ */ ä"),
            "&quot;select&quot; $<span class=\"n\">1</span> <span class=\"c\">/* a /* b */ */</span> ä"
        );
    }

    #[test]
    fn every_text_comes_through_whole() {
        for statement in
            ["'open", "\"open", "/* open", "$x$ open", "--", "-", "/", "$", "", "a-b/c", "'ä''", "é1_$"]
        {
            let mut rest = statement;
            let mut whole = String::new();
            while let Some((_, piece, after)) = next(rest) {
                whole.push_str(piece);
                rest = after;
            }
            assert_eq!(whole, statement);
        }
    }
}
