//! `kubectl`: its words to the requests that it makes of the API server, judged as `request::kubernetes` judges them
//! (<https://kubernetes.io/docs/reference/kubectl/generated/>).

use super::run::Stdin;
use super::scripts::DYNAMIC;
use super::walk::Walk;
use super::wrappers::inside;
use crate::request::Effect;
use crate::request::kubernetes::Verb;

mod manifest;
mod names;
mod plan;
mod specs;
mod verbs;
mod words;

use names::Target;
use plan::Plan;
use words::Split;

/// Options that name another cluster, another identity or files that say who one is.
const IDENTITY: [&str; 17] = [
    "-s",
    "--server",
    "--token",
    "--kubeconfig",
    "--kuberc",
    "--cache-dir",
    "--certificate-authority",
    "--client-certificate",
    "--client-key",
    "--insecure-skip-tls-verify",
    "--insecure-skip-tls-verify-backend",
    "--tls-server-name",
    "--username",
    "--password",
    "--profile",
    "--profile-output",
    "--as-user-extra",
];

/// Options by which one acts as someone else, and as what.
const AS: [(&str, &str); 3] = [("--as", "users"), ("--as-group", "groups"), ("--as-uid", "uids")];

/// `kubectl`, and what goes by its words.
pub(super) fn kubectl(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) {
    let strange =
        |walk: &mut Walk, kind: &str, reason: &str| walk.note(kind, Effect::Unknown, Some(reason), argv);
    let Some((path, rest)) = words::path(arguments) else {
        return strange(walk, program, "its subcommand is known to the running shell alone");
    };
    let kind = verbs::kind(program, &path);
    if path.is_empty() && matches!(rest.as_slice(), [Some("-h" | "--help" | "--version")] | []) {
        return walk.note(program, Effect::Read, None, argv);
    }
    let Some(spec) = specs::of(&path) else {
        return strange(walk, program, "a subcommand of it, or a plugin, that is not known");
    };
    let Some(split) = spec.split(&rest) else {
        // What it would have asked is not known, only that it is this subcommand.
        return strange(walk, &kind, "an option of it is not known");
    };
    if path == "exec" && exec(walk, program, &split, stdin) {
        return;
    }
    // What only the running shell knows may end the options before it.
    if !split.dynamic && split.values(&["-h", "--help"]).any(|value| value.is_none()) {
        return walk.note(&kind, Effect::Read, None, argv);
    }
    let everywhere = split.has(&["-A", "--all-namespaces"]);
    let mut plan = Plan::new(split.last(&["-n", "--namespace"]).filter(|_| !everywhere));
    verbs::judge(&mut plan, &path, &split, stdin);
    whole(&mut plan, &split);
    walk.note(&kind, plan.effect, plan.reason, argv);
    walk.touches(plan.paths);
    if let Some(command) = walk.commands.last_mut() {
        command.requests = plan.requests;
    }
}

/// What options say of any subcommand.
fn whole(plan: &mut Plan<'_>, split: &Split<'_>) {
    for (option, resource) in AS {
        for name in split.values(&[option]) {
            let target = Target { group: Some(String::new()), resource: resource.to_owned(), name: None };
            let asked = target.named(name).asked(Verb::Impersonate, None, None);
            plan.ask(asked);
        }
    }
    if split.has(&IDENTITY) {
        plan.raise(Effect::Unknown, "speaks to another cluster, or as someone else");
    }
    if split.has(&["--raw"]) && !verbs::asks_for_health(split) {
        plan.raise(Effect::Unknown, "asks for a path of the API, or shows secrets");
    }
    let elsewhere = |file: &&str| file.contains("://") || file.starts_with("git@");
    if split.values(&["-f", "--filename"]).flatten().any(|file| elsewhere(&file)) {
        plan.raise(Effect::Unknown, "fetches what it reads from elsewhere");
    }
    if split.has(&["-k", "--kustomize"]) {
        plan.raise(Effect::Unknown, "builds what it sends from a folder, or from elsewhere");
    }
    if split.dynamic {
        plan.raise(Effect::Unknown, DYNAMIC);
    }
}

/// `kubectl exec POD -- CMD`: judged by what it runs. `false` when it is not of that form.
fn exec(walk: &mut Walk, program: &str, split: &Split<'_>, stdin: &Stdin) -> bool {
    let ([pod], Some(command)) = (split.operands.as_slice(), &split.after) else { return false };
    let plain = |name: &str| {
        matches!(
            name,
            "-i" | "--stdin"
                | "-t"
                | "--tty"
                | "-q"
                | "--quiet"
                | "-n"
                | "--namespace"
                | "-c"
                | "--container"
        ) || matches!(name, "--context" | "--request-timeout" | "--pod-running-timeout")
    };
    if command.is_empty() || !split.options.iter().all(|(name, _)| plain(name)) {
        return false;
    }
    let begun = walk.commands.len();
    let command: Vec<Option<String>> = command.iter().map(|word| word.map(str::to_owned)).collect();
    walk.elsewhere(|walk| inside(walk, &format!("{program} exec"), &command, stdin));
    let asked = verbs::in_pod(*pod, "exec", split.last(&["-n", "--namespace"]));
    for command in walk.commands.iter_mut().skip(begun) {
        command.requests.push(asked.clone());
    }
    true
}

#[cfg(test)]
mod tests;
