//! `cargo xtask tidy`: house rules as a test. A module uses only modules above it; pure modules stay pure; every file
//! says what it is for; no file grows past the limit; heavy crates are named where they belong.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 500;

/// Modules that do no I/O, read no clock and know no tokio. `policy::watch` is the named exception.
const PURE: &[&str] = &["codec", "mask", "request", "policy"];
const PURE_EXCEPT: &[&str] = &["policy/watch"];
const IMPURE_WORDS: &[&str] = &[
    "tokio::",
    "std::net::Tcp",
    "std::net::Udp",
    "SystemTime::now",
    "Instant::now",
    "std::fs::",
    "std::process::",
];

/// Crates that may be named in one place only.
const HOMES: &[(&str, &[&str])] = &[
    ("pg_query", &["request/sql"]),
    ("sqlparser", &["request/sql"]),
    ("aya", &["intercept"]),
    ("rusqlite", &["approval", "record"]),
    ("zstd", &["record"]),
    ("rcgen", &["tls"]),
    ("brush_parser", &["request/shell"]),
    ("russh", &["policy/load", "upstream/ssh", "relay", "daemon"]),
    ("postgres_protocol", &["upstream"]),
    ("anyhow", &["main.rs", "cli"]),
];

/// Checks every rule and prints every breach.
pub(crate) fn run() -> Result<()> {
    shell::say("tidy");
    let mut breaches = Vec::new();
    let agent = shell::root().join("agent/src");
    let order = module_order(&agent.join("lib.rs"))?;
    for file in rust_files(&agent)? {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let relative = file.strip_prefix(&agent).unwrap_or(&file).to_string_lossy().into_owned();
        check_order(&relative, &text, &order, &mut breaches);
        check_purity(&relative, &text, &mut breaches);
        check_homes(&relative, &text, &mut breaches);
    }
    for folder in ["agent", "ebpf", "tests", "xtask"] {
        for file in rust_files(&shell::root().join(folder))? {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(shell::root()).unwrap_or(&file).display().to_string();
            check_shape(&name, &text, &mut breaches);
        }
    }
    if breaches.is_empty() {
        return Ok(());
    }
    for breach in &breaches {
        shell::complain(breach);
    }
    bail!("{} house rule(s) broken", breaches.len())
}

/// The modules of `lib.rs`, in the order they are declared: the dependency order.
fn module_order(lib: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(lib).with_context(|| format!("cannot read {}", lib.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .filter_map(|rest| rest.strip_suffix(';'))
        .map(str::to_owned)
        .collect())
}

fn check_order(file: &str, text: &str, order: &[String], breaches: &mut Vec<String>) {
    let module = file.split(['/', '.']).next().unwrap_or_default();
    let Some(own) = order.iter().position(|name| name == module) else { return };
    for (number, line) in product_lines(text) {
        for used in crate_paths(line) {
            if order.iter().position(|name| *name == used).is_some_and(|at| at > own) {
                breaches.push(format!(
                    "agent/src/{file}:{number}: `{module}` uses `{used}`, which stands below it in lib.rs"
                ));
            }
        }
    }
}

/// The modules a line names through `crate::name`.
fn crate_paths(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

fn check_purity(file: &str, text: &str, breaches: &mut Vec<String>) {
    let module = file.split('/').next().unwrap_or_default();
    if !PURE.contains(&module)
        || PURE_EXCEPT.iter().any(|except| file.starts_with(except))
        || is_test_file(file)
    {
        return;
    }
    for (number, line) in product_lines(text) {
        for word in IMPURE_WORDS {
            if line.contains(word) {
                breaches.push(format!("agent/src/{file}:{number}: `{module}` is pure, but names `{word}`"));
            }
        }
    }
}

fn check_homes(file: &str, text: &str, breaches: &mut Vec<String>) {
    if is_test_file(file) {
        return;
    }
    for (number, line) in product_lines(text) {
        for (name, homes) in HOMES {
            let named = line.contains(&format!("{name}::")) && !line.contains(&format!("_{name}::"));
            if named && !homes.iter().any(|home| file.starts_with(home)) {
                breaches.push(format!(
                    "agent/src/{file}:{number}: crate `{name}` belongs in {}",
                    homes.join(", ")
                ));
            }
        }
    }
}

fn check_shape(name: &str, text: &str, breaches: &mut Vec<String>) {
    if !text.starts_with("//!") {
        breaches.push(format!("{name}:1: a file opens with a `//!` sentence that says what it is for"));
    }
    let lines = product_lines(text).count();
    if lines > FILE_LINES_MAX && !is_test_file(name) {
        breaches.push(format!("{name}: {lines} lines before its tests, limit {FILE_LINES_MAX}"));
    }
}

/// Lines outside comments, up to the test module, with their numbers.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/") || name.starts_with("tests/")
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                // What is built, and what is other people's.
                if !path.ends_with("target") && !path.ends_with("vendor") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
