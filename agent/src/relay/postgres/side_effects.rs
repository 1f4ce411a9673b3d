//! What a statement that is about to be held sets off besides: asked of the server, for whoever decides about it.

use super::conversation::Conversation;
use super::facts::Facts;
use crate::request::side_effects::RELATIONS_MAX;
use crate::request::{Effect, ObjectName, Statement};
use crate::upstream::Written;

/// Words in the kinds of statements that change relations themselves.
const RELATION_KINDS: [&str; 3] = ["index", "table", "view"];

impl Conversation {
    /// What the server is to be asked; `None` when nothing is written to a relation.
    pub(super) fn written(&self, facts: &Facts) -> Option<Written> {
        let mut names: Vec<ObjectName> = Vec::new();
        for statement in facts.analysis.statements.iter().filter(|statement| reaches_relations(statement)) {
            for name in &statement.writes {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        // One more than is told of, so that the answer says that there are more.
        names.truncate(RELATIONS_MAX + 1);
        let path = if facts.turns { None } else { self.search_path.schemas() };
        let search_path = path.map(<[String]>::to_vec);
        (!names.is_empty()).then_some(Written { names, search_path })
    }
}

/// Other statements write to functions, roles and the like.
fn reaches_relations(statement: &Statement) -> bool {
    let mut words = statement.kind.split(' ');
    // What is created is not there yet.
    statement.unlisted.rest == Effect::Write
        || (words.next() != Some("create") && words.any(|word| RELATION_KINDS.contains(&word)))
}
