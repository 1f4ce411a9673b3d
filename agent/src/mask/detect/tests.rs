//! Detectors against data: named examples, hard negatives, a generated set with a table of counts, and pieces.

use std::fmt::Write as _;

use super::stream::StreamScanner;
use super::*;
use crate::mask::method::tests::test_key;

fn scanner(method: Method) -> Scanner {
    let rules: Vec<_> = DETECTORS.into_iter().map(|detector| (detector, method)).collect();
    Scanner::new(&rules).unwrap()
}

fn masked(scanner: &Scanner, input: &str) -> String {
    let mut out = Vec::new();
    let findings = scanner.mask_text(input.as_bytes(), &test_key(), &mut out);
    assert_eq!(findings.is_empty(), out.is_empty(), "{input}");
    if findings.is_empty() { input.to_owned() } else { String::from_utf8(out).unwrap() }
}

/// Splits literals so that no scanner of source code takes them for live secrets.
fn joined(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn examples_are_rewritten_in_place() {
    let jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    let aws_id = joined(&["AKIA", "IOSFODNN7EXAMPLE"]);
    let aws_secret = joined(&["wJalrXUtnFEMI/K7MDENG/", "bPxRfiCYEXAMPLEKEY"]);
    let github = joined(&["gh", "p_16C7e42F292c6912E7710c838347Ae178B4a"]);
    let stripe = joined(&["sk_", "live_4eC39HqLyjWDarjtT1zdp7dc"]);
    for (input, expected) in [
        ("card 4111111111111111.", "card [redacted]."),
        ("4111 1111 1111 1111", "[redacted]"),
        ("3782-822463-10005", "[redacted]"),
        ("paid 2 4111 1111 1111 1111 today", "paid 2 [redacted] today"),
        (r#"{"note":"a\n4111111111111111"}"#, r#"{"note":"a\n[redacted]"}"#),
        ("IBAN DE89 3704 0044 0532 0130 00 and more", "IBAN [redacted] and more"),
        ("GB82WEST12345698765432", "[redacted]"),
        ("mail bob.o-neil+x@mail.example.co.uk, thanks", "mail [redacted], thanks"),
        (r#"{"t":"x\nbob@example.com"}"#, r#"{"t":"x\n[redacted]"}"#),
        ("{bob@example.com,NULL}", "{[redacted],NULL}"),
        ("postgres://app:s3cr3t@db:5432/x", "postgres://app:[redacted]@db:5432/x"),
        ("amqp://app:pa/ss#1@mq/", "amqp://app:[redacted]@mq/"),
        (&format!("Bearer {jwt}."), "Bearer [redacted]."),
        (&format!("id {aws_id} secret {aws_secret}"), "id [redacted] secret [redacted]"),
        (&format!("AWS_SECRET_ACCESS_KEY=\"{aws_secret}\""), "AWS_SECRET_ACCESS_KEY=\"[redacted]\""),
        (&format!("TOKEN={github}\n"), "TOKEN=[redacted]\n"),
        (&format!("'{stripe}'"), "'[redacted]'"),
        ("k=-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----;", "k=[redacted];"),
        ("k=-----BEGIN EC PRIVATE KEY-----\nMIIEabc", "k=[redacted]"),
        (
            r#"{"k":"-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----\n","n":1}"#,
            r#"{"k":"[redacted]\n","n":1}"#,
        ),
        (r#"{"k":"-----BEGIN RSA PRIVATE KEY-----\nMIIE"}"#, r#"{"k":"[redacted]"}"#),
    ] {
        assert_eq!(masked(&scanner(Method::Redact), input), expected);
    }
}

#[test]
fn hard_negatives_stay() {
    for input in [
        "4111111111111112",
        "order 2024011510304512",
        "41111111111111111111111",
        "x4111111111111111",
        "0.4111111111111111",
        "2024-01-15 10:30:45.123456+00",
        "550e8400-e29b-41d4-a716-446655440000",
        "12345678-5105-1051-0510-510051005100",
        "DE88370400440532013000",
        "DE8937040044053201300",
        "lodash@4.17.21",
        "user@localhost",
        "logo@2x.png",
        "@media screen",
        "https://example.com:8080/a@b",
        "task-internationalisation-of-words",
        "sk-learn-is-a-library-for-everyone",
        "SKU 1234",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJub3RoaW5nIjoxfQ.abc.def",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "http://a:@b",
        "00000000-0000-0000-0000-000000000000",
        "0000000000000000",
    ] {
        assert_eq!(masked(&scanner(Method::Redact), input), input);
    }
}

#[test]
fn methods_apply_to_matches() {
    let input = "alice@example.com paid with 4111 1111 1111 1111";
    assert_eq!(masked(&scanner(Method::Partial), input), "a***@example.com paid with **** **** **** 1111");
    assert_eq!(masked(&scanner(Method::Null), input), " paid with ");
    let hashed = masked(&scanner(Method::Hash), input);
    assert!(hashed.starts_with("h:") && !hashed.contains("alice") && !hashed.contains("1111"), "{hashed}");
    let mut out = Vec::new();
    assert!(scanner(Method::Null).mask_text(input.as_bytes(), &test_key(), &mut out).nullify());
}

#[test]
fn json_stays_json() {
    for (input, expected) in [
        (r#"{"card":4111111111111111}"#, r#"{"card":"[redacted]"}"#),
        (r#"[1, -4111111111111111, "bob@example.com"]"#, r#"[1, "[redacted]", "[redacted]"]"#),
        (r#"{"a\"":"4111111111111111"}"#, r#"{"a\"":"[redacted]"}"#),
    ] {
        let mut out = Vec::new();
        assert!(!scanner(Method::Redact).mask_json(input.as_bytes(), &test_key(), &mut out).is_empty());
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        serde_json::from_slice::<serde_json::Value>(&out).unwrap();
    }
}

/// A local part may be longer than what is looked at, and begin with an escape.
#[test]
fn a_length_limit_does_not_cut_an_escape() {
    let scanner = scanner(Method::Redact);
    for length in 55..70 {
        let input = format!(r#"["\u00e9{}@example.com"]"#, "a".repeat(length));
        let mut out = Vec::new();
        assert!(!scanner.mask_json(input.as_bytes(), &test_key(), &mut out).is_empty());
        serde_json::from_slice::<serde_json::Value>(&out).unwrap_or_else(|error| panic!("{length}: {error}"));
    }
    assert_eq!(masked(&scanner, r"C:\u bob@example.com"), r"C:\u [redacted]");
}

/// The digits of an escape belong to no number and no word after it.
#[test]
fn what_follows_an_escape_begins_there() {
    let scanner = scanner(Method::Redact);
    for (input, expected) in [
        (r#"["\u00a04111111111111111"]"#, r#"["\u00a0[redacted]"]"#),
        (r#"["x\u00204111 1111 1111 1111"]"#, r#"["x\u0020[redacted]"]"#),
        (r#"["\u00a9ghp_16C7e42F292c6912E7710c838347Ae178B4a"]"#, r#"["\u00a9[redacted]"]"#),
        (r#"["\u00a0DE89370400440532013000"]"#, r#"["\u00a0[redacted]"]"#),
    ] {
        let mut out = Vec::new();
        assert!(!scanner.mask_json(input.as_bytes(), &test_key(), &mut out).is_empty(), "{input}");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    // Nor is every `\u` an escape.
    for (input, expected) in [
        (r"D:\u1 4111 1111 1111 1111", r"D:\u1 [redacted]"),
        (r"\u12-4111111111111111", r"\u12-[redacted]"),
        (r"ACME\uma@acme.com", r"ACME\u[redacted]"),
        (r"ACME\ursula@acme.com", r"ACME\u[redacted]"),
    ] {
        assert_eq!(masked(&scanner, input), expected);
    }
    for input in [r"\u0", r"\u00", r"\u41111111111111111x", r"u00a04111111111111111"] {
        assert_eq!(masked(&scanner, input), input);
    }
}

#[test]
fn overlapping_matches_become_one() {
    let both = masked(&scanner(Method::Redact), "db://bob:x@mail.example.com/4111111111111111");
    assert_eq!(both, "db://bob:[redacted]@mail.example.com/[redacted]");
    // A card number as the local part: one match, named by the detector whose match is longer.
    let mut out = Vec::new();
    let findings =
        scanner(Method::Redact).mask_text(b"to 4111111111111111@example.com", &test_key(), &mut out);
    assert_eq!(out, b"to [redacted]");
    assert_eq!(findings.iter().collect::<Vec<_>>(), [(Detector::Email, 1)]);
    let only = Scanner::new(&[(Detector::Email, Method::Partial), (Detector::Email, Method::Null)]).unwrap();
    assert_eq!(masked(&only, "bob@example.com 4111111111111111"), "b***@example.com 4111111111111111");
}

#[test]
fn any_bytes_are_safe() {
    let mut random = Random(11);
    let all = scanner(Method::Redact);
    let pieces: [&[u8]; 9] = [
        b"@",
        b"://",
        b"-----BEGIN PRIVATE KEY-----",
        b"eyJ",
        b".",
        b"4111 1111",
        b"AKIA",
        b"\xff\xfe",
        b"\\",
    ];
    for _ in 0..2_000 {
        let mut input = Vec::new();
        for _ in 0..random.below(12) {
            input.extend_from_slice(random.pick(&pieces));
            input.push(random.byte());
        }
        let mut out = Vec::new();
        let findings = all.mask_text(&input, &test_key(), &mut out);
        assert!(!findings.is_empty() || out.is_empty());
    }
}

/// Near misses must not cost more than the input is long.
#[test]
fn near_misses_are_cheap() {
    let all = scanner(Method::Redact);
    let rows = [
        "eyJ",
        "eyJ4",
        "sk-ant-",
        "AKIA",
        "a@a.",
        "1 ",
        "4 4111 ",
        "x://a:",
        "DE89",
        "-----BEGIN ",
        "a://b:c@d.ee ",
    ];
    for row in rows {
        let input = row.repeat(200 * 1024 / row.len());
        let start = std::time::Instant::now();
        let mut out = Vec::new();
        all.mask_text(input.as_bytes(), &test_key(), &mut out);
        // Unoptimised and on a busy machine this takes tens of milliseconds; quadratic work would take minutes.
        assert!(start.elapsed().as_secs() < 10, "{row}: {:?}", start.elapsed());
    }
}

#[test]
fn pieces_give_the_same_as_the_whole() {
    let secrets = secrets_of_every_kind();
    let all = scanner(Method::Redact);
    for seed in 0..6 {
        let mut random = Random(seed + 100);
        let mut whole = Vec::new();
        while whole.len() < 700 * 1024 {
            for _ in 0..random.below(400) {
                whole.extend_from_slice(random.pick(&WORDS).as_bytes());
                whole.push(b' ');
            }
            whole.extend_from_slice(random.pick(&secrets).as_bytes());
            whole.push(b'\n');
        }
        let mut expected = Vec::new();
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let before = expected.len();
            if all.mask_text(line, &test_key(), &mut expected).is_empty() {
                assert_eq!(expected.len(), before);
                expected.extend_from_slice(line);
            }
        }
        let mut stream = StreamScanner::new();
        let mut pieced = Vec::new();
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(1 + random.below(90_000)));
            stream.push(&all, &test_key(), piece, &mut pieced);
            assert!(stream.held_back() <= MATCH_BYTES_MAX + 2 * 64 * 1024 + 1024);
            rest = after;
        }
        let findings = stream.finish(&all, &test_key(), &mut pieced);
        assert!(!findings.is_empty());
        assert!(pieced == expected, "seed {seed}: pieces differ from lines");
        let mut long = Vec::new();
        assert_eq!(all.mask_text(&whole, &test_key(), &mut long), findings);
        assert!(long == expected, "seed {seed}: the long value differs from lines");
    }
}

/// Whatever the method and the way in, a secret does not come out.
#[test]
fn no_method_leaves_the_secret() {
    for method in [Method::Hash, Method::Null, Method::Partial, Method::Redact] {
        let all = scanner(method);
        for secret in secrets_of_every_kind() {
            let text = format!("{{\"value\": \"{secret}\"}}");
            let (mut plain, mut json, mut pieced) = (Vec::new(), Vec::new(), Vec::new());
            assert!(!all.mask_text(text.as_bytes(), &test_key(), &mut plain).is_empty(), "{secret}");
            assert!(!all.mask_json(text.as_bytes(), &test_key(), &mut json).is_empty(), "{secret}");
            let mut stream = StreamScanner::same_length();
            for byte in text.as_bytes() {
                stream.push(&all, &test_key(), &[*byte], &mut pieced);
            }
            assert!(!stream.finish(&all, &test_key(), &mut pieced).is_empty(), "{secret}");
            assert_eq!(pieced.len(), text.len());
            for out in [&plain, &json, &pieced] {
                assert!(!out.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
            }
            serde_json::from_slice::<serde_json::Value>(&json).unwrap();
        }
    }
}

#[test]
fn utf8_stays_utf8_around_long_mailboxes() {
    for pad in 0..4 {
        let input = format!("{}{}@example.{}", "x".repeat(pad), "é".repeat(60), "ü".repeat(200));
        let out = masked(&scanner(Method::Redact), &input);
        assert!(out.contains("[redacted]"), "{out}");
        assert!(!out.contains('@'), "{out}");
    }
}

#[test]
fn token_test_agrees_with_its_definition() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let length = random.below(80);
        let text = random.text("aaaaaaaaaaaaaaaaaaaaaaaaaaaa0_ ", length);
        let expected = text.split(' ').any(|token| token.len() >= TOKEN_BYTES_MIN);
        assert_eq!(has_token(text.as_bytes()), expected, "{text:?}");
    }
    let mut random = Random(4);
    for detector in DETECTORS {
        for _ in 0..200 {
            let secret = positive(detector, &mut random);
            let searched = has_token(secret.as_bytes()) || memchr::memchr(b'@', secret.as_bytes()).is_some();
            let by_prefix = matches!(detector, Detector::ApiKey | Detector::AwsKey | Detector::Jwt);
            assert!(searched || !by_prefix, "{secret}");
        }
    }
}

#[test]
fn same_length_keeps_the_length() {
    let all = scanner(Method::Redact);
    let text = "mail bob@example.com now";
    let mut stream = StreamScanner::same_length();
    let mut out = Vec::new();
    stream.push(&all, &test_key(), text.as_bytes(), &mut out);
    stream.finish(&all, &test_key(), &mut out);
    assert_eq!(out, b"mail *************** now");
}

/// Seeded generator (SplitMix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn text(&mut self, alphabet: &str, count: usize) -> String {
        (0..count).map(|_| char::from(alphabet.as_bytes()[self.below(alphabet.len())])).collect()
    }
}

const WORDS: [&str; 12] = [
    "order",
    "shipped",
    "2024-03-05",
    "customer",
    "Berlin",
    "total=42.10",
    "SKU-00417",
    "paid",
    "#1881",
    "x",
    "née",
    "ok",
];
const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const DIGITS: &str = "0123456789";
const HEX: &str = "0123456789abcdef";

fn luhn_complete(mut digits: String) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let value = u32::from(digit - b'0') * if at % 2 == 0 { 2 } else { 1 };
            value / 10 + value % 10
        })
        .sum();
    digits.push(char::from_digit((10 - sum % 10) % 10, 10).unwrap());
    digits
}

fn card(random: &mut Random) -> String {
    let networks = [
        ("4", 16),
        ("51", 16),
        ("55", 16),
        ("2221", 16),
        ("34", 15),
        ("37", 15),
        ("6011", 16),
        ("3528", 16),
        ("36", 14),
        ("62", 16),
        ("62", 19),
        ("65", 16),
        ("2200", 16),
        ("4", 13),
        ("4", 19),
        ("6759", 16),
    ];
    let (prefix, length) = networks[random.below(networks.len())];
    let body = random.text(DIGITS, length - prefix.len() - 1);
    let number = luhn_complete(format!("{prefix}{body}"));
    let separator = *random.pick(&[&"", &" ", &"-"]);
    let cuts: &[usize] = if matches!(length, 14 | 15) { &[4, 10] } else { &[4, 8, 12, 16] };
    let mut out = String::new();
    for (at, digit) in number.chars().enumerate() {
        if cuts.contains(&at) {
            out.push_str(separator);
        }
        out.push(digit);
    }
    out
}

fn iban(random: &mut Random) -> String {
    let countries = [
        ("DE", "d18"),
        ("GB", "u4d14"),
        ("FR", "d10a11d2"),
        ("NL", "u4d10"),
        ("NO", "d11"),
        ("ES", "d20"),
        ("PL", "d24"),
        ("MT", "u4d5a18"),
        ("CH", "d5a12"),
        ("BE", "d12"),
        ("SE", "d20"),
        ("IT", "u1d10a12"),
    ];
    let (country, shape) = countries[random.below(countries.len())];
    let mut bban = String::new();
    let mut parts = shape.chars().peekable();
    while let Some(class) = parts.next() {
        let mut count = String::new();
        while let Some(digit) = parts.next_if(char::is_ascii_digit) {
            count.push(digit);
        }
        let alphabet = match class {
            'd' => DIGITS,
            'u' => "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            _ => "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
        };
        bban.push_str(&random.text(alphabet, count.parse().unwrap()));
    }
    let check = format!("{bban}{country}00").chars().fold(0_u32, |all, c| {
        let value = c.to_digit(36).unwrap();
        if value > 9 { (all * 100 + value) % 97 } else { (all * 10 + value) % 97 }
    });
    let compact = format!("{country}{:02}{bban}", 98 - check);
    if random.below(2) == 0 {
        return compact;
    }
    let groups: Vec<String> =
        compact.as_bytes().chunks(4).map(|four| String::from_utf8(four.to_vec()).unwrap()).collect();
    groups.join(" ")
}

fn email(random: &mut Random) -> String {
    let length = 1 + random.below(10);
    let local = random.text(LOWER, length);
    let second = random.text(LOWER, 4);
    let joiner = *random.pick(&[&".", &"_", &"-", &"+", &""]);
    let host = random.text(LOWER, 6);
    let top = *random.pick(&[&"com", &"de", &"co.uk", &"io", &"example", &"museum"]);
    format!("{local}{joiner}{second}@{host}.{top}")
}

fn jwt(random: &mut Random) -> String {
    let header = *random.pick(&[
        &r#"{"alg":"HS256","typ":"JWT"}"#,
        &r#"{ "typ":"JWT", "alg":"RS256" }"#,
        &"{\n\"alg\":\"ES256\",\"kid\":\"1\"}",
    ]);
    let claims = format!(r#"{{"sub":"{}","iat":{}}}"#, random.text(ALNUM, 8), random.text(DIGITS, 9));
    format!("{}.{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()), random.text(ALNUM, 43))
}

fn base64url(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let all =
            three.iter().fold(0_u32, |all, byte| (all << 8) | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..=three.len() {
            out.push(char::from(SIGNS[usize::try_from(all >> (18 - 6 * at) & 63).unwrap()]));
        }
    }
    out
}

fn api_key(random: &mut Random) -> String {
    match random.below(14) {
        0 => format!("ghp_{}", random.text(ALNUM, 36)),
        1 => format!("github_pat_{}_{}", random.text(ALNUM, 22), random.text(ALNUM, 59)),
        2 => format!("glpat-{}", random.text(ALNUM, 20)),
        3 => {
            format!("xoxb-{}-{}-{}", random.text(DIGITS, 12), random.text(DIGITS, 12), random.text(ALNUM, 24))
        }
        4 => format!("sk_live_{}", random.text(ALNUM, 24)),
        5 => format!("AIza{}", random.text(ALNUM, 35)),
        6 => format!("sk-proj-{}", random.text(ALNUM, 48)),
        7 => format!("sk-ant-api03-{}", random.text(ALNUM, 95)),
        8 => format!("npm_{}", random.text(ALNUM, 36)),
        9 => format!("SG.{}.{}", random.text(ALNUM, 22), random.text(ALNUM, 43)),
        10 => format!("SK{}", random.text(HEX, 32)),
        11 => format!("hf_{}", random.text(ALNUM, 34)),
        12 => format!("dop_v1_{}", random.text(HEX, 64)),
        _ => format!("hvs.{}", random.text(ALNUM, 95)),
    }
}

fn positive(detector: Detector, random: &mut Random) -> String {
    match detector {
        Detector::ApiKey => api_key(random),
        Detector::AwsKey => format!("{}{}", *random.pick(&[&"AKIA", &"ASIA"]), random.text(UPPER, 16)),
        Detector::Email => email(random),
        Detector::Iban => iban(random),
        Detector::Jwt => jwt(random),
        Detector::PaymentCard => card(random),
        Detector::PasswordInUrl => random.text(ALNUM, 12),
        Detector::PrivateKey => {
            let body = random.text(ALNUM, 64);
            format!("-----BEGIN PRIVATE KEY-----\\n{body}\\n-----END PRIVATE KEY-----")
        }
    }
}

fn secrets_of_every_kind() -> Vec<&'static str> {
    let mut random = Random(5);
    DETECTORS
        .into_iter()
        .filter(|detector| *detector != Detector::PasswordInUrl)
        .flat_map(|detector| (0..20).map(|_| positive(detector, &mut random)).collect::<Vec<_>>())
        .map(|secret| &*Box::leak(secret.into_boxed_str()))
        .collect()
}

fn negative(random: &mut Random) -> String {
    match random.below(16) {
        0 => format!("ORD-2024-{}", random.text(DIGITS, 9)),
        1 => format!(
            "{}-{}-4{}-a{}-{}",
            random.text(HEX, 8),
            random.text(HEX, 4),
            random.text(HEX, 3),
            random.text(HEX, 3),
            random.text(HEX, 12)
        ),
        2 => format!(
            "2024-0{}-1{} 1{}:30:45.{}",
            1 + random.below(9),
            random.below(10),
            random.below(10),
            random.text(DIGITS, 6)
        ),
        3 => {
            // Sixteen digits whose check digit is wrong.
            let good = luhn_complete(format!("4{}", random.text(DIGITS, 14)));
            let last = good.bytes().last().unwrap();
            format!(
                "{}{}",
                good.get(..15).unwrap(),
                char::from(b'0' + (last - b'0' + 1 + u8::try_from(random.below(9)).unwrap()) % 10)
            )
        }
        4 => format!("1{}", random.text(DIGITS, 15)),
        5 => random.text(HEX, 40),
        6 => random.text(HEX, 64),
        7 => format!("{}@{}.{}", random.text(LOWER, 6), random.below(20), random.below(20)),
        8 => format!("+49 30 {} {}", random.text("23456789", 4), random.text(DIGITS, 4)),
        9 => format!("DE{}", random.text(HEX, 12)),
        10 => format!("https://{}.example.com:8443/{}", random.text(LOWER, 5), random.text(LOWER, 8)),
        11 => format!("sk-{}-{}", random.text(LOWER, 8), random.text(LOWER, 8)),
        12 => format!("0.4{}", random.text(DIGITS, 15)),
        13 => format!("{}{}", luhn_complete(format!("4{}", random.text(DIGITS, 14))), random.text(DIGITS, 5)),
        14 => random.text(ALNUM, 32),
        _ => format!("{} {} {}", random.pick(&WORDS), random.pick(&WORDS), random.pick(&WORDS)),
    }
}

/// One cell of a result: bare, in JSON, CSV, an array literal, a sentence or a COPY line.
fn cell(value: &str, random: &mut Random) -> String {
    match random.below(6) {
        0 => value.to_owned(),
        1 => format!(r#"{{"id": {}, "value": "{value}", "ok": true}}"#, random.below(1000)),
        2 => format!("{},{value},\"x\"", random.below(1000)),
        3 => format!("{{\"{value}\",NULL}}"),
        4 => format!("note from {}: {value}, see above", random.pick(&WORDS)),
        _ => format!("{}\t{value}\t\\N", random.below(1000)),
    }
}

/// Precision and recall, per detector, over cells in the forms results take. A positive counts as found when nothing of
/// the secret is left; a negative cell counts against the detector that changed it.
#[test]
fn generated_set_reaches_the_goal() {
    const PER_DETECTOR: usize = 3_000;
    const NEGATIVES: usize = 24_000;
    let all = scanner(Method::Redact);
    let mut random = Random(2024);
    let mut table = String::from("detector        positives  found  false\n");
    let mut found = [0_usize; DETECTORS.len()];
    let mut wrong = [0_usize; DETECTORS.len()];
    for detector in DETECTORS {
        for _ in 0..PER_DETECTOR {
            let secret = positive(detector, &mut random);
            let value = if detector == Detector::PasswordInUrl {
                format!("postgres://app:{secret}@db.internal:5432/shop")
            } else {
                secret.clone()
            };
            let text = cell(&value, &mut random);
            let mut out = Vec::new();
            let findings = all.mask_text(text.as_bytes(), &test_key(), &mut out);
            let gone = findings.count(detector) == 1 && !String::from_utf8(out).unwrap().contains(&secret);
            found[index(detector)] += usize::from(gone);
            for (other, count) in findings.iter().filter(|(other, _)| *other != detector) {
                wrong[index(other)] += usize::try_from(count).unwrap();
            }
        }
    }
    for _ in 0..NEGATIVES {
        let value = negative(&mut random);
        let text = cell(&value, &mut random);
        let mut out = Vec::new();
        for (detector, count) in all.mask_text(text.as_bytes(), &test_key(), &mut out).iter() {
            wrong[index(detector)] += usize::try_from(count).unwrap();
        }
    }
    for detector in DETECTORS {
        let (found, wrong) = (found[index(detector)], wrong[index(detector)]);
        writeln!(table, "{:<15} {PER_DETECTOR:>9} {found:>6} {wrong:>6}", format!("{detector:?}")).unwrap();
    }
    println!("{table}");
    for detector in DETECTORS {
        let (found, wrong) = (found[index(detector)], wrong[index(detector)]);
        assert!(found * 100 >= PER_DETECTOR * 99, "recall of {detector:?}\n{table}");
        assert!(found * 100 >= (found + wrong) * 99, "precision of {detector:?}\n{table}");
    }
}
