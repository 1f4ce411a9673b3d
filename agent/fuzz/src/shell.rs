//! Any command line: no panic, and what wraps a line does not make it reach less far.

use portcullis::request::shell::analyse;

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let line = crate::text(data);
    let alone = analyse(line);
    assert!(alone.commands.iter().all(|command| command.effect <= alone.effect));
    let after = analyse(&format!("true\n{line}"));
    assert!(after.effect >= alone.effect || alone.transfer.is_some(), "{line:?}");
}
