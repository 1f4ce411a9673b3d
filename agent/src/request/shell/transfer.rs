//! Lines that are the server's side of a transfer protocol: what scp, rsync and git ask a server to run.

use super::{Command, CommandLine, Transfer};
use crate::request::Effect;

/// What the whole line is, if it is one command of these and nothing else. The caller knows that it has no assignment,
/// redirection or substitution.
pub(super) fn of(line: &CommandLine) -> Option<Transfer> {
    let [command] = line.commands.as_slice() else { return None };
    let alone = command.through.is_empty() && command.paths.iter().all(|path| !path.path.is_empty());
    let words: Option<Vec<&str>> = command.arguments.iter().map(Option::as_deref).collect();
    let (Some(words), true) = (words, alone) else { return None };
    match command.program.as_deref()? {
        "scp" => scp(&words),
        "rsync" => rsync(&words),
        "git-upload-pack" => one(&words).map(|repository| Transfer::GitUploadPack { repository }),
        "git-receive-pack" => one(&words).map(|repository| Transfer::GitReceivePack { repository }),
        "git-upload-archive" => one(&words).map(|repository| Transfer::GitUploadArchive { repository }),
        "git" => match words.split_first()? {
            (&"upload-pack", rest) => one(rest).map(|repository| Transfer::GitUploadPack { repository }),
            (&"receive-pack", rest) => one(rest).map(|repository| Transfer::GitReceivePack { repository }),
            _ => None,
        },
        "sftp-server" | "internal-sftp" => words.is_empty().then_some(Transfer::SftpServer),
        _ => None,
    }
}

/// The only operand.
fn one(words: &[&str]) -> Option<String> {
    match words {
        [only] if !only.starts_with('-') => Some((*only).to_owned()),
        _ => None,
    }
}

/// `scp [-v] [-r] [-p] [-d] -t|-f [--] PATH…` (OpenSSH's scp.c).
fn scp(words: &[&str]) -> Option<Transfer> {
    let (mut sink, mut source, mut recursive, mut folder) = (false, false, false, false);
    let mut paths = Vec::new();
    let mut options = true;
    for word in words {
        match word.strip_prefix('-') {
            Some("-") if options => options = false,
            Some(letters) if options && !letters.is_empty() => {
                for letter in letters.chars() {
                    match letter {
                        't' => sink = true,
                        'f' => source = true,
                        'r' => recursive = true,
                        'd' => folder = true,
                        'v' | 'p' | 'q' => {}
                        _ => return None,
                    }
                }
            }
            // A path with a minus in front is asked for as `./-x`; what is written so is an option to somebody.
            Some(_) => return None,
            None => {
                options = false;
                paths.push((*word).to_owned());
            }
        }
    }
    match (sink, source, paths.as_slice()) {
        (true, false, [path]) => Some(Transfer::ScpSink { path: path.clone(), recursive, folder }),
        (false, true, [_, ..]) => Some(Transfer::ScpSource { paths, recursive }),
        _ => None,
    }
}

/// Letters that rsync's client gives to its server (`server_options()` in rsync's options.c). Without `s`, after which the
/// server takes more options and the paths from its input.
const RSYNC_LETTERS: &str = "vqbunldKmOJyLkWHogDtUNpEAXrcCIRxSz";

/// Long options that it gives, those with a value as `--name=value`.
const RSYNC_OPTIONS: [&str; 52] = [
    "--sender",
    "--list-only",
    "--no-r",
    "--no-W",
    "--compress-level",
    "--no-specials",
    "--specials",
    "--log-format",
    "--msgs2stderr",
    "--no-msgs2stderr",
    "--timeout",
    "--bwlimit",
    "--suffix",
    "--checksum-choice",
    "--new-compress",
    "--old-compress",
    "--compress-choice",
    "--max-delete",
    "--min-size",
    "--max-size",
    "--delete-before",
    "--delete-delay",
    "--delete-during",
    "--delete-after",
    "--delete",
    "--delete-excluded",
    "--delete-missing-args",
    "--force",
    "--super",
    "--size-only",
    "--stats",
    "--skip-compress",
    "--max-alloc",
    "--ignore-missing-args",
    "--modify-window",
    "--checksum-seed",
    "--delay-updates",
    "--partial",
    "--ignore-errors",
    "--copy-unsafe-links",
    "--safe-links",
    "--numeric-ids",
    "--use-qsort",
    "--usermap",
    "--groupmap",
    "--ignore-existing",
    "--existing",
    "--fsync",
    "--append",
    "--inplace",
    "--no-relative",
    "--no-implied-dirs",
];

/// `rsync --server [--sender] OPTIONS . PATH…`, with options that its client really sends and that touch nothing but the paths.
fn rsync(words: &[&str]) -> Option<Transfer> {
    let (first, rest) = words.split_first()?;
    if *first != "--server" {
        return None;
    }
    let dot = rest.iter().position(|word| *word == ".")?;
    let (options, paths) = rest.split_at(dot);
    let mut sender = false;
    for option in options {
        let name = option.split('=').next().unwrap_or_default();
        sender |= *option == "--sender";
        let listed = RSYNC_OPTIONS.contains(&name)
            || ["--iconv", "--info", "--debug"].contains(&name)
            || matches!(*option, "--files-from=-" | "--from0");
        if !listed && !is_rsync_cluster(option) {
            return None;
        }
    }
    let paths: Vec<String> = paths.iter().skip(1).map(|path| (*path).to_owned()).collect();
    let plain = !paths.is_empty() && paths.iter().all(|path| !path.starts_with('-'));
    plain.then_some(Transfer::Rsync { sender, paths })
}

/// `-vlogDtprze.iLsfxCIvu`: flags, then `e` and what the client's version can; `-B1024`, `-@-1`.
fn is_rsync_cluster(word: &str) -> bool {
    let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else { return false };
    if let Some(number) = letters.strip_prefix(['B', '@']) {
        return number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    }
    let (flags, version) = letters.split_once('e').unwrap_or((letters, ""));
    flags.chars().all(|flag| RSYNC_LETTERS.contains(flag))
        && version.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '.')
}

impl Transfer {
    /// The command that it is, in words for the policy.
    pub(super) fn describe(&self, command: &mut Command) {
        let (kind, effect) = match self {
            Self::ScpSource { .. } => ("scp download", Effect::Read),
            Self::ScpSink { .. } => ("scp upload", Effect::Write),
            Self::Rsync { sender: true, .. } => ("rsync download", Effect::Read),
            Self::Rsync { sender: false, .. } => ("rsync upload", Effect::Write),
            Self::GitUploadPack { .. } => ("git fetch", Effect::Read),
            Self::GitUploadArchive { .. } => ("git archive", Effect::Read),
            Self::GitReceivePack { .. } => ("git push", Effect::Write),
            // What is asked of it later is not looked into.
            Self::SftpServer => ("sftp", Effect::Unknown),
        };
        // rsync can be told to delete what is not sent.
        let deletes = command.arguments.iter().flatten().any(|word| word.starts_with("--delete"));
        command.effect = if deletes { Effect::Ddl } else { effect };
        command.kind = if deletes { "rsync --delete".to_owned() } else { kind.to_owned() };
        command.reason = None;
        command.paths = self.paths();
        for path in self.paths().iter().filter(|path| path.access != crate::request::ssh::Access::Read) {
            if let Some(reason) = crate::request::ssh::paths::sensitive(&path.path) {
                command.effect = command.effect.max(Effect::Admin);
                command.reason = Some(reason.to_owned());
            }
        }
    }
}
