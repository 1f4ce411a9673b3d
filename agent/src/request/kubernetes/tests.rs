//! Requests with the effect that each must have.

use super::{Request, Verb};
use crate::request::Effect;

const VERBS: [Verb; 12] = [
    Verb::Get,
    Verb::List,
    Verb::Watch,
    Verb::Create,
    Verb::Update,
    Verb::Patch,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Impersonate,
    Verb::Escalate,
    Verb::Bind,
    Verb::Approve,
];

/// `VERB RESOURCE[.GROUP][/SUBRESOURCE] [NAMESPACE]`.
fn request(text: &str) -> Request {
    let words: Vec<&str> = text.split(' ').collect();
    let verb = *VERBS.iter().find(|verb| verb.as_str() == words[0]).unwrap();
    let (what, subresource) = words[1].split_once('/').map_or((words[1], None), |(a, b)| (a, Some(b)));
    let (resource, group) = what.split_once('.').map_or((what, None), |(a, b)| (a, Some(b)));
    Request {
        verb,
        group: group.map(str::to_owned),
        resource: resource.to_owned(),
        subresource: subresource.map(str::to_owned),
        namespace: words.get(2).map(|word| (*word).to_owned()),
        name: None,
    }
}

#[test]
fn requests_have_their_effect() {
    use Effect::{Admin, Ddl, Read, Unknown, Write};
    for (text, expected) in [
        ("get pods", Read),
        ("list secrets prod", Read),
        ("watch deployments.apps", Read),
        ("get pods/log", Read),
        ("get deployments/scale", Read),
        ("get applications.argoproj.io", Read),
        ("list clusterroles", Read),
        ("create selfsubjectaccessreviews.authorization.k8s.io", Read),
        ("create tokenreviews", Read),
        ("delete tokenreviews", Unknown),
        ("create pods", Write),
        ("patch deployments.apps", Write),
        ("update configmaps prod", Write),
        ("update configmaps kube-system", Admin),
        ("delete deployments kube-system", Admin),
        ("delete pods kube-system", Write),
        ("patch deployments/scale", Write),
        ("patch deployments/status", Write),
        ("create pods/eviction", Write),
        ("delete pods", Write),
        ("delete jobs.batch", Write),
        ("delete events", Write),
        ("delete leases", Write),
        ("deletecollection pods", Ddl),
        ("delete deployments.apps", Ddl),
        ("delete statefulsets", Ddl),
        ("delete services", Ddl),
        ("delete configmaps", Ddl),
        ("delete persistentvolumeclaims", Ddl),
        ("deletecollection services", Ddl),
        ("delete namespaces", Admin),
        ("create secrets", Admin),
        ("patch nodes", Admin),
        ("patch nodes/status", Admin),
        ("delete persistentvolumes", Admin),
        ("create clusterrolebindings", Admin),
        ("create serviceaccounts/token", Admin),
        ("update certificatesigningrequests/approval", Admin),
        ("update namespaces/finalize", Admin),
        ("patch networkpolicies", Admin),
        ("patch resourcequotas", Admin),
        ("create customresourcedefinitions", Admin),
        ("delete apiservices", Admin),
        ("patch mutatingwebhookconfigurations", Admin),
        ("patch pods/ephemeralcontainers", Admin),
        ("create pods/binding", Admin),
        ("impersonate users", Admin),
        ("escalate roles", Admin),
        ("bind clusterroles", Admin),
        ("approve signers", Admin),
        ("create pods/exec", Unknown),
        ("get pods/exec", Unknown),
        ("create pods/attach", Unknown),
        ("create pods/portforward", Unknown),
        ("get services/proxy", Unknown),
        ("create nodes/proxy", Unknown),
        ("get virtualmachineinstances/console", Unknown),
        ("patch applications.argoproj.io", Unknown),
        ("delete applications", Unknown),
        // Another group's resource is another resource.
        ("delete pods.example.com", Unknown),
        ("patch deployments.example.com", Unknown),
        ("create pods/frobnicate", Unknown),
    ] {
        assert_eq!(request(text).effect().0, expected, "{text}");
    }
}

#[test]
fn requests_are_called_by_the_apis_words() {
    let mut asked = request("delete deployments.apps prod");
    assert_eq!((asked.kind().as_str(), asked.object().as_str()), ("delete deployments", "prod/deployments"));
    asked.name = Some("api".to_owned());
    assert_eq!(asked.object(), "prod/deployments/api");
    assert_eq!(request("create pods/exec").kind(), "create pods/exec");
    assert_eq!(request("list nodes").object(), "nodes");
}
