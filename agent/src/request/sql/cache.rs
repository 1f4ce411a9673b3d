//! Remembers analyses: by exact text, and by shape for texts that differ only in literals.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::shape::shape;
use super::{Analysis, analyze};
use crate::request::{SessionAction, Statement, WHOLE_TEXT};

/// Longest text that is remembered, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Texts remembered in each shard, and as many shapes.
const ENTRIES_PER_SHARD: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Shards, so that sessions seldom wait for each other. Together they keep at most 64 MiB of text.
const SHARDS: usize = 16;

/// Kinds whose analysis no literal can change: literals reach neither their effect nor what they do to the session.
const KINDS_BY_SHAPE: [&str; 4] = ["delete", "insert", "select", "update"];

/// A bounded memory of analyses, shared by all sessions. An analysis depends on the text alone, so nothing invalidates it.
pub struct AnalysisCache {
    hasher: RandomState,
    shards: Vec<Shard>,
}

struct Shard {
    texts: Mutex<LruCache<Box<str>, Arc<Analysis>>>,
    shapes: Mutex<LruCache<Box<[u8]>, Arc<Analysis>>>,
}

impl Default for AnalysisCache {
    fn default() -> Self {
        let shard = || Shard {
            texts: Mutex::new(LruCache::new(ENTRIES_PER_SHARD)),
            shapes: Mutex::new(LruCache::new(ENTRIES_PER_SHARD)),
        };
        Self { hasher: RandomState::new(), shards: std::iter::repeat_with(shard).take(SHARDS).collect() }
    }
}

impl AnalysisCache {
    /// As [`analyze`], remembered.
    #[must_use]
    pub fn analyze(&self, text: &str) -> Arc<Analysis> {
        if text.len() > TEXT_BYTES_MAX {
            return Arc::new(analyze(text));
        }
        let Some(shard) = self.shard(text.as_bytes()) else {
            return Arc::new(analyze(text));
        };
        if let Some(known) = shard.texts.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Arc::clone(known);
        }
        let Some(shape) = shape(text) else {
            return shard.remember(text, Arc::new(analyze(text)));
        };
        let by_shape = self.shard(&shape).map(|shard| &shard.shapes);
        let known = by_shape.and_then(|shapes| {
            shapes.lock().unwrap_or_else(PoisonError::into_inner).get(&shape).map(Arc::clone)
        });
        if let Some(known) = known {
            // Not remembered by text: a client that sends a new text each time would only push others out.
            return known;
        }
        let analysis = Arc::new(analyze(text));
        if let (Some(shapes), true) = (by_shape, holds_for_shape(&analysis)) {
            shapes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .put(shape, Arc::new(of_any_text(&analysis)));
        }
        shard.remember(text, analysis)
    }

    fn shard(&self, key: &[u8]) -> Option<&Shard> {
        let index = usize::try_from(self.hasher.hash_one(key)).unwrap_or(usize::MAX) % SHARDS;
        self.shards.get(index)
    }
}

impl Shard {
    fn remember(&self, text: &str, analysis: Arc<Analysis>) -> Arc<Analysis> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).put(text.into(), Arc::clone(&analysis));
        analysis
    }
}

/// The analysis without what belongs to this text alone.
fn of_any_text(analysis: &Analysis) -> Analysis {
    let whole = |statement: &Statement| Statement { span: WHOLE_TEXT, ..statement.clone() };
    Analysis { statements: analysis.statements.iter().map(whole).collect(), effect: analysis.effect }
}

/// Whether every text of the same shape has this analysis, but for the statement's span.
fn holds_for_shape(analysis: &Analysis) -> bool {
    match analysis.statements.as_slice() {
        [statement] => {
            KINDS_BY_SHAPE.contains(&statement.kind.as_str())
                && statement.session == SessionAction::None
                && statement.functions.iter().all(|function| function.name != "set_config")
                && !statement.columns.lineage.by_position
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_analysed_once() {
        let cache = AnalysisCache::default();
        let first = cache.analyze("SELECT now(), $1");
        assert!(Arc::ptr_eq(&first, &cache.analyze("SELECT now(), $1")));
        assert_eq!(*first, analyze("SELECT now(), $1"));
    }

    #[test]
    fn a_shape_gives_what_the_analyser_gives() {
        let cache = AnalysisCache::default();
        let pairs = [
            (
                "SELECT a FROM t WHERE b = 'x' LIMIT 1",
                "SELECT a FROM t WHERE b = 'DROP TABLE t' LIMIT 1000000",
            ),
            ("UPDATE t SET a = 1 WHERE id = 7", "UPDATE t SET a = 22 WHERE id = 99999999999"),
            (
                "DELETE FROM t WHERE lower(a || 'x') = lower(a || 'x')",
                "DELETE FROM t WHERE lower(a || 'x') = lower(a || 'yy')",
            ),
            ("DELETE FROM t WHERE 1 = 1", "DELETE FROM t WHERE 1 = 2"),
            ("DELETE FROM t WHERE a = 1;", "DELETE FROM t WHERE a = 22;"),
            ("SELECT 1 ;\n", "SELECT 2 ;\n"),
            ("SELECT id, ssn FROM t ORDER BY 1", "SELECT id, ssn FROM t ORDER BY 2"),
            (
                "SELECT id, ssn FROM t UNION ALL SELECT 0, '5' ORDER BY 99999999999",
                "SELECT id, ssn FROM t UNION ALL SELECT 0, '4' ORDER BY 2",
            ),
            (
                "SELECT id, ssn, count(*) FROM t GROUP BY 1, 2",
                "SELECT id, ssn, count(*) FROM t GROUP BY 1, 3",
            ),
            ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2222, 'SELECT 1; ')"),
            ("EXPLAIN (ANALYZE 0) DELETE FROM t", "EXPLAIN (ANALYZE 1) DELETE FROM t"),
            ("SELECT set_config('a.b', 'x', true)", "SELECT set_config('role', 'x', true)"),
            ("SET work_mem = 1", "SET work_mem = 2"),
            ("PREPARE a AS SELECT 1", "PREPARE a AS SELECT 2"),
        ];
        for (first, second) in pairs {
            drop(cache.analyze(first));
            assert_eq!(of_any_text(&cache.analyze(second)), of_any_text(&analyze(second)), "{second}");
        }
    }

    #[test]
    fn a_shape_is_used() {
        let cache = AnalysisCache::default();
        drop(cache.analyze("SELECT a FROM t WHERE b = 1"));
        let texts = || cache.shards.iter().map(|shard| shard.texts.lock().unwrap().len()).sum::<usize>();
        assert_eq!(texts(), 1);
        let second = cache.analyze("SELECT a FROM t WHERE b = 12345");
        assert!(Arc::ptr_eq(&second, &cache.analyze("SELECT a FROM t WHERE b = 6")));
        assert_eq!(texts(), 1, "analysed anew");
        drop(cache.analyze("SELECT a FROM t WHERE b = 1;"));
        assert_eq!(texts(), 2);
        drop(cache.analyze("SELECT a FROM t WHERE b = 2;"));
        assert_eq!(texts(), 2, "a semicolon at the end has been seen");
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = AnalysisCache::default();
        let empty = Arc::new(analyze(""));
        for shard in &cache.shards {
            for n in 0..2 * ENTRIES_PER_SHARD.get() {
                drop(shard.remember(&n.to_string(), Arc::clone(&empty)));
            }
        }
        for shard in &cache.shards {
            assert_eq!(shard.texts.lock().unwrap().len(), ENTRIES_PER_SHARD.get());
        }
        let long = format!("SELECT '{}'", "x".repeat(TEXT_BYTES_MAX));
        assert!(!Arc::ptr_eq(&cache.analyze(&long), &cache.analyze(&long)));
    }
}
