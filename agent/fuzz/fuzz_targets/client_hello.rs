//! Any bytes as a TLS greeting: no panic, and once something is known of it, more bytes do not change it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::codec::tls::{Sni, sni_of};

fuzz_target!(|data: &[u8]| {
    let mut known = None;
    for length in 0..=data.len().min(512) {
        let seen = sni_of(&data[..length]);
        match (&known, &seen) {
            (None, Sni::Incomplete) => {}
            (None, _) => known = Some(seen),
            (Some(before), _) => assert_eq!(*before, seen, "at {length}"),
        }
    }
    let _any = sni_of(data);
});
