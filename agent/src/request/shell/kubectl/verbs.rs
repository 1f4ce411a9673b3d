//! kubectl's subcommands, each with the requests that it makes.

use super::manifest;
use super::names::{Target, targets};
use super::plan::Plan;
use super::words::Split;
use crate::request::Effect;
use crate::request::kubernetes::{Request, Verb};
use crate::request::shell::run::Stdin;
use crate::request::ssh::Access;

/// Why, where operands fit no form of kubectl's.
const NO_TARGET: &str = "what it is about is not understood";

/// Why, for manifests.
const UNSEEN: &str = "what the manifest holds is not seen";

/// Paths of the server itself that only say how it is (Kubernetes docs, "Kubernetes API health endpoints").
const LOOKING_PATHS: [&str; 6] = ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi/v2"];

/// Files that are no folder of manifests: the command's own input.
const FILES: [&str; 4] = ["-f", "--filename", "-k", "--kustomize"];

/// What policies call a subcommand: those of `create`, `set`, `top` and the like by their first word.
pub(super) fn kind(program: &str, path: &str) -> String {
    match path {
        "" => program.to_owned(),
        // Other programs that go by these words are called the same.
        "delete" | "drain" => format!("kubectl {path}"),
        _ => {
            let (first, _) = path.split_once(' ').unwrap_or((path, ""));
            let alone = ["apply", "cluster-info", "create", "set", "top"].contains(&first);
            format!("{program} {}", if alone { first } else { path })
        }
    }
}

/// Gathers what a subcommand asks for.
pub(super) fn judge(plan: &mut Plan<'_>, path: &str, split: &Split<'_>, stdin: &Stdin) {
    let changes = split.options.iter().any(|(name, _)| name == "--dry-run");
    if changes && is_dry(split) && !split.has(&["--raw", "--edit", "--prune"]) {
        return;
    }
    match path {
        "get" | "describe" => look(plan, split),
        "wait" | "rollout status" | "rollout history" | "apply view-last-applied" => look(plan, split),
        "logs" => logs(plan, split),
        "events" => plan.about(Verb::List, None, &Target::of_type("events")),
        "top pods" | "top pod" | "top po" => {
            plan.about(Verb::List, None, &Target::of_type("pods.metrics.k8s.io"))
        }
        "top nodes" | "top node" | "top no" => {
            plan.about(Verb::List, None, &Target::of_type("nodes.metrics.k8s.io"));
        }
        "auth can-i" => {
            let asked =
                if split.has(&["--list"]) { "selfsubjectrulesreviews" } else { "selfsubjectaccessreviews" };
            plan.about(Verb::Create, None, &Target::of_type(&format!("{asked}.authorization.k8s.io")));
        }
        "auth whoami" => {
            plan.about(Verb::Create, None, &Target::of_type("selfsubjectreviews.authentication.k8s.io"));
        }
        "cluster-info dump" => {
            for directory in split.values(&["--output-directory"]) {
                plan.touch(directory, Access::Write);
            }
        }
        "diff"
        | "explain"
        | "version"
        | "api-versions"
        | "api-resources"
        | "options"
        | "help"
        | "completion"
        | "cluster-info"
        | "config view"
        | "config get-contexts"
        | "config current-context"
        | "config get-clusters"
        | "config get-users" => {}
        "config use-context" | "config use" => {
            plan.raise(Effect::Write, "changes which cluster is spoken to")
        }
        _ => change(plan, path, split, stdin),
    }
}

fn change(plan: &mut Plan<'_>, path: &str, split: &Split<'_>, stdin: &Stdin) {
    match path {
        "delete" => delete(plan, split, stdin),
        "apply" => apply(plan, split, stdin),
        "create" => manifests(plan, split, stdin, &[Verb::Create]),
        "replace" if split.has(&["--force"]) => {
            manifests(plan, split, stdin, &[Verb::Delete, Verb::Create]);
        }
        "replace" => manifests(plan, split, stdin, &[Verb::Update]),
        "edit" => {
            about_all(plan, split, stdin, &[Verb::Patch], None);
            plan.raise(Effect::Unknown, "runs an editor, and what is changed there is not seen");
        }
        "scale" => about_all(plan, split, stdin, &[Verb::Patch], Some("scale")),
        "set serviceaccount" | "set sa" => {
            // The account stands last.
            let operands = split.all();
            match operands.split_last().and_then(|(_, rest)| targets(rest)) {
                Some(found) => found.iter().for_each(|target| plan.about(Verb::Patch, None, target)),
                None => plan.raise(Effect::Unknown, NO_TARGET),
            }
            plan.raise(Effect::Admin, "changes whose powers a workload has");
        }
        "patch" => {
            about_all(plan, split, stdin, &[Verb::Patch], split.last(&["--subresource"]));
            plan.raise_for_pods();
        }
        "set image" => {
            about_all(plan, split, stdin, &[Verb::Patch], None);
            plan.raise_for_pods();
        }
        "certificate approve" | "certificate deny" => {
            for name in split.all() {
                let request = Target::of_type("csr").named(name);
                plan.about(Verb::Update, Some("approval"), &request);
            }
            plan.raise(Effect::Admin, "says who may be trusted");
        }
        "cordon" | "uncordon" | "drain" => nodes(plan, path, split),
        "expose" => made(plan, split, "services"),
        "autoscale" => made(plan, split, "horizontalpodautoscalers"),
        "run" => {
            plan.about(
                Verb::Create,
                None,
                &Target::of_type("pods").named(split.operands.first().copied().flatten()),
            );
            plan.raise(Effect::Unknown, "what the image runs is not seen");
        }
        "exec" | "attach" => {
            let part = if path == "exec" { "exec" } else { "attach" };
            plan.ask(in_pod(split.operands.first().copied().flatten(), part, plan.namespace));
        }
        "port-forward" => {
            plan.ask(in_pod(split.operands.first().copied().flatten(), "portforward", plan.namespace))
        }
        "cp" => copy(plan, split),
        "label" | "annotate" | "taint" => about_all(plan, split, stdin, &[Verb::Patch], None),
        _ if path.starts_with("set ") || path.starts_with("rollout ") => {
            about_all(plan, split, stdin, &[Verb::Patch], None);
        }
        _ if path.starts_with("config ") => {
            plan.raise(Effect::Admin, "changes which cluster is spoken to, and as whom")
        }
        _ if path.starts_with("create ") => create(plan, path, split),
        _ => plan.raise(Effect::Unknown, "a subcommand of it that is not known"),
    }
}

/// Whether nothing is written: every `--dry-run` is one of those that write nothing.
fn is_dry(split: &Split<'_>) -> bool {
    split.values(&["--dry-run"]).all(|value| matches!(value, None | Some("client" | "server")))
}

/// Whether a selector or `--all` says which, so that no name does.
fn selects(split: &Split<'_>) -> bool {
    split.has(&["--all", "-l", "--selector", "--field-selector"])
}

/// Operands that name objects: not `KEY=VALUE`, `KEY-` and the like of `label`, `taint` and `set`.
fn named<'a>(split: &Split<'a>) -> Vec<Option<&'a str>> {
    let setting = |word: &str| word.contains('=') || word.ends_with('-');
    split.all().into_iter().filter(|word| !word.is_some_and(setting)).collect()
}

fn look(plan: &mut Plan<'_>, split: &Split<'_>) {
    // Files say what is looked at, and looking is all that is done.
    let found = targets(&split.all()).unwrap_or_default();
    let follows = split.has(&["-w", "--watch", "--watch-only", "--for"]);
    for target in found {
        plan.about(if target.name.is_some() { Verb::Get } else { Verb::List }, None, &target);
        if follows {
            plan.about(Verb::Watch, None, &target);
        }
    }
}

/// Whether `get --raw` asks the server how it is, and nothing else.
pub(super) fn asks_for_health(split: &Split<'_>) -> bool {
    let paths: Vec<Option<&str>> = split.values(&["--raw"]).collect();
    let plain = |path: &Option<&str>| path.is_some_and(|path| LOOKING_PATHS.contains(&path));
    split.all().is_empty() && paths.iter().all(plain)
}

fn logs(plan: &mut Plan<'_>, split: &Split<'_>) {
    let operands = split.all();
    let first = operands.first().copied().flatten();
    let target = first.filter(|word| word.contains('/')).and_then(|word| targets(&[Some(word)]));
    match target.as_deref() {
        Some([target]) if target.resource != "pods" => {
            plan.about(Verb::Get, None, target);
            plan.ask(in_pod(None, "log", plan.namespace));
        }
        Some([target]) => plan.about(Verb::Get, Some("log"), target),
        Some(_) | None => {
            plan.ask(in_pod(first, "log", plan.namespace));
        }
    }
}

/// A request of a part of a pod; of something that has pods, which one is not known.
pub(super) fn in_pod(operand: Option<&str>, part: &str, namespace: Option<&str>) -> Request {
    let name = match operand.and_then(|word| word.split_once('/')) {
        Some((kind, name)) => Some(name).filter(|_| Target::of_type(kind).resource == "pods"),
        None => operand,
    };
    let verb = if part == "log" { Verb::Get } else { Verb::Create };
    Target::of_type("pods").named(name).asked(verb, Some(part), namespace)
}

fn delete(plan: &mut Plan<'_>, split: &Split<'_>, stdin: &Stdin) {
    if split.has(&FILES) {
        return manifests(plan, split, stdin, &[Verb::Delete]);
    }
    let Some(found) = targets(&split.all()) else { return plan.raise(Effect::Unknown, NO_TARGET) };
    for target in found {
        plan.about(Verb::Delete, None, &target);
        if target.name.is_none() {
            plan.about(Verb::DeleteCollection, None, &target);
        }
    }
}

fn apply(plan: &mut Plan<'_>, split: &Split<'_>, stdin: &Stdin) {
    // It is made where it was not there, and changed where it was.
    manifests(plan, split, stdin, &[Verb::Create, Verb::Patch]);
    if split.has(&["--force", "--prune"]) {
        plan.raise(Effect::Unknown, "removes what the manifest does not say");
    }
}

/// Objects of manifests: those of a static text on the input, as far as they are beyond doubt.
fn manifests(plan: &mut Plan<'_>, split: &Split<'_>, stdin: &Stdin, each: &[Verb]) {
    let files: Vec<Option<&str>> = split.values(&FILES).collect();
    let only_input = matches!(files.as_slice(), [Some("-")]) && split.all().is_empty();
    let (Stdin::Text(text), true) = (stdin, only_input) else { return plan.raise(Effect::Unknown, UNSEEN) };
    let Some(objects) = manifest::objects(text) else { return plan.raise(Effect::Unknown, UNSEEN) };
    for object in objects {
        for verb in each {
            let namespace = object.namespace.as_deref().or(plan.namespace);
            plan.ask(object.target.asked(*verb, None, namespace));
        }
    }
    plan.raise_for_pods();
    if split.has(&["--edit"]) {
        plan.raise(Effect::Unknown, "runs an editor, and what is changed there is not seen");
    }
}

/// The same of every object that operands name.
fn about_all(plan: &mut Plan<'_>, split: &Split<'_>, stdin: &Stdin, each: &[Verb], part: Option<&str>) {
    let operands = named(split);
    if split.has(&FILES) {
        return manifests(plan, split, stdin, each);
    }
    let Some(found) = targets(&operands) else { return plan.raise(Effect::Unknown, NO_TARGET) };
    if found.iter().any(|target| target.name.is_none()) && !selects(split) && !split.dynamic {
        // `rollout restart deploy` is all of them.
        plan.raise(Effect::Write, "of every object of its kind");
    }
    for target in found {
        for verb in each {
            plan.about(*verb, part, &target);
        }
    }
}

fn nodes(plan: &mut Plan<'_>, path: &str, split: &Split<'_>) {
    let operands = split.all();
    let names: Vec<Option<&str>> = if operands.is_empty() { vec![None] } else { operands };
    for name in names {
        // `node/x` is taken as well.
        let name = name.map(|name| name.rsplit_once('/').map_or(name, |(_, name)| name));
        plan.about(Verb::Patch, None, &Target::of_type("nodes").named(name));
    }
    if path == "drain" {
        let part = if split.has(&["--disable-eviction"]) { None } else { Some("eviction") };
        let verb = if part.is_some() { Verb::Create } else { Verb::Delete };
        plan.about(verb, part, &Target::of_type("pods"));
    }
}

/// `expose` and `autoscale`: one object is made for another.
fn made(plan: &mut Plan<'_>, split: &Split<'_>, resource: &str) {
    let found = if split.has(&FILES) { None } else { targets(&split.all()) };
    let Some(found) = found else { return plan.raise(Effect::Unknown, NO_TARGET) };
    for target in found {
        plan.about(Verb::Get, None, &target);
        let name = split.last(&["--name"]).map(str::to_owned).or(target.name);
        plan.about(Verb::Create, None, &Target::of_type(resource).named(name.as_deref()));
    }
    if split.has(&["--overrides"]) {
        plan.raise(Effect::Unknown, "what it makes is overridden");
    }
}

/// `create TYPE NAME`.
fn create(plan: &mut Plan<'_>, path: &str, split: &Split<'_>) {
    let mut words = path.split(' ').skip(1);
    let kind = words.next().unwrap_or_default();
    let name = split.operands.first().copied().flatten();
    match kind {
        "token" => {
            let account = Target::of_type("serviceaccounts").named(name);
            return plan.about(Verb::Create, Some("token"), &account);
        }
        "secret" | "service" | "svc" if words.next().is_none() => {
            return plan.raise(Effect::Unknown, NO_TARGET);
        }
        "clusterrole"
        | "clusterrolebinding"
        | "configmap"
        | "cm"
        | "cronjob"
        | "cj"
        | "deployment"
        | "deploy"
        | "ingress"
        | "ing"
        | "job"
        | "namespace"
        | "ns"
        | "poddisruptionbudget"
        | "pdb"
        | "priorityclass"
        | "pc"
        | "quota"
        | "resourcequota"
        | "role"
        | "rolebinding"
        | "secret"
        | "service"
        | "svc"
        | "serviceaccount"
        | "sa" => {}
        // Plugins make what the server has no word for here.
        _ => return plan.raise(Effect::Unknown, "a subcommand of it, or a plugin, that is not known"),
    }
    plan.about(Verb::Create, None, &Target::of_type(kind).named(name));
    plan.raise_for_pods();
    for bound in split.values(&["--role", "--clusterrole"]) {
        let roles = if split.has(&["--role"]) { "roles" } else { "clusterroles" };
        plan.about(Verb::Bind, None, &Target::of_type(roles).named(bound));
    }
    for file in split.values(&["--from-file", "--from-env-file", "--cert", "--key"]).flatten() {
        let file = file.split_once('=').map_or(file, |(_, file)| file);
        plan.touch(Some(file), Access::Read);
    }
}

/// `cp`: `tar` runs in the pod.
fn copy(plan: &mut Plan<'_>, split: &Split<'_>) {
    let operands = split.all();
    let (from, to) = match operands.as_slice() {
        [Some(from), Some(to)] => (*from, *to),
        _ => return plan.raise(Effect::Unknown, NO_TARGET),
    };
    let (remote, local, access) = match (from.split_once(':'), to.split_once(':')) {
        (Some((pod, _)), None) => (pod, to, Access::Write),
        (None, Some((pod, _))) => (pod, from, Access::Read),
        _ => return plan.raise(Effect::Unknown, NO_TARGET),
    };
    let (namespace, pod) =
        remote.split_once('/').map_or((plan.namespace, remote), |(namespace, pod)| (Some(namespace), pod));
    plan.mention(in_pod(Some(pod), "exec", namespace));
    plan.raise(Effect::Write, "copies files");
    plan.touch(Some(local), access);
}
