//! How big and how deep a text is, measured before anything parses it.

use pg_query::protobuf::{ScanToken, Token};

/// Longest text that is analysed, in bytes. Bulk loads this long use COPY or parameters.
pub(super) const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Most tokens in a text that is analysed. Each may become a few hundred bytes of tree.
pub(super) const TOKENS_MAX: usize = 200_000;

/// Deepest tree that is analysed, in levels as [`depth`] counts them.
pub(super) const DEPTH_MAX: usize = 4_000;

/// Stack that one level may take in the parser's decoder, in bytes: measured, 4.1 KiB optimised and 47 KiB not, with room
/// to spare. A test runs the worst shapes at the bounds below.
const LEVEL_STACK_BYTES: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 8 * 1024 };

/// Stack that an analysis may take of its caller's, in bytes. Threads of std and tokio have 2 MiB.
pub(super) const INLINE_STACK_BYTES: usize = 768 * 1024;

/// Up to this many levels are analysed on the caller's stack.
pub(super) const DEPTH_INLINE_MAX: usize = INLINE_STACK_BYTES / LEVEL_STACK_BYTES;

/// Stack for texts of up to [`DEPTH_MAX`] levels, in bytes. Reserved, not used: pages come as they are touched.
pub(super) const DEEP_STACK_BYTES: usize = DEPTH_MAX * LEVEL_STACK_BYTES + INLINE_STACK_BYTES;

/// Why a text is not analysed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("has more than {TOKENS_MAX} tokens")]
    TooManyTokens,
    #[error("nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("holds a NUL byte")]
    Nul,
    #[error("cannot be split into tokens")]
    Unreadable,
}

/// Where a text can be analysed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// On the caller's stack.
    Inline,
    /// On a stack made for it.
    OwnStack,
}

/// Measures a text.
///
/// # Errors
/// Says which bound the text exceeds.
pub(super) fn measure(text: &str) -> Result<Room, Unfit> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Unfit::TooLong);
    }
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(Unfit::Nul);
    }
    if tokens_at_most(text) <= DEPTH_INLINE_MAX {
        return Ok(Room::Inline);
    }
    let tokens = pg_query::scan_tokens(text).map_err(|_| Unfit::Unreadable)?;
    if tokens.len() > TOKENS_MAX {
        return Err(Unfit::TooManyTokens);
    }
    match depth(&tokens) {
        0..=DEPTH_INLINE_MAX => Ok(Room::Inline),
        levels if levels <= DEPTH_MAX => Ok(Room::OwnStack),
        _ => Err(Unfit::TooDeep),
    }
}

/// More tokens than this a text cannot have: every token begins at a word's start or at a byte that is no letter, digit
/// or space. Cheap, so that short texts need not be scanned twice.
fn tokens_at_most(text: &str) -> usize {
    let mut in_word = false;
    let mut count = 0;
    for &byte in text.as_bytes() {
        let word = byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
        // As PostgreSQL's scanner has it, which knows one more than Rust (src/backend/parser/scan.l). A text of spaces alone must not
        // be scanned: pg_query makes a slice at a null pointer of it.
        let space = byte.is_ascii_whitespace() || byte == b'\x0b';
        if (word && !in_word) || (!word && !space) {
            count += 1;
        }
        in_word = word;
    }
    count
}

/// One level of brackets while depth is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// Deepest list element so far.
    deepest: usize,
    /// Tokens of the current element that may each add a level.
    chain: usize,
    /// Deepest bracket within the current element.
    inner: usize,
    /// Set operations at this level: they nest to the left across commas.
    arms: usize,
}

impl Level {
    fn end_element(&mut self) {
        self.deepest = self.deepest.max(self.chain + self.inner);
        self.chain = 0;
        self.inner = 0;
    }

    fn depth(mut self) -> usize {
        self.end_element();
        self.deepest + self.arms
    }
}

/// An upper bound, up to a constant factor, of the levels in the parse tree. Operators, keywords and brackets may each
/// add one; names, constants, AND and OR (which the parser flattens) cannot; what a comma separates stands side by side.
pub(super) fn depth(tokens: &[ScanToken]) -> usize {
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    for token in tokens {
        match Token::try_from(token.token) {
            Ok(
                Token::Ident
                | Token::Uident
                | Token::Fconst
                | Token::Iconst
                | Token::Sconst
                | Token::Usconst
                | Token::Bconst
                | Token::Xconst
                | Token::Param
                | Token::SqlComment
                | Token::CComment
                | Token::Ascii46
                | Token::And
                | Token::Or,
            ) => {}
            Ok(Token::Ascii40 | Token::Ascii91) => {
                level.chain += 1;
                outer.push(std::mem::take(&mut level));
            }
            Ok(Token::Ascii41 | Token::Ascii93) => {
                let closed = std::mem::take(&mut level).depth();
                level = outer.pop().unwrap_or_default();
                level.inner = level.inner.max(closed);
            }
            Ok(Token::Ascii44 | Token::Ascii59) => level.end_element(),
            Ok(Token::Union | Token::Intersect | Token::Except) => level.arms += 1,
            _ => level.chain += 1,
        }
    }
    // Unclosed brackets: the text will not parse, but it is measured all the same.
    outer.into_iter().rev().fold(level.depth(), |closed, mut level| {
        level.inner = level.inner.max(closed);
        level.depth()
    })
}
