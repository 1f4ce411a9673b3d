//! URL-encoded forms: rules by field name, detectors over decoded values.

use form_urlencoded::byte_serialize;
use percent_encoding::percent_decode;

use super::{BodyMasks, Counts, count};
use crate::mask::method::REDACTED;

/// Longest field that is gathered, in bytes; what is longer is redacted, because nobody looked at all of it.
const FIELD_BYTES_MAX: usize = 1024 * 1024;

/// One form being rewritten.
#[derive(Default)]
pub(super) struct FormMasker {
    /// The field that is coming in, as sent.
    field: Vec<u8>,
    /// The field is too long: what still comes of it is dropped.
    dropping: bool,
}

impl FormMasker {
    pub(super) fn push(&mut self, masks: &BodyMasks, counts: &mut Counts, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(at) = memchr::memchr2(b'&', b';', rest) {
            let (part, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
            self.gather(masks, counts, part, out);
            self.close(masks, counts, out);
            let (separator, after) = after.split_at_checked(1).unwrap_or((after, &[]));
            out.extend_from_slice(separator);
            rest = after;
        }
        self.gather(masks, counts, rest, out);
    }

    pub(super) fn finish(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        self.close(masks, counts, out);
    }

    fn gather(&mut self, masks: &BodyMasks, counts: &mut Counts, part: &[u8], out: &mut Vec<u8>) {
        if self.dropping {
            return;
        }
        self.field.extend_from_slice(part);
        if self.field.len() <= FIELD_BYTES_MAX {
            return;
        }
        self.dropping = true;
        let name = self.field.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
        self.field.truncate(name);
        self.write(masks, counts, out);
        out.extend(byte_serialize(REDACTED.as_bytes()).flat_map(str::bytes));
        count(counts, "too long to look at", 1);
    }

    fn close(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        if !self.dropping {
            self.write(masks, counts, out);
        }
        self.dropping = false;
    }

    fn write(&mut self, masks: &BodyMasks, counts: &mut Counts, out: &mut Vec<u8>) {
        let field = std::mem::take(&mut self.field);
        let (name, value) = match memchr::memchr(b'=', &field) {
            Some(at) => field
                .split_at_checked(at)
                .map_or((field.as_slice(), None), |(name, rest)| (name, rest.get(1..))),
            None => (field.as_slice(), None),
        };
        let decoded_name = decode(name);
        let new_name = masks.scan(&decoded_name, counts);
        encode(new_name.as_deref(), name, out);
        let Some(value) = value else { return };
        out.push(b'=');
        let decoded = decode(value);
        let text = String::from_utf8_lossy(&decoded_name);
        let rule = masks.form.iter().find(|rule| rule.what.is_match(text.as_ref()));
        let new = match rule {
            Some(rule) => {
                count(counts, &rule.rule, 1);
                Some(masks.rewrite(rule.method, &decoded))
            }
            None => masks.scan(&decoded, counts),
        };
        encode(new.as_deref(), value, out);
    }
}

fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect()
}

/// The new value encoded, or the old one as it was.
fn encode(new: Option<&[u8]>, old: &[u8], out: &mut Vec<u8>) {
    match new {
        Some(new) => out.extend(byte_serialize(new).flat_map(str::bytes)),
        None => out.extend_from_slice(old),
    }
}
