//! Resources of the API server itself (the reference's "Kubernetes API" pages), with what a change of them is.
//! <https://kubernetes.io/docs/reference/kubernetes-api/>

/// What a change of a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Comes and goes: something else makes it anew, or it ends by itself.
    Fleeting,
    /// Ordinary, and gone once it is removed.
    Lasting,
    /// Rules the cluster, or says who may do what.
    Power,
    /// Made to ask a question, and kept nowhere.
    Review,
}

/// A resource that the API server has by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its API group; empty for the core's.
    pub group: &'static str,
    /// Its name, plural.
    pub plural: &'static str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    pub(super) class: Class,
}

const fn fleeting(group: &'static str, plural: &'static str) -> Resource {
    Resource { group, plural, namespaced: true, class: Class::Fleeting }
}

const fn lasting(group: &'static str, plural: &'static str) -> Resource {
    Resource { group, plural, namespaced: true, class: Class::Lasting }
}

const fn power(group: &'static str, plural: &'static str) -> Resource {
    Resource { group, plural, namespaced: true, class: Class::Power }
}

/// Of the whole cluster.
const fn cluster(group: &'static str, plural: &'static str) -> Resource {
    Resource { group, plural, namespaced: false, class: Class::Power }
}

const fn review(plural: &'static str) -> Resource {
    Resource { group: "authorization.k8s.io", plural, namespaced: false, class: Class::Review }
}

const fn identity(plural: &'static str) -> Resource {
    Resource { group: "authentication.k8s.io", plural, namespaced: false, class: Class::Review }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// Where two groups have the same plural, the one that is meant without a group stands first.
const RESOURCES: &[Resource] = &[
    fleeting("", "pods"),
    fleeting("", "events"),
    lasting("", "configmaps"),
    lasting("", "endpoints"),
    lasting("", "persistentvolumeclaims"),
    lasting("", "podtemplates"),
    lasting("", "replicationcontrollers"),
    lasting("", "services"),
    power("", "bindings"),
    power("", "limitranges"),
    power("", "resourcequotas"),
    power("", "secrets"),
    power("", "serviceaccounts"),
    cluster("", "componentstatuses"),
    cluster("", "namespaces"),
    cluster("", "nodes"),
    cluster("", "persistentvolumes"),
    lasting("apps", "controllerrevisions"),
    lasting("apps", "daemonsets"),
    lasting("apps", "deployments"),
    lasting("apps", "replicasets"),
    lasting("apps", "statefulsets"),
    fleeting("batch", "jobs"),
    lasting("batch", "cronjobs"),
    lasting("autoscaling", "horizontalpodautoscalers"),
    lasting("policy", "poddisruptionbudgets"),
    cluster("policy", "podsecuritypolicies"),
    fleeting("coordination.k8s.io", "leases"),
    fleeting("coordination.k8s.io", "leasecandidates"),
    fleeting("events.k8s.io", "events"),
    lasting("discovery.k8s.io", "endpointslices"),
    lasting("networking.k8s.io", "ingresses"),
    power("networking.k8s.io", "networkpolicies"),
    cluster("networking.k8s.io", "ingressclasses"),
    cluster("networking.k8s.io", "ipaddresses"),
    cluster("networking.k8s.io", "servicecidrs"),
    // Older servers have these here.
    lasting("extensions", "daemonsets"),
    lasting("extensions", "deployments"),
    lasting("extensions", "ingresses"),
    lasting("extensions", "replicasets"),
    power("extensions", "networkpolicies"),
    cluster("extensions", "podsecuritypolicies"),
    power(RBAC, "roles"),
    power(RBAC, "rolebindings"),
    cluster(RBAC, "clusterroles"),
    cluster(RBAC, "clusterrolebindings"),
    cluster(ADMISSION, "mutatingadmissionpolicies"),
    cluster(ADMISSION, "mutatingadmissionpolicybindings"),
    cluster(ADMISSION, "mutatingwebhookconfigurations"),
    cluster(ADMISSION, "validatingadmissionpolicies"),
    cluster(ADMISSION, "validatingadmissionpolicybindings"),
    cluster(ADMISSION, "validatingwebhookconfigurations"),
    cluster("apiextensions.k8s.io", "customresourcedefinitions"),
    cluster("apiregistration.k8s.io", "apiservices"),
    cluster("certificates.k8s.io", "certificatesigningrequests"),
    cluster("certificates.k8s.io", "clustertrustbundles"),
    cluster("flowcontrol.apiserver.k8s.io", "flowschemas"),
    cluster("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    cluster("internal.apiserver.k8s.io", "storageversions"),
    cluster("node.k8s.io", "runtimeclasses"),
    lasting("resource.k8s.io", "resourceclaims"),
    lasting("resource.k8s.io", "resourceclaimtemplates"),
    cluster("resource.k8s.io", "deviceclasses"),
    cluster("resource.k8s.io", "resourceslices"),
    cluster("scheduling.k8s.io", "priorityclasses"),
    power("storage.k8s.io", "csistoragecapacities"),
    cluster("storage.k8s.io", "csidrivers"),
    cluster("storage.k8s.io", "csinodes"),
    cluster("storage.k8s.io", "storageclasses"),
    cluster("storage.k8s.io", "volumeattachments"),
    cluster("storage.k8s.io", "volumeattributesclasses"),
    cluster("storagemigration.k8s.io", "storageversionmigrations"),
    review("localsubjectaccessreviews"),
    review("selfsubjectaccessreviews"),
    review("selfsubjectrulesreviews"),
    review("subjectaccessreviews"),
    identity("selfsubjectreviews"),
    identity("tokenreviews"),
    power("metrics.k8s.io", "pods"),
    cluster("metrics.k8s.io", "nodes"),
];

/// The resource of this group and plural; without a group, the one that a server prefers. `None` for custom ones.
#[must_use]
pub fn find(group: Option<&str>, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|known| known.plural == plural && group.is_none_or(|group| known.group == group))
}
