//! Lines of kubectl with the effect and the requests that each must have.

use super::super::{Command, analyse};
use crate::request::Effect;
use crate::request::Effect::{Admin, Ddl, Read, Unknown, Write};

fn hold_to(lines: &[(&str, Effect, &str)]) {
    for (line, effect, requests) in lines {
        let found = analyse(line);
        let asked = |command: &Command| {
            let each = command.requests.iter();
            let all = each.map(|request| format!("{} {}", request.kind(), request.object()));
            all.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(found.effect, *effect, "{line}: {found:?}");
        assert_eq!(found.commands.last().map(asked).unwrap_or_default(), *requests, "{line}");
    }
}

#[test]
fn looks() {
    hold_to(&[
        ("kubectl get po", Read, "list pods pods"),
        ("kubectl get pods,svc -n prod", Read, "list pods prod/pods, list services prod/services"),
        ("kubectl -n prod get deploy/api", Read, "get deployments prod/deployments/api"),
        (
            "kubectl get deploy api db -nprod",
            Read,
            "get deployments prod/deployments/api, get deployments prod/deployments/db",
        ),
        ("kubectl get secret db -o yaml", Read, "get secrets secrets/db"),
        ("kubectl get pods -A -n prod", Read, "list pods pods"),
        ("kubectl get no worker-3 -n prod", Read, "get nodes nodes/worker-3"),
        ("kubectl get ns --watch", Read, "list namespaces namespaces, watch namespaces namespaces"),
        ("kubectl get applications.argoproj.io -n argocd", Read, "list applications argocd/applications"),
        ("kubectl get --raw /readyz", Read, ""),
        ("kubectl describe ing/web", Read, "get ingresses ingresses/web"),
        ("kubectl logs -f --tail=10 web-0 -c app", Read, "get pods/log pods/web-0"),
        ("kubectl logs deploy/web", Read, "get deployments deployments/web, get pods/log pods"),
        ("kubectl top nodes", Read, "list nodes nodes"),
        ("kubectl auth can-i delete pods", Read, "create selfsubjectaccessreviews selfsubjectaccessreviews"),
        ("kubectl rollout status deploy/api --timeout=60s", Read, "get deployments deployments/api"),
        ("kubectl exec web-0 -n prod -- ls /", Read, "create pods/exec prod/pods/web-0"),
        ("kubectl delete deploy api --dry-run=client", Read, ""),
        ("kubectl apply -f x.yml --dry-run=server", Read, ""),
        ("kubectl run x --image=y --dry-run=client -o yaml", Read, ""),
        ("kubectl delete pod x --help", Read, ""),
        ("kubectl config view --minify", Read, ""),
        ("kubectl get pods -- web-0 $X", Read, "get pods pods/web-0, list pods pods"),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn changes() {
    hold_to(&[
        ("kubectl --namespace=prod delete po/web-0", Write, "delete pods prod/pods/web-0"),
        ("kubectl delete pod web-0 web-1", Write, "delete pods pods/web-0, delete pods pods/web-1"),
        ("kubectl delete job/x", Write, "delete jobs jobs/x"),
        ("kubectl delete deploy api -n prod", Ddl, "delete deployments prod/deployments/api"),
        ("oc delete deployment.apps/api", Ddl, "delete deployments deployments/api"),
        (
            "k delete sts,pvc db",
            Ddl,
            "delete statefulsets statefulsets/db, delete persistentvolumeclaims persistentvolumeclaims/db",
        ),
        (
            "kubectl delete deploy --all -A",
            Ddl,
            "delete deployments deployments, deletecollection deployments deployments",
        ),
        ("kubectl delete po -l app=x", Ddl, "delete pods pods, deletecollection pods pods"),
        ("kubectl delete ns prod", Admin, "delete namespaces namespaces/prod"),
        (
            "kubectl delete cm coredns -n kube-system",
            Admin,
            "delete configmaps kube-system/configmaps/coredns",
        ),
        ("kubectl delete application x", Unknown, "delete application application/x"),
        ("kubectl delete pods.example.com x", Unknown, "delete pods pods/x"),
        (
            "kubectl delete -- deploy api --now",
            Ddl,
            "delete deployments deployments/api, delete deployments deployments/--now",
        ),
        ("kubectl scale deploy/api --replicas=0", Write, "patch deployments/scale deployments/api"),
        ("kubectl rollout restart deploy api", Write, "patch deployments deployments/api"),
        ("kubectl set image deploy/api api=x:1", Unknown, "patch deployments deployments/api"),
        ("kubectl label pods web-0 a=b c-", Write, "patch pods pods/web-0"),
        ("kubectl label node n a=b", Admin, "patch nodes nodes/n"),
        (
            "kubectl annotate --overwrite deploy api example.com/x=y",
            Write,
            "patch deployments deployments/api",
        ),
        ("kubectl patch node n -p {}", Admin, "patch nodes nodes/n"),
        ("kubectl patch deploy api -p {} --type merge", Unknown, "patch deployments deployments/api"),
        ("kubectl taint nodes n k=v:NoSchedule", Admin, "patch nodes nodes/n"),
        ("kubectl drain n --ignore-daemonsets", Admin, "patch nodes nodes/n, create pods/eviction pods"),
        ("kubectl cordon n", Admin, "patch nodes nodes/n"),
        (
            "kubectl certificate approve x",
            Admin,
            "update certificatesigningrequests/approval certificatesigningrequests/x",
        ),
        ("kubectl set serviceaccount deploy api root", Admin, "patch deployments deployments/api"),
        ("kubectl create deploy x --image=y", Unknown, "create deployments deployments/x"),
        ("kubectl create secret generic x --from-literal=a=b", Admin, "create secrets secrets/x"),
        ("kubectl create token sa", Admin, "create serviceaccounts/token serviceaccounts/sa"),
        (
            "kubectl create clusterrolebinding x --clusterrole=cluster-admin --user=a",
            Admin,
            "create clusterrolebindings clusterrolebindings/x, bind clusterroles clusterroles/cluster-admin",
        ),
        (
            "kubectl expose deploy api --port 80",
            Write,
            "get deployments deployments/api, create services services/api",
        ),
        (
            "kubectl autoscale deploy api --max 5",
            Write,
            "get deployments deployments/api, create horizontalpodautoscalers horizontalpodautoscalers/api",
        ),
        ("kubectl cp web-0:/tmp/x ./x -n prod", Write, "create pods/exec prod/pods/web-0"),
        ("kubectl exec p -- rm -rf /srv/x", Ddl, "create pods/exec pods/p"),
        ("kubectl config use-context prod", Write, ""),
        ("kubectl set sa deploy/api root", Admin, "patch deployments deployments/api"),
        ("kubectl config set-context --current --namespace=x", Admin, ""),
        ("kubectl config unset users", Admin, ""),
        ("kubectl get pods --as=admin", Admin, "list pods pods, impersonate users users/admin"),
        (
            "kubectl get pods --as admin --as-group system:masters",
            Admin,
            "list pods pods, impersonate users users/admin, impersonate groups groups/system:masters",
        ),
    ]);
}

#[test]
fn manifests_on_the_input() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n";
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: prod\n";
    let line = |words: &str, text: &str| format!("kubectl {words} <<'E'\n{text}E\n");
    hold_to(&[
        (
            &line("apply -f -", map),
            Write,
            "create configmaps prod/configmaps/a, patch configmaps prod/configmaps/a",
        ),
        (&line("delete -f -", map), Ddl, "delete configmaps prod/configmaps/a"),
        (&line("create -n x -f -", secret), Admin, "create secrets x/secrets/a"),
        (
            &line("apply -f - --prune", map),
            Unknown,
            "create configmaps prod/configmaps/a, patch configmaps prod/configmaps/a",
        ),
        (&line("apply -f - -f x", map), Unknown, ""),
        (&line("apply -f x", map), Unknown, ""),
        (&line("apply -f -", "kind: $(id)\n"), Unknown, ""),
    ]);
}

#[test]
fn what_is_not_understood_is_unknown() {
    for line in [
        "kubectl get pods --raw /x",
        "kubectl get --raw /api/v1/namespaces/x/services/y/proxy/z",
        "kubectl delete --raw /healthz",
        "kubectl config view --raw",
        "kubectl foo",
        "kubectl foo get pods",
        "kubectl create foo x",
        "kubectl --foo get pods",
        "kubectl get --foo pods",
        "kubectl get pods --all-name",
        "kubectl delete pod x --dry",
        "kubectl delete deploy/x api",
        "kubectl delete -A",
        "kubectl -A get pods",
        "kubectl run x --image=y",
        "kubectl exec p",
        "kubectl exec p ls",
        "kubectl exec --kubeconfig=x p -- ls",
        "kubectl --as x exec p -- ls",
        "kubectl attach p",
        "kubectl port-forward svc/x 80",
        "kubectl proxy",
        "kubectl debug node/n --image=x",
        "kubectl edit deploy x",
        "kubectl delete -f x.yml",
        "kubectl apply -k .",
        "kubectl get -k https://example.com/x",
        "kubectl diff -f https://example.com/x",
        "kubectl replace --raw /x -f y",
        "kubectl get pods --kubeconfig x",
        "kubectl get pods --server=https://x",
        "kubectl get pods -shttps://x",
        "kubectl get pods --token x",
        "kubectl get pods $X",
        "kubectl get pods -n $X",
        "kubectl $X pods",
        "kubectl -n $X get pods",
        "kubectl delete $X",
        "kubectl get *",
        "kubectl cp a b",
        "kubectl cp p:a q:b",
        "kubectl plugin x",
        "kubectl auth reconcile -f x",
        "kubectl apply edit-last-applied deploy x",
        "kubectl delete deploy x --dry-run=none --dry-run=wrong -f y",
        "kubectl kustomize .",
        "kubectl delete pod x --help=false --kuberc y",
    ] {
        assert_eq!(analyse(line).effect, Unknown, "{line}");
    }
}

/// Names that policies had before there were requests.
#[test]
fn commands_are_called_as_before() {
    for (line, kind) in [
        ("kubectl -n x delete pod y", "kubectl delete"),
        ("oc delete pod y", "kubectl delete"),
        ("kubectl create deploy x --image=y", "kubectl create"),
        ("kubectl set image deploy/x a=b", "kubectl set"),
        ("kubectl rollout restart deploy/x", "kubectl rollout restart"),
        ("kubectl config use-context x", "kubectl config use-context"),
        ("kubectl top pods", "kubectl top"),
        ("kubectl foo", "kubectl"),
        ("kubectl delete deploy $X", "kubectl delete"),
    ] {
        assert_eq!(analyse(line).commands.last().unwrap().kind, kind, "{line}");
    }
    let found = analyse("kubectl delete deploy $X");
    assert_eq!(found.commands.last().unwrap().requests[0].kind(), "delete deployments");
}
