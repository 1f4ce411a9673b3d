//! The host key that agents see: one plain ed25519 key per installation.
//!
//! No certificates: measured, an `@cert-authority` line makes paramiko refuse a whole known_hosts file, while every client
//! takes plain lines.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::rand_core::UnwrapErr;
use russh::keys::{Algorithm, PrivateKey};

/// Name of the key's file in the state folder.
pub const FILE: &str = "ssh_host_ed25519_key";

/// Largest key file read, in bytes.
const KEY_BYTES_MAX: u64 = 16 * 1024;

/// Why there is no key. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("the SSH host key {path}: {problem}", path = path.display())]
pub struct ProxyKeyError {
    path: PathBuf,
    problem: String,
}

/// Reads the key of this installation, or makes it.
///
/// # Errors
/// The file cannot be read or written, is no key, or can be read by others.
pub fn load_or_create(folder: &Path) -> Result<PrivateKey, ProxyKeyError> {
    let path = folder.join(FILE);
    let problem = |problem: String| ProxyKeyError { path: path.clone(), problem };
    match read(&path) {
        Ok(key) => return Ok(key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(problem(error.to_string())),
    }
    let mut key = PrivateKey::random(&mut UnwrapErr(getrandom::SysRng), Algorithm::Ed25519)
        .map_err(|error| problem(error.to_string()))?;
    key.set_comment("portcullis");
    let text = key.to_openssh(LineEnding::LF).map_err(|error| problem(error.to_string()))?;
    // Under another name first: a key that is half written must not be there after a power failure.
    let new = folder.join(format!("{FILE}.new"));
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| problem(format!("cannot be written: {error}")))?;
    Ok(key)
}

fn read(path: &Path) -> io::Result<PrivateKey> {
    let file = fs::metadata(path)?;
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    if file.mode() & 0o077 != 0 {
        return Err(invalid("others may read it: chmod 600 it, or remove it to have a new one made"));
    }
    if file.len() > KEY_BYTES_MAX {
        return Err(invalid("it is too long to be a key"));
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(path)?);
    let key = PrivateKey::from_openssh(text.as_str())
        .map_err(|_| invalid("it is no OpenSSH private key; remove it to have a new one made"))?;
    if key.is_encrypted() {
        return Err(invalid("it has a passphrase; remove it to have a new one made"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let made = load_or_create(folder.path()).unwrap();
        let again = load_or_create(folder.path()).unwrap();
        assert_eq!(made.public_key().key_data(), again.public_key().key_data());
        let file = folder.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "something else").unwrap();
        assert!(load_or_create(folder.path()).is_err());
    }
}
