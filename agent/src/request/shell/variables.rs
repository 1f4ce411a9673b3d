//! Variables of the shell: which of them change what runs, and which commands set some.

use super::run::PROGRAM_FOLDERS;
use super::walk::Walk;

/// Builtins that set or unset the variables that their words name.
const DECLARING: [&str; 11] = [
    "export",
    "declare",
    "typeset",
    "local",
    "readonly",
    "read",
    "mapfile",
    "readarray",
    "getopts",
    "unset",
    "printf",
];

/// Whether a program of this name sets variables by its words.
pub(super) fn declares(program: &str) -> bool {
    DECLARING.contains(&program)
}

/// A value of `PATH` in which the old one stands for itself: it is the system's, until something else was said.
pub(super) fn path(written: &str) -> String {
    written.replace("${PATH}", "/usr/bin").replace("$PATH", "/usr/bin")
}

/// What a builtin's words set is not known any more; nobody knows what it means when it changes what runs.
pub(super) fn declared(walk: &mut Walk, argv: &[Option<String>]) {
    let Some((Some(program), words)) = argv.split_first() else { return };
    let program = if program == "builtin" || program == "command" {
        match words.first() {
            Some(Some(inner)) if declares(inner) => inner,
            _ => return,
        }
    } else {
        program
    };
    if !declares(program)
        || (program == "printf" && !words.iter().flatten().any(|word| word.starts_with("-v")))
    {
        return;
    }
    for word in words {
        let Some(word) = word else {
            walk.doubt("a variable is set whose name is known to the running shell alone");
            continue;
        };
        // A name that refers to another one could stand for any.
        if word.starts_with('-') && !word.starts_with("--") && word.contains('n') && is_typed(program) {
            walk.doubt("a variable stands for another one");
        }
        let word = word.strip_prefix("-v").filter(|_| program == "printf").unwrap_or(word);
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.strip_suffix('+').unwrap_or(name), Some(value)),
            None => (word, None),
        };
        let name = name.split('[').next().unwrap_or(name);
        // `export PATH` alone changes nothing.
        let sets = value.is_some() || !matches!(program.as_str(), "export" | "readonly");
        if let Some(reason) = changes_what_runs(name, value).filter(|_| sets) {
            walk.doubt(reason);
        }
        if sets {
            walk.variables.insert(name.to_owned(), None);
        }
    }
}

/// Whether its `-n` makes a name stand for another one.
fn is_typed(program: &str) -> bool {
    matches!(program, "declare" | "typeset" | "local")
}

/// Variables that name programs, files that are run or read as settings, or libraries.
const CHANGING: [&str; 54] = [
    "BASH_ENV",
    "PSQLRC",
    "PSQL_EDITOR",
    "ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "IFS",
    "CDPATH",
    "PERL5OPT",
    "PERL5LIB",
    "PYTHONSTARTUP",
    "PYTHONPATH",
    "PYTHONHOME",
    "RUBYOPT",
    "RUBYLIB",
    "NODE_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "GCONV_PATH",
    "TERMINFO",
    "LESSOPEN",
    "LESSCLOSE",
    "RSYNC_RSH",
    "SSH_ASKPASS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GIT_EXEC_PATH",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_COUNT",
    "KUBECTL_EXTERNAL_DIFF",
    "KUBE_EDITOR",
    "HELM_PLUGINS",
    "DOCKER_CONFIG",
    "RIPGREP_CONFIG_PATH",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "OPENSSL_ENGINES",
    "MAKEFLAGS",
    "MAKEFILES",
    "XDG_CONFIG_HOME",
    "HOME",
    "GIT_DIR",
    "LESS",
    "LESSKEYIN",
    "LESSKEY",
    "ZDOTDIR",
    "INPUTRC",
    "TAR_OPTIONS",
];

/// Variables that name a program that shows or edits text.
const PROGRAMS: [&str; 11] = [
    "PAGER",
    "GIT_PAGER",
    "MANPAGER",
    "SYSTEMD_PAGER",
    "PSQL_PAGER",
    "EDITOR",
    "VISUAL",
    "GIT_EDITOR",
    "GIT_SEQUENCE_EDITOR",
    "BAT_PAGER",
    "BROWSER",
];

/// Why a variable changes which program runs, or what it runs; `None` for one that does not.
pub(super) fn changes_what_runs(name: &str, value: Option<&str>) -> Option<&'static str> {
    const REASON: &str = "a variable changes what is run";
    let quiet =
        || value.is_some_and(|value| value.is_empty() || ["cat", "less", "more", "true"].contains(&value));
    let standard =
        |value: &str| value.split(':').all(|part| PROGRAM_FOLDERS.contains(&part) || part == "/snap/bin");
    let changes = match name {
        "PATH" => !value.is_some_and(standard),
        _ if PROGRAMS.contains(&name) => !quiet(),
        _ => CHANGING.contains(&name) || name.starts_with("LD_") || name.starts_with("BASH_FUNC_"),
    };
    changes.then_some(REASON)
}
