//! Any output: no panic, the same however it is cut, untouched where there is nothing to mask, and nothing held for ever.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portcullis::mask::http::BodyMasks;
use portcullis::mask::terminal::TerminalMasker;
use portcullis::mask::{Detector, HashKey, Method};
use zeroize::Zeroizing;

fn masks(detect: &[(Detector, Method)]) -> Arc<BodyMasks> {
    let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    Arc::new(BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), detect, Vec::new(), key).expect("masks"))
}

/// `patient`: somebody waits for a whole line at a time.
fn run(masks: &Arc<BodyMasks>, size: usize, data: &[u8], patient: bool) -> Vec<u8> {
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

fuzz_target!(|data: &[u8]| {
    let with = masks(&[
        (Detector::PaymentCard, Method::Partial),
        (Detector::Email, Method::Redact),
        (Detector::ApiKey, Method::Hash),
        (Detector::PrivateKey, Method::Redact),
        (Detector::PasswordInUrl, Method::Redact),
    ]);
    let whole = run(&with, usize::MAX, data, true);
    assert_eq!(run(&with, 1, data, true), whole);
    assert_eq!(run(&with, 7, data, true), whole);
    run(&with, 5, data, false);

    let without = masks(&[(Detector::Email, Method::Redact)]);
    let plain: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'@').collect();
    for size in [usize::MAX, 1, 3] {
        assert_eq!(run(&without, size, &plain, true), plain);
        assert_eq!(run(&without, size, &plain, false), plain);
    }
});
