//! Secrets that announce themselves by a fixed prefix: which prefixes, and what has to follow.
//!
//! The formats are the providers' own, from their documentation of token formats and secret scanning.

use super::{Detector, Span, byte_at, ends_word, jwt, pem, starts_word, url};

/// Most bytes of a key after its prefix that are followed.
const KEY_BYTES_MAX: usize = 1024;

/// How far around an AWS access key id its secret is looked for, in bytes.
const AWS_SECRET_DISTANCE: usize = 256;

/// Length of an AWS secret access key, in bytes.
const AWS_SECRET_BYTES: usize = 40;

/// Starting points of a JWT tried within one run of base64url characters.
const JWT_TRIES_MAX: u32 = 8;

/// Characters that may follow a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// Letters and digits.
    Alnum,
    /// Letters, digits, `-` and `_`.
    Base64Url,
    /// As `Base64Url`, and dots.
    Dotted,
    /// Lower-case hexadecimal digits.
    Hex,
    /// Letters and digits, of which at least one is a digit: for prefixes that words could have.
    Mixed,
}

impl Class {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Alnum | Self::Mixed => byte.is_ascii_alphanumeric(),
            Self::Base64Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
            Self::Hex => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        }
    }
}

/// One prefix and its rule.
#[derive(Clone, Copy, Debug)]
pub(super) enum Literal {
    /// An AWS access key id: the prefix and sixteen capitals or digits.
    AwsId(&'static str),
    /// A label before an AWS secret access key.
    AwsSecret(&'static str),
    /// First characters of a JWT header.
    Jwt(&'static str),
    /// A prefix, then at least so many characters of a class.
    Key(&'static str, Class, usize),
    /// The opening of a PEM block.
    Pem(&'static str),
    /// The end of a URL's scheme.
    Url(&'static str),
}

/// Every prefix looked for. In an order that reads well: matches are put in order later.
pub(super) const LITERALS: &[Literal] = &[
    Literal::AwsId("AKIA"),
    Literal::AwsId("ASIA"),
    Literal::AwsId("ABIA"),
    Literal::AwsId("ACCA"),
    Literal::AwsSecret("aws_secret"),
    Literal::AwsSecret("AWS_SECRET"),
    Literal::AwsSecret("SecretAccessKey"),
    Literal::AwsSecret("secretAccessKey"),
    Literal::AwsSecret("secret_access_key"),
    Literal::AwsSecret("SECRET_ACCESS_KEY"),
    // `{"`, `{ `, `{` and a line end, in base64url.
    Literal::Jwt("eyJ"),
    Literal::Jwt("eyA"),
    Literal::Jwt("ewo"),
    Literal::Jwt("ewk"),
    Literal::Jwt("ew0"),
    Literal::Pem("-----BEGIN "),
    Literal::Url("://"),
    // Code hosting and package registries.
    Literal::Key("ghp_", Class::Alnum, 36),
    Literal::Key("gho_", Class::Alnum, 36),
    Literal::Key("ghu_", Class::Alnum, 36),
    Literal::Key("ghs_", Class::Alnum, 36),
    Literal::Key("ghr_", Class::Alnum, 36),
    Literal::Key("github_pat_", Class::Base64Url, 36),
    Literal::Key("glpat-", Class::Dotted, 20),
    Literal::Key("gldt-", Class::Base64Url, 20),
    Literal::Key("glrt-", Class::Dotted, 20),
    Literal::Key("glptt-", Class::Base64Url, 20),
    Literal::Key("glcbt-", Class::Base64Url, 20),
    Literal::Key("glsoat-", Class::Base64Url, 20),
    Literal::Key("npm_", Class::Alnum, 36),
    Literal::Key("pypi-", Class::Base64Url, 50),
    Literal::Key("rubygems_", Class::Hex, 48),
    Literal::Key("dckr_pat_", Class::Base64Url, 27),
    // Messaging and mail.
    Literal::Key("xoxb-", Class::Base64Url, 20),
    Literal::Key("xoxp-", Class::Base64Url, 20),
    Literal::Key("xoxa-", Class::Base64Url, 20),
    Literal::Key("xoxr-", Class::Base64Url, 20),
    Literal::Key("xoxs-", Class::Base64Url, 20),
    Literal::Key("xoxe-", Class::Base64Url, 20),
    Literal::Key("xoxe.xoxp-", Class::Base64Url, 20),
    Literal::Key("xoxc-", Class::Base64Url, 20),
    Literal::Key("xoxd-", Class::Base64Url, 20),
    Literal::Key("xapp-", Class::Base64Url, 20),
    Literal::Key("SG.", Class::Dotted, 66),
    Literal::Key("SK", Class::Hex, 32),
    Literal::Key("key-", Class::Hex, 32),
    // Payments and shops.
    Literal::Key("sk_live_", Class::Alnum, 16),
    Literal::Key("sk_test_", Class::Alnum, 16),
    Literal::Key("rk_live_", Class::Alnum, 16),
    Literal::Key("rk_test_", Class::Alnum, 16),
    Literal::Key("whsec_", Class::Alnum, 24),
    Literal::Key("shpat_", Class::Alnum, 32),
    Literal::Key("shpss_", Class::Alnum, 32),
    Literal::Key("shpca_", Class::Alnum, 32),
    Literal::Key("sq0atp-", Class::Base64Url, 22),
    Literal::Key("sq0csp-", Class::Base64Url, 43),
    // Models.
    Literal::Key("sk-", Class::Mixed, 20),
    Literal::Key("sk-proj-", Class::Base64Url, 20),
    Literal::Key("sk-svcacct-", Class::Base64Url, 20),
    Literal::Key("sk-admin-", Class::Base64Url, 20),
    Literal::Key("sk-ant-", Class::Base64Url, 20),
    Literal::Key("sk-or-v1-", Class::Hex, 64),
    Literal::Key("hf_", Class::Alnum, 30),
    Literal::Key("gsk_", Class::Mixed, 48),
    Literal::Key("xai-", Class::Mixed, 64),
    Literal::Key("r8_", Class::Mixed, 37),
    // Clouds and infrastructure.
    Literal::Key("AIza", Class::Base64Url, 35),
    Literal::Key("GOCSPX-", Class::Base64Url, 28),
    Literal::Key("ya29.", Class::Base64Url, 20),
    Literal::Key("dop_v1_", Class::Hex, 64),
    Literal::Key("doo_v1_", Class::Hex, 64),
    Literal::Key("dor_v1_", Class::Hex, 64),
    Literal::Key("dapi", Class::Hex, 32),
    Literal::Key("hvs.", Class::Base64Url, 24),
    Literal::Key("hvb.", Class::Base64Url, 24),
    Literal::Key("hvr.", Class::Base64Url, 24),
    Literal::Key("glsa_", Class::Base64Url, 40),
    Literal::Key("pscale_tkn_", Class::Dotted, 32),
    Literal::Key("pscale_pw_", Class::Dotted, 32),
    Literal::Key("sbp_", Class::Hex, 40),
    Literal::Key("lin_api_", Class::Alnum, 40),
    Literal::Key("AGE-SECRET-KEY-1", Class::Alnum, 58),
];

/// Bounds the work on inputs made of near misses.
#[derive(Default)]
pub(super) struct Tries {
    jwt_run_end: usize,
    jwt_tries: u32,
}

impl Literal {
    pub(super) fn text(&self) -> &'static str {
        match self {
            Self::AwsId(text)
            | Self::AwsSecret(text)
            | Self::Jwt(text)
            | Self::Key(text, ..)
            | Self::Pem(text)
            | Self::Url(text) => text,
        }
    }

    pub(super) fn detector(&self) -> Detector {
        match self {
            Self::AwsId(_) | Self::AwsSecret(_) => Detector::AwsKey,
            Self::Jwt(_) => Detector::Jwt,
            Self::Key(..) => Detector::ApiKey,
            Self::Pem(_) => Detector::PrivateKey,
            Self::Url(_) => Detector::PasswordInUrl,
        }
    }

    /// The literal stands at `start..end`; pushes what it introduces.
    pub(super) fn check(
        &self,
        input: &[u8],
        start: usize,
        end: usize,
        tries: &mut Tries,
        spans: &mut Vec<Span>,
    ) {
        // What lies inside the last match of the same kind is found already.
        let inside = |last: &Span| last.detector == self.detector() && last.start <= start && end <= last.end;
        if spans.last().is_some_and(inside) {
            return;
        }
        match self {
            Self::AwsId(_) => aws_id(input, start, end, spans),
            Self::AwsSecret(_) => aws_labelled_secret(input, end, spans),
            Self::Jwt(_) => try_jwt(input, start, tries, spans),
            Self::Key(_, class, minimum) => key(input, start, end, *class, *minimum, spans),
            Self::Pem(_) => pem::check(input, start, end, spans),
            Self::Url(_) => url::check(input, end, spans),
        }
    }
}

fn key(input: &[u8], start: usize, body: usize, class: Class, minimum: usize, spans: &mut Vec<Span>) {
    let before = start.checked_sub(1).map_or(0, |at| byte_at(input, at));
    // An underscore may stand before a key (`TOKEN_ghp_…`), a letter or digit may not.
    if !(starts_word(input, start) || before == b'_') {
        return;
    }
    let length = super::run_length(input, body, KEY_BYTES_MAX, |byte| class.has(byte));
    let found = input.get(body..body + length).unwrap_or_default();
    // A dot that ends a sentence is not the key's.
    let found = if let [rest @ .., b'.'] = found { rest } else { found };
    let fits = match class {
        Class::Mixed => found.iter().any(u8::is_ascii_digit),
        // A fixed-length digest that goes on as a word is something else.
        Class::Hex => found.len() == minimum && ends_word(input, body + found.len()),
        Class::Alnum | Class::Base64Url | Class::Dotted => true,
    };
    if found.len() >= minimum && fits {
        spans.push(Span { start, end: body + found.len(), detector: Detector::ApiKey });
    }
}

fn try_jwt(input: &[u8], start: usize, tries: &mut Tries, spans: &mut Vec<Span>) {
    if start >= tries.jwt_run_end {
        let run = super::run_length(input, start, usize::MAX, |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
        });
        *tries = Tries { jwt_run_end: start + run, jwt_tries: 0 };
    }
    if tries.jwt_tries < JWT_TRIES_MAX {
        tries.jwt_tries += 1;
        if jwt::check(input, start, spans) {
            tries.jwt_tries = JWT_TRIES_MAX;
        }
    }
}

/// `AKIA` and sixteen capitals or digits, and a secret access key beside it.
fn aws_id(input: &[u8], start: usize, body: usize, spans: &mut Vec<Span>) {
    const ID_BODY_BYTES: usize = 16;
    let length = super::run_length(input, body, ID_BODY_BYTES + 1, |byte| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit()
    });
    let end = body + ID_BODY_BYTES;
    if length != ID_BODY_BYTES || !starts_word(input, start) || !ends_word(input, end) {
        return;
    }
    spans.push(Span { start, end, detector: Detector::AwsKey });
    let mut at = start.saturating_sub(AWS_SECRET_DISTANCE);
    let limit = (end + AWS_SECRET_DISTANCE).min(input.len());
    // The window may begin inside a run, whose beginning is then unknown.
    while at > 0 && at < start && is_secret_byte(byte_at(input, at - 1)) {
        at += 1;
    }
    while at < limit {
        let run = super::run_length(input, at, KEY_BYTES_MAX, is_secret_byte);
        if run == AWS_SECRET_BYTES && is_random(input.get(at..at + run).unwrap_or_default()) {
            spans.push(Span { start: at, end: at + run, detector: Detector::AwsKey });
        }
        at += run.max(1);
    }
}

/// A secret after its label, with at most a few signs between them (`AWS_SECRET_ACCESS_KEY="…"`).
fn aws_labelled_secret(input: &[u8], label_end: usize, spans: &mut Vec<Span>) {
    const NAME_BYTES_MAX: usize = 24;
    const SIGNS_MAX: usize = 8;
    let name = super::run_length(input, label_end, NAME_BYTES_MAX, |byte| {
        byte.is_ascii_alphanumeric() || byte == b'_'
    });
    let signs = super::run_length(input, label_end + name, SIGNS_MAX, |byte| {
        byte.is_ascii_whitespace() || b"\"':=>,|\\()".contains(&byte)
    });
    let start = label_end + name + signs;
    let run = super::run_length(input, start, AWS_SECRET_BYTES + 1, is_secret_byte);
    if run == AWS_SECRET_BYTES && signs > 0 {
        spans.push(Span { start, end: start + run, detector: Detector::AwsKey });
    }
}

pub(super) fn is_secret_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+')
}

/// Capitals, small letters and digits: forty of them without a label may otherwise be a digest or a path.
pub(super) fn is_random(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_uppercase)
        && text.iter().any(u8::is_ascii_lowercase)
        && text.iter().any(u8::is_ascii_digit)
}
