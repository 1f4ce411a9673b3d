//! Command lines without the secrets people put into them: they are recorded and shown to reviewers.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use zeroize::Zeroizing;

use crate::mask::method::REDACTED;
use crate::mask::{Detector, HashKey, Method, Scanner};

/// `password=…` and its like, in connection strings (libpq quotes values with `'`), URLs and options.
static ASSIGNED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?i)((?:password|passwd|pwd|secret|token|api[-_]?key)\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'",;]+)"#,
    )
    .ok()
});

/// Secrets that are known by their shape.
static SHAPED: LazyLock<Option<Scanner>> = LazyLock::new(|| {
    let detectors =
        [Detector::ApiKey, Detector::AwsKey, Detector::Jwt, Detector::PasswordInUrl, Detector::PrivateKey];
    Scanner::new(&detectors.map(|detector| (detector, Method::Redact))).ok()
});

/// One word of a command line as it may be kept. When the rules themselves cannot be built nothing of it is.
pub(super) fn without_secrets(word: &str) -> String {
    let (Some(assigned), Some(shaped)) = (&*ASSIGNED, &*SHAPED) else { return REDACTED.to_owned() };
    let word: Cow<'_, str> = assigned.replace_all(word, format!("${{1}}{REDACTED}"));
    let mut masked = Vec::new();
    // `redact` uses no key.
    let key = HashKey::new(Zeroizing::new([0; 32]));
    match shaped.mask_text(word.as_bytes(), &key, &mut masked).is_empty() {
        true => word.into_owned(),
        false => String::from_utf8_lossy(&masked).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn secrets_on_command_lines_are_not_kept() {
        for (word, kept) in [
            ("host=db password=s3cret user=me", "host=db password=[redacted] user=me"),
            ("host=db password='s3 \\' cret' user=me", "host=db password=[redacted] user=me"),
            ("--token=abcdef", "--token=[redacted]"),
            ("PGPASSWORD=x", "PGPASSWORD=[redacted]"),
            ("postgresql://me:s3cret@db/shop", "postgresql://me:[redacted]@db/shop"),
            ("SELECT 1", "SELECT 1"),
            ("--password", "--password"),
        ] {
            assert_eq!(without_secrets(word), kept);
        }
    }
}
