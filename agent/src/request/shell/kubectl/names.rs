//! kubectl's names of resources: `po`, `deploy`, `ingresses.networking.k8s.io` (kubectl reference, "Resource types").

use crate::request::kubernetes::{Request, Verb, find};

/// Plural, singular (a kind in lower case), abbreviations.
const NAMES: &str = "
apiservices apiservice
certificatesigningrequests certificatesigningrequest csr
clusterrolebindings clusterrolebinding
clusterroles clusterrole
componentstatuses componentstatus cs
configmaps configmap cm
controllerrevisions controllerrevision
cronjobs cronjob cj
csidrivers csidriver
csinodes csinode
csistoragecapacities csistoragecapacity
customresourcedefinitions customresourcedefinition crd crds
daemonsets daemonset ds
deployments deployment deploy
endpoints endpoint ep
endpointslices endpointslice
events event ev
flowschemas flowschema
horizontalpodautoscalers horizontalpodautoscaler hpa
ingressclasses ingressclass
ingresses ingress ing
jobs job
leases lease
limitranges limitrange limits
mutatingadmissionpolicies mutatingadmissionpolicy
mutatingadmissionpolicybindings mutatingadmissionpolicybinding
mutatingwebhookconfigurations mutatingwebhookconfiguration
namespaces namespace ns
networkpolicies networkpolicy netpol
nodes node no
persistentvolumeclaims persistentvolumeclaim pvc
persistentvolumes persistentvolume pv
poddisruptionbudgets poddisruptionbudget pdb
pods pod po
podsecuritypolicies podsecuritypolicy psp
podtemplates podtemplate
priorityclasses priorityclass pc
prioritylevelconfigurations prioritylevelconfiguration
replicasets replicaset rs
replicationcontrollers replicationcontroller rc
resourceclaims resourceclaim
resourceclaimtemplates resourceclaimtemplate
resourcequotas resourcequota quota
rolebindings rolebinding
roles role
runtimeclasses runtimeclass
secrets secret
serviceaccounts serviceaccount sa
services service svc
statefulsets statefulset sts
storageclasses storageclass sc
validatingadmissionpolicies validatingadmissionpolicy
validatingadmissionpolicybindings validatingadmissionpolicybinding
validatingwebhookconfigurations validatingwebhookconfiguration
volumeattachments volumeattachment
";

/// What an operand names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) group: Option<String>,
    pub(super) resource: String,
    pub(super) name: Option<String>,
}

impl Target {
    /// A type as kubectl takes it: any of its names, with a group or a version and a group after a dot.
    pub(super) fn of_type(written: &str) -> Self {
        let written = written.to_ascii_lowercase();
        let (name, group) = match written.split_once('.') {
            Some((name, group)) => (name, Some(without_version(group))),
            None => (written.as_str(), None),
        };
        let plural = plural(name).unwrap_or(name);
        // Only where the server has such a resource by itself is an abbreviation known to be one.
        let known = find(group, plural);
        Self {
            group: group.or_else(|| known.map(|known| known.group)).map(str::to_owned),
            resource: if known.is_some() { plural } else { name }.to_owned(),
            name: None,
        }
    }

    /// What a manifest says of itself.
    pub(super) fn of_kind(version: &str, kind: &str) -> Self {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let name = kind.to_ascii_lowercase();
        let plural = plural(&name).unwrap_or(&name);
        let resource = if find(Some(group), plural).is_some() { plural } else { name.as_str() };
        Self { group: Some(group.to_owned()), resource: resource.to_owned(), name: None }
    }

    pub(super) fn named(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_owned);
        self
    }

    /// What is asked of the server about it.
    pub(super) fn asked(&self, verb: Verb, part: Option<&str>, namespace: Option<&str>) -> Request {
        let known = find(self.group.as_deref(), &self.resource);
        let namespaced = known.is_none_or(|known| known.namespaced);
        Request {
            verb,
            group: self.group.clone(),
            resource: self.resource.clone(),
            subresource: part.map(str::to_owned),
            namespace: namespace.filter(|_| namespaced).map(str::to_owned),
            name: self.name.clone(),
        }
    }
}

fn plural(name: &str) -> Option<&'static str> {
    let line = NAMES.lines().find(|line| line.split(' ').any(|known| known == name))?;
    line.split(' ').next().filter(|plural| !plural.is_empty())
}

/// `v1.apps` is `apps`, and `v1` the core.
fn without_version(group: &str) -> &str {
    let (first, rest) = group.split_once('.').unwrap_or((group, ""));
    let digits = first.strip_prefix('v').unwrap_or_default();
    if digits.starts_with(|first: char| first.is_ascii_digit()) { rest } else { group }
}

/// What operands name: `TYPE[,TYPE…] [NAME…]` or `TYPE/NAME…`. A name that only the running shell knows is any. `None` when they
/// fit neither form.
pub(super) fn targets(operands: &[Option<&str>]) -> Option<Vec<Target>> {
    let Some((Some(first), names)) = operands.split_first() else { return None };
    if first.contains('/') {
        let each = operands.iter().map(|operand| {
            let (kind, name) = (*operand)?.split_once('/')?;
            let plain = !kind.is_empty() && !name.is_empty() && !kind.contains(',') && !name.contains('/');
            plain.then(|| Target::of_type(kind).named(Some(name)))
        });
        return each.collect();
    }
    if names.iter().flatten().any(|name| name.contains('/')) {
        return None;
    }
    let types: Vec<Target> = first.split(',').map(Target::of_type).collect();
    if types.iter().any(|target| target.resource.is_empty()) {
        return None;
    }
    let named = |target: &Target| match names {
        [] => vec![target.clone()],
        names => names.iter().map(|name| target.clone().named(*name)).collect(),
    };
    Some(types.iter().flat_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_resource_of_the_server() {
        for line in NAMES.lines().filter(|line| !line.is_empty()) {
            let plural = line.split(' ').next().unwrap();
            assert!(find(None, plural).is_some(), "{plural}");
        }
    }

    #[test]
    fn operands_name_objects() {
        let objects = |line: &str| {
            let words: Vec<Option<&str>> = line.split(' ').map(Some).collect();
            let found = targets(&words)?;
            let all = found.iter().map(|target| target.asked(Verb::Get, None, Some("n")).object());
            Some(all.collect::<Vec<_>>().join(" "))
        };
        for (line, expected) in [
            ("po", Some("n/pods")),
            ("pods,svc", Some("n/pods n/services")),
            ("deploy api db", Some("n/deployments/api n/deployments/db")),
            ("deploy/api sts/db", Some("n/deployments/api n/statefulsets/db")),
            ("deployment.v1.apps/api", Some("n/deployments/api")),
            ("Deployment.apps", Some("n/deployments")),
            ("no", Some("nodes")),
            ("po.example.com x", Some("n/po/x")),
            ("deploy/api db", None),
            ("deploy api/db", None),
            ("deploy,", None),
            ("po,svc/x", None),
        ] {
            assert_eq!(objects(line).as_deref(), expected, "{line}");
        }
    }
}
