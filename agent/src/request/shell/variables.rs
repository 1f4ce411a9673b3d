//! Variables of the shell and of programs: which of them change what runs, and what builtins do to them.

use super::run::PROGRAM_FOLDERS;
use super::walk::Walk;

/// Builtins that give values or properties to variables they name.
const DECLARING: [&str; 12] = [
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
    "let",
];

/// Variables that the shell itself sets: what the line gave them does not stay.
const SHELLS_OWN: [&str; 16] = [
    "_",
    "DIRSTACK",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "FUNCNAME",
    "HISTCMD",
    "LINENO",
    "MAPFILE",
    "OLDPWD",
    "OPTARG",
    "OPTIND",
    "PIPESTATUS",
    "PWD",
    "RANDOM",
    "REPLY",
    "SECONDS",
];

/// Whether a variable keeps what the line assigns to it.
pub(super) fn keeps(name: &str) -> bool {
    !SHELLS_OWN.contains(&name) && !name.starts_with("BASH") && !name.starts_with("COMP_")
}

/// What a builtin does to the variables it names: they are not known any more. The reason, when one of them changes what runs,
/// or when their names cannot be told.
pub(super) fn changed(
    walk: &mut Walk,
    program: &str,
    arguments: &[Option<String>],
    only_values: bool,
) -> Option<&'static str> {
    const UNTOLD: &str = "which variable it changes is known to the running shell alone";
    if !DECLARING.contains(&program) {
        return None;
    }
    // `printf` changes one only by an option, which has to come first.
    if program == "printf" {
        match arguments.first() {
            Some(None) => return Some(UNTOLD),
            Some(Some(first)) if first.starts_with("-v") => {}
            Some(Some(_)) | None => return None,
        }
    }
    if arguments.iter().any(Option::is_none) && !only_values {
        // Values of `printf -v NAME FORMAT …` are not names.
        let names = if program == "printf" { 2 } else { arguments.len() };
        if arguments.iter().take(names).any(Option::is_none) {
            return Some(UNTOLD);
        }
    }
    walk.evaluates |= program == "let";
    let declares = matches!(program, "declare" | "typeset" | "local" | "export" | "readonly");
    let mut reason = None;
    for word in arguments.iter().flatten() {
        // References to other variables, and values that are evaluated or rewritten, are not followed.
        let strange = |letters: &str| !letters.chars().all(|letter| "xrpagfFAI".contains(letter));
        if declares && word.strip_prefix(['-', '+']).is_some_and(strange) && word != "--" {
            reason = reason.or(Some("a variable gets a meaning of its own"));
        }
        let word = word.strip_prefix("-v").or_else(|| word.strip_prefix("-a")).unwrap_or(word);
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => {
                (name.trim_end_matches(['+', '-', '*', '/', '%', '&', '^', '|']), Some(value))
            }
            None => (word, None),
        };
        let name = name.split('[').next().unwrap_or_default();
        reason = reason.or(changes_what_runs(name, value));
        walk.unknown_variable(name);
    }
    reason
}

/// Variables that change which program runs, what it loads, or whose configuration it reads.
const CHANGING: [&str; 144] = [
    "APT_CONFIG",
    "AWKLIBPATH",
    "AWKPATH",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "BASHOPTS",
    "BASH_COMPAT",
    "BASH_ENV",
    "BASH_XTRACEFD",
    "BUNDLE_GEMFILE",
    "CDPATH",
    "CLASSPATH",
    "COMPILER_PATH",
    "COMPOSE_FILE",
    "CONTAINER_HOST",
    "CURL_HOME",
    "CVS_RSH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DPKG_ROOT",
    "ENV",
    "EXECIGNORE",
    "FPATH",
    "GCC_EXEC_PREFIX",
    "GCONV_PATH",
    "GEM_HOME",
    "GEM_PATH",
    "GIT_ASKPASS",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_SYSTEM",
    "GIT_DIR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "GIT_WORK_TREE",
    "GLOBIGNORE",
    "GOENV",
    "GOFLAGS",
    "GOPATH",
    "GOROOT",
    "GOTOOLCHAIN",
    "HG",
    "HGEDITOR",
    "HGRCPATH",
    "HISTFILE",
    "HOME",
    "HOSTALIASES",
    "IFS",
    "INPUTRC",
    "JAVA_HOME",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "KUBECONFIG_EXEC",
    "KUBECTL_EXTERNAL_DIFF",
    "KUBE_EDITOR",
    "LESSCLOSE",
    "LESSKEY",
    "LESSKEYIN",
    "LESSKEY_CONTENT",
    "LESSOPEN",
    "LOCPATH",
    "LUA_CPATH",
    "LUA_INIT",
    "LUA_PATH",
    "MAILCAPS",
    "MAKEFILES",
    "MAKEFLAGS",
    "MALLOC_TRACE",
    "MANOPT",
    "MANPATH",
    "MYSQL_HISTFILE",
    "MYSQL_HOME",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PGOPTIONS",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT",
    "PROMPT_COMMAND",
    "PS0",
    "PS1",
    "PS2",
    "PS4",
    "PSQLRC",
    "PSQL_EDITOR",
    "PSQL_HISTORY",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "RES_OPTIONS",
    "RPM_CONFIGDIR",
    "RSYNC_CONNECT_PROG",
    "RSYNC_PROXY",
    "RSYNC_RSH",
    "RUBYLIB",
    "RUBYOPT",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "SHELL",
    "SHELLOPTS",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
    "SSLKEYLOGFILE",
    "SUDO_ASKPASS",
    "SUDO_EDITOR",
    "SVN_EDITOR",
    "SVN_SSH",
    "SYSTEM_WGETRC",
    "TAR_OPTIONS",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERMPATH",
    "TZDIR",
    "WGETRC",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Beginnings of names of such variables.
const CHANGING_PREFIXES: [&str; 14] = [
    "LD_",
    "DYLD_",
    "GIT_CONFIG_KEY_",
    "GIT_CONFIG_VALUE_",
    "GIT_TRACE",
    "npm_config_",
    "NPM_CONFIG_",
    "PIP_",
    "CARGO_",
    "TF_",
    "HELM_",
    "ANSIBLE_",
    "GLIBC_",
    "BASH_FUNC_",
];

/// Why a variable changes which program runs, or what it runs; `None` for one that does not.
pub(super) fn changes_what_runs(name: &str, value: Option<&str>) -> Option<&'static str> {
    const REASON: &str = "a variable changes what is run";
    let quiet =
        value.is_some_and(|value| value.is_empty() || ["cat", "less", "more", "true"].contains(&value));
    match name {
        "PATH" => {
            let standard = value.is_some_and(|value| {
                value.split(':').all(|part| PROGRAM_FOLDERS.contains(&part) || part == "/snap/bin")
            });
            (!standard).then_some(REASON)
        }
        _ if CHANGING.contains(&name) => Some(REASON),
        // Nobody but the administrator writes there.
        "KUBECONFIG" => {
            let system = value.is_some_and(|value| value.starts_with("/etc/") && !value.contains(['.', ':']));
            let known =
                value.is_some_and(|value| value == "/etc/kubernetes/admin.conf" || value == "~/.kube/config");
            (!system && !known).then_some(REASON)
        }
        "LESS" => {
            let plain = value.is_some_and(|value| value.chars().all(|letter| "-FRXSiIMeEq".contains(letter)));
            (!plain).then_some(REASON)
        }
        "PAGER"
        | "AWS_PAGER"
        | "BAT_PAGER"
        | "DELTA_PAGER"
        | "GIT_PAGER"
        | "MANPAGER"
        | "SYSTEMD_PAGER"
        | "PSQL_PAGER"
        | "EDITOR"
        | "VISUAL"
        | "GIT_EDITOR"
        | "GIT_SEQUENCE_EDITOR"
        | "BROWSER" => (!quiet).then_some(REASON),
        _ if CHANGING_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => Some(REASON),
        _ => None,
    }
}

/// Whether a builtin evaluates its words once more, with a substitution in one of them: `let 'x[$(rm -rf /)]'`.
pub(super) fn evaluated(program: &str, arguments: &[Option<String>]) -> bool {
    const EVALUATING: [&str; 14] = [
        "let",
        "test",
        "[",
        "printf",
        "read",
        "unset",
        "declare",
        "typeset",
        "local",
        "export",
        "readonly",
        "getopts",
        "mapfile",
        "readarray",
    ];
    EVALUATING.contains(&program)
        && arguments
            .iter()
            .flatten()
            .any(|word| word.contains("$(") || word.contains('`') || word.contains("<("))
}
