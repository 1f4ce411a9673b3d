//! Clients of databases: the statements that their words hand over, judged as SQL.

use super::options::Options;
use super::run::Stdin;
use super::scripts::{DYNAMIC, all, opaque};
use super::walk::Walk;
use crate::request::Effect;
use crate::request::sql;
use crate::request::ssh::{Access, PathUse};

/// Options of psql (its documentation, Options); others are not known.
const PSQL: Options<'_> = Options::new(
    "AaebEHlnqsStVwWxXz01?",
    "cdfFhLopPRTUv",
    &[
        "--csv",
        "--echo-all",
        "--echo-errors",
        "--echo-hidden",
        "--echo-queries",
        "--expanded",
        "--field-separator-zero",
        "--help",
        "--html",
        "--list",
        "--no-align",
        "--no-password",
        "--no-psqlrc",
        "--password",
        "--quiet",
        "--record-separator-zero",
        "--single-transaction",
        "--tuples-only",
        "--version",
    ],
    &[
        "--command",
        "--dbname",
        "--field-separator",
        "--file",
        "--host",
        "--log-file",
        "--output",
        "--port",
        "--pset",
        "--record-separator",
        "--set",
        "--table-attr",
        "--username",
        "--variable",
    ],
);

/// Options of mysql that run and write nothing but statements. `-p` may have the password in the same word.
const MYSQL: Options<'_> = Options::new(
    "ABbCEfHiNnqrstUVvw",
    "DehPSu",
    &[
        "--batch",
        "--column-names",
        "--compress",
        "--force",
        "--html",
        "--no-auto-rehash",
        "--no-defaults",
        "--password",
        "--quick",
        "--raw",
        "--silent",
        "--skip-column-names",
        "--table",
        "--version",
        "--vertical",
        "--xml",
    ],
    &[
        "--connect-timeout",
        "--database",
        "--default-character-set",
        "--execute",
        "--host",
        "--port",
        "--protocol",
        "--socket",
        "--ssl-mode",
        "--user",
    ],
);

/// Why, for an option that is in neither list.
const STRANGE: &str = "an option of it is not known";

/// `psql`.
pub(super) fn psql(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let Some(words) = all(arguments) else { return opaque(walk, "psql", DYNAMIC, argv) };
    let Some(parsed) = PSQL.parse(&words) else { return opaque(walk, "psql", STRANGE, argv) };
    if parsed.has(&["-f", "--file"]) {
        return opaque(walk, "psql", "runs a file nobody looked into", argv);
    }
    let texts: Vec<String> = parsed.values(&["-c", "--command"]).map(str::to_owned).collect();
    let looks = parsed.has(&["-l", "--list", "--version", "-V", "--help", "-?"]);
    match (texts.is_empty(), looks, stdin) {
        (false, _, _) => statements(walk, "psql", &texts, argv),
        (true, true, _) => walk.note("psql", Effect::Read, None, argv),
        (true, false, Stdin::Text(text)) => statements(walk, "psql", std::slice::from_ref(text), argv),
        (true, false, Stdin::Inherited | Stdin::Fetched | Stdin::Unknown) => {
            return opaque(walk, "psql", "runs what it reads", argv);
        }
    }
    // `-o |command` is run.
    let files: Vec<&str> = parsed.values(&["-o", "--output", "-L", "--log-file"]).collect();
    if files.iter().any(|file| file.trim_start().starts_with('|')) {
        walk.raise(walk.commands.len().saturating_sub(1), Effect::Unknown, "hands its output to a command");
    }
    walk.touches(
        files.iter().map(|file| PathUse { path: (*file).to_owned(), access: Access::Write }).collect(),
    );
}

/// `mysql`.
pub(super) fn mysql(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    argv: &[Option<String>],
    stdin: &Stdin,
) {
    let Some(words) = all(arguments) else { return opaque(walk, program, DYNAMIC, argv) };
    let words: Vec<&str> = words.into_iter().filter(|word| !word.starts_with("-p")).collect();
    let Some(parsed) = MYSQL.parse(&words) else { return opaque(walk, program, STRANGE, argv) };
    let texts: Vec<String> = parsed.values(&["-e", "--execute"]).map(str::to_owned).collect();
    match (texts.is_empty(), stdin) {
        (false, _) => statements(walk, program, &texts, argv),
        (true, Stdin::Text(text)) => statements(walk, program, std::slice::from_ref(&text.clone()), argv),
        (true, Stdin::Inherited | Stdin::Fetched | Stdin::Unknown) => {
            opaque(walk, program, "runs what it reads", argv);
        }
    }
}

/// Options of sqlite3 that run nothing.
const SQLITE_FLAGS: [&str; 19] = [
    "-ascii",
    "-bail",
    "-batch",
    "-box",
    "-column",
    "-csv",
    "-header",
    "-html",
    "-json",
    "-line",
    "-list",
    "-markdown",
    "-noheader",
    "-quote",
    "-readonly",
    "-safe",
    "-table",
    "-tabs",
    "-version",
];

/// The same with a value.
const SQLITE_VALUES: [&str; 3] = ["-newline", "-nullvalue", "-separator"];

/// What is no option; `None` when one of these is not known. One minus or two, as sqlite3 takes them.
fn sqlite_operands<'w>(words: &[&'w str]) -> Option<Vec<&'w str>> {
    let mut operands = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let option = word.strip_prefix('-').filter(|name| name.starts_with('-')).unwrap_or(word);
        if !word.starts_with('-') {
            operands.push(*word);
        } else if SQLITE_VALUES.contains(&option) {
            rest.next()?;
        } else if !SQLITE_FLAGS.contains(&option) {
            return None;
        }
    }
    Some(operands)
}

/// `sqlite`.
pub(super) fn sqlite(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>], stdin: &Stdin) {
    let Some(words) = all(arguments) else { return opaque(walk, "sqlite3", DYNAMIC, argv) };
    let Some(operands) = sqlite_operands(&words) else { return opaque(walk, "sqlite3", STRANGE, argv) };
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
        // Within a literal or a comment it is a line of the statement.
        if !meta.is_empty() && (program != "psql" || text.contains(['\'', '"', '$']) || text.contains("/*")) {
            effect = Effect::Unknown;
            reason = Some("a command of the client".to_owned());
        }
        for line in meta {
            let word = line.split_whitespace().next().unwrap_or_default();
            let looks = LOOKING.iter().any(|known| {
                word == *known
                    || (*known == "\\d" && word.starts_with("\\d"))
                    || (*known == "\\l" && word == "\\l+")
            });
            // A backquoted word is run, and `\s FILE` writes.
            let runs = line.contains(['|', '`']) || line.matches('\\').count() > 1;
            if !looks || runs || (word == "\\s" && line.trim() != word) {
                effect = Effect::Unknown;
                reason = Some("a command of the client".to_owned());
            }
        }
        let sql = sql.join("\n");
        let sql = if program == "psql" { sql } else { without_looks(program, sql) };
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

/// Dot-commands of sqlite3 that only look (its documentation, section 3).
const LOOKING_DOTS: [&str; 8] =
    [".tables", ".schema", ".indexes", ".indices", ".databases", ".dbinfo", ".version", ".fullschema"];

/// A text of MySQL without its `SHOW` statements, or of SQLite without dot-commands that look: both only look, and no other
/// database knows them. Only of texts in which nothing is quoted in a way of their own.
fn without_looks(program: &str, sql: String) -> String {
    let word = |text: &str| text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    if program == "sqlite3" {
        let plain = !sql.contains(['|', '`', ';', '\n', '\\']);
        return if plain && LOOKING_DOTS.contains(&word(&sql).as_str()) { String::new() } else { sql };
    }
    let plain = sql.replace("\\G", ";");
    if plain.contains("/*") || plain.contains("--") || plain.contains(['\\', '#', '"', '`', '$', '\n']) {
        return sql;
    }
    let parts: Vec<&str> = plain.split(';').collect();
    if parts.iter().any(|part| part.matches('\'').count() % 2 != 0) {
        return sql;
    }
    let rest: Vec<&str> = parts.into_iter().filter(|part| word(part) != "show").collect();
    rest.join(";")
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
