//! What the daemon was started with: variables that hold secrets, and the folder that systemd fills.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::credential::{Source, Sources};
use crate::secret::Secret;
use crate::sys;

/// Names the folder of a unit's credentials (systemd.exec(5), "Credentials").
const SYSTEMD_FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// Values of the variables that the configuration names, taken out of the process's environment.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, Secret>);

impl Variables {
    /// Takes them: afterwards neither this process's environment nor `/proc/PID/environ` has them. One that is not set is
    /// missed when its credential is asked for.
    ///
    /// # Errors
    /// The process has more than one thread; another one could be reading the environment.
    pub fn take(sources: &Sources) -> io::Result<Self> {
        let mut taken = BTreeMap::new();
        for source in sources.values() {
            let Source::Env { variable } = source else { continue };
            if taken.contains_key(variable) {
                continue;
            }
            let name = CString::new(variable.as_str()).map_err(io::Error::other)?;
            if let Some(value) = sys::take_variable(&name)? {
                taken.insert(variable.clone(), value);
            }
        }
        Ok(Self(taken))
    }

    pub(super) fn get(&self, variable: &str) -> Option<&Secret> {
        self.0.get(variable)
    }

    #[cfg(test)]
    pub(super) fn of(variable: &str, value: &str) -> Self {
        Self(BTreeMap::from([(variable.to_owned(), Secret::new(value.into()))]))
    }
}

/// The folder of the credentials that systemd hands over, if it does.
#[derive(Clone, Debug, Default)]
pub struct SystemdFolder(Option<PathBuf>);

impl SystemdFolder {
    /// As the environment names it.
    #[must_use]
    pub fn of_environment() -> Self {
        Self(std::env::var_os(SYSTEMD_FOLDER).map(PathBuf::from))
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    #[cfg(test)]
    pub(super) fn of(path: &Path) -> Self {
        Self(Some(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests run in threads of one process, where the environment must be left alone.
    #[test]
    fn variables_are_not_taken_beside_other_threads() {
        let source = Source::Env { variable: "PATH".to_owned() };
        let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
        let other = std::thread::spawn(move || receiver.recv().is_ok());
        let taken = Variables::take(&Sources::from([("a".to_owned(), source)]));
        assert!(taken.is_err_and(|error| error.to_string().contains("more than one thread")));
        assert!(std::env::var_os("PATH").is_some());
        drop(sender);
        other.join().unwrap();
    }

    #[test]
    fn nothing_to_take_is_fine_anywhere() {
        assert!(Variables::take(&Sources::new()).unwrap().get("PATH").is_none());
    }
}
