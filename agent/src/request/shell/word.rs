//! Words of a command line after the expansions that need no running shell.

use std::collections::HashMap;

use brush_parser::ParserOptions;
use brush_parser::word::{self, Parameter, ParameterExpr, WordPiece, WordPieceWithSource};

/// What is known of the shell's variables at some point of a line.
pub(super) type Variables = HashMap<String, Option<String>>;

/// A word, and the command substitutions inside it, which run whatever becomes of it.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    /// Its text; `None` when only the running shell knows it, or how many words it becomes.
    pub(super) text: Option<String>,
    /// Texts of command substitutions.
    pub(super) substitutions: Vec<String>,
    /// Something in it could not be understood at all.
    pub(super) opaque: bool,
    /// It evaluates what a variable holds: arithmetic, `${!x}`, `${x@P}`, a subscript.
    pub(super) evaluates: bool,
    /// Its literal text would run a command, were it evaluated.
    pub(super) code: bool,
}

/// Whether a text runs a command once something evaluates it, also when its last character meets what follows elsewhere.
pub(super) fn is_code(text: &str) -> bool {
    text.contains("$(") || text.contains('`') || text.contains("${") || text.ends_with('$')
}

/// Expands one word as written.
pub(super) fn expand(written: &str, variables: &Variables, options: &ParserOptions) -> Expanded {
    let mut expanded = Expanded { text: Some(String::new()), ..Expanded::default() };
    match word::parse(written, options) {
        Ok(pieces) => expanded.pieces(&pieces, variables, options, false),
        Err(_) => {
            expanded.text = None;
            expanded.opaque = true;
        }
    }
    expanded.code |= expanded.text.as_deref().is_some_and(is_code);
    // `{rm,-rf,/}` becomes several words; an unquoted brace that is only itself does no harm as text.
    if has_unquoted_braces(written) {
        expanded.text = None;
    }
    expanded
}

/// Expands the text of a here-document whose delimiter was not quoted: as between double quotes, but that these stand for
/// themselves (POSIX, 2.7.4).
pub(super) fn expand_heredoc(written: &str, variables: &Variables, options: &ParserOptions) -> Expanded {
    if !written.contains(['$', '`', '\\']) {
        return Expanded { text: Some(written.to_owned()), ..Expanded::default() };
    }
    if written.contains('"') && (written.contains("$(") || written.contains('`')) {
        return Expanded { opaque: true, ..Expanded::default() };
    }
    expand(&format!("\"{}\"", written.replace('"', "\\\"")), variables, options)
}

/// Whether a brace expansion could begin: `{` with a comma or `..` before its `}`, outside quotes.
fn has_unquoted_braces(written: &str) -> bool {
    let mut quote = None;
    let mut open = 0_usize;
    let mut separated = false;
    let mut before = ' ';
    let mut escaped = false;
    for character in written.chars() {
        if escaped {
            escaped = false;
            before = character;
            continue;
        }
        match (quote, character) {
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(character),
            (Some(open_quote), _) if character == open_quote => quote = None,
            (None, '{') if before != '$' => open += 1,
            (None, ',') if open > 0 => separated = true,
            (None, '.') if open > 0 && before == '.' => separated = true,
            (None, '}') if open > 0 && separated => return true,
            (None | Some(_), _) => {}
        }
        before = character;
    }
    false
}

impl Expanded {
    fn push(&mut self, text: &str) {
        self.code |= is_code(text);
        if let Some(all) = &mut self.text {
            all.push_str(text);
        }
    }

    fn pieces(
        &mut self,
        pieces: &[WordPieceWithSource],
        variables: &Variables,
        options: &ParserOptions,
        quoted: bool,
    ) {
        for piece in pieces {
            self.piece(&piece.piece, variables, options, quoted);
        }
    }

    fn piece(&mut self, piece: &WordPiece, variables: &Variables, options: &ParserOptions, quoted: bool) {
        match piece {
            WordPiece::Text(text) | WordPiece::SingleQuotedText(text) => self.push(text),
            WordPiece::AnsiCQuotedText(text) => match ansi_c(text) {
                Some(text) => self.push(&text),
                None => self.text = None,
            },
            WordPiece::DoubleQuotedSequence(pieces) | WordPiece::GettextDoubleQuotedSequence(pieces) => {
                self.pieces(pieces, variables, options, true);
            }
            WordPiece::EscapeSequence(text) => {
                // `\` and a newline are nothing; inside double quotes a backslash stays before what it does not escape.
                let rest = text.strip_prefix('\\').unwrap_or(text);
                match rest {
                    "\n" => {}
                    "$" | "`" | "\"" | "\\" => self.push(rest),
                    _ if quoted => self.push(text),
                    _ => self.push(rest),
                }
            }
            WordPiece::TildePrefix(user) => {
                self.push("~");
                self.push(user);
            }
            WordPiece::CommandSubstitution(text) => {
                self.substitutions.push(text.clone());
                self.text = None;
            }
            WordPiece::BackquotedCommandSubstitution(text) => {
                self.substitutions.push(unescaped_backquotes(text));
                self.text = None;
            }
            WordPiece::ParameterExpansion(parameter) => self.parameter(parameter, variables, quoted),
            WordPiece::ArithmeticExpression(expression) => {
                self.opaque |= !arithmetic_is_plain(&expression.value, variables);
                self.evaluates = true;
                self.text = None;
            }
        }
    }

    fn parameter(&mut self, parameter: &ParameterExpr, variables: &Variables, quoted: bool) {
        if let ParameterExpr::Parameter { parameter: Parameter::Named(name), indirect: false } = parameter
            && let Some(Some(value)) = variables.get(name)
        {
            let one_word = quoted || !value.contains([' ', '\t', '\n', '*', '?', '[']);
            if one_word && (quoted || !value.is_empty()) {
                return self.push(&value.clone());
            }
        }
        // Where the account's home is, `~` says as well.
        if let ParameterExpr::Parameter { parameter: Parameter::Named(name), indirect: false } = parameter
            && name == "HOME"
            && !variables.contains_key(name)
        {
            return self.push("~");
        }
        self.text = None;
        self.evaluates |= evaluates(parameter);
        self.opaque |= !subscripts_are_plain(parameter, variables);
        // What a prompt would show is evaluated whatever it comes from.
        self.opaque |= matches!(
            parameter,
            ParameterExpr::Transform { op: word::ParameterTransformOp::PromptExpand, .. }
        );
        // `${x:-$(rm -rf /)}`: what stands in for a value may run something.
        self.nested(&format!("{parameter:?}"));
    }

    /// A text that is not taken apart: a substitution in it could be anything.
    fn nested(&mut self, text: &str) {
        if text.contains("$(") || text.contains('`') || text.contains("<(") {
            self.opaque = true;
        }
    }
}

/// Whether an arithmetic expression has nothing in it that is evaluated further: the value of a variable is an expression
/// again, and an index in it may run a command (bash: Shell Arithmetic). What a variable holds may have come from anywhere.
pub(super) fn arithmetic_is_plain(expression: &str, variables: &Variables) -> bool {
    const NUMBERS: [&str; 8] =
        ["RANDOM", "SRANDOM", "SECONDS", "EPOCHSECONDS", "LINENO", "UID", "EUID", "PPID"];
    if expression.contains(['`', '[', '\'', '"', '\\']) || expression.contains("$(") {
        return false;
    }
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).all(|word| {
        let known = || variables.get(word).and_then(Option::as_deref);
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        word.starts_with(|c: char| c.is_ascii_digit())
            || NUMBERS.contains(&word)
            || known().is_some_and(number)
    })
}

/// Whether what an expansion evaluates, an index or a place in a text, is plain, and it names no other variable.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others evaluate nothing of their own")]
fn subscripts_are_plain(parameter: &ParameterExpr, variables: &Variables) -> bool {
    match parameter {
        ParameterExpr::Parameter { indirect: true, .. } => false,
        ParameterExpr::Parameter { parameter: Parameter::NamedWithIndex { index, .. }, .. } => {
            arithmetic_is_plain(index, variables)
        }
        ParameterExpr::Substring { offset, length, .. } => {
            arithmetic_is_plain(&offset.value, variables)
                && length.as_ref().is_none_or(|length| arithmetic_is_plain(&length.value, variables))
        }
        _ => true,
    }
}

/// Whether an expansion evaluates what a variable holds, as arithmetic or as a name with a subscript.
fn evaluates(parameter: &ParameterExpr) -> bool {
    match parameter {
        ParameterExpr::Substring { .. } | ParameterExpr::Transform { .. } => true,
        ParameterExpr::VariableNames { .. } | ParameterExpr::MemberKeys { .. } => false,
        ParameterExpr::Parameter { parameter, indirect }
        | ParameterExpr::UseDefaultValues { parameter, indirect, .. }
        | ParameterExpr::AssignDefaultValues { parameter, indirect, .. }
        | ParameterExpr::IndicateErrorIfNullOrUnset { parameter, indirect, .. }
        | ParameterExpr::UseAlternativeValue { parameter, indirect, .. }
        | ParameterExpr::ParameterLength { parameter, indirect }
        | ParameterExpr::RemoveSmallestSuffixPattern { parameter, indirect, .. }
        | ParameterExpr::RemoveLargestSuffixPattern { parameter, indirect, .. }
        | ParameterExpr::RemoveSmallestPrefixPattern { parameter, indirect, .. }
        | ParameterExpr::RemoveLargestPrefixPattern { parameter, indirect, .. }
        | ParameterExpr::UppercaseFirstChar { parameter, indirect, .. }
        | ParameterExpr::UppercasePattern { parameter, indirect, .. }
        | ParameterExpr::LowercaseFirstChar { parameter, indirect, .. }
        | ParameterExpr::LowercasePattern { parameter, indirect, .. }
        | ParameterExpr::ReplaceSubstring { parameter, indirect, .. } => {
            *indirect || matches!(parameter, Parameter::NamedWithIndex { .. })
        }
    }
}

/// Inside backquotes a backslash before `$`, a backquote or a backslash is taken off (POSIX, 2.6.3).
fn unescaped_backquotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\\', Some('$' | '`' | '\\')) => {}
            _ => out.push(character),
        }
    }
    out
}

/// `$'…'` (bash: ANSI-C quoting); `None` for what is rare.
fn ansi_c(text: &str) -> Option<String> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\\' {
            push_char(&mut out, character);
            continue;
        }
        match characters.next()? {
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            'r' => out.push(b'\r'),
            'e' | 'E' => out.push(0x1b),
            escaped @ ('\\' | '\'' | '"' | '?') => push_char(&mut out, escaped),
            first @ '0'..='7' => {
                let value = number(&mut characters, first.to_digit(8)?, 8, 2);
                out.push(u8::try_from(value).ok()?);
            }
            'x' => out.push(u8::try_from(number(&mut characters, 0, 16, 2)).ok()?),
            'u' => push_char(&mut out, char::from_u32(number(&mut characters, 0, 16, 4))?),
            'U' => push_char(&mut out, char::from_u32(number(&mut characters, 0, 16, 8))?),
            _ => return None,
        }
    }
    String::from_utf8(out).ok()
}

fn push_char(out: &mut Vec<u8>, character: char) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Up to `max` more digits.
fn number(digits: &mut std::iter::Peekable<std::str::Chars<'_>>, first: u32, radix: u32, max: usize) -> u32 {
    let mut value = first;
    for _ in 0..max {
        let Some(digit) = digits.peek().and_then(|digit| digit.to_digit(radix)) else { break };
        value = value.wrapping_mul(radix).wrapping_add(digit);
        digits.next();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(written: &str) -> Option<String> {
        let mut variables = Variables::new();
        variables.insert("X".to_owned(), Some("rm".to_owned()));
        variables.insert("TWO".to_owned(), Some("rm -rf".to_owned()));
        expand(written, &variables, &ParserOptions::default()).text
    }

    #[test]
    fn what_needs_no_shell_is_expanded() {
        for (written, expected) in [
            ("rm", Some("rm")),
            ("r\\m", Some("rm")),
            ("\"r\"m", Some("rm")),
            ("'r'm", Some("rm")),
            ("$'\\x72m'", Some("rm")),
            ("$'\\162m'", Some("rm")),
            ("$X", Some("rm")),
            ("\"$X\"", Some("rm")),
            ("${X}dir", Some("rmdir")),
            ("\"$TWO\"", Some("rm -rf")),
            ("$TWO", None),
            ("$Y", None),
            ("$(echo rm)", None),
            ("{rm,-rf,/}", None),
            ("'{a,b}'", Some("{a,b}")),
            ("~/x", Some("~/x")),
            ("${X:-ls}", None),
        ] {
            assert_eq!(text(written).as_deref(), expected, "{written}");
        }
    }

    #[test]
    fn substitutions_are_found() {
        let expanded = expand("\"a$(id)b`who`\"", &Variables::new(), &ParserOptions::default());
        assert_eq!(expanded.substitutions, ["id", "who"]);
        assert!(expand("${x:-$(id)}", &Variables::new(), &ParserOptions::default()).opaque);
    }
}
