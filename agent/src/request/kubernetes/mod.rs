//! What a request to a Kubernetes API server does: its effect, told from verb, resource and subresource.
//!
//! The words are the API's own: verbs as in "Authorization Overview"
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb>), resources by group and
//! plural as in "Kubernetes API Concepts" (<https://kubernetes.io/docs/reference/using-api/api-concepts/>), powers as in "Role Based
//! Access Control Good Practices" (<https://kubernetes.io/docs/concepts/security/rbac-good-practices/>). Nothing here knows a client.

use std::fmt;

use super::Effect;

mod resources;

use resources::Class;
pub use resources::{Resource, find};

/// What is done, by the API's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// One object is read.
    Get,
    /// Several are read.
    List,
    /// Changes are followed.
    Watch,
    /// One is made; of a subresource, it is asked to do something.
    Create,
    /// One is replaced.
    Update,
    /// Part of one is changed.
    Patch,
    /// One is removed.
    Delete,
    /// Several are removed at once.
    DeleteCollection,
    /// Someone else is acted as (`users`, `groups`, `serviceaccounts`).
    Impersonate,
    /// A role is given more than its maker has.
    Escalate,
    /// A role is given to someone.
    Bind,
    /// A certificate is approved for a signer.
    Approve,
}

impl Verb {
    /// The name that the API, policies and records use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Impersonate => "impersonate",
            Self::Escalate => "escalate",
            Self::Bind => "bind",
            Self::Approve => "approve",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request, as an API server's authorizer would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is done.
    pub verb: Verb,
    /// The API group, empty for the core's; `None` when only the server knows which it takes.
    pub group: Option<String>,
    /// The resource, plural and in lower case.
    pub resource: String,
    /// The part of it that is meant: `exec`, `scale`, `status`.
    pub subresource: Option<String>,
    /// The namespace; `None` for what lies in none, for all of them, and where it is not said.
    pub namespace: Option<String>,
    /// The object's name; `None` when it is several or not known.
    pub name: Option<String>,
}

/// Namespaces whose objects run the cluster itself
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/#initial-namespaces>).
const CLUSTERS_OWN: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Subresources that lead into a container, a node or a service, whatever the verb: a WebSocket begins with a `get`.
const LEADING: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// Subresources that are a view of the object itself.
const VIEWS: [&str; 9] =
    ["status", "scale", "log", "resize", "ephemeralcontainers", "approval", "finalize", "eviction", "token"];

/// Resources whose objects say what pods run.
const POD_MAKERS: [&str; 9] = [
    "cronjobs",
    "daemonsets",
    "deployments",
    "jobs",
    "pods",
    "podtemplates",
    "replicasets",
    "replicationcontrollers",
    "statefulsets",
];

impl Request {
    /// What policies call it: `delete deployments`, `create pods/exec`.
    #[must_use]
    pub fn kind(&self) -> String {
        format!("{} {}", self.verb, self.what())
    }

    /// What it is about: `prod/deployments/api`, `nodes/worker-3`, `secrets`.
    #[must_use]
    pub fn object(&self) -> String {
        let namespace = self.namespace.as_deref();
        let parts = [namespace, Some(self.resource.as_str()), self.name.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }

    fn what(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.clone(),
        }
    }

    /// Whether it says what pods run: a change of pods, or of what makes them.
    #[must_use]
    pub fn makes_pods(&self) -> bool {
        let changes = matches!(self.verb, Verb::Create | Verb::Update | Verb::Patch);
        changes && self.subresource.is_none() && POD_MAKERS.contains(&self.resource.as_str())
    }

    /// How far it reaches, and why, where the kind does not say.
    #[must_use]
    pub fn effect(&self) -> (Effect, Option<&'static str>) {
        let known = find(self.group.as_deref(), &self.resource);
        let subresource = self.subresource.as_deref();
        match subresource {
            Some(part) if LEADING.contains(&part) => {
                return (Effect::Unknown, Some("what is done there is not seen"));
            }
            Some(part) if known.is_none() || !VIEWS.contains(&part) => return of_strange(known, part),
            Some(_) | None => {}
        }
        match self.verb {
            Verb::Get | Verb::List | Verb::Watch => (Effect::Read, None),
            Verb::Impersonate => (Effect::Admin, Some("acts as someone else")),
            Verb::Escalate | Verb::Bind | Verb::Approve => (Effect::Admin, Some("gives power to someone")),
            Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection => {
                match known {
                    Some(resource) => self.changes(resource.class),
                    None => (Effect::Unknown, Some("what this resource stands for is not known")),
                }
            }
        }
    }

    /// A change of a known resource.
    fn changes(&self, class: Class) -> (Effect, Option<&'static str>) {
        let removes = matches!(self.verb, Verb::Delete | Verb::DeleteCollection);
        let own = self.namespace.as_deref().is_some_and(|name| CLUSTERS_OWN.contains(&name));
        match self.subresource.as_deref() {
            Some("ephemeralcontainers") => return (Effect::Admin, Some("runs something in a pod")),
            // A pod is removed, as far as its budget lets it.
            Some("eviction") => return (Effect::Write, None),
            Some(_) | None => {}
        }
        match class {
            Class::Review if self.verb == Verb::Create => (Effect::Read, None),
            Class::Review => (Effect::Unknown, Some("a question is only ever asked")),
            Class::Power => (Effect::Admin, Some("rules the cluster, or gives power in it")),
            Class::Fleeting if self.verb == Verb::DeleteCollection => (Effect::Ddl, None),
            Class::Fleeting => (Effect::Write, None),
            // Configuration of the cluster's name service, and of who is who, lies there.
            Class::Lasting if own => (Effect::Admin, Some("the namespace is the cluster's own")),
            Class::Lasting if removes => (Effect::Ddl, None),
            Class::Lasting => (Effect::Write, None),
        }
    }
}

/// A subresource that is none of the views: also a look may lead somewhere (`virtualmachineinstances/console`).
fn of_strange(known: Option<&Resource>, part: &str) -> (Effect, Option<&'static str>) {
    match (known, part) {
        (Some(_), "binding") => (Effect::Admin, Some("says where a pod runs")),
        (Some(_), "finalizers") => (Effect::Admin, Some("lets something be removed unfinished")),
        (Some(_), _) => (Effect::Unknown, Some("what this subresource does is not known")),
        (None, "status" | "scale") => (Effect::Unknown, Some("what this resource stands for is not known")),
        (None, _) => (Effect::Unknown, Some("what this subresource does is not known")),
    }
}

#[cfg(test)]
mod tests;
