//! What `portcullis run` writes into its caller's `known_hosts`: the hosts that the policy's SSH connections lead to, with the one key
//! that clients see.
//!
//! Plain lines only, at the beginning of the file, each host by its own name and `*` last: paramiko refuses a file with a marker
//! line, knows no `*`, and takes the type of key of the first line that fits (paramiko 5.1, OpenSSH 9.2, asyncssh 2.24).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// First and last line of what is ours; the rest of the file is the user's.
const BEGIN: &str =
    "# Written by `portcullis run`: these hosts are reached through Portcullis, which checks their own keys.";
const END: &str = "# End of what `portcullis run` wrote.";

/// Hosts of ours in one file, at most; they are kept over runs of different policies.
const HOSTS_MAX: usize = 1000;

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Writes `hosts` into the file below `home`. `key` is the published line (`* ssh-ed25519 AAAA…`).
///
/// # Errors
/// The file cannot be read or written, or is no text.
pub(super) fn write(home: &Path, hosts: &[String], key: &str) -> io::Result<()> {
    let folder = home.join(".ssh");
    let path = folder.join("known_hosts");
    // A link to a file elsewhere stays one.
    let path = path.canonicalize().unwrap_or(path);
    let before = match fs::metadata(&path) {
        Ok(found) if found.len() > FILE_BYTES_MAX => return Err(io::Error::other("it is too long")),
        Ok(_) => fs::read_to_string(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let Some(after) = with_hosts(&before, hosts, key) else { return Ok(()) };
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mode = fs::metadata(&path).map_or(0o600, |found| found.permissions().mode() & 0o777);
    replace(&path, &after, mode)
}

/// Whole or not at all, also when two runs begin in the same moment.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary: PathBuf = path.with_file_name(format!(".known_hosts.portcullis.{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is not there needs no removing.
        drop(fs::remove_file(&temporary));
    }
    written
}

/// The file's text with `hosts` in it; `None` when it has them already.
fn with_hosts(before: &str, hosts: &[String], key: &str) -> Option<String> {
    let (_, key) = key.trim().split_once(' ')?;
    let (mut own, rest) = apart(before);
    // Of another installation, or from before its key was made anew.
    own.retain(|line| line.strip_suffix(key).is_some_and(|host| host.ends_with(' ') && host != "* "));
    for host in hosts {
        let line = format!("{host} {key}");
        if !own.contains(&line) {
            own.push(line);
        }
    }
    let surplus = own.len().saturating_sub(HOSTS_MAX);
    own.drain(..surplus);
    own.push(format!("* {key}"));
    let after = format!("{BEGIN}\n{}\n{END}\n{rest}", own.join("\n"));
    (after != before).then_some(after)
}

/// Our lines, and what is the user's.
fn apart(text: &str) -> (Vec<String>, String) {
    let (mut own, mut rest, mut inside) = (Vec::new(), String::new(), false);
    // Without its last line, ours could swallow what is the user's.
    let whole = text.lines().any(|line| line == END);
    for line in text.split_inclusive('\n') {
        match line.trim_end_matches('\n') {
            BEGIN if whole => inside = true,
            END => inside = false,
            own_line if inside => own.push(own_line.to_owned()),
            _ => rest.push_str(line),
        }
    }
    (own, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "* ssh-ed25519 AAAA\n";

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn hosts_stand_first_each_by_its_name_and_the_users_lines_stay() {
        let users = "github.com ssh-ed25519 BBBB\n@cert-authority *.x ssh-rsa CCCC";
        let once = with_hosts(users, &hosts(&["web-1", "[web-1]:2222"]), KEY).unwrap();
        let expected = format!(
            "{BEGIN}\nweb-1 ssh-ed25519 AAAA\n[web-1]:2222 ssh-ed25519 AAAA\n* ssh-ed25519 AAAA\n{END}\n{users}"
        );
        assert_eq!(once, expected);
        assert_eq!(with_hosts(&once, &hosts(&["web-1"]), KEY), None, "nothing new is nothing to write");
        let twice = with_hosts(&once, &hosts(&["db-1"]), KEY).unwrap();
        assert!(
            twice
                .contains("web-1 ssh-ed25519 AAAA\n[web-1]:2222 ssh-ed25519 AAAA\ndb-1 ssh-ed25519 AAAA\n* ")
        );
        assert!(twice.ends_with(users));
        let renewed = with_hosts(&twice, &hosts(&["db-1"]), "* ssh-ed25519 DDDD").unwrap();
        assert!(!renewed.contains("AAAA") && renewed.contains("db-1 ssh-ed25519 DDDD\n* ssh-ed25519 DDDD\n"));
    }

    #[test]
    fn a_block_without_its_end_swallows_nothing() {
        let broken = format!("{BEGIN}\nweb-1 ssh-ed25519 AAAA\nusers.host ssh-ed25519 BBBB\n");
        assert!(with_hosts(&broken, &[], KEY).unwrap().contains("users.host ssh-ed25519 BBBB\n"));
    }

    #[test]
    fn the_file_is_made_private_and_keeps_its_mode() {
        let home = tempfile::tempdir().unwrap();
        write(home.path(), &hosts(&["web-1"]), KEY).unwrap();
        let mode = |name: &str| fs::metadata(home.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(".ssh"), mode(".ssh/known_hosts")), (0o700, 0o600));
        fs::set_permissions(home.path().join(".ssh/known_hosts"), fs::Permissions::from_mode(0o644)).unwrap();
        write(home.path(), &hosts(&["web-2"]), KEY).unwrap();
        assert_eq!(mode(".ssh/known_hosts"), 0o644);
        let names: Vec<_> = fs::read_dir(home.path().join(".ssh")).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert!(write(&home.path().join("nowhere"), &hosts(&["x"]), KEY).is_err());
    }
}
