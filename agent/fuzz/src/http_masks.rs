//! Any body of any kind: no panic, the same however it is cut, and untouched where there is nothing to mask.

use std::sync::Arc;

use portcullis::mask::http::{BodyKind, BodyMasker, BodyMasks, FieldRule, JsonPath};
use portcullis::mask::{Detector, HashKey, Method};
use zeroize::Zeroizing;

fn masks(rules: bool) -> Arc<BodyMasks> {
    let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    let (json, detect): (Vec<_>, &[_]) = if rules {
        let path = |text: &str| FieldRule {
            what: JsonPath::parse(text).expect("a path"),
            method: Method::Redact,
            rule: text.to_owned(),
        };
        let detect = &[
            (Detector::PaymentCard, Method::Redact),
            (Detector::Email, Method::Redact),
            (Detector::ApiKey, Method::Redact),
            (Detector::PrivateKey, Method::Redact),
        ];
        (vec![path("$..a"), path("$.b[*]")], detect)
    } else {
        (Vec::new(), &[])
    };
    Arc::new(BodyMasks::new(json, Vec::new(), Vec::new(), detect, Vec::new(), key).expect("masks"))
}

fn masked(masks: &Arc<BodyMasks>, kind: BodyKind, pieces: &[&[u8]]) -> Vec<u8> {
    let mut masker = BodyMasker::new(Arc::clone(masks), kind);
    let mut out = Vec::new();
    for piece in pieces {
        masker.push(piece, &mut out);
    }
    masker.finish(&mut out);
    out
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let (with, without) = (masks(true), masks(false));
    for kind in [BodyKind::Json, BodyKind::Form, BodyKind::Events, BodyKind::Text, BodyKind::Untold] {
        assert_eq!(masked(&without, kind, &[data]), data, "{kind:?}");
        let bytes: Vec<&[u8]> = data.chunks(1).collect();
        assert_eq!(masked(&with, kind, &[data]), masked(&with, kind, &bytes), "{kind:?}");
    }
}
