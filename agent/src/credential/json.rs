//! JSON of which strings are taken out that are secret: serde would unescape them in a buffer of its own, which nobody wipes.

use serde::de::IgnoredAny;
use zeroize::Zeroizing;

/// A value inside of a text that is known to be JSON (RFC 8259).
#[derive(Clone, Copy)]
pub(super) struct Json<'a>(&'a [u8]);

impl<'a> Json<'a> {
    /// `None` when the text is not JSON. serde judges that without looking into strings' contents.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice::<IgnoredAny>(text).ok()?;
        Some(Self(text.trim_ascii()))
    }

    /// The member of an object; `None` when there is none, or it is null.
    pub(super) fn get(self, key: &str) -> Option<Self> {
        let mut rest = self.0.strip_prefix(b"{")?.trim_ascii_start();
        while rest.starts_with(b"\"") {
            let (name, after) = split(rest)?;
            let after = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
            let (value, after) = split(after)?;
            if Self(name).bytes()?.as_slice() == key.as_bytes() {
                return (value != b"null").then_some(Self(value));
            }
            rest = after.trim_ascii_start().strip_prefix(b",")?.trim_ascii_start();
        }
        None
    }

    pub(super) fn is_object(self) -> bool {
        self.0.starts_with(b"{")
    }

    /// A string's value.
    pub(super) fn bytes(self) -> Option<Zeroizing<Vec<u8>>> {
        let mut rest = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        // Never longer than it is written, so the buffer does not grow and leaves no copy behind.
        let mut value = Zeroizing::new(Vec::with_capacity(rest.len()));
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'\\' {
                value.push(byte);
                continue;
            }
            let (&escape, after) = rest.split_first()?;
            rest = after;
            match escape {
                b'b' => value.push(8),
                b'f' => value.push(12),
                b'n' => value.push(b'\n'),
                b'r' => value.push(b'\r'),
                b't' => value.push(b'\t'),
                b'u' => {
                    let (character, after) = unicode(rest)?;
                    rest = after;
                    let mut room = Zeroizing::new([0; 4]);
                    value.extend_from_slice(character.encode_utf8(&mut *room).as_bytes());
                }
                plain => value.push(plain),
            }
        }
        Some(value)
    }

    /// A string that is no secret.
    pub(super) fn text(self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(super) fn number(self) -> Option<u64> {
        std::str::from_utf8(self.0).ok()?.parse().ok()
    }

    pub(super) fn is_true(self) -> bool {
        self.0 == b"true"
    }
}

/// The four hex digits behind `\u`, and those of its second half.
fn unicode(text: &[u8]) -> Option<(char, &[u8])> {
    let unit = |text: &[u8]| u32::from_str_radix(std::str::from_utf8(text.get(..4)?).ok()?, 16).ok();
    let (first, rest) = (unit(text)?, text.get(4..)?);
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let rest = rest.strip_prefix(b"\\u")?;
    let second = unit(rest)?.checked_sub(0xdc00)?;
    let character = char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)?;
    Some((character, rest.get(4..)?))
}

/// The first value of a text, and what follows it.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, &byte) in text.iter().enumerate() {
        let ends = match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' if quoted => {
                escaped = true;
                false
            }
            b'"' => {
                quoted = !quoted;
                !quoted && depth == 0
            }
            _ if quoted => false,
            b'{' | b'[' => {
                depth += 1;
                false
            }
            // A number, or a word: it ends before what is not its own.
            b'}' | b']' | b',' if depth == 0 => return text.split_at_checked(at),
            b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return text.split_at_checked(at),
            b'}' | b']' => {
                depth -= 1;
                depth == 0
            }
            _ => false,
        };
        if ends {
            return text.split_at_checked(at + 1);
        }
    }
    Some((text, &[]))
}

/// An object of strings, written without an intermediate copy.
pub(super) fn object(members: &[(&str, &str)]) -> Vec<u8> {
    // Six bytes per byte at most: `\u00XX`.
    let length = members.iter().map(|(name, value)| name.len() + 6 * value.len() + 8).sum::<usize>() + 2;
    let mut text = Vec::with_capacity(length);
    for (at, (name, value)) in members.iter().enumerate() {
        text.extend_from_slice(if at == 0 { b"{\"" } else { b",\"" });
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":\"");
        for byte in value.bytes() {
            match byte {
                b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
                0..=0x1f => {
                    let digit = b"0123456789abcdef".get(usize::from(byte & 15)).copied().unwrap_or(b'0');
                    text.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), digit]);
                }
                plain => text.push(plain),
            }
        }
        text.push(b'"');
    }
    text.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_strings_unescaped() {
        let text = br#" { "a" : [ {"password":"no"}, "]" ] , "n":12, "t": true,"z":null, "\u0070w" :
            "q\"\\\/\b\f\n\r\t\u003c\u00e9\ud83d\ude00 end" ,"o":{"x":{"y":"deep"}}} "#;
        let json = Json::parse(text).unwrap();
        assert_eq!(json.get("pw").unwrap().text().unwrap(), "q\"\\/\u{8}\u{c}\n\r\t<é😀 end");
        assert_eq!(json.get("n").unwrap().number(), Some(12));
        assert!(json.get("t").unwrap().is_true() && json.get("o").unwrap().is_object());
        assert_eq!(json.get("o").and_then(|o| o.get("x")?.get("y")?.text()).unwrap(), "deep");
        for absent in ["password", "z", "y", ""] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
        assert!(json.get("n").unwrap().text().is_none() && json.get("a").unwrap().get("password").is_none());
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "{\"a\":}", "{\"a\":\"b\"} x", "<html>", "{\"a\":\"\\x\"}", "{'a':1}"] {
            assert!(Json::parse(text.as_bytes()).is_none(), "{text}");
        }
        // Half of a pair stands for no character.
        assert!(Json::parse(br#"{"a":"\ud83d"}"#).and_then(|json| json.get("a")?.bytes()).is_none());
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = "q\"\\\n\u{1f}é";
        let text = object(&[("a", value), ("b", "")]);
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json, serde_json::json!({ "a": value, "b": "" }));
        assert_eq!(Json::parse(&text).unwrap().get("a").unwrap().text().unwrap(), value);
        assert_eq!(object(&[]), b"{}");
    }
}
