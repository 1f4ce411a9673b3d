//! Options of kubectl's subcommands (kubectl reference, 1.34); what is not written here is not known.

use super::words::Spec;

const fn spec(flags: &'static str, values: &'static str) -> Spec {
    Spec { flags, values }
}

/// What a subcommand's options are. `None` for a plugin, or for what nobody here knows.
pub(super) fn of(path: &str) -> Option<Spec> {
    looks(path).or_else(|| changes(path)).or_else(|| creates(path))
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn looks(path: &str) -> Option<Spec> {
    Some(match path {
        "get" => spec(
            "-A --all-namespaces -w --watch --watch-only --no-headers --show-labels --show-kind --show-managed-fields --ignore-not-found \
             --output-watch-events --server-print --allow-missing-template-keys -R --recursive --use-openapi-print-columns",
            "-o --output -l --selector --field-selector --sort-by -L --label-columns --chunk-size --template --subresource \
             -f --filename -k --kustomize --raw",
        ),
        "describe" => spec(
            "-A --all-namespaces --show-events -R --recursive",
            "-l --selector --chunk-size -f --filename -k --kustomize",
        ),
        "logs" => spec(
            "-f --follow -p --previous --timestamps --all-containers --all-pods --prefix --ignore-errors --insecure-skip-tls-verify-backend",
            "-c --container -l --selector --since --since-time --tail --limit-bytes --max-log-requests --pod-running-timeout",
        ),
        "top pods" | "top pod" | "top po" | "top nodes" | "top node" | "top no" => spec(
            "-A --all-namespaces --no-headers --containers --sum --show-capacity --show-swap --use-protocol-buffers",
            "-l --selector --field-selector --sort-by",
        ),
        "events" => spec(
            "-A --all-namespaces -w --watch --no-headers --allow-missing-template-keys --show-managed-fields",
            "--for --types -o --output --chunk-size --template",
        ),
        "explain" => spec("--recursive", "--api-version -o --output"),
        "version" => spec("--client --short", "-o --output"),
        "api-versions" | "options" | "help" | "completion" => spec("", ""),
        "api-resources" => spec(
            "--cached --no-headers --namespaced --show-managed-fields --allow-missing-template-keys",
            "--api-group --verbs --categories -o --output --sort-by --template",
        ),
        "cluster-info" => spec("", ""),
        "cluster-info dump" => spec(
            "-A --all-namespaces --allow-missing-template-keys --show-managed-fields",
            "--namespaces -o --output --output-directory --pod-running-timeout --template",
        ),
        "wait" => spec(
            "--all -A --all-namespaces --local -R --recursive --allow-missing-template-keys --show-managed-fields",
            "--for --timeout -l --selector --field-selector -f --filename -o --output --template",
        ),
        "diff" => spec(
            "--server-side --force-conflicts --show-managed-fields -R --recursive",
            "-f --filename -k --kustomize -l --selector --field-manager --concurrency",
        ),
        "auth can-i" => spec("-A --all-namespaces --list --no-headers -q --quiet", "--subresource"),
        "auth whoami" => {
            spec("--allow-missing-template-keys --show-managed-fields", "-o --output --template")
        }
        "config view" => spec(
            "--minify --flatten --raw --merge --allow-missing-template-keys --show-managed-fields",
            "-o --output --template",
        ),
        "config get-contexts" => spec("--no-headers", "-o --output"),
        "config current-context"
        | "config get-clusters"
        | "config get-users"
        | "config use-context"
        | "config use"
        | "config delete-context"
        | "config delete-cluster"
        | "config delete-user"
        | "config rename-context"
        | "config unset" => spec("", ""),
        "rollout status" => spec(
            "-w --watch -R --recursive",
            "--timeout --revision -l --selector -f --filename -k --kustomize",
        ),
        "rollout history" => spec(
            "-R --recursive --allow-missing-template-keys --show-managed-fields",
            "--revision -l --selector -o --output --template -f --filename -k --kustomize",
        ),
        "apply view-last-applied" => {
            spec("--all -R --recursive", "-l --selector -o --output -f --filename -k --kustomize")
        }
        _ => return None,
    })
}

fn changes(path: &str) -> Option<Spec> {
    Some(match path {
        "delete" => spec(
            "--all -A --all-namespaces --force --now --wait --ignore-not-found -i --interactive -R --recursive --dry-run --cascade",
            "-l --selector --field-selector --grace-period --timeout -o --output -f --filename -k --kustomize --raw",
        ),
        "apply" => spec(
            "--all --force --overwrite --prune --server-side --force-conflicts --wait --openapi-patch --validate --dry-run --cascade \
             -R --recursive --allow-missing-template-keys --show-managed-fields",
            "-l --selector --field-manager --grace-period --timeout --prune-allowlist --subresource -o --output --template \
             -f --filename -k --kustomize",
        ),
        "replace" => spec(
            "--force --save-config --wait --validate --dry-run --cascade -R --recursive --allow-missing-template-keys --show-managed-fields",
            "--field-manager --grace-period --timeout --subresource -o --output --template -f --filename -k --kustomize --raw",
        ),
        "patch" => spec(
            "--local --dry-run -R --recursive --allow-missing-template-keys --show-managed-fields",
            "-p --patch --patch-file --type --subresource --field-manager -o --output --template -f --filename -k --kustomize",
        ),
        "edit" => spec(
            "--output-patch --save-config --validate --windows-line-endings -R --recursive --show-managed-fields --allow-missing-template-keys",
            "-o --output --subresource --field-manager --template -f --filename -k --kustomize",
        ),
        "scale" => spec(
            "--all --dry-run -R --recursive --allow-missing-template-keys --show-managed-fields",
            "--replicas --current-replicas --resource-version --timeout -l --selector -o --output --template -f --filename -k --kustomize",
        ),
        "label" | "annotate" => spec(
            "--all -A --all-namespaces --list --local --overwrite --dry-run -R --recursive --allow-missing-template-keys --show-managed-fields",
            "-l --selector --field-selector --resource-version --field-manager -o --output --template -f --filename -k --kustomize",
        ),
        "set image" | "set env" | "set resources" | "set serviceaccount" | "set sa" | "set selector"
        | "set subject" => spec(
            "--all --list --local --resolve --overwrite --dry-run -R --recursive --allow-missing-template-keys --show-managed-fields",
            "-l --selector -c --containers --from --keys --prefix -e --env --limits --requests --user --group --resource-version \
             --field-manager -o --output --template -f --filename -k --kustomize --serviceaccount",
        ),
        "rollout restart" | "rollout undo" | "rollout pause" | "rollout resume" => spec(
            "--dry-run -R --recursive --allow-missing-template-keys --show-managed-fields",
            "--to-revision -l --selector --field-manager -o --output --template -f --filename -k --kustomize",
        ),
        "cordon" | "uncordon" => spec("--dry-run", "-l --selector"),
        "drain" => spec(
            "--dry-run --delete-emptydir-data --delete-local-data --disable-eviction --force --ignore-daemonsets --ignore-errors",
            "--chunk-size --grace-period --pod-selector -l --selector --skip-wait-for-delete-timeout --timeout",
        ),
        "taint" => spec(
            "--all --overwrite --dry-run --validate --allow-missing-template-keys --show-managed-fields",
            "-l --selector --field-manager -o --output --template",
        ),
        "certificate approve" | "certificate deny" => spec(
            "--force -R --recursive --allow-missing-template-keys --show-managed-fields",
            "-o --output --template -f --filename -k --kustomize",
        ),
        "exec" => {
            spec("-i --stdin -t --tty -q --quiet", "-c --container -f --filename --pod-running-timeout")
        }
        "attach" => spec("-i --stdin -t --tty -q --quiet", "-c --container --pod-running-timeout"),
        "port-forward" => spec("", "--address --pod-running-timeout"),
        "cp" => spec("--no-preserve", "-c --container --retries"),
        "config set" => spec("--set-raw-bytes", ""),
        "config set-context" => spec("--current", ""),
        _ => return None,
    })
}

/// Options of all that make objects.
fn creates(path: &str) -> Option<Spec> {
    Some(match path {
        "expose" => spec(
            "--dry-run --save-config -R --recursive --allow-missing-template-keys --show-managed-fields",
            "--cluster-ip --external-ip --field-manager -l --labels --load-balancer-ip --name -o --output --override-type --overrides \
             --port --protocol --selector --session-affinity --target-port --template --type -f --filename -k --kustomize",
        ),
        "autoscale" => spec(
            "--dry-run --save-config -R --recursive --allow-missing-template-keys --show-managed-fields",
            "--cpu-percent --cpu --memory --field-manager --max --min --name -o --output --template -f --filename -k --kustomize",
        ),
        "run" => spec(
            "--attach --command --dry-run --expose -i --stdin -t --tty -q --quiet --leave-stdin-open --privileged --rm --save-config \
             --allow-missing-template-keys --show-managed-fields --wait --force --cascade",
            "--annotations --env --field-manager --grace-period --image --image-pull-policy -l --labels -o --output --override-type \
             --overrides --pod-running-timeout --port --restart --template --timeout --serviceaccount --limits --requests",
        ),
        "create" => spec(
            "--dry-run --edit --save-config --validate --windows-line-endings -R --recursive --allow-missing-template-keys \
             --show-managed-fields",
            "--field-manager -l --selector -o --output --template -f --filename -k --kustomize --raw",
        ),
        _ if path.starts_with("create ") => spec(
            "--dry-run --save-config --validate --allow-missing-template-keys --show-managed-fields --append-hash --global-default",
            "--field-manager -o --output --template --image -r --replicas --port --from --schedule --restart --from-file --from-literal \
             --from-env-file --type --cert --key --docker-server --docker-username --docker-password --docker-email --clusterip --tcp \
             --node-port --external-name --class --rule --annotation --default-backend --verb --resource --resource-name \
             --non-resource-url --aggregation-rule --role --clusterrole --group --serviceaccount --min-available --max-unavailable \
             --selector --hard --scopes --value --description --preemption-policy --audience --duration \
             --bound-object-kind --bound-object-name --bound-object-uid",
        ),
        _ => return None,
    })
}
