//! `portcullis policy explain`: what a policy says of operations, without running them.

use std::io::{self, BufRead, Read, Write};

use serde::Serialize;

use super::check::report;
use super::{Colour, Console, Exit, ExplainArgs, ExplainProtocol, Look, cannot_read, read_text};
use crate::policy::load::{LoadError, load};
use crate::policy::rule::{Limits, Policy, Protocol, Shadow, Verdict};
use crate::policy::trial::{Circumstances, Trial, judge, judge_analysis, judge_ssh};
use crate::request::sql::Analysis;
use crate::request::{ColumnUse, Effect, SessionAction, Statement, Unlisted};
use crate::run::now_ms;

/// Longest operation read from stdin, in bytes.
const OPERATION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Characters of an operation shown to people.
const INPUT_CHARS_SHOWN: usize = 100;

/// One operation as JSON: the contract of `--json`.
#[derive(Serialize)]
struct Explanation<'a> {
    input: &'a str,
    operations: Vec<Explained<'a>>,
    effect: Effect,
    verdict: &'static str,
    rule: &'a str,
    /// `held` or `denied`, and by which rule, where one that is tried out would have done so.
    #[serde(skip_serializing_if = "Option::is_none")]
    would: Option<Would<'a>>,
}

/// What a rule that is tried out would have done.
#[derive(Serialize)]
struct Would<'a> {
    verdict: &'static str,
    rule: &'a str,
}

/// One statement of an operation.
#[derive(Serialize)]
struct Explained<'a> {
    kind: &'a str,
    effect: Effect,
    objects: &'a [String],
    reason: Option<&'a str>,
}

fn circumstances(args: &ExplainArgs, protocol: Protocol) -> Result<Circumstances, String> {
    let mut circumstances = Circumstances {
        protocol: Some(protocol),
        groups: args.groups.clone(),
        claims: None,
        connection: args.connection.clone(),
        database: args.database.clone(),
        search_path: args.search_path.clone(),
        operation: Some(args.operation),
        user: args.user.clone(),
        rows: args.rows,
        at_ms: Some(now_ms()),
        used_up: args.used_up.clone(),
    };
    if let Some(moment) = &args.at {
        circumstances.at(moment).map_err(|problem| format!("--at {moment}: {problem}"))?;
    }
    for claim in &args.claims {
        circumstances.claim(claim).map_err(|problem| format!("--claim {claim}: {problem}"))?;
    }
    Ok(circumstances)
}

pub(super) fn run(args: &ExplainArgs, console: &mut Console<'_>) -> io::Result<Exit> {
    let protocol = match args.protocol {
        ExplainProtocol::Postgres => Protocol::Postgres,
        ExplainProtocol::Http => Protocol::Http,
        ExplainProtocol::Ssh => Protocol::Ssh,
        ExplainProtocol::Kubernetes => {
            writeln!(
                console.stderr,
                "this version judges --protocol postgres, http and ssh; the others come later"
            )?;
            return Ok(Exit::Failed);
        }
    };
    let text = match read_text(&args.policy) {
        Ok(text) => text,
        Err(error) => return cannot_read(&args.policy, &error, console),
    };
    let policy = match load(&text) {
        Ok(loaded) => loaded.policy,
        Err(LoadError { findings }) => {
            report(&args.policy, &text, &findings, console)?;
            return Ok(Exit::Failed);
        }
    };
    let circumstances = match circumstances(args, protocol) {
        Ok(circumstances) => circumstances,
        Err(problem) => {
            writeln!(console.stderr, "{problem}")?;
            return Ok(Exit::Usage);
        }
    };
    loop {
        let operation = match next_operation(console.stdin, if args.nul { 0 } else { b'\n' })? {
            Next::Operation(operation) => operation,
            Next::End => return Ok(Exit::Done),
            Next::TooLong => {
                writeln!(
                    console.stderr,
                    "an operation is longer than {OPERATION_BYTES_MAX} bytes; nothing beyond is judged"
                )?;
                return Ok(Exit::Failed);
            }
        };
        let input = String::from_utf8_lossy(&operation);
        let judged = match std::str::from_utf8(&operation) {
            _ if protocol == Protocol::Ssh => judge_ssh(&policy, &operation, &circumstances),
            Ok(text) => judge(&policy, text, &circumstances),
            Err(_) => judge_analysis(&policy, unreadable(), &circumstances),
        };
        let trial = match judged {
            Ok(trial) => trial,
            Err(error) => {
                writeln!(console.stderr, "{error}")?;
                return Ok(Exit::Usage);
            }
        };
        if args.json {
            write_json(&input, &trial, console.stdout)?;
        } else {
            write_plain(&input, &trial, &policy, console)?;
        }
    }
}

/// What stands next on stdin.
enum Next {
    Operation(Vec<u8>),
    TooLong,
    End,
}

/// Reads to the next separator or the end of the input. A separator at the very end starts no further operation.
fn next_operation(stdin: &mut dyn BufRead, separator: u8) -> io::Result<Next> {
    let mut operation = Vec::new();
    if stdin.take(OPERATION_BYTES_MAX as u64 + 1).read_until(separator, &mut operation)? == 0 {
        return Ok(Next::End);
    }
    if operation.last() == Some(&separator) {
        operation.pop();
    } else if operation.len() > OPERATION_BYTES_MAX {
        return Ok(Next::TooLong);
    }
    Ok(Next::Operation(operation))
}

/// What stands for a text that is not UTF-8, which the gate forwards to no server.
fn unreadable() -> Analysis {
    let statement = Statement {
        kind: "unknown".to_owned(),
        effect: Effect::Unknown,
        reason: Some("is not valid UTF-8".to_owned()),
        reads: Vec::new(),
        writes: Vec::new(),
        functions: Vec::new(),
        unlisted: Unlisted::none(Effect::Unknown, None),
        renames: false,
        unbounded: false,
        columns: ColumnUse::default(),
        session: SessionAction::None,
        copy: None,
        copies: false,
        span: 0..0,
    };
    Analysis { statements: vec![statement], effect: Effect::Unknown }
}

fn write_json(input: &str, trial: &Trial, stdout: &mut dyn Write) -> io::Result<()> {
    let operations = trial.operations.iter().map(|tried| Explained {
        kind: &tried.kind,
        effect: tried.effect,
        objects: &tried.objects,
        reason: tried.reason.as_deref(),
    });
    let explanation = Explanation {
        input,
        operations: operations.collect(),
        effect: trial.effect,
        verdict: trial.verdict.word(),
        rule: trial.verdict.rule(),
        would: trial
            .verdict
            .shadow()
            .map(|shadow| Would { verdict: shadow.verdict.participle(), rule: &shadow.rule }),
    };
    serde_json::to_writer(&mut *stdout, &explanation)?;
    writeln!(stdout)
}

fn write_plain(input: &str, trial: &Trial, policy: &Policy, console: &mut Console<'_>) -> io::Result<()> {
    let look = console.stdout_look;
    let colour = match trial.verdict {
        Verdict::Allow { .. } => Colour::Green,
        Verdict::Deny { .. } => Colour::Red,
        Verdict::Hold { .. } => Colour::Yellow,
    };
    // Padded before it is painted: colours have no width.
    let verdict = look.paint(colour, &format!("{:<5}", trial.verdict.word()));
    writeln!(console.stdout, "{verdict}  {:<7}  {}", trial.effect.to_string(), shown(input, look))?;
    writeln!(console.stdout, "       rule     {}", rule_of(&trial.verdict, policy))?;
    for tried in &trial.operations {
        let objects: Vec<String> = tried.objects.iter().map(|name| escaped(name)).collect();
        let mut line = format!("       {:<7}  {}", tried.effect.to_string(), escaped(&tried.kind));
        if !objects.is_empty() {
            line.push_str(": ");
            line.push_str(&objects.join(", "));
        }
        if let Some(reason) = &tried.reason {
            line.push_str(&format!(" ({})", escaped(reason)));
        }
        writeln!(console.stdout, "{line}")?;
    }
    Ok(())
}

/// The rule and what it asks for.
fn rule_of(verdict: &Verdict, policy: &Policy) -> String {
    match verdict {
        Verdict::Allow { rule, limits, shadow } => {
            format!("\"{rule}\" of policy {}{}{}", policy.name, held_to(*limits), tried_out(shadow.as_ref()))
        }
        Verdict::Deny { rule, hint, .. } => {
            let hint = hint.as_ref().map_or_else(String::new, |hint| format!("; the client is told: {hint}"));
            format!("\"{rule}\" of policy {}{hint}", policy.name)
        }
        Verdict::Hold { rule, terms, limits } => {
            let approvers = if terms.approvers.is_empty() {
                "any approver".to_owned()
            } else {
                terms.approvers.join(", ")
            };
            format!(
                "\"{rule}\" of policy {}; waits {} s for {approvers}{}",
                policy.name,
                terms.timeout.as_secs(),
                held_to(*limits)
            )
        }
    }
}

/// What it is held to while it runs.
fn held_to(limits: Limits) -> String {
    let rows = limits.rows.map_or_else(String::new, |rows| format!("; at most {rows} rows"));
    let time = limits.time.map_or_else(String::new, |time| format!("; at most {} s", time.as_secs()));
    rows + &time
}

fn tried_out(shadow: Option<&Shadow>) -> String {
    shadow.map_or_else(String::new, |shadow| {
        format!("; would be {} by \"{}\", which is tried out", shadow.verdict.participle(), shadow.rule)
    })
}

/// The operation on one bounded line.
fn shown(input: &str, look: Look) -> String {
    let line: String = input.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = escaped(&line.chars().take(INPUT_CHARS_SHOWN).collect::<String>());
    if line.chars().nth(INPUT_CHARS_SHOWN).is_some() {
        text.push('…');
    }
    look.paint(Colour::Bold, &text)
}

/// Text of the operation as a terminal may see it.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}
