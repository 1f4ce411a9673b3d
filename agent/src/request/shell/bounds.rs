//! What a parser may be given: bounded in length and in nesting, so that no line can exhaust its stack or its time.

/// Longest line that is looked into, in bytes; longer ones are `unknown`.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

/// Deepest nesting of substitutions, groups and compound commands. Counted generously: opening characters and words count also
/// where they stand for themselves. Beyond it the parser's time grows with each level by a factor.
const DEPTH_MAX: usize = 8;

/// Words that open a compound command, and those that close one.
const OPENING_WORDS: [&str; 7] = ["if", "for", "while", "until", "case", "select", "function"];
const CLOSING_WORDS: [&str; 3] = ["fi", "done", "esac"];

/// Digits of a descriptor's number before a redirection. The parser reads it as 32 bits and panics at more.
const DESCRIPTOR_DIGITS_MAX: usize = 9;

/// Why a line is not looked into; `None` when it may be.
pub(super) fn excess(line: &str) -> Option<&'static str> {
    if line.len() > LINE_BYTES_MAX {
        return Some("it is too long to be looked into");
    }
    if line.contains('\0') {
        return Some("it holds a NUL");
    }
    if names_strange_descriptor(line) {
        return Some("it redirects a descriptor that cannot exist");
    }
    let mut deepest = Deepest::default();
    for byte in line.bytes() {
        match byte {
            b'(' | b'{' | b'[' => deepest.open(),
            b')' | b'}' | b']' => deepest.close(),
            _ => {}
        }
    }
    let mut words = Deepest::default();
    for word in line.split(|c: char| c.is_ascii_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')')) {
        if OPENING_WORDS.contains(&word) {
            words.open();
        } else if CLOSING_WORDS.contains(&word) {
            words.close();
        }
    }
    let backquotes = line.bytes().filter(|byte| *byte == b'`').count();
    let escaped = line.matches("\\`").count();
    let excessive = deepest.most + words.most > DEPTH_MAX || backquotes > 32 || escaped > DEPTH_MAX;
    excessive.then_some("it nests too deeply to be looked into")
}

/// Whether more digits than any descriptor has stand before a redirection. (Found by fuzzing: `99999999999<x`.)
fn names_strange_descriptor(line: &str) -> bool {
    let mut digits = 0_usize;
    line.bytes().any(|byte| {
        let redirects = matches!(byte, b'<' | b'>') && digits > DESCRIPTOR_DIGITS_MAX;
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        redirects
    })
}

/// How many things were open at once.
#[derive(Default)]
struct Deepest {
    now: usize,
    most: usize,
}

impl Deepest {
    fn open(&mut self) {
        self.now += 1;
        self.most = self.most.max(self.now);
    }

    fn close(&mut self) {
        self.now = self.now.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::excess;

    #[test]
    fn ordinary_lines_are_within_bounds() {
        assert_eq!(excess("for f in a b; do echo $(basename ${f}); done"), None);
        assert!(excess(&"$(".repeat(1000)).is_some());
        assert!(excess(&"if true; then ".repeat(1000)).is_some());
        assert!(excess(&"a".repeat(100_000)).is_some());
        assert!(excess("a\0b").is_some());
        assert!(excess("cat 99999999999<x").is_some() && excess("echo 99999999999 2>x").is_none());
    }
}
