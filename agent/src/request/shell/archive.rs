//! Archives: what tar packs, and where it unpacks.

use super::options::Options;
use super::scripts::{DYNAMIC, all, opaque};
use super::walk::Walk;
use crate::request::Effect;
use crate::request::ssh::{Access, PathUse};

/// Options of tar that run nothing (GNU tar's manual); all others are not known. A line of `--files-from` may be an option.
const TAR: Options<'_> = Options::new(
    "AcdrtuxjJzZpvwkmOPSWhlsUno",
    "fCXbKNVL",
    &[
        "--append",
        "--bzip2",
        "--create",
        "--delete",
        "--dereference",
        "--diff",
        "--exclude-vcs",
        "--extract",
        "--get",
        "--gzip",
        "--keep-newer-files",
        "--keep-old-files",
        "--list",
        "--no-same-owner",
        "--no-same-permissions",
        "--numeric-owner",
        "--one-file-system",
        "--overwrite",
        "--preserve-permissions",
        "--remove-files",
        "--same-owner",
        "--skip-old-files",
        "--sparse",
        "--to-stdout",
        "--totals",
        "--update",
        "--verbose",
        "--version",
        "--wildcards",
        "--xz",
        "--zstd",
    ],
    &["--directory", "--exclude", "--exclude-from", "--file", "--group", "--mode", "--owner"],
);

/// What goes into an archive, from each folder that `-C` names.
fn packed(folders: &[&str], operand: &str) -> Vec<PathUse> {
    let read = |path: String| PathUse { path, access: Access::Read };
    if folders.is_empty() || operand.starts_with(['/', '~']) {
        return vec![read(operand.to_owned())];
    }
    folders.iter().map(|folder| read(format!("{folder}/{operand}"))).collect()
}

/// `tar`.
pub(super) fn tar(walk: &mut Walk, arguments: &[Option<String>], argv: &[Option<String>]) {
    let Some(mut words) = all(arguments) else {
        return walk.note("tar", Effect::Unknown, Some(DYNAMIC), argv);
    };
    // `tar xzf x`: letters without a minus, whose values follow in their order; only `f` takes one here.
    let bundle;
    if let Some(first) = words.first_mut().filter(|first| !first.starts_with('-')) {
        let valued = first.chars().filter(|letter| "fCXbKNVL".contains(*letter)).count();
        let letters: String = first.chars().filter(|letter| *letter != 'f').collect();
        if valued > 1 || (valued == 1 && !first.contains('f')) {
            return opaque(walk, "tar", "its options are not understood", argv);
        }
        bundle = format!("-{letters}{}", if valued == 1 { "f" } else { "" });
        *first = &bundle;
    }
    let globbed = words.iter().any(|word| word.starts_with(['*', '?']));
    let Some(parsed) = TAR.parse(&words).filter(|_| !globbed) else {
        return opaque(walk, "tar", "an option of tar is not known", argv);
    };
    // `host:file` is fetched over another program.
    if parsed.values(&["-f", "--file"]).any(|file| file.contains(':')) {
        return opaque(walk, "tar", "its archive is on another host", argv);
    }
    let has = |names: &[&str]| parsed.has(names);
    let archives: Vec<&str> = parsed.values(&["-f", "--file"]).collect();
    let folders = parsed.values(&["-C", "--directory"]);
    let write = |path: &str| PathUse { path: path.to_owned(), access: Access::Write };
    let (effect, paths): (Effect, Vec<PathUse>) = if has(&["--delete", "--remove-files"]) {
        (Effect::Ddl, archives.iter().copied().map(write).collect())
    } else if has(&["-x", "--extract", "--get"]) {
        match has(&["-O", "--to-stdout"]) {
            true => (Effect::Read, Vec::new()),
            // Names in the archive may begin at the root.
            false if has(&["-P"]) => (Effect::Admin, Vec::new()),
            false => (Effect::Write, folders.map(write).chain(std::iter::once(write("."))).collect()),
        }
    } else if has(&["-c", "--create", "-r", "--append", "-u", "--update", "-A"]) {
        let files: Vec<PathUse> = archives.iter().copied().filter(|file| *file != "-").map(write).collect();
        let effect = if files.is_empty() && !archives.is_empty() { Effect::Read } else { Effect::Write };
        let folders: Vec<&str> = folders.collect();
        let packed = parsed.operands.iter().flat_map(|operand| packed(&folders, operand));
        (effect, files.into_iter().chain(packed).collect())
    } else if has(&["-t", "--list", "-d", "--diff", "--version"]) {
        (Effect::Read, Vec::new())
    } else {
        (Effect::Write, Vec::new())
    };
    walk.note("tar", effect, None, argv);
    walk.touches(paths);
}
