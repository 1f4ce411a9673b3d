//! Masks that sessions have right now: those that would have the same ones share them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::masking::{Applied, Masking, Rules};
use crate::mask::HashKey;
use crate::mask::catalog::Relation;

/// The masks in use. Nothing is kept for its own sake: with its last session a mask goes, too.
pub struct MaskCache {
    key: Arc<HashKey>,
    /// Stands for the catalogue of those who need none.
    no_relations: Arc<Vec<Relation>>,
    in_use: Mutex<Vec<InUse>>,
}

struct InUse {
    rules: Rules,
    /// The catalogue that they were applied to.
    relations: Weak<Vec<Relation>>,
    applied: Weak<Applied>,
}

impl MaskCache {
    /// An empty cache. `key` is that of the `hash` mask.
    #[must_use]
    pub fn new(key: Arc<HashKey>) -> Self {
        Self { key, no_relations: Arc::default(), in_use: Mutex::default() }
    }

    /// These rules over a catalogue as it was read.
    ///
    /// # Errors
    /// The detectors cannot be built.
    pub(super) fn of(&self, rules: &Rules, relations: &Arc<Vec<Relation>>) -> Result<Masking, String> {
        if let Some(applied) = self.find(rules, relations) {
            return Ok(Masking::sharing(applied));
        }
        let masking = Masking::new(rules, relations, Arc::clone(&self.key))?;
        let new = InUse {
            rules: rules.clone(),
            relations: Arc::downgrade(relations),
            applied: Arc::downgrade(masking.applied()),
        };
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|other| other.applied.strong_count() > 0);
        in_use.push(new);
        Ok(masking)
    }

    /// Rules without a catalogue: detectors alone.
    ///
    /// # Errors
    /// The detectors cannot be built.
    pub(super) fn without_catalogue(&self, rules: &Rules) -> Result<Masking, String> {
        self.of(rules, &self.no_relations)
    }

    fn find(&self, rules: &Rules, relations: &Arc<Vec<Relation>>) -> Option<Arc<Applied>> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        // A weak pointer keeps the address from being given to another catalogue.
        let same =
            |one: &&InUse| Weak::as_ptr(&one.relations) == Arc::as_ptr(relations) && one.rules == *rules;
        in_use.iter().filter(same).find_map(|one| one.applied.upgrade())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::mask::{Detector, Method};

    #[test]
    fn the_same_rules_over_the_same_catalogue_are_one_mask_and_no_others_are() {
        let cache = MaskCache::new(Arc::new(HashKey::new(Zeroizing::new([7; 32]))));
        let rules = |detector| Rules { columns: Vec::new(), detectors: vec![(detector, Method::Redact)] };
        let (one, other) = (Arc::default(), Arc::default());
        let first = cache.of(&rules(Detector::Email), &one).unwrap();
        let again = cache.of(&rules(Detector::Email), &one).unwrap();
        assert!(Arc::ptr_eq(first.applied(), again.applied()));
        let elsewhere = cache.of(&rules(Detector::Email), &other).unwrap();
        let different = cache.of(&rules(Detector::Iban), &one).unwrap();
        for not_the_same in [&elsewhere, &different] {
            assert!(!Arc::ptr_eq(first.applied(), not_the_same.applied()));
        }
        drop((first, again, elsewhere));
        let kept = cache.of(&rules(Detector::Iban), &other).unwrap();
        assert_eq!(cache.in_use.lock().unwrap().len(), 2, "only what is in use is kept");
        drop((kept, different));
    }
}
