//! The shape of a text: what is left when its literals are taken out, for texts whose lexing is beyond doubt.

/// Stands in a shape for any plain number or quoted literal. Cannot occur in a text that has a shape.
const LITERAL: u8 = 0;

/// What could follow from here is not beyond doubt.
struct Doubt;

/// The shape of `text`, or `None` when its lexing could be doubted. Two texts of one shape differ only in the digits of
/// numbers and in what stands between plain quotes, so PostgreSQL's grammar reads them alike. No comments, dollar quotes,
/// backslashes, prefixed or continued literals, parameters or bytes outside ASCII: those texts are analysed each time.
pub(super) fn shape(text: &str) -> Option<Box<[u8]>> {
    let mut shape = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(&byte) = rest.first() {
        let taken = token(byte, rest, &mut shape).ok()?;
        rest = rest.get(taken..)?;
    }
    Some(shape.into_boxed_slice())
}

/// Appends the next token's shape and gives its length in bytes.
fn token(first: u8, rest: &[u8], shape: &mut Vec<u8>) -> Result<usize, Doubt> {
    let length = match first {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
            let length = run(rest, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
            // A quote right after a word makes it a prefix: E'', U&'', B''.
            match rest.get(length) {
                Some(b'\'' | b'"' | b'&' | b'$') => return Err(Doubt),
                Some(_) | None => length,
            }
        }
        b'0'..=b'9' => return number(rest, shape),
        b'\'' => return quoted(rest, shape),
        b'"' => identifier(rest)?,
        b' ' | b'\t' | b'\n' | b'\r' => 1,
        // At the end it separates nothing; anywhere else a second statement could follow.
        b';' if run(rest, |byte| byte.is_ascii_whitespace() || byte == b';') == rest.len() => rest.len(),
        b'-' if rest.get(1) == Some(&b'-') => return Err(Doubt),
        b'/' if rest.get(1) == Some(&b'*') => return Err(Doubt),
        b'(' | b')' | b',' | b'.' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'|' | b':' | b'['
        | b']' => 1,
        _ => return Err(Doubt),
    };
    shape.extend_from_slice(rest.get(..length).ok_or(Doubt)?);
    Ok(length)
}

fn run(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|&&byte| belongs(byte)).count()
}

/// Most digits of a number that is an integer whatever they are: the grammar takes a longer one for another kind of literal.
const DIGITS_MAX: usize = 9;

/// Digits alone. A point, an exponent or a base keeps the text out: `1.5` and `1 .5` are rare, and not worth a doubt.
fn number(rest: &[u8], shape: &mut Vec<u8>) -> Result<usize, Doubt> {
    let length = run(rest, |byte| byte.is_ascii_digit());
    if length > DIGITS_MAX {
        return Err(Doubt);
    }
    match rest.get(length) {
        Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'\'' | b'"' | b'$') => {
            Err(Doubt)
        }
        Some(_) | None => {
            shape.push(LITERAL);
            Ok(length)
        }
    }
}

/// A literal without quotes or backslashes inside, that no other literal could continue.
fn quoted(rest: &[u8], shape: &mut Vec<u8>) -> Result<usize, Doubt> {
    let inside =
        run(rest.get(1..).ok_or(Doubt)?, |byte| !matches!(byte, b'\'' | b'\\' | 0) && byte.is_ascii());
    let length = inside + 2;
    if rest.get(length - 1) != Some(&b'\'') {
        return Err(Doubt);
    }
    let after = rest.get(length..).ok_or(Doubt)?;
    let space = run(after, |byte| byte.is_ascii_whitespace());
    if matches!(after.get(space), Some(b'\'')) {
        return Err(Doubt);
    }
    shape.extend_from_slice(&[b'\'', LITERAL]);
    Ok(length)
}

/// A quoted identifier, kept as it is.
fn identifier(rest: &[u8]) -> Result<usize, Doubt> {
    let inside = run(rest.get(1..).ok_or(Doubt)?, |byte| {
        byte == b' ' || (byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    });
    let length = inside + 2;
    match (rest.get(length - 1), rest.get(length)) {
        (Some(b'"'), Some(b'"' | b'\'')) => Err(Doubt),
        (Some(b'"'), _) => Ok(length),
        (Some(_) | None, _) => Err(Doubt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(left: &str, right: &str) -> bool {
        shape(left).unwrap() == shape(right).unwrap()
    }

    #[test]
    fn literals_do_not_matter_and_all_else_does() {
        assert!(same(
            "SELECT * FROM t WHERE a = 1 AND b = 'x'",
            "SELECT * FROM t WHERE a = 23 AND b = 'DROP; --'"
        ));
        assert!(same("SELECT \"a b\" FROM t LIMIT 1", "SELECT \"a b\" FROM t LIMIT 9"));
        assert!(!same("SELECT 1", "SELECT 'x'"));
        assert!(!same("SELECT a FROM t", "SELECT b FROM t"));
        assert!(!same("SELECT \"a\"", "SELECT \"b\""));
        assert!(!same("SELECT 1, 2", "SELECT 12"));
        assert!(!same("SELECT 1", "SELECT  1"));
        assert!(same("SELECT 1;", "SELECT 2;"));
        assert!(same("SELECT 1 ; \n;", "SELECT 2 ; \n;"));
        assert!(!same("SELECT 1", "SELECT 1;"));
    }

    #[test]
    fn what_could_be_read_two_ways_has_no_shape() {
        for text in [
            "SELECT E'a'",
            "SELECT U&'a'",
            "SELECT U&\"a\"",
            "SELECT U& 'a'",
            "SELECT 'a'\n'b'",
            "SELECT 'it''s'",
            "SELECT '\\'",
            "SELECT 'open",
            "SELECT \"open",
            "SELECT \"a\"\"b\"",
            "SELECT $$a$$",
            "SELECT $1",
            "SELECT a$b",
            "SELECT 1 -- a",
            "SELECT 1 /* a */",
            "SELECT 1; SELECT 2",
            "SELECT 1;\u{b}",
            "SELECT 1; --",
            "SELECT 1.5",
            "SELECT 1e5",
            "SELECT 0x1F",
            "SELECT 1_000",
            "SELECT 1a",
            "SELECT 'é'",
            "SELECT 'a\0b'",
            "SELECT a\u{b}b",
            "SELECT 1 @@ 2",
        ] {
            assert!(shape(text).is_none(), "{text}");
        }
    }
}
