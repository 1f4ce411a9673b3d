//! Output of terminals and commands, whole and at every split: what a detector finds is gone, every sequence is still there.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::*;
use crate::codec::terminal::{Piece, Splitter};
use crate::mask::{Detector, HashKey, Method};

const EVERYTHING: [Detector; 8] = [
    Detector::ApiKey,
    Detector::AwsKey,
    Detector::Email,
    Detector::Iban,
    Detector::Jwt,
    Detector::PaymentCard,
    Detector::PasswordInUrl,
    Detector::PrivateKey,
];

const KEY: &str = "-----BEGIN RSA PRIVATE KEY-----\r\nMIIEpAIBAAKCAQEAx4UbaDzY5xjW6hc9jwN0mX33XpTDVW7w\r\n\
    Z8tC5DMgBkyXj1N2hMAUQvOQ7dSQbJm7QmCJs0VnQ==\r\n-----END RSA PRIVATE KEY-----";

fn masks(detect: &[Detector], method: Method) -> Arc<BodyMasks> {
    let detect: Vec<_> = detect.iter().map(|detector| (*detector, method)).collect();
    let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    Arc::new(BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), &detect, Vec::new(), key).unwrap())
}

fn run<'p>(masks: &Arc<BodyMasks>, pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
    let mut masker = TerminalMasker::new(Arc::clone(masks));
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&masker.push(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&masker.relent());
    assert_eq!(masker.held(), 0);
    out
}

/// The same whatever the split: whole, byte by byte, and cut in two everywhere.
fn everywhere(masks: &Arc<BodyMasks>, text: &str) -> String {
    let bytes = text.as_bytes();
    let whole = run(masks, [bytes]);
    assert_eq!(run(masks, bytes.chunks(1)), whole, "byte by byte: {text:?}");
    for at in 0..bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(run(masks, [first, second]), whole, "cut at {at}: {text:?}");
    }
    String::from_utf8(whole).unwrap()
}

/// All sequences of a stream, in order.
fn sequences(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut splitter = Splitter::default();
    let mut emit = |piece: Piece<'_>| match piece {
        Piece::Text(_) => {}
        Piece::Sequence(bytes, _) => all.push(bytes.to_vec()),
        Piece::String(introducer, content) => all.push([introducer, content].concat()),
    };
    splitter.push(bytes, &mut emit);
    splitter.relent(&mut emit);
    all
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

#[test]
fn secrets_are_found_whatever_colours_they_have() {
    let masks = masks(&EVERYTHING, Method::Redact);
    for (shown, expected) in [
        ("card 4111111111111111.\r\n", "card [redacted].\r\n"),
        (
            "\x1b[1mcard\x1b[0m 4111\x1b[31m1111\x1b[m11111111\x1b[0m.",
            "\x1b[1mcard\x1b[0m [redacted]\x1b[31m\x1b[m\x1b[0m.",
        ),
        // grep --color
        ("a\x1b[01;31m\x1b[Klice@exam\x1b[m\x1b[Kple.com ok", "[redacted]\x1b[01;31m\x1b[K\x1b[m\x1b[K ok"),
        // C1 in eight bits, and in UTF-8.
        ("4111\u{9b}1m111111111111 end", "[redacted]\u{9b}1m end"),
        // A hyperlink around it, and the address in it.
        (
            "\x1b]8;;mailto:bob@example.com\x1b\\bob@example.com\x1b]8;;\x1b\\ x",
            "\x1b]8;;mailto:[redacted]\x1b\\[redacted]\x1b]8;;\x1b\\ x",
        ),
        ("\x1b]0;bob@example.com: ~\x07$ ", "\x1b]0;[redacted]: ~\x07$ "),
        (
            "\x1b(Bghp_0123456789abcdef\x1b[1m0123456789abcdefghij\x1b(B\r\n",
            "\x1b(B[redacted]\x1b[1m\x1b(B\r\n",
        ),
        // Elsewhere on the screen is another word; a gap is a blank.
        ("12\x1b[5;1H4111111111111111\x1b[6;1H7", "12\x1b[5;1H[redacted]\x1b[6;1H7"),
        ("4111\x1b[C1111\x1b[C1111\x1b[C1111 x", "[redacted]\x1b[C\x1b[C\x1b[C x"),
        ("bob@\x1b[2;1Hexample.com", "bob@\x1b[2;1Hexample.com"),
        ("é\x1b[1mmile@example.com", "[redacted]\x1b[1m"),
    ] {
        assert_eq!(everywhere(&masks, shown), expected);
    }
}

#[test]
fn a_private_key_is_found_with_the_line_ends_of_a_terminal() {
    let masks = masks(&[Detector::PrivateKey], Method::Redact);
    assert_eq!(everywhere(&masks, &format!("$ cat key\r\n{KEY}\r\n$ ")), "$ cat key\r\n[redacted]\r\n$ ");
    let coloured = KEY.replace("\r\n", "\x1b[0m\r\n\x1b[32m");
    assert!(!everywhere(&masks, &coloured).contains("MII"));
    let drawn = KEY.replace("\r\n", "\x1b[K\x1b[7;1H");
    assert_eq!(everywhere(&masks, &drawn), format!("[redacted]{}", "\x1b[K\x1b[7;1H".repeat(3)));
}

#[test]
fn what_only_begins_like_a_sequence_is_text() {
    let masks = masks(&EVERYTHING, Method::Redact);
    for (shown, expected) in [
        ("\x1b[4111111111111111;1m", "\x1b[[redacted];1m"),
        ("\x1b[31\x1b[1m4111111111111111", "\x1b[31\x1b[1m[redacted]"),
        ("\x1b]0;4111111111111111\x18 4111111111111111", "\x1b]0;[redacted]\x18 [redacted]"),
        ("\x1b", "\x1b"),
        ("\x1b[", "\x1b["),
        ("\u{c2}\u{a0}x\u{9d}", "\u{c2}\u{a0}x\u{9d}"),
        ("\x1bP4111111111111111", "\x1bP[redacted]"),
        ("\x1bP4111111111111111\x1b\\", "\x1bP[redacted]\x1b\\"),
    ] {
        assert_eq!(everywhere(&masks, shown), expected);
    }
    // No string is that long.
    let picture = format!("\x1bPq{}bob@example.com\x1b\\", "#0;2;0;0;0~-".repeat(1000));
    let whole = run(&masks, [picture.as_bytes()]);
    assert_eq!(run(&masks, picture.as_bytes().chunks(1)), whole);
    assert!(!String::from_utf8(whole).unwrap().contains("bob@"));
}

#[test]
fn text_without_secrets_is_not_copied_and_not_held() {
    let masks = masks(&EVERYTHING, Method::Redact);
    let mut masker = TerminalMasker::new(masks);
    for text in ["plain words\r\n", "\x1b[32mgreen\x1b[0m and so on \r\n", "root@host:~# ", "déjà vu \n"] {
        let piece = Bytes::copy_from_slice(text.as_bytes());
        let shown = masker.push(piece.clone());
        assert_eq!((shown.as_ptr(), shown.len()), (piece.as_ptr(), piece.len()), "{text:?}");
    }
    // Only what could be beginning is held.
    let piece = Bytes::from_static(b"all is \x1b[1mwell\x1b[0m 41");
    let shown = masker.push(piece.clone());
    assert_eq!((shown.as_ptr(), masker.held()), (piece.as_ptr(), 2));
    assert_eq!(masker.push(Bytes::from_static(b" is a number \n")), Bytes::from_static(b"41 is a number \n"));
}

#[test]
fn what_was_shown_too_early_costs_only_the_beginning() {
    let masks = masks(&EVERYTHING, Method::Redact);
    let mut masker = TerminalMasker::new(Arc::clone(&masks));
    assert_eq!(masker.push(Bytes::from_static(b"4111111\x1b[1m")), Bytes::new());
    assert_eq!(masker.held(), 11);
    assert_eq!(masker.relent(), Bytes::from_static(b"4111111\x1b[1m"));
    assert_eq!(
        masker.push(Bytes::from_static(b"1111\x1b[0m11111 x ")),
        Bytes::from_static(b"[redacted]\x1b[0m x ")
    );
    assert_eq!(masker.counts().get("payment-card (late)"), Some(&1));

    // What is a secret already when somebody has waited for long enough is masked, and so is the rest of it.
    let mut masker = TerminalMasker::new(Arc::clone(&masks));
    let (first, rest) = KEY.split_at(60);
    assert_eq!(masker.push(Bytes::copy_from_slice(first.as_bytes())), Bytes::new());
    assert_eq!(masker.relent(), Bytes::from_static(b"[redacted]"));
    let (second, third) = rest.split_at(20);
    assert_eq!(masker.push(Bytes::copy_from_slice(second.as_bytes())), Bytes::new());
    assert_eq!(masker.relent(), Bytes::new());
    assert_eq!(masker.push(Bytes::copy_from_slice(third.as_bytes())), Bytes::new());
    assert_eq!(masker.push(Bytes::from_static(b"\r\n$ ")), Bytes::from_static(b"\r\n$ "));
    assert_eq!(masker.counts().iter().collect::<Vec<_>>(), [(&"private-key".to_owned(), &1)]);

    // A sequence is completed after its beginning was let go.
    let mut masker = TerminalMasker::new(masks);
    assert_eq!(masker.push(Bytes::from_static(b"x \x1b[3")), Bytes::from_static(b"x "));
    assert_eq!(masker.relent(), Bytes::from_static(b"\x1b[3"));
    assert_eq!(masker.push(Bytes::from_static(b"1m! ")), Bytes::from_static(b"1m! "));
}

#[test]
fn what_is_held_is_bounded() {
    let masks = masks(&EVERYTHING, Method::Redact);
    let mut masker = TerminalMasker::new(masks);
    let bound = MATCH_BYTES_MAX + HELD_SEQUENCE_BYTES_MAX + STEP_BYTES;
    masker.push(Bytes::from_static(b"-----BEGIN PRIVATE KEY-----\n4111"));
    for _ in 0..6000 {
        masker.push(Bytes::from_static(b"\x1b[1;2;3;4;5;6m"));
        assert!(masker.held() <= bound);
    }
    for _ in 0..1000 {
        masker.push(Bytes::from_static(b"\x1b]0;AAAAAAAAAAAAA"));
        assert!(masker.held() <= bound);
    }
}

#[test]
fn any_stream_is_the_same_however_it_is_cut_and_keeps_its_sequences() {
    const PARTS: [&str; 26] = [
        "\x1b[0m",
        "\x1b[1;31m",
        "\x1b[K",
        "\x1b[3;4H",
        "\x1b]0;t bob@example.com\x07",
        "\x1b]8;;http://x/\x1b\\",
        "\x1b(B",
        "\x1b7",
        "\x1b=",
        "\u{9b}1m",
        "\x07",
        "\r\n",
        " ",
        "4111",
        "1111",
        "11111111",
        "5",
        "bob@",
        "example.com",
        "é",
        "\u{2713}",
        "\"",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.",
        "-----BEGIN PRIVATE KEY-----",
        "x",
    ];
    let masks = masks(&EVERYTHING, Method::Partial);
    let mut numbers = Numbers(1);
    for _ in 0..300 {
        let stream: String = (0..1 + numbers.next(30)).map(|_| PARTS[numbers.next(PARTS.len())]).collect();
        let whole = run(&masks, [stream.as_bytes()]);
        assert_eq!(run(&masks, stream.as_bytes().chunks(1)), whole, "{stream:?}");
        let mut rest = stream.as_bytes();
        let cut = std::iter::from_fn(|| {
            let (piece, more) = rest.split_at(rest.len().min(1 + numbers.next(9)));
            rest = more;
            (!piece.is_empty()).then_some(piece)
        });
        assert_eq!(run(&masks, cut), whole, "{stream:?}");
        let strings = |bytes: &[u8]| {
            let kept = |sequence: &Vec<u8>| !sequence.starts_with(b"\x1b]");
            sequences(bytes).into_iter().filter(kept).collect::<Vec<_>>()
        };
        assert_eq!(strings(&whole), strings(stream.as_bytes()), "{stream:?}");
    }
}

#[test]
fn noise_passes_as_it_is_unless_it_holds_a_secret() {
    let masks = masks(&[Detector::Email], Method::Redact);
    let mut numbers = Numbers(2);
    let mut noise: Vec<u8> = (0..200_000).map(|_| u8::try_from(numbers.next(256)).unwrap()).collect();
    noise.retain(|byte| *byte != b'@');
    assert!(run(&masks, [&noise[..]]) == noise);
    assert!(run(&masks, noise.chunks(777)) == noise);
    assert!(run(&masks, noise[..3000].chunks(1)) == noise[..3000]);
}

#[test]
fn sequences_are_told_from_text() {
    let mut seen = Vec::new();
    let mut splitter = Splitter::default();
    splitter.push("a\x1b[1mb\x1b[2Cc\x1b[Hd\x1b]0;t\x1b\\e\x1bMf\u{9c}".as_bytes(), &mut |piece| {
        seen.push(match piece {
            Piece::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Piece::Sequence(_, effect) => format!("{effect:?}"),
            Piece::String(..) => "String".to_owned(),
        });
    });
    assert_eq!(seen, ["a", "None", "b", "Gap", "c", "Move", "d", "String", "e", "Move", "f", "None"]);
    assert_eq!(splitter.held(), 0);
}
