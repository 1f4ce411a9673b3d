//! Writes HTML. Whatever is no tag or attribute name of ours is escaped on its way in, and cannot deceive: there is no way
//! to put text in unescaped.

use std::fmt::Display;

use crate::cli::text::shown;

/// An attribute: its name is ours, its value is escaped.
pub(super) type Attribute<'a> = (&'static str, &'a str);

/// A piece of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// What `fill` writes.
    pub(super) fn of(fill: impl FnOnce(&mut Self)) -> Self {
        let mut html = Self::new();
        fill(&mut html);
        html
    }

    /// Text on one line: control, invisible and reordering characters are shown as escapes.
    pub(super) fn text(&mut self, text: impl Display) {
        self.escape(&shown(&text.to_string(), false));
    }

    /// Text in which line breaks and tabs stay.
    pub(super) fn lines(&mut self, text: &str) {
        self.escape(&shown(text, true));
    }

    /// An element with what `inside` writes.
    pub(super) fn el(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        inside(self);
        for part in ["</", name, ">"] {
            self.0.push_str(part);
        }
    }

    /// An element that holds one text.
    pub(super) fn leaf(&mut self, name: &'static str, attributes: &[Attribute<'_>], text: impl Display) {
        self.el(name, attributes, |html| html.text(text));
    }

    /// An element that holds nothing and has no end tag (HTML Standard section 13.1.2, void elements); or a start tag.
    pub(super) fn open(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.0.push('<');
        self.0.push_str(name);
        for (attribute, value) in attributes {
            self.0.push(' ');
            self.0.push_str(attribute);
            self.0.push_str("=\"");
            self.escape(&shown(value, false));
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// A piece that was written before.
    pub(super) fn piece(&mut self, piece: &Self) {
        self.0.push_str(&piece.0);
    }

    /// The whole as a document.
    pub(super) fn document(self) -> String {
        format!("<!DOCTYPE html>\n{}", self.0)
    }

    /// The whole as a part of one.
    pub(super) fn fragment(self) -> String {
        self.0
    }

    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_in_unescaped() {
        let hostile = "</script><script>alert('1')</script>\" onload=\"x\u{202e}\u{1b}\n&amp;";
        let html = Html::of(|html| {
            html.el("p", &[("title", hostile)], |html| {
                html.text(hostile);
                html.lines(hostile);
                html.leaf("b", &[], hostile);
            });
            html.open("input", &[("value", hostile)]);
        });
        let text = html.fragment();
        assert_eq!(text.matches('<').count(), 2 + 2 + 1, "{text}");
        assert!(
            !text.contains("<script") && !text.contains("\" onload=") && !text.contains('\u{202e}'),
            "{text}"
        );
        assert!(text.contains("\\u{202e}\\u{1b}\n&amp;amp;"), "line breaks stay where they may: {text}");
        assert!(text.contains("\\u{202e}\\u{1b}\\n&amp;amp;\">"), "and nowhere else: {text}");
    }
}
