//! Any command line: no panic, and what wraps a line does not make it reach less far.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::request::shell::analyse;

fuzz_target!(|line: &str| {
    let alone = analyse(line);
    assert!(alone.commands.iter().all(|command| command.effect <= alone.effect));
    let after = analyse(&format!("true\n{line}"));
    assert!(after.effect >= alone.effect || alone.transfer.is_some(), "{line:?}");
});
