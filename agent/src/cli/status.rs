//! `portcullis status`: what the daemon says of itself.

use std::io::{self, Write};

use super::text::{columns, duration, line, shown};
use super::{Failure, ask, print_json};
use crate::config::Config;
use crate::control::{ClientError, Reply, Request, Status};
use crate::run::now_ms;

/// Exit code 1 when no daemon answers; a daemon with problems is still an answer.
pub(super) fn run(json: bool, config: &Config) -> Result<(), Failure> {
    let Reply::Status(status) = ask(config, &Request::Status)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    if json {
        return print_json(&status);
    }
    Ok(io::stdout().write_all(render(&status, now_ms()).as_bytes())?)
}

fn render(status: &Status, now: u64) -> String {
    let mut text = String::new();
    let attached = status.hooks.iter().filter(|hook| hook.attached).count();
    let up = duration(now.saturating_sub(status.started_ms));
    line(
        &mut text,
        format_args!(
            "portcullis {}: process {}, up {up}, proxy {}",
            status.version, status.pid, status.proxy
        ),
    );
    line(
        &mut text,
        format_args!("kernel: mode {}, {attached} of {} programs attached", status.mode, status.hooks.len()),
    );
    let asks = match status.name_servers.as_slice() {
        [] => "nobody".to_owned(),
        servers => servers.join(", "),
    };
    line(&mut text, format_args!("resolver: {} over UDP and TCP, asks {asks}", status.proxy));
    for hook in status.hooks.iter().filter(|hook| !hook.attached) {
        line(&mut text, format_args!("  not attached: {}", hook.name));
    }
    for problem in &status.problems {
        line(&mut text, format_args!("PROBLEM: {}", shown(problem, false)));
    }
    line(&mut text, format_args!("\npolicies: {}", status.policies.len()));
    for policy in &status.policies {
        match (&policy.error, &policy.name, &policy.version) {
            (Some(error), _, _) => {
                line(&mut text, format_args!("  BROKEN {}: {}", policy.file, shown(error, false)))
            }
            (None, name, version) => {
                let (name, version) = (name.as_deref().unwrap_or("?"), version.as_deref().unwrap_or("?"));
                line(&mut text, format_args!("  {name} ({}, version {version})", policy.file));
            }
        }
    }
    line(&mut text, format_args!("\nruns: {}", status.runs.len()));
    let rows: Vec<_> = status
        .runs
        .iter()
        .map(|run| {
            let user = run.user.clone().unwrap_or_else(|| "-".to_owned());
            let age = duration(now.saturating_sub(run.started_ms));
            vec![format!("  {}", run.id), run.policy.clone(), user, age, shown(&run.cgroup, false)]
        })
        .collect();
    text.push_str(&columns(&rows));
    line(&mut text, format_args!("\nwaiting for approval: {}", status.holds));
    for (name, value) in &status.counters {
        line(&mut text, format_args!("{name}: {value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{Hook, PolicyFile, RunBrief};
    use crate::flow::RunId;
    use ulid::Ulid;

    #[test]
    fn a_status_reads_well() {
        let status = Status {
            version: "0.1.0".to_owned(),
            pid: 42,
            started_ms: 1000,
            mode: "no-lsm".to_owned(),
            proxy: "127.0.0.1:16440".to_owned(),
            name_servers: vec!["127.0.0.53:53".to_owned()],
            hooks: [("connect4", true), ("egress", false)]
                .map(|(name, attached)| Hook { name: name.to_owned(), attached })
                .to_vec(),
            runs: vec![RunBrief {
                id: RunId(Ulid::from_parts(1, 1)),
                policy: "crewai".to_owned(),
                user: Some("agent".to_owned()),
                subject: None,
                expires_ms: None,
                withdrawn_by: None,
                cgroup: "/portcullis.runs/\u{1b}x".to_owned(),
                started_ms: 1000,
            }],
            policies: vec![
                PolicyFile {
                    file: "crewai.toml".to_owned(),
                    name: Some("crewai".to_owned()),
                    version: Some("0123456789abcdef".to_owned()),
                    error: None,
                },
                PolicyFile {
                    file: "x.toml".to_owned(),
                    name: None,
                    version: None,
                    error: Some("x.toml:1:1: not TOML".to_owned()),
                },
            ],
            holds: 1,
            counters: [("connections".to_owned(), 7)].into(),
            problems: vec!["the disk is full".to_owned()],
        };
        let expected = "\
portcullis 0.1.0: process 42, up 1m 1s, proxy 127.0.0.1:16440
kernel: mode no-lsm, 1 of 2 programs attached
resolver: 127.0.0.1:16440 over UDP and TCP, asks 127.0.0.53:53
  not attached: egress
PROBLEM: the disk is full

policies: 2
  crewai (crewai.toml, version 0123456789abcdef)
  BROKEN x.toml: x.toml:1:1: not TOML

runs: 1
  00000000010000000000000001  crewai  agent  1m 1s  /portcullis.runs/\\u{1b}x

waiting for approval: 1
connections: 7
";
        assert_eq!(render(&status, 62_000), expected);
    }
}
