//! Bodies of every kind, whole and at every split: what a rule or detector finds is gone, everything else is untouched.

use std::sync::Arc;

use globset::Glob;
use zeroize::Zeroizing;

use super::*;
use crate::mask::HashKey;

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

fn masks(json: &[(&str, Method)], form: &[&str], detect: &[Detector]) -> Arc<BodyMasks> {
    let json = json.iter().map(|(path, method)| FieldRule {
        what: JsonPath::parse(path).unwrap(),
        method: *method,
        rule: (*path).to_owned(),
    });
    let form = form.iter().map(|name| FieldRule {
        what: Glob::new(name).unwrap().compile_matcher(),
        method: Method::Redact,
        rule: (*name).to_owned(),
    });
    let detect: Vec<_> = detect.iter().map(|detector| (*detector, Method::Redact)).collect();
    let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    Arc::new(BodyMasks::new(json.collect(), form.collect(), Vec::new(), &detect, Vec::new(), key).unwrap())
}

fn run(masks: &Arc<BodyMasks>, kind: BodyKind, pieces: &[&[u8]]) -> String {
    let mut masker = BodyMasker::new(Arc::clone(masks), kind);
    let mut out = Vec::new();
    for piece in pieces {
        masker.push(piece, &mut out);
    }
    masker.finish(&mut out);
    String::from_utf8(out).unwrap()
}

/// The same whatever the split: whole, byte by byte, and cut in two everywhere.
fn everywhere(masks: &Arc<BodyMasks>, kind: BodyKind, body: &str) -> String {
    let whole = run(masks, kind, &[body.as_bytes()]);
    let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
    assert_eq!(run(masks, kind, &bytes), whole, "byte by byte");
    for at in 0..body.len() {
        let (first, second) = body.as_bytes().split_at(at);
        assert_eq!(run(masks, kind, &[first, second]), whole, "cut at {at}");
    }
    whole
}

#[test]
fn rules_by_place_replace_whatever_stands_there() {
    let masks = masks(
        &[
            ("$.customers[*].ssn", Method::Redact),
            ("$..password", Method::Null),
            ("$.card", Method::Partial),
            ("$.owner", Method::Redact),
        ],
        &[],
        &[],
    );
    let body = r#" {"customers": [{"ssn":"078-05-1120","name":"A"}, {"ssn" : 12345}], "card":"4111111111111111",
  "deep": {"password": {"old": "x\"}", "new": ["y"]}, "pass": 1}, "owner": [1, {"a": "]"}], "ssn": "kept", "n": 1e5 } "#;
    assert_eq!(
        everywhere(&masks, BodyKind::Json, body),
        r#" {"customers": [{"ssn":"[redacted]","name":"A"}, {"ssn" : "[redacted]"}], "card":"************1111",
  "deep": {"password": null, "pass": 1}, "owner": "[redacted]", "ssn": "kept", "n": 1e5 } "#
    );
}

#[test]
fn member_names_are_read_before_they_are_compared() {
    let masks = masks(&[("$.password", Method::Redact)], &[], &[]);
    let body = r#"{"pass\u0077ord":"s3cret","a":{"password":"kept"}}"#;
    assert_eq!(
        everywhere(&masks, BodyKind::Json, body),
        r#"{"pass\u0077ord":"[redacted]","a":{"password":"kept"}}"#
    );
}

#[test]
fn detectors_read_escapes_and_leave_the_rest_as_it_was() {
    let masks = masks(&[], &[], &EVERYTHING);
    let body = r#"{"a":"\u0034111 1111\u00201111 1111","b":"caf\u00e9 \/ \"x\"","c":4111111111111111,"m":"a\u0040b.example.com ok","arguments":"{\"card\":\"4111111111111111\"}"}"#;
    assert_eq!(
        everywhere(&masks, BodyKind::Json, body),
        r#"{"a":"[redacted]","b":"caf\u00e9 \/ \"x\"","c":"[redacted]","m":"[redacted] ok","arguments":"{\"card\":\"[redacted]\"}"}"#
    );
}

#[test]
fn what_matches_nothing_comes_out_byte_for_byte() {
    let masks = masks(&[("$.nothing[0]", Method::Redact)], &["nothing"], &EVERYTHING);
    for (kind, body) in [
        (
            BodyKind::Json,
            "\u{feff}{\"a\" : [1.0, -2e+3 ,true, null], \"\\ud83d\\ude00\":\"\\u00e9\",}  \n{}\n[]",
        ),
        (BodyKind::Json, "not json at all, { but } : \"kept\" as [ it is"),
        (BodyKind::Json, "[[[[{\"a\":"),
        (BodyKind::Json, "]]}\"\\"),
        (
            BodyKind::Text,
            "Dear reader,\r\n\tthis is - prose. It has 12 numbers 3.14 and words_like_this-one.\n",
        ),
        (BodyKind::Form, "a=1&b=%41+b&c&&=x;d=%zz"),
        (
            BodyKind::Events,
            ": hi\n\nid: 1\nevent: x\ndata: plain\ndata: more\n\ndata:{\"text\":\"word \"}\r\n\r\ndata: [DONE]\n\n",
        ),
        (BodyKind::Untold, "plain"),
    ] {
        assert_eq!(everywhere(&masks, kind, body), body, "{kind:?}");
    }
}

#[test]
fn what_is_not_json_is_masked_as_text() {
    let masks = masks(&[], &[], &EVERYTHING);
    let body = "pay with 4111 1111 1111 1111, please";
    assert_eq!(everywhere(&masks, BodyKind::Json, body), "pay with [redacted], please");
}

#[test]
fn forms_are_masked_by_name_and_by_what_they_say() {
    let masks = masks(&[], &["pass*"], &EVERYTHING);
    let body = "user=ada&password=a%26b+c&card=4111%201111+1111%2B1111&note=4111+1111%201111+1111&x=%2f";
    assert_eq!(
        everywhere(&masks, BodyKind::Form, body),
        "user=ada&password=%5Bredacted%5D&card=4111%201111+1111%2B1111&note=%5Bredacted%5D&x=%2f"
    );
}

#[test]
fn text_flows_and_secrets_do_not() {
    let masks = masks(&[], &[], &EVERYTHING);
    let mut masker = BodyMasker::new(Arc::clone(&masks), BodyKind::Text);
    let mut out = Vec::new();
    masker.push(b"Hello there, ", &mut out);
    assert_eq!(out, b"Hello there, ");
    masker.push(b"the card is 4111 1111 ", &mut out);
    assert_eq!(String::from_utf8_lossy(&out), "Hello there, the card is ");
    masker.push(b"1111 1111 and ", &mut out);
    assert_eq!(String::from_utf8_lossy(&out), "Hello there, the card is [redacted] and ");
}

fn delta(text: &str) -> String {
    let choice = serde_json::json!({"id": "c-1", "choices": [{"index": 0, "delta": {"content": text}}]});
    format!("data: {choice}\n\n")
}

#[test]
fn a_secret_spread_over_events_is_found() {
    let masks = masks(&[], &[], &EVERYTHING);
    let secret = "glpat-abcdefghij0123456789";
    for size in 1..secret.len() {
        let mut body = delta("The key is ");
        for piece in secret.as_bytes().chunks(size) {
            body.push_str(&delta(std::str::from_utf8(piece).unwrap()));
        }
        body.push_str(&delta(" so keep it."));
        body.push_str("data: [DONE]\n\n");
        let out = everywhere_fast(&masks, &body);
        let said: String = out
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line.strip_prefix("data: ")?).ok())
            .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(said, "The key is [redacted] so keep it.", "pieces of {size}");
        assert!(out.ends_with("data: [DONE]\n\n"));
    }
}

fn everywhere_fast(masks: &Arc<BodyMasks>, body: &str) -> String {
    let whole = run(masks, BodyKind::Events, &[body.as_bytes()]);
    for size in [1, 7, 64] {
        let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
        assert_eq!(run(masks, BodyKind::Events, &pieces), whole, "pieces of {size}");
    }
    whole
}

#[test]
fn an_event_that_can_begin_nothing_goes_at_once() {
    let masks = masks(&[], &[], &[Detector::PaymentCard, Detector::ApiKey]);
    let mut masker = BodyMasker::new(Arc::clone(&masks), BodyKind::Events);
    let mut out = Vec::new();
    let event = delta("Hello world");
    masker.push(event.as_bytes(), &mut out);
    assert_eq!(String::from_utf8_lossy(&out), event);
}

#[test]
fn a_binary_body_is_told_by_its_bytes() {
    let masks = masks(&[], &[], &EVERYTHING);
    let mut body = b"\x7fELF\0\0 4111 1111 1111 1111".to_vec();
    let mut masker = BodyMasker::new(Arc::clone(&masks), BodyKind::Untold);
    let mut out = Vec::new();
    masker.push(&body, &mut out);
    masker.finish(&mut out);
    assert_eq!(out, body);
    body.retain(|byte| *byte != 0);
    assert!(!run(&masks, BodyKind::Untold, &[b"a 4111 1111 1111 1111"]).contains("4111"));
}

#[test]
fn media_types_say_what_a_body_is() {
    for (media, kind) in [
        ("application/json; charset=utf-8", BodyKind::Json),
        ("application/problem+json", BodyKind::Json),
        ("application/x-ndjson", BodyKind::Json),
        ("TEXT/Event-Stream", BodyKind::Events),
        ("application/x-www-form-urlencoded", BodyKind::Form),
        ("text/html", BodyKind::Text),
        ("multipart/form-data; boundary=x", BodyKind::Text),
        ("image/svg+xml", BodyKind::Text),
        ("image/png", BodyKind::Binary),
        ("application/grpc+proto", BodyKind::Binary),
        ("application/octet-stream", BodyKind::Untold),
    ] {
        assert_eq!(BodyKind::of(Some(media.as_bytes())), kind, "{media}");
    }
    assert_eq!(BodyKind::of(None), BodyKind::Untold);
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

const SECRETS: [&str; 8] = [
    "4111 1111 1111 1111",
    "5500005555555559",
    "DE89 3704 0044 0532 0130 00",
    "ada.lovelace@analytical.example.org",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "glpat-abcdefghij0123456789",
];

/// The secret the way a kind of body would carry it.
fn planted(kind: BodyKind, random: &mut Random, secret: &str) -> String {
    let words = ["lorem", "ipsum", "dolor", "12", "x-y", "a.b"];
    let mut noise = || -> String {
        (0..random.below(6)).map(|_| words[random.below(words.len())]).collect::<Vec<_>>().join(" ")
    };
    let (before, after) = (noise(), noise());
    let text = format!("{before} {secret} {after}");
    let escaped =
        |text: &str| -> String { text.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect() };
    match kind {
        BodyKind::Json if random.below(2) == 0 => format!("{{\"note\":\"{}\",\"n\":[1,2]}}", escaped(&text)),
        BodyKind::Json => serde_json::json!({"k": {"note": text}, "more": [before]}).to_string(),
        BodyKind::Form => {
            let value: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            format!("a=1&note={value}&b=2")
        }
        BodyKind::Events => {
            let mut body = String::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((1 + random.below(9)).min(rest.len()));
                body.push_str(&delta(piece));
                rest = after;
            }
            body
        }
        BodyKind::Text | BodyKind::Untold | BodyKind::Binary => text,
    }
}

#[test]
fn none_of_ten_thousand_planted_secrets_survives() {
    let masks = masks(&[], &[], &EVERYTHING);
    let mut random = Random(2026);
    let kinds = [BodyKind::Json, BodyKind::Form, BodyKind::Text, BodyKind::Events, BodyKind::Untold];
    for number in 0..10_000 {
        let (kind, secret) = (kinds[random.below(kinds.len())], SECRETS[random.below(SECRETS.len())]);
        let body = planted(kind, &mut random, secret);
        let mut pieces = Vec::new();
        let mut rest = body.as_bytes();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + random.below(40)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let out = run(&masks, kind, &pieces);
        let said = match kind {
            BodyKind::Form => {
                form_urlencoded::parse(out.as_bytes()).map(|(_, value)| value.into_owned()).collect()
            }
            BodyKind::Events => out
                .lines()
                .filter_map(|line| {
                    serde_json::from_str::<serde_json::Value>(line.strip_prefix("data: ")?).ok()
                })
                .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
                .collect(),
            BodyKind::Json => serde_json::from_str::<serde_json::Value>(&out).unwrap().to_string(),
            BodyKind::Text | BodyKind::Untold | BodyKind::Binary => out.clone(),
        };
        assert!(said.contains("[redacted]"), "#{number} {kind:?} {secret}: {out}");
        for length in [secret.len(), secret.len() * 2 / 3] {
            let part = secret.get(..length).unwrap();
            assert!(!said.contains(part), "#{number} {kind:?}: {part} in {said}\nfrom {body}");
        }
    }
}

#[test]
fn memory_stays_bounded_whatever_comes() {
    let masks = masks(&[("$.x", Method::Redact)], &[], &EVERYTHING);
    for (kind, begin, piece) in [
        (BodyKind::Json, "{\"long\":\"", "word "),
        (BodyKind::Json, "{\"x\":\"", "word "),
        (BodyKind::Json, "", "[[[[["),
        (BodyKind::Json, "", "{\"a\":"),
        (BodyKind::Text, "", "aaaaa"),
        (BodyKind::Form, "a=", "aaaaa"),
        (BodyKind::Events, "data: ", "aaaaa"),
    ] {
        let mut masker = BodyMasker::new(Arc::clone(&masks), kind);
        let mut out = Vec::new();
        masker.push(begin.as_bytes(), &mut out);
        let piece = piece.repeat(13_000);
        let (mut given, mut got) = (begin.len(), 0);
        for _ in 0..64 {
            masker.push(piece.as_bytes(), &mut out);
            given += piece.len();
            got += out.len();
            out.clear();
        }
        let swallowed = kind == BodyKind::Form
            || begin == "{\"x\":\""
            || piece.starts_with("{\"a\"")
            || piece.starts_with('[');
        assert!(swallowed || given - got < 3 * 1024 * 1024, "{kind:?} {begin}: {given} in, {got} out");
    }
}

#[test]
fn a_credential_that_a_server_sends_back_is_withheld_at_every_split() {
    let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    let secret = Secret::new(b"s3cr3t-token/1".to_vec());
    let masks = BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), &[], vec![secret], key).unwrap();
    let masks = Arc::new(masks);
    let body = "you sent s3cr3t-s3cr3t-token/1!";
    assert_eq!(everywhere(&masks, BodyKind::Text, body), "you sent s3cr3t-[redacted]!");
    let json = r#"{"authorization":"Bearer s3cr3t-token\/1"}"#;
    assert_eq!(everywhere(&masks, BodyKind::Json, json), r#"{"authorization":"Bearer [redacted]"}"#);
}

#[test]
fn what_is_left_alone_at_one_look_the_masks_leave_alone() {
    let masks = masks(&[("$.customers[*].ssn", Method::Redact)], &[], &EVERYTHING);
    let alone = |kind, body: &str| masks.leaves_alone(kind, body.as_bytes());
    for kind in [BodyKind::Json, BodyKind::Text, BodyKind::Untold, BodyKind::Binary] {
        for body in
            ["", "{}", r#"{"orders":[{"id":7,"note":"at the door"}]}"#, "plain words, 12 of them", "\0\x01"]
        {
            assert!(alone(kind, body), "{kind:?} {body}");
            assert_eq!(everywhere(&masks, kind, body), body, "{kind:?}");
        }
    }
    for body in [
        r#"{"customers":[{"ssn":"1"}]}"#,
        r#"{"customers":[{"\u0073sn":"1"}]}"#,
        r#"{"note":"4111 1111 1111 1111"}"#,
        r#"{"note":"ada\u0040example.com"}"#,
        "mail ada@example.com",
    ] {
        assert!(!alone(BodyKind::Json, body) && !alone(BodyKind::Text, body), "{body}");
    }
    assert!(!alone(BodyKind::Form, "a=1") && !alone(BodyKind::Events, "data: 1\n\n"));
}
