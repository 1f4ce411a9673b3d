//! Small files the daemon keeps or publishes, and what it reads of the host's.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cli::BoxError;
use crate::mask::HashKey;

/// Port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// Name servers taken from `/etc/resolv.conf`, as many as glibc takes (`MAXNS`).
const RESOLVERS_MAX: usize = 3;

/// Where the CA lives, made when it is missing.
pub(super) fn ca_folder(state: &Path) -> io::Result<PathBuf> {
    let folder = state.join("ca");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

/// A file made anew, in place of what an interrupted start left. Nothing is followed: whoever may write into the folder
/// must not choose what is overwritten.
pub(super) fn new_file(path: &Path, mode: u32) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// The key of the `hash` mask, made at the first start. Losing it means only that digests change.
pub(super) fn hash_key(state: &Path) -> Result<HashKey, BoxError> {
    let path = state.join("hash.key");
    let mut key = Zeroizing::new([0; 32]);
    match fs::File::open(&path) {
        Ok(mut file) => file.read_exact(&mut *key).map_err(|error| {
            format!(
                "{} is damaged ({error}); delete it to get a new one: digests will change",
                path.display()
            )
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            getrandom::fill(&mut *key)?;
            // Whole or not at all: half a key would keep the daemon from starting.
            let temporary = state.join("hash.key.new");
            let mut file = new_file(&temporary, 0o600)?;
            file.write_all(&*key)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
        }
        Err(error) => return Err(format!("cannot read {}: {error}", path.display()).into()),
    }
    Ok(HashKey::new(key))
}

/// The host's name servers: the only places agents may send UDP to.
pub(super) fn resolvers() -> Vec<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    parse_resolvers(&text)
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .take(RESOLVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{hash_key, new_file, parse_resolvers};

    #[test]
    fn a_new_file_is_never_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, victim) = (folder.path().join("link"), folder.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        drop(new_file(&link, 0o644).unwrap());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn the_hash_key_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        drop(hash_key(folder.path()).unwrap());
        let first = fs::read(folder.path().join("hash.key")).unwrap();
        drop(hash_key(folder.path()).unwrap());
        assert_eq!(fs::read(folder.path().join("hash.key")).unwrap(), first);
        assert_eq!(first.len(), 32);
        fs::write(folder.path().join("hash.key"), "short").unwrap();
        assert!(hash_key(folder.path()).is_err());
    }

    #[test]
    fn name_servers_are_read_as_glibc_reads_them() {
        let text =
            "# x\nsearch a b\nnameserver 127.0.0.53\nnameserver ::1 # local\nnameserver bad\noptions x\n";
        let found: Vec<String> = parse_resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53"]);
        assert_eq!(parse_resolvers(&"nameserver 127.0.0.1\n".repeat(9)).len(), 3);
    }
}
