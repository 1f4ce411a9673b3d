//! Programs that fetch, send, and rule the network.

use super::options::Options;
use super::scripts::{DYNAMIC, all, opaque};
use super::walk::Walk;
use crate::request::Effect;
use crate::request::ssh::{Access, PathUse};

/// Options of curl (curl(1)) that are told apart; all others are not known. Some write a file, or load their own options.
const CURL: Options<'_> = Options::new(
    "#0146afgGhiIjJkLlMnNOpqRsSvVZB",
    "AbcCdDeEFHKmoQrtTuUwxXyYz",
    &[
        "--anyauth",
        "--basic",
        "--compressed",
        "--digest",
        "--disable",
        "--fail",
        "--fail-early",
        "--fail-with-body",
        "--get",
        "--globoff",
        "--head",
        "--help",
        "--http1.1",
        "--http2",
        "--include",
        "--insecure",
        "--ipv4",
        "--ipv6",
        "--location",
        "--negotiate",
        "--no-buffer",
        "--no-progress-meter",
        "--path-as-is",
        "--progress-bar",
        "--retry-all-errors",
        "--retry-connrefused",
        "--show-error",
        "--silent",
        "--verbose",
        "--version",
        "--remote-name",
        "--remote-header-name",
        "--remote-name-all",
        "--create-dirs",
    ],
    &[
        "--header",
        "--user",
        "--user-agent",
        "--max-time",
        "--connect-timeout",
        "--referer",
        "--cookie",
        "--proxy",
        "--cacert",
        "--cert",
        "--key",
        "--retry",
        "--retry-delay",
        "--resolve",
        "--unix-socket",
        "--connect-to",
        "--max-filesize",
        "--cert-type",
        "--key-type",
        "--tls-max",
        "--noproxy",
        "--interface",
        "--local-port",
        "--capath",
        "--ciphers",
        "--retry-max-time",
        "--limit-rate",
        "--oauth2-bearer",
        "--range",
        "--max-redirs",
        "--url",
        "--speed-limit",
        "--speed-time",
        "--aws-sigv4",
        "--proxy-user",
        "--request",
        "--data",
        "--data-raw",
        "--data-binary",
        "--data-urlencode",
        "--data-ascii",
        "--json",
        "--form",
        "--form-string",
        "--upload-file",
        "--quote",
        "--output",
        "--output-dir",
        "--cookie-jar",
        "--dump-header",
        "--trace",
        "--trace-ascii",
        "--stderr",
        "--write-out",
        "--config",
    ],
);

/// Options that send.
const SENDING: [&str; 13] = [
    "-d",
    "-F",
    "-Q",
    "-T",
    "--data",
    "--data-ascii",
    "--data-binary",
    "--data-raw",
    "--data-urlencode",
    "--form",
    "--form-string",
    "--json",
    "--upload-file",
];

/// Options whose value is a file that is written.
const WRITING: [&str; 9] =
    ["-c", "-D", "-o", "--cookie-jar", "--dump-header", "--output", "--stderr", "--trace", "--trace-ascii"];

/// Options that write a file with a name of its own.
const NAMING: [&str; 6] =
    ["-J", "-O", "--output-dir", "--remote-header-name", "--remote-name", "--remote-name-all"];

/// What curl may fetch from.
const SCHEMES: [&str; 5] = ["http://", "https://", "ftp://", "ftps://", "file://"];

/// `curl`.
pub(super) fn curl(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(words) = all(arguments) else {
        // An option as well as an address.
        return opaque(walk, "curl", DYNAMIC, argv);
    };
    let Some(parsed) = CURL.parse(&words) else {
        return opaque(walk, "curl", "an option of it is not known", argv);
    };
    let sinks = ["/dev/null", "-", "/dev/stdout", "/dev/stderr"];
    let paths: Vec<PathUse> = parsed
        .values(&WRITING)
        .filter(|path| !sinks.contains(path))
        .map(|path| PathUse { path: path.to_owned(), access: Access::Write })
        .collect();
    let asks = |method: &str| ["GET", "HEAD", "OPTIONS"].contains(&method);
    let sends =
        parsed.has(&SENDING) || parsed.has(&["--quote"]) || !parsed.values(&["-X", "--request"]).all(asks);
    let mut addresses = parsed.operands.iter().map(String::as_str).chain(parsed.values(&["--url"]));
    let foreign = addresses
        .any(|address| address.contains("://") && !SCHEMES.iter().any(|known| address.starts_with(known)));
    // `%output{FILE}`, and formats in a file.
    let formats = parsed
        .values(&["-w", "--write-out"])
        .any(|format| format.starts_with('@') || format.contains("%output"));
    let doubt = if parsed.has(&["-K", "--config"]) {
        Some("its options stand in a file nobody looked into")
    } else if foreign {
        Some("speaks another protocol than HTTP")
    } else if formats {
        Some("its format may write a file")
    } else if sends && parsed.has(&["--unix-socket"]) {
        Some("sends to a socket of the host")
    } else {
        None
    };
    let effect = match (doubt, sends || !paths.is_empty() || parsed.has(&NAMING)) {
        (Some(_), _) => Effect::Unknown,
        (None, true) => Effect::Write,
        (None, false) => Effect::Read,
    };
    walk.note("curl", effect, doubt, argv);
    walk.touches(paths);
}

/// Options of wget that send, write and run nothing but what `-O` says.
const WGET: Options<'_> = Options::new(
    "qvSdcN46",
    "OoTtUPaw",
    &[
        "--quiet",
        "--server-response",
        "--spider",
        "--no-check-certificate",
        "--no-verbose",
        "--no-proxy",
        "--no-cache",
        "--https-only",
        "--version",
        "--content-on-error",
    ],
    &[
        "--output-document",
        "--output-file",
        "--append-output",
        "--directory-prefix",
        "--timeout",
        "--connect-timeout",
        "--read-timeout",
        "--tries",
        "--wait",
        "--header",
        "--user-agent",
        "--user",
        "--password",
        "--max-redirect",
        "--ca-certificate",
    ],
);

/// `wget`.
pub(super) fn wget(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(words) = all(arguments) else { return walk.note("wget", Effect::Unknown, Some(DYNAMIC), argv) };
    // `-nv` is one option of two letters.
    let words: Vec<&str> = words.into_iter().map(|word| if word == "-nv" { "-q" } else { word }).collect();
    let Some(parsed) = WGET.parse(&words) else {
        // Others send, or write elsewhere; these run something.
        let runs = words.iter().any(|word| {
            ["--use", "-e", "--exec", "--conf", "-i", "--input", "--rc"]
                .iter()
                .any(|option| word.starts_with(option))
        });
        return walk.note("wget", if runs { Effect::Unknown } else { Effect::Write }, None, argv);
    };
    let files = parsed.values(&["-O", "-o", "-a", "--output-document", "--output-file", "--append-output"]);
    let folders = parsed.values(&["-P", "--directory-prefix"]);
    let sinks = ["-", "/dev/null", "/dev/stdout", "/dev/stderr"];
    let paths: Vec<PathUse> = files
        .filter(|path| !sinks.contains(path))
        .chain(folders)
        .map(|path| PathUse { path: path.to_owned(), access: Access::Write })
        .collect();
    let to_stdout = parsed.values(&["-O", "--output-document"]).last().is_some_and(|to| sinks.contains(&to))
        || parsed.has(&["--spider", "--version"]);
    walk.note("wget", if to_stdout && paths.is_empty() { Effect::Read } else { Effect::Write }, None, argv);
    walk.touches(paths);
}

/// `ip` and `bridge`.
pub(super) fn ip(walk: &mut Walk, program: &str, arguments: &[Option<String>], argv: &[Option<String>]) {
    // Not `s`: for links it is the beginning of `set`.
    const LOOKING: [&str; 7] = ["show", "list", "ls", "sh", "get", "help", "monitor"];
    let Some(words) = all(arguments) else { return opaque(walk, program, DYNAMIC, argv) };
    let batch = |word: &&str| word.len() > 1 && ("-batch".starts_with(*word) || "-force".starts_with(*word));
    if words.iter().any(batch) {
        return opaque(walk, program, "runs a file nobody looked into", argv);
    }
    let operands: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with('-')).collect();
    let reads = match operands.as_slice() {
        [] | [_] => true,
        [object, verb, ..]
            if ["netns", "vrf"].iter().any(|known| known.starts_with(object)) && "exec".starts_with(verb) =>
        {
            return opaque(walk, program, "runs a command in another namespace", argv);
        }
        [_, verb, ..] => LOOKING.contains(verb),
    };
    let effect = if reads { Effect::Read } else { Effect::Admin };
    walk.note(if reads { program } else { "network" }, effect, None, argv);
}
