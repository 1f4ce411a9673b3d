//! Any bytes: the reader of a ClientHello returns, and never takes back an answer when more bytes come.

use portcullis::codec::tls::{OPENING_BYTES_MAX, Sni, sni_of};

/// One input of the fuzzer.
pub fn run(bytes: &[u8]) {
    let whole = sni_of(bytes);
    for end in 0..bytes.len() {
        let prefix = sni_of(bytes.get(..end).unwrap_or_default());
        assert!(prefix == Sni::Incomplete || prefix == whole);
    }
    if bytes.len() >= OPENING_BYTES_MAX {
        assert_ne!(whole, Sni::Incomplete);
    }
    if let Sni::Name(name) = whole {
        assert!(
            !name.is_empty()
                && name.bytes().all(|byte| !byte.is_ascii_uppercase() && byte.is_ascii_graphic())
        );
    }
}
