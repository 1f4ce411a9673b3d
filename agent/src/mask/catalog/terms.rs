//! What a statement may do with columns that it names, by the masks of all relations that the name can mean.

use std::cmp::Ordering;

use super::{Known, Mask, MaskCatalog};
use crate::mask::Terms;
use crate::request::ObjectName;

/// What a name in a statement is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// No relation of that name has such a column.
    Absent,
    /// It is a column, and not masked.
    Clear,
    /// It is, or may be, a masked column, or the relation has one.
    Masked {
        /// What its mask says.
        terms: Terms,
        /// The mask's pattern.
        rule: String,
        /// Every relation of that name has such a column.
        certain: bool,
    },
    /// No relation of that name was there when the catalogue was read.
    UnknownRelation,
}

impl Named {
    /// Whether a relation certainly has such a column.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Clear => true,
            Self::Masked { certain, .. } => *certain,
            Self::Absent | Self::UnknownRelation => false,
        }
    }
}

impl MaskCatalog {
    /// The strictest terms of any rule.
    pub(in crate::mask) fn strictest_terms(&self) -> Terms {
        self.strictest
    }

    /// A column of whatever relations go by a name.
    pub(in crate::mask) fn column_named(&self, relation: &ObjectName, column: &str) -> Named {
        let known: Vec<&Known> = self.named(relation.schema.as_deref(), &relation.name).collect();
        if known.is_empty() {
            return Named::UnknownRelation;
        }
        let certain = known.iter().all(|known| known.has(column));
        let masks = known.iter().filter_map(|known| {
            let found = known.columns.iter().find(|known| known.name == column)?;
            known.masks.get(&found.attnum)
        });
        match strictest(masks) {
            Some((terms, rule)) => Named::Masked { terms, rule, certain },
            None if certain => Named::Clear,
            None => Named::Absent,
        }
    }

    /// All columns of whatever relations go by a name.
    pub(in crate::mask) fn row_named(&self, relation: &ObjectName) -> Named {
        let mut known = self.named(relation.schema.as_deref(), &relation.name).peekable();
        if known.peek().is_none() {
            return Named::UnknownRelation;
        }
        match strictest(known.flat_map(|known| known.masks.values())) {
            Some((terms, rule)) => Named::Masked { terms, rule, certain: true },
            None => Named::Clear,
        }
    }
}

/// The terms of all of these together, and the rule of the strictest, the first in the alphabet.
fn strictest<'a>(masks: impl Iterator<Item = &'a Mask>) -> Option<(Terms, String)> {
    let masked = masks.map(|mask| (mask.terms, &*mask.rule)).reduce(|(terms, rule), (other, another)| {
        let better = match other.other.cmp(&terms.other) {
            Ordering::Greater => another,
            Ordering::Equal => rule.min(another),
            Ordering::Less => rule,
        };
        (terms.and(other), better)
    });
    masked.map(|(terms, rule)| (terms, rule.to_owned()))
}
