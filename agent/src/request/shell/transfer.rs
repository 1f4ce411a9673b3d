//! Lines that are the server's side of a transfer protocol: what scp, rsync and git ask a server to run.

use super::{Command, CommandLine, Transfer};
use crate::request::Effect;

/// What the whole line is, if it is one plain command of these and nothing else.
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
    let operands: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    match operands.as_slice() {
        [only] => Some((**only).to_owned()),
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

/// `rsync --server [--sender] OPTIONS . PATH…`.
fn rsync(words: &[&str]) -> Option<Transfer> {
    if words.first() != Some(&"--server") {
        return None;
    }
    let dot = words.iter().position(|word| *word == ".")?;
    let paths: Vec<String> = words.get(dot + 1..)?.iter().map(|path| (*path).to_owned()).collect();
    (!paths.is_empty()).then(|| Transfer::Rsync { sender: words.contains(&"--sender"), paths })
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
