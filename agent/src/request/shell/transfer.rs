//! Lines that are the server's side of a transfer protocol: what scp, rsync and git ask a server to run.

use super::{Command, CommandLine, Transfer};
use crate::request::Effect;

/// What the whole line is, if it is one command of these and nothing else: the caller knows that the line is plain.
pub(super) fn of(line: &CommandLine) -> Option<Transfer> {
    let [command] = line.commands.as_slice() else { return None };
    let alone = line.opaque.is_none() && command.through.is_empty();
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

/// The only word; clients send no options.
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
            Some(_) | None => {
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

/// Long options that rsync's clients send to a server (`server_options` of rsync 3.2's options.c) and that name no file to write
/// beside what is transferred, run nothing and remove nothing at the source; `=` ends those with a value.
const RSYNC_OPTIONS: [&str; 51] = [
    "--server",
    "--sender",
    "--delete",
    "--delete-before",
    "--delete-during",
    "--delete-delay",
    "--delete-after",
    "--delete-excluded",
    "--delete-missing-args",
    "--force",
    "--ignore-errors",
    "--max-delete=",
    "--partial",
    "--delay-updates",
    "--inplace",
    "--append",
    "--existing",
    "--ignore-existing",
    "--ignore-missing-args",
    "--size-only",
    "--ignore-times",
    "--modify-window=",
    "--bwlimit=",
    "--block-size=",
    "--checksum-choice=",
    "--checksum-seed=",
    "--compress-choice=",
    "--compress-level=",
    "--new-compress",
    "--old-compress",
    "--timeout=",
    "--stop-at=",
    "--max-size=",
    "--min-size=",
    "--max-alloc=",
    "--numeric-ids",
    "--usermap=",
    "--groupmap=",
    "--chmod=",
    "--fsync",
    "--safe-links",
    "--munge-links",
    "--no-implied-dirs",
    "--no-relative",
    "--no-r",
    "--omit-dir-times",
    "--omit-link-times",
    "--open-noatime",
    "--preallocate",
    "--iconv=",
    "--log-format=",
];

/// `rsync --server [--sender] OPTIONS . PATH…`.
fn rsync(words: &[&str]) -> Option<Transfer> {
    let (&"--server", rest) = words.split_first()? else { return None };
    let dot = rest.iter().position(|word| *word == ".")?;
    let (options, paths) = rest.split_at_checked(dot)?;
    if !options.iter().all(|word| is_rsync_option(word)) {
        return None;
    }
    let paths: Vec<String> = paths.iter().skip(1).map(|path| (*path).to_owned()).collect();
    let sender = options.contains(&"--sender");
    (!paths.is_empty() && !paths.iter().any(|path| path.starts_with('-')))
        .then_some(Transfer::Rsync { sender, paths })
}

/// A bundle of letters, with what the client can do after a dot (`-vlogDtpre.iLsfxCIvu`), or a long option that is known.
fn is_rsync_option(word: &str) -> bool {
    if word.starts_with("--") {
        return RSYNC_OPTIONS
            .iter()
            .any(|known| if known.ends_with('=') { word.starts_with(known) } else { word == *known });
    }
    let Some(letters) = word.strip_prefix('-') else { return false };
    let (switches, able) = letters.split_once("e.").unwrap_or((letters, ""));
    // `T` and `B`, `M`, `f`, `e` with a command have values, which name files or programs.
    let plain = |letter: char| "vqnLklogDtOJKAXUNpECHSRuxzcIrdWyijb".contains(letter);
    !letters.is_empty()
        && switches.chars().all(plain)
        && able.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
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
            // What is asked of it later is judged by itself.
            Self::SftpServer => ("sftp", Effect::Read),
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
