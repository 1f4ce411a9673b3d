//! Small files the daemon keeps or publishes, and what it reads of the host's.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cli::BoxError;
use crate::mask::HashKey;

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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{hash_key, new_file};

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
}
