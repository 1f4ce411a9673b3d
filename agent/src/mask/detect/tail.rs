//! How much of a text is decided while more of it may come: up to where no match can begin that reaches past its end.

use super::token::{self, Literal};
use super::{Detector, MATCH_BYTES_MAX, Scanner, byte_at};

/// How far behind an AWS label or access key id the secret beside it may end, and before an id begin, in bytes.
const AWS_NEIGHBOURHOOD: usize = 400;

/// Bytes of an AWS secret access key.
const AWS_SECRET_BYTES: usize = 40;

/// Longest card number as printed: nineteen digits and the separators between them.
const CARD_BYTES_MAX: usize = 32;

/// Longest IBAN as printed.
const IBAN_BYTES_MAX: usize = 44;

impl Scanner {
    /// How many bytes from the front are decided: no match that begins there can be changed by what follows `text`. Never
    /// more than [`MATCH_BYTES_MAX`] are left undecided, because no match is longer.
    #[must_use]
    pub fn decided(&self, text: &[u8]) -> usize {
        let on = |detector| self.method(detector).is_some();
        let decided = self.decided_but_words(text);
        let run = last_run(text);
        let mut decided = if on(Detector::Email) { decided.min(run) } else { decided };
        if on(Detector::AwsKey) {
            let window = text.len().saturating_sub(AWS_NEIGHBOURHOOD);
            let secret = secret_run(text.get(window..).unwrap_or_default());
            decided = secret.map_or(decided, |at| decided.min(window + at));
        }
        decided.max(text.len().saturating_sub(MATCH_BYTES_MAX))
    }

    /// As [`Scanner::decided`], but an ordinary word at the end counts as decided, though it could turn out to be the
    /// beginning of a mailbox or of an unlabelled secret.
    #[must_use]
    pub fn decided_but_words(&self, text: &[u8]) -> usize {
        let on = |detector| self.method(detector).is_some();
        let mut decided = text.len();
        let run = last_run(text);
        let tail = text.get(run..).unwrap_or_default();
        if on(Detector::Email) && memchr::memchr(b'@', tail).is_some() {
            decided = decided.min(run);
        }
        if !self.rules.is_empty() {
            decided = decided.min(self.literal_in(text, run));
        }
        if on(Detector::PaymentCard) {
            decided = decided.min(digits_begin(text));
        }
        if on(Detector::Iban) {
            decided = decided.min(iban_begins(text));
        }
        if on(Detector::AwsKey) {
            decided = decided.min(self.aws_begins(text));
        }
        if on(Detector::PrivateKey) {
            decided = decided.min(pem_begins(text));
        }
        decided.max(text.len().saturating_sub(MATCH_BYTES_MAX))
    }

    /// Where in the last run a prefix begins, or may be beginning.
    fn literal_in(&self, text: &[u8], run: usize) -> usize {
        let tail = text.get(run..).unwrap_or_default();
        let found = self.literals.find_overlapping_iter(tail).map(|hit| hit.start()).min();
        let begun = self.rules.iter().filter_map(|literal| {
            let at = begun(literal.text().as_bytes(), tail)?;
            // Keys begin where a word does; see `token::key`.
            let word =
                super::starts_word(text, run + at) || byte_at(text, (run + at).saturating_sub(1)) == b'_';
            match literal {
                Literal::Key(..) | Literal::AwsId(_) if !word => None,
                Literal::Key(..) | Literal::AwsId(_) => Some(at),
                Literal::AwsSecret(_) | Literal::Jwt(_) | Literal::Pem(_) | Literal::Url(_) => Some(at),
            }
        });
        let begun = begun.min();
        found.into_iter().chain(begun).min().map_or(text.len(), |at| run + at)
    }

    /// What an access key id or a label may have beside it.
    fn aws_begins(&self, text: &[u8]) -> usize {
        let window = text.len().saturating_sub(AWS_NEIGHBOURHOOD);
        let tail = text.get(window..).unwrap_or_default();
        let named = self.literals.find_overlapping_iter(tail).filter(|hit| {
            let literal = self.rules.get(hit.pattern().as_usize());
            matches!(literal, Some(Literal::AwsId(_) | Literal::AwsSecret(_)))
        });
        let named = named.map(|hit| hit.start()).min();
        let begun = self.rules.iter().filter_map(|literal| match literal {
            Literal::AwsId(text) | Literal::AwsSecret(text) => begun(text.as_bytes(), tail),
            Literal::Jwt(_) | Literal::Key(..) | Literal::Pem(_) | Literal::Url(_) => None,
        });
        named.into_iter().chain(begun.min()).min().map_or(text.len(), |at| window + at)
    }
}

/// Where the last run of bytes begins that no match but a few with blanks in them could cross.
fn last_run(text: &[u8]) -> usize {
    let stop =
        |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`' | 0);
    text.iter().rposition(stop).map_or(0, |at| at + 1)
}

/// Where `text` ends in the beginning of `literal`.
fn begun(literal: &[u8], text: &[u8]) -> Option<usize> {
    let longest = literal.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|length| literal.get(..*length).is_some_and(|part| text.ends_with(part)))
        .map(|length| text.len() - length)
}

/// The first run at the end that could be an AWS secret beside an access key id that has not come, or could grow to it.
fn secret_run(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < text.len() {
        let run = super::run_length(text, at, usize::MAX, token::is_secret_byte);
        // Digests have that length, too, and only one case of letters.
        let secret = run == AWS_SECRET_BYTES
            && (at + run == text.len() || token::is_random(text.get(at..at + run).unwrap_or_default()));
        if secret || (run > 0 && run < AWS_SECRET_BYTES && at + run == text.len()) {
            return Some(at);
        }
        at += run.max(1);
    }
    None
}

/// Where the digits at the end begin, separators of card numbers included.
fn digits_begin(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(CARD_BYTES_MAX);
    let mut begin = text.len();
    while begin > from {
        let byte = byte_at(text, begin - 1);
        let separator = matches!(byte, b' ' | b'-')
            && (begin == text.len() || byte_at(text, begin).is_ascii_digit())
            && begin >= 2
            && byte_at(text, begin - 2).is_ascii_digit();
        if !(byte.is_ascii_digit() || separator || (byte == b'.' && begin == text.len())) {
            break;
        }
        begin -= 1;
    }
    // A longer run of digits is no card, wherever it is cut.
    begin
}

/// Where an account number may begin whose end has not come.
fn iban_begins(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(IBAN_BYTES_MAX);
    (from..text.len()).find(|at| could_be_iban(text.get(*at..).unwrap_or_default())).unwrap_or(text.len())
}

/// Two letters, two digits, then letters and digits with a blank after every fourth at most.
fn could_be_iban(text: &[u8]) -> bool {
    let mut count = 0_usize;
    let mut blank = false;
    for byte in text {
        let fits = match count {
            0 | 1 => byte.is_ascii_alphabetic(),
            2 | 3 => byte.is_ascii_digit(),
            _ if *byte == b' ' && count.is_multiple_of(4) && !blank => {
                blank = true;
                continue;
            }
            _ => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
        blank = false;
        count += 1;
    }
    count > 0
}

/// Where a private key begins whose closing line has not come, or may be beginning.
fn pem_begins(text: &[u8]) -> usize {
    const OPENING: &[u8] = b"-----BEGIN ";
    let from = text.len().saturating_sub(MATCH_BYTES_MAX);
    let tail = text.get(from..).unwrap_or_default();
    let open = memchr::memmem::find_iter(tail, OPENING).find(|at| {
        let label = tail.get(at + OPENING.len()..).unwrap_or_default();
        let length = super::run_length(label, 0, 64, |byte| {
            byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
        });
        let name = label.get(..length).unwrap_or_default();
        let rest = label.get(length..).unwrap_or_default();
        if rest.len() < 5 {
            return b"-----".starts_with(rest);
        }
        let private = name.ends_with(b"PRIVATE KEY") || name.ends_with(b"PRIVATE KEY BLOCK");
        private && rest.starts_with(b"-----") && !is_closed(rest.get(5..).unwrap_or_default())
    });
    let begun = begun(OPENING, tail);
    open.into_iter().chain(begun).min().map_or(text.len(), |at| from + at)
}

/// The block's end is there: its closing line, or a byte that no key has.
fn is_closed(body: &[u8]) -> bool {
    let part = |byte: u8| {
        byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+/=:,-.\\_()".contains(&byte)
    };
    let run = super::run_length(body, 0, usize::MAX, part);
    if run < body.len() {
        return true;
    }
    let Some(closing) = memchr::memmem::find(body, b"-----END ") else { return false };
    let after = body.get(closing + 9..).unwrap_or_default();
    memchr::memmem::find(after, b"-----").is_some()
}
