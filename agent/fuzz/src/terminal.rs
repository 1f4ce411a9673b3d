//! Any output: no panic, the same however it is cut, untouched where there is nothing to mask, and nothing held for ever. And any
//! keys beside it: a line's end never passes by itself.

use std::sync::Arc;

use bytes::Bytes;
use portcullis::mask::http::BodyMasks;
use portcullis::mask::terminal::TerminalMasker;
use portcullis::mask::{Detector, HashKey, Method};
use portcullis::request::ssh::line::LineGuard;
use zeroize::Zeroizing;

fn masks(detect: &[(Detector, Method)]) -> Arc<BodyMasks> {
    let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    Arc::new(BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), detect, Vec::new(), key).expect("masks"))
}

/// `patient`: somebody waits for a whole line at a time.
fn masked(masks: &Arc<BodyMasks>, size: usize, data: &[u8], patient: bool) -> Vec<u8> {
    let mut masker = TerminalMasker::new(Arc::clone(masks));
    let mut out = Vec::new();
    for piece in data.chunks(size) {
        out.extend_from_slice(&masker.push(Bytes::copy_from_slice(piece)));
        if !patient {
            out.extend_from_slice(&masker.relent());
            assert_eq!(masker.held(), 0);
        }
    }
    out.extend_from_slice(&masker.relent());
    assert_eq!(masker.held(), 0);
    out
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let with = masks(&[
        (Detector::PaymentCard, Method::Partial),
        (Detector::Email, Method::Redact),
        (Detector::ApiKey, Method::Hash),
        (Detector::PrivateKey, Method::Redact),
        (Detector::PasswordInUrl, Method::Redact),
    ]);
    let whole = masked(&with, usize::MAX, data, true);
    assert_eq!(masked(&with, 1, data, true), whole);
    assert_eq!(masked(&with, 7, data, true), whole);
    masked(&with, 5, data, false);

    let without = masks(&[(Detector::Email, Method::Redact)]);
    let plain: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'@').collect();
    for size in [usize::MAX, 1, 3] {
        assert_eq!(masked(&without, size, &plain, true), plain);
        assert_eq!(masked(&without, size, &plain, false), plain);
    }

    let mut guard = LineGuard::new(20);
    guard.output(b"$ ");
    for pair in data.chunks(8) {
        let (output, keys) = pair.split_at(pair.len() / 2);
        guard.output(output);
        assert!(guard.ready(true, true));
        let passed = &keys[..guard.keys(keys)];
        assert!(!passed.contains(&b'\r') && !passed.contains(&b'\n'));
        if let Some(key) = keys.get(passed.len()) {
            let line = guard.line(*key);
            assert!(line.doubt.is_some() || guard.is_settled());
            guard.sent();
        }
    }
}
