//! Clients of databases: the statements that their words hand over, judged as SQL.

use super::run::Stdin;
use super::scripts::{DYNAMIC, all, opaque};
use super::walk::Walk;
use crate::request::Effect;
use crate::request::sql;

/// Values of options that hand over statements: `-c X`, `-cX`, `--command X`, `--command=X`.
fn values_of<'a>(words: &[&'a str], options: &[&str]) -> Vec<&'a str> {
    let mut values = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        for option in options {
            // `-Atc TEXT`: flags before it in one word.
            let flags = word.strip_prefix('-').and_then(|letters| letters.strip_suffix('c'));
            let flagged = flags.is_some_and(|flags| flags.chars().all(|flag| "AtqXxnw1".contains(flag)));
            if word == option || (*option == "-c" && flagged) {
                values.extend(rest.next());
                break;
            }
            let attached = if option.starts_with("--") {
                word.strip_prefix(option).and_then(|rest| rest.strip_prefix('='))
            } else {
                word.strip_prefix(option).filter(|_| !word.starts_with("--"))
            };
            if let Some(value) = attached {
                values.push(value);
                break;
            }
        }
    }
    values
}

fn has(words: &[&str], options: &[&str]) -> bool {
    words.iter().any(|word| {
        options.iter().any(|option| {
            word == option || (option.starts_with("--") && word.starts_with(&format!("{option}=")))
        })
    })
}

/// `psql`.
pub(super) fn psql(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let Some(words) = all(arguments) else { return opaque(walk, "psql", DYNAMIC, argv) };
    if has(&words, &["-f", "--file"]) || words.iter().any(|word| word.starts_with("-f")) {
        return opaque(walk, "psql", "runs a file nobody looked into", argv);
    }
    if has(&words, &["-l", "--list", "--version", "-V"]) {
        return walk.note("psql", Effect::Read, None, argv);
    }
    let texts = values_of(&words, &["-c", "--command"]);
    let texts: Vec<String> = match (texts.is_empty(), stdin) {
        (false, _) => texts.into_iter().map(str::to_owned).collect(),
        (true, Stdin::Text(text)) => vec![text.clone()],
        (true, Stdin::Inherited | Stdin::Fetched | Stdin::Unknown) => {
            return opaque(walk, "psql", "runs what it reads", argv);
        }
    };
    statements(walk, "psql", &texts, argv);
    if has(&words, &["-o", "--output", "-L", "--log-file"]) {
        walk.raise(walk.commands.len().saturating_sub(1), Effect::Write, "writes a file");
    }
}

/// A client of another database that takes statements by these options.
pub(super) fn database(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
    options: &[&str],
) {
    let Some(words) = all(arguments) else { return opaque(walk, program, DYNAMIC, argv) };
    let texts = values_of(&words, options);
    match (texts.is_empty(), stdin) {
        (false, _) => {
            let texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
            statements(walk, program, &texts, argv);
        }
        (true, Stdin::Text(text)) => statements(walk, program, std::slice::from_ref(&text.clone()), argv),
        (true, Stdin::Inherited | Stdin::Fetched | Stdin::Unknown) => {
            opaque(walk, program, "runs what it reads", argv);
        }
    }
}

/// `sqlite`.
pub(super) fn sqlite(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let Some(words) = all(arguments) else { return opaque(walk, "sqlite3", DYNAMIC, argv) };
    let operands: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with('-')).collect();
    match (operands.as_slice(), stdin) {
        ([_, texts @ ..], _) if !texts.is_empty() => {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            statements(walk, "sqlite3", &texts, argv);
        }
        ([_], Stdin::Text(text)) => statements(walk, "sqlite3", std::slice::from_ref(&text.clone()), argv),
        _ => opaque(walk, "sqlite3", "runs what it reads", argv),
    }
}

/// Commands of psql that only look (psql's documentation, Meta-Commands).
const LOOKING: [&str; 12] = [
    "\\d",
    "\\l",
    "\\z",
    "\\conninfo",
    "\\timing",
    "\\x",
    "\\pset",
    "\\encoding",
    "\\q",
    "\\echo",
    "\\h",
    "\\s",
];

/// Statements, judged as SQL.
fn statements(walk: &mut Walk, program: &str, texts: &[String], argv: &[Option<String>]) {
    let mut found = Vec::new();
    let (mut effect, mut reason) = (Effect::Read, None);
    for text in texts {
        let (meta, sql): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.trim_start().starts_with('\\'));
        for line in meta {
            let word = line.split_whitespace().next().unwrap_or_default();
            let looks = LOOKING.iter().any(|known| {
                word == *known
                    || (*known == "\\d" && word.starts_with("\\d"))
                    || (*known == "\\l" && word == "\\l+")
            });
            if !looks || line.contains('|') || line.matches('\\').count() > 1 {
                effect = Effect::Unknown;
                reason = Some("a command of the client".to_owned());
            }
        }
        let sql = sql.join("\n");
        // `SELECT … \g |sh`, `\gexec`: a backslash outside a literal begins a command of the client.
        if program == "psql" && sql.contains('\\') {
            effect = Effect::Unknown;
            reason = Some("a command of the client".to_owned());
        }
        // Variables of psql are put in before the server sees anything.
        if program == "psql" && sql.contains(":'") | sql.contains(":\"") {
            effect = Effect::Unknown;
            reason = Some("a variable of the client".to_owned());
        }
        if program != "psql" && !is_common_sql(&sql) {
            effect = Effect::Unknown;
            reason = Some("another database may read this otherwise".to_owned());
        }
        if sql.trim().is_empty() {
            continue;
        }
        let analysis = sql::analyze(&sql);
        if analysis.effect > effect {
            effect = analysis.effect;
            reason = analysis
                .statements
                .iter()
                .max_by_key(|found| found.effect)
                .and_then(|found| found.reason.clone());
        }
        let called = analysis.statements.iter().flat_map(|found| &found.functions);
        let strange = called.filter(|called| !COMMON_FUNCTIONS.contains(&called.name.as_str())).count() > 0;
        if program != "psql" && strange {
            effect = Effect::Unknown;
            reason = Some("calls a function of another database".to_owned());
        }
        found.extend(analysis.statements);
    }
    let kind = found
        .iter()
        .max_by_key(|found| found.effect)
        .map_or_else(|| program.to_owned(), |found| found.kind.clone());
    walk.note(&kind, effect, reason.as_deref(), argv);
    if let Some(command) = walk.commands.last_mut() {
        command.statements = found;
    }
}

/// Functions that mean the same in every database.
const COMMON_FUNCTIONS: [&str; 16] = [
    "abs", "avg", "coalesce", "count", "length", "lower", "max", "min", "now", "nullif", "round", "substr",
    "sum", "trim", "upper", "version",
];

/// Whether PostgreSQL's reading of a text is everybody's: without what MySQL and SQLite quote or comment in their own ways.
fn is_common_sql(sql: &str) -> bool {
    !sql.contains("/*") && !sql.contains("--") && !sql.contains(['\\', '#', '"', '`', '$', '['])
}
