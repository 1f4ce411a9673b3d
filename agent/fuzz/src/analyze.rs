//! Any text: the analyser returns, its spans lie in order inside the text, and a remembered analysis is the same.

use portcullis::request::sql::{AnalysisCache, analyze};

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let text = crate::text(data);
    let found = analyze(text);
    let mut end = 0;
    for statement in &found.statements {
        assert!(statement.span.start >= end && text.get(statement.span.clone()).is_some());
        assert!(statement.effect <= found.effect);
        end = statement.span.end;
    }
    let cache = AnalysisCache::default();
    assert_eq!(*cache.analyze(text), found);
    assert_eq!(*cache.analyze(text), found);
}
