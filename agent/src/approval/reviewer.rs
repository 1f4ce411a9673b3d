//! Who reviews, who asks, and whether they are one person.
//!
//! A person can come in several guises: a Unix user, the user who logged in before `sudo`, a token's subject, the name or
//! address that an identity provider gives them. Whatever two guises have in common makes them one person: better that
//! somebody else has to decide than that somebody decides for themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::proof::Proof;
use super::request::Request;
use crate::run::Identity;

/// Claims that name a person, in the tokens of reviewers and of jobs alike.
const NAMING_CLAIMS: [&str; 10] = [
    "actor",
    "email",
    "login",
    "nickname",
    "oid",
    "preferred_username",
    "unique_name",
    "upn",
    "user_email",
    "user_login",
];

/// Who decides: from the kernel, or from an identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reviewer {
    /// User id, of who came by the control socket.
    pub uid: Option<u32>,
    /// Login name, or what the provider calls them.
    pub user: String,
    /// Names of all groups: Unix groups, or those of the token.
    pub groups: Vec<String>,
    /// Process id, of who came by the control socket.
    pub pid: Option<u32>,
    /// The user who logged in, through any `sudo` since; `None` when unknown.
    pub login_uid: Option<u32>,
    /// That user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_user: Option<String>,
    /// That of the process, of who signed in by the command line: `user` is then the provider's name for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Who signed in with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<Identity>>,
    /// How they proved who they are, of who signed in with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// Everything that one guise of a person is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(BTreeSet<String>);

impl Marks {
    fn uid(&mut self, uid: u32) {
        self.0.insert(format!("user id {uid}"));
    }

    fn name(&mut self, name: &str) {
        let name = name.trim().to_lowercase();
        // Of an address the name before the @ as well: providers and hosts call one person alike.
        let local = name.split_once('@').map(|(local, _)| local.to_owned());
        let names = local.into_iter().chain([name]).filter(|name| !name.is_empty());
        self.0.extend(names.map(|name| format!("user {name}")));
    }

    fn identity(&mut self, identity: &Identity) {
        self.0.insert(format!("{} of {}", identity.subject, identity.issuer));
        let named = NAMING_CLAIMS.iter().filter_map(|claim| identity.claims.get(*claim));
        named.filter_map(|value| value.as_str()).for_each(|name| self.name(name));
    }

    /// Something that both are known by.
    pub(super) fn in_common(&self, other: &Self) -> Option<&str> {
        self.0.iter().find(|mark| other.0.contains(*mark)).map(String::as_str)
    }
}

impl Reviewer {
    /// Whether two that signed in are one: the same subject. Not the comparison that decisions rest on, which is wider.
    #[must_use]
    pub fn is_same_subject(&self, other: &Self) -> bool {
        match (&self.identity, &other.identity) {
            (Some(one), Some(other)) => one.is_same_subject(other),
            (Some(_) | None, _) => self.user == other.user,
        }
    }

    /// What they are known by.
    pub(super) fn marks(&self) -> Marks {
        let mut marks = Marks::default();
        self.uid.into_iter().chain(self.login_uid).for_each(|uid| marks.uid(uid));
        marks.name(&self.user);
        self.login_user.iter().chain(&self.account).for_each(|name| marks.name(name));
        self.identity.iter().for_each(|identity| marks.identity(identity));
        marks
    }

    /// Whether they are root, and nobody else: who signed in is whom the provider knows.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == Some(0) && self.identity.is_none()
    }

    /// Whether this is one of their names.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let mut marks = Marks::default();
        marks.name(name);
        self.marks().in_common(&marks).is_some()
    }

    /// Whether an approver as a policy names it is they.
    pub(super) fn is_named(&self, approver: &str) -> bool {
        match approver.strip_prefix("user:") {
            Some(user) => self.user == user,
            None => self.groups.iter().any(|group| group == approver),
        }
    }
}

/// What those are known by on whose behalf an operation is asked.
pub(super) fn askers(request: &Request) -> Marks {
    let mut marks = Marks::default();
    marks.uid(request.subject.uid);
    marks.uid(request.process.uid);
    marks.name(&request.subject.user);
    request.subject.login.iter().for_each(|login| {
        marks.uid(login.uid);
        marks.name(&login.user);
    });
    request.subject.identity.iter().for_each(|identity| marks.identity(identity));
    marks
}

/// Whether these reviewers are enough: so many persons, and where the rule asks for it each for another of the approvers that
/// it names (a matching, so that nobody's word counts for two groups).
pub(super) fn is_quorum(voters: &[&Reviewer], request: &Request) -> bool {
    let wanted = usize::try_from(request.quorum.max(1)).unwrap_or(usize::MAX);
    if voters.len() < wanted {
        return false;
    }
    if !request.distinct_groups {
        return true;
    }
    let mut taken: Vec<Option<usize>> = vec![None; request.approvers.len()];
    let matched = (0..voters.len())
        .filter(|voter| {
            let mut seen = vec![false; request.approvers.len()];
            finds_place(*voter, voters, &request.approvers, &mut taken, &mut seen)
        })
        .count();
    matched >= wanted
}

/// Whether a voter can stand for an approver of their own; others may move to make room (augmenting paths).
fn finds_place(
    voter: usize,
    voters: &[&Reviewer],
    approvers: &[String],
    taken: &mut [Option<usize>],
    seen: &mut [bool],
) -> bool {
    for (place, approver) in approvers.iter().enumerate() {
        let fits = voters.get(voter).is_some_and(|voter| voter.is_named(approver));
        let Some(seen_place) = seen.get_mut(place) else { return false };
        if !fits || std::mem::replace(seen_place, true) {
            continue;
        }
        let holder = taken.get(place).copied().flatten();
        if holder.is_none_or(|holder| finds_place(holder, voters, approvers, taken, seen)) {
            if let Some(slot) = taken.get_mut(place) {
                *slot = Some(voter);
            }
            return true;
        }
    }
    false
}
