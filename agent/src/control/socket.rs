//! One daemon per state folder, one listener per socket path.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;

use crate::config::Config;
use crate::sys;

/// Why the daemon cannot have its place.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon holds the state folder.
    #[error("another portcullis (process {pid}) uses {}; stop it, or give this one its own folder (paths.state)",
            state.display())]
    Locked {
        /// The folder.
        state: PathBuf,
        /// What the other wrote into the lock.
        pid: String,
    },
    /// Another daemon answers on the socket.
    #[error("another portcullis answers at {}; stop it, or give this one its own socket (control.socket)", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{} exists and is not a socket; move it away", .0.display())]
    NotASocket(PathBuf),
    /// The configured group does not exist.
    #[error("there is no group `{0}`; create it (`groupadd --system {0}`) or change control.group")]
    NoSuchGroup(String),
    /// The file system said no.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn io_error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Io { step, path: path.to_owned(), source }
}

/// Holds the state folder until dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the state folder (0700) when it is missing, and takes it.
    ///
    /// # Errors
    /// [`SocketError::Locked`] when another daemon has it.
    pub fn take(state: &Path) -> Result<Self, SocketError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(io_error("make the folder", state))?;
        let path = state.join("daemon.lock");
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // The number only decorates the message.
                drop(file.take(16).read_to_string(&mut pid));
                return Err(SocketError::Locked { state: state.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(error) => return Err(io_error("lock", &path)(error.into())),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(io_error("write", &path))?;
        Ok(Self { _file: file })
    }
}

/// Listens on the configured control socket, in place of what a dead daemon left. The socket appears with its final
/// owner and mode.
///
/// # Errors
/// When another daemon answers there, something else is in the way, or the group does not exist.
pub fn bind(config: &Config) -> Result<UnixListener, SocketError> {
    let path = config.control_socket.as_path();
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::InUse(path.to_owned())),
        Ok(_) | Err(_) => {}
    }
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(io_error("make the folder", folder))?;
    }
    let group = match &config.control_group {
        Some(name) => Some(sys::group_id(name).ok_or_else(|| SocketError::NoSuchGroup(name.clone()))?),
        None => None,
    };
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let listener = UnixListener::bind(&draft).map_err(io_error("listen at", &draft))?;
    std::os::unix::fs::chown(&draft, None, group).map_err(io_error("change the group of", &draft))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(config.control_mode))
        .map_err(io_error("change the mode of", &draft))?;
    fs::rename(&draft, path).map_err(io_error("put the socket at", path))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> Config {
        Config { control_socket: folder.join("run/control.sock"), control_mode: 0o640, ..Config::default() }
    }

    #[test]
    fn a_state_folder_has_one_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(&folder.path().join("state")).unwrap();
        let second = StateLock::take(&folder.path().join("state")).unwrap_err().to_string();
        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        StateLock::take(&folder.path().join("state")).unwrap();
    }

    #[tokio::test]
    async fn a_socket_has_one_listener() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let first = bind(&config).unwrap();
        let mode = fs::metadata(&config.control_socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(matches!(bind(&config), Err(SocketError::InUse(_))));
        // The file a dead daemon left behind is replaced.
        drop(first);
        assert!(config.control_socket.exists());
        bind(&config).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        fs::create_dir(folder.path().join("run")).unwrap();
        fs::write(&config.control_socket, "precious").unwrap();
        assert!(matches!(bind(&config), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&config.control_socket).unwrap(), b"precious");
        fs::remove_file(&config.control_socket).unwrap();
        let config = Config { control_group: Some("no-such-group".to_owned()), ..config };
        let error = bind(&config).unwrap_err().to_string();
        assert!(error.contains("groupadd"), "{error}");
    }
}
