//! What one kubectl command asks for, gathered.

use crate::request::Effect;
use crate::request::kubernetes::{Request, Verb};
use crate::request::ssh::{Access, PathUse};

use super::names::Target;

/// Requests of one command, and how far they reach together.
pub(super) struct Plan<'a> {
    /// Where `-n` says that they go.
    pub(super) namespace: Option<&'a str>,
    pub(super) requests: Vec<Request>,
    pub(super) effect: Effect,
    pub(super) reason: Option<&'static str>,
    pub(super) paths: Vec<PathUse>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(namespace: Option<&'a str>) -> Self {
        Self { namespace, requests: Vec::new(), effect: Effect::Read, reason: None, paths: Vec::new() }
    }

    /// A request that is made, judged by what it is.
    pub(super) fn ask(&mut self, request: Request) {
        let (effect, reason) = request.effect();
        if effect > self.effect {
            self.effect = effect;
            self.reason = reason;
        }
        self.mention(request);
    }

    /// A request that is made, where something else says how far it reaches.
    pub(super) fn mention(&mut self, request: Request) {
        if !self.requests.contains(&request) {
            self.requests.push(request);
        }
    }

    pub(super) fn about(&mut self, verb: Verb, part: Option<&str>, target: &Target) {
        self.ask(target.asked(verb, part, self.namespace));
    }

    pub(super) fn raise(&mut self, effect: Effect, reason: &'static str) {
        if effect > self.effect {
            self.effect = effect;
            self.reason = Some(reason);
        }
    }

    /// Whoever says what pods run could have them do anything, to their node as well: nobody has looked at it.
    pub(super) fn raise_for_pods(&mut self) {
        if self.requests.iter().any(Request::makes_pods) {
            self.raise(Effect::Unknown, "what its pods run is not seen");
        }
    }

    /// A file of the host; one that only the running shell knows is written all the same.
    pub(super) fn touch(&mut self, path: Option<&str>, access: Access) {
        let path = path.unwrap_or_default().to_owned();
        if access == Access::Write || !path.is_empty() {
            self.paths.push(PathUse { path, access });
        }
    }
}
